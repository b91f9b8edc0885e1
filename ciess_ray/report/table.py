"""A table as plain values, which the page escapes and sorts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: Columns that tell nothing where all rows say the same, which the title says too.
_IN_TITLE = ("dataset", "recommender")
#: Letters between columns, those after which a text is broken, those that fit beside a figure or on a phone.
_GAP, _LONG, _NARROW, _PHONE = 3, 30, 70, 36


@dataclass(frozen=True)
class Value:
    """One field of a table.

    Attributes:
        text: What is shown.
        sort: What is sorted by; None for nothing, which comes last.
        kind: How it looks: ``number``, ``text``, ``good``, ``bad``, ``long``.
    """

    text: str
    sort: float | str | None
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        name: Unique in the page.
        caption: What it shows.
        headings: Text, and whether the column is of numbers.
        rows: As many values each as there are headings.
        strong: Rows to be seen first, by number.
    """

    name: str
    caption: str
    headings: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Value]]
    strong: frozenset[int] = frozenset()

    @property
    def num_letters(self) -> int:
        """Of its columns beside each other, with the space between."""
        columns = zip(self.headings, zip(*self.rows, strict=True), strict=True) if self.rows else ()
        return sum(
            _GAP + max(len(heading), *(min(len(value.text), _LONG) for value in values))
            for (heading, _), values in columns
        )

    @property
    def is_narrow(self) -> bool:
        """Whether it has room beside a figure."""
        return self.num_letters <= _NARROW

    @property
    def is_stacked(self) -> bool:
        """Whether a phone shows each row as a card, since the columns have no room beside each other."""
        return self.num_letters > _PHONE


def text(value: object, kind: str = "text") -> Value:
    """A word; nothing where there is none."""
    shown = "" if value is None else str(value)
    return Value(shown, shown.casefold() or None, kind)


def number(value: float | None, style: Callable[[float], str] = "{:,.0f}".format) -> Value:
    """A number in its style; nothing where there is none."""
    return Value("" if value is None else style(value), value, "number")


def make_table(
    name: str,
    caption: str,
    entries: Sequence[Any],
    columns: Sequence[tuple[str, bool, Callable[[Any], Value]]],
    is_strong: Callable[[Any], bool] = lambda entry: False,
) -> Table:
    """A row an entry; columns that tell nothing are left out.

    Args:
        name: Unique in the page.
        caption: What it shows.
        entries: What is told of.
        columns: Heading, whether it is of numbers, and what is told of an entry.
        is_strong: Whether an entry is to be seen first.
    """
    values = [[value(entry) for _, _, value in columns] for entry in entries]
    told = [{row[place].text for row in values} for place in range(len(columns))]
    shown = [
        place
        for place, (heading, *_) in enumerate(columns)
        if told[place] - {""} and not (heading in _IN_TITLE and len(told[place]) == 1)
    ]
    return Table(
        name,
        caption,
        [columns[place][:2] for place in shown],
        [[row[place] for place in shown] for row in values],
        frozenset(number for number, entry in enumerate(entries) if is_strong(entry)),
    )
