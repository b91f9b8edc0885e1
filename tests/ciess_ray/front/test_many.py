"""``ciess_ray.sweep`` and ``ciess_ray.compare``: what they ask for. Their examples run both."""

import json

import numpy as np
import pytest

import ciess_ray
from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.sweeps.results import SweepResults
from ciess_ray.tracking.runs import RunState
from envs.errors import ConfigError, ResultError

NAMES = {"user": "customer", "item": "sku"}


@pytest.fixture
def planned(monkeypatch):
    """The plan that a call comes to, with what its data are."""
    plans = []

    class Reached(BaseException):
        pass

    def reached(plan, **options):
        plans.append((plan, options))
        raise Reached

    monkeypatch.setattr("ciess_ray.sweeps.driver.sweep", reached)
    monkeypatch.setattr("ciess_ray.comparisons.driver.compare", reached)

    def planned(verb, *arguments, **fields):
        with pytest.raises(Reached):
            verb(*arguments, **fields)
        return plans[-1]

    return planned


@pytest.mark.parametrize("verb", [ciess_ray.sweep, ciess_ray.compare])
class TestPlan:
    def test_a_data_frame_is_the_data_of_all(self, verb, planned, purchases, empty_folder):
        base = {"recommender": {"name": "mf"}}
        plan, options = planned(
            verb, purchases, **NAMES, output="out", base=base, space={"budget": ["5%", 0.1]}, overwrite=True
        )
        assert options["overwrite"] and not plan.config.tracking.mlflow
        assert [trial.config.budget for trial in plan.trials] == ["5%", 0.1]
        assert {trial.config.recommender.name for trial in plan.trials} == {"mf"}
        (path,) = {trial.config.dataset.path for trial in plan.trials}
        assert path == empty_folder / "out" / "ratings.parquet"
        assert load_interactions(plan.trials[0].config).num_users == purchases["customer"].nunique()
        assert base == {"recommender": {"name": "mf"}}
        # A call that goes on brings the same data.
        planned(verb, purchases, **NAMES, output="out", base=base, space={"seed": [1]})
        with pytest.raises(ResultError, match="ratings.parquet: holds other ratings than these"):
            verb(purchases[:500], **NAMES, output="out", base=base, space={"seed": [1]})

    def test_the_folder_of_ones_home_is_that_of_the_data_too(
        self, verb, planned, purchases, empty_folder, tmp_path_factory, monkeypatch
    ):
        home = tmp_path_factory.mktemp("home")
        monkeypatch.setenv("HOME", str(home))
        plan, _ = planned(verb, purchases, **NAMES, output="~/out", space={"seed": [1]})
        (trial,) = plan.trials
        assert trial.config.dataset.path == home / "out" / "ratings.parquet"
        assert trial.config.dataset.path.exists() and list(empty_folder.iterdir()) == []

    def test_a_base_in_a_file_gets_the_data(self, verb, planned, purchases, empty_folder):
        (empty_folder / "base.yaml").write_text(
            "dataset: {sample: movielens-latest-small, k_core: 2}\nseed: 3\n"
        )
        purchases.to_csv("purchases.csv", index=False)
        plan, _ = planned(verb, "purchases.csv", **NAMES, base="base.yaml", space={"budget": ["5%"]})
        (config,) = [trial.config for trial in plan.trials]
        assert config.dataset.path == empty_folder / "purchases.csv" and config.dataset.sample is None
        assert config.dataset.columns == NAMES and (config.dataset.k_core, config.seed) == (2, 3)

    def test_a_file_of_yaml_is_the_plan_and_fields_go_over_it(self, verb, planned, tmp_path, empty_folder):
        (tmp_path / "base.yaml").write_text("dataset: {path: a.csv}\n")
        file = tmp_path / "many.yaml"
        file.write_text("base: base.yaml\nspace: {budget: [5%]}\noutput: runs/there\n")
        plan, _ = planned(verb, str(file), **{"set": {"seed": 4}, "tracking.experiment": "mine"})
        assert str(plan.config.output) == "runs/there" and plan.config.tracking.mlflow
        assert plan.trials[0].config.seed == 4 and plan.config.tracking.experiment == "mine"

    def test_mistakes_are_told_before_anything_is_made(self, verb, purchases, empty_folder):
        with pytest.raises(ConfigError, match="unknown field 'spaces'. Did you mean 'space'"):
            verb(purchases, **NAMES, output="out", base={}, spaces={"budget": [0.1]})
        with pytest.raises(ConfigError, match="the field 'space' is missing"):
            verb(purchases, **NAMES, output="out", base={})
        with pytest.raises(ConfigError, match="in memory are kept in a folder, which s3://b/c is not"):
            verb(purchases, **NAMES, output="s3://b/c", base={}, space={"budget": [0.1]})
        assert list(empty_folder.iterdir()) == []


def test_the_table_of_a_sweep_has_means_over_seeds():
    def outcome(seed, ndcg, served):
        rows = [
            {
                "name": name,
                "test": {"ndcg@20": ndcg + more},
                "num_params": 8,
                "kept_ratio": 0.5,
                "packed_bytes": 9,
            }
            for name, more in ((FULL_SIZE, 0.2), (EQUAL_SIZES, 0.0), (SEARCH, 0.1))
        ]
        rows = [row | ({"served_bytes": served} if served else {}) for row in rows]
        fields = {"agent.hiddens": [8, 8], "seed": seed}
        return RunState(f"t{seed}", fields, config, status="finished", summary={"methods": rows})

    values = {"dataset": {"path": "a/log.csv"}, "recommender": {"name": "mf"}, "budget": 0.1}
    config = parse_config(values)
    pending = RunState("t9", {"seed": 9}, config)
    table = SweepResults("there", [outcome(0, 0.3, None), outcome(1, 0.5, 20), pending], 1.0).table()
    assert table.index.tolist() == [FULL_SIZE, EQUAL_SIZES, SEARCH]
    row = table.loc[SEARCH]
    assert (row["dataset"], row["recommender"], row["budget"], row["seeds"]) == ("log.csv", "mf", "0.1", 2)
    assert json.loads(row["agent.hiddens"]) == [8, 8] and row["served_bytes"] == 20
    np.testing.assert_allclose([row["ndcg@20"], row["ndcg@20/sd"]], [0.5, np.sqrt(0.02)])
    assert SweepResults("there", [pending], 1.0).table().empty
