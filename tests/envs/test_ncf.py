import numpy as np
import pytest
import torch

from envs.errors import EmbeddingSizeError
from envs.recommenders import NCF, ncf
from envs.sizes.embedding_sizes import EmbeddingSizes


def make_sizes(num_users=60, num_items=40, largest=7, d_max=12):
    rng = np.random.default_rng(0)
    user, item = rng.integers(1, largest + 1, num_users), rng.integers(1, largest + 1, num_items)
    user[0] = largest
    return EmbeddingSizes(user, item, 1, d_max, num_tables=2)


@pytest.fixture
def make(make_interactions):
    def make(sizes=None, seed=0):
        recommender = NCF(
            make_interactions().train, sizes or make_sizes(), generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            # Biases start at 0, where they would not be seen.
            recommender.hidden_bias.normal_(generator=torch.Generator().manual_seed(1))
            recommender.output_bias.fill_(0.7)
        return recommender

    return make


def test_scores_are_those_of_one_layer_on_the_concatenation(make):
    recommender = make()
    row = recommender.table().detach().double()
    weight = torch.cat([recommender.hidden_user, recommender.hidden_item]).double()
    output = torch.cat([recommender.output_hidden, recommender.output_product]).double()
    users, items = torch.arange(60).repeat_interleave(40), torch.arange(40).repeat(60)
    user, item = row[users], row[items + 60]
    hidden = torch.relu(torch.cat([user[:, :7], item[:, :7]], dim=1) @ weight + recommender.hidden_bias)
    expected = torch.cat([hidden, user[:, 7:] * item[:, 7:]], dim=1) @ output + recommender.output_bias
    encoded = recommender.encode()
    close = {"rtol": 1e-5, "atol": 1e-5}
    pairs = recommender.score_pairs(encoded, users, items)
    torch.testing.assert_close(pairs, expected.float(), **close)
    scores = recommender.score(encoded, torch.arange(60))
    torch.testing.assert_close(scores.view(-1), expected.float(), **close)
    some = torch.tensor([39, 2, 2])
    torch.testing.assert_close(recommender.score(encoded, torch.arange(5), some), scores[:5, some], **close)


def test_the_hidden_layer_does_not_follow_the_largest_size(make):
    for largest in (1, 7, 12):
        recommender = make(make_sizes(largest=largest))
        assert recommender.hidden_user.shape == recommender.hidden_item.shape == (largest, 12)
        assert len(recommender.hidden_bias) == len(recommender.output_hidden) == 12
        assert [part.shape[1] for part in recommender.encode()] == [12 + largest] * 2


def test_both_branches_are_masked_and_both_count(make):
    recommender = make()
    sizes = recommender.sizes
    assert recommender.table.packed_values().numel() == sizes.num_params
    assert sizes.num_params == 2 * (sizes.user.sum() + sizes.item.sum())
    recommender.score(recommender.encode(), torch.arange(60)).square().sum().backward()
    user_grad = recommender.table.weight.grad[:60]
    kept = torch.from_numpy(np.arange(7) < sizes.user[:, None])
    for branch in (user_grad[:, :7], user_grad[:, 7:]):
        assert (branch[~kept] == 0).all() and (branch[kept] != 0).float().mean() > 0.9


@pytest.mark.parametrize("signs", ["both", "positive", "negative", "zero"])
def test_the_gradient_of_all_pairs_is_that_of_single_pairs(signs):
    draw = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 6, generator=draw, dtype=torch.float64) for n in (5, 9))
    weight = torch.randn(6, generator=draw, dtype=torch.float64)
    weight = {"positive": weight.abs(), "negative": -weight.abs(), "zero": 0 * weight}.get(signs, weight)
    inputs = [part.requires_grad_() for part in (user, item, weight)]
    expected = torch.relu(user[:, None] + item) @ weight
    got = ncf._HiddenScores.apply(*inputs)
    torch.testing.assert_close(got, expected)
    grad = torch.randn(5, 9, generator=draw, dtype=torch.float64)
    for ours, autograd in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(ours, autograd)


def test_sizes_made_for_one_table_are_refused(make):
    with pytest.raises(EmbeddingSizeError, match="NCF has 2 table.s. .* made for 1: .*num_tables=2"):
        make(EmbeddingSizes.full(60, 40, 8))


def test_initial_values_come_from_the_generator(make):
    torch.manual_seed(0)
    first = make().state_dict()
    torch.manual_seed(1)
    again, other = make().state_dict(), make(seed=1).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert "bias" in name or not torch.equal(value, other[name])
