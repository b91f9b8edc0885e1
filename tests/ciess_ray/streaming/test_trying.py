"""What a method tries is trained once, here or by tasks of Ray, and the best is kept."""

import os
from dataclasses import replace

import numpy as np
import pytest

from ciess_ray.config.recommender import RecommenderConfig
from ciess_ray.streaming.config import StreamResources
from ciess_ray.streaming.methods import Proposal
from ciess_ray.streaming.trying import Teaching, Tried
from envs.errors import TrainingError
from envs.recommenders.training import TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes


def trying(interactions, new_rng, put=None, times=1.0):
    """What a method tries, by two tasks at once where the interactions are put into Ray's object store."""
    teaching = Teaching(
        TrainingSettings(batch_size=64, max_batches=3, learning_rate=0.01 * times),
        RecommenderConfig(max_embedding_size=8, device="cpu"),
        None,
        new_rng,
    )
    resources = StreamResources(num_workers=0 if put is None else 2)
    return Tried(teaching, teaching.recipe(interactions), interactions, put, resources, lambda name: None)


def proposals(interactions, *sizes):
    return [
        Proposal(f"size {size}", EmbeddingSizes.full(interactions.num_users, interactions.num_items, size))
        for size in sizes
    ]


def test_a_table_is_trained_once_and_the_first_of_equals_is_kept(make_interactions, monkeypatch):
    interactions, trained = make_interactions(), []

    def judge(_, recipe, interactions, proposal):
        trained.append(proposal.sizes.max_embedding_size)
        return {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.1}[trained[-1]], f"training {trained[-1]}"

    tried = trying(interactions, None)
    monkeypatch.setattr(Teaching, "judge", judge)
    assert tried(proposals(interactions, 1, 2, 1)) == [0.2, 0.5, 0.2]
    assert tried(proposals(interactions, 2, 3, 4)) == [0.5, 0.5, 0.1]
    assert trained == [1, 2, 3, 4] and tried.num_trainings == 4
    best, training = tried.best
    assert (best.name, training) == ("size 2", "training 2")


def test_a_table_is_trained_from_the_rate_that_it_wants(make_interactions):
    interactions = make_interactions()
    (proposal,) = proposals(interactions, 4)
    tables = []
    for rate, times in ((1.0, 1.0), (0.25, 1.0), (1.0, 0.25)):
        tried = trying(interactions, lambda: np.random.default_rng(0), times=times)
        tried([replace(proposal, rate=rate)])
        tables.append(tried.best[1].packed.table.values.tobytes())
    assert tables[0] != tables[1] == tables[2]


def test_a_task_whose_process_dies_is_tried_again_and_comes_to_the_same(
    make_interactions, ray_cluster, tmp_path
):
    interactions = make_interactions()

    def dying_once():
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        return np.random.default_rng(0)

    put = ray_cluster.put(interactions)
    side_by_side = trying(interactions, dying_once, put)
    qualities = side_by_side(proposals(interactions, 3, 5, 8))
    in_turn = trying(interactions, dying_once)
    assert in_turn(proposals(interactions, 3, 5, 8)) == qualities
    assert (tmp_path / "died").exists() and side_by_side.cpu_s > 0 == in_turn.cpu_s
    (best, there), (_, here) = side_by_side.best, in_turn.best
    assert best.name == in_turn.best[0].name
    assert there.packed.table.values.tobytes() == here.packed.table.values.tobytes()


def test_what_a_task_fails_with_is_raised_here(make_interactions, ray_cluster):
    interactions = make_interactions()

    def failing():
        raise TrainingError("the loss is NaN")

    put = ray_cluster.put(interactions)
    tried = trying(interactions, failing, put)
    with pytest.raises(TrainingError, match="the loss is NaN"):
        tried(proposals(interactions, 3, 5))
