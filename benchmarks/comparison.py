"""Several comparisons as one table, beside full size and published figures: results/comparison.*.

    python benchmarks/comparison.py results/ml-1m-comparison results/ml-1m-ngcf-comparison ...

reads what ``ciess-ray compare`` left in each folder. Published are R@20 and N@20 of CIESS (arXiv 2304.03501)
table 1 and, on Gowalla, BET (arXiv 2310.14884) table 1, on another draw of the same kind of split.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from markdown_table import table
from provenance import provenance, without_places

from ciess_ray.comparisons.method_figures import HEADINGS, NO_BUDGET

#: By data set, recommender, budget and method; a sparsity of 90 % is a budget of 10 %.
PUBLISHED = {
    ("ml-1m", "lightgcn", "20%"): {
        "equal sizes": (0.2248, 0.3969),
        "mixed random": (0.2004, 0.3648),
        "pep": (0.2098, 0.3778),
        "search": (0.2436, 0.4257),
    },
    ("ml-1m", "lightgcn", "10%"): {
        "equal sizes": (0.2105, 0.3787),
        "mixed random": (0.1802, 0.3383),
        "pep": (0.1988, 0.3641),
        "search": (0.2248, 0.4023),
    },
    ("ml-1m", "lightgcn", "5%"): {
        "equal sizes": (0.1752, 0.3272),
        "mixed random": (0.1634, 0.3119),
        "pep": (0.1789, 0.3315),
        "search": (0.2009, 0.3664),
    },
    ("ml-1m", "ngcf", "10%"): {"equal sizes": (0.2069, 0.3679), "search": (0.2082, 0.3779)},
    ("ml-1m", "ncf", "10%"): {"equal sizes": (0.1973, 0.3546), "search": (0.2131, 0.3750)},
    ("gowalla", "lightgcn", "10%"): {"search": (0.1589, 0.1353)},
}
_LEGEND = """# Comparisons

Means over n seeds on test, ± the standard deviation, on so many splits of the data; figures of one split say
nothing of others. *Of full*: N@20 as a share of the full size's. *Search*: how far the search's N@20 is above
the method's, paired over users and splits, with a 95 % interval, and its p. *Packed*: bytes of the packed
file, the index of scattered numbers included. *Served*: of all that answers a request that brings its own
history; *with histories*: everybody's interactions added; empty where cells are older than these figures.
*CPU s*: all that the cell needs, what cells share counted in each. *Published*: R@20 / N@20 of CIESS (arXiv
2304.03501) or, on Gowalla, BET (arXiv 2310.14884).
"""
_HEADINGS = ("kept", *HEADINGS, "CPU s", "published")


def main() -> None:
    """Read, join and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="what ciess-ray compare wrote to")
    parser.add_argument("--output", type=Path, default=Path("results/comparison"), help="without its suffix")
    arguments = parser.parse_args()
    comparisons = [json.loads((folder / "comparison.json").read_text()) for folder in arguments.folders]
    rows = [
        row
        for folder in arguments.folders
        for row in pq.read_table(folder / "comparison.parquet").to_pylist()
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    pq.write_table(table, arguments.output.with_suffix(".parquet"), compression="zstd")
    told = {"provenance": provenance(), "comparisons": comparisons}
    arguments.output.with_suffix(".json").write_text(without_places(json.dumps(told, indent=2)) + "\n")
    text = "\n".join([_LEGEND, *(section for one in comparisons for section in as_markdown(one))])
    arguments.output.with_suffix(".md").write_text(text)
    print(text)


def as_markdown(comparison: dict[str, Any]) -> list[str]:
    """A table for each data set and recommender."""
    sections = []
    cells = comparison["cells"]
    beside = [one for one in cells if one["budget"] == NO_BUDGET]
    methods = [one for one in cells if one["budget"] != NO_BUDGET]
    for dataset, recommender in dict.fromkeys((one["dataset"], one["recommender"]) for one in methods):
        own = [one for one in methods if (one["dataset"], one["recommender"]) == (dataset, recommender)]
        own += [one for one in beside if one["dataset"] == dataset]
        full = next((one for one in own if one["method"] == "full size" and one["seeds"]), None)
        title = f"### {recommender} on {Path(dataset).stem}"
        sections.append(f"{title}\n\n{table(_HEADINGS, [_row(one, full) for one in own])}\n")
    return sections


def _row(one: dict[str, Any], full: dict[str, Any] | None) -> list[str]:
    figures, difference = one["figures"], one["differences"].get("ndcg@20")
    name = f"**{one['method']}**" if one["method"] == "search" else one["method"]
    published = PUBLISHED.get((Path(one["dataset"]).stem, one["recommender"], one["budget"]), {}).get(
        one["method"]
    )
    if not one["seeds"]:
        return [one["budget"], name, "0", *[""] * (len(_HEADINGS) - 4), _pair(published)]
    ndcg = figures["test/ndcg@20"]
    seconds = figures["cpu_s"]["mean"]
    return [
        one["budget"],
        name,
        str(len(one["seeds"])) + ("^" if one["is_still_rising"] else ""),
        # Of before, when all seeds had one split.
        str(len(one.get("split_seeds", [0]))),
        _spread(figures["test/recall@20"]),
        _spread(ndcg),
        _share(one, full),
        "" if difference is None else _interval(difference),
        "" if difference is None else f"{difference['p']:.2g}",
        *(
            f"{figures[name]['mean']:,.0f}" if name in figures else ""
            for name in ("packed_bytes", "served_bytes", "served_with_histories_bytes")
        ),
        f"{figures['mean_user_size']['mean']:.1f} : {figures['mean_item_size']['mean']:.1f}"
        if "mean_user_size" in figures
        else "",
        f"{seconds:,.0f}",
        _pair(published),
    ]


def _share(one: dict[str, Any], full: dict[str, Any] | None) -> str:
    """Of full size's N@20 on the same split."""
    known = one["figures"].get("share_of_full")
    if known is None and full is not None:
        # Of before, when all seeds had one split.
        known = {"mean": one["figures"]["test/ndcg@20"]["mean"] / full["figures"]["test/ndcg@20"]["mean"]}
    return "" if known is None else f"{known['mean']:.1%}"


def _spread(spread: dict[str, float | None]) -> str:
    return f"{spread['mean']:.4f}" + (f" ± {spread['sd']:.4f}" if spread["sd"] is not None else "")


def _interval(difference: dict[str, Any]) -> str:
    low, high = difference["relative_low"], difference["relative_high"]
    return f"{difference['relative']:+.1%} [{low:+.1%}, {high:+.1%}]"


def _pair(published: tuple[float, float] | None) -> str:
    return "" if published is None else f"{published[0]:.4f} / {published[1]:.4f}"


if __name__ == "__main__":
    main()
