"""The files of a folder that recommends: beside the packed table, what is not an embedding.

They are read with NumPy, SciPy and Arrow alone, so that a process that only serves never imports PyTorch or
Ray. Nothing in them is believed: what contradicts itself is refused.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.files.manifest import Manifest
from ciess_ray.files.whole import DEFLATED, read_npy_header, unique_keys, whole_file, write_whole
from envs.errors import ResultError

TABLE_FILE = "table.safetensors"
SCORER_FILE = "scorer.safetensors"
INTERACTIONS_FILE = "interactions.npz"
#: Held-out interactions, by which an export says what it costs; users have seen these too.
TEST_FILE = "test.npz"
IDS_FILE = "ids.parquet"
#: Recommenders that score by the inner product of rows which their graph computes.
PROPAGATING = ("lightgcn", "ngcf")
SCORER_FORMAT = "ciess-ray scorer 2"
_CHUNK = 2**20
#: Bytes, and entries, of one part of a Parquet file's own description.
_THRIFT = 2**24


@dataclass(frozen=True, eq=False)
class ScorerFile:
    """What ``scorer.safetensors`` holds.

    Attributes:
        recommender: Name in ``envs.recommenders.RECOMMENDERS``, or ``package.module:ClassName``.
        options: All of its options.
        state: Its parameters beside the table, by name.
        origin: Where the table holds representations that another recommender computed, that one's name.
    """

    recommender: str
    options: dict[str, Any]
    state: dict[str, NDArray[Any]]
    origin: str | None = None

    def write(self, folder: Path) -> None:
        """Write the file into a folder; equal parts make equal bytes."""
        metadata = {
            "format": SCORER_FORMAT,
            "recommender": self.recommender,
            "options": json.dumps(self.options, sort_keys=True),
        }
        if self.origin is not None:
            metadata["origin"] = self.origin
        state = {name: np.ascontiguousarray(value) for name, value in self.state.items()}
        write_whole(folder / SCORER_FILE, safetensors_of(state, metadata))

    @classmethod
    def read(cls, folder: Path) -> "ScorerFile":
        """Read the file of a folder.

        Raises:
            ResultError: There is none, it is damaged, or of another format.
        """
        path = folder / SCORER_FILE
        content = Manifest.read(folder).content(SCORER_FILE)
        try:
            header = json.loads(content[8 : 8 + _header_bytes(content)], object_pairs_hook=unique_keys)
            metadata = header.pop("__metadata__", {})
            state = safetensors.numpy.load(content)
            if state.keys() != header.keys():
                raise ValueError("its parts are not those that its header names")
        except Exception as error:  # Of json, safetensors or NumPy, by where the damage is.
            raise ResultError(
                f"{path}: damaged, or no safetensors file ({error}); write it again."
            ) from error
        if metadata.get("format") != SCORER_FORMAT:
            raise ResultError(f"{path}: its format is {metadata.get('format')!r}, not {SCORER_FORMAT!r}.")
        try:
            options = json.loads(metadata["options"], object_pairs_hook=unique_keys, parse_constant=_refuse)
            if not isinstance(options, dict):
                raise ValueError("its options are no JSON object")
            return cls(metadata["recommender"], options, state, metadata.get("origin"))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise ResultError(f"{path}: damaged ({error!r}); write it again.") from error


def safetensors_of(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content: its library writes metadata in any order."""
    content = safetensors.numpy.save(arrays, metadata)
    end = 8 + _header_bytes(content)
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _header_bytes(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number")


def write_interactions(file: Path, interactions: csr_array) -> None:
    """Write interactions, shape (num_users, num_items), in a compressed file."""
    shape = np.array(interactions.shape)
    with whole_file(file) as stream:
        np.savez_compressed(stream, indptr=interactions.indptr, indices=interactions.indices, shape=shape)


def read_interactions_file(file: Path, shape: tuple[int, int] | None = None) -> csr_array:
    """What :func:`write_interactions` wrote: ones, shape (num_users, num_items), float32.

    Nothing is allocated that the file is too short to fill.

    Args:
        file: In a folder whose manifest, if it has one, tells what it was.
        shape: What it has to have.

    Raises:
        ResultError: There is no such file, it is damaged, contradicts itself, or is of another shape.
    """
    content = Manifest.read(file.parent).content(file.name)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = sorted(archive.namelist())
            if names != ["indices.npy", "indptr.npy", "shape.npy"]:
                raise ValueError("its parts are others")
            found_shape = tuple(_array(archive, "shape", 2, len(content)).tolist())
            if min(found_shape) < 0:
                raise ValueError(f"its shape is {found_shape}")
            if shape is not None and found_shape != shape:
                raise ResultError(
                    f"{file.parent}: the table has {shape[0]} users and {shape[1]} items, the interactions "
                    f"{found_shape[0]} and {found_shape[1]}: they come from different searches."
                )
            num_users, num_items = found_shape
            indptr = _array(archive, "indptr", num_users + 1, len(content))
            counts = np.diff(indptr)
            if indptr[0] != 0 or (counts < 0).any() or counts.max(initial=0) > num_items:
                raise ValueError("its rows are not one after the other")
            indices = _array(archive, "indices", int(indptr[-1]), len(content))
        is_next = np.diff(indices) > 0
        # A row begins where the one before it ends.
        starts = indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < len(indices))]
        is_next[starts - 1] = True
        if not is_next.all() or (len(indices) and not 0 <= indices.min() <= indices.max() < num_items):
            raise ValueError("its items are out of order, stand twice, or are not in the table")
        return csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=found_shape)
    except ResultError:
        raise
    except Exception as error:  # Of zipfile, zlib, struct, NumPy or SciPy, by where the damage is.
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error


def _array(
    archive: zipfile.ZipFile, name: str, length: int, file_bytes: int
) -> NDArray[np.signedinteger[Any]]:
    """A part of the file: so many whole numbers.

    Raises:
        ValueError: It is another, or more than the bytes of the file can stand for.
    """
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"its part {name} is packed in another way")
    with archive.open(entry) as stream:
        shape, dtype = read_npy_header(stream)
        if dtype not in (np.dtype(np.int32), np.dtype(np.int64)) or shape != (length,):
            raise ValueError(f"its part {name} is {dtype} of shape {shape}, not {length} whole numbers")
        num_bytes = length * dtype.itemsize
        if num_bytes > DEFLATED * file_bytes:
            raise ValueError(f"its part {name} claims {num_bytes:,} bytes")
        numbers = np.empty(length, dtype)
        view, read = numbers.view(np.uint8), 0
        while read < num_bytes:
            chunk = stream.read(min(_CHUNK, num_bytes - read))
            if not chunk:
                raise ValueError(f"its part {name} is cut off")
            view[read : read + len(chunk)] = np.frombuffer(chunk, np.uint8)
            read += len(chunk)
        if stream.read(1):
            raise ValueError(f"its part {name} is longer than it says")
    return numbers


def write_ids(file: Path, user_ids: NDArray[Any], item_ids: NDArray[Any]) -> None:
    """Write the ids of the user's own data, by row of the table."""
    with whole_file(file) as stream:
        pq.write_table(pa.table(entity_columns(user_ids, item_ids)), stream, compression="zstd")


def entity_columns(user_ids: NDArray[Any], item_ids: NDArray[Any]) -> dict[str, pa.Array]:
    """Kind and id of every row of the table; ids are text where users' or items' are."""
    if user_ids.dtype == item_ids.dtype:
        ids = pa.concat_arrays([pa.array(user_ids), pa.array(item_ids)])
    else:
        ids = pa.array([*map(str, user_ids.tolist()), *map(str, item_ids.tolist())])
    kinds = pa.DictionaryArray.from_arrays(
        np.repeat(np.array([0, 1], np.int8), [len(user_ids), len(item_ids)]), ["user", "item"]
    )
    return {"kind": kinds, "id": ids}


def read_ids(folder: Path, num_users: int, num_items: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids of users and of items, by row: int64, or Python strings in an object array.

    Raises:
        ResultError: Their file is missing or damaged, or of another table.
    """
    file = folder / IDS_FILE
    content = Manifest.read(folder).content(IDS_FILE)
    num_rows = num_users + num_items
    try:
        parquet = pq.ParquetFile(
            pa.BufferReader(content), thrift_string_size_limit=_THRIFT, thrift_container_size_limit=_THRIFT
        )
        found_rows = parquet.metadata.num_rows
        if found_rows != num_rows:
            raise ResultError(
                f"{file}: {found_rows:,} ids for {num_users:,} users and {num_items:,} items: they come from "
                "different searches."
            )
        # A thread of Arrow's that lets go of Python's bytes when Python has ended aborts the process.
        table = parquet.read(columns=["kind", "id"], use_threads=False)
        table.validate(full=True)
        kinds, ids = _column(table, "kind", num_rows), _column(table, "id", num_rows)
    except ResultError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, MemoryError) as error:
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error
    expected = np.repeat(np.array(["user", "item"], object), [num_users, num_items])
    if not np.array_equal(kinds, expected):
        raise ResultError(
            f"{file}: damaged: its rows are not {num_users:,} users and then {num_items:,} items."
        )
    for kind, own in (("user", ids[:num_users]), ("item", ids[num_users:])):
        if len(np.unique(own)) != len(own):
            raise ResultError(f"{file}: damaged: two {kind}s have one id.")
    return ids[:num_users], ids[num_users:]


def _column(table: pa.Table, name: str, length: int) -> NDArray[Any]:
    """A column of whole numbers or of text.

    Raises:
        ValueError: It is another, or has gaps.
    """
    column = table.column(name).combine_chunks()
    if column.null_count or len(column) != length:
        raise ValueError(f"the column {name} has {len(column) - column.null_count:,} values")
    # Arrow's own to_numpy imports pandas, which takes longer than all the rest.
    if pa.types.is_integer(column.type):
        numbers: NDArray[Any] = np.from_dlpack(column)
        return numbers.astype(np.int64, casting="safe", copy=False)
    if pa.types.is_dictionary(column.type):
        values, places = column.dictionary.to_pylist(), np.from_dlpack(column.indices)
    else:
        values, places = column.to_pylist(), None
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"the column {name} is {column.type}, not text or whole numbers")
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts if places is None else texts[places]
