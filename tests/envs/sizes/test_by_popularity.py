import numpy as np
import pytest

from envs.sizes.by_popularity import allocation_sampler, draw_policy, table_sizes


def test_random_sizes_try_many_splits_and_shapes():
    popularity = np.sort(np.random.default_rng(0).random(500)).astype(np.float32) * 2 - 1
    rng = np.random.default_rng(1)
    policies = [draw_policy(rng) for _ in range(200)]
    sizes = np.stack([table_sizes(own, popularity, rng, 1, 128, target_ratio=0.1) for own in policies])
    assert sizes.min() >= 1 and sizes.max() <= 128
    means = sizes.mean(axis=1)
    assert np.quantile(means, 0.1) < 4 and np.quantile(means, 0.9) > 50
    favours_popular = sizes[:, -50:].mean(axis=1) > sizes[:, :50].mean(axis=1)
    assert 0.3 < favours_popular.mean() < 0.7
    assert ((np.array(policies)[:, 2] > 0) == favours_popular).mean() > 0.9


def test_a_policy_is_a_level_and_what_departs_from_it():
    popularity, rng = np.arange(400), np.random.default_rng(0)
    flat = table_sizes(np.array([0.5, 0.0, 0.0]), popularity, rng, 1, 64)
    assert np.exp(np.log(flat).mean()) == pytest.approx(8.0, rel=0.05)
    near = table_sizes(np.array([1.0, 0.0, 0.0]), popularity, rng, 1, 64, target_ratio=0.1, spread=2.0)
    assert np.exp(np.log(near).mean()) == pytest.approx(12.8, rel=0.05)
    for slope, (first, last) in ((1.0, (1.0, 16.0)), (-1.0, (16.0, 1.0))):
        sizes = table_sizes(np.array([0.5, 0.0, slope]), popularity, rng, 1, 64)
        assert sizes[:9].mean() == pytest.approx(first, abs=0.8)
        assert sizes[-9:].mean() == pytest.approx(last, abs=0.8)


def test_drawn_allocations_use_up_a_ratio_in_the_range_and_differ():
    popularity = np.random.default_rng(0).integers(0, 50, 300)
    draw = allocation_sampler(popularity[:200], popularity[200:], (0.05, 0.2), 1, 32)
    drawn = [draw(np.random.default_rng(seed)) for seed in (0, 0, *range(1, 60))]
    np.testing.assert_array_equal(drawn[0].user, drawn[1].user)
    ratios = np.array([sizes.kept_ratio for sizes in drawn])
    assert ratios.min() >= 0.05 - 1e-3 and ratios.max() <= 0.2 and ratios.std() > 0.02
    splits = np.array([sizes.user.mean() / sizes.item.mean() for sizes in drawn])
    assert splits.min() < 0.5 and splits.max() > 2


def test_a_fixed_ratio_is_met_exactly_in_every_table():
    draw = allocation_sampler(np.arange(40), np.arange(60), (0.1, 0.1), 1, 16, num_tables=2)
    sizes = draw(np.random.default_rng(3))
    assert sizes.num_tables == 2
    assert sizes.num_params == pytest.approx(2 * 160)
