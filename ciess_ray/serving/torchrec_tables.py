"""Rows of like size as the dense tables of TorchRec, in float32 or quantised row by row as FBGEMM has them.

A quantised row is its codes, of two or four bits so many to a byte with the first in the lowest bits, and
behind them the scale and the bias of the row: code * scale + bias is the number. Both are float32 of eight
bits and float16 of fewer. ``torch.ops.quantized.embedding_bag_4bit_rowwise_offsets`` and its likes look such
rows up.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ciess_ray.files.formats import write_parquet
from ciess_ray.files.manifest import write_manifest
from ciess_ray.files.whole import write_whole
from ciess_ray.packed.file import DAMAGED
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import TableFolder, described_rows, safetensors_of
from envs.errors import ResultError

TORCHREC_FILES = ("tables.json", "rows.parquet", "embeddings.safetensors")
#: What TorchRec calls the types of values that a table may have.
TORCHREC_TYPES = {"float32": "FP32", "int8": "INT8", "int4": "INT4", "int2": "INT2"}
_FORMAT = "ciess-ray torchrec tables 1"
#: TorchRec's kernels want rows of a multiple of four.
_SMALLEST_BUCKET = 4

Floats = NDArray[np.float32]


def write_torchrec(source: TableFolder, new: Path, dtype: str) -> None:
    """Write dense tables, with the configuration that TorchRec's collections take.

    A row goes into the table of the next power of two, at least four; a recommender of several tables has
    so many sets of them. ``rows.parquet`` says where every entity is, and, where rows do not all begin at the
    first column, in which column its first number belongs.

    Args:
        source: The table, in which everybody has a row.
        new: The folder.
        dtype: A key of :data:`TORCHREC_TYPES`.

    Raises:
        ResultError: A number is too large for the scale of a row.
    """
    table, weights, tables = source.table, {}, []
    places = np.empty(table.num_rows, np.int64)
    names = np.empty(table.num_rows, object)
    for kind, bucket, rows in _buckets(table):
        names[rows], places[rows] = f"{kind}_{bucket}", np.arange(len(rows))
        for number, values in enumerate(_dense(table, rows, bucket)):
            name = f"{kind}_{number}_{bucket}" if table.num_tables > 1 else f"{kind}_{bucket}"
            weights[f"embedding_bags.{name}.weight"] = (
                np.ascontiguousarray(values) if dtype == "float32" else quantize_rows(values, _bits(dtype))
            )
            tables.append(
                {
                    "name": name,
                    "num_embeddings": len(rows),
                    "embedding_dim": bucket,
                    "feature_names": [name],
                    "data_type": TORCHREC_TYPES[dtype],
                }
            )
    described = {
        "format": _FORMAT,
        "recommender": source.scorer.origin or source.scorer.recommender,
        "num_tables": table.num_tables,
        "tables": tables,
    }
    columns = described_rows(source) | {
        "table": pa.array(names.tolist()).dictionary_encode(),
        "row": pa.array(places),
    }
    described_file, rows_file, weights_file = TORCHREC_FILES
    write_whole(new / described_file, json.dumps(described, indent=2) + "\n")
    write_parquet(new / rows_file, pa.table(columns))
    write_whole(new / weights_file, safetensors_of(weights, {"format": _FORMAT}))
    write_manifest(new, TORCHREC_FILES)


def rounded(source: TableFolder, dtype: str) -> TableFolder:
    """The table with the numbers that its dense tables of a type stand for.

    Args:
        source: The table, in which everybody has a row.
        dtype: A key of :data:`TORCHREC_TYPES`.
    """
    table = source.table
    if dtype == "float32":
        return source
    found = np.empty(table.num_params, np.float32)
    lengths, sizes = table.layout.lengths, table.row_sizes.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    for _, bucket, rows in _buckets(table):
        is_kept = np.arange(bucket) < sizes[rows, None]
        for number, values in enumerate(_dense(table, rows, bucket)):
            numbers = dequantize_rows(quantize_rows(values, _bits(dtype)), _bits(dtype), bucket)
            at = (starts[rows] + number * sizes[rows])[:, None] + np.arange(bucket)
            found[at[is_kept]] = numbers[is_kept]
    made = PackedTable.of(found, table.sizes, recommender=table.recommender)
    return replace(source, table=made)


def quantize_rows(rows: Floats, bits: int) -> NDArray[np.uint8]:
    """Rows as FBGEMM has them, between the least and the greatest number of each.

    Args:
        rows: Shape (n, d), d a multiple of four.
        bits: 8, 4 or 2.

    Returns:
        Shape (n, d * bits / 8 + 8), or + 4 of fewer than eight bits.

    Raises:
        ResultError: A number is too large for float16.
    """
    held, levels = (np.float32 if bits == 8 else np.float16), 2**bits - 1
    with np.errstate(over="ignore"):
        biases = rows.min(axis=1).astype(held)
        spans = rows.max(axis=1) - biases.astype(np.float32)
        scales = (spans / levels).astype(held)
    if not (np.isfinite(biases).all() and np.isfinite(scales).all()):
        raise ResultError(f"a row holds what float16 does not reach: {DAMAGED}, or export it as int8.")
    # A row of one number, whichever, is its bias.
    scales[scales == 0] = 1
    shifted = rows - biases.astype(np.float32)[:, None]
    codes = np.clip(np.rint(shifted / scales.astype(np.float32)[:, None]), 0, levels).astype(np.uint8)
    each = 8 // bits
    parts = codes.reshape(len(rows), -1, each) << (np.arange(each) * bits).astype(np.uint8)
    packed = np.bitwise_or.reduce(parts, axis=2)
    tails = [part.view(np.uint8).reshape(len(rows), held().itemsize) for part in (scales, biases)]
    return np.concatenate([packed, *tails], axis=1)


def dequantize_rows(quantized: NDArray[np.uint8], bits: int, width: int) -> Floats:
    """The numbers of :func:`quantize_rows`, shape (n, width)."""
    held = np.float32 if bits == 8 else np.float16
    num_bytes = width * bits // 8
    tails = np.ascontiguousarray(quantized[:, num_bytes:]).view(held).astype(np.float32)
    spread = quantized[:, :num_bytes, None] >> (np.arange(8 // bits) * bits).astype(np.uint8)
    codes = (spread & (2**bits - 1)).reshape(len(quantized), width)
    return np.asarray(codes * tails[:, :1] + tails[:, 1:], np.float32)


def _bits(dtype: str) -> int:
    return int(dtype.removeprefix("int"))


def _buckets(table: PackedTable) -> Iterator[tuple[str, int, NDArray[np.int64]]]:
    """Kind, width and rows of each dense table."""
    widths = np.maximum(2 ** np.ceil(np.log2(table.row_sizes)).astype(np.int64), _SMALLEST_BUCKET)
    is_item = np.arange(table.num_rows) >= table.num_users
    for kind, of_kind in (("user", ~is_item), ("item", is_item)):
        for width in np.unique(widths[of_kind]).tolist():
            yield kind, width, np.flatnonzero(of_kind & (widths == width))


def _dense(table: PackedTable, rows: NDArray[np.int64], width: int) -> Iterator[Floats]:
    """What rows keep in each table, zeros behind it, shape (n, width)."""
    values = table.kept(rows, width).reshape(len(rows), table.num_tables, width)
    yield from values.transpose(1, 0, 2)
