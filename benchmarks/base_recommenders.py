r"""Base recommenders at fixed sizes, trained to convergence and measured on test, beside published figures.

    python benchmarks/base_recommenders.py configs/ml-1m-lightgcn.yaml 26 13 6 20:1 9:1 \
        --set dataset.path=ml-1m.parquet --seeds 0 1

A table is a size of every row, or ``users:items``. The recipe is the config's: batches until validation is
best, then as many more as interactions on training and validation together, measured on test. A row is
appended as soon as it is measured and none is measured twice, so the command can be broken off and resumed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from measurements import Measurements

from ciess_ray.config.data import load_interactions
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import load_config
from ciess_ray.training.convergence import fit_to_convergence, train_for_test
from envs.data import Interactions
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Recall@20 and NDCG@20 of equal sizes ("ES") on MovieLens-1M: CIESS (arXiv 2304.03501), table 1.
PUBLISHED = {
    ("lightgcn", "26"): (0.2248, 0.3969),
    ("lightgcn", "13"): (0.2105, 0.3787),
    ("lightgcn", "6"): (0.1752, 0.3272),
    ("ngcf", "26"): (0.2232, 0.3858),
    ("ngcf", "13"): (0.2069, 0.3679),
    ("ngcf", "6"): (0.1977, 0.3595),
    ("ncf", "26"): (0.2080, 0.3682),
    ("ncf", "13"): (0.1973, 0.3546),
    ("ncf", "6"): (0.1841, 0.3358),
}


def sizes_of(table: str, interactions: Interactions, config: RunConfig) -> EmbeddingSizes:
    """Every user one size and every item one size, read from ``26`` or ``20:1``."""
    user, item = (table.split(":") * 2)[:2]
    return EmbeddingSizes(
        np.full(interactions.num_users, int(user)),
        np.full(interactions.num_items, int(item)),
        config.recommender.min_embedding_size,
        config.recommender.max_embedding_size,
        config.recommender.num_tables,
    )


def measure(config: RunConfig, interactions: Interactions, table: str, seed: int) -> dict[str, Any]:
    sizes = sizes_of(table, interactions, config)
    started = time.perf_counter()
    _, report = fit_to_convergence(config, interactions, sizes, (seed, 0))
    fit_s = time.perf_counter() - started
    _, final = train_for_test(config, interactions, sizes, report.best_batch, (seed, 1))
    return {
        "kept_ratio": sizes.kept_ratio,
        "num_params": sizes.num_params,
        "validation_quality": report.best.quality,
        "best_batch": report.best_batch,
        "test_batches": final.best_batch,
        "test_triples": final.best_batch * config.training.batch_size,
        "fit_s": fit_s,
        "test": final.best.summary(),
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, with their share of what was published."""
    summary = []
    columns = ("config", "changed", "recommender", "table")
    keys = [tuple(str(row[column]) for column in columns) for row in rows]
    for key in dict.fromkeys(keys):
        own = [row for row, its_key in zip(rows, keys, strict=True) if its_key == key]
        name, table = key[2:]
        recall, ndcg = (statistics.mean(r["test"][key] for r in own) for key in ("recall@20", "ndcg@20"))
        line = {
            **{column: own[0][column] for column in columns},
            "seeds": [r["seed"] for r in own],
            "recall@20": recall,
            "ndcg@20": ndcg,
            "max_test_triples": max(r["test_triples"] for r in own),
        }
        if (name, table) in PUBLISHED:
            published = PUBLISHED[name, table]
            line |= {
                "published": published,
                "share_of_published": (recall / published[0], ndcg / published[1]),
            }
        summary.append(line)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("tables", nargs="+", metavar="TABLE")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--output", type=Path, default=Path("results/base_recommenders.jsonl"))
    arguments = parser.parse_args()
    config = load_config(arguments.config, arguments.set)
    interactions = load_interactions(config)
    rows = Measurements(arguments.output)
    changed = [override for override in arguments.set if "path" not in override]
    for seed in arguments.seeds:
        for table in arguments.tables:
            key = {
                "config": arguments.config.name,
                "changed": changed,
                "recommender": config.recommender.name,
                "table": table,
                "seed": seed,
            }
            if not rows.has(**key):
                rows.add(key | measure(config, interactions, table, seed))
    report = {"rows": arguments.output.name, "tables": summarise(rows.rows)}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for line in report["tables"]:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
