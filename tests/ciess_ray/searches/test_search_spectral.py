"""A search whose recommender is in closed form, with rows of items alone: only the agent is trained."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ciess_ray.config.data import check_training_memory, load_interactions
from ciess_ray.report import write_report
from ciess_ray.searches.driver import search
from envs.errors import ConfigError
from envs.recommenders import Spectral
from envs.recommenders.evaluation import evaluate


def test_what_is_judged_is_what_is_packed_and_served(make_config, tmp_path):
    config = make_config(tmp_path / "out", recommender={"name": "spectral"}, budget=["20%", "40%"])
    result = search(config)
    interactions = load_interactions(config)
    num_items = interactions.num_items
    sizes, budget = result.packed_table.sizes, result.summary["budget"]
    assert len(sizes.user) == 0 and len(sizes.item) == num_items
    # The budget is a share of the recommender's own full table.
    assert budget["cap_params"] == num_items * 16 // 5 == sizes.num_params
    full, equal, found = result.summary["methods"]
    assert full["num_params"] == num_items * 16 and found["mean_user_size"] == 0
    assert {row["num_test_batches"] for row in (full, equal, found)} == {0}
    assert not any("batch" in hint for hint in result.summary["hints"])
    for row in result.summary["retrained"]:
        # What a step found by masking is what computing the table for these sizes gives.
        if row["quality_in_search"] is not None:
            assert row["quality"] == pytest.approx(row["quality_in_search"], abs=2e-3)
    assert found["served_as"] == "table"
    recommender = result.recommender()
    assert isinstance(recommender, Spectral)
    merged = interactions.merge_validation_into_training()
    with torch.no_grad():
        metrics = evaluate(recommender, merged.train, merged.test).summary()
        scores = recommender.score(recommender.encode(), torch.arange(2)).numpy()
    assert metrics == pytest.approx(found["test"], abs=1e-6)
    scorer = result._served.scorer
    np.testing.assert_allclose(scorer.score(scorer.of_users(np.arange(2))), scores, atol=1e-5)
    kinds = pq.read_table(tmp_path / "out" / "sizes.parquet").column("kind").to_pylist()
    assert kinds == ["item"] * num_items
    (looser,) = result.looser()
    assert looser.packed_table.sizes.num_params == num_items * 16 * 2 // 5
    write_report([tmp_path / "out"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "mean sizes: items" in page and "recommender.max_embedding_size" in page
    # Nothing was trained.
    assert not any(what in page for what in ("training.max_batches", "search.supernet_batches", "best batch"))
    assert "item size" in page and "user size" not in page


def test_memory_that_its_table_has_no_room_in_is_told_without_a_word_on_training(make_config, tmp_path):
    config = make_config(tmp_path, recommender={"name": "spectral", "max_embedding_size": 10**11})
    with pytest.raises(ConfigError, match="the full table of 120 rows takes .* bytes of memory: lower it"):
        check_training_memory(config, load_interactions(config))


def test_ways_that_a_closed_form_cannot_go_are_refused(make_config, tmp_path):
    with pytest.raises(
        ConfigError, match="search.step_mode: spectral is computed, not trained.*leave it out"
    ):
        make_config(tmp_path, recommender={"name": "spectral"}, search={"step_mode": "fresh"})
    with pytest.raises(ConfigError, match="search.tried_communities: .* of which spectral has none"):
        make_config(tmp_path, recommender={"name": "spectral"}, search={"tried_communities": [2]})
    with pytest.raises(
        ConfigError, match="the option item_exponent of spectral must lie in 0 to 1, not be 2"
    ):
        make_config(tmp_path, recommender={"name": "spectral", "options": {"item_exponent": 2.0}})
