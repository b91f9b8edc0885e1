r"""Every method of a stream on one log, within one budget, over seeds: the table in ``results/stream.md``.

    OMP_NUM_THREADS=1 python benchmarks/stream.py online-retail-2.parquet --seeds 0 1 2

Streams are the trials of a sweep, side by side, each method that takes minutes in one of its own; draws
depend on the seed, the segment and the method, so that it is all the same. The command may be broken off, and
goes on with the sweep in its folder; ``--finished`` writes what is there so far. ``results/stream.csv`` has a
row a seed, segment and method, and ``results/stream.md`` means over the segments from the third on: the first
two know too few users.
"""

import argparse
import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from provenance import provenance
from scipy import stats

from ciess_ray.files.whole import write_whole
from ciess_ray.names import SWEEP_FILE
from ciess_ray.searches.live import RunsView
from ciess_ray.statistics import Spread
from ciess_ray.streaming.config import DEFAULT_METHODS, METHOD_NAMES, SCALL_METHODS
from ciess_ray.sweeps.config import SweepPlan
from ciess_ray.sweeps.driver import resume_sweep, sweep
from ciess_ray.sweeps.storage import Storage
from ciess_ray.sweeps.streams import rows_of
from ciess_ray.sweeps.trial import read_sweep
from ciess_ray.terminal import console

FIRST_SEGMENT = 2
EQUAL, NDCG = "equal sizes", "test/ndcg@20"
COLUMNS = (
    "seed",
    "segment",
    "method",
    NDCG,
    "test/recall@20",
    "test_cold/ndcg@20",
    "test_cold/recall@20",
    "validation/ndcg@20",
    "num_bytes",
    "num_params",
    "cap_params",
    "cpu_s",
    "num_trainings",
    "num_users",
    "num_items",
    "test/num_users",
    "test_cold/num_users",
    "cold_share",
    "chosen",
)
#: Of what is read by people: heading, column.
SHOWN = (
    ("N@20", NDCG),
    ("R@20", "test/recall@20"),
    ("cold N@20", "test_cold/ndcg@20"),
    ("cold R@20", "test_cold/recall@20"),
    ("validation N@20", "validation/ndcg@20"),
)
Rows = Sequence[Mapping[str, Any]]


def plan_of(arguments: argparse.Namespace) -> SweepPlan:
    """A trial a seed of all methods that take seconds, and then of each that takes minutes."""
    quick = [name for name in arguments.methods if name in DEFAULT_METHODS]
    # Of these, SCALL's take longest.
    slow = [[name] for name in arguments.methods if name not in (*DEFAULT_METHODS, *SCALL_METHODS)]
    slow += [[name] for name in arguments.methods if name in SCALL_METHODS]
    base = {
        "dataset": {"path": str(arguments.log.absolute())},
        "segments": {"new_entities": arguments.new_entities},
        "budget": arguments.budget,
        "recommender": {
            "max_embedding_size": arguments.max_embedding_size,
            "options": {"l2": arguments.l2},
            "device": "cpu",
        },
    }
    values = {
        "base": base,
        "space": {"methods": [*([quick] if quick else []), *slow], "seed": arguments.seeds},
        "output": str(arguments.folder),
        "tracking": {"mlflow": False},
    }
    return SweepPlan.of(values, "benchmarks/stream.py", Path())


def followed(plan: SweepPlan) -> list[dict[str, Any]]:
    """The rows of all streams, most of which may be there already.

    Raises:
        SystemExit: The folder holds others, or one has failed.
    """
    storage = Storage(plan.config.output)
    with RunsView(console) as view:
        if storage.has(SWEEP_FILE):
            former, _ = read_sweep(storage)
            # Where the log lies is told anew.
            had, asked = (
                (each.config.space, {**each.base_values, "dataset": None}) for each in (former, plan)
            )
            if had != asked:
                raise SystemExit(f"{storage.shown}: holds other streams; name another --folder.")
            path = plan.trials[0].config.dataset.path
            results = resume_sweep(storage.location, overrides=[f"dataset.path={path}"], on_change=view)
        else:
            results = sweep(plan, on_change=view)
    if not results.is_complete:
        failed = [f"{outcome.name}: {outcome.error}" for outcome in results.outcomes if outcome.error]
        raise SystemExit("\n".join(["not complete; the same command tries again:", *failed]))
    return in_order(results.to_table().to_pylist())


def finished(plan: SweepPlan) -> list[dict[str, Any]]:
    """The rows of the streams that have come to their end in the folder."""
    storage = Storage(plan.config.output)
    rows = [
        {"seed": trial.config.seed, **row}
        for trial in plan.trials
        for row in rows_of(storage, trial.name) or ()
    ]
    return in_order(rows)


def in_order(rows: Rows) -> list[dict[str, Any]]:
    """By seed, segment and method, as tables have them."""
    order = {name: place for place, name in enumerate(METHOD_NAMES)}
    return sorted(map(dict, rows), key=lambda row: (row["seed"], row["segment"], order[row["method"]]))


def write_rows(file: Path, rows: Rows) -> None:
    """A row a seed, segment and method."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue())


def by_seed(rows: Rows, method: str, column: str) -> dict[int, float]:
    """Means of a method over the segments that count, those that have such a figure."""
    means: dict[int, list[float]] = {}
    for row in rows:
        if row["method"] == method and row["segment"] >= FIRST_SEGMENT and row.get(column) is not None:
            means.setdefault(row["seed"], []).append(row[column])
    return {seed: statistics.mean(values) for seed, values in means.items()}


def interval(values: Sequence[float]) -> str:
    """A mean with Student's 95 % interval over seeds, which of few is wide."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def page_of(rows: Rows) -> str:
    """What people read: a row a method, means over segments and seeds."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    last = max(row["segment"] for row in rows)
    equal = by_seed(rows, EQUAL, NDCG)
    heads = [
        "method",
        "seeds",
        *(head for head, _ in SHOWN),
        "of equal sizes",
        "most bytes",
        "of the cap",
        "CPU s",
    ]
    lines = []
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        ndcg = by_seed(rows, method, NDCG)
        ratios = [ndcg[seed] / equal[seed] for seed in ndcg if equal.get(seed)]
        used = [row["num_params"] / row["cap_params"] for row in own if row.get("cap_params")]
        num_seeds = len({row["seed"] for row in own})
        cells = [
            method,
            str(num_seeds),
            *(_spread(by_seed(rows, method, column).values()) for _, column in SHOWN),
            interval(ratios) if ratios else "",
            f"{max(row['num_bytes'] for row in own):,}",
            f"{min(used):.1%} to {max(used):.1%}" if used else "",
            f"{sum(row['cpu_s'] for row in own) / num_seeds:.0f}",
        ]
        lines.append(cells)
    made = "\n".join(f"{name}: {text}  " for name, text in provenance().items())
    return f"""# Streams: every method in one budget

Means over segments {FIRST_SEGMENT} to {last} (from 0), ± their standard deviation over seeds;
known users on all known items, cold rows apart. Of equal sizes: N@20 as a share of that of equal sizes, seed
by seed, with Student's 95 % interval over seeds. Bytes are those of the packed table, or of what gives the
lists; of the cap: the least and the most that any segment uses. CPU seconds are of all segments of one seed.

{table(heads, lines)}

{made}
"""


def _spread(values: Iterable[float]) -> str:
    known = list(values)
    return str(Spread.of(known)) if known else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHOD_NAMES), choices=METHOD_NAMES)
    parser.add_argument("--budget", default="67020 params", help="in every segment")
    parser.add_argument("--new-entities", type=int, default=1750, help="of a segment")
    parser.add_argument("--max-embedding-size", type=int, default=64)
    parser.add_argument("--l2", type=float, default=5e-4)
    parser.add_argument("--folder", type=Path, default=Path("runs/stream-table"), help="of the sweep")
    parser.add_argument("--output", type=Path, default=Path("results"), help="of stream.csv and stream.md")
    parser.add_argument("--finished", action="store_true", help="write what is finished so far, no more")
    arguments = parser.parse_args()
    plan = plan_of(arguments)
    rows = finished(plan) if arguments.finished else followed(plan)
    if not rows:
        raise SystemExit(f"{arguments.folder}: no stream is finished there yet.")
    write_rows(arguments.output / "stream.csv", rows)
    write_whole(arguments.output / "stream.md", page := page_of(rows))
    print(page)


if __name__ == "__main__":
    main()
