"""CIESS-Ray: embedding sizes under a memory budget, searched with reinforcement learning on Ray."""

from importlib.metadata import version

from ciess_ray.own_packages import refuse_foreign_envs

__version__ = version("ciess-ray")

refuse_foreign_envs()
