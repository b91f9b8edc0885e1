import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pendulum_table import PENDULUM_TABLE_ENV_ID

from envs.errors import ConfigError, EmbeddingSizeError

KINDS = ("user", "item")


def make(**arguments):
    return gym.make(PENDULUM_TABLE_ENV_ID, **arguments).unwrapped


def test_gymnasium_finds_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make())


def test_every_entity_is_a_pendulum_of_gymnasium():
    env = make(num_users=3, num_items=2)
    obs, _ = env.reset(seed=0)
    state = env.get_state()["pendula"]
    rng = np.random.default_rng(0)
    theirs = {kind: [gym.make("Pendulum-v1") for _ in rows] for kind, rows in state.items()}
    for kind, pendula in theirs.items():
        for row, pendulum in enumerate(pendula):
            pendulum.reset(seed=0)
            pendulum.unwrapped.state = state[kind][row]
    assert len(np.unique(np.concatenate(list(state.values())))) == 10
    for _ in range(30):
        action = {kind: rng.uniform(-1, 1, len(rows)).astype(np.float32) for kind, rows in state.items()}
        obs, reward, terminated, _, info = env.step(action)
        assert not terminated
        rewards = []
        for kind, pendula in theirs.items():
            for row, pendulum in enumerate(pendula):
                their_obs, their_reward, *_ = pendulum.step([2.0 * action[kind][row]])
                np.testing.assert_array_equal(obs[kind][row] * [1, 1, 8], their_obs)
                assert info[kind]["quality"][row] == np.float32(their_reward)
                rewards.append(their_reward)
        assert reward == pytest.approx(np.mean(rewards), rel=1e-6)
        assert env.observation_space.contains(obs)


def test_info_has_what_an_env_runner_reads():
    env = make(num_users=3, num_items=1, memory_weight=5.0)
    env.reset(seed=0)
    action = {"user": np.array([-1.0, 0.0, 1.0], np.float32), "item": np.array([0.5], np.float32)}
    *_, info = env.step(action)
    assert info["user"]["embedding_sizes"].tolist() == [1, 101, 201]
    assert info["item"]["proposed_sizes"].tolist() == [151]
    assert info["kept_ratio"] == info["proposed_ratio"] == pytest.approx((1 + 101 + 201 + 151) / 4 / 201)
    for kind in KINDS:
        assert (info[kind]["memory_cost"] == 0).all()
        np.testing.assert_array_equal(info[kind]["reward"], info[kind]["quality"])


def test_an_episode_is_cut_at_its_length_and_never_terminates():
    env = make(episode_length=3)
    env.reset(seed=0)
    env.action_space.seed(0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_seeds_decide_the_start():
    env = make()
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    unseeded = env.reset()[0]
    for kind in KINDS:
        np.testing.assert_array_equal(first[kind], again[kind])
        assert not np.array_equal(first[kind], other[kind])
        assert not np.array_equal(other[kind], unseeded[kind])
    assert not np.array_equal(first["user"], first["item"])


def test_a_snapshot_continues_exactly():
    env, other = make(episode_length=4), make(episode_length=4)
    env.reset(seed=3)
    other.reset(seed=4)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    other.set_state(env.get_state())
    for _ in range(3):
        action = env.action_space.sample()
        mine, theirs = env.step(action), other.step(action)
        for kind in KINDS:
            np.testing.assert_array_equal(mine[0][kind], theirs[0][kind])
            np.testing.assert_array_equal(mine[-1][kind]["quality"], theirs[-1][kind]["quality"])
        assert mine[1:4] == theirs[1:4]
    for kind in KINDS:
        np.testing.assert_array_equal(env.reset()[0][kind], other.reset()[0][kind])


@pytest.mark.parametrize("arguments", [{"num_users": 0}, {"num_items": 0}, {"episode_length": 0}])
def test_arguments_that_cannot_work_are_refused(arguments):
    with pytest.raises(ConfigError):
        make(**arguments)


@pytest.mark.parametrize("user", [np.zeros(7, np.float32), np.full(8, np.nan, np.float32)])
def test_actions_of_the_wrong_shape_or_not_finite_are_refused(user):
    env = make()
    env.reset(seed=0)
    with pytest.raises(EmbeddingSizeError, match="user"):
        env.step({"user": user, "item": np.zeros(8, np.float32)})
