"""Damaged and hostile files beside a packed table: each is refused, or what is served is as before.

    OMP_NUM_THREADS=1 python benchmarks/mutations.py --cases 10000

A case takes the folder of a small search with one of the four recommenders, with its manifest or without, and
changes one of its files (``ids.parquet``, ``scorer.safetensors``, ``interactions.npz``, ``manifest.json``).
Then it opens and verifies the folder and recommends to everybody. Bytes are flipped, cut out, put in and
exchanged; values are changed and the file is written anew around them. A process of its own does it with a
limit on memory, 1 GiB above what it has when it begins, and an alarm a case: what breaks either, or ends in
another exception than the project's own, is told.

Without a manifest there is no checksum: what is written anew with other values of the right kind, or a
flipped bit in a weight, is a folder that might have been. Such cases are counted as ``other values``.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from changed_files import BYTES, NAMES, VALUES

from ciess_ray.files.manifest import MANIFEST_FILE, Manifest
from ciess_ray.serving.files import IDS_FILE, INTERACTIONS_FILE, SCORER_FILE
from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import CiessError

FILES = (IDS_FILE, SCORER_FILE, INTERACTIONS_FILE, MANIFEST_FILE)
LIMIT_BYTES, ALARM_S = 2**30, 60.0
GOOD = ("refused", "as before", "other values")


def put_elsewhere(folder: Path, file: str, others: Path, rng: np.random.Generator) -> None:
    """Something else stands in the place of a file, or nothing."""
    path, kind = folder / file, rng.integers(6)
    if kind == 5:
        shutil.copy(folder / str(rng.choice([name for name in FILES[:3] if name != file])), path)
        return
    path.unlink()
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        shutil.copy(others / str(rng.choice(NAMES)) / file, path)


def served(folder: Path) -> list[Any]:
    """All that is recommended: to everybody, and to somebody new."""
    recommender = ServedRecommender.open(folder)
    recommender.table.verify()
    Manifest.read(folder).verify()
    lists = [
        recommender.recommend(recommender.user_ids, 10),
        recommender.recommend_to_new([recommender.item_ids[:2]], 10),
    ]
    ids = [recommender.user_ids.tolist(), recommender.item_ids.tolist()]
    return [*ids, *((one.items.tolist(), one.scores.tolist()) for one in lists)]


def outcome_of(case: int, seed: int, folders: Path) -> dict[str, Any]:
    rng = np.random.default_rng([seed, case])
    name, has_manifest = str(rng.choice(NAMES)), bool(rng.integers(2))
    source = folders / name
    with TemporaryDirectory(prefix="ciess-ray-") as temporary:
        folder = Path(shutil.copytree(source, Path(temporary) / "folder"))
        if not has_manifest:
            (folder / MANIFEST_FILE).unlink()
        file = str(rng.choice(FILES[: 4 if has_manifest else 3]))
        kind = str(rng.choice([*BYTES, *["values"] * len(BYTES), "elsewhere"]))
        if kind == "elsewhere":
            put_elsewhere(folder, file, folders, rng)
        else:
            change = VALUES[file] if kind == "values" else BYTES[kind]
            (folder / file).write_bytes(change((folder / file).read_bytes(), rng))
        told = {"case": case, "recommender": name, "has_manifest": has_manifest, "file": file, "change": kind}
        # Nobody catches it: a case that hangs ends the process.
        signal.setitimer(signal.ITIMER_REAL, ALARM_S)
        try:
            found = served(folder)
        except CiessError:
            return told | {"outcome": "refused"}
        except Exception as error:
            return told | {"outcome": f"{type(error).__name__}: {error}"[:200]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        if found == served(source):
            return told | {"outcome": "as before"}
        return told | {"outcome": "changed" if has_manifest else "other values"}


def work(first: int, last: int, seed: int, folders: Path) -> None:
    """Cases in this process, a line each, until one of them ends it."""
    served(folders / NAMES[0])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for case in range(first, last):
        told = outcome_of(case, seed, folders)
        told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(told), flush=True)


def make_folders(folders: Path) -> None:
    """One of each recommender, of 60 users and 40 items; those of NCF have names."""
    import dataclasses

    import torch

    from ciess_ray.config.yaml_file import parse_config
    from ciess_ray.result import ResultFolder
    from envs.data import generate_interactions, split_interactions
    from envs.recommenders import RECOMMENDERS, build_recommender
    from envs.sizes.embedding_sizes import EmbeddingSizes

    interactions = split_interactions(generate_interactions(60, 40, 900, seed=0, rank=4), seed=0)
    for name in NAMES:
        if name == "ncf":
            ids = (np.array([f"{kind}{n}" for n in range(m)], object) for kind, m in (("u", 60), ("i", 40)))
            interactions = dataclasses.replace(
                interactions, **dict(zip(("user_ids", "item_ids"), ids, strict=True))
            )
        rng, num_tables = np.random.default_rng(0), RECOMMENDERS[name].num_tables
        sizes = EmbeddingSizes(rng.integers(1, 8, 60), rng.integers(1, 6, 40), 1, 16, num_tables)
        generator = torch.Generator().manual_seed(0)
        recommender = build_recommender(name, interactions.train, sizes, generator=generator)
        folder = ResultFolder(folders / name)
        folder.write_table(recommender.eval(), interactions, name)
        config = parse_config({"dataset": {"path": "log.csv"}, "recommender": {"name": name}})
        folder.write_result({"status": "finished", "config": config.model_dump(mode="json")})


def run(num_cases: int, seed: int, num_processes: int) -> list[dict[str, Any]]:
    """Every case, in so many processes at a time."""
    with TemporaryDirectory(prefix="ciess-ray-") as temporary:
        make_folders(Path(temporary))
        bounds = np.linspace(0, num_cases, max(1, num_cases // 250) + 1).astype(int).tolist()

        def part(first: int, last: int) -> list[dict[str, Any]]:
            """Some cases; where one ends its process, the next process goes on after it."""
            rows: list[dict[str, Any]] = []
            while first + len(rows) < last:
                given = ["--worker", str(first + len(rows)), str(last), str(seed), temporary]
                done = subprocess.run([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True)
                rows += [json.loads(line) for line in done.stdout.splitlines()]
                if first + len(rows) < last:
                    outcome = "hung" if done.returncode == -signal.SIGALRM else f"died ({done.returncode})"
                    lost = {"case": first + len(rows), "has_manifest": None, "file": ""}
                    rows.append(lost | {"outcome": outcome})
            print(f"cases {first} to {last}", file=sys.stderr, flush=True)
            return rows

        with ThreadPoolExecutor(num_processes) as pool:
            return [row for rows in pool.map(part, bounds[:-1], bounds[1:]) for row in rows]


def summary_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(
        ("with manifest" if row["has_manifest"] else "without", row["file"], row["outcome"]) for row in rows
    )
    return {
        "cases": len(rows),
        "good": sum(row["outcome"] in GOOD for row in rows),
        "outcomes": dict(sorted(Counter(row["outcome"] for row in rows).items())),
        "by_file": [
            {"manifest": has, "file": file, "outcome": outcome, "cases": number}
            for (has, file, outcome), number in sorted(counts.items())
        ],
        "bad": [row for row in rows if row["outcome"] not in GOOD][:50],
        "peak_mb": max(row.get("peak_mb", 0) for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/mutations.json"))
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        first, last, seed, folders = given.worker
        work(int(first), int(last), int(seed), Path(folders))
        return
    from provenance import provenance

    summary = summary_of(run(given.cases, given.seed, given.processes))
    given.output.write_text(json.dumps(provenance() | summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(summary["outcomes"]))


if __name__ == "__main__":
    main()
