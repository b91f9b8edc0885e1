"""Whether the memory of a machine can hold what is to be trained on it."""

import os

import ray
import torch

from ciess_ray.config.run import RunConfig
from envs.errors import ConfigError
from envs.recommenders import resolve_device

_FLOAT_BYTES, _ID_BYTES = 4, 8
#: Of every parameter: its value, its gradient, Adam's two moments, and the copy that a NaN is undone with.
_NUM_COPIES = 5


def check_training_memory(config: RunConfig, num_entities: int) -> None:
    """Refuse a full table, or a batch of it, that this machine has no memory for, before any is taken.

    What is counted is the least that a training takes; one that is not refused may still be too large.

    Args:
        config: The run.
        num_entities: Users and items.

    Raises:
        ConfigError: With the field, the bytes and what there is.
    """
    recommender, training = config.recommender, config.training
    width = recommender.max_embedding_size * recommender.num_tables
    table_bytes = num_entities * width * _FLOAT_BYTES * _NUM_COPIES
    # The rows of users and of items of each triple, and their numbers.
    num_rows = 3 if training.loss == "bpr" else 2
    batch_bytes = training.batch_size * num_rows * (width * _FLOAT_BYTES + _ID_BYTES)
    device = resolve_device(recommender.device)
    if device.type == "cuda":
        there, place = torch.cuda.get_device_properties(device).total_memory, "the GPU"
    else:
        there, place = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"
    if table_bytes + batch_bytes <= there:
        return
    fields = {
        f"recommender.max_embedding_size={recommender.max_embedding_size}": table_bytes,
        f"training.batch_size={training.batch_size}": batch_bytes,
    }
    field = max(fields, key=fields.__getitem__)
    raise ConfigError(
        f"{field}: to train the full table of {num_entities:,} users and items takes at least "
        f"{table_bytes:,} bytes and a batch of it {batch_bytes:,}, and {place} has {there:,} bytes of "
        "memory: lower it."
    )


def check_memory_here(config: RunConfig, num_entities: int) -> None:
    """As :func:`check_training_memory`, before Ray starts, where it will be on this machine alone.

    On a cluster, whose nodes may have more, each process that trains a full table looks itself.
    """
    if os.environ.get("RAY_ADDRESS", "local") == "local" and not ray.is_initialized():
        check_training_memory(config, num_entities)
