"""What a user installs: the wheel, in an environment that knows nothing of the checkout."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from envs.data import generate_interactions

ROOT = Path(__file__).parents[2]
SHORT = {
    "dataset": {"path": "log.parquet"},
    "budget": "20%",
    "output": "runs/short",
    "recommender": {"max_embedding_size": 16, "device": "cpu"},
    "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
    "search": {
        "num_episodes": 1,
        "episode_length": 3,
        "supernet_batches": 20,
        "num_warmup_steps": 2,
        "num_candidates": 2,
    },
    "agent": {"hiddens": [16], "updates_per_step": 2},
    "tracking": {"mlflow": False},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Not within the checkout, where a build leaves folders behind.
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in ("ciess_ray", "envs"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (file,) = folder.glob("*.whl")
    return file


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs a program of an environment that holds the wheel and, below it, the packages of this one."""
    folder, work = tmp_path_factory.mktemp("installed") / "env", tmp_path_factory.mktemp("work")
    venv.create(folder)
    programs = folder / "bin"
    (own,) = folder.glob("lib/python*/site-packages")
    # Not what .pth files of theirs add, such as this checkout.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (own / "others.pth").write_text("\n".join(others) + "\n")
    pip("--python", programs / "python", "install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")
    }

    def run(program, *arguments):
        done = subprocess.run(
            [programs / program, *map(str, arguments)],
            cwd=work,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder, run.work = folder, work
    return run


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(file.relative_to(ROOT))
        for package in ("ciess_ray", "envs")
        for file in (ROOT / package).rglob("*")
        if file.suffix in (".py", ".html", ".css", ".js", ".typed", ".yaml")
    }
    assert len(files) > 100 and files <= held
    assert {name.partition("/")[0] for name in held - files} == {
        f"{wheel.name.rpartition('-py3')[0]}.dist-info"
    }


def test_a_search_a_recommendation_and_a_report_run_from_the_wheel(run):
    where = run("python", "-c", "import ciess_ray, envs; print(ciess_ray.__file__, envs.__file__)").split()
    assert all(Path(file).is_relative_to(run.folder) for file in where)
    log = generate_interactions(200, 120, 4_000, seed=0)
    pq.write_table(pa.table({"user_id": log.user, "item_id": log.item}), run.work / "log.parquet")
    (run.work / "short.yaml").write_text(yaml.safe_dump(SHORT))
    assert "budget 20%" in run("ciess-ray", "search", "short.yaml")
    summary = json.loads((run.work / "runs" / "short" / "result.json").read_text())
    assert summary["status"] == "finished"
    assert len(run("ciess-ray", "recommend", "runs/short", "--user", 17, "-k", 3).splitlines()) == 4
    run("ciess-ray", "report", "runs/short", "--output", "short.html")
    assert "</html>" in (run.work / "short.html").read_text()
