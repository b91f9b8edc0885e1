"""What a search was said to take, what it has taken by now, and how long it will still take."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray

from ciess_ray.config.run import RunConfig
from ciess_ray.resources import claim_of, cluster_nodes, gpus_of_each, num_at_once
from ciess_ray.training.effort import EFFORTS, LEAST_PART, WHOLE, Effort
from ciess_ray.training.forecast import (
    REFIT,
    RETRAINING,
    SEARCH_PHASE,
    TEST,
    Forecast,
    Paces,
    Phase,
    add_up,
    recipe_phase,
    spelt,
)
from ciess_ray.training.recipes import RECIPE
from ciess_ray.training.rules import with_rules
from ciess_ray.training.usage import Usage
from envs.data import Interactions
from envs.errors import ConfigError

#: How far what was taken corrects what was said of the rest.
_LEAST_FACTOR, _MOST_FACTOR = 1 / 8, 8.0
#: Trainings that run side by side, of which no search has more.
_MOST_AT_ONCE = 100
#: Part of a phase after which its own pace says what is left of it.
_TELLING = 0.2
#: Steps in which the part of batches and episodes is found.
_HALVINGS = 6


class Clock:
    """Follows one search, over all its resumptions.

    Args:
        before: What :meth:`told` said of a search that is gone on with.
        time_s: Seconds that it is given; None for as many as it takes.

    Attributes:
        usage: What it takes; looks on once it is entered.
        effort: What of the search is done.
    """

    def __init__(self, before: Mapping[str, Any] | None = None, time_s: float | None = None) -> None:
        before = before or {}
        self.usage = Usage(before.get("taken"))
        self.effort = Effort(**before["effort"]) if before.get("effort") else WHOLE
        self._time_s = time_s
        # What is decided as time runs, by which a search that is gone on with decides the same.
        self._decided: dict[str, Any] = dict(before.get("decided", {}))
        self._predicted: dict[str, float] | None = before.get("predicted")
        self._phases: dict[str, dict[str, float]] = {
            name: dict(amounts) for name, amounts in before.get("phases", {}).items()
        }
        # Seconds of phases that are over.
        self._seconds: dict[str, float] = {}

    @property
    def has_forecast(self) -> bool:
        """Whether it is known what the search takes."""
        return self._predicted is not None

    def foretell(self, outlook: "Outlook") -> None:
        """From now on it is known what every phase takes."""
        forecast, self.effort = outlook.forecast, outlook.effort
        self._predicted = forecast.amounts.told()
        self._phases = {
            phase.name: {
                "predicted_cpu_s": round(phase.cpu_s, 1),
                "predicted_wall_s": round(forecast.wall_s_of(phase), 1),
                "num_rounds": len(phase.rounds),
            }
            for phase in forecast.phases
        }

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What the block takes is this phase's."""
        amounts = self._phases.setdefault(name, {})
        before, began = amounts.get("taken_cpu_s", 0.0) - self.usage.look().cpu_s, time.perf_counter()
        try:
            yield
        finally:
            amounts["taken_cpu_s"] = round(before + self.usage.look().cpu_s, 1)
            self._seconds[name] = time.perf_counter() - began

    def remaining_s(self, name: str, elapsed_s: float, round_s: float | None) -> float | None:
        """Seconds that the whole search will still take; None where nobody knows.

        Args:
            name: The phase that is under way.
            elapsed_s: Seconds that it has taken.
            round_s: Seconds that its round will still take, as far as it tells.
        """
        if not self.has_forecast or name not in self._phases:
            return round_s
        said, names = self._said, list(self._phases)
        factor = self._factor(name, elapsed_s)
        left = said[name] * factor - elapsed_s
        # Of a phase that has hardly begun its first steps say less than what was said of it.
        if round_s is not None and (left <= 0 or elapsed_s > _TELLING * (elapsed_s + round_s)):
            left = max(left, round_s)
        left = max(left, 0.0)
        return left + factor * sum(said[each] for each in names[names.index(name) + 1 :])

    @property
    def _said(self) -> dict[str, float]:
        """Seconds that each phase was said to take."""
        return {name: amounts.get("predicted_wall_s", 0.0) for name, amounts in self._phases.items()}

    def _factor(self, name: str = "", elapsed_s: float = 0.0) -> float:
        """How many times as long as was said it takes here, by what is over, and by a phase that is late."""
        said = self._said
        over = {each: seconds for each, seconds in self._seconds.items() if said.get(each) and each != name}
        if elapsed_s > said.get(name, math.inf):
            over[name] = elapsed_s
        meant = sum(said[each] for each in over)
        return min(max(sum(over.values()) / meant, _LEAST_FACTOR), _MOST_FACTOR) if meant else 1.0

    def _round_s(self) -> float:
        """Seconds that a round of retraining was said to take."""
        return self._said.get(RETRAINING, 0.0) / max(self._phases.get(RETRAINING, {}).get("num_rounds", 1), 1)

    def _left_s(self) -> float:
        """Seconds of the time that is given that are left once test and refit are done, which always are."""
        assert self._time_s is not None
        always = sum(self._said.get(name, 0.0) for name in (TEST, REFIT))
        return self._time_s - self.usage.look().wall_s - self._factor() * always

    def has_time_for(self, stage: str) -> bool:
        """Whether time is left for a round of trainings that may be left out; once decided it stays so."""
        if self._time_s is None or not self.has_forecast:
            return True
        if stage not in self._decided:
            self._decided[stage] = self._left_s() >= self._factor() * self._round_s()
        return bool(self._decided[stage])

    def num_episodes(self, num_asked: int) -> int:
        """Episodes that time is left for, of so many; once decided it stays so."""
        if self._time_s is None or not self.has_forecast:
            return num_asked
        if SEARCH_PHASE not in self._decided:
            takes = self._factor() * self._said.get(SEARCH_PHASE, 0.0)
            left = self._left_s() - self._factor() * self._round_s()
            share = min(left / takes, 1.0) if takes else 1.0
            self._decided[SEARCH_PHASE] = max(1, round(share * num_asked))
        return min(int(self._decided[SEARCH_PHASE]), num_asked)

    def told(self) -> dict[str, Any]:
        """What ``result.json`` says of it."""
        return {
            "predicted": self._predicted,
            "taken": self.usage.look().told(),
            "phases": {name: dict(amounts) for name, amounts in self._phases.items()},
            "effort": asdict(self.effort),
            "left_out": self.effort.left_out,
            "decided": dict(self._decided),
        }


@dataclass(frozen=True)
class Outlook:
    """What a search is and takes, within the time that it is given.

    Attributes:
        config: The run, with what follows from its data by rule; less than that where time is short.
        effort: What of it is done.
        forecast: What it takes.
    """

    config: RunConfig
    effort: Effort
    forecast: Forecast

    @property
    def line(self) -> str:
        """All together, for people."""
        left_out = self.effort.left_out
        return self.forecast.line + (f"; for want of time without {', '.join(left_out)}" if left_out else "")


def foretell(
    asked: RunConfig,
    interactions: Interactions,
    interactions_ref: Any,
    usage: Usage,
    num_taken: int = 0,
    *,
    everybody: Interactions,
    rivals: Sequence[RunConfig] = (),
) -> Outlook:
    """Measure what trainings take, in some seconds, and add up what the search will; fit it into its time.

    Args:
        asked: What a user asked for.
        interactions: The splits.
        interactions_ref: Reference to them.
        usage: Tells what has been taken by then.
        num_taken: Steps that were taken before.
        everybody: The splits that the last tables are trained on; where these are not of all users.
        rivals: Runs of the other recommenders that it is to be chosen among. What is computed is no more than
            what is measured here, and is not counted; where it may be chosen, half of what comes after is,
            unless a time is given, which has to be enough for all.

    Raises:
        ConfigError: Not even the least that a search does fits into the time that it is given.
        TrainingError: The process of a training died again and again.
    """
    ruled = with_rules(asked, interactions)
    paces = Paces.measured(asked, ruled, interactions, interactions_ref)
    rated = [
        (rival, Paces.measured(rival, with_rules(rival, interactions), interactions, interactions_ref))
        for rival in rivals
        if not rival.recommender.is_closed_form
    ]
    if rivals and not asked.recommender.is_closed_form:
        rated.append((asked, paces))
    last = interactions, paces
    if everybody is not interactions:
        last = everybody, Paces.measured(ruled, ruled, everybody, ray.put(everybody))
    resources, device = asked.resources, asked.recommender.device
    num_gpus = gpus_of_each(device, resources.num_gpus_per_training, 2)
    claim = claim_of(resources.num_cpus_per_training, num_gpus)
    at_once = max(1, num_at_once([claim], cluster_nodes(), _MOST_AT_ONCE))
    spent = usage.look()

    def outlook(effort: Effort) -> Outlook:
        config = with_rules(asked, interactions, effort)
        forecast = add_up(
            asked,
            config,
            interactions,
            paces,
            spent,
            last=last,
            at_once=at_once,
            num_taken=num_taken,
            effort=effort,
        )
        if rated:
            rating = [recipe_phase(rival, interactions, its, effort) for rival, its in rated]
            recipe = Phase(RECIPE, tuple(its for phase in rating for its in phase.rounds))
            others = (phase for phase in forecast.phases if phase.name != RECIPE)
            if asked.time_s is None and len(rated) <= len(rivals):
                # One that is computed may be chosen, and then next to nothing is left to do.
                others = (_half(phase) for phase in others)
            forecast = replace(forecast, phases=(recipe, *others))
        return Outlook(config, effort, forecast)

    return outlook(WHOLE) if asked.time_s is None else fit(outlook, asked.time_s)


def _half(phase: Phase) -> Phase:
    """A phase that is as likely as not."""
    rounds = tuple(tuple((number / 2, each) for number, each in its) for its in phase.rounds)
    return replace(phase, rounds=rounds, own_s=phase.own_s / 2)


def fit(outlook: Callable[[Effort], Outlook], time_s: float) -> Outlook:
    """The most of a search that a time is enough for.

    Args:
        outlook: What an effort takes.
        time_s: Seconds.

    Raises:
        ConfigError: Not even the least fits.
    """
    for effort in EFFORTS:
        found = outlook(effort)
        if found.forecast.amounts.wall_s <= time_s:
            return found
    low, high = LEAST_PART, 1.0
    found = outlook(replace(EFFORTS[-1], part=low))
    least_s = found.forecast.amounts.wall_s
    if least_s > time_s:
        raise ConfigError(
            f"time: the least that a search of these data does takes about {spelt(math.ceil(least_s))} here, "
            f"and it is given {spelt(time_s)}: give it {math.ceil(least_s)}s or more."
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = outlook(replace(EFFORTS[-1], part=middle))
        if tried.forecast.amounts.wall_s <= time_s:
            low, found = middle, tried
        else:
            high = middle
    return found
