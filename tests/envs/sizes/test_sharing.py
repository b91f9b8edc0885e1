"""Rows that share one: who does, within which budget, and how their gradient comes together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.budget import MemoryBudget
from envs.errors import BudgetError, EmbeddingSizeError
from envs.recommenders.base import SizedEmbedding
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.sharing import coldest_that_share


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.data(),
)
def test_the_fewest_of_the_coldest_share(user, item, data):
    num_all, num_users = len(user) + len(item), len(user)
    num_rows = data.draw(st.integers(2, num_all))
    is_shared = coldest_that_share(np.array(user), np.array(item), num_rows)

    def needed(shared):
        return int((~shared).sum() + shared[:num_users].any() + shared[num_users:].any())

    assert needed(is_shared) <= num_rows
    popularity = np.array([*user, *item])
    if is_shared.any():
        assert popularity[is_shared].max() <= popularity[~is_shared].min(initial=5)
        # Without the warmest of them there is no room, whichever of its equals that is.
        warmest = np.flatnonzero(is_shared & (popularity == popularity[is_shared].max()))
        fewer = [needed(is_shared & (np.arange(num_all) != one)) for one in warmest]
        assert max(fewer) > num_rows
    else:
        assert num_rows == num_all


def test_of_equals_the_earlier_arrival_shares():
    is_shared = coldest_that_share(np.ones(4), np.full(2, 3), 5)
    assert is_shared.tolist() == [True, True, False, False, False, False]
    with pytest.raises(ValueError, match="1 rows"):
        coldest_that_share(np.ones(1), np.ones(1), 1)


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["params", "bytes", "a row", "%"]),
    st.integers(0, 2**32 - 1),
)
def test_a_projection_uses_what_the_shared_rows_leave(d_min, num_tables, unit, seed):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 9, rng.integers(1, 9)), rng.integers(0, 9, rng.integers(1, 9))
    num_rows = len(user) + len(item)
    bounds = d_min, 8
    with pytest.raises(
        BudgetError, match="for a row that all users share and one that items do.*least"
    ) as caught:
        MemoryBudget.parse(f"1e-9{unit}" if unit != "bytes" else "9B").cap_params(
            num_rows, *bounds, num_tables, may_share=True
        )
    least = str(caught.value).split("that works is ")[1].removesuffix(".").split(" (")[0]
    cap = MemoryBudget.parse(least).cap_params(num_rows, *bounds, num_tables, may_share=True)
    assert cap >= 2 * d_min * num_tables
    cap += num_tables * int(rng.integers(0, num_rows * d_min))
    is_shared = coldest_that_share(user, item, min(cap // (num_tables * d_min), num_rows))
    sizes = EmbeddingSizes.from_proposal(
        rng.random(len(user)),
        rng.random(len(item)),
        cap,
        *bounds,
        rng,
        fill=True,
        num_tables=num_tables,
        is_shared=is_shared,
    )
    most = num_tables * (8 * int((~is_shared).sum()) + d_min * 2)
    assert sizes.num_params <= cap and (
        sizes.num_params == cap or sizes.num_params + d_min * num_tables >= most
    )
    shared = np.concatenate([sizes.user, sizes.item])[is_shared]
    assert (shared == d_min).all() and sizes.mask().sum() == sizes.num_params


def test_what_shares_has_the_least_size_and_the_gradient_of_a_row_is_the_sum_of_theirs():
    with pytest.raises(EmbeddingSizeError, match="rows that share one have the size 1, d_min"):
        EmbeddingSizes(np.array([2]), np.array([1]), is_shared=np.array([True, False]))
    with pytest.raises(EmbeddingSizeError, match="2 truth values, one a row, not int64"):
        EmbeddingSizes(np.array([1]), np.array([1]), is_shared=np.array([1, 0]))
    assert EmbeddingSizes(np.array([2]), np.array([1]), is_shared=np.zeros(2, bool)).is_shared is None
    is_shared = np.array([False, True, True, True, False])
    sizes = EmbeddingSizes(np.array([3, 1, 1]), np.array([1, 2]), 1, 4, is_shared=is_shared)
    generator = torch.Generator().manual_seed(0)
    table = SizedEmbedding(sizes, init_std=1.0, generator=generator, device=torch.device("cpu"))
    shown = table()
    assert torch.equal(shown[1], shown[2]) and shown[3].count_nonzero() == 1 and not shown[3].equal(shown[1])
    (shown * torch.arange(1.0, 6.0)[:, None]).sum().backward()
    assert table.weight.grad[:, 0].tolist() == [1, 2 + 3, 0, 4, 5]
    values = table.packed_values()
    assert len(values) == sizes.num_params == 3 + 1 + 1 + 2
    with torch.no_grad():
        before = shown.clone()
        table.weight.fill_(9.0)
        table.load_packed_values(values)
        assert torch.equal(table(), before)
    table.mask_to(EmbeddingSizes(np.array([3, 1, 1]), np.array([1, 2]), 1, 4))
    assert not table()[2].any()
