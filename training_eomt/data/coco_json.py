"""What COCO's JSON files have in common: where they lie, what every entry must hold, which pictures they list.

The format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..json_files import describe_fault, parse_flag, parse_id, read_json
from .files import FileTree, find_tree
from .located import Located
from .samples import Category
from .splits import SPLITS, of_split


LAYOUTS = (
    "a folder with 'images/' and '{kind}.json', or COCO's own: 'annotations/{kind}_NAME.json' with 'NAME/' beside "
    "'annotations/'"
)
# What tools call their exports, of which only the content tells that they are COCO's: Label Studio, FiftyOne, labelme.
OTHER_NAMES = ("result.json", "result_coco.json", "labels.json", "annotations.json", "coco.json")

Id = int | float | str
Flag = bool | int | float | str | None


class CocoContent(msgspec.Struct):
    """A JSON file of COCO, its entries as they are written: each is read for itself, so that one can be left out."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class ImageEntry(msgspec.Struct, gc=False):
    """A picture as a JSON file lists it; `key` is what annotations name it by."""

    id: Id
    file_name: str
    height: int | float | None = None
    width: int | float | None = None

    def __post_init__(self) -> None:
        parse_id(self.id)

    @property
    def key(self) -> int | str:
        return parse_id(self.id)

    @property
    def image_id(self) -> int | str:
        """The id as the file writes it."""
        return self.id if isinstance(self.id, str) else int(self.id)

    @property
    def size(self) -> tuple[int, int] | None:
        """`(height, width)` in pixels as the file states it, None where it does not: tools write 0 or -1."""
        if self.height is None or self.width is None or min(self.height, self.width) < 1:
            return None
        return int(self.height), int(self.width)


class CategoryEntry(msgspec.Struct):
    """A class as a JSON file lists it."""

    id: Id
    name: str | int | float
    isthing: Flag = None

    def category(self, all_things: bool) -> Category:
        """The class. Where `all_things`, it is a thing unless it says otherwise; else a `ValueError` asks for it."""
        number = category_number(self.id)
        if self.isthing is None and not all_things:
            raise ValueError("object missing required field `isthing`")
        return Category(number, str(self.name), self.isthing is None or parse_flag(self.isthing, "isthing"))


class EntryNames(msgspec.Struct):
    """What an entry is called and what it is, where it cannot be read."""

    id: object = None
    file_name: object = None
    segments_info: object = None
    segmentation: object = None
    bbox: object = None


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
    if kind == "instances":
        if "_annotations.coco.json" in tree:  # Roboflow's export
            return "_annotations.coco.json"
        for name in OTHER_NAMES:
            if name in tree and _is_coco(tree.read_bytes(name)):
                return name
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


def _is_coco(content: bytes) -> bool:
    """Whether a JSON file looks like one of COCO's, with instances."""
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return all(key in content for key in keys) and b'"segments_info"' not in content


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
        tree, name = find_tree(around, skip_bad_samples)
        name = posixpath.join(name, path.relative_to(around).as_posix())
        if name not in tree:
            raise FileNotFoundError(f"{path} (JSON file) is missing.")
        return CocoJson(tree, name)
    else:
        tree, name = find_tree(path, skip_bad_samples)
        tree = tree.subtree(name) if name else tree
    found = find_json(tree, split, kind)
    if found is None:
        raise FileNotFoundError(
            f"{tree.path(f'{kind}.json')} (JSON file) is missing. {kind.capitalize()} in COCO's format are "
            f"{LAYOUTS.format(kind=kind)}."
        )
    return CocoJson(tree, found)


def read_coco(file: CocoJson, what: str) -> CocoContent:
    """
    The content of a JSON file, with `images`, `annotations` and `categories`.

    Args:
        file: the file.
        what: what it should be, such as "COCO panoptic".

    Raises:
        ValueError: it is something else.
    """
    return read_json(file.tree.read_bytes(file.name), CocoContent, file.path, what)


def read_categories(content: CocoContent, where: str, what: str, all_things: bool) -> list[Category]:
    """
    The categories. Where `all_things`, those that do not say so are things; otherwise each has to say.

    Raises:
        ValueError: one of them is no category.
    """
    categories = []
    for index, entry in enumerate(content.categories):
        try:
            categories.append(msgspec.json.decode(entry, type=CategoryEntry).category(all_things))
        except ENTRY_ERRORS as error:
            raise ValueError(
                f"{where}: category {index} is not {what}: {describe_fault(error).rstrip('.')}."
            ) from error
    return categories


def category_number(value: Id) -> int:
    """The number of a category. Raises a `ValueError` if it is something else."""
    number = parse_id(value)
    if isinstance(number, str):
        raise ValueError(f"the category's id is {number!r}, expected a number")
    return number


def read_images(
    content: CocoContent, where: str, what: str, bad_sample: Callable[[str, str], None]
) -> tuple[dict[Id, ImageEntry], set[Id]]:
    """
    The pictures by id, and the ids of those that are left out with all their annotations.

    A picture that cannot be read, or is listed twice by its id or its name, goes to `bad_sample`. Pictures that share
    an id are all left out.
    """
    images: dict[Id, ImageEntry] = {}
    left_out: set[Id] = set()
    names: set[str] = set()
    for index, entry in enumerate(content.images):
        try:
            image = msgspec.json.decode(entry, type=ImageEntry)
        except ENTRY_ERRORS as error:
            named = names_of(entry)
            reason = f"{where}: image {index} is not {what}: {describe_fault(error)}. Correct or drop it."
            bad_sample(str(named.file_name or f"{where}: image {index}"), reason)
            if isinstance(named.id, int | str):
                left_out.add(parse_id(named.id))
            continue
        if (key := image.key) in images:
            bad_sample(
                image.file_name,
                f"{where} lists two pictures with id {image.id!r}: {images[key].file_name} and {image.file_name}. "
                "Ids must be unique: nothing tells whose the annotations are.",
            )
            left_out.add(key)
        elif image.file_name in names:
            bad_sample(
                image.file_name,
                f"{where} lists the picture {image.file_name} twice. Keep one of them, with all its annotations.",
            )
            left_out.add(key)
        else:
            images[key] = image
            names.add(image.file_name)
    return {key: image for key, image in images.items() if key not in left_out}, left_out


def names_of(entry: msgspec.Raw) -> EntryNames:
    """What can be read of an entry that is not what it should be."""
    try:
        return msgspec.json.decode(entry, type=EntryNames)
    except ENTRY_ERRORS:
        return EntryNames()


# What reading an entry raises.
ENTRY_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)


def find_folder(
    file: CocoJson, what: str, names: Sequence[str], prefix: str, images_dir: FileTree | None = None
) -> Located:
    """
    The folder that holds what a JSON file lists: the one that is given, or one beside the file.

    Args:
        file: the JSON file.
        what: "pictures" or "panoptic PNGs".
        names: the names of the files that it lists.
        prefix: what comes in the JSON's name before the data's own name, such as "panoptic_".
        images_dir: the folder, anywhere.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if images_dir is not None:
        return Located(images_dir, "", True)
    folder, stem = posixpath.split(file.name.removesuffix(".json"))
    own = stem.removeprefix(prefix) if stem.startswith(prefix) else "images"
    if what == "pictures":
        candidates = [own, f"images/{own}", "images", "pictures", "data", stem, folder, ""]
        candidates = [name for name in dict.fromkeys(candidates) if name != "panoptic"]  # these are the PNGs
    else:
        candidates = [posixpath.join(folder, stem), stem, "panoptic", f"panoptic/{own}"]
    present = [Located(file.tree, name, False) for name in candidates if file.tree.has_folder(name)]
    for candidate in present:
        if any(candidate.find(name) is not None for name in names[:20]):
            return candidate
    # None of the first files is there: the messages about missing files name the likeliest folder.
    likely = [candidate for candidate in present if candidate.folder not in ("", folder)]
    if likely:
        return likely[0]
    expected = "images" if what == "pictures" else "panoptic"
    layouts = LAYOUTS.format(kind=prefix.removesuffix("_"))
    raise FileNotFoundError(
        f"{file.tree.path(expected)} ({what}) is missing, and so is every other folder where the {what} of "
        f"{file.path} may be: {', '.join(repr(name) for name in candidates if name)}. It is {layouts}"
        + (
            ", and the PNGs in 'panoptic/' or 'annotations/panoptic_NAME/'."
            if what != "pictures"
            else ". --images_dir names any other folder."
        )
    )


def locate_files(
    file: CocoJson, folder: Located, what: str, names: Iterable[str], leave_out: Callable[..., None]
) -> Mapping[str, str]:
    """
    Where files are, by the names that a JSON file has for them; `what` as in [`find_folder`].

    One that is missing, or that is there under another name already, is given to `leave_out`.
    """
    found: dict[str, str] = {}
    listed_as: dict[str, str] = {}
    names = list(names)
    paths = {name: folder.find(name) for name in names}
    num_missing = sum(path is None for path in paths.values())
    for name, path in paths.items():
        if path is None:
            shown = folder.tree.path(posixpath.join(folder.folder, name))
            where = folder.tree.path(folder.folder)
            reason = f"{num_missing} of {len(names)} files that {file.path} refers to are not in {where}"
            is_elsewhere = num_missing == len(names) and what == "pictures"
            hint = " --images_dir names a folder of pictures elsewhere." if is_elsewhere else ""
            leave_out(
                shown, f"{shown} is missing ({reason}). Add it or drop its annotations.{hint}", FileNotFoundError
            )
        elif (other := listed_as.setdefault(path, name)) != name:
            shown = folder.tree.path(path)
            leave_out(name, f"{file.path} lists the file {shown} twice, as {other} and as {name}. Keep one of them.")
        else:
            found[name] = path
    return found
