"""What was done about each image is found again, whoever did it and however it ended."""

import pytest

from training_eomt.prediction.records import Record, Records
from training_eomt.prediction.shared_folder import SharedFolder


NAMES = ["a.png", 'b/"1".png', "ü.png", "d.png"]


def make_records(directory, process):
    return Records(SharedFolder(directory, process), NAMES, NAMES, lambda *_: True)


@pytest.fixture
def records(tmp_path):
    return make_records(tmp_path, "0-of-1")


def test_records_of_all_processes_come_in_the_order_of_the_images(records, tmp_path):
    other = make_records(tmp_path, "1-of-2")
    other.write(NAMES[3], Record(NAMES[3], id=3, num_segments=0))
    other.write("gone.png", Record("gone.png", id=9))
    records.write(NAMES[0], Record(NAMES[0], id=0, num_segments=5))
    records.write(NAMES[2], Record(NAMES[2], id=2))
    records.write(NAMES[1], Record(NAMES[1], error="broken"))
    summary = records.summarize()
    assert summary.is_segmented.tolist() == [True, False, True, True] and summary.num_empty == 1
    assert summary.failed == ((NAMES[1], "broken"),) and summary.is_complete
    assert [(record.image, record.id) for record in records.read_segmented(summary)] == [
        (NAMES[i], i) for i in (0, 2, 3)
    ]


def test_the_last_that_happened_to_an_image_counts_and_changes_the_hash(records):
    hashes = [records.summarize().records_sha256]
    for record in (Record(NAMES[0], error="gone"), Record(NAMES[0], id=1), Record(NAMES[0], error="full")):
        records.write(NAMES[0], record)
        summary = records.summarize()
        assert [error for _, error in summary.failed] == ([record.error] if record.error else [])
        assert summary.is_segmented[0] == (record.error is None)
        hashes.append(summary.records_sha256)
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    "content",
    [
        b'{"image": "d.png", "files": {"a": "b"}}',
        b'{"image": 5, "id": 1}',
        b'{"image": "d.png", "segments": {}}',
        b'{"image": "d.png", "id": 1}}',
        b'{"image": "d.png", "id": 1',
        b'{"image": "d.png", "id": ' + b"[" * 100_000 + b"}",
        b'{"image": "d.p\xffng", "id": 1}',
        b'{"image": "another.png", "id": 1}',
        b"\0" * 300 + b"}",
        b"",
    ],
)
def test_a_damaged_record_is_none_and_spoils_no_other(records, tmp_path, content):
    for name in NAMES[1:]:
        records.write(name, Record(name, id=1))
    (tmp_path / "records" / "d.png.json").write_bytes(content)
    assert records.summarize().is_segmented.tolist() == [False, True, True, False]


def test_a_record_that_no_longer_holds_is_none(records):
    records.is_current = lambda index, record: record.id in (2, 3)
    for name, number in ((NAMES[0], 3), (NAMES[1], 1)):
        records.write(name, Record(name, id=number))
    summary = records.summarize()
    assert summary.is_segmented.tolist() == [True, False, False, False] and summary.num_left == 3
    assert [record.id for record in records.read_segmented(summary)] == [3]


def test_messages_with_bytes_that_are_no_text_are_kept_as_json(records):
    records.write(NAMES[0], Record(NAMES[0], error="x\udcff.png is broken"))
    assert records.summarize().failed == ((NAMES[0], "x?.png is broken"),)
