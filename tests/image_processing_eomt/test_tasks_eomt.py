import pytest

from image_processing_eomt.tasks_eomt import check_task, only_for_tasks


class Processor:
    def __init__(self, task):
        self.task = task

    @only_for_tasks("panoptic", "instance")
    def segments(self, number):
        """What it does."""
        return self.task, number


def test_a_method_exists_for_its_tasks_only():
    assert Processor("instance").segments(3) == ("instance", 3)
    assert not hasattr(Processor("semantic"), "segments")
    with pytest.raises(AttributeError, match="segments is not for task='semantic': set the processor's task to 'pano"):
        Processor("semantic").segments(3)


def test_the_class_has_the_method_with_its_documentation():
    assert Processor.segments(Processor("semantic"), 3) == ("semantic", 3)
    assert Processor.segments.__doc__ == "What it does."


def test_a_task_that_does_not_exist_is_an_error_that_lists_those_that_do():
    check_task("semantic")
    with pytest.raises(ValueError, match=r"task='pose' does not exist\. It is one of panoptic, instance, semantic"):
        check_task("pose")
