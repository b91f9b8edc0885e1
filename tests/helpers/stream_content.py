"""What two streams that are the same have in common."""

import json

import pyarrow.parquet as pq
from kills import content_of


def plain(folder):
    """What a stream comes to, whatever it took: no times and no seconds."""
    content = {}
    for name, value in content_of(folder).items():
        if name.endswith("result.json"):
            result = json.loads(value)
            figures = result["figures"].items()
            result["figures"] = {key: figure for key, figure in figures if "_s" not in key}
            content[name] = result
        elif name == "journal.jsonl":
            lines = (json.loads(line) for line in value.splitlines())
            content[name] = [{key: text for key, text in line.items() if key != "time"} for line in lines]
        elif name == "stream.parquet":
            table = pq.read_table(folder / name)
            content[name] = table.drop([key for key in table.column_names if "_s" in key]).to_pylist()
        elif not name.endswith(("manifest.json", "lock", "stream.json")):
            content[name] = value
    return content
