"""The table of recommenders: which cells, when they are measured, and what is read of them."""

import json
import sys

import equal_table
import numpy as np
import pytest
import recommender_table
import recommender_table_plan as plan
from recommender_table import is_due, main, row_of, rows_of_now, settings_of
from recommender_table_page import drawn, page_of, write_summary
from recommender_table_plan import BUILDING, HELD_OUT, Cell, DataSet, Selection, planned

from ciess_ray.config.data import load_interactions
from ciess_ray.files.formats import read_json_lines
from ciess_ray.training.convergence import Trained, full_sizes, train_for_test
from envs.data import generate_interactions
from envs.errors import ConfigError

DATA = "ml-100k"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with small data in the place of one data set."""
    log = generate_interactions(60, 40, 900, seed=0, rank=4)
    rows = [f"{user},{item}" for user, item in zip(log.user, log.item, strict=True)]
    (tmp_path / "small.csv").write_text("\n".join(["user_id,item_id", *rows]) + "\n")
    monkeypatch.setitem(plan.DATA_SETS, DATA, DataSet("Small", "small.csv", 900))
    monkeypatch.setattr(plan, "WIDTH", 20)
    return tmp_path


@pytest.fixture
def command(folder, monkeypatch, capsys):
    """Runs the command on spectral tables of the small data and gives the rows that are there then."""

    def run(*arguments, splits=(0,), budgets=("100%", "10%"), recommenders=("spectral",)):
        output = folder / "out" / "table"
        selected = ["--data", DATA, "--recommenders", *recommenders, "--splits", *map(str, splits)]
        selected += ["--budgets", *budgets, "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["recommender_table.py", str(folder), *selected, *arguments])
        main()
        return read_json_lines(output.with_name("table.jsonl"))

    # What is written for people takes longer than small data.
    monkeypatch.setattr(recommender_table, "write_summary", lambda output, cells: None)
    return run


def test_what_is_planned_is_what_the_table_is_to_have():
    cells = planned()
    assert len(cells) == len(set(cells))
    grids = {}
    for cell in cells:
        grids.setdefault((cell.data, cell.recommender), []).append((cell.budget, cell.split))
    every = {(budget, split) for budget in ("100%", "10%", "5%") for split in BUILDING}
    uncut = {("uncut", split) for split in BUILDING}
    for data in ("latest-small", "ml-100k", "online-retail-2", "ml-1m", "gowalla"):
        for recommender in ("spectral", "neighbours"):
            assert set(grids.pop((data, recommender))) == every
        assert set(grids.pop((data, "ease"))) == every | uncut
        for yardstick in ("item cosine", "most popular"):
            assert set(grids.pop((data, yardstick))) == uncut
        if data != "gowalla":
            assert set(grids.pop((data, "lightgcn"))) == every
    some = [("100%", 0), ("20%", 0), ("10%", 0), ("5%", 0), ("100%", 1), ("100%", 2)]
    assert grids.pop(("gowalla", "lightgcn")) == some
    full = {("100%", split) for split in BUILDING}
    assert {key: set(grid) for key, grid in grids.items()} == {
        ("online-retail-2", "mf"): full,
        ("gowalla", "mf"): full | {("10%", 0)},
        ("ml-1m", "mf"): {("100%", 0), ("10%", 0)},
        ("ml-1m", "ngcf"): {("100%", 0), ("10%", 0)},
    }
    assert {cell.split for cell in planned(HELD_OUT)} == set(HELD_OUT)


def test_what_is_soon_done_comes_first():
    costs = [cell.cost for cell in planned()]
    assert costs == sorted(costs)
    assert planned()[-1].recommender == "ngcf"


@pytest.mark.parametrize(
    "cell", {(c.data, c.recommender, c.is_yardstick): c for c in planned()}.values(), ids=str
)
def test_every_recipe_is_a_configuration(cell, tmp_path):
    config = cell.config(tmp_path)
    assert (config.seed, config.split_seed) == (cell.split, cell.split)
    if not cell.is_yardstick:
        assert (config.budget, config.recommender.max_embedding_size) == (cell.budget, 128)
    assert config.dataset.validation_share == plan.DATA_SETS[cell.data].validation_share


def test_a_selection_takes_what_it_names():
    cells = [cell for cell in planned() if cell in Selection(["gowalla"], ["mf", "lightgcn"], ["10%"])]
    assert [str(cell) for cell in cells] == [
        "mf at 10% on gowalla, split 0",
        "lightgcn at 10% on gowalla, split 0",
    ]
    assert [cell for cell in planned() if cell in Selection()] == planned()


def test_a_row_has_what_was_chosen_and_measured(command, folder):
    full, tenth = command()
    assert (full["num_params"], tenth["num_params"]) == (40 * 20, 40 * 2)
    assert (full["users"], full["items"], full["interactions"]) == (60, 40, 900)
    assert full["settings"]["recommender"] == {"name": "spectral", "max_embedding_size": 20}
    # Packed values, and what else answers: the weight of each item in a history.
    assert full["served_bytes"] > full["packed_bytes"] >= 4 * full["num_params"]
    assert full["served_with_histories_bytes"] > full["served_bytes"] > tenth["served_bytes"]
    # What is tried beside the first, and the training for test.
    assert full["num_trainings"] == 1 + 3 + 2 + 1
    assert set(full["cpu_s"]) == {"reading", "choosing", "computing, test"}
    assert 0 < full["test"]["ndcg@20"] <= 1 and full["validation"]["quality"] > 0


def test_test_is_of_what_validation_chose_trained_on_both(command, folder):
    (full,) = command(budgets=["100%"])
    config = Cell(DATA, "spectral", "100%", 0).config(folder).with_options(full["chosen"])
    interactions = load_interactions(config)
    sizes = full_sizes(config, interactions)
    _, report = train_for_test(config, interactions, sizes, 0, (5,))
    assert full["test"] == pytest.approx(report.best.summary(), abs=1e-6)


def test_yardsticks_are_rows_of_what_keeps_to_no_budget(command):
    rows = command(budgets=["uncut"], recommenders=["ease", "item cosine", "most popular"])
    by_name = {row["recommender"]: row for row in rows}
    popular = by_name["most popular"]
    assert popular["served_bytes"] == 4 * 40 and popular["served_as"] == "order of items"
    assert by_name["ease"]["served_bytes"] == 4 * 40**2 and by_name["ease"]["chosen"]["l2"] > 0
    assert 0 < popular["test"]["ndcg@20"] < by_name["item cosine"]["test"]["ndcg@20"] <= 1
    assert all(row["settings"] == {"version": 1, "validation_share": 0.25} for row in rows)
    assert all(row["served_with_histories_bytes"] > row["served_bytes"] for row in rows)
    assert len(command(budgets=["uncut"], recommenders=["ease"])) == 3


def test_a_cell_that_was_broken_off_trains_only_what_it_had_not(folder, monkeypatch):
    short = "training.max_batches=2", "training.evaluate_every=1", "training.batch_size=50"
    options = "recommender.options.l2=[0.001, 0.01, 0.1]"
    monkeypatch.setattr(plan, "_recipe", lambda data, recommender, budget: [*short, options])
    config = Cell(DATA, "mf", "10%", 0).config(folder)
    fit, fitted = equal_table.fit_to_convergence, []

    def fit_two(asked, *others):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(asked.recommender.options["l2"])
        return fit(asked, *others)

    def measured():
        return recommender_table.measure(config, folder / "kept", lambda news: None)

    monkeypatch.setattr(equal_table, "fit_to_convergence", fit_two)
    with pytest.raises(KeyboardInterrupt):
        measured()
    kept = list((folder / "kept").iterdir())
    assert len(kept) == 2
    monkeypatch.setattr(equal_table, "fit_to_convergence", lambda *given: fitted.append(3) or fit(*given))
    figures = measured()
    assert len(fitted) == 3 and figures["num_trainings"] == 4 and figures["cpu_s_in_all"] > 0
    # What was found counts for what it took.
    assert figures["cpu_s"]["choosing"] >= sum(round(Trained.read(file).cost.cpu_s, 2) for file in kept)
    assert {**figures, "cpu_s": 0, "cpu_s_in_all": 0} == {**measured(), "cpu_s": 0, "cpu_s_in_all": 0}
    assert len(fitted) == 3


def test_what_is_there_is_not_measured_again(command, monkeypatch):
    first = command()
    assert command(splits=(0, 1), budgets=["100%"]) == [*first, *command()[2:]]
    assert [(row["budget"], row["split"]) for row in command()] == [("100%", 0), ("10%", 0), ("100%", 1)]
    # Other settings are another row, and the last one counts.
    monkeypatch.setattr(recommender_table, "VERSION", 2)
    rows = command(budgets=["10%"])
    assert len(rows) == 4 and rows[-1]["settings"]["version"] == 2
    assert row_of(rows, Cell(DATA, "spectral", "10%", 0)) == rows[-1]
    assert command(budgets=["10%"]) == rows


def test_what_another_commit_measured_is_measured_again_where_that_is_asked_for(command, monkeypatch):
    monkeypatch.setattr(recommender_table, "provenance", lambda: {"commit": "a", "machine": "m"})
    assert len(command()) == len(command("--again")) == 2
    monkeypatch.setattr(recommender_table, "provenance", lambda: {"commit": "b", "machine": "m"})
    assert len(command()) == 2
    assert [row["commit"] for row in command("--again", budgets=["10%"])] == ["a", "a", "b"]


def test_a_torn_line_is_measured_again(command, folder):
    command()
    file = folder / "out" / "table.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    full, tenth = command()
    assert (full["budget"], tenth["budget"]) == ("100%", "10%")
    assert len(file.read_text().splitlines()) == 3 and command() == [full, tenth]


def test_a_cell_that_refuses_says_why_and_others_go_on(command, monkeypatch):
    def refuse(config, kept, tell):
        if config.budget == "100%":
            raise ConfigError("in /data/a.csv no memory")
        return measure(config, kept, tell)

    measure = recommender_table.measure
    monkeypatch.setattr(recommender_table, "measure", refuse)
    refused, measured = command()
    assert refused["refused"] == "in a.csv no memory" and "test" not in refused and "test" in measured
    assert len(command()) == 2


def test_data_that_are_not_there_are_named_before_any_work(command, folder):
    (folder / "small.csv").unlink()
    with pytest.raises(SystemExit, match=r"small\.csv: not there; bring the data, or leave them out"):
        command()
    with pytest.raises(SystemExit, match="no cell is selected"):
        command(splits=(7,))


def test_what_is_finished_is_written_without_measuring(command, folder, monkeypatch):
    command(budgets=["10%"])
    monkeypatch.setattr(recommender_table, "run", None)
    monkeypatch.setattr(recommender_table, "write_summary", write_summary)
    command("--finished")
    assert (folder / "out" / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "| spectral | 10% | 1 |" in (folder / "out" / "table.md").read_text()


def row(cell, ndcg, **other):
    figures = {"recall@20": ndcg / 2, "ndcg@20": ndcg}
    served = {"served_bytes": 1000, "served_with_histories_bytes": 3000, "served_as": "table"}
    counts = {"users": 6, "items": 4, "interactions": 9, "cpu_s_in_all": 1.25}
    made = {"commit": "c", "machine": "m"}
    return {**cell.key, "test": figures, "validation": figures, **served, **counts, **made, **other}


def test_shares_are_of_the_full_table_on_the_same_splits():
    cells = [
        Cell(DATA, "spectral", budget, split)
        for budget, split in (("100%", 0), ("100%", 1), ("10%", 0), ("10%", 1), ("10%", 2), ("5%", 0))
    ]
    values = 0.4, 0.5, 0.2, 0.4, 0.1
    rows = [row(cell, value) for cell, value in zip(cells, values, strict=False)]
    page = page_of([*zip(cells, rows, strict=False), (cells[-1], None)], "table")
    lines = [line for line in page.splitlines() if line.startswith("| spectral")]
    assert lines[0].split(" | ")[1:6] == ["100%", "2", "0.2250 ± 0.0354", "0.4500 ± 0.0707", ""]
    # 50 and 80 %; the third split has no full table yet.
    assert lines[1].split(" | ")[2:6] == ["3", "0.1167 ± 0.0764", "0.2333 ± 0.1528", "65.0%"]
    assert lines[1].endswith(
        "| 1000.0 | 3000.0 | table | 1.2 |".replace("1000.0", "1,000").replace("3000.0", "3,000")
    )
    assert "1 of 6 cells: spectral on MovieLens-100K (1)." in page


def test_refusals_are_told_once_a_reason():
    cells = [Cell(DATA, "ease", "100%", 0), Cell(DATA, "ease", "100%", 1), Cell(DATA, "ease", "10%", 0)]
    refused = [{**row(cell, 0.0), "refused": "no memory"} for cell in cells]
    page = page_of(list(zip(cells, refused, strict=True)), "table")
    assert page.count("no memory") == 1 and "ease at 100%, ease at 10%: no memory" in page


def test_a_panel_a_data_set_with_a_point_a_budget():
    rows = [
        row(Cell(data, "spectral", budget, split), 0.1 + split / 10, served_bytes=size)
        for data in ("ml-100k", "gowalla")
        for budget, size in (("100%", 10_000), ("5%", 500))
        for split in (0, 1)
    ]
    figure = drawn(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["MovieLens-100K", "Gowalla"]
    for axes in figure.axes:
        ((line, *_),) = axes.containers
        np.testing.assert_allclose(line.get_xydata(), [[500, 0.15], [10_000, 0.15]])


def test_settings_of_trained_recommenders_have_their_training(tmp_path):
    cells = (Cell("ml-1m", name, "10%", 0) for name in ("ngcf", "spectral"))
    trained, closed = (settings_of(cell, cell.config(tmp_path)) for cell in cells)
    assert trained["training"]["batch_size"] == 20_000 and trained["tried"] == {}
    assert "training" not in closed and closed["tried"]["spectrum_exponent"] == [0.0, 0.25]
    # Folders of one machine are in none.
    assert str(tmp_path) not in json.dumps([trained, closed])


def test_a_row_of_other_settings_is_not_shown(tmp_path):
    cells = [Cell("ml-1m", "lightgcn", "100%", split) for split in (0, 1)]
    settings = settings_of(cells[0], cells[0].config(tmp_path))
    rows = [cells[0].key | {"settings": settings}, cells[1].key | {"settings": settings | {"version": 0}}]
    assert rows_of_now(cells, rows, tmp_path) == [(cells[0], rows[0]), (cells[1], None)]


def test_a_cell_is_due_without_a_row_and_under_other_settings():
    there = {"settings": {"a": 1}, "commit": "c"}
    assert is_due(None, {"a": 1}, None) and is_due(there, {"a": 2}, None) and is_due(there, {"a": 1}, "d")
    assert not is_due(there, {"a": 1}, None) and not is_due(there, {"a": 1}, "c")
