"""SCALL's policy: repeatable, resumable, and carried from segment to segment."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns

from ciess_ray.sac.policy import ScallPolicy
from envs.errors import ConfigError, TrainingError
from envs.table_shape import Judged, TableShapeEnv

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"


def segment(number, num_groups=8, judge=None):
    """A segment's environment, in which users deserve more, with some noise, unless somebody else judges."""
    rng = np.random.default_rng(number)
    rows = np.full(16, 0.1), np.full(16, -0.1)

    def for_users(sizes):
        return Judged(float(sizes.user.mean()) / 10 + 0.01 * env.np_random.random(), *rows)

    env = TableShapeEnv(
        rng.zipf(1.5, 60 + number),
        rng.zipf(1.5, 40),
        400,
        judge or for_users,
        reference_fitness=0.5,
        max_embedding_size=16,
        num_groups=num_groups,
    )
    return env


@pytest.fixture(scope="module")
def make_policy(ray_cluster):
    policies = []

    def make(env, seed=0):
        policies.append(ScallPolicy(env, seed))
        return policies[-1]

    yield make
    for policy in policies:
        policy.stop()


def learner_of(policy):
    return policy._algorithm.learner_group._learner


def stored(policy):
    return policy._algorithm.local_replay_buffer.get_state()


def walk(policy):
    """What a policy does in two segments: the actions tried, and the greedy ones."""
    actions = []
    for number in (0, 1):
        if number:
            policy.move_to(segment(number))
        for _ in range(2):
            actions += [policy.step().action, policy.greedy_action()]
    return np.array(actions)


@pytest.fixture(scope="module")
def walked(make_policy):
    """A policy that has taken two steps in each of two segments, what it did, and its state then."""
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    policy = make_policy(segment(0))
    actions = walk(policy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    return policy, actions, policy.get_state()


def test_one_seed_gives_the_same_actions(walked, make_policy):
    _, actions, _ = walked
    other = make_policy(segment(0))
    np.testing.assert_array_equal(walk(other), actions)
    assert not np.array_equal(make_policy(segment(0), seed=1).step().action, actions[0])


def test_a_state_goes_on_exactly_with_its_transitions(walked, make_policy):
    policy, _, state = walked
    resumed = make_policy(segment(1))
    resumed.set_state(state)
    assert resumed.num_steps == 4 and len(stored(resumed)["reward"]) == 4
    steps = [policy.num_steps, resumed.num_steps]
    for _ in range(2):
        np.testing.assert_array_equal(resumed.greedy_action(), policy.greedy_action())
        mine, theirs = resumed.step(), policy.step()
        np.testing.assert_array_equal(mine.action, theirs.action)
        np.testing.assert_array_equal(mine.info["user_sizes"], theirs.info["user_sizes"])
    for name, column in stored(resumed).items():
        np.testing.assert_array_equal(column, stored(policy)[name], err_msg=name)
    assert [resumed.num_steps - steps[1], policy.num_steps - steps[0]] == [2, 2]
    with pytest.raises(ConfigError, match="make another"):
        resumed.set_state(state)


def test_the_next_segment_keeps_networks_and_transitions(walked):
    policy, *_ = walked
    before = {name: value.clone() for name, value in policy._algorithm.env_runner.module.named_parameters()}
    num_stored, num_steps = len(stored(policy)["reward"]), policy.num_steps
    env = segment(2)
    policy.move_to(env)
    for name, value in policy._algorithm.env_runner.module.named_parameters():
        assert torch.equal(value, before[name])
    step = policy.step()
    assert len(step.info["user_sizes"]) == 62 and policy.num_steps == num_steps + 1
    kept = stored(policy)
    assert len(kept["reward"]) == num_stored + 1
    # What was seen last of the segment before has no successor here.
    np.testing.assert_array_equal(kept["obs"][-1], env.reset()[0])
    assert not np.array_equal(kept["next_obs"][-2], kept["obs"][-1])
    with pytest.raises(ConfigError, match="same max_embedding_size and num_groups"):
        policy.move_to(segment(3, num_groups=4))


def test_what_the_environment_raises_is_raised(make_policy):
    def fails(sizes):
        raise TrainingError("the loss is not finite")

    with pytest.raises(TrainingError, match="not finite"):
        make_policy(segment(0, judge=fails)).step()


def test_no_ray_is_started(without_ray):
    with pytest.raises(ConfigError, match="within resources.ray_session"):
        ScallPolicy(segment(0), seed=0)


def test_the_settings_are_scalls(walked):
    policy, *_ = walked
    learner = learner_of(policy)
    module = learner.module["default_policy"]
    for trunk, head in (("pi_encoder", "pi"), ("qf_encoder", "qf"), ("qf_twin_encoder", "qf_twin")):
        widths = [layer.out_features for layer in getattr(module, trunk).layers[::2]]
        assert widths == [512, 512], trunk
        assert getattr(module, head).in_features == 512
    for name, lr in (("policy", 2e-4), ("qf", 3e-4), ("qf_twin", 3e-4)):
        optimizer = learner.get_optimizer("default_policy", name)
        assert optimizer.param_groups[0]["lr"] == lr
        (steps,) = {int(state["step"]) for state in optimizer.state.values()}
        assert steps == 3 * policy.num_steps, name
    assert learner.curr_log_alpha["default_policy"].exp().item() == pytest.approx(0.2)
    config = policy._algorithm.config
    assert (config.gamma, config.tau, config.replay_buffer_config["capacity"]) == (0.99, 0.005, 10_000)


def test_the_greedy_action_is_the_squashed_mean(walked):
    policy, *_ = walked
    case = json.loads(GOLDEN.read_text())["cases"]["scall.squashed_action"]
    logits = torch.tensor([case["inputs"]["mean"] + case["inputs"]["log_std"]])
    module = policy._algorithm.env_runner.module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forward_inference", lambda batch: {Columns.ACTION_DIST_INPUTS: logits})
        np.testing.assert_allclose(policy.greedy_action(), case["outputs"]["greedy"], atol=1e-6)
