"""The Markov decision process of CIESS as pure functions of arrays.

State, action and reward are those of CIESS (arXiv 2304.03501) section 2.2: one row an entity, every
number scaled to [-1, 1]. Nothing here knows a recommender or an environment.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32] | NDArray[np.float64]

#: ``paper``: what CIESS's text says. ``reference``: what the authors' released code computes.
Form = Literal["paper", "reference"]

#: What entities there are, in the order of a table's rows.
KINDS = ("user", "item")
NUM_STATE_FEATURES = 3
#: The greatest λ: at full size it outweighs the greatest quality, 1, a hundredfold.
MAX_MEMORY_WEIGHT = 100.0

# What the released code raises a full-size quality of 0 to before it divides by it.
_LEAST_FULL_QUALITY = 1e-5


def scale_size(
    embedding_sizes: NDArray[np.integer] | Floats, min_embedding_size: int, max_embedding_size: int
) -> NDArray[np.float32]:
    """Embedding sizes on the action's scale: d_min is -1, d_max is +1; shape (n,) to (n,)."""
    span = max(max_embedding_size - min_embedding_size, 1)
    sizes = np.asarray(embedding_sizes, np.float64)
    return (2.0 * (sizes - min_embedding_size) / span - 1.0).astype(np.float32)


def unscale_size(action: Floats, min_embedding_size: int, max_embedding_size: int) -> NDArray[np.float64]:
    """The real-valued sizes that actions in [-1, 1] stand for, clipped to the bounds; shape (n,) to (n,)."""
    span = max_embedding_size - min_embedding_size
    sizes = min_embedding_size + (np.asarray(action, np.float64) + 1.0) * (span / 2.0)
    return np.clip(sizes, min_embedding_size, max_embedding_size)


def scale_popularity(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """Interaction counts of users, or of items, min-max scaled to [-1, 1].

    Minimum and maximum are taken over the entities that have any interaction; one without any is
    clipped to -1. Where all counts are equal the scale is undefined and every entity gets 0.

    Args:
        counts: Training interactions of each entity, shape (n,).

    Returns:
        Shape (n,), float32.
    """
    counts = np.asarray(counts, np.float64)
    seen = counts[counts > 0]
    if seen.size == 0 or seen.min() == seen.max():
        return np.zeros(counts.shape, np.float32)
    scaled = 2.0 * (counts - seen.min()) / (seen.max() - seen.min()) - 1.0
    clipped: NDArray[np.float32] = np.clip(scaled, -1.0, 1.0).astype(np.float32)
    return clipped


def relative_quality(quality: Floats, full_quality: Floats) -> NDArray[np.float32]:
    """Quality of each entity as a share of what the full-size table gives it, at most 1, as in the paper.

    Args:
        quality: Mean ranking metric under the masked table, shape (n,); NaN where there is none.
        full_quality: The same under the fully trained full-size table, shape (n,).

    Returns:
        Shape (n,), float32; NaN where the full table's quality is 0 or missing.
    """
    full = np.asarray(full_quality, np.float64)
    has_quality = full > 0
    share = np.full(full.shape, np.nan)
    np.divide(np.asarray(quality, np.float64), full, out=share, where=has_quality)
    np.minimum(share, 1.0, out=share)
    return share.astype(np.float32)


def saturated_quality(quality: Floats) -> NDArray[np.float32]:
    """The share that the ``reference`` form shows in the state: 1 for any quality, 0 for none.

    The authors' released code measures no full-size table. Every full-size quality is 0 there, raised to
    1e-5, so that a quality of 1e-5 saturates the share; its reward takes the quality as it is.

    Args:
        quality: Mean ranking metric under the masked table, shape (n,); NaN where there is none.

    Returns:
        Shape (n,), float32, in [0, 1]; NaN where the quality is.
    """
    return relative_quality(quality, np.full(np.shape(quality), _LEAST_FULL_QUALITY))


def observe(
    scaled_popularity: NDArray[np.float32],
    embedding_sizes: NDArray[np.integer] | Floats,
    quality: Floats,
    min_embedding_size: int,
    max_embedding_size: int,
) -> NDArray[np.float32]:
    """States of all users, or of all items.

    Args:
        scaled_popularity: From :func:`scale_popularity`, shape (n,).
        embedding_sizes: Current sizes, shape (n,), in dimensions.
        quality: Share of the full table's quality, from :func:`relative_quality` or
            :func:`saturated_quality`, shape (n,); NaN where an entity has none, which the state shows as 0,
            the middle of the scale.
        min_embedding_size: d_min.
        max_embedding_size: d_max.

    Returns:
        Popularity, size and quality, shape (n, 3), float32, each in [-1, 1].
    """
    scaled_quality = np.clip(2.0 * np.asarray(quality, np.float64) - 1.0, -1.0, 1.0)
    return np.stack(
        [
            scaled_popularity,
            scale_size(embedding_sizes, min_embedding_size, max_embedding_size),
            np.nan_to_num(scaled_quality, nan=0.0).astype(np.float32),
        ],
        axis=1,
    )


def memory_cost(
    embedding_sizes: NDArray[np.integer] | Floats, max_embedding_size: int, form: Form = "paper"
) -> NDArray[np.float32]:
    """What each size costs before the memory weight λ, shape (n,) to (n,), float32.

    CIESS section 2.2.3 charges the squared kept ratio, (d / d_max)²; the authors' code
    ((d - 1) / d_max)², which makes the smallest size free.
    """
    sizes: NDArray[np.float64] = np.asarray(embedding_sizes, np.float64)
    if form == "reference":
        sizes = sizes - 1.0
    return np.square(sizes / max_embedding_size).astype(np.float32)


def reward(quality: Floats, memory_cost: Floats, memory_weight: float) -> NDArray[np.float32]:
    """Reward q - λ · memory cost of each entity, shape (n,); NaN where it has no quality."""
    return (np.asarray(quality, np.float64) - memory_weight * np.asarray(memory_cost, np.float64)).astype(
        np.float32
    )
