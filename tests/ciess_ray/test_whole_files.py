"""Files are whole or not there, links are not followed, and one process writes a folder."""

import subprocess
import sys

import numpy as np
import pytest

from ciess_ray.storage import Storage
from ciess_ray.whole_files import copy_whole, read_arrays, sole_writer, whole_file, write_arrays, write_whole
from envs.errors import ResultError

WRITERS = {
    "text": lambda path: write_whole(path, "new"),
    "arrays": lambda path: write_arrays(path, {"a": np.arange(3)}),
    "copy": lambda path: copy_whole(path.with_name("other"), path),
    "storage": lambda path: Storage(path.parent).write(path.name, b"new"),
    "upload": lambda path: Storage(path.parent).upload(path.with_name("other"), path.name),
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


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with sole_writer(tmp_path), pytest.raises(ResultError, match="another process"), sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        pass


def test_a_writer_that_dies_frees_its_folder(tmp_path):
    code = (
        "import sys, pathlib; from ciess_ray.whole_files import sole_writer\n"
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
