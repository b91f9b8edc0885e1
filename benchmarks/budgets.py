"""Quality against memory: one search a budget, its rows and the README's picture.

    python benchmarks/budgets.py configs/quickstart.yaml 5% 10% 20% 50%

A budget whose search is finished is not searched again, so the command can be broken off and resumed.
"""

import argparse
import json
import platform
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ciess_ray.config_file import load_config
from ciess_ray.result import RESULT_FILE, SearchResult, read_summary
from ciess_ray.search import EQUAL_SIZES, FULL_SIZE, SEARCH, search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("budgets", nargs="+")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--output", type=Path, default=Path("results/quickstart_budgets.json"))
    arguments = parser.parse_args()
    rows, retrained = [], []
    for budget in arguments.budgets:
        folder = arguments.runs / budget.replace("%", "percent")
        is_finished = (folder / RESULT_FILE).exists() and read_summary(folder)["status"] == "finished"
        if not is_finished:
            config = load_config(arguments.config, [*arguments.set, f"budget='{budget}'", f"output={folder}"])
            search(config, overwrite=True)
        summary = SearchResult.load(folder).summary
        rows += [
            {"budget": budget, "seconds": sum(summary["seconds"].values()), **row}
            for row in summary["methods"]
        ]
        retrained += [{"budget": budget, **row} for row in summary["retrained"]]
        print(f"{budget}: done", flush=True)
    result = {
        "command": f"python benchmarks/budgets.py {arguments.config} {' '.join(arguments.budgets)}",
        "changed": [override for override in arguments.set if "path" not in override],
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "seed": summary["config"]["seed"],
        "dataset": {key: value for key, value in summary["dataset"].items() if key != "source"},
        "rows": rows,
        "retrained": retrained,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(rows, arguments.output.with_suffix(".png"))


def draw(rows: list[dict], path: Path) -> None:
    """Recall@20 on test against the packed file, a dot a budget."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, marker in ((SEARCH, "o"), (EQUAL_SIZES, "s")):
        own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["packed_bytes"])
        axes.plot(
            [row["packed_bytes"] / 1000 for row in own],
            [row["test"]["recall@20"] for row in own],
            marker=marker,
            label=name,
        )
    full = next(row for row in rows if row["name"] == FULL_SIZE)
    axes.axhline(
        full["test"]["recall@20"],
        color="grey",
        linestyle="--",
        linewidth=1,
        label=f"full size, {full['packed_bytes'] / 1000:,.0f} kB",
    )
    axes.set_xscale("log")
    ticks = sorted({row["packed_bytes"] / 1000 for row in rows if row["name"] == SEARCH})
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("packed table, kB")
    axes.set_ylabel("Recall@20 on test")
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
