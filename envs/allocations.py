"""Sizes that look at popularity alone: what a search starts from, and what a supernet is trained on."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.budget import EmbeddingSizes


def random_table_sizes(
    popularity: NDArray[np.integer] | NDArray[np.floating],
    rng: np.random.Generator,
    min_embedding_size: int,
    max_embedding_size: int,
    target_ratio: float | None = None,
) -> NDArray[np.float64]:
    """Sizes from a random policy that looks at popularity only: what a warm-up step tries.

    size = level * (1 + slope * shape), plus a little noise an entity. The level is log-uniform in
    [d_min, d_max], or within a factor of eight of ``target_ratio * d_max``. The shape is a power of the
    popularity's rank, centred, so that with a power near 8 only the most popular tenth stands out; the slope
    is as likely to favour the popular as the others, and at its extreme leaves the disfavoured nothing.
    Called for users and for items apart, it shows the critics very different splits between the two.

    Args:
        popularity: Any measure of it that orders the entities, shape (n,).
        rng: The generator drawn from.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        target_ratio: Kept ratio aimed at, if any.

    Returns:
        Shape (n,), within the bounds.
    """
    low, high = float(min_embedding_size), float(max_embedding_size)
    if target_ratio is not None:
        aim = target_ratio * max_embedding_size
        low, high = np.clip(aim / 8.0, low, high), np.clip(aim * 8.0, low, high)
    level = np.exp(rng.uniform(np.log(low), np.log(high)))
    power = np.exp(rng.uniform(0.0, np.log(8.0)))
    favours_popular = rng.random() < 0.5
    slope = rng.random()
    # Entities of one popularity share one rank.
    _, inverse, counts = np.unique(popularity, return_inverse=True, return_counts=True)
    rank = ((np.cumsum(counts) - counts / 2.0) / popularity.shape[0])[inverse]
    shape = rank**power
    shape = shape - shape.mean()
    extreme = max(-float(shape.min()) if favours_popular else float(shape.max()), 1e-12)
    sizes = level * (1.0 + (slope if favours_popular else -slope) / extreme * shape)
    sizes = sizes * np.exp(rng.normal(0.0, 0.1, popularity.shape[0]))
    bounded: NDArray[np.float64] = np.clip(sizes, min_embedding_size, max_embedding_size)
    return bounded


def allocation_sampler(
    user_popularity: NDArray[np.integer] | NDArray[np.floating],
    item_popularity: NDArray[np.integer] | NDArray[np.floating],
    kept_ratios: tuple[float, float],
    min_embedding_size: int,
    max_embedding_size: int,
    num_tables: int = 1,
) -> Callable[[np.random.Generator], EmbeddingSizes]:
    """Draws whole tables of random splits between users and items and random powers of popularity.

    Args:
        user_popularity: Any measure of it, shape (num_users,).
        item_popularity: The same, shape (num_items,).
        kept_ratios: The least and the greatest kept ratio; one between them is drawn log-uniformly and met
            exactly.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        num_tables: Tables in which every row has its size.

    Returns:
        Draws one allocation from the generator given.
    """
    bounds = min_embedding_size, max_embedding_size
    num_rows = len(user_popularity) + len(item_popularity)
    low, high = np.log(kept_ratios)

    def draw(rng: np.random.Generator) -> EmbeddingSizes:
        ratio = float(np.exp(rng.uniform(low, high)))
        cap = max(int(ratio * num_rows * max_embedding_size), num_rows * min_embedding_size)
        user, item = (
            random_table_sizes(popularity, rng, *bounds, target_ratio=ratio)
            for popularity in (user_popularity, item_popularity)
        )
        return EmbeddingSizes.from_proposal(
            user, item, cap * num_tables, *bounds, rng, fill=True, num_tables=num_tables
        )

    return draw
