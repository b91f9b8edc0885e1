"""Many sizes, a fresh recommender trained for each: Ray tasks side by side, each kept as it ends.

A training depends on its sizes, its seed and the run, on nothing that ran before or beside it.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch

from ciess_ray import metric_keys
from ciess_ray.config.keys import NOT_TRAINING, key_of_run
from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.resources import gpus_of_each, num_threads
from ciess_ray.searches.run import Run
from ciess_ray.training.contest import Trained
from ciess_ray.training.convergence import fit_to_convergence, train_for_test
from ciess_ray.training.preparing import Done, next_of, streamed
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes, PlacedSizes
from envs.step_modes import state_of

Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Training:
    """What is to be trained.

    Attributes:
        name: What a reader calls it.
        sizes: One embedding size an entity.
        seed: What its initial values and triples depend on.
        best_batch: Where validation was best, for a training on training and validation interactions that is
            measured on test; None for one that finds this out.
        l2: A further one of ``recommender.options.l2``; None for the first.
    """

    name: str
    sizes: EmbeddingSizes
    seed: tuple[int, ...]
    best_batch: int | None = None
    l2: float | None = None


def train_all(run: Run, trainings: Sequence[Training]) -> list[Trained]:
    """Train all of them; what a run that was broken off has trained before is read.

    The journal is told of each as it ends, and now and then of how far one has come.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of a training died again and again.
    """
    config, journal = run.config, run.journal
    files = [
        config.checkpoint_folder / f"training-{_key(config, run.interactions, training)}.npz"
        for training in trainings
    ]
    trained: dict[int, Trained] = {}

    def remember(position: int, outcome: Trained) -> None:
        trained[position] = outcome
        sizes = trainings[position].sizes
        metrics = {metric_keys.KEPT_RATIO: sizes.kept_ratio, metric_keys.QUALITY: outcome.quality}
        journal.advance(len(trained), metrics, note=trainings[position].name)

    for position, file in enumerate(files):
        kept = read_arrays(file)
        if kept is not None:
            remember(position, Trained.from_arrays(kept))
    task = _train.options(
        num_cpus=config.resources.num_cpus_per_training,
        num_gpus=gpus_of_each(config, config.resources.num_gpus_per_training, len(trainings)),
    )
    streams = {
        task.remote(config.with_l2(training.l2), run.interactions_ref, training): position
        for position, training in enumerate(trainings)
        if position not in trained
    }
    try:
        while streams:
            (stream,), _ = ray.wait(list(streams), num_returns=1)
            position = streams[stream]
            news = next_of(stream, trainings[position].name)
            if isinstance(news, Done):
                del streams[stream]
                write_arrays(files[position], news.value.to_arrays())
                remember(position, news.value)
            else:
                journal.tell(f"{trainings[position].name}, {news}")
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)
    return [trained[position] for position in range(len(trainings))]


@ray.remote(num_returns="streaming", max_retries=3)
def _train(config: RunConfig, interactions: Interactions, training: Training) -> Iterator[Any]:
    """How far it has come, now and then, and what came of it."""
    torch.set_num_threads(num_threads(config))
    train = _converge if training.best_batch is None else _measure
    yield from streamed(lambda tell: train(config, interactions, training, tell))


def _converge(config: RunConfig, interactions: Interactions, training: Training, tell: Tell) -> Trained:
    _, report = fit_to_convergence(
        config,
        interactions,
        training.sizes,
        training.seed,
        lambda batch, quality: tell(f"batch {batch}, quality {quality:.4f}"),
    )
    return Trained(report.best.summary(), report.best.quality, report.best_batch)


def _measure(config: RunConfig, interactions: Interactions, training: Training, tell: Tell) -> Trained:
    assert training.best_batch is not None
    final = train_for_test(
        config,
        interactions,
        training.sizes,
        training.best_batch,
        training.seed,
        lambda batch, num_batches: tell(f"batch {batch} of {num_batches}"),
    )
    return Trained(final.metrics, float("nan"), final.num_batches, state_of(final.recommender))


def _key(config: RunConfig, interactions: Interactions, training: Training) -> str:
    sizes = training.sizes
    kept = sizes.user.tobytes() + sizes.item.tobytes()
    if isinstance(sizes, PlacedSizes):
        kept += sizes.first_columns.tobytes()
    return key_of_run(
        config.with_l2(training.l2),
        interactions,
        [str(sizes.user.dtype), hashlib.sha256(kept).hexdigest()],
        list(training.seed),
        training.best_batch,
        ignores=NOT_TRAINING,
    )
