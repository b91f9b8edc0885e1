"""What this machine could do at best, and what a training batch asks of it at least."""

import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

#: The step of Adam reads the parameter, its gradient and two moments, and writes all but the gradient.
_ADAM_BYTES, _ADAM_FLOPS = 28, 12
_FLOAT, _INDEX = 4, 4


def repeat(run: Callable[[], Any], *, min_repeats: int = 3, min_s: float = 2.0, max_s: float = 10.0) -> dict:
    """Seconds of a call: median, least and most of several.

    The first call warms up and does not count, unless it takes as long as ``min_s``. There are at least
    ``min_repeats`` and at least ``min_s`` seconds of them; none begins after ``max_s`` seconds.
    """
    seconds: list[float] = []
    begun = time.perf_counter()
    is_warm = False
    while True:
        started = time.perf_counter()
        run()
        ended = time.perf_counter()
        if is_warm or ended - started >= min_s:
            seconds.append(ended - started)
        is_warm = True
        total = ended - begun
        if total >= max_s and seconds or len(seconds) >= min_repeats and total >= min_s:
            return summary(seconds)


def summary(seconds: list[float]) -> dict:
    """The figures that stand for some measured seconds."""
    return {
        "median_s": median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "repeats": len(seconds),
    }


def peak_bytes() -> int:
    """The most memory that this process has held.

    On Linux the high-water mark of the process's own address space: what ``getrusage`` tells there starts at
    the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def baseline_bytes() -> int:
    """The memory held now, from which on the peak is counted anew where the system can do that."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    except OSError:
        return peak_bytes()
    return 1024 * int(line.split()[1])


def measure_limits(is_quick: bool = False) -> dict[str, float]:
    """The best rates seen here, with all of PyTorch's threads.

    ``bandwidth`` is STREAM's triad a = b + s·c over 3 x 256 MB, counted as STREAM counts, 12 bytes an
    element; ``cache_bandwidth`` the same over 3 x 256 kB; ``gather_bandwidth`` reads and writes of rows of
    512 bytes drawn at random from 256 MB; ``flops`` a float32 product of two matrices of 4,096 (quick:
    1,024) rows.
    """
    calls = 3 if is_quick else 10

    def best_s(run: Callable[[], Any]) -> float:
        return repeat(run, min_repeats=calls, min_s=0.0)["min_s"]

    def triad(size: int) -> float:
        a, b, c = torch.zeros(size), torch.ones(size), torch.ones(size)
        inner = max(1, 2**22 // size)

        def run() -> None:
            for _ in range(inner):
                torch.add(b, c, alpha=3.0, out=a)

        return 12 * size * inner / best_s(run)

    size = 1024 if is_quick else 4096
    left, right, out = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
    table = torch.zeros(2**19, 128)
    rows = torch.randint(len(table), (2**17,), generator=torch.Generator().manual_seed(0))
    gathered = torch.empty(len(rows), 128)
    gather_s = best_s(lambda: torch.index_select(table, 0, rows, out=gathered))
    return {
        "bandwidth_bytes_per_s": triad(2**26),
        "cache_bandwidth_bytes_per_s": triad(2**16),
        "gather_bandwidth_bytes_per_s": 2 * gathered.nbytes / gather_s,
        "flops_per_s": 2 * size**3 / best_s(lambda: torch.matmul(left, right, out=out)),
    }


def describe_machine() -> dict[str, Any]:
    """What the figures of a run depend on; no name and no path."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def batch_cost(
    name: str,
    *,
    num_users: int,
    num_items: int,
    num_edges: int,
    width: int,
    max_embedding_size: int,
    num_params: int,
    batch_size: int,
    num_layers: int = 3,
) -> dict[str, float] | None:
    """Bytes that a BPR batch has to move and operations that it has to do, by what is computed.

    It counts the mathematics and not the code, so that work done twice lowers the share of the limit that is
    reached. With n rows, w columns of the table, E entries of the adjacency (both directions), b triples:

    * mask: the weight and the mask read, the masked table written; the mask read again for the gradient. MF
      and NCF have none here, where every row is whole.
    * product of the adjacency with w columns, forward and backward: 8 E + 4 n of values, indices and
      offsets, the operand 4 n w read, the result 4 n w written; 2 E w operations.
    * LightGCN: ``num_layers`` products each way, and its running sum read and written with each. NGCF: the
      same products, plus two dense products of (n, in) and (in, out) a layer, each three times (forward, and
      the gradient of both operands), with operands and results moved once each; elementwise 12 operations.
      Its first layer has w columns, the others d_max, and its representations w + num_layers · d_max.
    * NCF: the two halves of the hidden layer, (n, w / 2) by (w / 2, d_max), three times; 2 b pairs of d_max
      units, 5 operations a unit each way.
    * a triple: three rows of the representations read, and read and written for their gradient, which is
      written whole once; 12 operations a number.
    * Adam: 28 bytes and 12 operations a parameter.

    ``compulsory_bytes`` takes each array once, as a cache that holds the operand of a product would.
    ``gather_bytes`` reads the operand of a product anew for every entry, 4 E w, as without any cache: caches
    lie between the two, so that time may be less than these bytes take from memory. A table that fits into
    the cache may even beat the compulsory bytes.

    Returns:
        None for a recommender that this model does not know.
    """
    num_rows = num_users + num_items
    table = _FLOAT * num_rows * width
    is_masked = name not in ("mf", "ncf")
    bytes_moved = (table + num_rows * width + table + num_rows * width) * is_masked
    flops = 2.0 * num_rows * width
    extra_gather = 0.0
    representation = width

    def product(columns: int) -> None:
        nonlocal bytes_moved, flops, extra_gather
        operand = _FLOAT * num_rows * columns
        bytes_moved += 2 * ((_FLOAT + _INDEX) * num_edges + _INDEX * num_rows + 2 * operand)
        extra_gather += 2 * (_FLOAT * num_edges * columns - operand)
        flops += 2 * 2 * num_edges * columns

    def dense(fan_in: int, fan_out: int, rows: int) -> None:
        nonlocal bytes_moved, flops
        bytes_moved += 3 * _FLOAT * (rows * fan_in + rows * fan_out)
        flops += 3 * 2 * rows * fan_in * fan_out

    if name == "lightgcn":
        for _ in range(num_layers):
            product(width)
            bytes_moved += 2 * 2 * table
            flops += 2 * num_rows * width
    elif name == "ngcf":
        for layer in range(num_layers):
            fan_in = width if layer == 0 else max_embedding_size
            product(fan_in)
            dense(fan_in, max_embedding_size, num_rows)
            dense(fan_in, max_embedding_size, num_rows)
            flops += 12 * num_rows * max_embedding_size
        representation = width + num_layers * max_embedding_size
    elif name == "ncf":
        dense(width // 2, max_embedding_size, num_rows)
        flops += 2 * batch_size * 10 * max_embedding_size
        representation = width // 2 + max_embedding_size
    elif name != "mf":
        return None
    bytes_moved += _FLOAT * (3 * 3 * batch_size + num_rows) * representation + 3 * 8 * batch_size
    flops += 3 * batch_size * 12 * representation
    bytes_moved += _ADAM_BYTES * num_params
    flops += _ADAM_FLOPS * num_params
    return {
        "compulsory_bytes": float(bytes_moved),
        "gather_bytes": float(bytes_moved + extra_gather),
        "flops": float(flops),
    }


def share_of_limit(cost: dict[str, float], limits: dict[str, float], seconds: float) -> dict[str, Any]:
    """The least seconds that a cost could take here over the seconds it took, under both byte counts."""
    flops_s = cost["flops"] / limits["flops_per_s"]
    bandwidth = limits["bandwidth_bytes_per_s"]
    compulsory_s, gather_s = cost["compulsory_bytes"] / bandwidth, cost["gather_bytes"] / bandwidth
    return {
        "limited_by": "memory" if compulsory_s >= flops_s else "arithmetic",
        "compulsory": max(compulsory_s, flops_s) / seconds,
        "gather": max(gather_s, flops_s) / seconds,
    }
