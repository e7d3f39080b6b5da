"""The graph that takes an image gives the segments of the image processor's own post-processing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from configuration_eomt import EomtConfig, EomtDinov3Config
from deployment_eomt.formats import FORMATS, Options
from deployment_eomt.segmenter import Segmenter, build_segmenter_graph
from deployment_eomt.segmenter_semantic import find_windows, window_starts
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtDinov3ForUniversalSegmentation, EomtForUniversalSegmentation


SIZE = 64  # of the model's inputs
LANDSCAPE, PORTRAIT, SMALL, WIDE, SQUARE = (90, 131), (140, 77), (23, 31), (40, 230), (SIZE, SIZE)
SETTINGS = {
    "panoptic": {"threshold": 0.3, "overlap_mask_area_threshold": 0.2, "stuff_classes": [2]},
    "instance": {"threshold": 0.1},
    "semantic": {},
}
TASKS = list(SETTINGS)


def make_model(family="eomt", num_queries=24):
    """A model whose random masks and classes are as decided as those of a trained one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "num_blocks": 2, "image_size": SIZE}
    labels = {"num_queries": num_queries, "id2label": {0: "cat", 1: "dog", 2: "sky"}}
    if family == "eomt":
        model = EomtForUniversalSegmentation(EomtConfig(**sizes, **labels))
    else:
        config = EomtDinov3Config(**sizes, **labels, intermediate_size=64)
        model = EomtDinov3ForUniversalSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.class_predictor.weight.mul_(3)
    return model.eval().requires_grad_(False)


def make_processor(task, **settings):
    return EomtImageProcessor(task=task, size=SIZE, **{**SETTINGS[task], **settings})


def draw_image(height, width, seed=0):
    """A blurred scene, `(height, width, 3)` uint8."""
    generator = torch.Generator().manual_seed(seed)
    colors = torch.rand(1, 3, 6, 6, generator=generator) * 400 - 70
    scene = F.interpolate(colors, size=(height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)
    return scene[0].permute(1, 2, 0).contiguous()


def expect(model, processor, image):
    """What the model and its image processor make of an image, in the form of the graph's outputs."""
    whole = {"do_split_image": False, "do_pad": True} if processor.task != "semantic" else {}
    inputs = processor(images=[image], return_tensors="pt", **whole)
    outputs = model(pixel_values=inputs["pixel_values"])
    settings = {"return_binary_maps": True} if processor.task == "instance" else {}
    result = processor.post_process(outputs, [tuple(image.shape[:2])], **settings)[0]
    if processor.task == "semantic":
        return {"segmentation": result.numpy()}
    segments = result["segments_info"]
    return {
        "masks" if processor.task == "instance" else "segmentation": result["segmentation"].numpy(),
        "labels": np.array([segment["label_id"] for segment in segments], dtype=int),
        "scores": np.array([segment["score"] for segment in segments], dtype=float),
        "areas": np.array([segment["area"] for segment in segments], dtype=int),
        "boxes": np.array([segment["bbox"] for segment in segments], dtype=int).reshape(-1, 4),
    }


def compare(found, expected, max_pixels=0.0, max_score=1e-5):
    """The same list of segments, and no more than a share of the pixels differs."""
    found = {name: np.asarray(value) for name, value in found.items()}
    pixels = next(name for name in ("masks", "segmentation") if name in expected)
    assert found[pixels].dtype == (bool if pixels == "masks" else np.int32)
    assert found[pixels].shape == expected[pixels].shape
    differ = np.count_nonzero(found[pixels] != expected[pixels])
    assert differ <= max_pixels * found[pixels].size
    if "labels" in expected:
        assert found["labels"].tolist() == expected["labels"].tolist()
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=max_score)
        assert np.abs(found["areas"] - expected["areas"]).sum() <= differ
        if differ == 0:
            assert found["boxes"].tolist() == expected["boxes"].tolist()


def on_canvas(image):
    """An image of at most the model's size, padded with black: the inputs of a graph that does not resize."""
    height, width = image.shape[:2]
    padded = F.pad(image.permute(2, 0, 1), (0, SIZE - width, 0, SIZE - height)).permute(1, 2, 0).contiguous()
    return {"image": padded, "content_size": torch.tensor([height, width])}


def crop(found, image):
    """The part of a result at the model's size that is of the image; nothing may be found in the padding."""
    height, width = image.shape[:2]
    name = "masks" if "masks" in found else "segmentation"
    value = np.asarray(found[name])
    padding = np.ones((SIZE, SIZE), dtype=bool)
    padding[:height, :width] = False
    assert (value[..., padding] == (0 if name == "masks" else -1)).all()
    return {**found, name: value[..., :height, :width]}


def drop_padding(found):
    """The segments of a result with a fixed number of rows; the others are empty."""
    found = {name: np.asarray(value) for name, value in found.items()}
    number = int(found.pop("num_segments"))
    lists = [name for name in found if name != "segmentation"]
    assert (found["labels"][number:] == -1).all()
    assert not any(found[name][number:].any() for name in lists if name != "labels")
    return {name: value[:number] if name in lists else value for name, value in found.items()}


# The module itself, in PyTorch


@pytest.mark.parametrize("family", ["eomt", "eomt_dinov3"])
@pytest.mark.parametrize("task", TASKS)
def test_images_of_any_size_give_the_segments_of_the_image_processor(task, family):
    model, processor = make_model(family), make_processor(task)
    segmenter = Segmenter(model, processor)
    num_segments = 0
    for size in (LANDSCAPE, PORTRAIT, SMALL, WIDE, SQUARE):
        image = draw_image(*size)
        expected = expect(model, processor, image)
        # both resample masks twice, and do not round alike
        compare(segmenter(image), expected, max_pixels=1e-3, max_score=1e-3)
        num_segments += len(expected.get("labels", [])) or len(np.unique(expected["segmentation"]))
    assert num_segments >= 5


@pytest.mark.parametrize("task", TASKS)
def test_images_of_the_models_size_give_the_same_pixels(task):
    model, processor = make_model(), make_processor(task, do_split_image=False, do_pad=True)
    segmenter = Segmenter(model, processor, resizes=False)
    for size in (SQUARE, (SIZE, 41), (33, SIZE)):
        for seed in range(8):
            image = draw_image(*size, seed)
            compare(crop(segmenter(**on_canvas(image)), image), expect(model, processor, image))


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_fixed_number_of_queries_gives_the_same_segments_if_it_is_enough(task):
    model, processor = make_model(), make_processor(task, threshold=0.7)
    segmenter = Segmenter(model, processor, resizes=False, max_segments=20)
    for seed in range(6):
        image = draw_image(SIZE, 50, seed)
        expected = expect(model, processor, image)
        pixel_values = processor(images=[image], return_tensors="pt")["pixel_values"]
        scores = model(pixel_values).class_queries_logits.softmax(dim=-1)[..., :-1]
        assert 1 < (scores > 0.7).sum() <= 20
        compare(crop(drop_padding(segmenter(**on_canvas(image))), image), expected)


def test_the_best_queries_count_if_the_fixed_number_is_not_enough():
    model, processor = make_model(), make_processor("instance")
    image = draw_image(*SQUARE)
    expected = expect(model, make_processor("instance", top_k=2), image)
    found = Segmenter(model, processor, resizes=False, max_segments=2)(**on_canvas(image))
    assert len(expected["labels"]) == 2
    compare(drop_padding(found), expected)


def test_windows_that_are_resized_already_are_put_together():
    model, processor = make_model(), make_processor("semantic")
    segmenter = Segmenter(model, processor, resizes=False)
    for size in (SQUARE, (SIZE, 100), (SIZE, 300), (129, SIZE)):
        image = draw_image(*size)
        compare(segmenter(image), expect(model, processor, image))


@pytest.mark.parametrize("resizes", [True, False])
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_an_image_may_have_no_segment(task, resizes):
    model, processor = make_model(), make_processor(task, threshold=1.0)
    segmenter = Segmenter(model, processor, resizes=resizes)
    image = draw_image(*SQUARE)
    found = segmenter(image) if resizes else segmenter(**on_canvas(image))
    assert found["labels"].shape == found["scores"].shape == found["areas"].shape == (0,)
    assert found["boxes"].shape == (0, 4)
    compare(found, expect(model, processor, image))


@pytest.mark.parametrize("task", TASKS)
def test_a_model_may_have_one_query(task):
    model, processor = make_model(num_queries=1), make_processor(task, do_split_image=False, do_pad=True)
    segmenter = Segmenter(model, processor, resizes=False)
    for seed in range(4):
        image = draw_image(*SQUARE, seed)
        compare(segmenter(**on_canvas(image)), expect(model, processor, image))


def test_segments_of_a_stuff_class_are_merged():
    model = make_model()
    settings = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0}
    apart, merged = (make_processor("panoptic", **settings, stuff_classes=classes) for classes in ([], [0, 1, 2]))
    image = draw_image(*SQUARE)
    expected = expect(model, merged, image)
    assert len(expected["labels"]) < len(expect(model, apart, image)["labels"])
    compare(Segmenter(model, merged, resizes=False)(**on_canvas(image)), expected)


def test_each_pixel_is_in_the_windows_that_cover_it():
    for window, length in (
        (64, 64),
        (64, 65),
        (64, 127),
        (64, 128),
        (64, 129),
        (64, 1000),
        (7, 100),
        (1, 5),
        (3, 10_000),
    ):
        starts = window_starts(length, window, torch.device("cpu"))
        pixels = torch.arange(length)[:, None]
        covers = (starts <= pixels) & (pixels < starts + window)
        found = torch.zeros_like(covers)
        for index, place in find_windows(length, window, True, torch.device("cpu")):
            assert torch.equal(starts[index] + place, pixels[:, 0])
            found[pixels[:, 0], index] = True
        assert torch.equal(found, covers)


@pytest.mark.parametrize("top_k", [None, 100, 5, 1])
def test_no_more_than_the_best_pairs_are_instances(top_k):
    model, processor = make_model(num_queries=5), make_processor("instance", top_k=top_k, threshold=0.0)
    image = draw_image(*SQUARE)
    expected = expect(model, processor, image)
    assert len(expected["labels"]) == min(15, top_k or 15)
    compare(Segmenter(model, processor, resizes=False)(**on_canvas(image)), expected)


@pytest.mark.parametrize("mask_threshold", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_masks_start_at_their_threshold(task, mask_threshold):
    model, processor = make_model(), make_processor(task, mask_threshold=mask_threshold)
    image = draw_image(SIZE, 40)
    found = Segmenter(model, processor, resizes=False)(**on_canvas(image))
    compare(crop(found, image), expect(model, processor, image))


def test_pixels_are_rescaled_and_normalised_as_the_processor_says():
    class Recorder(nn.Module):
        def forward(self, pixel_values):
            self.pixel_values = pixel_values
            return model(pixel_values)

    model, image = make_model(), draw_image(*LANDSCAPE)
    for settings in (
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"image_mean": 0.5, "rescale_factor": 1 / 128},
        {"resample": 3},
    ):
        for task in ("panoptic", "semantic"):
            processor, recorder = make_processor(task, **settings), Recorder()
            Segmenter(recorder, processor)(image)
            assert torch.equal(recorder.pixel_values, processor(images=[image], return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize(
    "settings, options, message",
    [
        ({"do_pad": False}, {}, "do_pad=True"),
        ({"do_resize": False}, {}, "do_resize=False"),
        ({"resample": 0}, {}, "resample=0"),
        ({"stuff_classes": [3]}, {}, "classes 0 to 2"),
        ({}, {"max_segments": 5}, "resizes=False"),
        ({}, {"max_segments": 0, "resizes": False}, "at least 1"),
        ({}, {"task": "depth"}, "task"),
    ],
)
def test_what_no_graph_can_follow_is_an_error(settings, options, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(make_model(), make_processor("panoptic", **settings), **options)


# The graph in other runtimes


class Graph:
    """A segmenter's graph in a file, and what made it."""

    def __init__(self, folder, family, task, settings, **options):
        self.model, self.processor = make_model(family), make_processor(task, **settings)
        self.graph = build_segmenter_graph(self.model, self.processor, **options)
        FORMATS["onnx"].write(self.graph, folder, Options())
        self.path = folder / "model.onnx"

    def run_onnxruntime(self, **inputs):
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_outputs()] == list(self.graph.output_names)
        outputs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(self.graph.output_names, outputs))

    def run_openvino(self, **inputs):
        openvino = pytest.importorskip("openvino")
        # which otherwise computes in bfloat16 where the processor can
        compiled = openvino.compile_model(self.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs = compiled({name: value.numpy() for name, value in inputs.items()})
        return {name: outputs[name] for name in self.graph.output_names}

    def operators(self):
        import onnx

        model = onnx.load(self.path)
        nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
        return {node.op_type for node in nodes}


WHOLE = {"do_split_image": False, "do_pad": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, family, settings",
    [
        ("panoptic", "eomt", {}),
        ("instance", "eomt_dinov3", {}),
        ("semantic", "eomt_dinov3", {}),
        ("semantic", "eomt", WHOLE),
    ],
    ids=["panoptic", "instance", "semantic", "semantic, whole"],
)
def test_onnxruntime_takes_images_of_any_size(tmp_path, task, family, settings):
    pytest.importorskip("onnxscript")
    graph = Graph(tmp_path, family, task, settings)
    for size in (LANDSCAPE, PORTRAIT, SMALL, WIDE, SQUARE):
        image = draw_image(*size)
        # Masks are resampled twice, which onnxruntime rounds otherwise: pixels on their edges, which scores follow.
        max_pixels, max_score = (0.0, 1e-5) if size == SQUARE else (1e-4, 1e-3)
        compare(graph.run_onnxruntime(image=image), expect(graph.model, graph.processor, image), max_pixels, max_score)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, family, max_segments",
    [
        ("panoptic", "eomt_dinov3", None),
        ("instance", "eomt", None),
        ("semantic", "eomt", None),
        ("panoptic", "eomt", 20),
        ("instance", "eomt_dinov3", 20),
    ],
)
def test_runtimes_take_images_of_the_models_size(tmp_path, task, family, max_segments):
    pytest.importorskip("onnxscript")
    settings = WHOLE if max_segments is None else {"threshold": 0.7}  # above which there are no more
    graph = Graph(tmp_path, family, task, settings, resizes=False, max_segments=max_segments)
    if max_segments is not None or task == "semantic":
        assert not graph.operators() & {"Scan", "Loop", "If", "NonZero"}
    for index, size in enumerate((SQUARE, (SIZE, 41), (33, SIZE))):
        image = draw_image(*size, seed=index)
        expected = expect(graph.model, graph.processor, image)
        for run, max_pixels in ((graph.run_onnxruntime, 0.0), (graph.run_openvino, 1e-3)):
            found = run(**on_canvas(image))
            found = found if max_segments is None else drop_padding(found)
            compare(crop(found, image), expected, max_pixels)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_a_graph_may_find_nothing(tmp_path, task):
    pytest.importorskip("onnxscript")
    graph = Graph(tmp_path, "eomt", task, {"threshold": 1.0}, resizes=False)
    image = draw_image(*SQUARE)
    expected = expect(graph.model, graph.processor, image)
    for run in (graph.run_onnxruntime, graph.run_openvino):
        compare(run(**on_canvas(image)), expected)


@pytest.mark.slow
def test_runtimes_put_windows_together(tmp_path):
    pytest.importorskip("onnxscript")
    graph = Graph(tmp_path, "eomt", "semantic", {}, resizes=False)
    for size in (SQUARE, (SIZE, 100), (SIZE, 300), (129, SIZE)):
        image = draw_image(*size)
        expected = expect(graph.model, graph.processor, image)
        for run, max_pixels in ((graph.run_onnxruntime, 0.0), (graph.run_openvino, 1e-3)):
            compare(run(image=image), expected, max_pixels)
