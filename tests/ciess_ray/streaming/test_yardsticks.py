"""Lists without a table, how lists are judged, and what hand-made methods propose."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from ciess_ray.streaming.config import FULL_SIZE, SCALL_METHODS, TABLE_METHODS, YARDSTICK_NAMES
from ciess_ray.streaming.judging import judge
from ciess_ray.streaming.methods import METHODS, Problem
from ciess_ray.streaming.segment import ColdRows, segment_data
from ciess_ray.streaming.yardsticks import (
    DECAYS,
    YARDSTICKS,
    best_decay,
    half_life,
    popular_items,
)
from envs.data import InteractionLog
from envs.data.stream import Segment, Stream, cut_stream
from envs.metrics import ranking_metrics
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.yardsticks import best_by, places_by_popularity


def stream_of(pairs, rows):
    user, item = (np.array(side, np.int32) for side in zip(*pairs, strict=True))
    ids = np.arange(user.max() + 1), np.arange(item.max() + 1)
    return cut_stream(InteractionLog(*ids, user, item, None, np.arange(len(user)), 0, "made up"), rows=rows)


def known_first(pairs):
    """A stream whose first segment trains on these pairs, and whose rest is somebody else's."""
    rest = [(99, item) for item in range(200, 200 + len(pairs))]
    rows = np.array(pairs + rest, np.int32)
    user, item = rows[:, 0], rows[:, 1]
    num = len(pairs)
    segment = Segment(0, num, num + 1, num + 2, int(user[:num].max()) + 1, int(item[:num].max()) + 1)
    later = Segment(num + 2, num + 3, num + 4, len(rows), 100, 200 + num)
    ids = np.arange(100), np.arange(200 + num)
    return Stream(user, item, np.arange(len(rows)), *ids, (segment, later), "made up")


@pytest.fixture(scope="module")
def fashion():
    """Four segments in each of which all users take two items of its own, and one of the first again."""
    pairs = [
        (user, item)
        for part in range(4)
        for user in range(30)
        for item in (0, 1, 2) + (10 + 2 * part, 11 + 2 * part)
    ]
    seen, unique = set(), []
    for pair in pairs:
        if pair not in seen:
            seen.add(pair)
            unique.append(pair)
    return stream_of(unique, 60)


def problem_of(data, cap_params, max_embedding_size, num_tables=1, former=None):
    settings = TrainingSettings(max_batches=2, batch_size=8)
    # Nobody has everything, as all have in some of these segments.
    train = csr_array(np.eye(*data.interactions.train.shape, dtype=np.float32))
    recipe = Recipe(train, settings, "mf" if num_tables == 1 else "ncf")
    bounds = 1, max_embedding_size
    return Problem(data, cap_params, *bounds, num_tables, former, lambda: np.random.default_rng(0), recipe)


def test_names_are_those_of_the_configuration():
    assert tuple(METHODS) == TABLE_METHODS and tuple(YARDSTICKS) == YARDSTICK_NAMES


def test_what_users_had_leads_to_what_is_near_and_then_to_what_is_popular():
    # Items 0 and 1 go together, as do 2 and 3; 2 and 3 are more popular.
    pairs = [(user, item) for user in range(4) for item in (0, 1)]
    pairs += [(user, item) for user in range(4, 10) for item in (2, 3)]
    pairs += [(10, 0), (11, 2)] + [(user, 4) for user in range(8)]
    data = segment_data(known_first(pairs), 0)
    train = data.interactions.train
    ranked = YARDSTICKS["item cosine"](data, 1).rank(train, np.array([10, 11]), 3)
    assert ranked[:, 0].tolist() == [1, 3]
    popularity = np.bincount(train.indices)
    assert (np.diff(popularity[ranked[0, 1:]]) <= 0).all()


def test_validation_finds_how_long_popularity_lasts(fashion):
    data = segment_data(fashion, 3)
    assert best_decay(data) in DECAYS
    here, ever = (YARDSTICKS[f"popular {when}"](data, 1) for when in ("in this segment", "ever"))
    rank = YARDSTICKS["popular of late"](data, 1).rank
    quality = {
        name: judge(
            lists,
            data.interactions.validation,
            data.interactions.train,
            data.cold_validation,
            popular_items(data, 20),
        ).known.quality
        for name, lists in (("here", here.rank), ("ever", ever.rank), ("late", rank))
    }
    assert quality["late"] >= max(quality["here"], quality["ever"])
    assert half_life(0.5) == "half-life 1 segments" and half_life(2**-0.25) == "half-life 4 segments"


def test_cold_rows_get_what_is_popular_and_miss_what_is_unknown():
    known = csr_array(np.array([[0, 1, 0], [0, 0, 0]], np.float32))
    seen = csr_array(np.array([[1, 0, 0], [1, 0, 0]], np.float32))
    # User 0 meets an item that nobody knows; user 7 the most popular and an unknown one.
    cold = ColdRows(np.array([0, 7, 7], np.int32), np.array([5, 2, 4], np.int32))
    popular = np.full(20, -1)
    popular[:3] = [2, 1, 0]

    def rank(seen, users, depth):
        return best_by(lambda rows: np.tile([3.0, 2.0, 1.0], (len(rows), 1)), seen, users, depth)

    figures = judge(rank, known, seen, cold, popular).summary("test")
    assert figures["test/recall@5"] == figures["test/ndcg@5"] == 1.0 and figures["test/num_users"] == 1
    assert figures["test_cold/num_users"] == 2 and figures["test_cold/recall@5"] == pytest.approx(0.25)
    nobody = judge(rank, csr_array((2, 3), dtype=np.float32), seen, cold, popular).summary("test")
    assert nobody["test/ndcg@20"] is None and nobody["test/num_users"] == 0


@pytest.mark.parametrize("num_tables", [1, 2])
@pytest.mark.parametrize(
    "method", [name for name in TABLE_METHODS if name not in (*SCALL_METHODS, FULL_SIZE)]
)
def test_whatever_is_proposed_uses_the_budget_to_the_last_number(fashion, method, num_tables):
    data = segment_data(fashion, 2)
    num_rows = data.interactions.num_entities
    former = EmbeddingSizes.full(20, 5, 9)
    proposed = []

    def qualities(proposals):
        proposed.extend(proposal.sizes for proposal in proposals)
        return [float(place) for place in range(len(proposals))]

    for cap in (num_rows, 3 * num_rows + 1, 8 * num_rows):
        problem = problem_of(data, cap * num_tables, 9, num_tables, former)
        METHODS[method](problem, qualities)
        assert proposed and {sizes.num_params for sizes in proposed} == {cap * num_tables}
        proposed.clear()


def test_full_size_has_no_regard_for_the_budget(fashion):
    data, proposed = segment_data(fashion, 2), []

    def qualities(proposals):
        proposed.extend(proposals)
        return [0.0] * len(proposals)

    METHODS[FULL_SIZE](problem_of(data, data.interactions.num_entities * 2, 9, 2), qualities)
    (proposal,) = proposed
    assert proposal.sizes.num_params == data.interactions.num_entities * 2 * 9 and proposal.rate < 1


def test_a_power_of_rank_gives_the_popular_the_larger_sizes(fashion):
    data = segment_data(fashion, 3)
    problem = problem_of(data, 4 * data.interactions.num_entities, 64)
    popularity = data.popularity(1.0)
    sizes = problem.shape(1.0, (0.0, 3.0), popularity)
    order = np.argsort(-places_by_popularity(popularity[1]))
    assert (np.diff(sizes.item[order]) <= 0).all() and sizes.item[order[0]] > 2 * sizes.item.mean()
    assert np.ptp(sizes.user) <= 1
    twice = problem.shape(2.0)
    assert twice.user.mean() == pytest.approx(2 * twice.item.mean(), rel=0.2)


def test_lists_of_all_known_items_and_of_tested_ones_alone_are_the_golden_ones():
    cases = json.loads((Path(__file__).parents[2] / "golden" / "streaming.json").read_text())["cases"]
    given, out = cases["scall.candidates"]["inputs"], cases["scall.candidates"]["outputs"]
    num_items = len(given["scores"])

    def row(items):
        return csr_array((np.ones(len(items)), items, [0, len(items)]), shape=(1, num_items))

    others = np.setdiff1d(range(num_items), given["test_items"])
    for name, hidden in (("all_items", given["seen"]), ("reference", np.union1d(given["seen"], others))):
        lists = best_by(lambda rows: np.array([given["scores"]]), row(hidden), np.array([0]), max(given["k"]))
        metrics = ranking_metrics(lists, row(given["relevant"]), tuple(given["k"]))
        np.testing.assert_allclose(metrics.recall[0], out[f"{name}_recall"], rtol=0, atol=1e-8)
        np.testing.assert_allclose(metrics.ndcg[0], out[f"{name}_ndcg"], rtol=0, atol=1e-8)
