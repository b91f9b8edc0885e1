"""Packed tables at other sizes, with rows added."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciess_ray.packed.codes import FLOATS
from ciess_ray.packed.resize import resize, unshared
from ciess_ray.packed.table import PackedTable
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes

GOLDEN = Path(__file__).parents[2] / "golden" / "streaming.json"
WIDTH = 9


def draw_sizes(rng, num_users, num_items, num_tables=1):
    user, item = (rng.integers(1, WIDTH + 1, n) for n in (num_users, num_items))
    return EmbeddingSizes(user, item, 1, WIDTH, num_tables)


def pack(rng, sizes, dtype="float32"):
    num_rows = len(sizes.user) + len(sizes.item)
    values = rng.normal(0, 0.1, (num_rows, WIDTH * sizes.num_tables)).astype(np.float32)
    kept = values[sizes.mask(WIDTH)]
    return PackedTable.of(kept, sizes, dtype=dtype, recommender="lightgcn")


def rows_of(table):
    """The stored values of each row and table, as bits."""
    lengths = np.repeat(table.row_sizes.astype(int), table.num_tables)
    return [part.tobytes() for part in np.split(table.values, np.cumsum(lengths)[:-1])]


def is_same(one, other):
    """Whether two tables have the same values, sizes and scales, bit for bit."""
    names = ("values", "row_sizes", "scales")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@given(st.integers(0, 2**32 - 1), st.sampled_from(FLOATS), st.sampled_from([1, 2]))
@settings(max_examples=60)
def test_first_numbers_stay_bit_for_bit_and_the_rest_is_small(seed, dtype, num_tables):
    rng = np.random.default_rng(seed)
    before = pack(rng, draw_sizes(rng, 5, 4, num_tables), dtype)
    sizes = draw_sizes(rng, 7, 4 + seed % 3, num_tables)
    resized = resize(before, sizes, rng)
    after = resized.table
    assert (after.dtype, after.recommender, after.num_users) == (dtype, "lightgcn", 7)
    np.testing.assert_array_equal(after.sizes.user, sizes.user)
    np.testing.assert_array_equal(after.sizes.item, sizes.item)
    old, new = rows_of(before), rows_of(after)
    known = [*range(5), *range(7, 11)]
    for former, row in enumerate(known):
        for table in range(num_tables):
            one, other = old[former * num_tables + table], new[row * num_tables + table]
            shorter = min(len(one), len(other))
            assert one[:shorter] == other[:shorter]
    new_rows = np.setdiff1d(np.arange(after.num_rows), known)
    assert np.abs(after.rows(new_rows)).max(initial=0) < 0.06
    change = after.row_sizes[known].astype(int) - before.row_sizes
    assert resized.num_new == len(new_rows)
    assert (resized.num_grown, resized.num_shrunk) == ((change > 0).sum(), (change < 0).sum())
    assert resized.num_moved == np.abs(change).sum() * num_tables


@pytest.mark.parametrize("dtype", FLOATS)
def test_growing_and_shrinking_back_changes_nothing(dtype):
    rng = np.random.default_rng(3)
    sizes = draw_sizes(rng, 50, 40)
    before = pack(rng, sizes, dtype)
    full = EmbeddingSizes.full(50, 40, WIDTH)
    back = resize(resize(before, full, rng).table, sizes, rng).table
    assert is_same(back, before)


def test_as_the_released_code_does_and_as_it_should():
    case = json.loads(GOLDEN.read_text())["cases"]["scall.warm_start"]
    given_, out = case["inputs"], case["outputs"]
    old, new = given_["old_sizes"], given_["new_sizes"]
    # Three rows: two users and an item more, which the case calls the third.
    former = EmbeddingSizes(np.array(old), np.array([1]), 1, 4)
    rows = np.array([*given_["old_masked_rows"], [0.5] * 4], np.float32)
    before = PackedTable.of(rows[former.mask(4)], former)
    sizes = EmbeddingSizes(np.array(new), np.array([1]), 1, 4)

    class Given:
        """Numbers of the case in place of draws: the second row's grown columns, then the third row."""

        left = [given_["fresh_draw"][row][column] for row, column in ((1, 1), (1, 2), (2, 0))]

        def standard_normal(self, count, dtype):
            taken, self.left = self.left[:count], self.left[count:]
            return np.array(taken, dtype) / np.float32(0.01)

    recommended = resize(before, sizes, Given()).table.unpack(4)[:3]
    np.testing.assert_allclose(recommended, out["recommended_masked"], rtol=1e-6)
    zeros = resize(before, sizes, np.random.default_rng(0), std=0.0).table.unpack(4)[:2]
    np.testing.assert_array_equal(zeros, np.array(out["reference_masked"], np.float32)[:2])


def test_draws_do_not_depend_on_how_many_rows_are_copied_in_one_go(monkeypatch):
    rng = np.random.default_rng(0)
    before, sizes = pack(rng, draw_sizes(rng, 30, 20)), draw_sizes(rng, 40, 25)
    whole = resize(before, sizes, np.random.default_rng(1)).table
    monkeypatch.setattr("ciess_ray.packed.resize._ROWS_AT_ONCE", 7)
    assert is_same(resize(before, sizes, np.random.default_rng(1)).table, whole)


def shared(user, item, is_shared, num_tables=1, d_min=2):
    sizes = np.where(is_shared, d_min, [*user, *item])
    return EmbeddingSizes(
        *np.split(sizes, [len(user)]), d_min, WIDTH, num_tables, is_shared=np.array(is_shared)
    )


@pytest.mark.parametrize("num_tables", [1, 2])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_that_come_to_share_one_or_leave_it(dtype, num_tables):
    """Users 0 and 1 share, and of items only the second; later user 1 has left and 2 and a new one joined."""
    rng = np.random.default_rng(0)
    own = pack(rng, EmbeddingSizes(np.array([3, 2, 4]), np.array([5, 3]), 2, WIDTH, num_tables), dtype)
    first = shared([3, 2, 4], [5, 3], [True, True, False, False, True], num_tables)
    joined = resize(own, first, rng).table
    rows = joined.rows(np.arange(5), 2)
    mean = own.rows(np.array([0, 1]), 2).mean(axis=0)
    means = np.stack([mean, mean, own.rows(np.array([4]), 2)[0]])
    np.testing.assert_allclose(rows[[0, 1, 4]], means, atol=1e-8 if dtype == "float32" else 2e-3)
    np.testing.assert_array_equal(rows[2:4], own.rows(np.arange(2, 4), 2))
    assert joined.num_params == num_tables * (2 + 4 + 5 + 2)
    assert is_same(resize(joined, first, rng).table, joined)

    second = shared([2, 6, 2, 2], [5, 3, 4], [True, False, True, True, False, False, False], num_tables)
    resized = resize(joined, second, rng)
    after = resized.table.rows(np.arange(7), 2)
    # The shared row is as it was, whoever has joined it, and the one who has left begins with it.
    np.testing.assert_array_equal(after[[0, 1, 2, 3, 4, 5]], rows[[0, 0, 0, 0, 3, 4]])
    assert resized.table.row_sizes.tolist() == [0, 6, 0, 0, 5, 3, 4]
    assert 0 < np.abs(resized.table.rows(np.array([1])).reshape(num_tables, 6)[:, 2:]).max() < 0.06
    assert (resized.num_new, resized.num_grown, resized.num_shrunk) == (2, 2, 1)
    # Rows of newcomers alone are shared as they were drawn; everybody on their own is a copy each.
    newcomers = shared([3, 2, 4, 2, 2], [5, 3], [False] * 3 + [True] * 2 + [False] * 2, num_tables)
    drawn = resize(own, newcomers, rng).table.rows(np.array([3, 4]), 2)
    assert np.array_equal(drawn[0], drawn[1]) and 0 < np.abs(drawn).max() < 0.06
    assert is_same(resize(joined, unshared(joined).sizes, rng).table, unshared(joined))


def test_what_cannot_be_resized_is_refused():
    rng = np.random.default_rng(0)
    before = pack(rng, draw_sizes(rng, 5, 4))
    for sizes, match in (
        (draw_sizes(rng, 4, 4), "4 users and 4 items are fewer than the 5 and 4"),
        (draw_sizes(rng, 5, 3), "5 users and 3 items are fewer than the 5 and 4"),
        (draw_sizes(rng, 5, 4, 2), "of 1 tables, the sizes are of 2"),
        (
            dataclasses.replace(EmbeddingSizes.full(5, 4, WIDTH), first_columns=np.zeros(9, np.uint8)),
            "communities",
        ),
    ):
        with pytest.raises(ResultError, match=match):
            resize(before, sizes, rng)
    with pytest.raises(ResultError, match="int4 values are of given sizes: resize the table as float32"):
        resize(before.astype("int4"), before.sizes, rng)
