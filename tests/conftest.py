import json
import os
from pathlib import Path

import hypothesis
import pytest
import torch

from envs.data import generate_interactions, split_interactions

# How long an example takes is a matter of what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# Ray as it is, but for what takes time of every test: a worker that waits has imported PyTorch, and the next
# task is spared that; and what workers print, which nobody is shown, is looked for now and then only.
os.environ |= {
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "60",
}


@pytest.fixture(scope="session")
def golden():
    """Values that the authors' code gives on small inputs; each part explains itself in the file."""
    return json.loads((Path(__file__).parent / "golden" / "ciess.json").read_text())


@pytest.fixture(scope="session")
def make_interactions():
    """Small synthetic splits; the same arguments give the very same object."""
    made = {}

    def make(num_users=60, num_items=40, num_interactions=900, seed=0):
        key = num_users, num_items, num_interactions, seed
        if key not in made:
            log = generate_interactions(num_users, num_items, num_interactions, seed=seed, rank=4)
            made[key] = split_interactions(log, seed=seed)
        return made[key]

    return make


@pytest.fixture(scope="session")
def ray_cluster():
    """A local Ray of two CPUs, for the whole session.

    One torch thread: these nets are small, and threads that wait for each other on busy cores cost tenfold.
    """
    import ray

    from ciess_ray.resources import ray_session

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ray_session(num_cpus=2):
        yield ray
    torch.set_num_threads(num_threads)
