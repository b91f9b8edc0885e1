"""Rows for those who have come since a stream's table was trained."""

import dataclasses
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from kills import content_of

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving import ServedRecommender
from ciess_ray.serving.files import ScorerFile
from ciess_ray.streaming.driver import run_stream
from ciess_ray.streaming.newcomers import append_newcomers
from envs.errors import BudgetError, ConfigError, ResultError, UnknownNameError

BUDGET = 200


@pytest.fixture(scope="module")
def stream(make, log, tmp_path_factory):
    """A stream whose log has gone on, and what its table was in the latest segment."""
    folder = tmp_path_factory.mktemp("newcomers")
    whole = pq.read_table(log)
    dataset = {"path": str(folder / "log.parquet")}
    pq.write_table(whole.slice(0, 180), dataset["path"])
    config = make(
        folder / "stream",
        dataset=dataset,
        methods=["split", "popular ever"],
        budget=f"{BUDGET} params",
        reserve=0.02,
    )
    rows = run_stream(config)
    assert all(row["num_params"] <= 0.98 * BUDGET for row in rows if row["method"] == "split")
    pq.write_table(whole.slice(0, 200), dataset["path"])
    return config, ServedRecommender.open(config.output / "current" / "split"), whole.slice(0, 200)


def test_newcomers_have_the_mean_of_those_they_met_and_the_budget_holds(stream, tmp_path, run_cli):
    config, before, log = stream
    left = content_of(config.output)
    status, said, _ = run_cli("append", config.output, "split", tmp_path / "served")
    assert status == 0 and "new users and" in said and content_of(config.output) == left
    after = ServedRecommender.open(tmp_path / "served")
    table = PackedTable.open(tmp_path / "served" / "table.safetensors")
    d_min = table.num_tables
    num_new = table.num_rows - before.table.num_rows
    assert num_new > 0 and table.num_params == before.table.num_params + num_new * d_min
    assert BUDGET - d_min < table.num_params <= BUDGET
    user, item = (np.array([str(one) for one in log[name].to_pylist()]) for name in ("user_id", "item_id"))
    ids = {"user": after.user_ids.astype(str), "item": after.item_ids.astype(str)}
    known = {"user": before.user_ids.astype(str), "item": before.item_ids.astype(str)}
    first = {"user": 0, "item": table.num_users}
    of_known = {"user": 0, "item": before.table.num_users}
    for kind, mine, theirs, other in (("user", user, item, "item"), ("item", item, user, "user")):
        np.testing.assert_array_equal(ids[kind][: len(known[kind])], known[kind])
        rows = first[kind] + np.arange(len(known[kind]))
        np.testing.assert_array_equal(
            table.rows(rows, 8), before.table.rows(of_known[kind] + np.arange(len(rows)), 8)
        )
        for number, one in enumerate(ids[kind][len(known[kind]) :], len(known[kind])):
            met = np.flatnonzero(np.isin(known[other], theirs[mine == one]))
            mean = before.table.rows(of_known[other] + met, 1).mean(axis=0)
            assert len(met) and table.row_sizes[first[kind] + number] == 1
            np.testing.assert_allclose(table.rows(np.array([first[kind] + number]), 1)[0], mean, rtol=1e-5)

    # Whoever has no row has met fewer of those that the table knows than whoever has one.
    def num_met(kind, one):
        mine, theirs, other = (user, item, "item") if kind == "user" else (item, user, "user")
        return len(np.intersect1d(theirs[mine == one], known[other]))

    everybody = {kind: np.unique(values) for kind, values in (("user", user), ("item", item))}
    have = [num_met(kind, one) for kind in ids for one in ids[kind][len(known[kind]) :]]
    lack = [num_met(kind, one) for kind in ids for one in np.setdiff1d(everybody[kind], ids[kind])]
    assert f"{len(lack)} have none" in said and min(have) >= max(lack, default=0)
    newcomer = after.user_ids[-1]
    lists = after.recommend([newcomer, after.user_ids[0]], 5)
    had = set(item[user == newcomer])
    assert (lists.items[0] >= 0).all() and not had & set(ids["item"][lists.items[0]])
    assert not lists.is_popular.any()
    with pytest.raises(ResultError, match="exists; name another place"):
        append_newcomers(config.output, "split", tmp_path / "served")


def test_what_cannot_be_appended_is_refused(stream, make, tmp_path):
    config, _, log = stream
    with pytest.raises(ResultError, match="holds files that no export wrote|is a link"):
        append_newcomers(config.output, "split", config.output / "current" / "split", overwrite=True)
    with pytest.raises(ResultError, match="there is no table of last sizes in the latest segment"):
        append_newcomers(config.output, "last sizes", tmp_path / "served")
    with pytest.raises(UnknownNameError, match="unknown method with a table 'popular ever'"):
        append_newcomers(config.output, "popular ever", tmp_path / "served")
    pq.write_table(log.slice(3), tmp_path / "other.parquet")
    with pytest.raises(ResultError, match="does not begin with the .* rows that this stream has followed"):
        append_newcomers(
            config.output, "split", tmp_path / "served", [f"dataset.path={tmp_path / 'other.parquet'}"]
        )
    for field in ("budget=40kB", "reserve=0", "dataset={}", "tracking.uri=x"):
        with pytest.raises(ConfigError, match=f"{field}.*stays as it was.*only dataset.path=FILE .* moved.$"):
            append_newcomers(config.output, "split", tmp_path / "served", [field])
    with pytest.raises(ConfigError, match="reserve: is for lightgcn"):
        make(tmp_path / "out", reserve=0.1, recommender={"name": "ngcf"})
    scorer = ScorerFile.read(config.output / "current" / "split")
    copy = tmp_path / "copy"
    shutil.copytree(config.output, copy, symlinks=True)
    (copy / "current" / "split" / "manifest.json").unlink()
    dataclasses.replace(scorer, recommender="mine:Mine").write(copy / "current" / "split")
    with pytest.raises(ResultError, match="is of mine:Mine; rows are appended for lightgcn alone"):
        append_newcomers(copy, "split", tmp_path / "served")
    with pytest.raises(BudgetError, match="grows with the rows and needs no reserve"):
        run_stream(make(tmp_path / "out", budget="50%", reserve=0.1))
    assert not list(tmp_path.glob("[so]*t*/table*"))


def test_a_table_with_shared_rows_keeps_them(make, log, tmp_path):
    dataset = {"path": str(tmp_path / "log.parquet")}
    pq.write_table(pq.read_table(log).slice(0, 180), dataset["path"])
    fields = {"dataset": dataset, "methods": ["equal sizes"], "overflow": "share", "reserve": 0.2}
    config = make(tmp_path / "stream", budget="40 params", **fields)
    run_stream(config)
    before = PackedTable.open(config.output / "current" / "equal-sizes" / "table.safetensors")
    append_newcomers(config.output, "equal sizes", tmp_path / "served")
    after = PackedTable.open(tmp_path / "served" / "table.safetensors")
    assert before.num_params == 32 < after.num_params <= 40
    num_users, num_items = before.num_users, before.num_rows - before.num_users
    known = np.r_[:num_users, after.num_users : after.num_users + num_items]
    np.testing.assert_array_equal(after.row_sizes[known], before.row_sizes)
    np.testing.assert_array_equal(after.rows(known), before.unpack())
    assert before.sizes.is_shared.sum() == after.sizes.is_shared.sum() > 0
