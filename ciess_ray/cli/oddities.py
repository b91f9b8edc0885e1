"""What stands out in interactions, what it does to a result, and what can be done about it."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from ciess_ray.plain_text import visible_line
from envs.data import InteractionLog
from envs.data.split import MIN_EVALUATED_INTERACTIONS
from envs.data.stream import unit_of_times

#: Of all rows that one user has, and times the mean of all users, beyond which it is no person.
_LARGE_SHARE, _TIMES_THE_MEAN = 0.05, 10
#: Interactions that a person may have in any data, and times the most that the others make one expect.
_FEW, _TIMES_EXPECTED = 100, 3
#: Users that are named.
_NUM_NAMED = 3
#: Of items, users and rows, what is worth a word.
_MANY_ITEMS, _MANY_USERS, _MANY_DUPLICATES = 0.1, 0.1, 0.01
#: Of the span of all times; and times the longest gap that as many rows at random have.
_LONG_GAP, _TIMES_AT_RANDOM = 0.05, 10
_AT_ONE_TIME = 0.5
#: Of rows, beside a gap, so few that their times are rather wrong.
_FEW_BESIDE = 0.01
#: Numbers below count from somewhere else than 1970, or are ranks.
_FIRST_SECOND = 10**8


def oddities(log: InteractionLog, now: np.datetime64) -> list[str]:
    """A line for each thing that stands out; none where nothing does.

    Args:
        log: The interactions.
        now: What is later is in the future, in UTC.
    """
    user_counts = np.bincount(log.user, minlength=log.num_users)
    item_counts = np.bincount(log.item, minlength=log.num_items)
    lines = [*_of_users(log, user_counts), *_of_items(item_counts), *_of_duplicates(log)]
    return lines if log.timestamp is None else [*lines, *_of_times(log, now)]


def _of_users(log: InteractionLog, counts: NDArray[np.int64]) -> Iterator[str]:
    largest, total = int(counts.argmax()), int(counts.sum())
    share = counts[largest] / total
    is_shared = share >= max(_LARGE_SHARE, _TIMES_THE_MEAN / len(counts))
    if is_shared:
        yield (
            f"one user: {_name(log.user_ids[largest])} has {share:.0%} of all interactions, perhaps an "
            "account that many share (guests, a default); popularity and neighbours follow it: delete "
            "its rows."
        )
    # Below the tenth and the hundredth part of all users, a power law goes on from there.
    tenth, hundredth = (np.quantile(counts, level, method="lower") for level in (0.9, 0.99))
    steepness = np.log10(hundredth / tenth)
    most = hundredth * max(1.0, 0.01 * len(counts)) ** steepness
    limit = max(_FEW, _TIMES_EXPECTED * most)
    is_bot = counts > limit
    is_bot[largest] &= not is_shared
    if is_bot.any():
        num_bots, of_bots = int(is_bot.sum()), counts[is_bot].sum() / total
        first = np.argsort(-np.where(is_bot, counts, 0), kind="stable")[: min(num_bots, _NUM_NAMED)]
        names = ", ".join(_name(log.user_ids[user]) for user in first)
        yield (
            f"bots: {_users(num_bots)} more than {limit:,.0f} interactions each ({names}"
            f"{', ...' if num_bots > _NUM_NAMED else ''}), {of_bots:.1%} of all, where the others make one "
            f"expect {most:,.0f} at most; popularity and neighbours follow them: delete their rows where "
            "they are no people."
        )
    is_few = counts < MIN_EVALUATED_INTERACTIONS
    if is_few.mean() >= _MANY_USERS:
        yield (
            f"short histories: {_users(is_few.sum())} ({is_few.mean():.0%}) fewer than "
            f"{MIN_EVALUATED_INTERACTIONS} interactions; they are trained on and never evaluated, so that "
            f"figures are of the other {np.sum(~is_few):,}: dataset.k_core={MIN_EVALUATED_INTERACTIONS} "
            "leaves them out."
        )


def _of_items(counts: NDArray[np.int64]) -> Iterator[str]:
    is_alone = counts == 1
    if is_alone.mean() >= _MANY_ITEMS:
        yield (
            f"items that nobody else has: {is_alone.sum():,} of {len(counts):,} ({is_alone.mean():.0%}) have "
            "one interaction; nothing that is learnt of them helps another user, each takes room in the "
            "table, and held out they cannot be hit: dataset.k_core=2 leaves them out."
        )


def _of_duplicates(log: InteractionLog) -> Iterator[str]:
    share = log.num_duplicates / (log.num_rows + log.num_duplicates)
    if share >= _MANY_DUPLICATES:
        yield (
            f"duplicates: {log.num_duplicates:,} rows ({share:.0%}) repeat a user and an item; merged, "
            "how often somebody came back counts for nothing, and what they have is not recommended again: "
            "nothing to do where that is meant."
        )


def _of_times(log: InteractionLog, now: np.datetime64) -> Iterator[str]:
    assert log.timestamp is not None
    times = np.sort(log.timestamp)
    first, last = times[0], times[-1]
    if first == last:
        yield (
            f"times: all rows have one, {first}; it tells no order: split at random (dataset.split=random), "
            "and name no column of times."
        )
        return
    begins = np.flatnonzero(np.append(True, times[1:] != times[:-1]))
    lengths = np.diff(np.append(begins, len(times)))
    shown = shown_times(log)
    most = shown(times[begins[lengths.argmax()]])
    if lengths.max() >= max(_AT_ONE_TIME * len(times), 2):
        yield (
            f"times: {lengths.max() / len(times):.0%} of all rows have one, {most}; among them the order of "
            "the file decides where dataset.split=time and streams cut: give times that tell them apart, or "
            "split at random."
        )
    positive = times[times > 0]
    if log.time_unit is None and first >= 0 and len(positive):
        low, high = (unit_of_times(abs(float(edge))) for edge in (np.quantile(positive, 0.001), last))
        if low != high and positive[0] >= _FIRST_SECOND:
            yield (
                f"times: they mix units, from {first} ({low}) to {last} ({high}); their order is wrong, and "
                "with it dataset.split=time, streams, and which of equal rows stays: write all in one unit."
            )
            return
    if counts_since_1970(log):
        unit = log.time_unit or unit_of_times(float(np.abs(times).max()))
        limit = now.astype(f"datetime64[{unit}]").astype(np.int64)
        num_late = len(times) - int(np.searchsorted(times, limit, side="right"))
        if num_late:
            yield (
                f"times: {num_late:,} rows are in the future, until {shown(last)}, as of a wrong clock or "
                "unit; dataset.split=time and streams would test on them: correct or delete them."
            )
    gaps = np.diff(times[begins].astype(np.float64))
    longest, span = int(gaps.argmax()), float(last) - float(first)
    at_random = np.log(len(times)) / len(times)
    if gaps[longest] > span * max(_LONG_GAP, _TIMES_AT_RANDOM * at_random):
        before = int(begins[longest + 1])
        after = len(times) - before
        remedy = "look for rows that are missing, or take one side."
        if (beside := min(before, after)) < _FEW_BESIDE * len(times):
            remedy = f"correct the times of the {beside:,} rows, or delete them."
        yield (
            f"time gap: no row from {shown(times[before - 1])} to {shown(times[before])}, "
            f"{gaps[longest] / span:.0%} of the whole span, {before:,} rows before it and {after:,} after; "
            f"dataset.split=time and streams learn on one side what they test on the other: {remedy}"
        )


def counts_since_1970(log: InteractionLog) -> bool:
    """Whether times count from 1970 on, as dates do, and numbers that are so large."""
    assert log.timestamp is not None
    low, high = log.timestamp.min(), log.timestamp.max()
    return log.time_unit is not None or bool(low >= _FIRST_SECOND and high < 2.0**63)


def shown_times(log: InteractionLog) -> Callable[[float], str]:
    """How times are written: as dates where they count from 1970, else as the numbers that they are."""
    assert log.timestamp is not None
    if not counts_since_1970(log):
        return lambda time: f"{time:g}" if isinstance(time, float) else str(time)
    unit = log.time_unit or unit_of_times(float(np.abs(log.timestamp).max()))
    return lambda time: str(np.datetime64(int(time), unit).astype("datetime64[D]"))


def _users(number: int) -> str:
    return "one user has" if number == 1 else f"{number:,} users have"


def _name(entity: object) -> str:
    return visible_line(repr(entity) if isinstance(entity, str) else str(entity))
