"""The one way in which commands show anything: as text, whole, and on any stream.

What is shown may come from anybody's data: it is no markup, and its control characters are escapes. What
cannot be shown ends nothing: letters that the stream's encoding lacks are spelt out, and a stream that is
closed or full is written to no more.
"""

import codecs
import contextlib
import errno
import io
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table
from rich.text import Text

from ciess_ray.plain_text import visible, visible_line
from envs.errors import ConfigError, ResultError

#: What we print ourselves, and Typer's frames, where an encoding has them not.
_SPELT = {
    "λ": "lambda",
    "±": "+-",
    "…": "...",
    "–": "-",
    "×": "x",
    "·": "-",
    "\N{NO-BREAK SPACE}": " ",
    **dict.fromkeys("╭╮╰╯├┤┬┴┼", "+"),
    **dict.fromkeys("─━╌", "-"),
    **dict.fromkeys("│┃╎", "|"),
}
_ERRORS = "ciess_ray.spelt"
_WIDEST = 10**9
#: A notebook's cell has no width, and every drawing is sent to the browser.
_NOTEBOOK_WIDTH, _REDRAW_S = 140, 0.25


class TextTable(Table):
    """A table without lines.

    Args:
        headings: Of its columns.
        rows: Its rows, of which more may be added.
        first_number: From this column on they are numbers, which stand at the right; None for no column.
        show_header: Whether the headings are shown.
    """

    def __init__(
        self,
        *headings: str,
        rows: Iterable[Sequence[str]] = (),
        first_number: int | None = None,
        show_header: bool = True,
    ) -> None:
        super().__init__(box=None, pad_edge=False, show_header=show_header)
        for place, heading in enumerate(headings):
            is_number = first_number is not None and place >= first_number
            self.add_column(
                Text(visible_line(heading)), justify="right" if is_number else "left", overflow="fold"
            )
        for row in rows:
            self.add_row(*row)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Cells that are strings are shown as they are, line ends as escapes."""
        shown = (Text(visible_line(cell)) if isinstance(cell, str) else cell for cell in cells)
        super().add_row(*shown, **options)


class Terminal(Console):
    """Shows text, on standard output or wherever Rich's options say."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def say(self, text: str, label: str = "", style: str = "") -> None:
        """A line, as long as it is, after a label in a style of its own."""
        self.print(Text.assemble((label and f"{label} ", style), visible(text)), soft_wrap=True)

    def show(self, table: Table, max_width: int = _WIDEST) -> None:
        """A table as wide as it is, or folded where that is too wide: no id and no figure is cut."""
        options = self.options.update(max_width=max_width)
        width = Measurement.get(self, options, table).maximum
        self.print(Segments(self.render(table, options.update(width=width))), soft_wrap=True, end="")

    def on_broken_pipe(self) -> None:
        """A reader that has left knows it; what is only shown ends nothing."""
        _silence(self.file)

    def _check_buffer(self) -> None:
        """Where Rich writes all that it prints; a stream that has failed is written to no more."""
        try:
            super()._check_buffer()
        except (OSError, ValueError) as error:
            _silence(self.file)
            del self._buffer[:]
            if not self.stderr:
                with contextlib.suppress(OSError, ValueError):
                    print(f"output: {error}; nothing more is shown, the work goes on.", file=sys.stderr)


def _silence(stream: IO[str]) -> None:
    """For whoever else writes there, and for what is in its buffer when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def spell_out() -> None:
    """From now on letters that the encodings of standard output and error lack are spelt out, by whomever."""
    codecs.register_error(_ERRORS, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    spelt = (_SPELT.get(letter) or letter.encode("unicode_escape").decode() for letter in missing)
    return "".join(spelt), error.end


def write_data(text: str) -> None:
    """Write what others read on to standard output: as it is, or not at all.

    Raises:
        ConfigError: A letter is not in the output's encoding.
        ResultError: The output is full. A reader that has left is none.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{error.object[error.start]!a} is not in the output's encoding {encoding}; set "
            "PYTHONIOENCODING=utf-8, or take --format json."
        ) from None
    except OSError as error:
        _silence(sys.stdout)
        if error.errno != errno.EPIPE:
            raise ResultError(f"the output cannot be written: {error}.") from error


class NotebookLive:
    """What Rich's ``Live`` is in a terminal, in a cell of a notebook: an output that is drawn anew."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = float("-inf")
        self._latest: RenderableType = ""

    def start(self) -> None:
        """Begin with nothing."""
        from IPython.display import display

        self._handle = display(self._bundle(), raw=True, display_id=True)

    def update(self, renderable: RenderableType, *, refresh: bool = False) -> None:
        """Show something else, unless something was shown just now."""
        self._latest = renderable
        if refresh or time.monotonic() >= self._drawn + _REDRAW_S:
            self._drawn = time.monotonic()
            self._handle.update(self._bundle(), raw=True)

    def stop(self) -> None:
        """Leave the latest."""
        self.update(self._latest, refresh=True)

    def _bundle(self) -> dict[str, str]:
        page = Terminal(
            file=io.StringIO(),
            record=True,
            width=_NOTEBOOK_WIDTH,
            force_terminal=True,
            force_jupyter=False,
            color_system="standard",
        )
        page.print(self._latest)
        html = page.export_html(clear=False, inline_styles=True, code_format="<pre>{code}</pre>")
        return {"text/plain": page.export_text(), "text/html": html}


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


#: What all commands write to.
console, errors = Terminal(), Terminal(stderr=True)
