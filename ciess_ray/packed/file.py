"""The file of a packed table, read without belief in it: safetensors, one header, two to four arrays."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.packed.values import VALUE_TYPES
from envs.budget import HEADER_BYTES
from envs.errors import ResultError

FORMAT = "ciess-ray packed table 2"

#: By the bytes of a row's size, its type in the file and in memory.
SIZE_TYPES: dict[int, tuple[str, Any]] = {1: ("U8", np.uint8), 2: ("U16", np.uint16), 4: ("U32", np.uint32)}
_TYPES = dict([*VALUE_TYPES.values(), *SIZE_TYPES.values()])

#: Name, type in the file and values of a part.
Part = tuple[str, str, NDArray[Any]]


def parse(content: memoryview) -> tuple[list[Part], dict[str, str]]:
    """Parts and metadata of a packed table's file, whose header is the one that these parts are given.

    Args:
        content: The whole file, of the format ``B``; the arrays share its memory.

    Raises:
        ResultError: The file is another, or its header tells of other bytes than those that are there.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    if not 8 < end <= min(8 + HEADER_BYTES, len(content)):
        raise ResultError(f"its header says it has {end - 8:,} bytes")
    data = np.frombuffer(content[end:], np.uint8)
    try:
        header = json.loads(bytes(content[8:end]))
        metadata = header.pop("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ResultError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ResultError("its metadata is not all text")
        parts = [
            (name, part["dtype"], data[slice(*part["data_offsets"])].view(_TYPES[part["dtype"]]))
            for name, part in header.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ResultError(f"its header describes no packed table ({error!r})") from None
    if header_of(parts, metadata) != content[:end] or sum(part.nbytes for *_, part in parts) != len(data):
        raise ResultError(f"its header does not describe the {len(data):,} bytes that follow it")
    return parts, metadata


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


def number_of(metadata: dict[str, str], key: str) -> int:
    """A number of the metadata, which is text.

    Raises:
        ResultError: There is none, or it is no number below 2^31.
    """
    text = metadata.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) >= 2**31:
        raise ResultError(f"its {key} is {text[:40]!r}")
    return int(text)
