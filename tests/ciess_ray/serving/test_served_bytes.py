"""What a server keeps of a recommender, against the files that there are."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.result import SearchResult
from ciess_ray.serving.export import PROPAGATING, export
from ciess_ray.serving.served_bytes import served_bytes
from envs.budget import MemoryBudget
from envs.recommenders import RECOMMENDERS, build_recommender
from envs.sizes.embedding_sizes import EmbeddingSizes, ScatteredSizes

FILES = ("table.safetensors", "scorer.safetensors")


def size_of(folder, *names):
    return sum((folder / name).stat().st_size for name in names)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_they_are_those_of_the_files(name, make_result, tmp_path):
    folder, recommender, interactions = make_result(name)
    found = served_bytes(recommender, interactions, name)
    assert found.packed_bytes == size_of(folder, "table.safetensors")
    assert found.ids_bytes == size_of(folder, "ids.parquet")
    alone, histories = size_of(folder, *FILES), size_of(folder, "interactions.npz")
    if name not in PROPAGATING:
        assert (found.served_bytes, found.served_as) == (alone, "table")
        assert found.served_with_histories_bytes == alone + histories
        return
    export(folder, tmp_path / "propagated", propagated=True)
    propagated = size_of(tmp_path / "propagated", *FILES)
    assert found.served_bytes == min(alone + histories, propagated)
    assert found.served_as == ("propagated rows" if propagated < alone + histories else "table and graph")
    # Who keeps the histories keeps them once.
    assert found.served_with_histories_bytes == min(alone, propagated) + histories


@pytest.fixture
def lightgcn(make_interactions):
    interactions = make_interactions(60, 40)

    def make(sizes):
        generator = torch.Generator().manual_seed(0)
        recommender = build_recommender("lightgcn", interactions.train, sizes, generator=generator)
        return served_bytes(recommender, interactions, "lightgcn"), recommender

    return make


def equal(size):
    return EmbeddingSizes(np.full(60, size), np.full(40, size), max_embedding_size=64)


def test_the_smaller_of_graph_and_propagated_rows_is_named(lightgcn):
    # Rows of one size are as long once they are propagated; one long row makes all of them so.
    sizes = equal(2)
    assert lightgcn(sizes)[0].served_as == "propagated rows"
    user = sizes.user.copy()
    user[0] = 48
    assert lightgcn(dataclasses.replace(sizes, user=user))[0].served_as == "table and graph"


def test_communities_cost_a_byte_a_row(lightgcn):
    sizes = equal(8)
    placed = dataclasses.replace(sizes, first_columns=np.arange(100) % 7)
    # The header, padded to eight bytes, names one more array.
    assert 100 <= lightgcn(placed)[0].packed_bytes - lightgcn(sizes)[0].packed_bytes < 100 + 128
    assert placed.packed_bytes == sizes.packed_bytes + 100
    assert pack_recommender(lightgcn(placed)[1]).num_bytes <= placed.packed_bytes


def test_under_a_budget_in_bytes_communities_pay_for_themselves(make_interactions):
    from ciess_ray.config.yaml_file import parse_config
    from ciess_ray.training.contest import place

    interactions = make_interactions(60, 40)
    budget = MemoryBudget(3_000, "bytes")
    cap_params = budget.cap_params(100, 1, 16)
    sizes = EmbeddingSizes.equal(60, 40, cap_params, 1, 16, np.random.default_rng(0))
    config = parse_config({"dataset": {"path": "log.parquet"}, "budget": "3000B"})
    placed = place(sizes, 3, budget, config, interactions)
    assert sizes.packed_bytes <= 3_000 and placed.packed_bytes <= 3_000
    assert sizes.num_params - placed.num_params == 25


def test_scattered_numbers_pay_for_their_index(lightgcn):
    kept = np.zeros((100, 64), bool)
    kept[:, ::8] = True
    scattered, recommender = lightgcn(ScatteredSizes.of(kept, 60, 1, 64))
    plain, _ = lightgcn(equal(8))
    # A bit for each number of the full table, where a prefix has a byte a row.
    assert scattered.packed_bytes == 100 * 8 * 4 + 100 * 64 // 8 + 1024
    assert scattered.packed_bytes - plain.packed_bytes > 100 * 7
    rows = recommender.eval().encode()[0].shape[1]
    assert rows == 64 and scattered.served_as == "table and graph"


def test_a_recommender_of_ones_own_is_served_with_its_graph(make_interactions):
    from envs.recommenders import DotProductRecommender

    class Own(DotProductRecommender):
        def encode(self):
            return self.table()[: self.num_users], self.table()[self.num_users :]

    interactions = make_interactions(60, 40)
    recommender = Own(interactions.train, equal(2), generator=torch.Generator().manual_seed(0))
    found = served_bytes(recommender, interactions, "own:Own")
    assert found.served_as == "table and graph"
    assert found.served_bytes == found.served_with_histories_bytes > found.packed_bytes


def test_a_search_and_its_sweep_say_what_is_served(finished):
    from ciess_ray.config.run import RunConfig
    from ciess_ray.sweeps.results import SweepResults
    from ciess_ray.tracking.runs import RunState

    _, result, _ = finished
    rows = {row["name"]: row for row in result.summary["methods"]}
    folder, search = result.path, rows["search"]
    assert search["packed_bytes"] == size_of(folder, "table.safetensors")
    with_graph = size_of(folder, *FILES, "interactions.npz")
    assert search["served_bytes"] <= with_graph
    assert search["served_as"] == "propagated rows" or search["served_bytes"] == with_graph
    assert search["ids_bytes"] == size_of(folder, "ids.parquet")
    assert all(row["served_with_histories_bytes"] > row["packed_bytes"] for row in rows.values())

    summary = json.loads((folder / "result.json").read_text())
    config = RunConfig.model_validate(summary["config"])
    outcome = RunState("0", {}, config, status="finished", summary=summary)
    results = SweepResults("sweep", [outcome], 1.0)
    (row,) = results.to_table().to_pylist()
    assert row["search/served_bytes"] == search["served_bytes"]
    assert row["equal/served_as"] == rows["equal sizes"]["served_as"]
    assert results.groups()[0].served_bytes == search["served_bytes"]
    # Folders of before do not say.
    for method in summary["methods"]:
        for name in ("served_bytes", "served_as", "served_with_histories_bytes", "ids_bytes"):
            del method[name]
    (group,) = results.groups()
    assert group.served_bytes is None and SearchResult.load(folder).summary["methods"]
