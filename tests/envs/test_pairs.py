import pytest
import torch

from envs import pairs
from envs.pairs import hidden_scores, paired_products, squared_norms

NUM_USERS, NUM_ITEMS, WIDTH = 9, 7, 5


def tables(*others):
    generator = torch.Generator().manual_seed(0)
    shapes = (NUM_USERS, WIDTH), (NUM_ITEMS, WIDTH), *others
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def batch(is_ascending):
    generator = torch.Generator().manual_seed(1)
    # A user and an item have no pair, and pairs come twice.
    users = torch.randint(NUM_USERS - 1, (60,), generator=generator)
    items = torch.randint(NUM_ITEMS - 1, (60,), generator=generator)
    return (users.sort().values if is_ascending else users), items, torch.randn(60, generator=generator)


def check(found, expected, weights, inputs):
    grads = [torch.autograd.grad((weights * scores).sum(), inputs) for scores in (found, expected)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("num_times", [1, 3])
@pytest.mark.parametrize("is_ascending", [True, False])
def test_products_of_pairs_and_their_gradient(is_ascending, num_times):
    user, item = tables()
    # Three times as many are more than there are pairs of a user and an item.
    users, items, weights = (column.repeat_interleave(num_times) for column in batch(is_ascending))
    expected = (user[users] * item[items]).sum(dim=1)
    check(paired_products(user, item, users, items), expected, weights, (user, item))


def test_products_of_parts_of_rows():
    user, item = tables()
    users, items, weights = batch(False)
    expected = (user[users, 2:] * item[items, 2:]).sum(dim=1)
    check(paired_products(user[:, 2:], item[:, 2:], users, items), expected, weights, (user, item))


@pytest.mark.parametrize("num_at_once", [1, 7, 100])
def test_hidden_units_of_pairs_in_parts_and_their_gradient(monkeypatch, num_at_once):
    monkeypatch.setattr(pairs, "_PART", num_at_once * WIDTH)
    user, item, weight = tables((WIDTH,))
    users, items, weights = batch(False)
    expected = torch.relu(user[users] + item[items]) @ weight
    check(hidden_scores(user, item, weight, users, items), expected, weights, (user, item, weight))


def test_squared_norms_count_a_row_as_often_as_it_is_used():
    (rows, _), used = tables(), torch.tensor([3, 0, 3, 3])
    check(squared_norms(rows, used), rows[used].square().sum(), torch.tensor(2.0), (rows,))
