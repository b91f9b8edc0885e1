import os
import signal
import threading

import pytest

from ciess_ray.resources import ray_session
from ciess_ray.signals import is_terminated, terminable


def end():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def handle():
    """Puts another handler of a signal in place."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield signal.signal
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_interrupts_within_the_block_and_what_was_there_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminable():
        end()
    assert is_terminated() and signal.getsignal(signal.SIGTERM) == before
    with terminable():
        assert not is_terminated()


def test_a_process_that_ignores_sigint_ends_too(handle):
    handle(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), terminable():
        end()


def test_who_handles_sigint_handles_sigterm(handle):
    seen = []
    handle(signal.SIGINT, lambda number, frame: seen.append(number))
    with terminable():
        end()
    assert seen == [signal.SIGINT]


def test_a_ray_session_is_interrupted_whatever_ray_has_put_in_place(ray_cluster, handle):
    def fail(number, frame):
        raise SystemExit(number)

    handle(signal.SIGTERM, fail)
    with pytest.raises(KeyboardInterrupt), ray_session():
        end()


def test_outside_of_the_main_thread_nothing_changes():
    found = []

    def look():
        with terminable():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [before]
