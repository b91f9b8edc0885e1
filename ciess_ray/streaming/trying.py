"""The tables that a method tries in a segment: each is trained once, and the best on validation is kept.

They are trained one after the other in this process, or side by side as tasks of Ray, where a task whose
process dies is tried again. Of these, parameters stay where they were trained until somebody asks for them,
so that this process holds one table whatever is tried. Draws are the same for all tables and wherever they
are trained, so that tables are compared and not luck.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.resources import gpus_of_each
from ciess_ray.streaming.config import StreamResources
from ciess_ray.streaming.methods import Proposal
from ciess_ray.streaming.recommender import PackedRecommender, SegmentTraining, train_segment
from ciess_ray.training.convergence import Meter
from ciess_ray.training.preparing import as_ready, value_of
from envs.data import Interactions
from envs.recommenders import resolve_device
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.step_modes import State, state_of

_TASK = "task"


@dataclass(frozen=True, eq=False)
class Teaching:
    """How the tables of a method are trained in a segment.

    Attributes:
        settings: The recipe's.
        recommender: Which.
        former: The recommender of the segment before, which they go on from; None begins from scratch.
        new_rng: Makes a generator, always of the same draws.
    """

    settings: TrainingSettings
    recommender: RecommenderConfig
    former: PackedRecommender | None
    new_rng: Callable[[], np.random.Generator]

    def recipe(self, interactions: Interactions) -> Recipe:
        """What a training depends on beside sizes and draws, on a device that is here."""
        recommender = self.recommender
        return Recipe(
            interactions.train,
            self.settings,
            recommender.name,
            recommender.options_with(),
            resolve_device(recommender.device),
        )

    def judge(
        self, recipe: Recipe, interactions: Interactions, proposal: Proposal
    ) -> tuple[float, SegmentTraining]:
        """Train a table, and say how good it is on validation."""
        rate = {"learning_rate": proposal.rate * recipe.settings.learning_rate}
        recipe = replace(recipe, settings=recipe.settings.model_copy(update=rate))
        training = train_segment(recipe, proposal.sizes, self.new_rng(), self.former)
        metrics = evaluate(training.recommender, interactions.train, interactions.validation)
        return metrics.quality, training


#: A quality, how to come by the training that has it, and CPU seconds of other processes.
_Judged = tuple[float, Callable[[], SegmentTraining], float]


class Tried:
    """Trains the tables that a method proposes, and remembers the best; see :data:`.methods.Judge`.

    Args:
        teaching: How.
        recipe: Of the segment, in this process.
        interactions: Of the segment, without those that are tested on.
        put: The same in Ray's object store; None to train in this process.
        resources: What a task claims, and how many there are at once.
        say: Called with the name of each proposal whose training begins.

    Attributes:
        cpu_s: CPU seconds that Ray's tasks have taken.
    """

    def __init__(
        self,
        teaching: Teaching,
        recipe: Recipe,
        interactions: Interactions,
        put: Any | None,
        resources: StreamResources,
        say: Callable[[str], None],
    ) -> None:
        self._teaching, self._recipe, self._interactions = teaching, recipe, interactions
        self._put, self._resources, self._say = put, resources, say
        self._shared = None if put is None else ray.put(teaching)
        self._qualities: dict[bytes, float] = {}
        self._best: tuple[Proposal, Callable[[], SegmentTraining]] | None = None
        self.cpu_s = 0.0

    @property
    def num_trainings(self) -> int:
        """Tables trained."""
        return len(self._qualities)

    @property
    def best(self) -> tuple[Proposal, SegmentTraining]:
        """The best on validation so far, the first among equals, and its training."""
        assert self._best is not None
        proposal, fetch = self._best
        return proposal, fetch()

    def __call__(self, proposals: Sequence[Proposal]) -> list[float]:
        """Validation quality of each proposal."""
        tables = [proposal.sizes.user.tobytes() + proposal.sizes.item.tobytes() for proposal in proposals]
        new: dict[bytes, Proposal] = {}
        for table, proposal in zip(tables, proposals, strict=True):
            if table not in self._qualities:
                new.setdefault(table, proposal)
        judge = self._in_turn if self._put is None else self._side_by_side
        for (table, proposal), (quality, fetch, cpu_s) in zip(
            new.items(), judge(list(new.values())), strict=True
        ):
            if not self._qualities or quality > max(self._qualities.values()):
                self._best = proposal, fetch
            self._qualities[table] = quality
            self.cpu_s += cpu_s
        return [self._qualities[table] for table in tables]

    def _in_turn(self, proposals: Sequence[Proposal]) -> Iterator[_Judged]:
        for proposal in proposals:
            self._say(proposal.name)
            quality, training = self._teaching.judge(self._recipe, self._interactions, proposal)
            yield quality, partial(_given, training), 0.0

    def _side_by_side(self, proposals: Sequence[Proposal]) -> list[_Judged]:
        resources = self._resources
        task: Any = _judge.options(
            num_cpus=resources.num_cpus_per_training,
            num_gpus=gpus_of_each(
                self._teaching.recommender.device, resources.num_gpus_per_training, resources.num_workers
            ),
        )
        waiting = list(enumerate(proposals))[::-1]
        running: dict[Any, tuple[int, Any]] = {}
        judged: dict[int, _Judged] = {}

        def begin() -> None:
            while waiting and len(running) < resources.num_workers:
                position, proposal = waiting.pop()
                self._say(proposal.name)
                figures, state = task.remote(
                    self._shared, self._put, proposal, max(1, round(resources.num_cpus_per_training))
                )
                running[figures] = position, state

        begin()
        for figures, (position, state) in as_ready(running):
            proposal = proposals[position]
            quality, cpu_s, training_s = value_of(figures, f"the table {proposal.name}".rstrip())
            judged[position] = quality, partial(self._fetch, proposal, state, training_s), cpu_s
            begin()
        return [judged[position] for position in range(len(proposals))]

    def _fetch(self, proposal: Proposal, state: Any, training_s: tuple[float, float]) -> SegmentTraining:
        """The training of a task, in this process."""
        values: State = value_of(state, f"the table {proposal.name}".rstrip())
        recommender = self._recipe.recommender(proposal.sizes, self._teaching.new_rng(), values)
        packed = PackedRecommender.of(recommender, self._recipe.name)
        return SegmentTraining(recommender, packed, None, *training_s)


def _given(training: SegmentTraining) -> SegmentTraining:
    return training


@ray.remote(max_retries=3, num_returns=2)
def _judge(
    teaching: Teaching, interactions: Interactions, proposal: Proposal, num_threads: int
) -> tuple[tuple[float, float, tuple[float, float]], State]:
    """Quality, CPU seconds in all and CPU and other seconds of the training; its parameters."""
    torch.set_num_threads(num_threads)
    meter = Meter()
    with meter.phase(_TASK):
        quality, training = teaching.judge(teaching.recipe(interactions), interactions, proposal)
    costs = meter.cpu_s[_TASK], (training.cpu_s, training.wall_s)
    return (quality, *costs), state_of(training.recommender)
