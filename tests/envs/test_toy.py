import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import TOY_SIZE_ENV_ID, mdp
from envs.errors import ConfigError, EmbeddingSizeError

KINDS = ("user", "item")


def make(**arguments):
    return gym.make(TOY_SIZE_ENV_ID, **({"num_users": 50, "num_items": 30} | arguments)).unwrapped


def test_gymnasium_finds_nothing_to_warn_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(TOY_SIZE_ENV_ID).unwrapped)


@pytest.mark.parametrize("memory_weight", [0.0, 0.4, 3.0])
def test_optimal_sizes_are_the_best_of_all_sizes(memory_weight):
    env = make(memory_weight=memory_weight, min_embedding_size=20)
    env.reset(seed=0)
    rewards = {kind: [] for kind in KINDS}
    every_size = np.arange(20, 129)
    for size in every_size:
        action = {kind: mdp.scale_size(np.full(n, size), 20, 128) for kind, n in (("user", 50), ("item", 30))}
        info = env.step(action)[-1]
        for kind in KINDS:
            assert (info[kind]["embedding_sizes"] == size).all()
            rewards[kind].append(info[kind]["reward"])
    for kind, optimum in env.optimal_sizes().items():
        best = every_size[np.argmax(rewards[kind], axis=0)]
        assert np.abs(best - optimum).max() <= 0.5 + 1e-3


def test_popularity_orders_users_up_and_items_down():
    env = make()
    obs, _ = env.reset(seed=0)
    for kind, sign in (("user", 1), ("item", -1)):
        order = np.argsort(obs[kind][:, 0])
        assert (sign * np.diff(env.optimal_sizes()[kind][order]) >= -1e-6).all()


def test_an_episode_starts_at_full_size_and_is_cut_at_its_length():
    env = make(episode_length=3)
    obs, _ = env.reset(seed=0)
    assert (obs["user"][:, 1:] == 1).all()
    env.action_space.seed(0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_reward_is_the_mean_of_the_entities():
    env = make(memory_weight=0.7)
    env.reset(seed=0)
    env.action_space.seed(1)
    obs, reward, *_, info = env.step(env.action_space.sample())
    each = np.concatenate([info[kind]["quality"] - 0.7 * info[kind]["memory_cost"] for kind in KINDS])
    assert reward == pytest.approx(each.mean(), abs=1e-6)
    assert env.observation_space.contains(obs)
    sizes = np.concatenate([info[kind]["embedding_sizes"] for kind in KINDS])
    assert info["kept_ratio"] == pytest.approx(sizes.mean() / 128)
    assert info["num_params"] == sizes.sum()


def test_a_snapshot_continues_exactly():
    env, other = make(), make()
    env.reset(seed=3)
    other.reset(seed=4)
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    other.set_state(env.get_state())
    action = env.action_space.sample()
    mine, theirs = env.step(action), other.step(action)
    for kind in KINDS:
        np.testing.assert_array_equal(mine[0][kind], theirs[0][kind])
    assert mine[1:4] == theirs[1:4]


@pytest.mark.parametrize(
    "arguments", [{"min_embedding_size": 0}, {"curvature": 0.0}, {"popularity_exponent": 1.0}]
)
def test_arguments_that_cannot_work_are_refused(arguments):
    with pytest.raises((ConfigError, EmbeddingSizeError)):
        make(**arguments)


@pytest.mark.parametrize("user", [np.zeros(49, np.float32), np.full(50, np.nan, np.float32)])
def test_actions_of_the_wrong_shape_or_not_finite_are_refused(user):
    env = make()
    env.reset(seed=0)
    with pytest.raises(EmbeddingSizeError, match="user"):
        env.step({"user": user, "item": np.zeros(30, np.float32)})
