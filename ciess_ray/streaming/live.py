"""The live view of a stream, and its table at the end."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ciess_ray.plain_text import visible_line
from ciess_ray.searches.live import LiveView, duration
from ciess_ray.streaming.work import News
from ciess_ray.terminal import Terminal, TextTable
from envs.data.stream import Stream

_NOTHING = "-"
#: Of a row: heading, figure, how it is shown.
_COLUMNS = (
    ("R@20", "test/recall@20", "{:.4f}"),
    ("N@20", "test/ndcg@20", "{:.4f}"),
    ("cold R@20", "test_cold/recall@20", "{:.4f}"),
    ("bytes", "num_bytes", "{:,.0f}"),
    ("resized", "num_resized", "{:,.0f}"),
    ("moved", "num_moved", "{:,.0f}"),
    ("CPU s", "cpu_s", "{:.1f}"),
)


class StreamView(LiveView):
    """Shows the progress of a stream: a row a method with its latest segment, and what is under way."""

    def __init__(self, console: Terminal) -> None:
        super().__init__(console)
        self._latest: dict[str, News] = {}
        self._under_way = ""
        self._started = time.monotonic()

    def take(self, news: News, is_due: bool) -> list[str]:
        """A line a segment and method that is done; of what is under way now and then."""
        elapsed = duration(time.monotonic() - self._started)
        where = f"segment {_place(news)}  {news.method}"
        if news.result is None:
            self._under_way = "  ".join(filter(None, [where, news.note, f"{elapsed} so far"]))
            return [self._under_way] if is_due else []
        self._latest[news.method], self._under_way = news, ""
        parts = [f"{name} {text}" for name, text in _shown(news.result["figures"]) if text != _NOTHING]
        return ["  ".join(filter(None, [where, "found" if news.is_found else "", *parts, news.note]))]

    def __rich__(self) -> RenderableType:
        """A row a method."""
        if not self._latest:
            return Text(visible_line(self._under_way))
        table = TextTable("method", "segment", *(name for name, _, _ in _COLUMNS), "", first_number=1)
        table.columns[-1].style = "dim"
        table.columns[-1].justify = "left"
        for method, news in list(self._latest.items()):
            figures = (text for _, text in _shown((news.result or {})["figures"]))
            table.add_row(method, _place(news), *figures, news.note)
        return Group(table, Text(visible_line(self._under_way), style="dim"))


def log_line(stream: Stream) -> str:
    """What a log has: its rows, those that are followed, and its segments."""
    num_rows = stream.num_rows + stream.num_duplicates
    first = (
        f", of which {stream.num_rows:,} are the first of their user and item"
        if stream.num_duplicates
        else ""
    )
    last = len(stream.segments) - 1
    return f"{stream.source}: {num_rows:,} rows{first}; {last + 1:,} segments, 000 to {last:03}"


def stream_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """A row a method: means over the segments after the first, bytes of the last, CPU seconds of all.

    Args:
        rows: Those of ``stream.parquet``.
    """
    table = TextTable("method", *(name for name, _, _ in _COLUMNS), first_number=1)
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        figures: dict[str, Any] = {}
        for _, name, _ in _COLUMNS:
            values = [value for row in of_method[1:] if (value := _value(row, name)) is not None]
            figures[name] = sum(values) / len(values) if values else None
        figures["num_bytes"] = of_method[-1].get("num_bytes")
        figures["cpu_s"] = sum(row["cpu_s"] for row in of_method)
        table.add_row(method, *(text for _, text in _shown(figures)))
    return table


def _place(news: News) -> str:
    """Segments have the numbers of their folders."""
    return f"{news.segment:03} of 000 to {news.num_segments - 1:03}"


def _value(figures: Mapping[str, Any], name: str) -> float | None:
    if name == "num_resized" and name not in figures:
        return figures["num_grown"] + figures["num_shrunk"] if "num_grown" in figures else None
    value = figures.get(name)
    return None if value is None else float(value)


def _shown(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    values = [(heading, _value(figures, name), form) for heading, name, form in _COLUMNS]
    return [(heading, _NOTHING if value is None else form.format(value)) for heading, value, form in values]
