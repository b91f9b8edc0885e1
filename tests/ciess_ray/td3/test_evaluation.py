import gymnasium as gym
import numpy as np
import pytest
import torch

from ciess_ray import metric_keys
from envs import TOY_SIZE_ENV_ID, mdp
from envs.errors import ConfigError, TrainingError
from envs.toy import ToySizeEnv

KINDS = ("user", "item")
TOY = {"num_users": 60, "num_items": 40, "max_embedding_size": 64, "episode_length": 3}


def evaluation(interval=2, duration=5, unit="timesteps"):
    return {
        "evaluation_interval": interval,
        "evaluation_duration": duration,
        "evaluation_duration_unit": unit,
    }


def first_greedy_sizes(algo):
    """What the actors ask for at the start of an episode."""
    obs, _ = gym.make(TOY_SIZE_ENV_ID, **TOY).unwrapped.reset()
    sizes = {}
    for kind in KINDS:
        with torch.no_grad():
            action = algo.get_module(kind).actor(torch.from_numpy(obs[kind])).numpy()
        sizes[kind] = np.rint(mdp.unscale_size(action, 1, 64))
    return sizes


def assert_same_training(mine, theirs):
    for kind in KINDS:
        for what in (
            lambda algo, kind=kind: algo.replay_buffers[kind].get_state(),
            lambda algo, kind=kind: algo.learner_group.get_state(components="learner/rl_module")["learner"][
                "rl_module"
            ][kind],
        ):
            theirs_of_kind = what(theirs)
            for name, value in what(mine).items():
                np.testing.assert_array_equal(value, theirs_of_kind[name], err_msg=f"{kind} {name}")


def test_evaluation_is_greedy_with_the_policy_of_the_moment_and_leaves_training_alone(make_algo):
    fields = {"target_ratio": 0.1, "memory_weight_lr": 0.3}
    plain = make_algo(TOY, **fields)
    algo = make_algo(TOY, evaluation=evaluation(), **fields)
    for iteration in range(1, 5):
        plain.train()
        result = algo.train()
        steps = algo.last_evaluation_steps
        if iteration % 2:
            assert steps == []
            assert "evaluation" not in result
            continue
        assert [(step.episode, step.step) for step in steps] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
        sizes = first_greedy_sizes(algo)
        for kind in KINDS:
            np.testing.assert_array_equal(steps[0].proposed_sizes[kind], sizes[kind])
        for step in steps:
            assert step.memory_weight == algo.memory_weight
            assert step.info["proposed_ratio"] == pytest.approx(step.greedy_ratio)
            assert step.walk_gain == 0 and not step.is_warmup
        for key in (metric_keys.QUALITY, metric_keys.KEPT_RATIO, metric_keys.REWARD):
            mean = np.mean([step.metrics()[key] for step in steps])
            assert result["evaluation"][key] == pytest.approx(mean)
    assert_same_training(plain, algo)
    assert [step.runner_step for step in algo.last_steps] == [3]


class SeededEnv(ToySizeEnv):
    """Tells the seed of its episode."""

    def reset(self, *, seed=None, options=None):
        self.episode_seed = seed
        return super().reset(seed=seed, options=options)

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, info | {"episode_seed": self.episode_seed}


def test_evaluations_draw_alike_and_otherwise_than_training(make_algo):
    from ray.tune.registry import register_env

    register_env("seeded", lambda context: SeededEnv(**context))
    algo = make_algo(TOY | {"episode_length": 1}, env="seeded", evaluation=evaluation(1, 2, "episodes"))
    trained, evaluated = [], []
    for _ in range(3):
        algo.train()
        trained += [step.info["episode_seed"] for step in algo.last_steps]
        evaluated.append([step.info["episode_seed"] for step in algo.last_evaluation_steps])
    assert evaluated[0] == evaluated[1] == evaluated[2]
    assert len({*trained, *evaluated[0]}) == 5


def test_a_restored_algorithm_evaluates_alike(make_algo, tmp_path):
    first = make_algo(TOY, evaluation=evaluation(interval=1))
    first.train()
    second = make_algo(TOY, evaluation=evaluation(interval=1))
    second.restore_from_path(first.save_to_path(tmp_path))
    for algo in (first, second):
        algo.train()
    for mine, theirs in zip(first.last_evaluation_steps, second.last_evaluation_steps, strict=True):
        assert mine.metrics() == theirs.metrics()
        np.testing.assert_array_equal(mine.embedding_sizes["user"], theirs.embedding_sizes["user"])


class FailingEnv(ToySizeEnv):
    def step(self, action):
        raise ValueError("no such luck")


def test_a_failing_environment_is_an_error(make_algo):
    from ray.tune.registry import register_env

    register_env("failing", lambda context: FailingEnv(**context))
    overrides = {"evaluation_config": {"env": "failing"}}
    algo = make_algo(TOY, evaluation=evaluation(interval=1) | overrides)
    with pytest.raises(TrainingError, match="no such luck"):
        algo.train()


def test_to_evaluate_without_having_said_so_is_refused(make_algo):
    with pytest.raises(ConfigError, match="evaluation_interval"):
        make_algo(TOY).evaluate()
