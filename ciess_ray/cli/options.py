"""What the commands that begin something, or go on with it, make of their arguments and options."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ciess_ray.config.yaml_values import as_yaml
from envs.errors import ConfigError


def columns_of(**names: str | None) -> dict[str, Any]:
    """The field of the columns whose names options gave, by role; None where there are none."""
    return {"dataset.columns": {role: name for role, name in names.items() if name is not None} or None}


def options_of(fields: Mapping[str, Any]) -> list[str]:
    """Fields that options named as overrides, without those that are None."""
    return [f"{name}={as_yaml(value)}" for name, value in fields.items() if value is not None]


def changed_fields(
    what: str,
    config: str | None,
    overrides: Sequence[str] | None,
    options: Sequence[str],
    resumed: str | Path | None,
    *,
    is_refused: bool,
    beside: str = "",
) -> list[str]:
    """The fields to change, of a configuration or of what is gone on with.

    From here on Ray's actors find recommenders of one's own too; last, where the folder hides no installed
    module.

    Args:
        what: The command.
        config: Its argument CONFIG, in whose place the first change stands beside --resume.
        overrides: Its further arguments.
        options: Fields that options named.
        resumed: What --resume names.
        is_refused: Whether an option was given that --resume does not go with.
        beside: Options that it goes with.

    Raises:
        ConfigError: There is neither a configuration nor a folder to go on with, or too much of both.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if resumed is None:
        if config is None:
            raise ConfigError(f"CONFIG, a YAML file, is missing; 'ciess-ray {what} --help' has examples.")
        return [*(overrides or []), *options]
    changes = [*([] if config is None else [config]), *(overrides or [])]
    if is_refused or options or not all(change.startswith(("dataset.", "tracking.")) for change in changes):
        raise ConfigError(
            f"--resume goes on with what was configured; give only {beside}dataset.path=FILE where its data "
            "have moved, and tracking.uri=URI where it is recorded."
        )
    # Before the imports that take seconds.
    if "://" not in str(resumed) and not Path(resumed).is_dir():
        raise ConfigError(f"--resume {resumed}: no such folder.")
    return changes
