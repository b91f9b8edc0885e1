import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ciess_ray.exploration import (
    EXPLORATIONS,
    NOISES,
    RandomWalk,
    SizeGraph,
    build_exploration,
    pick_best,
    scale,
    seeded_generator,
    unscale,
)
from envs import mdp
from envs.errors import ConfigError, UnknownNameError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ciess.json").read_text())
BOUNDS = [(1, 128), (1, 3), (5, 7), (4, 4)]


def nearest_to(size):
    """A critic that likes sizes near one, on the scale 1..128."""
    return lambda obs, action: -(action - scale(torch.tensor([size]), 1, 128)).abs()


@pytest.mark.parametrize("start", ["1", "3", "64", "128"])
def test_transition_probabilities_match_the_reference(start):
    # Intended difference: near the bounds the reference pads to ten neighbours with about 1e-12 each, and an
    # IndexError where one is drawn; here they have no probability. `in_range` holds the intended ones.
    expected = GOLDEN["h_random_walk"]["start"][start]["in_range"]
    graph = SizeGraph(1, 128)
    probabilities = graph.transition_probabilities(torch.tensor([int(start)]))[0]
    got = {
        str(int(start) + int(offset)): float(p)
        for offset, p in zip(graph.offsets, probabilities, strict=True)
        if p > 0
    }
    assert got.keys() == expected.keys()
    assert [got[size] for size in expected] == pytest.approx(list(expected.values()), abs=1e-9)


def test_scale_matches_the_reference_and_the_environment():
    golden = GOLDEN["i_normalise_actions"]
    got = scale(torch.tensor(golden["actions"]), 1, 128)
    np.testing.assert_allclose(got, golden["normalised"], atol=1e-6)
    np.testing.assert_array_equal(got, mdp.scale_size(np.array(golden["actions"]), 1, 128))
    np.testing.assert_allclose(unscale(got, 1, 128), golden["actions"], atol=1e-4)


def test_pick_best_matches_the_reference_and_takes_the_first_of_equals():
    golden = GOLDEN["j_pick_max"]
    picked = pick_best(torch.tensor(golden["candidates"]), torch.tensor(golden["values"]))
    assert picked.tolist() == golden["picked"]
    assert pick_best(torch.tensor([[3, 4, 5]]), torch.tensor([[1.0, 2.0, 2.0]])).tolist() == [4]


def test_walks_are_drawn_with_their_probabilities():
    graph = SizeGraph(1, 128)
    for start in (1, 3, 64, 126, 128):
        starts = torch.full((200_000,), start)
        first = graph.random_walk(starts, 1, seeded_generator(0, start))[:, 1]
        counted = torch.stack([(first == start + offset).double().mean() for offset in graph.offsets])
        exact = graph.transition_probabilities(starts[:1])[0]
        assert (counted - exact).abs().max() < 0.005


@pytest.mark.parametrize("bounds", BOUNDS)
def test_walks_stay_in_bounds_and_move_at_every_step(bounds):
    graph = SizeGraph(*bounds)
    start = torch.randint(bounds[0], bounds[1] + 1, (5000,), generator=seeded_generator(1))
    walk = graph.random_walk(start, 5, seeded_generator(2))
    assert walk.shape == (5000, 6)
    assert (walk[:, 0] == start).all()
    assert walk.min() >= bounds[0] and walk.max() <= bounds[1]
    moves = walk.diff(dim=1).abs()
    assert moves.max() <= 5
    assert (moves > 0).all() == (bounds[0] < bounds[1])
    assert torch.equal(walk, graph.random_walk(start, 5, seeded_generator(2)))


class TestEveryExploration:
    @pytest.fixture(params=[(name, noise) for name in EXPLORATIONS for noise in NOISES], ids="-".join)
    def spec(self, request):
        return {"name": request.param[0], "noise": request.param[1]}

    @pytest.mark.parametrize("bounds", BOUNDS)
    def test_actions_are_in_range_and_follow_the_seed(self, spec, bounds):
        obs = torch.zeros(300, 3)
        proto_action = torch.linspace(-1, 1, 300)
        actions = []
        for _ in range(2):
            exploration = build_exploration(spec, *bounds)
            generator = seeded_generator(5)
            for _ in range(2):
                action = exploration.explore(obs, proto_action, nearest_to(64), generator)
            actions.append(action)
        assert actions[0].shape == (300,) and actions[0].dtype == torch.float32
        assert actions[0].abs().max() <= 1
        assert torch.equal(*actions)

    def test_state_continues_an_episode(self, spec):
        obs, proto_action = torch.zeros(50, 3), torch.zeros(50)
        first, second = (build_exploration(spec, 1, 128) for _ in range(2))
        first.explore(obs, proto_action, nearest_to(64), seeded_generator(0))
        second.set_state(first.get_state())
        follow = [e.explore(obs, proto_action, nearest_to(64), seeded_generator(1)) for e in (first, second)]
        assert torch.equal(*follow)


def test_the_walk_ends_at_the_candidate_the_critic_likes_whatever_the_chunks():
    obs, proto_action = torch.zeros(1000, 3), torch.zeros(1000)
    walks = [
        RandomWalk(NOISES["none"](), 1, 128, num_steps=5, chunk_rows=rows).explore(
            obs, proto_action, nearest_to(90), seeded_generator(3)
        )
        for rows in (1, 60, 10_000)
    ]
    assert torch.equal(walks[0], walks[1]) and torch.equal(walks[1], walks[2])
    sizes = unscale(walks[0], 1, 128)
    assert (sizes >= 64).all() and sizes.mean() > 66


def test_noise_has_the_deviation_it_says():
    for name, expected in (("gaussian", 6.0), ("uniform", 6.0)):
        sample = NOISES[name]().sample(100_000, seeded_generator(0))
        assert sample.std().item() == pytest.approx(expected, rel=0.02)
    process = NOISES["ornstein_uhlenbeck"]()
    generator = seeded_generator(0)
    for _ in range(60):
        sample = process.sample(100_000, generator)
    assert sample.std().item() == pytest.approx(3.0 / (1 - 0.85**2) ** 0.5, rel=0.02)
    process.reset()
    assert process.sample(100_000, generator).std().item() == pytest.approx(3.0, rel=0.02)


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(UnknownNameError, match="random_walk"):
        build_exploration({"name": "random_wlk"}, 1, 128)
    with pytest.raises(UnknownNameError, match="gaussian"):
        build_exploration({"noise": "gausian"}, 1, 128)
    with pytest.raises(ConfigError, match="steps"):
        build_exploration({"name": "random_walk", "steps": 3}, 1, 128)
    with pytest.raises(ConfigError, match="max_step"):
        build_exploration({"name": "random_walk", "max_step": 0}, 1, 128)
