"""The bytes of a packed table's file."""

import tempfile
from pathlib import Path


def bytes_of(table):
    """What its file holds."""
    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder, "table"))
        return Path(folder, "table").read_bytes()
