import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_bytes import bytes_of

from ciess_ray.packed.codes import FLOATS, MIXED, PRECISIONS
from ciess_ray.packed.embedding import PackedEmbedding, pack_recommender, unpack_recommender
from ciess_ray.packed.file import FORMAT
from ciess_ray.packed.resize import unshared
from ciess_ray.packed.table import PackedTable
from envs.budget import HEADER_BYTES, index_bytes_per_row
from envs.errors import ResultError
from envs.recommenders import RECOMMENDERS
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

#: How far from a value its stored form may be, as a share of the value, and of the largest of its row.
CLOSE = {"float32": (0.0, 0.0), "float16": (2**-11, 1e-7), "bfloat16": (2**-8, 0.0)}


@st.composite
def tables(draw):
    """A table with sizes, and the same with zeros beyond them, its two tables side by side."""
    d_max = draw(st.sampled_from([1, 2, 7, 255, 256, 65_535, 65_536, 70_000]))
    d_min = draw(st.integers(1, min(d_max, 3)))
    num_users = draw(st.integers(1, 20 if d_max < 300 else 3))
    num_items = draw(st.integers(1, 20 if d_max < 300 else 3))
    # Hypothesis likes the ends: a row of d_max beside one of d_min.
    row_sizes = np.array([draw(st.integers(d_min, d_max)) for _ in range(num_users + num_items)])
    num_tables = draw(st.integers(1, 2))
    sizes = EmbeddingSizes(row_sizes[:num_users], row_sizes[num_users:], d_min, d_max, num_tables)
    first = np.zeros(len(row_sizes), int)
    if draw(st.booleans()):
        first = np.array([draw(st.integers(0, 255)) for _ in row_sizes])
        sizes = replace(sizes, first_columns=first)
    elif draw(st.booleans()):
        is_shared = np.array([draw(st.booleans()) for _ in row_sizes])
        row_sizes[is_shared] = d_min
        user, item = np.split(row_sizes, [num_users])
        sizes = replace(sizes, user=user, item=item, is_shared=is_shared)
    width = draw(st.integers(sizes.width, sizes.width + 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    tables = rng.standard_normal((num_users + num_items, num_tables, width), np.float32)
    place = np.arange(width) - first[:, None, None]
    masked = np.where((place >= 0) & (place < row_sizes[:, None, None]), tables, np.float32(0))
    if sizes.row_of is not None:
        masked = masked[sizes.row_of]
    return *(part.reshape(len(row_sizes), -1) for part in (tables, masked)), sizes


def kept_of(table, sizes):
    return table[sizes.mask(table.shape[1] // sizes.num_tables)]


@given(tables(), st.sampled_from(FLOATS))
def test_packing_and_unpacking_is_the_identity_and_keeps_to_the_bytes(tmp_path_factory, case, dtype):
    table, masked, sizes = case
    path = tmp_path_factory.getbasetemp() / "table.safetensors"
    packed = PackedTable.of(kept_of(table, sizes), sizes, dtype=dtype, recommender="mf")
    num_bytes = packed.save(path)
    a_row = index_bytes_per_row(sizes.max_embedding_size) + (sizes.first_columns is not None)
    a_value = packed.values.itemsize
    assert num_bytes == path.stat().st_size == packed.num_bytes
    assert num_bytes <= a_value * sizes.num_params + a_row * sizes.num_rows + HEADER_BYTES
    if dtype == "float32":
        assert num_bytes <= sizes.packed_bytes
    loaded = PackedTable.open(path)
    loaded.verify()
    unpacked = loaded.unpack(table.shape[1] // sizes.num_tables)
    relative, of_largest = CLOSE[dtype]
    bound = relative * np.abs(masked) + of_largest * np.abs(masked).max(axis=1, keepdims=True) + 1e-30
    assert (np.abs(unpacked - masked) <= bound).all()
    assert (unpacked[masked == 0] == 0).all()
    assert loaded.unpack().shape == (sizes.num_rows, sizes.num_tables * sizes.width)
    np.testing.assert_array_equal(loaded.sizes.user, sizes.user)
    np.testing.assert_array_equal(loaded.sizes.item, sizes.item)
    np.testing.assert_array_equal(loaded.sizes.mask(), sizes.mask())
    np.testing.assert_array_equal(unshared(loaded).unpack(), loaded.unpack())
    assert unshared(loaded).layout.shared_rows is None
    assert (loaded.format == FORMAT) == (sizes.is_shared is None)
    assert (loaded.dtype, loaded.recommender) == (dtype, "mf")
    for name in ("min_embedding_size", "max_embedding_size", "num_tables"):
        assert getattr(loaded.sizes, name) == getattr(sizes, name)


@given(tables(), st.sampled_from([*PRECISIONS, "int8/int3", MIXED]), st.integers(1, 40), st.integers(0, 99))
def test_rows_are_those_of_the_unpacked_table_at_any_width(case, dtype, width, seed):
    table, _, sizes = case
    if dtype == MIXED:
        dtype = np.random.default_rng(seed).integers(2, 9, sizes.num_rows)
    packed = PackedTable.of(kept_of(table, sizes), sizes, dtype=dtype)
    whole = packed.unpack(max(width, sizes.width)).reshape(sizes.num_rows, sizes.num_tables, -1)
    rows = np.random.default_rng(seed).integers(0, sizes.num_rows, 11)
    expected = whole[rows, :, :width].reshape(11, -1)
    np.testing.assert_array_equal(packed.rows(rows, width), expected)
    embedding = PackedEmbedding(packed, width)
    np.testing.assert_array_equal(embedding(torch.from_numpy(rows)).numpy(), expected)


def test_the_starts_of_many_blocks_are_sums_of_the_sizes():
    rng = np.random.default_rng(0)
    for d_max, num_tables in ((9, 1), (255, 2), (60_000, 1)):
        row_sizes = rng.integers(1, min(d_max, 20) + 1, 3_000)
        row_sizes[-1] = d_max
        sizes = EmbeddingSizes(row_sizes[:1000], row_sizes[1000:], 1, d_max, num_tables)
        packed = PackedTable.of(np.zeros(sizes.num_params, np.float32), sizes)
        block_starts, in_block = packed.layout.starts
        starts = block_starts[np.arange(3_000) >> packed.layout.block_bits] + in_block
        assert starts.tolist() == (np.cumsum(num_tables * row_sizes) - num_tables * row_sizes).tolist()


class TestEmbedding:
    @pytest.fixture
    def table(self):
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2, 4]), 1, 4)
        return PackedTable.of(np.arange(1, 11, dtype=np.float32), sizes)

    def test_any_shape_of_rows(self, table):
        embedding = PackedEmbedding(table)
        rows = torch.tensor([[[3, 0]], [[1, 1]]])
        assert embedding(rows).shape == (2, 1, 2, 4)
        assert embedding(rows)[0, 0].tolist() == [[7, 8, 9, 10], [1, 0, 0, 0]]
        assert embedding(torch.empty(0, dtype=torch.int64)).shape == (0, 4)

    def test_it_says_what_it_is_and_keeps_nothing_in_a_state(self, table):
        embedding = PackedEmbedding(table, 6)
        assert "4, 6, num_params=10" in repr(embedding)
        assert not embedding.state_dict()

    def test_what_lies_beyond_a_row_does_not_show_even_where_it_is_no_number(self):
        sizes = EmbeddingSizes(np.array([1]), np.array([2]), 1, 4)
        table = PackedTable.of(np.array([5, 6, 7], np.float32), sizes)
        table.values[1] = np.nan
        assert table.rows(np.array([0]), 3).tolist() == [[5, 0, 0]]
        assert PackedEmbedding(table, 3)(torch.tensor([0])).tolist() == [[5, 0, 0]]

    @pytest.mark.parametrize("rows", [[4], [-1]])
    def test_rows_that_are_not_there(self, table, rows):
        with pytest.raises(IndexError):
            table.rows(np.array(rows))
        with pytest.raises((IndexError, RuntimeError)):
            PackedEmbedding(table)(torch.tensor(rows))

    def test_rows_are_checked_wherever_they_begin(self, table):
        placed = replace(table, first_columns=np.zeros(4, np.uint8))
        assert placed.rows(np.array([]), 3).shape == (0, 3)
        for rows, told in (([4], "rows between 4 and 4 of a table of 4"), ([0.5], "whole numbers")):
            with pytest.raises(IndexError, match=told):
                placed.rows(np.array(rows))

    @pytest.mark.parametrize("dtype", PRECISIONS)
    def test_every_type_of_value_is_read(self, table, dtype):
        # Of two bits the four levels of a row reach from -3/2 to 3/2.
        close = {"int2": 1.6, "int3": 1.0, "int4": 0.6, "int5": 0.3, "int6": 0.1, "int7": 0.05}.get(
            dtype, 0.04
        )
        embedding = PackedEmbedding(table.astype(dtype))
        torch.testing.assert_close(
            embedding(torch.arange(4)), torch.from_numpy(table.unpack()), rtol=0.01, atol=close
        )

    def test_no_width(self, table):
        for make in (lambda: table.rows(np.array([0]), 0), lambda: PackedEmbedding(table, 0)):
            with pytest.raises(ValueError, match="a width of 0"):
                make()


def test_numpy_is_enough_to_read_a_table(tmp_path):
    table = PackedTable.of(np.arange(3, dtype=np.float32), EmbeddingSizes(np.array([1]), np.array([2])))
    table.save(tmp_path / "table")
    code = (
        "import sys; from pathlib import Path; from ciess_ray.packed.table import PackedTable\n"
        f"print(PackedTable.open(Path({str(tmp_path / 'table')!r})).unpack().tolist())\n"
        "found = {name.split('.')[0] for name in sys.modules}\n"
        "print(found & {'torch', 'ray', 'scipy', 'pandas', 'pyarrow'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[[0.0, 0.0], [1.0, 2.0]]\nset()\n", done.stderr


def test_it_is_a_safetensors_file(tmp_path):
    sizes = EmbeddingSizes(np.array([1]), np.array([2]), 1, 300)
    table = PackedTable.of(np.arange(3, dtype=np.float32), sizes, recommender="lightgcn")
    table.save(tmp_path / "table")
    with safetensors.safe_open(tmp_path / "table", framework="numpy") as file:
        assert file.metadata()["recommender"] == "lightgcn" and file.metadata()["format"] == FORMAT
        assert file.get_tensor("values").tolist() == [0, 1, 2]
        assert file.get_tensor("sizes").dtype == np.uint16


def test_a_very_long_name_does_not_cost_the_budget():
    sizes = EmbeddingSizes(np.array([1]), np.array([2]))
    table = PackedTable.of(np.zeros(3, np.float32), sizes, recommender="x" * 2000)
    assert table.num_bytes <= sizes.packed_bytes
    assert PackedTable.from_buffer(bytes_of(table)).recommender is None


def test_numbers_that_a_type_cannot_hold_are_refused():
    sizes = EmbeddingSizes(np.array([1]), np.array([2]))
    PackedTable.of(np.array([1, 2, 1e5], np.float32), sizes, dtype="int8").verify()
    for dtype, number in (("float16", 1e5), ("bfloat16", 3.4e38), ("float32", np.nan)):
        with pytest.raises(ResultError, match=f"not finite in {dtype}"):
            PackedTable.of(np.array([1, 2, number], np.float32), sizes, dtype=dtype)
    for number, says in (
        (1e9, "a number of 1e.09, which scales in float16 do not reach"),
        (np.nan, "not finite"),
    ):
        with pytest.raises(ResultError, match=says):
            PackedTable.of(np.array([1, 2, number], np.float32), sizes, dtype="int4")
    with pytest.raises(ResultError, match="unknown type of value 'float8'; known: float32, "):
        PackedTable.of(np.zeros(3, np.float32), sizes, dtype="float8")


def test_a_row_of_zeros_and_one_of_tiny_numbers_survive_int8():
    sizes = EmbeddingSizes(np.array([2]), np.array([2]))
    table = PackedTable.of(np.array([0, 0, 1e-6, -2e-6], np.float32), sizes, dtype="int8")
    assert table.decoded()[:2].tolist() == [0, 0]
    assert table.decoded()[2:] == pytest.approx([1e-6, -2e-6], abs=6e-8)


@pytest.mark.parametrize(("d_max", "num_bytes"), [(255, 1), (256, 2), (65_535, 2), (65_536, 4)])
def test_a_row_costs_no_more_index_than_its_largest_size_asks_for(d_max, num_bytes):
    sizes = EmbeddingSizes(np.ones(5000, np.int32), np.ones(1, np.int32), 1, d_max)
    table = PackedTable.of(np.ones(5001, np.float32), sizes)
    assert 5001 * num_bytes < table.num_bytes - table.values.nbytes <= 5001 * num_bytes + HEADER_BYTES


def test_values_that_do_not_belong_to_the_sizes_are_refused():
    sizes = EmbeddingSizes(np.array([1]), np.array([2]))
    with pytest.raises(ResultError, match="sizes of 3 parameters in all cannot hold values of shape"):
        PackedTable.of(np.zeros(4, np.float32), sizes)


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    sizes = EmbeddingSizes(np.array([1]), np.array([2]))
    PackedTable.of(np.zeros(3, np.float32), sizes).save(tmp_path / "table")
    before = (tmp_path / "table").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        PackedTable.of(np.ones(3, np.float32), sizes).save(tmp_path / "table")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_rows_that_share_one_cost_their_index_alone(tmp_path):
    sizes = EmbeddingSizes(np.full(900, 2), np.full(100, 2), 2, 16, is_shared=np.arange(1_000) % 10 > 0)
    assert sizes.num_params == 2 * (100 + 2)
    table = PackedTable.of(np.arange(sizes.num_params, dtype=np.float32), sizes)
    num_bytes = table.save(tmp_path / "table")
    assert 4 * 204 + 1_000 < num_bytes <= sizes.packed_bytes == 4 * 204 + 1_000 + HEADER_BYTES
    opened = PackedTable.open(tmp_path / "table")
    np.testing.assert_array_equal(opened.sizes.is_shared, sizes.is_shared)
    assert opened.rows(np.array([0, 1, 899, 900, 901, 999])).tolist() == [
        [0, 1], [2, 3], [2, 3], [182, 183], [184, 185], [184, 185]
    ]  # fmt: skip


def test_a_table_in_which_nobody_has_a_row_of_their_own():
    sizes = EmbeddingSizes(np.ones(3, int), np.ones(2, int), 1, 4, 2, is_shared=np.ones(5, bool))
    table = PackedTable.of(np.array([1, 2, 3, 4], np.float32), sizes, dtype="int8")
    opened = PackedTable.from_buffer(bytes_of(table))
    expected = [[1, 2]] * 3 + [[3, 4]] * 2
    np.testing.assert_allclose(opened.unpack(), expected, rtol=0.01)
    np.testing.assert_allclose(PackedEmbedding(opened)(torch.arange(5)).numpy(), expected, rtol=0.01)
    opened.verify()


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("name", RECOMMENDERS)
class TestRecommender:
    @pytest.fixture
    def trained(self, name, shares, make_interactions):
        train = make_interactions().train
        rng = np.random.default_rng(0)
        num_users, num_items = RECOMMENDERS[name].row_counts(60, 40)
        user, item = rng.integers(1, 8, num_users), rng.integers(1, 6, num_items)
        sizes = EmbeddingSizes(user, item, 1, 16, RECOMMENDERS[name].num_tables)
        if shares:
            is_shared = rng.random(sizes.num_rows) < 0.3
            user, item = np.split(np.where(is_shared, 1, np.r_[sizes.user, sizes.item]), [num_users])
            sizes = replace(sizes, user=user, item=item, is_shared=is_shared)
        trainer = Recipe(train, TrainingSettings(batch_size=128), name).trainer(sizes, rng)
        trainer.train(10)
        return trainer.recommender.eval(), train

    def test_scores_as_the_one_that_was_packed(self, name, shares, trained, tmp_path):
        recommender, train = trained
        if recommender.has_ids and shares:
            with pytest.raises(
                ResultError, match="neighbours are of rows of items alone, .* none of them sh"
            ):
                pack_recommender(recommender)
            return
        pack_recommender(recommender).save(tmp_path / "table")
        scorer = {key: value.numpy() for key, value in recommender.scorer_state().items()}
        unpacked = unpack_recommender(PackedTable.open(tmp_path / "table"), train, name, {}, scorer)
        users = torch.arange(60)
        table = unpacked.table()
        shown = table if unpacked.sizes.row_of is None else table[unpacked.sizes.row_of]
        assert torch.equal(table, shown)
        with torch.no_grad():
            expected = recommender.score(recommender.encode(), users)
            got = unpacked.score(unpacked.encode(), users)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)

    def test_another_recommenders_weights_are_refused(self, name, shares, trained):
        recommender, train = trained
        if recommender.has_ids and shares:
            return
        with pytest.raises(ResultError, match=f"the scorer's weights are not those of {name}.*other"):
            unpack_recommender(
                pack_recommender(recommender), train, name, {}, {"other": np.zeros(1, np.float32)}
            )
