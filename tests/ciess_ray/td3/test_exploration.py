import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ciess_ray.td3.exploration import (
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

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "ciess.json").read_text())
BOUNDS = [(1, 128), (1, 3), (5, 7), (4, 4)]


def nearest_to(size):
    """A critic that likes sizes near one, on the scale 1..128."""
    return lambda inputs: -(inputs[..., 3] - scale(torch.tensor([size]), 1, 128)).abs()


@pytest.mark.parametrize("start", ["1", "3", "64", "128"])
def test_transition_probabilities_match_the_reference(start):
    # Intended difference: near the bounds the reference pads to ten neighbours with about 1e-12 each, and an
    # IndexError where one is drawn; here they have no probability. `in_range` holds the intended ones.
    expected = GOLDEN["h_random_walk"]["start"][start]["in_range"]
    graph = SizeGraph(1, 128)
    probabilities = graph.probabilities[int(start) - 1]
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
    values = torch.tensor(golden["values"])
    picked, best_values = pick_best(torch.tensor(golden["candidates"]), values)
    assert picked.tolist() == golden["picked"]
    assert best_values.tolist() == values.max(dim=1).values.tolist()
    picked, best_values = pick_best(torch.tensor([[3, 4, 5]]), torch.tensor([[1.0, 2.0, 2.0]]))
    assert picked.tolist() == [4] and best_values.tolist() == [2.0]


def test_walks_are_drawn_with_their_probabilities():
    graph = SizeGraph(1, 128)
    for start in (1, 3, 64, 126, 128):
        starts = torch.full((200_000,), start)
        first = graph.random_walk(starts, 1, seeded_generator(0, start))[:, 1]
        counted = torch.stack([(first == start + offset).double().mean() for offset in graph.offsets])
        assert (counted - graph.probabilities[start - 1]).abs().max() < 0.005


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


OF_THE_REFERENCE = {
    "noise": {"is_noise_shared": True},
    "random_walk": {"is_noise_shared": True, "is_noise_last": True},
}


class TestEveryExploration:
    @pytest.fixture(params=[(name, noise) for name in EXPLORATIONS for noise in NOISES], ids="-".join)
    def names(self, request):
        return {"name": request.param[0], "noise": request.param[1]}

    @pytest.fixture(params=["paper", "reference"])
    def spec(self, names, request):
        return names | (OF_THE_REFERENCE[names["name"]] if request.param == "reference" else {})

    @pytest.mark.parametrize("bounds", BOUNDS)
    def test_actions_are_in_range_and_follow_the_seed(self, spec, bounds):
        obs = torch.zeros(300, 3)
        proto_action = torch.linspace(-1, 1, 300)
        actions = []
        for _ in range(2):
            exploration = build_exploration(spec, *bounds)
            generator = seeded_generator(5)
            for _ in range(2):
                explored = exploration.explore(obs, proto_action, nearest_to(64), generator)
            assert explored.walk_gains.shape == (300,) and explored.walk_gains.min() >= 0
            actions.append(explored.actions)
        assert actions[0].shape == (300,) and actions[0].dtype == torch.float32
        assert actions[0].abs().max() <= 1
        assert torch.equal(*actions)


def test_the_walk_takes_the_first_of_its_sizes_that_the_critic_likes_best_and_says_what_it_gained():
    obs, proto_action = torch.zeros(1000, 3), torch.zeros(1000)
    actions, gains = RandomWalk(NOISES["none"], 1, 128).explore(
        obs, proto_action, nearest_to(66), seeded_generator(3)
    )
    start = torch.full((1000,), 64)
    walk = SizeGraph(1, 128).random_walk(start, 5, seeded_generator(3))
    values = -(scale(walk, 1, 128) - scale(torch.tensor([66]), 1, 128)).abs()
    expected = walk.gather(1, values.argmax(dim=1, keepdim=True)).squeeze(1)
    assert torch.equal(actions, scale(expected, 1, 128))
    # The critic counts distance in actions, of which a size is 2 / 127.
    by_hand = 2.0 - (expected - 66).abs()
    assert torch.allclose(gains, by_hand * 2 / 127, atol=1e-6)
    assert (gains == 0).any() and (by_hand == 2).any()


def test_noise_alone_has_no_walk_to_gain_by():
    exploration = build_exploration({"name": "noise"}, 1, 128)
    explored = exploration.explore(torch.zeros(50, 3), torch.zeros(50), nearest_to(90), seeded_generator(0))
    assert explored.walk_gains.tolist() == [0.0] * 50


def test_a_size_that_a_walk_comes_back_to_is_scored_once():
    scored = []

    def critic(inputs):
        scored.append(torch.stack([inputs[:, 0].long(), inputs[:, 3].mul(127).round().long()], dim=1))
        return torch.zeros(len(inputs))

    obs = torch.arange(500.0).unsqueeze(1).expand(500, 3)
    RandomWalk(NOISES["none"], 1, 128).explore(obs, torch.zeros(500), critic, seeded_generator(0))
    pairs = torch.cat(scored)
    assert 500 * 4 < len(pairs) < 500 * 6
    assert len(pairs.unique(dim=0)) == len(pairs)


class TestSharedNoise:
    """The authors' released code: one number of noise for all entities, added after the walk."""

    OBS = torch.zeros(200, 3)
    SPEC = {"name": "random_walk", "is_noise_shared": True, "is_noise_last": True}

    @pytest.mark.parametrize("noise", ["gaussian", "uniform"])
    def test_every_entity_is_moved_alike_and_users_otherwise_than_items(self, noise):
        proto_action = torch.linspace(-0.2, 0.2, 200)
        generator = seeded_generator(0)
        shifts = []
        for _ in ("user", "item"):
            spec = {"name": "noise", "noise": noise, "is_noise_shared": True}
            exploration = build_exploration(spec, 1, 128)
            explored = exploration.explore(self.OBS, proto_action, nearest_to(64), generator)
            shift = unscale(explored.actions, 1, 128) - unscale(proto_action, 1, 128)
            assert torch.allclose(shift, shift[:1].expand(200), atol=1e-4) and shift[0].abs() > 1e-3
            shifts.append(shift[0].item())
        assert abs(shifts[0] - shifts[1]) > 0.1

    def test_after_the_walk_it_moves_what_the_critic_chose(self):
        proto_action = torch.linspace(-0.2, 0.2, 200)
        explored = [
            build_exploration(self.SPEC | {"noise": noise}, 1, 128).explore(
                self.OBS, proto_action, nearest_to(100), seeded_generator(1)
            )
            for noise in ("none", "gaussian")
        ]
        chosen, tried = (unscale(actions, 1, 128) for actions, _ in explored)
        # What the walk has gained is the same, whatever the noise makes of it afterwards.
        assert torch.equal(explored[0].walk_gains, explored[1].walk_gains)
        start = unscale(proto_action, 1, 128).round()
        # The critic's choice is a size that the walk from the actor's own has met.
        assert torch.allclose(chosen, chosen.round(), atol=1e-4)
        climbed = (chosen - start).round()
        assert climbed.min() >= 0 and 0 < climbed.max() <= 25
        shift = tried - chosen
        assert torch.allclose(shift, shift[:1].expand(200), atol=1e-4) and shift[0].abs() > 1e-3

    def test_no_size_leaves_the_bounds(self):
        proto_action = torch.linspace(-1, 1, 200)
        spec = self.SPEC | {"noise": {"name": "gaussian", "sigma": 60.0}}
        reached = set()
        for seed in range(8):
            actions, _ = build_exploration(spec, 5, 90).explore(
                self.OBS, proto_action, nearest_to(64), seeded_generator(seed)
            )
            assert actions.abs().max() <= 1
            reached |= {actions.min().item(), actions.max().item()}
        assert {-1.0, 1.0} <= reached


def test_noise_has_the_deviation_it_says():
    for name in ("gaussian", "uniform"):
        sample = NOISES[name](100_000, seeded_generator(0))
        assert sample.std().item() == pytest.approx(6.0, rel=0.02)


def test_unknown_names_and_arguments_are_refused():
    with pytest.raises(UnknownNameError, match="random_walk"):
        build_exploration({"name": "random_wlk"}, 1, 128)
    with pytest.raises(UnknownNameError, match="gaussian"):
        build_exploration({"noise": "gausian"}, 1, 128)
    with pytest.raises(ConfigError, match="steps"):
        build_exploration({"name": "random_walk", "steps": 3}, 1, 128)
    with pytest.raises(ConfigError, match="is_noise_last"):
        build_exploration({"name": "noise", "is_noise_last": True}, 1, 128)
    with pytest.raises(ConfigError, match="max_step"):
        build_exploration({"name": "random_walk", "max_step": 0}, 1, 128)
