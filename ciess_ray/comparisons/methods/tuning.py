"""Parameters of a hand-made shape, tuned on validation."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from ciess_ray.comparisons.methods.method import Problem
from ciess_ray.training.contest import Allocation
from envs.sizes.embedding_sizes import EmbeddingSizes


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
    judged: dict[tuple[float, ...], Allocation] = {}
    tables: dict[bytes, float] = {}

    def judge(point: tuple[float, ...]) -> None:
        if point in judged:
            return
        parameters = dict(zip(axes, point, strict=True))
        sizes = build(**parameters)
        table = sizes.user.tobytes() + sizes.item.tobytes()
        # At the ends of a split some parameters change nothing.
        if table not in tables:
            tables[table] = problem.judge(sizes)
            name = ", ".join(f"{name} {value:.3g}" for name, value in parameters.items())
            judged[point] = Allocation(name, sizes, tables[table])

    for point in itertools.product(*axes.values()):
        judge(point)
    spacing = [max(values) - min(values) for values in axes.values()]
    spacing = [width / max(len(values) - 1, 1) for width, values in zip(spacing, axes.values(), strict=True)]
    for _ in range(num_refinements):
        best = max(judged, key=lambda point: judged[point].step_quality)
        spacing = [width / 2 for width in spacing]
        steps = [
            sorted({min(max(at + sign * width, min(values)), max(values)) for sign in (-1, 0, 1)})
            for at, width, values in zip(best, spacing, axes.values(), strict=True)
        ]
        for point in itertools.product(*steps):
            judge(point)
    return sorted(judged.values(), key=lambda allocation: allocation.step_quality, reverse=True)
