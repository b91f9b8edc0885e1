"""What tables of sized rows are set beside: what is popular, and items by the items that users had, uncut.

None of them keeps to a budget, and each says how many bytes it takes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.metrics import CUTOFFS, RankingMetrics, ranking_metrics
from envs.recommenders.neighbours import check_memory, ease_matrix, shared_users

_ID_BYTES, _FLOAT_BYTES = 4, 4
#: Of a pair of items in SciPy's hands: a double and a column.
_PAIR_BYTES = 12
#: Of a cosine, less than any difference that means something: it orders items whose neighbours say nothing.
_WEIGHT_OF_PLACES = 1e-6
#: Users whose scores are held at a time, and scores.
_USERS_AT_ONCE, _SCORES_AT_ONCE = 512, 8_000_000


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Scores of items without a table of sized rows.

    Attributes:
        score: Called with what some users had, ones, shape (n, num_items); gives scores, the same shape.
        num_bytes: Of all that it is made of, beside what users had.
        form: What that is: ``order of items``, ``sparse matrix`` or ``dense matrix``.
    """

    score: Callable[[csr_array], NDArray[np.floating]]
    num_bytes: int
    form: str

    def rank(
        self, had: csr_array, seen: csr_array, users: NDArray[np.integer], depth: int
    ) -> NDArray[np.int64]:
        """The best unseen items of users by what they had, as :func:`best_by` gives them."""
        return best_by(lambda rows: self.score(had[rows]), seen, users, depth)

    def evaluate(self, had: csr_array, relevant: csr_array) -> RankingMetrics:
        """Recall and NDCG of every user that has relevant items, over all items that it has not had.

        Args:
            had: What users had, shape (num_users, num_items).
            relevant: Held-out interactions, the same shape.
        """
        judged, depth = np.flatnonzero(np.diff(relevant.indptr)), max(CUTOFFS)
        ranked = np.full((had.shape[0], depth), -1, np.int64)
        ranked[judged] = self.rank(had, had, judged, depth)
        return ranking_metrics(ranked, relevant)


def most_popular(popularity: NDArray[np.floating] | NDArray[np.integer]) -> Yardstick:
    """The same list for everybody: the most popular items, of equals the later arrival first.

    Args:
        popularity: Of each item, shape (num_items,).
    """
    places = places_by_popularity(popularity)
    return Yardstick(
        lambda had: np.tile(places, (had.shape[0], 1)), len(places) * _ID_BYTES, "order of items"
    )


def item_cosine(
    train: csr_array,
    popularity: NDArray[np.floating] | NDArray[np.integer],
    num_neighbours: int | None = None,
) -> Yardstick:
    """Items near to what a user had: the sum of cosines of items by the users they share.

    Where they say nothing, or the same, the more popular item comes first.

    Args:
        train: Ones, shape (num_users, num_items).
        popularity: Of each item, shape (num_items,).
        num_neighbours: What each item keeps, the largest; None for every item that it shares a user with.

    Raises:
        NoMemoryError: This machine has none for every pair of items that share a user.
    """
    places, num_items = _places_below_weights(popularity), train.shape[1]
    if num_neighbours is None:
        num_pairs = min(float(np.square(np.diff(train.indptr).astype(np.float64)).sum()), num_items**2)
        # Blocks of them, and all of them once more as they become one matrix.
        check_memory(
            2 * _PAIR_BYTES * num_pairs,
            f"item cosine keeps every pair of items that share a user, at most {num_pairs:,.0f} of them, "
            "which twice",
            "the recommender neighbours keeps the largest of each item",
        )
    cosines = shared_users(train, num_neighbours, 0.0, 0.5)
    sparse_bytes = cosines.nnz * (_ID_BYTES + _FLOAT_BYTES) + len(cosines.indptr) * _ID_BYTES
    if num_neighbours is None and num_items**2 * _FLOAT_BYTES < sparse_bytes:
        return _by_matrix(cosines.toarray().astype(np.float32), places)
    cosines = cosines.astype(np.float32)
    return Yardstick(lambda had: (had @ cosines).toarray() + places, sparse_bytes, "sparse matrix")


def ease(train: csr_array, popularity: NDArray[np.floating] | NDArray[np.integer], l2: float) -> Yardstick:
    """EASE (arXiv 1905.03375), whose weights are a dense matrix; it says nothing of somebody without items.

    Args:
        train: Ones, shape (num_users, num_items).
        popularity: Of each item, shape (num_items,); the more popular comes first where scores are equal.
        l2: λ, above 0, in interactions.

    Raises:
        NoMemoryError: This machine has none for matrices of items by items.
    """
    return _by_matrix(ease_matrix(train, l2).astype(np.float32), _places_below_weights(popularity))


def _by_matrix(weights: NDArray[np.float32], places: NDArray[np.float64]) -> Yardstick:
    return Yardstick(lambda had: had @ weights + places, weights.nbytes, "dense matrix")


def _places_below_weights(popularity: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    return places_by_popularity(popularity) * (_WEIGHT_OF_PLACES / len(popularity))


def places_by_popularity(popularity: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.float64]:
    """0 for the least popular entity up to n - 1, the later arrival above its equals; shape (n,)."""
    places = np.empty(len(popularity))
    places[np.lexsort((np.arange(len(popularity)), popularity))] = np.arange(len(popularity))
    return places


def best_by(
    scores_of: Callable[[NDArray[np.integer]], NDArray[np.floating]],
    seen: csr_array,
    users: NDArray[np.integer],
    depth: int,
) -> NDArray[np.int64]:
    """The best unseen items of users by any scores, in blocks of users.

    Args:
        scores_of: Gives the scores of all items for a block of users, shape (block, num_items), which are
            written to.
        seen: What is left out, shape (num_users, num_items).
        users: Shape (n,).
        depth: Length of each list.

    Returns:
        Shape (n, depth), best first; -1 where fewer are left.
    """
    num_items = seen.shape[1]
    length = min(depth, num_items)
    block = max(1, min(_USERS_AT_ONCE, _SCORES_AT_ONCE // num_items))
    best = np.full((len(users), depth), -1, np.int64)
    for start in range(0, len(users), block):
        rows = users[start : start + block]
        scores, hidden = scores_of(rows), seen[rows]
        scores[np.repeat(np.arange(len(rows)), np.diff(hidden.indptr)), hidden.indices] = -np.inf
        items, values = _largest(scores, length)
        best[start : start + block, :length] = np.where(values == -np.inf, -1, items)
    return best


def _largest(scores: NDArray[np.floating], length: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Columns and values of the largest scores of each row, largest first, each of shape (n, length)."""
    columns = np.argpartition(scores, scores.shape[1] - length, axis=1)[:, scores.shape[1] - length :]
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)
