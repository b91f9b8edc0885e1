"""Hand-made and competing ways to spend a budget, side by side with the search."""

from ciess_ray.comparisons.methods.dnis import DNIS
from ciess_ray.comparisons.methods.method import Ledger, Method, Problem
from ciess_ray.comparisons.methods.pep import PEP
from ciess_ray.comparisons.methods.popularity import (
    PopularItems,
    Popularity,
    RandomSearch,
    Split,
    SplitInCommunities,
)
from ciess_ray.comparisons.methods.pruning import MagnitudePruning
from ciess_ray.comparisons.methods.searched import Discrete, Search
from ciess_ray.comparisons.methods.untuned import EqualSizes, FullSize, MixedRandom

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

__all__ = ["METHODS", "Ledger", "Method", "Problem"]
