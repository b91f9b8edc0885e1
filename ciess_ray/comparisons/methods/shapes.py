"""Sizes by hand: how much users get and how much items, and how that goes by popularity."""

import math

import numpy as np
from numpy.typing import NDArray

from ciess_ray.comparisons.methods.method import Problem

_NUM_BISECTIONS = 60


def mean_sizes(problem: Problem, split: float) -> tuple[float, float]:
    """Mean size of users and of items under the budget.

    Args:
        problem: Gives the budget.
        split: 0 gives users as little as the bounds and the budget allow, 1 as much; between, the logarithm
            of the ratio of the two is interpolated.

    Returns:
        For users, for items; with the numbers of both they use up the budget.
    """
    interactions, (low, high) = problem.interactions, problem.bounds
    num_users, num_items = interactions.num_users, interactions.num_items
    total = problem.cap_params // problem.num_tables
    least = max(low, (total - num_items * high) / num_users)
    most = min(high, (total - num_items * low) / num_users)
    first, last = (math.log(user * num_items / (total - num_users * user)) for user in (least, most))
    ratio = math.exp(first + split * (last - first))
    item = total / (num_users * ratio + num_items)
    return ratio * item, item


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
    low, high = min_embedding_size / weights.max(), max_embedding_size / weights.min()
    for _ in range(_NUM_BISECTIONS):
        factor = math.sqrt(low * high)
        if np.clip(factor * weights, min_embedding_size, max_embedding_size).mean() < mean_size:
            low = factor
        else:
            high = factor
    sizes: NDArray[np.float64] = np.clip(high * weights, min_embedding_size, max_embedding_size)
    return sizes


def powers(popularity: NDArray[np.integer], power: float) -> NDArray[np.float64]:
    """Popularity to a power, an entity without any interaction as one that has one; shape (n,)."""
    return np.asarray(np.maximum(popularity, 1).astype(np.float64) ** power)


def head(popularity: NDArray[np.integer], share: float, ratio: float) -> NDArray[np.float64]:
    """``ratio`` for the most popular entities and 1 for the rest, shape (n,); equals are told apart by place.

    Args:
        popularity: Shape (n,).
        share: Of the entities that count as most popular, at least one of them.
        ratio: Above 0.
    """
    num_large = min(max(1, round(share * len(popularity))), len(popularity))
    weights = np.ones(len(popularity))
    weights[np.argsort(-popularity, kind="stable")[:num_large]] = ratio
    return weights
