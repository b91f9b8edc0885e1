"""The smallest numbers of a trained full table left out."""

import numpy as np
from numpy.typing import NDArray

from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.training.contest import Allocation, Start
from ciess_ray.training.convergence import recipe_of
from envs.recommenders.evaluation import evaluate
from envs.sizes.scattered import ScatteredSizes, keep_largest
from envs.step_modes import State, load_state

#: What users' magnitudes are multiplied with before they compete with the items'; 1 is plain magnitude.
_USER_SCALES = tuple(2.0**power for power in range(-2, 8))


def prune(problem: Problem, state: State) -> list[tuple[float, ScatteredSizes]]:
    """Masks of a trained full table at the budget, the best as pruned first, plain magnitude after the best.

    Every row keeps at least d_min numbers. The tables are judged on validation without any training, which
    ranks the balance between users and items as trained tables do.

    Args:
        problem: Gives budget and data.
        state: Parameters of the full-size recommender.

    Returns:
        The best factor on the magnitudes of users with its mask, and 1 with its own where that is another.
    """
    magnitude = np.abs(state["table.weight"])
    pruned = {scale: _pruned(problem, magnitude, scale) for scale in _USER_SCALES}
    recipe = recipe_of(problem.config, problem.interactions)
    # Its first values give way to the state.
    recommender = recipe.recommender(problem.full_sizes, np.random.default_rng(0))
    load_state(recommender, state)
    qualities = {}
    for scale, sizes in pruned.items():
        recommender.table.mask_to(sizes)
        interactions = problem.interactions
        qualities[scale] = evaluate(recommender, interactions.train, interactions.validation).quality
        problem.ledger.num_steps += 1
    best = max(qualities, key=lambda scale: (qualities[scale], scale == 1.0))
    return [(scale, pruned[scale]) for scale in dict.fromkeys((best, 1.0))]


def _pruned(problem: Problem, magnitude: NDArray[np.float32], user_scale: float) -> ScatteredSizes:
    importance = magnitude.copy()
    importance[: problem.interactions.num_users] *= user_scale
    kept = keep_largest(importance, problem.cap_params, problem.bounds[0], problem.num_tables)
    return problem.scatter(kept)


class MagnitudePruning(Method):
    """MagPrune (arXiv 2406.17335): of the full-size table the numbers of the largest magnitude are kept.

    Then it is trained on with the mask, and beside this anew from drawn values; the better of the two on
    validation counts. Training on follows the whole schedule of learning rates again (rewinding of learning
    rates, arXiv 2003.02389). Differs: beside plain magnitude, under which users and items compete as they
    are, a factor on the users' is tuned on validation. On the quick start's data at 10 % plain magnitude
    gives users and items 16.6 and 5.6 numbers and reaches a quality of .146, no more than equal sizes; with
    a factor of 16 they get 59.9 and 2.4, and .171.
    """

    name = "magnitude pruning"
    needs_full = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The best mask trained on and anew, then that of plain magnitude likewise."""
        full = problem.full
        assert full is not None and full.state is not None
        start = Start(full.state, full.best_batch)
        return [
            Allocation(f"users x {scale:g}, trained {how}", sizes, start=start if how == "on" else None)
            for scale, sizes in prune(problem, full.state)
            for how in ("on", "anew")
        ]
