"""How a step of the search obtains a trained recommender for its sizes: dearly and well, or cheaply.

``fresh`` is the paper's: a recommender trained from scratch (CIESS, arXiv 2304.03501, section 2.2). The
others share what was trained once: ``finetune`` starts from the full-size table, and ``supernet`` only masks
a table that was trained under random prefixes, so that a step costs one evaluation. ``finetuned_supernet``
trains that a little further at the sizes of the step, where masking alone ranks them wrongly. ``masked`` only
masks the full-size table: for recommenders in closed form, whose columns come by importance.
"""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.data import Interactions
from envs.errors import ConfigError, check_name
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
    return max(1, round(EPOCHS_PER_STEP * int(recipe.train.nnz) / recipe.settings.batch_size))


def state_of(recommender: BaseRecommender) -> State:
    """Every parameter by its name, as an array of its shape on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in recommender.state_dict().items()}


class StepMode(NamedTuple):
    """Where the recommender of a step comes from.

    Attributes:
        starts_from: What was trained once for all steps: ``full size`` or ``supernet``; None for nothing.
        trains: Whether a step trains its recommender.
    """

    starts_from: str | None
    trains: bool


STEP_MODES = {
    "fresh": StepMode(None, trains=True),
    "finetune": StepMode("full size", trains=True),
    "supernet": StepMode("supernet", trains=False),
    "finetuned_supernet": StepMode("supernet", trains=True),
    "masked": StepMode("full size", trains=False),
}


class StepRecommenders:
    """Recommenders as a step mode has them.

    Args:
        name: A name in :data:`STEP_MODES`.
        recipe: How they are made and trained.
        num_batches: Batches that a step trains.
        full_sizes: Every entity at d_max.
        pretrained: What was trained once for all steps; None where the mode needs nothing.

    Raises:
        UnknownNameError: There is no such mode.
        ConfigError: The mode starts from what was not given.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        num_batches: int,
        full_sizes: EmbeddingSizes,
        pretrained: State | None = None,
    ) -> None:
        self.mode = STEP_MODES[check_name("step mode", name, STEP_MODES)]
        if self.mode.starts_from and pretrained is None:
            raise ConfigError(
                f"the step mode {name} starts from a recommender trained beforehand, the "
                f"{self.mode.starts_from}: pass pretrained=state_of(...) of the one that was fully trained, "
                "or that train_supernet returned (envs.step_modes)."
            )
        self._recipe, self._num_batches = recipe, num_batches
        self._full_sizes, self._pretrained = full_sizes, pretrained

    @cached_property
    def _shared(self) -> BaseRecommender:
        """The one that all steps only mask."""
        # Not from the episode's draws: one seed must give one episode, the first like any other.
        return self._copy(np.random.default_rng(0))

    def _copy(self, rng: np.random.Generator) -> BaseRecommender:
        return self._recipe.recommender(self._full_sizes, rng, self._pretrained)

    def recommender(self, sizes: EmbeddingSizes, rng: np.random.Generator) -> BaseRecommender:
        """One that is ready to be evaluated at these sizes.

        Args:
            sizes: One embedding size an entity.
            rng: Draws initial values and batches.
        """
        recipe = self._recipe
        if self.mode.starts_from:
            recommender = self._copy(rng) if self.mode.trains else self._shared
            recommender.table.mask_to(sizes)
        else:
            recommender = recipe.recommender(sizes, rng)
        if self.mode.trains:
            Trainer(recommender, recipe.train, recipe.settings, rng, recipe.loss).train(self._num_batches)
        return recommender


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
