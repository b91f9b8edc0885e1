"""CIESS as its text has it against what its authors' code computes, with and without the random walk.

    python benchmarks/findings/modes.py --set dataset.path=ml-1m.parquet --steps 30 --seeds 0 1 2

LightGCN on MovieLens-1M, one search phase a cell: ``search.mode`` ``paper`` or ``reference``, as in
configs/ml-1m-lightgcn-paper.yaml and -reference.yaml, and ``agent.exploration`` as the mode has it, or the
same noise without the walk. Quality is the mean of the six metrics on validation; its share is of the
full-size table, which is trained to convergence once a seed and is not shown to ``reference``.

What the search would train first, its best step within the budget, or where there is none its smallest step
projected onto it, is trained to convergence with the recipe of configs/ml-1m-lightgcn.yaml, which does so for
any sizes, beside equal sizes; ``--no-judge`` leaves that out. A row is appended as soon as it is measured and
none is measured twice, so the command can be broken off and resumed. The cells of ``reference`` come first: a
step there costs seconds, one of ``paper`` half a minute.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ciess_ray import metric_keys
from ciess_ray.candidate import Candidate
from ciess_ray.config.data import load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import load_config
from ciess_ray.resources import ray_session
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.run import Budget, Run
from ciess_ray.training.contest import project_smallest, select_candidates
from ciess_ray.training.convergence import fit_to_convergence
from ciess_ray.training.preparing import Preparation, prepare
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402
from provenance import provenance  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs"
MODES = ("reference", "paper")
EXPLORATIONS = ("random walk", "no walk")
EQUAL = "equal sizes"
_JUDGE_STREAM = 41


class Steps:
    """What a search tells of its steps, in place of its journal."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._told = time.perf_counter()

    def advance(self, step: int, metrics: dict[str, float], note: str = "") -> None:
        """A step is done."""
        now = time.perf_counter()
        known = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        self.rows.append(known | {"step_s": now - self._told})
        self._told = now


def config_of(mode: str, exploration: str, seed: int, arguments: argparse.Namespace) -> RunConfig:
    """The cell's configuration, with as many whole episodes as its steps need."""
    file = CONFIGS / f"ml-1m-lightgcn-{mode}.yaml"
    config = load_config(file, arguments.set)
    length = min(config.search.episode_length, arguments.steps)
    spec = dict(config.agent.exploration)
    if exploration == "no walk":
        spec.pop("is_noise_last", None)
        spec["name"] = "noise"
    overrides = {
        "seed": seed,
        "search.episode_length": length,
        "search.num_episodes": math.ceil(arguments.steps / length),
        "agent.exploration": spec,
    }
    return load_config(file, [*arguments.set, *(f"{k}={json.dumps(v)}" for k, v in overrides.items())])


def run_search(
    config: RunConfig, interactions: Interactions, num_steps: int, cap_params: int
) -> tuple[dict[str, Any], Candidate]:
    """The row of a cell, and the step that the search would train first."""
    interactions_ref = ray.put(interactions)
    full = prepare(Preparation.full_size(config, interactions), interactions_ref)
    steps = Steps()
    run = Run(config, interactions, interactions_ref, [Budget(str(config.budget), cap_params)], steps)
    find_candidates(run, full, None)
    candidates = run.candidates
    # An episode of the reference is 11 steps long, and every cell counts as many.
    del steps.rows[num_steps:], candidates[num_steps:]
    best = max(candidates, key=lambda candidate: candidate.quality)
    last = steps.rows[-math.ceil(num_steps / 3) :]

    def of_the_last(key: str) -> float:
        return statistics.mean(row[key] for row in last)

    row = {
        "full_quality": full.quality,
        "last_third": {
            "kept_ratio": of_the_last(metric_keys.KEPT_RATIO),
            "quality": of_the_last(metric_keys.QUALITY),
            "quality_share": of_the_last(metric_keys.QUALITY) / full.quality,
            "reward": of_the_last(metric_keys.REWARD),
            "greedy_ratio": of_the_last(metric_keys.GREEDY_RATIO),
            "walk_gain": of_the_last(metric_keys.WALK_GAIN),
        },
        "best": {
            "step": best.step,
            "kept_ratio": best.sizes.kept_ratio,
            "quality": best.quality,
            "quality_share": best.quality / full.quality,
        },
        "num_within_budget": sum(c.sizes.num_params <= cap_params for c in candidates),
        "step_s": statistics.median(row["step_s"] for row in steps.rows[1:] or steps.rows),
        "search_s": sum(row["step_s"] for row in steps.rows),
        "steps": steps.rows,
    }
    chosen = select_candidates(candidates, cap_params, 1)
    rng = np.random.default_rng((config.seed, _JUDGE_STREAM))
    return row, chosen[0] if chosen else project_smallest(candidates, cap_params, rng)


def judge(
    config: RunConfig, interactions: Interactions, sizes: EmbeddingSizes, seed: int
) -> dict[str, float | int]:
    """Validation quality of the sizes once they are trained to convergence."""
    _, report = fit_to_convergence(config, interactions, sizes, (seed, _JUDGE_STREAM))
    return {
        "quality": report.best.quality,
        "recall@20": report.best.summary()["recall@20"],
        "ndcg@20": report.best.summary()["ndcg@20"],
        "kept_ratio": sizes.kept_ratio,
        "user_size": float(sizes.user.mean()),
        "item_size": float(sizes.item.mean()),
        "best_batch": report.best_batch,
        "seconds": report.train_s + report.evaluate_s,
    }


def measure(arguments: argparse.Namespace, table: Measurements) -> None:
    """Append every row that is missing."""
    judge_config = load_config(CONFIGS / "ml-1m-lightgcn.yaml", arguments.set)
    interactions = load_interactions(judge_config)
    bounds = judge_config.recommender.min_embedding_size, judge_config.recommender.max_embedding_size
    cap_params = judge_config.memory_budgets[0].cap_params(interactions.num_entities, *bounds)
    measured = {"commit": provenance()["commit"], "budget": judge_config.budget}
    changed = _changed(arguments)
    cells = [*itertools.product(MODES[:1], arguments.seeds, EXPLORATIONS)]
    if arguments.judge:
        cells += [(EQUAL, seed, None) for seed in arguments.seeds]
    cells += itertools.product(MODES[1:], arguments.seeds, EXPLORATIONS)
    for mode, seed, exploration in cells:
        key = {"mode": mode, "exploration": exploration, "seed": seed, "num_steps": arguments.steps}
        key |= {"changed": changed, "is_judged": arguments.judge}
        if table.has(**key):
            continue
        if mode == EQUAL:
            row = {}
            rng = np.random.default_rng((seed, _JUDGE_STREAM))
            counts = interactions.num_users, interactions.num_items
            judged = EmbeddingSizes.equal(*counts, cap_params, *bounds, rng)
        else:
            config = config_of(mode, exploration, seed, arguments)
            row, chosen = run_search(config, interactions, arguments.steps, cap_params)
            row["judged_step"], judged = chosen.step, chosen.sizes
        if arguments.judge:
            row |= {"judged": judge(judge_config, interactions, judged, seed)}
        table.add(key | measured | row)


def _changed(arguments: argparse.Namespace) -> list[str]:
    return [override for override in arguments.set if not override.startswith(("dataset.path", "cache"))]


def summarise(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One line a mode and exploration: means over seeds."""
    for mode, exploration in dict.fromkeys((row["mode"], row["exploration"]) for row in rows):
        own = [row for row in rows if (row["mode"], row["exploration"]) == (mode, exploration)]
        line = {"mode": mode, "exploration": exploration, "seeds": [row["seed"] for row in own]}
        for part in ("last_third", "best"):
            for key in own[0].get(part, ()):
                line[f"{part}.{key}"] = statistics.mean(row[part][key] for row in own)
        for key in ("num_within_budget", "step_s", "search_s"):
            if key in own[0]:
                line[key] = statistics.mean(row[key] for row in own)
        judged = [row["judged"] for row in own if "judged" in row]
        if judged:
            line["judged.quality"] = statistics.mean(row["quality"] for row in judged)
            line["judged.quality_of_seeds"] = [row["quality"] for row in judged]
            for key in ("recall@20", "ndcg@20", "user_size", "item_size"):
                line[f"judged.{key}"] = statistics.mean(row[key] for row in judged)
        yield line


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Quality and kept ratio step by step; a line is the mean over seeds, its band their range."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    for position, mode in enumerate(MODES):
        for exploration, style in zip(EXPLORATIONS, ("-", ":"), strict=True):
            own = [row for row in rows if (row["mode"], row["exploration"]) == (mode, exploration)]
            if not own:
                continue
            quality, kept = (
                np.array([[step[key] for step in row["steps"]] for row in own])
                for key in (metric_keys.QUALITY, metric_keys.KEPT_RATIO)
            )
            shares = quality / np.array([[row["full_quality"]] for row in own])
            numbers = np.arange(1, quality.shape[1] + 1)
            for axes, values in ((left, shares), (right, kept)):
                axes.plot(
                    numbers, values.mean(axis=0), style, color=f"C{position}", label=f"{mode}, {exploration}"
                )
                axes.fill_between(
                    numbers, values.min(axis=0), values.max(axis=0), color=f"C{position}", alpha=0.12
                )
    left.set_ylabel("validation quality, share of full size")
    right.set_ylabel("kept ratio")
    right.legend()
    for axes in (left, right):
        axes.set_xlabel("table step")
        axes.set_ylim(0, None)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--steps", type=int, default=30, help="table steps of a cell")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--judge", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, default=Path("results/modes.jsonl"))
    arguments = parser.parse_args()
    table = Measurements(arguments.output)
    with ray_session():
        measure(arguments, table)
    asked = {"num_steps": arguments.steps, "is_judged": arguments.judge, "changed": _changed(arguments)}
    rows = [row for row in table.rows if asked.items() <= row.items()]
    report = provenance() | {
        "num_steps": arguments.steps,
        "rows": arguments.output.name,
        "cells": list(summarise(rows)),
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for line in report["cells"]:
        print(json.dumps(line))
    draw(rows, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
