"""The live view of a search: a line that moves in a terminal or a notebook, plain lines elsewhere."""

import time
from types import TracebackType

from rich.progress_bar import ProgressBar

from ciess_ray.plain_text import percent
from ciess_ray.searches.journal import Progress
from ciess_ray.terminal import Terminal, TextTable, in_notebook, live_on

#: Plain lines tell of news from within a step only after so long a silence.
_QUIET_S = 20.0


class LiveView:
    """Shows the progress of a search; use as a context manager and hand it to ``search``.

    Args:
        console: Where to; plain lines where it is no terminal and there is no notebook.
    """

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = live_on(console, auto_refresh=True)
        self._has_bars = in_notebook()
        self._phase = ""
        self._printed = 0.0
        self._latest: dict[str, Progress] = {}

    def __enter__(self) -> "LiveView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Called with each piece of news."""
        if self._live is not None:
            shown = self._latest.get(progress.phase)
            if not progress.is_step and shown is not None and shown.is_step:
                # News from within a step must not blank what the last step showed.
                progress = Progress(**{**vars(shown), "note": progress.note, "elapsed_s": progress.elapsed_s})
            self._latest[progress.phase] = progress
            self._live.update(self._table())
        elif progress.is_step or progress.phase != self._phase or time.monotonic() > self._printed + _QUIET_S:
            self._printed = time.monotonic()
            self._console.say("  ".join(filter(None, _cells(progress))))
        self._phase = progress.phase

    def _table(self) -> TextTable:
        table = TextTable("phase", "step", "kept", "quality", "λ", "elapsed", "left", "")
        table.columns[-1].style = "dim"
        if self._has_bars:
            table.add_column()
        for progress in self._latest.values():
            kept, quality, weight = progress.kept_ratio, progress.quality_share, progress.memory_weight
            table.add_row(
                progress.phase,
                f"{progress.step}/{progress.num_steps}",
                "" if kept is None else percent(100 * kept, 2),
                "" if quality is None else f"{percent(100 * quality, 1)} of full-size fit",
                "" if weight is None else f"{weight:.3f}",
                duration(progress.elapsed_s),
                "" if progress.remaining_s is None else duration(progress.remaining_s),
                progress.note,
                *([ProgressBar(progress.num_steps or 1, progress.step, width=24)] if self._has_bars else []),
            )
        return table


def _cells(progress: Progress) -> list[str]:
    if not progress.is_step:
        return [f"{progress.phase} {progress.step}/{progress.num_steps}", progress.note]
    kept, quality, weight = progress.kept_ratio, progress.quality_share, progress.memory_weight
    return [
        f"{progress.phase} {progress.step}/{progress.num_steps}",
        "" if kept is None else f"kept {percent(100 * kept, 2)}",
        "" if quality is None else f"quality {percent(100 * quality, 1)} of full-size fit",
        "" if weight is None else f"λ {weight:.3f}",
        "" if progress.remaining_s is None else f"{duration(progress.remaining_s)} left",
        progress.note,
    ]


def duration(seconds: float) -> str:
    """Seconds as people read them, e.g. 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
