"""Processes that tests start, wait for and kill."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CLI = "from ciess_ray.cli.main import main; main()"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

#: What happens at all happens sooner, on a busy machine too; only what hangs is given up.
PATIENCE_S = 600.0


def start(*arguments: object, log: Path, code: str = CLI, cwd: Path | None = None) -> subprocess.Popen:
    """Python code, the command line unless told, in a process with a Ray of its own that dies with it."""
    environment = os.environ | ENVIRONMENT
    # Not the cluster of other tests.
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with log.open("a") as stream:
        return subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd)


def finish(process: subprocess.Popen, log: Path, status: int = 0) -> None:
    """Waits for its end; one that takes too long is interrupted, and what it printed is told."""
    try:
        process.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            kill(process)
        pytest.fail(f"not done after {PATIENCE_S:.0f} s\n{log.read_text()}")
    assert process.returncode == status, log.read_text()


def kill(process: subprocess.Popen) -> None:
    """As the kernel does where memory runs out."""
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def wait_for(happens: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    """Until it is true, while the process runs; one for which that takes too long is killed."""
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        if time.monotonic() > deadline:
            kill(process)
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)


def descendants(name: str = "") -> list[int]:
    """Processes that this one started, and that these started, whose command begins so."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # It has ended meanwhile.
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = []
    for pid, command in commands.items():
        above = parents[pid]
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and command.startswith(name):
            found.append(pid)
    return found


def listening(pids: list[int]) -> list[str]:
    """Addresses at which these processes wait for TCP connections."""
    addresses = {}
    for file in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(file).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A":
                addresses[f"socket:[{rest[5]}]"] = _address(local.partition(":")[0])
    found = []
    for pid in pids:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:  # It has ended meanwhile.
            continue
        found += [addresses[link] for link in links if link in addresses]
    return found


def _address(digits: str) -> str:
    """An address as the kernel writes it: words of four bytes, the last byte of each first."""
    raw = b"".join(bytes.fromhex(digits[i : i + 8])[::-1] for i in range(0, len(digits), 8))
    address = ipaddress.ip_address(raw)
    return str(getattr(address, "ipv4_mapped", None) or address)
