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

from ciess_ray.files.whole import open_regular, read_regular, settle, unique_keys, write_whole
from envs.errors import ResultError

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "ciess-ray manifest 1"
_MAX_BYTES = 2**20
_CHUNK = 2**20
_ADVICE = "export it again, or run the search again with --overwrite"


@dataclass(frozen=True)
class Manifest:
    """What the files of a folder were when it was written.

    Attributes:
        folder: Where they are.
        files: SHA-256 and bytes by name; None where the folder has no manifest, and nothing is checked.
    """

    folder: Path
    files: Mapping[str, tuple[str, int]] | None

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
            described = json.loads(read_regular(file, _MAX_BYTES), object_pairs_hook=unique_keys)
            if described["format"] != MANIFEST_FORMAT or set(described) != {"format", "files"}:
                raise ValueError(f"not of the format {MANIFEST_FORMAT!r}")
            files = {name: (one["sha256"], one["bytes"]) for name, one in described["files"].items()}
            if not all(Path(name).name == name for name in files):
                raise ValueError("a name is that of no file of the folder")
            if not all(isinstance(digest, str) and type(size) is int for digest, size in files.values()):
                raise ValueError("a checksum is no text, or a length no number")
        except ResultError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ResultError(f"{file}: damaged ({error}); {_ADVICE}.") from error
        return cls(folder, files)

    def content(self, name: str) -> bytes:
        """The whole of a file, which is as it was written.

        Raises:
            ResultError: There is no such file, or it is another.
        """
        content = read_regular(self.folder / name)
        self._compare(name, hashlib.sha256(content).hexdigest(), len(content))
        return content

    def has(self, name: str) -> bool:
        """Whether a file is there, or ought to be."""
        return name in (self.files or ()) or os.path.lexists(self.folder / name)

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Read files to their ends and see that they are as they were written.

        Args:
            names: Of the folder; by default all that it still has.

        Raises:
            ResultError: One is not.
        """
        if self.files is None:
            return
        for name in sorted(self.files) if names is None else names:
            if names is None and not os.path.lexists(self.folder / name):
                continue
            digest, size = _digest(self.folder / name)
            self._compare(name, digest, size)

    def _compare(self, name: str, digest: str, size: int) -> None:
        if self.files is None:
            return
        file = self.folder / name
        if name not in self.files:
            raise ResultError(
                f"{file}: is not in {MANIFEST_FILE}: files of two folders are mixed; {_ADVICE}."
            )
        if (digest, size) != self.files[name]:
            raise ResultError(
                f"{file}: damaged, or of another folder: {MANIFEST_FILE} has another checksum; {_ADVICE}."
            )


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write down the checksums of those files of a folder that are there."""
    files = {}
    for name in sorted(names):
        if os.path.lexists(folder / name):
            digest, size = _digest(folder / name)
            files[name] = {"sha256": digest, "bytes": size}
    described = {"format": MANIFEST_FORMAT, "files": files}
    write_whole(folder / MANIFEST_FILE, json.dumps(described, indent=2) + "\n")


def _digest(file: Path) -> tuple[str, int]:
    """SHA-256 and bytes of a file, of which little is held at once."""
    with open(open_regular(file), "rb") as stream:
        digest, size = hashlib.sha256(), 0
        while content := stream.read(_CHUNK):
            digest.update(content)
            size += len(content)
        return digest.hexdigest(), size
