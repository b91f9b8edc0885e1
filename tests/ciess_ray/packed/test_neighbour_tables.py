"""Packed tables whose values have the ids of items beside them: bytes, types, damage."""

import json
import random

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from table_bytes import bytes_of

from ciess_ray.packed.codes import FLOATS
from ciess_ray.packed.embedding import pack_recommender, unpack_recommender
from ciess_ray.packed.file import CODED_FORMAT, FORMAT, NEIGHBOUR_FORMAT, VALUE_TYPES
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.neighbour_scorer import weights_of
from envs.budget import HEADER_BYTES, MemoryBudget, packed_bytes
from envs.errors import ResultError
from envs.recommenders import build_recommender
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Of five items: three neighbours, two of which one is only room, one, one, one.
SIZES = np.array([3, 2, 1, 1, 1])
IDS = np.array([1, 3, 4, 2, 1, 0, 2, 3])
WEIGHTS = np.array([4, -2, 1, 3, 0, 5, 6, 7], np.float32)


def table_of(ids=IDS, weights=WEIGHTS, sizes=SIZES, dtype="float32", num_items=None, d_max=3):
    num_items = num_items or len(sizes)
    item = np.concatenate([sizes, np.ones(num_items - len(sizes), int)])
    rest = np.arange(len(sizes), num_items)
    ids, weights = np.concatenate([ids, rest]), np.concatenate([weights, np.zeros(len(rest), np.float32)])
    sizes = EmbeddingSizes(np.zeros(0, int), item, max_embedding_size=d_max)
    return PackedTable.of(weights, sizes, dtype=dtype, recommender="neighbours", neighbours=ids)


def with_bytes(content, name, number, value):
    """With one number of a part changed."""
    end = 8 + int.from_bytes(content[:8], "little")
    part = json.loads(content[8:end])[name]
    width = {"U8": 1, "U16": 2, "U32": 4, "F32": 4}[part["dtype"]]
    changed, at = bytearray(content), end + part["data_offsets"][0] + number * width
    changed[at : at + width] = int(value).to_bytes(width, "little")
    return bytes(changed)


@pytest.mark.parametrize("dtype", VALUE_TYPES)
@pytest.mark.parametrize(("num_items", "id_bytes"), [(5, 2), (65_536, 2), (65_537, 4)])
def test_the_file_is_the_whole_table_and_counts_to_the_byte(tmp_path, dtype, num_items, id_bytes):
    table = table_of(dtype=dtype, num_items=num_items)
    num_bytes = table.save(tmp_path / "table")
    assert num_bytes == (tmp_path / "table").stat().st_size == table.num_bytes
    num_params, width = 8 + num_items - 5, np.dtype(VALUE_TYPES[dtype][1]).itemsize
    beside = num_items
    if dtype == "int8":
        # Sizes of 1 to 3 in two bits, a scale for the two rows of more than one number, and one for the rest.
        beside = -(-num_items // 4) + 2 * 3
    assert table.neighbours.nbytes == num_params * id_bytes
    assert 0 < num_bytes - num_params * (width + id_bytes) - beside <= HEADER_BYTES
    if dtype == "float32":
        assert num_bytes <= packed_bytes(num_params, num_items, 3, id_bytes) < num_bytes + HEADER_BYTES
    opened = PackedTable.open(tmp_path / "table")
    opened.verify()
    assert opened.format == (CODED_FORMAT if dtype == "int8" else NEIGHBOUR_FORMAT)
    assert NEIGHBOUR_FORMAT == "ciess-ray packed table 4"
    expected = np.zeros((5, 5))
    expected[0, [1, 3, 4]], expected[1, 2], expected[2, 0] = [4, -2, 1], 3, 5
    expected[3, 2], expected[4, 3] = 6, 7
    found = weights_of(opened)
    np.testing.assert_allclose(found[:5][:, :5].toarray(), expected, rtol=0.01, atol=0.02)
    assert found.nnz == 7 and found.dtype == np.float32
    np.testing.assert_array_equal(opened.astype("float16").neighbours, opened.neighbours)


def test_a_table_without_neighbours_is_what_it_was():
    sizes = EmbeddingSizes(np.zeros(0, int), SIZES, max_embedding_size=3)
    table = PackedTable.of(WEIGHTS, sizes, recommender="spectral")
    content = bytes_of(table)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == FORMAT and header.keys() == {"__metadata__", "values", "sizes"}
    # Ids that a file does not say it has are not read.
    for changed, format in ((content, NEIGHBOUR_FORMAT), (bytes_of(table_of()), FORMAT)):
        both = FORMAT.encode(), NEIGHBOUR_FORMAT.encode()
        swapped = changed.replace(*both) if format == NEIGHBOUR_FORMAT else changed.replace(*both[::-1])
        with pytest.raises(ResultError, match="its format is .*, and its rows are those of"):
            PackedTable.from_buffer(swapped)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("number", "item", "told"),
    [
        (5, 5, "of the neighbours of item 2 of 5 5 is no item"),
        (1, 65_535, "of item 0 of 5 65,535 is no item"),
        (2, 1, "of item 0 of 5 1 stands twice"),
        (7, 4, "of item 4 of 5 4 is the item itself"),
    ],
)
def test_an_id_that_cannot_stand_there_is_seen_before_anything_is_scored(dtype, number, item, told):
    opened = PackedTable.from_buffer(with_bytes(bytes_of(table_of(dtype=dtype)), "neighbours", number, item))
    for read in (opened.verify, opened.decoded, lambda: weights_of(opened)):
        with pytest.raises(ResultError, match=told):
            read()
    train, options = csr_array(np.ones((2, 5), np.float32)), {"outgoing": 1}
    with pytest.raises(ResultError, match=told):
        unpack_recommender(opened, train, "neighbours", options, {})


def test_room_may_be_left_in_a_row_and_ids_of_the_same_number_in_others():
    table_of(IDS, np.zeros(8, np.float32)).verify()
    table_of(np.array([0, 0, 0, 1, 1, 2, 3, 4]), np.zeros(8, np.float32)).verify()
    # What rounding made 0 keeps its item.
    table_of(weights=WEIGHTS * 1e-30, dtype="float16").verify()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_users": "1"}, "neighbours are of rows of items alone"),
        ({"num_tables": "2"}, "sizes of 16 parameters in all"),
        ({"format": "ciess-ray packed table 6"}, "its format is .* 6', not .* 2', .* 3', .* 4' or .* 5'"),
    ],
)
def test_a_header_that_lies(change, told):
    content = bytes_of(table_of())
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] |= change
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with pytest.raises(ResultError, match=told):
        PackedTable.from_buffer(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize(
    ("neighbours", "told"), [(IDS[:7], "7 neighbours do not belong to 8 values"), (None, None)]
)
def test_ids_and_values_belong_together(neighbours, told):
    sizes = EmbeddingSizes(np.zeros(0, int), SIZES, max_embedding_size=3)
    if told is None:
        table = PackedTable.of(WEIGHTS, sizes)
        with pytest.raises(ResultError, match="has no neighbours, unlike those of ease"):
            unpack_recommender(table, csr_array(np.ones((2, 5), np.float32)), "ease", {}, {})
        with pytest.raises(ResultError, match="has neighbours, unlike those of mf"):
            unpack_recommender(table_of(), csr_array(np.ones((0, 5), np.float32)), "mf", {}, {})
        return
    with pytest.raises(ResultError, match=told):
        PackedTable.of(WEIGHTS, sizes, neighbours=neighbours)


def test_any_bytes_are_refused_or_read_within_their_bounds():
    rng = random.Random(0)
    seeds = [
        bytes_of(table_of(dtype=dtype, num_items=number))
        for dtype in (*FLOATS, "int8", "int3")
        for number in (5, 40)
    ]
    num_read = 0
    for _ in range(2_000):
        content = bytearray(rng.choice(seeds))
        end = 8 + int.from_bytes(content[:8], "little")
        for _ in range(rng.randint(1, 3)):
            # Half of what is changed lies behind the header, where most of it can be read.
            at = rng.randrange(end, len(content)) if rng.random() < 0.5 else rng.randrange(len(content))
            content[at] = rng.randrange(256)
        try:
            table = PackedTable.from_buffer(bytes(content))
            assert table.neighbours is not None
            with np.errstate(invalid="ignore", over="ignore"):
                weights = weights_of(table)
        except ResultError:
            continue
        num_read += 1
        assert (weights.indices < weights.shape[1]).all()
        assert np.isfinite(weights.data).all() and not weights.diagonal().any()
        num_weights = weights.nnz
        weights.sum_duplicates()
        assert weights.nnz == num_weights
    assert num_read > 50


@pytest.mark.parametrize("name", ["neighbours", "ease"])
@pytest.mark.parametrize("amount", [2_000, 2_345, 2_346, 4_000])
def test_a_budget_in_bytes_counts_ids_and_is_used_up(make_interactions, name, amount):
    train = make_interactions().train
    cap = MemoryBudget(amount, "bytes").cap_params(40, 1, 39, id_bytes=2)
    sizes = EmbeddingSizes.equal(0, 40, cap, 1, 39, np.random.default_rng(0))
    recommender = build_recommender(name, train, sizes, generator=torch.Generator())
    assert recommender.id_bytes(40) == 2 and recommender.id_bytes(65_537) == 4
    recommender.solve(np.random.default_rng(0))
    num_bytes = pack_recommender(recommender, name).num_bytes
    # The header may take 1,024 bytes and takes less.
    assert num_bytes <= amount < num_bytes + HEADER_BYTES
    assert amount - packed_bytes(sizes.num_params, 40, 39, 2) < 6
