"""Changes of files that ``mutations.py`` makes: of bytes, and of what they mean."""

import io
import json
import lzma
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from ciess_ray.files.manifest import MANIFEST_FILE
from ciess_ray.serving.files import IDS_FILE, INTERACTIONS_FILE, SCORER_FILE
from ciess_ray.serving.interactions_file import FILTERS, unpacked

NAMES = ("mf", "lightgcn", "ngcf", "ncf")
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
    """Other types, orders and shapes, claims of more than there is; half as former versions wrote it."""
    with np.load(io.BytesIO(content)) as arrays:
        parts = dict(arrays)
    if rng.random() < 0.5:
        return _changed_packed(parts, rng)
    indptr, indices = unpacked(parts["numbers"].tolist(), parts["packed"])
    parts = {"indptr": indptr, "indices": indices, "shape": parts["numbers"][:2]}
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


def _changed_packed(parts: dict[str, Any], rng: np.random.Generator) -> bytes:
    """Other numbers, and other bytes that are compressed."""
    numbers, packed = parts["numbers"], parts["packed"]
    kind = rng.integers(5)
    if kind == 0:
        numbers[rng.integers(len(numbers))] = rng.choice([-1, 0, 1, 2, 3, 40, 2**31, 2**62])
    elif kind == 1:
        packed[rng.integers(len(packed))] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        parts["packed"] = packed[: rng.integers(len(packed))]
    elif kind == 3:
        plain = bytes(10 ** int(rng.integers(3, 9)))
        numbers[2:] = len(plain), 1, 1
        compressed = lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)
        parts["packed"] = np.frombuffer(compressed, np.uint8)
    else:
        del parts[str(rng.choice(sorted(parts)))]
    stream = io.BytesIO()
    np.savez(stream, **parts)
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
