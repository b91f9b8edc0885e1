"""A packed table as others read it: smaller values, propagated rows, Parquet, TorchRec's tables, ONNX.

Every export reads the packed table once and refuses one with values that are no numbers.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.files.manifest import MANIFEST_FILE, Manifest, write_manifest
from ciess_ray.files.whole import copy_whole, whole_file, whole_folder, write_whole
from ciess_ray.packed.embedding import unpack_recommender
from ciess_ray.packed.table import PackedTable
from ciess_ray.packed.values import VALUE_TYPES
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    PROPAGATING,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
    entity_columns,
    read_ids,
    read_interactions_file,
    safetensors_of,
)
from ciess_ray.serving.scorers import SCORERS, DotProductScorer, LightGCNScorer, build_scorer, check_parts
from envs.errors import ConfigError, ResultError, UnknownNameError
from envs.recommenders import RECOMMENDERS
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes

TORCHREC_FILES = ("tables.json", "rows.parquet", "embeddings.safetensors")
_EXPORTED_FILES = (TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE)
#: TorchRec's kernels want rows of a multiple of four.
_SMALLEST_BUCKET = 4
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True, eq=False)
class Form:
    """A form of a table, and what it costs.

    Attributes:
        name: What a reader calls it.
        files: Bytes of its files by name.
        ndcg: N@20 on the test interactions, where it was measured.
    """

    name: str
    files: dict[str, int]
    ndcg: float | None = None

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(self.files.values())


@dataclass(frozen=True, eq=False)
class Exported:
    """What an export wrote.

    Attributes:
        path: File or folder.
        before: What the search left.
        after: What was written.
        notes: What was not measured, and why; why a form is larger than the packed one.
    """

    path: Path
    before: Form
    after: Form
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Source:
    """The folder that is exported: all of it is there and belongs together, and the values are verified."""

    folder: Path
    table: PackedTable
    scorer: ScorerFile
    graph: csr_array
    test: csr_array | None
    ids: tuple[NDArray[np.generic], NDArray[np.generic]]

    @classmethod
    def open(cls, folder: Path) -> "_Source":
        manifest = Manifest.read(folder)
        table = PackedTable.open(folder / TABLE_FILE)
        try:
            table.verify()
        except ResultError as error:
            raise error.within(str(folder / TABLE_FILE)) from error
        manifest.verify([TABLE_FILE])
        shape = table.num_users, table.num_rows - table.num_users
        graph = read_interactions_file(folder / INTERACTIONS_FILE, shape)
        scorer = ScorerFile.read(folder)
        if scorer.recommender in SCORERS:
            check_parts(table, scorer)
        test = read_interactions_file(folder / TEST_FILE, shape) if manifest.has(TEST_FILE) else None
        return cls(folder, table, scorer, graph, test, read_ids(folder, *shape))


def export(
    folder: str | Path,
    destination: str | Path,
    *,
    format: str = "packed",
    dtype: str = "float32",
    propagated: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write the table of a finished search in another form.

    Args:
        folder: Of the search, or of an earlier export of the format ``packed``.
        destination: A folder for ``packed`` and ``torchrec``, a file for ``parquet`` and ``onnx``.
        format: A key of :data:`FORMATS`.
        dtype: Type of the values of ``packed``.
        propagated: Whether to store rows as the graph propagates them, so that scoring is a product; for the
            recommenders in :data:`PROPAGATING`.
        overwrite: Whether what an earlier export wrote there may be replaced, all of it at once; a folder
            that holds anything else is refused.

    Raises:
        UnknownNameError: There is no such format or type.
        ConfigError: The options do not fit the format or the recommender.
        ResultError: The folder is no finished search's, is damaged, or the destination is taken.
    """
    folder, destination = Path(folder), Path(destination)
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    if dtype not in VALUE_TYPES:
        raise UnknownNameError("type of value", dtype, VALUE_TYPES)
    if format != "packed" and (dtype != "float32" or propagated):
        raise ConfigError(f"dtype and propagated are of the format packed, not of {format}: leave them out.")
    if destination.resolve() == folder.resolve():
        raise ConfigError(f"{destination}: is what is exported; name another place.")
    _check_destination(destination, overwrite)
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise ResultError(f"{folder}: {what}; name that of a finished search, or of a packed export.")
    source = _Source.open(folder)
    return FORMATS[format](source, destination, dtype, propagated)


def _check_destination(destination: Path, overwrite: bool) -> None:
    """Refuse a place where anything is but an earlier export that may be replaced."""
    if destination.is_dir():
        held = {file.name for file in destination.iterdir()}
        if not held:
            return
        # What an export of an earlier version left when it was killed.
        others = {
            name for name in held - {*_EXPORTED_FILES, *TORCHREC_FILES, MANIFEST_FILE} if not _is_left(name)
        }
        if others:
            raise ResultError(
                f"{destination}: holds files that no export wrote, e.g. {min(others)}; name another place."
            )
    if destination.exists() and not overwrite:
        raise ResultError(f"{destination}: exists; name another place, or replace it with --overwrite.")


def _to_packed(source: _Source, destination: Path, dtype: str, propagated: bool) -> Exported:
    table, scorer = source.table, source.scorer
    if propagated:
        table, scorer = _propagate(source)
    if dtype != table.dtype:
        table = table.astype(dtype)
    with _new_folder(destination) as new:
        for name in (INTERACTIONS_FILE, IDS_FILE, *([] if source.test is None else [TEST_FILE])):
            copy_whole(source.folder / name, new / name)
        scorer.write(new)
        table.save(new / TABLE_FILE)
        write_manifest(new, _EXPORTED_FILES)
    notes: list[str] = []
    files = (*_EXPORTED_FILES, MANIFEST_FILE)
    before = _form(source.folder, source.table.dtype, files)
    after = _form(destination, f"{dtype}, propagated" if propagated else dtype, files)
    reason = _why_not_measured(source)
    if reason:
        notes.append(f"N@20 was not measured: {reason}")
    else:
        before = Form(before.name, before.files, _ndcg(source, source.table, source.scorer))
        after = Form(after.name, after.files, _ndcg(source, table, scorer))
    return Exported(destination, before, after, notes)


def _propagate(source: _Source) -> tuple[PackedTable, ScorerFile]:
    """The representations of a recommender that propagates, as the table of one that does not."""
    name = source.scorer.recommender
    if name not in PROPAGATING:
        raise ConfigError(
            f"propagated: the rows of {name} are not propagated over a graph; this is for "
            f"{' and '.join(PROPAGATING)}."
        )
    graph = source.graph
    built = build_scorer(source.table, graph, source.scorer)
    dot = built.propagated if isinstance(built, LightGCNScorer) else built
    assert isinstance(dot, DotProductScorer)
    rows = np.concatenate([dot.of_users(np.arange(graph.shape[0])), dot.item])
    num_users, num_items = graph.shape
    sizes = EmbeddingSizes.full(num_users, num_items, rows.shape[1])
    return PackedTable.of(rows.ravel(), sizes, recommender="mf"), ScorerFile("mf", {}, {}, origin=name)


def _why_not_measured(source: _Source) -> str | None:
    if source.scorer.recommender not in RECOMMENDERS:
        return f"{source.scorer.recommender} is a recommender of your own"
    if source.test is None:
        return f"there is no {TEST_FILE} in {source.folder}"
    return None


def _ndcg(source: _Source, table: PackedTable, scorer: ScorerFile) -> float:
    """N@20 on the test interactions."""
    assert source.test is not None
    recommender = unpack_recommender(table, source.graph, scorer.recommender, scorer.options, scorer.state)
    return evaluate(recommender, source.graph, source.test, (20,)).summary()["ndcg@20"]


def _to_parquet(source: _Source, destination: Path, dtype: str, propagated: bool) -> Exported:
    """One row an entity: kind, id, embedding size, where it begins if not at the first column, its values."""
    table = source.table
    columns, places = entity_columns(*source.ids), _places(table)
    values, ends = table.decoded(), np.cumsum(table.row_sizes, dtype=np.int64) * table.num_tables
    schema = pa.schema(
        [
            *(pa.field(name, column.type) for name, column in columns.items()),
            *(pa.field(name, column.type) for name, column in places.items()),
            pa.field("vector", pa.list_(pa.float32())),
        ]
    )

    def write(stream: IO[bytes]) -> None:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for first in range(0, table.num_rows, _ROWS_AT_ONCE):
                part = slice(first, first + _ROWS_AT_ONCE)
                start = int(ends[first - 1]) if first else 0
                offsets = np.concatenate([[start], ends[part]]) - start
                vectors = pa.ListArray.from_arrays(
                    pa.array(offsets, pa.int32()), pa.array(values[start : start + int(offsets[-1])])
                )
                told = [column[part] for column in (*columns.values(), *places.values())]
                writer.write_table(pa.table([*told, vectors], schema=schema))

    reason = "its values are plain float32 numbers, and it says of every row whose it is and how long"
    return _written(source, destination, "parquet", (TABLE_FILE, IDS_FILE), write, reason)


def _places(table: PackedTable) -> dict[str, pa.Array]:
    places = {"embedding_size": pa.array(table.row_sizes.astype(np.int32))}
    if table.first_columns is not None:
        places["first_column"] = pa.array(table.first_columns)
    return places


def _to_torchrec(source: _Source, destination: Path, dtype: str, propagated: bool) -> Exported:
    """Rows of like size as dense tables, with the configuration that TorchRec's collections take.

    A row goes into the table of the next power of two, at least four; a recommender of several tables has
    so many sets of them. ``rows.parquet`` says where every entity is, and, where rows do not all begin at the
    first column, in which column its first number belongs.
    """
    table = source.table
    buckets = np.maximum(2 ** np.ceil(np.log2(table.row_sizes)).astype(np.int64), _SMALLEST_BUCKET)
    is_item = np.arange(table.num_rows) >= table.num_users
    places = np.empty(table.num_rows, np.int64)
    names = np.empty(table.num_rows, object)
    weights: dict[str, NDArray[np.float32]] = {}
    configs = []
    for kind, of_kind in (("user", ~is_item), ("item", is_item)):
        for bucket in np.unique(buckets[of_kind]).tolist():
            rows = np.flatnonzero(of_kind & (buckets == bucket))
            names[rows], places[rows] = f"{kind}_{bucket}", np.arange(len(rows))
            values = table.kept(rows, bucket).reshape(len(rows), table.num_tables, bucket)
            for number in range(table.num_tables):
                suffix = f"_{number}" if table.num_tables > 1 else ""
                name = f"{kind}{suffix}_{bucket}"
                weights[f"embedding_bags.{name}.weight"] = np.ascontiguousarray(values[:, number])
                configs.append(
                    {
                        "name": name,
                        "num_embeddings": len(rows),
                        "embedding_dim": bucket,
                        "feature_names": [name],
                        "data_type": "FP32",
                    }
                )
    described = {
        "format": "ciess-ray torchrec tables 1",
        "recommender": source.scorer.origin or source.scorer.recommender,
        "num_tables": table.num_tables,
        "tables": configs,
    }
    located = entity_columns(*source.ids) | {
        **_places(table),
        "table": pa.array(names.tolist()).dictionary_encode(),
        "row": pa.array(places),
    }
    described_file, rows_file, weights_file = TORCHREC_FILES
    with _new_folder(destination) as new:
        write_whole(new / described_file, json.dumps(described, indent=2) + "\n")
        with whole_file(new / rows_file) as stream:
            pq.write_table(pa.table(located), stream, compression="zstd")
        write_whole(new / weights_file, safetensors_of(weights, {"format": "ciess-ray torchrec tables 1"}))
        write_manifest(new, TORCHREC_FILES)
    before = _form(source.folder, source.table.dtype, (TABLE_FILE, IDS_FILE))
    after = _form(destination, "torchrec", (*TORCHREC_FILES, MANIFEST_FILE))
    reason = "its rows are float32 numbers, with zeros up to the next power of two, and it says where each is"
    return Exported(destination, before, after, _why_larger(before, after, reason))


def _to_onnx(source: _Source, destination: Path, dtype: str, propagated: bool) -> Exported:
    """A graph from user rows to the scores of all items."""
    from ciess_ray.serving.onnx import onnx_model

    if source.scorer.recommender not in RECOMMENDERS:
        raise ConfigError(
            f"onnx: {source.scorer.recommender} is a recommender of your own; torch.onnx.export takes it."
        )
    scorer = build_scorer(source.table, source.graph, source.scorer)
    model = onnx_model(scorer, source.table.num_users)
    reason = "ONNX has no rows of different sizes: all are float32 numbers, as wide as what is scored"
    held = (TABLE_FILE, SCORER_FILE)
    return _written(source, destination, "onnx", held, lambda stream: stream.write(model), reason)


def _new_folder(destination: Path) -> AbstractContextManager[Path]:
    """See :func:`whole_folder`."""
    if destination.is_file():
        raise ConfigError(f"{destination}: is a file; name a folder.")
    return whole_folder(destination)


def _is_left(name: str) -> bool:
    return name.startswith(".") and name.endswith(".partial")


def _written(
    source: _Source,
    destination: Path,
    name: str,
    held: tuple[str, ...],
    write: Callable[[IO[bytes]], object],
    reason: str,
) -> Exported:
    """One file, whole or not at all.

    Args:
        source: What is exported.
        destination: The file.
        name: What a reader calls the form.
        held: Files of the source whose content it holds.
        write: Writes it.
        reason: Why it may be larger than these.
    """
    if destination.is_dir():
        raise ConfigError(f"{destination}: is a folder; name a file.")
    with whole_file(destination) as stream:
        write(stream)
    before = _form(source.folder, source.table.dtype, held)
    after = Form(name, {destination.name: destination.stat().st_size})
    return Exported(destination, before, after, _why_larger(before, after, reason))


def _form(folder: Path, name: str, files: tuple[str, ...]) -> Form:
    """Of the files that are there."""
    return Form(name, {file: (folder / file).stat().st_size for file in files if (folder / file).exists()})


def _why_larger(before: Form, after: Form, reason: str) -> list[str]:
    if after.num_bytes <= before.num_bytes:
        return []
    more = after.num_bytes - before.num_bytes
    return [f"{more:,} bytes more than the packed form of the same: {reason}"]


#: What an export can be; each function is told all options.
FORMATS: dict[str, Callable[[_Source, Path, str, bool], Exported]] = {
    "packed": _to_packed,
    "parquet": _to_parquet,
    "torchrec": _to_torchrec,
    "onnx": _to_onnx,
}
