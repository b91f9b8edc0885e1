"""How good the lists of a segment are: those of known users on known items, and what cold rows get.

A cold row has a user or an item that training does not know. An unknown user gets what has most
interactions in training, as serving has it, a known one the list that is there for them; an unknown item is
in no list, and counts as missed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.streaming.segment import ColdRows
from envs.metrics import CUTOFFS, RankingMetrics, ranking_metrics

#: Called with what users have seen, shape (num_users, num_items), with users and with a length; gives their
#: best unseen items, best first, shape (n, length), -1 where a list is shorter.
Ranker = Callable[[csr_array, NDArray[np.integer], int], NDArray[np.int64]]

#: Of the lists that are set against the next segment's: a mean over so many users is known to 0.01.
LIST_LENGTH, _LISTED_USERS = 20, 2_000


@dataclass(frozen=True)
class Judgement:
    """Lists against what happened.

    Attributes:
        known: Of users and items that training knows.
        cold: Of the rest, a user of which has the rows that are cold alone.
    """

    known: RankingMetrics
    cold: RankingMetrics

    def summary(self, prefix: str) -> dict[str, float | int | None]:
        """Means over users as ``prefix/ndcg@20``, of cold rows as ``prefix_cold/...``; None over nobody."""
        figures: dict[str, float | int | None] = {}
        for name, metrics in ((prefix, self.known), (f"{prefix}_cold", self.cold)):
            num_users = int(np.isfinite(metrics.user_quality).sum())
            figures[f"{name}/num_users"] = num_users
            means = metrics.summary() | {"quality": metrics.quality}
            figures |= {f"{name}/{key}": value if num_users else None for key, value in means.items()}
        return figures


def judge(
    rank: Ranker, known: csr_array, seen: csr_array, cold: ColdRows, popular: NDArray[np.integer]
) -> Judgement:
    """Rank for whoever is judged, and compare with what happened.

    Args:
        rank: Gives the lists of known users.
        known: Ones where a known user met a known item, shape (num_users, num_items).
        seen: What is left out of lists, the same shape.
        cold: The other rows.
        popular: What an unknown user gets, best first, shape (max(CUTOFFS),); -1 where there are fewer.
    """
    num_users, num_items = known.shape
    depth = max(CUTOFFS)
    cold_users, cold_row = np.unique(cold.user, return_inverse=True)
    is_known = cold_users < num_users
    judged = np.union1d(np.flatnonzero(np.diff(known.indptr)), cold_users[is_known])
    ranked = np.full((num_users, depth), -1, np.int64)
    if len(judged):
        ranked[judged] = rank(seen, judged, depth)
    cold_ranked = np.tile(np.asarray(popular, np.int64), (len(cold_users), 1))
    cold_ranked[is_known] = ranked[cold_users[is_known]]
    width = max(num_items, int(cold.item.max(initial=-1)) + 1)
    pairs = np.ones(cold.num_rows, np.float32), (cold_row, cold.item)
    met = csr_array(pairs, shape=(len(cold_users), width))
    return Judgement(ranking_metrics(ranked, known), ranking_metrics(cold_ranked, met))


def top_lists(rank: Ranker, seen: csr_array) -> dict[str, NDArray[np.int32]]:
    """What users would be shown who are spread evenly over all, in order of arrival.

    Args:
        rank: Gives the lists.
        seen: What is left out of them, shape (num_users, num_items).

    Returns:
        ``user``, shape (n,), n at most 2,000, and ``item``, their lists, shape (n, 20), -1 where fewer are
        left.
    """
    num_users = seen.shape[0]
    users = np.unique(np.linspace(0, num_users - 1, min(num_users, _LISTED_USERS)).astype(np.int32))
    return {"user": users, "item": rank(seen, users, LIST_LENGTH).astype(np.int32)}


def list_overlap(former: Mapping[str, NDArray[np.int32]], rank: Ranker, seen: csr_array) -> float | None:
    """Of the lists of a segment, the share that is in the next one's: a mean over users.

    Of what a user has had since nothing is asked: it is in no list any more.

    Args:
        former: The lists, as :func:`top_lists` gives them; empty where there are none.
        rank: Gives the new ones.
        seen: As in :func:`top_lists`.

    Returns:
        None where nothing is left of the lists.
    """
    if not former:
        return None
    users, items = former["user"], former["item"].astype(np.int64)
    starts = np.arange(len(users))[:, None] * seen.shape[1]
    had = seen[users].tocoo()
    left = (items >= 0) & ~np.isin(starts + items, starts[had.row, 0] + had.col)
    now = rank(seen, users, LIST_LENGTH)
    stays = left & np.isin(starts + items, (starts + now)[now >= 0])
    num_left = left.sum(axis=1)
    shares = stays.sum(axis=1)[num_left > 0] / num_left[num_left > 0]
    return float(shares.mean()) if len(shares) else None
