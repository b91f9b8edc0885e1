import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ciess_ray import metric_keys
from ciess_ray.td3.algorithm import TD3
from ciess_ray.td3.env_runner import TableEnvRunner
from envs import TOY_SIZE_ENV_ID
from envs.errors import ConfigError

KINDS = ("user", "item")
TOY = {"num_users": 300, "num_items": 200, "max_embedding_size": 64}


def weights(algo):
    return algo.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"]


def assert_same_weights(mine, theirs):
    for kind in KINDS:
        mine_of_kind, theirs_of_kind = weights(mine)[kind], weights(theirs)[kind]
        assert mine_of_kind.keys() == theirs_of_kind.keys()
        for name, value in mine_of_kind.items():
            np.testing.assert_array_equal(value, theirs_of_kind[name], err_msg=f"{kind} {name}")


def assert_same_buffers(mine, theirs):
    for kind in KINDS:
        theirs_of_kind = theirs.replay_buffers[kind].get_state()
        for name, value in mine.replay_buffers[kind].get_state().items():
            np.testing.assert_array_equal(value, theirs_of_kind[name], err_msg=f"{kind} {name}")


def test_td3_finds_the_known_optimum(make_algo, greedy_errors):
    env_config = {"num_users": 500, "num_items": 500, "max_embedding_size": 128}
    algo = make_algo(env_config, hiddens=(64, 64), updates_per_step=20, train_batch_size_per_learner=2048)
    before = greedy_errors(algo, env_config)
    while algo.num_updates < 400:
        algo.train()
    after = greedy_errors(algo, env_config)
    for kind in KINDS:
        assert after[kind] < 6.0 < before[kind]


def test_one_seed_gives_identical_transitions_and_identical_weights(make_algo):
    algos = [make_algo(seed=seed) for seed in (0, 0, 1)]
    for algo in algos:
        for _ in range(3):
            algo.train()
    assert_same_buffers(*algos[:2])
    draws = [buffer.sample(32, 0.0)["obs"][:, 0] for buffer in algos[0].replay_buffers.values()]
    assert not torch.equal(*draws)
    assert_same_weights(*algos[:2])
    with pytest.raises(AssertionError):
        assert_same_weights(*algos[1:])


def test_users_and_items_are_built_in_one_order_in_every_process():
    # In the order of a set, which differs between processes, so would the initial weights.
    assert list(TD3.get_default_config().policies) == list(KINDS)


@pytest.mark.parametrize("how", ["restore_from_path", "from_checkpoint"])
def test_a_checkpoint_continues_exactly(make_algo, tmp_path, how):
    fields = {"target_ratio": 0.1, "memory_weight_lr": 0.2}
    first = make_algo(**fields)
    for _ in range(3):
        first.train()
    path = first.save_to_path(tmp_path)
    if how == "from_checkpoint":
        second = TD3.from_checkpoint(path)
    else:
        second = make_algo(**fields)
        second.restore_from_path(path)
    assert second.memory_weight == first.memory_weight != 0.4
    for num_more in (0, 2):
        for _ in range(num_more):
            first.train()
            second.train()
        assert second.memory_weight == first.memory_weight
        assert (second.num_updates, second.num_table_steps) == (first.num_updates, first.num_table_steps)
        assert_same_buffers(first, second)
        assert_same_weights(first, second)
    assert [s.runner_step for s in second.last_steps] == [s.runner_step for s in first.last_steps] == [4]
    second.stop()


def metric_constants():
    """The keys of each constant of the agent: one, or ten."""
    values = {
        name: value
        for name, value in vars(metric_keys).items()
        if name.isupper() and not name.startswith(("TEST", "TABLE", "RANKING"))
    }
    return [(value,) if isinstance(value, str) else value for value in values.values() if value != 10]


def test_results_carry_every_metric_and_what_a_search_needs(make_algo):
    algo = make_algo()
    result = algo.train()
    keys = {key for constant in metric_constants() for key in constant}
    assert len(keys) > 35 and keys <= result.keys()
    assert all(math.isfinite(result[key]) for key in keys)
    (step,) = algo.last_steps
    assert step.metrics().items() <= result.items()
    assert result[metric_keys.KEPT_RATIO] == pytest.approx(step.info["kept_ratio"])
    assert result[metric_keys.WALK_GAIN] > 0
    assert result[metric_keys.NUM_UPDATES] == algo.num_updates == 4
    assert step.embedding_sizes["user"].shape == (300,)
    phases = metric_keys.SAMPLE_S, metric_keys.LEARN_S, metric_keys.SYNC_WEIGHTS_S
    assert 0 < sum(result[phase] for phase in phases) < result["time_this_iter_s"]


def test_every_metric_is_explained():
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    for constant in metric_constants():
        for key in {constant[0], constant[-1]}:
            assert f"`{key}`" in text, key


def test_metrics_of_learning_are_those_of_the_last_update(make_algo):
    algo = make_algo(updates_per_step=1, gamma=0.0, policy_delay=1)
    before = {kind: copy.deepcopy(algo.learner_group._learner.module[kind]) for kind in KINDS}
    result = algo.train()
    by_hand = {key: [] for key in ("td_error", "critic_1_value", "critic_2_value", "critic_loss")}
    for kind, module in before.items():
        buffer = algo.replay_buffers[kind]
        # The draw of the update, once more.
        buffer.num_draws = 0
        batch = buffer.sample(256, algo.memory_weight)
        with torch.no_grad():
            values = [c(batch["obs"], batch["action"]) for c in (module.critic_1, module.critic_2)]
        errors = [value - batch["reward"] for value in values]
        by_hand["td_error"].append(errors[0].abs().mean())
        by_hand["critic_1_value"].append(values[0].mean())
        by_hand["critic_2_value"].append(values[1].mean())
        by_hand["critic_loss"].append(sum(error.square().mean() for error in errors))
    for name, (users, items) in by_hand.items():
        assert result[f"td3/{name}"] == pytest.approx(float(users + items) / 2, rel=1e-4), name


def test_dual_ascent_brings_the_mean_size_of_the_actors_onto_the_target(make_algo):
    target = 0.1
    algo = make_algo(target_ratio=target, memory_weight=0.0, gamma=0.0, updates_per_step=10)
    ratios = []
    for _ in range(110):
        algo.train()
        ratios.append(algo.last_steps[0].greedy_ratio)
    assert np.mean(ratios[:10]) > 3 * target
    # Two whole episodes, whose first steps see states of their own.
    assert np.mean(ratios[-20:]) == pytest.approx(target, rel=0.05)
    assert algo.memory_weight > 5.0


def test_lambda_moves_by_factors_and_leaves_a_bound_at_once(make_algo):
    algo = make_algo(
        target_ratio=0.1,
        memory_weight=0.0,
        memory_weight_lr=0.5,
        memory_weight_bounds=(0.0, 3.0),
        updates_per_step=0,
    )
    algo.train()
    (step,) = algo.last_steps
    assert algo.memory_weight == pytest.approx(0.01 * (step.greedy_ratio / 0.1) ** 0.5 - 0.01)

    def ascend(greedy_ratio, times):
        algo.last_steps = [dataclasses.replace(step, greedy_ratio=greedy_ratio)]
        for _ in range(times):
            algo._ascend()
        return algo.memory_weight

    assert ascend(0.4, 50) == 3.0
    assert ascend(0.025, 1) == pytest.approx(3.01 / 2 - 0.01)
    assert ascend(0.1, 5) == pytest.approx(3.01 / 2 - 0.01)
    assert ascend(0.025, 50) == 0.0


def test_lambda_stays_where_there_is_no_target_and_during_warmup(make_algo):
    fixed, warm = make_algo(), make_algo(target_ratio=0.01, num_warmup_steps=2)
    for algo in (fixed, warm):
        algo.train()
        assert algo.memory_weight == 0.4
    warm.train()
    warm.train()
    assert warm.last_steps[0].is_warmup is False
    assert warm.memory_weight > 0.4


def test_actors_stand_still_during_the_warmup_while_critics_learn(make_algo):
    algo = make_algo(num_warmup_steps=2, updates_per_step=4)
    start = weights(algo)
    for _ in range(2):
        algo.train()
    warmed = weights(algo)
    algo.train()
    learned = weights(algo)
    for kind in KINDS:
        for name, value in start[kind].items():
            is_actor = name.startswith("actor.")
            moved = not np.array_equal(value, warmed[kind][name])
            assert moved != is_actor or name.startswith("target_actor"), name
            if is_actor:
                assert not np.array_equal(value, learned[kind][name]), name


def test_a_strong_imitation_holds_the_actors_at_the_best_table(make_algo):
    distances = []
    for weight in (0.0, 1000.0):
        algo = make_algo(num_warmup_steps=6, updates_per_step=40, imitation_weight=weight, hiddens=(32,))
        best, least = None, -math.inf
        for _ in range(10):
            algo.train()
            if algo.last_steps[0].info["quality"] > least:
                best, least = algo.last_steps[0].embedding_sizes, algo.last_steps[0].info["quality"]
        greedy = algo.env_runner.sample(explore=False)[0].step.proposed_sizes
        distances.append(np.mean([np.abs(greedy[kind] - best[kind]).mean() for kind in KINDS]))
    assert distances[1] < 0.5 * distances[0]


def test_a_long_warmup_has_updates_at_its_end_alone(make_algo, monkeypatch):
    monkeypatch.setattr("ciess_ray.td3.config.NUM_LEARNING_ITERATIONS", 2)
    algo = make_algo(num_warmup_steps=4, updates_per_step=3)
    numbers = []
    for _ in range(6):
        algo.train()
        numbers.append(algo.num_updates)
    assert numbers == [0, 0, 3, 6, 9, 12]


def test_remote_runners_step_copies_of_their_own(make_algo):
    algo = make_algo(num_env_runners=2, target_ratio=0.1)
    algo.train()
    memory_weight = algo.memory_weight
    algo.train()
    assert [(s.worker_index, s.runner_step) for s in algo.last_steps] == [(1, 1), (2, 1)]
    assert [s.memory_weight for s in algo.last_steps] == [memory_weight] * 2 != [0.4] * 2
    assert algo.num_table_steps == 4
    sizes = [step.proposed_sizes["user"] for step in algo.last_steps]
    assert not np.array_equal(*sizes)
    weights_seen = algo.env_runner_group.foreach_env_runner(
        lambda runner: runner.module["user"].state_dict()["actor.net.0.weight"].numpy(),
        local_env_runner=False,
    )
    for weight in weights_seen:
        np.testing.assert_array_equal(weight, weights(algo)["user"]["actor.net.0.weight"])


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("training", {"policy_delay": 0}, "policy_delay"),
        ("training", {"tau": 0.0}, "tau"),
        ("training", {"gamma": 1.0}, "gamma"),
        ("training", {"hiddens": ()}, "hiddens"),
        ("training", {"hiddens": (64, 0)}, "hiddens"),
        ("training", {"actor_lr": 0.0}, "actor_lr"),
        ("training", {"critic_lr": -1.0}, "critic_lr"),
        ("training", {"target_noise_clip": -0.5}, "target_noise_clip"),
        ("training", {"target_ratio": 1.5}, "target_ratio"),
        ("training", {"memory_weight": -0.1}, "memory_weight"),
        ("training", {"memory_weight": 101.0}, "memory_weight_bounds"),
        ("training", {"replay_buffer_capacity": 0}, "capacity"),
        ("training", {"replay_buffer_capacity": 4095}, "lower train_batch_size_per_learner"),
        ("training", {"train_batch_size_per_learner": 0}, "train_batch_size_per_learner"),
        ("training", {"updates_per_step": -1}, "updates_per_step"),
        ("training", {"exploration_spec": {"name": "walk"}}, "exploration"),
        ("training", {"num_warmup_steps": -1}, "num_warmup_steps"),
        ("training", {"grad_clip": 1.0}, "not clipped"),
        ("training", {"lr": 0.01}, "actor_lr and critic_lr"),
        ("training", {"train_batch_size": 256}, "train_batch_size_per_learner"),
        ("training", {"minibatch_size": 64}, "train_batch_size_per_learner"),
        ("training", {"num_epochs": 2}, "updates_per_step"),
        ("debugging", {"seed": -1}, "seed"),
        ("debugging", {"seed": None}, "seed"),
        ("learners", {"num_learners": 2}, "num_learners"),
        ("framework", {"framework": "tf2"}, "'torch'"),
        ("api_stack", {"enable_rl_module_and_learner": False}, "new API stack"),
        ("multi_agent", {"policies": {"user"}}, "multi_agent"),
        ("environment", {"env": dict}, "environment must be the id of one of Gymnasium's, or a name"),
        ("env_runners", {"env_runner_cls": dict}, "TableEnvRunner"),
        ("env_runners", {"create_local_env_runner": False}, "create_local_env_runner"),
        ("env_runners", {"num_envs_per_env_runner": 4}, "raise num_env_runners"),
        ("env_runners", {"rollout_fragment_length": 2}, "raise num_env_runners"),
        ("env_runners", {"rollout_fragment_length": "auto"}, "raise num_env_runners"),
        ("env_runners", {"batch_mode": "complete_episodes"}, "truncate_episodes"),
        ("env_runners", {"sample_timeout_s": 60.0}, "sample_timeout_s must be None"),
        ("evaluation", {"evaluation_duration_unit": "steps"}, "'timesteps'"),
        ("evaluation", {"evaluation_parallel_to_training": True}, "the driver evaluates"),
        ("evaluation", {"evaluation_num_env_runners": 1}, "the driver evaluates"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_built(section, fields, message):
    config = TD3.get_default_config().environment(TOY_SIZE_ENV_ID)
    config.validate()
    with pytest.raises(ConfigError, match=message):
        getattr(config, section)(**fields).validate()


def test_a_gpu_that_is_not_there_is_refused_and_one_that_is_is_not(monkeypatch):
    config = TD3.get_default_config().environment(TOY_SIZE_ENV_ID).learners(num_gpus_per_learner=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU"):
        config.validate()
    # A learner of its own may have one elsewhere.
    config.copy().learners(num_learners=1).validate()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config.validate()


def test_what_is_used_may_be_set():
    class MyRunner(TableEnvRunner):
        pass

    (
        TD3.get_default_config()
        .environment(TOY_SIZE_ENV_ID)
        .training(train_batch_size_per_learner=4096, replay_buffer_capacity=4096)
        .env_runners(env_runner_cls=MyRunner, num_env_runners=2)
        .evaluation(evaluation_interval=1)
        .validate()
    )
