"""What is trained once: by one task, for whoever needs it, and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import ray

from ciess_ray.config.data import dataset_key, load_interactions
from ciess_ray.files.whole import write_arrays
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import prepare_shared
from ciess_ray.sweeps.storage import Storage
from ciess_ray.training.convergence import Trained
from ciess_ray.training.preparing import (
    FULL_SIZE_FIT,
    Preparation,
    file_of,
    preparations_of,
    prepare,
    start_all,
)
from envs.errors import TrainingError


@pytest.fixture
def make(make_config, tmp_path, ray_cluster):
    """A configuration whose cache is empty, with its interactions and a reference to them."""

    def make(**sections):
        config = make_config(tmp_path / "out", cache=tmp_path / "cache", **sections)
        interactions = load_interactions(config)
        return config, interactions, ray.put(interactions)

    return make


@pytest.fixture
def make_plan(make_config, tmp_path):
    """The plan of a sweep over two budgets, and its data."""

    def make(space=None, **sections):
        base = make_config(tmp_path / "out", **sections).model_dump(mode="json")
        values = {
            "base": base,
            "space": space or {"budget": ["20%", "30%"]},
            "output": str(tmp_path / "sweep"),
        }
        return SweepPlan.of(values, "sweep", Path())

    return make


def data_of(plan):
    from ciess_ray.config.data import read_data

    return read_data(plan.trials, plan.source)


def files_in(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npz")}


@pytest.mark.parametrize("position", [0, 1], ids=["full size", "supernet"])
def test_a_task_trains_what_this_process_would_and_tells_of_it_and_leaves_it_for_the_next(make, position):
    config, interactions, reference = make()
    preparation = preparations_of(config, interactions)[position]
    here, news = [], []
    expected = preparation.train(interactions, lambda *told: here.append(told))
    made = prepare(preparation, reference, tell=lambda *told: news.append(told))
    assert news == here and len(news) > 0
    assert made.metrics == expected.metrics and made.num_batches == expected.num_batches
    np.testing.assert_equal((made.state, made.entity_quality), (expected.state, expected.entity_quality))
    assert made.cost.cpu_s > 0 and made.cost.num_trainings == 1
    again = prepare(preparation, reference)
    assert again.is_cached and not made.is_cached and again.cost == made.cost


def test_what_is_kept_is_read_as_it_was_and_parameters_alone_are_none(tmp_path):
    made = Trained({"recall@5": 0.5}, 0.25, 7, {"table.weight": np.ones((2, 3), np.float32)})
    made.write(tmp_path / "full-size.npz")
    again = Trained.read(tmp_path / "full-size.npz")
    np.testing.assert_equal(vars(again), vars(made) | {"is_cached": True})
    write_arrays(tmp_path / "supernet.npz", {"state/table.weight": np.ones((2, 3))})
    assert Trained.read(tmp_path / "supernet.npz") is None and Trained.read(tmp_path / "none.npz") is None


def test_an_error_of_a_training_is_raised_as_it_is_wherever_it_is_needed(make, tmp_path):
    config, interactions, reference = make(training={"learning_rate": 1e30, "min_learning_rate": 1e30})
    preparation = Preparation.full_size(config, interactions)
    with pytest.raises(TrainingError, match="learning_rate") as alone:
        prepare(preparation, reference)
    shared = start_all([preparation], {dataset_key(config): reference}, tmp_path / "shared", 1)
    with pytest.raises(TrainingError) as elsewhere:
        prepare(preparation, reference, shared=shared)
    assert str(elsewhere.value) == str(alone.value)
    assert not files_in(tmp_path / "shared") and not files_in(config.kept_folder)


def test_a_training_that_is_broken_off_leaves_nothing_and_is_done_again(make):
    config, interactions, reference = make()
    preparation = Preparation.full_size(config, interactions)

    def interrupt(batch, quality):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(preparation, reference, tell=interrupt)
    assert not file_of(preparation, config.kept_folder).exists()
    assert not prepare(preparation, reference).is_cached


def test_trials_share_what_several_need_and_a_sweep_that_goes_on_finds_it(make_plan, tmp_path, ray_cluster):
    plan, told = make_plan(), []
    data, storage = data_of(make_plan()), Storage(tmp_path / "sweep")
    shared = prepare_shared(plan, data, storage, tmp_path, lambda *news: told.append(news))
    # The full-size fit is one for both budgets, a supernet is for each.
    (key,) = shared
    assert key.startswith("full-size-") and told == [(0, 1), (1, 1)]
    before = files_in(tmp_path / "sweep" / "cache")
    for trial in plan.trials:
        # As a trial has it: in a folder of its own.
        config = trial.config.model_copy(update={"cache": None, "output": tmp_path / trial.name})
        (interactions,) = data.values()
        full_size, supernet = preparations_of(config, interactions)
        assert full_size.kind == FULL_SIZE_FIT and full_size.key == key and supernet.key not in shared
        assert prepare(full_size, None, shared=shared).is_cached
    again = prepare_shared(plan, data, storage, tmp_path, lambda *news: None)
    assert again.keys() == shared.keys() and files_in(tmp_path / "sweep" / "cache") == before
    place = tmp_path / "sweep" / plan.trials[0].name / "result"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps({"status": "finished"}))
    # The trial that is left takes what is there; without it, it trains for itself.
    assert prepare_shared(plan, data, storage, tmp_path, lambda *news: None).keys() == shared.keys()
    (tmp_path / "sweep" / "cache" / next(iter(before))).unlink()
    assert prepare_shared(plan, data, storage, tmp_path, lambda *news: None) == {}


def test_what_trials_share_lies_in_a_storage_that_is_no_folder_too(make_plan, tmp_path, ray_cluster):
    plan = make_plan(training={"max_batches": 20})
    storage = Storage(f"file://{tmp_path}/there")
    first = prepare_shared(plan, data_of(plan), storage, tmp_path / "one", lambda *news: None)
    (file,) = (tmp_path / "there" / "cache").glob("*.npz")
    again = prepare_shared(plan, data_of(plan), storage, tmp_path / "two", lambda *news: None)
    assert again.keys() == first.keys() == {file.stem}
    assert (tmp_path / "two" / "cache" / file.name).exists()
