"""Whether SCALL's actions keep to a budget: sizes projected onto it, beside those of its released code.

    OMP_NUM_THREADS=1 python benchmarks/stream_budget.py

Random actions on as many users and items as Online Retail II has, at three mean sizes, each as a budget in
parameters and as one in bytes of the packed file, of which the values alone would take all. Sizes depend on
ranks of popularity alone, so that there need be no data. *Projected* are the sizes of
:meth:`envs.sizes.embedding_sizes.EmbeddingSizes.from_proposal`; *exploring* and
*exploiting* those of the released code, of which the second clips and scales in turn.
"""

import argparse
import csv
import io
import time
from pathlib import Path

import numpy as np

from ciess_ray.files.whole import write_whole
from ciess_ray.packed.table import PackedTable
from envs.budget import BYTES_PER_PARAM, MemoryBudget
from envs.sizes import scall
from envs.sizes.embedding_sizes import EmbeddingSizes

NUM_USERS, NUM_ITEMS = 5_853, 4_619
MEAN_SIZES = 5, 10, 32
#: SCALL's, whose sizes take two bytes a row, and the one of this project's streams.
LARGEST_SIZES = 256, 64


def used(unit: str, budget: MemoryBudget, largest: int, actions: np.ndarray, seed: int) -> dict[str, object]:
    """What shares of a budget the sizes of some actions take.

    Args:
        unit: ``params``, or ``bytes`` of the packed file.
        budget: In that unit.
        largest: d_max.
        actions: Shape (num_actions, 3).
        seed: Of lots between equal proposals.
    """
    rng = np.random.default_rng(seed)
    ranks = np.arange(NUM_USERS), np.arange(NUM_ITEMS)
    cap = budget.cap_params(NUM_USERS + NUM_ITEMS, 1, largest)
    taken: dict[str, list[int]] = {"projected": [], "exploring": [], "exploiting": []}
    seconds = 0.0
    for action in actions:
        begun = time.process_time()
        asked = scall.proposal(action, *ranks, cap)
        sizes = EmbeddingSizes.from_proposal(*asked, cap, 1, largest, rng, fill=True)
        seconds += time.process_time() - begun
        beside = 0
        if unit == "bytes":
            table = PackedTable.of(np.zeros(sizes.num_params, np.float32), sizes)
            beside = table.num_bytes - table.values.nbytes
        params = {"projected": sizes.num_params}
        for name in ("exploring", "exploiting"):
            params[name] = sum(
                int(
                    scall.reference_sizes(
                        side / side.sum(), side.sum(), 1, largest, explores=name == "exploring"
                    ).sum()
                )
                for side in asked
                if side.sum() > 0
            )
        for name, number in params.items():
            taken[name].append(number if unit == "params" else number * BYTES_PER_PARAM + beside)
    shares = {name: np.array(numbers) / budget.amount for name, numbers in taken.items()}
    row: dict[str, object] = {
        "max_embedding_size": largest,
        "unit": unit,
        "budget": int(budget.amount),
        "cap_params": cap,
        "num_actions": len(actions),
        "projected_least_used": f"{shares['projected'].min():.6f}",
        "projected_most_used": f"{shares['projected'].max():.6f}",
        "ms_a_table": f"{1000 * seconds / len(actions):.1f}",
    }
    for name, share in shares.items():
        row[f"{name}_num_over"] = int((share > 1).sum())
        row[f"{name}_most_over"] = f"{max(share.max() - 1, 0):.4f}"
    return row


def main() -> None:
    """Write a row for each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--actions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/stream-budget.csv"))
    arguments = parser.parse_args()
    actions = np.random.default_rng(arguments.seed).random((arguments.actions, 3))
    rows = []
    for largest in LARGEST_SIZES:
        for mean_size in MEAN_SIZES:
            params = mean_size * (NUM_USERS + NUM_ITEMS)
            for unit, amount in (("params", params), ("bytes", params * BYTES_PER_PARAM)):
                budget = MemoryBudget(amount, unit)
                rows.append({"mean_size": mean_size, **used(unit, budget, largest, actions, arguments.seed)})
                print(rows[-1], flush=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(arguments.output, text.getvalue())


if __name__ == "__main__":
    main()
