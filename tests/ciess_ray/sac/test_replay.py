"""Draws by recency, beside values of an independent implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from ciess_ray.sac.replay import RecencyReplayBuffer, batch_size_of, draw_weights

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"


def pieces(num_steps, first=0):
    """An episode of observations 0, 1, ..., action i and reward i between i and i + 1."""
    steps = np.arange(first, first + num_steps)
    episode = SingleAgentEpisode(len_lookback_buffer=0)
    episode.add_env_reset(observation=np.full(2, first, np.float32))
    for step in steps:
        episode.add_env_step(np.full(2, step + 1, np.float32), np.full(1, step, np.float32), float(step))
    return [episode.to_numpy()]


def test_the_weights_and_batches_are_scalls():
    case = json.loads(GOLDEN.read_text())["cases"]["scall.replay_weights"]
    given, out = case["inputs"]["num_stored"], case["outputs"]
    np.testing.assert_allclose(draw_weights(4), out["probabilities_of_4"], rtol=0, atol=1e-8)
    assert [batch_size_of(num_stored, 8) for num_stored in given] == out["batch_sizes"]
    assert batch_size_of(12, 8) == 1


def test_the_recent_are_drawn_more_and_none_twice():
    buffer = RecencyReplayBuffer(100, seed=0)
    buffer.add(pieces(20))
    counts = np.zeros(20)
    for _ in range(300):
        batch = buffer.sample(num_items=8)
        drawn = [int(episode.get_rewards(0)) for episode in batch]
        assert len(set(drawn)) == len(drawn) == 8
        counts[drawn] += 1
    assert counts[:5].sum() < 0.4 * counts[-5:].sum() and counts[0] > 0
    (first, second), (action,) = batch[0].get_observations(), batch[0].get_actions()
    assert first[0] == action[0] == second[0] - 1 == batch[0].get_rewards(0)


def test_the_oldest_go_first_though_an_episode_never_ends():
    buffer = RecencyReplayBuffer(5, seed=0)
    buffer.add(pieces(4))
    buffer.add(pieces(3, first=4))
    assert len(buffer) == 5
    assert buffer.get_state()["reward"].tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("num_steps", [0, 20])
def test_a_state_goes_on_exactly(num_steps):
    first, second = (RecencyReplayBuffer(50, seed=3) for _ in range(2))
    first.add(pieces(num_steps))
    if num_steps:
        first.sample(num_items=8)
    second.set_state(first.get_state())
    for buffer in (first, second):
        buffer.add(pieces(15, first=20))
    draws = [[e.get_rewards(0) for e in buffer.sample(num_items=8)] for buffer in (first, second)]
    assert draws[0] == draws[1]
