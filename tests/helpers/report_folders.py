"""Small folders of searches, sweeps and comparisons, written by hand for the tests of the report."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import ResultFolder
from ciess_ray.sweeps.results import SweepResults
from ciess_ray.sweeps.storage import Storage
from ciess_ray.tracking.runs import RunState

FULL_BYTES, FULL_PARAMS, NUM_USERS, NUM_ITEMS = 100_000, 25_000, 60, 140
BYTES = {"5%": 6_000, "10%": 11_000, "20%": 21_000}


def config_of(budget="10%", seed=0, **sections):
    values = {"dataset": {"path": "some/log.csv"}, "budget": budget, "seed": seed}
    return parse_config(values | sections).model_dump(mode="json")


def method_row(name, num_bytes, recall, users=8.0, items=2.0):
    return {
        "name": name,
        "num_params": num_bytes // 4,
        "packed_bytes": num_bytes,
        "kept_ratio": num_bytes / FULL_BYTES,
        "validation": {"quality": recall - 0.05, "recall@20": recall - 0.02},
        "test": {"recall@20": recall, "ndcg@20": recall + 0.1},
        "best_batch": 250,
        "num_test_batches": 372,
        "mean_user_size": users,
        "mean_item_size": items,
    }


def summary_of(config, recall=0.206, equal=0.174, full=0.2, **more):
    budget = config["budget"]
    num_bytes = BYTES[budget]
    return {
        "status": "finished",
        "phase": "done",
        "config": config,
        "dataset": {
            "source": "some/log.csv",
            "fingerprint": "ab" * 32,
            "num_users": NUM_USERS,
            "num_items": NUM_ITEMS,
            "num_interactions": 900,
            "num_duplicates": 0,
            "num_unevaluated_users": 1,
        },
        "budget": {
            "asked": budget,
            "cap_params": num_bytes // 4 + 1,
            "num_params": num_bytes // 4,
            "kept_ratio": num_bytes / FULL_BYTES,
            "max_packed_bytes": num_bytes + 5,
        },
        "looser_budgets": {},
        "num_steps": 12,
        "seconds": {"full-size fit": 4.6, "supernet": 6.7, "search": 26.1, "retraining": 10.8, "test": 6.7},
        "methods": [
            method_row("full size", FULL_BYTES, full, 16.0, 16.0),
            method_row("equal sizes", num_bytes, equal, 2.0, 2.0),
            method_row("search", num_bytes, recall),
        ],
        "retrained": [
            retrained_row("equal sizes", None, None, 0.13),
            retrained_row("search", 8, 0.155, 0.142),
            retrained_row("search", 10, 0.154, 0.156) | {"is_packed": True},
        ],
        "hints": ["training ended at training.max_batches=60: raise it."],
    } | more


def retrained_row(name, step, before, after):
    kind = None if step is None else "explored"
    row = {"name": name, "step": step, "kind": kind, "quality_in_search": before, "quality": after}
    return row | {"best_batch": 150, "num_params": 2_750, "is_packed": False}


def write_search(path, budget="10%", seed=0, user_ids=None, num_entities=1, num_steps=12, **more):
    """A search's folder; `more` goes into result.json, or for `config` into the configuration."""
    config = config_of(budget, seed, **more.pop("config", {}))
    folder = ResultFolder(path)
    rng = np.random.default_rng(seed)
    num_users, num_items = NUM_USERS * num_entities, NUM_ITEMS * num_entities
    kinds = ["user"] * num_users + ["item"] * num_items
    ids = [*(user_ids or [f"u{row}" for row in range(num_users)]), *(f"i{row}" for row in range(num_items))]
    columns = {
        "kind": pa.array(kinds).dictionary_encode(),
        "id": ids,
        "embedding_size": rng.integers(1, 17, len(kinds)).astype(np.int16),
        "popularity": (rng.pareto(1.0, len(kinds)) * 3).astype(np.int64),
    }
    pq.write_table(pa.table(columns), path / "sizes.parquet")
    for batch in (20, 40):
        folder.log_progress({"phase": "full-size fit", "step": batch, "search/quality": 0.15})
    for step in range(1, num_steps + 1):
        note = "warm-up" if step <= 4 else "greedy" if step > num_steps - 2 else ""
        line = {
            "phase": "search",
            "step": step,
            "search/quality": 0.1 + 0.004 * step,
            "search/kept_ratio": 0.11,
            "search/proposed_ratio": 0.5 / step,
            "search/greedy_ratio": 0.4,
            "search/memory_weight": 0.1 * step,
            "search/walk_gain": 0.01,
        }
        folder.log_progress(line | ({"note": note} if note else {}))
    (path / "table.safetensors").write_bytes(bytes(BYTES[budget]))
    folder.write_result(summary_of(config) | more)
    return path


def outcome_of(name, fields, config, summary=None, error=None):
    """A trial that is finished, or one that failed."""
    status = "failed" if summary is None else "finished"
    config = RunConfig.model_validate(config)
    if summary is None:
        return RunState(name, fields, config, status=status, step=3, num_failures=4, error=error)
    return RunState(name, fields, config, status=status, summary=summary, quality=0.1, step=12)


def write_sweep(path):
    """Two budgets with two seeds each, one trial that failed; the first trial has its folder."""
    outcomes = []
    for budget, seed, recall in (("5%", 0, 0.18), ("5%", 1, 0.20), ("10%", 0, 0.21), ("10%", 1, 0.23)):
        config = config_of(budget, seed)
        fields = {"budget": budget, "seed": seed}
        name = f"{len(outcomes)}_budget-{budget.removesuffix('%')}-percent_seed-{seed}"
        outcomes.append(outcome_of(name, fields, config, summary_of(config, recall, 0.15)))
    fields = {"budget": "20%", "seed": 0}
    outcomes.append(outcome_of("4_failed", fields, config_of("20%"), error="TrainingError: NaN <b>"))
    SweepResults(str(path), outcomes, 60.0).write(Storage(path))
    write_search(path / outcomes[0].name / "result", "5%")
    return path


def comparison_row(method, budget, seed, recall, num_bytes, **more):
    return {
        "dataset": "log.csv",
        "recommender": "lightgcn",
        "budget": budget,
        "method": method,
        "seed": seed,
        "status": "finished",
        "error": None,
        "num_params": num_bytes // 4,
        "packed_bytes": num_bytes,
        "kept_ratio": num_bytes / FULL_BYTES,
        "mean_user_size": 8.0,
        "mean_item_size": 2.0,
        "best_batch": 150,
        "num_trainings": 3,
        "cpu_s": 12.5,
        "peak_bytes": 1_000_000,
        "validation/quality": recall - 0.05,
        "test/quality": recall - 0.03,
        "test/recall@20": recall,
        "test/ndcg@20": recall + 0.1,
    } | more


def comparison_rows():
    """Five methods at three budgets with three seeds, of which one cell failed and one is pending."""
    worth = {"equal sizes": 0.70, "by popularity": 0.85, "hashing": 0.60, "search": 1.0, "pruning": 0.92}
    rows = [comparison_row("full size", None, seed, 0.2 + seed / 200, FULL_BYTES) for seed in range(3)]
    for position, (budget, num_bytes) in enumerate(BYTES.items()):
        for method, share in worth.items():
            for seed in range(3):
                recall = 0.2 * share * (0.94 + 0.05 * position) + (seed - 1) / 250
                rows.append(comparison_row(method, budget, seed, recall, num_bytes))
    nothing = dict.fromkeys(name for name in rows[0] if "/" in name or name in ("num_params", "packed_bytes"))
    rows[-1] |= nothing | {"status": "failed", "error": "BudgetError: no room for d_min"}
    rows[-2] |= nothing | {"status": "pending"}
    return rows


def write_comparison(path, rows=None):
    path.mkdir(parents=True)
    rows = comparison_rows() if rows is None else rows
    pq.write_table(pa.Table.from_pylist(rows), path / "comparison.parquet")
    told = {
        "format": "ciess-ray comparison 1",
        "config": {"budgets": list(BYTES), "base": {"training": {"max_batches": 60}}},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }
    (path / "comparison.json").write_text(json.dumps(told))
    return path
