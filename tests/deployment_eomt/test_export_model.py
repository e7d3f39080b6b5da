"""What `export_model` and its command write, and what they refuse."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from transformers import AutoConfig
from transformers import EomtConfig as TransformersConfig
from transformers import EomtForUniversalSegmentation as TransformersModel

from deployment_eomt import export_model
from deployment_eomt.__main__ import main
from deployment_eomt.formats import FORMATS, NEEDED_VERSIONS
from deployment_eomt.predict import load_graph
from deployment_eomt.report import BARS, Bar, InaccurateExportError
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


pytest.importorskip("transformers", minversion="5.24")

FILES = {"export.json", "config.json", "preprocessor_config.json", "predict.py", "eomt_decoder.py"}


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_folder_holds_the_graph_its_settings_and_what_runs_it(save_checkpoint, tmp_path):
    checkpoint = save_checkpoint(stuff_classes=[2], threshold=0.7)
    folder = export_model(checkpoint, tmp_path / "out", "torch", image_size=(96, 64), dynamic=["batch", "width"])
    assert {path.name for path in folder.iterdir()} == {*FILES, "model.pt2"}
    own = read(folder, "export.json")["eomt"]
    assert own["report"]["failures"] == []
    assert own["files"] == sorted([*FILES, "model.pt2"])
    expected = {"kind": "raw", "format": "torch", "task": "panoptic", "precision": "float32", "compile": False}
    expected |= {"dynamic": ["batch", "width"], "image_size": [96, 64], "patch_size": [16, 16]}
    expected |= {"inputs": ["pixel_values"], "outputs": ["masks_queries_logits", "class_queries_logits"]}
    assert expected.items() <= own.items()
    assert own["versions"]["torch"] == version("torch")
    assert "auto_map" not in read(folder, "config.json") | read(folder, "preprocessor_config.json")
    config = AutoConfig.from_pretrained(folder)
    assert (config.model_type, config.id2label[2]) == ("eomt", "sky")
    processor = EomtImageProcessor.from_pretrained(folder)
    assert (processor.threshold, processor.stuff_classes, processor.size.shortest_edge) == (0.7, [2], 96)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_graph_says_nothing_of_the_machine_that_wrote_it(save_checkpoint, tmp_path, format):
    pytest.importorskip("onnxscript")
    folder = export_model(save_checkpoint(), tmp_path / "out", format, kind="segmenter", report_images=0)
    file = folder / FORMATS[format].file
    contents = [file.read_bytes()]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
    for content in contents:
        assert b".py" not in content


@pytest.mark.slow
def test_a_checkpoint_of_transformers_own_class_is_exported(tmp_path):
    config = TransformersConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, num_blocks=2, num_queries=7, image_size=64
    )
    model = TransformersModel(config).eval()
    model.attn_mask_probs.zero_()
    model.save_pretrained(tmp_path / "model")
    EomtImageProcessor(size=64).save_pretrained(tmp_path / "model")
    graph = load_graph(export_model(tmp_path / "model", tmp_path / "out", "torch", task="semantic"))
    assert graph.description["task"] == "semantic"
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(pixel_values)
    found = graph(pixel_values=pixel_values.numpy())
    for name, logits in found.items():
        np.testing.assert_allclose(logits, expected[name].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_weights_that_do_not_fit_in_one_file_lie_beside_it(save_checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    onnx_format = pytest.importorskip("deployment_eomt.formats.onnx")
    checkpoint = save_checkpoint()
    monkeypatch.setattr(onnx_format, "MAX_BYTES", 1000)
    folder = export_model(checkpoint, tmp_path / "out")
    assert (folder / "model.onnx.data").stat().st_size > 100_000
    assert "model.onnx.data" in read(folder, "export.json")["eomt"]["files"]
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = EomtForUniversalSegmentation.from_pretrained(checkpoint)(pixel_values).class_queries_logits
    moved = folder.rename(tmp_path / "elsewhere")
    found = load_graph(moved)(pixel_values=pixel_values.numpy())["class_queries_logits"]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_export_below_the_bar_is_written_on_request_only(save_checkpoint, tmp_path, monkeypatch):
    checkpoint = save_checkpoint()
    monkeypatch.setitem(BARS, "float32", Bar(same_segments=1.0, same_pixels=1.0, logits=-1.0))
    with pytest.raises(InaccurateExportError, match=r"(?s)logits differ by .*--allow_inaccurate"):
        export_model(checkpoint, tmp_path / "out", "torch", report_images=2)
    assert not (tmp_path / "out").exists()
    folder = export_model(checkpoint, tmp_path / "out", "torch", report_images=2, allow_inaccurate=True)
    report = read(folder, "export.json")["eomt"]["report"]
    assert report["num_images"] == 2
    assert 0.0 <= report["logits"] <= 1e-5
    assert len(report["failures"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_segmenter_finds_what_the_raw_graph_does(save_checkpoint, tmp_path, format):
    pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    checkpoint = save_checkpoint(stuff_classes=[2], threshold=0.3)
    main([str(checkpoint), str(tmp_path / "out"), "--format", format, "--kind", "segmenter", "--report_images", "3"])
    own = read(tmp_path / "out", "export.json")["eomt"]
    assert own["outputs"] == ["segmentation", "labels", "scores", "areas", "boxes"]
    assert own["inputs"] == (["image"] if format == "onnx" else ["image", "content_size"])
    assert own["report"]["same_segments"] == 1.0


@pytest.mark.slow
def test_a_precision_is_chosen_by_the_command(save_checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    main([str(save_checkpoint()), str(tmp_path / "out"), "--precision", "int8", "--report_images", "0"])
    own = read(tmp_path / "out", "export.json")["eomt"]
    assert own["precision"] == "int8_dynamic"
    assert "report" not in own


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"format": "onx"}, ValueError, "There is no format 'onx'.*Did you mean 'onnx'"),
        ({"kind": "boxes"}, ValueError, "There is no kind 'boxes', only raw and segmenter"),
        ({"dynamic": ["depth"]}, ValueError, "expected a list of batch, height, width"),
        ({"dynamic": "batch"}, ValueError, "expected a list of batch, height, width"),
        ({"kind": "segmenter", "dynamic": ["batch"]}, ValueError, "dynamic is for raw graphs"),
        ({"compile": True}, ValueError, "compile=True is for the format 'torch', not 'onnx'"),
        ({"compile": True, "format": "torch", "kind": "segmenter"}, ValueError, "compile=True is for raw graphs"),
        ({"device": "cuda"}, ValueError, "device='cuda' is for the format 'torch'"),
        ({"device": "cuda", "format": "torch", "kind": "segmenter"}, ValueError, "device='cuda' is for raw graphs"),
        ({"device": "tpu", "format": "torch"}, ValueError, "There is no device 'tpu', only cpu and cuda"),
        ({"precision": "int3"}, ValueError, "has no precision 'int3'"),
        ({"precision": "int8_static"}, ValueError, "--calibration_data"),
        (
            {"calibration_data": "nowhere", "precision": "int8_static"},
            FileNotFoundError,
            "nowhere is no folder with images",
        ),
        (
            {"calibration_data": "x", "precision": "float16"},
            ValueError,
            "is for int8_static, and float16 takes no images",
        ),
        ({"kind": "segmenter", "precision": "int8_static"}, ValueError, "int8_static is for raw graphs"),
        ({"report_images": "nowhere"}, FileNotFoundError, "nowhere is no folder with images"),
        ({"image_size": 70}, ValueError, "70"),
        ({"task": "depth"}, ValueError, "^task must be .*'depth'"),
    ],
)
def test_wrong_arguments_are_errors_and_nothing_is_written(save_checkpoint, tmp_path, arguments, error, message):
    pytest.importorskip("onnxscript")
    with pytest.raises(error, match=message):
        export_model(save_checkpoint(), tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_graph_for_a_gpu_is_exported_where_there_is_one(save_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="there is none"):
        export_model(save_checkpoint(), tmp_path / "out", "torch", device="cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_graph_for_a_gpu_finds_what_the_model_finds_on_the_cpu(save_checkpoint, tmp_path, precision, compile):
    folder = export_model(
        save_checkpoint(), tmp_path / "out", "torch", device="cuda", compile=compile, precision=precision
    )
    own = read(folder, "export.json")["eomt"]
    assert (own["device"], own["report"]["failures"]) == ("cuda", [])


@pytest.mark.cuda
def test_a_graph_for_a_gpu_takes_any_size(save_checkpoint, tmp_path):
    dynamic = ["batch", "height", "width"]
    folder = export_model(save_checkpoint(), tmp_path / "out", "torch", device="cuda", dynamic=dynamic)
    masks = load_graph(folder)(pixel_values=np.zeros((1, 3, 96, 48), dtype=np.float32))["masks_queries_logits"]
    assert masks.shape[2:] == (24, 12) and np.isfinite(masks).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_graph_for_a_gpu_needs_one(save_checkpoint, tmp_path):
    folder = export_model(save_checkpoint(), tmp_path / "out", "torch", report_images=0)
    manifest = read(folder, "export.json")
    manifest["eomt"]["device"] = "cuda"
    (folder / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"model.pt2 is for an NVIDIA GPU, and PyTorch finds none"):
        load_graph(folder)


def test_images_of_their_own_sizes_need_a_graph_for_any_size(save_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"do_pad=False.*--dynamic batch height width"):
        export_model(save_checkpoint(do_pad=False), tmp_path / "out", "torch")


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model_type": "vit"}, "no EoMT model"), ({"quantization_config": {"quant_method": "torchao"}}, "quantised")],
)
def test_other_models_are_errors(save_checkpoint, tmp_path, config, message):
    checkpoint = save_checkpoint()
    (checkpoint / "config.json").write_text(json.dumps(read(checkpoint, "config.json") | config))
    with pytest.raises(ValueError, match=message):
        export_model(checkpoint, tmp_path / "out", "torch")


def test_a_model_without_an_image_processor_is_an_error(save_checkpoint, tmp_path):
    checkpoint = save_checkpoint()
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="no image processor"):
        export_model(checkpoint, tmp_path / "out", "torch")


def test_a_folder_of_something_else_stays(save_checkpoint):
    checkpoint = save_checkpoint()
    before = {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()}
    with pytest.raises(FileExistsError, match="something else than an export"):
        export_model(checkpoint, checkpoint, "torch")
    assert {path: path.stat().st_mtime_ns for path in checkpoint.iterdir()} == before


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.packages])
def test_a_missing_package_is_an_error_that_names_the_extra(name, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=rf"pip install 'eomt-transformers\[{FORMATS[name].extra}\]'"):
        export_model("no/model", tmp_path / "out", name)


@pytest.mark.parametrize("package", NEEDED_VERSIONS)
def test_an_old_package_is_an_error_that_names_the_version(package, monkeypatch, tmp_path):
    monkeypatch.setattr("deployment_eomt.formats.version", lambda name: "2.6" if name == package else "99")
    with pytest.raises(
        ImportError, match=f"needs {package} {NEEDED_VERSIONS[package]} or newer, and 2.6 is installed"
    ):
        export_model("no/model", tmp_path / "out")


def test_help_fits_on_a_screen_and_does_not_wait_for_torch():
    code = "import sys\nfrom deployment_eomt.__main__ import main\ntry:\n    main(['--help'])\nfinally:\n"
    code += "    assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 40


def test_the_command_says_what_is_wrong_in_a_line(save_checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="error: There is no format 'onx'"):
        main([str(save_checkpoint()), str(tmp_path / "out"), "--format", "onx"])
    with pytest.raises(SystemExit, match="error: --image_size takes one number or two"):
        main([str(tmp_path), str(tmp_path / "out"), "--image_size", "1", "2", "3"])
