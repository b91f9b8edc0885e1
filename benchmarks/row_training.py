"""A batch of MF on a table of a million users: by the rows that it uses, of the whole table, and SparseAdam.

    OMP_NUM_THREADS=1 python benchmarks/row_training.py --output results/row-training.json

Seconds are CPU seconds, all threads together. What brings the other rows up to date, once every 100 batches
and before anything reads the table, is told apart and counted with a hundredth of it. Writes JSON.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine
from scipy.sparse import csr_array
from torch import Tensor

from envs.recommenders import build_recommender, rows
from envs.recommenders.training import Trainer, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes


def generate(num_users: int, num_items: int, per_user: int, rng: np.random.Generator) -> csr_array:
    """Users with as many draws each of items, whose popularity falls with the root of their rank."""
    user = np.repeat(np.arange(num_users, dtype=np.int32), per_user)
    item = (num_items * rng.random(len(user)) ** 2).astype(np.int32)
    train = csr_array((np.ones(len(user), np.float32), (user, item)), shape=(num_users, num_items))
    train.sort_indices()
    return train


def cpu_s(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of a call; the first one warms up and does not count."""
    run()
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return median(seconds)


class SparseAdamMF:
    """BPR-MF as PyTorch has it for large tables: sparse gradients, and an Adam that is lazy."""

    def __init__(self, trainer: Trainer) -> None:
        weight = trainer.recommender.table.weight.detach()
        self.num_users, self.l2 = trainer.recommender.num_users, trainer.recommender.l2
        self.table = torch.nn.Embedding(*weight.shape, sparse=True)
        self.table.weight.data = weight.clone()
        self.optimizer = torch.optim.SparseAdam(self.table.parameters(), lr=trainer.settings.learning_rate)

    def step(self, users: Tensor, positives: Tensor, negatives: Tensor) -> None:
        """Forward, backward and SparseAdam."""
        user, positive, negative = (
            self.table(rows) for rows in (users, positives + self.num_users, negatives + self.num_users)
        )
        margin = (user * (negative - positive)).sum(dim=1)
        squares = user.square().sum() + positive.square().sum() + negative.square().sum()
        self.optimizer.zero_grad()
        (F.softplus(margin).mean() + self.l2 * squares / len(users)).backward()
        self.optimizer.step()


def trainer_of(
    train: csr_array, sizes: EmbeddingSizes, settings: TrainingSettings, largest_share: float
) -> Trainer:
    """A trainer after its first batch, whose table is trained by rows up to this share of them."""
    rows._LARGEST_SHARE = largest_share
    recommender = build_recommender("mf", train, sizes, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(recommender, train, settings, np.random.default_rng(0))
    trainer.step(draw(trainer))
    return trainer


def draw(trainer: Trainer) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(column) for column in trainer.loss.draw(trainer.rng))


def measure_rows(trainer: Trainer, repeats: int) -> dict[str, Any]:
    """A batch by rows and its parts, and one of SparseAdam."""
    assert trainer._rows is not None
    of_rows, adam = trainer._rows
    num_rows = len(of_rows.use(trainer.loss.used(draw(trainer))))
    batch_s = cpu_s(lambda: trainer.step(draw(trainer)), 4 * repeats)
    started = time.process_time()
    adam.settle()
    settle_s = time.process_time() - started
    peer = SparseAdamMF(trainer)
    return {
        "rows_used": num_rows,
        "draw_cpu_s": cpu_s(lambda: draw(trainer), repeats),
        "by_rows_cpu_s": batch_s,
        "settle_cpu_s": settle_s,
        "by_rows_with_settling_cpu_s": batch_s + settle_s / 100,
        "sparse_adam_cpu_s": cpu_s(lambda: peer.step(*draw(trainer)), repeats),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--per-user", type=int, default=10)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/row-training.json"))
    arguments = parser.parse_args()
    train = generate(arguments.users, arguments.items, arguments.per_user, np.random.default_rng(0))
    sizes = EmbeddingSizes.full(*train.shape, arguments.width)
    settings = TrainingSettings(batch_size=arguments.batch_size)
    by_rows = measure_rows(trainer_of(train, sizes, settings, 1.0), arguments.repeats)
    whole = trainer_of(train, sizes, settings, 0.0)
    whole_s = cpu_s(lambda: whole.step(draw(whole)), arguments.repeats)
    result = {
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        **describe_machine(),
        "num_users": arguments.users,
        "num_items": arguments.items,
        "num_interactions": int(train.nnz),
        "width": arguments.width,
        "batch_size": arguments.batch_size,
        "whole_table_cpu_s": whole_s,
        **by_rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
