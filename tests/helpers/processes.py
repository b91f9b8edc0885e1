"""Processes that tests start, wait for and kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CLI = "from ciess_ray.cli import main; main()"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def start(*arguments: object, log: Path, code: str = CLI, cwd: Path | None = None) -> subprocess.Popen:
    """Python code, the command line unless told, in a process with a Ray of its own that dies with it."""
    environment = os.environ | ENVIRONMENT
    # Not the cluster of other tests.
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with log.open("a") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd)


def finish(process: subprocess.Popen, log: Path, seconds: float = 300.0, status: int = 0) -> None:
    """Waits for its end; one that takes too long is interrupted, and what it printed is told."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            kill(process)
        pytest.fail(f"not done after {seconds:.0f} s\n{log.read_text()}")
    assert process.returncode == status, log.read_text()


def kill(process: subprocess.Popen) -> None:
    """As the kernel does where memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def wait_for(
    happens: Callable[[], object], process: subprocess.Popen, log: Path, seconds: float = 200.0
) -> None:
    """Until it is true, while the process runs; one for which that takes too long is killed."""
    deadline = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > deadline:
            kill(process)
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
