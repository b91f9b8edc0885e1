"""The files of a folder that recommends: beside the packed table, what is not an embedding.

They are read with NumPy, SciPy and Arrow alone, so that a process that only serves never imports PyTorch or
Ray. Nothing in them is believed: what contradicts itself is refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.whole_files import whole_file, write_arrays, write_whole
from envs.errors import ResultError

TABLE_FILE = "table.safetensors"
SCORER_FILE = "scorer.safetensors"
INTERACTIONS_FILE = "interactions.npz"
#: Held-out interactions, by which an export says what it costs; nothing that serves reads them.
TEST_FILE = "test.npz"
IDS_FILE = "ids.parquet"
#: Recommenders that score by the inner product of rows which their graph computes.
PROPAGATING = ("lightgcn", "ngcf")
SCORER_FORMAT = "ciess-ray scorer 2"


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
        """Write the file into a folder."""
        metadata = {
            "format": SCORER_FORMAT,
            "recommender": self.recommender,
            "options": json.dumps(self.options, sort_keys=True),
        }
        if self.origin is not None:
            metadata["origin"] = self.origin
        state = {name: np.ascontiguousarray(value) for name, value in self.state.items()}
        write_whole(folder / SCORER_FILE, safetensors.numpy.save(state, metadata))

    @classmethod
    def read(cls, folder: Path) -> "ScorerFile":
        """Read the file of a folder.

        Raises:
            ResultError: There is none, it is damaged, or of another format.
        """
        path = folder / SCORER_FILE
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = dict(file.metadata() or {})
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except FileNotFoundError:
            raise ResultError(
                f"{path}: no such file; is {folder} the folder of a finished search, or of a packed export?"
            ) from None
        except (safetensors.SafetensorError, OSError) as error:
            raise ResultError(
                f"{path}: damaged, or no safetensors file ({error}); write it again."
            ) from error
        if metadata.get("format") != SCORER_FORMAT:
            raise ResultError(f"{path}: its format is {metadata.get('format')!r}, not {SCORER_FORMAT!r}.")
        try:
            options = json.loads(metadata["options"])
            return cls(metadata["recommender"], dict(options), state, metadata.get("origin"))
        except (KeyError, ValueError, TypeError) as error:
            raise ResultError(f"{path}: damaged ({error!r}); write it again.") from error


def write_interactions(file: Path, interactions: csr_array) -> None:
    """Write interactions, shape (num_users, num_items), in a compressed file."""
    shape = np.array(interactions.shape)
    write_arrays(file, {"indptr": interactions.indptr, "indices": interactions.indices, "shape": shape})


def read_interactions_file(file: Path) -> csr_array:
    """What :func:`write_interactions` wrote: ones, shape (num_users, num_items), float32.

    Raises:
        ResultError: There is no such file, it is damaged, or points outside its shape.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            indices, indptr, shape = arrays["indices"], arrays["indptr"], tuple(arrays["shape"].tolist())
        found = csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=shape)
        found.check_format(full_check=True)
        return found
    except FileNotFoundError:
        raise ResultError(f"{file}: no such file; is this the folder of a finished search?") from None
    except Exception as error:  # Of zipfile, zlib, struct, NumPy or SciPy, by where the damage is.
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error


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
    try:
        column = pq.ParquetFile(file).read(columns=["id"]).column("id").combine_chunks()
    except FileNotFoundError:
        raise ResultError(f"{file}: no such file; is {folder} the folder of a search?") from None
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error
    # Arrow's own to_numpy imports pandas, which takes longer than all the rest.
    ids: NDArray[Any]
    if pa.types.is_integer(column.type) and not column.null_count:
        ids = np.from_dlpack(column)
    else:
        ids = np.empty(len(column), object)
        ids[:] = column.to_pylist()
    if len(ids) != num_users + num_items:
        raise ResultError(
            f"{file}: {len(ids):,} ids for {num_users:,} users and {num_items:,} items: they come from "
            "different searches."
        )
    return ids[:num_users], ids[num_users:]
