"""Trainings as Ray tasks, a process each; what comes of one is kept, by the hash of what it depends on.

Full-size table and supernet are trained once before the steps, for a search, a sweep and a comparison alike,
and handed on through Ray's object store.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ciess_ray.config.data import dataset_key
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.resources import gpus_of_each, num_threads
from ciess_ray.training.convergence import Trained, state_in
from ciess_ray.training.costs import Cost, Meter
from ciess_ray.training.pretrained import Preparation, Tell
from envs.data import Interactions
from envs.errors import TrainingError
from envs.step_modes import State

Arrays = Mapping[str, NDArray[Any]]

_COST = "cost/"


@dataclass(frozen=True, eq=False)
class Prepared:
    """What came of a training.

    Attributes:
        arrays: By name; what its file holds.
        is_cached: Whether it was found instead of trained.
    """

    arrays: Arrays
    is_cached: bool = False

    @property
    def trained(self) -> Trained:
        """Of a table: its figures, and what else is kept of it."""
        return Trained.from_arrays(self.arrays)

    @property
    def state(self) -> State:
        """The parameters that are kept of it, above all a supernet's."""
        return state_in(self.arrays)

    @property
    def cost(self) -> Cost:
        """What the training of a full-size table or a supernet took."""
        return Cost(**{field.name: self.arrays[_COST + field.name].item() for field in fields(Cost)})


def prepare(
    preparation: Preparation,
    interactions: Any,
    *,
    tell: Tell | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Prepared:
    """Find what an earlier run, or somebody else, has trained already, or have it trained now and keep it.

    Args:
        preparation: What.
        interactions: Reference to the splits.
        tell: Called now and then with the batches trained and the quality, or the loss.
        shared: By key, references to what was trained ahead, see :func:`start_all`.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of the training died again and again.
    """
    if shared and preparation.key in shared:
        return Prepared(value_of(shared[preparation.key], f"the {preparation.kind}"), is_cached=True)
    training = Training(
        f"the {preparation.kind}",
        file_of(preparation, preparation.config.kept_folder),
        partial(_measured, preparation),
    )
    made: list[Prepared] = []
    train_side_by_side(
        preparation.config,
        [training],
        interactions,
        torch.get_num_threads(),
        tell=lambda _, news: None if tell is None else tell(*news),
        take=lambda _, prepared: made.append(prepared),
    )
    return made[0]


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is a task of its own.

    Attributes:
        name: For a message.
        file: Where what an earlier run has trained is found, and where it is left.
        work: Called in the task with the splits and with what it tells its news to; gives arrays by name.
    """

    name: str
    file: Path
    work: Callable[[Interactions, Callable[[Any], None]], Mapping[str, Any]]


def train_side_by_side(
    config: RunConfig,
    trainings: Sequence[Training],
    interactions: Any,
    num_threads: int,
    tell: Callable[[int, Any], None],
    take: Callable[[int, Prepared], None],
) -> None:
    """Find what was trained before, and have the rest trained; what is not over when one fails is cancelled.

    Args:
        config: Says what a training claims.
        trainings: What.
        interactions: Reference to the splits.
        num_threads: Of each training.
        tell: Called with the position of a training and its news.
        take: Called with the position of a training that is over, and what came of it.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of a training died again and again.
    """
    task = _claiming(_stream_training, config, len(trainings))
    streams: dict[Any, int] = {}
    try:
        for position, training in enumerate(trainings):
            arrays = read_arrays(training.file)
            if arrays is None:
                streams[task.remote(training.work, interactions, num_threads)] = position
            else:
                take(position, Prepared(arrays, is_cached=True))
        while streams:
            stream: Any = ray.wait(list(streams), num_returns=1)[0][0]
            position = streams[stream]
            news = value_of(next(stream), trainings[position].name)
            if isinstance(news, _Done):
                del streams[stream]
                write_arrays(trainings[position].file, news.arrays)
                take(position, Prepared(news.arrays))
            else:
                tell(position, news)
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)


def start_all(
    preparations: Iterable[Preparation], data: Mapping[str, Any], folder: Path, num_claims: int
) -> dict[str, Any]:
    """Have many trained side by side, each in a process of its own, whose memory is then the training's.

    Args:
        preparations: What.
        data: References to splits by :func:`ciess_ray.config.data.dataset_key`.
        folder: Where what was trained before is looked for.
        num_claims: How many tasks share the GPUs.

    Returns:
        References by key: to what is there or will be.
    """
    references = {}
    for preparation in preparations:
        config, arrays = preparation.config, read_arrays(file_of(preparation, folder))
        if arrays is None:
            task = _claiming(_train, config, num_claims)
            references[preparation.key] = task.remote(
                preparation, data[dataset_key(config)], num_threads(config)
            )
        else:
            references[preparation.key] = ray.put(arrays)
    return references


def keep(preparation: Preparation, reference: Any, folder: Path) -> None:
    """Wait for what is trained, and leave it where the next one finds it.

    Raises:
        TrainingError: As :func:`prepare`.
    """
    arrays, file = value_of(reference, f"the {preparation.kind}"), file_of(preparation, folder)
    if not file.exists():
        write_arrays(file, arrays)


def as_ready(tasks: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What is done, as it gets done, and taken out; what is left when nobody asks any more is cancelled.

    Args:
        tasks: What each reference is to.
    """
    try:
        while tasks:
            (reference,), _ = ray.wait(list(tasks), num_returns=1)
            yield reference, tasks.pop(reference)
    finally:
        for reference in tasks:
            ray.cancel(reference, force=True)


def file_of(preparation: Preparation, folder: Path) -> Path:
    """Where what is trained is looked for and left."""
    return folder / f"{preparation.key}.npz"


def _claiming(function: Any, config: RunConfig, num_claims: int) -> Any:
    """The function of Ray with what a training claims, where so many share the GPUs."""
    return function.options(
        num_cpus=config.resources.num_cpus_per_training,
        num_gpus=gpus_of_each(config, config.resources.num_gpus_per_training, num_claims),
    )


def _measured(
    preparation: Preparation, interactions: Interactions, tell: Callable[[Any], None]
) -> dict[str, NDArray[Any]]:
    """What is trained, and what it took."""
    meter = Meter()
    with meter.phase("training"):
        arrays = preparation.train(interactions, lambda batch, value: tell((batch, value)))
    cost = {_COST + name: value for name, value in asdict(meter.cost(num_trainings=1)).items()}
    return {name: np.asarray(value) for name, value in (arrays | cost).items()}


@ray.remote(max_retries=3, max_calls=1)
def _train(preparation: Preparation, interactions: Interactions, num_threads: int) -> dict[str, NDArray[Any]]:
    torch.set_num_threads(num_threads)
    return _measured(preparation, interactions, lambda news: None)


@dataclass(frozen=True, eq=False)
class _Done:
    """The last that :func:`_stream_training` gives."""

    arrays: Arrays


@ray.remote(num_returns="streaming", max_retries=3)
def _stream_training(work: Any, interactions: Interactions, num_threads: int) -> Iterator[Any]:
    """What a :class:`Training` tells, as it tells it, and in the end :class:`_Done`."""
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            torch.set_num_threads(num_threads)
            news.put(_Done(work(interactions, news.put)))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=run, daemon=True).start()
    while True:
        item = news.get()
        if isinstance(item, BaseException):
            raise item
        yield item
        if isinstance(item, _Done):
            return


def value_of(reference: Any, name: str) -> Any:
    """What a task gave.

    Args:
        reference: To it.
        name: What the task trains, for a message.

    Raises:
        TrainingError: Its process died again and again; and whatever the task raised, as it was raised there.
    """
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"the process that trained {name} died again and again ({type(error).__name__}: {error}); is "
            "there memory for as many trainings at once? A larger resources.num_cpus_per_training runs fewer."
        ) from error
