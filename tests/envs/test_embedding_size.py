import pickle
import subprocess
import sys
from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import EMBEDDING_SIZE_ENV_ID
from envs.errors import BudgetError, ConfigError, EmbeddingSizeError, UnknownNameError
from envs.mdp import scale_size
from envs.metrics import CUTOFFS
from envs.recommenders.training import TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

KINDS = ("user", "item")
D_MAX = 8


@pytest.fixture
def make_env(make_interactions):
    def make(**arguments):
        defaults = {
            "interactions": make_interactions(),
            "recommender": "mf",
            "training": TrainingSettings(batch_size=128, evaluate_every=10, patience=2, max_batches=40),
            "max_embedding_size": D_MAX,
            "batches_per_step": 3,
            "episode_length": 3,
        }
        return gym.make(EMBEDDING_SIZE_ENV_ID, **(defaults | arguments))

    return make


def same(mine, theirs):
    """Identical bit for bit; seconds differ."""
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            if not key.endswith("_s"):
                same(mine[key], theirs[key])
    elif isinstance(mine, np.ndarray):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    else:
        assert mine == theirs


def rollout(env, seed, num_steps=3):
    env.action_space.seed(seed)
    steps = [env.reset(seed=seed)]
    steps += [env.step(env.action_space.sample()) for _ in range(num_steps)]
    return steps


@pytest.mark.parametrize("arguments", [{}, {"budget": "25%", "render_mode": "rgb_array"}])
def test_gymnasium_finds_nothing_to_complain_about(make_env, monkeypatch, arguments):
    # Warnings are errors in these tests. The check wants two equal steps to have equal infos, to which NaN
    # and the seconds that a step took are no equals: everyone has a quality here, and the clock stands still.
    monkeypatch.setattr("envs.embedding_size.time.perf_counter", lambda: 0.0)
    everyone = {"user": np.full(60, 0.2), "item": np.full(40, 0.2)}
    check_env(make_env(full_quality=everyone, **arguments).unwrapped)


def test_observations_and_info(make_env, make_interactions):
    env, interactions = make_env(memory_weight=0.5), make_interactions()
    obs, info = env.reset(seed=0)
    assert info == {}
    counts = {"user": interactions.num_users, "item": interactions.num_items}
    for kind in KINDS:
        assert obs[kind].shape == (counts[kind], 3) and obs[kind].dtype == np.float32
        popularity = getattr(interactions, f"{kind}_popularity")
        assert np.argmax(obs[kind][:, 0]) == np.argmax(popularity)
        assert obs[kind][:, 0].min() == -1 and obs[kind][:, 0].max() == 1
        assert (obs[kind][:, 1] == 1).all()
        # The full table's share of its own quality is 1; whoever has no quality is in the middle.
        full = env.unwrapped.full_quality[kind]
        np.testing.assert_array_equal(obs[kind][:, 2], np.where(full > 0, 1.0, 0.0))

    action = {kind: np.full(counts[kind], value, np.float32) for kind, value in (("user", -1), ("item", 1))}
    obs, reward, terminated, truncated, info = env.step(action)
    assert env.observation_space.contains(obs)
    assert isinstance(reward, float) and terminated is False and truncated is False
    assert (obs["user"][:, 1] == -1).all() and (obs["item"][:, 1] == 1).all()
    for kind, size in (("user", 1), ("item", D_MAX)):
        own = info[kind]
        sizes = {"action", "proposed_sizes", "embedding_sizes"}
        assert own.keys() == {"reward", "quality", "memory_cost"} | sizes
        np.testing.assert_array_equal(own["action"], action[kind])
        assert all(column.shape == (counts[kind],) for column in own.values())
        assert (own["proposed_sizes"] == size).all() and (own["embedding_sizes"] == size).all()
        np.testing.assert_allclose(own["memory_cost"], (size / D_MAX) ** 2)
        np.testing.assert_allclose(own["reward"], own["quality"] - 0.5 * own["memory_cost"], rtol=1e-6)
        has_none = ~(env.unwrapped.full_quality[kind] > 0)
        np.testing.assert_array_equal(np.isnan(own["quality"]), has_none)
        assert np.nanmax(own["quality"]) <= 1
        np.testing.assert_allclose(
            obs[kind][:, 2], np.where(has_none, 0, np.clip(2 * own["quality"] - 1, -1, 1)), rtol=1e-6
        )
    everyone = np.concatenate([info[kind]["reward"] for kind in KINDS])
    assert reward == pytest.approx(np.nanmean(everyone))
    num_params = counts["user"] + counts["item"] * D_MAX
    assert info["num_params"] == num_params
    assert info["kept_ratio"] == info["proposed_ratio"] == num_params / (sum(counts.values()) * D_MAX)
    assert info["packed_bytes"] == 4 * num_params + sum(counts.values()) + 1024
    metrics = {f"{name}@{k}" for name in ("recall", "ndcg") for k in CUTOFFS}
    assert info["quality"] == pytest.approx(np.mean([info[name] for name in metrics]))
    others = {
        "kept_ratio",
        "proposed_ratio",
        "num_params",
        "packed_bytes",
        "quality",
        "train_s",
        "evaluate_s",
    }
    assert info.keys() == metrics | others | set(KINDS)


def test_a_state_without_quality(make_env):
    shown, hidden = (rollout(make_env(shows_quality=is_shown), 0, 1)[1] for is_shown in (True, False))
    for kind in KINDS:
        assert (hidden[0][kind][:, 2] == 0).all() and (shown[0][kind][:, 2] != 0).any()
        np.testing.assert_array_equal(hidden[0][kind][:, :2], shown[0][kind][:, :2])
    # What is not shown is rewarded all the same.
    assert hidden[1] == shown[1]


def test_the_reference_form(make_env, make_interactions, monkeypatch):
    def refuse(self):
        raise AssertionError("the reference form trains no full-size table")

    monkeypatch.setattr("envs.embedding_size.EmbeddingSizeEnv.full_quality", property(refuse))
    env = make_env(form="reference", memory_weight=0.5, batches_per_step=60)
    (first, _), (obs, reward, *_, info) = rollout(env, 0, 1)
    interactions = make_interactions()
    is_judged = np.diff(interactions.validation.indptr) > 0
    reached = is_judged.astype(float) @ interactions.train > 0
    for kind, has_quality in (("user", is_judged), ("item", reached)):
        own = info[kind]
        assert (first[kind][:, 1] == 1).all() and (first[kind][:, 2] == 0).all()
        np.testing.assert_array_equal(np.isnan(own["quality"]), ~has_quality)
        assert own["quality"].dtype == own["reward"].dtype == np.float32
        # The quality is paid as it is, and shown as whether there is any.
        cost = ((own["embedding_sizes"] - 1) / D_MAX) ** 2
        np.testing.assert_allclose(own["memory_cost"], cost, rtol=1e-6)
        np.testing.assert_allclose(own["reward"], own["quality"] - 0.5 * cost, rtol=1e-5, atol=1e-7)
        shown = np.where(has_quality, np.where(own["quality"] > 0, 1, -1), 0)
        np.testing.assert_array_equal(obs[kind][:, 2], shown)
    assert {-1, 1} <= set(obs["user"][:, 2])
    # The mean of all users' qualities is that of the whole table: no share of anything.
    assert np.nanmean(info["user"]["quality"]) == pytest.approx(info["quality"], rel=1e-5)
    everyone = np.concatenate([info[kind]["reward"] for kind in KINDS])
    assert reward == pytest.approx(np.nanmean(everyone))


@pytest.mark.parametrize("budget", ["25%", 0.9, "150 params", "1700B"])
def test_the_budget_holds_exactly_after_every_step(make_env, budget):
    env = make_env(budget=budget, min_embedding_size=1, batches_per_step=1)
    cap = env.unwrapped.cap_params
    for *_, info in rollout(env, 0)[1:]:
        sizes = np.concatenate([info[kind]["embedding_sizes"] for kind in KINDS])
        assert sizes.sum() == info["num_params"] == cap
        assert sizes.min() >= 1 and sizes.max() <= D_MAX
        proposed = np.concatenate([info[kind]["proposed_sizes"] for kind in KINDS])
        assert info["proposed_ratio"] == proposed.mean() / D_MAX != info["kept_ratio"]
        # What earned the quality is what costs, and what learning takes for the action.
        cost = np.concatenate([info[kind]["memory_cost"] for kind in KINDS])
        np.testing.assert_allclose(cost, (sizes / D_MAX) ** 2, rtol=1e-6)
        action = np.concatenate([info[kind]["action"] for kind in KINDS])
        np.testing.assert_array_equal(action, scale_size(sizes, 1, D_MAX))


def test_an_episode_is_truncated_at_its_length(make_env):
    env = make_env()
    for _ in range(2):
        assert [step[3] for step in rollout(env, 0)[1:]] == [False, False, True]


def test_one_seed_gives_identical_runs(make_env):
    first, second = make_env(budget="25%"), make_env(budget="25%")
    same_twice = rollout(first, 3), rollout(second, 3)
    for mine, theirs in zip(*same_twice, strict=True):
        for part, other in zip(mine, theirs, strict=True):
            same(part, other)
    # The full-size fit of the first reset takes nothing from the episode's own draws.
    for mine, theirs in zip(rollout(first, 3), same_twice[1], strict=True):
        for part, other in zip(mine, theirs, strict=True):
            same(part, other)
    with pytest.raises(AssertionError):
        same(rollout(first, 4)[1][4], same_twice[1][1][4])


def test_a_saved_state_continues_identically_in_another_environment(make_env):
    first, second = make_env(budget="25%"), make_env(budget="25%", memory_weight=9.0)
    rollout(first, 0, 1)
    second.reset(seed=99)
    second.unwrapped.set_state(pickle.loads(pickle.dumps(first.unwrapped.get_state())))
    assert second.unwrapped.memory_weight == first.unwrapped.memory_weight
    first.action_space.seed(5)
    for _ in range(2):
        action = first.action_space.sample()
        for part, other in zip(first.step(action), second.step(action), strict=True):
            same(part, other)


def test_the_full_table_is_fitted_once_where_no_quality_is_given(make_env, make_interactions):
    env = make_env()
    fitted = env.unwrapped.full_quality
    assert env.unwrapped.full_quality is fitted
    assert fitted["user"].shape == (60,) and np.nanmax(fitted["user"]) > 0
    given = {"user": np.full(60, 0.25), "item": np.full(40, np.nan)}
    env = make_env(full_quality=given)
    _, (obs, *_, info) = rollout(env, 0, 1)
    assert env.unwrapped.full_quality is given
    assert np.isnan(info["item"]["quality"]).all() and (obs["item"][:, 2] == 0).all()
    has_validation = np.diff(make_interactions().validation.indptr) > 0
    np.testing.assert_array_equal(~np.isnan(info["user"]["quality"]), has_validation)


def test_nobody_with_a_quality_gives_a_reward_of_0(make_env):
    env = make_env(full_quality={"user": np.zeros(60), "item": np.zeros(40)})
    assert rollout(env, 0, 1)[1][1] == 0.0


def test_the_memory_weight_can_be_set_between_steps(make_env):
    first, second = make_env(), make_env()
    second.unwrapped.memory_weight = 2.0
    mine, theirs = rollout(first, 0, 1)[1], rollout(second, 0, 1)[1]
    same(mine[0], theirs[0])
    cost = np.concatenate([mine[4][kind]["memory_cost"] for kind in KINDS])
    quality = np.concatenate([mine[4][kind]["quality"] for kind in KINDS])
    assert mine[1] - theirs[1] == pytest.approx(1.6 * cost[~np.isnan(quality)].mean(), rel=1e-5)


def test_epochs_become_batches(make_env, make_interactions):
    num_train = make_interactions().train.nnz
    assert make_env(batches_per_step=None).unwrapped.batches_per_step == round(5 * num_train / 128)
    settings = TrainingSettings(batch_size=11 * num_train)
    assert make_env(batches_per_step=None, training=settings).unwrapped.batches_per_step == 1


def test_renders_an_image(make_env):
    env = make_env(render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    assert np.ptp(image) > 0
    assert make_env().unwrapped.render() is None


@pytest.mark.parametrize(
    ("kind", "action", "says"),
    [
        ("user", np.zeros(59, np.float32), r"the action of users must be finite and of shape \(60,\), not"),
        ("item", np.zeros((40, 1), np.float32), r"items must be .* of shape \(40,\), not \(40, 1\)"),
        ("item", np.full(40, np.nan, np.float32), "items must be finite"),
        ("user", np.full(60, np.inf, np.float32), "users must be finite"),
    ],
)
def test_bad_actions_are_refused(make_env, kind, action, says):
    env = make_env().unwrapped
    env.reset(seed=0)
    with pytest.raises(EmbeddingSizeError, match=says):
        env.step(env.action_space.sample() | {kind: action})


def test_actions_beyond_the_space_are_clipped(make_env):
    env = make_env().unwrapped
    env.reset(seed=0)
    *_, info = env.step({"user": np.full(60, 3.0), "item": np.full(40, -3.0)})
    assert set(info["user"]["proposed_sizes"]) == {D_MAX} and set(info["item"]["proposed_sizes"]) == {1}


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"recommender": "lightgnc"}, UnknownNameError, "Did you mean 'lightgcn'"),
        ({"recommender_options": {"l3": 1}}, UnknownNameError, "'l3'"),
        ({"budget": "5%"}, BudgetError, "the least that works is 0.125 "),
        ({"budget": "two"}, BudgetError, "cannot read"),
        ({"min_embedding_size": 9}, EmbeddingSizeError, "bound no size"),
        ({"min_embedding_size": 9, "budget": "20%"}, EmbeddingSizeError, "bound no size"),
        ({"max_embedding_size": 0, "budget": "20%"}, EmbeddingSizeError, "bound no size"),
        ({"episode_length": 0}, ConfigError, "episode_length must be at least 1"),
        ({"device": "gpu"}, UnknownNameError, "device"),
        ({"form": "papr"}, UnknownNameError, "form 'papr'. Did you mean 'paper'"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(make_env, arguments, error, says):
    with pytest.raises(error, match=says):
        make_env(**arguments)


def test_a_render_mode_that_there_is_not_is_refused(make_env):
    arguments = make_env().spec.kwargs
    from envs.embedding_size import EmbeddingSizeEnv

    with pytest.raises(ConfigError, match="'rgb_array' or None, not 'human'"):
        EmbeddingSizeEnv(**(arguments | {"render_mode": "human"}))


def test_no_copy_of_the_interactions_is_made(make_env, make_interactions):
    interactions = make_interactions()
    env = make_env()
    assert env.unwrapped.interactions is interactions
    # Gymnasium's wrappers copy the arguments deeply whenever they are asked for their spec.
    assert env.spec.kwargs["interactions"] is interactions
    assert deepcopy(interactions) is interactions
    assert deepcopy({"a": [interactions]})["a"][0] is interactions


def test_the_smallest_table_there_is(make_env):
    env = make_env(min_embedding_size=3, max_embedding_size=3, budget="100%")
    *_, info = rollout(env, 0, 1)[1]
    assert info["kept_ratio"] == 1.0
    assert EmbeddingSizes(info["user"]["embedding_sizes"], info["item"]["embedding_sizes"], 3, 3).width == 3


def test_the_world_brings_neither_ray_nor_mlflow_and_training_no_compiler():
    code = (
        "import sys, gymnasium, envs\n"
        "small = {m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules}\n"
        "gymnasium.make('CIESS/ToySize-v0', num_users=3, num_items=2).reset(seed=0)\n"
        "import envs.embedding_size, numpy as np\n"
        "from envs.sizes.embedding_sizes import EmbeddingSizes\n"
        "from envs.data import generate_interactions, split_interactions\n"
        "from envs.recommenders.training import Recipe, TrainingSettings\n"
        "data = split_interactions(generate_interactions(30, 20, 300, seed=0), seed=0)\n"
        "sizes = EmbeddingSizes(np.full(30, 2), np.full(20, 2), 1, 2)\n"
        "trainer = Recipe(data.train, TrainingSettings(), 'mf').trainer(sizes, np.random.default_rng(0))\n"
        "assert trainer.train(2) > 0\n"
        "far = {m for m in ('ray', 'mlflow', 'ciess_ray', 'torch._dynamo', 'sympy') if m in sys.modules}\n"
        "print(sorted(small | far))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
