"""A search as a user starts it, in a process of its own, and what all its processes took."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from ciess_ray.files.whole import write_whole
from ciess_ray.result import RESULT_FILE, read_summary

_SECONDS_BETWEEN_LOOKS = 0.5


def run_search(arguments: Sequence[Any], output: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Search, or go on where a search was broken off.

    Args:
        arguments: Of ``ciess-ray search``, but for its output.
        output: Folder of the result; its log and what it took by now lie beside it until :func:`forget`.

    Returns:
        What ``result.json`` says, and CPU seconds, seconds and the most memory at a time, of all its
        processes, Ray's own with them, looked at every half second.

    Raises:
        SystemExit: The search failed.
    """
    program = [Path(sys.executable).with_name("ciess-ray"), "search"]
    if (output / RESULT_FILE).exists():
        if (summary := read_summary(output))["status"] == "finished":
            return summary, json.loads(_cost_file(output).read_text(encoding="utf-8"))
        command = [*program, "--resume", output]
    else:
        shutil.rmtree(output, ignore_errors=True)
        command = [*program, *arguments, "--output", output]
    cost = _run([str(part) for part in command], output)
    return read_summary(output), cost


def forget(output: Path) -> None:
    """Delete what a search left, but for its log."""
    shutil.rmtree(output)
    _cost_file(output).unlink()


def methods_of(summary: Mapping[str, Any], *more: str) -> dict[str, dict[str, Any]]:
    """What rows keep of the tables of a search, by their names.

    Args:
        summary: Of ``result.json``.
        *more: Further fields of a table that are kept.
    """
    names = "num_params", "options", "mean_user_size", "mean_item_size", *more
    return {
        method["name"]: {
            "ndcg@20": method["test"]["ndcg@20"],
            "validation": method["validation"]["quality"],
            **{name: method[name] for name in names},
        }
        for method in summary["methods"]
    }


def _cost_file(output: Path) -> Path:
    """What a search has taken so far, for when it is broken off."""
    return output.with_suffix(".json")


def _run(command: Sequence[str], output: Path) -> dict[str, float]:
    """Run a command; what all its processes took, with what the search took before it was broken off."""
    output.parent.mkdir(parents=True, exist_ok=True)
    file = _cost_file(output)
    before = {"cpu_s": 0.0, "wall_s": 0.0, "peak_bytes": 0.0}
    if "--resume" in command and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
    started = time.monotonic()
    with output.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    root = psutil.Process(process.pid)
    cpu_s: dict[tuple[int, float], float] = {}
    peak_bytes, cost = before["peak_bytes"], before
    while process.poll() is None:
        num_bytes = 0
        for each in _processes(root):
            # One that has just ended keeps what was seen of it last.
            with contextlib.suppress(psutil.Error), each.oneshot():
                times, memory = each.cpu_times(), each.memory_info()
                cpu_s[each.pid, each.create_time()] = times.user + times.system
                # What is shared, Ray's object store above all, would count in each.
                num_bytes += memory.rss - memory.shared
        peak_bytes = max(peak_bytes, num_bytes)
        cost = {
            "cpu_s": before["cpu_s"] + sum(cpu_s.values()),
            "wall_s": before["wall_s"] + time.monotonic() - started,
            "peak_bytes": peak_bytes,
        }
        write_whole(file, json.dumps(cost))
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}; see {log.name}")
    return cost


def _processes(root: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started, and they."""
    with contextlib.suppress(psutil.Error):
        return [root, *root.children(recursive=True)]
    return []
