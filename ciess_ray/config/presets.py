"""What a mode of the search sets in the fields that its user has left alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ciess_ray.config.yaml_values import read_yaml

#: By ``search.mode``, the sections of a file of that name beside this one.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    mode: read_yaml(Path(__file__).with_name(f"{mode}.yaml").read_text(encoding="utf-8"))
    for mode in ("paper", "reference")
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run, with the fields that its mode sets where the user has not."""
    filled = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in values.items()
    }
    search = filled.get("search")
    mode = search.get("mode") if isinstance(search, Mapping) else None
    for section, fields in PRESETS.get(mode, {}).items() if isinstance(mode, str) else ():
        given = filled.get(section, {})
        # What is no section is refused later, and by its own name.
        if isinstance(given, Mapping):
            filled[section] = {**fields, **given}
    return filled
