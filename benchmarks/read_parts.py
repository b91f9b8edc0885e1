r"""CPU seconds and peak memory of reading and splitting a Parquet folder of 10^7 interactions in 20 parts.

    OMP_NUM_THREADS=1 python benchmarks/read_parts.py

The interactions are synthetic, ten a user and a hundred an item, in order of time and thus in none of users,
with times and ids of text: `customer-00123456` and `sku-00012345`, and UUIDs as text. They are written below
`--data`, where they are left, or to a temporary folder. A fresh process reads and splits them; all of its
CPU time and memory count, the imports of a search among them. Beside it stands what Arrow
alone takes to decode the columns, and the bytes that have to be moved at least: of the files, of the decoded
columns once out and once in, of the codes and of the splits. What is measured already is left as it is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import measure_limits, peak_bytes
from measurements import Measurements
from numpy.typing import NDArray
from provenance import provenance

from envs.data import generate_interactions

NUM_INTERACTIONS, NUM_PARTS = 10**7, 20
CASES = ("text", "uuid")
#: Of the first row, and between two.
BEGIN, STEP_S = 1_600_000_000, 3
COLUMNS = ["user_id", "item_id", "timestamp"]
#: Of each interaction the codes of user and item, and in the splits a float and a column.
CODE_BYTES = 4 + 4 + 4 + 4


def main() -> None:
    """Write the folders that are not there, and measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder of the synthetic folders; a temporary one by default"
    )
    parser.add_argument("--interactions", type=int, default=NUM_INTERACTIONS)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("results/read_parts.jsonl"))
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(measure(arguments.read)))
        return
    lines = Measurements(arguments.output)
    with tempfile.TemporaryDirectory() as temporary:
        for case in arguments.cases:
            key = {"ids": case, "interactions": arguments.interactions, "parts": NUM_PARTS}
            if lines.has(**key):
                continue
            folder = (arguments.data or Path(temporary)) / f"{case}-{arguments.interactions}"
            if not folder.exists():
                write_parts(folder, arguments.interactions, case)
            command = [sys.executable, __file__, "--read", str(folder)]
            told = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
            lines.add(provenance() | key | json.loads(told) | decoding(folder, arguments.interactions))


def write_parts(folder: Path, num_interactions: int, case: str) -> None:
    """Write synthetic interactions, in order of time, in parts of equal length."""
    log = generate_interactions(num_interactions // 10, num_interactions // 100, num_interactions, seed=0)
    rng = np.random.default_rng(0)
    users, items = (
        _names(ids, prefix, case, rng) for ids, prefix in ((log.user_ids, "customer"), (log.item_ids, "sku"))
    )
    folder.mkdir(parents=True)
    begin = 0
    for part, rows in enumerate(np.array_split(rng.permutation(log.num_rows), NUM_PARTS)):
        columns = {
            "user_id": users.take(pa.array(log.user[rows])),
            "item_id": items.take(pa.array(log.item[rows])),
            "timestamp": pa.array(BEGIN + STEP_S * np.arange(begin, begin + len(rows))),
        }
        pq.write_table(pa.table(columns), folder / f"part-{part:05}.parquet")
        begin += len(rows)


def _names(ids: NDArray[Any], prefix: str, case: str, rng: np.random.Generator) -> pa.Array:
    if case == "uuid":
        return pa.array([str(uuid.UUID(bytes=rng.bytes(16))) for _ in ids])
    return pa.array([f"{prefix}-{number:08}" for number in ids.tolist()])


def measure(folder: Path) -> dict[str, Any]:
    """What this process takes to have the splits of a folder, from its own start on."""
    # What a search imports before it reads: PyTorch, Ray and pyarrow.
    import ciess_ray.config.data  # noqa: F401
    from envs.data import read_interactions, split_interactions

    started, before = time.process_time(), peak_bytes()
    log = read_interactions(folder)
    read, peak_of_reading = time.process_time(), peak_bytes()
    interactions = split_interactions(log, seed=0)
    return {
        "users": log.num_users,
        "items": log.num_items,
        "import_cpu_s": started,
        "read_cpu_s": read - started,
        "split_cpu_s": time.process_time() - read,
        "import_bytes": before,
        "read_peak_bytes": peak_of_reading,
        "peak_bytes": peak_bytes(),
        "cpu_s": time.process_time(),
        "training_interactions": int(interactions.train.nnz),
    }


def decoding(folder: Path, num_interactions: int) -> dict[str, Any]:
    """What Arrow takes to decode the columns and do nothing with them, and the bytes to be moved at least."""
    pa.set_cpu_count(1)
    begun, num_decoded, num_stored = time.process_time(), 0, 0
    for part in sorted(folder.glob("*.parquet")):
        num_stored += os.path.getsize(part)
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            for batch in file.iter_batches(columns=COLUMNS):
                num_decoded += batch.nbytes
    decoded = time.process_time() - begun
    num_bytes = num_stored + 2 * num_decoded + CODE_BYTES * num_interactions
    bandwidth = measure_limits(is_quick=True)["bandwidth_bytes_per_s"]
    return {
        "decode_cpu_s": decoded,
        "stored_bytes": num_stored,
        "decoded_bytes": num_decoded,
        "bytes_to_move": num_bytes,
        "bandwidth_bytes_per_s": bandwidth,
        "least_s": num_bytes / bandwidth,
    }


if __name__ == "__main__":
    main()
