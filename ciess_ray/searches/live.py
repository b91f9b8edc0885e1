"""The live view of a search, a sweep or a comparison."""

import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from ciess_ray.plain_text import percent, visible_line
from ciess_ray.searches.run import Progress
from ciess_ray.terminal import NotebookLive, Terminal, TextTable, in_notebook
from ciess_ray.tracking.runs import RunsState, RunState

#: Seconds after which plain lines tell of what is no news of its own.
_QUIET_S = 20.0
_MAX_RUNNING = 8


class LiveView(ABC):
    """Shows progress: tables that move in a terminal or a notebook, plain lines elsewhere.

    Use as a context manager, and hand it to whatever tells its news.

    Args:
        console: Where to; plain lines where it is no terminal and there is no notebook.
    """

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live: Live | NotebookLive | None = Live(self, console=console) if console.is_terminal else None
        if in_notebook():
            self._live = NotebookLive()
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, news: Any) -> None:
        """Called with each piece of news."""
        now = time.monotonic()
        is_due = now >= self._printed + _QUIET_S
        lines = self.take(news, is_due)
        if is_due:
            self._printed = now
        if self._live is not None:
            self._live.update(self)
        else:
            for line in lines:
                self._console.say(line)

    @abstractmethod
    def take(self, news: Any, is_due: bool) -> list[str]:
        """What plain lines say of a piece of news, which the tables show from now on.

        Args:
            news: The news.
            is_due: Whether it is time for a line that no news of its own is worth.
        """

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """The tables."""


class SearchView(LiveView):
    """Shows the progress of a search: a row or a line a phase, with its latest step."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(console)
        self._latest: dict[str, Progress] = {}

    def take(self, news: Progress, is_due: bool) -> list[str]:
        """A line a step and a phase."""
        is_new = news.phase not in self._latest
        self._latest[news.phase] = news
        return [_line(news)] if news.is_step or is_new or is_due else []

    def __rich__(self) -> RenderableType:
        """A row a phase."""
        if not self._latest:
            return ""
        table = TextTable("phase", "step", "kept", "quality", "λ", "elapsed", "left", "")
        table.columns[-1].style = "dim"
        has_bars = in_notebook()
        if has_bars:
            table.add_column()
        for progress in list(self._latest.values()):
            table.add_row(
                progress.phase,
                f"{progress.step}/{progress.num_steps}" if progress.num_steps else "",
                *_figures(progress).values(),
                duration(progress.elapsed_s) if progress.num_steps else "",
                "" if progress.remaining_s is None else duration(progress.remaining_s),
                progress.note,
                *([ProgressBar(progress.num_steps or 1, progress.step, width=24)] if has_bars else []),
            )
        return table


def _line(progress: Progress) -> str:
    parts = [progress.phase + (f" {progress.step}/{progress.num_steps}" if progress.num_steps else "")]
    if progress.is_step:
        parts += [f"{name} {figure}" for name, figure in _figures(progress).items() if figure]
        parts += [] if progress.remaining_s is None else [f"{duration(progress.remaining_s)} left"]
    return "  ".join(filter(None, [*parts, progress.note]))


def _figures(progress: Progress) -> dict[str, str]:
    kept, quality, weight = progress.kept_ratio, progress.quality_share, progress.memory_weight
    return {
        "kept": "" if kept is None else percent(100 * kept, 2),
        "quality": "" if quality is None else f"{percent(100 * quality, 1)} of full-size fit",
        "λ": "" if weight is None else f"{weight:.3f}",
    }


class RunsView(LiveView):
    """Shows the progress of many runs: how many are done, the best of each budget, and what runs."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(console)
        self._state = RunsState("runs", {})

    def take(self, news: RunsState, is_due: bool) -> list[str]:
        """A line a run that starts or ends, and now and then one on all."""
        self._state = news
        is_news = news.changed is not None and news.what != "reported"
        return ([_news(news)] if is_news else []) + ([_counts(news)] if is_due else [])

    def __rich__(self) -> RenderableType:
        """Counts, a row a budget, and a row a run that is under way."""
        # Another thread draws.
        runs = list(self._state.runs.values())
        if not runs:
            return ""
        budgets = TextTable("budget", "best quality", self._state.kind.removesuffix("s"))
        measured = [run for run in runs if run.quality is not None]
        for budget in dict.fromkeys(run.budget for run in measured):
            best = max((run for run in measured if run.budget == budget), key=lambda run: run.quality or 0.0)
            budgets.add_row(budget, f"{best.quality:.4f}", _name(best))
        running = TextTable("running", "phase", "step", "quality")
        for run in [run for run in runs if run.status == "running"][:_MAX_RUNNING]:
            # A stream has none.
            search = getattr(run.config, "search", None)
            step = f"{run.step}/{search.num_steps + search.num_greedy_steps}" if search else str(run.step)
            running.add_row(_name(run), run.phase, step, "" if run.quality is None else f"{run.quality:.4f}")
        for table, name in ((budgets, 2), (running, 0)):
            table.header_style, table.columns[name].no_wrap = "dim", True
        return Group(Text(_counts(self._state)), *(table for table in (budgets, running) if table.row_count))


def _name(run: RunState) -> Text:
    return Text(visible_line(run.name), overflow="ellipsis")


def _news(state: RunsState) -> str:
    what, run = f"{state.what} {state.changed}", state.runs.get(state.changed or "")
    if run is None:
        return what
    is_measured = run.status in ("finished", "stopped") and run.quality is not None
    parts = [
        what,
        f"quality {run.quality:.4f}" if is_measured else "",
        run.note,
        "" if run.seconds is None else duration(run.seconds),
        run.error if state.what in ("failed", "retried", "refused") else "",
    ]
    return "  ".join(filter(None, parts))


def _counts(state: RunsState) -> str:
    counts = Counter(run.status for run in list(state.runs.values()))
    num_prepared, num_shared = state.num_prepared
    left = remaining_s(state)
    parts = [
        f"{counts['finished'] + counts['stopped']} of {counts.total()} {state.kind} done",
        f"{counts['stopped']} of them stopped early" if counts["stopped"] else "",
        *(f"{counts[status]} {status}" for status in ("running", "pending", "failed") if counts[status]),
        f"trains what {state.kind} share: {num_prepared} of {num_shared}"
        if num_prepared < num_shared
        else "",
        f"{duration(time.monotonic() - state.started)} so far",
        "" if left is None else f"{duration(left)} left",
        f"{state.num_waiting:,} writes wait for MLflow" if state.num_waiting > _MAX_RUNNING else "",
    ]
    return ", ".join(filter(None, parts))


def remaining_s(state: RunsState) -> float | None:
    """Seconds that runs will still take, if they go on as before; None until one has ended."""
    runs = list(state.runs.values())
    ended = [run.seconds for run in runs if run.seconds is not None]
    running = [run for run in runs if run.status == "running"]
    if not ended or not running:
        return None
    each, now = sum(ended) / len(ended), time.monotonic()
    left = [max(each - (now - (run.started or now)), 0.0) for run in running]
    left += [each for run in runs if run.status == "pending"]
    return max(sum(left) / len(running), max(left))


def duration(seconds: float) -> str:
    """Seconds as people read them, e.g. 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
