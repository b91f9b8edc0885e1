"""Triples: never a positive for a negative, and the distributions promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from envs.errors import DataError
from envs.recommenders.losses import BPR, LOSSES, SampledSoftmax


def matrix_of(rows: list[set[int]], num_items: int) -> sparse.csr_array:
    dense = np.zeros((len(rows), num_items), np.float32)
    for user, items in enumerate(rows):
        dense[user, list(items)] = 1.0
    return sparse.csr_array(dense)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.sets(st.integers(0, 6), max_size=6), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 2**32),
)
def test_positives_are_positive_and_negatives_are_not(rows: list[set[int]], seed: int) -> None:
    train = matrix_of(rows, 7)
    user, positive, negative = BPR(train, 200).draw(np.random.default_rng(seed))
    dense = train.toarray()
    assert np.all(dense[user, positive] == 1.0)
    assert np.all(dense[user, negative] == 0.0)
    assert user.dtype == positive.dtype == negative.dtype == np.int64
    assert user.shape == positive.shape == negative.shape == (200,)


ROWS = [{0, 1, 2, 5}, set(), {4}, {0, 1, 2, 3, 4, 5, 6, 8, 9}]


def frequencies(values: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(values, minlength=size) / len(values)


def test_a_positive_is_uniform_over_users_then_over_their_items() -> None:
    user, positive, _ = BPR(matrix_of(ROWS, 10), 60_000).draw(np.random.default_rng(0))
    assert frequencies(user, 4) == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.01)
    assert frequencies(positive[user == 0], 6) == pytest.approx([0.25, 0.25, 0.25, 0, 0, 0.25], abs=0.02)


def test_a_negative_is_uniform_over_the_items_without_interaction() -> None:
    user, _, negative = BPR(matrix_of(ROWS, 10), 60_000).draw(np.random.default_rng(0))
    for row in (0, 2, 3):
        share = np.array([item not in ROWS[row] for item in range(10)]) / (10 - len(ROWS[row]))
        assert frequencies(negative[user == row], 10) == pytest.approx(share, abs=0.02)


def test_the_generator_alone_decides() -> None:
    loss = BPR(matrix_of(ROWS, 10), 100)
    first, again, other = (np.stack(loss.draw(np.random.default_rng(seed))) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("loss", LOSSES.values())
def test_a_user_with_every_item_is_passed_over_and_refused_where_there_is_no_other(loss) -> None:
    users, positives, *_ = loss(matrix_of([{0, 2}, {0, 1, 2}, {1}], 3), 200).draw(np.random.default_rng(0))
    assert set(zip(users, positives, strict=True)) == {(0, 0), (0, 2), (2, 1)}
    with pytest.raises(DataError, match="every user .*every one of the 3 items.*longer segments"):
        loss(matrix_of([set(), {0, 1, 2}], 3), 10)


def test_no_training_interactions_are_refused() -> None:
    with pytest.raises(DataError, match="no training interaction"):
        BPR(sparse.csr_array((3, 3), dtype=np.float32), 10)


class TestSharedNegatives:
    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(st.sets(st.integers(0, 6), max_size=6), min_size=1, max_size=6).filter(any),
        num_negatives=st.integers(1, 9),
        seed=st.integers(0, 2**32),
    )
    def test_one_draw_of_distinct_items_serves_the_batch(
        self, rows: list[set[int]], num_negatives: int, seed: int
    ) -> None:
        train = matrix_of(rows, 7)
        loss = SampledSoftmax(train, 50, num_negatives)
        user, positive, negative, is_positive = loss.draw(np.random.default_rng(seed))
        dense = train.toarray()
        assert np.all(dense[user, positive] == 1.0)
        # More negatives than items are all items.
        assert negative.shape == (min(num_negatives, 7),) and len(set(negative)) == len(negative)
        assert np.array_equal(is_positive, dense[user][:, negative] == 1.0)
        assert user.dtype == positive.dtype == negative.dtype == np.int64 and is_positive.dtype == np.bool_

    def test_every_item_is_as_likely(self) -> None:
        loss, rng = SampledSoftmax(matrix_of(ROWS, 10), 1, num_negatives=3), np.random.default_rng(0)
        drawn = np.concatenate([loss.draw(rng)[2] for _ in range(5_000)])
        assert frequencies(drawn, 10) == pytest.approx(np.full(10, 0.1), abs=0.01)

    def test_the_generator_alone_decides(self) -> None:
        loss = SampledSoftmax(matrix_of(ROWS, 10), 40, num_negatives=6)
        first, again, other = (loss.draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert all(map(np.array_equal, first, again))
        assert not any(map(np.array_equal, first, other))
