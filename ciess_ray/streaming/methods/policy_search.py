"""The project's own method: policies of a whole table, which go from segment to segment.

A supernet, a table of full size whose every batch is masked to other sizes, goes on with the stream beside
the tables, so that a policy costs one evaluation; as far as validation of a segment can tell, it ranks tables
as their own trainings do (docs/stream.md). The search begins with the best policies of the last segment, all
that it knows of earlier validation rows, and what it likes best is trained as the table that is kept: a few
tables that lie apart, the best plain split and the policy of last time among them, because of many tables
that differ by less than validation can tell the luckiest would be taken.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.candidate import Candidate
from ciess_ray.packed.table import PackedTable
from ciess_ray.streaming.methods.problem import Judge, Problem, Proposal
from ciess_ray.streaming.recommender import PackedRecommender, carry_over
from ciess_ray.streaming.yardsticks import best_decay, half_life
from ciess_ray.td3.warmup import SPREAD, Policy, WarmUp
from ciess_ray.training.contest import select_finalists
from envs.mdp import KINDS
from envs.recommenders import BaseRecommender
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Trainer
from envs.sizes.by_popularity import allocation_sampler, table_sizes
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Policies that the supernet judges in a segment, of which that many go on to the next.
NUM_STEPS, NUM_ELITES = 60, 8
#: Batches of the supernet for each one of a table: with half as many as a table has it ranks them worse.
BATCHES = 2
#: Tables that are trained, beside the one that follows the policy of last time.
NUM_FINALISTS = 5
#: The first search begins with these ratios of the mean sizes of users and items, plain and with items' sizes
#: falling with a power of their popularity's rank, as a hand would try them.
_RATIOS, _ITEM_POWERS = (1.0, 0.5, 2.0, 4.0, 8.0), (1.0, 3.0)
#: Of the budget's kept ratio, the least and the greatest that the supernet is masked to, as in a search.
_KEPT = (2 / 3, 4 / 3)
#: What is proposed is scaled to the cap, so that any bounds do that are far away.
_MOST = 2**20
_POLICIES, _SUPERNET, _TABLE = "policies", "supernet/", "table"


def table_policy(problem: Problem, judge: Judge) -> None:
    """Levels, slopes and powers of popularity, searched for with a supernet; the best are trained.

    In ``problem.memory`` there are ``policies``, the one that was kept and then the best, shape (n, 6), and
    the supernet's parameters, of which the table has d_max numbers a row.

    Raises:
        TrainingError: A loss is NaN or infinite.
    """
    former = [_named(policy) for policy in problem.memory.get(_POLICIES, ())]
    policy_rng, supernet_rng = problem.new_rng().spawn(2)
    decay = best_decay(problem.data)
    popularity = dict(zip(KINDS, problem.data.popularity(decay), strict=True))
    supernet = _trained_supernet(problem, popularity, supernet_rng)
    interactions = problem.data.interactions

    first = [*_hand_made(), *former]
    search = WarmUp(NUM_STEPS + len(first), int(policy_rng.integers(2**32)), first)
    policies: list[Policy] = []
    candidates: list[Candidate] = []
    while dealt := search.deal([0]):
        sizes = _sizes(problem, dealt[0], popularity)
        supernet.table.mask_to(sizes)
        quality = evaluate(supernet, interactions.train, interactions.validation).quality
        search.settle(dealt, {0: quality})
        candidates.append(Candidate(len(policies), sizes, sizes, quality))
        policies.append(dealt[0])

    chosen = [policies[one.step] for one in select_finalists(candidates, problem.cap_params, NUM_FINALISTS)]
    finalists = [*former[:1], *chosen]
    proposals = [
        Proposal(f"{_described(policy)}, {half_life(decay)}", _sizes(problem, policy, popularity))
        for policy in finalists
    ]
    kept = finalists[int(np.argmax(judge(proposals)))]
    best = sorted(candidates, key=lambda one: -one.quality)[:NUM_ELITES]
    problem.memory[_POLICIES] = np.array([_numbers(one) for one in (kept, *(policies[c.step] for c in best))])


def _sizes(problem: Problem, policy: Policy, popularity: Mapping[str, NDArray[np.float64]]) -> EmbeddingSizes:
    """A policy's table: of what it gives, proportions alone count."""
    sides = [
        table_sizes(policy[kind], popularity[kind], problem.new_rng(), 1, _MOST, _MOST**-0.5, SPREAD)
        for kind in KINDS
    ]
    scale = problem.cap_params / problem.num_tables / sum(float(side.sum()) for side in sides)
    return problem.project(*(side * scale for side in sides))


def _trained_supernet(
    problem: Problem, popularity: Mapping[str, NDArray[np.float64]], rng: np.random.Generator
) -> BaseRecommender:
    """The supernet of the last segment with rows for newcomers, trained on; it is kept for the next."""
    interactions, recipe, memory = problem.data.interactions, problem.recipe, problem.memory
    bounds, num_tables = (problem.min_embedding_size, problem.max_embedding_size), problem.num_tables
    full = EmbeddingSizes.full(
        interactions.num_users, interactions.num_items, bounds[1], bounds[0], num_tables=num_tables
    )
    supernet = recipe.recommender(full, rng)
    state = {key.removeprefix(_SUPERNET): value for key, value in memory.items() if key.startswith(_SUPERNET)}
    if state and problem.former is not None:
        former = problem.former
        full_former = EmbeddingSizes.full(
            len(former.user), len(former.item), bounds[1], bounds[0], num_tables=num_tables
        )
        table = PackedTable.of(state.pop(_TABLE), full_former, recommender=recipe.name)
        carry_over(supernet, recipe.name, PackedRecommender(table, state), rng)
    kept_ratio = problem.cap_params / full.num_params
    low, high = (min(1.0, kept_ratio * share) for share in _KEPT)
    draw_sizes = allocation_sampler(popularity["user"], popularity["item"], (low, high), *bounds, num_tables)
    settings = recipe.settings
    stretched = {name: BATCHES * getattr(settings, name) for name in ("max_batches", "decay_every")}
    settings = settings.model_copy(update=stretched)
    Trainer(supernet, recipe.train, settings, rng, recipe.loss, draw_sizes).train(settings.max_batches)
    supernet.table.mask_to(full)
    packed = PackedRecommender.of(supernet, recipe.name)
    memory |= {_SUPERNET + _TABLE: packed.table.values}
    memory |= {_SUPERNET + key: value for key, value in packed.state.items()}
    return supernet


def _hand_made() -> list[Policy]:
    """Plain splits, and splits whose items' sizes are proportional to a power of the rank of popularity."""
    shapes = [(ratio, 0.0, 0.0) for ratio in _RATIOS]
    shapes += [(ratio, math.log(power, 8), 1.0) for power in _ITEM_POWERS for ratio in _RATIOS if ratio > 1]
    policies = []
    for ratio, power, slope in shapes:
        # Levels reach from 1/SPREAD to SPREAD, in logarithms.
        part = math.log(ratio, SPREAD) / 4
        policies.append(
            {"user": np.array([0.5 + part, 0.0, 0.0]), "item": np.array([0.5 - part, power, slope])}
        )
    return policies


def _numbers(policy: Policy) -> NDArray[np.float64]:
    return np.concatenate([policy[kind] for kind in KINDS])


def _named(numbers: NDArray[Any]) -> Policy:
    return dict(zip(KINDS, np.split(np.asarray(numbers, np.float64), len(KINDS)), strict=True))


def _described(policy: Policy) -> str:
    """A policy in the numbers that people think in."""
    user, item = (policy[kind] for kind in KINDS)
    ratio = SPREAD ** (2 * (user[0] - item[0]))
    slopes = ", ".join(
        f"{kind}s {own[2]:+.2f} by rank^{8 ** own[1]:.1f}" for kind, own in policy.items() if own[2] != 0
    )
    return f"users : items {ratio:.3g}" + (f", {slopes}" if slopes else "")
