"""SIGTERM, with which clusters and containers end a process, ends one of ours as Ctrl-C does."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: 128 + the number of the signal, as a shell tells of a process that one has ended.
EXIT_STATUS = 128 + signal.SIGTERM


class _Seen:
    """Whether SIGTERM has come since a block of :func:`terminable` began."""

    is_terminated = False


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In the block SIGTERM does what SIGINT does; outside of the main thread there is nothing to do.

    Ray puts a handler of its own in place as it starts, which ends the process as one that failed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Seen.is_terminated = False
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_terminated() -> bool:
    """Whether it was SIGTERM that interrupted this process."""
    return _Seen.is_terminated


def _interrupt(number: int, frame: FrameType | None) -> None:
    _Seen.is_terminated = True
    handler = signal.getsignal(signal.SIGINT)
    # A process in the background ignores SIGINT; while a sweep runs Tune has a handler that keeps its state.
    if not callable(handler) or handler is signal.default_int_handler:
        raise KeyboardInterrupt("SIGTERM")
    handler(signal.SIGINT, frame)
