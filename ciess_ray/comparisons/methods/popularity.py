"""Sizes by popularity, and by whether a row is a user's or an item's: tuned on a grid, or drawn at random."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ciess_ray.candidate import Candidate
from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.comparisons.methods.shapes import head, mean_sizes, powers, proportional
from ciess_ray.comparisons.methods.tuning import tune
from ciess_ray.streams import Stream
from ciess_ray.td3.warmup import SPREAD, plain_splits
from ciess_ray.training.contest import Allocation
from ciess_ray.training.selection import select_finalists
from envs.mdp import KINDS
from envs.sizes.by_popularity import table_sizes
from envs.sizes.embedding_sizes import EmbeddingSizes

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
        split: What users get of it, see :func:`ciess_ray.comparisons.methods.shapes.mean_sizes`.
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
    """Splits and powers of popularity at random: the search's equal in all but what it learns.

    It judges as many tables as the search, as the search's steps do. The first are the plain splits that the
    search's warm-up begins with, and the same rule says which of all are trained to convergence.
    """

    name = "random search"
    is_judging = True
    is_search = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The search's choice among what was drawn."""
        settings, rng = problem.config.search, problem.rng(Stream.RANDOM_SEARCH)
        judged: list[Candidate] = []
        names: list[str] = []

        def judge(name: str, sizes: EmbeddingSizes) -> None:
            judged.append(Candidate(len(judged), sizes, sizes, problem.judge(sizes)))
            names.append(f"draw {len(judged)}: {name}")

        num_first = min(settings.num_warmup_steps, settings.num_judgements)
        for policy in plain_splits(settings.num_warmup_steps)[:num_first]:
            judge("plain split", starting_split(problem, policy))
        while len(judged) < settings.num_judgements:
            split, user_power, item_power = rng.random(), *rng.uniform(-1.0, 1.0, 2)
            name = f"split {split:.3g}, user_power {user_power:.3g}, item_power {item_power:.3g}"
            judge(name, by_popularity(problem, split, user_power, item_power))
        chosen = select_finalists(judged, problem.cap_params, settings.num_candidates)
        return [Allocation(names[one.step], one.sizes, one.quality) for one in chosen]


def starting_split(problem: Problem, policy: Mapping[str, NDArray[np.float64]]) -> EmbeddingSizes:
    """A plain split of the search's warm-up at the budget, but for who gets what rounding leaves.

    Args:
        problem: Gives budget and data.
        policy: One of :func:`ciess_ray.td3.warmup.plain_splits`.
    """
    interactions, rng = problem.interactions, problem.rng(Stream.HAND_MADE_SHAPE)
    ratio = problem.cap_params / problem.full_sizes.num_params
    # Where λ does not find itself the warm-up knows no budget either.
    target = ratio if problem.config.search.memory_weight == "auto" else None
    user, item = (
        table_sizes(policy[kind], popularity, rng, *problem.bounds, target, SPREAD)
        for kind, popularity in zip(
            KINDS, (interactions.user_popularity, interactions.item_popularity), strict=True
        )
    )
    return problem.project(user, item, rng)
