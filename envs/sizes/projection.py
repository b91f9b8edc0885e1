"""The exact Euclidean projection of any proposed sizes onto a cap of parameters."""

import numpy as np
from numpy.typing import NDArray

from envs.errors import BudgetError, EmbeddingSizeError

#: Beyond it float64 no longer tells apart the fractions of a size that rounding looks at.
_MAX_PROPOSAL = 1e9


def check_bounds(min_embedding_size: int, max_embedding_size: int) -> None:
    """Refuse bounds that no size can meet.

    Raises:
        EmbeddingSizeError: d_min is below 1 or d_max below d_min.
    """
    if not 1 <= min_embedding_size <= max_embedding_size:
        raise EmbeddingSizeError(
            f"min_embedding_size {min_embedding_size} and max_embedding_size {max_embedding_size} bound no "
            "size: the first must be at least 1, for every row keeps one number, and not above the second."
        )


def project_sizes(
    proposal: NDArray[np.floating] | NDArray[np.integer],
    cap_params: int,
    min_embedding_size: int,
    max_embedding_size: int,
    rng: np.random.Generator,
    *,
    fill: bool = False,
) -> NDArray[np.int32]:
    """Euclidean projection of proposed sizes onto a cap, rounded by largest remainder.

    The nearest point of {x : Σx ≤ cap, d_min ≤ x ≤ d_max} is clip(proposal - τ) with the one τ ≥ 0 that
    meets the cap; τ is found exactly, by sorting the 2n values at which an entry meets a bound. Rounding
    keeps the sum, the bounds and the order of the proposal. Where the cap binds, the sizes sum to it.
    With ``fill`` the set is {x : Σx = cap, ...} and τ may be negative: memory that nobody asked for is
    dealt out evenly instead of left unused.

    Args:
        proposal: Sizes asked for, shape (n,), in dimensions.
        cap_params: The most the sizes may sum to.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        rng: Breaks ties between equal proposals when a remainder is dealt out.
        fill: Whether the sizes must use the whole cap.

    Returns:
        Sizes, shape (n,), int32.

    Raises:
        EmbeddingSizeError: A proposal is NaN or beyond ±10⁹, or the bounds contradict each other.
        BudgetError: The cap is below d_min for every entity.
    """
    check_bounds(min_embedding_size, max_embedding_size)
    sizes = np.asarray(proposal, np.float64)
    is_usable = np.abs(sizes) <= _MAX_PROPOSAL
    if not is_usable.all():
        bad = int(np.argmin(is_usable))
        raise EmbeddingSizeError(
            f"the size proposed for entity {bad} is {sizes[bad]:g}: it must be finite, "
            f"and within ±{_MAX_PROPOSAL:g}."
        )
    if cap_params < sizes.size * min_embedding_size:
        raise BudgetError(
            f"a cap of {cap_params} parameters is below min_embedding_size={min_embedding_size} "
            f"for each of {sizes.size} entities."
        )
    projected = np.clip(sizes, min_embedding_size, max_embedding_size)
    if fill or projected.sum() > cap_params:
        total = min(cap_params, sizes.size * max_embedding_size)
        shift = _shift_onto_cap(sizes, total, min_embedding_size, max_embedding_size)
        projected = np.clip(sizes - shift, min_embedding_size, max_embedding_size)
    else:
        total = round(projected.sum())
    rounded = np.floor(projected)
    remainder = projected - rounded
    to_deal = total - int(rounded.sum())
    if to_deal > 0:
        # Last key first: the largest remainder, then the larger proposal, then by lot.
        order = np.lexsort((rng.random(sizes.size), -sizes, -remainder))
        rounded[order[:to_deal]] += 1.0
    return rounded.astype(np.int32)


def _shift_onto_cap(
    sizes: NDArray[np.float64], cap_params: int, min_embedding_size: int, max_embedding_size: int
) -> float:
    """The τ at which Σ clip(sizes - τ, d_min, d_max) equals the cap.

    The sum is piecewise linear and falls in τ. Entry i bends it at sizes[i] - d_max, where it leaves the
    upper bound, and at sizes[i] - d_min, where it reaches the lower one; between bends the slope is minus
    the number of entries strictly inside.
    """
    leaves_upper, meets_lower = sizes - max_embedding_size, sizes - min_embedding_size
    bends = np.concatenate([leaves_upper, meets_lower])
    slope_change = np.concatenate([np.full(sizes.size, -1.0), np.full(sizes.size, 1.0)])
    order = np.argsort(bends, kind="stable")
    bends, slopes = bends[order], np.cumsum(slope_change[order])
    # The sum at each bend: n · d_max before the first, then falling by slope times distance.
    drops = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(bends))])
    sums = sizes.size * max_embedding_size + drops
    after = int(np.searchsorted(-sums, -cap_params, side="left"))
    if after == 0:
        return float(bends[0])
    segment = after - 1
    if slopes[segment] == 0.0:
        return float(bends[segment])
    return float(bends[segment] + (cap_params - sums[segment]) / slopes[segment])
