"""One Ray task trains what is trained once before the steps, for a search, a sweep and a comparison alike.

Whoever starts the task keeps what comes of it in a file by its hash, hands it on through Ray's object store,
and is told how far it has come.
"""

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
from ciess_ray.training.streamed_tasks import Done, next_of, streamed
from envs.data import Interactions
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
        return Cost(**{one.name: self.arrays[_COST + one.name].item() for one in fields(Cost)})


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
        found = ray.get(shared[preparation.key])
        if isinstance(found, BaseException):
            raise found
        return Prepared(found, is_cached=True)
    file = file_of(preparation, preparation.config.kept_folder)
    kept = read_arrays(file)
    if kept is not None:
        return Prepared(kept, is_cached=True)
    stream = start(preparation, interactions, num_threads or torch.get_num_threads())
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
    made: dict[str, Any] = {}
    streams: dict[Any, Preparation] = {}
    try:
        for preparation, interactions in preparations:
            kept = read_arrays(file_of(preparation, folder))
            if kept is not None:
                made[preparation.key] = ray.put(kept)
                on_done(preparation)
            else:
                count = len(preparations)
                stream = start(preparation, interactions, num_threads(preparation), num_claims=count)
                streams[stream] = preparation
        while streams:
            (stream,), _ = ray.wait(list(streams), num_returns=1)
            preparation = streams[stream]
            try:
                news = next_of(stream, f"the {preparation.kind}")
            except Exception as error:
                # Whoever needs it fails with it.
                made[preparation.key] = ray.put(error)
            else:
                if not isinstance(news, Done):
                    continue
                write_arrays(file_of(preparation, folder), news.value)
                made[preparation.key] = ray.put(news.value)
            del streams[stream]
            on_done(preparation)
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)
    return made


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
    """The task, as a stream that :func:`ciess_ray.training.streamed_tasks.next_of` reads.

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
