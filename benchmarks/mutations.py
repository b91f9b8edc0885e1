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
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from ciess_ray.files.manifest import MANIFEST_FILE, Manifest
from ciess_ray.serving.files import IDS_FILE, INTERACTIONS_FILE, SCORER_FILE
from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import CiessError

NAMES = ("mf", "lightgcn", "ngcf", "ncf")
FILES = (IDS_FILE, SCORER_FILE, INTERACTIONS_FILE, MANIFEST_FILE)
LIMIT_BYTES, ALARM_S = 2**30, 60.0
GOOD = ("refused", "as before", "other values")
Change = Callable[[bytes, np.random.Generator], bytes]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for at in rng.integers(len(changed), size=rng.integers(1, 9)):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    at, length = rng.integers(len(content)), rng.integers(1, 17)
    return content[:at] + rng.bytes(length) + content[at + length :]


def cut_off(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def cut_out(content: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(content))
    return content[:at] + content[at + rng.integers(1, 33) :]


def put_in(content: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(content) + 1)
    return content[:at] + rng.bytes(rng.integers(1, 33)) + content[at:]


def exchanged(content: bytes, rng: np.random.Generator) -> bytes:
    """Two stretches of equal length change places."""
    length = int(rng.integers(1, 9))
    first, second = sorted(rng.integers(max(1, len(content) - length), size=2).tolist())
    if second < first + length:
        return cut_out(content, rng)
    parts = content[:first], content[first : first + length], content[first + length : second]
    return parts[0] + content[second : second + length] + parts[2] + parts[1] + content[second + length :]


BYTES: dict[str, Change] = {
    change.__name__: change for change in (flipped, overwritten, cut_off, cut_out, put_in, exchanged)
}


def changed_ids(content: bytes, rng: np.random.Generator) -> bytes:
    """Gaps, numbers with fractions, doubles, other kinds, other lengths."""
    table = pq.read_table(io.BytesIO(content))
    ids, kinds = table["id"].to_pylist(), table["kind"].to_pylist()
    one, two = (int(row) for row in rng.choice(len(ids), 2, replace=False))
    kind = rng.integers(11)
    if kind == 0:
        ids[one] = None
    elif kind == 1:
        ids = [float(row) + 0.5 for row in range(len(ids))]
    elif kind == 2:
        ids[one] = ids[two - 1 if kinds[two - 1] == kinds[one] else one - 1 if one else 1]
    elif kind == 3:
        kinds = kinds[::-1]
    elif kind == 4:
        kinds[one] = [None, "user", "item", "both", "ITEM"][rng.integers(5)]
    elif kind == 5:
        del ids[one], kinds[one]
    elif kind == 6:
        ids.append(ids[0]), kinds.append("item")
    elif kind == 7:
        ids = [row % 2 == 0 for row in range(len(ids))]
    elif kind == 8:
        ids = [[row] for row in range(len(ids))]
    elif kind == 9:
        return _parquet({"kind": kinds})
    else:
        ids, kinds = [ids[0]] * 200_000, ["user"] * 200_000
    return _parquet({"kind": kinds, "id": ids})


def _parquet(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, compression="zstd")
    return stream.getvalue()


def changed_scorer(content: bytes, rng: np.random.Generator) -> bytes:
    """Other shapes and types, no numbers, parts more or less, other options and names."""
    end = 8 + int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8:end])["__metadata__"]
    state, options = safetensors.numpy.load(content), json.loads(metadata["options"])
    part = str(rng.choice(sorted(state))) if state else ""
    kind = rng.integers(14 if state else 8)
    if kind == 0:
        options["num_layers"] = [10**9, -1, 2.5, True, "2", None, [2], 2**63][rng.integers(8)]
    elif kind == 1:
        metadata["options"] = ["", "[]", "null", "{", '{"num_layers":1e999}', "9" * 5000][rng.integers(6)]
        return safetensors.numpy.save(state, metadata)
    elif kind == 2:
        metadata["recommender"] = [*NAMES, "mine:Mine", "", "../x"][rng.integers(7)]
    elif kind == 3:
        metadata.pop(str(rng.choice(sorted(metadata))))
    elif kind == 4:
        state["extra"] = np.zeros(3, np.float32)
    elif kind == 5:
        text = ('{"__metadata__":' + "[" * 100_000).encode()
        return len(text).to_bytes(8, "little") + text
    elif kind == 6:
        return (2 ** int(rng.integers(20, 64)) - 1).to_bytes(8, "little") + content[8:]
    elif kind == 7:
        options.pop("num_layers", None)
    elif kind == 8:
        state[part] = state[part][..., :-1]
    elif kind == 9:
        state[part] = state[part].astype([np.float64, np.float16, np.int32, np.bool_][rng.integers(4)])
    elif kind == 10:
        state[part].flat[rng.integers(state[part].size)] = [np.nan, np.inf, -np.inf][rng.integers(3)]
    elif kind == 11:
        del state[part]
    elif kind == 12:
        state[part] = state[part][None]
    else:
        state[part] = np.zeros((0, *state[part].shape), np.float32)
    metadata["options"] = json.dumps(options)
    return safetensors.numpy.save({name: np.ascontiguousarray(v) for name, v in state.items()}, metadata)


def changed_interactions(content: bytes, rng: np.random.Generator) -> bytes:
    """Other types, orders and shapes; claims of more than the file holds."""
    with np.load(io.BytesIO(content)) as arrays:
        parts = dict(arrays)
    name = str(rng.choice(sorted(parts)))
    kind = rng.integers(12)
    if kind == 0:
        parts[name] = parts[name].astype(
            [np.float64, np.float32, np.int16, np.uint64, ">i4"][rng.integers(5)]
        )
    elif kind == 1:
        parts["shape"] = np.array([[-1, 40], [60, -1], [2**62, 40], [60, 2**62], [61, 40], [60, 39]])[
            rng.integers(6)
        ]
    elif kind == 2:
        parts["indptr"] = parts["indptr"][::-1].copy()
    elif kind == 3:
        parts["indptr"][-1] = [-1, 0, 2**31 - 1, parts["indptr"][-1] + 1][rng.integers(4)]
    elif kind == 4:
        parts["indices"][rng.integers(len(parts["indices"]))] = [-1, 40, 2**31 - 1][rng.integers(3)]
    elif kind == 5:
        parts["indices"][1] = parts["indices"][0]
    elif kind == 6:
        parts["indices"] = parts["indices"][::-1].copy()
    elif kind == 7:
        del parts[name]
    elif kind == 8:
        parts["extra"] = np.zeros(3)
    elif kind == 9:
        parts[name] = np.array([{"a": 1}], object)
    elif kind == 10:
        return _claiming(parts, name, int(rng.choice([2**20, 2**30, 2**33, 2**40])))
    else:
        parts[name] = np.zeros(4_000_000, np.int64)
        stream = io.BytesIO()
        np.savez_compressed(stream, **parts)
        return stream.getvalue()
    stream = io.BytesIO()
    [np.savez_compressed, np.savez][rng.integers(2)](stream, **parts)
    return stream.getvalue()


def _claiming(parts: dict[str, Any], name: str, length: int) -> bytes:
    """A part says that it has so many numbers, in its own header and in the archive's."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for own, array in parts.items():
            with archive.open(f"{own}.npy", "w") as part:
                if own == name:
                    described = {"descr": "<i8", "fortran_order": False, "shape": (length,)}
                    np.lib.format.write_array_header_1_0(part, described)
                part.write(array.tobytes())
    content = bytearray(stream.getvalue())
    if length < 2**31:
        at = content.rindex(f"{name}.npy".encode()) - 46
        content[at + 24 : at + 28] = min(8 * length + 128, 2**32 - 2).to_bytes(4, "little")
    return bytes(content)


def changed_manifest(content: bytes, rng: np.random.Generator) -> bytes:
    """Other checksums, names and kinds."""
    told = json.loads(content)
    one, two = rng.choice(sorted(told["files"]), 2, replace=False)
    kind = rng.integers(8)
    if kind == 0:
        told["files"][one], told["files"][two] = told["files"][two], told["files"][one]
    elif kind == 1:
        del told["files"][one]
    elif kind == 2:
        told["files"][one]["bytes"] = [-1, 2**70, 1.0, "1", None][rng.integers(5)]
    elif kind == 3:
        told["files"][one]["sha256"] = [None, 0, "", "0" * 64, ["a"]][rng.integers(5)]
    elif kind == 4:
        told["files"]["../../elsewhere"] = told["files"].pop(one)
    elif kind == 5:
        told["format"] = "ciess-ray manifest 2"
    elif kind == 6:
        return b"[" * 100_000
    else:
        return json.dumps([told, told["files"], None, 3][rng.integers(4)]).encode()
    return json.dumps(told).encode()


VALUES: dict[str, Change] = {
    IDS_FILE: changed_ids,
    SCORER_FILE: changed_scorer,
    INTERACTIONS_FILE: changed_interactions,
    MANIFEST_FILE: changed_manifest,
}


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
