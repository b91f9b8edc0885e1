r"""Computed tables and LightGCN on synthetic data of 10^5 to 10^7 interactions: seconds and memory, drawn.

    OMP_NUM_THREADS=1 python benchmarks/closed_form_growth.py --data growth

Data are ten interactions a user and ten users an item, made in the folder where they are not there, by
`ciess-ray data generate`. Of each size and kind one process reads the file and ends with the packed table of
5 % (`closed_form.py`), tested on 20,000 users; another takes batches of LightGCN, whose full table it does
not train. What is measured already is left as it is.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from closed_form_figure import draw
from machine import baseline_bytes, peak_bytes
from measurements import Measurements
from provenance import provenance

KINDS = ("spectral", "neighbours")
EXPONENTS = (5, 6, 7)
JUDGED = 20_000
#: LightGCN's columns: of the full table, and the widest of one of 5 %.
WIDTHS = (128, 7)


def main() -> None:
    """Make the rows that are not there yet, and draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the synthetic files")
    parser.add_argument("--exponents", type=int, nargs="+", default=EXPONENTS)
    parser.add_argument("--parts", nargs="+", default=["closed", "lightgcn"], choices=["closed", "lightgcn"])
    parser.add_argument("--batch", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("results/closed_form_growth.jsonl"))
    arguments = parser.parse_args()
    if arguments.batch:
        print(json.dumps(measure_batch(**arguments.batch)))
        return
    arguments.data.mkdir(exist_ok=True)
    here = Path(__file__).parent
    for exponent in arguments.exponents:
        file = _made(arguments.data / f"1e{exponent}.parquet", exponent)
        for kind in KINDS if "closed" in arguments.parts else ():
            command = [here / "closed_form.py", file, "--users", str(JUDGED), "--output", arguments.output]
            _run([*command, "--set", f"recommender.name={kind}", "budget=5%"])
        lines = Measurements(arguments.output)
        for width in WIDTHS if "lightgcn" in arguments.parts else ():
            key = {"data": file.name, "recommender": "lightgcn", "columns": width}
            if not lines.has(**key):
                case = json.dumps({"path": str(file), "width": width})
                asked = [__file__, "--data", arguments.data, "--batch", case]
                lines.add(provenance() | key | json.loads(_run(asked, capture=True)))
    draw(Measurements(arguments.output).rows, arguments.output.with_suffix(".png"))


def _run(arguments: list[Any], capture: bool = False) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None).stdout


def _made(file: Path, exponent: int) -> Path:
    if not file.exists():
        users, items = 10 ** (exponent - 1), 10 ** (exponent - 2)
        counts = ["--users", users, "--items", items, "--interactions", 10**exponent]
        code = "from ciess_ray.cli.main import main; main()"
        _run(["-c", code, "data", "generate", file, *counts])
    return file


def measure_batch(path: str, width: int) -> dict[str, Any]:
    """Seconds and memory of a batch of LightGCN whose rows are all so wide, and batches of an epoch."""
    from recommender_cases import BATCH_SIZE, make_trainer, warm_up
    from recommender_cases import draw as draw_batch

    from envs.data import read_interactions, split_interactions

    torch.set_num_threads(1)
    warm_up("lightgcn")
    train = split_interactions(read_interactions(path), seed=0).train
    baseline = baseline_bytes()
    trainer = make_trainer("lightgcn", train, width)
    # CPU seconds, which others on the machine change little; the first batch warms up where it is short.
    seconds: list[float] = []
    while not seconds or len(seconds) < 4 and sum(seconds) < 10:
        begun = time.process_time()
        trainer.step(draw_batch(trainer))
        seconds.append(time.process_time() - begun)
    return {
        "users": train.shape[0],
        "items": train.shape[1],
        "training_interactions": int(train.nnz),
        "batch_size": BATCH_SIZE,
        "batch_cpu_s": median(seconds[1:] or seconds),
        "num_batches": len(seconds),
        "batches_of_an_epoch": int(np.ceil(train.nnz / BATCH_SIZE)),
        "peak_bytes": peak_bytes(),
        "growth_bytes": peak_bytes() - baseline,
    }


if __name__ == "__main__":
    main()
