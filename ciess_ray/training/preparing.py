"""One Ray task trains what is trained once before the steps, for a search, a sweep and a comparison alike.

Whoever starts the task keeps what comes of it in a file by its hash, hands it on through Ray's object store,
and is told how far it has come.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.resources import gpus_of_each
from ciess_ray.training.costs import Cost, Meter
from ciess_ray.training.pretrained import FullSizeFit, Preparation, Tell, state_in
from envs.data import Interactions
from envs.errors import TrainingError
from envs.step_modes import State

Arrays = Mapping[str, NDArray[Any]]

_COST = "cost/"


@dataclass(frozen=True, eq=False)
class Prepared:
    """What came of a :class:`ciess_ray.training.pretrained.Preparation`.

    Attributes:
        arrays: By name; what its file holds.
        is_cached: Whether it was found instead of trained.
    """

    arrays: Arrays
    is_cached: bool = False

    @property
    def full(self) -> FullSizeFit:
        """The full-size fit."""
        return FullSizeFit.from_arrays(self.arrays)

    @property
    def state(self) -> State:
        """The supernet's parameters."""
        return state_in(self.arrays)

    @property
    def cost(self) -> Cost:
        """What it took when it was trained."""
        return Cost(**{field.name: self.arrays[_COST + field.name].item() for field in fields(Cost)})


def prepare(
    preparation: Preparation,
    interactions: Any,
    *,
    num_threads: int | None = None,
    tell: Tell | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Prepared:
    """Find what an earlier run, or somebody else, has trained already, or have it trained now and keep it.

    Args:
        preparation: What.
        interactions: Reference to the splits.
        num_threads: Of the training; None for as many as this process would take.
        tell: Called now and then with the batches trained and the quality, or the loss.
        shared: By key, references to what was trained ahead, or to the error that it ended in.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of the training died again and again.
    """
    if shared and preparation.key in shared:
        arrays = ray.get(shared[preparation.key])
        made = arrays if isinstance(arrays, Exception) else Prepared(arrays, is_cached=True)
    else:
        threads = num_threads or torch.get_num_threads()
        folder = preparation.config.kept_folder
        ((_, made),) = _each([(preparation, interactions)], folder, lambda _: threads, tell)
    if isinstance(made, Exception):
        raise made
    return made


def prepare_all(
    preparations: Sequence[tuple[Preparation, Any]],
    folder: Path,
    num_threads: Callable[[Preparation], int],
    on_done: Callable[[Preparation], None],
) -> dict[str, Any]:
    """Have many trained side by side.

    Args:
        preparations: Each with a reference to its splits.
        folder: Where what is trained is looked for and left.
        num_threads: Of a training.
        on_done: Called when one is there, or has failed.

    Returns:
        References by key, see :func:`prepare`.
    """
    references = {}
    for preparation, made in _each(preparations, folder, num_threads):
        # Whoever needs what has failed fails with it.
        references[preparation.key] = ray.put(made if isinstance(made, Exception) else made.arrays)
        on_done(preparation)
    return references


def _each(
    preparations: Sequence[tuple[Preparation, Any]],
    folder: Path,
    num_threads: Callable[[Preparation], int],
    tell: Tell | None = None,
) -> Iterator[tuple[Preparation, Prepared | Exception]]:
    """Each as it is there, or has failed; they are trained side by side."""
    streams: dict[Any, Preparation] = {}
    try:
        for preparation, interactions in preparations:
            kept = read_arrays(file_of(preparation, folder))
            if kept is not None:
                yield preparation, Prepared(kept, is_cached=True)
            else:
                threads, num_claims = num_threads(preparation), len(preparations)
                streams[start(preparation, interactions, threads, num_claims=num_claims)] = preparation
        while streams:
            (stream,), _ = ray.wait(list(streams), num_returns=1)
            preparation = streams[stream]
            made: Prepared | Exception
            try:
                news = next_of(stream, f"the {preparation.kind}")
            except Exception as error:
                made = error
            else:
                if not isinstance(news, Done):
                    if tell is not None:
                        tell(*news)
                    continue
                write_arrays(file_of(preparation, folder), news.value)
                made = Prepared(news.value)
            del streams[stream]
            yield preparation, made
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)


def file_of(preparation: Preparation, folder: Path) -> Path:
    """Where what is trained is looked for and left."""
    return folder / f"{preparation.key}.npz"


def start(
    preparation: Preparation,
    interactions: Any,
    num_threads: int,
    *,
    num_claims: int = 1,
    is_alone: bool = False,
) -> Any:
    """The task, as a stream that :func:`ciess_ray.training.preparing.next_of` reads.

    Args:
        preparation: What is trained.
        interactions: Reference to the splits.
        num_threads: Of the training.
        num_claims: How many such share the GPUs.
        is_alone: Whether it gets a process of its own, whose memory is then the training's.
    """
    config = preparation.config
    task: Any = _train_alone if is_alone else _train
    return task.options(
        num_cpus=config.resources.num_cpus_per_training,
        num_gpus=gpus_of_each(config, config.resources.num_gpus_per_training, num_claims),
    ).remote(preparation, interactions, num_threads)


def _stream(preparation: Preparation, interactions: Interactions, num_threads: int) -> Iterator[Any]:
    torch.set_num_threads(num_threads)
    meter = Meter()

    def work(tell: Callable[[Any], None]) -> dict[str, Any]:
        with meter.phase("training"):
            arrays = preparation.train(interactions, lambda batch, value: tell((batch, value)))
        cost = {_COST + name: value for name, value in asdict(meter.cost(num_trainings=1)).items()}
        return {name: np.asarray(value) for name, value in (arrays | cost).items()}

    yield from streamed(work)


_train: Any = ray.remote(num_returns="streaming", max_retries=3)(_stream)
_train_alone: Any = ray.remote(num_returns="streaming", max_retries=3, max_calls=1)(_stream)


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
