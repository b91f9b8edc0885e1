"""Time of one random walk of five steps for a whole table, with and without the critic's choice.

Writes results/random_walk.json:

OMP_NUM_THREADS=1 python benchmarks/random_walk.py --num-entities 70000
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ciess_ray.exploration import Gaussian, RandomWalk, SizeGraph, seeded_generator
from ciess_ray.td3.module import Critic


def median_s(run: Callable[[], Any], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-entities", type=int, default=70_000)
    parser.add_argument("--num-steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=Path, default=Path("results/random_walk.json"))
    args = parser.parse_args()
    generator = seeded_generator(0)
    start = torch.randint(1, 129, (args.num_entities,), generator=generator)
    graph = SizeGraph(1, 128)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads",
        "seed": 0,
        "num_entities": args.num_entities,
        "num_steps": args.num_steps,
        "walk_s": median_s(lambda: graph.random_walk(start, args.num_steps, generator), args.repeats),
    }
    obs = torch.rand(args.num_entities, 3, generator=generator) * 2 - 1
    proto_action = torch.rand(args.num_entities, generator=generator) * 2 - 1
    walk = RandomWalk(Gaussian(), 1, 128, num_steps=args.num_steps)
    for hiddens in ((64, 64), (256, 256)):
        critic = Critic(hiddens)
        with torch.no_grad():
            result[f"explore_{hiddens[0]}x{hiddens[1]}_s"] = median_s(
                lambda critic=critic: walk.explore(obs, proto_action, critic, generator), 3
            )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
