"""Arrays that took long to make, kept in a file that is there whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_arrays(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays; text and numbers count as arrays.

    Raises:
        OSError: The file could not be written; one that was there before is untouched.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two searches may make the same file at once.
    temporary = file.with_suffix(f".{os.getpid()}.partial")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_arrays(file: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays in a file; None where there is none, or where it is damaged and has to be made again."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return dict(kept)
    except Exception:  # Damage shows in a dozen ways, of zipfile, zlib and NumPy.
        return None
