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
#: Scores of neighbour tables below it, by absolute value, say nothing: see :func:`below_scores`.
NO_SCORE = 1e-29


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
        ranked_items: Best first, each once, shape (num_users, depth); -1 where a list is shorter. Places
            beyond ``depth`` count as misses.
        relevant: Held-out interactions, shape (num_users, num_items).
        cutoffs: Lengths of list to judge.

    Returns:
        The metrics of each user.

    Raises:
        DataError: A list has an item twice, which would be a hit twice.
    """
    relevant = relevant.copy()
    relevant.sum_duplicates()
    relevant.eliminate_zeros()
    num_relevant = np.diff(relevant.indptr).astype(np.int64)
    depth = max(cutoffs)
    ranked = ranked_items[:, :depth]
    in_order = np.sort(ranked, axis=1)
    is_twice = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1)
    if is_twice.any():
        raise DataError(f"ranked items, row {np.argmax(is_twice)}: an item is there twice")
    # What is no item, -1, is looked up as the last one.
    is_relevant = relevant[np.arange(len(ranked))[:, None], ranked].toarray() > 0
    is_hit = is_relevant & (ranked >= 0)

    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    hits_to = np.cumsum(is_hit, axis=1)
    gain_to = np.cumsum(is_hit * discount[: ranked.shape[1]], axis=1)
    ideal_to = np.concatenate([[0.0], np.cumsum(discount)])
    recall = np.full((len(num_relevant), len(cutoffs)), np.nan)
    ndcg = recall.copy()
    judged = num_relevant > 0
    last, relevant_of_judged = np.minimum(cutoffs, ranked.shape[1]) - 1, num_relevant[judged, None]
    recall[judged] = hits_to[judged][:, last] / relevant_of_judged
    ndcg[judged] = gain_to[judged][:, last] / ideal_to[np.minimum(relevant_of_judged, cutoffs)]
    return RankingMetrics(recall, ndcg, cutoffs)


def below_scores(popularity: NDArray[np.integer]) -> NDArray[np.float32]:
    """What is added to sums of weights, so that items of which they say nothing stand by popularity.

    It is below :data:`NO_SCORE`, so that float32 loses it beside any sum that says something.

    Args:
        popularity: Of each item, shape (num_items,).

    Returns:
        Shape (num_items,), from 0 for the least popular; of equals the first is above the others.
    """
    rows = np.arange(len(popularity))
    places = np.empty(len(popularity))
    places[np.lexsort((-rows, popularity))] = rows
    return np.asarray(places * (NO_SCORE / 2 / max(len(popularity), 1)), np.float32)


def entity_quality(metrics: RankingMetrics, train: csr_array) -> dict[str, NDArray[np.float64]]:
    """Quality of users and, through their training interactions, of items.

    Args:
        metrics: Of each user; one without a quality is left out of every mean.
        train: Training interactions, ones, shape (num_users, num_items).

    Returns:
        For ``user``, shape (num_users,), NaN for one without relevant items; for ``item``, shape
        (num_items,), NaN for one none of whose training users has a quality.
    """
    user = metrics.user_quality
    has_quality = ~np.isnan(user)
    total = np.where(has_quality, user, 0.0) @ train
    count = has_quality.astype(np.float64) @ train
    item = np.divide(total, count, out=np.full(train.shape[1], np.nan), where=count > 0)
    return {"user": user, "item": item}
