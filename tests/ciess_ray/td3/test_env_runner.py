import numpy as np
import pytest
import torch

from ciess_ray import metric_keys
from ciess_ray.streams import Stream
from ciess_ray.td3.algorithm import TD3
from ciess_ray.td3.env_runner import TableEnvRunner
from ciess_ray.td3.exploration import seeded_generator
from ciess_ray.td3.rollout import decile_means, rollouts_of
from envs import TOY_SIZE_ENV_ID
from envs.errors import TrainingError
from envs.toy import ToySizeEnv

KINDS = ("user", "item")
TOY = {"num_users": 40, "num_items": 30, "episode_length": 3}


@pytest.fixture
def make_runner(ray_cluster):
    def make(env=TOY_SIZE_ENV_ID, env_config=TOY, seed=0, **training):
        config = (
            TD3.get_default_config()
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


class TestDeciles:
    def test_two_entities_a_tenth(self):
        means = decile_means(np.arange(20) * 7, np.arange(20))
        np.testing.assert_allclose(means, np.arange(10) * 2 + 0.5)

    def test_entities_of_one_popularity_count_with_their_mean(self):
        # Ranks 0-4 have popularity 1 and sizes of mean 3, ranks 5-6 popularity 2, ranks 7-9 popularity 5.
        popularity = np.array([5, 1, 1, 2, 1, 5, 1, 2, 1, 5])
        sizes = np.array([30, 1, 2, 10, 3, 60, 4, 20, 5, 90])
        expected = [3, 3, 3, 3, 3, 15, 15, 60, 60, 60]
        np.testing.assert_allclose(decile_means(popularity, sizes), expected)
        order = np.random.default_rng(0).permutation(10)
        np.testing.assert_allclose(decile_means(popularity[order], sizes[order]), expected)

    def test_an_entity_across_a_border_counts_on_both_sides(self):
        means = decile_means(np.array([1, 2, 3, 4]), np.array([10, 20, 30, 40]))
        np.testing.assert_allclose(means, [10, 10, 15, 20, 20, 30, 30, 35, 40, 40])

    def test_all_alike_and_a_single_one(self):
        np.testing.assert_allclose(decile_means(np.zeros(7), np.arange(7)), [3] * 10)
        np.testing.assert_allclose(decile_means(np.zeros(1), np.array([5])), [5] * 10)


class RestlessEnv(ToySizeEnv):
    """Every step hands each entity another's popularity."""

    def step(self, action):
        self._popularity = {kind: np.roll(popularity, 1) for kind, popularity in self._popularity.items()}
        return super().step(action)


def test_deciles_are_of_the_executed_sizes_and_of_the_popularity_that_was_observed(make_runner):
    from ray.tune.registry import register_env

    register_env("restless", lambda context: RestlessEnv(**context))
    for rollout in make_runner("restless").sample(num_timesteps=2):
        logged = rollout.step.metrics()
        for kind, keys in (
            ("user", metric_keys.USER_SIZE_DECILES),
            ("item", metric_keys.ITEM_SIZE_DECILES),
        ):
            popularity = rollout.transitions[kind]["obs"][:, 0]
            expected = decile_means(popularity, rollout.step.embedding_sizes[kind])
            assert [logged[key] for key in keys] == pytest.approx(expected)
            assert expected.mean() == pytest.approx(rollout.step.embedding_sizes[kind].mean())


def test_the_walk_gain_is_the_mean_over_users_and_items_and_none_where_none_walks(make_runner):
    runner = make_runner()
    twin = make_runner()
    twin.module.set_state(runner.module.get_state())
    (rollout,) = runner.sample(num_timesteps=1)
    generator = seeded_generator(*twin._key(Stream.EXPLORATION, 0))
    gains = []
    for kind in KINDS:
        obs, module = torch.from_numpy(rollout.transitions[kind]["obs"]), twin.module[kind]
        proto_action = module.forward_inference({"obs": obs})["actions"]
        explored = twin.exploration.explore(obs, proto_action, module.critic_1.infer, generator)
        gains.append(explored.walk_gains)
    assert [len(gain) for gain in gains] == [40, 30]
    assert 0 < rollout.step.walk_gain == pytest.approx(torch.cat(gains).mean().item())
    assert runner.sample(num_timesteps=1, explore=False)[0].step.walk_gain == 0
    plain = make_runner(exploration_spec={"name": "noise"})
    assert plain.sample(num_timesteps=1)[0].step.walk_gain == 0


def test_networks_infer_what_they_compute_whatever_the_chunks():
    from ciess_ray.td3.module import Actor, Critic

    actor, critic = Actor((16, 8)), Critic((16, 8))
    obs, action = torch.rand(1000, 3), torch.rand(1000)
    inputs = torch.cat([obs, action.unsqueeze(1)], dim=1)
    for rows in (1, 7, 999, 1000, 5000):
        for net in (actor.net, critic.net):
            net.chunk_rows, net._hidden = rows, []
        for _ in range(2):
            torch.testing.assert_close(actor.infer(obs), actor(obs).detach())
            torch.testing.assert_close(critic.infer(inputs), critic(obs, action).detach())
    assert all(name.endswith(("weight", "bias")) for name in actor.state_dict())


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


def test_a_restored_runner_continues_mid_episode(make_runner):
    first, second = make_runner(), make_runner()
    first.sample(num_timesteps=2)
    second.set_state(first.get_state())
    second.set_progress(first.get_progress())
    for mine, theirs in zip(first.sample(num_timesteps=4), second.sample(num_timesteps=4), strict=True):
        same(mine, theirs)


def test_a_policy_of_the_warmup_takes_one_step_on_popularity_with_users_and_items_apart(make_runner):
    def sizes(runner, user, item):
        policy = {"user": np.array(user), "item": np.array(item)}
        first, second = runner.sample(num_timesteps=2, policy=policy)
        assert first.step.is_warmup and not second.step.is_warmup
        return [first.step.proposed_sizes[kind] for kind in KINDS]

    runner = make_runner(target_ratio=0.1)
    equal = sizes(runner, [0.5, 0.0, 0.0], [0.5, 0.0, 0.0])
    assert np.unique(np.concatenate(equal)).size == 1
    users, items = sizes(runner, [0.9, 0.0, 0.0], [0.1, 0.0, 0.0])
    assert np.unique(users).size == np.unique(items).size == 1 and users[0] > items[0]
    users, items = sizes(runner, [0.5, 0.5, 0.5], [0.5, 0.0, 0.0])
    assert np.unique(users).size > 3 and np.unique(items).size == 1
    (alone,) = runner.sample(num_timesteps=1)
    assert not alone.step.is_warmup


def test_memory_weight_changes_the_reward_and_not_the_transition(make_runner):
    first, second = make_runner(), make_runner(memory_weight=0.4)
    second.module.set_state(first.module.get_state())
    mine, theirs = first.sample()[0], second.sample(memory_weight=2.0)[0]
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
    assert [len(runner.sample()[0].transitions[kind]["action"]) for kind in KINDS] == [25, 10]


def test_a_step_that_fails_once_is_taken_again_from_the_same_state(make_runner, counting_env):
    whole = make_runner(counting_env).sample(num_timesteps=3)
    CountingEnv.num_calls, CountingEnv.failures = 0, (2,)
    rollouts = make_runner(counting_env).sample(num_timesteps=3)
    assert CountingEnv.num_calls == 4
    for mine, theirs in zip(rollouts, whole, strict=True):
        same(mine, theirs)


def test_a_step_that_fails_twice_is_an_error_that_names_it(make_runner, counting_env):
    CountingEnv.failures = (2, 3)
    runner = make_runner(counting_env)
    first, failure = runner.sample(num_timesteps=3)
    assert first.step.step == 0
    with pytest.raises(
        TrainingError, match="env runner 0 failed twice at step 1 of episode 0: ValueError: no such luck"
    ):
        rollouts_of([[first, failure]])
    assert [r.step.episode for r in runner.sample(num_timesteps=1)] == [1]


@pytest.mark.parametrize("num_env_runners", [0, 1])
def test_an_environment_that_keeps_failing_ends_the_training(ray_cluster, num_env_runners):
    from ray.tune.registry import register_env

    def create(context):
        # A class of this module could not be imported by an env runner of its own.
        class FailingEnv(ToySizeEnv):
            def step(self, action):
                raise ValueError("no such luck")

        return FailingEnv(**context)

    register_env("failing", create)
    algo = (
        TD3.get_default_config()
        .environment("failing", env_config=TOY)
        .training(hiddens=(16,))
        .env_runners(num_env_runners=num_env_runners, num_cpus_per_env_runner=0.5)
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )
    with pytest.raises(TrainingError, match=f"env runner {num_env_runners} failed twice .*no such luck"):
        algo.train()
    algo.stop()
