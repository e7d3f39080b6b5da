import base64
import http.server
import io
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from image_processing_eomt.reading_eomt import (
    NotAnImageError,
    as_8_bit,
    as_grey_levels,
    as_pixels,
    as_rgb,
    list_images,
    load_upright,
    number_error,
    read_size,
    read_stored,
    turn_upright,
)


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
    upright = turn_upright(stored)
    assert np.array_equal(np.asarray(upright.convert("RGB")), np.asarray(pillows.convert("RGB")))
    assert np.array_equal(np.asarray(load_upright(upright)), np.asarray(upright))  # not turned a second time
    assert stored.upright_size == (pillows.height, pillows.width)
    file = in_file(Image.fromarray(RGB), format, orientation, **exact)
    assert read_size(file, "here", 100) == ((5, 6), orientation)


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


def test_an_error_without_words_is_called_by_its_name(monkeypatch):
    def fail(file):
        raise EOFError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=r"here\.png cannot be decoded: EOFError\. Replace the file\."):
        read(io.BytesIO(b""))


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


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(PIXELS).save(path)
    return path


def pixels_of(image):
    return np.asarray(image.convert("RGB"))


def test_files_base64_arrays_and_tensors_give_the_same_image(png):
    text = base64.b64encode(png.read_bytes()).decode()
    wrapped = base64.encodebytes(png.read_bytes()).decode()
    arrays = [PIXELS, PIXELS.transpose(2, 0, 1), (PIXELS / 255).astype(np.float32), torch.from_numpy(PIXELS)]
    for source in (png, str(png), text, wrapped, f"data:image/png;base64,{text}", Image.open(png), *arrays):
        assert np.array_equal(pixels_of(load_upright(source)), PIXELS)


def test_addresses_are_read_and_those_that_fail_are_named(png):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(png.parent))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert np.array_equal(pixels_of(load_upright(f"{address}/image.png", timeout=30)), PIXELS)
        with pytest.raises(OSError, match=f"{address}/none.png cannot be read"):
            load_upright(f"{address}/none.png", timeout=30)
        server.shutdown()
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x\.png cannot be read"):
        load_upright("http://127.0.0.1:9/x.png", timeout=30)


def test_what_is_no_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (("", "is a folder"), ("empty.png", "is empty"), ("fifo", "no regular"), ("link", "no reg")):
        with pytest.raises(OSError, match=message) as error:
            load_upright(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    for path in (tmp_path / "none.png", "none.png", "", "a\0b", "x" * 10_000, "a" * 400):
        with pytest.raises((OSError, ValueError)) as error:
            load_upright(path)
        assert str(path)[:50].split("\0")[0] in str(error.value)
        assert len(str(error.value)) < 600


def test_damaged_images_are_errors_that_name_the_file(png):
    png.write_bytes(png.read_bytes()[:300])
    for source in (png, Image.open(png)):
        with pytest.raises(ValueError, match=r"image\.png.* cannot be decoded"):
            load_upright(source)
    png.write_bytes(b"no image at all, but long enough")
    with pytest.raises(ValueError, match=r"image\.png cannot be decoded: it is in no format"):
        load_upright(png)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"bomb\.png has 20000x20000 pixels.*PIL\.Image\.open"):
        load_upright(path)


@pytest.mark.parametrize("source", [None, 5, {}, {"image": 1}, object(), [1]])
def test_other_types_are_errors_of_both_kinds(source):
    with pytest.raises(NotAnImageError, match="must be a path") as error:
        load_upright(source)
    assert isinstance(error.value, ValueError) and isinstance(error.value, TypeError)


def test_images_without_pixels_are_errors():
    for empty in (Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8), torch.zeros(3, 5, 0)):
        with pytest.raises(ValueError, match="nothing in it"):
            load_upright(empty)


def test_lists_of_every_kind_are_flat(png):
    batch = np.stack([PIXELS, PIXELS])
    assert (
        len(list_images(batch)) == len(list_images([PIXELS, PIXELS])) == len(list_images([[PIXELS], (PIXELS,)])) == 2
    )
    assert len(list_images([batch, PIXELS])) == 3
    assert len(list_images(PIXELS)) == len(list_images(Image.open(png))) == len(list_images(str(png))) == 1
    with pytest.raises(ValueError, match="no image"):
        list_images([])


def test_photographs_are_turned_upright_but_not_in_lists_of_pil_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "photo.jpg", exif=exif)
    assert load_upright(tmp_path / "photo.jpg").size == load_upright(Image.open(tmp_path / "photo.jpg")).size
    assert load_upright(tmp_path / "photo.jpg").size == (20, 30)
    assert list_images([Image.open(tmp_path / "photo.jpg")])[0].size == (30, 20)


def test_sixteen_bits_are_not_clipped(tmp_path):
    grey = PIXELS[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    data = io.BytesIO((tmp_path / "deep.png").read_bytes()).getvalue()
    for source in (tmp_path / "deep.png", base64.b64encode(data).decode(), grey.astype(np.uint16) * 257):
        image = load_upright(source)
        values = np.asarray(image).astype(int)
        values = values // 257 if values.max() > 255 else values
        assert np.array_equal(values if values.ndim == 2 else values[..., 0], grey)


def test_errors_say_which_image_they_are_about():
    error = number_error(FileNotFoundError("There is no file."), 3)
    assert isinstance(error, FileNotFoundError) and str(error) == "Image 3: There is no file."
    assert isinstance(number_error(NotAnImageError("x"), 0), NotAnImageError)
    original = ValueError("x")
    assert number_error(original, None) is original


COLOURS = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
EXPECTED = torch.from_numpy(COLOURS).permute(2, 0, 1)
EXPECTED_GREY = torch.from_numpy(GREY).expand(3, -1, -1)


def test_colours_come_from_every_kind_of_array():
    first = np.ascontiguousarray(COLOURS.transpose(2, 0, 1))
    for image in (Image.fromarray(COLOURS), COLOURS, first, torch.from_numpy(COLOURS), torch.from_numpy(first)):
        assert torch.equal(as_pixels(image, True), EXPECTED)


@pytest.mark.parametrize("image", [Image.fromarray(GREY), GREY, torch.from_numpy(GREY), GREY[None], GREY[..., None]])
def test_grey_becomes_three_equal_channels(image):
    assert torch.equal(as_pixels(image, True), EXPECTED_GREY)


def test_transparency_is_dropped():
    rgba = np.dstack([COLOURS, np.full((5, 6), 7, np.uint8)])
    for image in (Image.fromarray(rgba), rgba, torch.from_numpy(rgba).permute(2, 0, 1)):
        assert torch.equal(as_pixels(image, True), EXPECTED)
    assert torch.equal(as_pixels(Image.fromarray(GREY).convert("LA"), True), EXPECTED_GREY)


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "L", "YCbCr", "HSV"])
def test_other_modes_are_converted_as_pil_does(mode):
    image = Image.fromarray(COLOURS).convert(mode)
    assert np.array_equal(as_pixels(image, True).permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


def test_sixteen_bits_become_eight_and_are_not_clipped():
    deep = GREY.astype(np.uint16) * 257
    in_32_bits = Image.fromarray(deep.astype(np.int32))  # as PIL opens some formats
    for image in (Image.fromarray(deep), deep, torch.from_numpy(deep), deep.astype(">u2"), in_32_bits):
        pixels = as_pixels(image, True)
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, EXPECTED_GREY)
    assert torch.equal(as_pixels(COLOURS.astype(np.uint16) * 257, True), EXPECTED)
    assert as_pixels(np.array([[0, 65535, 32768]], np.uint16), True)[0].tolist() == [[0, 255, 128]]


def test_binary_images_are_black_and_white():
    assert as_pixels(np.array([[True, False]]), True)[0].tolist() == [[255, 0]]


def test_floats_stay_what_they_are():
    floats = torch.rand(3, 4, 6)
    assert torch.equal(as_pixels(floats, True), floats)
    for given in (floats.double(), floats.clone().requires_grad_(), floats.bfloat16()):
        pixels = as_pixels(given, True)
        assert pixels.dtype == torch.float32 and not pixels.requires_grad


def test_channels_stay_without_conversion():
    assert as_pixels(np.zeros((5, 6, 4), np.uint8), False).shape == (4, 5, 6)
    assert as_pixels(Image.fromarray(GREY), False).shape == (1, 5, 6)


def test_where_channels_are_can_be_said():
    ambiguous = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert as_pixels(ambiguous, True, "channels_first").shape == (3, 4, 3)
    assert as_pixels(ambiguous, True, "channels_last").shape == (3, 3, 4)


def test_other_inputs_are_errors():
    with pytest.raises(TypeError, match="must be a PIL image, a NumPy array or a tensor, got dict"):
        as_pixels({}, True)
    with pytest.raises(ValueError, match="channel"):
        as_pixels(np.zeros((5, 6, 7), np.uint8), True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 6, 3), (1, 6, 3), (4, 1, 3)])
def test_a_side_of_three_is_the_channels_however_small_the_image(shape):
    assert as_pixels(np.zeros(shape, np.uint8), True).shape == (3, *shape[:2])
    assert as_pixels(np.zeros((3, 4, 1), np.uint8), True).shape == (3, 4, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_errors(value):
    for image in (np.full((3, 4, 5), value), torch.full((4, 5), value), Image.fromarray(np.full((4, 5), value, "f4"))):
        with pytest.raises(ValueError, match="not finite"):
            as_pixels(image, True)
    with pytest.raises(ValueError, match="not finite"):
        as_pixels(np.full((4, 5), 1e300), True)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U1", "datetime64[s]"])
def test_arrays_of_no_numbers_are_errors(dtype):
    with pytest.raises(ValueError, match="The image holds"):
        as_pixels(np.zeros((4, 5, 3)).astype("int64").astype(dtype), True)


def test_complex_and_sparse_tensors_are_errors():
    for image in (torch.zeros(4, 5, dtype=torch.complex64), torch.zeros(3, 4, 5).to_sparse()):
        with pytest.raises(ValueError, match="The image holds"):
            as_pixels(image, True)


@pytest.mark.parametrize("dtype", ["int16", "int32", "int64", "uint32", "uint64", ">i4"])
def test_wider_integers_are_what_their_values_are(dtype):
    assert torch.equal(as_pixels(COLOURS.astype(dtype), True), EXPECTED)
    if dtype != "int16":
        assert torch.equal(as_pixels(COLOURS.astype(dtype) * 257, True), EXPECTED)
    with pytest.raises(ValueError, match="holds integers from"):
        as_pixels(COLOURS.astype(dtype) - 300, True)


def test_a_dark_image_of_sixteen_bits_is_dark():
    dark = np.full((4, 5), 200, np.uint16)
    for image in (dark, Image.fromarray(dark), torch.from_numpy(dark)):
        assert as_pixels(image, True).unique().tolist() == [1]  # 200 / 257, rounded


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 5, 3), (3, 0, 5)])
def test_an_image_without_pixels_is_an_error(shape):
    for image in (np.zeros(shape, np.uint8), torch.zeros(shape)):
        with pytest.raises(ValueError, match="nothing in it"):
            as_pixels(image, True)
    if len(shape) == 2:
        with pytest.raises(ValueError, match="nothing in it"):
            as_pixels(Image.new("L", shape), True)


def test_channels_that_cannot_become_rgb_are_an_error():
    for data_format in ("channels_first", "channels_last"):
        with pytest.raises(ValueError, match="1, 3 or 4 channels"):
            as_pixels(np.zeros((5, 6, 7), np.uint8), True, data_format)
    assert as_pixels(np.zeros((5, 6, 7), np.uint8), False, "channels_last").shape == (7, 5, 6)


def test_floating_point_becomes_the_grey_levels_it_stands_for():
    levels = torch.arange(256.0)
    assert torch.equal(as_grey_levels(levels / 255), levels.byte())
    assert torch.equal(as_grey_levels(levels), levels.byte())
    assert torch.equal(as_grey_levels(levels.byte()), levels.byte())
    assert as_grey_levels(torch.tensor([-0.0004, 0.4, 1.0004])).tolist() == [0, 102, 255]


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 256.0], [0.0, 1.2]])
def test_floating_point_that_stands_for_none_is_an_error(values):
    with pytest.raises(ValueError, match=r"from 0 to 1 or from 0 to 255.*do_rescale"):
        as_grey_levels(torch.tensor(values))
