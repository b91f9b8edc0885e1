"""What a segment's table may know, and what it is judged on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciess_ray.streaming.segment import hindsight, reveal_test, segment_data
from envs.data import generate_interactions, log_from_frame
from envs.data.stream import Segment, Stream, cut_stream
from envs.errors import DataError

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"


@pytest.fixture(scope="module")
def stream():
    log = generate_interactions(60, 40, 900, seed=0)
    order = np.random.default_rng(0).permutation(log.num_rows)
    # Users that arrive late, and all at once, leave cold rows in every part.
    order = order[np.argsort(log.user[order] // 8, kind="stable")]
    return cut_stream(replace(log.select(order), timestamp=np.arange(log.num_rows)), rows=200)


def pairs(matrix):
    return set(zip(*map(np.ndarray.tolist, matrix.nonzero()), strict=True))


def rows(stream, start, end):
    return set(zip(stream.user[start:end].tolist(), stream.item[start:end].tolist(), strict=True))


def test_training_knows_all_that_came_before_and_nothing_later(stream):
    for number, segment in enumerate(stream.segments):
        data = segment_data(stream, number)
        known = data.interactions
        assert pairs(known.train) == rows(stream, 0, segment.validation_start)
        assert known.train.shape == (segment.num_users, segment.num_items)
        assert known.test.nnz == 0
        assert data.past.num_rows == segment.validation_start
        assert known.user_ids.tolist() == stream.user_ids[: segment.num_users].tolist()
        for decay in (0.0, 0.5, 1.0):
            for mine, theirs in zip(data.popularity(decay), stream.popularity(number, decay), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_cold_rows_are_kept_apart_and_none_is_lost(stream):
    num_cold = 0
    for number, segment in enumerate(stream.segments):
        data, test = segment_data(stream, number), reveal_test(stream, number)
        parts = [
            (
                data.interactions.validation,
                data.cold_validation,
                segment.validation_start,
                segment.test_start,
            ),
            (test.known, test.cold, segment.test_start, segment.end),
        ]
        for known, cold, start, end in parts:
            cold_pairs = set(zip(cold.user.tolist(), cold.item.tolist(), strict=True))
            assert pairs(known) | cold_pairs == rows(stream, start, end)
            assert np.all((cold.user >= segment.num_users) | (cold.item >= segment.num_items))
            assert known.nnz + cold.num_rows == end - start
            num_cold += cold.num_rows
        assert pairs(test.seen) == pairs(data.interactions.train) | pairs(data.interactions.validation)
        assert test.cold_share == test.cold.num_rows / (segment.end - segment.test_start)
    assert num_cold > 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 50)), min_size=30, max_size=200),
    st.sampled_from([{"rows": 8}, {"rows": 20}, {"new_entities": 5}, {"new_entities": 9}]),
)
def test_every_row_is_somewhere_once_and_none_is_trained_on_and_tested_later(triples, rule):
    """Whatever the log is like: pairs that come again, in any order, of few times."""
    log = log_from_frame(pd.DataFrame(triples, columns=["user_id", "item_id", "timestamp"]), keep="first")
    first = {}
    for user, item, time in triples:
        first[user, item] = min(time, first.get((user, item), time))
    try:
        stream = cut_stream(log, **rule)
    except DataError:
        return
    ids = [(stream.user_ids[user], stream.item_ids[item]) for user, item in rows(stream, 0, stream.num_rows)]
    assert sorted(ids) == sorted(first) and len(ids) == stream.num_rows
    assert [first[pair] for pair in named(stream, stream.user, stream.item)] == stream.timestamp.tolist()
    trained_before, held_out = set(), []
    for number, segment in enumerate(stream.segments):
        data, test = segment_data(stream, number), reveal_test(stream, number)
        train, validation, known = map(
            pairs, (data.interactions.train, data.interactions.validation, test.known)
        )
        cold = [
            set(zip(part.user.tolist(), part.item.tolist(), strict=True))
            for part in (data.cold_validation, test.cold)
        ]
        # What training was and what was held out before is trained on now, and nothing that is held out now.
        assert train >= trained_before.union(*held_out)
        held_out = [validation, cold[0], known, cold[1]]
        parts = [train, *held_out]
        assert sum(map(len, parts)) == segment.end == len(set().union(*parts))
        assert max(data.past.timestamp) <= min(stream.timestamp[segment.validation_start : segment.end])
        trained_before = train
    assert segment.end == stream.num_rows


def named(stream, user, item):
    return list(zip(stream.user_ids[user], stream.item_ids[item], strict=True))


def test_the_last_segment_may_be_judged_by_all_that_came_since_and_training_knows(stream):
    for number, segment in list(enumerate(stream.segments))[1:]:
        data, last = segment_data(stream, number), stream.segments[number - 1]
        before, then = hindsight(data), segment_data(stream, number - 1)
        assert before.number == number - 1
        assert pairs(before.interactions.train) == pairs(then.interactions.train)
        assert before.interactions.user_ids.tolist() == then.interactions.user_ids.tolist()
        # No row of this segment's validation or test is among them.
        since = rows(stream, last.validation_start, segment.validation_start)
        cold = set(
            zip(before.cold_validation.user.tolist(), before.cold_validation.item.tolist(), strict=True)
        )
        assert pairs(before.interactions.validation) | cold == since
        assert before.interactions.validation.nnz > then.interactions.validation.nnz
        for mine, theirs in zip(before.popularity(0.5), then.popularity(0.5), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_graph_popularity_and_judged_rows_are_the_golden_ones():
    """Of a segment whose training rows are SCALL's with what it replays, which this project does not draw."""
    case = json.loads(GOLDEN.read_text())["cases"]["scall.replay_and_split"]
    given, out = case["inputs"], case["outputs"]
    train, test = out["segment_train_rows"], out["test_rows"]
    previous = np.delete(given["previous_rows"], given["drawn_positions_in_previous"], axis=0)
    user, item = np.array([*previous.tolist(), *train, *test], np.int32).T
    first, end = len(previous), len(previous) + len(train)
    known = [len(np.unique(side[:end])) for side in (user, item)]
    segments = Segment(0, first, first, first, *known), Segment(first, end, end, len(user), *known)
    ids = np.arange(user.max() + 1), np.arange(item.max() + 1)
    stream = Stream(user, item, np.arange(len(user)), *ids, segments, "made up")
    data, test = segment_data(stream, 1), reveal_test(stream, 1)
    assert sorted(pairs(data.interactions.train)) == list(map(tuple, out["graph_rows"]))
    assert pairs(test.known) == set(map(tuple, out["test_rows_kept"]))
    assert test.cold.num_rows == len(out["test_rows"]) - len(out["test_rows_kept"])
    of_users, of_items = (side.tolist() for side in data.popularity(0.0))
    assert of_users == out["user_popularity"] and [*of_items, 0] == out["item_popularity"]
