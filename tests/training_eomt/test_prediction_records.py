"""What was done is found again, whoever did it and however it ended."""

import pytest
import torch

from training_eomt.prediction_records import RECORDS, FinishedPictures, RecordFile, check_fingerprint, weights_hash


NAMES = ["a.png", 'b/"1".png', "ü.png", "d.png"]


def write(directory, process_index, num_processes, contents, errors=()):
    with RecordFile(directory, process_index, num_processes) as records:
        for name, number in contents:
            records.add(name, {"number": number})
        for name in errors:
            records.add_error(name, "broken")


def test_records_of_all_processes_come_in_the_order_of_the_pictures(tmp_path):
    write(tmp_path, 1, 2, [(NAMES[3], 3), ("gone.png", 9), (NAMES[0], 0)])
    write(tmp_path, 0, 3, [(NAMES[2], 2)], errors=[NAMES[1]])
    finished = FinishedPictures(tmp_path, NAMES)
    assert finished.is_finished.tolist() == [True, False, True, True]
    assert finished.errors == {1: "broken"}
    assert list(finished.records()) == [{"picture": NAMES[number], "number": number} for number in (0, 2, 3)]


def test_a_picture_that_could_be_read_in_the_end_is_done(tmp_path):
    write(tmp_path, 0, 1, [], errors=NAMES[:2])
    write(tmp_path, 0, 1, [(NAMES[0], 0)])
    write(tmp_path, 1, 2, [], errors=NAMES[:1])
    finished = FinishedPictures(tmp_path, NAMES)
    assert finished.is_finished.tolist() == [True, False, False, False] and finished.errors == {1: "broken"}


@pytest.mark.parametrize(
    "torn", [b'{"picture": "d.pn', b'{"picture": "d.png", "number": {"a": 1}', b"\0" * 5000, b"{"]
)
@pytest.mark.parametrize("whole", [NAMES[:2], []])
def test_a_line_that_was_being_written_is_no_record_and_spoils_no_other(tmp_path, torn, whole):
    write(tmp_path, 0, 1, [(name, 1) for name in whole])
    with (tmp_path / RECORDS / "0-of-1.jsonl").open("ab") as file:
        file.write(torn)
    assert FinishedPictures(tmp_path, NAMES).is_finished.sum() == len(whole)
    write(tmp_path, 0, 1, [("d.png", 4)])
    assert [record["picture"] for record in FinishedPictures(tmp_path, NAMES).records()] == [*whole, "d.png"]


def test_the_end_of_the_last_line_is_found_far_from_the_end_of_the_file(tmp_path):
    write(tmp_path, 0, 1, [("a.png", 1)])
    with (tmp_path / RECORDS / "0-of-1.jsonl").open("ab") as file:
        file.write(b'{"picture": "' + b"x" * 3_000_000)
    write(tmp_path, 0, 1, [("d.png", 4)])
    assert FinishedPictures(tmp_path, NAMES).is_finished.tolist() == [True, False, False, True]


def test_a_folder_of_other_predictions_is_refused_with_what_differs(tmp_path):
    run = {"task": "panoptic", "model": {"size": [64, 64], "id2label": {0: "cat"}}}
    check_fingerprint(tmp_path / "out", run)
    check_fingerprint(tmp_path / "out", run)
    with pytest.raises(ValueError, match="out holds predictions") as error:
        check_fingerprint(tmp_path / "out", {"task": "panoptic", "model": {"size": [32, 64], "new": True}})
    lines = str(error.value).splitlines()[1:-1]
    assert lines == [
        '  model.id2label.0: "cat" there, null now',
        "  model.new: null there, true now",
        "  model.size: [64, 64] there, [32, 64] now",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hash_is_that_of_every_weight(dtype):
    def model(seed, change=0.0):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(dtype)
        model[1].bias.data[1] += change
        return model

    assert weights_hash(model(0)) == weights_hash(model(0))
    assert len({weights_hash(m) for m in (model(0), model(1), model(0, 1.0), model(0).double())}) == 4
