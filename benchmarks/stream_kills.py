r"""A stream that is killed at ten moments and goes on, against one that is left alone.

    OMP_NUM_THREADS=1 python benchmarks/stream_kills.py configs/stream-quickstart.yaml \
        segments.new_entities=3400 training.batches=10 training.warm_batches=5

``ciess-ray stream`` runs as a process of its own, twice. One of them gets SIGKILL again and again, each time
somewhere in a later part of the work, and goes on with ``--resume``. In the end every file of both folders is
compared, but for times, seconds and what is made of them (checksums of files that hold some).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from provenance import provenance

COMMAND = Path(sys.executable).with_name("ciess-ray")
#: Checksums of files with times, a lock, the name of the folder, and pages and drawings of seconds.
LEFT_OUT = ("manifest.json", ".lock", "stream.json", "report.html", "*-seconds-*.png")
POLL_S = 0.01


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(COMMAND), "stream", *map(str, arguments)], stdout=subprocess.DEVNULL, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        sys.exit(f"{process.args}: exit status {process.returncode}")


def num_finished(folder: Path) -> int:
    """Segments that a method is through with."""
    return len(list(folder.glob("segments/*/*/result.json")))


def content_of(folder: Path) -> dict[str, Any]:
    """What a stream comes to, by file, whatever time it took."""
    content: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or any(map(path.match, LEFT_OUT)) or name.startswith("current"):
            continue
        if path.name == "result.json":
            result = json.loads(path.read_bytes())
            result["figures"] = {key: value for key, value in result["figures"].items() if "_s" not in key}
            content[name] = result
        elif path.name == "journal.jsonl":
            lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            content[name] = [{key: value for key, value in line.items() if key != "time"} for line in lines]
        elif path.name == "stream.parquet":
            table = pq.read_table(path)
            content[name] = table.drop([key for key in table.column_names if "_s" in key]).to_pylist()
        else:
            content[name] = path.read_bytes()
    content["current"] = os.readlink(folder / "current")
    return content


def kill_and_go_on(
    folder: Path, begin: list[object], total: int, seconds: float, num_kills: int, rng: random.Random
) -> list[dict[str, float]]:
    """Run a stream to its end through so many kills, each in the next part of its work.

    Args:
        folder: Of the stream.
        begin: What begins it.
        total: Segments and methods that there are.
        seconds: What a run takes that is left alone.
        num_kills: How often it is killed.
        rng: Draws the moments.

    Returns:
        Of each kill how many segments methods were through with, and how long the process lived.
    """
    kills: list[dict[str, float]] = []
    while len(kills) < num_kills:
        is_begun = (folder / "stream.json").exists()
        process, began = start("--resume", folder) if is_begun else start(*begin), time.monotonic()
        # Whoever is killed while it is still importing shows nothing.
        first = max(total * len(kills) // (num_kills + 1), num_finished(folder) + 1 if kills else 0)
        while process.poll() is None and not (
            (folder / "stream.json").exists() and num_finished(folder) >= first
        ):
            time.sleep(POLL_S)
        # Anywhere in what it does next.
        time.sleep(rng.random() * seconds / total)
        if process.poll() is not None:
            sys.exit(f"it was through before it could be killed {num_kills} times; ask for fewer (--kills)")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills.append({"finished": num_finished(folder), "lived_s": round(time.monotonic() - began, 1)})
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)
    finish(start("--resume", folder))
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path, help="file of data, or a YAML file")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=Path("results/stream-kills.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        alone, killed = Path(work) / "alone", Path(work) / "killed"
        fields = [arguments.log, *arguments.fields, "tracking.mlflow=false"]
        began = time.monotonic()
        finish(start(*fields, f"output={alone}"))
        seconds, total = time.monotonic() - began, num_finished(alone)
        print(f"left alone: {total} segments of methods in {seconds:.0f} s", flush=True)
        rng = random.Random(arguments.seed)
        kills = kill_and_go_on(killed, [*fields, f"output={killed}"], total, seconds, arguments.kills, rng)
        left, right = content_of(alone), content_of(killed)
        partial = [str(path) for path in killed.rglob("*.partial")]
    different = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
    result = {"kills": kills, "files": len(left), "different": different, "left_half_done": partial}
    print(f"{len(left)} files compared, different: {different or 'none'}; half done: {partial or 'none'}")
    arguments.output.write_text(json.dumps(provenance() | result, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(different or partial))


if __name__ == "__main__":
    main()
