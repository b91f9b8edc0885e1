"""How near SCALL's policy comes to a known optimum in 120 table steps, beside random draws and the warm-up.

    OMP_NUM_THREADS=1 python benchmarks/scall_toy.py --output results/scall-toy.csv

No recommender is trained. A table is judged by three numbers that are read off its sizes: the share of the
parameters that users have, and for users and for items the shape of SCALL's law that gives the more popular
half as much as they have. Quality is 1.1 - d², with d the distance of these from (0.8, 0.05, 0.05), and has
noise of half a percent; a share of users that is 0.3 off costs 8 % of it. 1,000 users and 600 items, 25,600
parameters, sizes 1 to 256, popularity by Zipf's law.

A row is a step of a method: where it stands then, and how far that is from the optimum. ``sac`` stands at
the greedy action, ``random`` (uniform actions) and ``warm-up`` (``ciess_ray/td3/warmup.py``, policies of six
numbers) at the best that was judged so far; of the warm-up's table the three numbers that it is judged by.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ciess_ray.files.whole import whole_file
from ciess_ray.resources import ray_session
from ciess_ray.sac.policy import ScallPolicy
from ciess_ray.td3.warmup import SPREAD, WarmUp
from envs.mdp import KINDS
from envs.sizes.by_popularity import table_sizes
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.table_shape import Judged, TableShapeEnv

Array = NDArray[np.float64]

OPTIMUM = np.array([0.8, 0.05, 0.05])
BEST_QUALITY, NOISE = 1.1, 0.005
NUM_USERS, NUM_ITEMS, MEAN_SIZE = 1_000, 600, 16
MIN_SIZE, MAX_SIZE = 1, 256
CAP_PARAMS = MEAN_SIZE * (NUM_USERS + NUM_ITEMS)
#: What the exponents of SCALL's law are at shapes 0 and 1.
LOW, HIGH = 0.1, 30.0
COLUMNS = ["method", "seed", "step", "user_share", "user_shape", "item_shape", "distance"]


class Toy:
    """What tables are worth, and how popular users and items are.

    Args:
        seed: Of popularity and noise.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.popularity = {
            kind: (1e6 / self._rng.permutation(np.arange(1, count + 1))).astype(np.int64)
            for kind, count in zip(KINDS, (NUM_USERS, NUM_ITEMS), strict=True)
        }

    def env(self) -> TableShapeEnv:
        """SCALL's environment, judged by this."""
        rows = np.zeros(MAX_SIZE), np.zeros(MAX_SIZE)
        return TableShapeEnv(
            self.popularity["user"],
            self.popularity["item"],
            CAP_PARAMS,
            lambda sizes: Judged(self.quality(sizes), *rows),
            reference_fitness=1.0,
            min_embedding_size=MIN_SIZE,
            max_embedding_size=MAX_SIZE,
        )

    def quality(self, sizes: EmbeddingSizes) -> float:
        """What a table is judged to be worth, not below 0."""
        distance = np.linalg.norm(self.place(sizes) - OPTIMUM)
        return max(float((BEST_QUALITY - distance**2) * (1 + NOISE * self._rng.normal())), 0.0)

    def place(self, sizes: EmbeddingSizes) -> Array:
        """Share of users and both shapes, shape (3,), as an action that would give such a table."""
        shapes = [self._shape(getattr(sizes, kind), kind) for kind in KINDS]
        return np.array([sizes.user.sum() / sizes.num_params, *shapes])

    def _shape(self, sizes: NDArray[Any], kind: str) -> float:
        """By the law, the more popular half has 1 - 0.5^(1 + 1/a), a from 0.1 at shape 0 to 30 at shape 1."""
        half = np.argsort(-self.popularity[kind])[: len(sizes) // 2]
        others = 1 - sizes[half].sum() / sizes.sum()
        inverse = max(-np.log2(others) - 1, 1 / HIGH) if others > 0 else np.inf
        return float(np.clip((1 / inverse - LOW) / (HIGH - LOW), 0.0, 1.0))


def sac(seed: int, num_steps: int) -> Iterator[Array]:
    """The greedy action after each step."""
    with ScallPolicy(Toy(seed).env(), seed) as policy:
        for _ in range(num_steps):
            policy.step()
            yield policy.greedy_action().astype(np.float64)


def random_draws(seed: int, num_steps: int) -> Iterator[Array]:
    """The best uniform action up to each step."""
    env, rng = Toy(seed).env(), np.random.default_rng((seed, 1))
    env.reset(seed=seed)
    best, place = -np.inf, OPTIMUM
    for action in rng.random((num_steps, 3)):
        _, reward, *_ = env.step(action.astype(np.float32))
        if reward > best:
            best, place = reward, action
        yield place


def warm_up(seed: int, num_steps: int) -> Iterator[Array]:
    """The best table of the project's warm-up up to each step."""
    toy, rng = Toy(seed), np.random.default_rng((seed, 2))
    target_ratio = MEAN_SIZE / MAX_SIZE
    proposals, best, place = WarmUp(num_steps, seed), -np.inf, OPTIMUM
    for _ in range(num_steps):
        dealt = proposals.deal([0])
        asked = [
            table_sizes(dealt[0][kind], toy.popularity[kind], rng, MIN_SIZE, MAX_SIZE, target_ratio, SPREAD)
            for kind in KINDS
        ]
        sizes = EmbeddingSizes.from_proposal(*asked, CAP_PARAMS, MIN_SIZE, MAX_SIZE, rng, fill=True)
        quality = toy.quality(sizes)
        proposals.settle(dealt, {0: quality})
        if quality > best:
            best, place = quality, toy.place(sizes)
        yield place


METHODS = {"sac": sac, "random": random_draws, "warm-up": warm_up}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[Any]] = []
    with ray_session(num_cpus=1):
        for name, method in METHODS.items():
            for seed in arguments.seeds:
                for step, place in enumerate(method(seed, arguments.steps), start=1):
                    distance = float(np.linalg.norm(place - OPTIMUM))
                    rows.append([name, seed, step, *(round(float(x), 4) for x in (*place, distance))])
                print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
    with whole_file(arguments.output) as stream:
        stream.write(("\n".join(",".join(map(str, row)) for row in [COLUMNS, *rows]) + "\n").encode())
    for name in METHODS:
        for step in sorted({s for s in (40, 80, arguments.steps) if s <= arguments.steps}):
            last = [row[-1] for row in rows if row[0] == name and row[2] == step]
            print(
                f"{name}: {np.mean(last):.3f} at step {step}, of {len(last)} seeds {min(last)} to {max(last)}"
            )


if __name__ == "__main__":
    main()
