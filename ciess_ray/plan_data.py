"""The data of many runs, each set read once, and whether their budgets can be met."""

import json
from collections.abc import Iterable

from ciess_ray.config import RunConfig
from ciess_ray.run import caps_params_of, check_communities
from ciess_ray.search import load_interactions
from ciess_ray.sweep_config import Trial
from envs.data import Interactions
from envs.errors import CiessError


def dataset_key(config: RunConfig) -> str:
    """What two runs on the same data have in common."""
    return json.dumps(
        config.dataset.model_dump(mode="json") | {"split_seed": config.split_seed}, sort_keys=True
    )


def read_data(trials: Iterable[Trial], source: str) -> dict[str, Interactions]:
    """Read every data set of some trials and see that every budget can be met.

    Args:
        trials: Those.
        source: What messages call their plan.

    Returns:
        Interactions by :func:`dataset_key`.

    Raises:
        CiessError: Data cannot be read, or a budget not be met.
    """
    read: dict[str, Interactions] = {}
    for trial in trials:
        key = dataset_key(trial.config)
        if key not in read:
            read[key] = load_interactions(trial.config)
        try:
            caps_params_of(trial.config, read[key].num_entities)
            check_communities(trial.config, read[key])
        except CiessError as error:
            raise error.within(f"{source}: the trial {trial.name}") from error
    return read
