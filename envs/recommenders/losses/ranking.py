"""What a training minimises, as far as it is the same for every loss, and BPR."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.errors import DataError
from envs.recommenders.base import BaseRecommender

#: How positives are drawn.
POSITIVES = ("user", "interaction")


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
        positives: ``user``: every user is as likely, and then every item of theirs, as in CIESS.
            ``interaction``: every training interaction is as likely, so that who has more counts more.

    Raises:
        DataError: There is no training interaction, or every user interacted with every item.
    """

    #: Whether it takes a ``temperature``, the scale of scores that are cosines.
    has_temperature: ClassVar[bool] = False

    def __init__(self, train: csr_array, batch_size: int, *, positives: str = "user") -> None:
        check_any(train)
        self.train, self.batch_size, self.positives = train, batch_size, positives
        self.num_positives = np.diff(train.indptr.astype(np.int64))
        is_drawn = (self.num_positives > 0) & (self.num_positives < train.shape[1])
        self._users = np.flatnonzero(is_drawn)
        if len(self._users) == 0:
            raise DataError(
                f"every user interacted with every one of the {train.shape[1]} items, so that there is no "
                "negative to draw; bring more data, of a stream longer segments"
            )
        # What the drawn users have in all before each of them.
        self._ends = np.cumsum(self.num_positives[self._users])

    def draw_positives(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users, ascending, that have a training item but not all, and one of the items of each.

        Both have shape (batch_size,), int64.
        """
        # The order within a batch decides nothing but speed: what is looked up by user lies close together.
        if self.positives == "user":
            user = self._users[np.sort(rng.integers(len(self._users), size=self.batch_size))]
            row = self.train.indptr[user] + rng.integers(self.num_positives[user])
        else:
            place = np.sort(rng.integers(self._ends[-1], size=self.batch_size))
            drawn = np.searchsorted(self._ends, place, side="right")
            user = self._users[drawn]
            row = self.train.indptr[user] + place - (self._ends[drawn] - self.num_positives[user])
        return user, self.train.indices[row].astype(np.int64)

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """The arrays of one batch: users, positive items, and what the loss sets against them."""

    def select(self, batch: tuple[NDArray[Any], ...], rows: NDArray[np.bool_]) -> tuple[NDArray[Any], ...]:
        """Of a batch the positives at these rows, shape (batch_size,), with what belongs to them."""
        return tuple(column[rows] for column in batch)

    def used(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None] | None:
        """Users and items whose representations a batch looks at, in any order, for training on their rows.

        None in place of items is every item, and in place of both says that the whole table is looked at.
        """
        return None

    @abstractmethod
    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs, one number, penalty included."""


class BPR(RankingLoss):
    """Softplus of the margin of a negative item over a positive one (arXiv 1205.2618), the paper's loss.

    A negative is uniform over the items the user has no training interaction with, and is found without
    rejection: draw its rank r among them; the number of the user's items below it is the number of places
    k in its sorted items p with p[k] - k <= r, one binary search.
    """

    def __init__(self, train: csr_array, batch_size: int, *, positives: str = "user") -> None:
        super().__init__(train, batch_size, positives=positives)
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

    def used(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Users, and both their items."""
        users, positives, negatives = batch
        return users, torch.cat([positives, negatives])

    def __call__(self, recommender: BaseRecommender, *batch: Tensor) -> Tensor:
        """What a batch costs."""
        users, positives, negatives = batch
        encoded = recommender.encode()
        both = torch.stack([negatives, positives], dim=1)
        scores = recommender.score_pairs(encoded, users.repeat_interleave(2), both.flatten()).view(-1, 2)
        return F.softplus(scores[:, 0] - scores[:, 1]).mean() + recommender.penalty(
            encoded, users, torch.cat([positives, negatives])
        )
