"""Which recommender a run has that leaves it to validation."""

import json
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from ciess_ray.cli.results import say_result
from ciess_ray.comparisons.cell import Board
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.comparisons.results import budget_of
from ciess_ray.config.data import load_interactions
from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.report.recipes import recommenders_table
from ciess_ray.result import read_summary
from ciess_ray.searches.beginning import recorded
from ciess_ray.searches.clock import foretell
from ciess_ray.searches.driver import resume, search
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import _read
from ciess_ray.training import arms, recipes
from ciess_ray.training.auto import RIVALS, find_run, rivals_of, served_budgets, stand_ins
from ciess_ray.training.convergence import Cost, Trained
from ciess_ray.training.effort import EFFORTS
from ciess_ray.training.recipes import find_recipe, first_round
from ciess_ray.training.rules import with_rules
from ciess_ray.training.usage import Usage
from envs.data import generate_interactions
from envs.errors import BudgetError, ConfigError, TrainingError
from envs.recommenders.training import TrainingSettings


@pytest.fixture
def run_of(tmp_path):
    """Makes a run that leaves its recommender to validation; its data are handed over beside it."""

    def make(budget="20%", max_embedding_size=16):
        recommender = {"name": "auto", "max_embedding_size": max_embedding_size, "device": "cpu"}
        values = {"dataset": {"path": "log.csv"}, "recommender": recommender, "search": {"refit": False}}
        return parse_config(values | {"budget": budget, "output": tmp_path / "out", "cache": None})

    return make


@pytest.fixture
def qualities(monkeypatch):
    """Has trainings come to given qualities, by recommender, table, what is tried and part of a training."""
    asked = []

    def give(quality):
        def train(config, trainings, reference, num_threads):
            for position, training in enumerate(trainings):
                share = training.work.args[2]
                asked.append((config.recommender.name, share))
                yield (
                    position,
                    Trained(
                        {}, quality(config.recommender.name, training.name, share), 1, cost=Cost(1, 1, 1, 1)
                    ),
                )

        monkeypatch.setattr(recipes, "train_side_by_side", train)
        return asked

    return give


@pytest.fixture
def short_trainings(monkeypatch):
    for name, value in {"_SOFTMAX_BATCHES": 8, "_BPR_BATCHES": 12, "_EPOCHS": 0}.items():
        monkeypatch.setattr(arms, name, value)


def of_rows(found):
    return {row.recommender: row for row in found.rated}


class TestSaying:
    VALUES = {"dataset": {"path": "log.csv"}}

    @pytest.mark.parametrize("said", ["auto", {"name": "auto"}])
    def test_a_recommender_is_said_by_its_name_too(self, said):
        values = put_overrides(self.VALUES | {"recommender": said}, ["recommender.device=cpu"])
        config = parse_config(values)
        assert config.recommender.is_auto and config.finds_recipe and config.recommender.device == "cpu"
        assert parse_config({**self.VALUES, "recommender": "spectral"}).recommender.name == "spectral"

    @pytest.mark.parametrize(
        ("sections", "says"),
        [
            ({"training": {"loss": "bpr"}}, r"training.loss: that is of one recommender"),
            (
                {"recommender": {"name": "auto", "options": {"l2": 0.1}}},
                "recommender.options: they are of one",
            ),
            ({"search": {"mode": "paper"}}, "search.mode=paper"),
            ({"search": {"tried_recipes": [{"l2": 0.1}]}}, "search.tried_recipes"),
            ({"search": {"tried_communities": [16]}}, "search.tried_communities"),
            ({"search": {"step_mode": "supernet"}}, "search.step_mode=supernet"),
        ],
    )
    def test_what_is_of_one_recommender_is_refused(self, sections, says):
        with pytest.raises(ConfigError, match=says):
            parse_config(self.VALUES | {"recommender": "auto"} | sections)

    def test_a_stream_refuses_it(self):
        values = self.VALUES | {"segments": {"rows": 9}, "recommender": "auto"}
        with pytest.raises(ConfigError, match="a stream has none before it begins"):
            StreamConfig.model_validate(values)


class TestBudgets:
    def test_shares_and_numbers_are_the_bytes_of_an_ordinary_table(self, run_of, make_interactions):
        interactions = make_interactions()
        # 100 rows of 16 numbers at most, a byte a row for its size, and the header.
        for budget, num_params in {"20%": 320, "3.2 a row": 320, "320 params": 320, "100%": 1600}.items():
            assert served_budgets(run_of(budget), interactions) == [4 * num_params + 100 + 1024]
        assert served_budgets(run_of("5kB"), interactions) == [5000]

    def test_each_has_for_its_table_what_it_is_served_with_leaves(self, run_of, make_interactions):
        interactions = make_interactions()
        rivals = {rival.name: rival for rival in rivals_of(run_of("20kB"), interactions)}
        assert list(rivals) == list(RIVALS)
        for rival in rivals.values():
            (left,) = rival.config.memory_budgets
            assert left.amount + rival.beside.num_bytes == 20_000
            assert rival.config.recommender.name == rival.name
        assert rivals["mf"].beside.graph_bytes == 0 < rivals["lightgcn"].beside.graph_bytes
        # 40 items have 39 others.
        wide = rivals_of(run_of("20kB", 300), interactions)
        width = {rival.name: rival.config.recommender.max_embedding_size for rival in wide}
        assert width == {"neighbours": 39, "spectral": 40, "mf": 300, "lightgcn": 300}

    def test_who_has_no_room_says_what_takes_it(self, run_of, make_interactions, qualities):
        qualities(lambda *_: 0.1)
        interactions = make_interactions()
        found = find_run(run_of("1800B"), interactions, None, lambda *news: None)
        graph = of_rows(found)["lightgcn"].why
        assert re.fullmatch(
            r"no room: its graph takes \S+ bytes of 1,800, and a table of one number a row takes \S+ bytes",
            graph,
        )
        assert of_rows(found)["lightgcn"].quality is None and found.rated[-1].quality is None
        assert [run.recommender.name for run in stand_ins(run_of("1800B"), interactions)] == [*RIVALS[:3]]

    def test_where_none_has_room_the_least_that_works_is_said(self, run_of, make_interactions):
        with pytest.raises(BudgetError, match="no recommender has room") as caught:
            rivals_of(run_of("500B"), make_interactions())
        least = str(caught.value).rsplit(" ", 1)[1].rstrip(".")
        assert any(rival.config for rival in rivals_of(run_of(least), make_interactions()))
        with pytest.raises(BudgetError):
            rivals_of(run_of(f"{int(least.rstrip('B')) - 1}B"), make_interactions())


class TestChoosing:
    """Qualities are given; nothing is trained."""

    @pytest.mark.parametrize("best", RIVALS)
    def test_the_best_on_validation_is_searched_with_what_was_found_for_it(
        self, run_of, make_interactions, qualities, short_trainings, best
    ):
        qualities(lambda name, *_: 0.3 if name == best else 0.29)
        asked, interactions = run_of("20kB"), make_interactions()
        told = []
        found = find_run(asked, interactions, None, lambda *news: told.append(news))
        assert found.config.recommender.name == best and not found.config.recommender.is_auto
        assert found.rated[0].recommender == best and found.rated[0].why == "chosen"
        assert {row.why for row in found.rated[1:]} == {"not chosen"}
        assert all(row.served_bytes <= 20_000 and row.cpu_s >= 1 for row in found.rated)
        # Rounds begin without a name.
        names = [name for *_, name, _ in told if name]
        assert len(names) == len(found.tried) and names[0].startswith("neighbours, ")
        assert found.config.memory_budgets[0].amount < 20_000
        pinned = found.told(asked)["pinned"]
        values = asked.model_dump(
            mode="json", exclude={"training", "recommender", "budget", "search", "agent"}
        )
        again = parse_config(values | json.loads(json.dumps(pinned)))
        assert again.recommender.options == found.config.recommender.options
        # Of what is computed there is no training to pin.
        assert again.finds_recipe == ("training" not in pinned) == again.recommender.is_closed_form
        assert again.budget == found.config.budget and again.recommender.name == best

    def test_who_is_far_behind_after_a_part_is_trained_no_further(
        self, run_of, make_interactions, qualities, short_trainings
    ):
        asked = qualities(lambda name, *_: {"spectral": 0.3, "mf": 0.2, "lightgcn": 0.25}.get(name, 0.1))
        found = find_run(run_of("20kB"), make_interactions(), None, lambda *news: None)
        assert {share for name, share in asked if name == "mf"} == {0.25}
        assert {share for name, share in asked if name == "lightgcn"} == {0.25, 1.0}
        assert of_rows(found)["mf"].why.startswith("far behind") and of_rows(found)["mf"].share == 0.25

    def test_options_of_a_closed_form_begin_with_the_best(self, run_of, make_interactions, qualities):
        qualities(lambda name, what, share: 0.1 + 0.2 * ("outgoing 1" in what) * ("exponent 0.3" in what))
        config = find_run(run_of(), make_interactions(), None, lambda *news: None).config
        # Of an option after the other the first that is better is kept.
        assert config.recommender.name == "neighbours"
        assert config.recommender.options["outgoing"] == [0, 1]

    def test_the_full_table_which_no_budget_holds_speaks_for_none(
        self, run_of, make_interactions, qualities, short_trainings
    ):
        qualities(lambda name, what, share: 0.9 if "full size" in what else 0.2 + 0.1 * (name == "spectral"))
        found = find_run(run_of("20kB"), make_interactions(), None, lambda *news: None)
        assert found.config.recommender.name == "spectral"
        assert {row.table for row in found.rated} <= {"equal sizes", "users first"}

    def test_who_gives_no_numbers_is_not_chosen(self, run_of, make_interactions, qualities, short_trainings):
        qualities(lambda name, *_: 0.1 if name == "spectral" else -1.0)
        found = find_run(run_of("20kB"), make_interactions(), None, lambda *news: None)
        assert found.config.recommender.name == "spectral"
        assert of_rows(found)["mf"].why == "no recipe gives numbers"
        qualities(lambda *_: 0.0)
        with pytest.raises(TrainingError, match="no recommender finds anything"):
            find_run(run_of("20kB"), make_interactions(), None, lambda *news: None)

    def test_where_time_is_short_fewer_recipes_of_each_are_tried(self, run_of, qualities, make_interactions):
        asked = qualities(lambda name, *_: 0.2 if name == "neighbours" else 0.19)
        what = run_of("20kB"), make_interactions(), None, lambda *news: None
        find_run(*what)
        num_trained = sum(name in ("mf", "lightgcn") for name, _ in asked)
        asked.clear()
        found = find_run(*what, replace(EFFORTS[-1], part=0.1))
        counts = Counter(asked)
        # The budget has room for full tables, and each has its likeliest recipe.
        assert counts["mf", 0.25] == counts["mf", 1] == counts["lightgcn", 0.25] == 1
        assert sum(name in ("mf", "lightgcn") for name, _ in asked) == 4 < num_trained / 4
        assert found.config.recommender.name == "neighbours"

    def test_what_trainings_of_all_that_are_rated_take_is_foretold(
        self, run_of, make_interactions, ray_cluster
    ):
        interactions, asked = make_interactions(), run_of("20kB")
        *others, named = stand_ins(asked, interactions)
        reference = ray.put(interactions)
        alone, all_of_them = (
            foretell(named, interactions, reference, Usage(), everybody=interactions, rivals=rivals)
            for rivals in ((), others)
        )
        counts = [
            {phase.name: phase.num_trainings for phase in outlook.forecast.phases}
            for outlook in (alone, all_of_them)
        ]
        its = len(first_round(others[-1], interactions))
        assert counts[1].pop("recipe") >= counts[0].pop("recipe") + its
        # What is computed may be chosen.
        assert {name: 2 * number for name, number in counts[1].items()} == counts[0]

    def test_a_folder_says_nothing_of_what_is_yet_to_be_found(self, run_of, make_interactions):
        asked = run_of("20kB")
        values = recorded(asked, with_rules(stand_ins(asked, make_interactions())[-1], make_interactions()))
        assert values["recommender"]["name"] == "auto" and values["budget"] == "20kB"
        assert not {"tries_users_first", "tried_communities", "tried_recipes"} & values["search"].keys()
        again = parse_config(values)
        assert again.finds_recipe and again.recommender.is_auto


class TestManyRuns:
    """Qualities are given; the data lie in a file."""

    @pytest.fixture
    def values_of(self, tmp_path, monkeypatch):
        log = generate_interactions(60, 40, 900, seed=0)
        pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), tmp_path / "log.parquet")
        # No full table is trained here.
        monkeypatch.setattr(ray, "put", lambda value: value)

        def make(*budgets, methods=None):
            base = {
                "dataset": {"path": str(tmp_path / "log.parquet")},
                "recommender": {"name": "auto", "max_embedding_size": 16, "device": "cpu"},
                "tracking": {"mlflow": False},
            }
            space = {"budget": list(budgets)}
            return {"base": base, "space": space} | ({"methods": methods} if methods else {})

        return make

    def test_all_cells_of_a_group_have_the_recommender_of_its_tightest_budget(
        self, values_of, qualities, tmp_path
    ):
        qualities(lambda name, *_: 0.1 + 0.2 * (name == "spectral"))
        values = values_of("25kB", "20kB", methods=["equal sizes", "search"])
        plan = ComparisonPlan.of(values, "comparison.yaml", tmp_path)
        board = Board(plan)
        assert board.finds_recipes
        board.find_recipes(tmp_path / "cache", lambda news: None)
        cells = [cell for cell in plan.cells if not cell.is_yardstick]
        assert {cell.config.recommender.name for cell in cells} == {"spectral"}
        left = {budget_of(cell): cell.config.memory_budgets[0].amount for cell in cells}
        # What is beside the table is the same in both.
        assert left["25kB"] - left["20kB"] == 5_000 and left["20kB"] < 20_000
        assert all(board.cap_params(cell) * 4 < left[budget_of(cell)] for cell in cells)
        assert len({board.key(cell) for cell in cells}) == len(cells) == 4

    def test_what_learns_by_gradients_is_refused_beside_it(self, values_of, tmp_path):
        with pytest.raises(ConfigError, match="pep and dnis learn .* auto may choose one that is computed"):
            ComparisonPlan.of(values_of("25kB"), "comparison.yaml", tmp_path)

    def test_a_budget_that_none_has_room_in_is_refused_before_anything_starts(self, values_of, tmp_path):
        comparison = ComparisonPlan.of(values_of("25kB", "500B", methods=["search"]), "its.yaml", tmp_path)
        with pytest.raises(
            BudgetError, match=r"its.yaml: the trial 1_budget-500B: .*no recommender has room"
        ):
            Board(comparison)
        with pytest.raises(
            BudgetError, match=r"its.yaml: the trial 1_budget-500B: .*no recommender has room"
        ):
            _read(SweepPlan.of(values_of("25kB", "500B"), "its.yaml", tmp_path))


def test_a_search_that_is_broken_off_while_it_chooses_ends_as_if_it_had_not_been(
    make_config, tmp_path, short_trainings, ray_cluster, capsys
):
    recommender = RecommenderConfig(name="auto", max_embedding_size=16, device="cpu")
    left = {"training": TrainingSettings(), "recommender": recommender, "cache": None}
    config, num_done = make_config(tmp_path / "out", budget="25kB").model_copy(update=left), 0

    def stop(progress):
        nonlocal num_done
        num_done += progress.is_step
        if num_done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(config, on_progress=stop)
    assert read_summary(config.output)["config"]["recommender"]["name"] == "auto"
    result = resume(config.output)
    told = result.summary["recipe"]
    other = search(config.model_copy(update={"output": tmp_path / "other"}))
    for name in ("sizes.parquet", "candidates.parquet"):
        assert pq.read_table(result.path / name).equals(pq.read_table(other.path / name))
    assert told["pinned"] == other.summary["recipe"]["pinned"]
    (chosen, *others), asked = told["recommenders"], config.model_dump(mode="json")
    assert chosen["why"] == "chosen" and len(others) == 3 and told["served_bytes"] == {"25kB": 25_000}
    # The budget holds for all that answers a request, which the table's file is a part of.
    searched = result.summary["methods"][-1]
    assert searched["packed_bytes"] < searched["served_bytes"] <= 25_000
    assert result.summary["config"]["recommender"]["name"] == chosen["recommender"]
    # Named, each finds what it came to here.
    interactions = load_interactions(config)
    for rival in rivals_of(config, interactions):
        row = next(row for row in told["recommenders"] if row["recommender"] == rival.name)
        assert row["quality"] <= chosen["quality"]
        if rival.name in ("mf", "lightgcn"):
            _, tried = find_recipe(rival.config, interactions, ray.put(interactions), lambda *news: None)
            its = [each.quality for each in tried if each.table != "full size" and each.share == row["share"]]
            assert row["quality"] == max(its)
    # Pinned, it is searched alike.
    values = {name: asked[name] for name in ("dataset", "cache", "tracking", "seed")}
    values |= {"output": str(tmp_path / "pinned")} | told["pinned"]
    values["search"] = asked["search"] | told["pinned"]["search"]
    values["recommender"] = told["pinned"]["recommender"] | {"device": "cpu"}
    values["agent"] = asked["agent"] | told["pinned"]["agent"]
    again = search(parse_config(values))
    assert pq.read_table(again.path / "sizes.parquet").equals(pq.read_table(result.path / "sizes.parquet"))
    shown = recommenders_table([SimpleNamespace(label="mine", summary=result.summary)])
    assert [row[0].text for row in shown.rows] == [row["recommender"] for row in told["recommenders"]]
    capsys.readouterr()
    say_result(result)
    said = capsys.readouterr().out
    assert all(name in said for name in RIVALS) and "to serve 25kB: 25,000" in said
