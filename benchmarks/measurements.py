"""Rows that are measured once, kept as they come."""

import json
from pathlib import Path
from typing import Any

from ciess_ray.files.formats import read_json_lines


class Measurements:
    """Rows in a file, one a line, that are made once; a line that a killed process has torn is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = read_json_lines(path) if path.exists() else []

    def has(self, **key: Any) -> bool:
        """Whether a row with these values is there."""
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to the file and print it."""
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
                is_torn = file.read(1) != b"\n"
                # Where it is open for appending, writing is at the end in any case.
                file.write(b"\n" * is_torn)
            file.write(f"{json.dumps(row)}\n".encode())
        print(json.dumps(row), flush=True)
