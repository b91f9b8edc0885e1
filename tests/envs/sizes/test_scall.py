"""SCALL's sizes beside those that an independent implementation gives."""

import json
from pathlib import Path

import numpy as np
import pytest

from envs.sizes import scall
from envs.sizes.embedding_sizes import EmbeddingSizes

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"
close = {"rtol": 0, "atol": 1e-8}


@pytest.fixture(scope="module")
def case():
    cases = json.loads(GOLDEN.read_text())["cases"]
    return lambda name: (cases[f"scall.{name}"]["inputs"], cases[f"scall.{name}"]["outputs"])


def test_exponents(case):
    given, out = case("power_law_exponent")
    np.testing.assert_allclose(scall.exponent(np.array(given["alpha"])), out["a"], **close)


def test_fractions_of_draws_and_what_they_estimate(case):
    given, out = case("fractions_from_uniforms")
    for a in given["a"]:
        drawn = scall.drawn_fractions(np.array(given["uniforms"]), a)
        np.testing.assert_allclose(drawn, out[str(a)], **close)
    given, out = case("fractions_in_closed_form")
    expected = scall.fractions(given["n"], given["a"])
    np.testing.assert_allclose(expected, out["expected"], **close)
    draws = np.random.default_rng(0).random((20_000, given["n"]))
    np.testing.assert_allclose(scall.drawn_fractions(draws, given["a"]), expected, atol=6e-3)
    # A million rows of the flattest and of the steepest law.
    for a in (0.1, 30.0):
        many = scall.fractions(10**6, a)
        assert many.sum() == pytest.approx(1) and np.all(np.diff(many) <= 0) and many[-1] >= 0


def test_sizes_of_the_released_code(case):
    given, out = case("sizes_reference")
    shares, low = np.array(given["fractions"]), given["min_embedding_size"]
    assert scall.reference_sizes(shares, 24.0, low, 10, explores=True).tolist() == out["exploring"]
    for high in given["max_embedding_size"]:
        sizes = scall.reference_sizes(shares, 24.0, low, high, explores=False)
        assert sizes.tolist() == out[f"exploiting_{high}"]
        assert sizes.sum() == out[f"exploiting_{high}_sum"]
    poor = given["infeasible"]
    for explores, name in ((True, "exploring"), (False, "exploiting")):
        sizes = scall.reference_sizes(
            np.array(poor["fractions"]), poor["budget"], low, poor["max_embedding_size"], explores=explores
        )
        assert sizes.tolist() == out[f"infeasible_{name}"]


def test_the_largest_is_for_the_most_popular(case):
    given, out = case("assignment")
    sizes = scall.by_popularity(np.array(given["sizes"]), np.array(given["popularity"]))
    assert sizes.tolist() == out["size_of_entity"]


def test_projected_sizes_are_the_golden_ones(case):
    given, out = case("sizes_projected")
    sizes = EmbeddingSizes.from_proposal(
        np.array(given["user_proposal"]),
        np.array(given["item_proposal"]),
        given["cap_params"],
        given["min_embedding_size"],
        given["max_embedding_size"],
        fill=True,
        rng=np.random.default_rng(0),
    )
    assert sizes.user.tolist() == out["user"] and sizes.item.tolist() == out["item"]


@pytest.mark.parametrize("mean_size", [5, 10, 32])
def test_projected_no_action_exceeds_the_budget_or_wastes_it(mean_size):
    rng = np.random.default_rng(mean_size)
    num_users, num_items = 585, 461
    popularity = rng.zipf(1.5, num_users), rng.zipf(1.5, num_items)
    cap = mean_size * (num_users + num_items)
    for action in rng.random((100, 3)):
        asked = scall.proposal(action, *popularity, cap)
        assert sum(side.sum() for side in asked) == pytest.approx(cap)
        sizes = EmbeddingSizes.from_proposal(*asked, cap, 1, 256, fill=True, rng=rng)
        assert sizes.num_params == cap


def test_released_sizes_keep_to_no_budget_and_to_the_bounds():
    rng = np.random.default_rng(0)
    popularity = np.arange(60), np.arange(40)
    over = 0
    for action in [*rng.random((20, 3)), np.array([0.0, 0.5, 0.5])]:
        asked = scall.proposal(action, *popularity, 300)
        for explores in (True, False):
            user, item = scall.released_sizes(*asked, 1, 16, explores=explores)
            assert (len(user), len(item)) == (60, 40)
            assert min(user.min(), item.min()) >= 1 and max(user.max(), item.max()) <= 16
            # The most popular, who are the last here, have the largest.
            assert (np.diff(user) >= 0).all() and (np.diff(item) >= 0).all()
            over += user.sum() + item.sum() > 300
    assert over > 10
