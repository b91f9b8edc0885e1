"""Base recommenders: models trained a thousand times over, each time with other embedding sizes."""

import importlib
import inspect
import math
import sys
from typing import Any

import torch
from scipy.sparse import csr_array

from envs.errors import ConfigError, check_name
from envs.recommenders.base import (
    BaseRecommender,
    ClosedForm,
    DotProductRecommender,
)
from envs.recommenders.lightgcn import LightGCN
from envs.recommenders.mf import MF
from envs.recommenders.ncf import NCF
from envs.recommenders.neighbours import Ease, Neighbours
from envs.recommenders.ngcf import NGCF
from envs.recommenders.protocol import GIVEN, check_protocol, check_signature
from envs.recommenders.rows import RowWiseRecommender
from envs.recommenders.spectral import Spectral
from envs.sizes.embedding_sizes import EmbeddingSizes

RECOMMENDERS: dict[str, type[BaseRecommender]] = {
    "ease": Ease,
    "lightgcn": LightGCN,
    "mf": MF,
    "ncf": NCF,
    "neighbours": Neighbours,
    "ngcf": NGCF,
    "spectral": Spectral,
}

#: What a device may be called; auto is a GPU where there is one.
DEVICES = ("auto", "cpu", "cuda")

__all__ = [
    "DEVICES",
    "RECOMMENDERS",
    "BaseRecommender",
    "ClosedForm",
    "DotProductRecommender",
    "Ease",
    "LightGCN",
    "MF",
    "NCF",
    "NGCF",
    "Neighbours",
    "RowWiseRecommender",
    "Spectral",
    "build_recommender",
    "check_recommender",
    "find_recommender",
    "options_of",
    "own_source",
    "resolve_device",
]


def find_recommender(name: str) -> type[BaseRecommender]:
    """The class that a name in :data:`RECOMMENDERS` stands for, or that an import path leads to.

    Args:
        name: E.g. ``lightgcn``, or ``package.module:ClassName`` for a class of one's own; its module is
            imported.

    Raises:
        UnknownNameError: A name without a colon that is not in the table.
        ConfigError: There is no such module or class, its module cannot be imported, or the class does not
            derive from :class:`BaseRecommender`.
    """
    if ":" not in name:
        return RECOMMENDERS[check_name("recommender", name, [*RECOMMENDERS, "package.module:ClassName"])]
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # Of the module's own code, which may raise anything.
        raise ConfigError(
            f"recommender {name!r}: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            "Write package.module:ClassName, and run from the folder that holds the module, or name that "
            "folder in PYTHONPATH."
        ) from error
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseRecommender)
    }
    # A result is read back by the name of the class itself.
    if class_name not in classes or classes[class_name].__name__ != class_name:
        names = {value.__name__ for value in classes.values() if value.__module__ == module_name}
        raise ConfigError(
            f"recommender {name!r}: the module has no class of that name which derives from "
            "envs.recommenders.BaseRecommender, or from DotProductRecommender; its recommenders: "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    return classes[class_name]


def check_recommender(
    recommender: str | type[BaseRecommender], options: dict[str, Any]
) -> type[BaseRecommender]:
    """Refuse a recommender that cannot be used, or an option that it does not have or cannot use.

    Args:
        recommender: A name, see :func:`find_recommender`, or the class itself. One that is not in
            :data:`RECOMMENDERS` is checked against the protocol, once a process.
        options: What its constructor is given beside data and sizes.

    Returns:
        Its class.

    Raises:
        UnknownNameError: Naming the nearest recommender or option.
        ConfigError: There is no such class, or an option's value is not of the kind of its default.
        RecommenderProtocolError: The class breaks a rule of the protocol.
    """
    name = recommender if isinstance(recommender, str) else recommender.__name__
    recommender_class = find_recommender(name) if isinstance(recommender, str) else recommender
    is_own = recommender_class not in RECOMMENDERS.values()
    if is_own:
        check_signature(recommender_class)
    defaults = {
        option: parameter.default
        for option, parameter in inspect.signature(recommender_class).parameters.items()
        if option not in GIVEN
    }
    for option, value in options.items():
        check_name(f"option of the recommender {name}", option, defaults)
        number = (int, float) if isinstance(defaults[option], float) else int
        if not isinstance(value, number) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise ConfigError(
                f"the option {option} of the recommender {name} must be a number like {defaults[option]!r}, "
                f"at least 0, not {value!r}."
            )
    if is_own or options:
        check_protocol(recommender_class, tuple(sorted(options.items())), is_own=is_own)
    return recommender_class


def build_recommender(
    recommender: str | type[BaseRecommender],
    train: csr_array,
    sizes: EmbeddingSizes,
    *,
    generator: torch.Generator,
    device: torch.device | None = None,
    options: dict[str, Any] | None = None,
) -> BaseRecommender:
    """A freshly initialised recommender by its name, see :func:`find_recommender`, or by its class.

    Raises:
        CiessError: Those of :func:`check_recommender`.
    """
    options = options or {}
    recommender_class = check_recommender(recommender, options)
    return recommender_class(train, sizes, generator=generator, device=device, **options)


def options_of(recommender: BaseRecommender) -> dict[str, Any]:
    """Every option of a recommender as it was made, by name.

    One that the recommender does not keep under its name is left out.
    """
    names = inspect.signature(type(recommender)).parameters.keys() - set(GIVEN)
    values = {name: getattr(recommender, name, None) for name in sorted(names)}
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def own_source(name: str) -> str | None:
    """The code of a recommender that is not in :data:`RECOMMENDERS`, its own bases included; None otherwise.

    What was computed with such a class is known by its code: the name stays when the file is edited.
    """
    recommender_class = find_recommender(name)
    if recommender_class in RECOMMENDERS.values():
        return None
    modules = {cls.__module__ for cls in recommender_class.__mro__ if issubclass(cls, BaseRecommender)}
    others = sorted(module for module in modules if not module.startswith(f"{__name__}."))
    return "\n".join(inspect.getsource(sys.modules[module]) for module in others)


def resolve_device(name: str) -> torch.device:
    """The device that ``cpu``, ``cuda`` or ``auto`` (a GPU where there is one) stands for.

    Raises:
        UnknownNameError: Another name.
        ConfigError: CUDA was asked for where there is none.
    """
    check_name("device", name, DEVICES)
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("device 'cuda' was asked for, but PyTorch sees no GPU here: use 'auto' or 'cpu'.")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
