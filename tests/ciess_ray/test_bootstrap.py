import dataclasses

import numpy as np
import pytest

from ciess_ray.bootstrap import paired_bootstrap


def normal(mean, size=400, seed=0):
    rng = np.random.default_rng(seed)
    second = rng.uniform(0.2, 0.6, (size, 1))
    noise = rng.normal(0.0, 0.1, (size, 1))
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
        np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]), 10_000, np.random.default_rng(0)
    )
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.p == pytest.approx(0.5, abs=0.02) and found.relative == pytest.approx(1 / 3)


def test_nothing_between_two_that_are_the_same():
    same = np.random.default_rng(0).random((50, 2))
    for found in paired_bootstrap(same, same, 100, np.random.default_rng(0)):
        assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_users_without_a_metric_are_left_out_and_seeds_repeat():
    first, second = normal(0.02)
    with_missing = np.vstack([first, [[np.nan]], [[0.5]]]), np.vstack([second, [[0.5]], [[np.nan]]])
    one = paired_bootstrap(first, second, 500, np.random.default_rng(3))
    assert paired_bootstrap(*with_missing, 500, np.random.default_rng(3)) == one
    assert paired_bootstrap(first, second, 500, np.random.default_rng(4)) != one


def test_metrics_are_resampled_together_and_in_blocks_alike(monkeypatch):
    first, second = normal(0.02)
    both = np.hstack([first, first]), np.hstack([second, second])
    one, two = paired_bootstrap(*both, 300, np.random.default_rng(0))
    assert one == two
    monkeypatch.setattr("ciess_ray.bootstrap._BLOCK", 400 * 7)
    again = paired_bootstrap(*both, 300, np.random.default_rng(0))[0]
    assert dataclasses.astuple(again) == pytest.approx(dataclasses.astuple(one))
