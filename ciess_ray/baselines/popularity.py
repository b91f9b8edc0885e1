"""Sizes by popularity, and by whether a row is a user's or an item's: tuned on a grid, or drawn at random."""

from ciess_ray.baselines.method import Method, Problem
from ciess_ray.baselines.shapes import head, mean_sizes, powers, proportional
from ciess_ray.baselines.tuning import tune
from ciess_ray.choosing import Allocation
from ciess_ray.streams import Stream
from envs.budget import EmbeddingSizes

_SPLITS = [position / 8 for position in range(9)]
_POWERS = [-0.6, -0.3, 0.0, 0.3, 0.6]
#: Decimal logarithms of the share of the items, 2 to 50 %, and of how much larger they are.
_LOG_SHARES, _LOG_RATIOS = [-1.7, -1.35, -1.0, -0.65, -0.3], [0.5, 1.0, 1.5]


def by_popularity(
    problem: Problem, split: float, user_power: float = 0.0, item_power: float = 0.0
) -> EmbeddingSizes:
    """Sizes in proportion to powers of popularity, within users and within items, at the budget.

    Args:
        problem: Gives popularities and budget.
        split: What users get of it, see :func:`ciess_ray.baselines.shapes.mean_sizes`.
        user_power: Of the users' popularity; negative favours the less active.
        item_power: Of the items'.
    """
    interactions, (mean_user, mean_item) = problem.interactions, mean_sizes(problem, split)
    user = proportional(powers(interactions.user_popularity, user_power), mean_user, *problem.bounds)
    item = proportional(powers(interactions.item_popularity, item_power), mean_item, *problem.bounds)
    return problem.project(user, item, problem.rng(Stream.HAND_MADE_SHAPE))


class Split(Method):
    """One size for all users and one for all items, the best such pair."""

    name = "split"
    is_judging = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """All splits judged, best first."""
        splits = [position / 16 for position in range(17)]
        return tune(problem, {"split": splits}, lambda split: by_popularity(problem, split), 3)


class SplitInCommunities(Split):
    """The same, and then all that is done for a search: communities, and equal sizes where those are better.

    What is left of the search's lead over it is what sizes of each row's own are worth.
    """

    name = "split in communities"
    is_search = True


class Popularity(Method):
    """Powers of popularity, for users and for items apart, with the best split between the two."""

    name = "popularity"
    is_judging = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """All powers and splits judged, best first."""
        axes = {"split": _SPLITS, "user_power": _POWERS, "item_power": _POWERS}
        return tune(problem, axes, lambda **point: by_popularity(problem, **point), 2)


class PopularItems(Method):
    """The most popular items large and the others small; users all alike, or by a power of popularity."""

    name = "popular items"
    is_judging = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """All shares, levels and splits judged, best first."""
        interactions, bounds = problem.interactions, problem.bounds

        def build(split: float, log_share: float, log_ratio: float, user_power: float) -> EmbeddingSizes:
            mean_user, mean_item = mean_sizes(problem, split)
            user = proportional(powers(interactions.user_popularity, user_power), mean_user, *bounds)
            large = head(interactions.item_popularity, 10.0**log_share, 10.0**log_ratio)
            item = proportional(large, mean_item, *bounds)
            return problem.project(user, item, problem.rng(Stream.HAND_MADE_SHAPE))

        axes = {
            "split": _SPLITS,
            "log_share": _LOG_SHARES,
            "log_ratio": _LOG_RATIOS,
            "user_power": [-0.3, 0.0],
        }
        return tune(problem, axes, build, 1)


class RandomSearch(Method):
    """Splits and powers of popularity at random, judged like the steps of the search, for as long as it.

    What a search has to beat: the same shapes that a user would think of, and no learning.
    """

    name = "random search"
    is_judging = True
    is_search = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The best that was drawn until the CPU seconds or the steps were used up, and one in any case."""
        rng = problem.rng(Stream.RANDOM_SEARCH)
        num_kept = problem.config.search.num_candidates
        started, num_steps = problem.clock(), 0
        best: list[Allocation] = []
        while True:
            split, user_power, item_power = rng.random(), *rng.uniform(-1.0, 1.0, 2)
            sizes = by_popularity(problem, split, user_power, item_power)
            name = f"draw {num_steps}: split {split:.3g}, user_power {user_power:.3g}, "
            best.append(Allocation(f"{name}item_power {item_power:.3g}", sizes, problem.judge(sizes)))
            best = sorted(best, key=lambda allocation: allocation.step_quality, reverse=True)[:num_kept]
            num_steps += 1
            is_late = problem.num_seconds is not None and problem.clock() - started >= problem.num_seconds
            if is_late or (problem.num_steps is not None and num_steps >= problem.num_steps):
                return best
