"""What a segment's table may know, and what it is judged on."""

from dataclasses import replace

import numpy as np
import pytest

from ciess_ray.streaming.segment import reveal_test, segment_data
from envs.data import generate_interactions
from envs.data.stream import cut_stream


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
