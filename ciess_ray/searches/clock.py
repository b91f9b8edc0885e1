"""What a search was said to take, what it has taken by now, and how long it will still take."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ciess_ray.config.run import RunConfig
from ciess_ray.resources import claim_of, cluster_nodes, gpus_of_each, num_at_once
from ciess_ray.training.forecast import Forecast, Paces, add_up
from ciess_ray.training.usage import Usage
from envs.data import Interactions

#: How far what was taken corrects what was said of the rest.
_LEAST_FACTOR, _MOST_FACTOR = 1 / 8, 8.0
#: Trainings that run side by side, of which no search has more.
_MOST_AT_ONCE = 100


class Clock:
    """Follows one search, over all its resumptions.

    Args:
        before: What :meth:`told` said of a search that is gone on with.

    Attributes:
        usage: What it takes; looks on once it is entered.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        before = before or {}
        self.usage = Usage(before.get("taken"))
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

    def foretell(self, forecast: Forecast) -> None:
        """From now on it is known what every phase takes."""
        self._predicted = forecast.amounts.told()
        self._phases = {
            phase.name: {
                "predicted_cpu_s": round(phase.cpu_s, 1),
                "predicted_wall_s": round(forecast.wall_s_of(phase), 1),
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
        said = {each: amounts.get("predicted_wall_s", 0.0) for each, amounts in self._phases.items()}
        names = list(said)
        to_come = names[names.index(name) + 1 :]
        over = [each for each in self._seconds if said.get(each) and each != name]
        # What is over says how fast this machine is beside what was said, a phase that is late does so too.
        taken, meant = sum(self._seconds[each] for each in over), sum(said[each] for each in over)
        if elapsed_s > said[name]:
            taken, meant = taken + elapsed_s, meant + said[name]
        factor = min(max(taken / meant, _LEAST_FACTOR), _MOST_FACTOR) if meant else 1.0
        left = max(said[name] * factor - elapsed_s, round_s or 0.0, 0.0)
        return left + factor * sum(said[each] for each in to_come)

    def told(self) -> dict[str, Any]:
        """What ``result.json`` says of it."""
        return {
            "predicted": self._predicted,
            "taken": self.usage.look().told(),
            "phases": {name: dict(amounts) for name, amounts in self._phases.items()},
        }


def foretell(
    asked: RunConfig,
    config: RunConfig,
    interactions: Interactions,
    interactions_ref: Any,
    usage: Usage,
    num_taken: int = 0,
) -> Forecast:
    """Measure what trainings take, in some seconds, and add up what the search will.

    Args:
        asked: What a user asked for.
        config: The run, with what follows from its data by rule.
        interactions: The splits.
        interactions_ref: Reference to them.
        usage: Tells what has been taken by then.
        num_taken: Steps that were taken before.

    Raises:
        TrainingError: The process of a training died again and again.
    """
    paces = Paces.measured(asked, config, interactions, interactions_ref)
    resources, device = config.resources, config.recommender.device
    claim = claim_of(
        resources.num_cpus_per_training, gpus_of_each(device, resources.num_gpus_per_training, 2)
    )
    at_once = max(1, num_at_once([claim], cluster_nodes(), _MOST_AT_ONCE))
    return add_up(asked, config, interactions, paces, usage.look(), at_once=at_once, num_taken=num_taken)
