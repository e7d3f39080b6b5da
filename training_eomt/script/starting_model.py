"""The model that a run starts from, and its image processor."""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from loading_eomt import find_checkpoint, find_original
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation, EomtLoss
from modeling_eomt.checkpoints_eomt import find_file, find_model_type, read_backbone_kind

from ..checkpoints import last_complete
from ..data.samples import LabelSpace
from ..json_files import read_object
from ..tasks import TASKS
from ..text import terminal_text
from .arguments import DataArguments, ModelArguments


NEW_MODEL_IMAGE_SIZE = 640
_NAMED = 10  # classes that a line names


def read_kind(model_args: ModelArguments) -> str | None:
    """Reads the `model_type` of the model to start from; None for a new one."""
    name = model_args.model_name_or_path
    if name is None:
        return None
    original = find_original(name)
    return original.model_type if original else _read_settings(name)["model_type"]


def _read_settings(name: str) -> dict[str, Any]:
    """Reads `config.json` of a folder or of a model on the Hub. Raises a `ValueError` if it names no model."""
    folder = Path(name)
    is_empty = folder.is_dir() and not (folder / "config.json").is_file()
    settings: dict[str, Any] = {} if is_empty else EomtConfig.get_config_dict(name)[0]
    kind = settings.get("model_type")
    if not (kind and isinstance(kind, str)):
        checkpoint = last_complete(name)
        hint = f" Did you mean {checkpoint}?" if checkpoint else ""
        raise ValueError(f"{name} holds no model: there is no config.json with a model_type.{hint}")
    return settings


def read_task(model_args: ModelArguments) -> str | None:
    """Reads the task of the checkpoint to start from; None for a new model or a backbone."""
    if model_args.model_name_or_path is None or read_kind(model_args) not in MODEL_CLASSES:
        return None
    return find_checkpoint(model_args.model_name_or_path).load_image_processor().task


def read_labels(model_args: ModelArguments) -> dict[int, str]:
    """Reads the classes of a checkpoint that is used as it is. Raises a `ValueError` if it is no EoMT model."""
    name: Any = model_args.model_name_or_path
    if (kind := read_kind(model_args)) not in MODEL_CLASSES:
        raise ValueError(f"{name} holds a {kind!r} model. Only an EoMT model can be used without --do_train.")
    return find_checkpoint(name).id2label


def read_normalization(name: str) -> dict[str, Any]:
    """Reads how the images of a backbone's pre-training were normalised, as far as its files say it."""
    settings = _read_settings(name)
    of_timm = settings.get("pretrained_cfg")
    if isinstance(of_timm, dict):
        given = {"image_mean": of_timm.get("mean"), "image_std": of_timm.get("std")}
    else:
        file = find_file(name, "preprocessor_config.json")
        saved = {} if file is None else read_object(file)
        given = {field: saved.get(field) for field in ("image_mean", "image_std")}
    return {field: value for field, value in given.items() if value is not None}


def load_model(
    model_args: ModelArguments, data_args: DataArguments, task: str | None, label_space: LabelSpace | None
) -> tuple[EomtForUniversalSegmentation, EomtImageProcessor]:
    """
    Loads the model and its image processor: new, from an EoMT checkpoint, or new on a pre-trained backbone.

    `task` is None to keep the checkpoint's; `label_space` is that of the training data, None to keep the checkpoint's
    classes. Raises a `ValueError` if the arguments do not fit the checkpoint.
    """
    settings: dict[str, Any] = {} if task is None else {"task": task}
    labels: dict[str, Any] = {}
    if label_space is not None:
        has_stuff = task is not None and "stuff_classes" in TASKS[task].settings
        settings["stuff_classes"] = label_space.stuff_classes if has_stuff else None
        label2id = {name: label_id for label_id, name in label_space.id2label.items()}
        labels = {"id2label": label_space.id2label, "label2id": label2id}
    given = {"num_queries": model_args.num_queries, "num_blocks": model_args.num_blocks}
    described: dict[str, Any] = dict(model_args.model_config or {})  # type: ignore[arg-type]
    fields: dict[str, Any] = described | {name: value for name, value in given.items() if value is not None}
    image_size: Any = data_args.pixels
    kind = read_kind(model_args)
    name: Any = model_args.model_name_or_path
    if kind not in MODEL_CLASSES:
        image_size = image_size or NEW_MODEL_IMAGE_SIZE
        if kind is None:
            config = EomtConfig(image_size=image_size, **fields, **labels)
            return EomtForUniversalSegmentation(config), EomtImageProcessor(size=image_size, **settings)
        model_type = find_model_type(*read_backbone_kind(_read_settings(name)))
        model_class = MODEL_CLASSES[model_type or "eomt"]  # which says what it can be built on
        model = model_class.from_backbone(name, image_size=image_size, **fields, **labels)
        return model, EomtImageProcessor(size=image_size, **settings, **read_normalization(name))
    if model_args.num_blocks is not None:
        raise ValueError("num_blocks belongs to a checkpoint and cannot be changed: leave it out.")
    checkpoint = find_checkpoint(name)
    model = checkpoint.load_model(**described)
    if label_space is not None:
        decision = set_classes(model, label_space.id2label)
        if PartialState().is_main_process:
            print(decision, flush=True)
    if model_args.num_queries is not None:
        model.set_num_queries(model_args.num_queries)
    if label_space is not None:
        if image_size is not None:
            model.set_image_size(image_size)
        image_size = model.config.image_size
    if image_size is not None:
        settings["size"] = image_size
    return model, checkpoint.load_image_processor(**settings)


@torch.no_grad()
def set_classes(model: EomtForUniversalSegmentation, id2label: dict[int, str]) -> str:
    """
    Gives a model other classes. It keeps the weights of classes that it has by the same name, and of "no object".
    Returns a line that says which they are.
    """
    known = {name: int(label_id) for label_id, name in (model.config.id2label or {}).items()}
    model.config.id2label = id2label  # its inverse follows
    old = model.class_predictor
    new = nn.Linear(old.in_features, len(id2label) + 1).to(old.weight)
    rows = {len(id2label): old.out_features - 1}  # "no object" comes last
    rows |= {label_id: known[name] for label_id, name in id2label.items() if name in known}
    for row, old_row in rows.items():
        new.weight[row], new.bias[row] = old.weight[old_row], old.bias[old_row]
    model.class_predictor = new
    model.criterion = EomtLoss.from_config(model.config).to(old.weight.device)
    kept = [name for name in id2label.values() if name in known]
    others = [name for name in id2label.values() if name not in known]
    line = f"Class head: {len(kept)} of {len(id2label)} classes are kept by name"
    return f"{line}; new are {_list_names(others)}." if others else f"{line}."


def _list_names(names: list[str]) -> str:
    """Lists the first names, and the number of the others."""
    shown = ", ".join(terminal_text(name) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
