import numpy as np
import pandas as pd
import pytest

from envs.data import generate_interactions


@pytest.fixture(scope="session")
def purchases():
    """A DataFrame with ids of text, as a user's data are."""
    log = generate_interactions(60, 40, 900, seed=0, rank=4)
    customer = np.char.add("c", log.user_ids[log.user].astype(str))
    return pd.DataFrame({"when": 1.5, "customer": customer, "sku": np.char.add("s", log.item.astype(str))})


@pytest.fixture
def small():
    """Fields of a search that takes seconds."""
    return {
        "recommender": {"max_embedding_size": 16, "device": "cpu"},
        "training": {"batch_size": 256, "evaluate_every": 20, "patience": 2, "max_batches": 40},
        "search": {
            "num_episodes": 1,
            "episode_length": 3,
            "supernet_batches": 20,
            "num_warmup_steps": 1,
            "num_candidates": 1,
        },
        "agent": {"hiddens": (16,), "updates_per_step": 1},
    }


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The folder that a user stands in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
