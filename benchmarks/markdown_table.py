"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table, without an empty line behind it.

    Args:
        heads: Of its columns.
        rows: Its cells, as many a row.
    """
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows))
