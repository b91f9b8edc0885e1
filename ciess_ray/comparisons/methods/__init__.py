"""Hand-made and competing ways to spend a budget, side by side with the search."""

from ciess_ray.comparisons.methods.by_hand import (
    EqualSizes,
    FullSize,
    MixedRandom,
    PopularItems,
    Popularity,
    Split,
    SplitInCommunities,
)
from ciess_ray.comparisons.methods.masks import DNIS, PEP, MagnitudePruning
from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.comparisons.methods.searched import Discrete, RandomSearch, Search

#: In the order of tables, then those of kept cells alone; ``ciess_ray.comparisons.config`` has the names.
METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        FullSize,
        EqualSizes,
        MixedRandom,
        Split,
        SplitInCommunities,
        Popularity,
        PopularItems,
        RandomSearch,
        MagnitudePruning,
        PEP,
        DNIS,
        Search,
        Discrete,
    )
}

__all__ = ["METHODS", "Method", "Problem"]
