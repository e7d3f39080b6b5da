"""What was done is found again, whoever did it and however it ended."""

import pytest
import torch

from training_eomt.prediction.records import (
    RECORDS,
    FinishedPictures,
    RecordFile,
    check_fingerprint,
    only_run,
    record_path,
    weights_hash,
)


NAMES = ["a.png", 'b/"1".png', "ü.png", "d.png"]


def write(directory, process_index, num_processes, contents, errors=()):
    path = record_path(directory, f"{process_index}-of-{num_processes}")
    path.parent.mkdir(exist_ok=True)
    with RecordFile(path) as records:
        for name, number in contents:
            records.add(name, {"id": number})
        for name in errors:
            records.add_error(name, "broken")


def test_records_of_all_processes_come_in_the_order_of_the_pictures(tmp_path):
    write(tmp_path, 1, 2, [(NAMES[3], 3), ("gone.png", 9), (NAMES[0], 0)])
    write(tmp_path, 0, 3, [(NAMES[2], 2)], errors=[NAMES[1]])
    finished = FinishedPictures(tmp_path, NAMES)
    assert finished.is_finished.tolist() == [True, False, True, True]
    assert finished.errors == {1: "broken"}
    assert [(record.picture, record.id) for record in finished.records()] == [(NAMES[i], i) for i in (0, 2, 3)]


def test_a_picture_that_could_be_read_in_the_end_is_done(tmp_path):
    write(tmp_path, 0, 1, [], errors=NAMES[:2])
    write(tmp_path, 0, 1, [(NAMES[0], 0)])
    write(tmp_path, 1, 2, [], errors=NAMES[:1])
    finished = FinishedPictures(tmp_path, NAMES)
    assert finished.is_finished.tolist() == [True, False, False, False] and finished.errors == {1: "broken"}


@pytest.mark.parametrize("torn", [b'{"picture": "d.pn', b'{"picture": "d.png", "files": {"a": 1}', b"\0" * 5000, b"{"])
@pytest.mark.parametrize("whole", [NAMES[:2], []])
def test_a_line_that_was_being_written_is_no_record_and_spoils_no_other(tmp_path, torn, whole):
    write(tmp_path, 0, 1, [(name, 1) for name in whole])
    with (tmp_path / RECORDS / "0-of-1.jsonl").open("ab") as file:
        file.write(torn)
    assert FinishedPictures(tmp_path, NAMES).is_finished.sum() == len(whole)
    write(tmp_path, 0, 1, [("d.png", 4)])
    assert [record.picture for record in FinishedPictures(tmp_path, NAMES).records()] == [*whole, "d.png"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"picture": "d.png", "files": {"a": "b"}}',
        b'{"picture": 5, "id": 1}',
        b'{"picture": "d.png", "segments": {}}',
        b'{"picture": "d.png", "id": 1}}',
        b'{"picture": "d.png", "id": ' + b"[" * 100_000 + b"}",
        b'{"picture": "d.p\xffng", "id": 1}',
        b"\0" * 300 + b"}",
        b"",
    ],
)
def test_a_damaged_line_is_no_record_and_spoils_no_other(tmp_path, line):
    write(tmp_path, 0, 1, [(NAMES[0], 1)])
    with record_path(tmp_path, "0-of-1").open("ab") as file:
        file.write(line + b"\n")
    write(tmp_path, 0, 1, [(NAMES[1], 1)])
    assert FinishedPictures(tmp_path, NAMES).is_finished.tolist() == [True, True, False, False]


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    write(tmp_path, 0, 1, [(NAMES[0], 1)])
    path = record_path(tmp_path, "0-of-1")
    with RecordFile(path) as records:
        whole = records._file

        class Full:
            fileno = whole.fileno

            def write(self, line):
                if path.stat().st_size > 40:
                    raise OSError(28, "No space left on device")
                return whole.write(line[:15])

        monkeypatch.setattr(records, "_file", Full())
        with pytest.raises(OSError, match="No space"):
            records.add(NAMES[1], {"id": 2})
        monkeypatch.setattr(records, "_file", whole)
        records.add(NAMES[2], {"id": 3})
    assert path.read_bytes().count(b"\n") == 2
    assert FinishedPictures(tmp_path, NAMES).is_finished.tolist() == [True, False, True, False]


def test_the_last_that_happened_to_a_picture_counts(tmp_path):
    path = record_path(tmp_path, "0-of-1")
    path.parent.mkdir()
    with RecordFile(path) as records:
        records.add_failure(NAMES[0], "full")
        records.add_error(NAMES[0], "gone")
        records.add_error(NAMES[1], "gone")
        records.add_failure(NAMES[1], "too long")
    finished = FinishedPictures(tmp_path, NAMES)
    assert (finished.errors, finished.failures) == ({0: "gone"}, {1: "too long"})


def test_a_record_that_no_longer_holds_is_none(tmp_path):
    write(tmp_path, 0, 1, [(NAMES[0], 1), (NAMES[1], 2), (NAMES[0], 3)])
    finished = FinishedPictures(tmp_path, NAMES, lambda index, record: record.id in (2, 3))
    assert finished.is_finished.tolist() == [True, True, False, False]
    assert [record.id for record in finished.records()] == [3, 2]


def test_two_runs_do_not_write_as_the_same_process(tmp_path):
    refused = pytest.raises(OSError, match=r"Another run is writing predictions into .*Wait")
    with only_run(tmp_path, "0-of-2"), only_run(tmp_path, "1-of-2"), refused, only_run(tmp_path, "0-of-2"):
        pass
    with only_run(tmp_path, "0-of-2"):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 90, b'{"a": ' + b"[" * 100_000])
def test_a_folder_whose_run_is_not_known_is_refused_by_name_unless_nothing_is_in_it(tmp_path, content):
    run = {"task": "panoptic"}
    check_fingerprint(tmp_path, run)
    (tmp_path / "run.json").write_bytes(content)
    check_fingerprint(tmp_path, run)  # nothing was predicted yet: written again
    check_fingerprint(tmp_path, run)
    write(tmp_path, 0, 1, [(NAMES[0], 1)])
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged.* Choose another folder, or remove"):
        check_fingerprint(tmp_path, run)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        check_fingerprint(tmp_path, run)


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
