import pytest

from ciess_ray.searches.candidates import scaled_exploration
from ciess_ray.td3.exploration import build_exploration


@pytest.mark.parametrize(
    ("mean_size", "sigma", "max_step"), [(2.56, 0.64, 1), (12.8, 3.2, 3), (25.6, 6.0, 5), (100.0, 6.0, 5)]
)
def test_what_is_left_open_suits_the_budget_and_is_ciess_at_its_largest(mean_size, sigma, max_step):
    for spec in ({}, {"noise": "gaussian"}, {"name": "random_walk", "noise": {"name": "gaussian"}}):
        exploration = build_exploration(scaled_exploration(spec, mean_size), 1, 128)
        assert exploration.noise.keywords["sigma"] == pytest.approx(sigma)
        assert len(exploration.graph.offsets) == 2 * max_step


def test_what_is_said_stays():
    spec = {"name": "random_walk", "noise": {"name": "gaussian", "sigma": 2.0}, "max_step": 4, "num_steps": 2}
    assert scaled_exploration(spec, 5.0) == spec
    assert scaled_exploration({"name": "noise", "noise": "uniform"}, 5.0) == {
        "name": "noise",
        "noise": {"name": "uniform"},
    }
