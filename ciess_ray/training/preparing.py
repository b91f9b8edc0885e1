"""One Ray task trains what is trained once before the steps, for a search, a sweep and a comparison alike.

Whoever starts the task keeps what comes of it in a file by its hash, hands it on through Ray's object store,
and is told how far it has come.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ciess_ray.config.data import dataset_key
from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.resources import gpus_of_each, num_threads
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
    file = file_of(preparation, preparation.config.kept_folder)
    kept = read_arrays(file)
    if kept is not None:
        return Prepared(kept, is_cached=True)
    stream = _task(_stream_training, preparation).remote(preparation, interactions, torch.get_num_threads())
    is_over = False
    try:
        while True:
            ray.wait([stream])
            news = next_of(stream, f"the {preparation.kind}")
            if isinstance(news, Done):
                is_over = True
                write_arrays(file, news.value)
                return Prepared(news.value)
            if tell is not None:
                tell(*news)
    finally:
        if not is_over:
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
            task = _task(_train, preparation, num_claims)
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


def _task(function: Any, preparation: Preparation, num_claims: int = 1) -> Any:
    """The function of Ray with what a training claims."""
    config = preparation.config
    return function.options(
        num_cpus=config.resources.num_cpus_per_training,
        num_gpus=gpus_of_each(config, config.resources.num_gpus_per_training, num_claims),
    )


def _trained(
    preparation: Preparation, interactions: Interactions, num_threads: int, tell: Callable[[Any], None]
) -> dict[str, NDArray[Any]]:
    """What is trained, and what it took."""
    torch.set_num_threads(num_threads)
    meter = Meter()
    with meter.phase("training"):
        arrays = preparation.train(interactions, lambda batch, value: tell((batch, value)))
    cost = {_COST + name: value for name, value in asdict(meter.cost(num_trainings=1)).items()}
    return {name: np.asarray(value) for name, value in (arrays | cost).items()}


@ray.remote(max_retries=3, max_calls=1)
def _train(preparation: Preparation, interactions: Interactions, num_threads: int) -> dict[str, NDArray[Any]]:
    return _trained(preparation, interactions, num_threads, lambda news: None)


@ray.remote(num_returns="streaming", max_retries=3)
def _stream_training(preparation: Preparation, interactions: Interactions, num_threads: int) -> Iterator[Any]:
    yield from streamed(lambda tell: _trained(preparation, interactions, num_threads, tell))


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
    """The next news of a task, in the end :class:`Done`, and after it None; see :func:`value_of`."""
    try:
        return value_of(next(stream), name)
    except StopIteration:
        return None


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
