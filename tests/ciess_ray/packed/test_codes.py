"""Tables whose values are codes of 2 to 8 bits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from table_bytes import bytes_of

from ciess_ray.packed.codes import MIXED, bits_of, pack_sizes, unpack_sizes
from ciess_ray.packed.embedding import PackedEmbedding
from ciess_ray.packed.file import CODED_FORMAT
from ciess_ray.packed.table import PackedTable
from envs.budget import HEADER_BYTES
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes

FORMER = Path(__file__).parent / "former"


def levels_of(bits):
    """What a scale is multiplied by."""
    if bits == 8:
        return np.arange(-127, 128)
    return np.arange(2**bits) - (2**bits - 1) / 2


def part_sizes(content):
    """Bytes of each part of a file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__")
    return {name: part["data_offsets"][1] - part["data_offsets"][0] for name, part in header.items()}


@st.composite
def cases(draw):
    """Numbers with sizes and the bits of each row; the type that these make."""
    num_users, num_items = draw(st.integers(0, 8)), draw(st.integers(1, 8))
    num_rows, num_tables = num_users + num_items, draw(st.integers(1, 2))
    row_sizes = np.array([draw(st.sampled_from([1, 1, 2, 3, 20])) for _ in range(num_rows)])
    sizes = EmbeddingSizes(row_sizes[:num_users], row_sizes[num_users:], 1, 20, num_tables)
    if draw(st.booleans()):
        is_shared = row_sizes == 1
        sizes = replace(sizes, is_shared=is_shared)
    of_users, of_items = draw(st.integers(2, 8)), draw(st.integers(2, 8))
    bits = np.repeat([of_users, of_items], [num_users, num_items])
    dtype = f"int{of_users}/int{of_items}" if draw(st.booleans()) else bits
    if draw(st.booleans()):
        dtype = bits = np.array([draw(st.integers(2, 8)) for _ in range(num_rows)])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.standard_normal(sizes.num_params).astype(np.float32)
    return values * np.float32(draw(st.sampled_from([1e-3, 1.0, 1e3]))), sizes, bits, dtype


@given(cases())
def test_every_number_is_the_nearest_level_of_its_row_and_codes_stand_without_gaps(case):
    values, sizes, bits, dtype = case
    table = PackedTable.of(values, sizes, dtype=dtype)
    content = bytes_of(table)
    opened = PackedTable.from_buffer(content)
    opened.verify()
    assert opened.format == CODED_FORMAT and len(content) == opened.num_bytes
    num_each = sizes.held * sizes.num_tables
    of_values, scales = np.repeat(bits, num_each), np.repeat(opened.scales, num_each).astype(np.float64)
    assert len(opened.values) == -(-int(of_values.sum()) // 8)
    found = opened.decoded()
    for value, its, scale, number in zip(values, of_values, scales, found, strict=True):
        distances = np.abs(levels_of(its) * scale - value)
        assert abs(abs(number - value) - distances.min()) <= 1e-5 * scale
    # Rows of one number share a scale with those of their kind and bits, others have their own.
    rows = np.arange(sizes.num_rows)
    ones = {(row >= len(sizes.user), bits[row]) for row in rows[sizes.held == 1]}
    own = int((sizes.held > 1).sum())
    assert part_sizes(content).get("scales", 0) == 2 * (len(ones) + own)
    for kind, its in ones:
        alike = rows[(sizes.held == 1) & (bits == its) & ((rows >= len(sizes.user)) == kind)]
        assert len(set(opened.scales[alike].tolist())) == 1
    # Whatever they are asked through, rows are the same.
    whole = opened.unpack()
    np.testing.assert_array_equal(PackedEmbedding(opened)(torch.arange(sizes.num_rows)).numpy(), whole)
    np.testing.assert_array_equal(table.unpack(), whole)
    assert opened.dtype == table.dtype and (opened.row_bits == bits).all()
    assert (opened.dtype == MIXED) == ("row_bits" in part_sizes(content))
    again = PackedTable.of(values, opened.sizes, dtype=opened.row_bits)
    assert bytes_of(again) == content


@pytest.mark.parametrize("bits", range(2, 9))
def test_scales_are_better_than_those_that_reach_to_the_largest_number(bits):
    rng = np.random.default_rng(bits)
    sizes = EmbeddingSizes.full(100, 100, 48)
    values = rng.standard_normal(sizes.num_params).astype(np.float32)
    found = PackedTable.of(values, sizes, dtype=f"int{bits}").decoded()
    rows = values.reshape(200, 48).astype(np.float64)
    steps = np.abs(rows).max(axis=1, keepdims=True) / levels_of(bits)[-1]
    half = 0.5 * (bits < 8)
    plain = (np.rint(rows / steps - half).clip(levels_of(bits)[0] - half) + half) * steps
    error, of_plain = np.square(found - values).mean(), np.square(plain - rows).mean()
    # Max (IRE 1960): evenly spaced levels for one scale of all have .1188, .0374, .0115 and .0035.
    most = {2: 0.119, 3: 0.037, 4: 0.0115, 5: 0.0035}.get(bits, of_plain * 1.01)
    assert error <= min(of_plain * 1.01, most)


def test_a_row_of_one_number_costs_its_code_and_constant_sizes_cost_nothing():
    sizes = EmbeddingSizes(np.full(40, 39), np.ones(1_000, int), 1, 128)
    values = np.random.default_rng(0).standard_normal(sizes.num_params).astype(np.float32)
    for of_users, of_items in ((8, 8), (4, 8), (3, 2)):
        table = PackedTable.of(values, sizes, dtype=f"int{of_users}/int{of_items}")
        parts = part_sizes(bytes_of(table))
        assert parts == {
            "values": -(-(40 * 39 * of_users + 1_000 * of_items) // 8),
            "scales": 2 * (40 + 1),
            "sizes": 0,
        }
        assert 0 < table.num_bytes - sum(parts.values()) <= HEADER_BYTES
    # Of two neighbouring sizes one bit tells which.
    mixed = EmbeddingSizes(np.repeat([38, 39], 20), np.ones(1_000, int), 1, 128)
    assert part_sizes(bytes_of(PackedTable.of(values[:-20], mixed, dtype="int4")))["sizes"] == 5


@pytest.mark.parametrize(("least", "most"), [(1, 1), (0, 0), (0, 1), (3, 7), (1, 256), (0, 70_000)])
def test_sizes_take_the_bits_of_their_differences(least, most):
    sizes = np.random.default_rng(0).integers(least, most + 1, 101).astype(np.uint32)
    sizes[:2] = least, most
    first, bits, packed = pack_sizes(sizes)
    assert (first, bits) == (least, max((most - least).bit_length(), least == 0))
    assert len(packed) == -(-101 * bits // 8)
    np.testing.assert_array_equal(unpack_sizes(packed, 101, first, bits), sizes)


def test_zeros_stay_zeros_and_tiny_numbers_are_not_lost():
    sizes = EmbeddingSizes(np.array([2, 3]), np.array([2, 1, 1]))
    values = np.array([0, 0, 0, 0, 0, 1e-6, -2e-6, 0, 0], np.float32)
    for dtype in ("int8", "int4", "int2"):
        table = PackedTable.of(values, sizes, dtype=dtype)
        found = PackedTable.from_buffer(bytes_of(table)).decoded()
        assert (found[[0, 1, 2, 3, 4, 7, 8]] == 0).all() and (np.abs(found[5:7]) > 0).all()
    with pytest.raises(ResultError, match="not finite"):
        PackedTable.of(np.where(values, np.float32(np.nan), values), sizes, dtype="int3")


def test_a_table_of_rows_of_the_least_size_alone():
    sizes = EmbeddingSizes(np.ones(3, int), np.ones(4, int), 1, 16)
    table = PackedTable.of(np.arange(-3, 4, dtype=np.float32), sizes, dtype="int8")
    opened = PackedTable.from_buffer(bytes_of(table))
    np.testing.assert_allclose(opened.decoded(), np.arange(-3, 4), atol=0.02)
    assert part_sizes(bytes_of(table)) == {"values": 7, "scales": 4, "sizes": 0}


def test_weights_that_are_all_positive_have_every_level_and_those_of_an_item_for_itself_are_none():
    sizes = EmbeddingSizes(np.zeros(0, int), np.array([2, 2, 2]), 1, 2)
    ids = np.array([1, 2, 0, 1, 0, 2])
    for sign, num_signed in ((1, 0), (-1, 1)):
        weights = np.array([0.5, 0.25, 1.0, 0.0, sign * 0.125, 0.0], np.float32)
        table = PackedTable.of(weights, sizes, dtype="int4", neighbours=ids)
        opened = PackedTable.from_buffer(bytes_of(table))
        opened.verify()
        assert opened.is_signed == table.is_signed == bool(num_signed)
        found = opened.decoded()
        assert found[3] == found[5] == 0
        np.testing.assert_allclose(found, weights, atol=0.04 + 0.04 * num_signed)


@pytest.mark.parametrize("file", sorted(FORMER.glob("*.safetensors")), ids=lambda file: file.name)
def test_files_of_former_versions_are_read_and_become_codes(file, tmp_path):
    expected = np.array(json.loads((FORMER / "unpacked.json").read_text())[file.name], np.float32)
    table = PackedTable.open(file)
    table.verify()
    np.testing.assert_array_equal(table.unpack(), expected)
    np.testing.assert_array_equal(PackedEmbedding(table)(torch.arange(table.num_rows)).numpy(), expected)
    # Byte for byte as it was.
    table.save(tmp_path / "again")
    metadata = b'"version":"'
    before, after = (path.read_bytes().split(metadata) for path in (file, tmp_path / "again"))
    assert before[0][8:] == after[0][8:] and before[1].split(b'"', 1)[1] == after[1].split(b'"', 1)[1]
    coded = PackedTable.from_buffer(bytes_of(table.astype("int8")))
    np.testing.assert_allclose(coded.unpack(), expected, atol=0.006 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("int4", (4, 4)),
        ("int8/int2", (8, 2)),
        ("int9", None),
        ("int1", None),
        ("float32", None),
        ("int4/", None),
    ],
)
def test_types_of_codes_are_read(dtype, bits):
    assert bits_of(dtype) == bits


@pytest.mark.parametrize("bits", [np.array([4, 4, 4]), np.array([4, 9]), np.array([1, 4])])
def test_bits_that_are_none_are_refused(bits):
    sizes = EmbeddingSizes(np.array([1]), np.array([2]))
    with pytest.raises(ResultError, match="codes of 2 rows have 2 to 8 bits each"):
        PackedTable.of(np.ones(3, np.float32), sizes, dtype=bits)


class TestHostileFiles:
    @pytest.fixture
    def content(self):
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2, 4]), 1, 4)
        values = np.arange(1, 11, dtype=np.float32)
        return bytes_of(PackedTable.of(values, sizes, dtype=np.array([2, 3, 4, 8])))

    def with_header(self, content, changes):
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        for part, change in changes.items():
            header[part] |= change
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + content[end:]

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            # Many rows that no byte tells of would take memory beyond that of the file.
            ({"num_items": "2000000000", "sizes": "1+2 1+0"}, "are not the sizes of 2,000,000,002 rows"),
            ({"num_users": "2000000000", "sizes": "0+0 2+2"}, "are not the sizes of 2,000,000,002 rows"),
            ({"num_items": "-2"}, "2 users and -2 items"),
            ({"num_users": "-2"}, "-2 users"),
            ({"num_tables": "0"}, "in 0 tables"),
            ({"sizes": "1+2 2+40"}, "its sizes are said to take '1.2 2.40'"),
            ({"sizes": "1+-2 2+2"}, "its sizes are said to take"),
            ({"sizes": "9+2 2+2"}, "sizes between 2 and"),
            ({"sizes": "1+2"}, "describes no packed table"),
            ({"sizes": "01+2 2+2"}, "does not describe"),
            ({"dtype": "int4"}, "its codes are mixed|scales|cannot hold|does not describe"),
            ({"dtype": "float32"}, "which are no codes, or lack their bits"),
            ({"is_signed": "1"}, "does not describe"),
            ({"format": "ciess-ray packed table 2"}, "describes no packed table"),
        ],
    )
    def test_a_header_that_lies(self, content, change, says):
        with pytest.raises(ResultError, match=says):
            PackedTable.from_buffer(self.with_header(content, {"__metadata__": change}))

    @pytest.mark.parametrize("bits", [0, 1, 9, 255])
    def test_bits_of_rows_that_are_none(self, content, bits):
        changed = bytearray(content)
        changed[-1] = bits
        with pytest.raises(ResultError, match="bits are none"):
            PackedTable.from_buffer(bytes(changed))

    @pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
    def test_scales_that_are_none_are_found_by_verify_and_not_served(self, content, scale):
        table = PackedTable.from_buffer(content)
        table.scales[1] = scale
        with pytest.raises(ResultError, match="a scale of the table"):
            table.verify()
        if scale != -1.0:
            for read in (table.unpack, lambda: PackedEmbedding(table)(torch.arange(4))):
                with pytest.raises(ResultError, match="no finite number"):
                    read()
