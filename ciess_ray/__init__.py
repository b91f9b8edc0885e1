"""CIESS-Ray: embedding sizes under a memory budget, searched with reinforcement learning on Ray."""

from importlib.metadata import version

__version__ = version("ciess-ray")
