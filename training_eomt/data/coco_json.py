"""What COCO's JSON files have in common: where they lie, what every entry must hold, which pictures they list.

The format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from .files import FileTree, tree_of
from .samples import Category
from .splits import SPLITS, of_split


LAYOUTS = (
    "a folder with 'images/' and '{kind}.json', or COCO's own: 'annotations/{kind}_NAME.json' with 'NAME/' beside "
    "'annotations/'"
)


SEGMENT_NUMBERS = ("area", "iscrowd")  # what has to be a number in an annotation or a segment, where it is given


class CocoJson(NamedTuple):
    """A JSON file of COCO and the tree that it and its pictures are in."""

    tree: FileTree
    name: str

    @property
    def path(self) -> str:
        """The file for messages."""
        return self.tree.path(self.name)


def find_json(tree: FileTree, split: str | None, kind: str) -> str | None:
    """
    The JSON file of a data set that lies where it usually does.

    Args:
        tree: the data set's folder.
        split: which one to take where there are several.
        kind: what its name starts with, "panoptic" or "instances".
    """
    if f"{kind}.json" in tree:
        return f"{kind}.json"
    if kind == "instances" and "_annotations.coco.json" in tree:  # Roboflow's export
        return "_annotations.coco.json"
    prefix = f"annotations/{kind}_"
    names = [name for name in tree.files("annotations") if name.startswith(prefix) and name.endswith(".json")]

    def own(name: str) -> str:
        return name[len(prefix) : -len(".json")]

    if split is None:
        return names[0] if len(names) == 1 else None
    own_names = of_split([own(name) for name in names], split)
    if not own_names and len(names) == 1 and not any(of_split([own(names[0])], other) for other in SPLITS):
        return names[0]  # one file for everything, as annotation tools write it
    return f"{prefix}{own_names[0]}.json" if own_names else None


def locate_json(path: str | Path | FileTree, split: str | None, kind: str, skip_bad_samples: bool) -> CocoJson:
    """
    The JSON file that a path means: itself, or the one in a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    if isinstance(path, FileTree):
        tree = path
    elif Path(path).suffix == ".json":
        path = Path(path)
        around = path.parent.parent if path.parent.name == "annotations" else path.parent  # as COCO has it
        tree, name = tree_of(around, skip_bad_samples)
        name = posixpath.join(name, path.relative_to(around).as_posix())
        if name not in tree:
            raise FileNotFoundError(f"{path} (JSON file) is missing.")
        return CocoJson(tree, name)
    else:
        tree, name = tree_of(path, skip_bad_samples)
        tree = tree.subtree(name) if name else tree
    found = find_json(tree, split, kind)
    if found is None:
        raise FileNotFoundError(
            f"{tree.path(f'{kind}.json')} (JSON file) is missing. {kind.capitalize()} in COCO's format are "
            f"{LAYOUTS.format(kind=kind)}."
        )
    return CocoJson(tree, found)


def read_json(file: CocoJson, what: str) -> dict[str, Any]:
    """
    The content of a JSON file, with `images`, `annotations` and `categories`.

    Args:
        file: the file.
        what: what it should be, such as "COCO panoptic".

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(file.tree.read_text(file.name))
    except ValueError as error:
        raise ValueError(f"{file.path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.path} is not {what}: it holds a {type(content).__name__}, expected an object.")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{file.path} is not {what}: it has no {key!r}, only {sorted(content)}.")
        if not (isinstance(content[key], list) and all(isinstance(entry, dict) for entry in content[key])):
            raise ValueError(f"{file.path} is not {what}: its {key!r} is no list of objects.")
    for index, image in enumerate(content["images"]):
        require(image, ("id", "file_name"), f"{file.path}: image {index}", what, numbers=("height", "width"))
    return content


def require(entry: Any, keys: Sequence[str], where: str, what: str, numbers: Sequence[str] = ()) -> None:
    """Raises a `ValueError` where an entry of a JSON file lacks one of the keys, or has no number under others."""
    if fault := fault_of_entry(entry, keys, numbers):
        raise ValueError(f"{where} is not {what}: {fault}.")


def fault_of_entry(entry: Any, keys: Sequence[str], numbers: Sequence[str] = ()) -> str | None:
    """What is wrong with an entry of a JSON file: a key that it lacks, no number under a key; None if nothing is."""
    if not isinstance(entry, dict):
        return f"it is {entry!r}, no object"
    for key in keys:
        if key not in entry:
            return f"it has no {key!r}, only {sorted(entry)}"
    for key in numbers:
        if not isinstance(entry.get(key), (int, float, NoneType)):
            return f"its {key!r} is {entry[key]!r}, no number"
    return None


def read_categories(content: dict[str, Any], where: str, what: str, all_things: bool) -> list[Category]:
    """The categories. Where `all_things`, those that do not say so are things; otherwise each has to say."""
    categories = []
    for index, category in enumerate(content["categories"]):
        keys = ("id", "name") if all_things else ("id", "name", "isthing")
        require(category, keys, f"{where}: category {index}", what)
        categories.append(Category(category["id"], str(category["name"]), bool(category.get("isthing", 1))))
    return categories


def images_by_id(
    content: dict[str, Any], where: str, bad_sample: Callable[[str, str], None]
) -> dict[int | str, dict[str, Any]]:
    """The pictures by id. One that is listed twice, by its id or by its name, goes to `bad_sample`."""
    images: dict[int | str, dict[str, Any]] = {}
    names: set[str] = set()
    for image in content["images"]:
        if image["id"] in images:
            bad_sample(
                image["file_name"],
                f"{where} lists two pictures with id {image['id']!r}: {images[image['id']]['file_name']} and "
                f"{image['file_name']}. Ids must be unique.",
            )
        elif image["file_name"] in names:
            bad_sample(
                image["file_name"],
                f"{where} lists the picture {image['file_name']} twice. Keep one of them, with all its annotations.",
            )
        else:
            images[image["id"]] = image
            names.add(image["file_name"])
    return images


def find_folder(file: CocoJson, what: str, names: Sequence[str], prefix: str) -> str:
    """
    The folder beside a JSON file that holds what it lists.

    Args:
        file: the JSON file.
        what: "pictures" or "panoptic PNGs".
        names: the names of the files that it lists.
        prefix: what comes in the JSON's name before the data's own name, such as "panoptic_".

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder, stem = posixpath.split(file.name.removesuffix(".json"))
    own = stem.removeprefix(prefix) if stem.startswith(prefix) else "images"
    if what == "pictures":
        candidates = [own, f"images/{own}", "images", "pictures", "data", stem, folder, ""]
        candidates = [name for name in dict.fromkeys(candidates) if name != "panoptic"]  # these are the PNGs
    else:
        candidates = [posixpath.join(folder, stem), stem, "panoptic", f"panoptic/{own}"]
    present = [candidate for candidate in candidates if file.tree.has_folder(candidate)]
    for candidate in present:
        if any(posixpath.join(candidate, name) in file.tree for name in names[:20]):
            return candidate
    # None of the first files is there: the messages about missing files name the likeliest folder.
    likely = [candidate for candidate in present if candidate not in ("", folder)]
    if likely:
        return likely[0]
    expected = "images" if what == "pictures" else "panoptic"
    layouts = LAYOUTS.format(kind=prefix.removesuffix("_"))
    raise FileNotFoundError(
        f"{file.tree.path(expected)} ({what}) is missing, and so is every other folder where the {what} of "
        f"{file.path} may be: {', '.join(repr(name) for name in candidates if name)}. It is {layouts}"
        + (", and the PNGs in 'panoptic/' or 'annotations/panoptic_NAME/'." if what != "pictures" else ".")
    )


def missing_files(file: CocoJson, folder: str, names: Iterable[str], leave_out: Callable[..., None]) -> set[str]:
    """The names that are not in a folder, each given to `leave_out`; the first is an error unless they are skipped."""
    names = list(names)
    missing = [name for name in names if posixpath.join(folder, name) not in file.tree]
    for name in missing:
        path = file.tree.path(posixpath.join(folder, name))
        count = f"{len(missing)} of {len(names)} files that {file.path} refers to are not in {file.tree.path(folder)}"
        leave_out(path, f"{path} is missing ({count}). Add it or drop its annotations.", FileNotFoundError)
    return set(missing)


def summary_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """`(height, width)` of a picture as the JSON file states it."""
    height, width = image.get("height"), image.get("width")
    return None if height is None or width is None else (height, width)
