"""Samples become what the model takes, with nothing lost on the way."""

import numpy as np
import pytest
import torch
from PIL import Image

from image_processing_eomt import EomtImageProcessorPil
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data.masks import encode_masks
from training_eomt.data.samples import Sample, Target
from training_eomt.inputs import VOID, DrawSampler, EvaluationInputs, TrainingInputs, collate


@pytest.fixture
def sample():
    """A 32x48 image: two things of one class, a crowd, and a void last column."""
    segments = np.zeros((32, 48), dtype=np.int64)
    segments[:, 16:32], segments[:, 32:47], segments[:, 47] = 1, 2, 3
    rles = encode_masks(segments, [0, 1, 2])
    targets = [Target(rles[0], 4), Target(rles[1], 4), Target(rles[2], 1, iscrowd=True)]
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8)
    return Sample("sample", Image.fromarray(pixels), targets)


@pytest.fixture
def processor():
    return EomtImageProcessorPil(size=96)


def test_training_without_augmentation_sees_what_the_processor_makes(sample, processor):
    example = TrainingInputs([sample], processor, None)[0]
    expected = processor(sample.image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(example["pixel_values"][0], expected)
    assert example["class_labels"][0].tolist() == [4, 4]  # crowds are not trained on
    # Enlarged by two and padded from 64 to 96 rows: padding belongs to nothing.
    assert example["mask_labels"][0].sum((1, 2)).tolist() == [64 * 32, 64 * 32]


def test_augmented_images_are_normalised_like_all_others(sample, processor):
    augmentation = SegmentationAugmentation((32, 48), (1.0, 1.0), horizontal_flip=False)
    example = TrainingInputs([sample], processor, augmentation)[0]
    expected = processor(sample.image, size=(32, 48), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(example["pixel_values"][0], expected, rtol=0, atol=1e-5)


def test_label_settings_meant_for_files_do_not_touch_targets(sample):
    processor = EomtImageProcessorPil(size=96, do_reduce_labels=True, ignore_index=0)
    example = TrainingInputs([sample], processor, None)[0]
    assert example["class_labels"][0].tolist() == [4, 4]


def test_images_of_different_sizes_are_not_batched(sample):
    processor = EomtImageProcessorPil(size=96, do_pad=False)
    narrow = Sample("narrow", sample.image.resize((8, 32)))
    with pytest.raises(ValueError, match="must have one size"):
        collate([TrainingInputs([image], processor, None)[0] for image in (sample, narrow)])


def test_evaluation_keeps_crowds_and_the_original_size(sample, processor):
    (reference,) = EvaluationInputs([sample], processor)[0]["references"]
    assert reference["segmentation"].shape == (32, 48)
    assert [info["iscrowd"] for info in reference["segments_info"]] == [False, False, True]
    assert [info["label_id"] for info in reference["segments_info"]] == [4, 4, 1]
    assert np.unique(reference["segmentation"]).tolist() == [VOID, 0, 1, 2]
    assert (reference["segmentation"][:, 47] == VOID).all()


def test_a_batch_stacks_images_and_lists_the_rest(sample, processor):
    empty = Sample("empty", sample.image, [])
    inputs = TrainingInputs([sample, empty], processor, None)
    batch = collate([inputs[0], inputs[1]])
    assert batch["pixel_values"].shape == (2, 3, 96, 96)
    assert [len(masks) for masks in batch["mask_labels"]] == [2, 0]
    assert batch["mask_labels"][1].shape == (0, 96, 96)


def test_an_image_that_the_processor_does_not_take_is_named():
    processor = EomtImageProcessorPil(size=64, task="semantic")
    thin = Sample("thin", Image.new("RGB", (50_000, 1)), file_name="a/thin.png")
    with pytest.raises(ValueError, match=r"a/thin\.png: .*windows"):
        EvaluationInputs([thin], processor)[0]


def draws(sampler: DrawSampler, steps: int) -> list[list[int]]:
    """The draws of each of the first steps."""
    result: list[list[int]] = []
    while len(result) < steps:
        sampler.start_at(len(result))
        epoch = list(sampler)
        size = sampler.total_batch_size
        result += [epoch[start : start + size] for start in range(0, len(epoch), size)]
    return result[:steps]


def test_an_epoch_has_each_sample_at_most_once_and_only_whole_batches():
    sampler = DrawSampler(10, 4, seed=0)
    first, second = (sorted(draw % 10 for batch in epoch for draw in batch) for epoch in _epochs(sampler))
    assert len(first) == len(second) == len(sampler) == 8
    assert len(set(first)) == len(set(second)) == 8


def _epochs(sampler):
    steps = draws(sampler, 4)
    return steps[:2], steps[2:]


def test_every_draw_has_a_number_of_its_own():
    numbers = [draw for batch in draws(DrawSampler(10, 4, seed=0), 10) for draw in batch]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_few_samples_fill_a_batch_by_turns(num_samples):
    batch = draws(DrawSampler(num_samples, 7, seed=0), 3)[2]
    counts = [sum(draw % num_samples == sample for draw in batch) for sample in range(num_samples)]
    assert len(batch) == 7 and max(counts) - min(counts) <= 1


def test_the_order_follows_from_the_seed_and_the_epoch():
    one, same, other = (draws(DrawSampler(50, 5, seed=seed), 20) for seed in (0, 0, 1))
    assert one == same != other
    assert [draw % 50 for batch in one[:10] for draw in batch] != [draw % 50 for batch in one[10:] for draw in batch]


def test_without_samples_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="no sample"):
        DrawSampler(0, 4, seed=0)
