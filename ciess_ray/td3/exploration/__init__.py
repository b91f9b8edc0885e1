"""Exploration: noise on the proto-action, and the random walk on the size graph.

CIESS (arXiv 2304.03501) section 2.2.5. At its interface exploration speaks actions in [-1, 1]; inside, sizes
in embedding dimensions. Everything is an array over entities, and every draw is from the generator given.
"""

from ciess_ray.td3.exploration.size_graph import SizeGraph, pick_best, scale, unscale
from ciess_ray.td3.exploration.walk import (
    EXPLORATIONS,
    NOISES,
    Critic,
    Exploration,
    Explored,
    Noise,
    RandomWalk,
    build_exploration,
    seeded_generator,
)

__all__ = [
    "EXPLORATIONS",
    "NOISES",
    "Critic",
    "Exploration",
    "Explored",
    "Noise",
    "RandomWalk",
    "SizeGraph",
    "build_exploration",
    "pick_best",
    "scale",
    "seeded_generator",
    "unscale",
]
