import numpy as np
import pytest
import torch
from PIL import Image

from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data.masks import encode_masks
from training_eomt.data.samples import Sample, Target


COLOURS = np.array([[0, 0, 0], [250, 20, 20], [20, 250, 20], [20, 20, 250]], dtype=np.uint8)


def sample_of(segment_map: np.ndarray, crowds: tuple[int, ...] = ()) -> Sample:
    """An image whose colour tells the segment: segment `i` has label id `10 + i`; 0 is void and black."""
    ids = [int(i) for i in np.unique(segment_map) if i]
    targets = [Target(rle, 10 + i, i in crowds) for i, rle in zip(ids, encode_masks(segment_map, ids))]
    return Sample(1, Image.fromarray(COLOURS[segment_map]), targets)


def quarters(height: int = 60, width: int = 90) -> np.ndarray:
    segment_map = np.zeros((height, width), dtype=np.int64)
    segment_map[: height // 2, width // 2 :] = 1
    segment_map[height // 2 :, : width // 2] = 2
    segment_map[height // 2 :, width // 2 :] = 3
    return segment_map


@pytest.mark.parametrize("target_size", [(64, 64), (48, 80)])
def test_image_and_masks_move_together(target_size):
    augment = SegmentationAugmentation(target_size)
    for seed in range(25):
        torch.manual_seed(seed)
        image, masks, label_ids = augment(sample_of(quarters()))
        assert image.dtype == torch.uint8 and image.shape == (3, *target_size)
        assert masks.dtype == torch.bool and masks.shape == (len(label_ids), *target_size)
        assert label_ids.dtype == torch.int64 and masks.flatten(1).any(1).all()
        assert masks.sum(0).max() <= 1
        for mask, label_id in zip(masks, label_ids):
            colour = torch.from_numpy(COLOURS[int(label_id) - 10])
            right = ((image.permute(1, 2, 0)[mask].int() - colour.int()).abs() < 60).all(1)
            # Bilinear pixels along the two inner borders are mixtures: at most about one row and one column of them.
            assert (~right).sum() <= sum(target_size)


def test_a_scale_of_one_without_flip_pads_below_and_to_the_right():
    image, masks, label_ids = SegmentationAugmentation((90, 90), (1.0, 1.0), horizontal_flip=False)(
        sample_of(quarters())
    )
    expected = sample_of(quarters())
    assert label_ids.tolist() == [11, 12, 13]
    np.testing.assert_array_equal(image[:, :60].permute(1, 2, 0), np.asarray(expected.image))
    np.testing.assert_array_equal(masks[:, :60], expected.masks())
    assert not image[:, 60:].any() and not masks[:, 60:].any()


def test_scale_is_relative_to_the_size_that_just_fits():
    full = sample_of(np.ones((60, 90), dtype=np.int64))
    for seed in range(20):
        torch.manual_seed(seed)
        _, masks, _ = SegmentationAugmentation((120, 120), (0.25, 0.5))(full)
        height, width = (int(masks[0].any(axis).sum()) for axis in (1, 0))
        assert 30 - 1 <= width <= 60 and abs(height - width * 60 / 90) <= 1


def test_half_of_the_images_are_mirrored():
    augment = SegmentationAugmentation((60, 90), (1.0, 1.0))
    mirrored = sum(bool(augment(sample_of(quarters()))[1][0][0, 0]) for _ in range(200))
    assert 70 < mirrored < 130  # 100 expected, standard deviation 7


def test_crowd_targets_are_left_out():
    _, _, label_ids = SegmentationAugmentation((60, 90), (1.0, 1.0))(sample_of(quarters(), crowds=(2,)))
    assert label_ids.tolist() == [11, 13]


def test_overlapping_masks_stay_whole():
    sample = sample_of(np.ones((60, 90), dtype=np.int64))
    sample.targets += sample_of(quarters()).targets
    _, masks, label_ids = SegmentationAugmentation((60, 90), (1.0, 1.0), horizontal_flip=False)(sample)
    assert label_ids.tolist() == [11, 11, 12, 13]
    np.testing.assert_array_equal(masks, sample.masks())


def test_a_crop_that_loses_every_target_is_tried_again_a_bounded_number_of_times(monkeypatch):
    corner = np.zeros((64, 64), dtype=np.int64)
    corner[0, 0] = 1
    augment = SegmentationAugmentation((16, 16), (4.0, 4.0), max_tries=7)
    tries = []
    scale_and_crop = augment._scale_and_crop

    def counted(image, layers):
        tries.append(1)
        image, layers = scale_and_crop(image, layers)
        return image, torch.zeros_like(layers)

    monkeypatch.setattr(augment, "_scale_and_crop", counted)
    image, masks, label_ids = augment(sample_of(corner))
    assert len(tries) == 7
    assert image.shape == (3, 16, 16) and masks.shape == (0, 16, 16) and label_ids.shape == (0,)


def test_trying_again_finds_targets_that_one_crop_would_lose():
    band = np.zeros((64, 64), dtype=np.int64)
    band[:16] = 1
    found = {}
    for tries in (1, 10):
        torch.manual_seed(0)
        augment = SegmentationAugmentation((32, 32), (4.0, 4.0), max_tries=tries)
        found[tries] = sum(len(augment(sample_of(band))[2]) for _ in range(40))
    assert found[1] < 25 and found[10] >= 38


def test_an_image_without_targets_is_legal():
    image, masks, label_ids = SegmentationAugmentation((32, 48))(sample_of(np.zeros((60, 90), dtype=np.int64)))
    assert image.shape == (3, 32, 48) and masks.shape == (0, 32, 48) and label_ids.dtype == torch.int64


def test_a_very_long_image_keeps_at_least_one_row():
    image, _, _ = SegmentationAugmentation((32, 32), (0.1, 0.1))(sample_of(np.ones((2, 400), dtype=np.int64)))
    assert image.shape == (3, 32, 32)


def test_the_seed_decides_everything():
    augment = SegmentationAugmentation((64, 64))
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(sample_of(quarters())))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1]))
    assert not torch.equal(results[0][0], results[2][0])


def test_a_scale_range_in_the_wrong_order_is_refused():
    with pytest.raises(ValueError, match="scale_range"):
        SegmentationAugmentation((32, 32), (2.0, 0.1))
