"""Trainings as Ray tasks, each kept by the hash of what it depends on; what is trained once before the steps.

The full-size table, which every quality is measured against, and the supernet where steps share one, are
trained once for a search, a sweep and a comparison alike, and handed on through Ray's object store.
"""

import hashlib
import queue
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from ciess_ray.config.data import caps_params_of, check_training_memory, dataset_key
from ciess_ray.config.keys import NOT_SUPERNET, NOT_TRAINING, key_of_run
from ciess_ray.config.run import RunConfig
from ciess_ray.resources import gpus_of_each, num_threads
from ciess_ray.streams import Stream, key_of, rng_of
from ciess_ray.training.convergence import Meter, Trained, fit_to_convergence, full_sizes, recipe_of
from envs.data import Interactions
from envs.errors import TrainingError
from envs.metrics import entity_quality
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import state_of, train_supernet

FULL_SIZE_FIT, SUPERNET = "full-size fit", "supernet"

#: Trains in the process that calls it; is given the splits, and what it tells its news to, if anybody.
Work = Callable[..., Trained]


@dataclass(frozen=True, eq=False)
class Preparation:
    """What is to be trained once: the full-size table to convergence, or a supernet.

    Attributes:
        kind: :data:`FULL_SIZE_FIT` or :data:`SUPERNET`.
        key: Ends in the hash of all that it depends on: the split interactions, recommender, training recipe,
            seed, and the versions of this package and of PyTorch.
        config: The run.
        train: Trains it, unless this machine has no memory for it. What it tells now and then is the batches
            trained and the quality, or the loss.
    """

    kind: str
    key: str
    config: RunConfig
    train: Work

    @classmethod
    def full_size(
        cls, config: RunConfig, interactions: Interactions, *, keeps_state: bool = True
    ) -> "Preparation":
        """The full-size fit of a run.

        Args:
            config: The run.
            interactions: The splits.
            keeps_state: Whether its parameters are kept too, which others may start from.
        """
        key = key_of_run(config, interactions, FULL_SIZE_FIT, keeps_state, ignores=NOT_TRAINING)
        return cls(FULL_SIZE_FIT, f"full-size-{key}", config, partial(_fit_full_size, config, keeps_state))

    @classmethod
    def supernet(
        cls, config: RunConfig, interactions: Interactions, caps_params: Collection[int]
    ) -> "Preparation":
        """The supernet of a run.

        Args:
            config: The run.
            interactions: The splits.
            caps_params: The budgets, near which its prefixes are drawn where nothing else is configured.
        """
        kept_ratios = kept_ratios_of(config, interactions, caps_params)
        key = key_of_run(config, interactions, SUPERNET, kept_ratios, ignores=NOT_SUPERNET)
        return cls(SUPERNET, f"supernet-{key}", config, partial(_train_supernet, config, kept_ratios))


def _fit_full_size(
    config: RunConfig,
    keeps_state: bool,
    interactions: Interactions,
    tell: Callable[..., None] | None = None,
) -> Trained:
    check_training_memory(config, interactions)
    sizes, seed = full_sizes(config, interactions), key_of(config.seed, Stream.FULL_SIZE)
    recommender, report = fit_to_convergence(config, interactions, sizes, seed, tell)
    return Trained.of(
        report,
        state=state_of(recommender) if keeps_state else {},
        entity_quality=entity_quality(report.best, interactions.train),
    )


def _train_supernet(
    config: RunConfig,
    kept_ratios: tuple[float, float],
    interactions: Interactions,
    tell: Callable[..., None] | None = None,
) -> Trained:
    check_training_memory(config, interactions)
    num_batches = config.search.supernet_batches
    supernet = train_supernet(
        recipe_of(config, interactions),
        interactions,
        full_sizes(config, interactions),
        kept_ratios,
        num_batches,
        rng_of(config.seed, Stream.SUPERNET),
        tell,
    )
    return Trained({}, float("nan"), num_batches, state_of(supernet))


def preparations_of(config: RunConfig, interactions: Interactions) -> list[Preparation]:
    """The full-size fit of a search, and its supernet where it has one."""
    start = config.steps.starts_from
    preparations = [Preparation.full_size(config, interactions, keeps_state=start == "full size")]
    if start == "supernet":
        caps_params = caps_params_of(config, interactions)
        preparations.append(Preparation.supernet(config, interactions, caps_params))
    return preparations


def kept_ratios_of(
    config: RunConfig, interactions: Interactions, caps_params: Collection[int]
) -> tuple[float, float]:
    """The least and the greatest kept ratio that a supernet for these budgets is trained on."""
    full_params = full_sizes(config, interactions).num_params
    ratios = [cap_params / full_params for cap_params in caps_params]
    return config.search.supernet_kept_ratios or (min(ratios) * 2 / 3, min(1.0, max(ratios) * 4 / 3))


def prepare(
    preparation: Preparation,
    interactions: Any,
    *,
    tell: Callable[[int, float], None] | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Trained:
    """Find what an earlier run, or somebody else, has trained already, or have it trained now and keep it.

    Args:
        preparation: What.
        interactions: Reference to the splits.
        tell: Called now and then with the batches trained and the quality, or the loss.
        shared: By key, references to what was trained ahead, see :func:`start_all`.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of the training died again and again.
    """
    config, name = preparation.config, f"the {preparation.kind}"
    if shared and preparation.key in shared:
        ahead: Trained = value_of(shared[preparation.key], name)
        return replace(ahead, is_cached=True)
    training = Training(name, file_of(preparation, config.kept_folder), preparation.train)
    for _, news in train_side_by_side(config, [training], interactions, torch.get_num_threads()):
        if tell is not None and not isinstance(news, Trained):
            tell(*news)
    # The last that a training tells is what came of it.
    trained: Trained = news
    return trained


@dataclass(frozen=True, eq=False)
class Training:
    """A training that is a task of its own.

    Attributes:
        name: For a message.
        file: Where what an earlier run has trained is found, and where it is left.
        work: What the task does.
    """

    name: str
    file: Path
    work: Work


def train_side_by_side(
    config: RunConfig, trainings: Sequence[Training], interactions: Any, num_threads: int
) -> Iterator[tuple[int, Any]]:
    """Find what was trained before, and have the rest trained; what is not over when one fails is cancelled.

    Args:
        config: Says what a training claims.
        trainings: What.
        interactions: Reference to the splits.
        num_threads: Of each training.

    Yields:
        Positions of trainings, each with a tuple of its news or, at last, with the :class:`Trained`.

    Raises:
        TrainingError: A loss is NaN or infinite, or the process of a training died again and again.
    """
    task = claiming(_stream_training, config, len(trainings))
    cached = [Trained.read(training.file) for training in trainings]
    yield from ((position, trained) for position, trained in enumerate(cached) if trained)
    streams = {
        task.remote(trainings[position].work, interactions, num_threads): position
        for position, trained in enumerate(cached)
        if trained is None
    }
    for stream, position in as_ready(streams):
        news = value_of(next(stream), trainings[position].name)
        if isinstance(news, Trained):
            news.write(trainings[position].file)
        else:
            # There is more to come.
            streams[stream] = position
        yield position, news


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
        References by key: to what is there or will be, a :class:`Trained`.
    """
    references = {}
    for preparation in preparations:
        config, cached = preparation.config, Trained.read(file_of(preparation, folder))
        references[preparation.key] = (
            claiming(_train, config, num_claims).remote(
                preparation.train, data[dataset_key(config)], num_threads(config)
            )
            if cached is None
            else ray.put(cached)
        )
    return references


def keep(preparation: Preparation, reference: Any, folder: Path) -> Trained:
    """Wait for what is trained, and leave it where the next one finds it.

    Raises:
        TrainingError: As :func:`prepare`.
    """
    trained: Trained = value_of(reference, f"the {preparation.kind}")
    if not trained.is_cached:
        trained.write(file_of(preparation, folder))
    return trained


def as_ready(tasks: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """What is done, as it gets done, and taken out; what is left when nobody asks any more is cancelled.

    Args:
        tasks: What each reference is to, or each stream, of which the next item is what is waited for.
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


def digest_of(sizes: EmbeddingSizes) -> list[str]:
    """What a key has of sizes: what they are, and where their rows begin."""
    kept = sizes.user.tobytes() + sizes.item.tobytes()
    if sizes.first_columns is not None:
        kept += sizes.first_columns.tobytes()
    return [str(sizes.user.dtype), hashlib.sha256(kept).hexdigest()]


def training_file(
    interactions: Interactions,
    config: RunConfig,
    sizes: EmbeddingSizes,
    seed: tuple[int, ...],
    best_batch: int | None,
) -> str:
    """The name of the file in which a training that is over is found again."""
    key = key_of_run(config, interactions, digest_of(sizes), list(seed), best_batch, ignores=NOT_TRAINING)
    return f"training-{key}.npz"


def claiming(function: Any, config: RunConfig, num_claims: int) -> Any:
    """The function of Ray with what a training claims, where so many share the GPUs."""
    return function.options(
        num_cpus=config.resources.num_cpus_per_training,
        num_gpus=gpus_of_each(config.recommender.device, config.resources.num_gpus_per_training, num_claims),
    )


def _measured(work: Work, interactions: Interactions, tell: Callable[..., None] | None = None) -> Trained:
    """What is trained, and what it took."""
    meter = Meter()
    with meter.phase("training"):
        trained = work(interactions, tell)
    return replace(trained, cost=meter.cost(num_trainings=1))


@ray.remote(max_retries=3, max_calls=1)
def _train(work: Work, interactions: Interactions, num_threads: int) -> Trained:
    torch.set_num_threads(num_threads)
    return _measured(work, interactions)


@ray.remote(num_returns="streaming", max_retries=3)
def _stream_training(work: Work, interactions: Interactions, num_threads: int) -> Iterator[Any]:
    """What a training tells, as it tells it, in tuples, and in the end what came of it."""
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,)) as pool:
        training = pool.submit(_measured, work, interactions, lambda *item: news.put(item))
        # Its end ends the news.
        training.add_done_callback(news.put)
        # Ray sends to what is yielded from, which this iterator cannot take.
        for item in iter(news.get, training):  # noqa: UP028
            yield item
        yield training.result()


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
