"""A packed table as others read it: smaller values, propagated rows, Parquet, TorchRec's tables, ONNX.

Every export reads the packed table once and refuses one with values that are no numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.files.manifest import MANIFEST_FILE, Manifest, write_manifest
from ciess_ray.files.whole import copy_whole, whole_file, whole_folder
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
    described_rows,
    propagated_form,
)
from ciess_ray.serving.forms import ndcg_of_forms
from ciess_ray.serving.neighbour_scorer import NeighbourScorer
from ciess_ray.serving.scorers import DotProductScorer, NCFScorer, build_scorer
from ciess_ray.serving.torchrec_tables import TORCHREC_FILES, TORCHREC_TYPES, rounded, write_torchrec
from envs.errors import ConfigError, ResultError, check_name, within

PACKED_FILES = (TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE, MANIFEST_FILE)
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
        write: Writes a table into a new folder, or into the stream of a file, in a type of value.
        files: Of the folder; none for a file.
        held: Files of what is exported whose content it holds.
        reason: Why it may be larger than these; empty where that needs none.
    """

    write: Callable[[TableFolder, Any, str], object]
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
        dtype: Type of the values of ``packed``, see :meth:`ciess_ray.packed.table.PackedTable.of`; of
            ``torchrec`` a key of :data:`TORCHREC_TYPES`.
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
    if format == "torchrec" and dtype not in TORCHREC_TYPES:
        raise ConfigError(f"dtype: tables of TorchRec are {', '.join(TORCHREC_TYPES)}, not {dtype}.")
    if (format not in ("packed", "torchrec") and dtype != "float32") or (format != "packed" and propagated):
        raise ConfigError(
            f"dtype is of packed and torchrec and propagated of packed, not of the format {format}."
        )
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
        form.write(made, new, dtype)
    before = Form(source.table.dtype, _bytes_of(folder / name for name in form.held))
    after = Form(format, _bytes_of([destination / name for name in form.files] or [destination]))
    if format == "packed" or dtype != "float32":
        name = f"{dtype}, propagated" if propagated else dtype
        after = replace(after, name=name if format == "packed" else f"{format}, {name}")
        what = format, dtype, propagated
        found = ndcg_of_forms(
            source, _judged(made, *what[:2]), lambda judged: _judged(_made(judged, *what), *what[:2])
        )
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
    if format != "packed" or dtype == made.table.dtype:
        return made
    return replace(made, table=made.table.astype(dtype))


def _judged(made: TableFolder, format: str, dtype: str) -> TableFolder:
    """With the numbers that a format makes of the table's."""
    return rounded(made, dtype) if format == "torchrec" else made


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


def _write_packed(made: TableFolder, new: Path, _: str) -> None:
    for name in (INTERACTIONS_FILE, IDS_FILE, *([] if made.test is None else [TEST_FILE])):
        copy_whole(made.path / name, new / name)
    made.scorer.write(new)
    made.table.save(new / TABLE_FILE)
    write_manifest(new, PACKED_FILES)


def _write_parquet(source: TableFolder, stream: IO[bytes], _: str) -> None:
    """One row an entity: kind, id, embedding size, where it begins if not at the first column, its values.

    Of a neighbour table ``neighbours`` has the ids of the items whose weights the values are.
    """
    table, columns = source.table, described_rows(source)
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


def _write_onnx(source: TableFolder, stream: IO[bytes], _: str) -> None:
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
        write_torchrec,
        (*TORCHREC_FILES, MANIFEST_FILE),
        (TABLE_FILE, IDS_FILE),
        "its rows are filled with zeros up to the next power of two, and it says where each is",
    ),
    "onnx": Format(
        _write_onnx,
        (),
        (TABLE_FILE, SCORER_FILE),
        "ONNX has no rows of different sizes: all are float32 numbers, as wide as what is scored",
    ),
}
