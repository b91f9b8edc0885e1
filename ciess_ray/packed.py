"""The packed table: one flat buffer of values, one size a row, nothing else.

A row's values are its first d_n numbers (of each table, where a recommender has several), so no index a
weight is stored: the file takes 4 bytes a parameter, 1 byte a row (2 or 4 where d_max asks for it) and a
header of at most :data:`envs.budget.HEADER_BYTES`. It is a plain safetensors file; reading it executes
nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from envs.budget import EmbeddingSizes, index_bytes_per_row
from envs.errors import CiessError, ResultError
from envs.recommenders import BaseRecommender, build_recommender
from envs.scattered_sizes import ScatteredSizes

FORMAT = "ciess-ray packed table 1"
TABLE_FILE = "table.safetensors"
SCORER_FILE = "scorer.safetensors"
INTERACTIONS_FILE = "interactions.npz"

_SIZE_DTYPE: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True, eq=False)
class PackedTable:
    """A table of sized rows without its zeros.

    Attributes:
        values: The numbers kept, row after row, users first, shape (num_params,), float32.
        sizes: One embedding size a row.
    """

    values: NDArray[np.float32]
    sizes: EmbeddingSizes

    def __post_init__(self) -> None:
        if isinstance(self.sizes, ScatteredSizes):
            raise ResultError(
                "a packed table keeps the first numbers of each row; scattered ones have no file of their "
                "own."
            )
        if self.values.shape != (self.sizes.num_params,):
            raise ResultError(
                f"a packed table of {self.sizes.num_params} parameters cannot hold values of shape "
                f"{self.values.shape}: sizes and values do not belong together."
            )

    @classmethod
    def pack(cls, table: NDArray[np.float32], sizes: EmbeddingSizes) -> "PackedTable":
        """Keep of each row its first d_n numbers, in each table.

        Args:
            table: Users, then items, shape (num_users + num_items, num_tables * width), float32; the tables
                stand side by side, each at least as wide as the largest size.
            sizes: One embedding size a row.
        """
        mask = sizes.mask(table.shape[1] // sizes.num_tables)
        return cls(np.ascontiguousarray(table[mask], np.float32), sizes)

    def unpack(self, width: int | None = None) -> NDArray[np.float32]:
        """The masked table, shape (num_users + num_items, num_tables * width), float32.

        Zeros stand beyond each size.

        Args:
            width: Columns of one table; by default the largest size in use.
        """
        mask = self.sizes.mask(width)
        table = np.zeros(mask.shape, np.float32)
        table[mask] = self.values
        return table

    def to_bytes(self) -> bytes:
        """The safetensors file, at most ``sizes.packed_bytes`` long."""
        dtype = _SIZE_DTYPE[index_bytes_per_row(self.sizes.max_embedding_size)]
        tensors = {
            "values": self.values,
            "sizes": np.concatenate([self.sizes.user, self.sizes.item]).astype(dtype),
        }
        metadata = {
            "format": FORMAT,
            "num_users": str(len(self.sizes.user)),
            "min_embedding_size": str(self.sizes.min_embedding_size),
            "max_embedding_size": str(self.sizes.max_embedding_size),
            "num_tables": str(self.sizes.num_tables),
        }
        content: bytes = safetensors.numpy.save(tensors, metadata)
        return content

    def save(self, path: Path) -> int:
        """Write the file.

        Returns:
            Its bytes.
        """
        return path.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> "PackedTable":
        """Read what :meth:`save` wrote.

        Raises:
            ResultError: There is no such file, it is no packed table, or its parts contradict each other.
        """
        tensors, metadata = read_safetensors(path, FORMAT)
        try:
            num_users = int(metadata["num_users"])
            sizes = tensors["sizes"].astype(np.int32)
            bounds = int(metadata["min_embedding_size"]), int(metadata["max_embedding_size"])
            # Files of the first version have one table and do not say so.
            num_tables = int(metadata.get("num_tables", 1))
            row_sizes = EmbeddingSizes(sizes[:num_users], sizes[num_users:], *bounds, num_tables)
            return cls(tensors["values"], row_sizes)
        except (KeyError, ValueError, CiessError) as error:
            raise ResultError(f"{path}: damaged ({error}); write it again.") from error


def read_safetensors(path: Path, expected_format: str) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose metadata names a format.

    Raises:
        ResultError: There is no such file, it is damaged, or it is of another format.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise ResultError(f"{path}: no such file; is this the folder of a finished search?") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ResultError(f"{path}: damaged, or no safetensors file ({error}); write it again.") from error
    if metadata.get("format") != expected_format:
        raise ResultError(f"{path}: its format is {metadata.get('format')!r}, not {expected_format!r}.")
    return tensors, metadata


def pack_recommender(recommender: BaseRecommender) -> PackedTable:
    """The packed table of a trained recommender."""
    values = recommender.table.packed_values().numpy()
    return PackedTable(values, recommender.sizes)


def unpack_recommender(
    table: PackedTable,
    train: csr_array,
    name: str | type[BaseRecommender],
    options: dict[str, Any],
    scorer_state: dict[str, NDArray[Any]],
) -> BaseRecommender:
    """A recommender that scores as the one that was packed, on the CPU.

    Args:
        table: Its packed table.
        train: The interactions that it was trained on, shape (num_users, num_items).
        name: Its name in ``envs.recommenders.RECOMMENDERS``, or its class.
        options: Its options.
        scorer_state: Its other parameters, by name.

    Raises:
        ResultError: The parameters are not those of this recommender.
    """
    if train.shape != (len(table.sizes.user), len(table.sizes.item)):
        raise ResultError(
            f"the table has {len(table.sizes.user)} users and {len(table.sizes.item)} items, "
            f"the interactions {train.shape[0]} and {train.shape[1]}: they come from different searches."
        )
    recommender = build_recommender(name, train, table.sizes, generator=torch.Generator(), options=options)
    recommender.table.load_packed_values(torch.from_numpy(table.values))
    state = {key: torch.from_numpy(value) for key, value in scorer_state.items()}
    label = name if isinstance(name, str) else name.__name__
    try:
        missing = recommender.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ResultError(f"the scorer's weights are not those of {label}: {error}.") from error
    if missing.unexpected_keys or set(missing.missing_keys) != {"table.weight"}:
        raise ResultError(f"the scorer's weights are not those of {label}: {missing}.")
    return recommender.eval()
