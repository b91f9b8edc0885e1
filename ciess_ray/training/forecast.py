"""What a search will take: what each of its trainings takes, as it was measured, and how many there will be.

How many recipes are best for some table, how many candidates go on, and when validation ends a training is
known only when it is over: those stand here by their usual numbers.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ciess_ray.config.data import caps_params_of
from ciess_ray.config.run import RunConfig
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, USERS_FIRST
from ciess_ray.resources import num_threads
from ciess_ray.td3 import defaults
from ciess_ray.training.arms import Arm, arms_of, fields_of, options_of
from ciess_ray.training.contest import NUM_RESHAPED
from ciess_ray.training.convergence import equal_sizes, full_sizes, recipe_of, users_first
from ciess_ray.training.effort import WHOLE, Effort
from ciess_ray.training.pace import Pace, Probe, measure_paces
from ciess_ray.training.preparing import (
    FULL_SIZE_FIT,
    SUPERNET,
    file_of,
    kept_ratios_of,
    preparations_of,
)
from ciess_ray.training.recipes import MOST_USERS, RECIPE, ROUNDS, first_round
from ciess_ray.training.usage import Amounts
from envs.data import Interactions
from envs.recommenders.evaluation import SCORES_PER_BLOCK, USERS_PER_BLOCK
from envs.recommenders.training import TrainingSettings
from envs.step_modes import batches_of_step

SEARCH_PHASE, RETRAINING, TEST, REFIT = "search", "retraining", "test", "refit"

#: Trainings that come of what went before, by their usual number: recipes that the second round has of each
#: table; recipes that are best for some table and not on average; tables of a budget that are tried further,
#: the best and the best plain split; of these, what is tried in the next number of communities.
_SECOND_ROUND, _OTHER_RECIPES, _LANES, _STILL_BETTER = 3.3, 1.5, 1.7, 0.4
#: Where a training to convergence is best, as a part of its batches.
_BEST_PART = 0.85
#: CPU seconds of the agent's making, of an update and a step beside their arithmetic, and of the files that
#: are written at the end; of Ray's own processes, a second.
_AGENT_S, _UPDATE_S, _STEP_S, _FILES_S, _RAY_S = 5.0, 0.005, 0.01, 3.0, 0.06
#: What an update takes, in passes of one critic forth and back over its transitions; and the walk of as many
#: entities.
_PASSES, _WALK = 8, 2
#: Bytes beside those of trainings: what RLlib and drawing take in the driver by the end; of a transition.
_DRIVER_BYTES, _TRANSITION_BYTES = 300_000_000, 60
#: What a training comes to hold beyond its first batches, as what is taken and freed leaves gaps: so many
#: blocks of scores, and bytes at most.
_GAPS, _MOST_GAPS = 16, 300_000_000
#: Of a table that is trained: its copy at the best validation and the one that is handed over.
_COPIES, _FLOAT_BYTES = 2, 4


@dataclass(frozen=True)
class Phase:
    """What a phase takes.

    Attributes:
        name: Of the phase.
        rounds: Trainings that run side by side, round after round: how many take how many CPU seconds.
        own_s: CPU seconds of the driver, beside which nothing runs.
        num_runners: Processes that share these.
    """

    name: str
    rounds: tuple[tuple[tuple[float, float], ...], ...] = ()
    own_s: float = 0.0
    num_runners: int = 1

    @property
    def num_trainings(self) -> float:
        """In all rounds."""
        return sum(number for its in self.rounds for number, _ in its)

    @property
    def cpu_s(self) -> float:
        """CPU seconds."""
        return self.own_s + sum(number * each for its in self.rounds for number, each in its)

    def wall_s(self, at_once: int, num_threads: int = 1) -> float:
        """Seconds, with so many trainings at a time, and so many threads of each."""
        seconds = 0.0
        for its in self.rounds:
            longest = max((each for number, each in its if number), default=0.0)
            shared = sum(number * each for number, each in its) / at_once
            seconds += max(longest, shared) / num_threads
        return seconds + self.own_s / self.num_runners


@dataclass(frozen=True)
class Forecast:
    """What a search will take.

    Attributes:
        phases: Phase by phase.
        at_once: Trainings that run side by side.
        num_threads: Threads of each.
        peak_bytes: The most memory at a time.
        spent: What it had taken before this was known.
        slowness: Seconds that a CPU second took, on a machine that others may work on too.
    """

    phases: tuple[Phase, ...]
    at_once: int
    num_threads: int
    peak_bytes: int
    spent: Amounts
    slowness: float = 1.0

    def wall_s_of(self, phase: Phase) -> float:
        """Seconds of a phase."""
        return self.slowness * phase.wall_s(self.at_once, self.num_threads)

    @property
    def amounts(self) -> Amounts:
        """All together, what had been taken before included."""
        wall_s = sum(map(self.wall_s_of, self.phases))
        cpu_s = sum(phase.cpu_s for phase in self.phases) + _RAY_S * wall_s
        return Amounts(self.spent.cpu_s + cpu_s, self.spent.wall_s + wall_s, self.peak_bytes)

    @property
    def line(self) -> str:
        """All together, for people."""
        its, num_cpus = self.amounts, self.at_once * self.num_threads
        return (
            f"takes about {spelt(its.wall_s)} here ({spelt(its.cpu_s, 'CPU ')} on {num_cpus} "
            f"CPU{'s' if num_cpus > 1 else ''}) and {its.peak_bytes / 1e9:.1f} GB of memory"
        )


def spelt(seconds: float, of: str = "") -> str:
    """A duration as people say it, e.g. ``6 min``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} {of}s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} {of}min"
    return f"{seconds / 3600:.1f} {of}h"


#: Which table of which loss; the loss by what its batches cost depends on.
_Key = tuple[str, tuple[str, int]]


def _loss_of(training: TrainingSettings) -> tuple[str, int]:
    return training.loss, training.batch_size


@dataclass(frozen=True)
class Paces:
    """What trainings of a run take.

    Attributes:
        of_trainings: By table and loss.
        pass_s: CPU seconds of a critic forth and back over the transitions of an update.
    """

    of_trainings: Mapping[_Key, Pace]
    pass_s: float

    @classmethod
    def measured(
        cls, asked: RunConfig, config: RunConfig, interactions: Interactions, interactions_ref: Any
    ) -> "Paces":
        """Measure them, in some seconds.

        Args:
            asked: What a user asked for.
            config: The run, with what follows from its data by rule.
            interactions: The splits.
            interactions_ref: Reference to them.

        Raises:
            TrainingError: The process of a training died again and again.
        """
        caps_params = caps_params_of(config, interactions)
        full, cap_params = full_sizes(config, interactions), min(caps_params)
        tables = {
            FULL_SIZE: full,
            EQUAL_SIZES: equal_sizes(config, interactions, cap_params),
            USERS_FIRST: users_first(config, interactions, cap_params),
        }
        ways = [config.with_options(way.options) for way in config.ways]
        if asked.finds_recipe:
            ways += [_with_arm(asked, config, interactions, arm) for arm in arms_of(asked)]
        by_loss = {_loss_of(each.training): each for each in reversed(ways)}
        probes = {
            (name, loss): Probe(each, sizes)
            for loss, each in by_loss.items()
            for name, sizes in tables.items()
        }
        if config.steps.starts_from == SUPERNET:
            kept_ratios = kept_ratios_of(config, interactions, caps_params)
            probes[SUPERNET, _loss_of(config.training)] = Probe(config, full, kept_ratios)
        paces = measure_paces(list(probes.values()), interactions_ref)
        return cls(dict(zip(probes, paces, strict=True)), _seconds_of_pass(config.agent.hiddens))

    @property
    def slowness(self) -> float:
        """Seconds that a CPU second took while they were measured."""
        return statistics.median(pace.slowness for pace in self.of_trainings.values())

    def of(self, table: str, training: TrainingSettings) -> Pace:
        """Of a table that is trained so; a loss that was not measured is taken for another one."""
        key = table, _loss_of(training)
        if key not in self.of_trainings:
            key = next(each for each in self.of_trainings if each[0] == table)
        return self.of_trainings[key]


def _with_arm(asked: RunConfig, config: RunConfig, interactions: Interactions, arm: Any) -> RunConfig:
    """The run with one of the recipes that are tried."""
    recommender = asked.recommender
    options = {**options_of(arm, asked), **recommender.options}
    return config.model_copy(
        update={
            "training": TrainingSettings.model_validate(fields_of(arm, interactions)),
            "recommender": recommender.model_copy(update={"options": options}),
        }
    )


def _seconds_of_pass(hiddens: Sequence[int]) -> float:
    """CPU seconds of a critic forth and back over the transitions of an update."""
    # RLlib takes seconds and memory that trainings, which know this module, do not need.
    from ciess_ray.td3.module import Mlp

    net, inputs = Mlp(4, hiddens), torch.rand(defaults.BATCH_SIZE, 4)
    net(inputs).sum().backward()
    began, num_passes = time.process_time(), 0
    while num_passes < 3 or time.process_time() - began < 0.05:
        net(inputs).sum().backward()
        num_passes += 1
    return (time.process_time() - began) / num_passes


#: Interactions, and what trainings on them take.
Last = tuple[Interactions, Paces]


def add_up(
    asked: RunConfig,
    config: RunConfig,
    interactions: Interactions,
    paces: Paces,
    spent: Amounts,
    *,
    at_once: int,
    last: Last | None = None,
    num_taken: int = 0,
    effort: Effort = WHOLE,
) -> Forecast:
    """Add up what every phase of a search will take.

    Args:
        asked: What a user asked for.
        config: The run, with what follows from its data by rule.
        interactions: The splits.
        paces: What trainings take.
        spent: What it has taken by now.
        at_once: Trainings that the cluster has room for side by side.
        last: What the last tables are trained on and what that takes, where that is something else.
        num_taken: Steps that were taken before.
        effort: What of it is done.
    """
    last = last or (interactions, paces)
    phases = phases_of(asked, config, interactions, paces, num_taken, effort, last)
    most_at_once = min(at_once, max((math.ceil(p.num_trainings) for p in phases), default=1))
    num_entities = interactions.num_entities
    table_bytes = full_sizes(config, last[0]).num_params * _FLOAT_BYTES
    block = min(USERS_PER_BLOCK, SCORES_PER_BLOCK // interactions.num_items) * interactions.num_items
    gaps_bytes = 0 if config.recommender.is_closed_form else min(_GAPS * block * _FLOAT_BYTES, _MOST_GAPS)
    peak_bytes = (
        spent.peak_bytes
        + _DRIVER_BYTES
        + most_at_once * (gaps_bytes + _COPIES * table_bytes)
        + min(2 * defaults.CAPACITY, config.search.num_steps * num_entities) * _TRANSITION_BYTES
    )
    return Forecast(tuple(phases), at_once, num_threads(config), peak_bytes, spent, paces.slowness)


def phases_of(
    asked: RunConfig,
    config: RunConfig,
    interactions: Interactions,
    paces: Paces,
    num_taken: int = 0,
    effort: Effort = WHOLE,
    last: Last | None = None,
) -> list[Phase]:
    """Each phase with its trainings; what lies in the cache takes nothing."""
    recommender, training, search = config.recommender, config.training, config.search
    is_closed = recommender.is_closed_form
    phases: list[Phase] = []
    other_ways: float = len(config.ways) - 1
    values: list[float] = [len(tried) for tried in config.ways[0].others.values()]
    arms = arms_of(asked)[: effort.num_arms] if asked.finds_recipe else []
    if len(arms) > 1:
        phases.append(recipe_phase(asked, interactions, paces, effort))
        if not search.tried_recipes and effort.has_ways:
            other_ways = min(_OTHER_RECIPES, len(arms) - 1)

    def usual(table: str, paces: Paces = paces) -> float:
        return paces.of(table, training).convergence_s(training, is_closed_form=is_closed)

    full, equal, wide = (usual(table) for table in (FULL_SIZE, EQUAL_SIZES, USERS_FIRST))
    of_supernet = search.supernet_batches
    for preparation in preparations_of(config, interactions):
        # What is found of a recipe decides what is looked for.
        is_kept = not arms and file_of(preparation, config.kept_folder).exists()
        is_fit = preparation.kind == FULL_SIZE_FIT
        each = full if is_fit else paces.of(SUPERNET, training).training_s(of_supernet, 0)
        phases.append(Phase(preparation.kind, () if is_kept else (((1, each),),)))
    phases.append(_search_phase(config, interactions, paces, num_taken))
    num_budgets = len(config.memory_budgets)
    # Finding a recipe has trained full size and equal sizes of the tightest budget as they like it.
    num_equal = num_budgets - bool(arms)
    rounds: list[tuple[tuple[float, float], ...]] = [
        ((num_equal, equal), (num_budgets * search.num_candidates, wide))
    ]
    lanes = num_budgets * (_LANES if search.num_candidates > 1 else 1.0)
    for position, _ in enumerate(search.tried_communities):
        rounds.append(((lanes * _STILL_BETTER**position, wide),))
    for number in [other_ways, *values]:
        rounds.append(((number * (not arms), full), (number * num_equal, equal), (number * lanes, wide)))
    judged = 2 * NUM_RESHAPED * (num_budgets - 1) * (not config.steps.trains)
    judged_s = judged * paces.of(FULL_SIZE, training).validation_s
    phases.append(Phase(RETRAINING, tuple(its for its in rounds if sum(n for n, _ in its)), judged_s))
    everybody, its_paces = last or (interactions, paces)
    full, equal, wide = (usual(table, its_paces) for table in (FULL_SIZE, EQUAL_SIZES, USERS_FIRST))
    grown, most_grown = _growths(interactions, everybody)
    stretched = 1.0 if is_closed else _BEST_PART
    tested = grown * stretched
    rivals = (1, full * tested), (num_budgets, equal * tested), (num_budgets, wide * tested)
    phases.append(Phase(TEST, (rivals,)))
    if search.refit:
        phases.append(Phase(REFIT, (((num_budgets, wide * most_grown * stretched),),), _FILES_S))
    return phases


def _growths(interactions: Interactions, everybody: Interactions) -> tuple[float, float]:
    """How many times as many interactions everybody has for training and validation, and in all."""
    chosen_on, num_all = interactions.train.nnz, everybody.num_interactions
    return (num_all - everybody.test.nnz) / chosen_on, num_all / chosen_on


def recipe_phase(asked: RunConfig, interactions: Interactions, paces: Paces, effort: Effort) -> Phase:
    """The rounds of trainings by which a recipe is found."""
    files = first_round(asked, interactions, effort)
    if all(file.exists() for file in files.values()):
        return Phase(RECIPE)
    num_judged = int((interactions.validation.indptr[1:] > interactions.validation.indptr[:-1]).sum())
    of_users = min(1.0, MOST_USERS / max(num_judged, 1))

    def cost(arm: Arm, table: str) -> float:
        settings = TrainingSettings.model_validate(fields_of(arm, interactions, effort))
        pace = paces.of(table, settings)
        num_validations = math.ceil(settings.max_batches / settings.evaluate_every)
        return pace.training_s(settings.max_batches, 0) + num_validations * of_users * pace.validation_s

    first = tuple((float(not file.exists()), cost(arm, table)) for (arm, table), file in files.items())
    whole: dict[str, list[float]] = {}
    for arm, table in files:
        whole.setdefault(table, []).append(cost(replace(arm, share=ROUNDS[-1]), table))
    second = tuple((min(_SECOND_ROUND, len(each)), sum(each) / len(each)) for each in whole.values())
    return Phase(RECIPE, (first, second))


def _search_phase(config: RunConfig, interactions: Interactions, paces: Paces, num_taken: int) -> Phase:
    """The steps, which the driver takes or env runners, and what the agent learns of them."""
    from ciess_ray.td3.config import NUM_LEARNING_ITERATIONS

    search, agent = config.search, config.agent
    pace = paces.of(FULL_SIZE, config.training)
    entities = interactions.num_entities / defaults.BATCH_SIZE
    step_s = pace.validation_s + _STEP_S + _WALK * entities * paces.pass_s
    if config.steps.trains:
        batches = search.batches_per_step or batches_of_step(recipe_of(config, interactions))
        step_s += pace.training_s(batches, 0)
    num_idle = max(search.num_warmup_steps - NUM_LEARNING_ITERATIONS, num_taken, 0)
    learning = max(search.num_steps - num_idle, 0)
    learn_s = learning * agent.updates_per_step * (_PASSES * paces.pass_s + _UPDATE_S)
    return Phase(
        SEARCH_PHASE,
        own_s=_AGENT_S + max(search.num_judgements - num_taken, 0) * step_s + learn_s,
        num_runners=max(search.num_env_runners, 1),
    )
