"""Photographs of every kind, as strangers have them."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from app_eomt.photographs import draw_examples, read_photograph


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_a_photograph_of_a_camera_held_sideways_is_turned_upright_once(tmp_path, pixels):
    stored = Image.fromarray(pixels)
    exif = stored.getexif()
    exif[0x0112] = 6  # the camera's top was to the right
    stored.save(tmp_path / "photo.png", exif=exif)
    photograph = read_photograph(str(tmp_path / "photo.png"))
    assert np.array_equal(np.asarray(photograph), np.rot90(pixels, -1))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(photograph)), np.rot90(pixels, -1))


def test_16_bits_and_transparency_become_8_bit_colours(tmp_path, pixels):
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_photograph(str(tmp_path / "deep.png"))), pixels[..., [0, 0, 0]])
    half = np.full((6, 8, 1), 128, dtype=np.uint8)
    Image.fromarray(np.concatenate([pixels, half], axis=2)).save(tmp_path / "half.png")
    assert np.array_equal(np.asarray(read_photograph(str(tmp_path / "half.png"))), pixels)


def test_a_photograph_that_is_too_large_is_refused_before_it_is_decoded(tmp_path, monkeypatch, pixels):
    monkeypatch.setattr("app_eomt.photographs.MAX_PIXELS", 40)
    Image.fromarray(pixels).save(tmp_path / "large.bmp")
    (tmp_path / "large.bmp").write_bytes((tmp_path / "large.bmp").read_bytes()[:60])  # little more than its size
    with pytest.raises(
        ValueError, match=r"^large\.bmp has 0 megapixels, and this page takes up to 0\. Make it smaller"
    ):
        read_photograph(str(tmp_path / "large.bmp"))


def test_a_file_that_is_no_image_is_called_so_without_naming_folders(tmp_path):
    (tmp_path / "letter.png").write_text("Dear page")
    with pytest.raises(ValueError, match=r"^letter\.png is not an image, or is of a format that cannot be read here"):
        read_photograph(str(tmp_path / "letter.png"))


def test_two_examples_are_drawn(tmp_path):
    examples = draw_examples(tmp_path)
    assert len(examples) == 2
    images = [np.asarray(read_photograph(str(path))) for path in examples.values()]
    assert images[0].shape == images[1].shape == (640, 640, 3)
    assert not np.array_equal(*images)
