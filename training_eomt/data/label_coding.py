"""From the pixels of label maps to classes: the values that occur, and the classes they stand for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .base import Annotation
from .class_names import list_some, name_by_number, name_by_value
from .colours import encode_image, format_colour
from .images import check_lossless
from .label_values import LabelValues
from .masks import encode_masks, find_values


# What programs write for "no class": the largest value of 8 and of 16 bits.
USUAL_VOID = frozenset({255, 65535})
MAX_UNNAMED_CLASSES = 1024
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA")

ReadMap = Callable[[], tuple[Image.Image, str]]  # reads a label map; returns it and its path


@dataclass(frozen=True)
class LabelCoding:
    """The classes that the values of label maps stand for.

    Args:
        category_ids: the number of the class of each value.
        names: the name of each class by its number.
        ignored: values that belong to no class.
        is_colours: whether values are colours, see [`encode_rgb`].
    """

    category_ids: Mapping[int, int]
    names: Mapping[int, str]
    ignored: frozenset[int]
    is_colours: bool = False

    def annotate(self, image: Image.Image, where: str) -> list[Annotation]:
        """
        Makes a segment of every value in a decoded label map that messages call `where`.

        Raises:
            ValueError: it holds no numbers of classes, or one that is neither of a class nor ignored.
        """
        label_map = (extract_colours if self.is_colours else extract_values)(image, where)
        return segment_map(label_map, self.category_ids, self.ignored, where, self.is_colours)


def find_label_coding(
    names: Sequence[str] | None,
    label_values: LabelValues | None,
    id2label: Mapping[int, str] | None,
    ignore_index: Collection[int] | None,
    do_reduce_labels: bool,
    maps: Iterable[ReadMap],
    skip_bad_samples: bool,
) -> LabelCoding:
    """
    Finds the classes that the values of label maps stand for.

    Args:
        names: names of the classes.
        label_values: a table of values, in place of names.
        id2label: the classes of a model, which are those of the maps if neither is given.
        ignore_index, do_reduce_labels: see [`Settings`].
        maps: the label maps, read only if nothing is given that names the classes.
        skip_bad_samples: leave out values that cannot be classes without a name; reading their map is an error.

    Raises:
        ValueError: settings contradict each other, or the maps have values that need names.
    """
    if label_values is not None:
        if names is not None:
            raise ValueError("class_names and label_values both say what the classes are: give one.")
        if do_reduce_labels:
            raise ValueError(
                "label_values says what every value is: leave out do_reduce_labels, and give 0 null for a name."
            )
        if label_values.is_colours and ignore_index is not None:
            raise ValueError(
                f"{label_values.where} lists colours: leave out ignore_index, and list colours of no class with null."
            )
        usual = frozenset() if label_values.is_colours else USUAL_VOID - label_values.classes.keys()
        ignored = label_values.ignored | (usual if ignore_index is None else frozenset(ignore_index))
        return LabelCoding(label_values.category_ids, label_values.names, ignored, label_values.is_colours)
    first_class = int(do_reduce_labels)
    ignored = USUAL_VOID if ignore_index is None else frozenset(ignore_index)
    if names is not None:
        classes = name_by_value(names, first_class)
        ignored -= classes.keys() if ignore_index is None else set()
    elif id2label is not None:
        classes = name_by_value([id2label[label_id] for label_id in range(len(id2label))], first_class)
    else:
        classes = name_by_number(_find_all_values(maps, ignored, skip_bad_samples) - ignored, first_class)
    ignored |= {0} if do_reduce_labels else set()
    return LabelCoding({value: value for value in classes}, classes, ignored)


def extract_values(image: Image.Image, where: str) -> np.ndarray:
    """
    Extracts the values of a decoded label map, `(height, width)` of integers. Values of a palette image are
    indices into the palette, those of grey colours their brightness.

    Raises:
        ValueError: it has colours, transparency or fractions instead of numbers, or was compressed with losses.
    """
    check_lossless(image, where)
    if image.mode in ("L", "P", "I", "I;16", "I;16L", "I;16B"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L")) // 255
    if image.mode == "F":
        values = np.asarray(image)
        is_whole = np.isfinite(values).all() and (values == np.rint(values)).all()
        if not is_whole or abs(values).max(initial=0) >= 2**24:
            raise ValueError(
                f"{where} is of floating point and holds values that are no whole numbers, so that they are no "
                "numbers of classes. Save label maps as PNGs of 8 or 16 bits."
            )
        return values.astype(np.int32)
    _check_opaque(image, where)
    if image.mode in ("LA", "RGB", "RGBA", "RGBX"):
        channels = np.asarray(image)
        if image.mode == "LA" or (channels[..., :1] == channels[..., 1:3]).all():
            return channels[..., 0]
    raise ValueError(
        f"{where} is a colour image (mode {image.mode}), not a label map: a PNG of one channel whose values are "
        "numbers of classes. Which colour is which class can be said with --label_values."
    )


def extract_colours(image: Image.Image, where: str) -> np.ndarray:
    """
    Extracts the colours of a decoded label map as numbers, `(height, width)` int32.

    Raises:
        ValueError: it is transparent somewhere, was compressed with losses, or has values that are no colours.
    """
    check_lossless(image, where)
    _check_opaque(image, where)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{where} holds numbers (mode {image.mode}), not colours as the table of --label_values has them."
        )
    return encode_image(image)


def segment_map(
    label_map: np.ndarray,
    category_ids: Mapping[int, int],
    ignored: Collection[int],
    where: str,
    is_colours: bool = False,
) -> list[Annotation]:
    """
    Makes a segment of every value in a label map.

    Args:
        label_map: `(height, width)` of integers.
        category_ids: the number of the class of each value.
        ignored: values that belong to no class.
        where: the map for messages.
        is_colours: whether values are colours.

    Raises:
        ValueError: a value has no class and is not ignored.
    """
    values = sorted(value for value in find_values(label_map) if value not in ignored)
    if unknown := [value for value in values if value not in category_ids]:
        number = int((label_map == unknown[0]).sum())
        if is_colours:
            raise ValueError(
                f"{where}: {number} pixels have the colour {format_colour(unknown[0])}, which is not in the table of "
                f"--label_values ({len(unknown)} colours are not). List it with its class, or with null."
            )
        known = sorted(category_ids)
        is_range = known and known == list(range(known[0], known[-1] + 1))
        raise ValueError(
            f"{where}: {number} pixels have the value {unknown[0]}, which is no class: these are "
            f"{f'{known[0]} to {known[-1]}' if is_range else list_some(known)}. Values that belong to no class are "
            "given as --ignore_index, those of other classes with --class_names or --label_values."
        )
    rles = encode_masks(label_map, values)
    return [Annotation(rle, category_ids[value]) for rle, value in zip(rles, values, strict=True)]


def _find_all_values(maps: Iterable[ReadMap], ignored: Collection[int], skip_bad_samples: bool) -> set[int]:
    """Finds the values that occur in any map."""

    def find(read: ReadMap) -> set[int]:
        try:
            image, where = read()
            found = find_values(extract_values(image, where))
        except (ValueError, OSError):  # which reading the sample reports
            return set()
        impossible = {value for value in found.difference(ignored) if not 0 <= value < MAX_UNNAMED_CLASSES}
        if impossible and not skip_bad_samples:
            raise ValueError(
                f"{where} has the value {max(impossible, key=abs)}, and only values from 0 to "
                f"{MAX_UNNAMED_CLASSES - 1} become classes without a name. If it belongs to no class: --ignore_index. "
                "If it is a class: --class_names, or --label_values where the values leave gaps."
            )
        return found - impossible

    with ThreadPoolExecutor() as threads:
        return set().union(*threads.map(find, maps))


def _check_opaque(image: Image.Image, where: str) -> None:
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa"):
        return
    if num_transparent := int((np.asarray(image.getchannel(image.getbands()[-1])) < 255).sum()):
        raise ValueError(
            f"{where} is transparent in {num_transparent} pixels, whose class is not clear. Save label maps without "
            "transparency."
        )
