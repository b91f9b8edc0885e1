import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ciess_ray
from ciess_ray.own_packages import refuse_foreign_envs
from envs.errors import ConfigError


@pytest.fixture
def foreign(tmp_path):
    """A folder with a package of the same name."""
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("class GridWorld: ...\n")
    return tmp_path


def imported(
    folder, command="import ciess_ray, sys; print('torch' in sys.modules or 'envs' in sys.modules)", **env
):
    return subprocess.run(
        [sys.executable, "-c", command], cwd=folder, env=os.environ | env, capture_output=True, text=True
    )


def test_a_folder_in_which_one_works_hides_ours(foreign):
    told = imported(foreign).stderr
    assert told.splitlines()[-1].startswith("ImportError: ciess_ray needs its own package 'envs', in ")
    assert f"{foreign / 'envs' / '__init__.py'}. Start in another folder" in told


def test_an_installed_package_hides_ours(foreign, tmp_path_factory):
    told = imported(tmp_path_factory.mktemp("elsewhere"), PYTHONPATH=str(foreign)).stderr
    assert "take it off PYTHONPATH; or, where pip installed it, give ciess-ray an environment" in told
    assert str(foreign / "envs" / "__init__.py") in told


def test_a_distribution_that_was_installed_over_ours_is_told(foreign, tmp_path_factory):
    (foreign / "ciess_ray").mkdir()
    for name in ("__init__.py", "own_packages.py"):
        shutil.copy(Path(ciess_ray.__file__).with_name(name), foreign / "ciess_ray")
    told = imported(tmp_path_factory.mktemp("elsewhere"), PYTHONPATH=str(foreign)).stderr
    assert "another distribution has written its package 'envs' over that of ciess-ray" in told


def test_a_module_and_one_that_is_imported_hide_ours_too(tmp_path):
    (tmp_path / "envs.py").write_text("x = 1\n")
    assert str(tmp_path / "envs.py") in imported(tmp_path).stderr
    assert str(tmp_path / "envs.py") in imported(tmp_path, "import envs, ciess_ray").stderr


def test_ours_is_found_and_not_imported(tmp_path):
    # A folder that is no package gives way to ours, where ours is found along a path.
    (tmp_path / "envs").mkdir()
    done = imported(tmp_path, PYTHONPATH=str(Path(ciess_ray.__file__).parents[1]))
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_a_folder_that_is_no_package_is_named_where_it_hides_ours(tmp_path):
    (tmp_path / "envs").mkdir()
    done = subprocess.run(
        [sys.executable, "-S", "-c", "from own_packages import refuse_foreign_envs; refuse_foreign_envs()"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(ciess_ray.__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert f"what Python finds by that name is {tmp_path / 'envs'}. Start in another folder" in done.stderr


def test_workers_find_ours(foreign, monkeypatch):
    from ciess_ray.resources import ray_session

    refuse_foreign_envs([str(Path(ciess_ray.__file__).parents[1])])
    refuse_foreign_envs([str(foreign.parent)])
    # Ray puts the folder in which a search starts before all others in its workers.
    monkeypatch.chdir(foreign)
    with pytest.raises(ConfigError, match="needs its own package 'envs'"), ray_session():
        pytest.fail("Ray started")
