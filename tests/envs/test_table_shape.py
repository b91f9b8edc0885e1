"""SCALL's state, reward and environment beside values of an independent implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import table_shape
from envs.errors import ConfigError, EmbeddingSizeError
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.table_shape import Judged, TableShapeEnv

GOLDEN = Path(__file__).parents[1] / "golden" / "streaming.json"
close = {"rtol": 0, "atol": 1e-8}


@pytest.fixture(scope="module")
def case():
    cases = json.loads(GOLDEN.read_text())["cases"]
    return lambda name: (cases[f"scall.{name}"]["inputs"], cases[f"scall.{name}"]["outputs"])


def make_env(judge=None, cap=400, **fields):
    rng = np.random.default_rng(0)

    def rises(sizes):
        return Judged(float(sizes.user.mean()) / 10, np.full(16, 0.1), np.full(16, -0.1))

    popularity = rng.zipf(1.5, 60), rng.zipf(1.5, 40)
    settings = {"reference_fitness": 0.5, "max_embedding_size": 16, "num_groups": 8} | fields
    return TableShapeEnv(*popularity, cap, judge or rises, **settings)


def test_pooled_popularity(case):
    given, out = case("pooled_popularity")
    for kind in ("user", "item"):
        pooled = table_shape.pooled_popularity(np.array(given[f"{kind}_counts"]), given["num_groups"])
        np.testing.assert_allclose(pooled, out[kind], **close)


def test_reward(case):
    given, out = case("reward")
    ratio = np.array(given["fitness"]) / given["reference_fitness"]
    np.testing.assert_allclose(ratio, out["ratio"], **close)
    for ratios, name in zip(given["low_high"], ("amazon", "yelp"), strict=True):
        np.testing.assert_allclose(table_shape.rewarded(ratio, tuple(ratios)), out[name], **close)


def test_convergence(case):
    given, out = case("converged")
    assert [table_shape.is_steady(shares) for shares in given["series"]] == out["stable"]
    steady = [0.5] * 12
    assert table_shape.has_converged(steady[:11]) and not table_shape.has_converged(steady[:10])


def test_state(case, monkeypatch):
    given, out = case("state")
    cap = given["cap_params"]
    rows = np.array(given["mean_user_row"]), np.array(given["mean_item_row"])
    env = TableShapeEnv(
        np.array(given["user_counts"]),
        np.array(given["item_counts"]),
        cap,
        lambda sizes: Judged(given["last_ratio"], *rows),
        reference_fitness=1.0,
        min_embedding_size=given["min_embedding_size"],
        max_embedding_size=given["max_embedding_size"],
        num_groups=given["num_groups"],
    )
    share = given["user_share_of_params"]
    asked = (
        np.array(given["user_fractions"]) * share * cap,
        np.array(given["item_fractions"]) * (1 - share) * cap,
    )
    # The case names fractions that no shape gives.
    monkeypatch.setattr("envs.sizes.scall.proposal", lambda *_: asked)
    state, *_ = env.step(np.array([share, 0.5, 0.5]))
    np.testing.assert_allclose(state, out["state"], atol=1e-6)
    assert state.shape == (out["length"],)


@pytest.mark.filterwarnings("ignore:.*A Box observation space m:UserWarning")
def test_it_keeps_to_gymnasium_and_to_the_budget():
    check_env(make_env(), skip_render_check=True)
    env = make_env()
    env.reset(seed=0)
    for action in np.random.default_rng(1).random((50, 3)):
        _, reward, is_terminated, is_truncated, info = env.step(action)
        assert info["num_params"] == 400 and not is_terminated and not is_truncated
        assert reward == pytest.approx(10 * (info["fitness"] / 0.5 - 0.9) / 0.2)


def test_what_is_no_action_is_refused():
    env = make_env()
    env.reset(seed=0)
    for action in ([0.1, 0.2], [0.1, 0.2, 1.5], [0.1, np.nan, 0.5]):
        with pytest.raises(EmbeddingSizeError, match="three numbers in"):
            env.step(np.array(action))
    with pytest.raises(ConfigError, match="train longer"):
        make_env(reference_fitness=0.0)


def test_sizes_may_be_made_otherwise():
    def twos(user, item, rng):
        assert isinstance(rng, np.random.Generator)
        return EmbeddingSizes(*(np.full(len(side), 2, np.int32) for side in (user, item)), 1, 16)

    env = make_env(sizes_of=twos)
    env.reset(seed=0)
    *_, info = env.step(np.full(3, 0.5, np.float32))
    assert info["num_params"] == 200
