"""The folder of a search: written, and read back whatever the version that wrote it."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ciess_ray.candidate import Candidate, candidate_table
from ciess_ray.files.formats import read_json, read_json_lines, write_parquet
from ciess_ray.files.manifest import MANIFEST_FILE, write_manifest
from ciess_ray.files.whole import check_writable, settle, write_whole
from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    entity_columns,
    write_interactions,
)
from ciess_ray.serving.served_bytes import write_companions
from envs.data import Interactions
from envs.errors import ResultError
from envs.recommenders import BaseRecommender

RESULT_FILE = "result.json"
CANDIDATES_FILE = "candidates.parquet"
PROGRESS_FILE = "progress.jsonl"
RESULT_FORMAT = "ciess-ray result 1"
#: What of a configuration does not make two searches different.
NOT_SETTINGS = ("seed", "output", "cache", "tracking", "resources")
SIZES_FILE = "sizes.parquet"
#: Serves ``--resume`` and ``--more-episodes`` alone.
CHECKPOINT_FOLDER = "checkpoints"
FIGURE_FILES = ("sizes.png", "search.png")

_OWN_FILES = (
    RESULT_FILE,
    SIZES_FILE,
    IDS_FILE,
    CANDIDATES_FILE,
    PROGRESS_FILE,
    TABLE_FILE,
    SCORER_FILE,
    INTERACTIONS_FILE,
    TEST_FILE,
    *FIGURE_FILES,
)


class ResultFolder:
    """Writes one search's folder.

    Args:
        path: The folder; made if it is not there.
        resume: Whether to go on with what is in it; otherwise the files that a search writes are removed.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        if not resume:
            # What waits to take its place in the folder would come back.
            settle(path)
            for name in (MANIFEST_FILE, *_OWN_FILES):
                (path / name).unlink(missing_ok=True)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Replace ``result.json`` in one step; the format, versions and bytes of all files are added.

        Of a finished search the checksums of all files are written beside it.
        """
        bytes_by_file = {
            name: (self.path / name).stat().st_size
            for name in sorted({*_OWN_FILES} - {RESULT_FILE})
            if (self.path / name).exists()
        }
        content = {"format": RESULT_FORMAT, "versions": versions(), **values, "bytes": bytes_by_file}
        write_whole(self.path / RESULT_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
        if values.get("status") == "finished":
            # Of what does not change any more.
            write_manifest(self.path, {*_OWN_FILES} - {PROGRESS_FILE})

    @property
    def is_finished(self) -> bool:
        """Whether it holds the result of a search that has come to its end."""
        settle(self.path)
        return (self.path / RESULT_FILE).exists() and read_summary(self.path).get("status") == "finished"

    def log_progress(self, values: Mapping[str, Any]) -> None:
        """Append one line to ``progress.jsonl``."""
        with (self.path / PROGRESS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def rewind_progress(self, num_steps: int) -> int:
        """Drop from ``progress.jsonl`` what a search that goes on after so many steps will tell again.

        Returns:
            The last step of the search that was told.
        """
        lines = read_progress(self.path)
        # What came before a search that never began is told again from the start.
        first = next((place for place, line in enumerate(lines) if line.get("phase") == "search"), 0)
        steps = [line for line in lines[first:] if line.get("phase") == "search"]
        kept = lines[:first] + [line for line in steps if line["step"] <= num_steps]
        write_whole(self.path / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        return max((line["step"] for line in steps), default=0)

    def write_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Every step of the search, and its evaluations between them."""
        write_parquet(self.path / CANDIDATES_FILE, candidate_table(candidates))

    def write_table(self, recommender: BaseRecommender, interactions: Interactions, name: str) -> None:
        """The packed table and what scoring needs beside it.

        Args:
            recommender: Trained on ``interactions.train``.
            interactions: What it was trained on.
            name: What the configuration calls the recommender.
        """
        pack_recommender(recommender, name).save(self.path / TABLE_FILE)
        write_companions(self.path, recommender, interactions, name)
        write_interactions(self.path / TEST_FILE, interactions.test)
        sizes = recommender.sizes
        popularity = np.concatenate([interactions.user_popularity, interactions.item_popularity])
        columns = {
            **entity_columns(interactions.user_ids, interactions.item_ids),
            "embedding_size": pa.array(np.concatenate([sizes.user, sizes.item])),
            "popularity": pa.array(popularity),
        }
        write_parquet(self.path / SIZES_FILE, pa.table(columns))


def checkpoint_bytes(path: Path) -> int:
    """Bytes of all that a folder keeps for a search to go on or to be extended with."""
    files = (path / CHECKPOINT_FOLDER).rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that would be overwritten, before any work is done.

    Raises:
        ResultError: The path is a file or cannot be written, or holds a result and ``overwrite`` is False.
    """
    if path.exists() and not path.is_dir():
        raise ResultError(f"{path}: is a file; name a folder for the result.")
    check_writable(path)
    if (path / RESULT_FILE).exists() and not overwrite:
        raise ResultError(
            f"{path}: already holds a search; name another folder, go on with --resume, or replace it with "
            "--overwrite."
        )


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    names = ("ciess-ray", "ray", "torch", "numpy", "scipy", "gymnasium", "mlflow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


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
