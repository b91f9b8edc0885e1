"""Dimensions weighed by their gradient on validation: DNIS."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.comparisons.methods.pruning import prune
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation, Start
from ciess_ray.training.convergence import recipe_of
from envs.data import Interactions, contains, interaction_keys
from envs.recommenders import BaseRecommender
from envs.recommenders.losses import RankingLoss
from envs.recommenders.sized_embedding import SizedEmbedding
from envs.recommenders.training import Trainer, make_loss
from envs.step_modes import state_of

#: Blocks of users, and of items, of one frequency each.
_NUM_BLOCKS = 8
_LEARNING_RATE = 0.01


def blocks_of(interactions: Interactions, num_blocks: int = _NUM_BLOCKS) -> NDArray[np.int64]:
    """The block of every row, users first: as many equal blocks of users as of items, by popularity.

    Args:
        interactions: Gives the popularities.
        num_blocks: Of users, and of items.

    Returns:
        Shape (num_rows,); 0 holds the least popular users, ``num_blocks`` the least popular items.
    """
    blocks = []
    for first, counts in enumerate((interactions.user_popularity, interactions.item_popularity)):
        rank = np.empty(len(counts), np.int64)
        rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        blocks.append(first * num_blocks + rank * num_blocks // len(counts))
    return np.concatenate(blocks)


class SelectedEmbedding(SizedEmbedding):
    """A table of which every block of rows weighs every column.

    Args:
        table: What it takes the values and sizes of.
        blocks: Of every row, shape (num_rows,).
    """

    selection: Tensor
    blocks: Tensor

    def __init__(self, table: SizedEmbedding, blocks: NDArray[np.int64]) -> None:
        nn.Module.__init__(self)
        self.sizes, self.width = table.sizes, table.width
        self.register_buffer("mask", table.mask, persistent=False)
        self.weight = table.weight
        device = table.weight.device
        self.register_buffer("blocks", torch.from_numpy(blocks).to(device), persistent=False)
        # No parameter: the training batches are not to move it. A buffer goes back with the best validation.
        shape = int(blocks.max()) + 1, table.weight.shape[1]
        self.register_buffer("selection", torch.ones(shape, device=device))
        self.selection.requires_grad_(True)

    def forward(self, num_columns: int | None = None) -> Tensor:
        """Weighed rows, shape (num_rows, num_tables * width)."""
        return self.weight[:, :num_columns] * self.selection[self.blocks, :num_columns]


class _Bilevel(RankingLoss):
    """The training loss; before each batch the selection takes a step against the validation loss."""

    def __init__(self, loss: RankingLoss, problem: Problem, table: SelectedEmbedding) -> None:
        self.batch_size = loss.batch_size
        self._loss, self._table = loss, table
        interactions = problem.interactions
        merged = interactions.merge_validation_into_training()
        # A negative is none of a user's items, whichever of the two they are in.
        self._both = make_loss(merged.train, problem.config.training.settings())
        self._validation = interaction_keys(interactions.validation)
        self._num_items = interactions.num_items
        self._optimizer = torch.optim.Adam([table.selection], lr=_LEARNING_RATE)
        self._num_columns = 0

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        train, both = self._loss.draw(rng), self._both.draw(rng)
        is_validation = contains(self._validation, both[0] * self._num_items + both[1])
        self._num_columns = len(train)
        return train + self._both.select(both, is_validation)

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        return self._loss.select(batch, rows)

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        train, validation = batch[: self._num_columns], batch[self._num_columns :]
        if len(validation[0]):
            cost = self._both(recommender, *validation)
            (self._table.selection.grad,) = torch.autograd.grad(cost, [self._table.selection])
            self._optimizer.step()
            with torch.no_grad():
                self._table.selection.clamp_(0.0, 1.0)
        return self._loss(recommender, *train)


class DNIS(Method):
    """DNIS (arXiv 2006.04466): each block of rows weighs each dimension, and validation moves the weights.

    Table and weights take turns, the table on training batches, the weights, within [0, 1], on validation
    ones, to first order. The product of both is pruned to the budget as in
    :class:`ciess_ray.comparisons.methods.pruning.MagnitudePruning`, and trained on with the mask, and beside
    this anew.
    Differs: Adam takes the place of the paper's normalisation of the weights' gradients.
    """

    name = "dnis"

    def propose(self, problem: Problem) -> list[Allocation]:
        """The best mask trained on from the weighed table and anew, then plain magnitude's likewise."""
        recipe, rng = recipe_of(problem.config, problem.interactions), problem.rng(Stream.DNIS)
        recommender = recipe.recommender(problem.full_sizes, rng)
        table = SelectedEmbedding(recommender.table, blocks_of(problem.interactions))
        recommender.table = table
        loss = _Bilevel(recipe.loss, problem, table)
        Trainer(recommender, recipe.train, recipe.settings, rng, loss).fit(problem.interactions.validation)
        problem.ledger.num_trainings += 1
        state = state_of(recommender)
        del state["table.selection"]
        state["table.weight"] = table().detach().cpu().numpy()
        start = Start(state)
        return [
            Allocation(f"users x {scale:g}, trained {how}", sizes, start=start if how == "on" else None)
            for scale, sizes in prune(problem, state)
            for how in ("on", "anew")
        ]
