from pathlib import Path

import pytest
import yaml

from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.config.data import load_interactions, read_data
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.searches.beginning import budgets_of
from ciess_ray.sweeps.config import SweepPlan
from envs.errors import CiessError, ConfigError

BASE = {"dataset": {"path": "log.parquet"}, "search": {"num_episodes": 2}}


@pytest.fixture
def plan_of(tmp_path):
    def plan(space, *overrides, **fields):
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"base": BASE, "space": space, **fields}))
        return SweepPlan.load(file, overrides)

    return plan


def test_a_grid_is_every_combination_in_order(plan_of):
    plan = plan_of({"budget": ["5%", "10%"], "recommender.name": ["lightgcn", "mf"], "seed": [0, 1, 2]})
    assert len(plan.trials) == 12
    assert plan.trials[0].name == "00_budget-5-percent_recommender-lightgcn_seed-0"
    assert [(t.fields["budget"], t.fields["seed"]) for t in plan.trials[:4]] == [
        ("5%", 0),
        ("5%", 1),
        ("5%", 2),
        ("5%", 0),
    ]
    assert plan.trials[-1].config.recommender.name == "mf" and plan.trials[-1].config.seed == 2
    assert len({trial.name for trial in plan.trials}) == 12


def test_an_override_changes_one_field_and_leaves_its_neighbours(plan_of):
    fields = {"set": {"search.episode_length": 7}}
    plan = plan_of({"seed": [0]}, "set.search.num_candidates=4", "space.recommender.name=[mf]", **fields)
    (trial,) = plan.trials
    settings = trial.config.search
    assert (settings.num_episodes, settings.episode_length, settings.num_candidates) == (2, 7, 4)
    assert trial.config.recommender.name == "mf"


def test_a_field_that_stands_there_nested_and_by_its_dotted_name_is_refused(plan_of):
    fields = {"search.num_episodes": 6, "search": {"num_episodes": 7}}
    with pytest.raises(
        ConfigError, match=r"sweep.*: search.num_episodes stands there twice, by its dotted name"
    ):
        plan_of({"seed": [0]}, set=fields)
    # An override takes the place of what the file says.
    (trial,) = plan_of({"seed": [0]}, "set.search.num_episodes=3", set={"search.num_episodes": 6}).trials
    assert trial.config.search.num_episodes == 3


def test_bounds_of_draws_may_have_an_exponent(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "base: {dataset: {path: a}}\nnum_samples: 3\n"
        "space: {training.learning_rate: {loguniform: [1e-4, 1e-2]}}\n"
    )
    rates = [trial.config.training.learning_rate for trial in SweepPlan.load(file).trials]
    assert len(rates) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)


def test_draws_are_the_same_at_every_point_and_by_seed(plan_of):
    space = {
        "budget": ["5%", "10%"],
        "training.learning_rate": {"loguniform": [1e-4, 1e-2]},
        "agent.gamma": {"uniform": [0.0, 0.5]},
        "search.step_mode": {"choice": ["fresh", "supernet"]},
    }
    plan, again = plan_of(space, num_samples=5), plan_of(space, num_samples=5)
    assert [trial.fields for trial in plan.trials] == [trial.fields for trial in again.trials]
    first, second = plan.trials[:5], plan.trials[5:]
    rates = [trial.fields["training.learning_rate"] for trial in first]
    assert [trial.fields["training.learning_rate"] for trial in second] == rates
    assert len(set(rates)) == 5 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    other = plan_of(space, "seed=1", num_samples=5)
    assert [trial.fields["training.learning_rate"] for trial in other.trials[:5]] != rates


def test_a_presets_defaults_come_after_the_sweeps_fields(plan_of):
    paper, projected = plan_of({"search.mode": ["paper", "projected"]}).trials
    assert paper.config.agent.gamma == 0.99 and projected.config.agent.gamma == 0.0


def test_many_runs_refit_nothing_unless_they_say_so(plan_of):
    for space, wanted in (({"seed": [0]}, [False]), ({"search.refit": [True, False]}, [True, False])):
        assert [trial.config.search.refit for trial in plan_of(space).trials] == wanted
    assert plan_of({"seed": [0]}, set={"search.refit": True}).trials[0].config.search.refit
    values = {"base": BASE, "space": {"seed": [0]}, "methods": ["split"]}
    (trial,) = ComparisonPlan.of(values, "comparison", Path()).trials
    assert not trial.config.search.refit and parse_config(BASE).search.refit


def test_the_base_may_be_a_file_beside_the_sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "sweep.yaml").write_text("base: base.yaml\nspace: {seed: [3]}\nset: {budget: 20%}\n")
    (trial,) = SweepPlan.load(tmp_path / "sweep.yaml").trials
    assert trial.config.search.num_episodes == 2 and trial.config.budget == "20%" and trial.config.seed == 3


def test_plain_values_make_the_same_plan_elsewhere(plan_of, tmp_path, monkeypatch):
    plan = plan_of({"seed": [0, 1], "agent.gamma": {"uniform": [0, 0.5]}}, set={"budget": "20%"})
    monkeypatch.chdir(tmp_path)
    again = SweepPlan.of(plan.values(), "there", tmp_path / "nowhere")
    assert [t.fields for t in again.trials] == [t.fields for t in plan.trials]
    assert again.trials[0].config == plan.trials[0].config
    assert again.trials[0].config.dataset.path.is_absolute()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"search.tried_communities": [2, 8]}, "8 communities of 8 users and 20 items; ask for 2 to 7"),
        # 28 rows of one number and a byte each, and the header.
        (
            {"search.tried_communities": [2], "budget": "1164B"},
            "budget 1164B has no room for a byte a row, .* ask for 28 bytes more",
        ),
    ],
)
def test_communities_are_checked_against_the_data(plan_of, tmp_path, fields, says):
    rows = [f"{user},{item}" for user in range(8) for item in range(20)]
    (tmp_path / "log.csv").write_text("user_id,item_id\n" + "\n".join(rows))
    plan = plan_of({"seed": [0]}, set=fields | {"dataset.path": str(tmp_path / "log.csv")})
    with pytest.raises(CiessError, match=f"the trial 0_seed-0: .*{says}"):
        read_data(plan.trials, plan.source)
    with pytest.raises(CiessError, match=says):
        budgets_of(plan.trials[0].config, load_interactions(plan.trials[0].config), overwrite=False)


@pytest.mark.parametrize(
    "space",
    [
        {"dataset.path": ["data/a.csv", "data/b.csv"]},
        {"dataset.path": {"choice": ["data/a.csv", "data/b.csv"]}},
        {"dataset": [{"path": "data/a.csv"}, {"path": "data/b.csv", "k_core": 2}]},
    ],
    ids=["path", "choice", "section"],
)
def test_data_that_differ_are_found_wherever_a_trial_runs(plan_of, space, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(space)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # What a trial is handed: the plan's plain values, and the fields that it differs in.
    again = SweepPlan.of(plan.values(), "there", tmp_path / "nowhere")
    paths = {again.parse(trial.fields).dataset.path for trial in plan.trials}
    assert paths <= {tmp_path / "data/a.csv", tmp_path / "data/b.csv"}
    assert [trial.name for trial in again.trials] == [trial.name for trial in plan.trials]
    assert all("a.csv" in trial.name or "b.csv" in trial.name for trial in plan.trials)
    assert str(tmp_path.name) not in plan.trials[0].name


def test_a_comparison_finds_data_that_differ_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"base": BASE, "space": {"dataset.path": ["a.csv", "b.csv"]}, "methods": ["split"]}
    values |= {"yardsticks": []}
    plan = ComparisonPlan.of(values, "here", tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = ComparisonPlan.of(plan.values(), "there", tmp_path)
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert [cell.config.dataset.path for cell in again.cells] == paths
    assert [cell.name for cell in again.cells] == ["path-a.csv_split", "path-b.csv_split"]


def test_a_thousand_trials_are_checked_in_no_time_worth_waiting_for(plan_of):
    assert len(plan_of({"seed": list(range(1000))}).trials) == 1000


@pytest.mark.parametrize(
    ("space", "fields", "message"),
    [
        ({}, {}, r"space=\{\}: .* at least 1 item"),
        ({"budget": []}, {}, r"space\.budget: an empty grid"),
        ({"budget": {"choice": []}}, {}, r"space\.budget: an empty choice"),
        ({"budgte": ["5%"]}, {}, "unknown field 'budgte'. Did you mean 'budget'"),
        ({"agent.gama": [0.1]}, {}, "unknown field 'agent.gama'. Did you mean 'agent.gamma'"),
        (
            {"budget": ["5%", "200%"]},
            {},
            r"space\.budget: a memory budget of 2, or 200%, is more than the full table",
        ),
        ({"budget": ["0%"]}, {}, r"space\.budget: a memory budget must be above 0"),
        ({"agent.gamma": {"uniform": [0.5, 0.1]}}, {}, "two numbers, the lower first"),
        ({"agent.gamma": {"uniform": [0.5, 2.0]}}, {"num_samples": 20}, r"agent\.gamma="),
        (
            {"training.learning_rate": {"loguniform": [0, 0.1]}},
            {},
            "two numbers, the lower first and above 0",
        ),
        ({"training.learning_rate": {"normal": [0, 0.1]}}, {}, "expected a list of values or one of"),
        ({"training.learning_rate": 0.1}, {}, "space.training.learning_rate: expected a list of values or"),
        ({"output": ["a", "b"]}, {}, "a sweep sets output of its trials itself"),
        ({"seed": [0]}, {"set": {"budget": ["5%", "10%"]}}, "budget=.*: a trial has one; name each under"),
        (
            {"seed": [0]},
            {"set": {"tracking.mlflow": False}},
            "a sweep sets tracking.mlflow of its trials itself",
        ),
        ({"seed": [0]}, {"set": {"seed": 1}}, "seed stands there twice, or is a part of seed"),
        ({"seed": [0]}, {"num_samples": 3}, "num_samples=3: space draws nothing"),
        ({"seed": [0]}, {"searcher": "optuna"}, "seed is a grid"),
        ({"seed": [0]}, {"schedular": {}}, "unknown field 'schedular'. Did you mean 'scheduler'"),
        ({"seed": [0]}, {"base": {"dataset": "x.csv"}}, r"dataset='x\.csv': dataset is a section"),
        ({"seed": [0]}, {"base": {"dataset": None}}, "dataset=None: dataset is a section"),
        ({"seed": [0]}, {"base": {"dataset": {"path": 5}}}, r"dataset\.path=5"),
        ({"seed": [0]}, {"base": {"budget": "10%"}}, "the field 'dataset' is missing"),
        ({"seed": [0]}, {"set": {"dataset": "x.csv"}}, r"dataset='x\.csv': dataset is a section"),
        ({"dataset": ["x.csv"]}, {}, r"dataset='x\.csv': dataset is a section"),
        ({"seed": [0]}, {"set": {"budget.x": 1}, "base": BASE | {"budget": "5%"}}, "set: .* is no section"),
        (
            {"seed": [0]},
            {"resources": {"num_gpus_per_driver": 2.5}},
            "num_gpus_per_driver=2.5: Ray .* above 1 in whole GPUs",
        ),
        ({"seed": [0]}, {"base": "nowhere.yaml"}, "nowhere.yaml: no such configuration"),
        (
            {"seed": list(range(1000)), "training.learning_rate": [i / 1000 for i in range(1, 1001)]},
            {},
            "1,000,000 trials are more than",
        ),
        ({"budget": ["20%", "20%"]}, {}, r"space\.budget: \"20%\" stands there twice"),
        ({"budget": ["5%", 0.2, "20%"]}, {}, r"space\.budget: \"20%\" stands there twice"),
        ({"budget": ["62,000 params", "62k params"]}, {}, "62000 params.* stands there twice"),
        ({"seed": [0, 1, 0]}, {}, r"space\.seed: 0 stands there twice"),
        ({"seed": [1, 1.0]}, {}, r"space\.seed: 1 stands there twice"),
        (
            {"training.learning_rate": {"choice": [0.1, 0.2, 0.1]}},
            {},
            r"space\.training\.learning_rate: 0\.1 stands there twice",
        ),
        ({"seed": [0]}, {"output": ""}, "output='': an empty name; name a file or a folder"),
        ({"seed": [0]}, {"base": ""}, "base='': an empty name"),
        ({"seed": [0]}, {"base": {"dataset": {"path": ""}}}, r"dataset\.path='': an empty name"),
        ({"dataset.path": ["", "a"]}, {}, r"dataset\.path='': an empty name"),
        (
            {"dataset": [{"path": "a"}, {"path": "b"}], "dataset.path": ["c"]},
            {},
            "space: dataset.path stands there twice, or is a part of dataset",
        ),
        (
            {"dataset": [{"path": "a"}, {"path": "b"}]},
            {"set": {"dataset.k_core": 5}},
            "set and space: dataset.k_core stands there twice, or is a part of dataset",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(plan_of, space, fields, message):
    with pytest.raises(CiessError, match=message):
        plan_of(space, **fields)


def test_a_plan_takes_no_part_in_what_it_was_made_of(plan_of):
    plan = plan_of({"seed": [0, 1]})
    before = plan.values()
    plan.parse({"agent.gamma": 0.5, "search.num_episodes": 9})
    assert plan.values() == before and isinstance(plan, SweepPlan)
    with pytest.raises(ConfigError, match="which is no section"):
        plan.parse({"dataset.path.x": 1})


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        (
            "sqlite:///file:/there/mlflow.db?uri=true&token=a",
            "sqlite:///file:/there/mlflow.db?uri=true&token=…",
        ),
        ("http://me:sesame@host", "http://…@host"),
    ],
)
def test_a_plan_keeps_where_it_is_recorded_without_secrets(uri, kept):
    values = {"base": {"dataset": {"path": "a.csv"}}, "space": {"seed": [0, 1]}, "tracking": {"uri": uri}}
    plan = SweepPlan.of(values, "sweep.yaml", Path())
    assert plan.values()["tracking"]["uri"] == kept.format(here=Path.cwd())
