"""How a step of the search obtains a trained recommender for its sizes: dearly and well, or cheaply.

``fresh`` is the paper's: a recommender trained from scratch (CIESS, arXiv 2304.03501, section 2.2). The
others share what was trained once: ``finetune`` starts from the full-size table, and ``supernet`` only masks
a table that was trained under random prefixes, so that a step costs one evaluation. ``finetuned_supernet``
trains that a little further at the sizes of the step, where masking alone ranks them wrongly.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from envs.data import Interactions
from envs.errors import ConfigError
from envs.recommenders import BaseRecommender
from envs.recommenders.training import Recipe, Trainer
from envs.sizes.by_popularity import allocation_sampler
from envs.sizes.embedding_sizes import EmbeddingSizes

#: The parameters of a recommender, by name.
State = dict[str, NDArray[np.float32]]

#: Epochs that a step trains where nobody says how many batches; CIESS (arXiv 2304.03501), section 3.
EPOCHS_PER_STEP = 5.0


def batches_of_step(recipe: Recipe) -> int:
    """Batches of :data:`EPOCHS_PER_STEP`, at least one."""
    num_triples: int = recipe.train.nnz
    return max(1, round(EPOCHS_PER_STEP * num_triples / recipe.settings.batch_size))


def state_of(recommender: BaseRecommender) -> State:
    """Every parameter by its name, as an array of its shape on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in recommender.state_dict().items()}


def load_state(recommender: BaseRecommender, state: State) -> None:
    """Put back what :func:`state_of` gave of a recommender of the same shape."""
    recommender.load_state_dict({name: torch.tensor(value) for name, value in state.items()})


class StepMode(ABC):
    """Where the recommender of a step comes from.

    Args:
        recipe: How recommenders are made and trained.
        num_batches: Batches that a step trains.
        full_sizes: Every entity at d_max.
        pretrained: What was trained once for all steps; None where a mode needs nothing.
    """

    #: What ``pretrained`` is the state of, ``full size`` or ``supernet``; None where nothing is needed.
    starts_from: ClassVar[str | None]
    #: Whether a step trains a recommender.
    trains: ClassVar[bool] = True

    def __init__(
        self, recipe: Recipe, num_batches: int, full_sizes: EmbeddingSizes, pretrained: State | None
    ) -> None:
        if self.starts_from and pretrained is None:
            mode = next(name for name, one in STEP_MODES.items() if type(self) is one)
            is_supernet = self.starts_from == "supernet"
            source = "what train_supernet returns" if is_supernet else "the full-size one, fully trained"
            raise ConfigError(
                f"the step mode {mode} starts from a recommender trained beforehand: pass "
                f"pretrained=state_of(...) of {source} (envs.step_modes)."
            )
        self._recipe, self._num_batches = recipe, num_batches
        self._full_sizes, self._pretrained = full_sizes, pretrained

    @abstractmethod
    def recommender(self, sizes: EmbeddingSizes, rng: np.random.Generator) -> BaseRecommender:
        """A recommender ready to be evaluated at these sizes.

        Args:
            sizes: One embedding size an entity.
            rng: Draws initial values and batches.
        """

    def _pretrained_recommender(self, rng: np.random.Generator) -> BaseRecommender:
        recommender = self._recipe.recommender(self._full_sizes, rng)
        load_state(recommender, self._pretrained or {})
        return recommender


class Fresh(StepMode):
    """Trains a new recommender from scratch."""

    starts_from = None

    def recommender(self, sizes: EmbeddingSizes, rng: np.random.Generator) -> BaseRecommender:
        """A new one after ``num_batches`` batches."""
        trainer = self._recipe.trainer(sizes, rng)
        trainer.train(self._num_batches)
        return trainer.recommender


class Finetune(StepMode):
    """Masks the fully trained full-size recommender and trains it a little further."""

    starts_from = "full size"

    def recommender(self, sizes: EmbeddingSizes, rng: np.random.Generator) -> BaseRecommender:
        """A copy of what was trained beforehand, masked and trained ``num_batches`` batches."""
        recommender = self._pretrained_recommender(rng)
        recommender.table.mask_to(sizes)
        recipe = self._recipe
        Trainer(recommender, recipe.train, recipe.settings, rng, recipe.loss).train(self._num_batches)
        return recommender


class Supernet(StepMode):
    """Masks a recommender that was trained under a random prefix of every row in every batch."""

    starts_from = "supernet"
    trains = False
    _shared: BaseRecommender | None = None

    def recommender(self, sizes: EmbeddingSizes, rng: np.random.Generator) -> BaseRecommender:
        """The one that all steps share, masked."""
        if self._shared is None:
            # Not from the episode's draws: one seed must give one episode, the first like any other.
            self._shared = self._pretrained_recommender(np.random.default_rng(0))
        self._shared.table.mask_to(sizes)
        return self._shared


class FinetunedSupernet(Finetune):
    """Masks the supernet and trains it a little further, so that prefixes need not serve other sizes too."""

    starts_from = "supernet"


STEP_MODES: dict[str, type[StepMode]] = {
    "fresh": Fresh,
    "finetune": Finetune,
    "supernet": Supernet,
    "finetuned_supernet": FinetunedSupernet,
}


def train_supernet(
    recipe: Recipe,
    interactions: Interactions,
    full_sizes: EmbeddingSizes,
    kept_ratios: tuple[float, float],
    num_batches: int,
    rng: np.random.Generator,
    progress: Callable[[int, float], None] | None = None,
) -> BaseRecommender:
    """A recommender whose every batch is masked to other sizes, so that one table serves them all.

    The sizes are random splits and powers near the budgets that are searched, not uniform ones: what lies
    far away would take capacity and is never asked for.

    Args:
        recipe: How it is trained.
        interactions: Gives the popularities.
        full_sizes: Every entity at d_max.
        kept_ratios: The least and the greatest kept ratio of a batch.
        num_batches: Batches trained.
        rng: Draws initial values, sizes and batches.
        progress: Called now and then with the batches trained and the loss.
    """
    draw_sizes = allocation_sampler(
        interactions.user_popularity,
        interactions.item_popularity,
        kept_ratios,
        full_sizes.min_embedding_size,
        full_sizes.max_embedding_size,
        full_sizes.num_tables,
    )
    trainer = recipe.trainer(full_sizes, rng, draw_sizes)
    while trainer.num_batches < num_batches:
        loss = trainer.train(min(recipe.settings.evaluate_every, num_batches - trainer.num_batches))
        if progress is not None:
            progress(trainer.num_batches, loss)
    return trainer.recommender
