"""The picture of results/closed_form_growth.jsonl."""

from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ciess_ray.figures.style import REFERENCE, finished, new_figure, save_png, series_style, styled


@styled
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """CPU seconds and memory from the file to the packed table, and of a batch of LightGCN."""
    figure, (seconds, memory) = new_figure(6.0, 2, sharex=True)
    series: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if "cpu_s_in_all" in row:
            name = next(text for text in row["set"] if text.startswith("recommender.name="))
            kind = name.partition("=")[2]
            point = row["interactions"], row["cpu_s_in_all"], row["peak_bytes"] / 2**30
            series.setdefault(f"{kind}, to the table", []).append(point)
        else:
            count = 10.0 ** int(row["data"].removeprefix("1e").removesuffix(".parquet"))
            point = count, row["batch_cpu_s"], row["peak_bytes"] / 2**30
            series.setdefault(f"LightGCN, {row['columns']} columns, a batch", []).append(point)
    for number, (name, points) in enumerate(series.items()):
        counts, taken, held = zip(*sorted(points), strict=True)
        seconds.plot(counts, taken, label=name, **series_style(number))
        memory.plot(counts, held, **series_style(number))
    for axes, limit, label in ((seconds, 900.0, "CPU seconds"), (memory, 8.0, "GiB at the peak")):
        axes.axhline(limit, label="budget", **REFERENCE)
        axes.set(xscale="log", yscale="log", ylabel=label)
        for axis, steps in ((axes.xaxis, (1.0,)), (axes.yaxis, (1.0, 3.0))):
            axis.set_major_locator(LogLocator(10, steps))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
            axis.set_minor_formatter(NullFormatter())
    memory.set_xlabel("interactions, ten a user and a hundred an item")
    save_png(finished(figure, seconds, num_columns=2), path)
