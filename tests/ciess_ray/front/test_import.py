"""What ``import ciess_ray`` costs and offers."""

import json
import subprocess
import sys

import pytest

import ciess_ray

#: Told by a process of its own: what one import brings, and the CPU seconds that it takes.
IMPORT = """
import json, sys, time
before = time.process_time()
import ciess_ray
seconds = time.process_time() - before
print(json.dumps([seconds, sorted(sys.modules), dir(ciess_ray), ciess_ray.__version__]))
"""


def test_it_brings_neither_ray_nor_torch_nor_numpy():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    seconds, modules, offered, version = json.loads(done.stdout)
    assert not {"ray", "torch", "numpy", "pandas", "pyarrow", "pydantic", "envs"} & set(modules)
    assert seconds <= 0.2
    assert set(ciess_ray.__all__) <= set(offered) and version == ciess_ray.__version__


def test_what_draws_fills_pages_and_learns_is_imported_only_where_that_is_done():
    code = (
        "import sys\n"
        "from ciess_ray.cli import main\n"
        "from ciess_ray.comparisons import driver\n"
        "print('ray.rllib' in sys.modules)\n"
        "from ciess_ray.sweeps import driver\n"
        "print([name for name in ('matplotlib', 'jinja2') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["False", "[]"]


def test_the_public_names_are_these():
    assert set(ciess_ray.__all__) == {
        "PackedTable",
        "ServedRecommender",
        "__version__",
        "compare",
        "load_result",
        "search",
        "stream",
        "sweep",
    }
    for name in ciess_ray.__all__:
        assert getattr(ciess_ray, name).__doc__
    assert ciess_ray.search is ciess_ray.search


def test_a_name_that_is_none_is_told():
    with pytest.raises(AttributeError, match="module 'ciess_ray' has no attribute 'serach'"):
        _ = ciess_ray.serach
