"""Ranking metrics of every user at once, and the quality that CIESS reads off them.

CIESS (arXiv 2304.03501) section 2.2.3: the quality of a user is the mean of Recall@k and NDCG@k over k in
{5, 10, 20}; that of an item the mean over the users who interacted with it in training.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.errors import DataError

CUTOFFS = (5, 10, 20)


@dataclass(frozen=True)
class RankingMetrics:
    """Recall and NDCG of each user.

    Attributes:
        recall: Shape (num_users, len(cutoffs)), float64; NaN for a user without relevant items.
        ndcg: The same for NDCG.
        cutoffs: The k of each column.
    """

    recall: NDArray[np.float64]
    ndcg: NDArray[np.float64]
    cutoffs: tuple[int, ...] = CUTOFFS

    @property
    def user_quality(self) -> NDArray[np.float64]:
        """Mean of all metrics of each user, shape (num_users,); NaN without relevant items."""
        return np.asarray(np.hstack([self.recall, self.ndcg]).mean(axis=1))

    @property
    def quality(self) -> float:
        """Mean quality over the users that have one; 0 where none has."""
        return _mean_of_present(self.user_quality)

    def summary(self) -> dict[str, float]:
        """Means over the users that have relevant items: ``recall@5``, ..., ``ndcg@20``."""
        return {
            f"{name}@{k}": _mean_of_present(values[:, column])
            for name, values in (("recall", self.recall), ("ndcg", self.ndcg))
            for column, k in enumerate(self.cutoffs)
        }


def _mean_of_present(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def ranking_metrics(
    ranked_items: NDArray[np.integer], relevant: csr_array, cutoffs: tuple[int, ...] = CUTOFFS
) -> RankingMetrics:
    """Recall@k and NDCG@k of ranked lists.

    Recall@k divides by the number of relevant items, not by min(k, that number); NDCG@k has a log2
    discount and an ideal list of min(k, relevant) items.

    Args:
        ranked_items: Best first, shape (num_users, depth); -1 where a list is shorter. Places beyond
            ``depth`` count as misses.
        relevant: Held-out interactions, shape (num_users, num_items), with the indices of each row ascending.
        cutoffs: Lengths of list to judge.

    Returns:
        The metrics of each user.

    Raises:
        DataError: The indices of a row are not ascending, or one is there twice or of a stored zero; or a
            list has an item twice, or what is none.
    """
    num_users, num_items = relevant.shape
    num_relevant = np.diff(relevant.indptr).astype(np.int64)
    rows = np.arange(num_users, dtype=np.int64)
    keys = np.repeat(rows, num_relevant) * num_items + relevant.indices
    is_ascending = keys[1:] > keys[:-1]
    if not is_ascending.all():
        user = keys[np.argmin(is_ascending)] // num_items
        raise DataError(
            f"relevant items, row {user}: its indices are not in ascending order, each once; call "
            "sum_duplicates() on the matrix"
        )
    if not np.all(relevant.data):
        raise DataError("relevant items: zeros are stored among them; call eliminate_zeros() on the matrix")
    depth = max(cutoffs)
    ranked = np.asarray(ranked_items[:, :depth], np.int64)
    in_order = np.sort(ranked, axis=1)
    is_twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    if is_twice.any():
        raise DataError(f"ranked items, row {np.argmax(is_twice.any(axis=1))}: an item is there twice")
    if ranked.size and ranked.max() >= num_items:
        raise DataError(f"ranked items: {ranked.max()} is no item, there are {num_items:,}")
    queries = rows[:, None] * num_items + ranked
    position = np.searchsorted(keys, queries)
    is_hit = np.zeros(ranked.shape, bool)
    inside = (position < keys.size) & (ranked >= 0)
    is_hit[inside] = keys[position[inside]] == queries[inside]

    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    hits_to = np.cumsum(is_hit, axis=1)
    gain_to = np.cumsum(is_hit * discount[: ranked.shape[1]], axis=1)
    ideal_to = np.concatenate([[0.0], np.cumsum(discount)])
    recall = np.full((num_users, len(cutoffs)), np.nan)
    ndcg = recall.copy()
    judged = num_relevant > 0
    for column, k in enumerate(cutoffs):
        last = min(k, ranked.shape[1]) - 1
        recall[judged, column] = hits_to[judged, last] / num_relevant[judged]
        ndcg[judged, column] = gain_to[judged, last] / ideal_to[np.minimum(num_relevant[judged], k)]
    return RankingMetrics(recall, ndcg, cutoffs)


@dataclass(frozen=True)
class EntityQuality:
    """Mean ranking quality of every entity under one table.

    Attributes:
        user: Shape (num_users,), float64; NaN for a user without relevant items.
        item: Shape (num_items,), float64; NaN for an item none of whose training users has a quality.
    """

    user: NDArray[np.float64]
    item: NDArray[np.float64]


def entity_quality(metrics: RankingMetrics, train: csr_array) -> EntityQuality:
    """Quality of users and, through their training interactions, of items.

    Args:
        metrics: Of each user; one without a quality is left out of every mean.
        train: Training interactions, ones, shape (num_users, num_items).
    """
    user = metrics.user_quality
    has_quality = ~np.isnan(user)
    total = np.where(has_quality, user, 0.0) @ train
    count = has_quality.astype(np.float64) @ train
    item = np.full(train.shape[1], np.nan)
    np.divide(total, count, out=item, where=count > 0)
    return EntityQuality(user, item)
