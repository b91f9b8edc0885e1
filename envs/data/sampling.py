"""Training triples (user, positive item, negative item), drawn without a loop."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from envs.errors import DataError, UnknownNameError

#: ``user``: draw a user, then one of its items, as the authors of CIESS do; ``interaction``: draw a pair.
Positives = Literal["user", "interaction"]


def interaction_keys(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """One number a pair, user · num_items + item, ascending, shape (nnz,); indices must be sorted."""
    user = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    return np.asarray(user * matrix.shape[1] + matrix.indices)


def contains(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the wanted keys are among the ascending keys, in the shape of ``wanted``."""
    if len(keys) == 0:
        return np.zeros(wanted.shape, np.bool_)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[place] == wanted)


class TripleSampler:
    """Draws BPR triples whose negative is never a training item of the user.

    A negative is uniform over the items the user has no training interaction with, and is found without
    rejection: draw its rank r among them; the number of the user's items below it is the number of places
    k in its sorted items p with p[k] - k <= r, one binary search.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        positives: How a positive is drawn; uniform over users with training items and then over their
            items, or uniform over interactions.

    Raises:
        DataError: There is no training interaction, or a user interacted with every item.
        UnknownNameError: ``positives`` is neither of the two.
    """

    def __init__(self, train: sparse.csr_array, *, positives: Positives = "user") -> None:
        if positives not in ("user", "interaction"):
            raise UnknownNameError("way to draw positives", positives, ("user", "interaction"))
        if train.nnz == 0:
            raise DataError("there is no training interaction to draw triples from; bring more data")
        num_users, self._num_items = train.shape
        self._indptr = train.indptr.astype(np.int64)
        self._items = train.indices
        self._num_positives = np.diff(self._indptr)
        full = np.flatnonzero(self._num_positives >= self._num_items)
        if len(full) > 0:
            raise DataError(
                f"user {full[0]} (by row of the training interactions) and {len(full) - 1} others interacted "
                f"with every one of the {self._num_items} items, so that there is no negative to draw for "
                "them; leave these users out, or add the items they did not interact with"
            )
        user = np.repeat(np.arange(num_users, dtype=np.int64), self._num_positives)
        place = np.arange(train.nnz) - self._indptr[user]
        self._negatives_below = user * self._num_items + (self._items - place)
        self._users = user if positives == "interaction" else np.flatnonzero(self._num_positives)
        self._by_interaction = positives == "interaction"

    def draw(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """One batch.

        Args:
            batch_size: Number of triples.
            rng: The generator drawn from.

        Returns:
            Users, positive items and negative items, each of shape (batch_size,), int64.
        """
        row = rng.integers(len(self._users), size=batch_size)
        user = self._users[row]
        first = self._indptr[user]
        num_positives = self._num_positives[user]
        if not self._by_interaction:
            row = first + rng.integers(num_positives)
        positive = self._items[row].astype(np.int64)
        rank = rng.integers(self._num_items - num_positives)
        num_below = (
            np.searchsorted(self._negatives_below, user * self._num_items + rank, side="right") - first
        )
        return user, positive, rank + num_below
