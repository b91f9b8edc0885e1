"""Methods that keep single numbers of a table: magnitude pruning, PEP and DNIS."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from ciess_ray.comparisons.methods.method import Problem
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation, Start
from ciess_ray.training.convergence import recipe_of
from envs.data import Interactions
from envs.recommenders import BaseRecommender
from envs.recommenders.evaluation import evaluate
from envs.recommenders.losses import RankingLoss
from envs.recommenders.training import Trainer, make_loss
from envs.sizes.embedding_sizes import ScatteredSizes
from envs.step_modes import State, state_of

#: What users' magnitudes are multiplied with before they compete with the items'; 1 is plain magnitude.
_USER_SCALES = tuple(2.0**power for power in range(-2, 8))
#: The largest threshold there is; numbers of a table that is trained at rates of 0.1 outgrow 1.
_SCALE = 10.0
#: Where thresholds start, as logits: next to nothing.
_FIRST_LOGIT = -10.0
#: Upward push on every logit, from the first batch to the last, geometrically, over the length of a batch:
#: the gradient of a mean over it shrinks likewise, and at the last the push outweighs any.
_PUSH = (4e-5, 0.4)
#: Batches over which it grows, fewer where trainings end earlier.
_NUM_BATCHES = 1_300
#: Blocks of users, and of items, of one frequency each.
_NUM_BLOCKS = 8
_LEARNING_RATE = 0.01


def magnitude_pruning(problem: Problem) -> list[Allocation]:
    """MagPrune (arXiv 2406.17335): of the full-size table the numbers of the largest magnitude are kept.

    Then it is trained on with the mask, and beside this anew from drawn values; the better of the two on
    validation counts. Training on follows the whole schedule of learning rates again (rewinding of learning
    rates, arXiv 2003.02389). Differs: beside plain magnitude, under which users and items compete as they
    are, a factor on the users' is tuned on validation. On the quick start's data at 10 % plain magnitude
    gives users and items 16.6 and 5.6 numbers and reaches a quality of .146, no more than equal sizes; with
    a factor of 16 they get 59.9 and 2.4, and .171.
    """
    full = problem.full_fit
    return prune(problem, full.state, Start(full.state, full.num_batches))


def prune(problem: Problem, state: State, start: Start) -> list[Allocation]:
    """Masks of a trained full table at the budget, the best as pruned first, plain magnitude after the best.

    Every row keeps at least d_min numbers. The tables are judged on validation without any training, which
    ranks the balance between users and items as trained tables do.

    Args:
        problem: Gives budget and data.
        state: Parameters of the full-size recommender.
        start: Of the trainings that go on from it.

    Returns:
        The best factor on the magnitudes of users with its mask, and 1 with its own where that is another;
        each trained on, and anew.
    """
    interactions = problem.interactions
    pruned: dict[float, ScatteredSizes] = {}
    qualities: dict[float, float] = {}
    recipe = recipe_of(problem.config, interactions)
    # Its first values give way to the state.
    recommender = recipe.recommender(problem.full_sizes, np.random.default_rng(0), state)
    for scale in _USER_SCALES:
        importance = np.abs(state["table.weight"])
        importance[: len(problem.full_sizes.user)] *= scale
        pruned[scale] = problem.keep_largest(importance, problem.bounds[0])
        recommender.table.mask_to(pruned[scale])
        qualities[scale] = evaluate(recommender, interactions.train, interactions.validation).quality
        problem.num_steps += 1
    best = max(qualities, key=lambda scale: (qualities[scale], scale == 1.0))
    return [
        Allocation(f"users x {scale:g}, trained {how}", pruned[scale], start=start if how == "on" else None)
        for scale in dict.fromkeys((best, 1.0))
        for how in ("on", "anew")
    ]


class Thresholds(nn.Module):
    """A learned threshold for every number of a table, of which what lies above it is left.

    Args:
        weight: The table.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full_like(weight, _FIRST_LOGIT))

    def forward(self, weight: Tensor) -> Tensor:
        """sign(v) · relu(|v| - g(s)): PEP (arXiv 2101.07577) equation 4; the shape of the table."""
        return weight.sign() * torch.relu(self.margins(weight))

    def margins(self, weight: Tensor) -> Tensor:
        """|v| - g(s), below 0 beneath the threshold; g is a scaled sigmoid; the shape of the table."""
        return weight.abs() - _SCALE * self.logits.sigmoid()


class _Pushed(RankingLoss):
    """A loss that pushes thresholds up, harder from batch to batch."""

    def __init__(self, loss: RankingLoss, logits: Tensor, num_batches: int) -> None:
        self.batch_size, self._loss = loss.batch_size, loss
        self._logits, self._num_batches, self._batch = logits, num_batches, 0

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        return self._loss.draw(rng)

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        first, last = (push / self.batch_size for push in _PUSH)
        push: float = first * (last / first) ** (self._batch / self._num_batches)
        self._batch += 1
        return self._loss(recommender, *batch) - push * self._logits.sum()


def pep(problem: Problem) -> list[Allocation]:
    """PEP (arXiv 2101.07577): thresholds learned with the table until the budget is met, then retraining.

    A threshold a number, the finest of its granularities. Retraining starts from the values that the table
    had at first, as for a lottery ticket. Differs: the sigmoid is scaled; a growing push takes the place of
    the weight decay of the logits, which need not reach a given budget; at the batch in which it is met, or
    at the last one, exactly as many numbers as it allows are kept, by how far they lie above their
    thresholds. A row may keep none.
    """
    num_batches = min(_NUM_BATCHES, problem.config.training.max_batches)
    recipe, rng = recipe_of(problem.config, problem.interactions), problem.rng(Stream.PEP)
    recommender = recipe.recommender(problem.full_sizes, rng)
    # On a CPU a state is no copy.
    first = {name: value.copy() for name, value in state_of(recommender).items()}
    weight = recommender.table.weight
    thresholds = Thresholds(weight)
    register_parametrization(recommender.table, "weight", thresholds)
    loss = _Pushed(recipe.loss, thresholds.logits, num_batches)
    trainer = Trainer(recommender, recipe.train, recipe.settings, rng, loss)
    problem.num_trainings += 1
    while (
        trainer.num_batches < num_batches and int((thresholds.margins(weight) > 0).sum()) > problem.cap_params
    ):
        trainer.train(1)
    sizes = problem.keep_largest(thresholds.margins(weight).detach().cpu().numpy(), 0)
    return [Allocation(f"thresholds after {trainer.num_batches} batches", sizes, start=Start(first))]


def blocks_of(interactions: Interactions, num_blocks: int = _NUM_BLOCKS) -> NDArray[np.int64]:
    """The block of every row, users first: as many equal blocks of users as of items, by popularity.

    Args:
        interactions: Gives the popularities.
        num_blocks: Of users, and of items.

    Returns:
        Shape (num_rows,); 0 holds the least popular users, ``num_blocks`` the least popular items.
    """
    popularities = interactions.user_popularity, interactions.item_popularity
    ranks = [np.argsort(np.argsort(popularity, kind="stable")) for popularity in popularities]
    user, item = (rank * num_blocks // len(rank) for rank in ranks)
    return np.concatenate([user, num_blocks + item])


class Selection(nn.Module):
    """Weights of the columns of a table, a row of them for each block of its rows.

    Args:
        weight: The table.
        blocks: The block of every row, shape (num_rows,).
    """

    blocks: Tensor
    columns: Tensor

    def __init__(self, weight: Tensor, blocks: NDArray[np.int64]) -> None:
        super().__init__()
        self.register_buffer("blocks", torch.from_numpy(blocks).to(weight.device), persistent=False)
        # No parameter: the training batches are not to move it. A buffer goes back with the best validation.
        shape = int(blocks.max()) + 1, weight.shape[1]
        self.register_buffer("columns", weight.new_ones(shape, requires_grad=True))

    def forward(self, weight: Tensor) -> Tensor:
        """Weighed rows, the shape of the table."""
        return weight * self.columns[self.blocks]


class _Bilevel(RankingLoss):
    """The training loss; before each batch the selection takes a step against the validation loss."""

    def __init__(self, loss: RankingLoss, problem: Problem, columns: Tensor) -> None:
        self._loss, self._columns, self._validation = loss, columns, problem.interactions.validation
        # A negative is none of a user's items, whichever of the two they are in.
        both = problem.interactions.merge_validation_into_training().train
        self._both = make_loss(both, problem.config.training)
        self._optimizer = torch.optim.Adam([columns], lr=_LEARNING_RATE)
        self._num_training = 0

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        train, both = self._loss.draw(rng), self._both.draw(rng)
        is_validation = self._validation[both[0], both[1]] > 0
        self._num_training = len(train)
        return train + self._both.select(both, is_validation)

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        train, validation = batch[: self._num_training], batch[self._num_training :]
        if len(validation[0]):
            cost = self._both(recommender, *validation)
            (self._columns.grad,) = torch.autograd.grad(cost, [self._columns])
            self._optimizer.step()
            with torch.no_grad():
                self._columns.clamp_(0.0, 1.0)
        return self._loss(recommender, *train)


def dnis(problem: Problem) -> list[Allocation]:
    """DNIS (arXiv 2006.04466): each block of rows weighs each dimension, and validation moves the weights.

    Table and weights take turns, the table on training batches, the weights, within [0, 1], on validation
    ones, to first order. The product of both is pruned to the budget as in :func:`magnitude_pruning`, and
    trained on with the mask, and beside this anew.
    Differs: Adam takes the place of the paper's normalisation of the weights' gradients.
    """
    recipe, rng = recipe_of(problem.config, problem.interactions), problem.rng(Stream.DNIS)
    recommender = recipe.recommender(problem.full_sizes, rng)
    selection = Selection(recommender.table.weight, blocks_of(problem.interactions))
    register_parametrization(recommender.table, "weight", selection)
    loss = _Bilevel(recipe.loss, problem, selection.columns)
    Trainer(recommender, recipe.train, recipe.settings, rng, loss).fit(problem.interactions.validation)
    problem.num_trainings += 1
    # What is left as the table is the product.
    remove_parametrizations(recommender.table, "weight")
    state = state_of(recommender)
    return prune(problem, state, Start(state))
