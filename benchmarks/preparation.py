"""Seconds to read, split and normalise a dataset, and to draw a batch of triples from it.

python benchmarks/preparation.py ml-1m.parquet
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from envs.data import read_interactions, split_interactions
from envs.recommenders.losses import BPR
from envs.recommenders.propagation import symmetric_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/preparation.json"))
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        log = read_interactions(arguments.file)
        read = time.perf_counter()
        interactions = split_interactions(log, seed=0)
        split = time.perf_counter()
        symmetric_weights(interactions.train)
        normalised = time.perf_counter()
        BPR(interactions.train, batch_size=10_000).draw(np.random.default_rng(0))
        done = time.perf_counter()
        runs.append(
            {
                "read_s": read - started,
                "split_s": split - read,
                "adjacency_s": normalised - split,
                "triples_s": done - normalised,
            }
        )
    result = {
        "command": f"python benchmarks/preparation.py {arguments.file.name}",
        "machine": f"{platform.machine()}, python {platform.python_version()}",
        "num_interactions": log.num_rows,
        "first": runs[0] | {"total_s": sum(runs[0].values())},
        "median": {key: statistics.median(run[key] for run in runs) for key in runs[0]},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
