"""Sizes as actions, the graph of sizes, and walks on it."""

import math

import torch
from torch import Tensor

from envs.errors import ConfigError


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
    best_values = values.amax(dim=1)
    # Several times faster than argmax: how many columns come before the first that is best.
    choice = torch.zeros_like(best_values, dtype=torch.int16)
    is_before = torch.ones_like(best_values, dtype=torch.bool)
    for column in values.unbind(dim=1):
        is_before &= column < best_values
        choice += is_before
    return candidates.gather(1, choice.long().unsqueeze(1)).squeeze(1), best_values
