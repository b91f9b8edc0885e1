"""The search of this package, and what is left of the same over a few sizes."""

import math

import ray

from ciess_ray.candidate import Candidate
from ciess_ray.comparisons.config import FORMER_METHODS
from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.result import ResultFolder
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.checkpoints import Checkpoints
from ciess_ray.searches.finalists import chosen_candidates
from ciess_ray.searches.journal import Journal
from ciess_ray.searches.run import Budget, Run
from ciess_ray.tracking.tracker import NullTracker
from ciess_ray.training.contest import Allocation
from envs.errors import ConfigError
from envs.step_modes import STEP_MODES


class Search(Method):
    """The search of ``ciess-ray search``: full-size fit and supernet, then every step, in this process."""

    name = "search"
    needs_full = True
    is_judging = True
    is_search = True

    def propose(self, problem: Problem) -> list[Allocation]:
        """The best candidates of the search."""
        config, full = problem.config, problem.full
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
    """The same search over six sizes, of which cells are kept; see :data:`FORMER_METHODS`."""

    name = "discrete"

    def propose(self, problem: Problem) -> list[Allocation]:
        """Nothing any more.

        Raises:
            ConfigError: With the reason.
        """
        raise ConfigError(f"method {self.name!r}: {FORMER_METHODS[self.name]}.")
