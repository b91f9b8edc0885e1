"""The harness of a comparison: cells as tasks, kept one by one, gone on with, and told of."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from secrets_left import SECRET, holding
from typer.testing import CliRunner

from ciess_ray.cli import main as cli
from ciess_ray.comparisons.cell import CellResult
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.files.whole import sole_writer
from envs.errors import CiessError, ConfigError, ResultError

METHODS = ["full size", "equal sizes", "random search", "search"]


@pytest.fixture
def write(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(space=None, base=None, name="comparison", **fields):
        own = {
            "dataset": {"path": str(workplace / "log.parquet")},
            "recommender": {"max_embedding_size": 16, "device": "cpu"},
            "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
            "search": {
                "num_episodes": 1,
                "episode_length": 2,
                "supernet_batches": 20,
                "num_warmup_steps": 2,
                "num_candidates": 2,
                "tried_communities": [3],
            },
            "agent": {"hiddens": [16], "updates_per_step": 2},
        }
        values = {
            "base": own | (base or {}),
            "space": {"budget": ["20%"], "seed": [0]} if space is None else space,
            "methods": METHODS,
            "yardsticks": [],
            "num_resamples": 200,
            "output": str(tmp_path / name),
            "tracking": {"mlflow": False},
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values | fields))
        return str(file)

    return write


def run(*arguments):
    return CliRunner().invoke(cli.app, ["compare", *arguments], catch_exceptions=False)


def rows_of(folder):
    return {row["cell"]: row for row in pq.read_table(folder / "comparison.parquet").to_pylist()}


def test_a_method_that_fails_leaves_its_cell_and_the_rest_complete(write, tmp_path, ray_cluster):
    space = {"budget": ["20%"], "training.learning_rate": [0.03, 1e20]}
    config = write(space, methods=["equal sizes", "search"])
    result = run(config)
    assert result.exit_code == 1
    rows = rows_of(tmp_path / "comparison")
    failed = {name: row for name, row in rows.items() if row["status"] == "failed"}
    assert len(rows) == 4 and len(failed) == 2 and all("1e-20" in name for name in failed)
    equal, searched = sorted(failed.values(), key=lambda row: row["method"])
    assert equal["error"].startswith("TrainingError: the loss of LightGCN is")
    needed = r"it needs the (full-size fit|supernet) of training\.learning_rate=1e\+20, which failed"
    assert re.search(needed, searched["error"])
    lines = result.output.splitlines()
    ended = [
        line for line in lines if line.startswith(tuple(f"finished {name}  quality 0." for name in rows))
    ]
    assert len(ended) == 2 and all("  N@20 0." in line for line in ended)
    assert any(line.startswith("failed full-size fit of training.learning_rate=1e+20") for line in lines)
    assert "2 finished, 2 failed" in result.output and "try again: " in result.output
    summary = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert summary["format"] == "ciess-ray comparison 1"
    assert summary["num_cells"] == {"finished": 2, "failed": 2} and set(summary["failed"]) == set(failed)
    good = [cell for cell in summary["cells"] if cell["seeds"]]
    assert {cell["method"] for cell in good} == {"equal sizes", "search"}
    assert set(good[0]["differences"]) == {"ndcg@20", "recall@20"}
    searched = next(row for row in rows.values() if row["method"] == "search" and row["status"] == "finished")
    # What it starts from, two candidates, equal sizes, and test; with rows in communities the best, and the
    # best plain split unless that is the same.
    assert searched["num_trainings"] - (2 + 2 + 1 + 1) in (1, 2)
    assert searched["num_steps"] == 2 + 2 and searched["num_params"] == 1024

    # Other settings are not overwritten without a word, further methods are added.
    with pytest.raises(CiessError, match="2 cells were finished under other settings or on other .*, e.g"):
        run(
            write(space, {"recommender": {"max_embedding_size": 16, "device": "cpu", "options": {"l2": 0.1}}})
        )
    assert rows_of(tmp_path / "comparison") == rows
    config = write(
        {"budget": ["20%"], "training.learning_rate": [0.03]},
        methods=["equal sizes"],
        yardsticks=["item cosine"],
    )
    dry = run(config, "--dry-run")
    assert [line.split()[-1] for line in dry.output.splitlines()[1:]] == ["finished", "do"]
    again = run(config)
    assert again.exit_code == 0
    cached = [line for line in again.output.splitlines() if line.startswith("found in the cache ")]
    assert len(cached) == 1 and "equal-sizes" in cached[0] and "N@20 0." in cached[0]
    left = run("--resume", str(tmp_path / "comparison"), "--dry-run")
    assert [line.split()[-1] for line in left.output.splitlines()[1:]] == ["finished"] * 2
    *_, beside = rows_of(tmp_path / "comparison").values()
    assert (beside["cell"], beside["method"]) == ("item-cosine", "item cosine")
    assert (beside["status"], beside["recommender"], beside["budget"]) == ("finished", "", "no budget")
    assert beside["served_bytes"] > 0 and beside["packed_bytes"] is None and beside["test/ndcg@20"] > 0
    assert beside["cpu_s"] > 0 and "no budget" in again.output


@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
def test_cells_are_recorded_in_mlflow(write, empty_store, tmp_path, ray_cluster, monkeypatch):
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    # SQLite takes it and does nothing with it.
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?uri=true&token={SECRET}"
    monkeypatch.setattr(sys, "argv", ["ciess-ray", "compare", f"tracking.uri={uri}"])
    config = write(methods=["equal sizes"], space={"budget": ["20%", "40%"]})
    resumed = ["--resume", str(tmp_path / "comparison")]
    for arguments in ([config, "tracking.mlflow=true"], resumed):
        assert run(*arguments, f"tracking.uri={uri}").exit_code == 0
        assert holding(SECRET, tmp_path) == []
        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([client.get_experiment_by_name("ciess-ray").experiment_id])
        (parent,) = (one for one in runs if "mlflow.parentRunId" not in one.data.tags)
        cells = [one for one in runs if one is not parent]
        assert len(cells) == 2 and {one.info.status for one in runs} == {"FINISHED"}
        assert {one.data.tags["mlflow.parentRunId"] for one in cells} == {parent.info.run_id}
    rows = rows_of(tmp_path / "comparison")
    for one in cells:
        assert one.data.metrics["test/ndcg_20"] == rows[one.info.run_name]["test/ndcg@20"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"comparison.json", "comparison.parquet"}
    with pytest.raises(ConfigError, match="token=…: its password or token is kept in no file"):
        run(*resumed)


def test_a_cell_keeps_the_test_metrics_of_every_user(tmp_path):
    from ciess_ray.comparisons.cell import CellResult

    file = tmp_path / "cell.npz"
    metrics = {"ndcg@20": np.array([0.5, np.nan], np.float32)}
    CellResult({"status": "finished", "n": 1}, metrics, {"user_sizes": np.array([1, 2], np.int32)}).write(
        file
    )
    kept = CellResult.read(file)
    assert kept.row == {"status": "finished", "n": 1}
    np.testing.assert_array_equal(kept.user_metrics["ndcg@20"], metrics["ndcg@20"])
    assert kept.sizes["user_sizes"].tolist() == [1, 2]
    file.write_bytes(file.read_bytes()[:50])
    assert CellResult.read(file) is None and CellResult.read(tmp_path / "nothing.npz") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ["split", "popularty"]}, "unknown method 'popularty'. Did you mean 'popularity'"),
        ({"methods": ["split", "split"]}, "methods: .split. stands there twice"),
        ({"methods": []}, "methods=.*at least 1 item"),
        ({"yardsticks": ["eases"]}, "unknown yardstick 'eases'. Did you mean 'ease'"),
        ({"yardsticks": ["ease", "ease"]}, "yardsticks: .ease. stands there twice"),
        ({"space": {"budget": ["20%"], "seed": [0, 0]}}, "space.seed: 0 stands there twice"),
        ({"space": {"budget": []}}, "space.budget: an empty grid"),
        ({"space": {}}, "space=.*at least 1 item"),
        (
            {"space": {"agent.gamma": {"uniform": [0, 1]}}},
            r"space.agent.gamma=.*: Input should be a valid list",
        ),
        (
            {"space": {"agent": {"gamma": 0.5}}},
            r"space.agent.gamma=0.5: Input should be a valid list",
        ),
        ({"space": {"budget": ["120%"]}}, "more than the full table"),
        ({"space": {"budget": ["0.1%"]}}, "leaves 5 parameters for 320 rows"),
        ({"space": {"recommender.name": ["lightgc"]}}, "unknown recommender 'lightgc'"),
        ({"random_search": {"seconds": 1}}, "unknown field 'random_search'"),
        ({"set": {"search.mode": "paper"}}, "methods are compared at one budget: set search.mode=projected"),
        ({"set": {"search.num_env_runners": 1}}, "set search.num_env_runners=0; cells run"),
        ({"set": {"resources.num_cpus_per_training": 3}}, "asks for 3 CPU"),
        ({"base": {"dataset": {"path": "nothing.parquet"}}}, "nothing.parquet"),
        ({"output": "/proc/comparison"}, "/proc/comparison: cannot be made"),
        ({"output": "/proc/version"}, "/proc/version: is a file"),
    ],
)
def test_what_cannot_work_is_told_before_any_cell(write, fields, message, tmp_path, ray_cluster):
    with pytest.raises(CiessError, match=f"(?s){message}"):
        run(write(**fields))
    assert {file.name for file in (tmp_path / "comparison").rglob("*")} <= {"cache", "lock"}


@pytest.mark.usefixtures("without_ray")
def test_one_that_another_process_runs_is_left_alone_before_ray_starts(write, tmp_path):
    config = write()
    with sole_writer(tmp_path / "comparison" / "cache"), pytest.raises(CiessError, match="another process"):
        run(config)
    assert [file.name for file in (tmp_path / "comparison").iterdir()] == ["cache"]


@pytest.mark.usefixtures("without_ray")
def test_what_memory_has_no_room_for_is_known_before_any_cell(write):
    values = {"recommender": {"max_embedding_size": 10**8, "device": "cpu"}}
    config = write({"budget": ["3000 params"]}, values)
    with pytest.raises(
        CiessError, match="the trial 0_budget-3000-params: to train .*max_embedding_size=10000"
    ):
        run(config, "--dry-run")
    # Nobody trains a full table.
    config = write({"budget": ["3000 params"]}, values, methods=["equal sizes"])
    assert run(config, "--dry-run").exit_code == 0


def test_what_is_no_comparison_cannot_be_resumed(write, tmp_path):
    with pytest.raises(CiessError, match=r"no comparison: there is no plan\.json in it"):
        run("--resume", str(tmp_path))
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(CiessError, match=r"plan\.json: damaged"):
        run("--resume", str(tmp_path))
    (tmp_path / "plan.json").write_text('{"format": "another", "comparison": {}}')
    with pytest.raises(CiessError, match="not of the format 'ciess-ray comparison plan"):
        run("--resume", str(tmp_path))
    with pytest.raises(CiessError, match="give only --dry-run, dataset.path=FILE where its data"):
        run(write(), "--resume", str(tmp_path))
    with pytest.raises(CiessError, match="CONFIG, a YAML file, is missing"):
        run()


def test_a_comparison_of_before_is_read_where_its_fields_are_as_they_are_now(write, tmp_path):
    from ciess_ray.comparisons.config import ComparisonPlan
    from ciess_ray.comparisons.driver import read_plan

    plan = ComparisonPlan.load(Path(write()))
    for tau in (0.005, 0.5):
        values = plan.values()
        values["base"]["agent"]["tau"] = tau
        state = {"format": "ciess-ray comparison plan 1", "id": "a", "comparison": values}
        (tmp_path / "plan.json").write_text(json.dumps(state))
        if tau == 0.005:
            assert [cell.config for cell in read_plan(tmp_path).cells] == [cell.config for cell in plan.cells]
        else:
            with pytest.raises(ConfigError, match="there is no field 'agent.tau' any more: targets move by"):
                read_plan(tmp_path)


def test_data_that_have_moved_are_named_beside_resume(write, workplace, tmp_path):
    from ciess_ray.comparisons.cell import Board, cell_file
    from ciess_ray.comparisons.config import ComparisonPlan
    from ciess_ray.comparisons.driver import _write_plan

    log, folder = tmp_path / "log.parquet", tmp_path / "comparison"
    shutil.copy(workplace / "log.parquet", log)
    plan = ComparisonPlan.load(Path(write(base={"dataset": {"path": "log.parquet"}}, methods=["full size"])))
    _write_plan(plan, folder)
    board, (cell,) = Board(plan), plan.cells
    CellResult({"status": "finished", "key": board.key(cell)}).write(cell_file(folder, cell))
    moved = log.rename(tmp_path / "moved.parquet")
    pq.write_table(pq.read_table(moved)[:-9], tmp_path / "fewer.parquet")
    with pytest.raises(ResultError, match=r"its data, .*log\.parquet, are not there; .* dataset\.path=FILE"):
        run("--resume", str(folder), "--dry-run")
    shown = [
        run("--resume", str(folder), f"dataset.path={name}.parquet", "--dry-run").output.split()[-1]
        for name in ("moved", "fewer")
    ]
    assert shown == ["finished", "settings"]
    with pytest.raises(ResultError, match="1 cells were finished under other settings or on other interact"):
        run("--resume", str(folder), "dataset.path=fewer.parquet")


def test_what_tasks_are_handed_holds_no_test_interactions(write, tmp_path, ray_cluster, monkeypatch):
    from ciess_ray.comparisons import driver
    from ciess_ray.comparisons.cell import Board
    from ciess_ray.comparisons.config import ComparisonPlan

    handed = {}
    monkeypatch.setattr(driver, "start_all", lambda preparations, data, *_: handed.update(data))
    board = Board(ComparisonPlan.load(Path(write())))
    driver._submit(board, tmp_path, [], {})
    (whole,) = board.data.values()
    (visible,) = ray_cluster.get(list(handed.values()))
    assert whole.test.nnz > 0 and visible.test.nnz == 0
    assert visible.fingerprint == whole.fingerprint and visible.train.nnz == whole.train.nnz


def test_every_data_set_has_full_size_cells_of_its_own_however_long_its_name():
    # The first two differ beyond what a name has room for, the others in a character that names do not have.
    paths = [f"{'folder/' * 20}{end}.parquet" for end in "ab"] + ["a b.parquet", "a-b.parquet"]
    values = {
        "base": {},
        "space": {"dataset": [{"path": path} for path in paths], "seed": [0, 1]},
        "methods": ["full size", "split"],
        "yardsticks": [],
    }
    cells = ComparisonPlan.of(values, "comparison", Path()).cells
    assert len(cells) == 16 and len({cell.name for cell in cells}) == 16
    full = {(cell.config.dataset.path, cell.config.seed) for cell in cells if cell.method == "full size"}
    assert len(full) == 8 and max(len(cell.name) for cell in cells) < 150


def test_full_size_is_one_cell_for_all_budgets(write):
    from ciess_ray.comparisons.config import ComparisonPlan

    plan = ComparisonPlan.load(Path(write({"budget": ["10%", "20%"], "seed": [0, 1]})))
    names = [cell.name for cell in plan.cells]
    assert len(names) == len(set(names)) == 2 + 4 * 3
    assert [name for name in names if "full" in name] == ["seed-0_full-size", "seed-1_full-size"]
    assert "budget-10-percent_seed-0_random-search" in names


def test_seeds_have_splits_of_their_own_unless_one_is_fixed(write):
    from ciess_ray.comparisons.cell import Board
    from ciess_ray.comparisons.config import ComparisonPlan
    from ciess_ray.training.preparing import Preparation

    space = {"budget": ["20%"], "seed": [0, 1]}
    for fixed, num_splits in (({}, 2), ({"set": {"dataset.split_seed": 5}}, 1)):
        board = Board(ComparisonPlan.load(Path(write(space, methods=["search"], **fixed))))
        assert len({data.fingerprint for data in board.data.values()}) == num_splits
        first, second = (board.interactions(cell) for cell in board.plan.cells)
        assert (first is second) == (num_splits == 1)
        # What is trained once for a split is kept by its split.
        config = board.plan.cells[0].config
        keys = [
            (Preparation.full_size(config, data).key, Preparation.supernet(config, data, [1024]).key)
            for data in (first, second)
        ]
        for one, other in zip(*keys, strict=True):
            assert (one == other) == (num_splits == 1)


def test_cells_of_a_method_that_went_are_shown_and_none_is_computed(write, tmp_path):
    from ciess_ray.comparisons.cell import Board, CellResult, cell_file
    from ciess_ray.comparisons.config import ComparisonPlan

    config = Path(write(methods=["discrete", "equal sizes"]))
    board = Board(ComparisonPlan.load(config))
    with pytest.raises(ConfigError, match="no 'discrete' any more: a search over six .*; leave it out. "):
        run(str(config), "--dry-run")
    assert not (tmp_path / "comparison").exists()
    (cell,) = (one for one in board.plan.cells if one.method == "discrete")
    row = {"key": board.key(cell), "status": "finished"}
    CellResult(row).write(cell_file(tmp_path / "comparison", cell))
    known, others = board.kept(tmp_path / "comparison")
    assert known.keys() == {cell.name} and others == []


def test_committed_cells_go_on_being_read():
    from ciess_ray.comparisons.cell import CellResult

    folders = sorted((Path(__file__).parents[3] / "results").glob("*comparison*/cells"))
    assert len(folders) >= 8
    for folder in folders:
        kept = CellResult.read(min(folder.glob("*.npz")))
        assert kept.row["status"] == "finished" and kept.row["packed_bytes"] > 0
        assert np.nanmean(kept.user_metrics["ndcg@20"]) == pytest.approx(kept.row["test/ndcg@20"], rel=1e-5)
        assert len(kept.sizes["user_sizes"]) == len(kept.user_metrics["ndcg@20"])
