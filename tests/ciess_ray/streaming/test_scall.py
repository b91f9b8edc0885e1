"""SCALL's policy as a method of a stream: its budget, and what it keeps from segment to segment."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from stream_content import plain

from ciess_ray.packed.table import PackedTable
from ciess_ray.resources import ray_session
from ciess_ray.streaming import driver
from ciess_ray.streaming.config import DEFAULT_METHODS, SCALL_METHODS
from ciess_ray.streaming.driver import resume_stream, run_stream
from ciess_ray.streaming.folder import StreamFolder
from ciess_ray.streaming.methods import by_scall as method
from envs.errors import ResultError
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.table_shape import Judged

CAP, MAX_STEPS = 110, 2


@pytest.fixture(scope="module", autouse=True)
def few_steps(ray_cluster):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "_NUM_BATCHES", 2)
        patch.setattr(method, "_MAX_STEPS", MAX_STEPS)
        yield


@pytest.fixture(scope="module")
def make_scall(make):
    """Makes the configuration of a stream of SCALL's methods, whose budget leaves little."""
    return lambda output, **fields: make(
        output, **{"budget": f"{CAP} params", "methods": list(SCALL_METHODS)} | fields
    )


@pytest.fixture(scope="module")
def done(make_scall, tmp_path_factory):
    """A stream of both methods, and its rows."""
    config = make_scall(tmp_path_factory.mktemp("done") / "stream")
    return config, run_stream(config)


def test_it_is_a_method_for_those_who_ask():
    assert set(SCALL_METHODS).isdisjoint(DEFAULT_METHODS) and len(DEFAULT_METHODS) > 4


def test_its_budget_holds_exactly_and_what_the_released_formulas_overrun_is_told(done):
    config, rows = done
    assert [row["method"] for row in rows] == list(SCALL_METHODS) * 3
    beyond = 0
    for row in rows:
        folder = StreamFolder(config.output).method(row["segment"], row["method"])
        assert PackedTable.open(folder / "table.safetensors").num_params == row["num_params"]
        assert row["cap_params"] == CAP and row["num_trainings"] == 1
        over = row["num_params"] - CAP
        if row["method"] == "scall":
            assert over == 0
        assert (f", {over} parameters over the budget" in row["chosen"]) == (over > 0)
        beyond = max(beyond, over)
    assert beyond > 0


def test_it_learns_on_the_segment_before_and_goes_on_from_segment_to_segment(done):
    config, rows = done
    folder = StreamFolder(config.output)
    first, *later = (row for row in rows if row["method"] == "scall")
    sizes = PackedTable.open(folder.method(0, "scall") / "table.safetensors").sizes
    assert first["chosen"] == "equal sizes" and np.ptp([*sizes.user, *sizes.item]) <= 1
    assert all(f"{MAX_STEPS} table steps" in row["chosen"] for row in later)
    assert not folder.memory(0, "scall")
    for row in later:
        memory = folder.memory(row["segment"], "scall")
        assert memory["num_steps"] == len(memory["replay/reward"]) == MAX_STEPS * row["segment"]
        # It was tried on the segment before, and stands at the one that its greedy table is of.
        for obs, known in ((memory["replay/obs"][-1], row["segment"] - 1), (memory["obs"], row["segment"])):
            of_segment = next(row for row in rows if row["segment"] == known)
            num_users, num_items = of_segment["num_users"], of_segment["num_items"]
            assert obs[513] == pytest.approx(num_users / (num_users + num_items))


def test_a_stream_that_was_killed_goes_on_to_the_same_tables(done, tmp_path):
    config, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy, symlinks=True)
    shutil.rmtree(copy / "segments" / "002")
    (copy / "stream.parquet").unlink()
    resume_stream(copy)
    assert plain(copy) == plain(config.output)


def test_what_it_keeps_is_checked_before_it_is_taken_up(done, tmp_path, monkeypatch):
    config, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy, symlinks=True)
    shutil.rmtree(copy / "segments" / "002")
    kept = StreamFolder(copy).memory(1, "scall")
    monkeypatch.setattr(StreamFolder, "memory", lambda *_: dict(kept))
    for name, damage, says in (
        ("module/pi.bias", lambda array: array[:-1], r"has the shape \(5,\), and \(6,\) here"),
        ("replay/obs", lambda array: array * np.nan, "no finite number"),
        ("num_steps", lambda array: array - 100, "no count"),
    ):
        whole = kept[name]
        kept[name] = damage(whole)
        with pytest.raises(ResultError, match=f"segment 001.*resume: {name}.*{says}"):
            resume_stream(copy)
        kept[name] = whole
    kept["more"] = np.zeros(1)
    with pytest.raises(ResultError, match="more is nothing that a policy keeps"):
        resume_stream(copy)
    del kept["more"], kept["optimizer/default_policy_qf/0/exp_avg"]
    with pytest.raises(ResultError, match="exp_avg is missing"):
        resume_stream(copy)


def test_where_validation_says_nothing_there_is_no_search(make_scall, tmp_path, monkeypatch):
    monkeypatch.setattr(method, "_fitness", lambda _: 0.0)
    rows = run_stream(make_scall(tmp_path / "stream", segments={"rows": 90}, methods=["scall"]))
    assert "0 table steps" in rows[1]["chosen"] and rows[1]["num_params"] == CAP


def test_ray_is_wanted_by_it_alone(make, tmp_path, monkeypatch):
    asked = []

    def session(*arguments, **named):
        asked.append(1)
        return ray_session(*arguments, **named)

    monkeypatch.setattr(driver, "ray_session", session)
    monkeypatch.setattr(method, "_fitness", lambda _: 0.0)
    for number, methods in enumerate((["popular ever", "split"], ["popular ever", "scall"])):
        run_stream(make(tmp_path / str(number), segments={"rows": 90}, methods=methods))
        assert len(asked) == number


def test_a_table_is_judged_by_a_fresh_recommender_on_validation(make_interactions):
    interactions = make_interactions()
    train, validation = interactions.train, interactions.validation
    settings = TrainingSettings(batch_size=64)
    num_users, num_items = train.shape

    before = SimpleNamespace(
        problem=SimpleNamespace(
            max_embedding_size=12, data=SimpleNamespace(number=1, interactions=interactions)
        ),
        scratch=lambda batches: Recipe(train, settings, "ncf"),
        seed=0,
    )
    sizes = EmbeddingSizes(
        np.full(num_users, 3, np.int32), np.full(num_items, 5, np.int32), 1, 12, num_tables=2
    )
    judge = method._judging(before)
    judged, again = judge(sizes), judge(sizes)
    assert isinstance(judged, Judged) and judged.fitness == again.fitness > 0 and validation.nnz
    for row, width in ((judged.user_row, 3), (judged.item_row, 5)):
        assert row.shape == (12,) and (row[:width] != 0).all() and not row[width:].any()
