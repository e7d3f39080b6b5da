"""The parts of run_segmentation.py work on every step of the baseline as they do on EoMT."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.baselines import BaselineForUniversalSegmentation
from image_processing_eomt import EomtImageProcessor
from image_processing_eomt.pipeline_eomt import EomtImageSegmentationPipeline
from training_eomt.script.command_line import parse_arguments
from training_eomt.script.data import open_prediction_images
from training_eomt.script.run import build_trainer, evaluate, load_data, predict_images, train
from training_eomt.shapes import generate_shapes_dataset


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes_dataset(tmp_path_factory.mktemp("data") / "shapes", 4, 2, 2, image_size=64)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_step_trains_evaluates_saves_loads_and_predicts(tiny_step, shapes, tmp_path, step):
    words = {
        "train_data": shapes / "train",
        "validation_data": shapes / "validation",
        "predict_data": shapes / "test",
        "output_dir": tmp_path / "output",
        "image_size": 64,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "ema_decay": 0.5,
        "report_to": "none",
        "save_strategy": "steps",
        "save_steps": 1,
        "use_cpu": "true",
        "disable_tqdm": "true",
    }
    line = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    arguments = parse_arguments([*line, "--do_train", "--do_eval", "--do_predict"])
    _, data_args, _ = arguments
    data, reports = load_data(arguments)
    labels = data.train.label_space
    processor = EomtImageProcessor(size=64, task="panoptic", stuff_classes=labels.stuff_classes, threshold=0.0)
    trainer = build_trainer(arguments, data, tiny_step(step, id2label=labels.id2label), processor)
    train(arguments, trainer, reports)
    metrics = evaluate(trainer)
    assert 0.0 <= metrics["eval_pq"] <= 1.0
    predict_images(arguments, trainer, open_prediction_images(data_args, "panoptic", labels.id2label), {})

    output = tmp_path / "output"
    assert len(list((output / "predictions" / "overlays").glob("*.png"))) == 2
    logged = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert logged[0]["loss_mask_8"] > 0.0 and logged[0]["mask_probability_8"] == 1.0
    model = BaselineForUniversalSegmentation.from_pretrained(output)
    assert model.mask_probabilities == [0.0] * 9  # annealed
    segmenter = EomtImageSegmentationPipeline(model=model, image_processor=EomtImageProcessor.from_pretrained(output))
    segments = segmenter(Image.new("RGB", (80, 50)))
    assert all(segment["mask"].size == (80, 50) for segment in segments)

    # What the batch norms have seen is part of a checkpoint, too.
    finished = load_file(output / "model.safetensors")
    shutil.rmtree(output / "checkpoint-2")
    again = parse_arguments([*line, "--resume_from_checkpoint", "true", "--do_train"])
    data, _ = load_data(again)
    train(again, build_trainer(again, data, tiny_step(step, id2label=labels.id2label), processor), reports)
    for name, value in load_file(output / "model.safetensors").items():
        torch.testing.assert_close(value, finished[name], rtol=1e-5, atol=1e-6)
