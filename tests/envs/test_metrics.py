import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from envs.errors import DataError
from envs.metrics import CUTOFFS, entity_quality, ranking_metrics


def plain_metrics(ranked, relevant, k):
    """Recall@k and NDCG@k of one list, in plain Python."""
    if not relevant:
        return math.nan, math.nan
    hits = [place for place, item in enumerate(ranked[:k]) if item in relevant]
    gain = sum(1 / math.log2(place + 2) for place in hits)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(relevant))))
    return len(hits) / len(relevant), gain / ideal


def matrix(sets, num_items):
    dense = np.zeros((len(sets), num_items), np.float32)
    for row, items in enumerate(sets):
        dense[row, sorted(items)] = 1
    return csr_array(dense)


@st.composite
def cases(draw):
    num_items = draw(st.integers(1, 40))
    items = st.integers(0, num_items - 1)
    users = st.tuples(st.lists(items, unique=True), st.sets(items), st.sets(items))
    rows = draw(st.lists(users, min_size=1, max_size=6))
    return num_items, *zip(*rows, strict=True)


def padded(lists, depth):
    ranked = np.full((len(lists), depth), -1)
    for row, items in enumerate(lists):
        ranked[row, : len(items)] = items[:depth]
    return ranked


@given(cases())
def test_metrics_are_those_of_a_plain_loop(case):
    num_items, lists, relevant, train = case
    metrics = ranking_metrics(padded(lists, 20), matrix(relevant, num_items))
    expected = np.array(
        [
            [plain_metrics(ranked, held_out, k) for k in CUTOFFS]
            for ranked, held_out in zip(lists, relevant, strict=True)
        ]
    )
    assert_allclose(metrics.recall, expected[:, :, 0], atol=1e-12)
    assert_allclose(metrics.ndcg, expected[:, :, 1], atol=1e-12)

    user_quality = expected.reshape(len(lists), -1).mean(axis=1)
    assert_allclose(metrics.user_quality, user_quality, atol=1e-12)
    present = [q for q in user_quality if not math.isnan(q)]
    assert metrics.quality == pytest.approx(sum(present) / len(present) if present else 0.0)
    quality = entity_quality(metrics, matrix(train, num_items))
    for item in range(num_items):
        fans = [q for q, seen in zip(user_quality, train, strict=True) if item in seen and not math.isnan(q)]
        assert_allclose(quality["item"][item], np.mean(fans) if fans else math.nan, atol=1e-12)


def test_a_list_shorter_than_k_is_one_that_ends_in_misses():
    relevant = matrix([{0, 1, 2}], 30)
    short = ranking_metrics(np.array([[0, 5, 2]]), relevant)
    long = ranking_metrics(padded([[0, 5, 2]], 20), relevant)
    np.testing.assert_array_equal(short.recall, long.recall)
    np.testing.assert_array_equal(short.ndcg, long.ndcg)
    assert short.recall.tolist() == [[2 / 3] * 3]


def test_recall_divides_by_all_relevant_items_and_ndcg_by_the_best_list_of_k():
    relevant = matrix([set(range(10))], 30)
    metrics = ranking_metrics(np.arange(20)[None], relevant)
    assert metrics.recall.tolist() == [[0.5, 1.0, 1.0]]
    assert_allclose(metrics.ndcg, [[1, 1, 1]])


def test_users_without_relevant_items_are_in_no_mean():
    relevant = matrix([{0}, set()], 3)
    metrics = ranking_metrics(np.array([[0, 1, 2], [0, 1, 2]]), relevant)
    assert metrics.summary() == {f"{name}@{k}": 1.0 for name in ("recall", "ndcg") for k in CUTOFFS}
    assert metrics.quality == 1.0 and np.isnan(metrics.user_quality[1])


def test_nobody_to_judge_gives_0():
    metrics = ranking_metrics(np.array([[0, 1, 2]]), matrix([set()], 3))
    assert metrics.quality == 0.0 and set(metrics.summary().values()) == {0.0}


def test_other_cutoffs():
    metrics = ranking_metrics(np.array([[2, 0, 1]]), matrix([{0}], 3), (1, 2))
    assert metrics.summary() == {
        "recall@1": 0.0,
        "recall@2": 1.0,
        "ndcg@1": 0.0,
        "ndcg@2": pytest.approx(1 / math.log2(3)),
    }


@pytest.mark.parametrize("indices", [[0, 4, 2], [0, 2, 2], [0, 2, 3]])
def test_relevant_items_in_any_order_twice_or_as_a_stored_zero(indices):
    values = np.array([1.0, 1.0, 0.0 if indices[2] == 3 else 1.0])
    relevant = csr_array((values, np.array(indices), np.array([0, 1, 3])), shape=(2, 5))
    metrics = ranking_metrics(np.array([[0, 1], [2, 4]]), relevant)
    assert metrics.recall[1, 0] == 1.0 and len(relevant.data) == 3


def test_a_list_with_an_item_twice_is_refused():
    relevant = csr_array((np.ones(2), np.array([0, 3]), np.array([0, 1, 2])), shape=(2, 5))
    with pytest.raises(DataError, match="ranked items, row 1: an item is there twice"):
        ranking_metrics(np.array([[0, 1, -1], [3, 3, -1]]), relevant)
