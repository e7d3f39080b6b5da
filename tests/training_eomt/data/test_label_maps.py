import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training_eomt.data import open_dataset
from training_eomt.data.label_maps import LabelMapDataset


LABEL_MAP = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [0, 2, 2, 255]], dtype=np.uint8)


def write(
    folder: Path, names: dict[str, np.ndarray], images: str = "images", maps: str = "masks", end: str = ""
) -> Path:
    for inner in (images, maps):
        (folder / inner).mkdir(parents=True, exist_ok=True)
    for name, label_map in names.items():
        Image.new("RGB", label_map.shape[::-1]).save(folder / images / f"{name}.jpg")
        Image.fromarray(label_map).save(folder / maps / f"{name}{end}.png")
    return folder


def painted(dataset: LabelMapDataset, index: int) -> np.ndarray:
    """The sample as a label map again, -1 where nothing is."""
    sample = dataset[index]
    values = np.full(sample.size, -1)
    for target in sample.targets:
        values[target.mask()] = target.label_id
    return values


def test_every_value_is_a_target_and_ignored_values_are_void(tmp_path):
    dataset = LabelMapDataset(write(tmp_path, {"a": LABEL_MAP}), class_names=["road", "car", "sky"])
    assert dataset.kind == dataset.task == "semantic" and dataset.label_space.stuff_classes == [0, 1, 2]
    np.testing.assert_array_equal(painted(dataset, 0), np.where(LABEL_MAP == 255, -1, LABEL_MAP.astype(int)))


def test_reducing_labels_and_ignoring_values_are_two_settings(tmp_path):
    folder = write(tmp_path, {"a": LABEL_MAP})
    reduced = LabelMapDataset(folder, class_names=["car", "sky"], do_reduce_labels=True)
    np.testing.assert_array_equal(painted(reduced, 0), [[-1, -1, 0, 0], [-1, 1, 1, -1], [-1, 1, 1, -1]])
    ignoring = LabelMapDataset(folder, class_names=["road", "car"], ignore_index=[2, 255])
    np.testing.assert_array_equal(painted(ignoring, 0), [[0, 0, 1, 1], [0, -1, -1, -1], [0, -1, -1, -1]])


def test_camvid_is_read_as_numpy_reads_it(camvid):
    names = [f"name {i}" for i in range(11)]
    dataset = LabelMapDataset(camvid / "val", class_names=names, ignore_index=[11])
    assert len(dataset) == 101 and len(dataset.label_space) == 11
    for index in (0, 50, 100):
        stored = np.array(Image.open(camvid / "val" / "masks" / f"{Path(dataset.name(index)).stem}.png")).astype(int)
        np.testing.assert_array_equal(painted(dataset, index), np.where(stored == 11, -1, stored))


def test_16_bit_and_palette_maps_hold_numbers(tmp_path):
    large = LABEL_MAP.astype(np.uint16)
    large[0, 0] = 300
    write(tmp_path / "x", {"a": large})
    assert len(LabelMapDataset(tmp_path / "x").label_space) == 301
    write(tmp_path / "y", {"a": LABEL_MAP})
    palette = Image.fromarray(LABEL_MAP).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.putdata(LABEL_MAP.ravel().tolist())
    palette.save(tmp_path / "y" / "masks" / "a.png")
    assert painted(LabelMapDataset(tmp_path / "y"), 0)[0].tolist() == [0, 0, 1, 1]


def test_classes_come_from_a_file_from_the_model_or_from_the_values(tmp_path):
    folder = write(tmp_path / "train", {"a": LABEL_MAP})
    assert LabelMapDataset(folder).label_space.names == ("class 0", "class 1", "class 2")
    model = {0: "x", 1: "y", 2: "z", 3: "w"}
    assert LabelMapDataset(folder, model)[0].targets[2].label_id == 2
    (tmp_path / "id2label.json").write_text('{"0": "road", "1": "car", "2": "sky"}')
    assert LabelMapDataset(folder).label_space.names == ("road", "car", "sky")
    names = {0: "sky", 1: "road", 2: "tree", 3: "car"}
    assert [target.label_id for target in LabelMapDataset(folder, names)[0].targets] == [1, 3, 0]


def test_split_folders_in_the_folders_and_endings_of_maps_are_understood(tmp_path):
    write(tmp_path, {"a": LABEL_MAP}, "images/train", "masks/train", "_mask")
    write(tmp_path, {"b": LABEL_MAP, "c": LABEL_MAP}, "images/val", "masks/val")
    assert [len(LabelMapDataset(tmp_path, split=split)) for split in ("train", "validation")] == [1, 2]
    assert LabelMapDataset(tmp_path, split="train").name(0).endswith("images/train/a.jpg")


def test_a_file_without_counterpart_is_an_error_or_left_out(tmp_path):
    write(tmp_path, {"a": LABEL_MAP, "b": LABEL_MAP})
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(ValueError, match=r"images/b\.jpg has no counterpart in .*masks"):
        LabelMapDataset(tmp_path)
    dataset = LabelMapDataset(tmp_path, skip_bad_samples=True)
    assert len(dataset) == 1 and dataset.bad_samples[0].name.endswith("b.jpg")


def test_names_in_either_form_of_unicode_are_one(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "caf\u00e9.png")
    Image.new("L", (4, 4)).save(tmp_path / "masks" / "cafe\u0301.png")
    assert len(LabelMapDataset(tmp_path)[0].targets) == 1


def test_what_a_map_cannot_be_is_an_error_that_names_it(tmp_path):
    write(tmp_path, {"a": LABEL_MAP, "b": LABEL_MAP, "c": LABEL_MAP, "d": LABEL_MAP})
    masks = tmp_path / "masks"
    Image.new("RGB", (4, 3), (128, 0, 0)).save(masks / "b.png")
    Image.new("L", (5, 3)).save(masks / "c.png")
    (tmp_path / "images" / "d.jpg").write_bytes((tmp_path / "images" / "d.jpg").read_bytes()[:300])
    dataset = LabelMapDataset(tmp_path, class_names=["road", "car"])
    with pytest.raises(ValueError, match=r"masks/a\.png: 4 pixels have the value 2, which is no class: .* 0 to 1"):
        dataset[0]
    with pytest.raises(ValueError, match=r"masks/b\.png is a colour image \(mode RGB\)"):
        dataset[1]
    with pytest.raises(ValueError, match=r"images/c\.jpg is 3x4 .*masks/c\.png is 3x5"):
        dataset[2]
    with pytest.raises(ValueError, match=r"images/d\.jpg cannot be decoded"):
        dataset[3]


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        LabelMapDataset(tmp_path)


def test_maps_of_0_and_255_are_read_through_a_table(tmp_path):
    drawn = np.array([[0, 0, 255], [0, 255, 255]], np.uint8)
    folder = write(tmp_path, {"a": drawn})
    (tmp_path / "values.json").write_text('{"0": "background", "255": "lesion"}')
    dataset = LabelMapDataset(folder, label_values=tmp_path / "values.json")
    assert dataset.label_space.id2label == {0: "background", 1: "lesion"}
    assert painted(dataset, 0).tolist() == (drawn == 255).astype(int).tolist()
    model = LabelMapDataset(folder, {0: "lesion", 1: "background"}, label_values={0: "background", 255: "lesion"})
    assert painted(model, 0).tolist() == (drawn == 0).astype(int).tolist()


# Pascal VOC's colours of background, aeroplane, bicycle and the border around objects.
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 192)], np.uint8)
INDICES = np.array([[0, 0, 1, 1], [2, 2, 3, 0]])


def write_voc(folder, lists, names=("a", "b", "c"), has_palette=False):
    for inner in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / inner).mkdir(parents=True)
    for name in names:
        Image.new("RGB", (4, 2)).save(folder / "JPEGImages" / f"{name}.jpg")
        if has_palette:
            palette = Image.new("P", (4, 2))
            palette.putpalette(COLOURS[:3].tobytes() + bytes(252 * 3) + COLOURS[3:].tobytes())
            palette.putdata(np.where(INDICES == 3, 255, INDICES).ravel().tolist())
            palette.save(folder / "SegmentationClass" / f"{name}.png")
        else:
            Image.fromarray(COLOURS[INDICES]).save(folder / "SegmentationClass" / f"{name}.png")
    Image.new("RGB", (4, 2)).save(folder / "JPEGImages" / "not_listed.jpg")
    for name, stems in lists.items():
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return folder


def test_the_lists_of_pascal_voc_say_what_belongs_to_a_split(tmp_path):
    lists = {"train": ["a", "c"], "val": ["b"], "trainval": ["a", "b", "c"]}
    folder = write_voc(tmp_path / "VOC2012", lists, has_palette=True)
    for place in (folder, tmp_path):  # as it unpacks: VOCdevkit/VOC2012
        for split, stems in (("train", ["a", "c"]), ("validation", ["b"]), ("predict", ["b"])):
            dataset = open_dataset(place, split=split, class_names=["background", "aeroplane", "bicycle"])
            assert [Path(dataset.name(index)).stem for index in range(len(dataset))] == stems
            assert painted(dataset, 0).tolist() == np.where(INDICES == 3, -1, INDICES).tolist()


def test_the_masks_of_cvat_are_read_as_it_exports_them(tmp_path):
    folder = write_voc(tmp_path, {"default": ["a", "b", "c"]})
    labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\naeroplane:128,0,0::\nbicycle:0,128,0::\n"
    (folder / "labelmap.txt").write_text(labels + "border:224,224,192::\n")
    dataset = open_dataset(folder)
    assert len(dataset) == 3 and dataset.label_space.names == ("background", "aeroplane", "bicycle", "border")
    assert painted(dataset, 2).tolist() == INDICES.tolist()
    table = {"0,0,0": "background", "128,0,0": "aeroplane", "0,128,0": "bicycle", "224,224,192": None}
    without_border = open_dataset(folder, label_values=table)
    assert painted(without_border, 0).tolist() == np.where(INDICES == 3, -1, INDICES).tolist()
    zipped = open_dataset(shutil.make_archive(str(tmp_path.with_name("export")), "zip", folder))
    assert painted(zipped, 1).tolist() == INDICES.tolist()
    (folder / "labelmap.txt").write_text(labels)
    with pytest.raises(ValueError, match=r"SegmentationClass/a\.png: 1 pixels have the colour 224,224,192"):
        open_dataset(folder)[0]


def test_beside_maps_of_numbers_the_file_of_cvat_names_the_classes(tmp_path):
    folder = write(tmp_path, {"a": LABEL_MAP})
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nroad:0,0,0::\ncar:9,0,0::\nsky:0,9,0::\n")
    dataset = LabelMapDataset(folder)
    assert dataset.label_space.names == ("road", "car", "sky")
    np.testing.assert_array_equal(painted(dataset, 0), np.where(LABEL_MAP == 255, -1, LABEL_MAP.astype(int)))
    (folder / "classes.txt").write_text("a\nb\nc\n")
    assert LabelMapDataset(folder).label_space.names == ("a", "b", "c")


def test_what_lists_name_and_is_not_there_is_an_error_or_left_out(tmp_path):
    folder = write_voc(tmp_path, {"train": ["a", "gone"], "val": []})
    names = ["background", "aeroplane", "bicycle"]
    with pytest.raises(ValueError, match=r"gone, which a list in .*Segmentation names, is neither in .*JPEGImages"):
        LabelMapDataset(folder, split="train", class_names=names)
    dataset = LabelMapDataset(folder, split="train", class_names=names, skip_bad_samples=True)
    assert len(dataset) == 1 and "gone" in dataset.bad_samples[0].reason
    with pytest.raises(FileNotFoundError, match="no image with a label map for the validation split"):
        LabelMapDataset(folder, split="validation", class_names=names)
    (folder / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(FileNotFoundError, match="has no validation split, only train"):
        open_dataset(folder, split="validation")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_tiffs_of_whole_numbers_are_maps(tmp_path, dtype, compression):
    folder = write(tmp_path, {"a": LABEL_MAP})
    (folder / "masks" / "a.png").unlink()
    Image.fromarray(LABEL_MAP.astype(dtype)).save(folder / "masks" / "a.tif", compression=compression)
    dataset = open_dataset(folder, class_names=["road", "car", "sky"])
    np.testing.assert_array_equal(painted(dataset, 0), np.where(LABEL_MAP == 255, -1, LABEL_MAP.astype(int)))


def test_jpegs_in_place_of_maps_are_an_error_that_says_why(tmp_path):
    folder = write(tmp_path, {"a": LABEL_MAP, "b": LABEL_MAP, "c": LABEL_MAP})
    for name in ("a", "b"):
        Image.fromarray(LABEL_MAP).save(folder / "masks" / f"{name}.jpg")
        (folder / "masks" / f"{name}.png").unlink()
    with pytest.raises(ValueError, match=r"masks/a\.jpg is a JPEG.* \(2 of the label maps are JPEGs\)"):
        open_dataset(folder)
    dataset = open_dataset(folder, skip_bad_samples=True)
    assert len(dataset) == 1 and ["JPEG" in bad.reason for bad in dataset.bad_samples] == [True, True]
    (folder / "masks" / "c.png").unlink()
    Image.fromarray(LABEL_MAP).save(folder / "masks" / "c.jpg")
    with pytest.raises(ValueError, match="is a JPEG"):
        open_dataset(folder)
