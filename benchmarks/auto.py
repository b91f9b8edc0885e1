r"""What validation chooses where no recommender is named, beside every recommender that could have been.

    OMP_NUM_THREADS=1 python benchmarks/auto.py DATA_FOLDER --data latest-small ml-100k
    OMP_NUM_THREADS=1 python benchmarks/auto.py UNSEEN_FOLDER --data ciaodvd articles --held-out
    python benchmarks/auto.py DATA_FOLDER --finished

A cell is a data set, a budget and a split. It is searched as a user starts it, told file and budget alone;
then each of the other recommenders is named, with what the same served bytes leave it for its table. What
trainings of recipes they share is found again, so CPU seconds are of the first search alone. Resumable, as
``without_setting.py``; ``unseen_data.py`` brings data that no rule was made on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from measured_search import forget, methods_of, run_search
from measurements import Measurements
from provenance import provenance
from recommender_table_plan import BUILDING, DATA_SETS, HELD_OUT
from unseen_data import SOURCES

from ciess_ray.config.yaml_file import put_overrides
from ciess_ray.config.yaml_values import as_yaml
from ciess_ray.files.whole import write_whole
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH

BUDGETS = "10%", "5%"
DATA = DATA_SETS | {name: source.data for name, source in SOURCES.items()}
FOLDER = Path("runs/auto")
#: What the best named recommender may be ahead of what was chosen by.
_TOLERANCE = 0.01


def main() -> None:
    """Make the rows that are not there yet, and the page of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the data")
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=DATA)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--splits", type=int, nargs="+")
    parser.add_argument(
        "--held-out", action="store_true", help="splits that are read once, in their own files"
    )
    parser.add_argument("--finished", action="store_true", help="write the page alone")
    parser.add_argument("--output", type=Path, default=Path("results/auto"))
    arguments = parser.parse_args()
    output, splits = arguments.output, arguments.splits or BUILDING
    if arguments.held_out:
        output, splits = output.with_name(f"{output.name}-held-out"), arguments.splits or HELD_OUT
    rows = Measurements(output.with_name(f"{output.name}.jsonl"))
    for split in () if arguments.finished else splits:
        for data in arguments.data:
            for budget in arguments.budgets:
                key = {"data": data, "budget": budget, "split": split}
                if not rows.has(**key):
                    rows.add(provenance() | key | measure(key, arguments.folder))
    _write_page(output, rows.rows)


def measure(key: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Search with what is chosen, and with each of the others.

    Args:
        key: What the row begins with.
        folder: Of the data.

    Raises:
        SystemExit: A search failed.
    """
    output = FOLDER / "-".join(str(value).strip("%") for value in key.values())
    config, cache = output.with_suffix(".yaml"), output.with_suffix(".cache")
    bare = [place for place in DATA[key["data"]].overrides(folder) if "validation_share" not in place]
    write_whole(config, as_yaml(put_overrides({}, bare)))
    asked = [config, "--seed", key["split"], f"cache={cache}", "tracking.mlflow=false", "search.refit=false"]
    auto, cost = run_search([*asked, "--budget", key["budget"]], output)
    rated = auto["recipe"]["recommenders"]
    (chosen,) = (row["recommender"] for row in rated if row["why"] == "chosen")
    (num_bytes,) = auto["recipe"]["served_bytes"].values()
    methods = {chosen: methods_of(auto, "served_bytes")}
    folders = [output]
    for row in rated:
        name = row["recommender"]
        if name != chosen and row["quality"] is not None:
            left = num_bytes - (row["served_bytes"] - row["file_bytes"])
            folders.append(output.with_name(f"{output.name}-{name}"))
            named, _ = run_search([*asked, "--recommender", name, "--budget", f"{left}B"], folders[-1])
            methods[name] = methods_of(named, "served_bytes")
    for each in folders:
        forget(each)
    return {
        "served_bytes": num_bytes,
        "chosen": chosen,
        "rated": rated,
        "methods": methods,
        "clock": auto["clock"],
        **cost,
    }


def _write_page(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page, and print it."""
    within = [_shortfall(row) <= _TOLERANCE for row in rows]
    parts = [
        "# What validation chooses",
        "N@20 on test of searches at equal served bytes, told nothing but data and budget: in bold of what "
        "validation chose where no recommender was named, and of each of the others, named. *Behind*: by how "
        f"much what was chosen is behind the best; at most by {_TOLERANCE:.0%} in {sum(within)} of "
        f"{len(rows)} cells. CPU seconds are of the search that chose, and what it had said it would take; "
        f"rows: `{output.name}.jsonl`.",
    ]
    names = list(dict.fromkeys(name for row in rows for name in sorted(row["methods"])))
    heads = [
        "data",
        "budget",
        "split",
        "bytes",
        *names,
        "behind",
        "full size",
        "equal sizes",
        "CPU s",
        "said",
    ]
    text = "\n\n".join([*parts, table(heads, (_cells(row, names) for row in rows))]) + "\n"
    write_whole(output.with_name(f"{output.name}.md"), text)
    print(text)


def _cells(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    chosen = row["methods"][row["chosen"]]
    qualities = [
        "" if name not in row["methods"] else f"{row['methods'][name][SEARCH]['ndcg@20']:.4f}"
        for name in names
    ]
    return [
        DATA[row["data"]].title,
        row["budget"],
        str(row["split"]),
        f"{row['served_bytes']:,}",
        *(
            f"**{quality}**" if name == row["chosen"] else quality
            for name, quality in zip(names, qualities, strict=True)
        ),
        f"{_shortfall(row):.1%}",
        f"{chosen[FULL_SIZE]['ndcg@20']:.4f}",
        f"{chosen[EQUAL_SIZES]['ndcg@20']:.4f}",
        f"{row['cpu_s']:,.0f}",
        f"{row['clock']['predicted']['cpu_s']:,.0f}",
    ]


def _shortfall(row: Mapping[str, Any]) -> float:
    """By which part the best recommender is ahead of the chosen one."""
    qualities = {name: its[SEARCH]["ndcg@20"] for name, its in row["methods"].items()}
    return 1 - float(qualities[row["chosen"]] / max(qualities.values()))


if __name__ == "__main__":
    main()
