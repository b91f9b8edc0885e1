"""The project's own method of a stream: what it carries on, and what it proposes."""

import shutil

import numpy as np
import pytest

from ciess_ray.config.yaml_file import check_values
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.driver import resume_stream, run_stream
from ciess_ray.streaming.folder import StreamFolder
from ciess_ray.streaming.methods import Problem, policy_search
from ciess_ray.streaming.segment import segment_data
from envs.data import log_from_frame
from envs.data.stream import cut_stream
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.sharing import coldest_that_share

SEGMENT = 80
#: So little that what a table has learnt is not forgotten.
SETTINGS = TrainingSettings(batch_size=16, learning_rate=1e-6, max_batches=2)


@pytest.fixture(scope="module")
def frame():
    """Users and items that keep arriving."""
    import pandas as pd

    rng = np.random.default_rng(0)
    place = np.arange(4 * SEGMENT)
    user, item = ((place * rng.random(len(place)) * share).astype(int) for share in (0.2, 0.15))
    return pd.DataFrame({"user_id": user, "item_id": item, "timestamp": place}).drop_duplicates(
        ["user_id", "item_id"], ignore_index=True
    )


@pytest.fixture(scope="module")
def stream(frame):
    return cut_stream(log_from_frame(frame), rows=SEGMENT)


def decide(stream, number, best=-1, former=None, memory=None, mean_size=3.0):
    """What is proposed in a segment, of which a judge likes one best, and the problem after it."""
    data = segment_data(stream, number)
    interactions = data.interactions
    cap_params = int(mean_size * interactions.num_entities)
    is_shared = coldest_that_share(*data.popularity(0.5), cap_params // 2) if mean_size < 1 else None
    problem = Problem(
        data,
        cap_params,
        1,
        8,
        1,
        former,
        lambda: np.random.default_rng([0, number]),
        Recipe(interactions.train, SETTINGS, "mf"),
        dict(memory or {}),
        is_shared=is_shared,
    )
    told = []

    def judge(proposals):
        told.extend(proposals)
        qualities = np.zeros(len(proposals))
        qualities[best] = 1.0
        return qualities.tolist()

    policy_search.table_policy(problem, judge)
    return told, problem


@pytest.fixture(scope="module")
def first(stream):
    return decide(stream, 0)


def test_a_plain_split_is_among_few_tables_that_lie_apart(first):
    told, _ = first
    assert 2 <= len(told) <= 4
    assert any(max(np.ptp(side) for side in (one.sizes.user, one.sizes.item)) <= 1 for one in told)
    assert len({one.sizes.user.tobytes() + one.sizes.item.tobytes() for one in told}) == len(told)


def test_the_policy_that_was_kept_and_the_best_begin_the_next_segment(stream, first, monkeypatch):
    told, problem = first
    begun = []

    class Spy(policy_search.WarmUp):
        def __init__(self, num_steps, seed, first):
            begun.extend(np.concatenate([one["user"], one["item"]]) for one in first)
            super().__init__(num_steps, seed, first)

    monkeypatch.setattr(policy_search, "WarmUp", Spy)
    again, later = decide(stream, 1, 0, told[-1].sizes, problem.memory)
    kept = problem.memory["policies"]
    assert kept.shape == (9, 6) and {tuple(one) for one in kept} <= {tuple(one) for one in begun}
    # The policy that the judge liked best is proposed anew, and is kept anew.
    assert again[0].name.rsplit(", ", 1)[0] == told[-1].name.rsplit(", ", 1)[0]
    np.testing.assert_array_equal(later.memory["policies"][0], kept[0])


def test_what_has_come_since_the_last_segment_counts_by_its_users(stream, first, monkeypatch):
    told, problem = first
    benches = []

    class Spy(policy_search.Bench):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            benches.append(self)

        def quality(self, policy):
            # All that validation likes are plain splits, and what came since likes the others.
            if len(benches) < 2:
                return super().quality(policy)
            is_plain = policy["user"][2] == policy["item"][2] == 0
            return self.weight * float(is_plain == (self is benches[0]))

    monkeypatch.setattr(policy_search, "Bench", Spy)
    again, _ = decide(stream, 1, former=told[-1].sizes, memory=problem.memory)
    now, since = benches
    assert since.weight > now.weight > 0
    # The first is what was kept last time.
    is_plain = ["rank^" not in one.name for one in again[1:]]
    assert len(is_plain) >= 3 and sum(is_plain) <= 1


def test_the_supernet_goes_on_and_newcomers_begin_small(stream, first):
    told, problem = first
    _, later = decide(stream, 1, former=told[-1].sizes, memory=problem.memory)
    before = problem.memory["supernet/table"].reshape(-1, 8)
    after = later.memory["supernet/table"].reshape(-1, 8)
    num_users, later_users = len(told[-1].sizes.user), later.data.interactions.num_users
    np.testing.assert_allclose(after[:num_users], before[:num_users], atol=1e-4)
    items = after[later_users : later_users + len(told[-1].sizes.item)]
    np.testing.assert_allclose(items, before[num_users:], atol=1e-4)
    new = after[num_users:later_users]
    assert len(new) > 3 and 0 < np.abs(new).max() < 0.06 < before.std()


def test_a_search_draws_the_same_and_uses_the_budget(stream, first):
    told, problem = first
    again, same = decide(stream, 0)
    assert [one.name for one in again] == [one.name for one in told]
    assert all(one.sizes.num_params == problem.cap_params for one in told)
    for name, value in problem.memory.items():
        np.testing.assert_array_equal(same.memory[name], value)


def test_where_the_coldest_share_a_row_the_others_have_the_budget(stream):
    told, problem = decide(stream, 0, mean_size=0.7)
    _, later = decide(stream, 1, former=told[-1].sizes, memory=problem.memory, mean_size=0.6)
    for now in (problem, later):
        assert now.is_shared.any() and len(now.memory["policies"]) == 9
    assert {one.sizes.num_params for one in told} == {problem.cap_params}


def test_without_a_memory_it_begins_anew(stream):
    told, problem = decide(stream, 1, former=EmbeddingSizes.full(2, 2, 8))
    assert len(told) >= 2 and len(problem.memory["policies"]) == 9


def test_a_segment_that_was_lost_comes_out_as_it_was(frame, tmp_path):
    frame.to_parquet(tmp_path / "log.parquet")
    values = {
        "dataset": {"path": str(tmp_path / "log.parquet")},
        "segments": {"rows": 120},
        "budget": "150 params",
        "methods": ["table policy"],
        "output": str(tmp_path / "stream"),
        "recommender": {"max_embedding_size": 8, "device": "cpu"},
        "training": {"batch_size": 32, "batches": 3, "warm_batches": 2},
        "tracking": {"mlflow": False},
    }
    config = check_values(StreamConfig, values, "made up")
    rows = run_stream(config)
    folder = StreamFolder(config.output).method(1, "table policy")
    files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    assert {"table.safetensors", "memory.safetensors"} <= set(files)
    shutil.rmtree(folder)
    again = resume_stream(config.output)
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == files
    assert [row["chosen"] for row in again] == [row["chosen"] for row in rows]
    assert again[1]["num_params"] == 150
