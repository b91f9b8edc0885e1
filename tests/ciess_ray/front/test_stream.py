"""``ciess_ray.stream``: what it asks for and what it gives. Its example trains tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ciess_ray
from ciess_ray.front.stream import StreamResults
from envs.errors import BudgetError, ConfigError, DataError, ResultError, UnknownNameError

NAMES = {"user": "customer", "item": "sku", "timestamp": "date"}
FIELDS = {"methods": ["popular ever", "popular of late"], "recommender": {"max_embedding_size": 8}}


@pytest.fixture(scope="module")
def log():
    """Four days, of which the last repeats what was there before."""
    number = np.arange(120)
    columns = {"customer": number % 20, "sku": number * number % 23, "date": number * 2880}
    frame = pd.DataFrame(columns)
    return pd.concat([frame, frame[:30].assign(date=1_000_000)], ignore_index=True)


def test_a_data_frame_becomes_a_file_that_the_stream_goes_on_with(log, empty_folder):
    news = []
    results = ciess_ray.stream(
        log, "50%", **NAMES, **FIELDS, output="out", progress=news.append, **{"segments.period": "day"}
    )
    assert results.path.resolve() == empty_folder / "out" and news
    # What comes again is no row of its own: the last day has none.
    once = log.drop_duplicates(["customer", "sku"])
    num_rows = once.groupby(once["date"] // 86_400).size().tolist()
    assert results.rows.groupby("segment")["num_rows"].first().tolist() == num_rows and len(num_rows) == 4
    assert set(results.rows["method"]) == set(FIELDS["methods"])
    again = ciess_ray.stream(
        log, "50%", **NAMES, **FIELDS, segments={"period": "day"}, output="out", overwrite=True
    )
    pd.testing.assert_frame_equal(
        *(
            made.rows.filter(like="/").drop(columns=["cpu_s/choosing", "cpu_s/testing"])
            for made in (results, again)
        )
    )
    with pytest.raises(ResultError, match="already holds a stream"):
        ciess_ray.stream(log, **NAMES, **FIELDS, segments={"rows": 40}, output="out")
    with pytest.raises(ResultError, match="out: is the folder of a stream"):
        ciess_ray.load_result("out")


def test_a_file_of_data_or_of_yaml_does_too(log, empty_folder):
    log.to_csv("purchases.csv", index=False)
    by_data = ciess_ray.stream("purchases.csv", "50%", **NAMES, **FIELDS, segments={"rows": 40})
    (empty_folder / "stream.yaml").write_text(
        "dataset: {path: purchases.csv, columns: {user: customer, item: sku, timestamp: date}}\n"
        "segments: {rows: 60}\nbudget: 50%\nmethods: [popular ever]\n"
    )
    by_file = ciess_ray.stream(
        empty_folder / "stream.yaml", **{"segments.rows": 40}, methods=["popular ever"], output="out"
    )
    ndcg = [made.table().loc["popular ever", "test/ndcg@20"] for made in (by_data, by_file)]
    assert ndcg[0] == ndcg[1] > 0
    folder = by_data.path
    assert folder.exists() and sorted(path.name for path in empty_folder.iterdir()) == [
        "out",
        "purchases.csv",
        "stream.yaml",
    ]
    del by_data
    assert not folder.exists()


def test_mistakes_are_told_before_anything_is_made(log, empty_folder):
    with pytest.raises(ConfigError, match="unknown field 'segment'. Did you mean 'segments'"):
        ciess_ray.stream(log, **NAMES, output="out", segment={"rows": 5})
    with pytest.raises(ConfigError, match="exactly one of segments.new_entities"):
        ciess_ray.stream(log, **NAMES, output="out", segments={})
    assert list(empty_folder.iterdir()) == []
    with pytest.raises(DataError, match="ratings: it has no times, which a stream needs"):
        ciess_ray.stream(log, user="customer", item="sku", segments={"rows": 40})


def test_ratings_that_cannot_be_followed_replace_none(log, empty_folder):
    ciess_ray.stream(log, "50%", **NAMES, **FIELDS, output="out", segments={"rows": 40})
    before = (empty_folder / "out" / "ratings.parquet").read_bytes()
    with pytest.raises(BudgetError, match="the least that works"):
        ciess_ray.stream(
            log[:100], "5 params", **NAMES, **FIELDS, output="out", segments={"rows": 40}, overwrite=True
        )
    assert (empty_folder / "out" / "ratings.parquet").read_bytes() == before


def test_the_table_has_means():
    rows = pd.DataFrame(
        {
            "segment": [0, 0, 0, 1, 1, 1, 2, 2, 2],
            "method": ["split", "last sizes", "item cosine"] * 3,
            "test/ndcg@20": [9.0, 9.0, 9.0, 0.1, 0.2, 0.3, 0.3, 0.2, None],
            "validation/quality": [9.0, 1.0, 9.0, 9.0, 1.0, 9.0, 0.1, 0.2, 0.3],
            "num_params": [1, 1, None, 2, 2, None, 3, 4, None],
            "cpu_s": [1.0] * 9,
        }
    )
    table = StreamResults(Path(), rows).table()
    assert table.index.tolist() == ["split", "last sizes", "item cosine"]
    np.testing.assert_allclose(table["test/ndcg@20"], [0.2, 0.2, 0.3])
    np.testing.assert_array_equal(table["num_params"], [3, 4, np.nan])
    assert table["cpu_s"].tolist() == [3.0] * 3


def test_the_latest_table_that_validation_likes_best_serves(tmp_path, monkeypatch):
    results = StreamResults(tmp_path, pd.DataFrame())
    for segment in ("000", "001"):
        for method, quality in (("split", 0.1), ("last-sizes", 0.2), ("equal-sizes", None)):
            folder = tmp_path / "segments" / segment / method
            folder.mkdir(parents=True)
            (folder / "table.safetensors").touch()
            told = {"format": "ciess-ray stream result 1", "figures": {"validation/quality": quality}}
            (folder / "result.json").write_text(json.dumps(told))
    (tmp_path / "stream.json").touch()
    (tmp_path / "current").symlink_to("segments/001")
    monkeypatch.setattr("ciess_ray.serving.recommender.ServedRecommender.open", lambda path: path)
    latest = (tmp_path / "segments" / "001").resolve()
    assert results.recommender() == latest / "last-sizes"
    assert results.recommender("equal sizes") == latest / "equal-sizes"
    with pytest.raises(UnknownNameError, match="method with a table"):
        results.recommender("item cosine")
