"""A search under way: what its phases work on, and what it tells folder, tracker and whoever watches."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ciess_ray import metric_keys
from ciess_ray.candidate import Candidate
from ciess_ray.config.run import RunConfig
from ciess_ray.result import ResultFolder
from ciess_ray.searches.clock import Clock
from ciess_ray.tracking.runs import NullTracker, Tracker
from envs.data import Interactions


@dataclass(frozen=True)
class Progress:
    """How far a phase has come.

    Attributes:
        phase: Its name.
        step: Steps done; batches while a recommender is trained.
        num_steps: Steps in all; of a training to convergence the most that it may take; 0 of what takes none.
        note: What the step was, e.g. ``warm-up``.
        kept_ratio: Executed parameters as a share of the full table's.
        quality_share: Validation quality as a share of the full table's.
        memory_weight: λ.
        elapsed_s: Seconds that the phase has taken, before a resumption too.
        remaining_s: Seconds that all the search will still take, as far as can be told.
        is_step: False for news from within a step.
    """

    phase: str
    step: int
    num_steps: int
    note: str = ""
    kept_ratio: float | None = None
    quality_share: float | None = None
    memory_weight: float | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    is_step: bool = True


#: Called with every piece of news.
Watcher = Callable[[Progress], None]


class Journal:
    """Follows one search through its phases.

    Attributes:
        summary: What ``result.json`` says of the search, which its folder is given as each phase begins.
        num_steps: Steps of the phase, or of the round of it, that is under way.
        full_quality: Validation quality of the full table, once it is known.
        clock: What is left of the search, and of the time that it is given.

    Args:
        folder: Gets a line of ``progress.jsonl`` a step.
        watcher: Called with every piece of news; None for nobody.
        seconds: What the phases of a search that is resumed took before.
        clock: Is told of phases, and tells what is left of the search; None for one of its own.
    """

    def __init__(
        self,
        folder: ResultFolder,
        watcher: Watcher | None,
        seconds: Mapping[str, float] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self._tracker: Tracker = NullTracker()
        self._num_tracked_steps = 0
        self._tell = watcher or (lambda progress: None)
        self.clock = clock or Clock()
        self.summary: dict[str, Any] = {"phase": "start", "seconds": dict(seconds or {})}
        self.num_steps = 0
        self.full_quality: float | None = None

    def record_with(self, tracker: Tracker, num_steps: int) -> None:
        """From now on a tracker gets the search's metrics, which knows so many of its steps from before."""
        self._tracker, self._num_tracked_steps = tracker, num_steps

    def say(self, name: str, note: str) -> None:
        """A line that is news of no phase."""
        self._tell(Progress(name, 0, 0, note, is_step=False))

    @contextlib.contextmanager
    def phase(self, name: str, num_steps: int, first_step: int = 0, note: str = "") -> Iterator[None]:
        """Time a phase of so many steps, of which the first ones may have been taken before."""
        # A search that is killed leaves the name of the phase it was in.
        self.summary |= {"phase": name, "clock": self.clock.told()}
        self._folder.write_result(self.summary)
        self.num_steps = num_steps
        self._started: float = time.perf_counter() - self.summary["seconds"].get(name, 0.0)
        self._round_started = self._started
        self._latest = Progress(name, first_step, num_steps, note, is_step=False)
        self.tell(note)
        try:
            with self.clock.phase(name):
                yield
        finally:
            self.summary["seconds"][name] = self.elapsed_s
            self.summary["clock"] = self.clock.told()

    def begin_round(self, num_steps: int) -> None:
        """The phase takes so many steps, counted anew, before it is known whether more follow."""
        self.num_steps, self._round_started = num_steps, time.perf_counter()
        self._latest = Progress(self._latest.phase, 0, num_steps, is_step=False)

    @property
    def elapsed_s(self) -> float:
        """Seconds that the phase under way has taken, before a resumption too."""
        return time.perf_counter() - self._started

    def advance(self, step: int, metrics: Mapping[str, float], note: str = "") -> None:
        """A step of the phase is done.

        Args:
            step: Steps done, this one included.
            metrics: By key; what is not finite is left out of the line and of the tracker.
            note: What the step was.
        """
        phase, elapsed_s = self._latest.phase, self.elapsed_s
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        line = {
            "phase": phase,
            "step": step,
            "num_steps": self.num_steps,
            "elapsed_s": elapsed_s,
            "time_ms": int(time.time() * 1000),
        }
        self._folder.log_progress(line | ({"note": note} if note else {}) | finite)
        if phase == "search" and step > self._num_tracked_steps:
            self._tracker.log_metrics(finite, step)
        quality = finite.get(metric_keys.QUALITY)
        self._latest = Progress(
            phase,
            step,
            self.num_steps,
            note,
            finite.get(metric_keys.KEPT_RATIO),
            quality / self.full_quality if quality is not None and self.full_quality else None,
            finite.get(metric_keys.MEMORY_WEIGHT),
            elapsed_s,
            self._remaining_s(step),
        )
        self._tell(self._latest)

    def _remaining_s(self, step: int) -> float | None:
        """Seconds that the search will still take, so many steps of the round done."""
        each_s = (time.perf_counter() - self._round_started) / step if step else None
        round_s = None if each_s is None else each_s * (self.num_steps - step)
        return self.clock.remaining_s(self._latest.phase, self.elapsed_s, round_s)

    def tell(self, note: str) -> None:
        """News from within a step, beside what the last step came to."""
        self._tell(
            replace(
                self._latest,
                num_steps=self.num_steps,
                note=note,
                elapsed_s=self.elapsed_s,
                remaining_s=self._remaining_s(self._latest.step),
                is_step=False,
            )
        )


@dataclass(frozen=True)
class Budget:
    """A budget that a search serves.

    Attributes:
        asked: As it was asked for, e.g. ``10%``.
        cap_params: Parameters that its table may have.
        name: Of the folder of its result in the search's own; empty for the budget that is searched.
    """

    asked: str
    cap_params: int
    name: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """One search.

    Attributes:
        config: What it was told.
        interactions: The splits.
        interactions_ref: The same in the object store, once for all processes.
        budgets: The one that is searched, then the looser ones.
        journal: Is told of every step.
        candidates: The tables that it has tried.
        growth: How many times as many training interactions these are as those that sizes were chosen on.
    """

    config: RunConfig
    interactions: Interactions
    interactions_ref: Any
    budgets: list[Budget]
    journal: Journal
    candidates: list[Candidate] = field(default_factory=list)
    growth: float = 1.0

    @property
    def num_steps(self) -> int:
        """Steps that it has taken."""
        return self.candidates[-1].step if self.candidates else 0
