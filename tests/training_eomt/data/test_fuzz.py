"""Datasets of every format, damaged at random: only documented errors come out, and they name what is wrong.

`EOMT_FUZZ_SEED` and `EOMT_FUZZ_ROUNDS` try others than the ones of the test suite.
"""

import copy
import json
import os
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from training_eomt.data import open_dataset
from training_eomt.data.report import check_samples, report


SEED = int(os.environ.get("EOMT_FUZZ_SEED", 0))
ROUNDS = int(os.environ.get("EOMT_FUZZ_ROUNDS", 150))  # of each format
HEIGHT, WIDTH = 12, 16

NASTY_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**64, -(2**70), 10**400, 0.5, 1.0, -1.5, 1e9, 1e300),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        " ",
        "1",
        "-1",
        "nan",
        "x",
        "0" * 300,
        "ä\u0308",
        "a/b",
        "..",
        ".",
    ),
    *("/etc/passwd", "../../x.png", "C:\\x\\a.png", "\\", "\0", "\ud800", "a" * 5000, "a.png", "images", "no", "~"),
    *([], {}, [[]], [None], [1], ["1"], [[1, 2]], {"": 1}, {"counts": [1], "size": [1, 1]}),
    *([[0, 0, 5, 0, 5, 5]], [[0, 0, 1e9, 0, 5, 5]], [[float("nan")] * 6], {"counts": "o" * 50, "size": [12, 16]}),
    *({"counts": [-1, 193], "size": [HEIGHT, WIDTH]}, {"counts": [192], "size": [HEIGHT, WIDTH]}, [[[[[[[[]]]]]]]]),
]
NASTY_WORDS = [
    *("", "nan", "inf", "-inf", "1e999", "-1", "0", "2", "99999999999999999999", "1e300", "x", "\0", "\ufeff", "\t"),
    *("[", "]", "{", "}", ":", ",", '"', "'", "&a", "*a", "!!python/object:os.system", "<<", "- ", "#", "~", "null"),
    *("true", "no", "/etc/passwd", "../..", "\\", "C:\\x", "\u2028", "ü", "[" * 2000, "{" * 2000, "a" * 3000, "\r\n"),
]


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)


def values(path: Path, *numbers: int, dtype: Any = np.uint8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((HEIGHT, WIDTH), numbers[0], dtype)
    for index, number in enumerate(numbers[1:]):
        array[2 * index : 2 * index + 4, 3:9] = number
    Image.fromarray(array).save(path)


def colours(path: Path, *reds: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    array[..., 0] = reds[0]
    for index, red in enumerate(reds[1:]):
        array[4 * index : 4 * index + 4, 3:9, :2] = (red, 1)
    Image.fromarray(array).save(path)


def coco_images(folder: Path) -> list[dict[str, Any]]:
    for number in range(2):
        write_image(folder / "images" / f"{number}.png", number)
    return [{"id": n, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for n in range(2)]


def coco_instance(folder: Path) -> None:
    segmentations = [
        [[1, 1, 9, 1, 9, 9]],
        {"counts": [10, 50, 132], "size": [HEIGHT, WIDTH]},
        [[2, 2, 5, 2, 5, 6, 2, 6], [8, 8, 12, 8, 12, 11]],
        {"counts": "`1T5", "size": [HEIGHT, WIDTH]},
    ]
    annotations = [
        {"id": n, "image_id": n % 2, "category_id": 1 + n % 2, "segmentation": s, "iscrowd": 0, "area": 40.5}
        for n, s in enumerate(segmentations)
    ]
    categories = [{"id": n, "name": f"c{n}"} for n in (1, 2)]
    content = {"images": coco_images(folder), "annotations": annotations[:3], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def coco_panoptic(folder: Path) -> None:
    annotations = []
    for number, image in enumerate(coco_images(folder)):
        path = folder / "panoptic" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        array = np.full((HEIGHT, WIDTH, 3), (5, 0, 0), np.uint8)
        array[2:6, 3:9] = (7, 1, 0)
        Image.fromarray(array).save(path)
        segments = [{"id": 5, "category_id": 1, "iscrowd": 0, "area": 168}, {"id": 263, "category_id": 2}]
        annotations.append({"image_id": image["id"], "file_name": path.name, "segments_info": segments})
    categories = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "cat", "isthing": 1}]
    content = {"images": coco_images(folder), "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))


def yolo(folder: Path) -> None:
    for number in range(2):
        write_image(folder / "images" / "train" / f"{number}.png", number)
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "0.txt").write_text(
        "0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.2 0.2 0.5 0.2 0.5 0.6 0.2 0.6\n"
    )
    settings = {"path": ".", "train": "images/train", "nc": 2, "names": {0: "a", 1: "b"}}
    (folder / "data.yaml").write_text(yaml.safe_dump(settings))


def yolo_list(folder: Path) -> None:
    yolo(folder)
    (folder / "data.yaml").write_text("path: ./\ntrain: train.txt\nnames:\n  0: a\n  1: b\n")
    (folder / "train.txt").write_text("data/images/train/0.png\nimages/train/1.png\n")


def label_maps(folder: Path) -> None:
    for number in range(2):
        write_image(folder / "images" / f"{number}.png", number)
        values(folder / "masks" / f"{number}.png", 0, 1, 255, dtype=(np.uint8, np.uint16)[number])
    (folder / "classes.txt").write_text("0: road\n1: car\n")


def pascal_voc(folder: Path) -> None:
    for number in range(2):
        write_image(folder / "JPEGImages" / f"{number}.jpg", number)
        values(folder / "SegmentationClass" / f"{number}.png", 0, 1, 255)
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("0\n1\n")
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:0,0,0::\ncar:128,0,0::\n")


def ade20k(folder: Path) -> None:
    for number in range(2):
        name = f"training/ADE_train_0000000{number}"
        write_image(folder / "images" / f"{name}.jpg", number)
        values(folder / "annotations" / f"{name}.png", 1, 8, 9)
        colours(folder / "annotations_instance" / f"{name}.png", 0, 1, 2)


def cityscapes(folder: Path) -> None:
    for number in range(2):
        name = f"train/aachen/aachen_00000{number}_000019"
        write_image(folder / "leftImg8bit" / f"{name}_leftImg8bit.png", number)
        values(folder / "gtFine" / f"{name}_gtFine_instanceIds.png", 7, 26001, 26, dtype=np.uint16)
        values(folder / "gtFine" / f"{name}_gtFine_labelIds.png", 7, 26, 26)


def metadata(folder: Path) -> None:
    rows = []
    for number in range(2):
        write_image(folder / "images" / f"{number}.png", number)
        colours(folder / "maps" / f"{number}.png", 0, 1, 2)
        rows.append({"image_file_name": f"images/{number}.png", "label_file_name": f"maps/{number}.png", "note": "x"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def metadata_csv(folder: Path) -> None:
    metadata(folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def table(folder: Path) -> datasets.Dataset:
    """The rows of `metadata`, which hold their images."""
    metadata(folder / "source")
    rows = [json.loads(line) for line in (folder / "source" / "metadata.jsonl").read_text().splitlines()]
    columns = {
        key: [{"bytes": (folder / "source" / row[f"{key}_file_name"]).read_bytes(), "path": None} for row in rows]
        for key in ("image", "label")
    }
    shutil.rmtree(folder / "source")
    return (
        datasets.Dataset.from_dict(columns)
        .cast_column("image", datasets.Image())
        .cast_column("label", datasets.Image())
    )


def saved(folder: Path) -> None:
    data = table(folder)
    datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(str(folder))


def parquet(folder: Path) -> None:
    table(folder).to_parquet(str(folder / "train-00000-of-00001.parquet"))


def zips(folder: Path) -> None:
    """Instances in a zip in a zip, the JSON file beside it."""
    coco_instance(folder)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "images").iterdir()):
            archive.write(path, f"images/{path.name}")
    shutil.rmtree(folder / "images")
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "images.zip", "images.zip")
    (folder / "images.zip").unlink()


FORMATS: dict[str, Callable[[Path], None]] = {
    write.__name__: write
    for write in (
        *(coco_instance, coco_panoptic, yolo, yolo_list, label_maps, pascal_voc, ade20k, cityscapes),
        *(metadata, metadata_csv, saved, parquet, zips),
    )
}


def change_value(content: Any, rng: random.Random) -> Any:
    """A copy with one value replaced, removed, doubled or wrapped, anywhere in it."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            collect(value[key])

    collect(content)
    if not places or rng.random() < 0.02:
        return rng.choice(NASTY_VALUES)
    holder, key = rng.choice(places)
    how = rng.choice(("replace", "replace", "replace", "other", "remove", "double", "wrap", "rename"))
    if how == "replace":
        holder[key] = rng.choice(NASTY_VALUES)
    elif how == "other":
        other, other_key = rng.choice(places)
        holder[key] = copy.deepcopy(other[other_key])
    elif how == "remove":
        del holder[key]
    elif how == "wrap":
        holder[key] = [holder[key]]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[str(rng.choice(NASTY_VALUES))] = holder.pop(key)
    return content


def change_text(text: str, rng: random.Random) -> str:
    words = re.split(r"(\W+)", text)
    how = rng.choice(("word", "word", "word", "line", "cut", "insert"))
    if how == "word":
        words[rng.randrange(len(words))] = rng.choice(NASTY_WORDS)
        return "".join(words)
    if how == "line":
        lines = text.splitlines(keepends=True) or [""]
        index = rng.randrange(len(lines))
        lines[index : index + 1] = rng.choice(([], [lines[index]] * 2, [rng.choice(NASTY_WORDS) + "\n"]))
        return "".join(lines)
    position = rng.randrange(len(text) + 1)
    return text[:position] + ("" if how == "cut" else rng.choice(NASTY_WORDS) + text[position:])


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    how = rng.choice(("flip", "flip", "flip", "cut", "insert", "head", "empty"))
    changed = bytearray(content)
    if how == "flip":
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif how == "cut":
        del changed[rng.randrange(len(changed) + 1) :]
    elif how == "insert":
        position = rng.randrange(len(changed) + 1)
        changed[position:position] = rng.randbytes(rng.choice((1, 4, 100)))
    else:
        return {"head": rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"PK\x03\x04")) + content, "empty": b""}[how]
    return bytes(changed)


def change_image(path: Path, rng: random.Random) -> None:
    """Another image of another size or mode in place of one."""
    size = rng.choice(((WIDTH, HEIGHT), (WIDTH, HEIGHT), (HEIGHT, WIDTH), (1, 1), (WIDTH + 1, HEIGHT)))
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK"))
    suffix = ".tif" if mode in ("I", "F", "CMYK") else ".png"
    other = path.with_name(path.stem + suffix)
    Image.new(mode, size, rng.choice((0, 1))).save(other, format="TIFF" if suffix == ".tif" else "PNG")
    other.rename(path)


def change_tree(folder: Path, path: Path, rng: random.Random) -> None:
    """A file that is missing, elsewhere, a folder, a link, a pipe, or the content of another one."""
    how = rng.choice(("remove", "rename", "folder", "other", "loop", "pipe", "more", "parent"))
    if how == "more":
        other = path.with_name(rng.choice(("more.png", "more.txt", "x.zip", "instances.json", "ä.json")))
        other.write_bytes(path.read_bytes())
        return
    if how == "parent":
        other = path.parent.with_name(rng.choice(("masks", "val", "labels", "x")))
        if path.parent != folder and not other.exists():
            path.parent.rename(other)
        return
    content = path.read_bytes()
    path.unlink()
    if how == "rename":
        path.with_name(rng.choice(("x", ".hidden", f"{path.stem}_x{path.suffix}", "x.zip"))).write_bytes(content)
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(rng.choice((folder, path.parent, path)))
    elif how == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif how == "other":
        others = [other for other in sorted(folder.rglob("*")) if other.is_file()]
        if others:
            shutil.copy(rng.choice(others), path)


def change(folder: Path, rng: random.Random) -> str:
    """Damages a file of a dataset; returns what was done to which."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if not files:
        return "nothing: no file is left"
    texts = [path for path in files if path.suffix in (".json", ".yaml", ".jsonl", ".csv", ".txt")]
    path = rng.choice(texts) if texts and rng.random() < 0.7 else rng.choice(files)
    kind = rng.choice(("content", "content", "content", "content", "bytes", "tree"))
    if kind == "tree":
        change_tree(folder, path, rng)
    elif kind == "bytes" or path.suffix in (".zip", ".arrow", ".parquet"):
        path.write_bytes(change_bytes(path.read_bytes(), rng))
    elif path.suffix in (".png", ".jpg"):
        change_image(path, rng)
    elif path.suffix in (".json", ".yaml", ".jsonl") and rng.random() < 0.8:
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            if path.suffix == ".jsonl":
                lines = text.splitlines()
                index = rng.randrange(len(lines))
                lines[index] = json.dumps(change_value(json.loads(lines[index]), rng))
                text = "\n".join(lines)
            elif path.suffix == ".yaml":
                text = yaml.safe_dump(change_value(yaml.safe_load(text), rng))
            else:
                text = json.dumps(change_value(json.loads(text), rng))
        except (ValueError, IndexError, yaml.YAMLError, RecursionError):  # damaged before
            text = change_text(text, rng)
        path.write_text(text, encoding="utf-8", errors="replace")
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
        path.write_text(change_text(text, rng), encoding="utf-8", errors="replace")
    return f"{kind} of {path.name}"


def use(folder: Path, skip_bad_samples: bool) -> int:
    """Opens a dataset as a training does and reads all of it; returns how many samples could be read."""
    dataset = open_dataset(folder, skip_bad_samples=skip_bad_samples)
    for index in range(len(dataset)):
        assert dataset.name(index)
    if skip_bad_samples:
        bad = check_samples(dataset, show_progress=False)
        assert all(sample.name and sample.reason for sample in bad)
        str(report(dataset, show_progress=False))
        return sum(len(dataset[index].masks()) >= 0 for index in range(len(dataset)) if not bad)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.masks().shape[1:] == sample.size
        summary = dataset.summarize(index)
        assert summary is None or sorted(summary.label_ids) == sorted(target.label_id for target in sample.targets)
    return len(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_only_documented_errors_come_out_of_damaged_datasets(tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    valid = tmp_path / "valid"
    valid.mkdir()
    FORMATS[name](valid)
    assert use(valid, False) == use(valid, True) == 2
    num_errors, faults = 0, []
    for number in range(ROUNDS):
        rng = random.Random(f"{SEED} {name} {number}")
        folder = tmp_path / f"damaged{number}"
        shutil.copytree(valid, folder)
        done = [change(folder, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        for skip_bad_samples in (False, True):
            try:
                use(folder, skip_bad_samples)
            except (ValueError, OSError) as error:
                num_errors += not skip_bad_samples
                if folder.name not in str(error):
                    faults.append(f"{number} ({', '.join(done)}): the error does not say where: {error!r}")
            except Exception as error:
                faults.append(f"{number} ({', '.join(done)}): {error!r}")
        shutil.rmtree(folder)
    assert not faults, "\n".join(faults)
    assert num_errors > ROUNDS / 5, "hardly anything was damaged"
