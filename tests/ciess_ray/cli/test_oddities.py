"""What stands out in interactions is said with what it means, and nothing where nothing does."""

from dataclasses import replace

import numpy as np
import pytest

from ciess_ray.cli.oddities import oddities
from envs.data import InteractionLog, generate_interactions

NOW = np.datetime64("2024-06-01T00:00:00")
DAY = 86_400
BEGIN = 1_600_000_000


@pytest.fixture(scope="module")
def plain() -> InteractionLog:
    """Two hundred days in which nothing stands out."""
    log = generate_interactions(400, 120, 6_000, seed=0)
    times = BEGIN + np.random.default_rng(0).integers(0, 200 * DAY, log.num_rows)
    return replace(log, timestamp=times)


@pytest.fixture(scope="module")
def many() -> InteractionLog:
    """More users, of whom none stands out."""
    log = generate_interactions(2_000, 500, 40_000, seed=0)
    assert oddities(log, NOW) == []
    return log


def with_user(log: InteractionLog, count: int) -> InteractionLog:
    """The same with a user, the last, who has so many interactions, with new items."""
    num_items = max(log.num_items, count)
    return replace(
        log,
        user_ids=np.append(log.user_ids, log.num_users),
        item_ids=np.arange(num_items),
        user=np.append(log.user, np.full(count, log.num_users, np.int32)),
        item=np.append(log.item, np.arange(count, dtype=np.int32)),
        timestamp=None,
    )


def with_times(log: InteractionLog, times: object, unit: str | None = None) -> InteractionLog:
    return replace(log, timestamp=times, time_unit=unit)


def test_nothing_is_said_where_nothing_stands_out(plain):
    assert oddities(plain, NOW) == []
    assert oddities(replace(plain, timestamp=None), NOW) == []
    # Ranks in place of times, and times in any unit.
    assert oddities(with_times(plain, np.arange(plain.num_rows)), NOW) == []
    for unit, factor in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        assert oddities(with_times(plain, plain.timestamp * factor), NOW) == []
        assert oddities(with_times(plain, plain.timestamp * factor, unit), NOW) == []
    assert oddities(with_times(plain, plain.timestamp / 1.0), NOW) == []


def test_one_user_of_many_interactions(many):
    bot, *others = oddities(with_user(many, 1_200), NOW)
    assert bot.startswith("bots: one user has more than 1,1") and "(2000), " in bot
    assert "delete their rows" in bot and not any("one user: " in line for line in others)
    guest, *others = oddities(with_user(many, 2_500), NOW)
    assert guest.startswith("one user: 2000 has 6% of all interactions, perhaps an account that many share")
    assert not any("bots" in line for line in others)


def test_several_bots_are_named_and_counted(many):
    for count in (1_700, 1_900, 1_600, 1_800):
        many = with_user(many, count)
    (line,) = (line for line in oddities(many, NOW) if line.startswith("bots"))
    assert "4 users have" in line and "(2001, 2003, 2000, ...)" in line


def test_items_and_histories_and_duplicates(plain):
    alone = replace(
        plain,
        user=np.append(plain.user, np.arange(20, dtype=np.int32)),
        item=np.append(plain.item, np.arange(120, 140, dtype=np.int32)),
        item_ids=np.arange(140),
        timestamp=None,
    )
    (line,) = oddities(alone, NOW)
    assert line.startswith("items that nobody else has: 20 of 140 (14%)") and "dataset.k_core=2" in line
    few = replace(
        plain,
        user=np.append(plain.user, np.repeat(np.arange(400, 500, dtype=np.int32), 2)),
        item=np.append(plain.item, np.tile(np.array([3, 4], np.int32), 100)),
        user_ids=np.arange(500),
        timestamp=None,
    )
    (line,) = oddities(few, NOW)
    assert line.startswith("short histories: 100 users have (20%) fewer than 3 interactions")
    assert "of the other 400: dataset.k_core=3" in line
    (line,) = oddities(replace(plain, num_duplicates=2_000), NOW)
    assert line.startswith("duplicates: 2,000 rows (25%) repeat")
    assert oddities(replace(plain, num_duplicates=10), NOW) == []


def test_times_that_tell_nothing(plain):
    (line,) = oddities(with_times(plain, np.full(plain.num_rows, 5)), NOW)
    assert line.startswith("times: all rows have one, 5; it tells no order: split at random")
    times = np.where(np.arange(plain.num_rows) % 3 > 0, BEGIN, plain.timestamp)
    (line,) = oddities(with_times(plain, times), NOW)
    assert line.startswith("times: 67% of all rows have one, 2020-09-13; among them the order of the file")


def test_times_in_the_future_or_in_two_units(plain):
    later = with_times(plain, plain.timestamp + 1_200 * DAY)
    (line,) = oddities(later, NOW)
    assert line.startswith("times: ") and "rows are in the future, until 2024-07-1" in line
    (dated,) = oddities(with_times(plain, later.timestamp * 1_000, "ms"), NOW)
    assert dated == line
    times = np.where(np.arange(plain.num_rows) % 2 > 0, plain.timestamp * 1_000, plain.timestamp)
    (line,) = oddities(with_times(plain, times), NOW)
    assert line.startswith("times: they mix units, from 16") and "(s) to 1617" in line and "(ms)" in line


def test_gaps_in_time(plain):
    is_late = plain.timestamp > BEGIN + 100 * DAY
    (line,) = oddities(with_times(plain, plain.timestamp + 60 * DAY * is_late), NOW)
    assert line.startswith("time gap: no row from 2020-12-22 to 2021-02-20, 23% of the whole span, ")
    assert line.endswith("look for rows that are missing, or take one side.")
    times = plain.timestamp.copy()
    times[:7] = 0
    (line,) = oddities(with_times(plain, times, "s"), NOW)
    assert "no row from 1970-01-01 to 2020-09-13" in line and "7 rows before it and 5,993 after" in line
    assert line.endswith("correct the times of the 7 rows, or delete them.")
