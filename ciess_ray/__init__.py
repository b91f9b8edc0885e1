"""CIESS-Ray: embedding sizes under a memory budget, searched with reinforcement learning on Ray.

>>> import ciess_ray
>>> result = ciess_ray.search(ratings, budget="10%", user="customer", item="sku")  # doctest: +SKIP
>>> result.table()  # doctest: +SKIP

What is named here is imported when it is first asked for: Ray and PyTorch take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ciess_ray.own_packages import refuse_foreign_envs

if TYPE_CHECKING:
    from ciess_ray.front.stream import stream
    from ciess_ray.front.verbs import compare, load_result, search, sweep
    from ciess_ray.packed.table import PackedTable
    from ciess_ray.serving.recommender import ServedRecommender

    __version__: str

__all__ = [
    "PackedTable",
    "ServedRecommender",
    "__version__",
    "compare",
    "load_result",
    "search",
    "stream",
    "sweep",
]

_MODULES = {
    "PackedTable": "ciess_ray.packed.table",
    "ServedRecommender": "ciess_ray.serving.recommender",
    "compare": "ciess_ray.front.verbs",
    "load_result": "ciess_ray.front.verbs",
    "search": "ciess_ray.front.verbs",
    "stream": "ciess_ray.front.stream",
    "sweep": "ciess_ray.front.verbs",
}

refuse_foreign_envs()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ciess-ray")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
