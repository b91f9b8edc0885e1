"""Ranking quality of a recommender, in blocks of users."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.metrics import CUTOFFS, RankingMetrics, ranking_metrics
from envs.recommenders.base import BaseRecommender

#: Scores held at a time: users a block times items.
SCORES_PER_BLOCK = 4_000_000


@torch.no_grad()
def rank_items(
    recommender: BaseRecommender, seen: csr_array, users: NDArray[np.integer], depth: int
) -> NDArray[np.int64]:
    """The best items of some users, without those that they have seen.

    Args:
        recommender: Scores every item for a block of users.
        seen: Interactions to leave out, shape (num_users, num_items).
        users: Row numbers, shape (n,).
        depth: Length of each list.

    Returns:
        Item numbers, best first, shape (n, depth), int64; -1 where a user has fewer unseen items.
    """
    num_items = recommender.num_items
    recommender.eval()
    encoded = recommender.encode()
    depth_there_is = min(depth, num_items)
    ranked = np.full((len(users), depth), -1, np.int64)
    block = max(1, SCORES_PER_BLOCK // num_items)
    for start in range(0, len(users), block):
        rows = np.asarray(users[start : start + block], np.int64)
        scores = recommender.score(encoded, torch.from_numpy(rows).to(recommender.device))
        seen_rows = seen[rows]
        flat = np.repeat(np.arange(len(rows)), np.diff(seen_rows.indptr)) * num_items + seen_rows.indices
        scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -torch.inf
        values, items = scores.topk(depth_there_is, dim=1)
        items[values == -torch.inf] = -1
        ranked[start : start + block, :depth_there_is] = items.cpu().numpy()
    recommender.train()
    return ranked


def evaluate(
    recommender: BaseRecommender,
    seen: csr_array,
    relevant: csr_array,
    cutoffs: tuple[int, ...] = CUTOFFS,
) -> RankingMetrics:
    """Recall and NDCG of every user that has relevant items, over all items not seen.

    Args:
        recommender: What ranks.
        seen: Interactions left out of the ranking, shape (num_users, num_items).
        relevant: Held-out interactions, the same shape.
        cutoffs: Lengths of list to judge.
    """
    judged = np.flatnonzero(np.diff(relevant.indptr))
    depth = max(cutoffs)
    ranked = np.full((recommender.num_users, depth), -1, np.int64)
    ranked[judged] = rank_items(recommender, seen, judged, depth)
    return ranking_metrics(ranked, relevant, cutoffs)
