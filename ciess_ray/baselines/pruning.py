"""The smallest numbers of a trained full table left out."""

import numpy as np

from ciess_ray.baselines.method import Allocation, Method, Problem, Start
from envs.scattered_sizes import keep_largest


class MagnitudePruning(Method):
    """MagPrune (arXiv 2406.17335): of the full-size table the numbers of the largest magnitude are kept.

    Every row keeps at least d_min of them. Then it is trained on with the mask, and beside this anew from
    drawn values; the better of the two on validation counts. Training on follows the whole schedule of
    learning rates again (rewinding of learning rates, arXiv 2003.02389).
    """

    name = "magnitude pruning"
    needs_full = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The mask, trained on and trained anew."""
        full = problem.full
        assert full is not None and full.state is not None
        magnitude = np.abs(full.state["table.weight"])
        kept = keep_largest(magnitude, problem.cap_params, problem.bounds[0], problem.num_tables)
        sizes = problem.scatter(kept)
        return [
            Allocation("trained on", sizes, start=Start(full.state, full.best_batch)),
            Allocation("trained anew", sizes),
        ]
