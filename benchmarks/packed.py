"""What a packed table costs to look rows up in, to open, and to recommend from.

    OMP_NUM_THREADS=2 python benchmarks/packed.py --ml-1m ml-1m.parquet

*Lookup*: random rows of a table of a million rows with a mean size of 8, as wide as 8 and as the largest
size, beside ``nn.Embedding`` of that width and a plain gather of every number. *Opening*: resident memory of
a process that opens it, looks rows up, and verifies it. *Recommending*: the whole command in a process of its
own, for every recommender with tables at 10 % of MovieLens-1M, or of synthetic data of its shape.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from provenance import provenance
from torch import nn

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.packed.codes import PRECISIONS
from ciess_ray.packed.embedding import PackedEmbedding
from ciess_ray.packed.table import PackedTable
from ciess_ray.result import ResultFolder
from ciess_ray.serving.export import export
from ciess_ray.serving.files import PROPAGATING, TABLE_FILE
from envs.budget import MemoryBudget
from envs.data import generate_interactions, read_interactions, split_interactions
from envs.recommenders import RECOMMENDERS
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes

NUM_ROWS, MEAN_SIZE, MAX_SIZE, NUM_LOOKUPS = 1_000_000, 8, 128, 100_000
#: Resident kilobytes of a process before it opens a table, with it open, after lookups, after verify().
_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from ciess_ray.packed.table import PackedTable
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
before = resident()
table = PackedTable.open(Path(sys.argv[1]))
table.layout.starts
opened = resident()
table.rows(np.random.default_rng(0).integers(0, table.num_rows, 1000))
looked = resident()
table.verify()
print(before, opened, looked, resident())
"""


def median_ms(run: Callable[[], Any], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def large_table(dtype: str = "float32") -> PackedTable:
    rng = np.random.default_rng(0)
    sizes = np.minimum(rng.geometric(1 / MEAN_SIZE, NUM_ROWS), MAX_SIZE)
    values = rng.standard_normal(int(sizes.sum()), np.float32)
    half = NUM_ROWS // 2
    return PackedTable.of(values, EmbeddingSizes(sizes[:half], sizes[half:], 1, MAX_SIZE), dtype=dtype)


@torch.no_grad()
def measure_lookup(table: PackedTable, width: int, repeats: int) -> dict[str, Any]:
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, NUM_ROWS, NUM_LOOKUPS))
    packed, dense = PackedEmbedding(table, width), nn.Embedding(NUM_ROWS, width)
    values, sizes = packed.values, packed.row_sizes.long()
    starts = packed.block_starts[torch.arange(NUM_ROWS) >> packed.block_bits] + packed.in_block
    columns = torch.arange(width)

    def gather() -> torch.Tensor:
        places = starts[rows, None] + columns
        return values[places.clamp(max=len(values) - 1)] * (columns < sizes[rows, None])

    row: dict[str, Any] = {"dtype": table.dtype, "width": width}
    # One after the other, so that whatever else the machine does falls on all of them.
    rounds = [
        (
            median_ms(lambda: dense(rows), repeats),
            median_ms(lambda: packed(rows), repeats),
            median_ms(lambda: table.rows(rows.numpy(), width), repeats),
            median_ms(gather, repeats) if table.dtype == "float32" else float("nan"),
        )
        for _ in range(7)
    ]
    for position, name in enumerate(("embedding_ms", "packed_ms", "numpy_ms", "gather_ms")):
        figures = [figures[position] for figures in rounds]
        if figures[0] == figures[0]:
            row[name] = round(statistics.median(figures), 3)
    row["packed_over_embedding"] = round(statistics.median(own / base for base, own, *_ in rounds), 2)
    return row


def measure_memory(table: PackedTable, folder: Path) -> dict[str, Any]:
    file = folder / TABLE_FILE
    num_bytes = table.save(file)
    done = subprocess.run([sys.executable, "-c", _MEMORY, file], capture_output=True, text=True, check=True)
    before, *others = (1024 * int(number) for number in done.stdout.split())
    shares = {
        name: round((resident - before) / num_bytes, 3)
        for name, resident in zip(("opened", "looked_up", "verified"), others, strict=True)
    }
    return {"file_bytes": num_bytes, "resident_share_of_the_file": shares}


def measure_recommend(ml_1m: Path | None, folder: Path, repeats: int) -> list[dict[str, Any]]:
    if ml_1m is None:
        log = generate_interactions(6_040, 3_706, 1_000_209, seed=0)
    else:
        log = read_interactions(ml_1m)
    interactions = split_interactions(log, seed=0).merge_validation_into_training()
    rows = []
    for name, recommender_class in RECOMMENDERS.items():
        place = folder / name
        counts = recommender_class.row_counts(interactions.num_users, interactions.num_items)
        sizes = EmbeddingSizes.from_proposal(
            np.full(counts[0], 20.0),
            np.full(counts[1], 1.0),
            MemoryBudget(0.1).cap_params(sum(counts), 1, 128, recommender_class.num_tables),
            1,
            128,
            np.random.default_rng(0),
            fill=True,
            num_tables=recommender_class.num_tables,
        )
        recipe = Recipe(interactions.train, TrainingSettings(), name)
        trainer = recipe.trainer(sizes, np.random.default_rng(0))
        trainer.train(3)
        result = ResultFolder(place)
        result.write_table(trainer.recommender.eval(), interactions, name)
        config = parse_config({"dataset": {"path": "log.parquet"}, "recommender": {"name": name}})
        result.write_result({"status": "finished", "config": config.model_dump(mode="json")})
        user = str(interactions.user_ids[17])
        rows.append({"recommender": name, "form": "table"} | cold(place, user, repeats))
        if name in PROPAGATING:
            export(place, folder / f"{name}-propagated", propagated=True)
            own = cold(folder / f"{name}-propagated", user, repeats)
            rows.append({"recommender": name, "form": "propagated"} | own)
    return rows


def cold(folder: Path, user: str, repeats: int) -> dict[str, Any]:
    """Seconds of the command from its start to its end, and what of PyTorch and Ray it imported."""
    command = [Path(sys.executable).parent / "ciess-ray", "recommend", folder, "--user", user, "-k", "20"]
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    code = (
        f"import sys; from ciess_ray.cli.main import app; app({[str(part) for part in command[1:]]!r}, "
        "standalone_mode=False); print({n.split('.')[0] for n in sys.modules} & {'ray', 'torch'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {
        "table_bytes": (folder / TABLE_FILE).stat().st_size,
        "median_s": round(statistics.median(seconds), 3),
        "largest_s": round(max(seconds), 3),
        "imported": done.stdout.splitlines()[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ml-1m", type=Path, help="Parquet file; synthetic data of its shape without it")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("results/packed.json"))
    arguments = parser.parse_args()
    tables = {dtype: large_table(dtype) for dtype in PRECISIONS}
    result: dict[str, Any] = {
        **provenance(),
        "data": "synthetic" if arguments.ml_1m is None else "MovieLens-1M",
        "lookup": [
            measure_lookup(table, width, arguments.repeats)
            for table in tables.values()
            for width in (MEAN_SIZE, MAX_SIZE)
        ],
    }
    for row in result["lookup"]:
        print(row, flush=True)
    with TemporaryDirectory() as folder:
        result["opening"] = measure_memory(tables["float32"], Path(folder))
        print(result["opening"], flush=True)
        result["recommend"] = measure_recommend(arguments.ml_1m, Path(folder), max(arguments.repeats // 2, 3))
    for row in result["recommend"]:
        print(row, flush=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
