"""Everybody's interactions in a file, in about as many bits as the gaps between a user's items tell.

Of each user the items are sorted, and each is told by how many it leaves out after the one before. Those
numbers, and how many items each user has, are written byte by byte of their width, all first bytes before all
second ones, and compressed by LZMA: half of what ``scipy.sparse.save_npz`` takes of the same. Files of former
versions, which hold the arrays of a CSR matrix, are read too.
"""

import lzma
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.files.manifest import Manifest
from ciess_ray.files.whole import DEFLATED, arrays_of, whole_file
from envs.errors import ResultError

#: No file says how much memory it is read with.
FILTERS: list[dict[str, int]] = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**23}]
#: Users, items, interactions, and bytes of a count and of a gap.
_NUMBERS = 5
_TYPES: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def write_interactions(file: Path, interactions: csr_array) -> None:
    """Write interactions, shape (num_users, num_items), whose items are sorted, in a compressed file."""
    counts = np.diff(interactions.indptr)
    indices = interactions.indices.astype(np.int64)
    before = np.concatenate([[-1], indices[:-1]])[: len(indices)]
    # The first of each user has none before it.
    before[interactions.indptr[:-1][counts > 0]] = -1
    parts = _narrow(counts), _narrow(indices - before - 1)
    plain = b"".join(map(_planes, parts))
    packed = lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)
    numbers = np.array([*interactions.shape, len(indices), *(part.itemsize for part in parts)], np.int64)
    with whole_file(file) as stream:
        if len(plain) > DEFLATED * len(packed):
            # So much of the same would be refused, as what fills memory from a small file is.
            shape = np.array(interactions.shape)
            indptr = interactions.indptr
            np.savez_compressed(stream, indptr=indptr, indices=interactions.indices, shape=shape)
        else:
            np.savez(stream, numbers=numbers, packed=np.frombuffer(packed, np.uint8))


def read_interactions_file(file: Path, shape: tuple[int | None, int]) -> csr_array:
    """What :func:`write_interactions` wrote: ones, shape (num_users, num_items), float32.

    Args:
        file: In a folder whose manifest, if it has one, tells what it was.
        shape: What it has to have; None where that is not known.

    Raises:
        ResultError: There is no such file, it is damaged, contradicts itself, or is of another shape.
    """
    Manifest.read(file.parent).verify(file.name)
    try:
        parts = arrays_of(file)
        numbers = parts["shape" if "shape" in parts else "numbers"].tolist()
        its_shape = int(numbers[0]), int(numbers[1])
        if its_shape != (its_shape[0] if shape[0] is None else shape[0], shape[1]):
            users = "no rows of users" if shape[0] is None else f"{shape[0]} users"
            raise ValueError(
                f"the table has {users} and {shape[1]} items, the interactions "
                f"{' and '.join(map(str, its_shape))}: they come from different searches"
            )
        if "packed" in parts:
            indptr, indices = unpacked(numbers, parts["packed"])
        else:
            indptr, indices = parts["indptr"], parts["indices"]
        if indptr.dtype.kind != "i" or indices.dtype.kind != "i":
            raise ValueError("its parts are no whole numbers")
        graph = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=its_shape)
        graph.check_format(full_check=True)
        if not graph.has_canonical_format:
            raise ValueError("its items are out of order, or stand twice")
        return graph
    except Exception as error:  # Of zipfile, zlib, lzma, NumPy or SciPy, by where the damage is.
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error


def unpacked(numbers: list[int], packed: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where each user's items begin, and the items.

    Args:
        numbers: What the file says of them.
        packed: Bytes.

    Raises:
        ValueError: The bytes are not what the numbers say, or say too much.
    """
    if len(numbers) != _NUMBERS or packed.dtype != np.uint8 or min(numbers) < 0:
        raise ValueError("its parts are none of interactions")
    num_users, num_items, num_interactions, *widths = numbers
    sizes = [number * width for number, width in zip((num_users, num_interactions), widths, strict=True)]
    if sum(sizes) > DEFLATED * len(packed):
        raise ValueError(f"it claims {sum(sizes):,} bytes")
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    plain = decompressor.decompress(packed.tobytes(), max_length=sum(sizes) + 1)
    if len(plain) != sum(sizes) or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"its bytes are not the {sum(sizes):,} that it says")
    counts, gaps = (
        _whole(plain[first : first + size], width)
        for first, size, width in zip((0, sizes[0]), sizes, widths, strict=True)
    )
    if counts.sum() != num_interactions:
        raise ValueError(f"its users have {counts.sum():,} interactions, and not {num_interactions:,}")
    indptr = np.concatenate([[0], np.cumsum(counts)])
    steps = np.concatenate([[0], np.cumsum(gaps + 1)])
    indices = steps[1:] - np.repeat(steps[indptr[:-1]], counts) - 1
    if len(indices) and indices.max() >= num_items:
        raise ValueError(f"it has an item {indices.max():,} of {num_items:,}")
    return indptr.astype(np.int32 if num_interactions < 2**31 else np.int64), indices.astype(np.int32)


def _narrow(numbers: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """Numbers in the fewest bytes that hold all of them."""
    most = int(numbers.max(initial=0))
    narrow = next(of_width for width, of_width in _TYPES.items() if most < 256**width)
    return np.ascontiguousarray(numbers, narrow)


def _planes(numbers: NDArray[np.unsignedinteger]) -> bytes:
    """The lowest bytes of all numbers, then the next ones."""
    little = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
    return little.view(np.uint8).reshape(len(numbers), numbers.itemsize).T.tobytes()


def _whole(planes: bytes, width: int) -> NDArray[np.int64]:
    """What :func:`_planes` took apart."""
    if width not in _TYPES:
        raise ValueError(f"its numbers have {width} bytes")
    parts = np.frombuffer(planes, np.uint8).reshape(width, len(planes) // width)
    whole = np.zeros(parts.shape[1], np.int64)
    for place, part in enumerate(parts):
        whole |= part.astype(np.int64) << 8 * place
    return whole
