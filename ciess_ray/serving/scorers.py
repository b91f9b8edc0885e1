"""How each recommender scores from a packed table, in NumPy: the same numbers without PyTorch.

A scorer turns users into *representations*, rows of numbers: known users by their rows (``of_users``),
somebody who is not in the table by the mean of the items that they name (``of_items``, whose weights have a
row a user, summing to 1). ``score`` turns representations into scores of all items, shape (n, num_items), or
of items that are not in the table, which ``new_items`` represents by the mean of the users that they had.
Where users have no rows, both are what the closed form makes of them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import TableFolder
from ciess_ray.serving.neighbour_scorer import NeighbourScorer
from envs.errors import ResultError

Floats = NDArray[np.float32]
#: Numbers held at once where pairs have a hidden layer each.
_MAX_HIDDEN = 2**24
_SLOPE = 0.2


class DotProductScorer:
    """Inner products of two representations; of MF the masked rows themselves.

    Args:
        user: Representations of some users by their rows, (n,) to (n, width).
        item: Representations of all items, shape (num_items, width).
    """

    def __init__(self, user: Callable[[NDArray[np.integer]], Floats], item: Floats) -> None:
        self.of_users, self.item = user, item

    def of_items(self, weights: csr_array) -> Floats:
        """Means of the items' representations."""
        return np.asarray(weights @ self.item)

    def new_items(self, weights: csr_array) -> Floats:
        """Means of the users' representations; a row of weights an item, shape (m, num_users)."""
        users, weights = _of_those_in_use(weights)
        return np.asarray(weights @ self.of_users(users))

    def score(self, representations: Floats, items: Floats | None = None) -> Floats:
        """Inner products with all items, shape (n, num_items), or with new ones, shape (n, m)."""
        return representations @ (self.item if items is None else items).T


class NCFScorer:
    """NeuMF (arXiv 1708.05031) with one hidden layer, as ``envs.recommenders.ncf`` has it.

    Args:
        folder: Its table, of two tables, and its other parameters.
    """

    def __init__(self, folder: TableFolder) -> None:
        self._table, self._state = folder.table, folder.scorer.state
        self._width = width = self._state["hidden_user"].shape[0]
        self._item = self._table.rows(_items(self._table), width)
        self._hidden_item = self._item[:, :width] @ self._state["hidden_item"]
        self._product_item = self._item[:, width:]

    def of_users(self, users: NDArray[np.integer]) -> Floats:
        """What a user brings to the hidden layer beside its row of the other table, (n, units + width)."""
        return self._represent(self._table.rows(users, self._width))

    def of_items(self, weights: csr_array) -> Floats:
        """The same of a user whose rows are the means of the items'."""
        return self._represent(weights @ self._item)

    def new_items(self, weights: csr_array) -> Floats:
        """What an item whose rows are the means of the users' brings, shape (m, units + width)."""
        users, weights = _of_those_in_use(weights)
        rows = weights @ self._table.rows(users, self._width)
        hidden = rows[:, : self._width] @ self._state["hidden_item"]
        return np.concatenate([hidden, rows[:, self._width :]], axis=1)

    def score(self, representations: Floats, items: Floats | None = None) -> Floats:
        """Logits of all items, shape (n, num_items), or of new ones, shape (n, m)."""
        state, num_units = self._state, self._hidden_item.shape[1]
        hidden, product = representations[:, :num_units], representations[:, num_units:]
        hidden_item, product_item = self._hidden_item, self._product_item
        if items is not None:
            hidden_item, product_item = items[:, :num_units], items[:, num_units:]
        scores = (product * state["output_product"]) @ product_item.T
        at_once = max(1, _MAX_HIDDEN // hidden_item.size)
        for first in range(0, len(hidden), at_once):
            pairs = hidden[first : first + at_once, None] + hidden_item
            scores[first : first + at_once] += np.maximum(pairs, 0.0, out=pairs) @ state["output_hidden"]
        return np.asarray(scores + state["output_bias"])

    def constants(self) -> dict[str, Floats]:
        """What a score is made of beside a user's representation, in the shapes that a product takes."""
        return {
            "hidden_item": self._hidden_item,
            "product_item": np.ascontiguousarray((self._product_item * self._state["output_product"]).T),
            "output_hidden": self._state["output_hidden"],
            "output_bias": self._state["output_bias"],
        }

    def _represent(self, rows: Floats) -> Floats:
        hidden = rows[:, : self._width] @ self._state["hidden_user"] + self._state["hidden_bias"]
        return np.concatenate([hidden, rows[:, self._width :]], axis=1)


class SpectralScorer(DotProductScorer):
    """Rows of items alone, as ``envs.recommenders.spectral`` has them: a user is what they had.

    Args:
        folder: Its table, weights, and what users had.
    """

    def __init__(self, folder: TableFolder) -> None:
        state, item = folder.scorer.state, folder.table.rows(_items(folder.table))
        self._counted = item * state["history_weight"].astype(np.float32)[:, None]
        self._fold_in, self._histories = state["fold_in"], folder.train
        self._exponent = float(folder.scorer.options["user_exponent"])
        super().__init__(lambda users: np.asarray(self._histories[users] @ self._counted), item)

    def of_items(self, weights: csr_array) -> Floats:
        """Means of what the items count in a history."""
        return np.asarray(weights @ self._counted)

    def new_items(self, weights: csr_array) -> Floats:
        """What the closed form would give an item that these users had, and nobody else.

        Of an item that is in the table, and whose users are all given, it is its row, where rows are full.
        """
        users, weights = _of_those_in_use(weights)
        num_each = np.diff(weights.indptr)[:, None]
        activity = np.maximum(np.diff(self._histories.indptr)[users], 1)[:, None]
        scaled = self.of_users(users) * (activity ** (-2.0 * self._exponent)).astype(np.float32)
        return np.asarray(num_each * (weights @ scaled) * self._fold_in, np.float32)


Scorer = DotProductScorer | NCFScorer | NeighbourScorer


def _of_those_in_use(weights: csr_array) -> tuple[NDArray[np.int64], csr_array]:
    """The columns that have weights, and the weights of these alone."""
    columns, places = np.unique(weights.indices, return_inverse=True)
    shape = weights.shape[0], len(columns)
    return columns, csr_array((weights.data, places, weights.indptr), shape=shape)


def _mf(folder: TableFolder) -> Scorer:
    return DotProductScorer(folder.table.rows, folder.table.rows(_items(folder.table)))


def _items(table: PackedTable) -> NDArray[np.int64]:
    """Rows that are items."""
    return np.arange(table.num_users, table.num_rows)


def _lightgcn(folder: TableFolder) -> Scorer:
    """LightGCN (arXiv 2002.02126), once for all users."""
    graph, num_layers = folder.train, folder.scorer.options["num_layers"]
    layer = folder.table.unpack()
    total = layer.copy()
    scale = (1.0 / np.sqrt(np.maximum(_degrees(graph), 1))).astype(np.float32)[:, None]
    for _ in range(num_layers):
        layer = scale * _sums_of_neighbours(graph, scale * layer)
        total += layer
    total /= num_layers + 1
    return _propagated(total, folder)


def _ngcf(folder: TableFolder) -> Scorer:
    """NGCF (arXiv 1905.08108) as ``envs.recommenders.ngcf`` has it, without dropout, once for all users."""
    graph, state = folder.train, folder.scorer.state
    layer = folder.table.unpack()
    scale = (1.0 / (_degrees(graph) + 1)).astype(np.float32)[:, None]
    shown = [layer]
    for number in range(folder.scorer.options["num_layers"]):
        mean = scale * (layer + _sums_of_neighbours(graph, layer))
        linear = mean @ state[f"weights_sum.{number}"]
        linear += (layer * mean) @ state[f"weights_product.{number}"]
        linear += state[f"biases.{number}"]
        layer = np.where(linear > 0, linear, np.float32(_SLOPE) * linear)
        shown.append(layer / np.maximum(np.linalg.norm(layer, axis=1, keepdims=True), 1e-12))
    return _propagated(np.concatenate(shown, axis=1), folder)


def _degrees(graph: csr_array) -> NDArray[np.int64]:
    """Of users and of items."""
    return np.concatenate([np.diff(graph.indptr), np.bincount(graph.indices, minlength=graph.shape[1])])


def _sums_of_neighbours(graph: csr_array, rows: Floats) -> Floats:
    """Over those that each user and item is joined with; the graph is read as it is, both ways."""
    user, item = np.split(rows, [graph.shape[0]])
    return np.concatenate([graph @ item, graph.T @ user])


def _propagated(rows: Floats, folder: TableFolder) -> Scorer:
    user, item = np.split(rows, [folder.table.num_users])
    return DotProductScorer(user.__getitem__, item)


SCORERS: dict[str, Callable[[TableFolder], Scorer]] = {
    "ease": NeighbourScorer,
    "lightgcn": _lightgcn,
    "mf": _mf,
    "ncf": NCFScorer,
    "neighbours": NeighbourScorer,
    "ngcf": _ngcf,
    "spectral": SpectralScorer,
}


def build_scorer(folder: TableFolder) -> Scorer:
    """The scorer of a recommender.

    Raises:
        ResultError: It is a recommender of one's own.
    """
    name = folder.scorer.recommender
    if name not in SCORERS:
        raise ResultError(
            f"{name!r} is a recommender of your own, which needs its class: "
            "SearchResult.load(folder).recommender(ItsClass) scores with it."
        )
    # Weights that are finite may be too large; who asks for scores looks at them.
    with np.errstate(over="ignore", invalid="ignore"):
        return SCORERS[name](folder)
