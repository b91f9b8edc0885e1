import dataclasses

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from envs.errors import ConfigError, TrainingError, UnknownNameError
from envs.metrics import entity_quality
from envs.recommenders import (
    MF,
    RECOMMENDERS,
    ClosedForm,
    build_recommender,
    check_recommender,
    evaluation,
    resolve_device,
    training,
)
from envs.recommenders.evaluation import evaluate, rank_items
from envs.recommenders.losses import BPR, LOSSES
from envs.recommenders.protocol import check_protocol
from envs.recommenders.training import Recipe, Trainer, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

SETTINGS = TrainingSettings(
    batch_size=256, learning_rate=0.05, evaluate_every=10, patience=3, max_batches=200
)
BLOCK = 20


def blocks():
    """Two blocks of users and items; a user has seen half of its block's items and nothing else."""
    rng = np.random.default_rng(0)
    dense = np.zeros((2 * BLOCK, 2 * BLOCK), np.float32)
    for user in range(2 * BLOCK):
        first = BLOCK * (user // BLOCK)
        dense[user, first + rng.permutation(BLOCK)[: BLOCK // 2]] = 1
    return csr_array(dense)


TRAINED = [name for name, its_class in RECOMMENDERS.items() if not issubclass(its_class, ClosedForm)]


def mixed_sizes(train, d_max=8, seed=0):
    rng = np.random.default_rng(seed)
    num_users, num_items = train.shape
    return EmbeddingSizes(rng.integers(1, d_max, num_users), rng.integers(1, d_max, num_items), 1, d_max)


def build(name, train, sizes=None, seed=0, **options):
    """A fresh one, which in closed form has been computed."""
    its_class, sizes = RECOMMENDERS[name], sizes or mixed_sizes(train)
    num_users, _ = its_class.row_counts(*train.shape)
    recommender = build_recommender(
        name,
        train,
        dataclasses.replace(sizes, user=sizes.user[:num_users], num_tables=its_class.num_tables),
        generator=torch.Generator().manual_seed(seed),
        options=options,
    )
    if isinstance(recommender, ClosedForm):
        recommender.solve(np.random.default_rng(seed))
    return recommender


def trained(name, train, loss="bpr"):
    recommender = build(name, train)
    if name in TRAINED:
        trainer_of(recommender, train, loss=loss).train(10)
    return recommender


def trainer_of(recommender, train, seed=0, loss="bpr", **settings):
    settings = SETTINGS.model_copy(update=settings)
    return Trainer(
        recommender, train, settings.model_copy(update={"loss": loss}), np.random.default_rng(seed)
    )


@pytest.mark.parametrize("name", RECOMMENDERS)
class TestConformance:
    """What every recommender in the table keeps; a new one is tested by being there."""

    @pytest.fixture
    def train(self, make_interactions):
        return make_interactions().train

    def test_shapes(self, name, train):
        recommender = build(name, train).eval()
        encoded = recommender.encode()
        assert [len(part) for part in encoded] == list(train.shape)
        scores = recommender.score(encoded, torch.tensor([3, 0, 3]))
        assert scores.shape == (3, train.shape[1])
        torch.testing.assert_close(scores[0], scores[2])
        users, items = torch.tensor([3, 0, 3]), torch.tensor([1, 5, 1])
        some = recommender.score(encoded, users, items)
        torch.testing.assert_close(some, scores[:, items])
        pairs = recommender.score_pairs(encoded, users, items)
        torch.testing.assert_close(pairs, some.diagonal())
        penalty = recommender.penalty(encoded, users, items)
        assert penalty.shape == () and (penalty > 0) == (name in TRAINED)

    def test_keeps_to_the_protocol(self, name):
        check_protocol(RECOMMENDERS[name])

    def test_a_row_keeps_a_prefix_and_the_table_is_no_wider_than_its_largest(self, name, train):
        recommender = build(name, train)
        sizes, num_tables = recommender.sizes, RECOMMENDERS[name].num_tables
        assert sizes.width == 7 < sizes.max_embedding_size
        mask = recommender.table.mask.numpy()
        assert mask.shape == (sizes.num_rows, num_tables * sizes.width)
        row_sizes = np.concatenate([sizes.user, sizes.item])
        prefix = np.arange(sizes.width) < row_sizes[:, None]
        np.testing.assert_array_equal(mask, np.tile(prefix, num_tables))
        table = recommender.table().detach().numpy()
        assert (table[~mask] == 0).all() and (table[mask] != 0).all()
        assert recommender.table.packed_values().shape == (sizes.num_params,)

    def test_another_instance_with_its_values_scores_the_same(self, name, train):
        kept = trained(name, train)
        loaded = build(name, train, seed=1)
        loaded.table.load_packed_values(kept.table.packed_values(), kept.table.packed_ids())
        loaded.load_state_dict(kept.scorer_state(), strict=False)
        scores = [r.eval().score(r.encode(), torch.arange(train.shape[0])) for r in (kept, loaded)]
        torch.testing.assert_close(*scores)

    def test_evaluation_in_blocks_changes_nothing(self, name, make_interactions, monkeypatch):
        interactions = make_interactions()
        recommender = trained(name, interactions.train)
        whole = evaluate(recommender, interactions.train, interactions.validation)
        assert 0 < whole.quality < 1
        monkeypatch.setattr(evaluation, "SCORES_PER_BLOCK", 7 * interactions.num_items + 1)
        in_blocks = evaluate(recommender, interactions.train, interactions.validation)
        np.testing.assert_allclose(in_blocks.recall, whole.recall)
        np.testing.assert_allclose(in_blocks.ndcg, whole.ndcg)

    def test_ranking_leaves_out_what_was_seen(self, name, train, monkeypatch):
        monkeypatch.setattr(evaluation, "SCORES_PER_BLOCK", 1)
        recommender = build(name, train)
        users = np.array([5, 0, 59])
        ranked = rank_items(recommender, train, users, 2 * train.shape[1])
        for user, items in zip(users, ranked, strict=True):
            seen = set(train.indices[train.indptr[user] : train.indptr[user + 1]].tolist())
            listed = items[items >= 0].tolist()
            assert sorted(listed) == sorted(set(range(train.shape[1])) - seen)
            assert (items[len(listed) :] == -1).all()

    def test_an_option_that_it_does_not_have_is_refused(self, name, train):
        with pytest.raises(UnknownNameError, match=f"option of the recommender {name} 'l3'.*Known:"):
            build(name, train, l3=1)
        with pytest.raises(UnknownNameError, match="'generator'"):
            check_recommender(name, {"generator": 0})


@pytest.mark.parametrize("name", TRAINED)
class TestTrainedConformance:
    """What every recommender that is trained keeps beside; a closed form has no batches, loss or gradient."""

    @pytest.fixture
    def train(self, make_interactions):
        return make_interactions().train

    @pytest.mark.parametrize("loss", LOSSES)
    def test_nothing_beyond_a_rows_size_is_learned(self, name, train, loss):
        recommender = build(name, train)
        trainer = trainer_of(recommender, train, loss=loss)
        trainer.train(3)
        mask, weight = recommender.table.mask, recommender.table.weight
        batch = (torch.from_numpy(column) for column in trainer.loss.draw(trainer.rng))
        recommender.zero_grad()
        trainer.loss(recommender, *batch).backward()
        assert (weight.grad[~mask] == 0).all() and (weight.grad[mask] != 0).any()
        assert (weight[~mask] == 0).all()

    @pytest.mark.parametrize("loss", LOSSES)
    def test_one_seed_gives_the_same_recommender(self, name, train, loss):
        trained = []
        for initial, batches in ((0, 0), (0, 0), (1, 0), (0, 1)):
            recommender = build(name, train, seed=initial)
            value = trainer_of(recommender, train, seed=batches, loss=loss).train(5)
            trained.append((value, recommender.state_dict()))
        (first, state), (again, same_state), *others = trained
        assert first == again and all(torch.equal(state[key], same_state[key]) for key in state)
        for _, other in others:
            assert not torch.equal(state["table.weight"], other["table.weight"])

    @pytest.mark.parametrize("loss", LOSSES)
    def test_the_loss_falls(self, name, train, loss):
        trainer = trainer_of(build(name, train), train, loss=loss)
        before = trainer.train(2)
        trainer.train(40)
        # A user's twenty items share one softmax, whose cost is not below log(20), of log(40) at first.
        assert trainer.train(5) < (0.8 if loss == "bpr" else 0.87) * before

    @pytest.mark.parametrize("loss", LOSSES)
    def test_learns_blocks(self, name, loss):
        train = blocks()
        # Two numbers tell two blocks apart, and are too few to learn by heart who has seen what.
        recommender = build(name, train, EmbeddingSizes.full(*train.shape, 2))
        trainer_of(recommender, train, loss=loss).train(100)
        users = np.arange(2 * BLOCK)
        ranked = rank_items(recommender, train, users, BLOCK // 2)
        is_own_block = ranked // BLOCK == users[:, None] // BLOCK
        assert is_own_block.mean() > 0.95

    def test_evaluating_leaves_no_trace(self, name, make_interactions):
        interactions = make_interactions()
        results = []
        for is_evaluated in (False, True):
            recommender = build(name, interactions.train)
            trainer = trainer_of(recommender, interactions.train)
            trainer.train(2)
            if is_evaluated:
                evaluate(recommender, interactions.train, interactions.validation)
                assert recommender.training
            trainer.train(2)
            results.append(recommender.table.packed_values())
        assert torch.equal(*results)


def test_the_number_of_layers_is_an_option(make_interactions):
    train = make_interactions().train
    scores = []
    for options in ({"num_layers": 0}, {}, {"num_layers": 3}):
        recommender = build("lightgcn", train, **options)
        scores.append(recommender.score(recommender.encode(), torch.arange(3)))
    plain = build("mf", train)
    torch.testing.assert_close(scores[0], plain.score(plain.encode(), torch.arange(3)))
    assert torch.equal(scores[1], scores[2]) and not torch.allclose(scores[0], scores[1])


def test_an_unknown_recommender_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'lightgnc'. Did you mean 'lightgcn'.*Known: ease, lig"):
        check_recommender("lightgnc", {})


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    has_cuda = torch.cuda.is_available()
    assert resolve_device("auto").type == ("cuda" if has_cuda else "cpu")
    with pytest.raises(UnknownNameError, match="device 'gpu'.*Known: auto, cpu, cuda"):
        resolve_device("gpu")
    if not has_cuda:
        with pytest.raises(ConfigError, match="PyTorch sees no GPU here: use 'auto' or 'cpu'"):
            resolve_device("cuda")


class TestTraining:
    def test_a_loss_that_there_is_not_is_refused(self):
        with pytest.raises(UnknownNameError, match="unknown training.loss 'bpt'. Did you mean 'bpr'"):
            TrainingSettings(loss="bpt")
        with pytest.raises(UnknownNameError, match="unknown training.positives 'users'.*'user'"):
            TrainingSettings(positives="users")

    def test_a_temperature_that_nothing_takes_is_refused(self, make_interactions):
        with pytest.raises(ConfigError, match="loss=bpr has none; .*take softmax, full_softmax or sce"):
            TrainingSettings(temperature=0.2)
        settings = TrainingSettings(loss="sce", temperature=0.2)
        assert Recipe(make_interactions().train, settings, "mf").loss.temperature == 0.2
        with pytest.raises(ConfigError, match="ncf scores with more than an inner product"):
            Recipe(make_interactions().train, settings, "ncf")

    def test_learning_rates(self):
        settings = TrainingSettings(learning_rate=0.03, decay_every=50, min_learning_rate=0.02)
        rates = [settings.learning_rate_at(batch) for batch in (0, 49, 50, 100, 150, 10_000)]
        assert rates == pytest.approx([0.03, 0.03, 0.027, 0.0243, 0.02187, 0.02])

    def test_the_floor_of_the_learning_rate_does_not_raise_it(self):
        settings = TrainingSettings(learning_rate=1e-4, min_learning_rate=1e-3)
        assert [settings.learning_rate_at(batch) for batch in (0, 5_000)] == [1e-4, 1e-4]

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_loss_that_is_none_is_an_error_and_the_batches_since_the_last_copy_are_undone(
        self, make_interactions, monkeypatch, bad
    ):
        monkeypatch.setattr(training, "_BATCHES_PER_SNAPSHOT", 5)
        train = make_interactions().train
        recommender, expected = build("mf", train), build("mf", train)
        trainer = trainer_of(recommender, train)
        trainer_of(expected, train).train(10)
        call = type(trainer.loss).__call__

        def fails_at_batch_13(loss, *batch):
            value = call(loss, *batch)
            return value * bad if trainer.num_batches == 12 else value

        monkeypatch.setattr(type(trainer.loss), "__call__", fails_at_batch_13)
        says = f"loss of MF is {bad} at batch 13, learning rate 0.05: lower training.learning_rate; .* 10 bat"
        with pytest.raises(TrainingError, match=says):
            trainer.train(30)
        assert trainer.num_batches == 10
        assert torch.equal(recommender.table.weight, expected.table.weight)

    def test_a_fit_that_fails_leaves_its_best(self, make_interactions, monkeypatch):
        interactions = make_interactions()
        recommender = build("mf", interactions.train)
        trainer = trainer_of(recommender, interactions.train)
        call = BPR.__call__
        seen = []

        def fails_after_25_batches(loss, *batch):
            return call(loss, *batch) * (float("nan") if trainer.num_batches == 25 else 1)

        monkeypatch.setattr(BPR, "__call__", fails_after_25_batches)
        with pytest.raises(TrainingError, match="batch 26, learning rate 0.05: lower"):
            trainer.fit(interactions.validation, lambda batch, quality: seen.append(quality))
        left = evaluate(recommender, interactions.train, interactions.validation).quality
        assert len(seen) == 2 and left == max(seen)

    def test_a_learning_rate_that_is_far_too_high_is_named(self, make_interactions):
        train = make_interactions().train
        with pytest.raises(TrainingError, match="learning rate 1e\\+20: lower training.learning_rate"):
            trainer_of(build("lightgcn", train), train, learning_rate=1e20).train(10)

    def test_fit_goes_back_to_its_best_and_waits_as_long_as_it_should(self, make_interactions):
        interactions = make_interactions()
        recommender = build("mf", interactions.train, EmbeddingSizes.full(60, 40, 16))
        trainer = trainer_of(recommender, interactions.train, patience=3, max_batches=2_000)
        seen = []
        report = trainer.fit(interactions.validation, lambda batch, quality: seen.append((batch, quality)))
        assert [batch for batch, _ in seen] == list(range(10, trainer.num_batches + 1, 10))
        qualities = [quality for _, quality in seen]
        best = int(np.argmax(qualities))
        assert (report.best_batch, report.best.quality) == seen[best]
        # It stopped at the third validation in a row without a new best, and at none before.
        assert trainer.num_batches == report.best_batch + 30 < 2_000
        bests = np.maximum.accumulate(qualities)
        first_at = [qualities.index(value) for value in bests]
        assert all(place - first < 3 for place, first in enumerate(first_at[:-1]))
        now = evaluate(recommender, interactions.train, interactions.validation)
        np.testing.assert_array_equal(now.user_quality, report.best.user_quality)

    def test_fit_without_patience_takes_every_batch(self, make_interactions, monkeypatch):
        interactions = make_interactions()
        told = iter([0.2, *[0.1] * 9])

        class Ranking:
            def __init__(self, quality):
                self.quality = quality

        monkeypatch.setattr(training, "evaluate", lambda *_: Ranking(next(told)))
        trainer = trainer_of(
            build("mf", interactions.train), interactions.train, patience=None, max_batches=100
        )
        report = trainer.fit(interactions.validation)
        assert (trainer.num_batches, report.best_batch) == (100, 10)

    def test_fit_ends_at_the_last_batch_it_may_take(self, make_interactions):
        interactions = make_interactions()
        trainer = trainer_of(build("mf", interactions.train), interactions.train, max_batches=25)
        seen = []
        trainer.fit(interactions.validation, lambda batch, quality: seen.append(batch))
        assert seen == [10, 20, 25]
        # One that has taken them all is judged as it is.
        assert trainer.fit(interactions.validation).best_batch == 25

    def test_what_a_fit_gives_has_a_quality_for_whoever_can_have_one(self, make_interactions):
        interactions = make_interactions()
        trainer = trainer_of(build("mf", interactions.train), interactions.train, max_batches=20)
        quality = entity_quality(trainer.fit(interactions.validation).best, interactions.train)
        has_validation = np.diff(interactions.validation.indptr) > 0
        np.testing.assert_array_equal(~np.isnan(quality["user"]), has_validation)


def test_a_recommenders_scorer_is_what_is_not_its_table(make_interactions):
    class WithScorer(MF):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.bias = torch.nn.Parameter(torch.zeros(1))

    train = make_interactions().train
    recommender = WithScorer(train, mixed_sizes(train), generator=torch.Generator())
    assert recommender.scorer_state().keys() == {"bias"}
