"""Names that results on disk use, each once: methods, files, formats."""

from collections.abc import Mapping
from typing import Any

#: What a reader calls the tables that every search measures side by side.
FULL_SIZE, EQUAL_SIZES, SEARCH = "full size", "equal sizes", "search"
#: The plain split that leaves items the least.
USERS_FIRST = "users first"
#: Items in proportion to a power of their popularity.
BY_POPULARITY = "by popularity"

#: What stands beside the methods of a comparison and keeps to no budget.
YARDSTICKS = ("ease", "item cosine", "most popular")

#: What rows say of all that serves a table; see :mod:`ciess_ray.serving.served_bytes`.
SERVED_COLUMNS = ("served_bytes", "served_as", "served_with_histories_bytes", "ids_bytes")

#: What a search, or a method of a segment of a stream, came to, and its packed table.
RESULT_FILE, TABLE_FILE = "result.json", "table.safetensors"
RESULT_FORMAT = "ciess-ray result 1"

#: By method, how the columns of a sweep's rows begin.
SWEEP_PREFIXES = {SEARCH: "search", EQUAL_SIZES: "equal", FULL_SIZE: "full"}

#: What a sweep leaves: its plan, a row a trial, means over seeds, a figure; a trial's result is in a folder.
SWEEP_FILE = "sweep.json"
SWEEP_ROWS_FILE, SWEEP_SUMMARY_FILE, SWEEP_FIGURE_FILE = "results.parquet", "results.json", "pareto.png"
SWEEP_RESULTS_FORMAT = "ciess-ray sweep results 1"
TRIAL_RESULT_FOLDER = "result"

#: What a comparison leaves: what it was, and a row a cell.
COMPARISON_FILE, COMPARISON_ROWS_FILE = "comparison.json", "comparison.parquet"
COMPARISON_FORMAT = "ciess-ray comparison 1"

#: What a stream leaves: what it is, a row a segment and method, a folder a segment and method, the latest.
STREAM_FILE, STREAM_ROWS_FILE = "stream.json", "stream.parquet"
STREAM_FORMAT, STREAM_RESULT_FORMAT = "ciess-ray stream 1", "ciess-ray stream result 1"
SEGMENTS_FOLDER, CURRENT_SEGMENT = "segments", "current"

#: The page that a report is written to where nothing else is said.
REPORT_FILE = "report.html"


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Sections as dotted names, or names with another separator."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}{separator}{inner}": leaf for inner, leaf in flatten(value, separator).items()}
        else:
            flat[name] = value
    return flat
