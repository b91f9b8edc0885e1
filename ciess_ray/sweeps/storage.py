"""A folder on any of pyarrow's filesystems: a local disk, one that all nodes share, S3, GCS, HDFS."""

import io
import shutil
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.fs as pafs

from ciess_ray.config.credentials import without_secrets
from ciess_ray.files.whole import whole_file
from envs.errors import ConfigError

_ERRORS = (OSError, pa.ArrowException, ValueError)


class Storage:
    """Reads and writes files by their names within one folder.

    Args:
        location: A path, or a URI such as ``s3://bucket/folder``.

    Attributes:
        location: An absolute path, or the URI.
        shown: The same without its secret, as it may be shown and written.

    Raises:
        ConfigError: The location is no such thing.
    """

    def __init__(self, location: str | Path) -> None:
        text = str(location)
        self.is_local = "://" not in text
        self.location = str(Path(text).absolute()) if self.is_local else text.rstrip("/")
        self.shown = without_secrets(self.location)
        try:
            self._filesystem, self._path = pafs.FileSystem.from_uri(self.location)
        except _ERRORS as error:
            raise ConfigError(
                f"{without_secrets(text)}: neither a path nor a URI that pyarrow knows "
                f"({without_secrets(error)}); e.g. runs/sweep, s3://bucket/sweep or gs://bucket/sweep."
            ) from error

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where it is not there."""
        if not self.has(name):
            return None
        with self._filesystem.open_input_stream(self._place(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes) -> None:
        """Write a file: all of it or, on filesystems that can rename, nothing.

        Raises:
            ConfigError: It cannot be written.
        """
        self._copy(io.BytesIO(content), name)

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file here, as :meth:`write` writes."""
        with file.open("rb") as content:
            self._copy(content, name)

    def _copy(self, content: IO[bytes], name: str) -> None:
        try:
            if self.is_local:
                opened: Any = whole_file(Path(self.location) / name)
            else:
                self._filesystem.create_dir(self._place(name).rpartition("/")[0], recursive=True)
                opened = self._filesystem.open_output_stream(self._place(name))
            with opened as stream:
                shutil.copyfileobj(content, stream)
        except _ERRORS as error:
            raise ConfigError(
                f"{self.shown}: cannot be written ({without_secrets(error)}); name a folder that you may "
                "write, and on a cluster one that every node reaches."
            ) from error

    def has(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        return bool(self._filesystem.get_file_info(self._place(name)).type != pafs.FileType.NotFound)

    def names(self) -> list[str]:
        """Names of the files and folders directly in this one."""
        selector = pafs.FileSelector(self._path, allow_not_found=True)
        return sorted(info.base_name for info in self._filesystem.get_file_info(selector))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it."""
        place = self._place(name)
        if self._filesystem.get_file_info(place).is_file:
            self._filesystem.delete_file(place)
        else:
            self._filesystem.delete_dir(place)

    def download(self, name: str, path: Path) -> None:
        """Copy a file or folder from here; a file is there whole or not at all."""
        place = self._place(name)
        if self._filesystem.get_file_info(place).is_file:
            with self._filesystem.open_input_stream(place) as source, whole_file(path) as stream:
                shutil.copyfileobj(source, stream)
        else:
            path.mkdir(parents=True, exist_ok=True)
            pafs.copy_files(place, str(path), source_filesystem=self._filesystem)

    def _place(self, name: str) -> str:
        return f"{self._path}/{name}"
