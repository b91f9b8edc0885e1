"""Fresh recommenders trained to convergence for given sizes, and measured on test; what they took.

CIESS (arXiv 2304.03501) section 2.2.6: candidates of the search are trained from scratch. What is published
is trained on training and validation interactions together and measured on test; no data is left to stop
on there, so the number of batches is the one that was best on validation, and it and the learning rate's
decay are stretched as the interactions grew. What is packed for use is trained once more in the same way,
on test interactions too.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.config.run import RunConfig
from ciess_ray.files.whole import read_arrays, write_arrays
from ciess_ray.streams import Stream, rng_of
from envs.data import Interactions
from envs.mdp import KINDS
from envs.recommenders import BaseRecommender, resolve_device
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import FitReport, Recipe
from envs.sizes.by_popularity import powers, proportional
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State

_STATE, _COST = "state/", "cost/"
#: Of spectral and neighbour tables with sizes in proportion to powers of popularity from 1/4 to 3/2, on
#: MovieLens latest-small and 100K, this one was within 5 % of the best, equal sizes within 20 %.
_POPULARITY_POWER = 0.75


def cpu_seconds() -> float:
    """User and system seconds of this process, all its threads, and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    # Bytes on macOS, kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Cost:
    """What something took.

    Attributes:
        cpu_s: CPU seconds.
        wall_s: Seconds.
        peak_bytes: The most memory that the process that did it has ever held; what it had imported is in it.
        num_trainings: Recommenders trained.
    """

    cpu_s: float
    wall_s: float
    peak_bytes: int
    num_trainings: int


class Meter:
    """Times the phases of one piece of work.

    Attributes:
        cpu_s: CPU seconds by phase.
        wall_s: Seconds by phase.
    """

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the block takes counts for this phase."""
        cpu, wall = cpu_seconds(), time.perf_counter()
        yield
        self.cpu_s[name] = cpu_seconds() - cpu
        self.wall_s[name] = time.perf_counter() - wall

    def cost(self, num_trainings: int) -> Cost:
        """Of all phases together, after so many trainings."""
        return Cost(sum(self.cpu_s.values()), sum(self.wall_s.values()), peak_bytes(), num_trainings)


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training, of the full-size table, a supernet or another table.

    Attributes:
        metrics: Recall and NDCG on validation, or on test; means over the users that have such items. Empty
            for a supernet.
        quality: Mean ranking metric on validation; NaN where nothing was measured on it.
        num_batches: Batches after which validation was best, or trained.
        state: Parameters of a recommender that was measured on test, or that others start from; empty
            otherwise.
        entity_quality: Validation quality of every user and item of the full-size table, against which other
            tables are measured; empty otherwise.
        cost: What it took; None where nobody looked.
        is_cached: Whether it was found instead of trained.
    """

    metrics: dict[str, float]
    quality: float
    num_batches: int
    state: State = field(default_factory=dict)
    entity_quality: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    cost: Cost | None = None
    is_cached: bool = False

    @classmethod
    def of(cls, report: FitReport, **attributes: Any) -> "Trained":
        """What a training to convergence came to, and the other attributes."""
        return cls(report.best.summary(), report.best.quality, report.best_batch, **attributes)

    def write(self, file: Path) -> None:
        """Leave it in a file that is there whole or not at all."""
        arrays = {
            "metric_names": list(self.metrics),
            "metric_values": list(self.metrics.values()),
            "quality": self.quality,
            "num_batches": self.num_batches,
            **self.entity_quality,
            **{_STATE + name: value for name, value in self.state.items()},
            **{_COST + name: value for name, value in (asdict(self.cost) if self.cost else {}).items()},
        }
        write_arrays(file, arrays)

    @classmethod
    def read(cls, file: Path) -> "Trained | None":
        """What :meth:`write` left; None where there is none, or it is damaged."""
        arrays = read_arrays(file)
        # Of a supernet the parameters alone were kept once.
        if arrays is None or "quality" not in arrays:
            return None
        cost = _with_prefix(_COST, arrays)
        return cls(
            dict(zip(arrays["metric_names"].tolist(), arrays["metric_values"].tolist(), strict=True)),
            float(arrays["quality"]),
            int(arrays["num_batches"]),
            _with_prefix(_STATE, arrays),
            {kind: arrays[kind] for kind in KINDS if kind in arrays},
            Cost(**{name: value.item() for name, value in cost.items()}) if cost else None,
            is_cached=True,
        )


def _with_prefix(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def fit_to_convergence(
    config: RunConfig,
    interactions: Interactions,
    sizes: EmbeddingSizes,
    seed: tuple[int, ...],
    progress: Callable[[int, float], None] | None = None,
    initial: State | None = None,
) -> tuple[BaseRecommender, FitReport]:
    """Train a fresh recommender until its validation quality has stopped rising.

    Args:
        config: The run.
        interactions: The splits.
        sizes: One embedding size an entity.
        seed: What its initial values and triples depend on.
        progress: Called after each validation with the batches trained and the quality.
        initial: Parameters to start from, in place of drawn ones.
    """
    recipe = recipe_of(config, interactions)
    trainer = recipe.trainer(sizes, np.random.default_rng(seed), state=initial)
    return trainer.recommender, trainer.fit(interactions.validation, progress)


def train_for_test(
    config: RunConfig,
    interactions: Interactions,
    sizes: EmbeddingSizes,
    best_batch: int,
    seed: tuple[int, ...],
    progress: Callable[[int, int], None] | None = None,
    initial: State | None = None,
) -> tuple[BaseRecommender, FitReport]:
    """Train on training and validation interactions for as long as was best on training ones alone.

    Args:
        config: The run.
        interactions: The splits; training alone, as in :func:`fit_to_convergence`.
        sizes: One embedding size an entity.
        best_batch: Batches after which validation was best when trained on the training interactions.
        seed: What its initial values and triples depend on.
        progress: Called now and then with the batches trained and their number in all.
        initial: Parameters to start from, in place of drawn ones.

    Returns:
        The recommender, and where it ended: its metrics on test, of no user where no test is revealed.
    """
    merged = interactions.merge_validation_into_training()
    recommender, num_batches = _train_stretched(
        config, interactions, merged, sizes, best_batch, seed, progress, initial
    )
    return recommender, FitReport(evaluate(recommender, merged.train, merged.test), num_batches)


def train_for_use(
    config: RunConfig,
    interactions: Interactions,
    sizes: EmbeddingSizes,
    best_batch: int,
    seed: tuple[int, ...],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[BaseRecommender, int]:
    """Train on all interactions, test included, otherwise as :func:`train_for_test`.

    Nothing is left to measure it on.

    Returns:
        The recommender, and the batches that it was trained.
    """
    merged = interactions.merge_all_into_training()
    return _train_stretched(config, interactions, merged, sizes, best_batch, seed, progress)


def _train_stretched(
    config: RunConfig,
    interactions: Interactions,
    merged: Interactions,
    sizes: EmbeddingSizes,
    best_batch: int,
    seed: tuple[int, ...],
    progress: Callable[[int, int], None] | None = None,
    initial: State | None = None,
) -> tuple[BaseRecommender, int]:
    """Train on merged interactions for as many batches more as they are than those for training."""
    growth = merged.train.nnz / interactions.train.nnz
    num_batches = round(best_batch * growth)
    recipe = recipe_of(stretched(config, growth), merged)
    trainer = recipe.trainer(sizes, np.random.default_rng(seed), state=initial)
    while trainer.num_batches < num_batches:
        trainer.train(min(config.training.evaluate_every, num_batches - trainer.num_batches))
        if progress is not None:
            progress(trainer.num_batches, num_batches)
    return trainer.recommender, num_batches


def stretched(config: RunConfig, growth: float) -> RunConfig:
    """A run whose trainings are so many times as long.

    More batches of a decay that is as fast as before would be batches at its lowest learning rate.
    """
    update = {
        name: round(growth * getattr(config.training, name))
        for name in ("max_batches", "decay_every", "evaluate_every")
    }
    return config.model_copy(update={"training": config.training.model_copy(update=update)})


def recipe_of(config: RunConfig, interactions: Interactions) -> Recipe:
    """How the configured recommender is made and trained on the training interactions."""
    return Recipe(
        interactions.train,
        config.training,
        config.recommender.name,
        config.recommender.options_with(),
        resolve_device(config.recommender.device),
    )


def full_sizes(config: RunConfig, interactions: Interactions) -> EmbeddingSizes:
    """Every entity at d_max."""
    return EmbeddingSizes.full(
        *config.recommender.row_counts(interactions),
        config.recommender.max_embedding_size,
        config.recommender.min_embedding_size,
        config.recommender.num_tables,
    )


def equal_sizes(config: RunConfig, interactions: Interactions, cap_params: int) -> EmbeddingSizes:
    """The same size for everyone, at a cap."""
    recommender = config.recommender
    return EmbeddingSizes.equal(
        *recommender.row_counts(interactions),
        cap_params,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        rng_of(config.seed, Stream.EQUAL_SIZES),
        num_tables=recommender.num_tables,
    )


def users_first(config: RunConfig, interactions: Interactions, cap_params: int) -> EmbeddingSizes:
    """The plain split at a cap in which users have all that leaves items the least."""
    recommender = config.recommender
    num_users, num_items = recommender.row_counts(interactions)
    return EmbeddingSizes.from_proposal(
        np.full(num_users, recommender.max_embedding_size),
        np.full(num_items, recommender.min_embedding_size),
        cap_params,
        recommender.min_embedding_size,
        recommender.max_embedding_size,
        rng_of(config.seed, Stream.EQUAL_SIZES),
        fill=True,
        num_tables=recommender.num_tables,
    )


def by_popularity(config: RunConfig, interactions: Interactions, cap_params: int) -> EmbeddingSizes:
    """The table at a cap in which users are alike, and items have what their popularity deserves, roughly."""
    recommender = config.recommender
    num_users, num_items = recommender.row_counts(interactions)
    bounds = recommender.min_embedding_size, recommender.max_embedding_size
    mean_size = cap_params / recommender.num_tables / (num_users + num_items)
    return EmbeddingSizes.from_proposal(
        np.full(num_users, mean_size),
        proportional(powers(interactions.item_popularity, _POPULARITY_POWER), mean_size, *bounds),
        cap_params,
        *bounds,
        rng_of(config.seed, Stream.EQUAL_SIZES),
        fill=True,
        num_tables=recommender.num_tables,
    )
