import numpy as np
import pytest
from PIL import Image

from training_eomt.data.colours import decode_rgb, encode_rgb, extract_ids, format_colour


def test_ids_are_colours_in_cocos_code():
    ids = np.array([[0, 1, 255], [256, 70_001, 2**24 - 1]])
    colours = decode_rgb(ids)
    assert colours.dtype == np.uint8 and colours.tolist()[0] == [[0, 0, 0], [1, 0, 0], [255, 0, 0]]
    np.testing.assert_array_equal(encode_rgb(*colours.astype(int).transpose(2, 0, 1)), ids)
    np.testing.assert_array_equal(extract_ids(Image.fromarray(colours), "a.png", "ids"), ids)
    assert format_colour(encode_rgb(128, 0, 1)) == "128,0,1 (#800001)"


def test_a_jpeg_in_place_of_a_png_of_ids_is_an_error_that_says_why(tmp_path):
    Image.new("RGB", (8, 8), (5, 0, 0)).save(tmp_path / "a.png", "JPEG")
    with (
        Image.open(tmp_path / "a.png") as image,
        pytest.raises(ValueError, match="is a JPEG, whose compression"),
    ):
        extract_ids(image, "a.png", "ids")
