"""Tables that need no search: full size, equal and random sizes, and hand-made shapes tuned on a grid."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ciess_ray.comparisons.methods.method import Problem
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation
from ciess_ray.training.convergence import equal_sizes
from envs.sizes.by_popularity import powers, proportional
from envs.sizes.embedding_sizes import EmbeddingSizes

_SPLITS = [position / 8 for position in range(9)]
_POWERS = [-0.6, -0.3, 0.0, 0.3, 0.6]
#: Decimal logarithms of the share of the items, 2 to 50 %, and of how much larger they are.
_LOG_SHARES, _LOG_RATIOS = [-1.7, -1.35, -1.0, -0.65, -0.3], [0.5, 1.0, 1.5]


def full_table(problem: Problem) -> list[Allocation]:
    """Every entity at d_max, whatever the budget: the yardstick, which has been trained already."""
    return [Allocation(FULL_SIZE, problem.full_sizes, trained=problem.full_fit)]


def equal_table(problem: Problem) -> list[Allocation]:
    """The same size for everyone; ES in CIESS (arXiv 2304.03501).

    A budget that does not divide evenly gives two neighbouring sizes, the larger one drawn by seed.
    """
    return [Allocation(EQUAL_SIZES, equal_sizes(problem.config, problem.interactions, problem.cap_params))]


def mixed_random(problem: Problem) -> list[Allocation]:
    """A random size for everyone; MR in CIESS (arXiv 2304.03501).

    Uniform between d_min and as far above the mean, then projected onto the budget.
    """
    full, (low, high) = problem.full_sizes, problem.bounds
    mean = problem.cap_params / (full.num_tables * full.num_rows)
    reach = min(mean - low, high - mean)
    rng = problem.rng(Stream.MIXED_RANDOM)
    drawn = rng.uniform(mean - reach, mean + reach, full.num_rows)
    user, item = np.split(drawn, [len(full.user)])
    return [Allocation("mixed random", problem.project(user, item, rng))]


def best_split(problem: Problem) -> list[Allocation]:
    """One size for all users and one for all items, the best such pair."""
    splits = [position / 16 for position in range(17)]
    return tune(problem, {"split": splits}, lambda split: by_popularity(problem, split), 3)


def popularity(problem: Problem) -> list[Allocation]:
    """Powers of popularity, for users and for items apart, with the best split between the two."""
    axes = {"split": _SPLITS, "user_power": _POWERS, "item_power": _POWERS}
    return tune(problem, axes, lambda **point: by_popularity(problem, **point), 2)


def popular_items(problem: Problem) -> list[Allocation]:
    """The most popular items large and the others small; users all alike, or by a power of popularity."""
    of_users, of_items = problem.popularities

    def build(split: float, log_share: float, log_ratio: float, user_power: float) -> EmbeddingSizes:
        large = head(of_items, 10.0**log_share, 10.0**log_ratio)
        return in_proportion(problem, split, powers(of_users, user_power), large)

    axes = {"split": _SPLITS, "log_share": _LOG_SHARES, "log_ratio": _LOG_RATIOS, "user_power": [-0.3, 0.0]}
    return tune(problem, axes, build, 1)


def by_popularity(
    problem: Problem, split: float, user_power: float = 0.0, item_power: float = 0.0
) -> EmbeddingSizes:
    """Sizes in proportion to powers of popularity, within users and within items, at the budget.

    Args:
        problem: Gives popularities and budget.
        split: What users get of it, see :func:`mean_sizes`.
        user_power: Of the users' popularity; negative favours the less active.
        item_power: Of the items'.
    """
    of_users, of_items = problem.popularities
    return in_proportion(problem, split, powers(of_users, user_power), powers(of_items, item_power))


def in_proportion(
    problem: Problem, split: float, users: NDArray[np.float64], items: NDArray[np.float64]
) -> EmbeddingSizes:
    """Sizes in proportion to weights, within users and within items, at the budget.

    Args:
        problem: Gives the budget.
        split: What users get of it, see :func:`mean_sizes`.
        users: The weight of each, shape (num_users,).
        items: Likewise, shape (num_items,).
    """
    user, item = (
        proportional(weights, mean_size, *problem.bounds)
        for weights, mean_size in zip((users, items), mean_sizes(problem, split), strict=True)
    )
    return problem.project(user, item, problem.rng(Stream.HAND_MADE_SHAPE))


def mean_sizes(problem: Problem, split: float) -> tuple[float, float]:
    """Mean size of users and of items under the budget.

    Args:
        problem: Gives the budget.
        split: 0 gives users as little as the bounds and the budget allow, 1 as much; between, the logarithm
            of the ratio of the two is interpolated. Where users have no rows, items get all.

    Returns:
        For users, for items; with the numbers of both they use up the budget.
    """
    full, (low, high) = problem.full_sizes, problem.bounds
    num_users, num_items = len(full.user), len(full.item)
    total = problem.cap_params // full.num_tables
    if not num_users:
        return float(low), total / num_items
    least = max(low, (total - num_items * high) / num_users)
    most = min(high, (total - num_items * low) / num_users)
    first, last = (math.log(user * num_items / (total - num_users * user)) for user in (least, most))
    ratio = math.exp(first + split * (last - first))
    item = total / (num_users * ratio + num_items)
    return ratio * item, item


def head(counts: NDArray[np.integer], share: float, ratio: float) -> NDArray[np.float64]:
    """``ratio`` for the most popular entities and 1 for the rest, shape (n,); equals are told apart by place.

    Args:
        counts: Interactions of each entity, shape (n,).
        share: Of the entities that count as most popular, at least one of them.
        ratio: Above 0.
    """
    num_large = min(max(1, round(share * len(counts))), len(counts))
    weights = np.ones(len(counts))
    weights[np.argsort(-counts, kind="stable")[:num_large]] = ratio
    return weights


def tune(
    problem: Problem,
    axes: Mapping[str, Sequence[float]],
    build: Callable[..., EmbeddingSizes],
    num_refinements: int,
) -> list[Allocation]:
    """Judge every point of a grid, then finer and finer neighbours of the best.

    Args:
        problem: Judges.
        axes: Values of each parameter, ascending.
        build: Called with the parameters by name; gives sizes that use up the budget.
        num_refinements: How often the spacing around the best point is halved; each time its neighbours at
            half a space on every axis are judged.

    Returns:
        The distinct tables, best first.
    """
    judged: dict[bytes, tuple[tuple[float, ...], Allocation]] = {}
    ends = [(min(values), max(values)) for values in axes.values()]
    spacing = [
        (high - low) / max(len(values) - 1, 1)
        for (low, high), values in zip(ends, axes.values(), strict=True)
    ]
    grid = list(axes.values())
    for _ in range(num_refinements + 1):
        for point in itertools.product(*grid):
            parameters = dict(zip(axes, point, strict=True))
            sizes = build(**parameters)
            table = sizes.user.tobytes() + sizes.item.tobytes()
            # Neighbours meet; and at the ends of a split some parameters change nothing.
            if table not in judged:
                name = ", ".join(f"{name} {value:.3g}" for name, value in parameters.items())
                judged[table] = point, Allocation(name, sizes, problem.judge(sizes))
        best, _ = max(judged.values(), key=lambda entry: entry[1].step_quality)
        spacing = [width / 2 for width in spacing]
        grid = [
            sorted({min(max(at + sign * width, low), high) for sign in (-1, 0, 1)})
            for at, width, (low, high) in zip(best, spacing, ends, strict=True)
        ]
    allocations = [allocation for _, allocation in judged.values()]
    return sorted(allocations, key=lambda allocation: allocation.step_quality, reverse=True)
