"""Fresh recommenders trained to convergence for given sizes, and measured on test.

CIESS (arXiv 2304.03501) section 2.2.6: candidates of the search are trained from scratch. What is published
is trained on training and validation interactions together and measured on test; no data is left to stop
on there, so the number of batches is the one that was best on validation, and it and the learning rate's
decay are stretched as the interactions grew.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.config.run import RunConfig
from envs.data import Interactions
from envs.mdp import KINDS
from envs.metrics import RankingMetrics
from envs.recommenders import BaseRecommender, resolve_device
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import FitReport, Recipe, Trainer
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State, load_state

_STATE = "state/"


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training, of the full-size table or of another.

    Attributes:
        metrics: Recall and NDCG on validation, or on test; means over the users that have such items.
        quality: Mean ranking metric on validation; NaN for a training that was measured on test.
        num_batches: Batches after which validation was best, or trained for test.
        state: Parameters of a recommender that was measured on test, or that others start from; empty
            otherwise.
        entity_quality: Validation quality of every user and item of the full-size table, against which other
            tables are measured; empty otherwise.
    """

    metrics: dict[str, float]
    quality: float
    num_batches: int
    state: State = field(default_factory=dict)
    entity_quality: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, report: FitReport, **attributes: Any) -> "Trained":
        """What a training to convergence came to, and the other attributes."""
        return cls(report.best.summary(), report.best.quality, report.best_batch, **attributes)

    def to_arrays(self) -> dict[str, Any]:
        """What :meth:`from_arrays` reads."""
        return {
            "metric_names": np.array(list(self.metrics)),
            "metric_values": np.array(list(self.metrics.values())),
            "quality": self.quality,
            "num_batches": self.num_batches,
            **self.entity_quality,
            **state_arrays(self.state),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Trained":
        """What :meth:`to_arrays` made."""
        return cls(
            dict(zip(arrays["metric_names"].tolist(), arrays["metric_values"].tolist(), strict=True)),
            float(arrays["quality"]),
            int(arrays["num_batches"]),
            state_in(arrays),
            {kind: arrays[kind] for kind in KINDS if kind in arrays},
        )


def state_arrays(state: State) -> dict[str, Any]:
    """What :func:`state_in` reads."""
    return {_STATE + name: value for name, value in state.items()}


def state_in(arrays: Mapping[str, NDArray[Any]]) -> State:
    """The parameters among the arrays of a training."""
    return {name.removeprefix(_STATE): arrays[name] for name in arrays if name.startswith(_STATE)}


@dataclass(frozen=True, eq=False)
class FinalRecommender:
    """A recommender as it is handed over.

    Attributes:
        recommender: Trained on training and validation interactions.
        ranking: Recall and NDCG of each user on test.
        num_batches: Batches trained.
    """

    recommender: BaseRecommender
    ranking: RankingMetrics
    num_batches: int

    @property
    def metrics(self) -> dict[str, float]:
        """Recall and NDCG on test, means over the users that have test items."""
        return self.ranking.summary()


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
    trainer = _trainer(recipe_of(config, interactions), sizes, seed, initial)
    return trainer.recommender, trainer.fit(interactions.validation, progress)


def train_for_test(
    config: RunConfig,
    interactions: Interactions,
    sizes: EmbeddingSizes,
    best_batch: int,
    seed: tuple[int, ...],
    progress: Callable[[int, int], None] | None = None,
    initial: State | None = None,
) -> FinalRecommender:
    """Train on training and validation interactions and measure on test; see :func:`train_on_both`."""
    recommender, num_batches = train_on_both(config, interactions, sizes, best_batch, seed, progress, initial)
    merged = interactions.merge_validation_into_training()
    return FinalRecommender(recommender, evaluate(recommender, merged.train, merged.test), num_batches)


def train_on_both(
    config: RunConfig,
    interactions: Interactions,
    sizes: EmbeddingSizes,
    best_batch: int,
    seed: tuple[int, ...],
    progress: Callable[[int, int], None] | None = None,
    initial: State | None = None,
) -> tuple[BaseRecommender, int]:
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
        The recommender, and the batches that it was trained.
    """
    merged = interactions.merge_validation_into_training()
    growth = merged.train.nnz / interactions.train.nnz
    num_batches = max(1, round(best_batch * growth))
    recipe = recipe_of(config, merged)
    # More batches of a decay that is as fast as before would be batches at its lowest learning rate.
    decay_every = round(recipe.settings.decay_every * growth)
    stretched = recipe.settings.model_copy(update={"decay_every": decay_every})
    trainer = _trainer(replace(recipe, settings=stretched), sizes, seed, initial)
    while trainer.num_batches < num_batches:
        trainer.train(min(config.training.evaluate_every, num_batches - trainer.num_batches))
        if progress is not None:
            progress(trainer.num_batches, num_batches)
    return trainer.recommender, num_batches


def _trainer(recipe: Recipe, sizes: EmbeddingSizes, seed: tuple[int, ...], initial: State | None) -> Trainer:
    trainer = recipe.trainer(sizes, np.random.default_rng(seed))
    if initial is not None:
        load_state(trainer.recommender, initial)
    return trainer


def recipe_of(config: RunConfig, interactions: Interactions) -> Recipe:
    """How the configured recommender is made and trained on the training interactions."""
    return Recipe(
        interactions.train,
        config.training,
        config.recommender.name,
        config.recommender.options_with(),
        resolve_device(config.recommender.device),
    )
