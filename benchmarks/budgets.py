"""Quality against memory: one search a budget, its rows and the README's picture.

    python benchmarks/budgets.py configs/quickstart.yaml 5% 10% 20% 50%

With ``--together`` one search serves all budgets, of which the first is the tightest. What is finished is not
searched again, so the command can be broken off and resumed.
"""

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ciess_ray.config.yaml_file import load_config
from ciess_ray.figures import Point, draw_quality, save_png
from ciess_ray.result import RESULT_FILE, SearchResult, read_summary
from ciess_ray.searches.driver import search
from ciess_ray.statistics import Spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("budgets", nargs="+")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--together", action="store_true", help="one search for all budgets")
    parser.add_argument("--runs", type=Path, default=Path("runs/budgets"))
    parser.add_argument("--output", type=Path, default=Path("results/quickstart_budgets.json"))
    arguments = parser.parse_args()
    rows, retrained = [], []
    for result in _together(arguments) if arguments.together else _apart(arguments):
        summary = result.summary
        budget = summary["budget"]["asked"]
        seconds = sum(summary["seconds"].values())
        rows += [{"budget": budget, "seconds": seconds, **row} for row in summary["methods"]]
        retrained += [{"budget": budget, **row} for row in summary["retrained"]]
    result = {
        "command": f"python benchmarks/budgets.py {arguments.config} {' '.join(arguments.budgets)}"
        + " --together" * arguments.together,
        "changed": [
            override for override in arguments.set if not override.startswith(("dataset.path", "cache"))
        ],
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "seed": summary["config"]["seed"],
        "dataset": {
            key: value for key, value in summary["dataset"].items() if not key.startswith(("source", "path"))
        },
        "rows": rows,
        "retrained": retrained,
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(rows, arguments.output.with_suffix(".png"))


def _apart(arguments: argparse.Namespace) -> Iterator[SearchResult]:
    for budget in arguments.budgets:
        yield _searched(arguments, arguments.runs / budget.replace("%", "percent"), [budget])
        print(f"{budget}: done", flush=True)


def _together(arguments: argparse.Namespace) -> list[SearchResult]:
    result = _searched(arguments, arguments.runs / "together", arguments.budgets)
    return [result, *result.looser()]


def _searched(arguments: argparse.Namespace, folder: Path, budgets: Sequence[str]) -> SearchResult:
    is_finished = (folder / RESULT_FILE).exists() and read_summary(folder)["status"] == "finished"
    if not is_finished:
        own = [f"budget={list(budgets)}", f"output={folder}"]
        # What is measured is packed.
        changed = ["search.refit=false", *arguments.set, *own]
        search(load_config(arguments.config, changed), overwrite=True)
    return SearchResult.load(folder)


def draw(rows: list[dict], path: Path) -> None:
    """Recall@20 on test against the packed file, a dot a budget; as in a report."""
    # Full size is the same beside every budget.
    points = {
        (row["name"], row["packed_bytes"]): Point(
            row["name"], row["packed_bytes"], Spread(row["test"]["recall@20"], None)
        )
        for row in rows
    }
    save_png(draw_quality({"": list(points.values())}, "Recall@20 on test"), path)


if __name__ == "__main__":
    main()
