"""What needs no data: full size, equal sizes, random sizes."""

import numpy as np

from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.searches.finalists import equal_sizes
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation, Trained


class FullSize(Method):
    """Every entity at d_max, whatever the budget: the yardstick."""

    name = "full size"
    needs_full = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The full table, which has been trained already."""
        full = problem.full
        assert full is not None
        trained = Trained(full.validation, full.mean_quality, full.best_batch)
        return [Allocation(self.name, problem.full_sizes, trained=trained)]


class EqualSizes(Method):
    """The same size for everyone; ES in CIESS (arXiv 2304.03501).

    A budget that does not divide evenly gives two neighbouring sizes, the larger one drawn by seed.
    """

    name = "equal sizes"

    def propose(self, problem: Problem) -> list[Allocation]:
        """The one allocation."""
        return [Allocation(self.name, equal_sizes(problem.config, problem.interactions, problem.cap_params))]


class MixedRandom(Method):
    """A random size for everyone; MR in CIESS (arXiv 2304.03501).

    Uniform between d_min and as far above the mean, then projected onto the budget.
    """

    name = "mixed random"

    def propose(self, problem: Problem) -> list[Allocation]:
        """One draw."""
        interactions, (low, high) = problem.interactions, problem.bounds
        mean = problem.cap_params / (problem.num_tables * interactions.num_entities)
        reach = min(mean - low, high - mean)
        rng = problem.rng(Stream.MIXED_RANDOM)
        drawn = rng.uniform(mean - reach, mean + reach, interactions.num_entities)
        user, item = np.split(drawn, [interactions.num_users])
        return [Allocation(self.name, problem.project(user, item, rng))]
