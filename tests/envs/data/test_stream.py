"""Streams: order, numbers, cuts and parts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data import InteractionLog, read_interactions
from envs.data.stream import cut_stream, entity_cuts
from envs.data.tables import log_from_frame, table_of
from envs.errors import ConfigError, DataError

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"


def make_log(user, item, timestamp):
    user_ids, user = np.unique(user, return_inverse=True)
    item_ids, item = np.unique(item, return_inverse=True)
    return InteractionLog(
        user_ids.astype(object) if user_ids.dtype.kind == "U" else user_ids,
        item_ids.astype(object) if item_ids.dtype.kind == "U" else item_ids,
        user.astype(np.int32),
        item.astype(np.int32),
        None,
        None if timestamp is None else np.asarray(timestamp),
        0,
        "made up",
    )


@pytest.fixture(scope="module")
def case():
    return json.loads(GOLDEN.read_text())["cases"]["scall.segments"]


def test_numbers_and_cuts_are_the_golden_ones(case):
    given_, out = case["inputs"], case["outputs"]
    # A second round of them brings nobody new.
    log = make_log(given_["users"] * 2, given_["items"] * 2, np.arange(24))
    user, item = np.array(out["user_codes"]), np.array(out["item_codes"])
    assert entity_cuts(user, item, 4).tolist() == out["clean_cuts"]
    assert entity_cuts(user, item, 4, books_ahead=True).tolist() == out["reference_cuts"]
    stream = cut_stream(log, rows=12)
    assert stream.user.tolist() == out["user_codes"] * 2 and stream.item.tolist() == out["item_codes"] * 2
    assert stream.user_ids[stream.user[:12]].tolist() == given_["users"]
    assert stream.item_ids[stream.item[:12]].tolist() == given_["items"]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 1000)), min_size=40), st.data()
)
def test_every_row_is_somewhere_and_none_is_trained_on_and_tested_later(triples, data):
    user, item, timestamp = map(np.array, zip(*triples, strict=True))
    log = make_log(user, item, timestamp)
    try:
        stream = cut_stream(log, rows=data.draw(st.integers(4, 20)))
    except DataError:
        return
    ends = [0]
    for segment in stream.segments:
        assert ends[-1] == segment.start < segment.validation_start < segment.test_start < segment.end
        ends.append(segment.end)
        before = slice(segment.validation_start)
        assert segment.num_users == len(np.unique(stream.user[before]))
        assert segment.num_items == len(np.unique(stream.item[before]))
        held_out = slice(segment.validation_start, segment.end)
        is_known = np.isin(stream.user[held_out], stream.user[before]) & np.isin(
            stream.item[held_out], stream.item[before]
        )
        np.testing.assert_array_equal(stream.is_cold(segment), ~is_known)
    assert ends[-1] == stream.num_rows == log.num_rows
    assert np.all(np.diff(stream.timestamp) >= 0)
    rows = np.column_stack([stream.user_ids[stream.user], stream.item_ids[stream.item], stream.timestamp])
    assert sorted(map(tuple, rows.tolist())) == sorted(triples)


def test_popularity_forgets_as_it_is_told():
    stream = cut_stream(make_log([5, 5, 6, 6, 5, 5, 7, 7, 7, 5] * 2, range(20), np.arange(20)), rows=10)
    user, item = stream.popularity(1)
    assert user.tolist() == [4, 2, 1] and item.sum() == 7
    assert stream.popularity(1, 1.0)[0].tolist() == [4 + 5, 2 + 2, 1 + 3]
    assert stream.popularity(1, 0.5)[0].tolist() == [4 + 2.5, 2 + 1.0, 1 + 1.5]


def test_months_without_rows_are_left_out_and_units_are_seen():
    day = 86_400
    seconds = np.concatenate([np.arange(10), 100 * day + np.arange(10)]) + 1_000 * day
    for factor in (1, 1_000, 10**6, 10**9):
        # Before 1970 too.
        for times in (seconds * factor, (seconds - 5_000 * day) * factor):
            log = make_log(np.arange(20), np.arange(20), times)
            assert [segment.num_rows for segment in cut_stream(log, period="month").segments] == [10, 10]


def test_the_first_years_after_1970_have_months_too():
    days = np.arange("1971-01-01", "1971-03-01", dtype="datetime64[D]").astype(np.int64)
    seconds = days * 86_400
    for factor in (1, 10**3, 10**6, 10**9):
        log = make_log(days % 7, days, seconds * factor)
        assert [segment.num_rows for segment in cut_stream(log, period="month").segments] == [31, 28]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_need_no_guess(unit, tmp_path):
    """Of 1 January 1970 on nothing could be told by size."""
    days = np.arange("1969-12-30", "1970-01-09", dtype="datetime64[D]")
    times = np.repeat(days, 4).astype(f"datetime64[{unit}]")
    frame = pd.DataFrame({"user_id": np.arange(40) % 7, "item_id": np.arange(40), "timestamp": times})
    log = log_from_frame(frame)
    pq.write_table(table_of(log), tmp_path / "log.parquet")
    for read in (log, read_interactions(tmp_path / "log.parquet")):
        segments = cut_stream(read, period="week").segments
        assert [segment.num_rows for segment in segments] == [24, 16]


def test_a_month_that_has_just_begun_belongs_to_the_one_before():
    day, num_days = 86_400, [31, 28, 31]
    for more, last in ((3, 34), (5, 36), (6, 37), (7, 7), (8, 8)):
        times = day * np.arange(sum(num_days) + more)
        log = make_log(np.arange(len(times)), np.arange(len(times)), times)
        lengths = [segment.num_rows for segment in cut_stream(log, period="month").segments]
        assert lengths == [*num_days[: len(lengths) - 1], last]
    # Short ones before are no new beginnings.
    log = make_log(np.arange(20), np.arange(20), day * np.r_[0:10, 31, 59:68])
    with pytest.raises(DataError, match="segment 001 has 1 rows, too few"):
        cut_stream(log, period="month")


def test_rows_that_are_split_already_are_refused():
    log = replace(make_log(np.arange(40), np.arange(40), np.arange(40)), split=np.zeros(40, np.int8))
    with pytest.raises(DataError, match="says what each row is for, and a stream cuts by time"):
        cut_stream(log, rows=10)


@pytest.mark.parametrize(
    ("timestamp", "rule", "error", "match"),
    [
        (None, {"rows": 10}, DataError, "no times"),
        (np.zeros(40), {"rows": 10}, DataError, "one time"),
        (np.arange(40), {"rows": 40}, DataError, "rows 40 makes one segment of its 40 rows"),
        (np.arange(40), {"rows": 3}, DataError, "segment 000 has 3 rows, too few"),
        (np.arange(40), {"rows": 0}, ConfigError, "rows is 0"),
        (np.arange(40), {"rows": 10, "new_entities": 5}, ConfigError, "not by new_entities and rows"),
        (np.arange(40), {}, ConfigError, "not by none"),
        (np.arange(40) + 20110101, {"period": "day"}, DataError, "40 rows from 1970-08-21T.* to 1970-08-21T"),
        (np.arange(40) * 1e300, {"period": "day"}, DataError, r"times, up to 3.9e\+301, are no seconds"),
        (
            np.arange(-40, 0) * 1e300,
            {"period": "day"},
            DataError,
            "are no seconds.*or have segments end by rows",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(timestamp, rule, error, match):
    with pytest.raises(error, match=match):
        cut_stream(make_log(np.arange(40), np.arange(40), timestamp), **rule)
