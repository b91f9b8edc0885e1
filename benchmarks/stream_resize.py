"""What it takes to give a packed table other sizes and more rows: seconds, and memory beside the file.

    OMP_NUM_THREADS=1 python benchmarks/stream_resize.py

A million rows with a mean size of 8, as ``packed.py`` has them, mapped from a file: all sizes are drawn anew,
and one row in twenty is new. *Held* is what the process has allocated at its peak, the new table among it, as
a share of the new file; *resident* has the pages of the former file besides, which are mapped and may go at
any time. Growing every row by one number and back is the identity.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from packed import MAX_SIZE, MEAN_SIZE, NUM_ROWS, large_table
from provenance import provenance

from ciess_ray.files.whole import write_whole
from ciess_ray.packed.codes import FLOATS
from ciess_ray.packed.resize import resize
from ciess_ray.packed.table import PackedTable
from envs.sizes.embedding_sizes import EmbeddingSizes

_RESIDENT = """
import sys
sys.path.insert(0, sys.argv[2])
import numpy as np
from stream_resize import other_sizes
from ciess_ray.packed.resize import resize
from ciess_ray.packed.table import PackedTable
def kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
table, rng = PackedTable.open(sys.argv[1]), np.random.default_rng(2)
sizes = other_sizes(table)
resize(PackedTable.of(np.ones(2, np.float32), type(sizes)(np.array([1]), np.array([1]), 1, 9)),
       type(sizes)(np.array([2]), np.array([1]), 1, 9), rng)
open("/proc/self/clear_refs", "w").write("5")
before, mapped = kilobytes("VmRSS"), kilobytes("RssFile")
made = resize(table, sizes, rng).table
resident = kilobytes("VmHWM") - before
print(resident, resident - (kilobytes("RssFile") - mapped), made.num_bytes)
"""


def other_sizes(table: PackedTable) -> EmbeddingSizes:
    """All sizes drawn anew, and one row in twenty is new."""
    num_new = table.num_rows // 20
    sizes = np.minimum(np.random.default_rng(1).geometric(1 / MEAN_SIZE, table.num_rows + num_new), MAX_SIZE)
    half = table.num_users + num_new // 2
    return EmbeddingSizes(sizes[:half], sizes[half:], 1, MAX_SIZE)


def is_identity(table: PackedTable) -> bool:
    """Whether a table that grows and shrinks back is the same to the last bit."""
    sizes, rng = table.sizes, np.random.default_rng(3)
    larger = EmbeddingSizes(sizes.user + 1, sizes.item + 1, 1, MAX_SIZE + 1)
    back = resize(resize(table, larger, rng).table, sizes, rng).table
    return back.values.tobytes() == table.values.tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("results/stream-resize.json"))
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for dtype in FLOATS:
            file = Path(folder) / f"{dtype}.safetensors"
            large_table(dtype).save(file)
            table = PackedTable.open(file)
            seconds = []
            for _ in range(arguments.repeats):
                started = time.process_time()
                resize(table, other_sizes(table), np.random.default_rng(2))
                seconds.append(time.process_time() - started)
            done = subprocess.run(
                [sys.executable, "-c", _RESIDENT, file, Path(__file__).parent],
                capture_output=True,
                text=True,
                check=True,
            )
            resident, held, num_bytes = map(int, done.stdout.split())
            rows.append(
                {
                    "dtype": dtype,
                    "rows": NUM_ROWS,
                    "cpu_s": round(statistics.median(seconds), 2),
                    "new_file_bytes": num_bytes,
                    "held_share_of_the_new_file": round(1024 * held / num_bytes, 2),
                    "resident_share_of_the_new_file": round(1024 * resident / num_bytes, 2),
                    "is_identity_there_and_back": is_identity(table),
                }
            )
            print(rows[-1])
    write_whole(arguments.output, json.dumps({"provenance": provenance(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
