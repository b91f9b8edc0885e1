"""A log in order of time, cut into segments: what a table that grows with its data is trained and judged on.

Entities are numbered by their first appearance, so that those known at any moment are 0 ... n - 1 and a table
only ever grows at its end.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from envs.data.interactions import Ids, InteractionLog, TimeUnit
from envs.errors import ConfigError, DataError

Period = Literal["day", "week", "month", "quarter", "year"]
_PERIODS = {"day": "D", "month": "M", "year": "Y"}
#: Numbers at least so large are milliseconds, microseconds and nanoseconds since 1970, not seconds: seconds
#: from 2286 on are nobody's, and milliseconds from April 1970 on are somebody's.
_UNITS: tuple[tuple[float, TimeUnit], ...] = ((1e16, "ns"), (1e13, "us"), (1e10, "ms"), (0.0, "s"))
#: Shares of a segment's rows, in order of time, before validation begins and before test begins.
VALIDATION_BEGINS, TEST_BEGINS = 0.7, 0.8
#: Rows of a last segment: 4 and 5 have three parts too, but 6 have not, and one that has begun has to stay.
_LEAST_AT_END = 7


@dataclass(frozen=True)
class Segment:
    """Rows of a stream that follow each other, as positions in it.

    Attributes:
        start: Of its first training row.
        validation_start: Of its first validation row.
        test_start: Of its first test row.
        end: One past its last row.
        num_users: Users known when it is trained: in a row before ``validation_start``.
        num_items: The same of items.
    """

    start: int
    validation_start: int
    test_start: int
    end: int
    num_users: int
    num_items: int

    @property
    def num_rows(self) -> int:
        """Of all three parts."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Stream:
    """A log in order of time and its segments.

    Attributes:
        user: Number of each row's user by first appearance, shape (num_rows,), int32.
        item: The same of items.
        timestamp: Ascending, shape (num_rows,), in the data's own unit.
        user_ids: Ids of the data by number, shape (num_users,).
        item_ids: The same of items.
        segments: In order; each row is in one.
        source: Where the rows came from, for messages.
        num_duplicates: Rows of the log that are left out, as their user and item had one.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64] | NDArray[np.float64]
    user_ids: Ids
    item_ids: Ids
    segments: tuple[Segment, ...]
    source: str
    num_duplicates: int = 0

    @property
    def num_rows(self) -> int:
        """Of all segments."""
        return len(self.user)

    def is_cold(self, segment: Segment) -> NDArray[np.bool_]:
        """Which validation and test rows have a user or an item that was unknown in training.

        Returns:
            Shape (segment.end - segment.validation_start,), validation first.
        """
        rows = slice(segment.validation_start, segment.end)
        return np.asarray((self.user[rows] >= segment.num_users) | (self.item[rows] >= segment.num_items))

    def popularity(self, number: int, decay: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Rows of each user and item that a segment's training knows, older segments' counted for less.

        Args:
            number: Of the segment.
            decay: What a row counts for a segment later, in [0, 1]: 0 counts this segment's training rows
                alone, as SCALL (arXiv 2407.15411) does, 1 every row so far.

        Returns:
            Shapes (segment.num_users,) and (segment.num_items,).
        """
        segment = self.segments[number]
        # An older segment's validation and test rows are history by now.
        starts = np.array([part.start for part in self.segments[: number + 1]])
        age = number - (np.searchsorted(starts, np.arange(segment.validation_start), side="right") - 1)
        weight = np.power(float(decay), age)
        known = slice(segment.validation_start)
        return (
            np.asarray(np.bincount(self.user[known], weight, segment.num_users), np.float64),
            np.asarray(np.bincount(self.item[known], weight, segment.num_items), np.float64),
        )


def cut_stream(
    log: InteractionLog,
    *,
    new_entities: int | None = None,
    rows: int | None = None,
    period: Period | None = None,
) -> Stream:
    """Put a log into order of time and cut it into segments, by exactly one of three rules.

    Within a segment the first 70 % of the rows train, the next 10 % validate, the last 20 % test. Rows of the
    same time keep the order of the file. Where the last segment has too few rows for three parts, as when a
    month has just begun, they belong to the one before.

    Args:
        log: The interactions, with times.
        new_entities: A segment ends before the row that would bring more users and items that were in no
            earlier row.
        rows: A segment has so many rows; what is left over at the end makes the last one longer.
        period: A segment is a period of the calendar, in UTC; those without rows are left out.

    Raises:
        ConfigError: Not exactly one rule is given, or it is below 1.
        DataError: There are no times, or but one, or they are not of the calendar; rows are split already; it
            makes one segment; a segment before the last has too few rows for its three parts.
    """
    rules = {"new_entities": new_entities, "rows": rows, "period": period}
    chosen = {name: value for name, value in rules.items() if value is not None}
    if len(chosen) != 1:
        raise ConfigError(
            f"segments end by one of {', '.join(rules)}, not by {' and '.join(chosen) or 'none'}."
        )
    for name, value in chosen.items():
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name} is {value}; choose 1 or more.")
    if log.split is not None:
        raise DataError(
            f"{log.source}: it says what each row is for, and a stream cuts by time; bring rows with times "
            "that are not split yet."
        )
    if log.timestamp is None:
        raise DataError(
            f"{log.source}: it has no times, which a stream needs; name their column (timestamp)."
        )
    if log.num_rows == 0 or log.timestamp.min() == log.timestamp.max():
        raise DataError(f"{log.source}: all of its rows have one time, which puts them into no order.")
    order = np.argsort(log.timestamp, kind="stable")
    timestamp = log.timestamp[order]
    user, users = pd.factorize(log.user[order])
    item, items = pd.factorize(log.item[order])
    if new_entities is not None:
        cuts = entity_cuts(user, item, new_entities)
    elif rows is not None:
        cuts = np.arange(rows, log.num_rows - rows + 1, rows)
    elif period is not None:
        times = _times(timestamp, log.time_unit, log.source)
        periods = _periods(times, period)
        cuts = np.flatnonzero(periods[1:] != periods[:-1]) + 1
    if len(cuts) and log.num_rows - cuts[-1] < _LEAST_AT_END:
        cuts = cuts[:-1]
    if len(cuts) == 0:
        (name, value), *_ = chosen.items()
        span = f" from {times[0]} to {times[-1]}" if period is not None else ""
        raise DataError(
            f"{log.source}: {name} {value} makes one segment of its {log.num_rows:,} rows{span}, and a "
            "stream has two at least; choose a smaller one."
        )
    return Stream(
        user.astype(np.int32),
        item.astype(np.int32),
        timestamp,
        log.user_ids[users],
        log.item_ids[items],
        _segments(user, item, np.concatenate([[0], cuts, [log.num_rows]]), log.source),
        log.source,
        log.num_duplicates,
    )


def entity_cuts(
    user: NDArray[np.integer], item: NDArray[np.integer], new_entities: int, *, books_ahead: bool = False
) -> NDArray[np.int64]:
    """Where segments begin that bring at most so many new users and items together, but the first.

    Args:
        user: Number of each row's user by first appearance, shape (num_rows,).
        item: The same of items.
        new_entities: The most; a row that alone brings more has a segment of its own.
        books_ahead: Whether the new entities of the row that opens a segment count for the one before, as in
            the released code of SCALL.

    Returns:
        Shape (num_segments - 1,).
    """
    so_far = np.maximum.accumulate(user).astype(np.int64) + np.maximum.accumulate(item) + 2
    cuts, booked, start = [], 0, 0
    while (end := max(int(np.searchsorted(so_far, booked + new_entities, side="right")), start + 1)) < len(
        user
    ):
        cuts.append(end)
        start, booked = end, int(so_far[end if books_ahead else end - 1])
    return np.array(cuts, np.int64)


def unit_of_times(largest: float) -> TimeUnit:
    """What times count since 1970, as the largest of them tells, in absolute terms."""
    return next(name for least, name in _UNITS if largest >= least)


def _times(
    timestamp: NDArray[np.int64] | NDArray[np.float64], unit: TimeUnit | None, source: str
) -> NDArray[np.datetime64]:
    """Times in seconds and UTC, of numbers that count so, or what their size says.

    Raises:
        DataError: They are too large.
    """
    largest = max(abs(float(timestamp[0])), abs(float(timestamp[-1])))
    if largest >= 2.0**63:
        raise DataError(
            f"{source}: its times, up to {largest:g}, are no seconds, milliseconds, microseconds or "
            "nanoseconds since 1970, which a period of the calendar needs; convert them, or have segments "
            "end by rows."
        )
    unit = unit or unit_of_times(largest)
    return timestamp.astype(np.int64).astype(f"datetime64[{unit}]").astype("datetime64[s]")


def _periods(times: NDArray[np.datetime64], period: Period) -> NDArray[np.int64]:
    """Number of the period of the calendar in which each row lies; weeks begin on Monday."""
    if period == "week":
        # 1970 began on a Thursday.
        return (times.astype("datetime64[D]").astype(np.int64) + 3) // 7
    if period == "quarter":
        return times.astype("datetime64[M]").astype(np.int64) // 3
    return times.astype(f"datetime64[{_PERIODS[period]}]").astype(np.int64)


def _bounds(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows before validation begins, and before test begins, of segments of so many rows."""
    # The small term undoes products such as 10 · 0.7 = 6.999999999999999.
    validation, test = (
        np.floor(lengths * share + 1e-9).astype(np.int64) for share in (VALIDATION_BEGINS, TEST_BEGINS)
    )
    return validation, test


def _has_parts(lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which segments have a row at least in each of their three parts."""
    validation, test = _bounds(lengths)
    return np.asarray((0 < validation) & (validation < test) & (test < lengths))


def _segments(
    user: NDArray[np.integer], item: NDArray[np.integer], bounds: NDArray[np.int64], source: str
) -> tuple[Segment, ...]:
    lengths = np.diff(bounds)
    validation, test = (bounds[:-1] + part for part in _bounds(lengths))
    edges = np.stack([bounds[:-1], validation, test, bounds[1:]], axis=1)
    too_few = np.flatnonzero(~_has_parts(lengths))
    if len(too_few):
        number = int(too_few[0])
        raise DataError(
            f"{source}: segment {number:03} has {lengths[number]} rows, too few to train, to validate "
            "and to test on; choose longer segments."
        )
    num_users = np.maximum.accumulate(user)[validation - 1] + 1
    num_items = np.maximum.accumulate(item)[validation - 1] + 1
    counted = np.column_stack([edges, num_users, num_items])
    return tuple(Segment(*row) for row in counted.tolist())
