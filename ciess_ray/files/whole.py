"""Files that are there whole or not at all, and folders that one process at a time writes."""

import contextlib
import ctypes
import errno
import glob
import math
import os
import shutil
import stat
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from envs.errors import ResultError

#: A byte of what is deflated stands for no more.
DEFLATED = 1032
#: Under this name a file of arrays has its own.
_NAME = "name of this file"
#: Of renameat2: names are of this process's folder; two change places.
_HERE, _RENAME_EXCHANGE = -100, 2
#: Within a folder whose files are replaced together: being written, and written.
_STAGED, _READY = ".new", ".ready"


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


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written; nothing is left of the attempt.

    Raises:
        ResultError: Naming what is in the way.
    """
    try:
        with contextlib.suppress(OSError):
            os.stat(folder)
    except ValueError as error:
        raise ResultError(f"{str(folder)!a}: can be no folder's name ({error}); name another.") from error
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ResultError(
            f"{folder}: cannot be {'written' if there == folder.absolute() else 'made'} ({there}: "
            f"{error.strerror}); name a folder that you may write."
        ) from error


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
    named: dict[str, Any] = {_NAME: path.name, **arrays}
    with whole_file(path) as stream:
        np.savez_compressed(stream, **named)


def read_arrays(path: Path, *, is_named: bool = True) -> dict[str, NDArray[Any]] | None:
    """The arrays that :func:`write_arrays` wrote under this name; None where there are none.

    Where the file is damaged, another's, or claims more than its bytes can stand for, they have to be made
    again.

    Args:
        path: The file.
        is_named: Whether it must say its name, which it did not always.
    """
    try:
        with open(open_regular(path), "rb") as stream, np.load(stream, allow_pickle=False) as kept:
            num_bytes = os.fstat(stream.fileno()).st_size
            for entry in kept.zip.infolist():
                _check_claim(kept.zip, entry, num_bytes)
            arrays = dict(kept)
    except Exception:  # Damage shows in a dozen ways, of zipfile, zlib and NumPy.
        return None
    name = arrays.pop(_NAME, None)
    return arrays if str(name) == path.name or (name is None and not is_named) else None


def read_npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the array that a stream holds, which is then at its first value."""
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[np.lib.format.read_magic(stream)]
    shape, _, dtype = reader(stream)
    return shape, dtype


def _check_claim(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, num_bytes: int) -> None:
    """Refuse an array that is longer than what is there.

    Raises:
        ValueError: It is.
    """
    with archive.open(entry) as stream:
        shape, dtype = read_npy_header(stream)
    claimed = math.prod(shape) * dtype.itemsize
    if not claimed <= entry.file_size <= DEFLATED * num_bytes:
        raise ValueError(f"{entry.filename} claims {claimed:,} bytes")


def open_regular(file: Path) -> int:
    """A descriptor of a file; one that is a device or a pipe is never waited for.

    Raises:
        ResultError: There is no such file, or it is another thing.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise ResultError(
            f"{file}: no such file; is {file.parent} the folder of a finished search, or of a packed export?"
        ) from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ResultError(f"{file}: damaged: it is no regular file.")
    return descriptor


def read_regular(file: Path, most: int | None = None) -> bytes:
    """The content of a file.

    Args:
        file: Any.
        most: Bytes it may have.

    Raises:
        ResultError: There is no such file, it is another thing, or longer.
    """
    with open(open_regular(file), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if most is not None and size > most:
            raise ResultError(f"{file}: damaged: {size:,} bytes are more than it can have.")
        return stream.read()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For :func:`json.loads`: an object in which no key stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of another, and of all that is in that, at the end of the block.

    It lies beside it until then. Where the file system can exchange two names (Linux, on a local disk) a
    process that is killed leaves the old folder or the new one; what it leaves beside goes with the next
    folder of this name. Elsewhere there is a moment between two renamings.

    Args:
        path: What is replaced: nothing, or a folder.

    Raises:
        ResultError: It is a link, or cannot be replaced as a whole.
    """
    if path.is_symlink():
        raise ResultError(f"{path}: is a link; name the folder itself.")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = f".{glob.escape(path.name)}.*"
    for left in {
        file.with_suffix(".partial")
        for end in (".partial", ".lock")
        for file in path.parent.glob(beside + end)
    }:
        with contextlib.suppress(Timeout), _claimed(left):
            # A file, or a link, is left alone.
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    with _claimed(temporary):
        temporary.mkdir()
        yield from _filled(temporary, path)


def _filled(temporary: Path, path: Path) -> Iterator[Path]:
    try:
        yield temporary
        try:
            _exchange(temporary, path)
        except OSError as error:
            raise ResultError(
                f"{path}: cannot be replaced as a whole ({error.strerror}); name a folder within it."
            ) from error
    finally:
        # By now what was there before.
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _claimed(temporary: Path) -> Iterator[None]:
    """Keep a folder that is being written from who clears away what killed processes left.

    Raises:
        Timeout: Another process writes it.
    """
    file = temporary.with_suffix(".lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise
    except OSError:  # See :func:`sole_writer`.
        pass
    try:
        yield
    finally:
        lock.release()
        file.unlink(missing_ok=True)


def _exchange(new: Path, path: Path) -> None:
    """Give a folder the name of another, or of none, which gets its name."""
    if not path.exists() or not any(path.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        new.rename(path)
        return
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # No Linux.
        pass
    else:
        if not rename(_HERE, os.fsencode(new), _HERE, os.fsencode(path), _RENAME_EXCHANGE):
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    old = new.with_suffix(".old")
    path.rename(old)
    new.rename(path)
    old.rename(new)


@contextlib.contextmanager
def replaced_files(folder: Path) -> Iterator[Path]:
    """A folder within another, whose files take the places of the other's, all of them, after the block.

    A process that is killed before the end of the block has changed none of them. One that is killed after it
    has changed all: who opens the folder next calls :func:`settle`, which moves the rest.

    Raises:
        OSError: A file could not be written; those that were there before are untouched.
    """
    settle(folder)
    staged = folder / _STAGED
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        yield staged
        # From here on the new files are the folder's.
        staged.rename(folder / _READY)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    settle(folder)


def settle(folder: Path) -> None:
    """Move what :func:`replaced_files` had ready when its process was killed; else nothing.

    Raises:
        ResultError: The folder cannot be written, or a link in it leads elsewhere.
    """
    ready = folder / _READY
    if not ready.is_dir() or ready.is_symlink():
        return
    for inner in sorted(ready.rglob("*")):
        # The folder may be a stranger's, who would have files of others replaced.
        place = folder / inner.relative_to(ready)
        if inner.is_dir() and place.is_symlink():
            raise ResultError(f"{place}: is a link, through which nothing is replaced; remove {ready}.")
    try:
        for file in sorted(ready.rglob("*")):
            if not file.is_dir():
                target = folder / file.relative_to(ready)
                target.parent.mkdir(exist_ok=True)
                # Another process may be at it too.
                with contextlib.suppress(FileNotFoundError):
                    file.replace(target)
        shutil.rmtree(ready, ignore_errors=True)
    except OSError as error:
        raise ResultError(
            f"{folder}: a process was killed as it replaced these files; the new ones wait in {ready}, and "
            f"cannot be moved ({error.strerror}): open it once from where it can be written."
        ) from error


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
