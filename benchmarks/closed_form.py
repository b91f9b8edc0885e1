"""A recommender in closed form, from the file of the data to the packed table: CPU seconds, memory, quality.

    python benchmarks/closed_form.py ml-1m.parquet --set recommender.max_embedding_size=48 budget=100%
    python benchmarks/closed_form.py million.parquet --set budget=5% --users 20000

One process, one thread. Equal sizes at the budget, whose options are chosen on validation, computed again
with training and validation interactions, packed, and measured on test, with the 95 % interval of N@20 over
users. Of many users so many, drawn by seed, are judged, on validation too. A line that is there is not made
again; `benchmarks/closed_form_growth.py` makes those of growing data.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_table import best_equal_table
from measurements import Measurements
from provenance import provenance
from scipy.sparse import csr_array

from ciess_ray.config.data import check_budgets, load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config, put_overrides
from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.training.convergence import Meter
from envs.data import Interactions
from envs.metrics import RankingMetrics

_NUM_RESAMPLES = 2000


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
    lines = Measurements(arguments.output)
    for seed in arguments.seeds:
        key = {"data": arguments.data.name, "set": arguments.set, "judged": arguments.users, "seed": seed}
        if not lines.has(**key):
            values = ["recommender.name=spectral", f"dataset.path={arguments.data}", f"seed={seed}"]
            config = _config([*values, *arguments.set])
            lines.add(provenance() | key | measure(config, arguments.users))


def _config(values: list[str]) -> RunConfig:
    return parse_config(put_overrides({}, values))


def measure(config: RunConfig, num_users: int | None) -> dict[str, Any]:
    """From reading to the packed table, and its quality on test."""
    meter = Meter()
    with meter.phase("reading"):
        interactions = load_interactions(config)
        num_interactions = interactions.num_interactions
        interactions = _judged_by(interactions, num_users, config.seed)
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
        "interactions": num_interactions,
        "options": dict(chosen.options),
        "table_bytes": num_bytes,
        "num_params": chosen.sizes.num_params,
        "validation": chosen.quality,
        "test": equal.test.best.summary(),
        "ndcg@20_interval": _interval(equal.test.best, config.seed),
        "cpu_s": {name: round(seconds, 2) for name, seconds in meter.cpu_s.items()},
        "cpu_s_in_all": round(cost.cpu_s, 2),
        "peak_bytes": cost.peak_bytes,
        "num_fits": cost.num_trainings,
    }


def _interval(metrics: RankingMetrics, seed: int) -> list[float]:
    """The 95 % percentile bootstrap over users of the mean of N@20: its ends."""
    ndcg = metrics.ndcg[:, metrics.cutoffs.index(20)]
    ndcg = ndcg[~np.isnan(ndcg)]
    rng = np.random.default_rng(seed)
    means = [ndcg[rng.integers(len(ndcg), size=len(ndcg))].mean() for _ in range(_NUM_RESAMPLES)]
    return [float(end) for end in np.percentile(means, [2.5, 97.5])]


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
