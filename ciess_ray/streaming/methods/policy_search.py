"""The project's own method: policies of a whole table, which go from segment to segment.

A supernet, a table of full size whose every batch is masked to other sizes, goes on with the stream beside
the tables, so that a policy costs one evaluation. A policy is judged on validation, and by how well the last
segment's supernet foretold with it all that has come since, which are several times as many users; together
they rank tables better than their own trainings do on as much validation (docs/stream.md). The search begins
with the best policies of the last segment, and what it likes best is trained as the table that is kept: a few
tables that lie apart, the best plain split and the policy of last time among them.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.candidate import Candidate
from ciess_ray.packed.table import PackedTable
from ciess_ray.streaming.methods.problem import WIDE_RATE, Judge, Problem, Proposal
from ciess_ray.streaming.recommender import PackedRecommender, carry_over
from ciess_ray.streaming.segment import hindsight
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
NUM_FINALISTS = 4
#: The first search begins with these ratios of the mean sizes of users and items, plain and with items' sizes
#: falling with a power of their popularity's rank, as a hand would try them.
_RATIOS, _ITEM_POWERS = (1.0, 0.5, 2.0, 4.0, 8.0), (1.0, 3.0)
#: Of the budget's kept ratio, the least and the greatest that the supernet is masked to, as in a search.
_KEPT = (2 / 3, 4 / 3)
#: What is proposed is scaled to the cap, so that any bounds do that are far away.
_MOST = 2**20
#: So that a table which ranks nothing right is no division by 0.
_LEAST_QUALITY = 1e-9
_POLICIES, _SUPERNET, _TABLE = "policies", "supernet/", "table"


def table_policy(problem: Problem, judge: Judge) -> None:
    """Levels, slopes and powers of popularity, searched for with a supernet; the best are trained.

    In ``problem.memory`` there are ``policies``, the one that was kept and then the best, shape (n, 6), and
    the supernet's parameters, of which the table has d_max numbers a row.

    Raises:
        TrainingError: A loss is NaN or infinite.
    """
    known = [_named(policy) for policy in problem.memory.get(_POLICIES, ())]
    policy_rng, supernet_rng = problem.new_rng().spawn(2)
    decay = best_decay(problem.data)
    benches = benches_of(problem, decay, supernet_rng)

    first = [*hand_made_policies(), *known]
    search = WarmUp(NUM_STEPS + len(first), int(policy_rng.integers(2**32)), first)
    policies: list[Policy] = []
    candidates: list[Candidate] = []
    while dealt := search.deal([0]):
        # Where validation has nobody, all are alike.
        num_users = max(sum(bench.weight for bench in benches), 1)
        quality = sum(bench.quality(dealt[0]) for bench in benches) / num_users
        search.settle(dealt, {0: quality})
        sizes = benches[0].sizes(dealt[0])
        candidates.append(Candidate(len(policies), sizes, sizes, quality))
        policies.append(dealt[0])

    chosen = [policies[one.step] for one in select_finalists(candidates, problem.cap_params, NUM_FINALISTS)]
    finalists = [*known[:1], *chosen]
    proposals = [
        Proposal(f"{_described(policy)}, {half_life(decay)}", benches[0].sizes(policy))
        for policy in finalists
    ]
    kept = finalists[int(np.argmax(judge(proposals)))]
    best = sorted(candidates, key=lambda one: -one.quality)[:NUM_ELITES]
    problem.memory[_POLICIES] = np.array([_numbers(one) for one in (kept, *(policies[c.step] for c in best))])


class Bench:
    """A supernet and the rows by which it judges policies.

    Attributes:
        weight: Users that are judged by.
    """

    def __init__(self, problem: Problem, supernet: BaseRecommender, decay: float) -> None:
        self._problem, self._supernet = problem, supernet
        self._popularity = dict(zip(KINDS, problem.data.popularity(decay), strict=True))
        self.weight = int((np.diff(problem.data.interactions.validation.indptr) > 0).sum())
        self._scale = 1.0
        self._scale = self.weight / max(self.quality(_split(1.0)), _LEAST_QUALITY)

    def sizes(self, policy: Policy) -> EmbeddingSizes:
        """A policy's table: of what it gives, proportions alone count."""
        problem = self._problem
        sides = [
            table_sizes(
                policy[kind], self._popularity[kind], problem.new_rng(), 1, _MOST, _MOST**-0.5, SPREAD
            )
            for kind in KINDS
        ]
        scale = problem.cap_params / problem.num_tables / sum(float(side.sum()) for side in sides)
        return problem.project(*(side * scale for side in sides))

    def quality(self, policy: Policy) -> float:
        """How many times as good as equal sizes it is, times the users."""
        interactions = self._problem.data.interactions
        self._supernet.table.mask_to(self.sizes(policy))
        return self._scale * evaluate(self._supernet, interactions.train, interactions.validation).quality


def benches_of(problem: Problem, decay: float, rng: np.random.Generator) -> list[Bench]:
    """This segment's, and the last one's where there was one.

    Args:
        problem: Its memory is that of the last segment, and then of this one.
        decay: Of popularity.
        rng: Draws a supernet's initial values, its sizes and its batches.
    """
    former = _former_supernet(problem)
    benches = [Bench(problem, _trained_supernet(problem, decay, former, rng), decay)]
    if former is not None and problem.former is not None:
        sizes = problem.former
        before = replace(
            problem,
            data=hindsight(problem.data),
            cap_params=sizes.num_params,
            is_shared=sizes.is_shared,
        )
        benches.append(Bench(before, _supernet(before, rng, former), decay))
    return benches


def _supernet(
    problem: Problem, rng: np.random.Generator, former: PackedRecommender | None
) -> BaseRecommender:
    """A supernet of a segment's users and items, which goes on from a former one."""
    supernet = replace(problem.recipe, train=problem.data.interactions.train).recommender(_full(problem), rng)
    if former is not None:
        carry_over(supernet, problem.recipe.name, former, rng)
    return supernet


def _former_supernet(problem: Problem) -> PackedRecommender | None:
    """What is kept of the last segment's."""
    state = {
        key.removeprefix(_SUPERNET): value
        for key, value in problem.memory.items()
        if key.startswith(_SUPERNET)
    }
    if not state or problem.former is None:
        return None
    former = problem.former
    bounds = problem.max_embedding_size, problem.min_embedding_size
    full = EmbeddingSizes.full(len(former.user), len(former.item), *bounds, num_tables=problem.num_tables)
    return PackedRecommender(PackedTable.of(state.pop(_TABLE), full, recommender=problem.recipe.name), state)


def _trained_supernet(
    problem: Problem, decay: float, former: PackedRecommender | None, rng: np.random.Generator
) -> BaseRecommender:
    """The supernet of the last segment with rows for newcomers, trained on; it is kept for the next."""
    recipe, full, popularity = problem.recipe, _full(problem), problem.data.popularity(decay)
    supernet = _supernet(problem, rng, former)
    kept_ratio = problem.cap_params / full.num_params
    low, high = (min(1.0, kept_ratio * share) for share in _KEPT)
    bounds = problem.min_embedding_size, problem.max_embedding_size
    draw_sizes = allocation_sampler(*popularity, (low, high), *bounds, problem.num_tables)
    settings = recipe.settings.model_copy(
        update={
            "max_batches": BATCHES * recipe.settings.max_batches,
            "decay_every": BATCHES * recipe.settings.decay_every,
            "learning_rate": WIDE_RATE * recipe.settings.learning_rate,
        }
    )
    Trainer(supernet, recipe.train, settings, rng, recipe.loss, draw_sizes).train(settings.max_batches)
    supernet.table.mask_to(full)
    packed = PackedRecommender.of(supernet, recipe.name)
    problem.memory[_SUPERNET + _TABLE] = packed.table.values
    problem.memory.update({_SUPERNET + key: value for key, value in packed.state.items()})
    return supernet


def _full(problem: Problem) -> EmbeddingSizes:
    """Everyone at d_max."""
    interactions = problem.data.interactions
    bounds = problem.max_embedding_size, problem.min_embedding_size
    return EmbeddingSizes.full(
        interactions.num_users, interactions.num_items, *bounds, num_tables=problem.num_tables
    )


def hand_made_policies() -> list[Policy]:
    """Plain splits, and splits whose items' sizes are proportional to a power of the rank of popularity."""
    return [
        *(_split(ratio) for ratio in _RATIOS),
        *(_split(ratio, power, 1.0) for power in _ITEM_POWERS for ratio in _RATIOS if ratio > 1),
    ]


def _split(ratio: float, power: float = 1.0, slope: float = 0.0) -> Policy:
    """Users so many times as large as items on average, and items by a power of popularity's rank."""
    # Levels reach from 1/SPREAD to SPREAD, in logarithms.
    part = math.log(ratio, SPREAD) / 4
    return {
        "user": np.array([0.5 + part, 0.0, 0.0]),
        "item": np.array([0.5 - part, math.log(power, 8), slope]),
    }


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
