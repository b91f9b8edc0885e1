"""Speed and memory of the base recommenders, beside the machine's limits and beside other code.

    make bench ML1M=ml-1m.parquet GOWALLA=gowalla.parquet

Every case runs in a process of its own (benchmarks/recommender_cases.py), one after the other. Where a data
set is not given, synthetic data of its shape takes its place, and the result says so. Writes
results/bench.json and results/bench.png.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recommender_figure import draw

#: Users, items, interactions.
SHAPES = {"ml-1m": (6_040, 3_706, 1_000_209), "gowalla": (29_858, 40_981, 1_027_370)}
WIDTHS = (128, 32, 8)
GROWTH_SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
GROWTH_WIDTH = 32
#: Interactions a user and an item in the growth data; both counts grow with the interactions.
PER_USER, PER_ITEM = 50, 100
#: Without it glibc keeps freed blocks of up to 32 MB, and how many depends on the sizes of what came before.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}
EVALUATION_MEMORY_GOAL_BYTES = 1.5 * 2**30


def run_case(kind: str, label: str, variables: dict[str, str] | None = None, **case: Any) -> dict[str, Any]:
    """What one case printed, run with these environment variables besides.

    Raises:
        SystemExit: The case failed; its messages have been shown.
    """
    started = time.perf_counter()
    command = [
        sys.executable,
        str(Path(__file__).with_name("recommender_cases.py")),
        json.dumps({"kind": kind, **case}),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | (variables or {}))
    if done.returncode != 0:
        raise SystemExit(f"{label} failed")
    print(f"{time.perf_counter() - started:6.1f} s  {label}", flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def fitted_exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def exponents(rows: list[dict[str, Any]], value: Any) -> dict[str, Any]:
    """Over all sizes, and from each to the next."""
    sizes, values = [row["num_interactions"] for row in rows], [value(row) for row in rows]
    return {
        "all_sizes": fitted_exponent(sizes, values),
        "from_size_to_size": [
            fitted_exponent(sizes[n : n + 2], values[n : n + 2]) for n in range(len(rows) - 1)
        ],
    }


def measure_growth(folder: Path, sizes: tuple[int, ...], repeats: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for size in sizes:
        data = str(folder / f"growth-{size}.npz")
        shape = (size // PER_USER, size // PER_ITEM, size)
        made = run_case("prepare", f"generate {size:,}", source=None, shape=shape, is_split=False, data=data)
        label = f"growth, {size:,} interactions"
        row = run_case("growth", label, data=data, width=GROWTH_WIDTH, repeats=repeats)
        memory = {
            name: run_case("growth_memory", f"memory, {size:,}", variables, data=data, width=GROWTH_WIDTH)
            for name, variables in (("memory_bytes", _RETURN_MEMORY), ("memory_bytes_as_allocated", {}))
        }
        rows.append({"generate_s": made["read_or_generate_s"], **row, **memory})
        Path(data).unlink()
    return {
        "what": f"LightGCN, 3 layers, {GROWTH_WIDTH} dimensions, on {PER_USER} interactions a user and "
        f"{PER_ITEM} an item, all for training; propagation is encode() and its gradient; gather reads "
        "the rows that one of its six products reads, without computing: it grows faster than the number "
        "of reads where the table leaves the caches; memory is the peak of the process less that of a batch "
        "as large on a tiny graph, with glibc told to return freed blocks of 64 kB and more to the system "
        "(memory_bytes) and as it comes (memory_bytes_as_allocated)",
        "rows": rows,
        "exponent": {
            "propagation_s": exponents(rows, lambda row: row["propagation"]["median_s"]),
            "batch_s": exponents(rows, lambda row: row["batch"]["median_s"]),
            "gather_s": exponents(rows, lambda row: row["gather"]["median_s"]),
            "propagation_over_gather": exponents(
                rows, lambda row: row["propagation"]["median_s"] / row["gather"]["median_s"]
            ),
            "memory": exponents(rows, lambda row: row["memory_bytes"]["growth"]),
            "memory_as_allocated": exponents(rows, lambda row: row["memory_bytes_as_allocated"]["growth"]),
        },
    }


def measure_peers(data: str, widths: tuple[int, ...], turns: int) -> dict[str, Any]:
    coo = run_case("coo_lightgcn", "peer: COO LightGCN", data=data, width=128, turns=turns)
    bpr = []
    # Of the batches of configs/ml-1m-mf.yaml, and of those that everything else here has.
    for width, batch_size in [*((width, 20_000) for width in widths), (widths[0], 10_000)]:
        case = {"data": data, "width": width, "batch_size": batch_size, "turns": turns}
        row = run_case("implicit_bpr", f"peer: implicit, {width}, {batch_size:,} a batch", **case)
        if "missing" in row:
            print(f"          left out: {row['missing']}", flush=True)
            bpr = row
            break
        bpr.append({"width": width, "batch_size": batch_size, **row})
    return {
        "data": "ml-1m, training half",
        "ratio": "seconds of the peer over ours, turn by turn: above 1 ours is faster",
        "coo_lightgcn": {"width": 128, **coo},
        "implicit_bpr": bpr,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ml-1m", default=None, help="MovieLens-1M, any format that is read")
    parser.add_argument("--gowalla", default=None)
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--output", type=Path, help="results/bench.json; with --quick runs/bench.json")
    arguments = parser.parse_args()
    output = arguments.output or Path("runs" if arguments.quick else "results") / "bench.json"
    # These import what is measured, which this process need not hold while it measures.
    from machine import share_of_limit

    from envs.recommenders import RECOMMENDERS, ClosedForm

    is_quick = arguments.quick
    repeats = {"min_repeats": 1, "min_s": 0.0, "max_s": 0.5} if is_quick else {"min_s": 2.0, "max_s": 8.0}
    widths = WIDTHS[1:] if is_quick else WIDTHS
    turns = 1 if is_quick else 5
    started = time.perf_counter()
    first = run_case("limits", "the machine's limits", is_quick=is_quick)
    datasets: dict[str, Any] = {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npz") for name in SHAPES}
        for dataset, shape in SHAPES.items():
            source = getattr(arguments, dataset.replace("-", "_"))
            case = {"source": source, "shape": shape, "is_split": True, "data": files[dataset]}
            datasets[dataset] = run_case("prepare", f"prepare {dataset}", **case)
            # A closed form has no batches.
            trained = [name for name, cls in RECOMMENDERS.items() if not issubclass(cls, ClosedForm)]
            for name in trained:
                for width in widths:
                    case = {"name": name, "width": width, "data": files[dataset], "repeats": repeats}
                    case["num_judged"] = 500 if is_quick else -1
                    row = run_case("recommender", f"{dataset}, {name}, {width}", **case)
                    rows.append({"dataset": dataset, "recommender": name, "width": width, **row})
        peers = measure_peers(files["ml-1m"], widths, turns)
        growth = measure_growth(Path(folder), GROWTH_SIZES[:2] if is_quick else GROWTH_SIZES, repeats)
    last = run_case("limits", "the machine's limits again", is_quick=is_quick)
    limits = {key: max(value, last["limits"][key]) for key, value in first["limits"].items()}
    for row in rows:
        cost = row["cost_of_batch"]
        row["share_of_limit"] = cost and share_of_limit(cost, limits, row["batch"]["median_s"])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "command": "make bench"
        + " ML1M=..." * bool(arguments.ml_1m)
        + " GOWALLA=..." * bool(arguments.gowalla),
        "is_quick": is_quick,
        "commit": commit,
        **first["machine"],
        "seed": 0,
        "total_s": round(time.perf_counter() - started, 1),
        "limits": {**limits, "before": first["limits"], "after": last["limits"]},
        "datasets": datasets,
        "notes": {
            "batch": "10,000 BPR triples: drawing them, forward, backward, Adam",
            "epoch_s": "median of a batch times the batches that pass over the training interactions",
            "evaluation": "top 20 of all unseen items and its metrics, every user with validation items",
            "memory_bytes": "high-water marks of the case's own process, in this order",
            "share_of_limit": "max(bytes / bandwidth, operations / rate) over seconds of a batch, by the "
            "model in benchmarks/machine.py; 'compulsory' takes every array once, 'gather' every row that a "
            "product of the adjacency reads anew, which caches make cheaper than memory: it may exceed 1",
        },
        "rows": rows,
        "evaluation_memory_goal": evaluation_memory(rows),
        "growth": growth,
        "peers": peers,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(result), indent=1)
    output.write_text(text + "\n", encoding="utf-8")
    draw(result, output.with_suffix(".png"))
    print(f"{result['total_s']:6.1f} s  in all; written to {output}")


def evaluation_memory(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """LightGCN's evaluation on Gowalla against its goal."""
    peak = max(
        row["memory_bytes"]["evaluation_peak"]
        for row in rows
        if (row["dataset"], row["recommender"]) == ("gowalla", "lightgcn")
    )
    goal = EVALUATION_MEMORY_GOAL_BYTES
    return {
        "what": "gowalla, lightgcn, widest",
        "peak_bytes": peak,
        "goal_bytes": goal,
        "is_met": peak < goal,
    }


def rounded(value: Any) -> Any:
    """Four digits are more than a timing holds."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
