import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_processing_eomt.pixels_eomt import as_pixels
from image_processing_eomt.reading_eomt import as_8_bit, as_rgb, read_stored, size_and_orientation, upright


RGB = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
DEEP = np.array([[0, 1, 128, 129], [256, 32768, 65406, 65535]], np.uint16)
DEEP_IN_8_BITS = np.array([[0, 0, 0, 1], [1, 128, 254, 255]])  # the whole number closest to value / 257


def in_file(image, format="PNG", orientation=None, **settings):
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        settings["exif"] = exif
    file = io.BytesIO()
    image.save(file, format, **settings)
    file.seek(0)
    return file


def read(file, **settings):
    return read_stored(file, "here.png", **settings)


def test_sixteen_bits_become_eight_whatever_the_format_and_order_of_bytes():
    images = [
        read(in_file(Image.fromarray(DEEP))).image,
        read(in_file(Image.fromarray(DEEP), "TIFF")).image,
        read(in_file(Image.fromarray(DEEP.astype(np.int32)), "TIFF")).image,
        read(io.BytesIO(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())).image,
        Image.frombytes("I;16B", (4, 2), DEEP.astype(">u2").tobytes()),
    ]
    assert {image.mode for image in images} >= {"I;16", "I", "I;16B"}
    for image in images:
        assert as_8_bit(image).mode == "L" and np.asarray(as_8_bit(image)).tolist() == DEEP_IN_8_BITS.tolist()
        assert np.asarray(as_rgb(image))[..., 1].tolist() == DEEP_IN_8_BITS.tolist()
        assert as_pixels(image, True)[2].tolist() == DEEP_IN_8_BITS.tolist()


def test_a_dark_image_of_sixteen_bits_stays_dark():
    dark = Image.fromarray(np.full((2, 3), 200, np.uint16))
    assert np.asarray(as_rgb(dark)).max() == 1
    assert np.asarray(as_rgb(Image.fromarray(np.full((2, 3), 200, np.int32)))).max() == 200  # which are 8 bits


def test_floating_point_from_0_to_1_is_scaled():
    values = np.array([[0, 0.5, 1], [0.1, 0.998, 0.999]], np.float32)
    image = read(in_file(Image.fromarray(values), "TIFF")).image
    assert image.mode == "F"
    assert np.asarray(as_rgb(image))[..., 0].tolist() == [[0, 128, 255], [26, 254, 255]]
    assert as_pixels(image, True)[0].tolist() == [[0, 128, 255], [26, 254, 255]]


@pytest.mark.parametrize(
    "values, message",
    [
        (np.array([[0, 300.0]], np.float32), "here.tiff is of floating point with values from 0 to 300"),
        (np.array([[-1, 0.0]], np.float32), "here.tiff is of floating point with values from -1 to 0"),
        (np.array([[np.nan, 0]], np.float32), "here.tiff holds values that are not finite"),
        (np.array([[np.inf, 0]], np.float32), "here.tiff holds values that are not finite"),
        (np.array([[0, 65536]], np.int32), "here.tiff holds integers from 0 to 65536"),
        (np.array([[-5, 1]], np.int32), "here.tiff holds integers from -5 to 1"),
    ],
)
def test_values_that_are_no_brightness_are_an_error(values, message):
    with pytest.raises(ValueError, match=message):
        as_rgb(Image.fromarray(values), "here.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_colours_as_pillow_converts_it(mode):
    image = Image.fromarray(RGB).convert("P").convert("PA") if mode == "PA" else Image.fromarray(RGB).convert(mode)
    assert np.array_equal(np.asarray(as_rgb(image)), np.asarray(image.convert("RGB")))


def test_premultiplied_and_lab_colours_are_read():
    grey = Image.fromarray(RGB[..., 0])
    opaque = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    assert np.array_equal(np.asarray(as_rgb(opaque.convert("La")))[..., 0], RGB[..., 0])
    white = Image.new("LAB", (2, 2), (255, 128, 128))  # lightness 100, no colour
    assert np.asarray(as_rgb(read(in_file(white, "TIFF")).image)).min() >= 254


def test_colours_behind_transparency_are_kept():
    palette = Image.fromarray(RGB).convert("P")
    for transparency in (3, bytes(range(200))):
        stored = read(in_file(palette, transparency=transparency)).image
        assert stored.info["transparency"] == transparency
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(np.asarray(as_rgb(stored)), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_read_as_it_is_stored_and_can_be_turned(format, orientation):
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format, {})
    plain = read(in_file(Image.fromarray(RGB), format, **exact)).image
    stored = read(in_file(Image.fromarray(RGB), format, orientation, **exact))
    assert stored.orientation == orientation and stored.size == (5, 6)
    assert np.array_equal(np.asarray(stored.image.convert("RGB")), np.asarray(plain.convert("RGB")))
    pillows = ImageOps.exif_transpose(Image.open(in_file(Image.fromarray(RGB), format, orientation, **exact)))
    assert np.array_equal(np.asarray(upright(stored).convert("RGB")), np.asarray(pillows.convert("RGB")))
    assert stored.upright_size == (pillows.height, pillows.width)
    file = in_file(Image.fromarray(RGB), format, orientation, **exact)
    assert size_and_orientation(file, "here", 100) == ((5, 6), orientation)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert read(in_file(Image.fromarray(RGB), "JPEG", orientation)).orientation == 1


def test_the_limit_is_known_before_anything_is_decoded():
    file = in_file(Image.new("1", (300, 200)))
    cut_off = io.BytesIO(file.getvalue()[:60])  # has a header and no pixels
    with pytest.raises(ValueError, match=r"here\.png has 200x300 pixels .*60,000 in all.*59,999.*--max_image_pixels"):
        read(cut_off, max_pixels=59_999)
    assert read(file, max_pixels=60_000).size == (200, 300)


def test_the_limit_takes_the_place_of_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in ("PNG", "TIFF", "GIF", "WEBP"):
            assert read(in_file(Image.new("L", (60, 50)), format)).size == (50, 60)  # an error of Pillow's
        assert read(in_file(Image.new("L", (40, 30)))).size == (30, 40)  # a warning
        with pytest.raises(ValueError, match="--max_image_pixels"):
            read(in_file(Image.new("L", (60, 50))), max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_threads_share_the_limit_and_leave_pillows_as_it_was():
    usual = Image.MAX_IMAGE_PIXELS
    files = [in_file(Image.new("L", (100, 100 + index % 7))) for index in range(200)]

    def is_read(file, limit):
        try:
            return bool(read(file, max_pixels=limit))
        except ValueError:
            return False

    limits = [1 if index % 3 else 20_000 for index in range(200)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(is_read, files, limits)) == [limit > 1 for limit in limits]
    assert usual == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"GIF89a", b"no image at all", in_file(Image.fromarray(RGB)).getvalue()[:-30]],
    ids=["empty", "one byte", "header alone", "text", "cut off"],
)
def test_what_cannot_be_decoded_is_an_error_that_names_it(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about what it took the file for
        with pytest.raises(ValueError, match=r"here\.png cannot be decoded: .+\. Replace the file\."):
            read(io.BytesIO(content))


FORMATS = ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "MPO"]


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_are_read_or_an_error_that_names_them(format):
    rng = np.random.default_rng(FORMATS.index(format))
    content = np.frombuffer(in_file(Image.fromarray(RGB).resize((32, 32)), format).getvalue(), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(100):
            damaged = content.copy()
            where = rng.integers(0, min(len(content), 200), rng.integers(1, 6))
            damaged[where] = rng.integers(0, 256, len(where))
            damaged = damaged[: rng.integers(len(content) // 2, 2 * len(content))]
            try:
                as_rgb(read(io.BytesIO(damaged.tobytes()), max_pixels=100_000).image, "here.png")
            except ValueError as error:
                assert str(error).startswith("here.png")
