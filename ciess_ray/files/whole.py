"""Files that are there whole or not at all, and folders that one process at a time writes."""

import contextlib
import ctypes
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from io import BufferedReader
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
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        # What can be no folder's name is a ValueError.
        with contextlib.suppress(OSError):
            os.stat(folder)
        with tempfile.TemporaryFile(dir=there):
            pass
    except (OSError, ValueError) as error:
        raise ResultError(
            f"{folder}: cannot be {'written' if there == folder.absolute() else 'made'} ({there}: "
            f"{getattr(error, 'strerror', error)}); name a folder that you may write."
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
    with whole_file(path) as stream:
        np.savez_compressed(stream, **{_NAME: path.name, **arrays})


def read_arrays(path: Path, *, is_named: bool = True) -> dict[str, NDArray[Any]] | None:
    """The arrays that :func:`write_arrays` wrote under this name; None where there are none.

    Where the file is damaged, another's, or claims more than its bytes can stand for, they have to be made
    again.

    Args:
        path: The file.
        is_named: Whether it must say its name, which it did not always.
    """
    try:
        arrays = arrays_of(path)
    except Exception:  # Damage shows in a dozen ways, of zipfile, zlib and NumPy.
        return None
    name = arrays.pop(_NAME, None)
    return arrays if str(name) == path.name or (name is None and not is_named) else None


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file; no more memory is filled than its bytes can stand for.

    Raises:
        ResultError: There is no such file, or it is another thing.
        Exception: It is damaged; of zipfile, zlib or NumPy, by where the damage is.
    """
    with open_regular(path) as stream, np.load(stream, allow_pickle=False) as archive:
        # An array that claims more than its entry has fails as that comes to its end.
        num_bytes = sum(entry.file_size for entry in archive.zip.infolist())
        if num_bytes > DEFLATED * size_of(path):
            raise ValueError(f"it claims {num_bytes:,} bytes")
        return dict(archive)


def open_regular(file: Path) -> BufferedReader:
    """A stream of a file's bytes; one that is a device or a pipe is never waited for.

    Raises:
        ResultError: There is no such file, or it is another thing.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ResultError(f"{file}: damaged: it is no regular file.")
        return file.open("rb")
    except FileNotFoundError:
        raise ResultError(
            f"{file}: no such file; is {file.parent} the folder of a finished search, or of a packed export?"
        ) from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read ({error.strerror}).") from error


def size_of(file: Path) -> int:
    """Bytes of a file; raises as :func:`open_regular`."""
    with open_regular(file) as stream:
        return os.fstat(stream.fileno()).st_size


def read_regular(file: Path, max_bytes: int) -> bytes:
    """The content of a file.

    Raises:
        ResultError: As :func:`open_regular`, or it has more bytes.
    """
    size = size_of(file)
    if size > max_bytes:
        raise ResultError(f"{file}: damaged: {size:,} bytes are more than it can have.")
    return file.read_bytes()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of another, and of all that is in that, at the end of the block.

    It lies beside it until then. Where the file system can exchange two names (Linux, on a local disk) a
    process that is killed leaves the old folder or the new one; what it leaves beside goes with the next
    folder of this name. Elsewhere there is a moment between two renamings.

    Args:
        path: What is replaced: nothing, or a folder.

    Raises:
        ResultError: It is a link, another process writes it, or it cannot be replaced as a whole.
    """
    beside = path.with_name(f".{path.name}.partial")
    for place in (path, beside):
        if place.is_symlink():
            raise ResultError(f"{place}: is a link; name the folder itself.")
    with sole_writer(beside):
        new = beside / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            _exchange(new, path)
        finally:
            # By now with what was there before.
            shutil.rmtree(beside, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    """Give a folder the name of another, or of none, which gets its name."""
    with contextlib.suppress(OSError):
        # Over nothing, or a folder with nothing in it.
        new.rename(path)
        return
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename and not rename(_HERE, os.fsencode(new), _HERE, os.fsencode(path), _RENAME_EXCHANGE):
        return
    old = new.with_name("old")
    try:
        path.rename(old)
        new.rename(path)
    except OSError as error:
        raise ResultError(
            f"{path}: cannot be replaced as a whole ({error.strerror}); name a folder within it."
        ) from error


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
    try:
        for waiting in sorted(ready.rglob("*")):
            target = folder / waiting.relative_to(ready)
            if not waiting.is_dir():
                # Another process may be at it too.
                with contextlib.suppress(FileNotFoundError):
                    waiting.replace(target)
            elif target.is_symlink():
                # The folder may be a stranger's, who would have files of others replaced.
                raise ResultError(f"{target}: is a link, through which nothing is replaced; remove {ready}.")
            else:
                target.mkdir(exist_ok=True)
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
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(folder / "lock", timeout=0))
        except Timeout as error:
            raise ResultError(f"{folder.parent}: another process is at work in this folder.") from error
        except OSError:  # A file system without locks: nobody keeps the second one away.
            pass
        yield
