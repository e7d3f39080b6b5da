"""What both image processors do; every test runs with each of them."""

import numpy as np
import pytest
import torch
from PIL import Image


def image_of(height, width):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pixel_values_match_the_original_code(backend, golden_panoptic):
    processor = backend(size=golden_panoptic.settings["image_size"])
    pixel_values = processor(golden_panoptic.images, return_tensors="pt")["pixel_values"]
    difference = (pixel_values - golden_panoptic.pixel_values).abs()
    if processor.backend == "pil":
        assert difference.max() < 2e-6  # float32 rounding
    else:
        # torchvision's antialiased resize rounds differently: at most two of 255 grey levels
        grey_levels = difference * torch.tensor(processor.image_std).view(3, 1, 1) * 255
        assert grey_levels.max() < 2.01


def test_segments_match_the_original_code(backend, golden_panoptic):
    settings = golden_panoptic.settings
    names = ("threshold", "mask_threshold", "overlap_mask_area_threshold", "stuff_classes")
    processor = backend(size=settings["image_size"], **{name: settings[name] for name in names})
    results = processor.post_process_panoptic_segmentation(golden_panoptic.outputs, settings["original_sizes"])
    for result, segment_map, class_map in zip(results, golden_panoptic.segment_maps, golden_panoptic.class_maps):
        segmentation = result["segmentation"]
        assert len(result["segments_info"]) > 1
        assert (segmentation != segment_map).float().mean() < 1e-4
        classes = torch.full_like(segmentation, settings["void_class"])
        for info in result["segments_info"]:
            classes[segmentation == info["id"]] = info["label_id"]
        assert (classes != class_map).float().mean() < 1e-4


def test_images_keep_their_shape_and_black_fills_the_rest(backend):
    processor = backend(size=64)
    pixel_values = processor(Image.new("RGB", (100, 50), "white"), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 64, 64)
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    assert torch.allclose(pixel_values[0, :, :32], ((1 - mean) / std).view(3, 1, 1).expand(3, 32, 64), atol=1e-6)
    assert torch.allclose(pixel_values[0, :, 32:], (-mean / std).view(3, 1, 1).expand(3, 32, 64), atol=1e-6)


def test_size_is_height_and_width(backend):
    processor = backend(size={"height": 32, "width": 64})
    assert processor([image_of(50, 40), image_of(10, 200)], return_tensors="pt")["pixel_values"].shape == (
        2,
        3,
        32,
        64,
    )


def test_grey_images_and_arrays_are_images_too(backend):
    array = np.array(image_of(20, 30))
    processor = backend(size=32)
    of_image, of_array = (processor(x, return_tensors="pt")["pixel_values"] for x in (Image.fromarray(array), array))
    assert torch.equal(of_image, of_array)
    grey = processor(Image.new("L", (30, 20), 7), return_tensors="pt")["pixel_values"]
    assert grey.shape == (1, 3, 32, 32)


def test_an_image_that_is_neither_resized_nor_fits_is_an_error(backend):
    with pytest.raises(ValueError, match="does not fit"):
        backend(size=32, do_resize=False)(image_of(20, 40))


def test_without_padding_an_image_keeps_the_size_it_was_resized_to(backend):
    processor = backend(size=64, do_pad=False)
    assert processor(image_of(50, 100), return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 64)


def test_targets_follow_their_image(backend):
    label_map = np.full((50, 100), 255, dtype=np.uint8)
    label_map[:, :25] = 0
    label_map[:, 50:] = 2
    batch = backend(size=64)(image_of(50, 100), segmentation_maps=label_map, return_tensors="pt")
    (masks,), (classes,) = batch["mask_labels"], batch["class_labels"]
    assert classes.tolist() == [0, 2]
    assert masks.shape == (2, 64, 64)
    assert masks.dtype == torch.bool
    expected = torch.zeros(2, 64, 64, dtype=torch.bool)
    expected[0, :32, :16] = True
    expected[1, :32, 32:] = True
    assert torch.equal(masks, expected)


def test_images_of_mixed_sizes_take_their_own_instances(backend):
    batch = backend(size=64)(
        [image_of(30, 40), image_of(70, 20)],
        segmentation_maps=[np.full((30, 40), 5), np.full((70, 20), 6)],
        instance_id_to_semantic_id=[{5: 1}, {6: 2}],
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    assert [labels.tolist() for labels in batch["class_labels"]] == [[1], [2]]
    assert [masks.sum().item() for masks in batch["mask_labels"]] == [48 * 64, 64 * 18]


@pytest.mark.parametrize(
    ("maps", "mapping", "message"),
    [
        ([np.zeros((5, 6), int)], None, "Segmentation map 0 is .5, 6., its image .6, 5."),
        ([np.zeros((6, 5), int)] * 2, None, "1 images but 2 segmentation maps"),
        ([np.zeros((6, 5), int)], [{0: 0}, {0: 0}], "1 images but 2 mappings"),
        ([np.full((6, 5), 3)], {0: 0}, "Id 3 of segmentation map 0 has no class"),
    ],
)
def test_maps_that_do_not_fit_are_errors(backend, maps, mapping, message):
    with pytest.raises(ValueError, match=message):
        backend(size=32)(image_of(6, 5), maps, mapping)


@pytest.mark.parametrize("setting", [{"task": "semantic"}, {"task": "instance"}, {"do_split_image": True}])
def test_what_is_not_supported_is_an_error_at_once(backend, setting):
    with pytest.raises(ValueError, match="not supported yet by this version"):
        backend(**setting)
    with pytest.raises(ValueError, match="not supported yet by this version"):
        backend()(image_of(6, 5), **setting)


def test_post_process_does_the_stored_task_with_the_stored_settings(backend, random_outputs):
    settings = {"threshold": 0.4, "mask_threshold": 0.6, "overlap_mask_area_threshold": 0.2, "stuff_classes": [1]}
    sizes = torch.tensor([[30, 40], [70, 20]])
    results = backend(size=64, **settings).post_process(random_outputs, sizes)
    expected = backend(size=64).post_process_panoptic_segmentation(random_outputs, [(30, 40), (70, 20)], **settings)
    assert [result["segmentation"].shape for result in results] == [(30, 40), (70, 20)]
    for result, other in zip(results, expected):
        assert len(result["segments_info"]) > 1
        assert torch.equal(result["segmentation"], other["segmentation"])
        assert result["segments_info"] == other["segments_info"]


def test_an_argument_beats_the_stored_setting(backend, random_outputs):
    results = backend(size=64, threshold=0.1).post_process(random_outputs, threshold=1.0)
    assert [result["segments_info"] for result in results] == [[], []]


def test_without_target_sizes_results_have_the_size_the_model_saw(backend, random_outputs):
    results = backend(size=(48, 64)).post_process(random_outputs)
    assert [result["segmentation"].shape for result in results] == [(48, 64), (48, 64)]


def test_target_sizes_that_do_not_fit_are_errors(backend, random_outputs):
    with pytest.raises(ValueError, match="1 target sizes for a batch of 2"):
        backend(size=64).post_process(random_outputs, [(30, 40)])
    with pytest.raises(ValueError, match="Target size 1 must be"):
        backend(size=64).post_process(random_outputs, [(30, 40), (30, 40, 3)])
    with pytest.raises(ValueError, match="not supported yet"):
        backend(size=64).post_process(random_outputs, task="semantic")
