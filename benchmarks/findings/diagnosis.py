"""What holds a search back: the judge, the shape of what it judges, or the noise of its steps.

    python benchmarks/findings/diagnosis.py configs/ml-1m-lightgcn.yaml --budgets 5%
        --set dataset.path=ml-1m.parquet

Three parts, each of them rows that are appended as they come and made once:

- ``noise``: a plain split between users and items, every size of it multiplied by log-normal noise, judged by
  the supernet. What differences between rows cost that nothing asks for.
- ``shapes``: splits, powers of popularity, popular items, halves of the users by activity, by how popular
  their items are and by lot; judged by the supernet and trained to convergence. Whether the judge ranks what
  is good, and which of an entity's features tells who needs size.
- ``steps``: the search under one change at a time; of each the best table of the warm-up, of steps with
  exploration and of steps that the actors take alone, as shares of the full table's quality.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ciess_ray.candidate import EVALUATION, GREEDY, Candidate
from ciess_ray.comparisons.methods.by_hand import by_popularity, head, proportional
from ciess_ray.comparisons.methods.method import Problem
from ciess_ray.config.data import caps_params_of, load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import load_config
from ciess_ray.resources import ray_session
from ciess_ray.result import ResultFolder
from ciess_ray.searches.candidates import find_candidates
from ciess_ray.searches.run import Budget, Journal, Run
from ciess_ray.training.convergence import Trained, fit_to_convergence
from ciess_ray.training.preparing import Preparation
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.step_modes import State

# What all measurements share lies a folder above.
sys.path.append(str(Path(__file__).parents[1]))
from measurements import Measurements  # noqa: E402

NOISE_STDS = (0.0, 0.03, 0.05, 0.1, 0.2)
NUM_DRAWS = 3
_CIESS_NOISE = "agent.exploration={name: random_walk, noise: {name: gaussian, sigma: 6}, max_step: 5}"
#: What is changed about the search, by the name of the variant.
VARIANTS: dict[str, list[str]] = {
    "as configured": [],
    "no imitation": ["agent.imitation_weight=0"],
    "noise of CIESS": [_CIESS_NOISE],
    "no imitation, noise of CIESS": ["agent.imitation_weight=0", _CIESS_NOISE],
    "the same, 20 updates a step": ["agent.imitation_weight=0", _CIESS_NOISE, "agent.updates_per_step=20"],
}
#: Converged quality within this share of the best counts as good.
_GOOD = 0.03


@dataclass(frozen=True)
class Setting:
    """What all measurements of a budget share."""

    path: Path
    overrides: list[str]
    config: RunConfig
    problem: Problem
    full: Trained
    pretrained: State


def prepare(path: Path, overrides: list[str], budget: str, budgets: list[str]) -> Setting:
    config = load_config(path, [*overrides, f"budget={budget}"])
    interactions = load_interactions(config)
    full_size = Preparation.full_size(config, interactions, keeps_state=True)
    full = full_size.train(interactions)
    caps = [caps_params_of(config.model_copy(update={"budget": other}), interactions)[0] for other in budgets]
    pretrained = Preparation.supernet(config, interactions, caps).train(interactions).state
    cap = caps_params_of(config, interactions)[0]
    problem = Problem(config, interactions, cap, Path(tempfile.gettempdir()), full, pretrained)
    return Setting(path, overrides, config, problem, full, pretrained)


def rng_of(problem: Problem, *what: int) -> np.random.Generator:
    return np.random.default_rng((problem.config.seed, *what))


def with_halves(problem: Problem, score: NDArray[np.float64]) -> EmbeddingSizes:
    """Items at d_min, the half of the users with the highest score large, the others at d_min."""
    interactions, (low, _) = problem.interactions, problem.bounds
    user = np.full(interactions.num_users, float(low))
    large = np.argsort(-score, kind="stable")[: len(user) // 2]
    left = problem.cap_params / problem.full_sizes.num_tables - low * interactions.num_entities
    user[large] += left / len(large)
    return problem.project(user, np.full(interactions.num_items, float(low)), rng_of(problem, 1))


def shapes(problem: Problem) -> Iterator[tuple[str, EmbeddingSizes]]:
    """Allocations with their names."""
    interactions = problem.interactions
    for split in (0.5, 0.7, 0.85, 0.95, 1.0):
        yield f"split {split:g}", by_popularity(problem, split)
    for user_power, item_power in ((0, 0.6), (0, 1.2), (-0.3, 0.6), (-0.15, 0.6), (0.15, 0.6), (0.3, 0.6)):
        name = f"users^{user_power:g}, items^{item_power:g}"
        yield name, by_popularity(problem, 0.9, user_power, item_power)
    for share in (0.05, 0.1, 0.2):
        mean_item = 1.0 + 8.0 * share
        item = proportional(head(interactions.item_popularity, share, 9.0), mean_item, *problem.bounds)
        user = (problem.cap_params / problem.full_sizes.num_tables - item.sum()) / interactions.num_users
        yield (
            f"popular items {share:g}",
            problem.project(np.full(interactions.num_users, user), item, rng_of(problem, 1)),
        )
    activity = interactions.user_popularity.astype(np.float64)
    popularity_of_items = (interactions.train @ interactions.item_popularity) / np.maximum(activity, 1)
    lots = rng_of(problem, 2).random(interactions.num_users)
    for name, score in (
        ("active", activity + lots / 10),
        ("inactive", lots / 10 - activity),
        ("mainstream", popularity_of_items),
        ("niche", -popularity_of_items),
        ("random", lots),
    ):
        yield f"half of the users, {name}", with_halves(problem, score)


def measure_noise(setting: Setting, table: Measurements, key: dict[str, Any]) -> None:
    problem = setting.problem
    plain = by_popularity(problem, 0.95)
    for std in NOISE_STDS:
        if table.has(part="noise", std=std, **key):
            continue
        found = []
        for draw in range(NUM_DRAWS):
            rng = rng_of(problem, 3, draw)
            user, item = (
                sizes * np.exp(rng.normal(0, std, len(sizes))) for sizes in (plain.user, plain.item)
            )
            found.append(problem.judge(problem.project(user, item, rng)))
        table.add({"part": "noise", **key, "std": std, "quality": float(np.mean(found))})


def measure_shapes(setting: Setting, table: Measurements, key: dict[str, Any]) -> None:
    for name, sizes in shapes(setting.problem):
        if table.has(part="shapes", name=name, **key):
            continue
        judged = setting.problem.judge(sizes)
        started = time.process_time()
        seed = (setting.config.seed, 1)
        _, report = fit_to_convergence(setting.config, setting.problem.interactions, sizes, seed)
        table.add(
            {"part": "shapes", **key, "name": name, "judged": judged, "converged": report.best.quality}
            | {"user_size": float(sizes.user.mean()), "item_size": float(sizes.item.mean())}
            | {"width": sizes.width, "best_batch": report.best_batch, "cpu_s": time.process_time() - started}
        )


def measure_steps(setting: Setting, table: Measurements, key: dict[str, Any]) -> None:
    for name, changed in VARIANTS.items():
        if table.has(part="steps", variant=name, **key):
            continue
        config = load_config(setting.path, [*setting.overrides, f"budget={key['budget']}", *changed])
        interactions = setting.problem.interactions
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            journal = Journal(ResultFolder(Path(folder)), None)
            journal.full_quality = setting.full.quality
            budget = Budget(str(config.budget), setting.problem.cap_params)
            run = Run(config, interactions, ray.put(interactions), [budget], journal)
            with journal.phase("search", config.search.num_steps + config.search.num_greedy_steps):
                find_candidates(run, setting.full, setting.pretrained)
        share = np.array([candidate.quality for candidate in run.candidates]) / setting.full.quality
        is_greedy = np.array([candidate.kind in (GREEDY, EVALUATION) for candidate in run.candidates])
        taken = np.flatnonzero(~is_greedy)
        warmup, explored = np.split(taken, [config.search.num_warmup_steps])
        greedy = np.flatnonzero(is_greedy & (np.arange(len(share)) > warmup.max(initial=-1)))
        table.add(
            {"part": "steps", **key, "variant": name, "changed": changed}
            | {"best_of_warmup": float(share[warmup].max())}
            | {"best_explored": float(share[explored].max())}
            | {"median_explored": float(np.median(share[explored]))}
            | {"best_greedy": float(share[greedy].max()), "median_greedy": float(np.median(share[greedy]))}
            | {"cpu_s": time.process_time() - started}
            | {
                f"{kind}_size_of_greedy": float(np.mean([_mean(run.candidates[i], kind) for i in greedy]))
                for kind in ("user", "item")
            }
        )


def _mean(candidate: Candidate, kind: str) -> float:
    return float(getattr(candidate.sizes, kind).mean())


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How the judge ranks the shapes of each budget."""
    summary = []
    for budget in sorted({row["budget"] for row in rows if row["part"] == "shapes"}):
        own = [row for row in rows if row["part"] == "shapes" and row["budget"] == budget]
        judged, converged = (np.array([row[name] for row in own]) for name in ("judged", "converged"))
        good = converged > (1 - _GOOD) * converged.max()
        summary.append(
            {
                "budget": budget,
                "num_shapes": len(own),
                "spearman": float(spearmanr(judged, converged).statistic),
                "num_good": int(good.sum()),
                "spearman_of_good": float(spearmanr(judged[good], converged[good]).statistic),
                "lost_by_judging": float(1 - converged[judged.argmax()] / converged.max()),
                "best": own[int(converged.argmax())]["name"],
            }
        )
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--budgets", nargs="+", default=["2%", "5%", "10%", "20%"])
    parser.add_argument("--parts", nargs="+", default=["noise", "steps", "shapes"])
    parser.add_argument("--output", type=Path, default=Path("results/diagnosis.jsonl"))
    arguments = parser.parse_args()
    table = Measurements(arguments.output)
    # One supernet, whichever budgets are asked for.
    all_budgets = ["2%", "5%", "10%", "20%"]
    with ray_session():
        for budget in arguments.budgets:
            setting = prepare(arguments.config, arguments.set, budget, all_budgets)
            key = {"config": arguments.config.name, "budget": budget, "seed": setting.config.seed}
            if "noise" in arguments.parts:
                measure_noise(setting, table, key)
            if "steps" in arguments.parts:
                measure_steps(setting, table, key)
            if "shapes" in arguments.parts:
                measure_shapes(setting, table, key)
    summary = summarise(table.rows)
    arguments.output.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for row in summary:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
