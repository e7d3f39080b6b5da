"""The pipeline of this project on any EoMT checkpoint."""

from os import PathLike
from pathlib import Path
from typing import Any

from deployment_eomt.folder import read_own
from image_processing_eomt import EomtImageSegmentationPipeline
from loading_eomt import find_checkpoint


__all__ = ["pipeline"]

_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_MODEL = ("attn_implementation", "base_backbone", "device_map", "dtype")


def pipeline(
    model_name_or_path: str | PathLike, *, task: str | None = None, **kwargs: Any
) -> EomtImageSegmentationPipeline:
    """
    Returns the image segmentation pipeline of this project, right by default: with the checkpoint's task, thresholds
    and stuff classes, and windows where its images are cut into some.

    What a checkpoint of Transformers' own does not say, its task and its stuff classes, is known of the published
    ones and follows from the names of the classes for others on their datasets; a warning says so. No code of the
    checkpoint is run.

    Args:
        model_name_or_path: a folder or a name on the Hub: a checkpoint of this project or of Transformers' own EoMT
            classes, an original one that the authors publish (`"tue-mps/coco_panoptic_eomt_large_640"`), or a folder
            that `deployment_eomt` exported.
        task: "panoptic", "instance" or "semantic": what the model is for, where its files do not say it or are wrong.
        kwargs: of the Hub: `cache_dir`, `force_download`, `local_files_only`, `revision`, `token`; of the model:
            `attn_implementation`, `device_map`, `dtype`, and `base_backbone`, a folder of the backbone to which
            published DINOv3 checkpoints are a difference; all others of the pipeline: `device`, `batch_size`,
            `num_workers`, and the settings of the task's post-processing, see [`EomtImageSegmentationPipeline`].

    Raises:
        OSError: there is no such checkpoint, or the Hub gives no access to it.
        ValueError: it is no EoMT model, or a setting that cannot be.
    """
    if Path(model_name_or_path).is_dir() and (own := read_own(Path(model_name_or_path))) is not None:
        from deployment_eomt.exported import pipeline as load_exported

        if task not in (None, own["task"]):
            raise ValueError(
                f"{model_name_or_path} was exported for the task {own['task']!r}: export it again for {task!r}, or "
                f"pass subtask={task!r}."
            )
        return load_exported(model_name_or_path, **kwargs)
    hub, of_model = ({name: kwargs.pop(name) for name in names if name in kwargs} for names in (_HUB, _MODEL))
    checkpoint = find_checkpoint(model_name_or_path, **hub)
    image_processor = checkpoint.load_image_processor(**({} if task is None else {"task": task}))
    return EomtImageSegmentationPipeline(
        model=checkpoint.load_model(**of_model), image_processor=image_processor, **kwargs
    )
