import math

import numpy as np
import pytest

from ciess_ray import metric_keys
from ciess_ray.td3.algorithm import TD3, TD3Config
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
        theirs_of_kind = theirs.replay_buffer.get_state()[kind]
        for name, value in mine.replay_buffer.get_state()[kind].items():
            np.testing.assert_array_equal(value, theirs_of_kind[name], err_msg=f"{kind} {name}")


def test_td3_finds_the_known_optimum(make_algo, greedy_errors):
    env_config = {"num_users": 500, "num_items": 500, "max_embedding_size": 128}
    algo = make_algo(env_config, hiddens=(64, 64), updates_per_step=20, train_batch_size_per_learner=2048)
    before = greedy_errors(algo, env_config)
    while algo.num_updates < 800:
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
    assert_same_weights(*algos[:2])
    with pytest.raises(AssertionError):
        assert_same_weights(*algos[1:])


def test_users_and_items_are_built_in_one_order_in_every_process():
    # In the order of a set, which differs between processes, so would the initial weights.
    assert list(TD3Config().policies) == list(KINDS)


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


def test_results_carry_every_metric_and_what_a_search_needs(make_algo):
    algo = make_algo()
    result = algo.train()
    keys = {value for name, value in vars(metric_keys).items() if name.isupper()}
    assert keys <= result.keys()
    assert all(math.isfinite(result[key]) for key in keys)
    (step,) = algo.last_steps
    assert result[metric_keys.KEPT_RATIO] == pytest.approx(step.info["kept_ratio"])
    assert result[metric_keys.NUM_UPDATES] == algo.num_updates == 4
    assert step.embedding_sizes["user"].shape == (300,)


def test_dual_ascent_raises_lambda_until_the_actors_meet_the_ratio(make_algo):
    algo = make_algo(target_ratio=0.2, memory_weight_lr=0.3, updates_per_step=15)
    seen = []
    for _ in range(40):
        algo.train()
        seen.append((algo.memory_weight, algo.last_steps[0].greedy_ratio))
    assert algo.memory_weight > 1.0
    assert abs(seen[-1][1] - 0.2) < 0.1
    assert algo.env_runner.env.unwrapped.memory_weight == algo.memory_weight


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


def test_remote_runners_step_copies_of_their_own(make_algo):
    algo = make_algo(num_env_runners=2, target_ratio=0.1)
    for _ in range(2):
        algo.train()
    assert [(s.worker_index, s.runner_step) for s in algo.last_steps] == [(1, 1), (2, 1)]
    assert algo.num_table_steps == 4
    sizes = [step.proposed_sizes["user"] for step in algo.last_steps]
    assert not np.array_equal(*sizes)
    weights_seen = algo.env_runner_group.foreach_env_runner(
        lambda runner: (
            runner.memory_weight,
            runner.module["user"].state_dict()["actor.net.0.weight"].numpy(),
        ),
        local_env_runner=False,
    )
    for memory_weight, weight in weights_seen:
        assert memory_weight == algo.memory_weight
        np.testing.assert_array_equal(weight, weights(algo)["user"]["actor.net.0.weight"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy_delay": 0}, "policy_delay"),
        ({"tau": 0.0}, "tau"),
        ({"gamma": 1.0}, "gamma"),
        ({"hiddens": ()}, "hiddens"),
        ({"target_ratio": 1.5}, "target_ratio"),
        ({"memory_weight": -0.1}, "memory_weight"),
        ({"memory_weight": 11.0}, "memory_weight_bounds"),
        ({"replay_buffer_capacity": 0}, "capacity"),
        ({"exploration_spec": {"name": "walk"}}, "exploration"),
        ({"grad_clip": 1.0}, "grad_clip"),
        ({"num_warmup_steps": -1}, "num_warmup_steps"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_built(fields, message):
    config = TD3Config().environment(TOY_SIZE_ENV_ID).training(**fields)
    with pytest.raises(ConfigError, match=message):
        config.validate()


def test_more_than_one_learner_is_refused():
    with pytest.raises(ConfigError, match="num_learners"):
        TD3Config().environment(TOY_SIZE_ENV_ID).learners(num_learners=2).validate()
