"""Base recommenders: models trained a thousand times over, each time with other embedding sizes."""

import inspect
from typing import Any

import torch
from scipy.sparse import csr_array

from envs.budget import EmbeddingSizes
from envs.errors import ConfigError, UnknownNameError
from envs.recommenders.base import BaseRecommender, DotProductRecommender
from envs.recommenders.lightgcn import LightGCN
from envs.recommenders.mf import MF

RECOMMENDERS: dict[str, type[BaseRecommender]] = {"lightgcn": LightGCN, "mf": MF}

_GIVEN = {"self", "train", "sizes", "generator", "device"}

__all__ = [
    "RECOMMENDERS",
    "BaseRecommender",
    "DotProductRecommender",
    "LightGCN",
    "MF",
    "build_recommender",
    "check_recommender",
    "resolve_device",
]


def check_recommender(name: str, options: dict[str, Any]) -> None:
    """Refuse a recommender that is in no table, or an option that it does not have or cannot use.

    Raises:
        UnknownNameError: Naming the nearest recommender or option.
        ConfigError: An option's value is not of the kind of its default.
    """
    if name not in RECOMMENDERS:
        raise UnknownNameError("recommender", name, RECOMMENDERS)
    known = {k: v for k, v in inspect.signature(RECOMMENDERS[name]).parameters.items() if k not in _GIVEN}
    for option, value in options.items():
        if option not in known:
            raise UnknownNameError(f"option of the recommender {name}", option, known)
        number = (int, float) if isinstance(known[option].default, float) else type(known[option].default)
        if not isinstance(value, number) or isinstance(value, bool) or not value >= 0:
            raise ConfigError(
                f"the option {option} of the recommender {name} must be a number like "
                f"{known[option].default!r}, at least 0, not {value!r}."
            )


def build_recommender(
    name: str,
    train: csr_array,
    sizes: EmbeddingSizes,
    *,
    generator: torch.Generator,
    device: torch.device | None = None,
    options: dict[str, Any] | None = None,
) -> BaseRecommender:
    """A freshly initialised recommender by its name in :data:`RECOMMENDERS`.

    Raises:
        UnknownNameError: There is no such recommender, or it has no such option.
    """
    options = options or {}
    check_recommender(name, options)
    return RECOMMENDERS[name](train, sizes, generator=generator, device=device, **options)


def resolve_device(name: str) -> torch.device:
    """The device that ``cpu``, ``cuda`` or ``auto`` (a GPU where there is one) stands for.

    Raises:
        UnknownNameError: Another name.
        ConfigError: CUDA was asked for where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda"))
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("device 'cuda' was asked for, but PyTorch sees no GPU here: use 'auto' or 'cpu'.")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
