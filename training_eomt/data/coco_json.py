"""COCO's JSON files: where they lie, what every entry must hold, which images they list.

The format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from ..json_files import SCHEMA_ERRORS, describe_fault, parse_flag, parse_id, read_json
from .base import IMAGES_DIR, SegmentationDataset
from .files import FileTree
from .located import Located
from .samples import Category
from .splits import SPLITS, find_split_names


LAYOUTS = (
    "a folder with 'images/' and '{kind}.json', or COCO's own: 'annotations/{kind}_NAME.json' with 'NAME/' beside "
    "'annotations/'"
)
IMAGES, PNGS = "images", "panoptic PNGs"
# Names that Label Studio, FiftyOne and labelme give their exports; only the content tells that these are COCO's.
OTHER_NAMES = ("result.json", "result_coco.json", "labels.json", "annotations.json", "coco.json")

Id = int | float | str
Flag = bool | int | float | str | None


class CocoContent(msgspec.Struct):
    """A JSON file of COCO. Its entries are read one by one, so that one can be left out."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class ImageEntry(msgspec.Struct, gc=False):
    """An image as a JSON file lists it; annotations name it by `key`."""

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

    def to_category(self, all_things: bool) -> Category:
        """The class, a thing unless it says otherwise; a `ValueError` if it has to say so, unless `all_things`."""
        number = parse_category_id(self.id)
        if self.isthing is None and not all_things:
            raise ValueError("object missing required field `isthing`")
        return Category(number, str(self.name), self.isthing is None or parse_flag(self.isthing, "isthing"))


class SegmentFields(msgspec.Struct, gc=False, kw_only=True):
    """The fields that a segment has in both formats."""

    id: Id
    category_id: Id
    iscrowd: Flag = None
    area: float | None = None

    def __post_init__(self) -> None:
        self.category_id = parse_category_id(self.category_id)
        self.iscrowd = self.iscrowd is not None and parse_flag(self.iscrowd, "iscrowd")


class EntryNames(msgspec.Struct):
    """The name and the kind of an entry that cannot be read."""

    id: object = None
    file_name: object = None
    segments_info: object = None
    segmentation: object = None
    bbox: object = None


def parse_category_id(value: Id) -> int:
    """Parses the number of a category. Raises a `ValueError` if it is something else."""
    number = parse_id(value)
    if isinstance(number, str):
        raise ValueError(f"the category's id is {number!r}, expected a number")
    return number


def read_names(entry: msgspec.Raw) -> EntryNames:
    """Reads the names in an entry that does not follow its schema, as far as possible."""
    try:
        return msgspec.json.decode(entry, type=EntryNames)
    except SCHEMA_ERRORS:
        return EntryNames()


class CocoDataset(SegmentationDataset):
    """A format of COCO's: a JSON file, and the images that it lists.

    The JSON file is NAME.json in the dataset's folder, or `annotations/NAME_SPLIT.json`; or the path is its own.
    """

    SETTINGS = IMAGES_DIR
    JSON_NAME: ClassVar[str]
    WHAT: ClassVar[str]  # the format for messages

    @classmethod
    def fits(cls, tree: FileTree, split: str | None) -> bool:
        return cls.find_json(tree, split) is not None

    @classmethod
    def find_json(cls, tree: FileTree, split: str | None) -> str | None:
        """Finds the JSON file in a dataset's folder where it usually lies; None if it is not there."""
        if (name := f"{cls.JSON_NAME}.json") in tree:
            return name
        if (other := cls.find_other_json(tree)) is not None:
            return other
        prefix = f"annotations/{cls.JSON_NAME}_"
        names = [name for name in tree.files("annotations") if name.startswith(prefix) and name.endswith(".json")]
        parts = {name[len(prefix) : -len(".json")]: name for name in names}
        if split is None:
            return names[0] if len(names) == 1 else None
        if own := find_split_names(list(parts), split):
            return parts[own[0]]
        is_whole = len(names) == 1 and not any(find_split_names(list(parts), other) for other in SPLITS)
        return names[0] if is_whole else None  # one file for everything, as annotation tools write it

    @classmethod
    def find_other_json(cls, tree: FileTree) -> str | None:
        """Finds the JSON file under the names of other tools."""
        return None

    def read_content(self, path: str | Path | FileTree) -> CocoContent:
        """
        Reads the JSON file that a path means: itself, or the one in a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is something else.
        """
        if not isinstance(path, FileTree) and Path(path).suffix == ".json":
            path = Path(path)
            around = path.parent.parent if path.parent.name == "annotations" else path.parent  # as COCO has it
            self.tree, self.json = self.open_tree(around), path.relative_to(around).as_posix()
            if self.json not in self.tree:
                raise FileNotFoundError(f"{path} (JSON file) is missing.")
        else:
            self.tree = self.open_tree(path)
            found = self.find_json(self.tree, self.split)
            if found is None:
                raise FileNotFoundError(
                    f"{self.tree.path(f'{self.JSON_NAME}.json')} (JSON file) is missing. "
                    f"{self.JSON_NAME.capitalize()} in COCO's format are {LAYOUTS.format(kind=self.JSON_NAME)}."
                )
            self.json = found
        self.where = self.tree.path(self.json)
        return read_json(self.tree.read_bytes(self.json), CocoContent, self.where, self.WHAT)

    def read_categories(self, content: CocoContent, all_things: bool) -> list[Category]:
        """
        Reads the categories. Where `all_things`, those that do not say so are things; otherwise each has to say.

        Raises:
            ValueError: one of them is no category.
        """
        categories = []
        for index, entry in enumerate(content.categories):
            try:
                categories.append(msgspec.json.decode(entry, type=CategoryEntry).to_category(all_things))
            except SCHEMA_ERRORS as error:
                fault = describe_fault(error).rstrip(".")
                raise ValueError(f"{self.where}: category {index} is not {self.WHAT}: {fault}.") from error
        return categories

    def read_image_entries(self, content: CocoContent) -> tuple[dict[Id, ImageEntry], set[Id]]:
        """
        Reads the images by id. Returns also the ids of those that are left out with all their annotations.

        Left out are images that cannot be read or are listed twice by their name, and all images that share an id.
        """
        images: dict[Id, ImageEntry] = {}
        left_out: set[Id] = set()
        names: set[str] = set()
        for index, entry in enumerate(content.images):
            where = f"{self.where}: image {index}"
            try:
                image = msgspec.json.decode(entry, type=ImageEntry)
            except SCHEMA_ERRORS as error:
                named = read_names(entry)
                reason = f"{where} is not {self.WHAT}: {describe_fault(error)}. Correct or drop it."
                self.bad_sample(str(named.file_name or where), reason)
                if isinstance(named.id, int | str):
                    left_out.add(parse_id(named.id))
                continue
            if (key := image.key) in images:
                reason = (
                    f"{self.where} lists two images with id {image.id!r}: {images[key].file_name} and "
                    f"{image.file_name}. Ids must be unique: nothing tells whose the annotations are."
                )
            elif image.file_name in names:
                reason = f"{self.where} lists the image {image.file_name} twice. "
                reason += "Keep one of them, with all its annotations."
            else:
                images[key] = image
                names.add(image.file_name)
                continue
            self.bad_sample(image.file_name, reason)
            left_out.add(key)
        return {key: image for key, image in images.items() if key not in left_out}, left_out

    def locate_images(self, names: Sequence[str]) -> tuple[FileTree, Mapping[str, str]]:
        """Finds the images that the JSON file lists by these names, and leaves out missing ones, see `locate`."""
        images_dir = self.settings.get("images_dir")
        if images_dir is not None:
            folder = Located(self.open_tree(images_dir), "", True)
        else:
            parent, stem = posixpath.split(self.json.removesuffix(".json"))
            own = stem.removeprefix(f"{self.JSON_NAME}_") if stem.startswith(f"{self.JSON_NAME}_") else "images"
            candidates = [own, f"images/{own}", "images", "pictures", "data", stem, parent, ""]
            candidates = [name for name in dict.fromkeys(candidates) if name != "panoptic"]  # these are the PNGs
            folder = self.find_folder(IMAGES, candidates, names, ". --images_dir names any other folder.")
        return folder.tree, self.locate(IMAGES, folder, names)

    def find_folder(self, what: str, candidates: Sequence[str], names: Sequence[str], hint: str) -> Located:
        """
        Finds the folder of what a JSON file lists.

        Args:
            what: `IMAGES` or `PNGS`.
            candidates: names of the folder, the likeliest first.
            names: the names of the files.
            hint: the end of the message.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        present = [Located(self.tree, name, False) for name in candidates if self.tree.has_folder(name)]
        for candidate in present:
            if any(candidate.find(name) is not None for name in names[:20]):
                return candidate
        # None of the first files is there: the messages about missing files name the likeliest folder.
        if likely := [place for place in present if place.folder not in ("", posixpath.dirname(self.json))]:
            return likely[0]
        expected = self.tree.path("images" if what == IMAGES else "panoptic")
        raise FileNotFoundError(
            f"{expected} ({what}) is missing, and so is every other folder where the {what} of {self.where} may be: "
            f"{', '.join(repr(name) for name in candidates if name)}. It is "
            f"{LAYOUTS.format(kind=self.JSON_NAME)}{hint}"
        )

    def locate(self, what: str, folder: Located, names: Sequence[str]) -> Mapping[str, str]:
        """
        Finds the files of a folder by the names that the JSON file has for them.

        Left out is one that is missing, or that is there under another name already.
        """
        found: dict[str, str] = {}
        listed_as: dict[str, str] = {}
        paths = {name: folder.find(name) for name in names}
        num_missing = sum(path is None for path in paths.values())
        for name, path in paths.items():
            if path is None:
                shown = folder.tree.path(posixpath.join(folder.folder, name))
                where = folder.tree.path(folder.folder)
                reason = f"{num_missing} of {len(names)} files that {self.where} refers to are not in {where}"
                is_elsewhere = num_missing == len(names) and what == IMAGES
                hint = " --images_dir names a folder of images elsewhere." if is_elsewhere else ""
                reason = f"{shown} is missing ({reason}). Add it or drop its annotations.{hint}"
                self.bad_sample(shown, reason, FileNotFoundError)
            elif (other := listed_as.setdefault(path, name)) != name:
                shown = folder.tree.path(path)
                self.bad_sample(
                    name, f"{self.where} lists the file {shown} twice, as {other} and as {name}. Keep one of them."
                )
            else:
                found[name] = path
        return found
