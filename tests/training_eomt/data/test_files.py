import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from training_eomt.data.files import FileTree, open_tree


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
    assert contents(open_tree(path / "top")) == {"images/1.jpg": b"1", "images/2.jpg": b"2"}
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*x\.zip/nothing"):
        open_tree(path / "nothing")


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


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_in_a_zip_is_an_error_or_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        for content in (b"1", b"2"):
            archive.writestr("a.jpg", content)
    with pytest.raises(ValueError, match=r"twice\.zip: entry 'a\.jpg' comes twice"):
        FileTree(tmp_path).below()
    tree = FileTree(tmp_path, skip_bad_entries=True)
    assert tree.open("a.jpg").read() == b"1" and len(tree.bad_entries) == 1


def test_names_that_lead_out_of_the_tree_are_found_nowhere(tmp_path):
    secret = write(tmp_path / "secret.txt")
    write(tmp_path / "data" / "inner" / "a.txt", b"a")
    tree = FileTree(tmp_path / "data")
    for name in (str(secret), "../secret.txt", "inner/../../secret.txt", "/a.txt", "a\0.txt", "x" * 5000, "\ud800"):
        assert name not in tree and not tree.has_folder(name)
        with pytest.raises(FileNotFoundError):
            tree.open(name)
    assert not tree.has_folder(str(tmp_path)) and not tree.has_folder("..") and not tree.has_folder("/")
    assert tree.subtree("inner").open("../inner/a.txt").read() == b"a", "the tree is that of the root"
    (tmp_path / "data" / "link.txt").symlink_to(secret)
    assert tree.open("link.txt").read() == b"x", "a link is its maker's own"


def test_links_to_folders_around_them_are_not_followed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "data" / name / "1.jpg")
    (tmp_path / "data" / "a" / "itself").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "root").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "around").symlink_to(tmp_path)
    (tmp_path / "data" / "a" / "b").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "a").symlink_to(tmp_path / "data" / "a")
    assert FileTree(tmp_path / "data").below() == ["a/1.jpg", "a/b/1.jpg", "b/1.jpg", "b/a/1.jpg"]
    (tmp_path / "data" / "b" / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="b/loop"):
        FileTree(tmp_path / "data").open("b/loop")


def test_links_among_folders_end(tmp_path):
    """There are 10^12 ways through twelve folders that link to each other, and 13 files at the end of each."""
    for folder in range(12):
        write(tmp_path / str(folder) / "1.jpg")
        for other in range(12):
            (tmp_path / str(folder) / f"to_{other}").symlink_to(tmp_path / str(other))
    names = FileTree(tmp_path).below()
    assert len(names) < 1000 and {f"{folder}/1.jpg" for folder in range(12)} < set(names)
    assert "3/to_5/1.jpg" in names, "a single link is followed"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes")
def test_a_pipe_is_an_error_that_names_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg is no regular file, but a pipe"):
        FileTree(tmp_path).open("pipe.jpg")


def test_a_zip_that_is_made_to_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("small.bin", "bomb.bin"):
            with archive.open(name, "w") as file:
                for _ in range(1 if name == "small.bin" else 300):
                    file.write(bytes(2**20))
    tree = FileTree(tmp_path)
    assert len(tree.open("small.bin").read()) == 2**20
    with pytest.raises(ValueError, match=r"bomb\.bin cannot be read: its .* bytes unpack to 314,572,800"):
        tree.open("bomb.bin")


def test_more_bytes_than_a_zip_states_are_not_read(tmp_path):
    content = zipped(tmp_path / "a.zip", {"a.bin": bytes(10_000)}).read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((10_000).to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(ValueError, match=r"a\.zip/a\.bin cannot be read: Bad CRC-32"):
        FileTree(tmp_path).open("a.bin")


def test_zips_in_zips_have_a_limit_of_number_depth_and_size(tmp_path, monkeypatch):
    inner = zipped(tmp_path / "work" / "0.zip", {"x.jpg": b"x"})
    for depth in range(1, 5):
        inner = zipped(tmp_path / "work" / f"{depth}.zip", {f"{depth}.zip": inner.read_bytes()})
    zipped(tmp_path / "deep" / "deep.zip", {"5.zip": inner.read_bytes()})
    tree = FileTree(tmp_path / "deep")
    assert tree.below() and len(tree._store._extracted) == 3
    many = {f"{number}.zip": (tmp_path / "work" / "0.zip").read_bytes() for number in range(65)}
    zipped(tmp_path / "many" / "many.zip", many)
    with pytest.raises(ValueError, match="one zip in a zip too many: 65 of them"):
        FileTree(tmp_path / "many").below()
    monkeypatch.setattr("training_eomt.data.files.LARGE_ENTRY", 2**20)
    large = zipped(tmp_path / "work" / "large.zip", {"x.bin": b""})
    large.write_bytes(bytes(2**22) + large.read_bytes())
    zipped(tmp_path / "large" / "outer.zip", {"large.zip": large.read_bytes()})
    with pytest.raises(ValueError, match="one zip in a zip too many: 1 of them hold 4,194"):
        FileTree(tmp_path / "large").below()


KILLED = """
import os, signal, sys
from training_eomt.data.files import FileTree
tree = FileTree(sys.argv[1])
assert tree.open("inner/x.jpg").read() == b"x"
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="a system without /proc")
def test_a_process_that_is_killed_leaves_no_temporary_files(tmp_path):
    inner = zipped(tmp_path / "work" / "inner.zip", {"x.jpg": b"x"})
    zipped(tmp_path / "data" / "outer.zip", {"inner.zip": inner.read_bytes()})
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "data")], env=environment)
    assert ended.returncode == -signal.SIGKILL and not list((tmp_path / "tmp").iterdir())


def test_text_of_other_encodings_is_read_or_named(tmp_path):
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig"), ("c", "utf-16"), ("d", "latin-1")):
        (tmp_path / name).write_text("gr\u00fcn", encoding=encoding)
    tree = FileTree(tmp_path)
    assert [tree.read_text(name) for name in "abc"] == ["gr\u00fcn"] * 3
    with pytest.raises(ValueError, match="d is no UTF-8 text"):
        tree.read_text("d")


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
