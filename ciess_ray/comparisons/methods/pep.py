"""Thresholds learned with the table: PEP."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation, Start
from ciess_ray.training.convergence import recipe_of
from envs.recommenders import BaseRecommender
from envs.recommenders.losses import RankingLoss
from envs.recommenders.sized_embedding import SizedEmbedding
from envs.recommenders.training import Trainer
from envs.sizes.scattered import keep_largest
from envs.step_modes import state_of

#: The largest threshold there is; numbers of a table that is trained at rates of 0.1 outgrow 1.
_SCALE = 10.0
#: Where thresholds start, as logits: next to nothing.
_FIRST_LOGIT = -10.0
#: Upward push on every logit, from the first batch to the last, geometrically, over the length of a batch:
#: the gradient of a mean over it shrinks likewise, and at the last the push outweighs any.
_PUSH = (4e-5, 0.4)
#: Batches over which it grows, fewer where trainings end earlier.
_NUM_BATCHES = 1_300


def soft_threshold(values: Tensor, logits: Tensor) -> Tensor:
    """sign(v) · relu(|v| - g(s)): PEP (arXiv 2101.07577) equation 4; all of one shape."""
    return values.sign() * torch.relu(values.abs() - thresholds(logits))


def thresholds(logits: Tensor) -> Tensor:
    """g(s), a scaled sigmoid, of any shape."""
    return _SCALE * logits.sigmoid()


class ThresholdedEmbedding(SizedEmbedding):
    """A table of which every number has a learned threshold.

    Args:
        table: What it takes the values and sizes of.
    """

    def __init__(self, table: SizedEmbedding) -> None:
        nn.Module.__init__(self)
        self.sizes, self.width = table.sizes, table.width
        self.register_buffer("mask", table.mask, persistent=False)
        self.weight = table.weight
        self.logits = nn.Parameter(torch.full_like(table.weight, _FIRST_LOGIT))

    def forward(self, num_columns: int | None = None) -> Tensor:
        """What lies above the thresholds, shape (num_rows, num_tables * width)."""
        return soft_threshold(self.weight[:, :num_columns], self.logits[:, :num_columns])

    def margins(self) -> Tensor:
        """How far each number lies above its threshold, or, below 0, beneath it; the shape of the table."""
        return (self.weight.abs() - thresholds(self.logits)).detach()


class _Pushed(RankingLoss):
    """A loss that pushes thresholds up, harder from batch to batch."""

    def __init__(self, loss: RankingLoss, table: ThresholdedEmbedding, num_batches: int) -> None:
        self.batch_size = loss.batch_size
        self._loss, self._table, self._num_batches, self._batch = loss, table, num_batches, 0

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        return self._loss.draw(rng)

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        return self._loss.select(batch, rows)

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        first, last = (push / self.batch_size for push in _PUSH)
        push = first * (last / first) ** (self._batch / self._num_batches)
        self._batch += 1
        cost: Tensor = self._loss(recommender, *batch) - push * self._table.logits.sum()
        return cost


class PEP(Method):
    """PEP (arXiv 2101.07577): thresholds learned with the table until the budget is met, then retraining.

    A threshold a number, the finest of its granularities. Retraining starts from the values that the table
    had at first, as for a lottery ticket. Differs: the sigmoid is scaled; a growing push takes the place of
    the weight decay of the logits, which need not reach a given budget; at the batch in which it is met, or
    at the last one, exactly as many numbers as it allows are kept, by how far they lie above their
    thresholds. A row may keep none.
    """

    name = "pep"

    def propose(self, problem: Problem) -> list[Allocation]:
        """The mask, trained from the first values."""
        num_batches = min(_NUM_BATCHES, problem.config.training.max_batches)
        recipe, rng = recipe_of(problem.config, problem.interactions), problem.rng(Stream.PEP)
        recommender = recipe.recommender(problem.full_sizes, rng)
        # On a CPU a state is no copy.
        first = {name: value.copy() for name, value in state_of(recommender).items()}
        table = ThresholdedEmbedding(recommender.table)
        recommender.table = table
        loss = _Pushed(recipe.loss, table, num_batches)
        trainer = Trainer(recommender, recipe.train, recipe.settings, rng, loss)
        problem.ledger.num_trainings += 1
        while trainer.num_batches < num_batches and int((table.margins() > 0).sum()) > problem.cap_params:
            trainer.train(1)
        kept = keep_largest(table.margins().cpu().numpy(), problem.cap_params, 0, problem.num_tables)
        name = f"thresholds after {trainer.num_batches} batches"
        return [Allocation(name, problem.scatter(kept), start=Start(first))]
