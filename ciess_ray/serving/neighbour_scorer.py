"""How neighbour tables score, in NumPy and SciPy: sums of weights of what a user had."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import TableFolder
from envs.metrics import below_scores

Floats = NDArray[np.float32]
#: Residual, as a share of what is asked for, at which the weights of a new item have been solved for.
_SOLVED = 1e-7
_MAX_ITERATIONS = 1_000


class NeighbourScorer:
    """A user is the items they had, as ``envs.recommenders.neighbours`` has it; nothing else is known.

    Somebody new is scored exactly as a user of the table with these items. A new item is what the closed form
    makes of it beside the known ones, whose weights stay as they are.

    Args:
        folder: Its table, options, and what users had.
    """

    def __init__(self, folder: TableFolder) -> None:
        self._histories, options = folder.train, folder.scorer.options
        self._name, self._options = folder.scorer.recommender, options
        #: Whether items speak for their neighbours, or ask for them. Those of EASE speak.
        self._is_outgoing = bool(options.get("outgoing", 1))
        weights = weights_of(folder.table)
        # Of each item that a user had, what it says of all.
        self._weights = weights if self._is_outgoing else csr_array(weights.T)
        self._below = below_scores(np.bincount(self._histories.indices, minlength=self._weights.shape[1]))
        self._num_kept, self._least = folder.table.largest_size, _least_of_rows(folder.table)

    def of_users(self, users: NDArray[np.integer]) -> csr_array:
        """What they had, shape (n, num_items)."""
        return self._histories[users]

    def of_items(self, weights: csr_array) -> csr_array:
        """What somebody new had: the items that have weights, each once."""
        return _ones_like(weights)

    def new_items(self, weights: csr_array) -> csr_array:
        """What each item that a user had says of new ones, shape (m, num_items).

        Where an item asks for its neighbours, a new one has as many as the longest row; where items speak for
        their neighbours, it is in the rows of those that are nearer to it than to the last that they keep.
        """
        firsts = _ones_like(weights)
        found = self._ridge(firsts) if self._name == "ease" else self._shared(firsts)
        rows = np.repeat(np.arange(found.shape[0]), np.diff(found.indptr))
        # As a table stores them, and as rows of it are cut.
        data = found.data.astype(np.float32)
        if self._is_outgoing:
            kept = np.flatnonzero(np.abs(data) > self._least[found.indices])
        else:
            order = np.lexsort((found.indices, -np.abs(data), rows))
            kept = order[np.arange(len(order)) - found.indptr[rows] < self._num_kept]
        return csr_array((data[kept], (rows[kept], found.indices[kept])), shape=found.shape)

    def score(self, representations: csr_array, items: csr_array | None = None) -> Floats:
        """Sums of weights of all items, shape (n, num_items), or of new ones, shape (n, m).

        Where they are none, items that are known stand by popularity.
        """
        weights = self._weights if items is None else csr_array(items.T)
        scores = np.asarray((representations @ weights).toarray(), np.float32)
        if items is None:
            scores += self._below
        return scores

    def _shared(self, firsts: csr_array) -> csr_array:
        """Items by the users they share with new ones, see ``envs.recommenders.neighbours.Neighbours``."""
        user_exponent, item_exponent = (float(self._options[f"{kind}_exponent"]) for kind in ("user", "item"))
        activity = np.maximum(np.diff(self._histories.indptr), 1) ** (-2.0 * user_exponent)
        counts = np.bincount(self._histories.indices, minlength=firsts.shape[1])
        weighed = csr_array((activity[firsts.indices], firsts.indices, firsts.indptr), shape=firsts.shape)
        found = csr_array(weighed @ self._histories)
        num_each = np.repeat(np.diff(firsts.indptr), np.diff(found.indptr))
        degrees = np.maximum(counts, 1)[found.indices] * num_each
        return csr_array((found.data * degrees**-item_exponent, found.indices, found.indptr), found.shape)

    def _ridge(self, firsts: csr_array) -> csr_array:
        """Weights of EASE for new items: the regression of each on all known ones.

        Solved for by conjugate gradients, all new items at once; nothing of items by items is held.
        """
        had, l2 = self._histories.astype(np.float64), float(self._options["l2"])
        residual = np.asarray((had.T @ firsts.T.astype(np.float64)).toarray())
        found, direction = np.zeros_like(residual), residual.copy()
        squared = np.square(residual).sum(axis=0)
        enough = squared * _SOLVED**2
        for _ in range(_MAX_ITERATIONS):
            if (squared <= enough).all():
                break
            image = had.T @ (had @ direction) + l2 * direction
            # Of one that has been solved for nothing is left to divide by.
            step = squared / np.maximum((direction * image).sum(axis=0), np.finfo(np.float64).tiny)
            found += step * direction
            residual -= step * image
            before, squared = squared, np.square(residual).sum(axis=0)
            direction = residual + squared / np.maximum(before, np.finfo(np.float64).tiny) * direction
        return csr_array(found.T)


def weights_of(table: PackedTable) -> csr_array:
    """Weights that the rows of a neighbour table have for items, shape (num_items, num_items), float32.

    Raises:
        ResultError: A weight is no finite number, or what it is of cannot be its item's neighbour.
    """
    assert table.neighbours is not None
    values = table.decoded()
    is_weight = values != 0
    ends = np.concatenate([[0], np.cumsum(table.row_sizes, dtype=np.int64)])
    # Places in what is left of the values.
    indptr = np.concatenate([[0], np.cumsum(is_weight)])[ends]
    ids: NDArray[Any] = table.neighbours[is_weight].astype(np.int32)
    return csr_array((values[is_weight], ids, indptr), shape=(table.num_rows, table.num_rows))


def _least_of_rows(table: PackedTable) -> Floats:
    """The smallest weight that each row keeps, by absolute value; 0 where it has room, shape (num_items,)."""
    sizes = table.row_sizes.astype(np.int64)
    return np.asarray(np.minimum.reduceat(np.abs(table.decoded()), np.cumsum(sizes) - sizes), np.float32)


def _ones_like(weights: csr_array) -> csr_array:
    ones = np.ones(len(weights.indices), np.float32)
    return csr_array((ones, weights.indices, weights.indptr), shape=weights.shape)
