"""What the commands that begin work have in common as they read their arguments."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ciess_ray.cli.tracking import TRACKING_FIELDS
from envs.errors import ConfigError


def resumed_fields(what: str, config: str | None, overrides: Sequence[str] | None) -> list[str]:
    """The fields that may be said beside --resume, the first of which stands where CONFIG would."""
    given = [*([] if config is None else [config]), *(overrides or [])]
    others = [one for one in given if not one.startswith(("dataset.", TRACKING_FIELDS))]
    if others:
        raise ConfigError(
            f"--resume goes on with {what} as it was configured; {others[0]!r} cannot be said beside it, "
            "only dataset.path=FILE where its data have moved, and tracking.uri=URI where it is recorded."
        )
    return given


def check_folder(resumed: Path | None) -> None:
    """Before the imports that take seconds: is there a folder to go on with?"""
    if resumed is not None and not resumed.is_dir():
        raise ConfigError(f"--resume {resumed}: no such folder.")


def find_own_modules() -> None:
    """Recommenders of one's own, in Ray's actors too; last, where the folder hides no installed module."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def as_yaml(value: object) -> str:
    """A value as an override has it: JSON is YAML, and in quotation marks a text stays one."""
    return json.dumps(value, default=str, ensure_ascii=False)
