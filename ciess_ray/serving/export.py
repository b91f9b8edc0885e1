"""A packed table as others read it: smaller values, propagated rows, Parquet, TorchRec's tables, ONNX.

Every export reads the packed table once and refuses one with values that are no numbers.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ciess_ray.files.formats import write_parquet
from ciess_ray.files.manifest import MANIFEST_FILE, Manifest, write_manifest
from ciess_ray.files.whole import copy_whole, whole_file, whole_folder, write_whole
from ciess_ray.packed.codes import PRECISIONS, bits_of
from ciess_ray.packed.resize import unshared
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    PROPAGATING,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    TableFolder,
    entity_columns,
    propagated_form,
    safetensors_of,
)
from ciess_ray.serving.forms import ndcg_of_forms
from ciess_ray.serving.neighbour_scorer import NeighbourScorer
from ciess_ray.serving.scorers import DotProductScorer, NCFScorer, build_scorer
from envs.errors import ConfigError, ResultError, check_name, within

TORCHREC_FILES = ("tables.json", "rows.parquet", "embeddings.safetensors")
PACKED_FILES = (TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE, MANIFEST_FILE)
_TORCHREC_FORMAT = "ciess-ray torchrec tables 1"
#: TorchRec's kernels want rows of a multiple of four.
_SMALLEST_BUCKET = 4
_ROWS_AT_ONCE = 2**16
_OPSET, _IR_VERSION = 17, 8
#: Formats that a neighbour table does not fit.
_OF_ROWS = ("torchrec", "onnx")


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
class Format:
    """What an export can be.

    Attributes:
        write: Writes a table into a new folder, or into the stream of a file.
        files: Of the folder; none for a file.
        held: Files of what is exported whose content it holds.
        reason: Why it may be larger than these; empty where that needs none.
    """

    write: Callable[[TableFolder, Any], object]
    files: tuple[str, ...]
    held: tuple[str, ...]
    reason: str = ""


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
        dtype: Type of the values of ``packed``, see :meth:`ciess_ray.packed.table.PackedTable.of`.
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
    check_name("format", format, FORMATS)
    if bits_of(dtype) is None:
        check_name("type of value", dtype, PRECISIONS)
    if format != "packed" and (dtype != "float32" or propagated):
        raise ConfigError(f"dtype and propagated are of the format packed, not of {format}: leave them out.")
    if destination.resolve() == folder.resolve():
        raise ConfigError(f"{destination}: is what is exported; name another place.")
    form = FORMATS[format]
    check_destination(destination, bool(form.files), overwrite)
    source = TableFolder.read(folder)
    if format in _OF_ROWS and source.table.neighbours is not None:
        raise ConfigError(
            f"the format {format} is of rows that users are multiplied with, and those of "
            f"{source.scorer.recommender} are weights of neighbours: choose packed or parquet."
        )
    with within(folder / TABLE_FILE):
        source.table.verify()
    Manifest.read(folder).verify(TABLE_FILE)
    made = _made(source, format, dtype, propagated)
    with (whole_folder if form.files else whole_file)(destination) as new:
        form.write(made, new)
    before = Form(source.table.dtype, _bytes_of(folder / name for name in form.held))
    after = Form(format, _bytes_of([destination / name for name in form.files] or [destination]))
    if format == "packed":
        after = replace(after, name=f"{dtype}, propagated" if propagated else dtype)
        found = ndcg_of_forms(source, made, lambda judged: _made(judged, format, dtype, propagated))
        if isinstance(found, str):
            return Exported(destination, before, after, [f"N@20 was not measured: {found}"])
        before, after = (replace(of, ndcg=ndcg) for of, ndcg in zip((before, after), found, strict=True))
        return Exported(destination, before, after)
    more = after.num_bytes - before.num_bytes
    notes = [f"{more:,} bytes more than the packed form of the same: {form.reason}"] if more > 0 else []
    return Exported(destination, before, after, notes)


def check_destination(destination: Path, is_folder: bool, overwrite: bool) -> None:
    """Refuse a place where anything is but an earlier export that may be replaced.

    Args:
        destination: Where something is to be written.
        is_folder: Whether that is a folder.
        overwrite: Whether an earlier export may be replaced.

    Raises:
        ConfigError: It is a file in place of a folder, or a folder in place of a file.
        ResultError: Something is there.
    """
    if not destination.exists():
        return
    if destination.is_dir() != is_folder:
        raise ConfigError(
            f"{destination}: is {'a file; name a folder' if is_folder else 'a folder; name a file'}."
        )
    held = {file.name for file in destination.iterdir()} if is_folder else {destination.name}
    others = held - {*PACKED_FILES, *TORCHREC_FILES}
    if is_folder and others:
        raise ResultError(
            f"{destination}: holds files that no export wrote, e.g. {min(others)}; name another place."
        )
    if held and not overwrite:
        raise ResultError(f"{destination}: exists; name another place, or replace it with --overwrite.")


def _bytes_of(files: Iterable[Path]) -> dict[str, int]:
    """By name, of those that are there."""
    return {file.name: file.stat().st_size for file in files if file.exists()}


def _made(source: TableFolder, format: str, dtype: str, propagated: bool) -> TableFolder:
    made = _propagated(source) if propagated else source
    if format != "packed":
        # No other form has rows that are shared.
        made = replace(made, table=unshared(made.table))
    return made if dtype == made.table.dtype else replace(made, table=made.table.astype(dtype))


def _propagated(source: TableFolder) -> TableFolder:
    """The representations of a recommender that propagates, as the table of one that does not."""
    name = source.scorer.recommender
    if name not in PROPAGATING:
        raise ConfigError(
            f"propagated: the rows of {name} are not propagated over a graph; this is for "
            f"{' and '.join(PROPAGATING)}."
        )
    built = build_scorer(source)
    assert isinstance(built, DotProductScorer)
    num_users = source.table.num_users
    rows = np.concatenate([built.of_users(np.arange(num_users)), built.item])
    table, scorer = propagated_form(name, rows, num_users)
    return replace(source, table=table, scorer=scorer)


def _write_packed(made: TableFolder, new: Path) -> None:
    for name in (INTERACTIONS_FILE, IDS_FILE, *([] if made.test is None else [TEST_FILE])):
        copy_whole(made.path / name, new / name)
    made.scorer.write(new)
    made.table.save(new / TABLE_FILE)
    write_manifest(new, PACKED_FILES)


def _write_parquet(source: TableFolder, stream: IO[bytes]) -> None:
    """One row an entity: kind, id, embedding size, where it begins if not at the first column, its values.

    Of a neighbour table ``neighbours`` has the ids of the items whose weights the values are.
    """
    table, columns = source.table, _described(source)
    lists = {"vector": pa.array(table.decoded())}
    if table.neighbours is not None:
        lists["neighbours"] = columns["id"].take(pa.array(table.neighbours))
    schema = pa.schema(
        {name: column.type for name, column in columns.items()}
        | {name: pa.list_(values.type) for name, values in lists.items()}
    )
    ends = np.cumsum(table.row_sizes, dtype=np.int64) * table.num_tables
    with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for first in range(0, table.num_rows, _ROWS_AT_ONCE):
            part = slice(first, first + _ROWS_AT_ONCE)
            start = int(ends[first - 1]) if first else 0
            offsets = np.concatenate([[start], ends[part]]) - start
            of_part = slice(start, start + int(offsets[-1]))
            vectors = [
                pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values[of_part])
                for values in lists.values()
            ]
            rows = [*(column[part] for column in columns.values()), *vectors]
            writer.write_table(pa.table(rows, schema=schema))


def _described(source: TableFolder) -> dict[str, pa.Array]:
    """Of every row whose it is, how long, and where it begins if not at the first column."""
    table = source.table
    # Of those who have a row.
    columns = entity_columns(source.user_ids[: table.num_users], source.item_ids) | {
        "embedding_size": pa.array(table.row_sizes.astype(np.int32))
    }
    if table.first_columns is not None:
        columns["first_column"] = pa.array(table.first_columns)
    return columns


def _write_torchrec(source: TableFolder, new: Path) -> None:
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
    for kind, of_kind in (("user", ~is_item), ("item", is_item)):
        for bucket in np.unique(buckets[of_kind]).tolist():
            rows = np.flatnonzero(of_kind & (buckets == bucket))
            names[rows], places[rows] = f"{kind}_{bucket}", np.arange(len(rows))
            values = table.kept(rows, bucket).reshape(len(rows), table.num_tables, bucket)
            for number in range(table.num_tables):
                suffix = f"_{number}" if table.num_tables > 1 else ""
                weights[f"{kind}{suffix}_{bucket}"] = np.ascontiguousarray(values[:, number])
    described = {
        "format": _TORCHREC_FORMAT,
        "recommender": source.scorer.origin or source.scorer.recommender,
        "num_tables": table.num_tables,
        "tables": [
            {
                "name": name,
                "num_embeddings": len(weight),
                "embedding_dim": weight.shape[1],
                "feature_names": [name],
                "data_type": "FP32",
            }
            for name, weight in weights.items()
        ],
    }
    columns = _described(source) | {
        "table": pa.array(names.tolist()).dictionary_encode(),
        "row": pa.array(places),
    }
    described_file, rows_file, weights_file = TORCHREC_FILES
    write_whole(new / described_file, json.dumps(described, indent=2) + "\n")
    write_parquet(new / rows_file, pa.table(columns))
    named = {f"embedding_bags.{name}.weight": weight for name, weight in weights.items()}
    write_whole(new / weights_file, safetensors_of(named, {"format": _TORCHREC_FORMAT}))
    write_manifest(new, TORCHREC_FILES)


def _write_onnx(source: TableFolder, stream: IO[bytes]) -> None:
    """A graph with input ``user`` (n,), int64, and output ``score`` (n, num_items), float32.

    Representations are stored as they are scored, without packing: ONNX has no rows of different sizes.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ConfigError("the format onnx needs an extra: pip install 'ciess-ray[onnx]'.") from error
    scorer = build_scorer(source)
    assert not isinstance(scorer, NeighbourScorer)
    constants = {"users": scorer.of_users(np.arange(len(source.user_ids)))}
    nodes = [helper.make_node("Gather", ["users", "user"], ["row"])]
    if isinstance(scorer, NCFScorer):
        constants |= scorer.constants()
        constants["zero_axis"] = np.array([1], np.int64)
        constants["split"] = np.array(
            [constants["hidden_item"].shape[1], constants["product_item"].shape[0]], np.int64
        )
        nodes += [
            helper.make_node("Split", ["row", "split"], ["hidden", "product"], axis=1),
            helper.make_node("Unsqueeze", ["hidden", "zero_axis"], ["hidden_of_pairs"]),
            helper.make_node("Add", ["hidden_of_pairs", "hidden_item"], ["pairs"]),
            helper.make_node("Relu", ["pairs"], ["active"]),
            helper.make_node("MatMul", ["active", "output_hidden"], ["score_hidden"]),
            helper.make_node("MatMul", ["product", "product_item"], ["score_product"]),
            helper.make_node("Add", ["score_hidden", "score_product"], ["unbiased"]),
            helper.make_node("Add", ["unbiased", "output_bias"], ["score"]),
        ]
    else:
        constants["items"] = np.ascontiguousarray(scorer.item.T)
        nodes.append(helper.make_node("MatMul", ["row", "items"], ["score"]))
    graph = helper.make_graph(
        nodes,
        "ciess-ray scorer",
        [helper.make_tensor_value_info("user", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", "num_items"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    stream.write(model.SerializeToString())


FORMATS = {
    "packed": Format(_write_packed, PACKED_FILES, PACKED_FILES),
    "parquet": Format(
        _write_parquet,
        (),
        (TABLE_FILE, IDS_FILE),
        "its values are plain float32 numbers, and it says of every row whose it is and how long",
    ),
    "torchrec": Format(
        _write_torchrec,
        (*TORCHREC_FILES, MANIFEST_FILE),
        (TABLE_FILE, IDS_FILE),
        "its rows are float32 numbers, with zeros up to the next power of two, and it says where each is",
    ),
    "onnx": Format(
        _write_onnx,
        (),
        (TABLE_FILE, SCORER_FILE),
        "ONNX has no rows of different sizes: all are float32 numbers, as wide as what is scored",
    ),
}
