import numpy as np
import pytest

from ciess_ray.env_runner import TableEnvRunner
from ciess_ray.td3.algorithm import TD3Config
from envs import TOY_SIZE_ENV_ID
from envs.errors import ConfigError, TrainingError
from envs.toy import ToySizeEnv

KINDS = ("user", "item")
TOY = {"num_users": 40, "num_items": 30, "episode_length": 3}


@pytest.fixture
def make_runner(ray_cluster):
    def make(env=TOY_SIZE_ENV_ID, env_config=TOY, seed=0, **training):
        config = (
            TD3Config()
            .environment(env, env_config=env_config)
            .training(hiddens=(16,), **training)
            .debugging(seed=seed)
        )
        return TableEnvRunner(config=config, worker_index=0)

    return make


def same(mine, theirs):
    for kind in KINDS:
        for name, column in mine.transitions[kind].items():
            np.testing.assert_array_equal(column, theirs.transitions[kind][name])
        np.testing.assert_array_equal(mine.step.proposed_sizes[kind], theirs.step.proposed_sizes[kind])


def test_a_rollout_has_one_row_an_entity_and_what_a_search_remembers(make_runner):
    rollouts = make_runner().sample(num_timesteps=4)
    assert [(r.step.episode, r.step.step, r.step.runner_step) for r in rollouts] == [
        (0, 0, 0),
        (0, 1, 1),
        (0, 2, 2),
        (1, 0, 3),
    ]
    for rollout in rollouts:
        assert rollout.env_steps() == 1 and rollout.agent_steps() == 70
        assert rollout.step.proposed_sizes["user"].dtype == np.int16
        assert {"kept_ratio", "proposed_ratio", "quality", "num_params"} <= rollout.step.info.keys()
        sizes = np.concatenate([rollout.step.embedding_sizes[kind] for kind in KINDS])
        assert rollout.step.info["kept_ratio"] == pytest.approx(sizes.mean() / 128)
        for kind, count in (("user", 40), ("item", 30)):
            columns = rollout.transitions[kind]
            assert columns["obs"].shape == columns["next_obs"].shape == (count, 3)
            assert columns["action"].shape == columns["quality"].shape == (count,)
            assert not columns["terminated"].any()
    same_episode = rollouts[0].transitions["user"]["next_obs"], rollouts[1].transitions["user"]["obs"]
    np.testing.assert_array_equal(*same_episode)
    assert (rollouts[3].transitions["user"]["obs"][:, 1] == 1).all()


def test_exploration_differs_by_step_and_greed_does_not(make_runner):
    runner = make_runner()
    actions = [r.transitions["user"]["action"] for r in runner.sample(num_timesteps=2)]
    assert not np.array_equal(*actions)
    greedy = make_runner(env_config=TOY | {"episode_length": 1}).sample(num_timesteps=2, explore=False)
    np.testing.assert_array_equal(*[r.transitions["user"]["action"] for r in greedy])
    sizes = np.concatenate([greedy[0].step.proposed_sizes[kind] for kind in KINDS])
    assert greedy[0].step.greedy_ratio == pytest.approx(sizes.mean() / 128)


def test_one_seed_gives_identical_transitions_and_another_does_not(make_runner):
    first, second, other = (make_runner(seed=seed) for seed in (3, 3, 4))
    second.module.set_state(first.module.get_state())
    other.module.set_state(first.module.get_state())
    for mine, theirs in zip(first.sample(num_timesteps=5), second.sample(num_timesteps=5), strict=True):
        same(mine, theirs)
    with pytest.raises(AssertionError):
        same(first.sample()[0], other.sample()[0])


@pytest.mark.parametrize("noise", ["gaussian", "ornstein_uhlenbeck"])
def test_a_restored_runner_continues_mid_episode(make_runner, noise):
    spec = {"name": "random_walk", "noise": noise}
    first, second = (make_runner(exploration_spec=spec) for _ in range(2))
    first.sample(num_timesteps=2)
    second.set_state(first.get_state())
    for mine, theirs in zip(first.sample(num_timesteps=4), second.sample(num_timesteps=4), strict=True):
        same(mine, theirs)


def test_a_runner_takes_up_no_other_runners_progress(make_runner):
    runner = make_runner()
    runner.set_state({"progress": runner.get_progress() | {"worker_index": 1, "num_steps": 7}})
    assert runner.sample()[0].step.runner_step == 0


def test_older_weights_are_ignored(make_runner):
    runner = make_runner()
    newer, older = make_runner(seed=1).module.get_state(), make_runner(seed=2).module.get_state()
    runner.set_state({"rl_module": newer, "weights_seq_no": 5})
    runner.set_state({"rl_module": older, "weights_seq_no": 4})
    np.testing.assert_array_equal(
        runner.module.get_state()["user"]["actor.net.0.weight"], newer["user"]["actor.net.0.weight"]
    )


def test_warmup_acts_on_popularity_with_users_and_items_apart(make_runner):
    runner = make_runner(num_warmup_steps=3, target_ratio=0.1)
    rollouts = runner.sample(num_timesteps=4)
    assert [r.step.is_warmup for r in rollouts] == [True, True, True, False]
    means = [[r.step.proposed_sizes[kind].mean() for kind in KINDS] for r in rollouts[:3]]
    assert np.unique(np.round(means, 3)).size == 6
    assert not any(r.step.is_warmup for r in make_runner(num_warmup_steps=3).sample(explore=False))


def test_memory_weight_changes_the_reward_and_not_the_transition(make_runner):
    first, second = make_runner(), make_runner(memory_weight=0.4)
    second.module.set_state(first.module.get_state())
    second.set_memory_weight(2.0)
    mine, theirs = first.sample()[0], second.sample()[0]
    same(mine, theirs)
    assert theirs.step.memory_weight == 2.0 and theirs.step.reward < mine.step.reward


class CountingEnv(ToySizeEnv):
    """Fails at the calls of step listed in ``failures``, counted over all its copies."""

    num_calls = 0
    failures: tuple[int, ...] = ()

    def step(self, action):
        CountingEnv.num_calls += 1
        if CountingEnv.num_calls in CountingEnv.failures:
            raise ValueError("no such luck")
        return super().step(action)


@pytest.fixture
def counting_env(ray_cluster):
    from ray.tune.registry import register_env

    def create(context):
        assert isinstance(context["num_users"], int)
        return CountingEnv(**context)

    register_env("counting", create)
    CountingEnv.num_calls, CountingEnv.failures = 0, ()
    return "counting"


def test_object_references_are_fetched_before_the_environment_is_built(
    make_runner, counting_env, ray_cluster
):
    runner = make_runner(counting_env, {"num_users": ray_cluster.put(25), "num_items": 10})
    assert runner.sample()[0].agent_steps() == 35


def test_a_failed_step_starts_a_new_episode_only_where_that_is_allowed(make_runner, counting_env):
    CountingEnv.failures = (2,)
    with pytest.raises(RuntimeError):
        make_runner(counting_env).sample(num_timesteps=3)
    CountingEnv.num_calls = 0
    runner = make_runner(counting_env)
    runner.config.restart_failed_sub_environments = True
    assert [r.step.episode for r in runner.sample(num_timesteps=3)] == [0, 1, 1]


def test_an_environment_that_keeps_failing_is_an_error(make_runner, counting_env):
    CountingEnv.failures = tuple(range(1, 100))
    runner = make_runner(counting_env)
    runner.config.restart_failed_sub_environments = True
    with pytest.raises(TrainingError, match="3 times"):
        runner.sample()


def test_an_environment_that_is_no_name_is_refused(make_runner):
    with pytest.raises(ConfigError, match="registered name"):
        make_runner(ToySizeEnv)
