"""Where data lie: on this machine, or behind a URI that pyarrow knows, such as ``s3://bucket/folder``."""

import gzip
import io
import re
from dataclasses import dataclass
from os import PathLike
from os.path import expanduser
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from envs.errors import DataError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: So that text is read over a network in pieces that are worth the way.
_BUFFER_BYTES = 1 << 20
#: S3 without an account, as pyarrow's own URIs of GCS say it.
_ANONYMOUS = "anonymous@"


def is_uri(path: object) -> bool:
    """Whether a path is a URI, of this machine's files too (``file://``)."""
    return isinstance(path, str) and _URI.match(path) is not None


@dataclass(frozen=True)
class DataFile:
    """A file of data, or a folder of its parts.

    Attributes:
        shown: What messages call it: its path, or its URI without who asks.
        name: The last part of that.
        filesystem: Where it lies.
        path: Its path there.
        is_folder: Whether it is a folder.
        num_bytes: Of a file.
    """

    shown: str
    name: str
    filesystem: pafs.FileSystem
    path: str
    is_folder: bool
    num_bytes: int

    def __str__(self) -> str:
        return self.shown

    @property
    def is_compressed(self) -> bool:
        """Whether its name says that it is compressed with gzip."""
        return self.name.lower().endswith(".gz")

    def open(self) -> BinaryIO:
        """The content as it is stored, which can be sought in."""
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            return Path(self.path).open("rb")
        content = self.filesystem.open_input_file(self.path)
        return cast(BinaryIO, io.BufferedReader(cast(Any, content), _BUFFER_BYTES))

    def open_content(self) -> BinaryIO:
        """The content, decompressed where it is compressed."""
        if not self.is_compressed:
            return self.open()
        is_local = isinstance(self.filesystem, pafs.LocalFileSystem)
        return cast(BinaryIO, gzip.open(self.path if is_local else self.open()))

    def open_stream(self) -> pa.NativeFile:
        """The content for Arrow, from the first byte to the last, decompressed where it is compressed."""
        compression = "gzip" if self.is_compressed else None
        return self.filesystem.open_input_stream(self.path, compression=compression)

    def parts(self, suffix: str) -> list["DataFile"]:
        """The files of a folder whose names end so, in the order of their names; none that is hidden.

        Args:
            suffix: What their names end in.
        """
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=True))
        root = PurePosixPath(self.path)
        parts = [
            (PurePosixPath(info.path).relative_to(root), info)
            for info in found
            if info.type == pafs.FileType.File and info.base_name.endswith(suffix)
        ]
        return [
            DataFile(f"{self.shown}/{place}", place.name, self.filesystem, info.path, False, info.size or 0)
            for place, info in sorted(parts, key=lambda part: part[0])
            if not any(name[0] in "._" for name in place.parts)
        ]


def name_of(path: str | PathLike[str]) -> str:
    """The last part of a path, or of a URI without what it asks for."""
    return PurePosixPath(urlsplit(str(path)).path).name if is_uri(path) else Path(path).name


def data_file(path: str | PathLike[str]) -> DataFile:
    """A file or a folder of data that is there.

    Args:
        path: A path, in which ``~`` at its beginning is the home folder; or a URI, whose credentials are
            those of the environment; ``s3://anonymous@bucket`` and ``gs://anonymous@bucket`` have none.

    Raises:
        DataError: There is none, or it cannot be reached.
    """
    if is_uri(path) and not str(path).lower().startswith("file://"):
        return _remote_file(str(path))
    if is_uri(path):
        path = pafs.FileSystem.from_uri(path)[1]
    try:
        path = Path(expanduser(path))
        num_bytes = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise DataError(f"{path}: there is no such file to read ({reason}); check the path") from error
    if not (path.is_dir() or path.is_file()):
        raise DataError(
            f"{path}: it is a pipe or a device, and interactions are read more than once; write them to a "
            "file and name that"
        )
    return DataFile(str(path), path.name, pafs.LocalFileSystem(), str(path), path.is_dir(), num_bytes)


def _remote_file(uri: str) -> DataFile:
    shown = re.sub(r"(?<=://)[^/@]*@", "", uri).partition("?")[0].rstrip("/")
    try:
        filesystem, path = _filesystem(uri)
        info = filesystem.get_file_info(path)
    except (OSError, ImportError, TypeError, ValueError, pa.ArrowException) as error:
        # What went wrong may repeat the URI.
        reason = str(error).replace(uri, shown)
        raise DataError(
            f"{shown}: it cannot be reached ({reason}); check the URI, its region and the credentials of the "
            "environment"
        ) from error
    if info.type == pafs.FileType.NotFound:
        raise DataError(f"{shown}: there is no such file to read; check the URI")
    return DataFile(
        shown, name_of(uri), filesystem, path, info.type == pafs.FileType.Directory, info.size or 0
    )


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    scheme, _, rest = uri.partition("://")
    if scheme.lower() == "s3" and rest.startswith(_ANONYMOUS):
        path, _, query = rest.removeprefix(_ANONYMOUS).partition("?")
        options = dict(parse_qsl(query))
        if not {"region", "endpoint_override"} & options.keys():
            options["region"] = pafs.resolve_s3_region(path.partition("/")[0])
        return pafs.S3FileSystem(anonymous=True, **options), path.rstrip("/")
    filesystem, path = pafs.FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")
