"""The search of this package, and the same over a few sizes."""

import math

import ray

from ciess_ray.candidate import Candidate
from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.config.run import RunConfig
from ciess_ray.result import ResultFolder
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.checkpoints import Checkpoints
from ciess_ray.searches.finalists import chosen_candidates
from ciess_ray.searches.journal import Journal
from ciess_ray.searches.run import Budget, Run
from ciess_ray.tracking.tracker import NullTracker
from ciess_ray.training.contest import Allocation
from envs.step_modes import STEP_MODES

#: Sizes that ESAPN chooses among at 128 dimensions.
ESAPN_SIZES = (2, 4, 8, 16, 64, 128)


class Search(Method):
    """The search of ``ciess-ray search``: full-size fit and supernet, then every step, in this process."""

    name = "search"
    needs_full = True
    is_judging = True
    is_search = True

    def settings(self, config: RunConfig) -> RunConfig:
        """What it is configured with."""
        return config

    def propose(self, problem: Problem) -> list[Allocation]:
        """The best candidates of the search."""
        config, full = self.settings(problem.config), problem.full
        assert full is not None
        journal = Journal(ResultFolder(problem.work), NullTracker(), None)
        budget = Budget(str(config.budget), problem.cap_params, problem.work)
        interactions = problem.interactions
        run = Run(config, interactions, ray.put(interactions), [budget], journal)
        # Only a whole cell is gone on with.
        checkpoints = Checkpoints(problem.work / "checkpoints", {}, interval_s=math.inf, num_kept=1)
        candidates: list[Candidate] = []
        journal.full_quality = full.mean_quality
        with journal.phase("search", config.search.num_steps + config.search.num_greedy_steps):
            find_candidates(run, full, problem.pretrained, candidates, checkpoints, None)
        problem.ledger.num_steps += len(candidates)
        if STEP_MODES[config.search.resolved_step_mode].trains:
            problem.ledger.num_trainings += len(candidates)
        return chosen_candidates(run, 0, candidates, problem.pretrained)


class Discrete(Search):
    """The same search over six sizes: the action space of ESAPN, an ablation of continuity.

    ESAPN (Liu et al., SIGIR 2020) chooses among six sizes, here scaled to d_max. What is asked for is rounded
    to the nearest of them before the projection deals out what the budget leaves. Differs from ESAPN in all
    else: agent, reward and steps are the search's.
    """

    name = "discrete"

    def settings(self, config: RunConfig) -> RunConfig:
        """With six levels."""
        recommender = config.recommender
        levels = six_sizes(recommender.min_embedding_size, recommender.max_embedding_size)
        return config.model_copy(update={"search": config.search.model_copy(update={"size_levels": levels})})


def six_sizes(min_embedding_size: int, max_embedding_size: int) -> tuple[int, ...]:
    """:data:`ESAPN_SIZES` scaled to another d_max; fewer where the bounds leave no six."""
    scale = max_embedding_size / ESAPN_SIZES[-1]
    scaled = {max(min_embedding_size, round(scale * size)) for size in ESAPN_SIZES}
    return tuple(sorted(scaled))
