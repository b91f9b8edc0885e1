"""CPU seconds of a search, beside those of a search whose every step trains a fresh full-width recommender.

    python benchmarks/search_cost.py configs/ml-1m-lightgcn.yaml --set dataset.path=ml-1m.parquet budget=5%

One process, one thread, one recipe of training: the full-size fit, the supernet and every step of the
configured search; then fresh steps as CIESS (arXiv 2304.03501) takes them: 5 epochs at d_max and an
evaluation, the agent left out. A search takes 300 of those; the mean of the ones measured stands for each.
What either would train of what it has found is left out of both.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
import torch
from provenance import provenance

from ciess_ray.comparisons.methods import METHODS, Problem
from ciess_ray.config.data import caps_params_of, load_interactions
from ciess_ray.config.yaml_file import load_config
from ciess_ray.resources import ray_session
from ciess_ray.training.contest import judge_of
from ciess_ray.training.convergence import cpu_seconds, full_sizes
from ciess_ray.training.preparing import Preparation, prepare

NUM_FRESH_STEPS = 300


def main() -> None:
    """Measure both and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--steps", type=int, default=30, help="fresh steps that are measured")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/search_cost.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        overrides = [*arguments.set, f"cache={folder}"]
        ours = measure_search(arguments.config, overrides, Path(folder))
        fresh = measure_fresh(arguments.config, overrides, arguments.steps)
    result = provenance() | {"search": ours, "fresh": fresh}
    result["share"] = ours["cpu_s"] / fresh["cpu_s"]
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def measure_search(file: Path, overrides: list[str], folder: Path) -> dict[str, Any]:
    """The search of the configuration, with all that it needs, up to what it would train to convergence."""
    config = load_config(file, overrides)
    interactions = load_interactions(config)
    caps_params = caps_params_of(config, interactions)
    with ray_session():
        reference = ray.put(interactions)
        full, supernet = (
            prepare(preparation, reference)
            for preparation in (
                Preparation.full_size(config, interactions, keeps_state=True),
                Preparation.supernet(config, interactions, caps_params),
            )
        )
        work = folder / "work"
        problem = Problem(config, interactions, caps_params[0], work, full, supernet.state)
        started = cpu_seconds()
        METHODS["search"].propose(problem)
        steps_s = cpu_seconds() - started
    parts = {"full_size_fit": full.cost.cpu_s, "supernet": supernet.cost.cpu_s, "steps": steps_s}
    return {
        "budget": str(config.budget),
        "num_steps": problem.num_steps,
        "parts_cpu_s": parts,
        "cpu_s": sum(parts.values()),
    }


def measure_fresh(file: Path, overrides: list[str], num_measured: int) -> dict[str, Any]:
    """As many steps at d_max, and what a search's would take."""
    config = load_config(file, [*overrides, "search.step_mode=fresh"])
    interactions = load_interactions(config)
    judge = judge_of(config, interactions, None)
    whole = full_sizes(config, interactions)
    seconds = []
    for _ in range(num_measured):
        started = cpu_seconds()
        judge(whole)
        seconds.append(cpu_seconds() - started)
    mean = sum(seconds) / num_measured
    return {"num_measured": num_measured, "step_cpu_s": mean, "cpu_s": NUM_FRESH_STEPS * mean}


if __name__ == "__main__":
    main()
