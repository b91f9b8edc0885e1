"""A folder as a process that is killed leaves it, at every moment of its work."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}


class _Watch:
    """Copies a folder before each change that Python is about to make in it."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.copies: list[Path] = []
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple) -> None:
        folder = self.folder
        if folder is None or not self._changes(event, arguments):
            return
        # Copying is no change of the folder's.
        self.folder = None
        self.copies.append(self.target / f"{len(self.copies):04}")
        shutil.copytree(folder, self.copies[-1], symlinks=True)
        self.folder = folder

    def _changes(self, event: str, arguments: tuple) -> bool:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return False
        elif event not in _CHANGES:
            return False
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return False
        path = os.fsdecode(arguments[0])
        # What is removed as a tree is named within it.
        return not os.path.isabs(path) or Path(path).is_relative_to(str(self.folder))


_watch: _Watch | None = None


@contextlib.contextmanager
def moments_of(folder: Path, target: Path) -> Iterator[list[Path]]:
    """Copies of a folder before every change of the block's, and after the last of them.

    Args:
        folder: Is watched.
        target: Gets the copies.
    """
    global _watch
    # A hook stays for good.
    _watch = _watch or _Watch()
    target.mkdir()
    _watch.target, _watch.copies, _watch.folder = target, [], folder
    try:
        yield _watch.copies
    finally:
        _watch.folder = None
    shutil.copytree(folder, target / "end", symlinks=True)
    _watch.copies.append(target / "end")
