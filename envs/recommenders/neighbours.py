"""Neighbour tables: of each item its nearest items, in closed form and without rows of users.

The size of an item is its number of neighbours, and a row cut to a size keeps the largest. Weights are either
cosines of items by the users they share, or what powers of degrees make of them (item-kNN; Deshpande and
Karypis, TOIS 2004), or those of EASE (arXiv 1905.03375), the closed form of a linear autoencoder without
self-loops.

A row is read in one of two ways. *Incoming*: an item's score is the sum of the weights of those of its
neighbours that a user had. *Outgoing*: each item that a user had adds its weights to the scores of its
neighbours. Uncut the two are one for cosines; which is better once rows are short differs by data and by
their length.
"""

import os
from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.sparse import csr_array, vstack
from torch import Tensor

from envs.errors import ConfigError, NoMemoryError
from envs.metrics import below_scores
from envs.recommenders.base import ClosedForm, Encoded, check_exponents
from envs.recommenders.propagation import to_torch
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Interactions' products that are held at once; 50 MB, which are used anew before they have left the cache.
_PRODUCTS_AT_ONCE = 2**22
#: Groups of a row's entries for each that is kept of it.
_GROUPS_PER_KEPT = 4
#: Dense matrices of items by items, in float64, that EASE holds at its peak.
_NUM_DENSE = 3


def shared_users(
    train: csr_array, num_neighbours: int | None, user_exponent: float = 0.0, item_exponent: float = 0.5
) -> csr_array:
    """Items by the users they share, see :class:`Neighbours`, of each item its largest weights.

    Nothing is dense: pairs that share a user are multiplied out a block of items at a time.

    Args:
        train: Ones, shape (num_users, num_items).
        num_neighbours: What is kept of each item, where there are so many; of equals the first. None keeps
            all, in any order.
        user_exponent: a.
        item_exponent: p; with the default of both they are cosines.

    Returns:
        Shape (num_items, num_items), float32, rows not sorted by column but by size; float64 where all are
        kept. Nothing is on the diagonal.
    """
    num_items, degrees = train.shape[1], np.diff(train.indptr)
    popularity = np.maximum(np.bincount(train.indices, minlength=num_items), 1)
    values = np.repeat(np.maximum(degrees, 1) ** -user_exponent, degrees)
    values = values * (popularity**-item_exponent)[train.indices]
    scaled = csr_array((values, train.indices, train.indptr), shape=train.shape)
    by_item = scaled.T.tocsr()
    # A product a pair of items of each user who had the first.
    products = np.cumsum(csr_array(train.T) @ degrees.astype(np.float64))
    borders = np.unique(np.searchsorted(products, np.arange(0, products[-1] + 1, _PRODUCTS_AT_ONCE)))
    blocks = []
    for first, last in zip(borders, [*borders[1:], num_items], strict=True):
        block, place = by_item[first:last] @ scaled, int(first)
        if num_neighbours is None:
            blocks.append(without_diagonal(block, place))
        else:
            blocks.append(cut_rows(block, num_neighbours, place))
    return csr_array(vstack(blocks, format="csr"))


def ease(train: csr_array, l2: float, num_neighbours: int) -> csr_array:
    """Weights of EASE, of each item the largest that it has for others: its row of B in X B.

    Args:
        train: Ones, shape (num_users, num_items).
        l2: λ, above 0, in interactions.
        num_neighbours: As in :func:`shared_users`; by absolute value.

    Returns:
        As :func:`shared_users`.

    Raises:
        NoMemoryError: This machine has none for matrices of items by items.
    """
    return cut_rows(csr_array(ease_matrix(train, l2)), num_neighbours)


def ease_matrix(train: csr_array, l2: float) -> NDArray[np.float64]:
    """B of EASE, shape (num_items, num_items): scores are X B. Nothing is on its diagonal.

    Args:
        train: Ones, X, shape (num_users, num_items).
        l2: λ, above 0, in interactions.

    Raises:
        ConfigError: λ is lost in rounding, and some items have no answer without it.
        NoMemoryError: This machine has none for matrices of items by items.
    """
    num_items = train.shape[1]
    check_memory(
        _NUM_DENSE * num_items**2 * 8,
        f"EASE inverts a matrix of items by items: {_NUM_DENSE} of {num_items:,} x {num_items:,} numbers",
        "the recommender neighbours needs none",
    )
    gram = (train.T @ train).toarray().astype(np.float64)
    gram[np.diag_indices(num_items)] += l2
    # Positive definite: by Cholesky, in half the time of an inversion of any matrix, and in place.
    factor, failed = dpotrf(gram.T, lower=1, overwrite_a=1)
    weights, _ = dpotri(factor, lower=1, overwrite_c=1)
    if failed or not np.isfinite(np.diag(weights)).all():
        raise ConfigError(
            f"an l2 of {l2:g} is too little for EASE here: items that share every user have no answer in "
            "double precision; take a larger one."
        )
    weights = np.tril(weights)
    weights += np.tril(weights, -1).T
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def check_memory(needed: float, what: str, instead: str) -> None:
    """Refuse what this machine has no memory for, before any is taken.

    Args:
        needed: Bytes.
        what: Takes them, as the beginning of a sentence.
        instead: What there is to do, as the end of one.

    Raises:
        NoMemoryError: There are fewer.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise NoMemoryError(
            f"{what} take {needed / 1e9:,.1f} GB, and this machine has {there / 1e9:,.1f} GB; {instead}."
        )


def without_diagonal(matrix: csr_array, first: int) -> csr_array:
    """Rows of a square matrix, the first of them row ``first``, without what is on its diagonal."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    kept = matrix.indices != rows + first
    return _of_rows(matrix.data[kept], matrix.indices[kept], rows[kept], matrix.shape)


def cut_rows(matrix: csr_array, num_kept: int, first: int = 0) -> csr_array:
    """The largest entries of each row by absolute value, largest first; of equals the first column.

    What is compared is what a table stores, float32: sums of the same numbers in another order are equals, on
    every machine.

    Args:
        matrix: Rows of a square matrix, whose diagonal is left out; columns in any order.
        num_kept: Entries that are kept of a row, at most.
        first: The row that the first of them is.

    Returns:
        Shape of the matrix, float32.
    """
    values, indptr = matrix.data.astype(np.float32), matrix.indptr
    sizes = np.abs(values)
    # One more, since one may be on the diagonal.
    places = np.flatnonzero(sizes >= np.repeat(_bounds(sizes, indptr, num_kept + 1), np.diff(indptr)))
    rows = np.searchsorted(indptr, places, side="right") - 1
    is_other = matrix.indices[places] != rows + first
    rows, places = rows[is_other], places[is_other]
    order = np.lexsort((matrix.indices[places], -sizes[places], rows))
    # Rows stay where they were, since each is sorted within itself.
    counts = np.bincount(rows, minlength=matrix.shape[0])
    order = order[np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts) < num_kept]
    rows, places = rows[order], places[order]
    return _of_rows(values[places], matrix.indices[places], rows, matrix.shape)


def _of_rows(
    data: NDArray[np.floating], columns: NDArray[np.integer], rows: NDArray[np.int64], shape: tuple[int, int]
) -> csr_array:
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return csr_array((data, columns, indptr), shape=shape)


def _bounds(sizes: NDArray[np.float32], indptr: NDArray[np.integer], num_kept: int) -> NDArray[np.float32]:
    """Of each row a number below which none of its largest lies, shape (num_rows,); 0 of short rows.

    The maxima of disjoint groups are entries, so that so many of them are at least as large as the last of
    the largest. To sort what is left takes a fiftieth of what sorting long rows takes.
    """
    num_groups = _GROUPS_PER_KEPT * num_kept
    counts = np.diff(indptr).astype(np.int64)
    bounds = np.zeros(len(counts), np.float32)
    long = np.flatnonzero(counts > 2 * num_groups)
    borders = indptr[long, None] + counts[long, None] * np.arange(num_groups + 1) // num_groups
    # The last of all groups ends before its last entry, which makes a bound lower at most.
    borders = np.minimum(borders.ravel(), len(sizes) - 1)
    if len(long):
        maxima = np.maximum.reduceat(sizes, borders).reshape(len(long), -1)[:, :num_groups]
        bounds[long] = np.partition(maxima, num_groups - num_kept, axis=1)[:, num_groups - num_kept]
    return bounds


class NeighbourTable(ClosedForm):
    """Each item's nearest items, however near is measured; see the module. A user has no row.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: The number of neighbours of each item, and none for users.
        generator: Has nothing to draw.
        device: Where scores go; they are computed on the CPU.
        outgoing: 1 where an item that a user had speaks for its neighbours, 0 where an item asks which of its
            neighbours a user had.

    Raises:
        ConfigError: ``outgoing`` is neither 0 nor 1.
    """

    has_user_rows = False
    has_ids = True

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        outgoing: int = 0,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=0.0, init_std=0.0)
        if outgoing not in (0, 1):
            raise ConfigError(f"the option outgoing of neighbours must be 0 or 1, not {outgoing}.")
        self.outgoing = outgoing
        self._train = train
        self._below = below_scores(np.bincount(train.indices, minlength=self.num_items))

    @classmethod
    def most_numbers(cls, num_users: int, num_items: int) -> int | None:
        """Neighbours that an item can have: every other item."""
        return max(num_items - 1, 1)

    @abstractmethod
    def weights(self, num_neighbours: int) -> csr_array:
        """Of each item its largest weights, largest first, shape (num_items, num_items)."""

    def solve(self, rng: np.random.Generator) -> None:
        """Compute the weights and whose they are; nothing is drawn.

        Of an item with fewer neighbours than its size the rest are of the item itself, with a weight of 0.
        """
        assert self.table.ids is not None
        width = self.table.width
        found = self.weights(width)
        items = np.arange(self.num_items)
        rows = np.repeat(items, np.diff(found.indptr))
        columns = np.arange(found.nnz) - found.indptr[rows]
        weights = np.zeros((self.num_items, width), np.float32)
        ids = np.tile(items.astype(np.int32)[:, None], width)
        weights[rows, columns], ids[rows, columns] = found.data, found.indices
        with torch.no_grad():
            self.table.weight.copy_(torch.from_numpy(weights) * self.table.mask.cpu())
            self.table.ids.copy_(torch.from_numpy(ids))

    def encode(self) -> Encoded:
        """Histories, (num_users, num_items), and what an item of one says of others, sparse, on the CPU."""
        assert self.table.ids is not None
        weights = self.table().detach().cpu()
        rows, columns = (part.numpy() for part in torch.nonzero(weights, as_tuple=True))
        counts = np.bincount(rows, minlength=self.num_items)
        matrix = csr_array(
            (
                weights.numpy()[rows, columns],
                self.table.ids.cpu().numpy()[rows, columns],
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
        """Sums of weights, shape (batch, number of items); where they are none, by popularity."""
        histories, weights = map(_matrix, encoded)
        below = self._below
        if items is not None:
            columns = items.cpu().numpy()
            weights, below = weights[:, columns], below[columns]
        scores = (histories[users.cpu().numpy()] @ weights).toarray()
        scores += below
        return torch.from_numpy(scores).to(self.device)

    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Sums of weights, shape (batch,)."""
        histories, weights = map(_matrix, encoded)
        to_item = csr_array(weights.T)[items.cpu().numpy()]
        sums = histories[users.cpu().numpy()].multiply(to_item).sum(axis=1)
        return torch.from_numpy(np.asarray(sums, np.float32)).to(self.device)


class Neighbours(NeighbourTable):
    """Items by the users they share: s_ij = Σ_u d_u^-2a / (d_i d_j)^p over the users u of both.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: The number of neighbours of each item, and none for users.
        generator: Has nothing to draw.
        device: Where scores go; they are computed on the CPU.
        user_exponent: a, of the users' degrees, in 0 to 1; 0 for cosines. Above 0 the active say less each.
        item_exponent: p, of the items', in 0 to 1; 1/2 for cosines. Below it the popular are near to more.
        outgoing: How rows are read, see :class:`NeighbourTable`.

    Raises:
        ConfigError: As :class:`NeighbourTable`, or an exponent lies outside.
    """

    #: On Gowalla 20 neighbours are half as good again on validation with p of 0.3 as with cosines.
    #: Which way the cut goes comes first: the exponent that suits a table depends on it.
    tried = {"outgoing": (1,), "item_exponent": (0.3, 0.375, 0.525)}

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        user_exponent: float = 0.15,
        item_exponent: float = 0.45,
        outgoing: int = 0,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, outgoing=outgoing)
        check_exponents("neighbours", user_exponent=user_exponent, item_exponent=item_exponent)
        self.user_exponent, self.item_exponent = user_exponent, item_exponent

    def weights(self, num_neighbours: int) -> csr_array:
        """See :func:`shared_users`."""
        return shared_users(self._train, num_neighbours, self.user_exponent, self.item_exponent)


class Ease(NeighbourTable):
    """Items by the weights of EASE (arXiv 1905.03375), of which each item keeps its largest for others.

    Rows are outgoing, which is better at any length.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: The number of neighbours of each item, and none for users.
        generator: Has nothing to draw.
        device: Where scores go; they are computed on the CPU.
        l2: λ, in interactions; 0 is none, where items that share every user have no answer.

    Raises:
        ConfigError: ``l2`` is 0.
    """

    tried = {"l2": (150.0, 800.0)}

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        l2: float = 350.0,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, outgoing=1)
        if l2 <= 0:
            raise ConfigError("the option l2 of ease must be above 0: without it there may be no answer.")
        self.l2 = l2

    def weights(self, num_neighbours: int) -> csr_array:
        """See :func:`ease`."""
        return ease(self._train, self.l2, num_neighbours)


def _matrix(tensor: Tensor) -> csr_array:
    """A sparse tensor of the CPU as SciPy has it, with the same memory."""
    parts = tensor.values(), tensor.col_indices(), tensor.crow_indices()
    return csr_array(tuple(part.numpy() for part in parts), shape=tuple(tensor.shape))
