"""
Fine-tunes a checkpoint with the Trainer in Python: where to start for what `eomt train` does not do.

    python examples/fine_tune.py my_data outputs/my_model --epochs 12
"""

import argparse

from eomt_transformers import EomtTrainer, EomtTrainingArguments
from image_processing_eomt.geometry_eomt import parse_size
from loading_eomt import find_checkpoint
from training_eomt.augmentation import SegmentationAugmentation
from training_eomt.data import open_dataset
from training_eomt.inputs import EvaluationInputs, TrainingInputs
from training_eomt.script.starting_model import set_classes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tunes a checkpoint on a data set.")
    parser.add_argument("data", help="folder or zip file with the splits train and validation")
    parser.add_argument("output", help="folder of the new model")
    parser.add_argument("--model", default="tue-mps/coco_panoptic_eomt_large_640", help="folder or name on the Hub")
    parser.add_argument("--epochs", type=float, default=12)
    options = parser.parse_args()

    train = open_dataset(options.data, split="train")
    id2label, stuff = train.label_space.id2label, train.label_space.stuff_classes
    validation = open_dataset(options.data, split="validation", id2label=id2label, task=train.task)
    checkpoint = find_checkpoint(options.model)
    processor = checkpoint.load_image_processor(task=train.task, stuff_classes=stuff)
    model = checkpoint.load_model()
    print(set_classes(model, id2label))
    inputs = TrainingInputs(train, processor, SegmentationAugmentation(parse_size(processor.size)))
    held_out = EvaluationInputs(validation, processor)
    arguments = EomtTrainingArguments(options.output, num_train_epochs=options.epochs, per_device_train_batch_size=4)
    trainer = EomtTrainer(model, arguments, processor, train_dataset=inputs, eval_dataset=held_out)
    trainer.train()
    trainer.save_model()
    print({name: round(value, 3) for name, value in trainer.evaluate().items()})
