"""Splits and k-cores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import log_of
from scipy.sparse import csr_array

from envs.data import (
    InteractionLog,
    Interactions,
    generate_interactions,
    k_core,
    log_of_splits,
    split_by_time,
    split_interactions,
)
from envs.errors import ConfigError, DataError


def as_pairs(log: InteractionLog) -> set[tuple[int, int]]:
    return set(zip(log.user_ids[log.user].tolist(), log.item_ids[log.item].tolist(), strict=True))


pair_sets = st.sets(st.tuples(st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=100)
shares = st.sampled_from([0.01, 0.1, 0.25, 0.3, 0.45, 0.49, 0.9])


@settings(max_examples=100, deadline=None)
@given(pairs=pair_sets, seed=st.integers(0, 2**32), validation_share=shares, test_share=shares)
def test_splits_partition_the_pairs_in_the_shares_asked(
    pairs: set[tuple[int, int]], seed: int, validation_share: float, test_share: float
) -> None:
    log = log_of(*zip(*pairs, strict=True))
    counts = np.bincount(log.user)
    if validation_share + test_share >= 1 or counts.max() < 3:
        with pytest.raises((ConfigError, DataError)):
            split_interactions(log, seed=seed, validation_share=validation_share, test_share=test_share)
        return
    split = split_interactions(log, seed=seed, validation_share=validation_share, test_share=test_share)
    together = split.train + split.validation + split.test
    assert np.all(together.data == 1.0) and together.nnz == log.num_rows
    assert np.all(together[log.user, log.item] == 1.0)
    train, validation, test = (np.diff(m.indptr) for m in (split.train, split.validation, split.test))
    assert np.all(train >= 1)
    few = counts < 3
    assert split.num_unevaluated_users == few.sum()
    assert np.all(validation[few] == 0) and np.all(test[few] == 0)
    assert np.all(validation[~few] >= 1) and np.all(test[~few] >= 1)
    roomy = counts >= 10
    if validation_share >= 0.1 and test_share >= 0.1 and validation_share + test_share <= 0.9:
        assert np.array_equal(validation[roomy], np.floor(counts[roomy] * validation_share + 1e-9))
        assert np.array_equal(test[roomy], np.floor(counts[roomy] * test_share + 1e-9))


def test_the_seed_alone_decides() -> None:
    log = generate_interactions(100, 80, 2000, seed=0)
    same = [split_interactions(log, seed=5).fingerprint for _ in range(2)]
    assert same[0] == same[1] != split_interactions(log, seed=6).fingerprint


def test_less_validation_is_more_training_and_the_same_test() -> None:
    log = generate_interactions(100, 80, 2000, seed=0)
    usual, less, more = (split_interactions(log, seed=5, validation_share=s) for s in (0.25, 0.0625, 0.5))
    for other in (less, more):
        assert (other.test != usual.test).nnz == 0
    assert less.train.nnz > usual.train.nnz > more.train.nnz
    assert (usual.validation - less.validation).min() == 0


def test_the_order_of_rows_does_not_matter() -> None:
    log = generate_interactions(100, 80, 2000, seed=0)
    shuffled = log.select(np.random.default_rng(1).permutation(log.num_rows))
    assert split_interactions(shuffled, seed=5).fingerprint == split_interactions(log, seed=5).fingerprint


def test_every_interaction_is_equally_likely_to_be_held_out() -> None:
    log = log_of(np.zeros(8, np.int64), np.arange(8))
    splits = [split_interactions(log, seed=seed) for seed in range(400)]
    for name in ("validation", "test"):
        held_out = sum(getattr(split, name).toarray()[0] for split in splits)
        # 100 expected of each, standard deviation 8.7.
        assert np.all((held_out > 60) & (held_out < 140))


def test_users_with_fewer_than_three_stay_in_training() -> None:
    log = log_of([1, 1, 2, 3, 3, 3], [1, 2, 1, 1, 2, 3])
    split = split_interactions(log, seed=0)
    assert split.num_unevaluated_users == 2
    assert np.diff(split.train.indptr).tolist() == [2, 1, 1]
    assert np.diff(split.test.indptr).tolist() == np.diff(split.validation.indptr).tolist() == [0, 0, 1]


def test_fewer_interactions_than_a_split_needs() -> None:
    with pytest.raises(DataError, match=r"mine: none of the 2 users has the 3 interactions.*bring data"):
        split_interactions(log_of([1, 1, 2], [1, 2, 3], source="mine"), seed=0)


@pytest.mark.parametrize(
    ("validation_share", "test_share"), [(0.0, 0.2), (0.2, 1.0), (0.5, 0.5), (-0.1, 0.3)]
)
def test_shares_that_make_no_split(validation_share: float, test_share: float) -> None:
    log = generate_interactions(10, 10, 40, seed=0)
    with pytest.raises(ConfigError, match="share"):
        split_interactions(log, seed=0, validation_share=validation_share, test_share=test_share)


def named(matrix: csr_array, split: Interactions) -> set[tuple[int, int]]:
    users, items = matrix.nonzero()
    return set(zip(split.user_ids[users].tolist(), split.item_ids[items].tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(pairs=pair_sets, data=st.data())
def test_by_time_what_is_earlier_trains_and_what_is_cold_is_left_out(
    pairs: set[tuple[int, int]], data: st.DataObject
) -> None:
    rows = sorted(pairs)
    times = data.draw(st.lists(st.integers(0, 30), min_size=len(rows), max_size=len(rows)))
    log = log_of(*zip(*rows, strict=True), timestamp=times)
    try:
        split = split_by_time(log)
    except DataError:
        return
    # Python's sorting is stable, as the order of a file is kept.
    ordered = [row for _, row in sorted(zip(times, rows, strict=True), key=lambda pair: pair[0])]
    ends = len(rows) * 7 // 10, len(rows) * 8 // 10
    train, validation, test = ordered[: ends[0]], ordered[ends[0] : ends[1]], ordered[ends[1] :]
    users, items = {user for user, _ in train}, {item for _, item in train}
    assert set(split.user_ids.tolist()) == users and set(split.item_ids.tolist()) == items
    assert named(split.train, split) == set(train)
    warm = [
        {(user, item) for user, item in part if user in users and item in items}
        for part in (validation, test)
    ]
    assert [named(split.validation, split), named(split.test, split)] == warm
    assert split.num_cold_rows == len(rows) - split.num_interactions
    assert split.num_unevaluated_users == len(users - {user for part in warm for user, _ in part})
    assert split.num_untrained_items == 0


def test_by_time_cold_rows_are_told(caplog: pytest.LogCaptureFixture) -> None:
    users = [1, 2, 3, 1, 2, 3, 1, 2, 3, 4]
    log = log_of(users, [1, 2, 3, 2, 3, 1, 4, 4, 2, 5], timestamp=range(10), source="mine")
    split = split_by_time(log)
    assert (split.train.nnz, split.validation.nnz, split.test.nnz, split.num_cold_rows) == (7, 1, 1, 1)
    assert caplog.messages == [
        "mine: 0 of 1 validation rows (0.0%) and 1 of 2 test rows (50.0%) are cold, of a user or an item "
        "that training does not know, and are left out, with 1 users and 1 items."
    ]
    later = log_of(users, [1, 2, 3, 2, 3, 1, 4, 4, 2, 5], timestamp=[*range(9), 8.5], source="mine")
    assert (
        split_by_time(later).fingerprint == split.fingerprint != split_interactions(log, seed=0).fingerprint
    )


@pytest.mark.parametrize(
    ("timestamp", "num_rows", "says"),
    [
        (None, 10, "mine: it has no times to be split by; name their column"),
        ([5] * 10, 10, "mine: all of its rows have one time"),
        (range(4), 4, "of 4 rows in order of time 1 are for validation, .* knows user and item of none"),
        (range(3), 3, "of 3 rows in order of time 0 are for validation"),
    ],
)
def test_by_time_what_cannot_be_split(timestamp: object, num_rows: int, says: str) -> None:
    log = log_of(np.arange(num_rows), np.arange(num_rows), timestamp=timestamp, source="mine")
    with pytest.raises(DataError, match=says):
        split_by_time(log)


def test_by_time_no_data_that_bring_their_own_split() -> None:
    log = generate_interactions(10, 10, 40, seed=0)
    with pytest.raises(DataError, match="it brings a split of its own"):
        split_by_time(log_of_splits(split_interactions(log, seed=0)))


def slow_core(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    while True:
        users, items = [user for user, _ in pairs], [item for _, item in pairs]
        kept = {(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k}
        if kept == pairs:
            return pairs
        pairs = kept


@settings(max_examples=100, deadline=None)
@given(pairs=pair_sets, k=st.integers(1, 6))
def test_the_core_is_what_removing_one_by_one_leaves(pairs: set[tuple[int, int]], k: int) -> None:
    log = log_of(*zip(*pairs, strict=True))
    expected = slow_core(pairs, k)
    if not expected:
        with pytest.raises(DataError, match=f"the {k}-core is empty.*smaller k"):
            k_core(log, k)
        return
    core = k_core(log, k)
    assert as_pairs(core) == expected
    assert np.bincount(core.user, minlength=core.num_users).min() >= k
    assert np.bincount(core.item, minlength=core.num_items).min() >= k
    assert core.user.dtype == core.item.dtype == np.int32


def test_a_core_keeps_ratings_and_timestamps_beside_their_pairs() -> None:
    log = log_of(["a", "b", "b", "c", "c"], [9, 1, 2, 1, 2], [0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    core = k_core(log, 2)
    assert core.user_ids.tolist() == ["b", "c"] and core.item_ids.tolist() == [1, 2]
    assert core.rating is not None and core.rating.tolist() == [1, 2, 3, 4]
    assert core.timestamp is not None and core.timestamp.tolist() == [6, 7, 8, 9]


def test_a_core_needs_a_k_of_one_or_more() -> None:
    with pytest.raises(ConfigError, match="choose 1 or more"):
        k_core(generate_interactions(10, 10, 30, seed=0), 0)
