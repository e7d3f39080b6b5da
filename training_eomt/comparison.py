"""What two runs are made with, and where they differ."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


# Settings of a configuration that say where it comes from, and what Trainer writes into it.
_PROVENANCE = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version", "use_cache")
_MAX_SHOWN = 100  # characters of a value
_MAX_LINES = 20


def model_settings(config: Any) -> dict[str, Any]:
    """What a configuration says a model is, as JSON has it."""
    return _without_provenance(config.to_json_string(use_diff=False))


def processor_settings(image_processor: Any) -> dict[str, Any]:
    """What an image processor does, as JSON has it."""
    return _without_provenance(image_processor.to_json_string())


def _without_provenance(text: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(text).items() if name not in _PROVENANCE}


def differences(there: Mapping[str, Any], now: Mapping[str, Any], left_out: Iterable[str] = ()) -> list[str]:
    """
    Where two collections of settings differ, a line for each of the first settings that do.

    Args:
        there, now: JSON. Entries of nested ones are called by their path, such as `size.height`.
        left_out: names that may differ.
    """
    before, after = _flat(there), _flat(json.loads(json.dumps(now)))
    lines = [
        f"  {name}: {_short(before.get(name))} there, {_short(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in left_out
    ]
    more = [f"  and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
    return lines[:_MAX_LINES] + more


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries of nested dicts by their path, `{"size": {"height": 1}}` as `{"size.height": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
