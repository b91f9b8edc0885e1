"""What a search tells while it runs: to its folder, to the tracker, to whoever watches."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ciess_ray import metric_keys
from ciess_ray.result import ResultFolder
from ciess_ray.tracking.runs import Tracker


@dataclass(frozen=True)
class Progress:
    """How far a phase has come.

    Attributes:
        phase: Its name.
        step: Steps done; batches while a recommender is trained.
        num_steps: Steps in all, or None where only a bound is known.
        note: What the step was, e.g. ``warm-up``.
        kept_ratio: Executed parameters as a share of the full table's.
        quality_share: Validation quality as a share of the full table's.
        memory_weight: λ.
        elapsed_s: Seconds since the phase began.
        remaining_s: Seconds that the phase will still take, as far as can be told.
        is_step: False for news from within a step.
    """

    phase: str
    step: int
    num_steps: int | None
    note: str
    kept_ratio: float | None
    quality_share: float | None
    memory_weight: float | None
    elapsed_s: float
    remaining_s: float | None
    is_step: bool = True


class Journal:
    """Follows one search through its phases.

    Attributes:
        current_phase: Name of the phase under way, or of the last.
        num_steps: Steps of that phase.
        full_quality: Validation quality of the full table, once it is known.
        seconds: Seconds that each finished or broken-off phase took.

    Args:
        folder: Gets a line of ``progress.jsonl`` a step.
        tracker: Gets the search's metrics.
        watcher: Called with every piece of news; None for nobody.
        seconds: What the phases of a search that is resumed took before.
        num_tracked_steps: Steps of the search that the tracker knows from before.
    """

    def __init__(
        self,
        folder: ResultFolder,
        tracker: Tracker,
        watcher: Callable[[Progress], None] | None,
        seconds: Mapping[str, float] | None = None,
        num_tracked_steps: int = 0,
    ) -> None:
        self._folder, self._tracker = folder, tracker
        self._tell = watcher or (lambda progress: None)
        self._num_tracked_steps = num_tracked_steps
        self.current_phase, self.num_steps = "start", 0
        self.full_quality: float | None = None
        self.seconds = dict(seconds or {})
        #: Of the phase under way: steps done before and by now, seconds that it took before, when it went on.
        self._first_step = self._step = 0
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str, num_steps: int, first_step: int = 0, note: str = "") -> Iterator[None]:
        """Time a phase of so many steps, of which the first ones may have been taken before."""
        self.current_phase, self.num_steps = name, num_steps
        self._first_step = self._step = first_step
        self._seconds_before = self.seconds.get(name, 0.0)
        self._started = time.perf_counter()
        self._tell(Progress(name, first_step, num_steps, note, None, None, None, 0.0, None, is_step=False))
        try:
            yield
        finally:
            self.seconds[name] = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds that the phase under way has taken, before a resumption too."""
        return self._seconds_before + time.perf_counter() - self._started

    def advance(self, step: int, metrics: Mapping[str, float], note: str = "") -> None:
        """A step of the phase is done.

        Args:
            step: Steps done, this one included.
            metrics: By key; what is not finite is left out of the line and of the tracker.
            note: What the step was.
        """
        self._step = step
        elapsed = time.perf_counter() - self._started
        num_taken = max(step - self._first_step, 1)
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        quality = finite.get(metric_keys.QUALITY)
        line = {
            "phase": self.current_phase,
            "step": step,
            "num_steps": self.num_steps,
            "elapsed_s": elapsed,
            "time_ms": int(time.time() * 1000),
        }
        self._folder.log_progress(line | ({"note": note} if note else {}) | finite)
        if self.current_phase == "search" and step > self._num_tracked_steps:
            self._tracker.log_metrics(finite, step)
        self._tell(
            Progress(
                self.current_phase,
                step,
                self.num_steps,
                note,
                finite.get(metric_keys.KEPT_RATIO),
                quality / self.full_quality if quality is not None and self.full_quality else None,
                finite.get(metric_keys.MEMORY_WEIGHT),
                elapsed,
                elapsed / num_taken * (self.num_steps - step),
            )
        )

    def advance_to_batch(self, batch: int, quality: float) -> None:
        """A recommender has been validated after so many batches, where batches are the phase's steps."""
        self.advance(batch, {metric_keys.QUALITY: quality}, note=f"quality {quality:.4f}")

    def advance_to_loss(self, batch: int, loss: float) -> None:
        """A recommender has been trained for so many batches, with this mean loss over the last of them."""
        self.advance(batch, {}, note=f"loss {loss:.4f}")

    def tell(self, note: str) -> None:
        """News from within a step."""
        elapsed = time.perf_counter() - self._started
        self._tell(
            Progress(
                self.current_phase, self._step, self.num_steps, note, None, None, None, elapsed, None, False
            )
        )
