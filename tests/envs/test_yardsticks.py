"""Lists within no budget: against dense algebra, their bytes, and what memory has no room for."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from envs.errors import NoMemoryError
from envs.metrics import ranking_metrics
from envs.recommenders import neighbours
from envs.yardsticks import best_by, ease, item_cosine, most_popular, places_by_popularity


@pytest.fixture(scope="module")
def data(make_interactions):
    return make_interactions()


def test_places_break_ties_in_favour_of_the_later_arrival():
    assert places_by_popularity(np.array([2.0, 5.0, 2.0, 0.0])).tolist() == [1, 3, 2, 0]


def test_popular_lists_leave_out_what_was_seen_and_end_where_nothing_is_left():
    seen = csr_array(np.array([[1, 0, 0], [1, 1, 1]], np.float32))
    ranked = best_by(lambda rows: np.tile([3.0, 2.0, 1.0], (len(rows), 1)), seen, np.arange(2), 4)
    assert ranked.tolist() == [[1, 2, -1, -1], [-1, -1, -1, -1]]


def test_item_cosine_is_that_of_dense_algebra(data):
    dense = data.train.toarray().astype(np.float64)
    scaled = dense / np.sqrt(np.maximum(dense.sum(axis=0), 1))
    cosines = scaled.T @ scaled
    np.fill_diagonal(cosines, 0)
    lists = item_cosine(data.train, data.item_popularity)
    np.testing.assert_allclose(lists.score(data.train), dense @ cosines, atol=2e-6)
    # Nearly every pair shares a user here.
    assert (lists.form, lists.num_bytes) == ("dense matrix", 4 * data.num_items**2)
    cut = item_cosine(data.train, data.item_popularity, 5)
    assert (cut.form, cut.num_bytes) == ("sparse matrix", 8 * 5 * data.num_items + 4 * (data.num_items + 1))
    most = np.sort(cosines, axis=1)[:, -5:].sum(axis=1)
    # One who had everything is told of each item what is left of its cosines, which are symmetric.
    everything = csr_array(np.ones((1, data.num_items), np.float32))
    assert cut.score(everything).sum() == pytest.approx(most.sum(), rel=1e-4)


def test_uncut_item_cosine_is_sparse_where_that_is_less():
    train = csr_array(np.kron(np.eye(6), np.ones((2, 2))).astype(np.float32))
    lists = item_cosine(train, np.full(12, 2))
    # Of each item the one other that its users had.
    assert (lists.form, lists.num_bytes) == ("sparse matrix", 8 * 12 + 4 * 13)
    assert lists.rank(train, csr_array(train.shape, dtype=np.float32), np.array([2]), 2).tolist() == [[3, 2]]


def test_ease_is_its_closed_form(data):
    dense = data.train.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 30.0 * np.eye(data.num_items))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    lists = ease(data.train, data.item_popularity, 30.0)
    np.testing.assert_allclose(lists.score(data.train), dense @ weights, atol=3e-6)
    assert (lists.form, lists.num_bytes) == ("dense matrix", 4 * data.num_items**2)


def test_the_most_popular_are_the_same_for_all_but_for_what_they_had(data):
    lists = most_popular(data.item_popularity)
    assert (lists.form, lists.num_bytes) == ("order of items", 4 * data.num_items)
    ranked = lists.rank(data.train, data.train, np.arange(data.num_users), 5)
    places = places_by_popularity(data.item_popularity)
    for user, items in enumerate(ranked):
        left = np.setdiff1d(np.arange(data.num_items), data.train[[user]].indices)
        assert items.tolist() == left[np.argsort(-places[left])][:5].tolist()
    metrics = lists.evaluate(data.train, data.validation)
    judged = np.flatnonzero(np.diff(data.validation.indptr))
    whole = np.full((data.num_users, 20), -1)
    whole[judged] = lists.rank(data.train, data.train, judged, 20)
    assert metrics.quality == ranking_metrics(whole, data.validation).quality > 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda data: ease(data.train, data.item_popularity, 1.0), r"EASE inverts .* 3 of 40 x 40 numbers"),
        (lambda data: item_cosine(data.train, data.item_popularity), "item cosine keeps every pair"),
    ],
)
def test_what_memory_has_no_room_for_is_refused_with_the_arithmetic(data, monkeypatch, make, says):
    monkeypatch.setattr(neighbours.os, "sysconf", lambda name: 100)
    with pytest.raises(NoMemoryError, match=f"{says}.* take 0.0 GB, and this machine has 0.0 GB; "):
        make(data)
