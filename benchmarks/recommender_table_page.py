"""What people read of ``recommender_table.py``: a table a data set, and quality against served bytes."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markdown_table import table
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from recommender_table_plan import BUDGETS, DATA_SETS, FULL, NAMES, UNCUT, Cell

from ciess_ray.figures.style import finished, format_bytes, new_figure, save_png, series_style, styled
from ciess_ray.files.whole import write_whole
from ciess_ray.statistics import Spread

#: What is planned, and the row of it that there is.
Planned = Sequence[tuple[Cell, dict[str, Any] | None]]
Rows = Sequence[dict[str, Any]]

NDCG, RECALL = "ndcg@20", "recall@20"
_PANEL_INCHES, _LEGEND_INCHES = 2.3, 0.7
#: Beyond this ratio of bytes, powers of ten alone are named.
_WIDE = 3000
_HEADS = (
    "recommender",
    "budget",
    "splits",
    "R@20",
    "N@20",
    "of its full table",
    "validation R@20",
    "validation N@20",
    "served",
    "with histories",
    "served as",
    "CPU s",
)


def write_summary(output: Path, cells: Planned) -> None:
    """Write the page, and the figure where there is anything to draw, and print the page.

    Args:
        output: Their name without an ending.
        cells: All that is planned.
    """
    rows = [row for _, row in cells if row is not None and "refused" not in row]
    page = page_of(cells, output.name)
    write_whole(output.with_name(f"{output.name}.md"), page)
    if rows:
        save_png(drawn(rows), output.with_name(f"{output.name}.png"))
    print(page)


def page_of(cells: Planned, name: str) -> str:
    """A table a data set, of the rows that there are.

    Args:
        cells: All that is planned.
        name: Of the file of rows, and of the figure, without an ending.
    """
    splits = sorted({cell.split for cell, _ in cells})
    there = [row for _, row in cells if row is not None]
    parts = [
        "# Recommenders at equal sizes",
        "Means over splits ± their standard deviation, on test; options are chosen on validation, and what "
        "was chosen is trained on training and validation interactions. A budget is a share of a "
        "recommender's own full table: 128 columns, or 128 neighbours of an item. *Of its full table*: N@20 "
        "as a share of that of the full table on the same splits. *Served*: bytes of what answers a request "
        "that brings its own history; *with histories*: with everybody's interactions beside. CPU seconds of "
        "one process with one thread, reading and choosing included. "
        f"Splits {', '.join(map(str, splits))}; rows, options and what was chosen: `{name}.jsonl`.",
        f"![Quality against served bytes]({name}.png)" if there else "There are no rows yet.",
    ]
    for data, described in DATA_SETS.items():
        if of_data := [row for row in there if row["data"] == data]:
            parts += [f"## {described.title}", *_table(of_data)]
    if missing := [cell for cell, row in cells if row is None]:
        parts.append(
            f"## Not there yet\n\n{len(missing)} of {len(cells)} cells: {', '.join(_by_grid(missing))}."
        )
    if there:
        made = {what: ", ".join(dict.fromkeys(row[what] for row in there)) for what in ("commit", "machine")}
        parts.append("\n".join(f"{what}: {text}  " for what, text in made.items()))
    return "\n\n".join(parts) + "\n"


def _by_grid(cells: Sequence[Cell]) -> list[str]:
    """Recommenders with their data, without budgets and splits."""
    counts: dict[str, int] = {}
    for cell in cells:
        name = f"{cell.recommender} on {DATA_SETS[cell.data].title}"
        counts[name] = counts.get(name, 0) + 1
    return [f"{name} ({count})" for name, count in counts.items()]


def _table(rows: Rows) -> list[str]:
    measured = [row for row in rows if "refused" not in row]
    parts = []
    if measured:
        one = measured[0]
        parts.append(f"{one['users']:,} users, {one['items']:,} items, {one['interactions']:,} interactions.")
    lines = []
    for recommender, budget in _groups(measured):
        own = _of(measured, recommender, budget)
        full = {row["split"]: row for row in _of(measured, recommender, FULL)}
        shares = [
            row["test"][NDCG] / full[row["split"]]["test"][NDCG]
            for row in own
            if row["split"] in full and full[row["split"]]["test"][NDCG]
        ]
        cells = [
            recommender,
            budget,
            len(own),
            *(_spread(row["test"][metric] for row in own) for metric in (RECALL, NDCG)),
            f"{statistics.mean(shares):.1%}" if shares and budget not in (UNCUT, FULL) else "",
            *(
                f"{statistics.mean(row['validation'][metric] for row in own):.4f}"
                for metric in (RECALL, NDCG)
            ),
            *(_mean(own, lambda row, what=what: row[what]) for what in _BYTES),
            ", ".join(dict.fromkeys(row["served_as"] for row in own)),
            _mean(own, lambda row: row["cpu_s_in_all"]),
        ]
        lines.append(cells)
    parts.append(table(_HEADS, lines))
    refused: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row:
            refused.setdefault(row["refused"], []).append(f"{row['recommender']} at {row['budget']}")
    parts += [f"{', '.join(dict.fromkeys(who))}: {why}" for why, who in refused.items()]
    return parts


_BYTES = "served_bytes", "served_with_histories_bytes"


def _groups(rows: Rows) -> list[tuple[str, str]]:
    there = {(row["recommender"], row["budget"]) for row in rows}
    return [(name, budget) for name in NAMES for budget in BUDGETS if (name, budget) in there]


def _of(rows: Rows, recommender: str, budget: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["recommender"], row["budget"]) == (recommender, budget)]


def _spread(values: Any) -> str:
    return str(Spread.of(values)).replace("±", " ± ")


def _mean_of(rows: Rows, split: str, metric: str) -> str:
    return f"{statistics.mean(row[split][metric] for row in rows):.4f}"


def _mean(rows: Rows, value: Callable[..., float]) -> str:
    mean = statistics.mean(map(value, rows))
    return f"{mean:.1f}" if mean < 100 else f"{mean:,.0f}"


@styled
def drawn(rows: Rows) -> Figure:
    """N@20 on test against served bytes, a panel a data set, a line a recommender, a point a budget."""
    names = [data for data in DATA_SETS if any(row["data"] == data for row in rows)]
    height = _PANEL_INCHES * len(names) + _LEGEND_INCHES
    figure, all_axes = new_figure(height, len(names), squeeze=False)
    for axes, data in zip(all_axes[:, 0], names, strict=True):
        of_data = [row for row in rows if row["data"] == data]
        for position, recommender in enumerate(NAMES):
            points = []
            for budget in reversed(BUDGETS):
                if own := _of(of_data, recommender, budget):
                    spread = Spread.of(row["test"][NDCG] for row in own)
                    points.append(
                        (statistics.mean(row["served_bytes"] for row in own), spread.mean, spread.sd or 0.0)
                    )
            if points:
                look = series_style(position) | {"markersize": 5.5, "linewidth": 1.5}
                places, means, deviations = zip(*points, strict=True)
                axes.errorbar(
                    places, means, deviations, capsize=2.5, elinewidth=1.1, label=recommender, **look
                )
        axes.set(xscale="log", title=DATA_SETS[data].title, ylabel="N@20 on test")
        axes.margins(x=0.08, y=0.12)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(10, (1.0, 3.0) if high < _WIDE * low else (1.0,)))
        axes.xaxis.set_major_formatter(lambda value, _: format_bytes(value))
        axes.minorticks_off()
    all_axes[-1, 0].set_xlabel("served bytes")
    # A recommender that only one of the panels has is named too.
    fullest = max(all_axes[:, 0], key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    return finished(figure, fullest, cut=all_axes[:, 0])
