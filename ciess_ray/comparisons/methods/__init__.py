"""Hand-made and competing ways to spend a budget, side by side with the search."""

from ciess_ray.comparisons.methods.by_hand import (
    best_split,
    equal_table,
    full_table,
    mixed_random,
    popular_items,
    popularity,
)
from ciess_ray.comparisons.methods.masks import dnis, magnitude_pruning, pep
from ciess_ray.comparisons.methods.method import Method, Problem
from ciess_ray.comparisons.methods.searched import random_search, search

#: By name, in the order of tables; ``ciess_ray.comparisons.config`` has the names.
METHODS = {
    "full size": Method(full_table, needs_full=True),
    "equal sizes": Method(equal_table),
    "mixed random": Method(mixed_random),
    "split": Method(best_split, is_judging=True),
    # What is left of the search's lead over it is what sizes of each row's own are worth.
    "split in communities": Method(best_split, is_judging=True, is_search=True),
    "popularity": Method(popularity, is_judging=True),
    "popular items": Method(popular_items, is_judging=True),
    "random search": Method(random_search, is_judging=True, is_search=True),
    "magnitude pruning": Method(magnitude_pruning, needs_full=True),
    "pep": Method(pep),
    "dnis": Method(dnis),
    "search": Method(search, needs_full=True, is_judging=True, is_search=True),
    # Over six sizes: kept cells of it are read, and none is computed.
    "discrete": Method(search, needs_full=True, is_judging=True, is_search=True),
}

__all__ = ["METHODS", "Method", "Problem"]
