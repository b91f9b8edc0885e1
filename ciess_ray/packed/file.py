"""The file of a packed table, read without belief in it: safetensors, one header, two to four arrays."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.files.whole import unique_keys
from ciess_ray.packed.values import VALUE_TYPES
from envs.budget import HEADER_BYTES
from envs.errors import ResultError

FORMAT = "ciess-ray packed table 2"

#: By the bytes of a row's size, its type in the file and in memory.
SIZE_TYPES: dict[int, tuple[str, Any]] = {1: ("U8", np.uint8), 2: ("U16", np.uint16), 4: ("U32", np.uint32)}
STORED_SCALE, STORED_COLUMN = "F16", "U8"
_TYPES = dict([*VALUE_TYPES.values(), *SIZE_TYPES.values()])


def parse(content: memoryview) -> tuple[dict[str, NDArray[Any]], dict[str, str], dict[str, str]]:
    """Arrays, their types and the metadata of a packed table's file.

    Every offset is checked against the bytes that are there.

    Args:
        content: The whole file, of the format ``B``; the arrays share its memory.

    Raises:
        ResultError: The file is another, or contradicts itself.
    """
    if len(content) < 8:
        raise ResultError(f"{len(content)} bytes are no file of this kind")
    header_bytes = int.from_bytes(content[:8], "little")
    if not 2 <= header_bytes <= min(HEADER_BYTES, len(content) - 8):
        raise ResultError(f"its header says it has {header_bytes:,} bytes")
    try:
        header = json.loads(bytes(content[8 : 8 + header_bytes]), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise ResultError("its header is no JSON object")
    metadata = header.pop("__metadata__", None)
    known = metadata.get("format") if isinstance(metadata, dict) else None
    if known != FORMAT:
        raise ResultError(f"its format is {known!r}, not {FORMAT!r}")
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ResultError("its metadata is not all text")
    data = content[8 + header_bytes :]
    arrays, types, ranges = {}, {}, []
    for name, described in header.items():
        arrays[name], types[name], own_range = _array(name, described, data)
        ranges.append(own_range)
    if [start for start, _ in sorted(ranges)] + [len(data)] != [0] + [end for _, end in sorted(ranges)]:
        raise ResultError(f"its parts do not fill the {len(data):,} bytes after the header")
    expected = {"values", "sizes", "scales"} if types.get("values") == "I8" else {"values", "sizes"}
    if set(arrays) - {"first_columns"} != expected:
        raise ResultError(f"it has the parts {sorted(arrays)}, not {sorted(expected)}")
    if types["values"] not in (stored for stored, _ in VALUE_TYPES.values()):
        raise ResultError(f"its values are of the type {types['values']}")
    for name, stored in (("scales", STORED_SCALE), ("first_columns", STORED_COLUMN)):
        if types.get(name, stored) != stored:
            raise ResultError(f"its {name} are of the type {types[name]}, not {stored}")
    return arrays, types, metadata


def _array(name: str, described: Any, data: memoryview) -> tuple[NDArray[Any], str, tuple[int, int]]:
    """One part of the file, its type, and where it lies."""
    is_described = isinstance(described, dict) and set(described) == {"dtype", "shape", "data_offsets"}
    if not is_described:
        raise ResultError(f"its part {name[:40]!r} is not described as one")
    stored, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(stored, str) or stored not in _TYPES:
        raise ResultError(f"its part {name[:40]!r} is of the type {str(stored)[:40]!r}")
    if not _are_counts(shape, 1) or not _are_counts(offsets, 2):
        raise ResultError(f"its part {name[:40]!r} has no shape or place")
    dtype, (start, end) = np.dtype(_TYPES[stored]), offsets
    if not (start <= end <= len(data) and end - start == shape[0] * dtype.itemsize):
        raise ResultError(f"its part {name[:40]!r} does not lie where its header says")
    array = np.frombuffer(data, dtype, shape[0], start) if shape[0] else np.empty(0, dtype)
    return array, stored, (start, end)


def _are_counts(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(number) is int and 0 <= number < 2**62 for number in value)
    )


def header_of(tensors: Sequence[tuple[str, str, NDArray[Any]]], metadata: dict[str, str]) -> bytes:
    """Length and JSON, padded so that what follows is aligned.

    Args:
        tensors: Name, type in the file and array of each part, in the order of the file.
        metadata: What else is told, beside the format.
    """
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT} | metadata}
    end = 0
    for name, stored, array in tensors:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": stored, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def number_of(metadata: dict[str, str], key: str) -> int:
    """A number of the metadata, which is text.

    Raises:
        ResultError: There is none, or it is no number below 2^31.
    """
    text = metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) >= 2**31:
        raise ResultError(f"its {key} is {text[:40]!r}" if text else f"it does not say its {key}")
    return int(text)
