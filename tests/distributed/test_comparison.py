"""Comparisons whose driver is killed."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from processes import kill, start, wait_for

from envs.data import generate_interactions

#: None that needs RLlib, whose import is most of what a cell would take.
METHODS = ["equal sizes", "split"]


@pytest.fixture
def write(tmp_path):
    log = generate_interactions(200, 120, 4_000, seed=0, rank=4)
    pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), tmp_path / "log.parquet")

    def write(name):
        base = {
            "dataset": {"path": str(tmp_path / "log.parquet")},
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
            "search": {
                "num_episodes": 1,
                "episode_length": 3,
                "supernet_batches": 20,
                "num_warmup_steps": 2,
                "num_candidates": 2,
            },
            "agent": {"hiddens": [16], "updates_per_step": 2},
        }
        values = {
            "base": base,
            "space": {"budget": ["20%"], "seed": [0]},
            "methods": METHODS,
            "yardsticks": [],
            "num_resamples": 200,
            "output": str(tmp_path / name),
            "tracking": {"mlflow": False},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        return tmp_path / f"{name}.yaml"

    return write


def rows_of(folder):
    """What of each cell does not depend on the machine's load."""
    return {
        row["cell"]: {
            name: value for name, value in row.items() if not name.startswith(("cpu_s", "wall_s", "peak"))
        }
        for row in pq.read_table(folder / "comparison.parquet").to_pylist()
    }


def test_a_comparison_is_killed_and_ends_with_the_same_table(write, tmp_path, ray_cluster):
    from ciess_ray.comparisons.config import ComparisonPlan
    from ciess_ray.comparisons.driver import compare, read_plan

    log, config, folder = tmp_path / "log.txt", write("killed"), tmp_path / "killed"
    process = start("compare", config, log=log)
    wait_for(lambda: list(folder.glob("cells/*.npz")), process, log)
    kill(process)
    done = {file.name: file.stat().st_mtime_ns for file in folder.glob("cells/*.npz")}
    assert 1 <= len(done) < len(METHODS) and not (folder / "comparison.json").exists()
    compare(read_plan(folder))
    assert {name: (folder / "cells" / name).stat().st_mtime_ns for name in done} == done

    # The supernet is known to be the same, wherever it is trained.
    shutil.copytree(folder / "cache", tmp_path / "whole" / "cache")
    compare(ComparisonPlan.load(write("whole")))
    whole = rows_of(tmp_path / "whole")
    assert len(whole) == len(METHODS) and {row["status"] for row in whole.values()} == {"finished"}
    assert rows_of(folder) == whole
