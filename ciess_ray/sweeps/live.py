"""The live view of a sweep: tables that move in a terminal or a notebook, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Group
from rich.text import Text

from ciess_ray.plain_text import visible_line
from ciess_ray.searches.live import duration
from ciess_ray.sweeps.monitor import SweepState, TrialState
from ciess_ray.terminal import Terminal, TextTable, live_on

#: Seconds between two drawings, and between two plain lines on how far the sweep is.
_REDRAW_S, _QUIET_S = 0.25, 20.0
_MAX_RUNNING = 8


class SweepView:
    """Shows the progress of a sweep; use as a context manager and hand it to ``sweep``.

    Args:
        console: Where to; plain lines where it is no terminal and there is no notebook.
    """

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = live_on(console, auto_refresh=False)
        self._drawn = self._printed = float("-inf")
        self._state: SweepState | None = None

    def __enter__(self) -> "SweepView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if self._state is not None:
                self._live.update(_drawing(self._state), refresh=True)
            self._live.stop()

    def __call__(self, state: SweepState) -> None:
        """Called with each piece of news."""
        now = time.monotonic()
        self._state = state
        if self._live is not None:
            if now >= self._drawn + _REDRAW_S:
                self._drawn = now
                self._live.update(_drawing(state), refresh=True)
            return
        if state.what != "reported" and state.changed is not None:
            self._console.say(_news(state))
        if now >= self._printed + _QUIET_S:
            self._printed = now
            self._console.say(_counts(state))


def _news(state: SweepState) -> str:
    assert state.changed is not None
    trial = state.trials[state.changed]
    parts = [f"{state.what} {trial.name}"]
    if trial.status in ("finished", "stopped") and trial.quality is not None:
        parts.append(f"quality {trial.quality:.4f}")
    if trial.seconds is not None:
        parts.append(duration(trial.seconds))
    if trial.error and state.what in ("failed", "retried"):
        parts.append(trial.error)
    return "  ".join(parts)


def _counts(state: SweepState) -> str:
    counts = {status: 0 for status in ("finished", "stopped", "running", "pending", "failed")}
    for trial in state.trials.values():
        counts[trial.status] += 1
    done = counts["finished"] + counts["stopped"]
    parts = [f"{done} of {len(state.trials)} trials done"]
    parts += [f"{counts['stopped']} of them stopped early"] if counts["stopped"] else []
    parts += [f"{counts[status]} {status}" for status in ("running", "pending", "failed") if counts[status]]
    num_prepared, num_shared = state.num_prepared
    if num_prepared < num_shared:
        parts.append(f"trains what trials share: {num_prepared} of {num_shared}")
    parts.append(f"{duration(time.monotonic() - state.started)} so far")
    left = remaining_s(state)
    parts += [f"{duration(left)} left"] if left is not None else []
    parts += [f"{state.num_waiting:,} writes wait for MLflow"] if state.num_waiting > _MAX_RUNNING else []
    return ", ".join(parts)


def remaining_s(state: SweepState) -> float | None:
    """Seconds that a sweep will still take, if its trials go on as before; None until one has ended."""
    trials = state.trials.values()
    ended = [trial.seconds for trial in trials if trial.seconds is not None]
    running = [trial for trial in trials if trial.status == "running"]
    if not ended or not running:
        return None
    each, now = sum(ended) / len(ended), time.monotonic()
    left = [max(each - (now - (trial.started or now)), 0.0) for trial in running]
    left += [each for trial in trials if trial.status == "pending"]
    return max(sum(left) / len(running), max(left))


def _drawing(state: SweepState) -> Group:
    best: dict[str, TrialState] = {}
    for trial in state.trials.values():
        known = best.get(trial.budget)
        if known is None or (trial.quality or 0.0) > (known.quality or 0.0):
            best[trial.budget] = trial
    budgets = TextTable("budget", "best quality", "trial")
    budgets.header_style, budgets.columns[2].no_wrap = "dim", True
    for budget, trial in best.items():
        if trial.quality is not None:
            budgets.add_row(
                budget, f"{trial.quality:.4f}", Text(visible_line(trial.name), overflow="ellipsis")
            )
    running = TextTable("running", "phase", "step", "quality")
    running.header_style, running.columns[0].no_wrap = "dim", True
    shown = [trial for trial in state.trials.values() if trial.status == "running"]
    for trial in shown[:_MAX_RUNNING]:
        running.add_row(
            Text(visible_line(trial.name), overflow="ellipsis"),
            trial.phase,
            f"{trial.step}/{trial.num_steps}",
            "" if trial.quality is None else f"{trial.quality:.4f}",
        )
    parts: list[TextTable | Text] = [Text(_counts(state))]
    parts += [budgets] if budgets.row_count else []
    parts += [running] if running.row_count else []
    return Group(*parts)
