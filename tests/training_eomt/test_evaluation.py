"""An evaluation runs the model on any number of windows."""

from dataclasses import replace

import numpy as np
import torch

from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.evaluation import RunningEvaluation, measured_names, run_model
from training_eomt.metrics import MeanIoU
from training_eomt.tasks import TASKS


def test_many_windows_go_through_the_model_a_few_at_a_time_and_come_out_the_same(tiny_config):
    model = EomtForUniversalSegmentation(tiny_config).eval()
    pixel_values = torch.randn(11, 3, 64, 64)
    offsets = [torch.tensor([index // 6, 0, 64]) for index in range(11)]
    seen = []
    model.register_forward_pre_hook(lambda *call: seen.append(len(call[2]["pixel_values"])), with_kwargs=True)
    with torch.no_grad():
        outputs = run_model(model, pixel_values, num_images=2, patch_offsets=offsets)
        whole = model(pixel_values=pixel_values)
        few = run_model(model, pixel_values[:8], num_images=2)
    assert seen == [8, 3, 11, 8] and outputs.patch_offsets is offsets
    # Sums of a matrix product depend on its size in their last digits.
    torch.testing.assert_close(outputs.masks_queries_logits, whole.masks_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outputs.class_queries_logits, whole.class_queries_logits, rtol=1e-4, atol=1e-4)
    assert len(few.class_queries_logits) == 8


def test_a_second_metric_is_a_class_in_the_table_of_tasks(monkeypatch):
    class Frequency(MeanIoU):
        def result(self, state):
            counts = state["pixels"].sum(1) / max(state["pixels"].sum(), 1)
            return {
                "rarest": counts.min(),
                "per_class": {label_id: {"share": share} for label_id, share in enumerate(counts)},
            }

    monkeypatch.setitem(TASKS, "semantic", replace(TASKS["semantic"], metrics=(MeanIoU, Frequency)))
    assert measured_names("semantic") == ["miou", "pixel_accuracy", "mean_accuracy", "rarest", "loss"]
    halves = [RunningEvaluation("semantic", 2) for _ in range(2)]
    reference = np.array([[0, 0, 0, 1]])
    for process, half in enumerate(halves):
        half.add_batch([np.zeros_like(reference)], [reference], [1.0 + process])
    total = RunningEvaluation("semantic", 2)
    total.merge([half.state() for half in halves])
    assert total.confusion_matrix().tolist() == [[0, 6, 0], [0, 2, 0]]
    values, per_class = total.compute()
    assert (values["miou"], values["rarest"], values["loss"]) == (0.375, 0.25, 1.5)
    assert per_class == {
        0: {"iou": 0.75, "accuracy": 1.0, "share": 0.75},
        1: {"iou": 0.0, "accuracy": 0.0, "share": 0.25},
    }
