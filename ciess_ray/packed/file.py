"""What the file of a packed table holds: a header, and its parts, which are arrays.

The file is plain safetensors. Its values are of a type that :data:`VALUE_TYPES` names.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.budget import HEADER_BYTES
from envs.errors import ResultError

FORMAT = "ciess-ray packed table 2"
#: Of a table of which some rows are shared, which older versions cannot read.
SHARED_FORMAT = "ciess-ray packed table 3"
#: Of a table whose values have ids beside them, which versions before it cannot read.
NEIGHBOUR_FORMAT = "ciess-ray packed table 4"
FORMATS = FORMAT, SHARED_FORMAT, NEIGHBOUR_FORMAT
#: What is told of a number that is none.
DAMAGED = "the table is damaged, or its training went wrong; write it again"
#: Values that are looked at in one go.
_CHUNK = 2**17

#: Name in the file and in memory of each type that values may have; bfloat16 is kept as its 16 bits.
VALUE_TYPES: dict[str, tuple[str, Any]] = {
    "float32": ("F32", np.float32),
    "float16": ("F16", np.float16),
    "bfloat16": ("BF16", np.uint16),
    "int8": ("I8", np.int8),
}

#: By the bytes of a row's size, its type in the file and in memory.
SIZE_TYPES: dict[int, tuple[str, Any]] = {1: ("U8", np.uint8), 2: ("U16", np.uint16), 4: ("U32", np.uint32)}
#: By its name in the file, each type in memory.
TYPES: dict[str, Any] = dict([*VALUE_TYPES.values(), *SIZE_TYPES.values()])

#: Name, type in the file and values of a part.
Part = tuple[str, str, NDArray[Any]]


def header_of(parts: Sequence[Part], metadata: dict[str, str]) -> bytes:
    """Length and JSON, padded so that what follows is aligned.

    Args:
        parts: In the order of the file.
        metadata: What else is told, the format first.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, stored, array in parts:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": stored, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_end(content: memoryview) -> int:
    """Where a file's header ends.

    Raises:
        ResultError: It is longer than the file, or than any that is written.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    if not 8 < end <= min(8 + HEADER_BYTES, len(content)):
        raise ResultError(f"its header says it has {end - 8:,} bytes")
    return end


def read_parts(content: memoryview, end: int) -> tuple[dict[str, str], str, dict[str, Any]]:
    """What a header says: metadata, the type of the values, and the parts by name, without a copy.

    Whatever is wrong with it is raised as it comes, of json or NumPy.

    Args:
        content: Of the file.
        end: Where its header ends.

    Raises:
        ResultError: It is of another format.
    """
    data = np.frombuffer(content[end:], np.uint8)
    header = json.loads(bytes(content[8:end]))
    metadata = {name: str(value) for name, value in header.pop("__metadata__", {}).items()}
    if metadata.get("format") not in FORMATS:
        *others, last = map(repr, FORMATS)
        raise ResultError(f"its format is {metadata.get('format')!r}, not {', '.join(others)} or {last}")
    arrays = {
        name: data[slice(*part["data_offsets"])].view(TYPES[part["dtype"]]) for name, part in header.items()
    }
    dtypes = {stored: dtype for dtype, (stored, _) in VALUE_TYPES.items()}
    return metadata, dtypes[header["values"]["dtype"]], arrays


def check_numbers(values: NDArray[Any], dtype: str, scales: NDArray[np.float16] | None) -> None:
    """Read every value once and see that it is a number.

    Raises:
        ResultError: A value or a scale is NaN or infinite, or a scale is negative.
    """
    for first in range(0, len(values), _CHUNK):
        is_finite = np.isfinite(decode(values[first : first + _CHUNK], dtype))
        if not is_finite.all():
            at = first + int(np.argmin(is_finite))
            raise ResultError(f"value {at:,} of {len(values):,} is no finite number: {DAMAGED}.")
    if scales is not None and not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ResultError("a scale of the table is negative or no finite number: it is damaged.")


def encode(
    values: NDArray[np.float32], row_sizes: NDArray[Any], num_tables: int, dtype: str
) -> tuple[NDArray[Any], NDArray[np.float16] | None]:
    """Values in another type, and for int8 the scale of each row.

    Args:
        values: Row after row, shape (num_params,).
        row_sizes: Numbers that stand at each row, shape (num_rows,); 0 where it shows another.
        num_tables: Tables in which every row has its size.
        dtype: A key of :data:`VALUE_TYPES`.

    Raises:
        ResultError: A number is not finite in this type, or there is no such type.
    """
    if dtype not in VALUE_TYPES:
        raise ResultError(f"unknown type of value {dtype!r}; known: {', '.join(VALUE_TYPES)}.")
    scales: NDArray[np.float16] | None = None
    encoded: NDArray[Any]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "int8":
            num_values = row_sizes.astype(np.int64) * num_tables
            first = np.cumsum(num_values) - num_values
            holds = np.flatnonzero(num_values)
            exact = np.zeros(len(num_values), np.float32)
            if len(holds):
                exact[holds] = np.maximum.reduceat(np.abs(values), first[holds]) / 127.0
            scales = exact.astype(np.float16)
            # Rounded up, so that the largest value still fits.
            scales = np.where(scales < exact, np.nextafter(scales, np.float16(np.inf)), scales)
            steps = np.repeat(scales.astype(np.float32), num_values)
            scaled = np.divide(values, steps, out=np.zeros_like(values), where=steps > 0)
            encoded = np.rint(scaled).astype(np.int8)
        elif dtype == "bfloat16":
            bits = values.view(np.uint32)
            # To the nearest, halves to even.
            encoded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        else:
            encoded = values.astype(VALUE_TYPES[dtype][1], copy=False)
    held = (values, decode(encoded, dtype), *(() if scales is None else (scales,)))
    if not all(np.isfinite(numbers).all() for numbers in held):
        raise ResultError(f"the table holds numbers that are not finite in {dtype}: float32 or retrain it.")
    return encoded, scales


def decode(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Numbers of stored values; of int8 before their scales."""
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def windows(values: NDArray[Any], starts: NDArray[np.int64], width: int) -> NDArray[Any]:
    """The ``width`` values from each start on, shape (len(starts), width); zeros beyond the end."""
    if len(values) < width:
        values = np.concatenate([values, np.zeros(width, values.dtype)])
    last = len(values) - width
    # An element for each place of the buffer, as wide as a row: taking one is one copy.
    window = np.ndarray((last + 1,), np.dtype((np.void, width * values.itemsize)), values, 0, values.strides)
    taken = window[np.minimum(starts, last)].view(values.dtype).reshape(len(starts), width)
    late = np.flatnonzero(starts > last)
    if late.size:
        tail = np.concatenate([values[last:], np.zeros(width, values.dtype)])
        taken[late] = tail[(starts[late] - last)[:, None] + np.arange(width)]
    return taken
