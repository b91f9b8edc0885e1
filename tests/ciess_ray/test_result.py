"""What a search leaves on disk."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ciess_ray.candidate import Candidate
from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import ResultFolder, SearchResult
from ciess_ray.searches.driver import search
from envs.errors import ResultError
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes

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
    "test.npz",
    "sizes.png",
    "search.png",
}


def strict_json(path):
    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


class TestFolder:
    def test_is_complete_and_its_json_strict(self, finished):
        config, result, _ = finished
        assert {entry.name for entry in config.output.iterdir()} == OWN_FILES | {
            "checkpoints",
            "manifest.json",
        }
        # Of the checkpoints what more episodes need.
        assert len(list((config.output / "checkpoints").glob("step-*"))) == 1
        summary = strict_json(config.output / "result.json")
        assert summary == result.summary
        assert summary["status"] == "finished" and summary["phase"] == "done"
        assert summary["num_steps"] == NUM_STEPS
        assert summary["bytes"] == {
            name: (config.output / name).stat().st_size for name in OWN_FILES - {"result.json"}
        }
        assert summary["seconds"].keys() == {"full-size fit", "supernet", "search", "retraining", "test"}
        assert summary["dataset"]["num_users"] == 200 and summary["dataset"]["num_interactions"] == 4_000
        assert summary["versions"]["torch"] == torch.__version__
        assert parse_config(summary["config"]) == config

    def test_the_budget_holds(self, finished):
        _, result, _ = finished
        budget, sizes = result.summary["budget"], result.packed_table.sizes
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
        sizes = result.packed_table.sizes
        assert table["embedding_size"] == [*sizes.user.tolist(), *sizes.item.tolist()]
        merged = load_interactions(config).merge_validation_into_training()
        assert table["popularity"] == [*merged.user_popularity.tolist(), *merged.item_popularity.tolist()]
        users, items = result.ids()
        assert [*users, *items] == table["id"]

    def test_candidates_hold_every_step(self, finished):
        config, result, _ = finished
        rows = pq.read_table(config.output / "candidates.parquet").to_pylist()
        assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
        kinds = ["warm-up"] * 2 + ["explored"] * 2 + ["greedy"] * 2
        assert [row["kind"] for row in rows] == kinds
        for row in rows:
            assert sum(row["user_sizes"]) + sum(row["item_sizes"]) == row["num_params"] == 1024
            assert row["kept_ratio"] == row["num_params"] / (320 * 16)
            assert 0 < row["quality"] < 1 and 0 < row["proposed_ratio"] <= 1
        retrained = result.summary["retrained"]
        steps = [row["step"] for row in retrained if row["name"] == "search"]
        best_first = sorted(rows, key=lambda row: row["quality"], reverse=True)
        assert steps == [row["step"] for row in best_first[:2]]
        assert all(row["kind"] == kinds[row["step"] - 1] for row in retrained if row["name"] == "search")
        (packed,) = (row for row in retrained if row["is_packed"])
        assert packed == max(retrained, key=lambda row: row["quality"])
        if packed["step"] is not None:
            assert rows[packed["step"] - 1]["user_sizes"] == result.packed_table.sizes.user.tolist()

    def test_progress_is_a_line_a_step_of_every_phase(self, finished):
        config, _, news = finished
        lines = [json.loads(line) for line in (config.output / "progress.jsonl").read_text().splitlines()]
        steps = [(line["phase"], line["step"]) for line in lines]
        num_fits = sum(phase == "full-size fit" for phase, _ in steps)
        expected = [("full-size fit", batch) for batch in (20, 40, 60)[:num_fits]]
        expected += [("supernet", 20)]
        expected += [("search", step) for step in range(1, NUM_STEPS + 1)]
        expected += [(phase, step) for phase in ("retraining", "test") for step in (1, 2, 3)]
        assert num_fits > 0 and steps == expected
        in_search = lines[num_fits + 1 : num_fits + 1 + NUM_STEPS]
        notes = [line.get("note") for line in in_search]
        assert notes == ["warm-up"] * 2 + [None] * 2 + ["greedy"] * 2
        assert all("search/quality" in line and "search/memory_weight" in line for line in in_search)
        assert [(progress.phase, progress.step) for progress in news if progress.is_step] == steps

    def test_a_training_that_was_cut_short_is_said(self, finished):
        config, result, _ = finished
        *_, hint = result.summary["hints"]
        last_best = config.training.max_batches - config.training.patience * config.training.evaluate_every
        for row in result.summary["methods"]:
            assert (f"{row['name']} (best at batch" in hint) == (row["best_batch"] > last_best)
        assert "training.max_batches=60" in hint

    def test_a_search_that_loses_to_equal_sizes_says_so(self, finished):
        _, result, _ = finished
        (packed,) = (row for row in result.summary["retrained"] if row["is_packed"])
        says_so = any("equal sizes were better" in hint for hint in result.summary["hints"])
        assert says_so == (packed["step"] is None)

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


class TestOutput:
    def test_a_folder_with_a_result_is_refused(self, finished):
        config, _, _ = finished
        with pytest.raises(ResultError, match="already holds a search; .* --overwrite"):
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
        ResultFolder(folder)
        # Of the checkpoints a search that begins anew takes care.
        assert {entry.name for entry in folder.iterdir()} == {"notes.txt", "checkpoints"}

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
        folder.write_candidates([Candidate(0, sizes, sizes, 0.5)])
        (row,) = pq.read_table(tmp_path / "out" / "candidates.parquet").to_pylist()
        assert row["user_sizes"] == [1, 70_000] and row["item_sizes"] == [40_000]


def test_no_figure_is_nan(finished):
    _, result, _ = finished
    for row in result.summary["methods"]:
        assert all(math.isfinite(value) and value > 0 for value in row["test"].values())


def test_a_recommender_has_the_weight_of_l2_that_was_chosen_of_those_tried(tmp_path):
    shutil.copytree(Path(__file__).parents[1] / "golden" / "result", tmp_path / "result")
    file = tmp_path / "result" / "result.json"
    summary = json.loads(file.read_text())
    summary["config"]["recommender"]["options"]["l2"] = [0.01, 0.001]
    file.write_text(json.dumps(summary))
    assert SearchResult.load(tmp_path / "result").recommender().l2 == 0.001
