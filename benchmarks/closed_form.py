"""A recommender in closed form, from the file of the data to the packed table: CPU seconds, memory, quality.

    python benchmarks/closed_form.py ml-1m.parquet --set recommender.max_embedding_size=48 budget=100%
    python benchmarks/closed_form.py million.parquet --set budget=5% --users 20000

One process, one thread. Equal sizes at the budget, whose options are chosen on validation, computed again
with training and validation interactions, packed, and measured on test. Of many users so many, drawn by
seed, are judged, on validation too.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_table import best_equal_table
from provenance import provenance
from scipy.sparse import csr_array

from ciess_ray.config.data import check_budgets, load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.training.convergence import Meter
from envs.data import Interactions


def main() -> None:
    """Measure each seed and write a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--users", type=int, help="users that are judged; all of them by default")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/closed_form.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with arguments.output.open("a", encoding="utf-8") as lines:
        for seed in arguments.seeds:
            values = ["recommender.name=spectral", f"dataset.path={arguments.data}", f"seed={seed}"]
            config = _config([*values, *arguments.set])
            line = provenance() | {"set": arguments.set, "seed": seed} | measure(config, arguments.users)
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            print(json.dumps(line, indent=2))


def _config(values: list[str]) -> RunConfig:
    return parse_config(put_overrides({}, values))


def measure(config: RunConfig, num_users: int | None) -> dict[str, Any]:
    """From reading to the packed table, and its quality on test."""
    meter = Meter()
    with meter.phase("reading"):
        interactions = _judged_by(load_interactions(config), num_users, config.seed)
        (cap_params,) = check_budgets(config, interactions)
    equal = best_equal_table(config, interactions, cap_params, meter)
    chosen = equal.chosen
    with meter.phase("packing"), tempfile.TemporaryDirectory() as folder:
        table = pack_recommender(equal.recommender, config.recommender.name)
        num_bytes = table.save(Path(folder) / "table.safetensors")
    cost = meter.cost(equal.num_trainings)
    return {
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": interactions.num_interactions,
        "options": dict(chosen.options),
        "table_bytes": num_bytes,
        "num_params": chosen.sizes.num_params,
        "validation": chosen.quality,
        "test": equal.test.best.summary(),
        "cpu_s": {name: round(seconds, 2) for name, seconds in meter.cpu_s.items()},
        "cpu_s_in_all": round(cost.cpu_s, 2),
        "peak_bytes": cost.peak_bytes,
        "num_fits": cost.num_trainings,
    }


def _judged_by(interactions: Interactions, num_users: int | None, seed: int) -> Interactions:
    """The same with held-out interactions of so many users alone."""
    if num_users is None or num_users >= interactions.num_users:
        return interactions
    judged = np.zeros(interactions.num_users, bool)
    judged[np.random.default_rng(seed).permutation(interactions.num_users)[:num_users]] = True

    def of_judged(held_out: csr_array) -> csr_array:
        counts = np.diff(held_out.indptr)
        is_kept = np.repeat(judged, counts)
        indptr = np.concatenate([[0], np.cumsum(np.where(judged, counts, 0))]).astype(held_out.indptr.dtype)
        return csr_array((held_out.data[is_kept], held_out.indices[is_kept], indptr), shape=held_out.shape)

    return replace(
        interactions,
        validation=of_judged(interactions.validation),
        test=of_judged(interactions.test),
    )


if __name__ == "__main__":
    main()
