"""What training minimises, and the batches that it draws for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.data.sampling import SharedNegativeSampler, TripleSampler
from envs.recommenders.base import BaseRecommender

_NEVER = -1e30


class RankingLoss(ABC):
    """A loss with the sampler of its batches.

    Args:
        sampler: Draws the batches.
        batch_size: Positives a batch.
    """

    def __init__(self, sampler: TripleSampler | SharedNegativeSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """The arrays of one batch, as the sampler gives them."""
        return self.sampler.draw(self.batch_size, rng)

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """Of a batch the positives at these rows, shape (batch_size,), with what belongs to them."""
        return tuple(column[rows] for column in batch)

    @abstractmethod
    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs, one number, penalty included."""


class BPR(RankingLoss):
    """Softplus of the margin of a negative item over a positive one (arXiv 1205.2618), the paper's loss."""

    def __init__(self, train: csr_array, batch_size: int, num_negatives: int) -> None:
        super().__init__(TripleSampler(train), batch_size)

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs."""
        users, positives, negatives = batch
        encoded = recommender.encode()
        margin = recommender.score_pairs(encoded, users, negatives) - recommender.score_pairs(
            encoded, users, positives
        )
        return F.softplus(margin).mean() + recommender.penalty(
            encoded, users, torch.cat([positives, negatives])
        )


class SampledSoftmax(RankingLoss):
    """Cross-entropy of the positive item among negatives that the whole batch shares.

    With negatives drawn uniformly no correction of the logits is needed (arXiv 2201.02327). An item that a
    user interacted with in training is left out of that user's negatives.
    """

    def __init__(self, train: csr_array, batch_size: int, num_negatives: int) -> None:
        super().__init__(SharedNegativeSampler(train, num_negatives=num_negatives), batch_size)

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """These positives, and the negatives that all share."""
        users, positives, negatives, is_positive = batch
        return users[rows], positives[rows], negatives, is_positive[rows]

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs."""
        users, positives, negatives, is_positive = batch
        encoded = recommender.encode()
        positive = recommender.score_pairs(encoded, users, positives)
        # Not -inf: a row without any negative left would have no gradient but NaN.
        negative = recommender.score(encoded, users, negatives).masked_fill(is_positive, _NEVER)
        total = torch.logaddexp(positive, negative.logsumexp(dim=1))
        return (total - positive).mean() + recommender.penalty(encoded, users, positives)


#: Each made of training interactions, positives a batch, and negatives that a batch shares.
LOSSES: dict[str, Callable[[csr_array, int, int], RankingLoss]] = {"bpr": BPR, "softmax": SampledSoftmax}
