"""The examples in the docstrings of what ``ciess_ray`` offers."""

import doctest
import shutil

import numpy as np
import pytest

import ciess_ray


@pytest.fixture(scope="module")
def quickstart(make_result):
    """The folder of a search, with the ids that the examples name."""
    ids = np.array([17, *range(1000, 1059)]), np.array([50, 296, *range(2000, 2038)])
    return make_result("lightgcn", ids)[0]


@pytest.mark.parametrize("name", [name for name in ciess_ray.__all__ if name != "__version__"])
def test_an_example_gives_what_it_says(name, ray_cluster, quickstart, tmp_path, monkeypatch):
    shutil.copytree(quickstart, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (example,) = finder.find(getattr(ciess_ray, name), name, globs={})
    assert example.examples and runner.run(example).failed == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]
