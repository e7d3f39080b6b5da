import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from training_eomt.data import table_sources
from training_eomt.data.table import TableDataset
from training_eomt.script.arguments import DataArguments
from training_eomt.script.data import open_data


LABEL_MAP = np.array([[0, 0, 1, 1], [0, 300, 300, 255]], dtype=np.uint16)
# Class 1 has objects 1 and 2 x 256 + 1 and pixels of none; class 2 has none; 255 is void.
COLOURS = np.array([[[1, 1, 0], [1, 1, 2], [1, 0, 0]], [[2, 0, 0], [2, 0, 0], [255, 0, 0]]], dtype=np.uint8)


def write_folder(folder: Path, annotation: np.ndarray = LABEL_MAP, names: str = "abc") -> Path:
    for inner in ("images", "maps"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        Image.new("RGB", annotation.shape[1::-1], (10, 20, 30)).save(folder / "images" / f"{name}.png")
        Image.fromarray(annotation).save(folder / "maps" / f"{name}.png")
        rows.append({"image_file_name": f"images/{name}.png", "label_file_name": f"maps/{name}.png"})
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: list[dict]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "data")


def test_metadata_gives_two_columns_and_keeps_16_bits(folder):
    dataset = TableDataset(folder)
    assert (dataset.image_column, dataset.annotation_column) == ("image", "label")
    assert dataset.kind == "semantic" and len(dataset.label_space) == 301
    sample = dataset[1]
    assert [target.label_id for target in sample.targets] == [0, 1, 300] and sample.file_name == "b.png"
    np.testing.assert_array_equal(sample.masks(), [value == LABEL_MAP for value in (0, 1, 300)])


def saved(folder: Path, target: Path) -> Path:
    datasets.load_dataset("imagefolder", data_dir=str(folder), split="train").save_to_disk(str(target))
    return target


def saved_splits(folder: Path, target: Path) -> Path:
    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    datasets.DatasetDict({"train": data.select([0]), "validation": data}).save_to_disk(str(target))
    return target


def parquet(folder: Path, target: Path) -> Path:
    (target / "data").mkdir(parents=True)
    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    data.to_parquet(str(target / "data" / "validation-00000-of-00001.parquet"))
    data.select([0]).to_parquet(str(target / "data" / "train-00000-of-00001.parquet"))
    return target


@pytest.mark.parametrize("write", [saved, saved_splits, parquet])
def test_what_the_library_writes_holds_the_same_samples(folder, tmp_path, write):
    dataset = TableDataset(write(folder, tmp_path / "written"), split="validation")
    expected = TableDataset(folder)
    assert len(dataset) == 3 and dataset.label_space == expected.label_space
    for index in range(3):
        np.testing.assert_array_equal(dataset[index].masks(), expected[index].masks())
        np.testing.assert_array_equal(np.array(dataset[index].image), np.array(expected[index].image))
    assert "of row 2" in dataset.name(2)


@pytest.mark.parametrize("write", [saved_splits, parquet])
def test_the_splits_of_one_folder_are_two_datasets(folder, tmp_path, write):
    path = str(write(folder, tmp_path / "written"))
    arguments = DataArguments(dataset=path)
    train, validation = open_data(arguments, trains=True, evaluates=True, task=None, id2label=None)
    assert (len(train), len(validation)) == (1, 3) and train.where != validation.where
    one_split = TableDataset(path, split="train").where
    assert one_split.startswith(path) and "train" in one_split


def test_a_folder_with_one_split_has_no_other(folder, tmp_path):
    with pytest.raises(ValueError, match="has no validation split"):
        open_data(DataArguments(dataset=str(saved(folder, tmp_path / "written"))), True, True, None, None)
    (parquet(folder, tmp_path / "parquet") / "data" / "validation-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="has no validation split, only train"):
        open_data(DataArguments(dataset=str(tmp_path / "parquet")), True, True, None, None)


def test_the_splits_of_a_name_on_the_hub_are_two_datasets(folder, monkeypatch):
    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    splits = {"train": data.select([0]), "validation": data}
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: list(splits))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: splits[split])
    monkeypatch.setattr("training_eomt.data.table.hf_hub_download", _no_file)
    train, validation = open_data(DataArguments(dataset="me/cats"), True, True, None, None)
    assert (len(train), len(validation)) == (1, 3)


def _no_file(*_, **__):
    raise OSError


@pytest.mark.parametrize("write", [saved_splits, parquet])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_tables_are_errors_that_name_them(folder, tmp_path, write, damage):
    path = write(folder, tmp_path / "written")
    for file in path.rglob("*"):
        if file.suffix in (".arrow", ".parquet"):
            content = file.read_bytes()
            file.write_bytes({"truncated": content[:300], "text": b"not a table" * 9, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"written.* cannot be read"):
        TableDataset(path)


def test_damaged_descriptions_of_tables_are_errors_that_name_them(folder, tmp_path):
    path = saved(folder, tmp_path / "written")
    for name, text in (("state.json", "{}"), ("dataset_info.json", "[1]"), ("state.json", "5")):
        before = (path / name).read_text()
        (path / name).write_text(text)
        with pytest.raises(ValueError, match=r"written cannot be read: \w+"):
            TableDataset(path)
        (path / name).write_text(before)


def test_a_name_on_the_hub_is_loaded(folder, monkeypatch):
    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name: ["train", "valid"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {"me/cats": {"valid": data}}[name][split])
    monkeypatch.setattr("training_eomt.data.table.hf_hub_download", lambda *_, **__: folder / "id2label.json")
    (folder / "id2label.json").write_text(json.dumps({i: f"name {i}" for i in range(301)}))
    dataset = TableDataset("me/cats", split="validation")
    assert len(dataset) == 3 and dataset.label_space.names[300] == "name 300"
    monkeypatch.setattr(datasets, "get_dataset_split_names", _not_found)
    with pytest.raises(FileNotFoundError, match=r"no file or folder me/cats, and it cannot be read as a dataset"):
        TableDataset("me/cats")


def _not_found(name):
    raise datasets.exceptions.DatasetNotFoundError("not there")


def test_colours_are_classes_and_objects(tmp_path):
    folder = write_folder(tmp_path / "data", COLOURS)
    (folder / "id2label.json").write_text('{"0": "background", "1": "cat", "2": "grass"}')
    dataset = TableDataset(folder)
    assert dataset.kind == "panoptic" and dataset.label_space.stuff_classes == [0, 2]
    sample = dataset[0]
    assert [target.label_id for target in sample.targets] == [1, 1, 2]
    first, second = (COLOURS == (1, 1, 0)).all(-1), (COLOURS == (1, 1, 2)).all(-1)
    np.testing.assert_array_equal(sample.masks(), [first, second, COLOURS[..., 0] == 2])
    assert TableDataset(folder, task="instance").label_space.names == ("cat",)


def test_columns_are_found_or_named(folder):
    rows = rows_of(folder)
    write_rows(folder, [{"x_file_name": r["image_file_name"], "y_file_name": r["label_file_name"]} for r in rows])
    with pytest.raises(ValueError, match=r"columns of images are x, y\. Name one as image_column"):
        TableDataset(folder)
    assert TableDataset(folder, annotation_column="y").image_column == "x"
    with pytest.raises(ValueError, match=r"no column of images 'z' \(image_column\), only x, y"):
        TableDataset(folder, image_column="z")


def test_a_file_that_is_missing_or_listed_twice_is_an_error_or_left_out(folder):
    rows = rows_of(folder)
    write_rows(folder, [*rows, {**rows[0], "label_file_name": "maps/none.png"}])
    with pytest.raises(FileNotFoundError, match=r"maps/none\.png, which .*metadata\.jsonl names, is missing"):
        TableDataset(folder)
    assert len(TableDataset(folder, skip_bad_samples=True)) == 3
    write_rows(folder, [*rows, rows[0]])
    with pytest.raises(ValueError, match=r"lists the image images/a\.png twice"):
        TableDataset(folder)
    dataset = TableDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 3 and "images/a.png twice" in dataset.bad_samples[0].reason


def test_bad_metadata_and_annotations_are_named(folder):
    Image.new("RGB", (4, 2), (128, 0, 0)).save(folder / "maps" / "b.png")
    Image.new("L", (5, 2)).save(folder / "maps" / "c.png")
    dataset = TableDataset(folder, class_names=["road", "car"])
    with pytest.raises(ValueError, match=r"maps/a\.png: 2 pixels have the value 300"):
        dataset[0]
    with pytest.raises(ValueError, match=r"maps/b\.png is a colour image"):
        dataset[1]
    with pytest.raises(ValueError, match=r"images/c\.png is 2x4 .*maps/c\.png is 2x5"):
        dataset[2]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 2 is not valid JSON"),
        ("[1]", "line 2 is not a row: expected `object`, got `array`"),
        (
            '{"image_file_name": 5, "label_file_name": "maps/a.png"}',
            "line 2: 'image_file_name' is not the name .*`int`",
        ),
        ('{"image_file_name": ["a"]}', "line 2: 'image_file_name' is not the name of a file"),
        ('{"image_file_name": "images/a.png"}', "images/a.png names no file for 'label'"),
        ('{"image_file_name": "images/a.png", "label_file_name": NaN}', "line 2: 'label_file_name' is not"),
        ('{"image_file_name": "images/a\\u0000.png", "label_file_name": "maps/a.png"}', "is missing"),
        ('{"image_file_name": "/etc/passwd", "label_file_name": "maps/a.png"}', "passwd, which .* names, is missing"),
        ('{"image_file_name": "../../x.png", "label_file_name": "maps/a.png"}', "x.png, which .* names, is missing"),
        ('{"a": ' + "[" * 100_000, "line 2 is not valid JSON"),
    ],
)
def test_a_row_that_is_wrong_is_named_or_left_out(folder, line, message):
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises((ValueError, FileNotFoundError), match=rf"(?s)metadata\.jsonl.*{message}|{message}"):
        TableDataset(folder)
    dataset = TableDataset(folder, skip_bad_samples=True)
    assert len(dataset) == 3 and len(dataset.bad_samples) == 1


@pytest.mark.parametrize(
    "row, message",
    [
        ('{"image_file_name": "gone.png", "label_file_name": "maps/a.png"}', r"gone\.png, which .* is missing"),
        ('{"image_file_name": 5, "label_file_name": "maps/a.png"}', "line 1: 'image_file_name' is not the name"),
        ('{"image_file_name": ', "line 1 is not valid JSON"),
    ],
)
def test_where_no_row_can_be_used_the_reasons_are_listed(folder, row, message):
    (folder / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises(ValueError, match=f"(?s)metadata\\.jsonl.*{message}"):
        TableDataset(folder, skip_bad_samples=True)


def test_the_kind_is_that_of_the_first_annotation_that_can_be_read(tmp_path):
    folder = write_folder(tmp_path / "data", COLOURS)
    (folder / "maps" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"maps/a\.png cannot be decoded"):
        TableDataset(folder)[0]
    dataset = TableDataset(folder, skip_bad_samples=True)
    assert dataset.kind == "panoptic" and len(dataset[1].targets) == 3
    for name in "bc":
        (folder / "maps" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of its 3 annotations can be read"):
        TableDataset(folder, skip_bad_samples=True)


def test_names_with_backslashes_and_other_columns_are_read(folder):
    rows = [{key: value.replace("/", "\\") for key, value in row.items()} for row in rows_of(folder)]
    write_rows(folder, [{**row, "caption": "one\u2028line", "score": float("nan")} for row in rows])
    dataset = TableDataset(folder)
    assert len(dataset) == 3 and Path(dataset.name(0)) == folder / "images" / "a.png"


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "image_file_name,label_file_name\nimages/a.png,maps/a.png,more\nimages/b.png\n",
            "images/b.png names no file",
        ),
        ("image_file_name,label_file_name\nimages/a.png,maps/a\0.png\n", "missing|NUL"),
        ('image_file_name,label_file_name\n"' + "x" * 200_000 + '",maps/a.png\n', "no row of CSV: field larger"),
    ],
)
def test_csv_that_is_wrong_is_named(folder, text, message):
    (folder / "metadata.jsonl").unlink()
    (folder / "metadata.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TableDataset(folder)


def test_a_table_of_all_splits_is_split_by_folder_and_csv_is_read(tmp_path):
    folder = tmp_path / "data"
    write_folder(folder / "train", names="a")
    write_folder(folder / "val", names="bc")
    rows = [
        {key: f"{split}/{value}" for key, value in row.items()}
        for split in ("train", "val")
        for row in rows_of(folder / split)
    ]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "metadata.csv").write_text("\n".join(lines))
    assert [len(TableDataset(folder, split=split)) for split in ("train", "validation")] == [1, 2]
    assert table_sources.find_table(table_sources.FileTree(folder)) == "metadata"


def test_values_and_colours_of_a_table_stand_for_classes(tmp_path):
    values = np.array([[0, 255], [255, 0]], np.uint8)
    colours = np.array([(0, 0, 0), (128, 0, 0)], np.uint8)[values // 255]
    for name, label_map, table in (
        ("values", values, {"0": "background", "255": "lesion"}),
        ("colours", colours, {"0,0,0": "background", "#800000": "lesion"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (2, 2)).save(folder / "a.png")
        Image.fromarray(label_map).save(folder / "a_map.png")
        (folder / "metadata.jsonl").write_text('{"image_file_name": "a.png", "label_file_name": "a_map.png"}\n')
        dataset = TableDataset(folder, label_values=table)
        assert dataset.kind == "semantic" and dataset.label_space.names == ("background", "lesion")
        assert (dataset[0].masks()[1] == (values == 255)).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_in_place_of_an_annotation_is_an_error_that_names_it(tmp_path, mode):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    Image.new(mode, (2, 2)).save(tmp_path / "a_map.jpg")
    (tmp_path / "metadata.jsonl").write_text('{"image_file_name": "a.png", "label_file_name": "a_map.jpg"}\n')
    with pytest.raises(ValueError, match=r"a_map\.jpg is a JPEG"):
        TableDataset(tmp_path, class_names=["a"])[0]


def write_table(folder, annotations):
    rows = []
    for index, annotation in enumerate(annotations):
        Image.new("RGB", (2, 2)).save(folder / f"{index}.png")
        Image.fromarray(annotation).save(folder / f"{index}_map.png")
        rows.append(f'{{"image_file_name": "{index}.png", "label_file_name": "{index}_map.png"}}\n')
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def test_grey_colours_are_numbers_of_classes(tmp_path):
    values = np.array([[0, 1], [2, 255]], np.uint8)
    black = np.zeros((2, 2, 3), np.uint8)
    dataset = TableDataset(write_table(tmp_path, [black, np.stack([values] * 3, axis=-1)]))
    assert dataset.kind == "semantic" and dataset.label_space.names == ("class 0", "class 1", "class 2")
    assert dataset[1].masks().tolist() == [(values == number).tolist() for number in (0, 1, 2)]
    assert dataset[0].masks().all()


def test_a_broken_first_annotation_does_not_say_what_the_others_are(tmp_path):
    folder = write_table(tmp_path, [np.ones((2, 2), np.uint8)] * 2)
    (folder / "0_map.png").write_bytes(b"no image")
    dataset = TableDataset(folder, skip_bad_samples=True)
    assert dataset.kind == "semantic" and dataset[1].masks().shape == (1, 2, 2)
    with pytest.raises(ValueError, match=r"0_map\.png cannot be decoded"):
        dataset[0]


def test_colours_of_classes_that_are_not_panoptic_are_named_with_what_helps(tmp_path):
    coloured = np.zeros((2, 2, 3), np.uint8)
    coloured[0] = (128, 0, 0)
    with pytest.raises(ValueError, match=r"0_map\.png: 2 pixels are of class 128 .*--label_values"):
        TableDataset(write_table(tmp_path, [coloured]), class_names=["background", "aeroplane"])[0]
