"""Sizes that look at popularity alone: what a search starts from, and what a supernet is trained on."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from envs.sizes.embedding_sizes import EmbeddingSizes

#: Of what a supernet is trained on: neighbours in popularity are not to share one prefix for good.
_NOISE_STD = 0.1
_NUM_BISECTIONS = 60


def draw_policy(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random policy that looks at popularity only, as three numbers for :func:`table_sizes`.

    Level and power are uniform in [0, 1]; the slope, in [-1, 1], is as likely to favour the popular as the
    others.
    """
    level, power = rng.random(), rng.random()
    favours_popular = rng.random() < 0.5
    slope = rng.random()
    return np.array([level, power, slope if favours_popular else -slope])


def table_sizes(
    policy: NDArray[np.float64],
    popularity: NDArray[np.integer] | NDArray[np.floating],
    rng: np.random.Generator,
    min_embedding_size: int,
    max_embedding_size: int,
    target_ratio: float | None = None,
    spread: float = 8.0,
    noise_std: float = 0.0,
) -> NDArray[np.float64]:
    """Sizes that a policy gives users, or items, by their popularity.

    size = level * (1 + slope * shape), with a little noise an entity if wanted. The shape is a power of the
    popularity's rank, centred, so that with a power near 8 only the most popular tenth stands out; a slope of
    1 or -1 leaves the disfavoured nothing.

    Args:
        policy: Level from 0 to 1, the logarithm between d_min and d_max, or within a factor of ``spread`` of
            ``target_ratio * d_max``; power from 0 to 1, the logarithm between 1 and 8; slope from -1 to 1.
        popularity: Any measure of it that orders the entities, shape (n,).
        rng: Draws the noise.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        target_ratio: Kept ratio aimed at, if any.
        spread: How far from it levels reach.
        noise_std: Standard deviation of the noise, in the logarithm of the size.

    Returns:
        Shape (n,), within the bounds.
    """
    if not len(popularity):
        return np.zeros(0)
    low, high = float(min_embedding_size), float(max_embedding_size)
    if target_ratio is not None:
        aim = target_ratio * max_embedding_size
        low, high = np.clip(aim / spread, low, high), np.clip(aim * spread, low, high)
    level = np.exp(np.log(low) + (np.log(high) - np.log(low)) * policy[0])
    power = np.exp(np.log(8.0) * policy[1])
    slope = policy[2]
    # Entities of one popularity share one rank.
    _, inverse, counts = np.unique(popularity, return_inverse=True, return_counts=True)
    rank = ((np.cumsum(counts) - counts / 2.0) / popularity.shape[0])[inverse]
    shape = rank**power - np.mean(rank**power)
    extreme = max(-float(shape.min()) if slope > 0 else float(shape.max()), 1e-12)
    sizes = level * (1.0 + slope / extreme * shape)
    sizes = sizes * np.exp(rng.normal(0.0, noise_std, popularity.shape[0]))
    return np.asarray(np.clip(sizes, min_embedding_size, max_embedding_size))


def proportional(
    weights: NDArray[np.float64], mean_size: float, min_embedding_size: int, max_embedding_size: int
) -> NDArray[np.float64]:
    """Sizes in proportion to weights, within the bounds, of a mean.

    Args:
        weights: Above 0, shape (n,).
        mean_size: Within the bounds.
        min_embedding_size: What a smaller share is raised to.
        max_embedding_size: What a larger one is cut to.

    Returns:
        Shape (n,), of that mean to within rounding.
    """
    if not len(weights):
        return np.zeros(0)
    low, high = min_embedding_size / weights.max(), max_embedding_size / weights.min()
    for _ in range(_NUM_BISECTIONS):
        factor = math.sqrt(low * high)
        if np.clip(factor * weights, min_embedding_size, max_embedding_size).mean() < mean_size:
            low = factor
        else:
            high = factor
    sizes: NDArray[np.float64] = np.clip(high * weights, min_embedding_size, max_embedding_size)
    return sizes


def powers(counts: NDArray[np.integer], power: float) -> NDArray[np.float64]:
    """Popularity to a power, an entity without any interaction as one that has one; shape (n,)."""
    return np.asarray(np.maximum(counts, 1).astype(np.float64) ** power)


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
            table_sizes(draw_policy(rng), popularity, rng, *bounds, ratio, noise_std=_NOISE_STD)
            for popularity in (user_popularity, item_popularity)
        )
        return EmbeddingSizes.from_proposal(
            user, item, cap * num_tables, *bounds, rng, fill=True, num_tables=num_tables
        )

    return draw
