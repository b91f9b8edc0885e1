"""Normalised adjacency of the user-item graph and its product with an embedding table."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import block_array, csr_array, eye_array
from torch import Tensor

from envs.errors import ConfigError
from envs.pairs import sparse_tensor

#: Numbers of float32 in a vector register of AVX2.
_REGISTER = 8
#: Up to so many a product is not quicker for whole registers.
_FEW_COLUMNS = 16
#: Propagations that a recommender may have.
MAX_LAYERS = 100


def symmetric_weights(train: csr_array) -> csr_array:
    """Each interaction over the roots of both degrees: the upper right of D^-1/2 A D^-1/2, users first.

    LightGCN (arXiv 2002.02126) equation 8. A row without interactions stays zero.

    Args:
        train: Training interactions, ones, shape (num_users, num_items), sorted indices.

    Returns:
        Of the same shape, float32; shares its indices.
    """
    degrees = np.diff(train.indptr), np.bincount(train.indices, minlength=train.shape[1])
    user_scale, item_scale = (1.0 / np.sqrt(np.maximum(degree, 1)) for degree in degrees)
    weights = (np.repeat(user_scale, degrees[0]) * item_scale[train.indices]).astype(np.float32)
    return csr_array((weights, train.indices, train.indptr), shape=train.shape)


def row_normalised_adjacency(train: csr_array) -> csr_array:
    """D^-1 (A + I) of the bipartite graph, users first, then items; D is the row sum of A + I.

    NGCF (arXiv 1905.08108) in the authors' code. A row without interactions is left with itself.

    Args:
        train: Training interactions, ones, shape (num_users, num_items).

    Returns:
        Shape (num_users + num_items,) squared, float32, int32 indices, sorted; not symmetric, but an entry
        has its mirror image.
    """
    adjacency = block_array([[None, train], [train.T, None]])
    with_self = csr_array(adjacency + eye_array(adjacency.shape[0], dtype=np.float32))
    with_self.sort_indices()
    degrees = np.diff(with_self.indptr)
    with_self.data = np.repeat(1.0 / degrees, degrees).astype(np.float32)
    return with_self


def to_torch(matrix: csr_array, device: torch.device) -> Tensor:
    """A sparse CSR tensor of the matrix; on the CPU it shares its memory."""
    with warnings.catch_warnings():
        # Nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        indptr, indices, values = (
            torch.from_numpy(part).to(device) for part in (matrix.indptr, matrix.indices, matrix.data)
        )
    return sparse_tensor(indptr, indices, values, matrix.shape)


class TiledAdjacency:
    """D^-1/2 A D^-1/2 of the bipartite graph of interactions, cut so that a product reads from the cache.

    A product gathers a row of the table for every interaction, in no order; beyond the cache each of them
    waits for memory. Here users gather from one slice of the items after another, and items from slices of
    the users, each slice of some ``tile_bytes``; what is written more often for it is written in order.

    Args:
        train: Training interactions, ones, shape (num_users, num_items), sorted indices.
        width: Columns of the widest table that will be multiplied.
        device: Where the products are taken; only a CPU's are cut.
        tile_bytes: Bytes of the table that a slice should have; about a core's second-level cache.
        least_entries: Slices are larger where a row, which is read and written for each of them, would
            have fewer entries in one, on average.

    Attributes:
        user_tiles: First item and matrix (num_users, items of the slice), slice after slice.
        item_tiles: First user and matrix (num_items, users of the slice).
    """

    def __init__(
        self,
        train: csr_array,
        width: int,
        device: torch.device,
        tile_bytes: int = 2**20,
        least_entries: int = 4,
    ) -> None:
        self._num_rows = list(train.shape)
        num_columns = max(tile_bytes // (4 * width), 1) if device.type == "cpu" else sum(train.shape)
        weights = symmetric_weights(train)
        # The adjacency is symmetric: a slice of one half's columns is a slice of the other half's rows.
        self.user_tiles, self.item_tiles = (
            _cut_columns(half, num_columns, least_entries, device) for half in (weights.T.tocsr(), weights)
        )

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Those of users, and those of items."""
        user, item = torch.split(rows, self._num_rows)
        return user, item

    def cross(self, rows: Tensor, side: int) -> Tensor:
        """What the rows of one side bring to the other.

        Args:
            rows: Those of all users or all items, shape (n, width), contiguous.
            side: Whose they are: 0 for users, 1 for items.

        Returns:
            Shape (m, width), a row for each of the others.
        """
        tiles = self.user_tiles if side else self.item_tiles
        total = rows.new_empty(tiles[0][1].shape[0], rows.shape[1])
        for first, tile in tiles:
            torch.addmm(total, tile, rows[first : first + tile.shape[1]], beta=float(first > 0), out=total)
        return total


def _cut_columns(
    transposed: csr_array, num_columns: int, least_entries: int, device: torch.device
) -> list[tuple[int, Tensor]]:
    """Slices of a matrix's columns, from its transpose, each with its first column."""
    num_slices = max(transposed.nnz // max(least_entries * transposed.shape[1], 1), 1)
    num_columns = max(num_columns, -(-transposed.shape[0] // num_slices))
    tiles = []
    for first in range(0, transposed.shape[0], num_columns):
        tile = transposed[first : first + num_columns].T.tocsr()
        parts = (tile.data, tile.indices.astype(np.int32), tile.indptr.astype(np.int32))
        tiles.append((first, to_torch(csr_array(parts, shape=tile.shape), device)))
    return tiles


def _whole_registers(rows: Tensor) -> Tensor:
    """The rows, contiguous, and columns of zeros that fill the last vector register.

    What a product does for the columns beyond the last whole register takes longer than a register more.
    """
    num_columns = rows.shape[1]
    if num_columns <= _FEW_COLUMNS or num_columns % _REGISTER == 0:
        return rows.contiguous()
    return F.pad(rows, (0, -num_columns % _REGISTER))


class _MeanOfLayers(torch.autograd.Function):
    """See :func:`mean_of_layers`; what it does to a table is symmetric, and so its gradient's way back."""

    @staticmethod
    def forward(
        ctx: Any, adjacency: TiledAdjacency, table: Tensor, widths: tuple[int, int], num_layers: int
    ) -> Tensor:
        ctx.adjacency, ctx.widths, ctx.num_layers = adjacency, widths, num_layers
        total = table.clone()
        totals = adjacency.split(total)
        layers = [
            _whole_registers(rows[:, :width])
            for rows, width in zip(adjacency.split(table), widths, strict=True)
        ]
        for depth in range(num_layers):
            for began, width in enumerate(widths):
                # Whose the rows are by now that began as users' (0) or items' (1).
                side = (began + depth) % 2
                layers[began] = adjacency.cross(layers[began], side)
                totals[1 - side][:, :width] += layers[began][:, :width]
        return total.div_(num_layers + 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None, None]:
        adjacency, num_layers = ctx.adjacency, ctx.num_layers
        mean = grads[0] / (num_layers + 1)
        means = adjacency.split(mean)
        grad = torch.zeros_like(mean)
        for began, width in enumerate(ctx.widths):
            # Horner's scheme, from the last layer back to the table.
            layer = _whole_registers(means[(began + num_layers) % 2][:, :width])
            for depth in range(num_layers, 0, -1):
                layer = adjacency.cross(layer, (began + depth) % 2)
                layer[:, :width] += means[(began + depth - 1) % 2][:, :width]
            adjacency.split(grad)[began][:, :width] = layer[:, :width]
        return None, grad, None, None


def mean_of_layers(
    adjacency: TiledAdjacency, table: Tensor, widths: tuple[int, int], num_layers: int
) -> Tensor:
    """(x + A x + ... + A^L x) / (L + 1) for a table x, differentiable in it.

    Every product takes what is with users to items, and the other way round, so that what began with the
    users and what began with the items never meet. Each is multiplied at its own width: where items have a
    column or two beside twenty of users, half of the work is left.

    Args:
        adjacency: A, symmetric, shape (n, n).
        table: x, shape (n, width).
        widths: Columns beyond which the rows of users, and those of items, are zero; no gradient goes there.
        num_layers: L, 0 or more.

    Returns:
        Shape (n, width).
    """
    mean: Tensor = _MeanOfLayers.apply(adjacency, table, widths, num_layers)  # type: ignore[no-untyped-call]
    return mean


class _Product(torch.autograd.Function):
    """A @ x, whose gradient in x is the product with the transpose."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ grads[0].contiguous()


def dropout_factors(like: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """What to multiply with: 0 with a probability, elsewhere what keeps the expectation.

    Args:
        like: Gives shape and device.
        rate: The probability, below 1.
        generator: What is drawn from, on that device; PyTorch's own dropout takes none.
    """
    # Half the time of bernoulli_ on a CPU.
    return torch.rand(like.shape, generator=generator, device=like.device).ge_(rate).div_(1 - rate)


def check_num_layers(name: str, num_layers: int) -> None:
    """Refuse a depth that no embedding survives.

    Raises:
        ConfigError: It is above :data:`MAX_LAYERS`.
    """
    if num_layers > MAX_LAYERS:
        raise ConfigError(
            f"the option num_layers of the recommender {name} must be at most {MAX_LAYERS}, not {num_layers}."
        )


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A matrix with its transpose, for products that are differentiable in what it is multiplied with.

    Attributes:
        matrix: Sparse CSR, shape (n, m).
        transposed: Sparse CSR, shape (m, n).
        order: Where a value of the transpose stands among those of the matrix, shape (nnz,), int32.
    """

    matrix: Tensor
    transposed: Tensor
    order: Tensor

    @classmethod
    def of(cls, matrix: csr_array, device: torch.device) -> "SparseMatrix":
        """The matrix and its transpose, on a device."""
        places = csr_array(
            (np.arange(matrix.nnz, dtype=np.int32), matrix.indices, matrix.indptr), shape=matrix.shape
        ).T.tocsr()
        order = places.data
        transposed = csr_array((matrix.data[order], places.indices, places.indptr), shape=places.shape)
        return cls(to_torch(matrix, device), to_torch(transposed, device), torch.from_numpy(order).to(device))

    def drop(self, rate: float, generator: torch.Generator) -> "SparseMatrix":
        """The matrix without a random share of its entries, the others raised to keep its expectation.

        The entries stay in place as zeros, so that neither their order nor the transpose's is found anew.

        Args:
            rate: Probability of an entry to be dropped, below 1.
            generator: What is drawn from; on the device of the matrix.
        """
        values = dropout_factors(self.matrix.values(), rate, generator).mul_(self.matrix.values())
        return replace(
            self,
            matrix=_with_values(self.matrix, values),
            transposed=_with_values(self.transposed, values.index_select(0, self.order)),
        )

    def __matmul__(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(self.matrix, self.transposed, x)  # type: ignore[no-untyped-call]
        return product


def _with_values(matrix: Tensor, values: Tensor) -> Tensor:
    return sparse_tensor(matrix.crow_indices(), matrix.col_indices(), values, matrix.shape)
