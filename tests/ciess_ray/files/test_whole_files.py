"""Files are whole or not there, links are not followed, and one process writes a folder."""

import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from kills import content_of, is_killed

from ciess_ray.files.whole import (
    check_writable,
    copy_whole,
    read_arrays,
    read_regular,
    replaced_files,
    settle,
    sole_writer,
    whole_file,
    whole_folder,
    write_arrays,
    write_whole,
)
from ciess_ray.sweeps.storage import Storage
from envs.errors import ResultError

WRITERS = {
    "text": lambda path: write_whole(path, "new"),
    "arrays": lambda path: write_arrays(path, {"a": np.arange(3)}),
    "copy": lambda path: copy_whole(path.with_name("other"), path),
    "storage": lambda path: Storage(path.parent).write(path.name, b"new"),
    "download": lambda path: Storage(path.parent).download("other", path),
}


def names(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_link_is_replaced_and_what_it_names_untouched(writer, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "other").write_text("other")
    (tmp_path / "precious").write_text("precious")
    for name in ("file", "file.partial", ".file.partial"):
        (folder / name).symlink_to(tmp_path / "precious")
    writer(folder / "file")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (folder / "file").is_symlink() and (folder / "file").stat().st_size


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "file") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_two_who_write_one_file_do_not_meet(tmp_path):
    with whole_file(tmp_path / "file") as first:
        first.write(b"first")
        write_whole(tmp_path / "file", "second")
        assert (tmp_path / "file").read_text() == "second"
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "first"


def test_arrays_are_read_back_and_damage_is_none(tmp_path):
    write_arrays(tmp_path / "new" / "a.npz", {"a": np.arange(3), "name": "text"})
    kept = read_arrays(tmp_path / "new" / "a.npz")
    assert kept["a"].tolist() == [0, 1, 2] and str(kept["name"]) == "text"
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "new" / "a.npz").read_bytes()[:-30])
    assert read_arrays(tmp_path / "damaged.npz") is None and read_arrays(tmp_path / "none.npz") is None


def test_arrays_of_another_or_that_claim_much_have_to_be_made_again(tmp_path):
    write_arrays(tmp_path / "a.npz", {"a": np.arange(3)})
    shutil.copy(tmp_path / "a.npz", tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", a=np.arange(3))
    os.mkfifo(tmp_path / "d.npz")
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive, archive.open("a.npy", "w") as part:
        described = {"descr": "<i8", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(part, described)
    assert [read_arrays(tmp_path / f"{name}.npz") is None for name in "abcde"] == [False, *[True] * 4]
    assert read_arrays(tmp_path / "c.npz", is_named=False)["a"].tolist() == [0, 1, 2]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with sole_writer(tmp_path), pytest.raises(ResultError, match="another process"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        pass


def test_a_writer_that_dies_frees_its_folder(tmp_path):
    code = (
        "import sys, pathlib; from ciess_ray.files.whole import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(ResultError, match="another process"), sole_writer(tmp_path):
            pass
        process.kill()
    with sole_writer(tmp_path):
        pass


class TestFolders:
    OLD = {"a": b"old", "b": b"old", "in/c": b"old", "gone": b"old"}
    NEW = {"a": b"new", "b": b"new", "in/c": b"new"}

    @pytest.fixture
    def folder(self, tmp_path):
        """A folder that an earlier process wrote."""
        return self.fill(tmp_path / "folder", self.OLD)

    @staticmethod
    def fill(folder, files):
        for name, content in files.items():
            write_whole(folder / name, content)
        return folder

    def replace(self, folder):
        with replaced_files(folder) as new:
            self.fill(new, self.NEW)

    def test_a_folder_is_replaced_as_a_whole_wherever_its_writer_is_killed(self, folder):
        def write():
            with whole_folder(folder) as new:
                self.fill(new, self.NEW)

        for num_changes in itertools.count():
            is_over = not is_killed(write, num_changes)
            if is_over or content_of(folder) == self.NEW:
                break
            assert content_of(folder) == self.OLD
        assert num_changes >= 8 and content_of(folder) == self.NEW
        write()
        assert names(folder.parent) == ["folder"]

    def test_files_are_replaced_together_wherever_their_writer_is_killed(self, folder, tmp_path):
        expected = {"gone": b"old", **self.NEW}

        found = []
        for num_changes in itertools.count():
            copy = Path(shutil.copytree(folder, tmp_path / f"{num_changes}"))
            is_over = not is_killed(partial(self.replace, copy), num_changes)
            settle(copy)
            found.append({name: text for name, text in content_of(copy).items() if not name.startswith(".")})
            if is_over:
                break
        assert [one for one in found if one not in (self.OLD, expected)] == []
        assert found[0] == self.OLD and found[-1] == found[-2] == expected and num_changes >= 12
        self.replace(folder)
        assert content_of(folder) == expected and not list(folder.glob(".*"))

    def test_a_block_that_fails_leaves_the_folder(self, folder):
        for replaced in (whole_folder, replaced_files):
            with pytest.raises(KeyboardInterrupt), replaced(folder) as new:
                self.fill(new, self.NEW)
                raise KeyboardInterrupt
            assert content_of(folder) == self.OLD and names(folder.parent) == ["folder"]

    def test_a_link_is_not_followed(self, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(ResultError, match="link: is a link"), whole_folder(tmp_path / "link"):
            pass
        (folder / "link").symlink_to(tmp_path)
        with whole_folder(folder) as new:
            self.fill(new, self.NEW)
        assert content_of(folder) == self.NEW and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_not_waited_for(make, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(ResultError, match="no regular file|cannot be read"):
        read_regular(tmp_path / "file", 9)


def test_a_folder_that_cannot_be_written_is_refused_and_none_is_left(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"a/b: cannot be made \(.*file: Not a directory\); name a folder"):
        check_writable(tmp_path / "file" / "a/b")
    with pytest.raises(ResultError, match=r"/proc: cannot be written \(/proc: "):
        check_writable(Path("/proc"))


def test_a_second_who_replaces_a_folder_is_refused(tmp_path):
    with whole_folder(tmp_path / "folder") as first:
        (first / "a").write_text("1")
        with (
            pytest.raises(ResultError, match="another process is at work"),
            whole_folder(tmp_path / "folder"),
        ):
            pass
        (first / "b").write_text("1")
    assert {file.name: file.read_text() for file in (tmp_path / "folder").iterdir()} == {"a": "1", "b": "1"}
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_what_waits_in_a_folder_is_moved_through_no_link_of_it(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (folder / ".ready" / "inner").mkdir(parents=True)
    (folder / ".ready" / "inner" / "file").write_text("a stranger's")
    (folder / "inner").symlink_to(outside)
    with pytest.raises(ResultError, match=r"folder/inner: is a link, through which nothing is replaced"):
        settle(folder)
    assert (outside / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_can_be_no_name_of_a_folder_is_refused(name, tmp_path):
    with pytest.raises(ResultError, match="cannot be made .*; name a folder that you may write"):
        check_writable(tmp_path / name)
