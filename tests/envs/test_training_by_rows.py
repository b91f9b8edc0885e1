"""A large table is trained by the rows that a batch uses, and comes out as one that is trained whole."""

import numpy as np
import pytest
import torch

from envs.recommenders import MF, NCF, rows
from envs.recommenders.losses import LOSSES
from envs.recommenders.training import Trainer, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

OWN = {"mf": MF, "ncf": NCF}


class Biased(MF):
    """Looks up more than the rows that it is given."""

    def score_pairs(self, encoded, users, items):
        return super().score_pairs(encoded, users, items) + items


def trainer_of(cls, train, kind="prefixes", loss="bpr", draw_sizes=None, batch_size=12):
    rng = np.random.default_rng(0)
    user, item = (rng.integers(1, 9, count) for count in train.shape)
    is_shared = None
    if kind == "whole":
        user[:], item[:] = 8, 8
    if kind == "shared":
        is_shared = rng.random(sum(train.shape)) < 0.3
        np.concatenate([user, item])[is_shared] = 1
        user[is_shared[: len(user)]], item[is_shared[len(user) :]] = 1, 1
    sizes = EmbeddingSizes(user, item, 1, 8, num_tables=cls.num_tables, is_shared=is_shared)
    recommender = cls(train, sizes, generator=torch.Generator().manual_seed(0), l2=0.01)
    settings = TrainingSettings(batch_size=batch_size, learning_rate=0.05, loss=loss)
    made = LOSSES[loss](train, batch_size) if loss == "bpr" else LOSSES[loss](train, batch_size, 5)
    return Trainer(recommender, train, settings, np.random.default_rng(1), made, draw_sizes)


def states(monkeypatch, *arguments, **settings):
    """Of recommenders trained whole, and by rows."""
    found = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(rows, "_LARGEST_SHARE", share)
        trainer = trainer_of(*arguments, **settings)
        # In two goes: what is read between them has all that it should.
        trainer.train(25)
        trainer.train(25)
        assert (trainer._rows is not None) == (share == 1.0)
        found.append(trainer.recommender.state_dict())
    return found


@pytest.mark.parametrize("kind", ["whole", "prefixes", "shared"])
@pytest.mark.parametrize("name", OWN)
def test_prefixes_and_shared_rows(monkeypatch, make_interactions, name, kind):
    whole, by_rows = states(monkeypatch, OWN[name], make_interactions().train, kind)
    torch.testing.assert_close(by_rows, whole, rtol=1e-3, atol=1e-3)


def test_a_loss_with_negatives_that_all_share(monkeypatch, make_interactions):
    whole, by_rows = states(monkeypatch, MF, make_interactions().train, loss="softmax")
    torch.testing.assert_close(by_rows, whole, rtol=1e-3, atol=1e-3)


def test_a_supernet(monkeypatch, make_interactions):
    train = make_interactions().train

    def draw_sizes(rng):
        return EmbeddingSizes(*(rng.integers(1, 9, count) for count in train.shape), 1, 8)

    whole, by_rows = states(monkeypatch, MF, train, "whole", draw_sizes=draw_sizes)
    torch.testing.assert_close(by_rows, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("batch_size", "is_by_rows"), [(5, True), (100, False)])
def test_few_rows_of_a_table_are_trained_alone_and_many_are_not(make_interactions, batch_size, is_by_rows):
    trainer = trainer_of(MF, make_interactions().train, batch_size=batch_size)
    trainer.train(1)
    assert (trainer._rows is not None) == is_by_rows


def test_a_class_that_only_inherits_what_it_makes_of_rows_is_trained_whole(monkeypatch, make_interactions):
    monkeypatch.setattr(rows, "_LARGEST_SHARE", 1.0)
    trainer = trainer_of(Biased, make_interactions().train)
    trainer.train(2)
    assert trainer._rows is None
