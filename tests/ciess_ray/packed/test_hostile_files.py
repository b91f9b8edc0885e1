"""Files that are no packed table, or a damaged one."""

import contextlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from table_bytes import bytes_of

from ciess_ray.packed.codes import FLOATS
from ciess_ray.packed.file import FORMAT, SHARED_FORMAT
from ciess_ray.packed.table import PackedTable
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes

FORMATS = FORMAT, SHARED_FORMAT
#: Files that former versions wrote.
FORMER = Path(__file__).parent / "former"


def header_and_data(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, data):
    """A header that differs from ours in what it says alone."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


class TestHostileFiles:
    @pytest.fixture(params=["float32", "former int8"])
    def content(self, request):
        if request.param != "float32":
            return (FORMER / "format-2-of-four-rows.safetensors").read_bytes()
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2, 4]), 1, 4)
        values = np.arange(1, 11, dtype=np.float32)
        return bytes_of(PackedTable.of(values, sizes))

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ResultError, match="nowhere: no such file"):
            PackedTable.open(tmp_path / "nowhere")

    def test_a_folder_an_empty_file_and_text(self, tmp_path):
        (tmp_path / "empty").touch()
        (tmp_path / "text").write_text("user,item\n1,2\n" * 100)
        for path in (tmp_path, tmp_path / "empty", tmp_path / "text"):
            with pytest.raises(ResultError, match=f"{path}: damaged"):
                PackedTable.open(path)

    def test_one_that_was_cut_off_or_has_more_at_its_end(self, content):
        for length in range(len(content)):
            with pytest.raises(ResultError):
                PackedTable.from_buffer(content[:length])
        with pytest.raises(ResultError, match="does not describe the .* bytes that follow"):
            PackedTable.from_buffer(content + b"\0")

    def test_another_format(self):
        other = safetensors.numpy.save({"values": np.zeros(3, np.float32)})
        with pytest.raises(ResultError, match="its format is None, not 'ciess-ray packed table 2'"):
            PackedTable.from_buffer(other)

    @pytest.mark.parametrize("missing", ["values", "sizes", "num_users", "max_embedding_size"])
    def test_a_part_that_is_missing(self, content, missing):
        header, data = header_and_data(content)
        header.pop(missing, None)
        header["__metadata__"].pop(missing, None)
        with pytest.raises(ResultError):
            PackedTable.from_buffer(with_header(header, data))

    @pytest.mark.parametrize(
        ("part", "change", "message"),
        [
            ("values", {"shape": [2**40]}, "does not describe"),
            ("values", {"shape": [-1]}, "does not describe"),
            ("values", {"shape": [5, 2]}, "does not describe"),
            ("values", {"shape": [True]}, "does not describe"),
            ("values", {"dtype": "F64"}, "describes no packed table: .*F64"),
            ("values", {"dtype": "U8"}, "describes no packed table"),
            ("values", {"dtype": ["F32"]}, "describes no packed table"),
            ("values", {"data_offsets": [-4, 36]}, r"cannot hold values of shape \(0,\)|describes no"),
            ("values", {"data_offsets": [2**61, 2**61 + 40]}, r"cannot hold values of shape \(0,\)"),
            ("sizes", {"data_offsets": [0, 4]}, "sizes between|cannot hold values"),
            ("sizes", {"dtype": "I8"}, "does not describe"),
            ("sizes", {"extra": 1}, "does not describe"),
            ("__metadata__", {"num_users": "5"}, "5 of 4 rows cannot be users"),
            ("__metadata__", {"num_users": "-1"}, "-1 of 4 rows cannot be users"),
            ("__metadata__", {"num_users": "9" * 400}, "describes no packed table: .*too large"),
            ("__metadata__", {"max_embedding_size": "3"}, "sizes between 1 and 4 lie outside"),
            ("__metadata__", {"min_embedding_size": "2"}, "sizes between 1 and 4 lie outside"),
            ("__metadata__", {"max_embedding_size": "300"}, "does not describe"),
            ("__metadata__", {"num_tables": "2"}, "sizes of 20 parameters in all"),
            ("__metadata__", {"num_tables": "0"}, "it has no rows, or no table"),
            ("__metadata__", {"recommender": 3}, "does not describe"),
        ],
    )
    def test_a_header_that_lies(self, content, part, change, message):
        header, data = header_and_data(content)
        header[part] |= change
        with pytest.raises(ResultError, match=message):
            PackedTable.from_buffer(with_header(header, data))

    @pytest.mark.parametrize(
        "text",
        [
            b"[]",
            b"{",
            b'{"__metadata__": []}',
            b'{"values": 1, "values": 2}',
            b"[" * 900,
            b"\xff\xfe" * 10,
            b"NaN",
        ],
    )
    def test_a_header_that_is_none(self, text):
        with pytest.raises(ResultError):
            PackedTable.from_buffer(len(text).to_bytes(8, "little") + text + b"\0" * 100)

    def test_a_header_longer_than_any_that_is_written(self):
        with pytest.raises(ResultError, match="its header says it has 1,025 bytes"):
            PackedTable.from_buffer((1025).to_bytes(8, "little") + b" " * 4000)

    @pytest.mark.parametrize(("row", "size"), [(0, 9), (0, 0), (2, 4)])
    def test_sizes_that_were_changed(self, content, row, size):
        header, data = header_and_data(content)
        changed = bytearray(data)
        changed[header["sizes"]["data_offsets"][0] + row] = size
        with pytest.raises(ResultError):
            PackedTable.from_buffer(with_header(header, bytes(changed)))

    @pytest.mark.parametrize("shared", [[], [0], [0, 1, 2]])
    def test_rows_that_are_shared_and_a_shared_row_or_a_format_that_is_not_theirs(self, shared):
        """A row of size 0 takes d_min values where the first of its kind is, which have to be there."""
        sizes = EmbeddingSizes(np.array([1, 1]), np.array([1, 4]), 1, 4, is_shared=np.isin(range(4), shared))
        table = PackedTable.of(np.ones(sizes.num_params, np.float32), sizes)
        header, data = header_and_data(bytes_of(table))
        assert header["__metadata__"]["format"] == f"ciess-ray packed table {3 if shared else 2}"
        PackedTable.from_buffer(with_header(header, data))
        other = {**header, "__metadata__": header["__metadata__"] | {"format": FORMATS[not shared]}}
        with pytest.raises(ResultError, match="its format is .*, and its rows are those of"):
            PackedTable.from_buffer(with_header(other, data))
        num_values = len(data) // 4 - 2
        header["values"] |= {"shape": [num_values], "data_offsets": [0, 4 * num_values]}
        header["sizes"] |= {"data_offsets": [4 * num_values, 4 * num_values + 4]}
        with pytest.raises(ResultError, match=f"sizes of {num_values + 1} parameters in all cannot hold"):
            PackedTable.from_buffer(with_header(header, data[4:]))

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_values_that_are_no_numbers_are_found_by_verify(self, dtype):
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2, 4]), 1, 4)
        table = PackedTable.of(np.ones(10, np.float32), sizes, dtype=dtype)
        table.values[7] = {"float32": np.nan, "float16": np.inf, "bfloat16": 0x7FC0}[dtype]
        opened = PackedTable.from_buffer(bytes_of(table))
        with pytest.raises(ResultError, match="value 7 of 10 is no finite number"):
            opened.verify()

    @pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0])
    def test_scales_that_are_none_are_found_by_verify(self, scale):
        sizes = EmbeddingSizes(np.array([1, 3]), np.array([2, 4]), 1, 4)
        table = PackedTable.of(np.ones(10, np.float32), sizes, dtype="int8")
        table.scales[2] = scale
        with pytest.raises(ResultError, match="a scale of the table"):
            PackedTable.from_buffer(bytes_of(table)).verify()

    def test_any_bytes_are_refused_or_read_within_their_bounds(self):
        """Bytes flipped, cut out, put in, copied: what opens has all of its rows, or verify refuses it."""
        rng, rng_of_bits = random.Random(0), np.random.default_rng(0)
        seeds = [file.read_bytes() for file in FORMER.glob("*.safetensors")]
        for dtype in (*FLOATS, "int8", "int5", "int3/int4", "mixed"):
            for num_tables, d_max in ((1, 4), (2, 300)):
                user = 1 + np.arange(90) % 4
                is_shared = np.append(user == 1, [False] * 2) if d_max == 300 else None
                sizes = EmbeddingSizes(user, np.array([2, 4]), 1, d_max, num_tables, is_shared=is_shared)
                values = np.arange(1, 1 + sizes.num_params, dtype=np.float32)
                bits = rng_of_bits.integers(2, 9, sizes.num_rows) if dtype == "mixed" else dtype
                table = PackedTable.of(values, sizes, dtype=bits, recommender="mf")
                seeds.append(bytes_of(table))
        num_opened = 0
        for _ in range(20_000):
            content = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(1, 4)):
                at, kind = rng.randrange(len(content)), rng.randrange(5)
                if kind == 0:
                    content[at] = rng.randrange(256)
                elif kind == 1:
                    content[at] ^= 1 << rng.randrange(8)
                elif kind == 2:
                    del content[at : at + rng.randint(1, 9)]
                elif kind == 3:
                    content[at:at] = rng.randbytes(rng.randint(1, 9))
                else:
                    # Digits and names elsewhere in the header are what lies best.
                    start = rng.randrange(len(content))
                    content[at : at + 4] = content[start : start + 4]
            try:
                table = PackedTable.from_buffer(bytes(content))
            except ResultError:
                continue
            num_opened += 1
            assert table.num_params == table.num_tables * int(table.sizes.held.sum())
            with np.errstate(invalid="ignore", over="ignore"):
                try:
                    table.verify()
                except ResultError:
                    with contextlib.suppress(ResultError):
                        assert np.isfinite(table.rows(np.arange(table.num_rows), 5)).all()
                    continue
                assert np.isfinite(table.unpack()).all()
        assert num_opened > 1000
