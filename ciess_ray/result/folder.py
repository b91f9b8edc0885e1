"""Writing the folder of a search."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ciess_ray.candidate import Candidate, candidate_table
from ciess_ray.files.manifest import MANIFEST_FILE, write_manifest
from ciess_ray.files.whole import check_writable, settle, whole_file, write_whole
from ciess_ray.packed.embedding import pack_recommender
from ciess_ray.result.reading import (
    CANDIDATES_FILE,
    PROGRESS_FILE,
    RESULT_FILE,
    RESULT_FORMAT,
    read_progress,
    read_summary,
)
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
    entity_columns,
    write_ids,
    write_interactions,
)
from envs.data import Interactions
from envs.errors import ResultError
from envs.recommenders import BaseRecommender, options_of

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
        overwrite: Whether a result in it may be replaced; only files that a search writes are removed.
        resume: Whether to go on with what is in it, and remove nothing.

    Raises:
        ResultError: The folder holds a result and may neither be replaced nor gone on with, or it is a file.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = path
        check_output(path, overwrite=overwrite or resume)
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
            entry.name: entry.stat().st_size
            for entry in sorted(self.path.iterdir())
            if entry.name in _OWN_FILES
        }
        bytes_by_file.pop(RESULT_FILE, None)
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
        is_search = [line.get("phase") == "search" for line in lines]
        # What came before a search that never began is told again from the start.
        first = is_search.index(True) if any(is_search) else 0
        kept = [
            line
            for position, line in enumerate(lines)
            if position < first or (is_search[position] and line["step"] <= num_steps)
        ]
        write_whole(self.path / PROGRESS_FILE, "".join(json.dumps(line) + "\n" for line in kept))
        return max((line["step"] for line, own in zip(lines, is_search, strict=True) if own), default=0)

    def write_candidates(self, candidates: Sequence[Candidate]) -> None:
        """Every step of the search, and its evaluations between them."""
        with whole_file(self.path / CANDIDATES_FILE) as stream:
            pq.write_table(candidate_table(candidates), stream, compression="zstd")

    def write_table(self, recommender: BaseRecommender, interactions: Interactions, name: str) -> None:
        """The packed table and what scoring needs beside it.

        Args:
            recommender: Trained on ``interactions.train``.
            interactions: What it was trained on.
            name: What the configuration calls the recommender.
        """
        pack_recommender(recommender, name).save(self.path / TABLE_FILE)
        state = {key: value.numpy() for key, value in recommender.scorer_state().items()}
        ScorerFile(name, options_of(recommender), state).write(self.path)
        write_interactions(self.path / INTERACTIONS_FILE, interactions.train)
        write_interactions(self.path / TEST_FILE, interactions.test)
        ids = interactions.user_ids, interactions.item_ids
        write_ids(self.path / IDS_FILE, *ids)
        sizes = recommender.sizes
        popularity = np.concatenate([interactions.user_popularity, interactions.item_popularity])
        columns = {
            **entity_columns(*ids),
            "embedding_size": pa.array(np.concatenate([sizes.user, sizes.item])),
            "popularity": pa.array(popularity),
        }
        with whole_file(self.path / SIZES_FILE) as stream:
            pq.write_table(pa.table(columns), stream, compression="zstd")


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
    found = {"python": platform.python_version()}
    for name in ("ciess-ray", "ray", "torch", "numpy", "scipy", "gymnasium", "mlflow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
