"""Ranking in tiles of items and groups of columns, which a small catalogue never comes to."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from envs.recommenders import evaluation
from envs.recommenders.evaluation import rank_items


def fixed_scores(scores):
    def score(encoded, users, items=None):
        return (scores[users] if items is None else scores[users][:, items]).clone()

    nothing = SimpleNamespace(training=False, train=lambda mode: None, eval=lambda: None)
    nothing.num_items, nothing.device, nothing.score = scores.shape[1], scores.device, score
    nothing.encode = lambda: (scores, scores)
    return nothing


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(evaluation, "ITEMS_PER_TILE", 100)
    monkeypatch.setattr(evaluation, "USERS_PER_BLOCK", 7)
    monkeypatch.setattr(evaluation, "_GROUPS_PER_PLACE", 1)


@pytest.mark.parametrize("num_items", [320, 333, 401])
def test_tiles_and_groups_change_nothing(small_tiles, num_items):
    rng = np.random.default_rng(0)
    scores = rng.permutation(30 * num_items).reshape(30, num_items).astype(np.float32)
    seen = rng.random(scores.shape) < 0.3
    users = rng.permutation(30)[:17]
    ranked = rank_items(fixed_scores(torch.from_numpy(scores)), csr_array(seen), users, 20)
    expected = np.argsort(-np.where(seen, -np.inf, scores)[users], axis=1)[:, :20]
    np.testing.assert_array_equal(ranked, expected)


def test_a_list_is_as_long_as_there_are_unseen_items(small_tiles):
    scores = torch.arange(400.0).repeat(2, 1)
    seen = np.ones((2, 400), bool)
    seen[0, [3, 170, 399]] = False
    ranked = rank_items(fixed_scores(scores), csr_array(seen), np.array([0, 1]), 20)
    assert ranked[0, :3].tolist() == [399, 170, 3]
    assert (ranked[0, 3:] == -1).all() and (ranked[1] == -1).all()
