"""Ray tasks that tell how far they have come before they give what came of it."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from envs.errors import TrainingError


@dataclass(frozen=True, eq=False)
class Done:
    """The last that a task gives.

    Attributes:
        value: What came of it.
    """

    value: Any


def streamed(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """What work tells, as it tells it, and then :class:`Done`; for the body of a task with streaming returns.

    Args:
        work: Is called with what it tells its news to.
    """
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            news.put(Done(work(news.put)))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    while True:
        item = news.get()
        if isinstance(item, BaseException):
            raise item
        yield item
        if isinstance(item, Done):
            return


def next_of(stream: Any, name: str) -> Any:
    """The next news of a task, in the end :class:`Done`, and after it None.

    Args:
        stream: Of the task.
        name: What it trains, for a message.

    Raises:
        TrainingError: Its process died again and again; and whatever the task raised, as it was raised there.
    """
    try:
        return ray.get(next(stream))
    except StopIteration:
        return None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"the process that trained {name} died again and again ({type(error).__name__}: {error}); is "
            "there memory for as many trainings at once? A larger resources.num_cpus_per_training runs fewer."
        ) from error
