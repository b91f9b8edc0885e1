"""Which cheap step ranks allocations as full training does, and what each costs.

    python benchmarks/findings/step_modes.py configs/ml-1m-lightgcn.yaml --set dataset.path=ml-1m.parquet

Thirty allocations at 5, 10 and 20 %: equal sizes, splits between users and items, powers of popularity, a
favoured head of the items, random ones. Each is trained to convergence once, and judged by every step mode.
A row is appended as soon as it is measured and none is measured twice, so the command can be broken off and
resumed. The Spearman correlation with full training is taken within each budget and averaged: across budgets
the kept ratio alone ranks well, within one it says nothing.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from ciess_ray.config.data import load_interactions
from ciess_ray.config.yaml_file import load_config
from ciess_ray.training.convergence import full_sizes, recipe_of
from envs.data import Interactions
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe
from envs.sizes.by_popularity import allocation_sampler
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import STEP_MODES, StepRecommenders, state_of, train_supernet

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402

BUDGETS = (0.05, 0.1, 0.2)
CONVERGED = "converged"


@dataclass(frozen=True)
class Allocation:
    """Sizes with a name."""

    name: str
    budget: float
    sizes: EmbeddingSizes


def allocations(interactions: Interactions, max_embedding_size: int) -> Iterator[Allocation]:
    """Ten a budget, each of which uses the whole of it."""
    users, items = interactions.user_popularity, interactions.item_popularity
    activity, popularity = np.maximum(users, 1.0), np.maximum(items, 1.0)
    one_user, one_item = np.ones(len(users)), np.ones(len(items))
    head = 1.0 + 8.0 * (popularity >= np.quantile(popularity, 0.9))
    shapes = {
        "equal": (one_user, one_item),
        "users 1 : items 15": (one_user, 15 * one_item),
        "users 1 : items 4": (one_user, 4 * one_item),
        "users 4 : items 1": (4 * one_user, one_item),
        "users 9 : items 1": (9 * one_user, one_item),
        "popularity^0.5": (activity**0.5, popularity**0.5),
        "users 9 * activity^-0.3 : items 1": (9 * (activity / activity.mean()) ** -0.3, one_item),
        "items' popular tenth 9, others 1 : users 6": (6 * one_user, head),
    }
    for budget in BUDGETS:
        cap = int(budget * interactions.num_entities * max_embedding_size)
        for position, (name, (user, item)) in enumerate(shapes.items()):
            scale = cap / (user.sum() + item.sum())
            rng = np.random.default_rng(position)
            sizes = EmbeddingSizes.from_proposal(
                scale * user, scale * item, cap, 1, max_embedding_size, rng, fill=True
            )
            yield Allocation(name, budget, sizes)
        draw = allocation_sampler(users, items, (budget, budget), 1, max_embedding_size)
        for seed in range(2):
            rng = np.random.default_rng([seed, round(1000 * budget)])
            yield Allocation(f"random {seed}", budget, draw(rng))


def measure(
    mode: StepRecommenders, allocation: Allocation, interactions: Interactions, seed: int
) -> dict[str, float | int]:
    rng = np.random.default_rng(seed)
    started = time.perf_counter()
    recommender = mode.recommender(allocation.sizes, rng)
    trained = time.perf_counter()
    quality = evaluate(recommender, interactions.train, interactions.validation).quality
    return {
        "quality": quality,
        "train_s": trained - started,
        "evaluate_s": time.perf_counter() - trained,
    }


def converge(recipe: Recipe, allocation: Allocation, interactions: Interactions, seed: int) -> dict[str, Any]:
    trainer = recipe.trainer(allocation.sizes, np.random.default_rng(seed))
    started = time.perf_counter()
    report = trainer.fit(interactions.validation)
    return {
        "quality": report.best.quality,
        "fit_s": time.perf_counter() - started,
        "num_batches": trainer.num_batches,
        "best_batch": report.best_batch,
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a variant: its correlations with converged quality, and its price."""
    truth = {(row["budget"], row["allocation"]): row for row in rows if row["mode"] == CONVERGED}
    variants = {row["variant"] for row in rows if row["mode"] != CONVERGED}
    summary = []
    widest = max(row["width"] for row in rows)
    for variant in sorted(variants):
        own = [
            row for row in rows if row["variant"] == variant and (row["budget"], row["allocation"]) in truth
        ]
        pairs = [(row, truth[row["budget"], row["allocation"]]["quality"]) for row in own]
        within = {
            f"{budget:g}": _spearman([(row["quality"], q) for row, q in pairs if row["budget"] == budget])
            for budget in BUDGETS
        }
        found = [value for value in within.values() if value is not None]
        summary.append(
            {
                "variant": variant,
                "num_allocations": len({(row["budget"], row["allocation"]) for row in own}),
                "spearman_within": within,
                "spearman": statistics.mean(found) if found else None,
                "spearman_across": _spearman([(row["quality"], q) for row, q in pairs]),
                "spearman_across_of_kept_ratio": _spearman([(row["budget"], q) for row, q in pairs]),
                "once_s": max(row["once_s"] for row in own),
                "step_s": statistics.median(row["train_s"] + row["evaluate_s"] for row in own),
                "step_s_of_widest": statistics.median(
                    row["train_s"] + row["evaluate_s"] for row in own if row["width"] == widest
                ),
                "widest": widest,
            }
        )
    return summary


def _spearman(pairs: list[tuple[float, float]]) -> float | None:
    return float(spearmanr(*zip(*pairs, strict=True)).statistic) if len(pairs) > 2 else None


def draw(rows: list[dict[str, Any]], summary: list[dict[str, Any]], path: Path) -> None:
    """Quality of a step against converged quality, a panel a variant."""
    truth = {(row["budget"], row["allocation"]): row["quality"] for row in rows if row["mode"] == CONVERGED}
    figure = Figure(figsize=(3.2 * len(summary), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(summary), sharex=True, squeeze=False)[0]
    for axes, variant in zip(panels, summary, strict=True):
        for budget in BUDGETS:
            points = [
                (truth[row["budget"], row["allocation"]], row["quality"])
                for row in rows
                if row["variant"] == variant["variant"]
                and row["budget"] == budget
                and (row["budget"], row["allocation"]) in truth
            ]
            axes.scatter(*zip(*points, strict=True), s=18, alpha=0.7, label=f"{budget:.0%}")
        axes.set_title(f"{variant['variant']}\nρ {variant['spearman']:.2f}, {variant['step_s']:.1f} s a step")
        axes.set_xlabel("converged quality")
    panels[0].set_ylabel("quality of the step")
    panels[0].legend(title="kept")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--modes", nargs="*", default=[CONVERGED, *STEP_MODES])
    parser.add_argument("--budgets", nargs="*", type=float, default=list(BUDGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finetune-batches", type=int, default=50)
    parser.add_argument("--output", type=Path, default=Path("results/step_modes.jsonl"))
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    interactions = load_interactions(config)
    recipe = recipe_of(config, interactions)
    wanted = [
        allocation
        for allocation in allocations(interactions, config.recommender.max_embedding_size)
        if allocation.budget in arguments.budgets
    ]
    full = full_sizes(config, interactions)
    table = Measurements(arguments.output)
    num_fresh = round(5 * interactions.train.nnz / config.training.batch_size)
    num_batches = {
        CONVERGED: 0,
        "fresh": num_fresh,
        "finetune": arguments.finetune_batches,
        "supernet": 0,
        "finetuned_supernet": arguments.finetune_batches,
    }
    step_settings = recipe.settings.model_copy(
        update={"learning_rate": config.search.step_learning_rate or recipe.settings.learning_rate}
    )
    for mode_name in arguments.modes:
        is_full = mode_name == CONVERGED
        variant = mode_name if is_full or mode_name == "supernet" else f"{mode_name} {num_batches[mode_name]}"
        missing = [
            a
            for a in wanted
            if not table.has(variant=variant, budget=a.budget, allocation=a.name, seed=arguments.seed)
        ]
        if not missing:
            continue
        key = {"variant": variant, "mode": mode_name, "seed": arguments.seed}
        mode = None
        if not is_full:
            once_s, pretrained = 0.0, None
            if STEP_MODES[mode_name].starts_from:
                started = time.perf_counter()
                rng = np.random.default_rng([arguments.seed, 1])
                if STEP_MODES[mode_name].starts_from == "supernet":
                    shared = train_supernet(
                        recipe,
                        interactions,
                        full,
                        (min(BUDGETS) * 2 / 3, max(BUDGETS) * 4 / 3),
                        config.search.supernet_batches,
                        rng,
                    )
                else:
                    trainer = recipe.trainer(full, rng)
                    trainer.fit(interactions.validation)
                    shared = trainer.recommender
                pretrained, once_s = state_of(shared), time.perf_counter() - started
            key["once_s"] = once_s
            step_recipe = replace(recipe, settings=step_settings)
            mode = StepRecommenders(mode_name, step_recipe, num_batches[mode_name], full, pretrained)
        for allocation in missing:
            row = (
                converge(recipe, allocation, interactions, arguments.seed)
                if mode is None
                else measure(mode, allocation, interactions, arguments.seed)
            )
            sizes = allocation.sizes
            table.add(
                key
                | {"budget": allocation.budget, "allocation": allocation.name}
                | {"kept_ratio": sizes.kept_ratio, "width": sizes.width}
                | {"user_size": float(sizes.user.mean()), "item_size": float(sizes.item.mean())}
                | row
            )
    summary = summarise(table.rows)
    report = {
        "command": f"python benchmarks/findings/step_modes.py {arguments.config}",
        "changed": [override for override in arguments.set if "path" not in override],
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "recipe": config.training.model_dump(mode="json"),
        "options": config.recommender.options_with(),
        "modes": summary,
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for row in summary:
        print(json.dumps(row))
    if summary:
        draw(table.rows, summary, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
