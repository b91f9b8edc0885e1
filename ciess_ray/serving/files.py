"""The files of a folder that recommends: beside the packed table, what is not an embedding.

They are read with NumPy, SciPy and Arrow alone, so that a process that only serves never imports PyTorch or
Ray. Nothing in them is believed: what contradicts itself is refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray import names
from ciess_ray.files.formats import read_json, read_parquet, write_parquet
from ciess_ray.files.manifest import Manifest
from ciess_ray.files.whole import write_whole
from ciess_ray.packed.table import PackedTable
from ciess_ray.plain_text import command
from ciess_ray.serving.interactions_file import read_interactions_file
from ciess_ray.serving.stream_tables import tables_below, tables_of
from envs.errors import ResultError
from envs.sizes.embedding_sizes import EmbeddingSizes

TABLE_FILE = names.TABLE_FILE
SCORER_FILE = "scorer.safetensors"
INTERACTIONS_FILE = "interactions.npz"
#: Those that the test figures are of, by which an export says what it costs; users have seen these too.
TEST_FILE = "test.npz"
#: Of the table that was measured on them, where the one that is served was trained on them too.
MEASURED_TABLE_FILE, MEASURED_SCORER_FILE = "measured.safetensors", "measured-scorer.safetensors"
IDS_FILE = "ids.parquet"
#: Recommenders that score by the inner product of rows which their graph computes.
PROPAGATING = ("lightgcn", "ngcf")
#: Recommenders whose tables have rows of items alone.
WITHOUT_USER_ROWS = ("ease", "neighbours", "spectral")
#: Those of which a row has weights of other items, whose ids stand beside them.
NEIGHBOUR_TABLES = ("ease", "neighbours")
#: Options that scoring takes, and the most that each may be; the least is 0.
_OPTIONS: dict[str, dict[str, float]] = {
    "ease": {"l2": math.inf},
    "neighbours": {"user_exponent": 1, "item_exponent": 1, "outgoing": 1},
    "spectral": {"user_exponent": 1},
}
SCORER_FORMAT = "ciess-ray scorer 2"
#: Propagations of LightGCN and NGCF.
MAX_LAYERS = 100


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

    def write(self, folder: Path, name: str = SCORER_FILE) -> None:
        """Write the file into a folder; equal parts make equal bytes."""
        metadata = {
            "format": SCORER_FORMAT,
            "recommender": self.recommender,
            "options": json.dumps(self.options, sort_keys=True),
        }
        if self.origin is not None:
            metadata["origin"] = self.origin
        state = {name: np.ascontiguousarray(value) for name, value in self.state.items()}
        write_whole(folder / name, safetensors_of(state, metadata))

    @classmethod
    def read(cls, folder: Path, name: str = SCORER_FILE) -> "ScorerFile":
        """Read the file of a folder.

        Raises:
            ResultError: There is none, it is damaged, or of another format.
        """
        file = folder / name
        Manifest.read(folder).verify(name)
        try:
            with safetensors.safe_open(file, framework="numpy") as opened:
                metadata = opened.metadata() or {}
                state = {name: opened.get_tensor(name) for name in opened.keys()}
            if metadata.get("format") != SCORER_FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {SCORER_FORMAT!r}")
            options = {**json.loads(metadata["options"])}
            return cls(metadata["recommender"], options, state, metadata.get("origin"))
        except Exception as error:  # Of json, safetensors or NumPy, by where the damage is.
            raise ResultError(f"{file}: damaged ({error}); write it again.") from error

    def fault(self, table: PackedTable) -> str | None:
        """What of its options and weights a recommender of this package cannot have beside a table."""
        name, num_layers = self.recommender, self.options.get("num_layers")
        if name in PROPAGATING and not (type(num_layers) is int and 0 <= num_layers <= MAX_LAYERS):
            return f"its num_layers are {str(num_layers)[:20]}, not 0 to {MAX_LAYERS}"
        for option, most in _OPTIONS.get(name, {}).items():
            value = self.options.get(option)
            if not (isinstance(value, int | float) and 0 <= value <= most):
                return f"its {option} is {str(value)[:20]}, not 0 to {most}"
        if (table.neighbours is not None) != (name in NEIGHBOUR_TABLES):
            return f"its table has {'no ids' if table.neighbours is None else 'ids'} of neighbours"
        num_tables = 2 if name == "ncf" else 1
        if (table.num_users == 0) != (name in WITHOUT_USER_ROWS):
            return f"{table.num_users} of its rows are users'"
        if (table.num_tables, table.recommender or name) != (num_tables, name):
            return f"its table is of a {table.recommender} and {table.num_tables} in all, not {num_tables}"
        if self.origin is not None and (name != "mf" or self.origin not in PROPAGATING):
            return f"they come from {self.origin[:20]!r}"
        expected = _weights_of(name, num_layers, table)
        read = {part: (value.shape, value.dtype.name) for part, value in self.state.items()}
        for part in sorted(expected.keys() | read.keys()):
            if read.get(part) != expected.get(part):
                return f"{part[:40]} is {read.get(part)}, not {expected.get(part)}"
            if not np.isfinite(self.state[part]).all():
                return f"{part} holds what is no finite number"
        return None


@dataclass(frozen=True, eq=False)
class TableFolder:
    """A folder that recommends: all of it is there and belongs together.

    Attributes:
        path: The folder.
        table: The packed table, mapped into memory; none of its values is read.
        scorer: What scores beside it.
        train: The interactions that it was trained on, shape (num_users, num_items).
        test: Those that test figures are of, which after a refit are among the former; None in an older
            folder, which may have none.
        user_ids: The ids of the user's own data, by row.
        item_ids: The same of items.
    """

    path: Path
    table: PackedTable
    scorer: ScorerFile
    train: csr_array
    test: csr_array | None
    user_ids: NDArray[Any]
    item_ids: NDArray[Any]

    @classmethod
    def read(cls, path: Path) -> "TableFolder":
        """Read the folder of a finished search, or one that ``ciess-ray export`` made.

        Raises:
            ResultError: A file is missing, damaged or of another search, the search is not finished, or it is
                a stream, of whose tables one has to be named.
        """
        if not path.is_dir():
            raise ResultError(
                f"{path}: {'is no' if path.exists() else 'no such'} folder; name that of a finished search, "
                "or of a packed export."
            )
        of_stream = tables_of(path)
        if of_stream is not None:
            raise ResultError(
                f"{path}: of a stream, which has a table for each segment and method; name one of "
                f"{', '.join(map(str, of_stream))}; the first is the best on validation."
            )
        manifest = Manifest.read(path)
        has_table, result = (path / TABLE_FILE).exists(), path / names.RESULT_FILE
        if not has_table and result.exists():
            check_finished(path, read_json(result, names.RESULT_FORMAT))
        below = [] if has_table else tables_below(path)
        if below:
            others = f", or one of {len(below) - 1:,} others" if below[1:] else ""
            raise ResultError(f"{path}: there is no table in it; name {below[0]}{others}.")
        table, scorer = _read_table(path, TABLE_FILE, SCORER_FILE)
        train = read_interactions_file(path / INTERACTIONS_FILE, shape_of(table))
        test = read_interactions_file(path / TEST_FILE, train.shape) if manifest.has(TEST_FILE) else None
        return cls(path, table, scorer, train, test, *read_ids(path, *train.shape))

    def measured(self) -> "TableFolder | None":
        """The table that the test figures are of, with what it was trained on; this one without a refit.

        None where nobody knows what was for test, or it is not there, as in a folder that only serves.

        Raises:
            ResultError: It is damaged, or of another search.
        """
        if self.test is None or not self.train.multiply(self.test).nnz:
            return self if self.test is not None else None
        manifest = Manifest.read(self.path)
        if not manifest.has(MEASURED_TABLE_FILE):
            return None
        manifest.verify(MEASURED_TABLE_FILE)
        table, scorer = _read_table(self.path, MEASURED_TABLE_FILE, MEASURED_SCORER_FILE)
        if shape_of(table) != shape_of(self.table):
            raise ResultError(f"{self.path / MEASURED_TABLE_FILE}: is of other users and items.")
        train = csr_array(self.train - self.train.multiply(self.test))
        train.eliminate_zeros()
        return replace(self, table=table, scorer=scorer, train=train)


def _read_table(path: Path, table_file: str, scorer_file: str) -> tuple[PackedTable, ScorerFile]:
    """A table of a folder, none of whose values is read, and what scores beside it.

    Raises:
        ResultError: They are damaged, or do not belong together.
    """
    table, scorer = PackedTable.open(path / table_file), ScorerFile.read(path, scorer_file)
    fault = None if ":" in scorer.recommender else scorer.fault(table)
    if fault is not None:
        raise ResultError(
            f"{path}: the scorer's weights are not those of a {scorer.recommender} of this table: {fault}."
        )
    return table, scorer


def check_finished(path: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a search that has no table yet.

    Args:
        path: Its folder.
        summary: What ``result.json`` says of it.

    Raises:
        ResultError: It is not finished; with the command that goes on with it.
    """
    status = summary.get("status")
    if status == "finished":
        return
    # A trial goes on with its sweep.
    sweep = path.absolute().parent.parent
    is_trial = (sweep / names.SWEEP_FILE).exists()
    again = ("sweep", "--resume", sweep) if is_trial else ("search", "--resume", path)
    raise ResultError(
        f"{path}: this search is {status!r}, not finished (phase {summary.get('phase')!r}), and has no table "
        f"yet; wait for it where it still runs, or go on with: {command('ciess-ray', *again)}"
    )


def shape_of(table: PackedTable) -> tuple[int | None, int]:
    """The users and items that a table is for; None for users where none has a row."""
    return table.num_users or None, table.num_rows - table.num_users


def _weights_of(name: str, num_layers: Any, table: PackedTable) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each weight that a recommender has beside its table."""
    if name in NEIGHBOUR_TABLES:
        return {}
    if name == "spectral":
        return {"history_weight": ((table.num_rows,), "float16"), "fold_in": ((table.width,), "float32")}
    return {part: (shape, "float32") for part, shape in _shapes(name, num_layers, table).items()}


def _shapes(name: str, num_layers: Any, table: PackedTable) -> Mapping[str, tuple[int, ...]]:
    width, d_max = table.width, table.max_embedding_size
    if name == "ncf":
        return {
            "hidden_user": (width, d_max),
            "hidden_item": (width, d_max),
            "hidden_bias": (d_max,),
            "output_hidden": (d_max,),
            "output_product": (width,),
            "output_bias": (1,),
        }
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(num_layers if name == "ngcf" else 0):
        fan_in = d_max if number else width
        shapes[f"weights_sum.{number}"] = shapes[f"weights_product.{number}"] = fan_in, d_max
        shapes[f"biases.{number}"] = (d_max,)
    return shapes


def propagated_form(name: str, rows: NDArray[np.float32], num_users: int) -> tuple[PackedTable, ScorerFile]:
    """The representations of a recommender that propagates, as the table and the scorer of one that does not.

    Args:
        name: Of the recommender.
        rows: What it scores by the inner products of, users first, shape (num_rows, width).
        num_users: Rows that are users.
    """
    sizes = EmbeddingSizes.full(num_users, len(rows) - num_users, rows.shape[1])
    return PackedTable.of(rows.ravel(), sizes, recommender="mf"), ScorerFile("mf", {}, {}, origin=name)


def safetensors_of(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """A safetensors file, the same bytes for the same content: its library writes metadata in any order."""
    content = safetensors.numpy.save(arrays, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def write_ids(file: Path, user_ids: NDArray[Any], item_ids: NDArray[Any]) -> None:
    """Write the ids of the user's own data, by row of the table."""
    write_parquet(file, pa.table(entity_columns(user_ids, item_ids)))


def entity_columns(user_ids: NDArray[Any], item_ids: NDArray[Any]) -> dict[str, pa.Array]:
    """Kind and id of every row of the table; ids are text where users' or items' are."""
    if user_ids.dtype == item_ids.dtype:
        # Arrow knows no type of texts where there are none.
        of_ids = pa.string() if user_ids.dtype == object else None
        ids = pa.concat_arrays([pa.array(user_ids, of_ids), pa.array(item_ids, of_ids)])
    else:
        ids = pa.array([*map(str, user_ids.tolist()), *map(str, item_ids.tolist())])
    numbers = np.repeat(np.array([0, 1], np.int8), [len(user_ids), len(item_ids)])
    return {"kind": pa.DictionaryArray.from_arrays(numbers, ["user", "item"]), "id": ids}


def described_rows(source: TableFolder) -> dict[str, pa.Array]:
    """Of every row whose it is, how long, and where it begins if not at the first column."""
    table = source.table
    # Of those who have a row.
    columns = entity_columns(source.user_ids[: table.num_users], source.item_ids) | {
        "embedding_size": pa.array(table.row_sizes.astype(np.int32))
    }
    if table.first_columns is not None:
        columns["first_column"] = pa.array(table.first_columns)
    return columns


def read_ids(folder: Path, num_users: int, num_items: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids of users and of items, by row: int64, or Python strings in an object array.

    Raises:
        ResultError: Their file is missing or damaged, or of another table.
    """
    file = folder / IDS_FILE
    Manifest.read(folder).verify(IDS_FILE)
    table = read_parquet(file, ("kind", "id"))
    if table.num_rows != num_users + num_items:
        raise ResultError(
            f"{file}: {table.num_rows:,} ids for {num_users:,} users and {num_items:,} items: they come from "
            "different searches."
        )
    try:
        kinds, ids = _values_of(table, "kind"), _values_of(table, "id")
    except (KeyError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}); run the search again with --overwrite.") from error
    expected = np.repeat(np.array(["user", "item"], object), [num_users, num_items])
    if not np.array_equal(kinds, expected):
        raise ResultError(
            f"{file}: damaged: its rows are not {num_users:,} users and then {num_items:,} items."
        )
    for kind, of_kind in (("user", ids[:num_users]), ("item", ids[num_users:])):
        if len(np.unique(of_kind)) != len(of_kind):
            raise ResultError(f"{file}: damaged: two {kind}s have one id.")
    return ids[:num_users], ids[num_users:]


def _values_of(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of whole numbers or of text; Arrow's own to_numpy imports pandas, which takes long.

    Raises:
        ValueError: It is another, or has gaps.
    """
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise ValueError(f"the column {name} is {column.type} with {column.null_count:,} gaps")
    if pa.types.is_signed_integer(column.type):
        return np.from_dlpack(column).astype(np.int64)
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not pa.types.is_string(texts.type):
        raise ValueError(f"the column {name} is {column.type}, not text or whole numbers")
    values: NDArray[Any] = np.array(texts.to_pylist(), object)
    return values if texts is column else values[np.from_dlpack(column.indices)]
