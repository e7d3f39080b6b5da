"""What the processes of the distributed tests run: a short training, and an evaluation of seven images.

torchrun --nproc_per_node 2 tests/training_eomt/distributed_training.py DATA OUTPUT [fsdp] [CHECKPOINT]
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


FSDP2: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "fsdp_version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": ["EomtLayer"],
        "state_dict_type": "FULL_STATE_DICT",
    },
}


def main(data: str, output: str, *options: str) -> None:
    train = CocoPanopticDataset(Path(data) / "train")
    validation = CocoPanopticDataset(Path(data) / "validation", train.label_space.id2label)
    processor = EomtImageProcessor(size=64, stuff_classes=train.label_space.stuff_classes, threshold=0.0)
    torch.manual_seed(0)
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=2,
        num_queries=8,
        image_size=64,
        train_num_points=64,
        id2label=train.label_space.id2label,
    )
    use_fsdp = "fsdp" in options
    arguments = EomtTrainingArguments(
        output_dir=output,
        max_steps=5,
        total_batch_size=4,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=2,
        learning_rate=1e-3,
        ema_decay=None if use_fsdp else 0.9,
        save_strategy="steps",
        save_steps=3,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **(FSDP2 if use_fsdp else {}),
    )
    if use_fsdp:
        # Accelerate shards models over GPUs and the like only; on CPUs nothing but this list stands in the way.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    trainer = EomtTrainer(
        model=EomtForUniversalSegmentation(config),
        args=arguments,
        processing_class=processor,
        train_dataset=TrainingInputs(train, processor, SegmentationAugmentation((64, 64), (0.5, 2.0))),
        eval_dataset=EvaluationInputs(validation, processor),
    )
    assert trainer.is_fsdp_enabled == use_fsdp and trainer.args.world_size == PartialState().num_processes
    trainer.train(resume_from_checkpoint=next((option for option in options if "checkpoint-" in option), None))
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        results = {"metrics": metrics, "per_class": trainer.per_class}
        (Path(output) / "results.json").write_text(json.dumps(results))
    if torch.distributed.is_initialized():
        time.sleep(0.5)  # see run_segmentation.py
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
