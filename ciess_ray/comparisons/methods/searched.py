"""The search of this package, and its control: a search that draws at random what the search would learn."""

from collections.abc import Mapping

import numpy as np
import ray
from numpy.typing import NDArray

from ciess_ray.candidate import Candidate
from ciess_ray.comparisons.methods.by_hand import by_popularity
from ciess_ray.comparisons.methods.method import Problem
from ciess_ray.result import ResultFolder
from ciess_ray.searches.finalists import chosen_candidates
from ciess_ray.searches.run import Budget, Journal, Run
from ciess_ray.streams import Stream
from ciess_ray.td3.warmup import SPREAD, plain_splits
from ciess_ray.training.contest import Allocation, select_finalists
from envs.mdp import KINDS
from envs.sizes.by_popularity import table_sizes
from envs.sizes.embedding_sizes import EmbeddingSizes


def search(problem: Problem) -> list[Allocation]:
    """The search of ``ciess-ray search``: full-size fit and supernet, then every step, in this process."""
    # RLlib takes seconds to import, which cells of other methods need not wait for.
    from ciess_ray.searches.candidates import find_candidates

    config, full, interactions = problem.config, problem.full_fit, problem.interactions
    journal = Journal(ResultFolder(problem.work), None)
    budget = Budget(str(config.budget), problem.cap_params)
    run = Run(config, interactions, ray.put(interactions), [budget], journal)
    journal.full_quality = full.quality
    with journal.phase("search", config.search.num_steps + config.search.num_greedy_steps):
        # Without checkpoints: only a whole cell is gone on with.
        find_candidates(run, full, problem.pretrained)
    problem.num_steps += len(run.candidates)
    if config.steps.trains:
        problem.num_trainings += len(run.candidates)
    return chosen_candidates(run, 0, problem.pretrained)


def random_search(problem: Problem) -> list[Allocation]:
    """Splits and powers of popularity at random: the search's equal in all but what it learns.

    It judges as many tables as the search, as the search's steps do. The first are the plain splits that the
    search's warm-up begins with, and the same rule says which of all are trained to convergence.
    """
    settings, rng = problem.config.search, problem.rng(Stream.RANDOM_SEARCH)
    num_first = min(settings.num_warmup_steps, settings.num_judgements)
    policies = plain_splits(settings.num_warmup_steps)[:num_first]
    tables = [("plain split", starting_split(problem, policy)) for policy in policies]
    while len(tables) < settings.num_judgements:
        split, user_power, item_power = rng.random(), *rng.uniform(-1.0, 1.0, 2)
        name = f"split {split:.3g}, user_power {user_power:.3g}, item_power {item_power:.3g}"
        tables.append((name, by_popularity(problem, split, user_power, item_power)))
    judged = [
        Candidate(number, sizes, sizes, problem.judge(sizes)) for number, (_, sizes) in enumerate(tables)
    ]
    return [
        Allocation(f"draw {chosen.step + 1}: {tables[chosen.step][0]}", chosen.sizes, chosen.quality)
        for chosen in select_finalists(judged, problem.cap_params, settings.num_candidates)
    ]


def starting_split(problem: Problem, policy: Mapping[str, NDArray[np.float64]]) -> EmbeddingSizes:
    """A plain split of the search's warm-up at the budget, but for who gets what rounding leaves.

    Args:
        problem: Gives budget and data.
        policy: One of :func:`ciess_ray.td3.warmup.plain_splits`.
    """
    rng = problem.rng(Stream.HAND_MADE_SHAPE)
    ratio = problem.cap_params / problem.full_sizes.num_params
    # Where λ does not find itself the warm-up knows no budget either.
    target = ratio if problem.config.search.memory_weight == "auto" else None
    user, item = (
        table_sizes(policy[kind], popularity, rng, *problem.bounds, target, SPREAD)
        for kind, popularity in zip(KINDS, problem.popularities, strict=True)
    )
    return problem.project(user, item, rng)
