"""What a method of a comparison is told, and what it answers.

A method proposes allocations, best first, from training and validation interactions alone. What comes after,
training to convergence, choosing on validation and the test figure, is the same for all: see
``ciess_ray.comparisons.cell``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ciess_ray.config.run import RunConfig
from ciess_ray.streams import Stream, rng_of
from ciess_ray.training.contest import Allocation, judge_of
from ciess_ray.training.convergence import Trained, full_sizes
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes, keep_largest
from envs.step_modes import State


@dataclass(eq=False)
class Problem:
    """Everything that a method may look at, and what it has done.

    Attributes:
        config: The run; ``budget`` and ``seed`` are the cell's.
        interactions: Without test.
        cap_params: Parameters that the table has.
        work: An empty folder.
        full: The full-size fit with its parameters, for a method that needs it.
        pretrained: What the search's step mode starts from, for a method that judges allocations.
        num_trainings: Recommenders trained so far.
        num_steps: Allocations judged so far as a step of the search judges them.
    """

    config: RunConfig
    interactions: Interactions
    cap_params: int
    work: Path
    full: Trained | None = None
    pretrained: State | None = None
    num_trainings: int = 0
    num_steps: int = 0

    def rng(self, stream: Stream) -> np.random.Generator:
        """Draws that depend on the run's seed and on nothing else."""
        return rng_of(self.config.seed, stream)

    @property
    def full_fit(self) -> Trained:
        """The full-size fit, of a method that needs it."""
        assert self.full is not None
        return self.full

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest size."""
        return self.full_sizes.min_embedding_size, self.full_sizes.max_embedding_size

    def project(
        self, user: NDArray[np.float64], item: NDArray[np.float64], rng: np.random.Generator
    ) -> EmbeddingSizes:
        """The sizes nearest to a proposal that use up the budget exactly."""
        return EmbeddingSizes.from_proposal(
            user, item, self.cap_params, *self.bounds, rng, fill=True, num_tables=self.full_sizes.num_tables
        )

    def keep_largest(self, importance: NDArray[np.floating], min_kept: int) -> ScatteredSizes:
        """As many of the most important numbers of the full table as the budget has.

        Args:
            importance: Of each number, the shape of the table, users first.
            min_kept: How many each row keeps at least.
        """
        num_tables = self.full_sizes.num_tables
        kept = keep_largest(importance, self.cap_params, min_kept, num_tables)
        return ScatteredSizes.of(kept, len(self.full_sizes.user), *self.bounds, num_tables)

    @property
    def popularities(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Training interactions of the users and of the items that have rows, which may be no user at all."""
        full, of_users = self.full_sizes, self.interactions.user_popularity
        return of_users[: len(full.user)], self.interactions.item_popularity

    @cached_property
    def full_sizes(self) -> EmbeddingSizes:
        """Every entity at d_max."""
        return full_sizes(self.config, self.interactions)

    @cached_property
    def _judge(self) -> Callable[[EmbeddingSizes], float]:
        return judge_of(self.config, self.interactions, self.pretrained)

    def judge(self, sizes: EmbeddingSizes) -> float:
        """Validation quality as a step of the search finds it."""
        quality = self._judge(sizes)
        self.num_steps += 1
        self.num_trainings += self.config.steps.trains
        return quality


@dataclass(frozen=True)
class Method:
    """One way to spend a budget.

    Attributes:
        propose: Called once; gives at least one allocation that uses up the budget, best first. As many of
            them as ``search.num_candidates`` are trained to convergence, and the best on validation is what
            the method is measured by.
        needs_full: Whether it looks at the full-size fit.
        is_judging: Whether it judges allocations as the search's steps do.
        is_search: Whether it is treated as a search: the rows of what is best may begin at other columns,
            ``search.tried_communities``, and where equal sizes are better it ends with those.
    """

    propose: Callable[[Problem], list[Allocation]]
    needs_full: bool = False
    is_judging: bool = False
    is_search: bool = False
