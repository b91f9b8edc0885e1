"""``ciess_ray.search`` as somebody calls it who has a DataFrame and a budget."""

import gc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ciess_ray
from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.front.settings import log_of, settings_of
from ciess_ray.searches.driver import resume
from envs.data import read_interactions, split_interactions
from envs.errors import BudgetError, ConfigError, DataError, ResultError


def test_a_data_frame_in_a_ray_of_ones_own(ray_cluster, purchases, small, empty_folder, capfd):
    result = ciess_ray.search(purchases, budget="20%", user="customer", item="sku", **small)
    assert ray_cluster.is_initialized()
    assert list(empty_folder.iterdir()) == [] and capfd.readouterr().out == ""

    table = result.table()
    assert table.index.tolist() == ["full size", "equal sizes", "search"]
    assert table["num_params"].tolist() == [1600, 320, 320]
    told = ["recall@20", "ndcg@20", "kept_ratio", "packed_bytes", "served_bytes"]
    assert np.isfinite(table[told].to_numpy(float)).all()
    assert table.loc["search", "packed_bytes"] == (result.path / "table.safetensors").stat().st_size

    found = result.recommend(["c17", "c3"], k=5)
    assert found.columns.tolist() == ["user", "rank", "item", "score"]
    assert found["user"].tolist() == ["c17"] * 5 + ["c3"] * 5
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    had = purchases.loc[purchases["customer"] == "c17", "sku"]
    assert set(found["item"][:5]) <= set(purchases["sku"]) - set(had)
    assert (np.diff(found["score"][:5]) <= 0).all()
    with pytest.raises(DataError, match="not in the table: 1 of 1 users, e.g. c99"):
        result.recommend(["c99"])
    with pytest.raises(DataError, match="'c17' is no list of user ids"):
        result.recommend("c17")

    path = result.path
    assert repr(result) == f"SearchResult(path={path!r})"
    del result
    gc.collect()
    assert not path.exists() and not path.parent.exists()


def test_a_folder_keeps_the_data_and_a_search_goes_on_there(ray_cluster, purchases, small, empty_folder):
    given = {"user": "customer", "item": "sku", "output": "kept", **small}

    def interrupt(news):
        if news.phase == "search" and news.is_step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ciess_ray.search(purchases, 0.2, progress=interrupt, **given)
    kept = (empty_folder / "kept" / "ratings.parquet").read_bytes()
    with pytest.raises(ResultError, match="already holds a search"):
        ciess_ray.search(purchases[:500], 0.2, **given)
    assert (empty_folder / "kept" / "ratings.parquet").read_bytes() == kept
    resume(Path("kept"))
    result = ciess_ray.load_result("kept")
    assert result.summary["dataset"]["path_from_folder"] == "ratings.parquet"
    assert len(result.recommend(["c5"], 3)) == 3
    assert [entry.name for entry in empty_folder.iterdir()] == ["kept"]


class TestData:
    @pytest.fixture
    def fingerprint(self, tmp_path):
        def fingerprint(ratings, **names):
            columns = [names.get(role) for role in ("user", "item", "rating", "timestamp")]
            settings = settings_of("search", ratings, columns, tmp_path, {}, ())
            settings.keep_ratings(overwrite=True)
            return load_interactions(parse_config(settings.values)).fingerprint

        return fingerprint

    def test_a_frame_a_file_a_log_and_splits_are_the_same_data(self, purchases, tmp_path, fingerprint):
        names = {"user": "customer", "item": "sku"}
        file = tmp_path / "purchases.csv"
        purchases.to_csv(file, index=False)
        wanted = fingerprint(purchases, **names)
        assert fingerprint(file, **names) == fingerprint(str(file), **names) == wanted
        log = read_interactions(tmp_path / "ratings.parquet")
        assert log.source == "ratings"
        assert fingerprint(log) == fingerprint(split_interactions(log, seed=0)) == wanted
        # Of other splits than a search would make.
        other = split_interactions(log, seed=5, validation_share=0.1)
        assert fingerprint(other) == other.fingerprint != wanted

    def test_a_frame_is_read_as_a_file_is(self):
        frame = pd.DataFrame(
            {
                "user_id": pd.Categorical(["b ", "a", "b", "b"]),
                "item_id": pd.array([3, 4, 3, 5], dtype="Int64"),
                "rating": [1, 2, 3, 4],
                "timestamp": pd.to_datetime(["2020-01-03", "2020-01-02", "2020-01-01", "2020-01-04"]),
            }
        )
        log = log_of(frame, {})
        assert (log.user_ids.tolist(), log.item_ids.tolist()) == (["a", "b"], [3, 4, 5])
        assert log.rating.tolist() == [1, 2, 4] and log.num_duplicates == 1

    @pytest.mark.parametrize(
        ("customer", "sku", "says"),
        [
            (
                ["a", None, "b"],
                [1, 2, 3],
                r"ratings, row 2 \(index y\): customer is missing; give the row",
            ),
            (["a", float("nan"), "b"], [1, 2, 3], r"row 2 \(index y\): customer is missing"),
            (["a", "", "b"], [1, 2, 3], r"row 2 \(index y\): customer is ''"),
            (["a", "b", "nan"], [1, 2, 3], r"row 3 \(index z\): customer is 'nan', which other programs"),
            (
                ["a", 7, "b"],
                [1, 2, 3],
                r"row 2 \(index y\): customer, which is of type int there, cannot",
            ),
            (["a", "b", "c"], [1, None, 3], r"row 2 \(index y\): sku is missing"),
            (["a", "b", "c"], [1, 2.5, 3], r"row 2 \(index y\): sku is 2.5"),
            (
                ["a", "b", "c"],
                [1, 2, 2**70],
                r"sku, .* cannot be read as one column .* up to 2\^63 - 1 or text",
            ),
            (["a", "b", "c"], [True, False, True], r"row 1 \(index x\): sku is of type bool"),
        ],
    )
    def test_a_value_that_is_none_is_told_with_its_row(self, customer, sku, says):
        frame = pd.DataFrame({"customer": customer, "sku": sku}, index=["x", "y", "z"])
        with pytest.raises(DataError, match=says):
            ciess_ray.search(frame, user="customer", item="sku")

    def test_a_split_that_is_none_is_told_with_its_row(self, tmp_path):
        path = tmp_path / "a.splits.parquet"
        frame = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "split": ["train", "valid"]})
        frame.to_parquet(path)
        with pytest.raises(DataError, match="row 2: split is 'valid', none of train, validation, test"):
            read_interactions(path)
        frame["split"] = "train"
        frame.to_parquet(path)
        with pytest.raises(DataError, match="it has no interaction for validation"):
            split_interactions(read_interactions(path), seed=0)


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "error", "says"),
        [
            ({"user": "custmer"}, DataError, "there is no column 'custmer' for the user.*mean 'customer'"),
            ({"budgt": 3}, ConfigError, "unknown field 'budgt'. Did you mean 'budget'"),
            ({"trainng": {"max_batches": 3}}, ConfigError, "unknown field 'trainng'"),
            ({"training.max_batchs": 3}, ConfigError, "Did you mean 'training.max_batches'"),
            ({"budget": "150%"}, BudgetError, "more than the full table"),
            ({"budget": ["5%", "0.05"]}, ConfigError, "stands there twice"),
            ({"dataset": {"path": "elsewhere.csv"}}, ConfigError, "dataset.path: the ratings that"),
            ({"dataset": 3}, ConfigError, "'dataset.path' goes into 'dataset', which is no section"),
        ],
    )
    def test_is_told_before_anything_is_made(self, purchases, empty_folder, given, error, says):
        fields = {"user": "customer", "item": "sku", "output": "out"} | given
        with pytest.raises(error, match=says):
            ciess_ray.search(purchases, **fields)
        assert list(empty_folder.iterdir()) == []

    def test_of_what_is_no_data(self, make_interactions, empty_folder):
        with pytest.raises(ConfigError, match="ratings: a list is none of a DataFrame, a path"):
            ciess_ray.search([(1, 2)])
        with pytest.raises(ConfigError, match="user: interactions of envs.data have no columns"):
            ciess_ray.search(make_interactions(), user="customer")
        with pytest.raises(DataError, match="nowhere.csv: there is no such file"):
            ciess_ray.search("nowhere.csv", user="customer", item="sku")
        with pytest.raises(ConfigError, match="nowhere.yaml: no such configuration"):
            ciess_ray.search("nowhere.yaml")
        with pytest.raises(ConfigError, match="give either dataset.path"):
            ciess_ray.search(budget="10%", dataset={})
        assert list(empty_folder.iterdir()) == []

    def test_of_what_is_no_search(self, tmp_path):
        (tmp_path / "sweep.json").write_text("{}")
        with pytest.raises(ResultError, match="is the folder of a sweep; 'ciess-ray report"):
            ciess_ray.load_result(tmp_path)
