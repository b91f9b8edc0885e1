"""A search for the numbers of neighbours: what it leaves recommends, is verified, exported and reported."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ciess_ray.config.data import load_interactions
from ciess_ray.searches.driver import search
from ciess_ray.serving.recommender import ServedRecommender
from ciess_ray.tracking.mlflow_model import can_model
from ciess_ray.training.convergence import recipe_of
from envs.budget import packed_bytes
from envs.recommenders import Neighbours
from envs.recommenders.evaluation import evaluate


def test_from_a_budget_in_bytes_to_what_others_read(make_config, tmp_path, run_cli):
    folder, asked = tmp_path / "out", 4_321
    options = {"item_exponent": 0.5, "outgoing": [1, 0]}
    recommender = {"name": "neighbours", "options": options}
    settings = {"num_candidates": 1, "refit": True}
    config = make_config(folder, recommender=recommender, budget=f"{asked}B", search=settings)
    result = search(config)
    interactions = load_interactions(config)
    sizes, budget = result.packed_table.sizes, result.summary["budget"]
    # Six bytes a neighbour, and what there is beside them, to the byte.
    assert len(sizes.user) == 0 and result.packed_table.neighbours.dtype == np.uint16
    assert (
        budget["max_packed_bytes"] == packed_bytes(sizes.num_params, len(sizes.item), 16, 2)
    ) and asked - 6 < budget["max_packed_bytes"] <= asked
    found = result.summary["methods"][-1]
    assert (
        (folder / "table.safetensors").stat().st_size == found["packed_bytes"] <= budget["max_packed_bytes"]
    )
    assert found["served_as"] == "table" and found["num_test_batches"] == 0
    made, measured = result.recommender(), result.recommender(measured=True)
    assert isinstance(made, Neighbours) and made.outgoing == measured.outgoing == 0
    merged, known = interactions.merge_validation_into_training(), interactions.merge_all_into_training()
    with torch.no_grad():
        metrics = evaluate(measured, merged.train, merged.test).summary()
        scores = made.score(made.encode(), torch.arange(merged.num_users)).numpy()
    assert metrics == pytest.approx(found["test"], abs=1e-6)
    served = ServedRecommender.open(folder)
    assert (result.train != known.train).nnz == 0 and result.train.nnz == interactions.num_interactions
    assert served.item_popularity.tolist() == known.item_popularity.tolist()
    of_all = served.scorer.score(served.scorer.of_users(np.arange(merged.num_users)))
    np.testing.assert_allclose(of_all, scores, atol=1e-5)
    # What is packed is what computing it of all interactions gives, of the sizes and options chosen.
    chosen = config.with_options({"outgoing": made.outgoing})
    fresh = recipe_of(chosen, known).recommender(sizes, np.random.default_rng(0))
    np.testing.assert_allclose(fresh.score(fresh.encode(), torch.arange(merged.num_users)), scores, atol=1e-5)
    # Nobody gets what they had, in test too.
    listed = served.recommend(served.user_ids, known.num_items).items
    for user in range(known.num_users):
        assert not {*listed[user].tolist()} & {*known.train[[user]].indices.tolist()}

    def runs(*arguments):
        status, told, _ = run_cli(*arguments)
        assert status == 0, told
        return told

    assert "1" in runs("recommend", folder, "--user", "u007", "-k", "3")
    runs("recommend", folder, "--item", "10", "--item", "20")
    assert "(neighbours, sizes, scales, header): all is well" in runs("verify", folder)
    # The table that was measured says what the smaller type costs.
    told = runs("export", folder, tmp_path / "int8", "--dtype", "int8")
    assert f"  {found['test']['ndcg@20']:.4f}" in told and "not measured" not in told
    assert "the table was trained on test.npz too" in runs("export", tmp_path / "int8", tmp_path / "again")
    assert "all is well" in runs("verify", tmp_path / "int8")
    runs("export", folder, tmp_path / "table.parquet", "--format", "parquet")
    row = pq.read_table(tmp_path / "table.parquet").to_pylist()[3]
    assert len(row["neighbours"]) == len(row["vector"]) == row["embedding_size"]
    status, _, told = run_cli("export", folder, tmp_path / "x.onnx", "--format", "onnx")
    assert status == 2 and "choose packed or parquet" in " ".join(told.split())
    runs("report", folder, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "mean sizes: items" in page
    assert "the table is trained on all 4,000 interactions; figures are of one that was trained" in page
    assert can_model(folder)
