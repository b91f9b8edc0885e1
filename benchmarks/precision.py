r"""What bits of a number are worth: tables of a shape rounded after training, at every precision.

    OMP_NUM_THREADS=1 python benchmarks/precision.py DATA_FOLDER
    OMP_NUM_THREADS=1 python benchmarks/precision.py DATA_FOLDER --shapes ml-1m:spectral:48 --splits 0
    python benchmarks/precision.py DATA_FOLDER --finished

A shape is a data set, a recommender and the sizes of users and of items. It is trained once a split, options
chosen on validation, and measured on test as it is and as its packed table decodes. A row is appended when a
shape is through on a split, so that the command may be broken off. Recipes are those of
``recommender_table.py``, whose full tables on the same splits are what shares are of.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from equal_table import best_equal_table
from markdown_table import table
from measurements import Measurements
from provenance import provenance
from recommender_table_plan import BUILDING, DATA_SETS, FULL, HELD_OUT, Cell

from ciess_ray.config.data import load_interactions
from ciess_ray.files.whole import write_whole
from ciess_ray.packed.codes import PRECISIONS
from ciess_ray.packed.embedding import pack_recommender, unpack_recommender
from ciess_ray.serving.served_bytes import served_bytes
from ciess_ray.training.convergence import Meter
from envs.recommenders import options_of
from envs.recommenders.evaluation import evaluate
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Data, recommender, sizes of users and of items; what is soon done first.
SHAPES = (
    *(f"ml-1m:spectral:{size}" for size in (32, 48, 64)),
    "latest-small:lightgcn:64:2",
    "latest-small:lightgcn:32:1",
    "ml-1m:lightgcn:39:1",
    "ml-1m:lightgcn:48:1",
)
_NDCG = "ndcg@20"


@dataclass(frozen=True)
class Shape:
    """Sizes of a recommender's table.

    Attributes:
        data: In ``DATA_SETS``.
        recommender: Its name.
        user: Size of every user; 0 where they have no rows.
        item: Of every item.
    """

    data: str
    recommender: str
    user: int
    item: int

    @classmethod
    def of(cls, text: str) -> "Shape":
        """As :data:`SHAPES` says it."""
        data, recommender, *sizes = text.split(":")
        user, item = (int(size) for size in (["0", *sizes] if len(sizes) == 1 else sizes))
        return cls(data, recommender, user, item)

    @property
    def title(self) -> str:
        """For people."""
        of_rows = f"{self.user} : {self.item}" if self.user else str(self.item)
        return f"{self.recommender} {of_rows}"


def main() -> None:
    """Make the rows that are not there yet, and the page of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the data")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--splits", type=int, nargs="+", default=[*BUILDING, *HELD_OUT])
    parser.add_argument("--finished", action="store_true", help="write the page alone")
    parser.add_argument("--output", type=Path, default=Path("results/precision"))
    arguments = parser.parse_args()
    rows = Measurements(arguments.output.with_name(f"{arguments.output.name}.jsonl"))
    for text in () if arguments.finished else arguments.shapes:
        for split in arguments.splits:
            key = {**vars(Shape.of(text)), "split": split}
            if not rows.has(**key):
                rows.add(provenance() | key | measure(Shape.of(text), split, arguments.folder))
    _write_page(arguments.output, rows.rows)


def measure(shape: Shape, split: int, folder: Path) -> dict[str, Any]:
    """Train a shape, and measure it at every precision.

    Args:
        shape: Which.
        split: Seed of the split.
        folder: Of the data.
    """
    config = Cell(shape.data, shape.recommender, FULL, split).config(folder)
    interactions = load_interactions(config)
    num_users, num_items = config.recommender.row_counts(interactions)
    sizes = EmbeddingSizes(
        np.full(num_users, shape.user),
        np.full(num_items, shape.item),
        1,
        config.recommender.max_embedding_size,
    )
    meter = Meter()
    found = best_equal_table(config, interactions, sizes.num_params, meter, sizes=sizes)
    recommender, merged = found.recommender, interactions.merge_validation_into_training()
    packed = pack_recommender(recommender, shape.recommender)
    state = {name: value.numpy() for name, value in recommender.scorer_state().items()}
    beside = served_bytes(recommender, merged, shape.recommender)
    forms: dict[str, dict[str, float]] = {}
    for dtype in PRECISIONS:
        rounded = packed.astype(dtype)
        of_rounded = unpack_recommender(
            rounded, merged.train, shape.recommender, options_of(recommender), state
        )
        with torch.no_grad():
            quality = evaluate(of_rounded, merged.train, merged.test, (20,)).summary()[_NDCG]
        forms[dtype] = {_NDCG: quality, "packed_bytes": rounded.num_bytes}
    return {
        "options": dict(found.chosen.options),
        "forms": forms,
        "beside_bytes": beside.served_bytes - beside.packed_bytes
        if beside.served_as != "propagated rows"
        else None,
        "cpu_s": round(meter.cost(1).cpu_s, 1),
    }


def _full_size(folder: Path) -> dict[tuple[str, str, int], float]:
    """N@20 on test of full tables, by data, recommender and split."""
    rows = [
        row
        for name in ("recommender-table", "recommender-table-held-out")
        for row in Measurements(folder / f"{name}.jsonl").rows
        if row["budget"] == FULL and "test" in row
    ]
    return {(row["data"], row["recommender"], row["split"]): row["test"][_NDCG] for row in rows}


def _write_page(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page, and print it."""
    full = _full_size(output.parent)
    heads = ["table", "splits", "precision", "packed bytes", "N@20", "of float32", "of full size"]
    parts = [
        "# What bits of a number are worth",
        "N@20 on test, mean over splits, of tables that are rounded after training: a scale a row by least "
        f"squares, one for rows of one number; rows: `{output.name}.jsonl`. They are trained as full tables "
        "like it best, which a split of LightGCN on MovieLens latest-small does not.",
    ]
    for data, described in DATA_SETS.items():
        lines = []
        of_data = [row for row in rows if row["data"] == data]
        for shape in dict.fromkeys(
            Shape(*(row[name] for name in vars(Shape.of(SHAPES[0])))) for row in of_data
        ):
            its = [row for row in of_data if all(row[name] == value for name, value in vars(shape).items())]
            its.sort(key=lambda row: row["split"])
            for dtype in PRECISIONS:
                qualities = [row["forms"][dtype][_NDCG] for row in its]
                exact = [row["forms"]["float32"][_NDCG] for row in its]
                shares = [
                    quality / full[data, shape.recommender, row["split"]]
                    for quality, row in zip(qualities, its, strict=True)
                    if (data, shape.recommender, row["split"]) in full
                ]
                lines.append(
                    [
                        shape.title,
                        ", ".join(str(row["split"]) for row in its),
                        dtype,
                        f"{max(row['forms'][dtype]['packed_bytes'] for row in its):,}",
                        f"{mean(qualities):.4f}",
                        f"{mean(q / e for q, e in zip(qualities, exact, strict=True)):.1%}",
                        f"{mean(shares):.1%}" if shares else "",
                    ]
                )
        if lines:
            parts += [f"## {described.title}", table(heads, lines)]
    text = "\n\n".join(parts) + "\n"
    write_whole(output.with_name(f"{output.name}.md"), text)
    print(text)


if __name__ == "__main__":
    main()
