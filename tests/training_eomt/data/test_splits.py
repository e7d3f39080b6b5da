import pytest

from training_eomt.data.splits import choose_split, find_split_names


def test_splits_are_known_by_their_usual_names():
    names = ["images/train2017", "images/val", "Training", "test2017", "trainers", "validation", "eval", "images"]
    assert find_split_names(names, "train") == ["images/train2017", "Training"]
    assert find_split_names(names, "validation") == ["validation", "images/val", "eval"]
    assert find_split_names(names, "predict") == ["test2017", "validation", "images/val", "eval"]
    with pytest.raises(ValueError, match="no split 'dev': train, validation, predict"):
        find_split_names(names, "dev")


def test_names_of_other_splits_only_are_an_error_and_other_names_are_none():
    assert choose_split(["train", "val"], "validation", "x") == "val"
    assert choose_split(["aachen", "bochum"], "validation", "x") is None
    assert choose_split(["train"], None, "x") is None
    with pytest.raises(FileNotFoundError, match="x has no validation split, only train"):
        choose_split(["train", "other"], "validation", "x")
