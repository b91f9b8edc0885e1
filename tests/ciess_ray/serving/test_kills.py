"""Wherever an export or a report is killed, what was there before is left, or what was to come."""

import itertools
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from kills import content_of, is_killed
from matplotlib.figure import Figure
from report_folders import write_search

from ciess_ray.files.manifest import Manifest
from ciess_ray.report import write_report
from ciess_ray.report.drawings import Drawing
from ciess_ray.serving.export import export
from ciess_ray.serving.recommender import ServedRecommender

GOLDEN = Path(__file__).parents[2] / "golden" / "result"


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Another table of the same entities, for an export that is to be replaced."""
    folder = tmp_path_factory.mktemp("half") / "half"
    export(GOLDEN, folder, dtype="float16")
    return folder


def place_of(folder, format):
    return folder / ("table.parquet" if format == "parquet" else "served")


@pytest.mark.parametrize("was_there", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("format", ["packed", "torchrec", "parquet"])
def test_export(format, was_there, half, tmp_path):
    dtype = "int8" if format == "packed" else "float32"
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    if was_there:
        export(half, place_of(old, format), format=format)
    export(GOLDEN, place_of(new, format), format=format, dtype=dtype)
    states = {name: content_of(folder) for name, folder in (("old", old), ("new", new))}
    assert states["old"] != states["new"]
    found = []
    for num_changes in itertools.count():
        copy = Path(shutil.copytree(old, tmp_path / f"{num_changes}"))
        again = partial(export, GOLDEN, place_of(copy, format), format=format, dtype=dtype, overwrite=True)
        was_killed = is_killed(again, num_changes)
        left = {name: text for name, text in content_of(copy).items() if not name.startswith(".")}
        (state,) = (name for name, files in states.items() if files == left)
        found.append(state)
        if format == "packed" and (was_there or state == "new"):
            ServedRecommender.open(place_of(copy, format)).recommend([1])
            Manifest.read(place_of(copy, format)).verify()
        if not was_killed:
            break
        if num_changes % 5:
            continue
        # What was left blocks nobody, and goes where it is a folder.
        again()
        left = content_of(copy)
        assert {name: left[name] for name in states["new"]} == states["new"]
        assert len(left) == len(states["new"]) or format == "parquet"
    assert found == sorted(found, key=["old", "new"].index) and found[0] == "old" and found[-1] == "new"
    assert num_changes >= (2 if format == "parquet" else 8)


@pytest.mark.parametrize("was_there", [False, True], ids=["new", "replaced"])
def test_report(was_there, tmp_path, monkeypatch):
    def draw(groups, searches):
        """Two figures of the budget that is told of."""
        for name in ("first", "second"):
            figure = Figure(figsize=(1, 1))
            figure.text(0.1, 0.5, searches[0].summary["config"]["budget"])
            yield Drawing("quality", name, name, name, figure)

    def shown(folder):
        """The page, and every figure that it names."""
        page = folder / "report.html"
        if not page.exists():
            return None
        names = re.findall(r'href="(report_figures/[^"]+\.png)"', page.read_text())
        assert len(names) == 2
        return page.read_bytes(), [(folder / name).read_bytes() for name in names]

    monkeypatch.setattr("ciess_ray.report.page.draw_all", draw)
    searches = [write_search(tmp_path / budget, budget) for budget in ("5%", "10%")]
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    if was_there:
        write_report(searches[:1], old / "report.html")
    write_report(searches[1:], new / "report.html")
    states = [shown(old), shown(new)]
    assert states[0] != states[1]
    found = []
    for num_changes in itertools.count():
        copy = Path(shutil.copytree(old, tmp_path / f"{num_changes}"))
        again = partial(write_report, searches[1:], copy / "report.html", overwrite=True)
        was_killed = is_killed(again, num_changes)
        found.append(states.index(shown(copy)))
        if not was_killed:
            break
        again()
        assert shown(copy) == states[1] and len(list((copy / "report_figures").iterdir())) == 2
    assert found == sorted(found) and {*found} == {0, 1} and num_changes >= (7 if was_there else 8)


def test_a_real_kill(half, tmp_path):
    """SIGKILL at some changes of an export, each in a process of its own."""
    export(half, tmp_path / "old")
    export(GOLDEN, tmp_path / "new", dtype="int8")
    code = (
        "import sys; from pathlib import Path; from functools import partial\n"
        "from kills import is_really_killed; from ciess_ray.serving.export import export\n"
        "golden, *places = map(Path, sys.argv[1:])\n"
        "for number, place in enumerate(places):\n"
        "    act = partial(export, golden, place, dtype='int8', overwrite=True)\n"
        "    print(is_really_killed(act, 1 + 5 * number))\n"
    )
    places = [shutil.copytree(tmp_path / "old", tmp_path / f"{number}") for number in range(6)]
    done = subprocess.run(
        [sys.executable, "-c", code, GOLDEN, *places],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "helpers"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["True"] * 6, done.stderr
    states = [content_of(tmp_path / name) for name in ("old", "new")]
    found = [states.index(content_of(place)) for place in places]
    assert found == sorted(found) and {*found} == {0, 1}
