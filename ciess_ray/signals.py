"""SIGTERM, with which clusters and containers end a process, ends one of ours as Ctrl-C does."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: 128 + the number of the signal, as a shell tells of a process that one has ended.
EXIT_STATUS = 128 + signal.SIGTERM

#: Set where SIGTERM has come since a block of :func:`terminable` began.
_terminated = threading.Event()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """In the block SIGTERM does what SIGINT does; outside of the main thread there is nothing to do.

    Ray puts a handler of its own in place as it starts, which ends the process as one that failed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _terminated.clear()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def is_terminated() -> bool:
    """Whether it was SIGTERM that interrupted this process."""
    return _terminated.is_set()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _terminated.set()
    handler = signal.getsignal(signal.SIGINT)
    # A process in the background ignores SIGINT; while a sweep runs Tune has a handler that keeps its state.
    if not callable(handler) or handler is signal.default_int_handler:
        raise KeyboardInterrupt("SIGTERM")
    handler(signal.SIGINT, frame)
