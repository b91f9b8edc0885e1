"""Generated interactions: exact counts, power laws, tastes that a recommender finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.data import generate_interactions, split_interactions
from envs.errors import ConfigError, DataError


@settings(max_examples=80, deadline=None)
@given(
    num_users=st.integers(1, 40), num_items=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_counts_are_exact_and_pairs_unique(num_users: int, num_items: int, share: float, seed: int) -> None:
    most = num_users * max(num_items // 2, min(3, num_items))
    num_interactions = max(1, int(share * most))
    log = generate_interactions(num_users, num_items, num_interactions, seed=seed)
    assert (log.num_users, log.num_items, log.num_rows) == (num_users, num_items, num_interactions)
    assert len(np.unique(log.user.astype(np.int64) * num_items + log.item)) == num_interactions
    assert log.user.min() >= 0 and log.user.max() < num_users
    assert log.item.min() >= 0 and log.item.max() < num_items
    if num_items >= 3 and num_interactions >= 3 * num_users:
        assert np.bincount(log.user, minlength=num_users).min() >= 3


def test_the_seed_alone_decides() -> None:
    first, again, other = (generate_interactions(50, 40, 500, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.user, again.user) and np.array_equal(first.item, again.item)
    assert not np.array_equal(first.item, other.item)


def test_popularity_and_activity_follow_power_laws() -> None:
    log = generate_interactions(4000, 2000, 60_000, seed=0)
    popularity = np.sort(np.bincount(log.item, minlength=2000))[::-1]
    activity = np.sort(np.bincount(log.user, minlength=4000))[::-1]
    ranks = np.arange(10, 1000)
    slope = np.polyfit(np.log(ranks), np.log(popularity[ranks]), 1)[0]
    assert -1.1 < slope < -0.5
    assert activity[:400].sum() > 2 * activity[-400:].sum()


def test_a_low_rank_recommender_beats_popularity() -> None:
    split = split_interactions(generate_interactions(400, 250, 10_000, seed=3), seed=0)
    train, test = split.train.toarray(), split.test.toarray()

    def recall(scores: np.ndarray) -> float:
        ranking = np.argsort(np.where(train > 0, -np.inf, scores), axis=1)[:, ::-1][:, :20]
        return float((np.take_along_axis(test, ranking, 1).sum(1) / test.sum(1)).mean())

    left, values, right = np.linalg.svd(train, full_matrices=False)
    low_rank = recall((left[:, :8] * values[:8]) @ right[:8])
    popular = recall(np.tile(train.sum(0), (400, 1)))
    assert low_rank > 1.5 * popular


def test_more_interactions_than_half_of_the_pairs() -> None:
    with pytest.raises(DataError, match="1001 interactions are more than 100 users .*ask for fewer"):
        generate_interactions(100, 20, 1001, seed=0)


@pytest.mark.parametrize("name", ["num_users", "num_items", "num_interactions", "rank"])
def test_sizes_must_be_positive(name: str) -> None:
    options = {"num_users": 10, "num_items": 10, "num_interactions": 30} | {name: 0}
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        generate_interactions(**options, seed=0)


def test_a_million_interactions_take_seconds() -> None:
    log = generate_interactions(50_000, 20_000, 1_000_000, seed=0)
    split = split_interactions(log, seed=0)
    assert split.num_interactions == 1_000_000 and split.num_unevaluated_users == 0


@pytest.mark.parametrize("counts", [(10**12, 5000, 10), (10**6, 10**12, 100), (2**32, 10, 100)])
def test_more_than_can_be_numbered_or_held_is_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="synthetic data: .* (can be numbered|would have to be held)"):
        generate_interactions(*counts, seed=0)
