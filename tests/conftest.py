import json
from pathlib import Path

import pytest

from envs.data import generate_interactions, split_interactions


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
