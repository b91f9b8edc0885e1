"""``ciess-ray track``: a folder that is over, into MLflow."""

from typing import Annotated

import typer

from ciess_ray.terminal import console
from envs.errors import ConfigError

#: What may be said of a run that is over, or that goes on as it was configured.
TRACKING_FIELDS = "tracking."


def track(
    folder: Annotated[str, typer.Argument(help="Of a search, a sweep or a comparison.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Where to, if elsewhere.", metavar="[tracking.FIELD=VALUE]...")
    ] = None,
) -> None:
    """Send what a folder holds to MLflow, where it was not recorded, or not all of it.

    Runs that the store knows are gone on with, so that a folder may be sent as often as one likes:

      ciess-ray track runs/quickstart

      ciess-ray track runs/quickstart tracking.uri=http://127.0.0.1:5000 tracking.experiment=mine
    """
    given = overrides or []
    others = [change for change in given if not change.startswith(TRACKING_FIELDS)]
    if others:
        raise ConfigError(
            f"track {others[0]}: only where to is said beside the folder: {TRACKING_FIELDS}uri=..."
        )
    # PyTorch and Ray take seconds to import.
    from ciess_ray.cli.late_tracking import send

    uri, problems = send(folder, given)
    for problem in problems:
        console.say(problem, "not recorded:", "yellow")
    if problems:
        raise typer.Exit(1)
    console.say(f"recorded: {folder} in {uri}")
