"""What is left where a process is killed before a change that it makes to the file system."""

import os
import signal
import sys
import threading
from collections.abc import Callable

_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "ctypes.dlsym"}


class Killed(BaseException):
    """From here on the process changes nothing."""


class _Watch:
    """Counts the changes of one thread, and lets none but the first so many happen."""

    def __init__(self) -> None:
        self.thread, self.number, self.allowed, self.is_real = 0, 0, 0, False
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple) -> None:
        if self.thread != threading.get_ident():
            return
        is_change = event in _CHANGES
        if event == "open":
            is_change = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if is_change:
            self.number += 1
            if self.number > self.allowed:
                if self.is_real:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise Killed


_watch: _Watch | None = None


def is_killed(act: Callable[[], object], num_changes: int) -> bool:
    """Runs code whose process dies after so many changes; what it would tidy up stays too.

    Returns:
        Whether it was killed before its end.
    """
    global _watch
    # A hook stays for good.
    _watch = _watch or _Watch()
    _watch.number, _watch.allowed, _watch.thread = 0, num_changes, threading.get_ident()
    try:
        act()
    except Killed:
        return True
    finally:
        _watch.thread = 0
    return False


def is_really_killed(act: Callable[[], object], num_changes: int) -> bool:
    """The same with SIGKILL in a process of its own, which this one becomes first."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    try:
        global _watch
        _watch = _watch or _Watch()
        _watch.is_real = True
        is_killed(act, num_changes)
    finally:
        os._exit(0)


def content_of(folder):
    """Bytes of every file of a folder and of those in it, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
