import dataclasses

import numpy as np
import pytest
import torch

from envs.embedding_size import EmbeddingSizeEnv
from envs.errors import ConfigError, UnknownNameError
from envs.recommenders import RECOMMENDERS, ClosedForm
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import STEP_MODES, StepRecommenders, state_of, train_supernet

SETTINGS = TrainingSettings(batch_size=256, learning_rate=0.05, evaluate_every=20, max_batches=100)


@pytest.fixture
def interactions(make_interactions):
    return make_interactions()


# A closed form has one way, of which tests/envs/test_spectral.py speaks.
@pytest.fixture(params=[name for name, its in RECOMMENDERS.items() if not issubclass(its, ClosedForm)])
def recipe(request, interactions):
    return Recipe(interactions.train, SETTINGS, request.param)


def full_sizes(recipe, d_max=8):
    full = EmbeddingSizes.full(*recipe.train.shape, d_max)
    return dataclasses.replace(full, num_tables=RECOMMENDERS[recipe.name].num_tables)


def skewed(full):
    return dataclasses.replace(full, user=np.full_like(full.user, 4), item=np.full_like(full.item, 1))


def pretrained_for(name, recipe, interactions):
    full = full_sizes(recipe)
    if STEP_MODES[name].starts_from == "supernet":
        rng = np.random.default_rng(0)
        return state_of(train_supernet(recipe, interactions, full, (0.2, 0.5), 30, rng))
    trainer = recipe.trainer(full, np.random.default_rng(0))
    trainer.train(30)
    return state_of(trainer.recommender)


@pytest.mark.parametrize("name", STEP_MODES)
def test_a_step_has_the_sizes_asked_for_and_repeats_by_seed(name, recipe, interactions):
    full = full_sizes(recipe)
    mode = StepRecommenders(name, recipe, 5, full, pretrained_for(name, recipe, interactions))
    metrics = []
    for seed in (0, 0, 1):
        recommender = mode.recommender(skewed(full), np.random.default_rng(seed))
        mask = skewed(full).mask(recommender.table.width)
        np.testing.assert_array_equal(recommender.table.mask.numpy(), mask)
        assert recommender.sizes.num_params == skewed(full).num_params
        metrics.append(evaluate(recommender, interactions.train, interactions.validation).recall)
    np.testing.assert_array_equal(metrics[0], metrics[1])
    if STEP_MODES[name].trains:
        assert not np.array_equal(metrics[0], metrics[2], equal_nan=True)


def test_a_supernet_is_masked_and_never_trained_by_a_step(recipe, interactions):
    state = pretrained_for("supernet", recipe, interactions)
    mode = StepRecommenders("supernet", recipe, 5, full_sizes(recipe), state)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    wide = mode.recommender(full_sizes(recipe), rng)
    shared = wide.table.weight.clone()
    narrow = mode.recommender(skewed(full_sizes(recipe)), rng)
    assert narrow is wide and torch.equal(narrow.table.weight, shared)
    assert rng.bit_generator.state == before
    np.testing.assert_array_equal(narrow.table.weight.detach().numpy(), state["table.weight"])


@pytest.mark.parametrize("name", ["finetune", "finetuned_supernet"])
def test_finetuning_starts_from_what_was_trained_and_leaves_it_alone(name, recipe, interactions):
    state = pretrained_for(name, recipe, interactions)
    kept = {name: value.copy() for name, value in state.items()}
    untouched = StepRecommenders(name, recipe, 0, full_sizes(recipe), state)
    sizes = skewed(full_sizes(recipe))
    weight = untouched.recommender(sizes, np.random.default_rng(0)).table.weight.detach().numpy()
    np.testing.assert_array_equal(weight, state["table.weight"])
    trained = StepRecommenders(name, recipe, 5, full_sizes(recipe), state)
    weight = trained.recommender(sizes, np.random.default_rng(0)).table.weight.detach().numpy()
    mask = sizes.mask(8)
    assert (weight[mask] != kept["table.weight"][mask]).any()
    np.testing.assert_array_equal(weight[~mask], kept["table.weight"][~mask])
    for parameter, value in kept.items():
        np.testing.assert_array_equal(state[parameter], value)


def test_every_batch_of_a_supernet_has_other_sizes_in_the_range(interactions):
    recipe = Recipe(interactions.train, SETTINGS, "lightgcn")
    seen = []
    full = full_sizes(recipe)
    progress = []
    supernet = train_supernet(
        recipe,
        interactions,
        full,
        (0.2, 0.5),
        25,
        np.random.default_rng(0),
        lambda batch, loss: progress.append(batch),
    )
    assert progress == [20, 25]
    again = train_supernet(recipe, interactions, full, (0.2, 0.5), 25, np.random.default_rng(0))
    assert torch.equal(supernet.table.weight, again.table.weight)
    trainer = recipe.trainer(full, np.random.default_rng(0), lambda rng: seen.append(1) or full)
    trainer.train(3)
    assert len(seen) == 3
    assert 0.2 - 0.01 <= supernet.sizes.kept_ratio <= 0.5


@pytest.mark.parametrize("name", ["finetune", "supernet", "finetuned_supernet"])
def test_the_environment_steps_in_every_mode(name, interactions):
    recipe = Recipe(interactions.train, SETTINGS, "lightgcn")
    env = EmbeddingSizeEnv(
        interactions,
        training=SETTINGS,
        step_mode=name,
        pretrained=pretrained_for(name, recipe, interactions),
        batches_per_step=2,
        max_embedding_size=8,
        budget="30%",
    )
    env.reset(seed=0)
    _, reward, *_, info = env.step(env.action_space.sample())
    assert np.isfinite(reward) and 0 < info["quality"] < 1
    assert info["num_params"] == 240


def test_a_mode_that_lacks_what_it_starts_from_is_refused(interactions):
    for name, source in {
        "finetune": "the full size: pass pretrained=state_of",
        "supernet": "the supernet: pass pretrained=state_of",
        "finetuned_supernet": "the supernet: pass pretrained=state_of",
    }.items():
        with pytest.raises(ConfigError, match=rf"step mode {name} starts from a .* {source}"):
            EmbeddingSizeEnv(interactions, step_mode=name)
    with pytest.raises(UnknownNameError, match="step mode 'supernets'. Did you mean 'supernet'"):
        EmbeddingSizeEnv(interactions, step_mode="supernets")
