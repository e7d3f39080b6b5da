import pickle
import zipfile
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from training_eomt.data.files import FileTree, tree_of


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def contents(tree: FileTree) -> dict[str, bytes]:
    return {name: tree.open(name).read() for name in tree.below()}


def test_a_tree_lists_what_is_on_the_disk(tmp_path):
    for name in ("a/x.jpg", "a/b/y.jpg", "z.txt", ".hidden", "a/.cache/w"):
        write(tmp_path / name)
    tree = FileTree(tmp_path)
    assert tree.below() == ["a/b/y.jpg", "a/x.jpg", "z.txt"]
    assert tree.files("a") == ["a/x.jpg"] and tree.folders("a") == ["a/b"] and tree.folders() == ["a"]
    assert "a/x.jpg" in tree and "a" not in tree and "a/b/none" not in tree
    assert tree.has_folder("a/b") and not tree.has_folder("c")
    assert tree.subtree("a").below() == ["b/y.jpg", "x.jpg"]
    assert tree.subtree("a").path("x.jpg") == str(tmp_path / "a" / "x.jpg")


def test_a_zip_stands_for_what_is_in_it_where_it_lies(tmp_path):
    write(tmp_path / "annotations" / "a.json", b"on disk")
    zipped(tmp_path / "train2017.zip", {"train2017/1.jpg": b"1", "train2017/2.jpg": b"2"})
    zipped(tmp_path / "annotations.2017.zip", {"annotations/a.json": b"zipped", "annotations/b.json": b"b"})
    tree = FileTree(tmp_path)
    assert tree.files("train2017") == ["train2017/1.jpg", "train2017/2.jpg"]
    assert tree.open("train2017/2.jpg").read() == b"2"
    assert tree.path("train2017/2.jpg") == str(tmp_path / "train2017.zip" / "train2017" / "2.jpg")
    assert tree.open("annotations/a.json").read() == b"on disk" and tree.open("annotations/b.json").read() == b"b"


def test_a_zip_that_was_unpacked_is_not_looked_at(tmp_path):
    write(tmp_path / "train2017" / "1.jpg", b"unpacked")
    write(tmp_path / "train2017.zip", b"no zip at all")
    assert contents(FileTree(tmp_path))["train2017/1.jpg"] == b"unpacked"


def test_a_zip_in_a_zip_is_extracted_when_it_is_asked_for_and_removed_with_the_tree(tmp_path):
    inner = zipped(tmp_path / "work" / "panoptic_val.zip", {"panoptic_val/1.png": b"png", "__MACOSX/._1.png": b""})
    loose = zipped(tmp_path / "work" / "loose.zip", {"1.png": b"loose"})
    entries = {"annotations/p.json": b"{}", "annotations/panoptic_val.zip": inner.read_bytes()}
    zipped(tmp_path / "data" / "panoptic.zip", {**entries, "annotations/loose.zip": loose.read_bytes()})
    tree = FileTree(tmp_path / "data")
    assert tree.files("annotations")[:1] == ["annotations/loose.zip"] and not tree._store._extracted
    assert tree.open("annotations/panoptic_val/1.png").read() == b"png" and len(tree._store._extracted) == 1
    assert tree.open("annotations/loose/1.png").read() == b"loose"
    temporary = list(tree._store._extracted.values())
    copy = pickle.loads(pickle.dumps(tree))
    assert copy.open("annotations/panoptic_val/1.png").read() == b"png"
    assert list(copy._store._extracted.values()) == temporary
    del tree
    assert not any(path.exists() for path in temporary)


def test_a_zip_is_a_root_and_paths_lead_into_it(tmp_path):
    path = zipped(tmp_path / "x.zip", {"top/images/1.jpg": b"1", "top\\images\\2.jpg": b"2"})
    assert FileTree(path).below() == ["top/images/1.jpg", "top/images/2.jpg"]
    tree, name = tree_of(path / "top")
    assert name == "top" and contents(tree.subtree(name)) == {"images/1.jpg": b"1", "images/2.jpg": b"2"}
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*x\.zip/nothing"):
        tree_of(path / "nothing")


@pytest.mark.parametrize("entry", ["../evil.jpg", "/etc/evil.jpg", "C:/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg"])
def test_an_entry_outside_its_folder_is_an_error_that_names_it_or_is_left_out(tmp_path, entry):
    zipped(tmp_path / "bad.zip", {"a/good.jpg": b"1", entry: b"2"})
    with pytest.raises(ValueError, match=r"bad\.zip: entry '.*evil\.jpg' points outside"):
        FileTree(tmp_path).below()
    tree = FileTree(tmp_path, skip_bad_entries=True)
    assert tree.below() == ["a/good.jpg", "bad.zip"]
    assert len(tree.bad_entries) == 1 and "evil.jpg" in tree.bad_entries[0][0]


def test_a_damaged_zip_is_named(tmp_path):
    path = zipped(tmp_path / "half.zip", {"1.jpg": b"1" * 1000})
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"half\.zip cannot be read as a zip"):
        FileTree(tmp_path).below()
    path.write_bytes(good[:40] + b"\0\0\0" + good[43:])
    with pytest.raises(ValueError, match=r"half\.zip/1\.jpg cannot be read"):
        FileTree(tmp_path).open("1.jpg")


class Contents(Dataset):
    def __init__(self, tree: FileTree, names: list[str]) -> None:
        self.tree, self.names = tree, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> bytes:
        return self.tree.open(self.names[index]).read()


def test_workers_read_one_zip_at_the_same_time(tmp_path):
    entries = {f"a/{i}.bin": bytes([i]) * 20000 for i in range(60)}
    zipped(tmp_path / "a.zip", entries)
    tree = FileTree(tmp_path)
    names = tree.files("a")
    assert tree.open(names[0]).read() == entries[names[0]]
    loader = DataLoader(Contents(tree, names), num_workers=2, batch_size=None, multiprocessing_context="fork")
    assert list(loader) == [entries[name] for name in names]
    assert tree.open(names[-1]).read() == entries[names[-1]]
    assert contents(pickle.loads(pickle.dumps(tree)))[names[-1]] == entries[names[-1]]  # as a spawned worker gets it
