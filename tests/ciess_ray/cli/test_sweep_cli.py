"""What is wrong is told before any trial starts, and a dry run starts none."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from ciess_ray.cli import main as cli
from ciess_ray.config.data import read_data
from ciess_ray.files.whole import sole_writer
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import SWEEP_FORMAT, fingerprints_of, read_sweep, resume_sweep, sweep
from ciess_ray.sweeps.storage import Storage
from envs.errors import CiessError, ConfigError, ResultError

BASE = {
    "dataset": {},
    "recommender": {"max_embedding_size": 16, "device": "cpu"},
    "search": {"num_episodes": 2, "episode_length": 2},
}


@pytest.fixture
def write(workplace, tmp_path, monkeypatch, ray_cluster):
    monkeypatch.chdir(tmp_path)

    def write(space=None, base=None, **fields):
        own = BASE | {"dataset": {"path": str(workplace / "log.parquet")}} | (base or {})
        values = {
            "base": own,
            "space": space or {"budget": ["20%", "40%"]},
            "output": str(tmp_path / "sweep"),
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(values | {"tracking": {"mlflow": False}} | fields))
        return str(file)

    return write


def run(*arguments):
    return CliRunner().invoke(cli.app, ["sweep", *arguments], catch_exceptions=False)


def test_a_dry_run_shows_the_trials_and_what_they_claim_and_leaves_nothing(write, tmp_path):
    result = run(write({"budget": ["20%", "40%"], "seed": [0, 1, 2]}), "--dry-run")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len([line for line in lines if "_seed-" in line]) == 6
    assert "0.01 + 0.99 = 1 CPU" in result.output and lines[1].split()[-1] == "2"
    assert not (tmp_path / "sweep").exists() and not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"set": {"search.num_env_runners": 2}}, r"claims 1 \+ 2 x 1 = 3 CPU.*\(2 CPU\) can never hold one"),
        ({"space": {"budget": ["0.1%"]}}, "the trial 0_budget-0.1-percent"),
        ({"tracking": {"uri": "http://127.0.0.1:9"}}, r"tracking\.uri='http://127\.0\.0\.1:9'"),
        ({"output": "/proc/sweep"}, "/proc/sweep: cannot be written"),
        ({"output": "nothing://bucket/sweep"}, "neither a path nor a URI that pyarrow knows"),
        ({"base": {"dataset": {"path": "nothing.parquet"}}}, "nothing.parquet"),
        ({"scheduler": {"name": "asha"}}, r"scheduler\.grace_steps=20: trials take 4 steps"),
        ({"searcher": "optuna", "space": {"agent.gamma": {"uniform": [0, 0.5]}}}, "Optuna is not installed"),
    ],
)
def test_what_cannot_work_is_told_before_any_trial_starts(write, fields, message, tmp_path, monkeypatch):
    # As where it is not installed.
    monkeypatch.setattr("ray.tune.search.optuna.optuna_search.ot", None)
    with pytest.raises(CiessError, match=f"(?s){message}"):
        run(write(**fields))
    assert not list(tmp_path.glob("sweep/*/trial.json"))


def test_what_is_no_sweep_cannot_be_resumed(tmp_path, write):
    with pytest.raises(CiessError, match=r"no sweep: there is no sweep\.json in it"):
        run("--resume", str(tmp_path))
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(CiessError, match=r"sweep\.json: damaged"):
        run("--resume", str(tmp_path))
    (tmp_path / "sweep.json").write_text('{"format": "another"}')
    with pytest.raises(CiessError, match="not of the format 'ciess-ray sweep"):
        run("--resume", str(tmp_path))
    with pytest.raises(CiessError, match="only dataset.path=FILE where its data have moved, and tracking"):
        run(write(), "--resume", str(tmp_path))
    with pytest.raises(CiessError, match="CONFIG, a YAML file, is missing"):
        run()


def test_data_that_have_moved_are_named_beside_resume(write, workplace, tmp_path):
    class Seen(Exception):
        pass

    def see(state):
        raise Seen

    log = tmp_path / "log.parquet"
    shutil.copy(workplace / "log.parquet", log)
    # Both need one full-size fit, of whose beginning one is told.
    config = write({"agent.gamma": [0, 0.5]}, {"dataset": {"path": "log.parquet"}})
    with pytest.raises(Seen):
        sweep(SweepPlan.load(Path(config)), on_change=see)
    folder = tmp_path / "sweep"
    moved = log.rename(tmp_path / "moved.parquet")
    pq.write_table(pq.read_table(moved)[:-9], tmp_path / "fewer.parquet")
    before = (folder / "sweep.json").read_text()
    with pytest.raises(ResultError, match=r"its data, .*log\.parquet, are not there; .* dataset\.path=FILE"):
        run("--resume", str(folder))
    with pytest.raises(ResultError, match="other interactions than when this sweep began; .*by dataset.path"):
        run("--resume", str(folder), "dataset.path=fewer.parquet")
    assert (folder / "sweep.json").read_text() == before
    with pytest.raises(Seen):
        resume_sweep(str(folder), overrides=["dataset.path=moved.parquet"], on_change=see)
    # Its trials find them where they lie now, and so does whoever resumes it next.
    plan, state = read_sweep(Storage(folder))
    assert {trial.config.dataset.path for trial in plan.trials} == {moved}
    assert state["fingerprints"] == fingerprints_of(read_data(plan.trials, plan.source))
    assert list(state["fingerprints"].values()) == list(json.loads(before)["fingerprints"].values())


def test_data_that_the_space_names_are_not_moved(write, workplace, tmp_path):
    paths = [str(workplace / "log.parquet"), str(tmp_path / "other.parquet")]
    plan = SweepPlan.load(Path(write({"dataset.path": paths})))
    state = {"format": SWEEP_FORMAT, "sweep": plan.values(), "fingerprints": {}}
    Storage(tmp_path / "sweep").write("sweep.json", json.dumps(state).encode())
    with pytest.raises(ConfigError, match=r"'dataset\.path=a': here the space names the data; bring"):
        run("--resume", str(tmp_path / "sweep"), "dataset.path=a")


def test_a_sweep_whose_checkpoints_are_of_another_layout_is_refused(write, tmp_path):
    plan = SweepPlan.load(Path(write({"seed": [0]})))
    state = {"format": SWEEP_FORMAT, "sweep": plan.values(), "fingerprints": {}}
    Storage(tmp_path / "sweep").write("sweep.json", json.dumps(state).encode())
    with pytest.raises(ResultError, match="checkpoint 2.* go on with the version .* that wrote them"):
        run("--resume", str(tmp_path / "sweep"))
    # What is finished is read.
    assert read_sweep(Storage(tmp_path / "sweep"))[0].values() == plan.values()


def test_a_sweep_is_not_replaced_without_a_word(tmp_path, write):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(CiessError, match="holds a sweep; .* go on with it: ciess-ray sweep --resume"):
        run(write())
    assert (tmp_path / "sweep" / "sweep.json").read_text() == "{}"


@pytest.mark.usefixtures("without_ray")
def test_a_sweep_that_another_process_runs_is_left_alone_before_ray_starts(tmp_path, write):
    config = write()
    with sole_writer(tmp_path / "sweep" / "cache"), pytest.raises(CiessError, match="another process"):
        run(config)
    assert not (tmp_path / "sweep" / "sweep.json").exists()
