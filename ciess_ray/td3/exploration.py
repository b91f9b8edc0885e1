"""Exploration: noise on the proto-action, and the random walk on the size graph.

CIESS (arXiv 2304.03501) section 2.2.5. At its interface exploration speaks actions in [-1, 1]; inside, sizes
in embedding dimensions. Everything is an array over entities, and every draw is from the generator given.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.errors import ConfigError, check_name

#: Values of actions in states, each state with its action behind it: ``critic((n, 4)) -> (n,)``.
Critic = Callable[[Tensor], Tensor]
#: One number an entity: ``noise(n, generator) -> (n,)``, float64, in embedding dimensions.
Noise = Callable[[int, torch.Generator], Tensor]

#: The longest walks and steps, whose cost grows with them, and the greatest other arguments.
_MOST_STEPS, _MOST = 1_000, 1_000_000


def scale(sizes: Tensor, min_embedding_size: int, max_embedding_size: int) -> Tensor:
    """Sizes as actions: d_min is -1, d_max is +1. The torch twin of ``envs.mdp.scale_size``."""
    span = max(max_embedding_size - min_embedding_size, 1)
    return (2.0 * (sizes.double() - min_embedding_size) / span - 1.0).float()


def unscale(action: Tensor, min_embedding_size: int, max_embedding_size: int) -> Tensor:
    """Actions as real-valued sizes, not clipped. The torch twin of ``envs.mdp.unscale_size``."""
    return min_embedding_size + (action.double() + 1.0) * ((max_embedding_size - min_embedding_size) / 2.0)


class SizeGraph:
    """Sizes joined by an edge where they differ by at most ``max_step``; CIESS equations 12 and 13.

    A step goes to a neighbour with probability proportional to 1 / |difference|; it never stays and never
    leaves the bounds. Where there is a single size, there is nowhere to go and the walk stays.

    Args:
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        max_step: t of CIESS, 5 there.

    Attributes:
        offsets: What a neighbour differs by, shape (2 * max_step,).
        probabilities: Of each offset from each size, d_min first; 0 where the neighbour is out of bounds.
    """

    def __init__(self, min_embedding_size: int, max_embedding_size: int, max_step: int = 5) -> None:
        if not 1 <= min_embedding_size <= max_embedding_size or max_step < 1:
            raise ConfigError(
                f"need 1 <= min_embedding_size <= max_embedding_size and max_step >= 1, not "
                f"{min_embedding_size}, {max_embedding_size} and {max_step}."
            )
        self.min_embedding_size = min_embedding_size
        self.max_embedding_size = max_embedding_size
        steps = torch.arange(1, max_step + 1)
        self.offsets = torch.cat([-steps.flip(0), steps])
        sizes = torch.arange(min_embedding_size, max_embedding_size + 1)
        target = sizes[:, None] + self.offsets
        weight = (1.0 / self.offsets.abs().double()) * (
            (target >= min_embedding_size) & (target <= max_embedding_size)
        )
        total = weight.sum(dim=1, keepdim=True)
        self.probabilities = torch.where(total > 0, weight / total.clamp_min(1e-300), 0.0)
        self._thresholds, self._next = self._alias_table()

    def random_walk(self, start: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
        """The start and every size visited.

        The alias method (Walker 1977): with k neighbours, k u falls into one of k equal cells, and its
        fraction says which of the two neighbours that share the cell is meant.

        Args:
            start: Sizes, shape (n,), integer.
            num_steps: Length of the walk, in steps.
            generator: The generator drawn from.

        Returns:
            Shape (n, num_steps + 1), int64; one step of all entities is contiguous.
        """
        row = start.long() - self.min_embedding_size
        visited = [row]
        num_cells = self.offsets.numel()
        for _ in range(num_steps):
            # Drawn in single precision and reckoned in double, k u + k row is exact and stays in its row.
            draw = torch.rand(row.shape[0], generator=generator).double()
            position = draw.mul_(num_cells).add_(row, alpha=num_cells)
            cell = position.long()
            is_alias = position.frac_() >= self._thresholds.index_select(0, cell)
            row = self._next.index_select(0, is_alias.long().add_(cell, alpha=2))
            visited.append(row)
        return torch.stack(visited).add_(self.min_embedding_size).T

    def _alias_table(self) -> tuple[Tensor, Tensor]:
        """Where in each cell its second neighbour begins, and the row either neighbour leads to."""
        num_rows, num_cells = self.probabilities.shape
        rows, columns = torch.arange(num_rows), torch.arange(num_cells)
        unsettled = self.probabilities * num_cells
        thresholds = torch.ones(num_rows, num_cells, dtype=torch.float64)
        alias = columns.repeat(num_rows, 1)
        is_settled = torch.zeros(num_rows, num_cells, dtype=torch.bool)
        for _ in range(num_cells - 1):
            # The poorest neighbour left gets a cell of its own, and the richest gives what fills it.
            poorest = unsettled.masked_fill(is_settled, math.inf).argmin(dim=1)
            richest = unsettled.masked_fill(is_settled, -math.inf).argmax(dim=1)
            share = unsettled[rows, poorest]
            thresholds[rows, poorest] = share
            alias[rows, poorest] = richest
            unsettled[rows, richest] -= 1.0 - share
            is_settled[rows, poorest] = True
        leads_to = rows[:, None] + self.offsets
        # A neighbour out of bounds has a threshold of 0; with a single size there is no other either.
        leads_to = leads_to.clamp(0, num_rows - 1)
        both = torch.stack([leads_to, leads_to.gather(1, alias)], dim=2)
        return thresholds.ravel(), both.ravel()


def pick_best(candidates: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate with the largest value in each row, the first of equals, and its value.

    Args:
        candidates: Shape (n, k).
        values: Shape (n, k).

    Returns:
        Shape (n,) both.
    """
    # NumPy takes the first of equals, PyTorch any.
    choice = torch.from_numpy(values.numpy().argmax(axis=1)).unsqueeze(1)
    return candidates.gather(1, choice).squeeze(1), values.gather(1, choice).squeeze(1)


def no_noise(num_entities: int, generator: torch.Generator) -> Tensor:
    """Zero everywhere."""
    return torch.zeros(num_entities, dtype=torch.float64)


def gaussian(num_entities: int, generator: torch.Generator, sigma: float = 6.0) -> Tensor:
    """Independent normal noise of standard deviation ``sigma``; 6 size units in CIESS section 3."""
    return sigma * torch.randn(num_entities, generator=generator).double()


def uniform(
    num_entities: int, generator: torch.Generator, half_width: float = 6.0 * math.sqrt(3.0)
) -> Tensor:
    """Independent uniform noise in [-half_width, half_width]; the default has Gaussian(6)'s variance."""
    return half_width * (2.0 * torch.rand(num_entities, generator=generator, dtype=torch.float64) - 1.0)


NOISES: dict[str, Callable[..., Tensor]] = {"none": no_noise, "gaussian": gaussian, "uniform": uniform}


class Explored(NamedTuple):
    """What :meth:`Exploration.explore` says of each entity.

    Attributes:
        actions: Actions to try, shape (n,), float32, in [-1, 1].
        walk_gains: What the critic values the end of a walk more than its start, shape (n,), never negative;
            0 where nothing walks.
    """

    actions: Tensor
    walk_gains: Tensor


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the key alone, e.g. (seed, worker index, step): nothing to checkpoint."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed) >> 1)


class Exploration:
    """How the actor's proto-actions become the actions tried; here noise is added and that is all.

    :meth:`explore` is called twice a table step, for users and then for items.

    Args:
        noise: What is added, in size units.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        is_noise_shared: Whether one draw of the noise moves all entities alike, as in the authors' released
            code, read as one for all users and another for all items; each entity draws its own otherwise.
    """

    def __init__(
        self,
        noise: Noise,
        min_embedding_size: int,
        max_embedding_size: int,
        is_noise_shared: bool = False,
    ) -> None:
        self.noise = noise
        self.min_embedding_size = min_embedding_size
        self.max_embedding_size = max_embedding_size
        self.is_noise_shared = is_noise_shared

    def explore(
        self, obs: Tensor, proto_action: Tensor, critic: Critic, generator: torch.Generator
    ) -> Explored:
        """Actions to try.

        Args:
            obs: States, shape (n, 3).
            proto_action: What the actor would do, shape (n,), in [-1, 1].
            critic: Values of actions, of which a subclass may make use.
            generator: The generator drawn from.
        """
        sizes = self._noisy_sizes(proto_action, generator)
        actions = scale(sizes, self.min_embedding_size, self.max_embedding_size)
        return Explored(actions, torch.zeros_like(actions))

    def _noisy_sizes(self, proto_action: Tensor, generator: torch.Generator) -> Tensor:
        sizes = unscale(proto_action, self.min_embedding_size, self.max_embedding_size)
        num_draws = 1 if self.is_noise_shared else sizes.shape[0]
        sizes = sizes + self.noise(num_draws, generator)
        return sizes.clamp(self.min_embedding_size, self.max_embedding_size)


class RandomWalk(Exploration):
    """Noise, then a walk on the size graph from the rounded size, then the critic's choice; CIESS 2.2.5.

    The start and the sizes visited are scored by critic 1 at the entity's state, and the best is taken.

    Args:
        noise: See the base class.
        min_embedding_size: d_min.
        max_embedding_size: d_max.
        num_steps: Length of the walk, 5 in CIESS.
        max_step: Largest difference along an edge, 5 in CIESS.
        is_noise_shared: See the base class.
        is_noise_last: Whether the walk starts where the actor would go and the noise moves the critic's
            choice, as in the authors' released code; the size tried need be none that the critic has scored.
    """

    def __init__(
        self,
        noise: Noise,
        min_embedding_size: int,
        max_embedding_size: int,
        num_steps: int = 5,
        max_step: int = 5,
        is_noise_shared: bool = False,
        is_noise_last: bool = False,
    ) -> None:
        super().__init__(noise, min_embedding_size, max_embedding_size, is_noise_shared)
        self.is_noise_last = is_noise_last
        self.num_steps = num_steps
        self.graph = SizeGraph(min_embedding_size, max_embedding_size, max_step)
        # By size.
        self._actions = scale(torch.arange(max_embedding_size + 1), min_embedding_size, max_embedding_size)

    def explore(
        self, obs: Tensor, proto_action: Tensor, critic: Critic, generator: torch.Generator
    ) -> Explored:
        """See the base class."""
        bounds = self.min_embedding_size, self.max_embedding_size
        if self.is_noise_last:
            start = unscale(proto_action, *bounds).round()
        else:
            start = self._noisy_sizes(proto_action, generator).round()
        candidates = self.graph.random_walk(start, self.num_steps, generator)
        values = self._score(obs, candidates, critic)
        best, best_values = pick_best(candidates, values)
        actions = scale(best, *bounds)
        if self.is_noise_last:
            actions = scale(self._noisy_sizes(actions, generator), *bounds)
        return Explored(actions, best_values - values[:, 0])

    def _score(self, obs: Tensor, candidates: Tensor, critic: Critic) -> Tensor:
        """Values of the candidates, shape (n, k); -inf where a walk has been at the size before.

        A sixth of the sizes that walks of five steps visit are such returns, and need no second value.
        """
        # NumPy compares, and copies whole rows, several times faster than PyTorch.
        sizes = candidates.T.numpy()
        values = torch.full(sizes.shape, -math.inf)
        inputs = torch.cat([obs, obs.new_empty(len(obs), 1)], dim=1)
        for step, step_values in enumerate(values):
            inputs[:, -1] = self._actions.index_select(0, candidates[:, step])
            if step < 2:
                # A walk never stays, so that its first two sizes differ.
                step_values.copy_(critic(inputs))
                continue
            is_new = np.logical_and.reduce([sizes[step] != sizes[i] for i in range(step - 1)])
            rows = np.flatnonzero(is_new)
            new_values = critic(torch.from_numpy(inputs.numpy().take(rows, axis=0)))
            step_values.index_copy_(0, torch.from_numpy(rows), new_values)
        return values.T


EXPLORATIONS: dict[str, Callable[..., Exploration]] = {"noise": Exploration, "random_walk": RandomWalk}


def _chosen(what: str, spec: Mapping[str, Any], choices: Mapping[str, Callable[..., Any]]) -> partial[Any]:
    """What a description names, with its arguments: of the kind of their defaults, and in proportion.

    Args:
        what: What it describes, e.g. ``"noise"``.
        spec: ``name``, one of the choices, and arguments that have a default.
        choices: By name.

    Raises:
        UnknownNameError: The name is none of them.
        ConfigError: There is no such argument, or its value is of another kind or out of all proportion.
    """
    arguments = dict(spec)
    name = check_name(what, str(arguments.pop("name")), choices)
    parameters = inspect.signature(choices[name]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    for argument, value in arguments.items():
        if argument not in defaults:
            raise ConfigError(
                f"{what} {name!r}: has no argument {argument!r}; known: {', '.join(defaults) or 'none'}."
            )
        default = defaults[argument]
        is_flag = isinstance(default, bool)
        kinds, most = (int, _MOST_STEPS) if isinstance(default, int) else ((int, float), _MOST)
        if not isinstance(value, kinds) or isinstance(value, bool) != is_flag or not 0 <= value <= most:
            needed = "true or false" if is_flag else f"a number like {default:g}, from 0 to {most:,}"
            raise ConfigError(f"{what} {name!r}: {argument} must be {needed}, not {value!r}.")
    return partial(choices[name], **arguments)


def build_exploration(
    spec: Mapping[str, Any], min_embedding_size: int, max_embedding_size: int
) -> Exploration:
    """An exploration from its description.

    Args:
        spec: ``name`` of :data:`EXPLORATIONS`, ``noise`` (a name of :data:`NOISES`, or a mapping with
            ``name`` and its arguments), and the arguments of the exploration itself, e.g.
            ``{"name": "random_walk", "noise": {"name": "gaussian", "sigma": 6.0}, "num_steps": 5}``.
        min_embedding_size: d_min.
        max_embedding_size: d_max.

    Raises:
        UnknownNameError: A name is in no table.
        ConfigError: An argument is not known to what it was given to, or has a value that it cannot have.
    """
    arguments = {"name": "random_walk", "noise": "gaussian"} | dict(spec)
    noise_spec = arguments.pop("noise")
    if not isinstance(noise_spec, (str, Mapping)):
        raise ConfigError(f"noise must be a name or a mapping with a name and arguments, not {noise_spec!r}.")
    noise_arguments = {"name": noise_spec} if isinstance(noise_spec, str) else noise_spec
    noise = _chosen("noise", {"name": "gaussian"} | dict(noise_arguments), NOISES)
    exploration = _chosen("exploration", arguments, EXPLORATIONS)
    built: Exploration = exploration(noise, min_embedding_size, max_embedding_size)
    return built
