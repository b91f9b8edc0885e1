"""``docs/quickstart.ipynb`` is run, with a shorter search, in a folder in which nothing may be left."""

import json
import os
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[3] / "docs" / "quickstart.ipynb"
SHORT = """
fields = {
    "recommender": {"max_embedding_size": 16, "device": "cpu"},
    "training": {"batch_size": 1024, "max_batches": 4, "evaluate_every": 2},
    "search": {"num_episodes": 1, "episode_length": 2, "supernet_batches": 2, "num_candidates": 1},
    "agent": {"hiddens": [8], "updates_per_step": 1},
}
"""


def outputs(notebook):
    """What each cell of code left, by kind."""
    return [
        {kind: "".join(body) for output in cell["outputs"] for kind, body in output.get("data", {}).items()}
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]


def test_it_lies_there_with_its_output():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(
        output["output_type"] == "error" for cell in notebook["cells"] for output in cell.get("outputs", [])
    )
    _, data, search, table, sizes, found = outputs(notebook)
    assert "movieId" in data["text/plain"]
    assert "test" in search["text/html"] and "image/png" in sizes
    assert all(name in table["text/plain"] for name in ("full size", "equal sizes", "search"))
    assert "score" in found["text/plain"]
    assert NOTEBOOK.stat().st_size < 200_000


def test_it_runs_and_shows_progress(tmp_path):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    (short,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    short["source"] = SHORT
    here, done = tmp_path / "here", tmp_path / "done.ipynb"
    here.mkdir()
    (here / "short.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = "-m nbconvert --to notebook --execute --log-level ERROR --output".split()
    ran = subprocess.run(
        [sys.executable, *command, done, "short.ipynb"],
        cwd=here,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert [entry.name for entry in here.iterdir()] == ["short.ipynb"]
    _, _, search, table, *_ = outputs(json.loads(done.read_text(encoding="utf-8")))
    for phase in ("full-size fit", "supernet", "search", "retraining", "test", "refit"):
        assert phase in search["text/plain"] and phase in search["text/html"]
    assert "━━" in search["text/html"] and "full size" in table["text/plain"]
