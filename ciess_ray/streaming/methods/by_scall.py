"""SCALL (arXiv 2407.15411): a policy that shapes whole tables, learnt on one segment and used on the next.

In each segment after the first, whose sizes are equal, the policy takes table steps on the segment before:
state, action and reward are those of :mod:`envs.table_shape`, and a table is judged by a fresh recommender of
200 batches, whose fitness is divided by that of the method's own table there. When the greedy share of users
has settled, the greedy action at the state of the new segment gives its sizes, and no table but that one is
tried. Networks, optimizers and transitions go from segment to segment (:mod:`ciess_ray.sac.policy`).

What differs from the released code, beside what that module lists:

- Fitness is that of users and items which training knows on validation; on test rows there.
- All known items are ranked; those of the test rows alone there.
- The sizes of every step meet the budget exactly, by projection. ``scall reference`` has the formulas of the
  released code instead, whose floor and rounding come after the scaling, so that its table may be larger than
  the budget: ``num_params`` beside ``cap_params`` says by how much.
- No rows of earlier segments are replayed, as all of them are trained on. Popularity counts the training rows
  of the segment alone, as there, so that who is silent in it has the least size.
- Recommenders are trained by the stream's own recipe, fresh ones within 200 batches, and those of one segment
  all from the same draws. Columns that the kept table grows by begin small; with 0 there.
- A table's fitness is divided by that of the finished table; by that after its first 200 batches there.
- At most 60 table steps a segment.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ciess_ray.streaming.methods.problem import Judge, Problem, Proposal, SegmentBefore
from ciess_ray.streams import Stream as Draws
from ciess_ray.streams import rng_of
from envs.errors import within
from envs.recommenders import BaseRecommender
from envs.recommenders.evaluation import evaluate
from envs.sizes import scall as formulas
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.table_shape import Array, Judged, SizesOf, TableShapeEnv, has_converged

if TYPE_CHECKING:
    from ciess_ray.sac.policy import ScallPolicy

#: Of the fresh recommender that judges a table.
_NUM_BATCHES = 200
#: Table steps a segment where its greedy share of users does not settle. SCALL has no such end, and noise may
#: keep a policy moving for ever; in four of five segments of two years of retail it settled within 27 to 58.
_MAX_STEPS = 60
_CUTOFF = 20

#: What makes sizes of what users and items are asked to get: of a segment, and whether the policy explores.
_Sizing = Callable[[Problem, bool], SizesOf]


def scall(problem: Problem, judge: Judge) -> None:
    """SCALL's policy, its budget held by projection."""
    if problem.former is None:
        judge([Proposal("equal sizes", problem.shape(1.0))])
    else:
        _decide(problem, judge, _projected)


def scall_reference(problem: Problem, judge: Judge) -> None:
    """SCALL's policy with the sizes of the released formulas, which may be beyond the budget."""
    if problem.former is None:
        interactions = problem.data.interactions
        size = problem.params_a_table // (interactions.num_users + interactions.num_items)
        sides = np.full(interactions.num_users, size), np.full(interactions.num_items, size)
        judge([Proposal("equal sizes", _released(problem, False)(*sides, problem.new_rng()))])
    else:
        _decide(problem, judge, _released)


def _projected(problem: Problem, explores: bool) -> SizesOf:
    return lambda user, item, rng: problem.project(user, item, rng=rng)


def _released(problem: Problem, explores: bool) -> SizesOf:
    def sizes_of(user: Array, item: Array, rng: np.random.Generator) -> EmbeddingSizes:
        bounds = problem.min_embedding_size, problem.max_embedding_size
        sizes = formulas.released_sizes(user, item, *bounds, explores=explores)
        return EmbeddingSizes(*sizes, *bounds, problem.num_tables)

    return sizes_of


def _decide(problem: Problem, judge: Judge, sizing: _Sizing) -> None:
    """Learn on the segment before, and propose the greedy table of this one."""
    # RLlib takes seconds to import.
    from ciess_ray.sac.policy import ScallPolicy

    assert problem.before is not None
    before = problem.before()
    here = _env(problem, sizing, _never, 1.0)
    reference = _fitness(before.figures)
    # Nobody to validate on, or nothing found, says nothing about shapes.
    there = _env(before.problem, sizing, _judging(before), reference) if reference else None
    num_steps = 0
    with ScallPolicy(there or here, before.seed) as policy:
        if problem.memory:
            number = before.problem.data.number
            with within(
                f"segment {number:03}: what SCALL keeps is damaged; remove its folder there, and resume"
            ):
                policy.set_state(problem.memory)
        if there is not None:
            num_steps = _search(policy, before.tell)
        policy.move_to(here)
        action = policy.greedy_action().astype(np.float64)
        problem.memory.clear()
        problem.memory.update(policy.get_state())
    asked = formulas.proposal(action, *problem.data.popularity(), problem.params_a_table)
    sizes = sizing(problem, False)(*asked, problem.new_rng())
    users, *shapes = action
    name = f"users get {users:.2f}, shapes {shapes[0]:.2f} and {shapes[1]:.2f}, {num_steps} table steps"
    beyond = sizes.num_params - problem.cap_params
    judge([Proposal(name + (f", {beyond:,} parameters over the budget" if beyond > 0 else ""), sizes)])


def _search(policy: "ScallPolicy", tell: Callable[[str], None]) -> int:
    """Take table steps until the greedy share of users has settled; their number."""
    user_shares: list[float] = []
    while len(user_shares) < _MAX_STEPS and not has_converged(user_shares):
        step = policy.step()
        user_shares.append(float(policy.greedy_action()[0]))
        note = f"table step {len(user_shares)} of at most {_MAX_STEPS}"
        tell(f"{note}, {step.info['ratio']:.2f} of its own table's fitness")
    return len(user_shares)


def _env(
    problem: Problem, sizing: _Sizing, judge: Callable[[EmbeddingSizes], Judged], reference: float
) -> TableShapeEnv:
    return TableShapeEnv(
        *problem.data.popularity(),
        problem.params_a_table,
        judge,
        reference_fitness=reference,
        min_embedding_size=problem.min_embedding_size,
        max_embedding_size=problem.max_embedding_size,
        sizes_of=sizing(problem, True),
    )


def _never(sizes: EmbeddingSizes) -> Judged:
    raise AssertionError("tables are judged on the segment before")


def _fitness(figures: Mapping[str, Any]) -> float:
    """Of a method's own table on validation; 0 where there is nobody to validate on."""
    metrics = (figures[f"validation/{name}@{_CUTOFF}"] for name in ("recall", "ndcg"))
    return sum(metric or 0.0 for metric in metrics) / 2


def _judging(before: SegmentBefore) -> Callable[[EmbeddingSizes], Judged]:
    """Judges sizes of a segment by fresh recommenders."""
    recipe, data = before.scratch(_NUM_BATCHES), before.problem.data
    largest = before.problem.max_embedding_size

    def judge(sizes: EmbeddingSizes) -> Judged:
        # The same draws for all, so that tables are compared and not luck.
        trainer = recipe.trainer(sizes, rng_of(before.seed, Draws.STREAM_SEARCH, data.number))
        trainer.train(_NUM_BATCHES)
        recommender = trainer.recommender
        metrics = evaluate(recommender, recipe.train, data.interactions.validation, (_CUTOFF,))
        return Judged(metrics.quality, *_mean_rows(recommender, largest))

    return judge


@torch.no_grad()
def _mean_rows(recommender: BaseRecommender, largest: int) -> tuple[Array, Array]:
    """Mean row of users and of items, each of shape (largest,), of several tables their mean."""
    table = recommender.table().cpu().double().numpy()
    rows = table.reshape(len(table), recommender.num_tables, -1).mean(axis=1)
    rows = np.pad(rows, ((0, 0), (0, largest - rows.shape[1])))
    return rows[: recommender.num_users].mean(axis=0), rows[recommender.num_users :].mean(axis=0)
