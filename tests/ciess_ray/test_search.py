import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ciess_ray import search as search_module
from ciess_ray.config import parse_config
from ciess_ray.full_size import fit_full_size
from ciess_ray.result import Candidate, ResultFolder, SearchResult
from ciess_ray.search import load_interactions, search, select_candidates
from envs.budget import EmbeddingSizes
from envs.data import generate_interactions
from envs.errors import BudgetError, ConfigError, DataError, ResultError, TrainingError
from envs.recommenders.evaluation import evaluate

NUM_STEPS = 6
OWN_FILES = {
    "result.json",
    "sizes.parquet",
    "ids.parquet",
    "candidates.parquet",
    "progress.jsonl",
    "table.safetensors",
    "scorer.safetensors",
    "interactions.npz",
    "sizes.png",
    "search.png",
}


@pytest.fixture(scope="module")
def workplace(ray_cluster, tmp_path_factory):
    """A folder with made-up interactions and room for the cached full-size fits of this file."""
    folder = tmp_path_factory.mktemp("search")
    log = generate_interactions(200, 120, 4_000, seed=0, rank=4)
    ids = {"user_id": [f"u{user:03}" for user in log.user], "item_id": log.item * 10}
    pq.write_table(pa.table(ids), folder / "log.parquet")
    return folder


@pytest.fixture(scope="module")
def make_config(workplace):
    def make(output, **sections):
        values = {
            "dataset": {"path": workplace / "log.parquet"},
            "budget": "20%",
            "output": output,
            "cache": workplace / "cache",
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 60},
            "search": {
                "num_episodes": 2,
                "episode_length": 2,
                "batches_per_step": 4,
                "num_warmup_steps": 2,
                "num_greedy_steps": 2,
                "num_candidates": 2,
            },
            "agent": {"hiddens": (16, 16), "batch_size": 64, "updates_per_step": 2},
            "tracking": {"mlflow": False},
        }
        for name, fields in sections.items():
            values[name] = values[name] | fields if isinstance(fields, dict) else fields
        return parse_config(values)

    return make


@pytest.fixture(scope="module")
def finished(workplace, make_config):
    """The configuration and the result of one search, with what it said on its way."""
    config = make_config(workplace / "finished")
    news = []
    return config, search(config, on_progress=news.append), news


def strict_json(path):
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class TestFolder:
    def test_is_complete_and_its_json_strict(self, finished):
        config, result, _ = finished
        assert {entry.name for entry in config.output.iterdir()} == OWN_FILES
        summary = strict_json(config.output / "result.json")
        assert summary == result.summary
        assert summary["status"] == "finished" and summary["phase"] == "done"
        assert summary["num_steps"] == NUM_STEPS
        assert summary["bytes"] == {
            name: (config.output / name).stat().st_size for name in OWN_FILES - {"result.json"}
        }
        assert summary["seconds"].keys() == {"full-size fit", "search", "retraining", "test"}
        assert summary["dataset"]["num_users"] == 200 and summary["dataset"]["num_interactions"] == 4_000
        assert summary["versions"]["torch"] == torch.__version__
        assert parse_config(summary["config"]) == config

    def test_the_budget_holds(self, finished):
        _, result, _ = finished
        budget, sizes = result.summary["budget"], result.table.sizes
        assert budget["asked"] == "20%" and budget["cap_params"] == 0.2 * 320 * 16
        assert sizes.num_params == budget["num_params"] <= budget["cap_params"]
        assert min(sizes.user.min(), sizes.item.min()) >= 1 and sizes.width <= 16
        num_bytes = result.summary["bytes"]["table.safetensors"]
        assert num_bytes <= sizes.packed_bytes == budget["max_packed_bytes"]
        full, equal, found = result.summary["methods"]
        assert [row["name"] for row in (full, equal, found)] == ["full size", "equal sizes", "search"]
        assert full["num_params"] == 320 * 16
        assert equal["num_params"] == budget["cap_params"] == found["num_params"]
        assert found["packed_bytes"] == num_bytes

    def test_sizes_are_those_of_the_packed_table_by_the_users_own_ids(self, finished):
        config, result, _ = finished
        table = pq.read_table(config.output / "sizes.parquet").to_pydict()
        assert table["kind"] == ["user"] * 200 + ["item"] * 120
        # Text beside numbers: ids are text for both.
        assert table["id"][:2] == ["u000", "u001"] and table["id"][200:202] == ["0", "10"]
        sizes = result.table.sizes
        assert table["embedding_size"] == [*sizes.user.tolist(), *sizes.item.tolist()]
        merged = load_interactions(config).merge_validation_into_training()
        assert table["popularity"] == [*merged.user_popularity.tolist(), *merged.item_popularity.tolist()]
        users, items = result.ids()
        assert [*users, *items] == table["id"]

    def test_candidates_hold_every_step(self, finished):
        config, result, _ = finished
        rows = pq.read_table(config.output / "candidates.parquet").to_pylist()
        assert [row["step"] for row in rows] == list(range(NUM_STEPS))
        assert [row["is_greedy"] for row in rows] == [False] * 4 + [True] * 2
        for row in rows:
            assert sum(row["user_sizes"]) + sum(row["item_sizes"]) == row["num_params"] == 1024
            assert row["kept_ratio"] == row["num_params"] / (320 * 16)
            assert 0 < row["quality"] < 1 and 0 < row["proposed_ratio"] <= 1
        retrained = result.summary["retrained"]
        steps = [row["step"] for row in retrained if row["name"] == "search"]
        best_first = sorted(range(NUM_STEPS), key=lambda step: rows[step]["quality"], reverse=True)
        assert steps == best_first[:2]
        best = max(retrained[1:], key=lambda row: row["quality"])
        assert rows[best["step"]]["user_sizes"] == result.table.sizes.user.tolist()

    def test_progress_is_a_line_a_step_of_every_phase(self, finished):
        config, _, news = finished
        lines = [json.loads(line) for line in (config.output / "progress.jsonl").read_text().splitlines()]
        steps = [(line["phase"], line["step"]) for line in lines]
        num_fits = sum(phase == "full-size fit" for phase, _ in steps)
        expected = [("full-size fit", batch) for batch in (20, 40, 60)[:num_fits]]
        expected += [("search", step) for step in range(1, NUM_STEPS + 1)]
        expected += [(phase, step) for phase in ("retraining", "test") for step in (1, 2, 3)]
        assert num_fits > 0 and steps == expected
        in_search = lines[num_fits : num_fits + NUM_STEPS]
        notes = [line.get("note") for line in in_search]
        assert notes == ["warm-up"] * 2 + [None] * 2 + ["greedy"] * 2
        assert all("search/quality" in line and "search/memory_weight" in line for line in in_search)
        assert [(progress.phase, progress.step) for progress in news if progress.is_step] == steps

    def test_the_loaded_recommender_gives_the_test_figures(self, finished):
        config, result, _ = finished
        loaded = SearchResult.load(config.output)
        merged = load_interactions(config).merge_validation_into_training()
        metrics = evaluate(loaded.recommender(), loaded.train, merged.test)
        assert metrics.summary() == pytest.approx(result.summary["methods"][2]["test"], rel=1e-6)
        assert (loaded.train != merged.train).nnz == 0

    def test_a_table_is_loaded_and_serves_without_ray(self, finished):
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "from ciess_ray.result import SearchResult\n"
            "recommender = SearchResult.load(Path(sys.argv[1])).recommender()\n"
            "assert recommender.encode()[0].shape[0] == 200\n"
            "print([name for name in ('ray', 'mlflow') if name in sys.modules])\n"
        )
        command = [sys.executable, "-c", code, str(finished[0].output)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestAgain:
    def test_one_seed_gives_an_identical_result_and_reuses_the_full_size_fit(
        self, finished, make_config, tmp_path
    ):
        config, result, _ = finished
        other = make_config(tmp_path / "again")
        assert fit_full_size(other, load_interactions(other)).is_cached
        again = search(other)
        for name in ("sizes.parquet", "candidates.parquet", "ids.parquet"):
            assert pq.read_table(other.output / name).equals(pq.read_table(config.output / name)), name
        # safetensors writes metadata in any order, so that the files are equal in what they hold alone.
        np.testing.assert_array_equal(again.table.values, result.table.values)
        for name in ("methods", "retrained", "budget", "dataset"):
            assert again.summary[name] == result.summary[name]

    def test_a_cached_fit_is_the_one_that_was_trained(self, finished, make_config, tmp_path):
        config, _, _ = finished
        interactions = load_interactions(config)
        kept = fit_full_size(config, interactions)
        fresh = fit_full_size(make_config(tmp_path, cache=None), interactions)
        assert kept.is_cached and not fresh.is_cached
        np.testing.assert_array_equal(kept.quality.user, fresh.quality.user)
        np.testing.assert_array_equal(kept.quality.item, fresh.quality.item)
        assert (kept.mean_quality, kept.validation, kept.best_batch) == (
            fresh.mean_quality,
            fresh.validation,
            fresh.best_batch,
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
        assert not fit_full_size(config, load_interactions(config)).is_cached

    def test_a_damaged_cache_is_made_again(self, make_config, tmp_path):
        other = make_config(tmp_path, cache=tmp_path, training={"max_batches": 20})
        interactions = load_interactions(other)
        expected = fit_full_size(other, interactions)
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
            made = fit_full_size(other, interactions)
            assert not made.is_cached and made.best_batch == expected.best_batch


class TestOutput:
    def test_a_folder_with_a_result_is_refused(self, finished):
        config, _, _ = finished
        with pytest.raises(ResultError, match="already holds a result; .* --overwrite"):
            search(config)

    def test_a_file_is_refused(self, make_config, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ResultError, match="is a file; name a folder"):
            search(make_config(tmp_path / "file"), overwrite=True)

    def test_overwriting_leaves_foreign_files_alone(self, finished, tmp_path):
        config, _, _ = finished
        folder = tmp_path / "copy"
        shutil.copytree(config.output, folder)
        (folder / "notes.txt").write_text("mine")
        ResultFolder(folder, overwrite=True)
        assert [entry.name for entry in folder.iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize(
        "name",
        ["result.json", "table.safetensors", "scorer.safetensors", "interactions.npz", "ids.parquet"],
    )
    def test_a_missing_or_damaged_file_is_named(self, finished, tmp_path, name):
        folder = tmp_path / "copy"
        shutil.copytree(finished[0].output, folder)
        content = (folder / name).read_bytes()

        def read():
            result = SearchResult.load(folder)
            result.recommender()
            result.ids()

        read()
        middle = len(content) // 2
        overwritten = content[:middle] + b"\x00\xff" * 20 + content[middle + 40 :]
        # Other values in a table are values too.
        damaged = [b"", content[:middle]] + [overwritten] * (name != "table.safetensors")
        for bad in damaged:
            (folder / name).write_bytes(bad)
            with pytest.raises(ResultError, match=f"{name}: damaged"):
                read()
        (folder / name).unlink()
        with pytest.raises(ResultError, match=f"{name}: no such file"):
            read()

    def test_nothing_else_is_needed_to_read_it(self, finished, tmp_path):
        folder = tmp_path / "copy"
        shutil.copytree(finished[0].output, folder)
        for name in ("sizes.parquet", "candidates.parquet", "progress.jsonl", "sizes.png", "search.png"):
            (folder / name).unlink()
        SearchResult.load(folder).recommender()

    def test_large_sizes_fit_into_candidates(self, tmp_path):
        folder = ResultFolder(tmp_path / "out")
        sizes = EmbeddingSizes(np.array([1, 70_000]), np.array([40_000]), 1, 70_000)
        folder.write_candidates([Candidate(0, sizes, 0.5, 0.5)])
        (row,) = pq.read_table(tmp_path / "out" / "candidates.parquet").to_pylist()
        assert row["user_sizes"] == [1, 70_000] and row["item_sizes"] == [40_000]


class TestBreakingOff:
    @pytest.mark.parametrize(
        ("phase", "step"),
        [("full-size fit", 0), ("search", 0), ("search", 3), ("retraining", 1), ("test", 2)],
    )
    def test_an_interrupt_leaves_what_was_found(self, finished, make_config, tmp_path, phase, step):
        def interrupt(progress):
            if (progress.phase, progress.step) == (phase, step):
                # What a search that is killed here leaves behind.
                summary = strict_json(config.output / "result.json")
                assert (summary["status"], summary["phase"]) == ("running", phase)
                raise KeyboardInterrupt

        config = make_config(tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            search(config, on_progress=interrupt)
        summary = strict_json(config.output / "result.json")
        num_steps = {"full-size fit": 0, "search": step}.get(phase, NUM_STEPS)
        assert (summary["status"], summary["phase"]) == ("interrupted", phase)
        assert summary["num_steps"] == num_steps and "reason" in summary
        candidates = config.output / "candidates.parquet"
        if num_steps:
            assert pq.read_metadata(candidates).num_rows == num_steps
            expected = pq.read_table(finished[0].output / "candidates.parquet").slice(0, num_steps)
            assert pq.read_table(candidates).equals(expected)
        else:
            assert not candidates.exists()
        with pytest.raises(ResultError, match=f"'interrupted', not finished .phase '{phase}'"):
            SearchResult.load(config.output)
        with pytest.raises(ResultError, match="already holds a result"):
            search(config)

    def test_a_failure_says_why(self, make_config, tmp_path):
        config = make_config(tmp_path / "out", training={"learning_rate": 1e20})
        with pytest.raises(TrainingError, match="lower training.learning_rate"):
            search(config)
        summary = strict_json(config.output / "result.json")
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
        with pytest.raises(ConfigError, match="search.num_env_runners=9 asks for .* has 2"):
            search(make_config(tmp_path / "out", search={"num_env_runners": 9}))


class TestModes:
    def test_paper(self, make_config, tmp_path):
        settings = {"mode": "paper", "memory_weight": 0.4, "num_warmup_steps": 0, "num_greedy_steps": 0}
        result = search(make_config(tmp_path / "out", search=settings))
        rows = pq.read_table(result.path / "candidates.parquet").to_pylist()
        # Nothing projects the steps; what is handed over meets the budget all the same.
        assert any(row["num_params"] > 1024 for row in rows)
        assert result.table.sizes.num_params <= 1024

    def test_an_env_runner_of_its_own(self, make_config, tmp_path):
        result = search(make_config(tmp_path / "out", search={"num_env_runners": 1}))
        assert result.summary["status"] == "finished" and result.summary["num_steps"] == NUM_STEPS

    def test_one_update_a_step_as_in_ciess(self, make_config, tmp_path):
        settings = {"num_episodes": 1, "num_warmup_steps": 0, "num_greedy_steps": 0, "num_candidates": 1}
        config = make_config(tmp_path / "out", search=settings, agent={"updates_per_step": 1})
        assert search(config).summary["num_steps"] == 2

    def test_bytes_cap_the_file(self, make_config, tmp_path):
        settings = {"num_episodes": 1, "num_warmup_steps": 1, "num_greedy_steps": 0, "num_candidates": 1}
        result = search(make_config(tmp_path / "out", budget="4000B", search=settings))
        assert (result.path / "table.safetensors").stat().st_size <= 4_000
        assert result.table.sizes.num_params == (4_000 - 320 - 1024) // 4


class TestSelection:
    @staticmethod
    def candidate(step, size, quality):
        return Candidate(step, EmbeddingSizes(np.array([size, 1]), np.array([1]), 1, 8), quality, 0.5)

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

    def test_the_earlier_of_equals_comes_first(self):
        candidates = [self.candidate(step, step + 1, 0.5) for step in range(3)]
        assert [c.step for c in select_candidates(candidates, 99, 2)] == [0, 1]


def test_ray_is_left_running_where_it_was_running(finished, ray_cluster):
    assert ray_cluster.is_initialized()
    with search_module.ray_session():
        pass
    assert ray_cluster.is_initialized()


def test_no_figure_is_nan(finished):
    _, result, _ = finished
    for row in result.summary["methods"]:
        assert all(math.isfinite(value) and value > 0 for value in row["test"].values())
