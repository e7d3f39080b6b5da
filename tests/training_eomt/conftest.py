"""A trainer of a tiny model on a few generated images, and a disk that is full."""

from contextlib import contextmanager

import pytest
import torch

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation
from training_eomt.data.coco_panoptic import CocoPanopticDataset
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.shapes import generate_shapes_dataset
from training_eomt.trainer import EomtTrainer
from training_eomt.training_arguments import EomtTrainingArguments


@pytest.fixture
def make_trainer(tmp_path):
    data = generate_shapes_dataset(tmp_path / "data", 5, 3, 0, image_size=(40, 64))

    def make(task="panoptic", augmentation=None, **settings):
        torch.manual_seed(0)
        train = CocoPanopticDataset(data / "train", task=task)
        validation = CocoPanopticDataset(data / "validation", train.label_space.id2label, task=task)
        stuff_classes = train.label_space.stuff_classes if task == "panoptic" else None
        processor = EomtImageProcessor(size=64, task=task, stuff_classes=stuff_classes, threshold=0.0)
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
        arguments = {
            "output_dir": str(tmp_path / "output"),
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        }
        return EomtTrainer(
            model=EomtForUniversalSegmentation(config),
            args=EomtTrainingArguments(**arguments),
            processing_class=processor,
            train_dataset=TrainingInputs(train, processor, augmentation),
            eval_dataset=EvaluationInputs(validation, processor),
        )

    return make


@pytest.fixture
def full_disk():
    """A context within which no file of this process grows beyond a kilobyte, pytest's own output included."""
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")

    @contextmanager
    def limit_file_size():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit_file_size
