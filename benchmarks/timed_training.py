"""A training that is given CPU seconds: its quality on validation over time, and the memory of its batches.

Every one runs in a process of its own with one thread; validations are not counted. A row is appended to a
file of rows, and what has one is not measured again.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

#: Validations of a training, evenly spaced.
NUM_VALIDATIONS = 4
#: Batches that warm up, and seconds of batches after them that say how many the limit has room for.
NUM_WARM, TIMED_S = 3, 2.0
#: By so much the learning rate falls at each of the decays of a training, to a tenth in all.
NUM_DECAYS = 22
MEMORY_BATCHES = 5


def config_of(case: dict[str, Any]) -> Any:
    """The run that a case is."""
    from ciess_ray.config.yaml_file import load_config

    values = [f"dataset.path={case['data']}", "training.min_learning_rate=0", *case["overrides"]]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("output: runs/timed-training\n")
        file.flush()
        return load_config(Path(file.name), values)


def trained(case: dict[str, Any]) -> dict[str, Any]:
    """Train a case for its seconds, or measure the memory of some of its batches."""
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
    width = config.recommender.max_embedding_size
    sizes = EmbeddingSizes.full(*interactions.train.shape, width, **tables)
    trainer = recipe.trainer(sizes, np.random.default_rng(config.seed))
    if case["seconds"] is None:
        held = baseline_bytes()
        trainer.train(MEMORY_BATCHES)
        return {"held_bytes": held, "peak_bytes": peak_bytes()}
    trainer.train(NUM_WARM)
    started, num_timed = time.process_time(), 0
    while (timed_s := time.process_time() - started) < TIMED_S:
        # Every call copies the table first, so that many short ones would be slower than batches are.
        more = max(num_timed, NUM_WARM)
        trainer.train(more)
        num_timed += more
    batch_s = timed_s / num_timed
    num_batches = max(NUM_VALIDATIONS, round(case["seconds"] / batch_s))
    settings = {"decay_every": max(1, round(num_batches / (NUM_DECAYS + 1)))}
    trainer = recipe.trainer(sizes, np.random.default_rng(config.seed))
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


def known_case(case: dict[str, Any]) -> dict[str, Any]:
    """A case as its row has it: the same wherever the data lie."""
    return case | {"data": Path(case["data"]).name}


def kept_row(case: dict[str, Any], output: Path) -> dict[str, Any] | None:
    """The row that a case has in the output; None where it has none."""
    known = known_case(case)
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    return next((row for row in map(json.loads, lines) if row["case"] == known), None)


def row_of(
    case: dict[str, Any], output: Path, measure: Callable[[dict[str, Any]], dict[str, Any]] = trained
) -> dict[str, Any]:
    """What a case comes to, measured in a process of its own unless the output has it.

    Args:
        case: ``data``, a file; ``name`` of the case; ``overrides`` of a run's fields; ``seconds`` of CPU, or
            None for the memory of :data:`MEMORY_BATCHES` batches.
        output: Rows, a line each; the case's is appended.
        measure: Gives what is measured, in that process.

    Returns:
        What was measured. Of a training ``points``, each CPU seconds, batches, Recall@20 and NDCG@20 on
        validation; or ``peak_bytes`` of its batches and ``held_bytes``, what there was before the first.
    """
    kept = kept_row(case, output)
    if kept is not None:
        return kept
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as process:
        measured = process.submit(measure, case).result()
    # Not at the top: a process that measures memory has no more than it needs.
    from provenance import provenance

    row = provenance() | {"case": known_case(case)} | measured
    with output.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    last = measured["points"][-1] if "points" in measured else measured
    print(f"{case['name']}, {case['seconds']} s: {last}", flush=True)
    return row
