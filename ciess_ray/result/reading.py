"""What the files of a search's folder say, whatever the version that wrote them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ciess_ray.candidate import with_kinds
from ciess_ray.files.foreign import read_json, read_json_lines, read_parquet
from ciess_ray.files.whole import settle
from envs.errors import ResultError

RESULT_FILE = "result.json"
CANDIDATES_FILE = "candidates.parquet"
PROGRESS_FILE = "progress.jsonl"
RESULT_FORMAT = "ciess-ray result 1"
#: What of a configuration does not make two searches different.
NOT_SETTINGS = ("seed", "output", "cache", "tracking", "resources")


def looser_folders(path: Path, summary: Mapping[str, Any]) -> list[Path]:
    """The folders of a search's looser budgets, which lie in its own.

    Raises:
        ResultError: A name is that of no folder there.
    """
    names = list((summary.get("looser_budgets") or {}).values())
    for name in names:
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise ResultError(
                f"{path / RESULT_FILE}: looser_budgets names {str(name)[:80]!r}, which lies elsewhere."
            )
    return [path / name for name in names]


def read_summary(path: Path) -> dict[str, Any]:
    """What a folder's ``result.json`` says.

    Raises:
        ResultError: There is none, it is damaged, or of another format.
    """
    settle(path)
    return read_json(path / RESULT_FILE, RESULT_FORMAT)


def read_progress(path: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ``progress.jsonl``, in order; none where there is no such file."""
    file = path / PROGRESS_FILE
    return read_json_lines(file) if file.exists() else []


def read_candidates(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """What a folder's ``candidates.parquet`` says, with ``step`` and ``kind`` as today whatever its age.

    Args:
        path: The folder.
        columns: Which; None for all.

    Raises:
        ResultError: It is missing or damaged.
    """
    file = path / CANDIDATES_FILE
    try:
        table = read_parquet(file, columns)
        if "kind" in table.column_names:
            return table
        searched = [line for line in read_progress(path) if line.get("phase") == "search"]
        return with_kinds(table, {line["step"]: line.get("note", "") for line in searched})
    except (pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        raise ResultError(f"{file}: damaged ({error}).") from error


def read_retrained(path: Path, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a folder's summary says was trained, with ``step`` and ``kind`` as today whatever its age."""
    rows = [dict(row) for row in summary.get("retrained", ())]
    old = [row for row in rows if row["step"] is not None and "kind" not in row]
    if old:
        # They were numbered from 0, steps and evaluations alike.
        has_steps = (path / CANDIDATES_FILE).exists()
        columns = ["step", "kind", "is_greedy"]
        known = read_candidates(path, columns).select(columns[:2]).to_pylist() if has_steps else []
        for row in old:
            if has_steps and not 0 <= row["step"] < len(known):
                raise ResultError(
                    f"{path / CANDIDATES_FILE}: the step {row['step']} of the retrained is missing."
                )
            row |= known[row["step"]] if has_steps else {"step": row["step"] + 1}
    return rows


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The table steps in a folder's ``progress.jsonl``: ``step``, ``time_ms`` and ``metrics`` of each."""
    return [
        {
            "step": line["step"],
            "time_ms": line.get("time_ms"),
            "metrics": {key: value for key, value in line.items() if "/" in key},
        }
        for line in read_progress(path)
        if line.get("phase") == "search"
    ]


def dataset_name(config: Mapping[str, Any]) -> str:
    """What a reader calls the data of a configuration, of which these are the plain values."""
    dataset = config["dataset"]
    return str(dataset["sample"] or Path(dataset["path"]).name)
