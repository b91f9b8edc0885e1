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
#: Of a table whose values are codes of 2 to 8 bits, which versions before it cannot read.
CODED_FORMAT = "ciess-ray packed table 5"
FORMATS = FORMAT, SHARED_FORMAT, NEIGHBOUR_FORMAT, CODED_FORMAT
#: What is told of a number that is none.
DAMAGED = "the table is damaged, or its training went wrong; write it again"
#: Values that are looked at in one go.
_CHUNK = 2**17

#: Name in the file and in memory of each type that values may have, but for codes, which are bytes; bfloat16
#: is kept as its 16 bits. int8 is that of tables from before codes, with a scale of its own for every row.
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


def check_numbers(values: NDArray[Any] | None, dtype: str, scales: NDArray[np.float16] | None) -> None:
    """Read every value once and see that it is a number.

    Args:
        values: As they are stored; None of codes, which are always numbers.
        dtype: Their type.
        scales: Of the rows.

    Raises:
        ResultError: A value or a scale is NaN or infinite, or a scale is negative.
    """
    for first in range(0, 0 if values is None else len(values), _CHUNK):
        assert values is not None
        is_finite = np.isfinite(decode(values[first : first + _CHUNK], dtype))
        if not is_finite.all():
            at = first + int(np.argmin(is_finite))
            raise ResultError(f"value {at:,} of {len(values):,} is no finite number: {DAMAGED}.")
    if scales is not None and not (np.isfinite(scales).all() and (scales >= 0).all()):
        raise ResultError("a scale of the table is negative or no finite number: it is damaged.")


def encode(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Values in another type of floating-point numbers.

    Args:
        values: Row after row, shape (num_params,).
        dtype: float32, float16 or bfloat16.

    Raises:
        ResultError: A number is not finite in this type.
    """
    encoded: NDArray[Any]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            bits = values.view(np.uint32)
            # To the nearest, halves to even.
            encoded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        else:
            encoded = values.astype(VALUE_TYPES[dtype][1], copy=False)
    if not (np.isfinite(values).all() and np.isfinite(decode(encoded, dtype)).all()):
        raise ResultError(f"the table holds numbers that are not finite in {dtype}: float32 or retrain it.")
    return encoded


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
