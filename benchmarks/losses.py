r"""Losses against each other: quality on validation over CPU seconds, and the memory of a batch.

    python benchmarks/losses.py gowalla.parquet --recommender lightgcn --width 128 --batch-size 32768 \
        --temperature 0.1 --init-std 0.1 --rates 0.03 0.1 --l2 1e-5 5e-4 --layers 2

Every training runs in a process of its own, with one thread and the same limit of CPU seconds, in which its
learning rate falls to a tenth; validations are not counted. Each loss first tries some learning rates and
weights of L2 for a part of the limit, and goes on with what is best on validation. What a row of the output
has been measured for already is not measured again.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from timed_training import row_of

#: By name, what ``training.loss`` is.
LOSSES = {"BPR": "bpr", "sampled softmax": "softmax", "full softmax": "full_softmax", "SCE": "sce"}


def compare(arguments: argparse.Namespace) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of every loss the row of its training and that of its memory."""
    common = [
        "dataset.validation_share=0.1",
        f"recommender.name={arguments.recommender}",
        f"recommender.max_embedding_size={arguments.width}",
        f"recommender.options.init_std={arguments.init_std}",
        f"training.batch_size={arguments.batch_size}",
        "training.positives=interaction",
    ]
    if arguments.layers is not None:
        common.append(f"recommender.options.num_layers={arguments.layers}")
    rows = {}
    for name, loss in LOSSES.items():
        case: dict[str, Any] = {"data": str(arguments.data), "name": name}
        tried = []
        for learning_rate, l2 in product(arguments.rates, arguments.l2):
            own = [
                f"training.loss={loss}",
                f"training.learning_rate={learning_rate}",
                f"recommender.options.l2={l2}",
            ]
            if arguments.temperature is not None and loss != "bpr":
                own.append(f"training.temperature={arguments.temperature}")
            of_trial = case | {"overrides": [*common, *own], "seconds": arguments.trial_seconds}
            tried.append(row_of(of_trial, arguments.output))
        best = max(tried, key=lambda row: row["points"][-1][3])["case"]["overrides"]
        rows[name] = (
            row_of(case | {"overrides": best, "seconds": arguments.seconds}, arguments.output),
            row_of(case | {"overrides": best, "seconds": None}, arguments.output),
        )
    return rows


def draw(rows: dict[str, tuple[dict[str, Any], dict[str, Any]]], title: str, path: Path) -> None:
    """Quality over CPU seconds, and below it the memory that batches take beside data and table."""
    from ciess_ray.figures.style import finished, format_bytes, new_figure, save_png, series_style, styled

    with styled:
        figure, (quality, memory) = new_figure(5.6, 2, height_ratios=[2.4, 1])
        for position, (name, (training, batches)) in enumerate(rows.items()):
            style = series_style(position)
            points = training["points"]
            quality.plot([point[0] for point in points], [point[3] for point in points], label=name, **style)
            taken = batches["peak_bytes"] - batches["held_bytes"]
            memory.barh(name, taken / 1e6, color=style["color"])
            memory.text(taken / 1e6, name, f" {format_bytes(taken)}", va="center")
        quality.set_title(title)
        quality.set_xlabel("CPU seconds of training")
        quality.set_ylabel("N@20 on validation")
        memory.set_xlabel("MB that a training takes beside data and table")
        memory.invert_yaxis()
        memory.margins(x=0.2)
        save_png(finished(figure, quality, num_columns=4), path)


def main() -> None:
    """Measure what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recommender", default="mf")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, help="of a graph, by default the recommender's")
    parser.add_argument("--l2", type=float, nargs="+", default=[1e-4, 1e-2])
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--init-std", type=float, default=0.01)
    parser.add_argument("--temperature", type=float, help="of all losses but BPR")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of a training")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    parser.add_argument("--trial-seconds", type=float, default=20.0, help="of a training that tries settings")
    parser.add_argument("--output", type=Path, default=Path("results/losses.jsonl"))
    arguments = parser.parse_args()
    title = f"{arguments.recommender}, {arguments.width} columns, {arguments.data.stem}"
    draw(compare(arguments), title, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
