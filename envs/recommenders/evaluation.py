"""Ranking quality of a recommender, in blocks of users."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.metrics import CUTOFFS, RankingMetrics, ranking_metrics
from envs.recommenders.base import BaseRecommender

#: Users scored at a time; more would not stay in the cache.
USERS_PER_BLOCK = 512
#: Scores held at a time: users a block times items; 64 MB.
SCORES_PER_BLOCK = 16_000_000
#: Items scored at a time: their rows stay in the cache while all users of a block meet them.
ITEMS_PER_TILE = 4096
_GROUPS_OF = 16
#: Groups for each place of a list from which on looking at their maxima first pays.
_GROUPS_PER_PLACE = 32


def _top(scores: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The best scores of each row and their columns, best first, each (rows, depth).

    The best ``depth`` numbers lie in the ``depth`` groups of columns with the highest maxima. Maxima are read
    at the speed of memory, which ``topk`` over a whole row is far from: 40,981 columns take a third of the
    time.
    """
    num_groups = scores.shape[1] // _GROUPS_OF
    if num_groups < _GROUPS_PER_PLACE * depth:
        return scores.topk(depth, dim=1)
    num_grouped = num_groups * _GROUPS_OF
    maxima = scores[:, :num_grouped].view(len(scores), _GROUPS_OF, num_groups).amax(dim=1)
    groups = maxima.topk(depth, dim=1, sorted=False).indices
    first = torch.arange(0, num_grouped, num_groups, device=scores.device)
    rest = torch.arange(num_grouped, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat([(groups.unsqueeze(2) + first).flatten(1), rest], dim=1)
    values, places = scores.gather(1, columns).topk(depth, dim=1)
    return values, columns.gather(1, places)


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
    was_training = recommender.training
    recommender.eval()
    encoded = recommender.encode()
    # To cut columns from a sparse matrix for every block costs more than the scores.
    is_whole = num_items <= ITEMS_PER_TILE or encoded[1].layout != torch.strided
    depth_there_is = min(depth, num_items)
    ranked = np.full((len(users), depth), -1, np.int64)
    block = max(1, min(USERS_PER_BLOCK, SCORES_PER_BLOCK // num_items))
    catalogue = torch.arange(num_items, device=recommender.device)
    # One buffer for all blocks: memory from the system anew costs more than the scores.
    all_scores = torch.empty(min(block, len(users)), num_items, device=recommender.device)
    for start in range(0, len(users), block):
        rows = np.asarray(users[start : start + block], np.int64)
        block_users = torch.from_numpy(rows).to(recommender.device)
        if is_whole:
            scores = recommender.score(encoded, block_users)
        else:
            scores = all_scores[: len(rows)]
            for first in range(0, num_items, ITEMS_PER_TILE):
                tile = slice(first, first + ITEMS_PER_TILE)
                scores[:, tile] = recommender.score(encoded, block_users, catalogue[tile])
        seen_rows = seen[rows]
        flat = np.repeat(np.arange(len(rows)), np.diff(seen_rows.indptr)) * num_items + seen_rows.indices
        scores.view(-1)[torch.from_numpy(flat).to(scores.device)] = -torch.inf
        values, items = _top(scores, depth_there_is)
        items[values == -torch.inf] = -1
        ranked[start : start + block, :depth_there_is] = items.cpu().numpy()
    recommender.train(was_training)
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
    # Of a million users few may be judged: lists are made for those alone.
    ranked = rank_items(recommender, seen, judged, max(cutoffs))
    of_judged = ranking_metrics(ranked, csr_array(relevant[judged]), cutoffs)
    recall, ndcg = (np.full((recommender.num_users, len(cutoffs)), np.nan) for _ in range(2))
    recall[judged], ndcg[judged] = of_judged.recall, of_judged.ndcg
    return RankingMetrics(recall, ndcg, cutoffs)
