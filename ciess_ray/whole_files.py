"""Files that are there whole or not at all, and folders that one process at a time writes."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from envs.errors import ResultError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes take the place of a file at the end of the block; of a link, not of its target.

    They are written beside it and are on the disk before they get its name. A block that raises leaves what
    was there; a process that is killed leaves, at worst, a hidden file that ends in ``.partial`` too.

    Args:
        path: The file; its folder is made if it is not there.

    Raises:
        OSError: It could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file as :func:`whole_file` does; text in UTF-8."""
    with whole_file(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file as :func:`whole_file` writes it."""
    with source.open("rb") as content, whole_file(path) as stream:
        shutil.copyfileobj(content, stream)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays, compressed, as :func:`whole_file` does; text and numbers count as arrays."""
    with whole_file(path) as stream:
        np.savez_compressed(stream, **arrays)


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays in a file; None where there is none, or where it is damaged and has to be made again."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return dict(kept)
    except Exception:  # Damage shows in a dozen ways, of zipfile, zlib and NumPy.
        return None


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep a second process from writing the same folder; a process that dies frees it.

    Raises:
        ResultError: Another process writes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ResultError(f"{folder.parent}: another process is at work in this folder.") from error
    except OSError:  # A file system without locks: nobody keeps the second one away.
        pass
    try:
        yield
    finally:
        lock.release()
