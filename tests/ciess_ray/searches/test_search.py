import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from ciess_ray.candidate import Candidate
from ciess_ray.config.data import load_interactions
from ciess_ray.resources import ray_session
from ciess_ray.result import SearchResult
from ciess_ray.searches.driver import search
from ciess_ray.streams import Stream
from ciess_ray.training.contest import reshape_candidates, select_candidates, select_finalists
from ciess_ray.training.preparing import file_of, preparations_of, prepare
from envs.errors import BudgetError, ConfigError, DataError, ResultError, TrainingError
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes, distance

NUM_STEPS = 6


def fit_of(config, interactions):
    return prepare(preparations_of(config, interactions)[0], ray.put(interactions))


class TestAgain:
    def test_one_seed_gives_an_identical_result_and_reuses_the_full_size_fit(
        self, finished, make_config, tmp_path
    ):
        config, result, _ = finished
        other = make_config(tmp_path / "again")
        again = search(other)
        assert (
            again.summary["full_size_fit"]["is_cached"] and not result.summary["full_size_fit"]["is_cached"]
        )
        for name in ("sizes.parquet", "candidates.parquet", "ids.parquet"):
            assert pq.read_table(other.output / name).equals(pq.read_table(config.output / name)), name
        # safetensors writes metadata in any order, so that the files are equal in what they hold alone.
        np.testing.assert_array_equal(again.packed_table.values, result.packed_table.values)
        for name in ("methods", "retrained", "budget"):
            assert again.summary[name] == result.summary[name]
        # The way from one folder to its data is not that from the other.
        data = [one.summary["dataset"] | {"path_from_folder": None} for one in (result, again)]
        assert data[0] == data[1]

    def test_a_cached_fit_is_the_one_that_was_trained(self, finished, make_config, tmp_path):
        config, _, _ = finished
        interactions = load_interactions(config)
        kept, fresh = (fit_of(one, interactions) for one in (config, make_config(tmp_path, cache=None)))
        assert kept.is_cached and not fresh.is_cached
        np.testing.assert_array_equal(kept.entity_quality["user"], fresh.entity_quality["user"])
        np.testing.assert_array_equal(kept.entity_quality["item"], fresh.entity_quality["item"])
        assert (kept.quality, kept.metrics, kept.num_batches) == (
            fresh.quality,
            fresh.metrics,
            fresh.num_batches,
        )

    @pytest.mark.parametrize(
        "changes",
        [
            {"seed": 1},
            {"training": {"max_batches": 20}},
            {"recommender": {"max_embedding_size": 8}},
            {"dataset": {"split_seed": 1}},
        ],
    )
    def test_a_fit_of_something_else_is_not_reused(self, finished, make_config, tmp_path, changes):
        config = make_config(tmp_path, **({"training": {"max_batches": 40}} | changes))
        (full_size, *_) = preparations_of(config, load_interactions(config))
        assert not file_of(full_size, config.kept_folder).exists()

    def test_a_damaged_cache_is_made_again(self, make_config, tmp_path, ray_cluster):
        other = make_config(tmp_path, cache=tmp_path, training={"max_batches": 20})
        interactions = load_interactions(other)
        expected = fit_of(other, interactions)
        (copy,) = tmp_path.glob("full-size-*.npz")
        content = copy.read_bytes()
        rng = np.random.default_rng(0)
        damaged = [b"", content[:100], content[:-30]]
        for _ in range(3):
            noise = bytearray(content)
            for place in rng.integers(60, len(content) - 60, 20):
                noise[place] ^= 0xFF
            damaged.append(bytes(noise))
        for bad in damaged:
            copy.write_bytes(bad)
            made = fit_of(other, interactions)
            assert not made.is_cached and made.num_batches == expected.num_batches


class TestBreakingOff:
    @pytest.mark.parametrize("phase", ["full-size fit", "search"])
    def test_before_anything_was_found(self, finished, make_config, tmp_path, phase):
        def interrupt(progress):
            if progress.phase == phase:
                raise KeyboardInterrupt

        config = make_config(tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            search(config, on_progress=interrupt)
        summary = json.loads((config.output / "result.json").read_text())
        assert (summary["status"], summary["phase"]) == ("interrupted", phase)
        assert summary["num_steps"] == 0 and "reason" in summary
        assert not (config.output / "candidates.parquet").exists()
        with pytest.raises(ResultError, match=f"'interrupted', not finished .phase '{phase}'"):
            SearchResult.load(config.output)
        with pytest.raises(ResultError, match="already holds a search"):
            search(config)

    def test_a_failure_says_why(self, make_config, tmp_path):
        config = make_config(tmp_path / "out", training={"learning_rate": 1e20})
        with pytest.raises(TrainingError, match="lower training.learning_rate"):
            search(config)
        summary = json.loads((config.output / "result.json").read_text())
        assert (summary["status"], summary["phase"]) == ("failed", "full-size fit")
        assert summary["reason"].startswith("TrainingError: the loss of LightGCN is")


class TestRefusals:
    """What is wrong is said before anything is written."""

    def test_a_budget_below_a_dimension_each(self, make_config, tmp_path):
        with pytest.raises(BudgetError, match="the least that works is 0.0625 "):
            search(make_config(tmp_path / "out", budget="5%"))
        assert not (tmp_path / "out").exists()

    def test_data_that_is_not_there(self, make_config, tmp_path):
        with pytest.raises(DataError, match="nowhere.csv"):
            search(make_config(tmp_path / "out", dataset={"path": tmp_path / "nowhere.csv"}))
        assert not (tmp_path / "out").exists()

    def test_an_mlflow_store_that_cannot_be_made(self, make_config, tmp_path):
        tracking = {"mlflow": True, "uri": f"sqlite:///{tmp_path}/nowhere/mlflow.db"}
        with pytest.raises(ConfigError, match="tracking.uri: the folder .*nowhere"):
            search(make_config(tmp_path / "out", tracking=tracking))
        assert not (tmp_path / "out").exists()

    def test_more_env_runners_than_cpus(self, make_config, tmp_path):
        arithmetic = (
            r"num_env_runners=9 asks for 9 x 1 CPU = 9 CPU, .*\(2 CPU\) has room for 2 such.*ask for 2"
        )
        with pytest.raises(ConfigError, match=arithmetic):
            search(make_config(tmp_path / "out", search={"num_env_runners": 9}))


def test_a_budget_with_room_for_everything_is_called_one(make_config, tmp_path):
    result = search(make_config(tmp_path / "out", budget="100%"))
    assert any("room for the full table" in hint for hint in result.summary["hints"])


class TestModes:
    def test_paper(self, make_config, tmp_path):
        settings = {"mode": "paper", "memory_weight": 0.4, "num_warmup_steps": 0}
        result = search(make_config(tmp_path / "out", search=settings))
        rows = pq.read_table(result.path / "candidates.parquet").to_pylist()
        # Nothing projects the steps; what is handed over meets the budget all the same.
        assert any(row["num_params"] > 1024 for row in rows)
        assert result.packed_table.sizes.num_params <= 1024

    def test_reference(self, make_config, tmp_path, monkeypatch):
        def refuse(self):
            raise AssertionError("the environment needs no full-size table in this mode")

        monkeypatch.setattr("envs.embedding_size.EmbeddingSizeEnv.full_quality", property(refuse))
        settings = {"mode": "reference", "memory_weight": "auto", "num_warmup_steps": 0}
        result = search(make_config(tmp_path / "out", search=settings))
        rows = pq.read_table(result.path / "candidates.parquet").to_pylist()
        assert any(row["num_params"] > 1024 for row in rows)
        assert result.packed_table.sizes.num_params <= 1024
        # The yardstick of the report is there all the same.
        assert result.summary["methods"][0]["name"] == "full size"
        lines = [json.loads(line) for line in (result.path / "progress.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["phase"] == "search"]
        # λ looks for the budget without a projection too.
        assert len({step["search/memory_weight"] for step in steps}) > 1

    def test_an_env_runner_of_its_own(self, make_config, tmp_path):
        result = search(make_config(tmp_path / "out", search={"num_env_runners": 1}))
        assert result.summary["status"] == "finished" and result.summary["num_steps"] == NUM_STEPS

    def test_greedy_steps_on_the_way_are_candidates(self, make_config, tmp_path):
        settings = {"evaluation_interval": 2}
        result = search(make_config(tmp_path / "out", search=settings))
        rows = pq.read_table(result.path / "candidates.parquet")
        greedy, seen = ["greedy"] * 2, ["evaluation"]
        assert rows["kind"].to_pylist() == ["warm-up"] * 2 + seen + ["explored"] * 2 + seen + greedy
        assert rows["step"].to_pylist() == [1, 2, 2, 3, 4, 4, 5, 6]
        assert result.summary["num_steps"] == NUM_STEPS
        lines = [json.loads(line) for line in (result.path / "progress.jsonl").read_text().splitlines()]
        told = [line["step"] for line in lines if "evaluation/quality" in line]
        assert told == [2, 4]
        # A step has one number and one quality wherever it is named.
        journal = {line["step"]: line for line in lines if line["phase"] == "search"}
        key = {"evaluation": "evaluation/quality"}
        for row in rows.to_pylist():
            line = journal[row["step"]]
            assert line[key.get(row["kind"], "search/quality")] == row["quality"]
            if row["kind"] != "evaluation":
                assert line.get("note", "explored") == row["kind"]
        names = {f"step {row['step']} ({row['kind']})" for row in rows.to_pylist()}
        retrained = [row for row in result.summary["retrained"] if row["step"]]
        assert {f"step {row['step']} ({row['kind']})" for row in retrained} <= names
        assert {line["note"] for line in lines if line["phase"] == "retraining"} <= names | {"equal sizes"}

    def test_one_update_a_step_as_in_ciess(self, make_config, tmp_path):
        settings = {"num_episodes": 1, "num_warmup_steps": 0, "num_candidates": 1}
        config = make_config(tmp_path / "out", search=settings, agent={"updates_per_step": 1})
        assert search(config).summary["num_steps"] == 4

    def test_rows_that_begin_at_columns_of_their_communities(self, make_config, tmp_path, monkeypatch):
        from ciess_ray.searches import finalists

        # Whatever they come to here: three communities are best, and what is worse ends the trying.
        bonus, measured, tried = {3: 1.0, 4: 0.5, 5: 2.0}, finalists.train_all, []

        def prefer_three(run, allocations, **where):
            found = measured(run, allocations, **where)
            for position, allocation in enumerate(allocations):
                if allocation.name.endswith("communities"):
                    tried.append(int(allocation.name.split()[-2]))
                    better = found[position].quality + bonus[tried[-1]]
                    found[position] = replace(found[position], quality=better)
            return found

        monkeypatch.setattr(finalists, "train_all", prefer_three)
        settings = {"num_episodes": 1, "num_warmup_steps": 1, "num_candidates": 1}
        config = make_config(
            tmp_path / "out", budget="3000B", search=settings | {"tried_communities": [3, 4, 5]}
        )
        result = search(config)
        file = result.path / "table.safetensors"
        row = result.summary["methods"][-1]
        assert file.stat().st_size == row["packed_bytes"] == result.packed_table.num_bytes <= 3000
        # A byte a row is paid for with numbers.
        assert result.packed_table.num_params == result.summary["budget"]["cap_params"] - 320 / 4
        assert result.packed_table.width == row["num_columns"] > result.packed_table.largest_size
        user, item = np.split(result.packed_table.first_columns, [result.packed_table.num_users])
        assert tried == [3, 4] and set(user) == {1, 2, 3} and not item.any()
        # What is packed recommends as what was trained.
        recommender = SearchResult.load(result.path).recommender()
        merged = load_interactions(config).merge_validation_into_training()
        with torch.no_grad():
            metrics = evaluate(recommender, merged.train, merged.test).summary()
        assert metrics == pytest.approx(row["test"], abs=1e-6)

    @pytest.mark.parametrize("mode", ["projected", "paper"])
    def test_equal_sizes_that_are_better_are_packed_but_not_in_mode_paper(
        self, mode, make_config, tmp_path, monkeypatch
    ):
        from ciess_ray.searches import finalists

        measured = finalists.train_all

        def prefer_equal(run, allocations, **where):
            outcomes = measured(run, allocations, **where)
            return [
                replace(outcome, quality=outcome.quality + (allocation.name == "equal sizes"))
                for allocation, outcome in zip(allocations, outcomes, strict=True)
            ]

        monkeypatch.setattr(finalists, "train_all", prefer_equal)
        settings = {"num_episodes": 1, "num_warmup_steps": 1, "num_candidates": 1}
        result = search(make_config(tmp_path / "out", search=settings | {"mode": mode}))
        _, equal, own = result.summary["methods"]
        is_equal = mode == "projected"
        assert (own | {"name": "equal sizes"} == equal) == is_equal
        assert [row["is_packed"] for row in result.summary["retrained"]] == [is_equal, not is_equal]
        hint = result.summary["hints"][0]
        assert "equal sizes were better" in hint and ("packed" in hint) == is_equal

    def test_each_keeps_the_weight_of_l2_that_suits_it(self, make_config, tmp_path):
        settings = {"num_episodes": 1, "num_warmup_steps": 1, "num_candidates": 1}

        def run(name, l2):
            recommender = {"options": {"l2": l2}}
            result = search(make_config(tmp_path / name, search=settings, recommender=recommender))
            return result.summary["methods"]

        plain, tuned = run("plain", 1e-3), run("tuned", [50.0, 1e-3, 20.0])
        assert [row["l2"] for row in tuned] == [row["l2"] for row in plain] == [1e-3] * 3
        # What a search finds differs with the weight of its steps; equal sizes are what they were.
        assert tuned[1] == plain[1] | {"options": "L2 0.001"}

    def test_bytes_cap_the_file_also_where_a_refit_fails(self, make_config, tmp_path, monkeypatch):
        from ciess_ray.searches import outcome

        trained = outcome.train_all

        def fail(run, allocations, stage):
            if stage is Stream.REFIT:
                raise TrainingError("the loss is nan.")
            return trained(run, allocations, stage)

        monkeypatch.setattr(outcome, "train_all", fail)
        settings = {"num_episodes": 1, "num_warmup_steps": 1, "num_candidates": 1, "refit": True}
        result = search(make_config(tmp_path / "out", budget="4000B", search=settings))
        assert result.summary["hints"][0].startswith("the refit failed: the loss is nan. What was measured")
        assert result.summary["refit"] is None and not (result.path / "measured.safetensors").exists()
        assert (result.path / "table.safetensors").stat().st_size <= 4_000
        assert result.packed_table.sizes.num_params == (4_000 - 320 - 1024) // 4


class TestSelection:
    @staticmethod
    def candidate(step, size, quality):
        sizes = EmbeddingSizes(np.array([size, 1]), np.array([1]), 1, 8)
        return Candidate(step, sizes, sizes, quality)

    def test_the_best_distinct_ones_within_the_cap_come_first(self):
        candidates = [
            self.candidate(0, 2, 0.1),
            self.candidate(1, 8, 0.9),  # above the cap
            self.candidate(2, 3, 0.3),
            self.candidate(3, 3, 0.4),  # the same sizes, better
            self.candidate(4, 4, 0.2),
        ]
        assert [c.step for c in select_candidates(candidates, 6, 5)] == [3, 4, 0]
        assert [c.step for c in select_candidates(candidates, 6, 2)] == [3, 4]
        assert select_candidates(candidates, 2, 5) == []

    def test_near_ones_wait_until_the_others_are_in(self):
        users = {0: (40, 40), 1: (41, 39), 2: (38, 42), 3: (20, 60)}
        candidates = []
        for step, pair in users.items():
            sizes = EmbeddingSizes(np.array(pair), np.array([20]), 1, 128)
            candidates.append(Candidate(step, sizes, sizes, 1.0 - 0.1 * step))
        assert distance(candidates[0].sizes, candidates[1].sizes) == 0.01
        assert [c.step for c in select_candidates(candidates, 100, 2, 0.015)] == [0, 2]
        assert [c.step for c in select_candidates(candidates, 100, 4, 0.015)] == [0, 1, 2, 3]
        assert [c.step for c in select_candidates(candidates, 100, 3, 0.5)] == [0, 1, 2]

    def test_a_plain_split_is_among_the_finalists(self):
        users = {0: (40, 10), 1: (10, 40), 2: (30, 20), 3: (25, 24), 4: (26, 26)}
        candidates = []
        for step, pair in users.items():
            sizes = EmbeddingSizes(np.array(pair), np.array([20]), 1, 128)
            candidates.append(Candidate(step, sizes, sizes, 1.0 - 0.1 * step))
        assert [c.step for c in select_finalists(candidates, 70, 3)] == [0, 1, 3]
        assert [c.step for c in select_finalists(candidates, 70, 1)] == [0]
        assert [c.step for c in select_finalists(candidates, 70, 4)] == [0, 1, 2, 3]
        assert [c.step for c in select_finalists(candidates[:3], 70, 2)] == [0, 1]
        assert [c.step for c in select_finalists(candidates[4:], 72, 3)] == [4]

    def test_the_earlier_of_equals_comes_first(self):
        candidates = [self.candidate(step, step + 1, 0.5) for step in range(3)]
        assert [c.step for c in select_candidates(candidates, 99, 2)] == [0, 1]


class TestReshaping:
    def test_two_shapes_of_the_best_use_up_a_looser_budget(self):
        def sizes(user, item):
            return EmbeddingSizes(np.array(user), np.array(item), 1, 64)

        candidate = Candidate(7, sizes([9, 9], [1, 1]), sizes([20, 20], [12, 12]), 0.5)
        worse = Candidate(8, sizes([1, 1], [9, 9]), sizes([1, 1], [9, 9]), 0.4)
        judged = []

        def judge(sizes):
            judged.append((sizes.user.tolist(), sizes.item.tolist()))
            return float(sizes.user.sum())

        rng = np.random.default_rng(0)
        reshaped = reshape_candidates([worse, candidate], 40, rng, judge)
        assert judged[:2] == [([14, 14], [6, 6]), ([18, 18], [2, 2])]
        assert [c.step for c in reshaped] == [7, 7, 8, 8]
        assert [c.quality for c in reshaped[:2]] == [28.0, 36.0]
        assert all(c.sizes.num_params == 40 for c in reshaped)
        (unjudged,) = reshape_candidates([candidate], 40, rng, None)
        assert (unjudged.quality, unjudged.sizes.user.tolist()) == (0.5, [14, 14])


def test_ray_is_left_running_where_it_was_running(finished, ray_cluster):
    assert ray_cluster.is_initialized()
    with ray_session():
        pass
    assert ray_cluster.is_initialized()
