"""Checkpoints of a search: one file each, there whole or not at all, the last few kept.

A file is one line of JSON (format, step, what it belongs to, bytes and SHA-256 of the rest) and then a
pickle. It is unpickled only after that line has been checked, and only from the folder of a search that is
resumed: resume no search of somebody whom you would not let run code on your machine.
"""

import hashlib
import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciess_ray.files.whole import whole_file
from envs.errors import ResultError

#: 3: the classes in the pickles have moved since 2.
CHECKPOINT_FORMAT = "ciess-ray checkpoint 3"
_PATTERN = "step-*.checkpoint"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was read back.

    Attributes:
        step: Table steps taken before it was written.
        state: What was handed to :meth:`Checkpoints.write`.
        skipped: A sentence on each newer file that was damaged.
    """

    step: int
    state: dict[str, Any]
    skipped: list[str]


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: Made when the first one is written.
        identity: What a checkpoint must agree with to be of use, by what it is: dataset, recommender, ...
        interval_s: Seconds between two checkpoints, as :attr:`is_due` tells.
        num_kept: The newest ones kept.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, str], *, interval_s: float = 60.0, num_kept: int = 2
    ) -> None:
        self.folder, self.identity = folder, dict(identity)
        self.interval_s, self.num_kept = interval_s, num_kept
        self._written = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last one, or the start, is long enough ago."""
        return time.monotonic() - self._written >= self.interval_s

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Write one and drop the oldest beyond ``num_kept``.

        Args:
            step: Table steps taken so far.
            state: Anything that can be pickled.

        Raises:
            OSError: It could not be written; those that were there before are untouched.
        """
        payload = pickle.dumps(dict(state), protocol=pickle.HIGHEST_PROTOCOL)
        header = {
            "format": CHECKPOINT_FORMAT,
            "step": step,
            "identity": self.identity,
            "bytes": len(payload),
            "sha256": hashlib.sha256(payload).hexdigest(),
        }
        with whole_file(self.folder / f"step-{step:08}.checkpoint") as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            stream.write(payload)
        self.keep(self.num_kept)
        self._written = time.monotonic()

    def latest(self) -> Checkpoint | None:
        """The newest one that is whole; None where there is none at all.

        Raises:
            ResultError: It belongs to something else, or every one there is damaged.
        """
        skipped: list[str] = []
        for file in self._files():
            try:
                step, payload = self._read(file)
            except ValueError as damage:
                skipped.append(f"{file.name} is damaged ({damage})")
            else:
                notes = [f"{what}; the one before it is used." for what in skipped]
                return Checkpoint(step, pickle.loads(payload), notes)
        if skipped:
            raise ResultError(
                f"{self.folder}: no checkpoint can be read: {', '.join(skipped)}; run the search again with "
                "--overwrite."
            )
        return None

    def keep(self, num_kept: int) -> None:
        """Remove all but the newest ones."""
        for old in self._files()[num_kept:]:
            old.unlink()

    def clear(self) -> None:
        """Remove what an earlier search of the same folder left: its checkpoints and kept trainings."""
        for pattern in (_PATTERN, "*.partial", "full-size-*.npz", "supernet-*.npz", "training-*.npz"):
            for file in self.folder.glob(pattern):
                file.unlink()

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(_PATTERN), reverse=True)

    def _read(self, file: Path) -> tuple[int, bytes]:
        """Step and pickle of a file that belongs to this search.

        Raises:
            ValueError: It is damaged.
            ResultError: It is of another format, or belongs to something else.
        """
        line, _, payload = file.read_bytes().partition(b"\n")
        try:
            header = json.loads(line)
            step, size, digest, identity = (header[key] for key in ("step", "bytes", "sha256", "identity"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError("its first line cannot be read") from error
        if header.get("format") != CHECKPOINT_FORMAT:
            raise ResultError(
                f"{file}: of the format {header.get('format')!r}, not {CHECKPOINT_FORMAT!r}; go on with "
                "the version of ciess-ray that wrote it, or start anew with --overwrite."
            )
        for what, here in self.identity.items():
            if identity.get(what) != here:
                raise ResultError(
                    f"{file}: belongs to another {what}: {identity.get(what)}, where this search has {here}. "
                    "Bring that back to go on, or start anew with --overwrite."
                )
        if len(payload) != size:
            raise ValueError(f"{len(payload):,} of {size:,} bytes are there")
        if hashlib.sha256(payload).hexdigest() != digest:
            raise ValueError("its content has changed since it was written")
        return step, payload
