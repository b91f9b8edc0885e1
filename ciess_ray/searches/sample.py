"""A search that looks at some of the users, and what comes of it for everybody.

Recipe, full-size fit, supernet, steps and finalists are of users that are drawn, with all items: which sizes
rank well, and how to train them, a part of the users tells. What is measured and packed is trained on
everybody. Items keep the sizes that were chosen; a user has those of the drawn user at the same rank of
popularity, and the whole is projected onto the budget. Trainings grow with the interactions.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from ciess_ray.config.data import caps_params_of, check_budgets
from ciess_ray.config.run import RunConfig
from ciess_ray.searches.finalists import Finalists
from ciess_ray.searches.run import Budget, Run
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.contest import Allocation, place, project
from ciess_ray.training.convergence import equal_sizes, full_sizes
from envs.budget import MemoryBudget
from envs.data import Interactions
from envs.errors import ConfigError
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Users with validation interactions that a sample has at least: of fewer, chance says which table is best.
LEAST_JUDGED = 50


def draw_users(config: RunConfig, everybody: Interactions) -> Interactions:
    """Interactions of the users that a search is of; all of them where it is of everybody.

    As many of those who have validation interactions are drawn, in proportion, as of the others.

    Args:
        config: The run.
        everybody: The splits.

    Raises:
        ConfigError: There would be too few to judge a table by.
    """
    share = config.search.user_share
    if share == 1:
        return everybody
    is_judged = np.diff(everybody.validation.indptr) > 0
    num_all_judged = int(is_judged.sum())
    num_judged = round(share * num_all_judged)
    if num_judged < LEAST_JUDGED:
        least = np.ceil(1000 * LEAST_JUDGED / max(num_all_judged, 1)) / 1000
        remedy = f"ask for {least:g} or more, or leave it out" if least < 1 else "leave it out"
        raise ConfigError(
            f"search.user_share: {share:g} of the {num_all_judged:,} users of {everybody.source} that have "
            f"validation interactions are {num_judged}, and tables are told apart by {LEAST_JUDGED} at "
            f"least: {remedy}."
        )
    rng = rng_of(config.seed, Stream.USERS)
    is_drawn = np.zeros(everybody.num_users, bool)
    for kind in (is_judged, ~is_judged):
        users = np.flatnonzero(kind)
        is_drawn[rng.permutation(users)[: round(share * len(users))]] = True
    return everybody.of_users(is_drawn)


def told_sample(config: RunConfig, interactions: Interactions) -> dict[str, Any] | None:
    """What ``result.json`` says of the users that a search is of; None where these are all.

    Args:
        config: The run.
        interactions: Theirs.
    """
    if interactions.num_drawn_from is None:
        return None
    return {
        "user_share": config.search.user_share,
        "num_users": interactions.num_users,
        "num_judged_users": int(np.count_nonzero(np.diff(interactions.validation.indptr))),
        "num_interactions": interactions.num_interactions,
    }


def budgets_in_search(
    config: RunConfig, interactions: Interactions, budgets: Sequence[Budget]
) -> list[Budget]:
    """The budgets of a run as its search has them: of the rows of the users it is of.

    Args:
        config: The run.
        interactions: Theirs.
        budgets: Those of everybody.

    Raises:
        ConfigError: These users are too few for communities.
    """
    if interactions.num_drawn_from is None:
        return list(budgets)
    caps_params = check_budgets(config, interactions)
    return [
        replace(budget, cap_params=cap_params)
        for budget, cap_params in zip(budgets, caps_params, strict=True)
    ]


def for_everybody(
    run: Run, everybody: Interactions, whole: Allocation, finalists: Sequence[Finalists]
) -> tuple[Run, Allocation, list[Finalists]]:
    """The run as it ends: what was chosen for users that were drawn, for everybody.

    Args:
        run: The search.
        everybody: The splits.
        whole: Full size.
        finalists: Of every budget.

    Returns:
        The run, whose trainings grow as the interactions do, full size and the finalists.
    """
    drawn, config = run.interactions, run.config
    if drawn.num_drawn_from is None:
        return run, whole, list(finalists)
    caps_params = caps_params_of(config, everybody)
    last = replace(
        run,
        interactions=everybody,
        interactions_ref=ray.put(everybody),
        budgets=[
            replace(budget, cap_params=cap_params)
            for budget, cap_params in zip(run.budgets, caps_params, strict=True)
        ],
        growth=everybody.train.nnz / drawn.train.nnz,
    )
    chosen = []
    for position, (budget, its) in enumerate(zip(last.budgets, finalists, strict=True)):
        sizes = equal_sizes(config, everybody, budget.cap_params)
        equal = replace(its.equal, sizes=sizes)
        best = equal
        if its.best is not its.equal:
            rng = rng_of(config.seed, Stream.PROJECTION, position, part=1)
            sizes = widened(its.best.sizes, drawn, everybody, budget.cap_params, rng)
            if (num_communities := num_communities_of(its.best.sizes)) > 1:
                asked = MemoryBudget.parse(budget.asked)
                sizes = place(sizes, num_communities, asked, config, everybody)
            best = replace(its.best, sizes=sizes)
        chosen.append(replace(its, equal=equal, best=best))
    return last, replace(whole, sizes=full_sizes(config, everybody)), chosen


def widened(
    sizes: EmbeddingSizes,
    drawn: Interactions,
    everybody: Interactions,
    cap_params: int,
    rng: np.random.Generator,
) -> EmbeddingSizes:
    """Sizes of users that were drawn as sizes of everybody, all of the budget used.

    Args:
        sizes: Of the drawn users and all items.
        drawn: Interactions of the drawn users.
        everybody: Those of all.
        cap_params: Parameters that everybody's table may have.
        rng: Draws which of equal entities get what is left over.

    Returns:
        Items as they are, each user with the size of the drawn one at the same rank of training popularity,
        and the nearest to that which uses up the budget. Rows begin at the first column.
    """
    user = sizes.user
    if len(user):
        user = user[_same_rank(drawn.user_popularity, everybody.user_popularity)]
    return project(replace(sizes, user=user, first_columns=None), cap_params, rng)


def _same_rank(drawn: NDArray[np.int64], everybody: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of all, by popularity, the place among the drawn that has its rank."""
    # Among equals codes decide, so that those who were drawn are near themselves.
    of_drawn, of_all = (np.argsort(popularity, kind="stable") for popularity in (drawn, everybody))
    places = (2 * np.arange(len(everybody)) + 1) * len(drawn) // (2 * len(everybody))
    same = np.empty(len(everybody), np.int64)
    same[of_all] = of_drawn[places]
    return same


def num_communities_of(sizes: EmbeddingSizes) -> int:
    """Communities that users are in; 0 where all rows begin at the first column."""
    return 0 if sizes.first_columns is None else int(sizes.first_columns[: len(sizes.user)].max(initial=0))
