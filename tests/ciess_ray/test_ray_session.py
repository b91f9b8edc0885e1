"""The Ray that is started here: who can reach it, and what its workers are worth beside other work."""

import os
import subprocess
import sys
from pathlib import Path

from processes import descendants, listening

ROOT = Path(__file__).parents[2]
#: Asks for what it would need to join; Ray's own ``init`` waits for ever where it is refused.
STRANGER = """
import sys
from ray._raylet import GcsClient
try:
    GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 5)
except Exception as error:
    print("refused:", error)
else:
    print("came in")
"""


def test_it_listens_on_loopback_alone(ray_cluster):
    ray_cluster.get(ray_cluster.remote(lambda: None).remote())  # a worker listens too
    addresses = listening([os.getpid(), *descendants()])
    assert len(addresses) >= 5 and set(addresses) == {"127.0.0.1"}


def test_a_stranger_without_its_token_does_not_come_in(ray_cluster):
    address = ray_cluster.get_runtime_context().gcs_address
    # Of the stranger's own process alone: with no token, and with one that is not ours.
    for told in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        done = subprocess.run(
            [sys.executable, "-c", STRANGER, address], env=os.environ | told, capture_output=True, text=True
        )
        assert done.stdout.startswith("refused") and "InvalidAuthToken" in done.stdout, done


def test_its_workers_are_no_less_urgent_than_the_driver(ray_cluster):
    assert ray_cluster.get(ray_cluster.remote(lambda: os.nice(0)).remote()) == os.nice(0)


def test_nothing_here_turns_tokens_off():
    files = [ROOT / "Makefile", *(ROOT / ".ci").iterdir()]
    for folder in ("ciess_ray", "envs", "tests", "benchmarks", "cluster", "configs"):
        files += [file for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".yaml", ".md", "")]
    told = [file for file in files if file.is_file() and file != Path(__file__)]
    assert len(told) > 100
    assert [f for f in told if "AUTH_MODE" in (text := f.read_text()) and "disabled" in text] == []


def test_a_home_that_cannot_be_written_is_told():
    code = "from ciess_ray.resources import ray_session\nwith ray_session(): pass"
    told = {"HOME": os.devnull, "RAY_AUTH_MODE": "token"}
    unset = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
    own = {name: value for name, value in os.environ.items() if name not in unset} | told
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert "ConfigError: Ray cannot start" in done.stderr and "/dev/null/.ray" in done.stderr
    assert "it writes its token below HOME" in done.stderr


def test_a_ray_that_does_not_start_is_told():
    code = "from ciess_ray.resources import ray_session\nwith ray_session(): pass"
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    told = own | {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "1000"}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True)
    assert "ConfigError: Ray cannot start (ValueError: " in done.stderr and "begin with RAY_" in done.stderr
