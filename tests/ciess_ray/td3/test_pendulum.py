import gymnasium as gym
import numpy as np
import pytest
import torch
from pendulum_table import PENDULUM_TABLE_ENV_ID

from ciess_ray.td3.algorithm import TD3

#: A pendulum that hangs or spins returns some -1200; one that is swung up and held, -150 to -200.
ON_ITS_WAY = -300.0


@pytest.fixture
def algo(ray_cluster):
    config = (
        TD3.get_default_config()
        .environment(PENDULUM_TABLE_ENV_ID)
        .training(
            hiddens=(64, 64),
            gamma=0.99,
            imitation_weight=0.0,
            tau=0.02,
            updates_per_step=8,
            train_batch_size_per_learner=256,
            exploration_spec={"name": "noise", "noise": {"name": "gaussian", "sigma": 10.0}},
            memory_weight=0.0,
        )
        .debugging(seed=0, log_level="ERROR")
    )
    algo = config.build_algo()
    yield algo
    algo.stop()


def greedy_returns(algo, seeds):
    """The return of each pendulum and start, shape (16 * len(seeds),), the actors alone."""
    env = gym.make(PENDULUM_TABLE_ENV_ID)
    returns = []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        is_over, total = False, 0.0
        while not is_over:
            with torch.no_grad():
                action = {k: algo.get_module(k).actor(torch.from_numpy(o)).numpy() for k, o in obs.items()}
            obs, _, _, is_over, info = env.step(action)
            total = total + np.concatenate([info[kind]["quality"] for kind in obs])
        returns.append(total)
    return np.concatenate(returns)


def test_td3_learns_to_swing_pendula_up(algo):
    seeds = (1000, 1001)
    untrained = greedy_returns(algo, seeds).mean()
    assert untrained < -900.0
    for num_steps in range(200, 601, 50):
        while algo.num_table_steps < num_steps:
            algo.train()
        returns = greedy_returns(algo, seeds)
        if returns.mean() > ON_ITS_WAY:
            break
    assert returns.mean() > ON_ITS_WAY
    # Users and items have actors of their own: both have learnt.
    is_user = np.tile(np.arange(16) < 8, len(seeds))
    assert returns[is_user].mean() > -400.0 and returns[~is_user].mean() > -400.0
