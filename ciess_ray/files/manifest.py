"""A checksum of every file of a folder, by which a mixture of two folders is seen.

``manifest.json`` is written last. A folder that was made before there was one has none, and nothing of it is
compared.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ciess_ray.files.whole import open_regular, read_regular, settle, size_of, write_whole
from envs.errors import ResultError

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "ciess-ray manifest 1"
_MAX_BYTES = 2**20
_ADVICE = "export it again, or run the search again with --overwrite"


@dataclass(frozen=True)
class Manifest:
    """What the files of a folder were when it was written.

    Attributes:
        folder: Where they are.
        digests: SHA-256 by name; None where the folder has no manifest, and nothing is checked.
    """

    folder: Path
    digests: Mapping[str, str] | None

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Of a folder, in which what a killed process had ready is moved first.

        Raises:
            ResultError: It is damaged.
        """
        settle(folder)
        file = folder / MANIFEST_FILE
        if not os.path.lexists(file):
            return cls(folder, None)
        try:
            described = json.loads(read_regular(file, _MAX_BYTES))
            if described["format"] != MANIFEST_FORMAT:
                raise ValueError(f"not of the format {MANIFEST_FORMAT!r}")
            digests = {name: entry["sha256"] for name, entry in described["files"].items()}
            if not all(Path(name).name == name for name in digests):
                raise ValueError("a name is that of no file of the folder")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ResultError(f"{file}: damaged ({error}); {_ADVICE}.") from error
        return cls(folder, digests)

    def has(self, name: str) -> bool:
        """Whether a file is there, or ought to be."""
        return name in (self.digests or ()) or os.path.lexists(self.folder / name)

    def verify(self, *names: str) -> None:
        """Read files to their ends and see that they are as they were written, or at least files.

        Args:
            *names: Of the folder; by default all that its manifest names and it still has.

        Raises:
            ResultError: One is not.
        """
        left = [name for name in sorted(self.digests or ()) if os.path.lexists(self.folder / name)]
        for name in names or left:
            file = self.folder / name
            digest = _digest(file)
            if self.digests is not None and digest != self.digests.get(name):
                is_other = "has another checksum" if name in self.digests else "does not name it"
                raise ResultError(
                    f"{file}: damaged, or of another folder: {MANIFEST_FILE} {is_other}; {_ADVICE}."
                )


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write down the checksums of those files of a folder that are there."""
    files = {
        name: {"sha256": _digest(folder / name), "bytes": size_of(folder / name)}
        for name in sorted(names)
        if os.path.lexists(folder / name)
    }
    described = {"format": MANIFEST_FORMAT, "files": files}
    write_whole(folder / MANIFEST_FILE, json.dumps(described, indent=2) + "\n")


def _digest(file: Path) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
