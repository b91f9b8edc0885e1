"""A search whose recommender has two tables, for which the budget counts both."""

import pyarrow.parquet as pq
import pytest
import torch

from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import SearchResult
from ciess_ray.searches.driver import search
from envs.data import generate_interactions
from envs.recommenders import NCF
from envs.recommenders.evaluation import evaluate

FULL_PARAMS = 2 * 100 * 8


@pytest.mark.parametrize(("mode", "budget", "cap"), [("projected", "30%", 480), ("paper", "481 params", 480)])
def test_search(ray_cluster, tmp_path, mode, budget, cap):
    log = generate_interactions(60, 40, 900, seed=0, rank=4)
    (tmp_path / "log.csv").write_text(
        "user_id,item_id\n" + "".join(f"u{u},i{i}\n" for u, i in zip(log.user, log.item, strict=True))
    )
    config = parse_config(
        {
            "dataset": {"path": tmp_path / "log.csv"},
            "budget": budget,
            "output": tmp_path / "out",
            "cache": None,
            "recommender": {"name": "ncf", "max_embedding_size": 8, "device": "cpu"},
            "training": {"batch_size": 128, "evaluate_every": 10, "patience": 1, "max_batches": 20},
            "search": {
                "mode": mode,
                "num_episodes": 1,
                "episode_length": 2,
                "batches_per_step": 3,
                "supernet_batches": 20,
                "num_warmup_steps": 1,
                "num_candidates": 1,
            },
            "agent": {"hiddens": (16, 16), "updates_per_step": 1},
            "tracking": {"mlflow": False},
        }
    )
    result = search(config)
    sizes = result.packed_table.sizes
    assert result.summary["budget"]["cap_params"] == cap
    assert sizes.num_tables == 2 and sizes.num_params == 2 * (sizes.user.sum() + sizes.item.sum()) == cap
    full, equal, found = result.summary["methods"]
    assert full["num_params"] == FULL_PARAMS and full["kept_ratio"] == 1
    assert equal["num_params"] == found["num_params"] == cap
    assert found["kept_ratio"] == cap / FULL_PARAMS
    assert found["packed_bytes"] == (tmp_path / "out" / "table.safetensors").stat().st_size
    assert found["packed_bytes"] <= sizes.packed_bytes
    for row in pq.read_table(tmp_path / "out" / "candidates.parquet").to_pylist():
        own = 2 * (sum(row["user_sizes"]) + sum(row["item_sizes"]))
        assert own == row["num_params"] and row["kept_ratio"] == own / FULL_PARAMS
        assert 0 < row["proposed_ratio"] <= 1
        assert mode == "paper" or own == cap
    recommender = SearchResult.load(tmp_path / "out").recommender(measured=True)
    assert isinstance(recommender, NCF) and not recommender.training
    merged = load_interactions(config).merge_validation_into_training()
    with torch.no_grad():
        metrics = evaluate(recommender, merged.train, merged.test).summary()
    assert metrics == pytest.approx(found["test"], abs=1e-6)
