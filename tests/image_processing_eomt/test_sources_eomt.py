import base64
import http.server
import io
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt.pixels_eomt import NotAnImageError
from image_processing_eomt.sources_eomt import listed_images, numbered_error, upright_image


RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    return path


def pixels_of(image):
    return np.asarray(image.convert("RGB"))


def test_files_base64_arrays_and_tensors_give_the_same_image(png):
    text = base64.b64encode(png.read_bytes()).decode()
    wrapped = base64.encodebytes(png.read_bytes()).decode()
    arrays = [RGB, RGB.transpose(2, 0, 1), (RGB / 255).astype(np.float32), torch.from_numpy(RGB)]
    for source in (png, str(png), text, wrapped, f"data:image/png;base64,{text}", Image.open(png), *arrays):
        assert np.array_equal(pixels_of(upright_image(source)), RGB)


def test_addresses_are_read_and_those_that_fail_are_named(png):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(png.parent))
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert np.array_equal(pixels_of(upright_image(f"{address}/image.png", timeout=30)), RGB)
        with pytest.raises(OSError, match=f"{address}/none.png cannot be read"):
            upright_image(f"{address}/none.png", timeout=30)
        server.shutdown()
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x\.png cannot be read"):
        upright_image("http://127.0.0.1:9/x.png", timeout=30)


def test_what_is_no_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (("", "is a folder"), ("empty.png", "is empty"), ("fifo", "no regular"), ("link", "no reg")):
        with pytest.raises(OSError, match=message) as error:
            upright_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    for path in (tmp_path / "none.png", "none.png", "", "a\0b", "x" * 10_000, "a" * 400):
        with pytest.raises((OSError, ValueError)) as error:
            upright_image(path)
        assert str(path)[:50].split("\0")[0] in str(error.value)
        assert len(str(error.value)) < 600


def test_damaged_images_are_errors_that_name_the_file(png):
    png.write_bytes(png.read_bytes()[:300])
    for source in (png, Image.open(png)):
        with pytest.raises(ValueError, match=r"image\.png.* cannot be decoded"):
            upright_image(source)
    png.write_bytes(b"no image at all, but long enough")
    with pytest.raises(ValueError, match=r"image\.png cannot be decoded"):
        upright_image(png)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match=r"bomb\.png has 20000x20000 pixels.*PIL\.Image\.open"):
        upright_image(path)


@pytest.mark.parametrize("source", [None, 5, {}, {"image": 1}, object(), [1]])
def test_other_types_are_errors_of_both_kinds(source):
    with pytest.raises(NotAnImageError, match="must be a path") as error:
        upright_image(source)
    assert isinstance(error.value, ValueError) and isinstance(error.value, TypeError)


def test_images_without_pixels_are_errors():
    for empty in (Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8), torch.zeros(3, 5, 0)):
        with pytest.raises(ValueError, match="nothing in it"):
            upright_image(empty)


def test_lists_of_every_kind_are_flat(png):
    batch = np.stack([RGB, RGB])
    assert len(listed_images(batch)) == len(listed_images([RGB, RGB])) == len(listed_images([[RGB], (RGB,)])) == 2
    assert len(listed_images([batch, RGB])) == 3
    assert len(listed_images(RGB)) == len(listed_images(Image.open(png))) == len(listed_images(str(png))) == 1
    with pytest.raises(ValueError, match="no image"):
        listed_images([])


def test_photographs_are_turned_upright_but_not_in_lists_of_pil_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "photo.jpg", exif=exif)
    assert upright_image(tmp_path / "photo.jpg").size == upright_image(Image.open(tmp_path / "photo.jpg")).size
    assert upright_image(tmp_path / "photo.jpg").size == (20, 30)
    assert listed_images([Image.open(tmp_path / "photo.jpg")])[0].size == (30, 20)


def test_sixteen_bits_are_not_clipped(tmp_path):
    grey = RGB[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    data = io.BytesIO((tmp_path / "deep.png").read_bytes()).getvalue()
    for source in (tmp_path / "deep.png", base64.b64encode(data).decode(), grey.astype(np.uint16) * 257):
        image = upright_image(source)
        values = np.asarray(image).astype(int)
        values = values // 257 if values.max() > 255 else values
        assert np.array_equal(values if values.ndim == 2 else values[..., 0], grey)


def test_errors_say_which_image_they_are_about():
    error = numbered_error(FileNotFoundError("There is no file."), 3)
    assert isinstance(error, FileNotFoundError) and str(error) == "Image 3: There is no file."
    assert isinstance(numbered_error(NotAnImageError("x"), 0), NotAnImageError)
    original = ValueError("x")
    assert numbered_error(original, None) is original
