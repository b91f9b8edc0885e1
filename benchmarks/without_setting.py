r"""A search without a setting beside the configurations that were made by hand: quality, CPU seconds, memory.

    OMP_NUM_THREADS=1 python benchmarks/without_setting.py DATA_FOLDER
    OMP_NUM_THREADS=1 python benchmarks/without_setting.py DATA_FOLDER --data ml-1m --recommenders mf \
        --budgets 10% --splits 0 --ways found
    python benchmarks/without_setting.py DATA_FOLDER --finished

A row is a search as a user starts it, by the command ``ciess-ray search``, in a process of its own: *found*
is told file, budget and recommender alone, *hand* has the configuration in ``configs/`` that was made for the
data, where there is one. CPU seconds and memory are those of all its processes, Ray's own with them,
looked at every half second. A row is appended when its search is through, so that the command may be
broken off, and run again for what is missing; ``.md`` sets both beside each other, and beside equal sizes by
hand (``recommender_table.py``).
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measured_search import forget, methods_of, run_search
from measurements import Measurements
from provenance import provenance
from recommender_table_plan import BUILDING, DATA_SETS, HELD_OUT
from without_setting_page import write_page

from ciess_ray.config.yaml_file import put_overrides
from ciess_ray.config.yaml_values import as_yaml
from ciess_ray.files.whole import write_whole

HAND, FOUND = WAYS = "hand", "found"
RECOMMENDERS, BUDGETS = ("lightgcn", "mf"), ("10%", "5%")
#: Configurations that were made by hand, by data and recommender.
BY_HAND = {
    ("latest-small", "lightgcn"): "quickstart",
    ("ml-1m", "lightgcn"): "ml-1m-lightgcn",
    ("ml-1m", "mf"): "ml-1m-mf",
    ("gowalla", "lightgcn"): "gowalla-lightgcn",
}
#: Of the full table where by hand it has others than by default: what a budget is a share of is one for both.
NUM_COLUMNS = {("latest-small", "lightgcn"): ["recommender.max_embedding_size=64"]}
#: Where a search leaves what it takes up when the command was broken off.
FOLDER = Path("runs/without-setting")


def main() -> None:
    """Make the rows that are not there yet, and the page of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the data")
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--recommenders", nargs="+", default=RECOMMENDERS)
    parser.add_argument("--budgets", nargs="+", default=BUDGETS)
    parser.add_argument("--splits", type=int, nargs="+", default=BUILDING)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument(
        "--held-out", action="store_true", help="splits that are read once, in files of their own"
    )
    parser.add_argument("--finished", action="store_true", help="write the page alone")
    parser.add_argument("--output", type=Path, default=Path("results/without-setting"))
    arguments = parser.parse_args()
    output, splits = arguments.output, arguments.splits
    if arguments.held_out:
        output, splits = output.with_name(f"{output.name}-held-out"), HELD_OUT
    rows = Measurements(output.with_name(f"{output.name}.jsonl"))
    for key in () if arguments.finished else _keys(arguments, splits):
        if not rows.has(**key):
            rows.add(provenance() | key | measure(key, arguments.folder))
    write_page(output, rows.rows)


def _keys(arguments: argparse.Namespace, splits: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What rows begin with, data that are soon done first."""
    for data in arguments.data:
        for split in splits:
            for recommender in arguments.recommenders:
                for budget in arguments.budgets:
                    for way in arguments.ways:
                        if way == FOUND or (data, recommender) in BY_HAND:
                            yield {
                                "data": data,
                                "recommender": recommender,
                                "budget": budget,
                                "split": split,
                                "way": way,
                            }


def measure(key: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Search, and say what came of it; where a search was broken off it is gone on with.

    Args:
        key: What the row begins with.
        folder: Of the data.

    Raises:
        SystemExit: The search failed.
    """
    output = FOLDER / "-".join(str(value).strip("%") for value in key.values())
    # What another row has trained would cost this one nothing.
    asked = ["--budget", key["budget"], "cache=null", "tracking.mlflow=false", "search.refit=false"]
    summary, cost = run_search([*_asked(key, folder), "--seed", key["split"], *asked], output)
    row = {
        "methods": methods_of(summary),
        "cap_params": summary["budget"]["cap_params"],
        "seconds": summary["seconds"],
        "predicted": summary.get("clock"),
        "training": summary["config"]["training"],
        **cost,
    }
    forget(output)
    return row


def _asked(key: Mapping[str, Any], folder: Path) -> list[str]:
    """What a search is told beside its budget."""
    places = DATA_SETS[key["data"]].overrides(folder)
    if key["way"] == HAND:
        return [f"configs/{BY_HAND[key['data'], key['recommender']]}.yaml", *places]
    # Of the data nothing but where they lie.
    bare = [place for place in places if "validation_share" not in place]
    config = FOLDER / f"{key['data']}.yaml"
    write_whole(config, as_yaml(put_overrides({}, bare)))
    columns = NUM_COLUMNS.get((key["data"], key["recommender"]), [])
    return [str(config), f"recommender.name={key['recommender']}", *columns]


if __name__ == "__main__":
    main()
