from dataclasses import replace

import numpy as np
import pytest
import ray

from ciess_ray.config.data import load_interactions
from ciess_ray.result import ResultFolder
from ciess_ray.searches.beginning import budgets_of
from ciess_ray.searches.finalists import train_all
from ciess_ray.searches.run import Journal, Run
from ciess_ray.streams import Stream
from ciess_ray.training.contest import Allocation
from ciess_ray.training.convergence import Trained
from envs.errors import BudgetError, ConfigError, TrainingError
from envs.sizes.embedding_sizes import EmbeddingSizes


@pytest.fixture
def make_run(ray_cluster, make_config, tmp_path):
    def make(on_progress=None, **sections):
        config = make_config(tmp_path / "out", **sections)
        interactions = load_interactions(config)
        journal = Journal(ResultFolder(config.output), on_progress)
        return Run(
            config,
            interactions,
            ray.put(interactions),
            budgets_of(config, interactions, overwrite=True),
            journal,
        )

    return make


def allocations(run, sizes=(2, 3)):
    rows = run.interactions
    return [
        Allocation(
            f"size {size}",
            EmbeddingSizes(np.full(rows.num_users, size), np.full(rows.num_items, size), 1, 16),
        )
        for size in sizes
    ]


def test_each_comes_out_as_it_does_alone(make_run):
    run = make_run()
    two = allocations(run)
    with run.journal.phase("retraining", 2):
        together = train_all(run, two)
    for file in run.config.checkpoint_folder.glob("training-*"):
        file.unlink()
    with run.journal.phase("retraining", 1):
        (alone,) = train_all(run, two[1:])
    assert (alone.metrics, alone.num_batches) == (together[1].metrics, together[1].num_batches)
    assert together[0].metrics != together[1].metrics


def test_what_was_trained_before_is_read(make_run):
    news = []
    run = make_run(news.append)
    two = allocations(run)
    with run.journal.phase("retraining", 2):
        first = train_all(run, two)
        files = {file: file.stat().st_mtime_ns for file in run.config.checkpoint_folder.glob("training-*")}
        again = train_all(run, two)
    assert len(files) == 2
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert [t.metrics for t in again] == [t.metrics for t in first]
    assert any(p.note.startswith("size 2, batch") for p in news if not p.is_step)


def test_where_rows_begin_and_l2_are_part_of_what_is_known(make_run):
    run = make_run()
    (plain,) = allocations(run, (2,))
    first_columns = np.arange(plain.sizes.num_rows) % 3
    placed = replace(plain, sizes=replace(plain.sizes, first_columns=first_columns))
    with run.journal.phase("retraining", 3):
        tables = plain, placed, replace(plain, options={"l2": 1.0})
        found = [train_all(run, [one])[0].quality for one in tables]
    assert len(set(found)) == 3


def test_a_training_for_test_hands_its_parameters_over(make_run):
    run = make_run()
    (two,) = allocations(run, (2,))
    with run.journal.phase("test", 1):
        (tested,) = train_all(run, [replace(two, trained=Trained({}, 0.5, num_batches=20))], Stream.TEST)
    assert np.isnan(tested.quality) and tested.num_batches > 20
    assert sum(value.size for value in tested.state.values()) >= two.sizes.num_params


def test_an_error_of_a_training_is_raised_as_it_is(make_run):
    run = make_run(training={"learning_rate": 1e20})
    with run.journal.phase("retraining", 1), pytest.raises(TrainingError, match="^the loss of LightGCN is"):
        train_all(run, allocations(run, (2,)))


def test_looser_budgets_are_looser(make_run):
    run = make_run(budget=["10%", "20%", "1500 params"])
    assert [b.cap_params for b in run.budgets] == [512, 1024, 1500]
    assert [b.name for b in run.budgets] == ["", "at-20-percent", "at-1500-params"]
    with pytest.raises(
        ConfigError, match="budget: 10% .* is not looser than 20% .*: name the tightest one first"
    ):
        make_run(budget=["20%", "10%"])
    with pytest.raises(BudgetError):
        make_run(budget=["20%", "200%"])
