"""What the commands that do work have in common: their arguments."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from envs.errors import ConfigError

#: What may be said of a run that is over, or that goes on as it was configured.
TRACKING_FIELDS = "tracking."


def as_yaml(value: object) -> str:
    """A value as YAML has it: JSON is YAML, and in quotation marks a text stays one."""
    return json.dumps(value, default=str, ensure_ascii=False)


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
    if (
        is_refused
        or options
        or not all(change.startswith(("dataset.", TRACKING_FIELDS)) for change in changes)
    ):
        raise ConfigError(
            f"--resume goes on with what was configured; give only {beside}dataset.path=FILE where its data "
            "have moved, and tracking.uri=URI where it is recorded."
        )
    # Before the imports that take seconds.
    if "://" not in str(resumed) and not Path(resumed).is_dir():
        raise ConfigError(f"--resume {resumed}: no such folder.")
    return changes
