import io
import json
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from image_processing_eomt.reading_eomt import as_pixels
from training_eomt.data import open_dataset
from training_eomt.data.images import ImageReading, both_fit
from training_eomt.data.label_coding import extract_values
from training_eomt.data.report import report
from training_eomt.prediction.sources import ImageFolder


# As it is seen: 4 rows of 6 pixels, a bright object at the top left.
SEEN = np.full((4, 6), 20, np.uint8)
SEEN[:2, :3] = 200
OBJECT = SEEN == 200
READERS = ("coco_instance", "coco_panoptic", "yolo", "label_maps", "datasets", "cityscapes", "ade20k")
WITH_SIZE = [reader for reader in READERS if reader != "yolo"]


def stored(seen, orientation):
    """Pixels that a viewer turns into what is `seen`."""
    undo = {1: lambda a: a, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 6: np.rot90, 8: lambda a: np.rot90(a, -1)}
    return undo[orientation](seen)


def file_of(pixels, orientation=1, format="PNG"):
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format, exif=exif)
    return file.getvalue()


def write(folder, reader, image, mask, suffix="png"):
    """A dataset of one image, in a format, whose object is the `mask`."""

    def put(name, content):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    numbers = mask.astype(np.uint8)
    height, width = mask.shape
    record = {"id": 1, "file_name": f"a.{suffix}", "height": height, "width": width}
    categories = [{"id": 1, "name": "thing", "isthing": 1}]
    if reader == "coco_instance":
        rle = coco_mask.encode(np.asfortranarray(numbers))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, "iscrowd": 0}
        content = {"images": [record], "annotations": [annotation], "categories": categories}
        put(f"images/a.{suffix}", image)
        put("instances.json", json.dumps(content))
    elif reader == "coco_panoptic":
        annotation = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1}]}
        put(f"images/a.{suffix}", image)
        put("panoptic/a.png", np.stack([numbers, 0 * numbers, 0 * numbers], axis=-1))
        content = {"images": [record], "annotations": [annotation], "categories": categories}
        put("panoptic.json", json.dumps(content))
    elif reader == "yolo":
        rows, columns = np.nonzero(mask)
        y0, y1 = rows.min() / height, (rows.max() + 1) / height
        x0, x1 = columns.min() / width, (columns.max() + 1) / width
        put(f"images/train/a.{suffix}", image)
        put("labels/train/a.txt", f"0 {x0} {y0} {x1} {y0} {x1} {y1} {x0} {y1}\n")
        put("data.yaml", "train: images/train\nnames: [thing]\n")
    elif reader == "cityscapes":
        put("leftImg8bit/train/x/x_0_0_leftImg8bit.png", image)
        put("gtFine/train/x/x_0_0_gtFine_labelIds.png", np.where(mask, 26, 0).astype(np.uint8))
    elif reader == "ade20k":
        put(f"images/training/ADE_train_1.{suffix}", image)
        put("objectInfo150.txt", "")
        put("annotations/training/ADE_train_1.png", numbers)
    elif reader == "datasets":
        put(f"a.{suffix}", image)
        put("a_map.png", np.where(mask, 1, 255).astype(np.uint8))
        put("metadata.jsonl", json.dumps({"image_file_name": f"a.{suffix}", "label_file_name": "a_map.png"}))
        put("id2label.json", '["other", "thing"]')
    else:
        put(f"images/a.{suffix}", image)
        put("masks/a.png", np.where(mask, 1, 255).astype(np.uint8))
        put("classes.txt", "other\nthing\n")
    return folder


def read(folder, reader, **settings):
    dataset = open_dataset(folder, reader, image_reading=ImageReading(**settings))
    return dataset[0]


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_prediction_and_processor_read_the_same_pixels(tmp_path, reader):
    deep = np.random.default_rng(0).integers(0, 2**16, SEEN.shape).astype(np.uint16)
    suffix = "png"
    for image, expected in (
        (Image.fromarray(deep), np.rint(deep / 257)),
        (Image.fromarray(SEEN).convert("P"), SEEN),
        (Image.fromarray(SEEN).convert("LA"), SEEN),
        (Image.fromarray(OBJECT), OBJECT * 255),
    ):
        folder = tmp_path / image.mode.replace(";", "")
        file = io.BytesIO()
        image.save(file, "PNG")
        write(folder, reader, file.getvalue(), OBJECT)
        pixels = np.asarray(read(folder, reader).image)
        assert pixels.shape == (*SEEN.shape, 3) and (pixels == expected[..., None]).all()
        (folder / "predict").mkdir()
        path = folder / "predict" / f"a.{suffix}"
        path.write_bytes(file.getvalue())
        assert (np.asarray(ImageFolder(path)[0].image) == pixels).all()
        assert (as_pixels(ImageOps.exif_transpose(Image.open(path)), True).permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_values_of_a_map_are_those_in_the_file_whatever_their_bits(bits):
    values = np.arange(2**bits, dtype=np.uint8).reshape(2, -1)
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:]).tobytes() for row in values]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", values.shape[1], 2, bits, 0, 0, 0, 0),  # grey
        b"IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)),
        b"IEND": b"",
    }
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts.items()
    )
    label_map = extract_values(ImageReading().read_annotation(io.BytesIO(png), "here.png"), "here.png")
    assert label_map.tolist() == values.tolist()
    image = ImageReading().read_rgb(io.BytesIO(png), "here.png")  # as brightness it goes from black to white
    assert np.asarray(image)[-1, -1].tolist() == [255, 255, 255]


def test_floating_point_is_scaled_or_named(tmp_path):
    for name, scale in (("good", 255), ("bad", 1)):
        file = io.BytesIO()
        Image.fromarray(SEEN.astype(np.float32) / scale).save(file, "TIFF")
        write(tmp_path / name, "label_maps", file.getvalue(), OBJECT, "tif")
    assert (np.asarray(read(tmp_path / "good", "label_maps").image)[..., 0] == SEEN).all()
    with pytest.raises(ValueError, match=r"images/a\.tif is of floating point with values from 0 to 200"):
        read(tmp_path / "bad", "label_maps")
    with pytest.raises(ValueError, match=r"a\.tif is of floating point"):
        ImageFolder(tmp_path / "bad" / "images")[0]


@pytest.mark.parametrize("orientation", [3, 4, 6, 8])
@pytest.mark.parametrize("reader", READERS)
def test_an_image_lies_as_its_annotation_was_drawn(tmp_path, reader, orientation):
    write(tmp_path, reader, file_of(stored(SEEN, orientation), orientation), OBJECT)
    sample = read(tmp_path, reader)
    assert sample.size == (4, 6)
    assert (np.asarray(sample.image)[..., 0] == SEEN).all() and (sample.masks()[-1] == OBJECT).all()
    assert sample.image.getexif().get(0x0112, 1) == 1  # nobody turns it again


@pytest.mark.parametrize("reader", WITH_SIZE)
def test_an_image_that_was_annotated_as_it_is_stored_stays_so(tmp_path, reader):
    pixels = stored(SEEN, 6)  # 6 rows of 4 pixels
    write(tmp_path, reader, file_of(pixels, 6), pixels == 200)
    sample = read(tmp_path, reader)
    assert sample.size == (6, 4) and (np.asarray(sample.image)[..., 0] == pixels).all()
    assert (np.asarray(read(tmp_path, reader, exif="stored").image)[..., 0] == pixels).all()
    with pytest.raises(ValueError, match=r"EXIF orientation 6: --exif says"):
        read(tmp_path, reader, exif="upright")


@pytest.mark.parametrize("reader", READERS)
def test_the_setting_decides_where_both_orientations_fit(tmp_path, reader):
    pixels = stored(SEEN, 3)
    write(tmp_path, reader, file_of(pixels, 3), OBJECT)
    assert (np.asarray(read(tmp_path, reader, exif="upright").image)[..., 0] == SEEN).all()
    assert (np.asarray(read(tmp_path, reader, exif="stored").image)[..., 0] == pixels).all()


def test_sizes_that_do_not_fit_either_way_name_the_orientation(tmp_path):
    write(tmp_path, "label_maps", file_of(SEEN, 6), np.ones((5, 5), bool))
    with pytest.raises(ValueError, match=r"images/a\.png is 6x4 .*masks/a\.png is 5x5 .*EXIF orientation 6"):
        read(tmp_path, "label_maps")


def test_predicted_images_are_upright_unless_said_otherwise(tmp_path):
    (tmp_path / "a.jpg").write_bytes(file_of(stored(SEEN, 6), 6, "JPEG"))
    assert ImageFolder(tmp_path)[0].size == (4, 6)
    assert ImageFolder(tmp_path, ImageReading("stored"))[0].size == (6, 4)


@pytest.mark.parametrize(
    "size, orientation, annotation, expected",
    [
        ((4, 6), 1, (4, 6), False),
        ((4, 6), 1, None, False),
        ((4, 6), 3, (4, 6), True),
        ((4, 6), 6, (6, 4), False),
        ((4, 6), 6, (4, 6), False),
        ((4, 6), 6, None, True),
        ((5, 5), 6, (5, 5), True),
        ((4, 6), 3, (7, 7), False),
    ],
)
def test_where_both_orientations_fit(size, orientation, annotation, expected):
    assert both_fit(size, orientation, annotation) is expected


@pytest.mark.parametrize("reader", READERS)
def test_the_report_counts_images_that_fit_either_way(tmp_path, reader):
    for orientation in (1, 3, 6):
        folder = write(tmp_path / str(orientation), reader, file_of(stored(SEEN, orientation), orientation), OBJECT)
        unsure = orientation == 3 or (orientation == 6 and reader == "yolo")
        found = report(open_dataset(folder, reader), show_progress=False)
        assert found.num_turned_on_trust == found.as_dict()["turned_on_trust"] == unsure
        assert ("--exif stored" in str(found)) == unsure
        for exif in ("upright", "stored"):
            if orientation == 3:
                dataset = open_dataset(folder, reader, image_reading=ImageReading(exif))
                assert report(dataset, show_progress=False).num_turned_on_trust == 0


@pytest.mark.parametrize("reader", READERS)
def test_the_limit_holds_for_every_reader(tmp_path, reader):
    write(tmp_path, reader, file_of(SEEN), OBJECT)
    assert read(tmp_path, reader, max_pixels=24).size == (4, 6)
    with pytest.raises(ValueError, match=r"\.png has 4x6 pixels .*--max_image_pixels"):
        read(tmp_path, reader, max_pixels=23)


def test_the_limit_holds_for_prediction(tmp_path):
    (tmp_path / "a.png").write_bytes(file_of(SEEN))
    with pytest.raises(ValueError, match=r"a\.png has 4x6 pixels .*--max_image_pixels"):
        ImageFolder(tmp_path, ImageReading(max_pixels=23))[0]


@pytest.mark.parametrize("settings", [{"exif": "sideways"}, {"max_pixels": 0}, {"max_pixels": -1}])
def test_settings_that_cannot_be_are_an_error(settings):
    with pytest.raises(ValueError, match=r"exif is 'sideways'|max_image_pixels is (0|-1)"):
        ImageReading(**settings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_in_place_of_an_image_is_an_error_and_no_wait(tmp_path, reader):
    write(tmp_path, reader, file_of(SEEN), OBJECT)
    dataset = open_dataset(tmp_path, reader)
    image = dataset.name(0)
    os.unlink(image)
    os.mkfifo(image)
    errors = []

    def read_it():
        try:
            dataset[0]
        except ValueError as error:
            errors.append(str(error))

    thread = threading.Thread(target=read_it, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and f"{image} is no regular file" in errors[0]
