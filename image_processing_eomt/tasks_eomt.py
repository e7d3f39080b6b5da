"""The tasks a checkpoint can be for, and methods that exist for some of them."""

from collections.abc import Callable
from typing import Any


TASKS = ("panoptic", "instance", "semantic")


def check_task(task: str) -> None:
    """Raises a `ValueError` for a task that does not exist."""
    if task not in TASKS:
        raise ValueError(f"task={task!r} does not exist. It is one of {', '.join(TASKS)}.")


class only_for_tasks:  # noqa: N801
    """
    Decorator: the object has the method only while its `task` is one of these.

    Transformers' own pipeline takes the first post-processing method that it finds, in the order panoptic, instance,
    semantic. An image processor therefore has none that comes before its own task's.
    """

    def __init__(self, *tasks: str):
        self.tasks = tasks

    def __call__(self, method: Callable[..., Any]) -> "only_for_tasks":
        self.method = method
        return self

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self.method
        if instance.task not in self.tasks:
            raise AttributeError(
                f"{self.method.__name__} is not for task={instance.task!r}: set the processor's task to "
                f"{' or '.join(map(repr, self.tasks))}, or call post_process(..., task=...)."
            )
        return self.method.__get__(instance, owner)
