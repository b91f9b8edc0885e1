"""Training triples (user, positive item, negative item), drawn without a loop."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from envs.errors import DataError


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


class PositiveSampler:
    """Draws pairs of a user and one of its training items: a user that has any, then one of its items.

    So do the authors of CIESS.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.

    Raises:
        DataError: There is no training interaction, or a user interacted with every item.
    """

    def __init__(self, train: sparse.csr_array) -> None:
        if train.nnz == 0:
            raise DataError("there is no training interaction to draw triples from; bring more data")
        self.indptr = train.indptr.astype(np.int64)
        self.num_positives = np.diff(self.indptr)
        full = np.flatnonzero(self.num_positives >= train.shape[1])
        if len(full) > 0:
            raise DataError(
                f"user {full[0]} (by row of the training interactions) and {len(full) - 1} others interacted "
                f"with every one of the {train.shape[1]} items, so that there is no negative to draw for "
                "them; leave these users out, or add the items they did not interact with"
            )
        self._items = train.indices
        self._users = np.flatnonzero(self.num_positives)

    def draw(self, batch_size: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users and positive items, each of shape (batch_size,), int64; users ascending."""
        # The order within a batch decides nothing but speed: what is looked up by user lies close together.
        user = self._users[np.sort(rng.integers(len(self._users), size=batch_size))]
        row = self.indptr[user] + rng.integers(self.num_positives[user])
        return user, self._items[row].astype(np.int64)


class TripleSampler:
    """Draws BPR triples whose negative is never a training item of the user.

    A negative is uniform over the items the user has no training interaction with, and is found without
    rejection: draw its rank r among them; the number of the user's items below it is the number of places
    k in its sorted items p with p[k] - k <= r, one binary search.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.

    Raises:
        DataError: There is no training interaction, or a user interacted with every item.
    """

    def __init__(self, train: sparse.csr_array) -> None:
        self._positives = PositiveSampler(train)
        self._num_items = train.shape[1]
        indptr = self._positives.indptr
        user = np.repeat(np.arange(train.shape[0], dtype=np.int64), self._positives.num_positives)
        place = np.arange(train.nnz) - indptr[user]
        self._negatives_below = user * self._num_items + (train.indices - place)

    def draw(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """One batch.

        Args:
            batch_size: Number of triples.
            rng: The generator drawn from.

        Returns:
            Users, ascending, positive items and negative items, each of shape (batch_size,), int64.
        """
        user, positive = self._positives.draw(batch_size, rng)
        rank = rng.integers(self._num_items - self._positives.num_positives[user])
        place = np.searchsorted(self._negatives_below, user * self._num_items + rank, side="right")
        return user, positive, rank + place - self._positives.indptr[user]


class SharedNegativeSampler:
    """Draws positives, and negatives that all of them share.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        num_negatives: Negatives a batch, drawn without replacement; at most the number of items.

    Raises:
        DataError: There is no training interaction, or a user interacted with every item.
    """

    def __init__(self, train: sparse.csr_array, *, num_negatives: int) -> None:
        self._positives = PositiveSampler(train)
        self._num_negatives = min(num_negatives, train.shape[1])
        self._users_of_item = train.T.tocsr()

    def draw(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """One batch.

        Args:
            batch_size: Number of positives.
            rng: The generator drawn from.

        Returns:
            Users and positive items (batch_size,), negative items (num_negatives,), int64, and which
            negatives are training items of which user, (batch_size, num_negatives), bool.
        """
        num_items, num_users = self._users_of_item.shape
        user, positive = self._positives.draw(batch_size, rng)
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
