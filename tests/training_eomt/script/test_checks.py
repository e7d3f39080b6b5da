"""What cannot be there is said at once."""

import zipfile

import pytest

from training_eomt.script.checks import check_exists


@pytest.mark.parametrize("given", ["/no/where", "./x", "../x", "a/b/c", "a b", "train/x.zip/y", "a\0b"])
def test_a_path_that_leads_nowhere_is_named(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--train_data .*: there is no such file or folder"):
        check_exists("train_data", given)


def test_files_folders_and_what_is_in_a_zip_may_be_there(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    for given in (tmp_path, tmp_path / "x.zip", tmp_path / "x.zip" / "train"):
        check_exists("train_data", str(given))


@pytest.mark.parametrize("given", ["nowhere", "facebook/dinov2-large", "me/my_data.v2"])
def test_the_hub_is_asked_for_what_may_be_there(given):
    check_exists("model_name_or_path", given)


def test_what_is_on_this_machine_only_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"--class_names classes\.txt: there is no such file or folder"):
        check_exists("class_names", "classes.txt", may_be_on_hub=False)
