import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ciess_ray.packed.table import PackedTable
from envs.budget import MemoryBudget, packed_bytes, project_sizes
from envs.errors import BudgetError, EmbeddingSizeError
from envs.sizes import scall
from envs.sizes.embedding_sizes import EmbeddingSizes

GOLDEN = Path(__file__).parents[1] / "golden" / "streaming.json"


def rng(seed=0):
    return np.random.default_rng(seed)


class TestParse:
    @pytest.mark.parametrize(
        ("text", "amount", "unit"),
        [
            (0.1, 0.1, "ratio"),
            (1, 1.0, "ratio"),
            ("0.1", 0.1, "ratio"),
            (".05", 0.05, "ratio"),
            ("5e-2", 0.05, "ratio"),
            (5e-5, 5e-5, "ratio"),
            ("10%", 0.1, "ratio"),
            (" 10 % ", 0.1, "ratio"),
            ("100%", 1.0, "ratio"),
            ("62000 params", 62_000, "params"),
            ("62,000 params", 62_000, "params"),
            ("1,234,567 params", 1_234_567, "params"),
            ("1,500.5kB", 1_500_500, "bytes"),
            ("62_000 Parameters", 62_000, "params"),
            ("2.50MB", 2_500_000, "bytes"),
            ("0.125MB", 125_000, "bytes"),
            ("12.345%", 0.12345, "ratio"),
            ("1 param", 1, "params"),
            ("62k params", 62_000, "params"),
            ("1.5M params", 1_500_000, "params"),
            ("8 a row", 8, "mean size"),
            ("2.5 a row", 2.5, "mean size"),
            ("500B", 500, "bytes"),
            ("64KB", 64_000, "bytes"),
            ("64 kib", 65_536, "bytes"),
            ("64MB", 64_000_000, "bytes"),
            ("64MiB", 2**26, "bytes"),
            ("1.5gb", 1_500_000_000, "bytes"),
            ("1GiB", 2**30, "bytes"),
            ("1TB", 10**12, "bytes"),
            ("1TiB", 2**40, "bytes"),
        ],
    )
    def test_reads(self, text, amount, unit):
        budget = MemoryBudget.parse(text)
        assert (budget.amount, budget.unit) == (pytest.approx(amount), unit)
        assert MemoryBudget.parse(budget) is budget
        assert MemoryBudget.parse(str(budget)) == budget

    @pytest.mark.parametrize(
        "text",
        ["100kB", "64MB", "1.5GB", "2TB", "12.25MB", "64MiB", "3KiB", "1500B", "259329B", "10%", "8 a row"],
    )
    def test_is_told_as_it_is_written(self, text):
        told = "1.5kB" if text == "1500B" else text
        assert str(MemoryBudget.parse(text)) == told
        assert MemoryBudget.parse(told) == MemoryBudget.parse(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (0, "above 0"),
            ("0%", "above 0"),
            ("0 params", "above 0"),
            ("0MB", "above 0"),
            (-0.1, "cannot read"),
            ("-10%", "cannot read"),
            ("-5MB", "cannot read"),
            (1.01, "more than the full table"),
            (10, "more than the full table"),
            ("150%", "more than the full table"),
            ("", "cannot read"),
            ("a tenth", "cannot read"),
            ("1.2.3", "cannot read"),
            ("10 20", "cannot read"),
            (float("nan"), "cannot read"),
            (float("inf"), "cannot read"),
            (True, "cannot read"),
            ("1e999 params", "above 0"),
            ("64 bananas", "unknown unit 'bananas'"),
            ("64 bit", "unknown unit 'bit'"),
            ("10%%", "unknown unit"),
            ("0,1", "cannot read '0,1'.* comma parts groups of three digits.* point"),
            ("2,5%", "cannot read '2,5%'.* comma parts groups of three digits.* point"),
            ("1,5MB", "cannot read '1,5MB'.* comma parts groups of three digits.* point"),
            ("0,125", "cannot read '0,125'"),
            ("1,2345 params", "cannot read '1,2345 params'"),
            ("12,34,567 params", "cannot read '12,34,567 params'"),
            ("1,000_000 params", "cannot read '1,000_000 params'"),
            ("1.000.000 params", "cannot read '1.000.000 params'"),
            ("1.5,000 params", "cannot read '1.5,000 params'"),
            ("6_2%", "cannot read '6_2%'"),
            ("62.000 params", "may mean 62 or 62000: .* 62 or 62,000 is clear"),
            ("1.500MB", "may mean 1.5 or 1500: .* 1.5 or 1,500 is clear"),
            ("1.500k params", "may mean 1.5 or 1500"),
            ("\u0661\u0660%", "cannot read"),
        ],
    )
    def test_refuses_and_says_how_to_write_it(self, text, says):
        with pytest.raises(BudgetError, match=f"{says}.*write it like 0.1, 10%, '62000 params' or 64MB"):
            MemoryBudget.parse(text)

    @pytest.mark.parametrize("amount", [float("nan"), float("inf"), 0.0, -1.0])
    @pytest.mark.parametrize("unit", ["ratio", "mean size", "params", "bytes"])
    def test_an_amount_that_is_none_is_refused_without_a_text_too(self, amount, unit):
        with pytest.raises(BudgetError, match="above 0"):
            MemoryBudget(amount, unit)


class TestCap:
    @pytest.mark.parametrize(
        ("text", "cap"),
        [
            ("100%", 12_800),
            ("10%", 1_280),
            # 0.29 · 12,800 is 3711.9999999999995 in binary; a share that comes out whole loses nothing.
            (0.29, 3_712),
            ("5000 params", 5_000),
            ("99999 params", 12_800),
            ("5124B", 1_000),
            ("1GB", 12_800),
            ("2.29 a row", 229),
            ("200 a row", 12_800),
        ],
    )
    def test_parameters(self, text, cap):
        assert MemoryBudget.parse(text).cap_params(100, 1, 128) == cap

    @pytest.mark.parametrize(
        ("text", "cap"),
        [
            (1.0, 25_600),
            (0.29, 7_424),
            ("5001 params", 5_000),
            ("99999 params", 25_600),
            ("5129B", 1_000),
            ("2.5 a row", 500),
        ],
    )
    def test_parameters_of_two_tables(self, text, cap):
        # All in parameters of both tables, and even: a dimension more of a row is one in each.
        assert MemoryBudget.parse(text).cap_params(100, 1, 128, 2) == cap

    @given(
        st.integers(1, 10**6),
        st.integers(1, 4),
        st.integers(4, 100_000),
        st.integers(1, 3),
        st.sampled_from(["0.0000001%", "1e-9 params", "1e-9 a row", "2B"]),
    )
    def test_the_least_budget_that_it_names_does_work(self, num_rows, d_min, d_max, num_tables, too_little):
        with pytest.raises(BudgetError, match=f"min_embedding_size={d_min} each.*; the least") as caught:
            MemoryBudget.parse(too_little).cap_params(num_rows, d_min, d_max, num_tables)
        named = re.search(r"the least that works is (.+)\.$", str(caught.value))[1]
        for text in re.fullmatch(r"([^(]+?)(?: \((.+)\))?", named).groups():
            if text is not None:
                least = MemoryBudget.parse(text).cap_params(num_rows, d_min, d_max, num_tables)
                assert num_rows * d_min * num_tables <= least
                assert least <= num_rows * d_min * num_tables * 1.01 + 1

    @given(
        st.integers(1, 40),
        st.integers(1, 40),
        st.sampled_from([8, 255, 256, 65_536]),
        st.integers(1, 2),
        st.integers(0, 2**32 - 1),
        st.data(),
    )
    def test_bytes_cap_the_packed_file(self, num_users, num_items, d_max, num_tables, seed, data):
        num_rows = num_users + num_items
        least = packed_bytes(num_rows * num_tables, num_rows, d_max)
        amount = data.draw(st.integers(least, least + 4 * num_rows * num_tables * 10))
        cap = MemoryBudget.parse(f"{amount}B").cap_params(num_rows, 1, d_max, num_tables)
        user, item = rng(seed).uniform(1, 8, num_users), rng(seed).uniform(1, 8, num_items)
        sizes = EmbeddingSizes.from_proposal(user, item, cap, 1, d_max, rng(seed), num_tables=num_tables)
        values = np.ones(sizes.num_params, np.float32)
        assert PackedTable.of(values, sizes).num_bytes <= sizes.packed_bytes <= amount


class TestGrowing:
    """What a budget allows of a table that gains rows."""

    #: Of the six segments of Online Retail II.
    ROWS = (1_420, 3_173, 4_804, 6_552, 8_273, 10_157)

    def test_the_golden_caps(self):
        case = json.loads(GOLDEN.read_text())["cases"]["scall.budget"]
        given_, out = case["inputs"], case["outputs"]
        megabytes = MemoryBudget.parse(f"{given_['mode_B_megabytes'] * 250_000} params")
        for num_rows in (30_000, 100_000):
            assert megabytes.cap_params(num_rows, 1, 256) == out["cap_B"]
        equal = EmbeddingSizes.equal(60_000, 40_000, out["cap_B"], 1, 256, rng())
        assert {*equal.user, *equal.item} == {out["equal_size_B_of_100000_entities"]}
        mean = MemoryBudget.parse(f"{given_['mode_c']} a row")
        assert mean.cap_params(given_["num_users"] + given_["num_items"], 1, 256) == out["cap_c"]
        assert mean.cap_params(2_000, 1, 256) == 2 * out["cap_c"]

    def test_of_bytes_the_index_takes_more_and_more(self):
        budget = MemoryBudget.parse("100kB")
        caps = [budget.cap_params(num_rows, 1, 64) for num_rows in self.ROWS]
        assert caps == [(100_000 - 1_024 - rows) // 4 for rows in self.ROWS]
        for num_rows, cap in zip(self.ROWS, caps, strict=True):
            sizes = EmbeddingSizes.equal(num_rows // 2, num_rows - num_rows // 2, cap, 1, 64, rng())
            file = PackedTable.of(np.ones(sizes.num_params, np.float32), sizes)
            assert 0.99 * budget.amount <= file.num_bytes <= budget.amount
        assert {MemoryBudget.parse("67020 params").cap_params(rows, 1, 64) for rows in self.ROWS} == {67_020}

    def test_too_little_for_the_rows_of_the_next_segment_is_told_with_the_least(self):
        budget = MemoryBudget.parse("40kB")
        assert budget.cap_params(6_552, 1, 64) >= 6_552
        with pytest.raises(BudgetError, match="for 8273 rows.* the least that works is 42389B"):
            budget.cap_params(8_273, 1, 64)
        assert MemoryBudget.parse("42389B").cap_params(8_273, 1, 64) == 8_273

    @settings(max_examples=50)
    @given(
        st.integers(1, 10**5),
        st.integers(1, 4),
        st.sampled_from([8, 256]),
        st.integers(1, 2),
        st.sampled_from([0.02, 0.1, 1 / 3, 0.99]),
        st.sampled_from(["params", "bytes"]),
    )
    def test_the_least_with_a_reserve_does_work_and_has_room(self, rows, d_min, d_max, tables, reserve, unit):
        arguments = rows, d_min, d_max, tables
        with pytest.raises(BudgetError, match="a reserve of .* aside, leaves") as caught:
            MemoryBudget(1, unit).cap_params(*arguments, reserve=reserve)
        least = MemoryBudget.parse(re.search(r"that works is (.+)\.$", str(caught.value))[1])
        cap = least.cap_params(*arguments, reserve=reserve)
        assert cap >= rows * d_min * tables
        with pytest.raises(BudgetError):
            MemoryBudget(least.amount - 1, unit).cap_params(*arguments, reserve=reserve)
        num_new = least.num_newcomers(cap, rows, d_min, d_max, tables)
        grown = cap + num_new * d_min * tables
        each = d_min * tables if unit == "params" else d_min * tables * 4 + (1 if d_max == 8 else 2)
        total = grown if unit == "params" else packed_bytes(grown, rows + num_new, d_max)
        assert total <= least.amount < total + each
        assert num_new >= int(reserve * least.amount) // each

    def test_a_reserve_takes_its_share(self):
        budget = MemoryBudget.parse("67020 params")
        assert budget.cap_params(5_000, 1, 64, reserve=0.02) == 65_679
        assert budget.num_newcomers(65_679, 5_000, 1, 64) == 1_341
        assert budget.num_newcomers(67_020, 5_000, 1, 64) == 0 == budget.num_newcomers(99_999, 5_000, 1, 64)
        assert MemoryBudget.parse("8 a row").num_newcomers(40_000, 5_000, 1, 64) is None

    @pytest.mark.parametrize(
        ("text", "reserve", "says"),
        [
            ("67020 params", 1.0, "a reserve of 1 is no share"),
            ("67020 params", -0.1, "a reserve of -0.1 is no share"),
            ("67020 params", float("nan"), "a reserve of nan is no share"),
            ("10%", 0.1, "10% grows with the rows and needs no reserve"),
            ("8 a row", 0.1, "8 a row grows with the rows and needs no reserve"),
        ],
    )
    def test_a_reserve_that_is_none_is_refused(self, text, reserve, says):
        with pytest.raises(BudgetError, match=says):
            MemoryBudget.parse(text).cap_params(5_000, 1, 64, reserve=reserve)

    @pytest.mark.parametrize("mean_size", [5, 10, 32])
    @pytest.mark.parametrize("unit", ["params", "bytes"])
    def test_actions_of_scall_use_all_of_it_and_its_own_sizes_more(self, mean_size, unit):
        num_users, num_items = 5_853, 4_619
        amount = mean_size * (num_users + num_items) * (1 if unit == "params" else 4)
        cap = MemoryBudget(amount, unit).cap_params(num_users + num_items, 1, 256)
        draws, num_over = rng(mean_size), 0
        for action in draws.random((8, 3)):
            asked = scall.proposal(action, np.arange(num_users), np.arange(num_items), cap)
            sizes = EmbeddingSizes.from_proposal(*asked, cap, 1, 256, draws, fill=True)
            table = PackedTable.of(np.zeros(sizes.num_params, np.float32), sizes)
            assert 0.99 * amount <= (table.num_params if unit == "params" else table.num_bytes) <= amount
            released = [scall.reference_sizes(side, 1, 1, 256, explores=True).sum() for side in asked]
            num_over += sum(released) > cap
        assert num_over >= 1


class TestEmbeddingSizes:
    @pytest.mark.parametrize(
        ("user", "item", "bounds", "says"),
        [
            ([1, 2], [1], (4, 2), "min_embedding_size 4 and max_embedding_size 2 bound no size"),
            ([1, 2], [1], (0, 2), "must be at least 1"),
            ([1.0, 2.0], [1], (1, 4), "user sizes must be a one-dimensional array of integers, not float64"),
            ([1], [True], (1, 4), "item sizes must be .* not bool"),
            ([[1, 2]], [1], (1, 4), r"not int64 of shape \(1, 2\)"),
            ([1, 5], [1], (1, 4), r"the size 5 of user 1 lies outside \[1, 4\]"),
            ([1, 3], [2, 4, 0], (1, 4), r"the size 0 of item 2 lies outside \[1, 4\]"),
            ([2], [2, 1], (2, 4), r"the size 1 of item 1 lies outside \[2, 4\]"),
            ([2**32 + 2], [1], (1, 4), "lies outside"),
        ],
    )
    def test_refuses(self, user, item, bounds, says):
        with pytest.raises(EmbeddingSizeError, match=says):
            EmbeddingSizes(np.array(user), np.array(item), *bounds)

    def test_counts(self):
        sizes = EmbeddingSizes(np.array([1, 4]), np.array([2, 2, 3]), 1, 8)
        assert (sizes.num_rows, sizes.num_params, sizes.width) == (5, 12, 4)
        assert sizes.kept_ratio == 12 / 40
        assert sizes.packed_bytes == 12 * 4 + 5 + 1024

    def test_two_tables_count_twice_but_for_the_index(self):
        sizes = EmbeddingSizes(np.array([1, 4]), np.array([2, 2, 3]), 1, 8, num_tables=2)
        assert (sizes.num_rows, sizes.num_params, sizes.width) == (5, 24, 4)
        assert sizes.kept_ratio == 24 / 80
        assert sizes.packed_bytes == 24 * 4 + 5 + 1024
        mask = sizes.mask()
        assert mask.shape == (5, 8) and mask[0].tolist() == [True, False, False, False] * 2

    def test_a_cap_is_of_all_tables_together(self):
        full = EmbeddingSizes.full(2, 3, 8, num_tables=2)
        assert (full.num_params, full.kept_ratio, full.num_tables) == (80, 1.0, 2)
        equal = EmbeddingSizes.equal(2, 3, 41, 1, 8, rng(), num_tables=2)
        assert (equal.num_params, equal.num_tables) == (40, 2)
        assert equal.user.tolist() == [4, 4] and equal.item.tolist() == [4] * 3
        filled = EmbeddingSizes.from_proposal(
            np.ones(2), np.ones(3), 30, 1, 8, rng(), fill=True, num_tables=2
        )
        assert filled.num_params == 30 and filled.user.sum() + filled.item.sum() == 15

    def test_cannot_be_written_and_keeps_no_hold_on_what_it_was_given(self):
        given_sizes = np.array([1, 2], np.int32)
        sizes = EmbeddingSizes(given_sizes, given_sizes)
        with pytest.raises(ValueError, match="read-only"):
            sizes.user[0] = 3
        given_sizes[0] = 100
        assert sizes.user.tolist() == [1, 2]

    def test_compares_as_an_object(self):
        sizes = EmbeddingSizes.full(2, 3, 4)
        assert sizes == sizes and sizes != EmbeddingSizes.full(2, 3, 4) and len({sizes}) == 1

    def test_users_and_items_share_the_cap(self):
        sizes = EmbeddingSizes.from_proposal(np.full(10, 2.0), np.full(10, 9.0), 90, 1, 16, rng())
        assert sizes.user.tolist() == [1] * 10 and sizes.item.tolist() == [8] * 10

    def test_equal_sizes_are_two_neighbours_drawn_by_seed(self):
        # A tenth of 128 is 12.8: four fifths of the entities get 13.
        first, again, other = (EmbeddingSizes.equal(300, 200, 6_400, 1, 128, rng(seed)) for seed in (0, 0, 1))
        sizes = np.concatenate([first.user, first.item])
        assert np.unique(sizes, return_counts=True)[1].tolist() == [100, 400]
        assert set(sizes.tolist()) == {12, 13}
        assert first.num_params == 6_400
        np.testing.assert_array_equal(first.user, again.user)
        np.testing.assert_array_equal(first.item, again.item)
        assert not np.array_equal(first.user, other.user)
        assert 12 in first.user and 12 in first.item

    def test_equal_sizes_of_a_cap_that_divides_evenly_are_equal(self):
        sizes = EmbeddingSizes.equal(3, 2, 50, 1, 128, rng())
        assert sizes.user.tolist() == [10] * 3 and sizes.item.tolist() == [10] * 2


@st.composite
def projections(draw, elements=None, **arguments):
    """A proposal, a cap that can be met, and bounds."""
    d_min = draw(st.integers(1, 4))
    d_max = draw(st.integers(d_min, d_min + 130))
    elements = elements or st.one_of(st.floats(-300, 300), st.integers(-50, 150))
    proposal = np.array(draw(st.lists(elements, min_size=1, max_size=25, **arguments)))
    # A cap about which the clipped proposal lies on either side.
    near = int(np.clip(proposal, d_min, d_max).sum())
    least, most = proposal.size * d_min, proposal.size * d_max
    caps = st.one_of(st.integers(least, most + 10), st.sampled_from([max(near - 1, least), near, near + 1]))
    return proposal, draw(caps), d_min, d_max


def nearest_point(proposal, total, d_min, d_max):
    """The Euclidean projection onto {Σx = total, d_min ≤ x ≤ d_max}, by bisection."""
    low = proposal.min() - d_max - 1.0
    high = proposal.max() - d_min + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(proposal - middle, d_min, d_max).sum() > total:
            low = middle
        else:
            high = middle
    return np.clip(proposal - high, d_min, d_max)


class TestProjection:
    @given(projections(), st.booleans(), st.integers(0, 99))
    def test_meets_the_cap_keeps_bounds_and_order_and_is_the_nearest(self, case, fill, seed):
        proposal, cap, d_min, d_max = case
        sizes = project_sizes(proposal, cap, d_min, d_max, rng(seed), fill=fill)
        assert sizes.dtype == np.int32 and sizes.shape == proposal.shape
        assert d_min <= sizes.min() and sizes.max() <= d_max

        clipped = np.clip(proposal, d_min, d_max)
        is_binding = fill or clipped.sum() > cap
        total = min(cap, proposal.size * d_max)
        if is_binding:
            assert sizes.sum() == total
        else:
            assert sizes.sum() <= cap and abs(sizes.sum() - clipped.sum()) <= 0.5

        order = np.argsort(proposal, kind="stable")
        is_larger = np.diff(proposal[order]) > 0
        assert (np.diff(sizes[order])[is_larger] >= 0).all()

        nearest = nearest_point(proposal, total, d_min, d_max) if is_binding else clipped
        assert np.abs(sizes - nearest).max() < 1 + 1e-6
        np.testing.assert_array_equal(sizes, project_sizes(proposal, cap, d_min, d_max, rng(seed), fill=fill))

    @given(projections(), st.integers(0, 99))
    def test_leaves_sizes_that_meet_the_cap_as_they_are(self, case, seed):
        proposal, cap, d_min, d_max = case
        sizes = project_sizes(proposal, cap, d_min, d_max, rng(seed))
        np.testing.assert_array_equal(project_sizes(sizes, cap, d_min, d_max, rng(seed + 1)), sizes)
        filled = project_sizes(proposal, cap, d_min, d_max, rng(seed), fill=True)
        again = project_sizes(filled, cap, d_min, d_max, rng(seed + 1), fill=True)
        np.testing.assert_array_equal(again, filled)

    @given(projections(unique_by=float), st.booleans(), st.randoms(use_true_random=False))
    def test_does_not_depend_on_who_is_where_but_for_ties(self, case, fill, random):
        proposal, cap, d_min, d_max = case
        assume(len(set(proposal.tolist())) == proposal.size)
        order = random.sample(range(proposal.size), proposal.size)
        sizes = project_sizes(proposal, cap, d_min, d_max, rng(0), fill=fill)
        shuffled = project_sizes(proposal[order], cap, d_min, d_max, rng(1), fill=fill)
        np.testing.assert_array_equal(sizes[order], shuffled)

    @pytest.mark.parametrize("fill", [False, True])
    def test_a_large_table(self, fill):
        proposal = rng().uniform(-20, 160, 200_000)
        sizes = project_sizes(proposal, 2_560_001, 1, 128, rng(), fill=fill)
        assert sizes.sum() == 2_560_001 and sizes.min() >= 1 and sizes.max() <= 128

    def test_proposals_of_any_size(self):
        for scale in (1e-12, 1e3, 1e6, 2e8):
            proposal = rng().normal(size=100) * scale
            sizes = project_sizes(proposal, 333, 1, 8, rng(), fill=True)
            assert sizes.sum() == 333 and sizes.min() >= 1 and sizes.max() <= 8
            assert (np.diff(sizes[np.argsort(proposal)]) >= 0).all()

    def test_ties_go_by_lot(self):
        first, other = (project_sizes(np.full(50, 9.0), 120, 1, 16, rng(seed)) for seed in (0, 1))
        assert first.sum() == other.sum() == 120 and not np.array_equal(first, other)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, -2e9])
    def test_refuses_what_is_not_finite_or_beyond_all_sense(self, bad):
        with pytest.raises(EmbeddingSizeError, match="proposed for entity 1 is .*must be finite"):
            project_sizes(np.array([1.0, bad]), 10, 1, 4, rng())

    def test_refuses_a_cap_that_cannot_be_met(self):
        with pytest.raises(BudgetError, match="cap of 5 parameters is below min_embedding_size=2"):
            project_sizes(np.ones(3), 5, 2, 4, rng())

    def test_refuses_bounds_that_contradict_each_other(self):
        with pytest.raises(EmbeddingSizeError, match="bound no size"):
            project_sizes(np.ones(3), 50, 5, 4, rng())
