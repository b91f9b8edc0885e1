"""Noise processes in size units."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.errors import ConfigError


class Noise(ABC):
    """A noise process in size units. :meth:`sample` is called once a table step, :meth:`reset` an episode."""

    @abstractmethod
    def sample(self, num_entities: int, generator: torch.Generator) -> Tensor:
        """One number an entity, shape (n,), float64, in embedding dimensions."""

    def reset(self) -> None:  # noqa: B027 - most processes have no memory
        """Forgets the episode; only processes with a memory do anything."""

    def get_state(self) -> dict[str, Any]:
        """What the process remembers within an episode."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: B027 - most processes have no memory
        """Takes up what :meth:`get_state` returned."""


class NoNoise(Noise):
    """Zero everywhere."""

    def sample(self, num_entities: int, generator: torch.Generator) -> Tensor:
        """See the base class."""
        return torch.zeros(num_entities, dtype=torch.float64)


class Gaussian(Noise):
    """Independent normal noise of standard deviation ``sigma``; 6 size units in CIESS section 3."""

    def __init__(self, sigma: float = 6.0) -> None:
        self.sigma = sigma

    def sample(self, num_entities: int, generator: torch.Generator) -> Tensor:
        """See the base class."""
        return self.sigma * torch.randn(num_entities, generator=generator).double()


class Uniform(Noise):
    """Independent uniform noise in [-half_width, half_width]; the default has Gaussian(6)'s variance."""

    def __init__(self, half_width: float = 6.0 * math.sqrt(3.0)) -> None:
        self.half_width = half_width

    def sample(self, num_entities: int, generator: torch.Generator) -> Tensor:
        """See the base class."""
        return self.half_width * (
            2.0 * torch.rand(num_entities, generator=generator, dtype=torch.float64) - 1.0
        )


class OrnsteinUhlenbeck(Noise):
    """Noise that drifts back to zero, one process an entity, restarted at each episode.

    x ← x - theta x + sigma ε from x = 0. θ = 0.15 is that of DDPG (arXiv 1509.02971) section 7, σ = 3 puts
    its stationary deviation near the 6 size units of the Gaussian.
    """

    def __init__(self, sigma: float = 3.0, theta: float = 0.15) -> None:
        if theta > 1:
            raise ConfigError(f"noise 'ornstein_uhlenbeck': theta must be at most 1, not {theta:g}.")
        self.sigma, self.theta = sigma, theta
        self._x: Tensor | None = None

    def sample(self, num_entities: int, generator: torch.Generator) -> Tensor:
        """See the base class."""
        x = self._x if self._x is not None else torch.zeros(num_entities, dtype=torch.float64)
        draw = torch.randn(num_entities, generator=generator, dtype=torch.float64)
        self._x = x - self.theta * x + self.sigma * draw
        return self._x

    def reset(self) -> None:
        """See the base class."""
        self._x = None

    def get_state(self) -> dict[str, Any]:
        """See the base class."""
        return {"x": None if self._x is None else self._x.numpy().copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """See the base class."""
        self._x = None if state["x"] is None else torch.from_numpy(np.array(state["x"]))


NOISES: dict[str, Callable[..., Noise]] = {
    "none": NoNoise,
    "gaussian": Gaussian,
    "uniform": Uniform,
    "ornstein_uhlenbeck": OrnsteinUhlenbeck,
}
