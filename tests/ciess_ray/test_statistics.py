import dataclasses

import numpy as np
import pytest

from ciess_ray.statistics import paired_bootstrap


def normal(mean, size=400, seed=0):
    rng = np.random.default_rng(seed)
    second = rng.uniform(0.2, 0.6, (1, size, 1))
    noise = rng.normal(0.0, 0.1, (1, size, 1))
    return second + mean + noise - noise.mean(), second


def test_the_interval_is_that_of_the_normal_law():
    first, second = normal(0.02)
    (found,) = paired_bootstrap(first, second, 10_000, np.random.default_rng(0))
    error = (first - second).std() / 20
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=4e-4)
    # Four standard errors.
    assert 1e-4 < found.p < 1e-3
    assert found.relative == pytest.approx(0.02 / second.mean())
    assert found.relative_low == pytest.approx(found.low / second.mean())


@pytest.mark.parametrize(("errors", "p"), [(1.0, 0.317), (2.0, 0.0455), (-2.0, 0.0455)])
def test_p_is_that_of_the_normal_law(errors, p):
    first, second = normal(0.0)
    error = (first - second).std() / 20
    (found,) = paired_bootstrap(first + errors * error, second, 20_000, np.random.default_rng(0))
    assert found.p == pytest.approx(p, rel=0.12)


def test_by_hand():
    # The mean of two drawn from {0, 1} is 0, 0.5 or 1, with a quarter, a half and a quarter of the chances.
    (found,) = paired_bootstrap(
        np.array([[[1.0], [3.0]]]), np.array([[[1.0], [2.0]]]), 10_000, np.random.default_rng(0)
    )
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(0.5, abs=0.02) and found.relative == pytest.approx(1 / 3)


def test_nothing_between_two_that_are_the_same():
    same = np.random.default_rng(0).random((1, 50, 2))
    for found in paired_bootstrap(same, same, 100, np.random.default_rng(0)):
        assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_users_without_a_metric_are_left_out_and_seeds_repeat():
    first, second = normal(0.02)
    with_missing = (
        np.concatenate([first, [[[np.nan], [0.5]]]], axis=1),
        np.concatenate([second, [[[0.5], [np.nan]]]], axis=1),
    )
    one = paired_bootstrap(first, second, 500, np.random.default_rng(3))
    assert paired_bootstrap(*with_missing, 500, np.random.default_rng(3)) == one
    assert paired_bootstrap(first, second, 500, np.random.default_rng(4)) != one


def test_metrics_are_resampled_together_and_in_blocks_alike(monkeypatch):
    first, second = normal(0.02)
    both = np.concatenate([first] * 2, axis=2), np.concatenate([second] * 2, axis=2)
    one, two = paired_bootstrap(*both, 300, np.random.default_rng(0))
    assert one == two
    monkeypatch.setattr("ciess_ray.statistics._BLOCK", 400 * 7)
    again = paired_bootstrap(*both, 300, np.random.default_rng(0))[0]
    assert dataclasses.astuple(again)[:-1] == pytest.approx(dataclasses.astuple(one)[:-1])


def splits(of_splits, of_users, size=400, seed=0):
    """Differences with an effect of each split and one of each user, who is the same on all splits."""
    rng = np.random.default_rng(seed)
    second = rng.uniform(0.2, 0.6, (len(of_splits), size, 1))
    user = rng.normal(0.0, of_users, (1, size, 1))
    return second + np.array(of_splits)[:, None, None] + user - user.mean(), second


def test_an_interval_spans_splits_that_differ():
    first, second = splits([-0.01, 0.02, 0.05], 0.01)
    (found,) = paired_bootstrap(first, second, 10_000, np.random.default_rng(0))
    # With a ninth of the chances each split is drawn alone.
    assert found.mean == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((-0.01, 0.05), abs=2e-3)
    assert found.p == pytest.approx(2 / 9, abs=0.05)
    base = second.mean(axis=1)[:, 0]
    assert found.by_split == pytest.approx((np.array([-0.01, 0.02, 0.05]) / base).tolist())
    (one,) = paired_bootstrap(first[:1], second[:1], 1_000, np.random.default_rng(0))
    assert -0.012 < one.low < one.high < -0.008


@pytest.mark.parametrize("num_splits", [2, 3, 8])
def test_the_variance_is_that_of_splits_and_users_however_few_splits_there_are(num_splits):
    of_splits = np.random.default_rng(1).normal(0.0, 0.01, num_splits)
    first, second = splits(of_splits, 0.1)
    variances = []
    for between in (0.0, 1.0):
        means = _means(between * (of_splits - of_splits.mean()), first, second, of_splits)
        variances.append(means.var())
    # More splits make users no more certain, who are the same on each.
    error = (first - second)[0].std() / 20
    assert variances[0] == pytest.approx(error**2, rel=0.05)
    assert variances[1] - variances[0] == pytest.approx(of_splits.var(ddof=1) / num_splits, rel=0.1)


def _means(effects, first, second, of_splits):
    from ciess_ray.statistics import _resampled_means

    values = first - second + (effects - of_splits)[:, None, None]
    present = np.ones(values.shape[:2], bool)
    return _resampled_means(values, present, 40_000, np.random.default_rng(0))


def test_a_user_without_a_metric_on_one_split_counts_on_the_others():
    first, second = splits([0.0, 0.1], 0.0, size=3)
    first[0, 0] = np.nan
    (found,) = paired_bootstrap(first, second, 200, np.random.default_rng(0))
    assert found.mean == pytest.approx(0.05) and (found.low, found.high) == pytest.approx((0.0, 0.1))
