import errno
import os
import pickle

import numpy as np
import pytest

from ciess_ray.searches.checkpoints import Checkpoints
from envs.errors import ResultError

IDENTITY = {"dataset": "abc", "recommender": "lightgcn", "version": "0.1.0"}


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", IDENTITY, interval_s=0.0, num_kept=2)


def names(checkpoints):
    return sorted(file.name for file in checkpoints.folder.iterdir())


def test_the_newest_comes_back_and_the_oldest_go(checkpoints):
    assert checkpoints.latest() is None
    for step in (1, 9, 10):
        checkpoints.write(step, {"sizes": np.arange(step), "weight": 0.4})
    assert names(checkpoints) == ["step-00000009.checkpoint", "step-00000010.checkpoint"]
    found = checkpoints.latest()
    assert (found.step, found.skipped, found.state["weight"]) == (10, [], 0.4)
    np.testing.assert_array_equal(found.state["sizes"], np.arange(10))


def test_one_is_due_once_the_interval_has_passed(tmp_path):
    assert Checkpoints(tmp_path, IDENTITY, interval_s=0.0).is_due
    assert not Checkpoints(tmp_path, IDENTITY, interval_s=60.0).is_due


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[: len(content) // 2], "bytes are there"),
        (lambda content: content[:-1], "bytes are there"),
        (lambda content: content[:-9] + b"\0" + content[-8:], "content has changed"),
        (lambda content: content[:40], "first line cannot be read"),
        (lambda content: b"", "first line cannot be read"),
        (lambda content: b"[]\n" + content, "first line cannot be read"),
    ],
)
def test_instead_of_a_damaged_one_the_one_before_is_used_and_that_is_said(checkpoints, damage, says):
    for step in (1, 2):
        checkpoints.write(step, {"sizes": np.arange(1000)})
    newest = checkpoints.folder / "step-00000002.checkpoint"
    newest.write_bytes(damage(newest.read_bytes()))
    found = checkpoints.latest()
    assert found.step == 1
    (note,) = found.skipped
    assert note.startswith(f"{newest.name} is damaged") and says in note and "the one before" in note
    (checkpoints.folder / "step-00000001.checkpoint").write_bytes(b"")
    with pytest.raises(ResultError, match="no checkpoint can be read: .*--overwrite"):
        checkpoints.latest()


@pytest.mark.parametrize("what", IDENTITY)
def test_one_of_something_else_is_refused(checkpoints, what):
    checkpoints.write(3, {})
    other = Checkpoints(checkpoints.folder, IDENTITY | {what: "another one"})
    with pytest.raises(
        ResultError, match=f"another {what}: {IDENTITY[what]}, where this search has another one"
    ):
        other.latest()


def test_one_of_another_format_is_refused(checkpoints):
    checkpoints.write(3, {})
    (file,) = checkpoints.folder.iterdir()
    # 2 is that of the layout before packages had rooms.
    file.write_bytes(file.read_bytes().replace(b"checkpoint 3", b"checkpoint 2"))
    with pytest.raises(ResultError, match="checkpoint 2.* go on with the version .* that wrote it"):
        checkpoints.latest()


def test_nothing_is_unpickled_before_it_is_known_to_be_whole(checkpoints, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    checkpoints.write(1, {})
    (file,) = checkpoints.folder.iterdir()
    header = file.read_bytes().split(b"\n")[0]
    file.write_bytes(header + b"\n" + pickle.dumps(Harm()))
    with pytest.raises(ResultError, match="no checkpoint can be read"):
        checkpoints.latest()
    assert not (tmp_path / "harm").exists()


def test_a_full_disk_leaves_what_was_there(checkpoints, monkeypatch):
    checkpoints.write(1, {"a": 1})

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoints.write(2, {"a": 2})
    assert names(checkpoints) == ["step-00000001.checkpoint"]
    assert checkpoints.latest().state == {"a": 1}


def test_clear_removes_its_own_files_alone(checkpoints):
    checkpoints.write(1, {})
    for name in ("training-1.npz", "supernet-1.npz", "notes.txt"):
        (checkpoints.folder / name).touch()
    checkpoints.clear()
    assert names(checkpoints) == ["notes.txt"]
