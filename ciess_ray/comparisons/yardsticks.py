"""What stands beside the methods of a comparison and keeps to no budget: EASE, item cosine, popularity.

Each is of the same training interactions and ranks for the same users as the methods do. What it may choose
is chosen on validation; then it is made of training and validation interactions together and measured on
test, once.
"""

import platform
from collections.abc import Callable
from typing import Any

from scipy.sparse import csr_array

from ciess_ray.comparisons.cell import CellResult, figures_of, metrics_of_users
from ciess_ray.serving.served_bytes import beside_a_table
from ciess_ray.training.contest import options_text
from ciess_ray.training.convergence import Meter
from envs.data import Interactions
from envs.errors import NoMemoryError
from envs.metrics import RankingMetrics
from envs.yardsticks import Yardstick, ease, item_cosine, most_popular

#: λ of EASE that is tried first, then its double and its half, and so on while validation gets better.
_FIRST_L2 = 300.0
_MAX_STEPS = 8

#: Makes one of interactions, and of an option, where it has any.
Make = Callable[[Interactions, float | None], Yardstick]

#: By name, ``ciess_ray.names.YARDSTICKS``: how it is made, and the first value of L2 where it has one.
YARDSTICKS: dict[str, tuple[Make, float | None]] = {
    "ease": (lambda data, l2: ease(data.train, data.item_popularity, l2 or _FIRST_L2), _FIRST_L2),
    "item cosine": (lambda data, _: item_cosine(data.train, data.item_popularity), None),
    "most popular": (lambda data, _: most_popular(data.item_popularity), None),
}


def run_yardstick(name: str, interactions: Interactions, reveal_test: Callable[[], csr_array]) -> CellResult:
    """Make a yardstick and measure it on test.

    Args:
        name: In :data:`YARDSTICKS`.
        interactions: Without test.
        reveal_test: Gives the test interactions; called once, when everything is chosen.

    Returns:
        Its figures; where this machine has no memory for it, that it is refused, and why.
    """
    make, first = YARDSTICKS[name]
    meter = Meter()

    def judged(l2: float | None) -> RankingMetrics:
        return make(interactions, l2).evaluate(interactions.train, interactions.validation)

    try:
        with meter.phase("choosing"):
            l2, on_validation = (None, judged(None)) if first is None else best_of_ladder(judged, first)
        with meter.phase("test"):
            merged = interactions.with_test(reveal_test()).merge_validation_into_training()
            yardstick = make(merged, l2)
            on_test = yardstick.evaluate(merged.train, merged.test)
    except NoMemoryError as error:
        return CellResult({"status": "refused", "error": str(error)})
    histories, ids = beside_a_table(merged)
    cost = meter.cost(num_trainings=0)
    row: dict[str, Any] = {
        "served_bytes": yardstick.num_bytes,
        "served_as": yardstick.form,
        "served_with_histories_bytes": yardstick.num_bytes + histories,
        "ids_bytes": ids,
        "l2": l2,
        "options": options_text({} if l2 is None else {"l2": l2}),
        "cpu_s": cost.cpu_s,
        "wall_s": cost.wall_s,
        "peak_bytes": cost.peak_bytes,
        "device": f"cpu, {platform.machine()}",
        **{f"cpu_s/{phase}": seconds for phase, seconds in meter.cpu_s.items()},
        **figures_of("validation", on_validation),
        **figures_of("test", on_test),
    }
    return CellResult(row, metrics_of_users(on_test))


def best_of_ladder(judged: Callable[[float], RankingMetrics], first: float) -> tuple[float, RankingMetrics]:
    """Double a value while validation gets better, or else halve it.

    Args:
        judged: Gives its metrics.
        first: Where it begins.

    Returns:
        The best value and its metrics.
    """
    best = first, judged(first)
    for factor in (2.0, 0.5):
        for _ in range(_MAX_STEPS):
            value = best[0] * factor
            metrics = judged(value)
            if metrics.quality <= best[1].quality:
                break
            best = value, metrics
        if best[0] != first:
            break
    return best
