"""What a mode of the search sets in the fields that its user has left alone."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

#: What a ``search.mode`` sets in fields that the user has left alone, beside the ``fresh`` steps of both.
#: ``paper`` is CIESS (arXiv 2304.03501) sections 2.2 and 3 for LightGCN on ML-1M, ``reference`` what its
#: authors' released code does.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "search.memory_weight": 0.4,
        "search.num_warmup_steps": 0,
        "search.num_greedy_steps": 0,
        "agent.gamma": 0.99,
        "agent.updates_per_step": 1,
        "agent.imitation_weight": 0.0,
    },
    "reference": {
        "search.episode_length": 11,
        "search.batches_per_step": 2,
        "search.memory_weight": 0.01,
        "search.num_warmup_steps": 0,
        "search.num_greedy_steps": 0,
        "agent.gamma": 0.99,
        "agent.updates_per_step": 1,
        "agent.imitation_weight": 0.0,
        "agent.exploration": {
            "name": "random_walk",
            "noise": "gaussian",
            "is_noise_shared": True,
            "is_noise_last": True,
        },
    },
}


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run, with the fields that its mode sets where the user has not."""
    filled = dict(values)

    def given(section: str) -> Any:
        fields = filled.get(section, {})
        return fields.model_dump(exclude_unset=True) if isinstance(fields, BaseModel) else fields

    search = given("search")
    mode = search.get("mode") if isinstance(search, Mapping) else None
    for name, value in PRESETS.get(mode, {}).items() if isinstance(mode, str) else ():
        section, field = name.split(".")
        fields = given(section)
        # What is no section is refused later, and by its own name.
        if isinstance(fields, Mapping):
            filled[section] = {field: value} | dict(fields)
    return filled
