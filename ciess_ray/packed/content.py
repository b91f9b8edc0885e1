"""The parts of a packed table's file, and the table that they make."""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.codes import (
    LEAST_BITS,
    MIXED,
    MOST_BITS,
    bits_of_rows,
    pack_sizes,
    scale_groups,
    type_of_bits,
    unpack_sizes,
)
from ciess_ray.packed.file import CODED_FORMAT, FORMATS, SIZE_TYPES, TYPES, VALUE_TYPES, Part, header_of
from ciess_ray.packed.layout import RowLayout
from ciess_ray.packed.neighbours import id_type
from envs.budget import index_bytes_per_row
from envs.errors import ResultError

if TYPE_CHECKING:
    from ciess_ray.packed.table import PackedTable

_MAX_NAME = 200
_NUMBERS = ("num_users", "min_embedding_size", "max_embedding_size", "num_tables")


def parts_of(table: "PackedTable") -> list[Part]:
    """Names, types in the file and arrays as they follow each other: the widest first, all aligned."""
    size_type = SIZE_TYPES[index_bytes_per_row(table.max_embedding_size)][0]
    values = "U8" if table.row_bits is not None else VALUE_TYPES[table.dtype][0]
    sizes, scales, bits = table.row_sizes, table.scales, None
    if table.row_bits is not None:
        size_type, sizes = "U8", np.concatenate([packed for _, _, packed in _packed_sizes(table)])
        groups, num_scales = scale_groups(table.layout.held, table.row_bits, table.num_users)
        # The first of a group has what all of it have.
        shown, first = np.unique(groups, return_index=True)
        scales = table.scales[first[shown >= 0]] if table.scales is not None and num_scales else None
        bits = table.row_bits if table.dtype == MIXED else None
    parts = [
        ("values", values, table.values),
        ("neighbours", id_type(table.num_rows)[0], table.neighbours),
        ("sizes", size_type, sizes),
        ("scales", "F16", scales),
        ("first_columns", "U8", table.first_columns),
        ("row_bits", "U8", bits),
    ]
    held = [(name, stored, array) for name, stored, array in parts if array is not None]
    return sorted(held, key=lambda part: -part[2].itemsize)


def header(table: "PackedTable", parts: list[Part]) -> bytes:
    """The header of a table's file."""
    metadata = {"format": table.format, "version": version("ciess-ray")}
    metadata |= {name: str(getattr(table, name)) for name in _NUMBERS}
    if table.row_bits is not None:
        metadata |= {"num_items": str(table.num_rows - table.num_users), "dtype": table.dtype}
        metadata["sizes"] = " ".join(f"{least}+{bits}" for least, bits, _ in _packed_sizes(table))
        if not table.is_signed:
            metadata["is_signed"] = "0"
    if table.recommender is not None and len(json.dumps(table.recommender)) <= _MAX_NAME:
        metadata["recommender"] = table.recommender
    return header_of(parts, metadata)


def read_table(content: memoryview, end: int) -> tuple[dict[str, str], dict[str, Any]]:
    """What a file says: its metadata as they are written anew, and what a table is made of, without a copy.

    Whatever is wrong with it is raised as it comes, of json or NumPy.

    Args:
        content: Of the file.
        end: Where its header ends.

    Raises:
        ResultError: It is of another format, or its parts contradict each other.
    """
    data = np.frombuffer(content[end:], np.uint8)
    described = json.loads(bytes(content[8:end]))
    metadata = {name: str(value) for name, value in described.pop("__metadata__", {}).items()}
    if metadata.get("format") not in FORMATS:
        *others, last = map(repr, FORMATS)
        raise ResultError(f"its format is {metadata.get('format')!r}, not {', '.join(others)} or {last}")
    arrays = {
        name: data[slice(*part["data_offsets"])].view(TYPES[part["dtype"]])
        for name, part in described.items()
    }
    numbers = {name: int(np.int32(metadata[name])) for name in _NUMBERS}
    told: dict[str, Any] = {
        **numbers,
        "values": arrays["values"],
        "recommender": metadata.get("recommender"),
        "first_columns": arrays.get("first_columns"),
        "neighbours": arrays.get("neighbours"),
    }
    if metadata["format"] == CODED_FORMAT:
        told |= _read_coded(metadata, numbers, arrays)
        metadata["num_items"] = str(len(told["row_sizes"]) - numbers["num_users"])
        metadata["sizes"] = " ".join(f"{least}+{bits}" for least, bits in _kinds(metadata))
        if told["is_signed"]:
            metadata.pop("is_signed", None)
    else:
        dtypes = {stored: dtype for dtype, (stored, _) in VALUE_TYPES.items()}
        told |= {
            "row_sizes": arrays["sizes"],
            "dtype": dtypes[described["values"]["dtype"]],
            "scales": arrays.get("scales"),
        }
    return metadata | {name: str(number) for name, number in numbers.items()}, told


def _read_coded(
    metadata: dict[str, str], numbers: dict[str, int], arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """What a table of codes has of its rows, which are told in fewer bytes than they take in memory."""
    num_users, num_items = numbers["num_users"], int(np.int32(metadata["num_items"]))
    if num_users < 0 or num_items < 0 or numbers["num_tables"] < 1:
        raise ResultError(f"it has {num_users} users and {num_items} items in {numbers['num_tables']} tables")
    kinds = _kinds(metadata)
    counts, packed = (num_users, num_items), arrays["sizes"]
    (_, bits), (_, bits_of_items) = kinds
    if not 0 <= min(bits, bits_of_items) <= max(bits, bits_of_items) <= 32:
        raise ResultError(f"its sizes are said to take {metadata['sizes']!r}")
    nbytes = [-(-count * each // 8) for count, (_, each) in zip(counts, kinds, strict=True)]
    # A row has the bits of a number of its own, or, where it shows another, one that says so.
    num_told = 8 // LEAST_BITS * len(arrays["values"]) + 8 * len(packed)
    if sum(nbytes) != len(packed) or num_users + num_items > num_told:
        raise ResultError(f"{len(packed):,} bytes are not the sizes of {num_users + num_items:,} rows")
    parts = np.split(packed, [nbytes[0]])
    size_type = SIZE_TYPES[index_bytes_per_row(numbers["max_embedding_size"])][1]
    sizes = np.concatenate(
        [
            unpack_sizes(part, count, least, each)
            for part, count, (least, each) in zip(parts, counts, kinds, strict=True)
        ]
    )
    if len(sizes) and not 0 <= sizes.min() <= sizes.max() <= numbers["max_embedding_size"]:
        raise ResultError(f"sizes between {sizes.min()} and {sizes.max()} are none of its rows")
    dtype, row_sizes = metadata["dtype"], sizes.astype(size_type)
    row_bits = arrays.get("row_bits") if dtype == MIXED else bits_of_rows(dtype, num_users, len(sizes))
    if row_bits is None:
        raise ResultError(f"its values are {dtype!r}, which are no codes, or lack their bits")
    check_bits(row_bits, dtype, num_users, len(sizes))
    bounds = numbers["min_embedding_size"], numbers["max_embedding_size"]
    held = RowLayout(row_sizes, num_users, *bounds, numbers["num_tables"]).held
    groups, num_scales = scale_groups(held, row_bits, num_users)
    scales = arrays.get("scales", np.empty(0, np.float16))
    if scales.shape != (num_scales,) or scales.dtype != np.float16:
        raise ResultError(f"{scales.size:,} scales do not belong to rows that have {num_scales:,}")
    of_rows = np.where(groups >= 0, scales[groups] if num_scales else np.float16(0), np.float16(0))
    return {
        "row_sizes": row_sizes,
        "dtype": dtype,
        "scales": of_rows.astype(np.float16),
        "row_bits": row_bits,
        "is_signed": metadata.get("is_signed") != "0",
    }


def _kinds(metadata: dict[str, str]) -> list[tuple[int, int]]:
    """Of users and of items, the least size, and the bits that each takes beyond it."""
    pairs = [tuple(map(int, text.split("+"))) for text in metadata["sizes"].split(" ")]
    return [(least, bits) for least, bits in pairs]


def check_bits(row_bits: NDArray[np.uint8], dtype: str, num_users: int, num_rows: int) -> None:
    """See that rows have bits of codes, and those that their table says.

    Raises:
        ResultError: They have not.
    """
    if row_bits.shape != (num_rows,) or not 0 <= num_users <= num_rows:
        raise ResultError(f"bits of shape {row_bits.shape} do not belong to {num_rows} rows")
    if len(row_bits) and not LEAST_BITS <= row_bits.min() <= row_bits.max() <= MOST_BITS:
        raise ResultError(f"codes of {row_bits.min()} to {row_bits.max()} bits are none")
    if dtype != type_of_bits(row_bits, num_users):
        raise ResultError(f"its codes are {type_of_bits(row_bits, num_users)}, and not {dtype}")


def _packed_sizes(table: "PackedTable") -> list[tuple[int, int, NDArray[np.uint8]]]:
    return [pack_sizes(part) for part in np.split(table.row_sizes, [table.num_users])]
