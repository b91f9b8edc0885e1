"""Neighbour tables: of each item its nearest items, in closed form and without rows of users.

The size of an item is its number of neighbours, and a row cut to a size keeps the largest. Weights are either
cosines of items by the users they share (item-kNN; Deshpande and Karypis, TOIS 2004) or those of EASE (arXiv
1905.03375), the closed form of a linear autoencoder without self-loops.

A row is read in one of two ways. *Incoming*: an item's score is the sum of the weights of those of its
neighbours that a user had. *Outgoing*: each item that a user had adds its weights to the scores of its
neighbours. Uncut the two are one for cosines; which is better once rows are short differs by data and by
their length.
"""

import os

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.recommenders.base import ClosedForm, Encoded
from envs.recommenders.propagation import to_torch
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Interactions' products that are held at once.
_PRODUCTS_AT_ONCE = 2**24
#: Dense matrices of items by items, in float64, that EASE holds at its peak.
_NUM_DENSE = 3


def item_cosines(train: csr_array, num_neighbours: int) -> csr_array:
    """Cosines of items by the users they share, of each item its largest ones.

    Nothing is dense: pairs that share a user are multiplied out a block of items at a time.

    Args:
        train: Ones, shape (num_users, num_items).
        num_neighbours: What is kept of each item, where there are so many; of equals the first.

    Returns:
        Shape (num_items, num_items), float64, rows not sorted by column but by size; nothing on the diagonal.
    """
    num_items = train.shape[1]
    norms = np.sqrt(np.maximum(np.bincount(train.indices, minlength=num_items), 1))
    scaled = csr_array((1.0 / norms[train.indices], train.indices, train.indptr), shape=train.shape)
    by_item = scaled.T.tocsr()
    # A product a pair of items of each user who had the first.
    lengths = np.diff(train.indptr)
    products = np.cumsum(csr_array(train.T) @ lengths.astype(np.float64))
    borders = np.unique(np.searchsorted(products, np.arange(0, products[-1] + 1, _PRODUCTS_AT_ONCE)))
    blocks = []
    for first, last in zip(borders, [*borders[1:], num_items], strict=True):
        blocks.append(cut_rows(without_diagonal(by_item[first:last] @ scaled, int(first)), num_neighbours))
    return csr_array(vstack(blocks, format="csr"))


def ease(train: csr_array, l2: float, num_neighbours: int) -> csr_array:
    """Weights of EASE, of each item the largest that it has for others: its row of B in X B.

    Args:
        train: Ones, shape (num_users, num_items).
        l2: λ, above 0, in interactions.
        num_neighbours: As in :func:`item_cosines`; by absolute value.

    Returns:
        As :func:`item_cosines`.

    Raises:
        ConfigError: This machine has no memory for matrices of items by items.
    """
    num_items = train.shape[1]
    needed, there = _NUM_DENSE * num_items**2 * 8, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ConfigError(
            f"EASE inverts a matrix of items by items: {_NUM_DENSE} of {num_items:,} x {num_items:,} numbers "
            f"take {needed / 1e9:,.1f} GB, and this machine has {there / 1e9:,.1f} GB. Leave out "
            "recommender.options.ease_l2, which leaves cosines."
        )
    gram = (train.T @ train).toarray().astype(np.float64)
    gram[np.diag_indices(num_items)] += l2
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return cut_rows(csr_array(weights), num_neighbours)


def without_diagonal(matrix: csr_array, first: int) -> csr_array:
    """Rows of a square matrix, the first of them row ``first``, without what is on its diagonal."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    kept = matrix.indices != rows + first
    return _of_rows(matrix.data[kept], matrix.indices[kept], rows[kept], matrix.shape)


def cut_rows(matrix: csr_array, num_kept: int) -> csr_array:
    """The largest entries of each row by absolute value, largest first; of equals the first column."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -np.abs(matrix.data), rows))
    # Rows stay where they were, since each is sorted within itself.
    order = order[np.arange(len(order)) - matrix.indptr[rows] < num_kept]
    return _of_rows(matrix.data[order], matrix.indices[order], rows[order], matrix.shape)


def _of_rows(
    data: NDArray[np.float64], columns: NDArray[np.integer], rows: NDArray[np.int64], shape: tuple[int, int]
) -> csr_array:
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return csr_array((data, columns, indptr), shape=shape)


class Neighbours(ClosedForm):
    """Each item's nearest items; see the module. A user has no row.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: The number of neighbours of each item, and none for users.
        generator: Has nothing to draw.
        device: Where scores go; they are computed on the CPU.
        ease_l2: λ of EASE; 0 for cosines.
        outgoing: 1 where an item that a user had speaks for its neighbours, 0 where an item asks which of its
            neighbours a user had.

    Raises:
        ConfigError: ``outgoing`` is neither 0 nor 1.
    """

    has_user_rows = False
    tried = {"outgoing": (1,)}
    neighbour: Tensor

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        ease_l2: float = 0.0,
        outgoing: int = 0,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=0.0, init_std=0.0)
        if outgoing not in (0, 1):
            raise ConfigError(f"the option outgoing of neighbours must be 0 or 1, not {outgoing}.")
        self.ease_l2, self.outgoing = ease_l2, outgoing
        self._train = train
        # Where the numbers of the table are, of which what masks it further hides some.
        self._places = torch.from_numpy(sizes.mask(self.table.width))
        self.neighbour = nn.Buffer(torch.zeros(sizes.num_params, dtype=torch.int32))

    def solve(self, rng: np.random.Generator) -> None:
        """Compute the weights and whose they are; nothing is drawn."""
        width = self.table.width
        found = ease(self._train, self.ease_l2, width) if self.ease_l2 else item_cosines(self._train, width)
        rows = np.repeat(np.arange(self.num_items), np.diff(found.indptr))
        columns = np.arange(found.nnz) - found.indptr[rows]
        weights, ids = (
            np.zeros((self.num_items, width), np.float32),
            np.zeros((self.num_items, width), np.int32),
        )
        weights[rows, columns], ids[rows, columns] = found.data, found.indices
        with torch.no_grad():
            self.table.weight.copy_(torch.from_numpy(weights) * self.table.mask.cpu())
            self.neighbour.copy_(torch.from_numpy(ids)[self._places])

    def encode(self) -> Encoded:
        """Histories, (num_users, num_items), and what an item of one says of others, sparse, on the CPU."""
        ids = torch.zeros(self._places.shape, dtype=torch.int32)
        ids[self._places] = self.neighbour.cpu()
        weights = self.table().detach().cpu()
        rows, columns = (part.numpy() for part in torch.nonzero(weights, as_tuple=True))
        counts = np.bincount(rows, minlength=self.num_items)
        matrix = csr_array(
            (
                weights.numpy()[rows, columns],
                ids.numpy()[rows, columns],
                np.concatenate([[0], np.cumsum(counts)]),
            ),
            shape=(self.num_items, self.num_items),
        )
        if not self.outgoing:
            matrix = csr_array(matrix.T)
        matrix.sort_indices()
        cpu = torch.device("cpu")
        return to_torch(self._train, cpu), to_torch(matrix, cpu)

    def score(self, encoded: Encoded, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Sums of weights, shape (batch, number of items)."""
        histories, weights = map(_matrix, encoded)
        if items is not None:
            weights = weights[:, items.cpu().numpy()]
        scores = (histories[users.cpu().numpy()] @ weights).toarray()
        return torch.from_numpy(scores).to(self.device)

    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Sums of weights, shape (batch,)."""
        histories, weights = map(_matrix, encoded)
        to_item = csr_array(weights.T)[items.cpu().numpy()]
        sums = histories[users.cpu().numpy()].multiply(to_item).sum(axis=1)
        return torch.from_numpy(np.asarray(sums, np.float32)).to(self.device)


def _matrix(tensor: Tensor) -> csr_array:
    """A sparse tensor of the CPU as SciPy has it, with the same memory."""
    parts = tensor.values(), tensor.col_indices(), tensor.crow_indices()
    return csr_array(tuple(part.numpy() for part in parts), shape=tuple(tensor.shape))
