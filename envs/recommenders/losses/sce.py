"""Cross-entropy among the items that are hardest for a user, found with random projections."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from envs.recommenders.base import BaseRecommender, DotProductRecommender, Encoded
from envs.recommenders.losses.softmax import SCORES_PER_PART, Positives, Softmax

#: Items of a bucket.
BUCKET_ITEMS = 256
#: Of a pivot's hardest items, those that users are compared by.
_COMPARED = 8
_NEVER = -1e30


class ScalableCrossEntropy(Softmax):
    """A softmax over a user's items and the hardest others of the buckets that the user is in.

    SCE (arXiv 2409.18721). Normal mixtures of the batch's users are directions, and a bucket is the users and
    the items of the largest products with one of them; in a bucket all of its items are scored for all of its
    users. For a batch of n users there are 2 √n buckets of 2 √n users, so that a user is in four on average;
    of several the one that costs most counts, and who is in none waits for another batch. Memory is buckets ×
    users × items of a bucket, whatever the catalogue has.

    Differs: a row of the batch is a user with all of its items, not a position of a sequence with one; they
    count as they are scored, and what the bucket has of them is left out of it. Where the score is no inner
    product, a bucket is what one user of the batch scores highest, and those who score that alike.

    Args:
        train: Training interactions, shape (num_users, num_items), indices sorted.
        batch_size: Positives a batch, on average.
        positives: What counts the same, see :class:`RankingLoss`.
        temperature: See :class:`Softmax`.
    """

    def __init__(
        self,
        train: csr_array,
        batch_size: int,
        *,
        positives: str = "user",
        temperature: float | None = None,
    ) -> None:
        super().__init__(train, batch_size, positives=positives, temperature=temperature)
        self._num_buckets = math.ceil(2 * math.sqrt(self.num_users))

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
        """Users and their items, of one length, int64, and what mixes users, (buckets, users), float32."""
        user, item = self.draw_positives(rng)
        return user, item, rng.standard_normal((self._num_buckets, self.num_users), np.float32)

    def cost(
        self, recommender: BaseRecommender, encoded: Encoded, positives: Positives, *shared: Tensor
    ) -> Tensor:
        """Cross-entropy among a user's items and those of its hardest bucket."""
        # Of a selection there are fewer users.
        mixture = shared[0][:, : len(positives.distinct)]
        is_product = type(recommender).score is DotProductRecommender.score
        find = round_directions if is_product else round_pivots
        num_users = min(self._num_buckets, len(positives.distinct))
        num_items = min(BUCKET_ITEMS, self.train.shape[1])
        rows, items = find(recommender, encoded, positives.distinct, mixture, num_users, num_items)
        users = positives.distinct[rows]
        if is_product:
            scores = torch.bmm(encoded[0][users], encoded[1][items].transpose(1, 2))
        else:
            scores = torch.stack([recommender.score(encoded, *one) for one in zip(users, items, strict=True)])
        is_own = positives.include(rows[:, :, None], items[:, None, :], self.train.shape[1])
        of_bucket = scores.masked_fill(is_own, _NEVER).logsumexp(dim=2)
        in_none = scores.new_full(positives.distinct.shape, -torch.inf)
        others = in_none.scatter_reduce(0, rows.flatten(), of_bucket.flatten(), "amax")
        weights = positives.weights * others.isfinite()[positives.row]
        bucketed = replace(positives, weights=weights / weights.sum())
        return bucketed.cost(recommender.score_pairs(encoded, positives.users, positives.items), others)


@torch.no_grad()
def round_directions(
    recommender: BaseRecommender,
    encoded: Encoded,
    users: Tensor,
    mixture: Tensor,
    num_users: int,
    num_items: int,
) -> tuple[Tensor, Tensor]:
    """Buckets of inner products.

    Args:
        recommender: What scores.
        encoded: What it scores with.
        users: Of the batch, shape (n,), int64.
        mixture: Weights of the users in the direction of each bucket, shape (num_buckets, n).
        num_users: Users of a bucket.
        num_items: Items of a bucket.

    Returns:
        Places in ``users``, shape (num_buckets, num_users), and items, (num_buckets, num_items), int64.
    """
    user = encoded[0][users]
    directions = mixture @ user
    parts = torch.split(directions, max(1, SCORES_PER_PART // len(encoded[1])))
    items = [(part @ encoded[1].T).topk(num_items, dim=1).indices for part in parts]
    return (directions @ user.T).topk(num_users, dim=1).indices, torch.cat(items)


@torch.no_grad()
def round_pivots(
    recommender: BaseRecommender,
    encoded: Encoded,
    users: Tensor,
    mixture: Tensor,
    num_users: int,
    num_items: int,
) -> tuple[Tensor, Tensor]:
    """Buckets round the user of the largest weight each, by scores alone; see :func:`round_directions`."""
    pivots = mixture.argmax(dim=1)
    parts = torch.split(users[pivots], max(1, SCORES_PER_PART // recommender.num_items))
    items = [recommender.score(encoded, part).topk(num_items, dim=1).indices for part in parts]
    likes = recommender.score(encoded, users, torch.cat(items)[:, :_COMPARED].flatten())
    likes = likes - likes.mean(dim=0)
    return (likes[pivots] @ likes.T).topk(num_users, dim=1).indices, torch.cat(items)
