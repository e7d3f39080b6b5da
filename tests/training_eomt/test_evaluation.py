"""An evaluation runs the model on any number of windows."""

import torch

from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.evaluation import run_model


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
