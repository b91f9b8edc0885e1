"""The data of many runs, each set read once, and whether their budgets can be met."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ciess_ray.config.memory import check_memory_here
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import put_override
from ciess_ray.plain_text import command
from ciess_ray.search.driver import load_interactions
from ciess_ray.search.run import caps_params_of, check_communities
from ciess_ray.sweep.config import Trial
from envs.data import Interactions
from envs.errors import CiessError, ConfigError, ResultError


def dataset_key(config: RunConfig) -> str:
    """What two runs on the same data have in common."""
    return json.dumps(
        config.dataset.model_dump(mode="json") | {"split_seed": config.split_seed}, sort_keys=True
    )


def put_resumed(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put over the values of many runs what may be told anew: where data lie, and where runs are recorded.

    Raises:
        ConfigError: The space names the data.
    """
    for override in overrides:
        name = override.partition("=")[0]
        if name.startswith("dataset."):
            if {name, "dataset"} & dict(values["space"]).keys():
                raise ConfigError(f"{override!r}: here the space names the data; bring them back to go on.")
            override = f"base.{override}"
        put_override(values, override)


def check_places(trials: Iterable[Trial], what: str, location: str) -> None:
    """See that the data of runs that are gone on with are where they were.

    Args:
        trials: The runs.
        what: Their command.
        location: Their folder.

    Raises:
        ResultError: A file is not there.
    """
    for path in dict.fromkeys(trial.config.dataset.path for trial in trials):
        if path is not None and not path.exists():
            raise ResultError(
                f"{location}: its data, {path}, are not there; say where they lie now: "
                f"{command('ciess-ray', what, '--resume', location, 'dataset.path=FILE')}"
            )


def read_data(trials: Iterable[Trial], source: str, *, trains_full: bool = True) -> dict[str, Interactions]:
    """Read every data set of some trials and see that every budget can be met.

    Args:
        trials: Those.
        source: What messages call their plan.
        trains_full: Whether full tables are trained, for which there must be memory.

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
            if trains_full:
                check_memory_here(trial.config, read[key].num_entities)
        except CiessError as error:
            raise error.within(f"{source}: the trial {trial.name}") from error
    return read
