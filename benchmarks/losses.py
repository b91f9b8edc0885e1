"""Losses against each other: quality on validation over CPU seconds, and the memory of a batch.

    python benchmarks/losses.py gowalla.parquet --recommender mf --seconds 60

Every training runs in a process of its own, with one thread and the same limit of CPU seconds, in which its
learning rate falls to a tenth; validations are not counted. Each loss first tries some learning rates for a
part of the limit, and goes on with the one that is best on validation. What a row of the output has been
measured for already is not measured again.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

#: By name, what is set in ``training``.
WAYS: dict[str, dict[str, Any]] = {
    "bpr": {"loss": "bpr"},
    "sampled softmax": {"loss": "softmax"},
    "full softmax": {"loss": "full_softmax"},
    "sce": {"loss": "sce"},
}
#: Validations of a training, evenly spaced.
NUM_VALIDATIONS = 4
#: Batches that say how many the limit has room for, after as many that warm up.
NUM_TIMED = 3
#: By so much the learning rate falls at each of the decays of a training.
NUM_DECAYS = 22
MEMORY_BATCHES = 5


def config_of(case: dict[str, Any]) -> Any:
    """The run that a case is, whose data are split by seed 0."""
    from ciess_ray.config.yaml_file import load_config

    values = [
        f"dataset.path={case['data']}",
        "dataset.validation_share=0.1",
        "seed=0",
        f"recommender.name={case['recommender']}",
        f"recommender.max_embedding_size={case['width']}",
        f"recommender.options.l2={case['l2']}",
        f"training.batch_size={case['batch_size']}",
        "training.positives=interaction",
        f"training.learning_rate={case['learning_rate']}",
        "training.min_learning_rate=0",
        *(f"training.{name}={value}" for name, value in WAYS[case["way"]].items()),
    ]
    if case["temperature"] is not None and case["way"] != "bpr":
        values.append(f"training.temperature={case['temperature']}")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("output: runs/losses\n")
        file.flush()
        return load_config(Path(file.name), values)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Train one way for its seconds, or measure the memory of some of its batches.

    Returns:
        ``points``, each CPU seconds, batches, Recall@20 and NDCG@20 on validation; or ``peak_bytes`` of
        :data:`MEMORY_BATCHES` batches and ``held_bytes``, what there was before the first.
    """
    import numpy as np
    import torch
    from machine import baseline_bytes, peak_bytes

    from ciess_ray.config.data import load_interactions
    from ciess_ray.training.convergence import recipe_of
    from envs.recommenders.evaluation import evaluate
    from envs.sizes.embedding_sizes import EmbeddingSizes

    torch.set_num_threads(1)
    config = config_of(case)
    interactions = load_interactions(config)
    recipe = recipe_of(config, interactions)
    tables = {"num_tables": config.recommender.num_tables}
    sizes = EmbeddingSizes.full(*interactions.train.shape, case["width"], **tables)
    trainer = recipe.trainer(sizes, np.random.default_rng(0))
    if case["seconds"] is None:
        held = baseline_bytes()
        trainer.train(MEMORY_BATCHES)
        return {"held_bytes": held, "peak_bytes": peak_bytes()}
    trainer.train(NUM_TIMED)
    started = time.process_time()
    trainer.train(NUM_TIMED)
    batch_s = (time.process_time() - started) / NUM_TIMED
    num_batches = max(NUM_VALIDATIONS, round(case["seconds"] / batch_s))
    settings = {"decay_every": max(1, round(num_batches / (NUM_DECAYS + 1)))}
    trainer = recipe.trainer(sizes, np.random.default_rng(0))
    trainer.settings = trainer.settings.model_copy(update=settings)
    spent, points = 0.0, []
    for part in range(1, NUM_VALIDATIONS + 1):
        # A batch may take longer than it did at first: what is over the limit is not trained.
        wanted = num_batches * part // NUM_VALIDATIONS
        while trainer.num_batches < wanted and spent < case["seconds"]:
            started = time.process_time()
            trainer.train(max(1, min(wanted - trainer.num_batches, round(1 / batch_s))))
            spent += time.process_time() - started
        quality = evaluate(trainer.recommender, interactions.train, interactions.validation).summary()
        points.append([round(spent, 2), trainer.num_batches, quality["recall@20"], quality["ndcg@20"]])
    return {"points": points}


def row_of(case: dict[str, Any], output: Path) -> dict[str, Any]:
    """What a case comes to, measured in a process of its own unless the output has it."""
    known = {name: value for name, value in case.items() if name != "data"} | {
        "data": Path(case["data"]).name
    }
    if output.exists():
        for line in output.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["case"] == known:
                return row
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as process:
        measured = process.submit(measure, case).result()
    # Not at the top: a process that measures memory has no more than it needs.
    from provenance import provenance

    row = provenance() | {"case": known} | measured
    with output.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    last = measured["points"][-1] if "points" in measured else measured
    print(f"{case['way']}, {case['learning_rate']:g}, {case['seconds']} s: {last}", flush=True)
    return row


def compare(arguments: argparse.Namespace) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of every way the row of its training and that of its memory."""
    common = {
        "data": str(arguments.data),
        "recommender": arguments.recommender,
        "width": arguments.width,
        "l2": arguments.l2,
        "batch_size": arguments.batch_size,
        "temperature": arguments.temperature,
    }
    rows = {}
    for way in WAYS:
        tried = []
        for learning_rate in arguments.rates:
            case = common | {"way": way, "learning_rate": learning_rate, "seconds": arguments.trial_seconds}
            tried.append(row_of(case, arguments.output))
        best = max(tried, key=lambda row: row["points"][-1][3])["case"]["learning_rate"]
        case = common | {"way": way, "learning_rate": best}
        rows[way] = (
            row_of(case | {"seconds": arguments.seconds}, arguments.output),
            row_of(case | {"seconds": None}, arguments.output),
        )
    return rows


def draw(rows: dict[str, tuple[dict[str, Any], dict[str, Any]]], path: Path) -> None:
    """Quality over CPU seconds, and below it the memory that batches take beside data and table."""
    from ciess_ray.figures.style import finished, format_bytes, new_figure, save_png, series_style, styled

    with styled:
        figure, (quality, memory) = new_figure(5.6, 2, height_ratios=[2.4, 1])
        for position, (way, (training, batches)) in enumerate(rows.items()):
            style = series_style(position)
            points = training["points"]
            quality.plot([point[0] for point in points], [point[3] for point in points], label=way, **style)
            taken = batches["peak_bytes"] - batches["held_bytes"]
            memory.barh(way, taken / 1e6, color=style["color"])
            memory.text(taken / 1e6, way, f" {format_bytes(taken)}", va="center")
        case = next(iter(rows.values()))[0]["case"]
        quality.set_title(f"{case['recommender']}, {case['width']} columns, {Path(case['data']).stem}")
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
    parser.add_argument("--l2", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--temperature", type=float, help="of all losses but bpr")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of a training")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3])
    parser.add_argument("--trial-seconds", type=float, default=15.0, help="of a training that tries a rate")
    parser.add_argument("--output", type=Path, default=Path("results/losses.jsonl"))
    arguments = parser.parse_args()
    draw(compare(arguments), arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
