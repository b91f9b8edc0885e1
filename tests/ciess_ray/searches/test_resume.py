import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from secrets_left import SECRET, holding

from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.files.whole import sole_writer
from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.packed.table import PackedTable
from ciess_ray.result import SearchResult
from ciess_ray.searches.driver import resume, search
from ciess_ray.streams import Stream, key_of
from ciess_ray.training.convergence import train_for_use
from ciess_ray.training.preparing import Preparation
from envs.errors import CiessError, ConfigError, ResultError

EVERY_STEP = {"checkpoint_interval_s": 0.0}
KINDS = ("user", "item")


class Killed(BaseException):
    """Stands for what no handler of the search's own expects."""


def stop_at(phase, step, error=Killed):
    def watch(progress):
        if (progress.phase, progress.step) == (phase, step) and progress.is_step:
            raise error

    return watch


def assert_same_results(mine, theirs):
    for name in ("sizes.parquet", "candidates.parquet"):
        assert pq.read_table(mine.path / name).equals(pq.read_table(theirs.path / name)), name
    np.testing.assert_array_equal(mine.packed_table.values, theirs.packed_table.values)
    for name in ("methods", "retrained", "num_steps", "budget"):
        assert mine.summary[name] == theirs.summary[name]


def assert_refitted(mine, measured):
    """What is packed is trained on all interactions, and nothing else is other than in a search without."""
    for name in ("methods", "retrained", "num_steps", "budget"):
        assert mine.summary[name] == measured.summary[name]
    beside = PackedTable.open(mine.path / "measured.safetensors")
    np.testing.assert_array_equal(beside.values, measured.packed_table.values)
    assert mine.packed_table.num_bytes == beside.num_bytes
    config = parse_config(mine.summary["config"])
    interactions, told = load_interactions(config), mine.summary["refit"]
    assert (mine.train != interactions.merge_all_into_training().train).nnz == 0
    assert told["num_interactions"] == mine.train.nnz == interactions.num_interactions
    best_batch, seed = mine.summary["methods"][-1]["best_batch"], key_of(config.seed, Stream.REFIT)
    sizes = measured.packed_table.sizes
    recommender, num_batches = train_for_use(config, interactions, sizes, best_batch, seed)
    assert told["num_batches"] == num_batches > mine.summary["methods"][-1]["num_test_batches"]
    expected = pack_recommender(recommender, "lightgcn").values
    np.testing.assert_allclose(mine.packed_table.values, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(mine.packed_table.values - beside.values).max() > 0.01


def progress_of(folder):
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return [(line["phase"], line["step"]) for line in lines]


@pytest.mark.parametrize(
    ("phase", "step", "error"),
    [
        ("full-size fit", 20, Killed),
        ("search", 1, Killed),
        ("search", 3, KeyboardInterrupt),
        ("retraining", 1, Killed),
        ("test", 2, KeyboardInterrupt),
        ("refit", 1, Killed),
    ],
)
def test_a_search_that_was_broken_off_leaves_what_was_found_and_ends_as_if_it_had_not_been(
    finished, make_config, tmp_path, phase, step, error
):
    is_refit = phase == "refit"
    config = make_config(tmp_path / "out", cache=None, search=EVERY_STEP | {"refit": is_refit})

    def stop(progress):
        if (progress.phase, progress.step) == (phase, step) and progress.is_step:
            # What a search that is killed here leaves behind.
            summary = json.loads((config.output / "result.json").read_text())
            assert (summary["status"], summary["phase"]) == ("running", phase)
            raise error

    with pytest.raises(error):
        search(config, on_progress=stop)
    summary = json.loads((config.output / "result.json").read_text())
    status = "interrupted" if error is KeyboardInterrupt else "failed"
    num_steps = {"full-size fit": 0, "search": step}.get(phase, 6)
    assert (summary["status"], summary["phase"], summary["num_steps"]) == (status, phase, num_steps)
    assert "reason" in summary
    candidates = config.output / "candidates.parquet"
    assert candidates.exists() == (num_steps > 0)
    if num_steps:
        expected = pq.read_table(finished[0].output / "candidates.parquet").slice(0, num_steps)
        assert pq.read_table(candidates).equals(expected)
    with pytest.raises(ResultError, match=f"'{status}', not finished .phase '{phase}'"):
        SearchResult.load(config.output)
    news = []
    result = resume(config.output, on_progress=news.append)
    (assert_refitted if is_refit else assert_same_results)(result, finished[1])
    told = progress_of(config.output)
    searched = [told_step for told_phase, told_step in told if told_phase == "search"]
    assert searched == list(range(1, 7))
    if phase != "full-size fit":
        # Neither the full-size fit nor the supernet is trained again.
        assert len(told) == len(set(told))
        assert result.summary["full_size_fit"]["is_cached"]
    if (phase, step) not in {("full-size fit", 20), ("search", 1)}:
        assert any(p.phase == "search" and p.note.startswith("goes on after step") for p in news)
    assert all(seconds > 0 for seconds in result.summary["seconds"].values())


def test_a_search_goes_on_wherever_it_is_started_and_its_data_lie(
    make_config, workplace, tmp_path, monkeypatch, run_cli
):
    def begun(progress):
        raise Killed

    def say(*arguments):
        status, _, told = run_cli("search", "--resume", "out", *arguments)
        assert status == 2
        return told

    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "log.parquet").write_bytes((workplace / "log.parquet").read_bytes())
    monkeypatch.chdir(home)
    with pytest.raises(Killed):
        search(make_config("out", dataset={"path": "log.parquet"}), on_progress=begun)
    # The search and its data are where they were, and it is started in another folder.
    monkeypatch.chdir(elsewhere)
    with pytest.raises(Killed):
        resume(home / "out", on_progress=begun)
    # All has moved, data included.
    (elsewhere / "moved").mkdir()
    for name in ("out", "log.parquet"):
        (home / name).rename(elsewhere / "moved" / name)
    monkeypatch.chdir(elsewhere / "moved")
    with pytest.raises(Killed):
        resume(Path("out"), on_progress=begun)
    # The data have moved away, and have another name.
    (elsewhere / "moved" / "log.parquet").rename(elsewhere / "other.parquet")
    told = say()
    assert "its data, " in told and "ciess-ray search --resume out dataset.path=FILE" in told
    pq.write_table(pq.read_table(elsewhere / "other.parquet").slice(1), elsewhere / "fewer.parquet")
    assert "holds other interactions than when this search began" in say("dataset.path=../fewer.parquet")
    for given in (("dataset.path=../other.parquet", "seed=1"), ("other.yaml",)):
        assert "give only --more-episodes, dataset.path=FILE" in say(*given)
    with pytest.raises(ConfigError, match="a search goes on as it was configured"):
        resume(Path("out"), overrides=["seed=1"])
    with pytest.raises(Killed):
        resume(Path("out"), overrides=["dataset.path=../other.parquet"], on_progress=begun)
    # It is known from now on.
    monkeypatch.chdir(home)
    with pytest.raises(Killed):
        resume(elsewhere / "moved" / "out", on_progress=begun)


def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(finished, make_config, tmp_path):
    config = make_config(tmp_path / "out", search=EVERY_STEP)
    with pytest.raises(Killed):
        search(config, on_progress=stop_at("search", 4))
    newest = max(config.checkpoint_folder.glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    news = []
    result = resume(config.output, on_progress=news.append)
    assert_same_results(result, finished[1])
    assert any("is damaged" in progress.note for progress in news)
    assert "is damaged" in result.summary["hints"][0]


def test_more_episodes_give_the_search_that_had_them_from_the_start(make_config, tmp_path):
    short = make_config(tmp_path / "short", search=EVERY_STEP)
    long = make_config(tmp_path / "long", search=EVERY_STEP | {"num_episodes": 3})
    search(short)
    extended = resume(short.output, more_episodes=1)
    assert_same_results(extended, search(long))
    assert extended.summary["config"]["search"]["num_episodes"] == 3
    with pytest.raises(ResultError, match="finished; --more-episodes"):
        resume(short.output)


def test_a_finished_search_without_checkpoints_is_not_extended(make_config, tmp_path):
    config = make_config(tmp_path / "out")
    search(config)
    for file in config.checkpoint_folder.glob("step-*"):
        file.unlink()
    with pytest.raises(ResultError, match="no checkpoint"):
        resume(config.output, more_episodes=1)
    SearchResult.load(config.output)


def test_other_interactions_or_settings_are_refused(make_config, workplace, tmp_path):
    table = pq.read_table(workplace / "log.parquet")
    data = tmp_path / "log.parquet"
    pq.write_table(table, data)
    config = make_config(tmp_path / "out", dataset={"path": data}, search=EVERY_STEP)
    with pytest.raises(Killed):
        search(config, on_progress=stop_at("search", 2))
    pq.write_table(table.slice(100), data)
    with pytest.raises(ResultError, match="log.parquet holds other interactions"):
        resume(config.output)
    pq.write_table(table, data)
    summary = json.loads((config.output / "result.json").read_text())
    summary["config"]["agent"]["gamma"] = 0.5
    (config.output / "result.json").write_text(json.dumps(summary))
    with pytest.raises(ResultError, match="another settings"):
        resume(config.output)


def test_a_folder_without_a_search_is_no_search(tmp_path):
    with pytest.raises(ResultError, match="no such file"):
        resume(tmp_path)


# Only Linux has such a device, and a disk of our own that fills up wants a superuser.
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_a_full_disk_is_called_one_and_the_search_goes_on_when_there_is_room(finished, make_config, tmp_path):
    config = make_config(tmp_path / "out", search=EVERY_STEP)
    progress_file = config.output / "progress.jsonl"

    def fill(progress):
        if (progress.phase, progress.step) == ("search", 2) and progress.is_step:
            progress_file.rename(tmp_path / "kept")
            progress_file.symlink_to("/dev/full")

    with pytest.raises(ResultError, match="no space is left .*MB free.*--resume"):
        search(config, on_progress=fill)
    assert json.loads((config.output / "result.json").read_text())["status"] == "failed"
    progress_file.unlink()
    (tmp_path / "kept").rename(progress_file)
    assert_same_results(resume(config.output), finished[1])


# MLflow's own store uses what SQLAlchemy 2.1 has deprecated.
@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
def test_a_search_that_goes_on_is_one_mlflow_run_with_every_step_once(
    make_config, empty_store, tmp_path, monkeypatch
):
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    # SQLite takes it and does nothing with it.
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?uri=true&token={SECRET}"
    config = make_config(tmp_path / "out", search=EVERY_STEP, tracking={"mlflow": True, "uri": uri})
    with pytest.raises(Killed):
        search(config, on_progress=stop_at("search", 3))
    with pytest.raises(ConfigError, match="tracking.uri=.*token=…: its password or token is kept in no file"):
        resume(config.output)
    resume(config.output, overrides=[f"tracking.uri={uri}"])
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("ciess-ray").experiment_id])
    assert run.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "search/quality")]
    assert steps == list(range(1, 7))
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "result")}
    assert "result/table.safetensors" in artifacts and "result/checkpoints" not in artifacts
    assert run.data.metrics["test_full/packed_bytes"] > run.data.metrics["test/packed_bytes"]
    assert holding(SECRET, tmp_path) == []


def test_looser_budgets_each_get_a_result_of_their_own(make_config, tmp_path, monkeypatch):
    from ciess_ray import figures

    drawn, draw_sizes = [], figures.draw_sizes
    monkeypatch.setattr(
        figures, "draw_sizes", lambda entities: drawn.append(entities) or draw_sizes(entities)
    )
    config = make_config(tmp_path / "out", budget=["10%", "20%", "50%"])
    result = search(config)
    shown = [result, *result.looser()]
    assert [one.summary["budget"]["asked"] for one in shown] == ["10%", "20%", "50%"]
    for one, entities in zip(shown, drawn, strict=True):
        # The figure is one of what the file has.
        kept = pq.read_table(one.path / "sizes.parquet")
        for name in ("embedding_size", "popularity"):
            assert np.concatenate([entities[kind][name] for kind in KINDS]).tolist() == kept[name].to_pylist()
    for one in shown:
        budget = one.summary["budget"]
        assert one.packed_table.sizes.num_params == budget["cap_params"]
        assert [row["name"] for row in one.summary["methods"]] == ["full size", "equal sizes", "search"]
        assert one.recommender().sizes.num_params == budget["num_params"]
    assert result.summary["methods"][0] == shown[2].summary["methods"][0]
    qualities = [one.summary["methods"][2]["validation"]["quality"] for one in shown]
    assert len(set(qualities)) == 3


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "^/proc/x/out: cannot be made"),
        ({"cache": "/proc/x"}, "^cache: /proc/x: cannot be made"),
        (
            {"tracking": {"mlflow": True, "uri": "sqlite:////proc/a.db"}},
            "^tracking.uri: /proc: cannot be written",
        ),
    ],
)
def test_a_folder_that_cannot_be_written_is_known_before_any_work(make_config, tmp_path, fields, says):
    output = tmp_path / "out" if fields else "/proc/x/out"
    with pytest.raises(CiessError, match=says):
        search(make_config(output, **fields))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"recommender": {"max_embedding_size": 10**8}, "budget": "3000 params"},
            "recommender.max_embedding",
        ),
        ({"training": {"batch_size": 10**10}}, "training.batch_size=10000000000"),
    ],
)
def test_what_memory_has_no_room_for_is_known_before_any_work(make_config, tmp_path, fields, says):
    config = make_config(tmp_path / "out", **fields)
    with pytest.raises(ConfigError, match=rf"takes at least [0-9,]+ bytes .*{says}.* has [0-9,]+ bytes"):
        search(config)
    assert not (tmp_path / "out").exists()
    interactions = load_interactions(config)
    with pytest.raises(ConfigError, match=f"{says}.*this machine has"):
        Preparation.full_size(config, interactions).train(interactions)


@pytest.mark.usefixtures("without_ray")
def test_a_folder_that_another_process_works_in_is_left_alone_before_ray_starts(make_config, tmp_path):
    config = make_config(tmp_path / "out")
    with sole_writer(config.checkpoint_folder), pytest.raises(ResultError, match="another process"):
        search(config)
    assert [file.name for file in config.output.rglob("*")] == ["checkpoints", "lock"]
