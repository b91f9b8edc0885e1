"""What training minimises, and the batches that it draws for it, without a loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.errors import DataError
from envs.recommenders.base import BaseRecommender

_NEVER = -1e30


def check_any(train: csr_array) -> None:
    """Refuse to learn from nothing.

    Raises:
        DataError: There is no training interaction.
    """
    if train.nnz == 0:
        raise DataError("there is no training interaction to learn from; bring more data")


class RankingLoss(ABC):
    """A loss that draws its own batches.

    A user who interacted with every item has no negative, and is passed over.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        batch_size: Positives a batch.

    Raises:
        DataError: There is no training interaction, or every user interacted with every item.
    """

    def __init__(self, train: csr_array, batch_size: int) -> None:
        check_any(train)
        self.train, self.batch_size = train, batch_size
        self.num_positives = np.diff(train.indptr.astype(np.int64))
        self._users = np.flatnonzero((self.num_positives > 0) & (self.num_positives < train.shape[1]))
        if len(self._users) == 0:
            raise DataError(
                f"every user interacted with every one of the {train.shape[1]} items, so that there is no "
                "negative to draw; bring more data, of a stream longer segments"
            )

    def draw_positives(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users, ascending, that have a training item but not all, and one of the items of each, as in CIESS.

        Both have shape (batch_size,), int64.
        """
        # The order within a batch decides nothing but speed: what is looked up by user lies close together.
        user = self._users[np.sort(rng.integers(len(self._users), size=self.batch_size))]
        row = self.train.indptr[user] + rng.integers(self.num_positives[user])
        return user, self.train.indices[row].astype(np.int64)

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """The arrays of one batch: users, positive items, and what the loss sets against them."""

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """Of a batch the positives at these rows, shape (batch_size,), with what belongs to them."""
        return tuple(column[rows] for column in batch)

    @abstractmethod
    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs, one number, penalty included."""


class BPR(RankingLoss):
    """Softplus of the margin of a negative item over a positive one (arXiv 1205.2618), the paper's loss.

    A negative is uniform over the items the user has no training interaction with, and is found without
    rejection: draw its rank r among them; the number of the user's items below it is the number of places
    k in its sorted items p with p[k] - k <= r, one binary search.
    """

    def __init__(self, train: csr_array, batch_size: int) -> None:
        super().__init__(train, batch_size)
        user = np.repeat(np.arange(train.shape[0], dtype=np.int64), self.num_positives)
        place = np.arange(train.nnz) - train.indptr[user]
        self._negatives_below = user * train.shape[1] + (train.indices - place)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Users, positive items and negative items, each of shape (batch_size,), int64."""
        user, positive = self.draw_positives(rng)
        num_items = self.train.shape[1]
        rank = rng.integers(num_items - self.num_positives[user])
        place = np.searchsorted(self._negatives_below, user * num_items + rank, side="right")
        return user, positive, rank + place - self.train.indptr[user]

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

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        batch_size: Positives a batch.
        num_negatives: Negatives a batch, drawn without replacement; at most the number of items.
    """

    def __init__(self, train: csr_array, batch_size: int, num_negatives: int = 128) -> None:
        super().__init__(train, batch_size)
        self._num_negatives = num_negatives
        self._users_of_item = train.T.tocsr()

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """One batch.

        Returns:
            Users and positive items (batch_size,), negative items (num_negatives,), int64, and which
            negatives are training items of which user, (batch_size, num_negatives), bool.
        """
        num_users, num_items = self.train.shape
        user, positive = self.draw_positives(rng)
        negative = rng.permutation(num_items)[: self._num_negatives]
        with_users = self._users_of_item[negative]
        # Of the negatives' users only those in the batch matter: each has one row of a small table.
        present, row = np.unique(user, return_inverse=True)
        row_of_user = np.full(num_users, -1)
        row_of_user[present] = np.arange(len(present))
        rows = row_of_user[with_users.indices]
        columns = np.repeat(np.arange(len(negative)), np.diff(with_users.indptr))
        is_positive = np.zeros((len(present), len(negative)), np.bool_)
        is_positive[rows[rows >= 0], columns[rows >= 0]] = True
        return user, positive, negative, is_positive[row]

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


#: Each made of training interactions and positives a batch.
LOSSES: dict[str, Callable[[csr_array, int], RankingLoss]] = {"bpr": BPR, "softmax": SampledSoftmax}
