"""What people read of ``without_setting.py``: what was found beside what was made by hand."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from markdown_table import table
from recommender_table_plan import DATA_SETS

from ciess_ray.files.whole import write_whole
from ciess_ray.names import EQUAL_SIZES, FULL_SIZE, SEARCH
from ciess_ray.statistics import Spread

Row = dict[str, Any]
_HEADS = (
    "recommender",
    "budget",
    "splits",
    "full size",
    "of hand's",
    "equal sizes",
    "search",
    "of hand's",
    "CPU s",
    "of hand's",
    "peak MB",
)


def write_page(output: Path, rows: Sequence[Row]) -> None:
    """Write the page, and print it.

    Args:
        output: Its name without an ending.
        rows: Of the file of rows.
    """
    parts = [
        "# A search without a setting",
        "N@20 on test, mean over splits ± standard deviation, of a search that is told file, budget and "
        "recommender alone; *of hand's*: as a share of what the configuration that was made by hand gives "
        "on the same splits, the median over them, where there is one. CPU seconds and memory of all "
        f"processes of a search; rows: `{output.name}.jsonl`.",
    ]
    for data, described in DATA_SETS.items():
        of_data = [row for row in rows if row["data"] == data and row["way"] == "found"]
        if of_data:
            parts += [f"## {described.title}", _table(of_data, rows)]
    text = "\n\n".join(parts) + "\n"
    write_whole(output.with_name(f"{output.name}.md"), text)
    print(text)


def _table(found: Sequence[Row], rows: Sequence[Row]) -> str:
    lines = []
    for recommender, budget in dict.fromkeys((row["recommender"], row["budget"]) for row in found):
        of_cell = [row for row in found if (row["recommender"], row["budget"]) == (recommender, budget)]
        of_cell.sort(key=lambda row: row["split"])
        pairs = [(row, _by_hand(row, rows)) for row in of_cell]
        lines.append(
            [
                recommender,
                budget,
                ", ".join(str(row["split"]) for row in of_cell),
                _mean(_quality(FULL_SIZE)(row) for row in of_cell),
                _share(pairs, _quality(FULL_SIZE)),
                _mean(_quality(EQUAL_SIZES)(row) for row in of_cell),
                _mean(_quality(SEARCH)(row) for row in of_cell),
                _share(pairs, _quality(SEARCH)),
                f"{median(row['cpu_s'] for row in of_cell):,.0f}",
                _share(pairs, lambda row: float(row["cpu_s"])),
                f"{median(row['peak_bytes'] for row in of_cell) / 1e6:,.0f}",
            ]
        )
    return table(_HEADS, lines)


def _by_hand(row: Row, rows: Sequence[Row]) -> Row | None:
    names = "data", "recommender", "budget", "split"
    same = (each for each in rows if each["way"] == "hand" and all(each[name] == row[name] for name in names))
    return next(same, None)


def _quality(method: str) -> Callable[[Row], float]:
    return lambda row: float(row["methods"][method]["ndcg@20"])


def _share(pairs: Sequence[tuple[Row, Row | None]], figure: Callable[[Row], float]) -> str:
    shares = [figure(row) / figure(hand) for row, hand in pairs if hand is not None]
    return f"{median(shares):.3f}" if shares else ""


def _mean(values: Iterable[float]) -> str:
    return str(Spread.of(values)).replace("±", " ± ")
