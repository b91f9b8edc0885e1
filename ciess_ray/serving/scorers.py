"""How each recommender scores from a packed table, in NumPy: the same numbers without PyTorch.

A scorer turns users into *representations*, rows of numbers, and these into scores of all items. Somebody
who is not in the table is represented by the mean of the items that they name.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.files import ScorerFile
from envs.errors import ResultError

Floats = NDArray[np.float32]
#: Numbers held at once where pairs have a hidden layer each.
_MAX_HIDDEN = 2**24
_SLOPE = 0.2
#: Propagations of LightGCN and NGCF.
MAX_LAYERS = 100


class Scorer(Protocol):
    """Scores every item for some users."""

    def of_users(self, users: NDArray[np.integer]) -> Floats:
        """Representations of known users, rows ``users`` of the table, shape (n, ·)."""
        ...

    def of_items(self, weights: csr_array) -> Floats:
        """Representations of users who are not in the table, shape (n, ·).

        Args:
            weights: Of the items that each names, summing to 1, shape (n, num_items), float32.
        """
        ...

    def score(self, representations: Floats) -> Floats:
        """Scores of all items, shape (n, num_items)."""
        ...


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
        mean: Floats = weights @ self.item
        return mean

    def score(self, representations: Floats) -> Floats:
        """Inner products, shape (n, num_items)."""
        return representations @ self.item.T


class LightGCNScorer:
    """LightGCN (arXiv 2002.02126), whose propagation P is linear and symmetric: for few users from their end.

    The representation of a user is one row of P E, which is a propagated indicator times the table, and its
    scores are P (E p), one propagated column: six products of the graph with a vector instead of three with
    the table. For many users the table is propagated once.

    Args:
        table: The packed table.
        graph: Training interactions.
        num_layers: Of the recommender.
    """

    def __init__(self, table: PackedTable, graph: csr_array, num_layers: int) -> None:
        self._table, self._graph, self._num_layers = table, graph, num_layers

    @cached_property
    def _rows(self) -> Floats:
        return self._table.unpack()

    @cached_property
    def _scale(self) -> tuple[Floats, Floats]:
        graph = self._graph
        degrees = np.diff(graph.indptr), np.bincount(graph.indices, minlength=graph.shape[1])
        user, item = ((1.0 / np.sqrt(np.maximum(degree, 1))).astype(np.float32) for degree in degrees)
        return user[:, None], item[:, None]

    @cached_property
    def propagated(self) -> DotProductScorer:
        """All representations at once."""
        both = self._propagate(self._rows)
        user, item = np.split(both, [self._graph.shape[0]])
        return DotProductScorer(user.__getitem__, item)

    def of_users(self, users: NDArray[np.integer]) -> Floats:
        """Rows of P E."""
        if self._is_many(len(users)):
            return self.propagated.of_users(users)
        chosen = np.zeros((self._table.num_rows, len(users)), np.float32)
        chosen[users, np.arange(len(users))] = 1.0
        return self._propagate(chosen).T @ self._rows

    def of_items(self, weights: csr_array) -> Floats:
        """Means of the items' rows of P E."""
        if self._is_many(weights.shape[0]):
            return self.propagated.of_items(weights)
        chosen = np.zeros((self._table.num_rows, weights.shape[0]), np.float32)
        chosen[self._table.num_users :] = weights.T.toarray()
        return self._propagate(chosen).T @ self._rows

    def score(self, representations: Floats) -> Floats:
        """Inner products with the items' rows of P E, shape (n, num_items)."""
        if self._is_many(len(representations)):
            return self.propagated.score(representations)
        scores = self._propagate(self._rows @ representations.T)
        return np.ascontiguousarray(scores[self._table.num_users :].T)

    def _is_many(self, num_users: int) -> bool:
        return "propagated" in vars(self) or 2 * num_users > self._rows.shape[1]

    def _propagate(self, columns: Floats) -> Floats:
        """P x, the mean of layers 0 to ``num_layers``, for x of shape (num_rows, n)."""
        user_scale, item_scale = self._scale
        layer = np.split(columns, [self._graph.shape[0]])
        total = columns.copy()
        for _ in range(self._num_layers):
            user = user_scale * (self._graph @ (item_scale * layer[1]))
            item = item_scale * (self._graph.T @ (user_scale * layer[0]))
            layer = [user, item]
            total += np.concatenate(layer)
        total /= self._num_layers + 1
        return total


class NCFScorer:
    """NeuMF (arXiv 1708.05031) with one hidden layer, as ``envs.recommenders.ncf`` has it.

    Args:
        table: The packed table, of two tables.
        state: The recommender's other parameters.
    """

    def __init__(self, table: PackedTable, state: Mapping[str, NDArray[Any]]) -> None:
        self._table, self._state = table, state
        width = state["hidden_user"].shape[0]
        self._width = width
        item = table.rows(np.arange(table.num_users, table.num_rows), width)
        self._item = item
        self._hidden_item, self._product_item = item[:, :width] @ state["hidden_item"], item[:, width:]

    def of_users(self, users: NDArray[np.integer]) -> Floats:
        """What a user brings to the hidden layer beside its row of the other table, (n, units + width)."""
        return self._represent(self._table.rows(users, self._width))

    def of_items(self, weights: csr_array) -> Floats:
        """The same of a user whose rows are the means of the items'."""
        return self._represent(weights @ self._item)

    def score(self, representations: Floats) -> Floats:
        """Logits, shape (n, num_items)."""
        state, num_units = self._state, self._hidden_item.shape[1]
        hidden, product = representations[:, :num_units], representations[:, num_units:]
        scores = (product * state["output_product"]) @ self._product_item.T
        at_once = max(1, _MAX_HIDDEN // self._hidden_item.size)
        for first in range(0, len(hidden), at_once):
            pairs = hidden[first : first + at_once, None] + self._hidden_item
            scores[first : first + at_once] += np.maximum(pairs, 0.0, out=pairs) @ state["output_hidden"]
        biased: Floats = scores + state["output_bias"]
        return biased

    def constants(self) -> dict[str, Floats]:
        """What a score is made of beside a user's representation, in the shapes that a product takes."""
        own = ("output_hidden", "output_bias")
        return {
            "hidden_item": self._hidden_item,
            "product_item": np.ascontiguousarray((self._product_item * self._state["output_product"]).T),
            **{name: self._state[name] for name in own},
        }

    def _represent(self, rows: Floats) -> Floats:
        hidden = rows[:, : self._width] @ self._state["hidden_user"] + self._state["hidden_bias"]
        represented: Floats = np.concatenate([hidden, rows[:, self._width :]], axis=1)
        return represented


def _mf(table: PackedTable, graph: csr_array, scorer: ScorerFile) -> Scorer:
    return DotProductScorer(table.rows, table.rows(np.arange(table.num_users, table.num_rows)))


def _lightgcn(table: PackedTable, graph: csr_array, scorer: ScorerFile) -> Scorer:
    return LightGCNScorer(table, graph, scorer.options["num_layers"])


def _ncf(table: PackedTable, graph: csr_array, scorer: ScorerFile) -> Scorer:
    return NCFScorer(table, scorer.state)


def _ngcf(table: PackedTable, graph: csr_array, scorer: ScorerFile) -> Scorer:
    """NGCF (arXiv 1905.08108) as ``envs.recommenders.ngcf`` has it, without dropout, once for all users."""
    state = scorer.state
    # It has no smaller form: each layer needs all rows of the one before.
    layer = table.unpack(state["weights_sum.0"].shape[0] if "weights_sum.0" in state else None)
    num_users = graph.shape[0]
    degrees = np.concatenate([np.diff(graph.indptr), np.bincount(graph.indices, minlength=graph.shape[1])])
    scale = (1.0 / (degrees + 1)).astype(np.float32)[:, None]
    shown = [layer]
    for number in range(scorer.options["num_layers"]):
        neighbours = layer.copy()
        neighbours[:num_users] += graph @ layer[num_users:]
        neighbours[num_users:] += graph.T @ layer[:num_users]
        neighbours *= scale
        linear = neighbours @ state[f"weights_sum.{number}"]
        linear += (layer * neighbours) @ state[f"weights_product.{number}"]
        linear += state[f"biases.{number}"]
        layer = np.where(linear > 0, linear, np.float32(_SLOPE) * linear)
        shown.append(layer / np.maximum(np.linalg.norm(layer, axis=1, keepdims=True), 1e-12))
    user, item = np.split(np.concatenate(shown, axis=1), [num_users])
    return DotProductScorer(user.__getitem__, item)


SCORERS: dict[str, Callable[[PackedTable, csr_array, ScorerFile], Scorer]] = {
    "lightgcn": _lightgcn,
    "mf": _mf,
    "ncf": _ncf,
    "ngcf": _ngcf,
}


def build_scorer(table: PackedTable, graph: csr_array, scorer: ScorerFile) -> Scorer:
    """The scorer of a recommender.

    Args:
        table: Its packed table.
        graph: The interactions that it was trained on, shape (num_users, num_items).
        scorer: Its name, options and other parameters.

    Raises:
        ResultError: It is a recommender of one's own, or the parts do not fit together.
    """
    if scorer.recommender not in SCORERS:
        raise ResultError(
            f"{scorer.recommender!r} is a recommender of your own, which needs its class: "
            "SearchResult.load(folder).recommender(ItsClass) scores with it."
        )
    expected = (table.num_users, table.num_rows - table.num_users)
    if graph.shape != expected:
        raise ResultError(
            f"the table has {expected[0]} users and {expected[1]} items, the interactions {graph.shape[0]} "
            f"and {graph.shape[1]}: they come from different searches."
        )
    check_parts(table, scorer)
    # Weights that are finite may be too large; who asks for scores looks at them.
    with np.errstate(over="ignore", invalid="ignore"):
        return SCORERS[scorer.recommender](table, graph, scorer)


def check_parts(table: PackedTable, scorer: ScorerFile) -> None:
    """Refuse options and weights that a recommender of this package cannot have.

    Raises:
        ResultError: Saying which.
    """
    try:
        _check_parts(table, scorer)
    except ValueError as error:
        raise ResultError(
            f"the scorer's weights are not those of a {scorer.recommender} of this table: {error}."
        ) from error


def _check_parts(table: PackedTable, scorer: ScorerFile) -> None:
    name, d_max, width = scorer.recommender, table.max_embedding_size, table.sizes.width
    num_layers = scorer.options.get("num_layers", 0)
    if name in ("lightgcn", "ngcf") and not (
        "num_layers" in scorer.options and type(num_layers) is int and 0 <= num_layers <= MAX_LAYERS
    ):
        raise ValueError(f"its num_layers are {str(num_layers)[:20]}, not 0 to {MAX_LAYERS}")
    shapes: dict[str, tuple[int, ...]] = {}
    if name == "ncf":
        shapes = {
            "hidden_user": (width, d_max),
            "hidden_item": (width, d_max),
            "hidden_bias": (d_max,),
            "output_hidden": (d_max,),
            "output_product": (width,),
            "output_bias": (1,),
        }
    elif name == "ngcf":
        for number in range(num_layers):
            fan_in = d_max if number else width
            shapes[f"weights_sum.{number}"] = shapes[f"weights_product.{number}"] = fan_in, d_max
            shapes[f"biases.{number}"] = (d_max,)
    if scorer.state.keys() != shapes.keys():
        raise ValueError(f"they are {sorted(scorer.state)[:9]}, not {sorted(shapes)[:9]}")
    for part, value in scorer.state.items():
        if value.shape != shapes[part] or value.dtype != np.float32:
            raise ValueError(f"{part} is {value.dtype} of shape {value.shape}, not float32 of {shapes[part]}")
        if not np.isfinite(value).all():
            raise ValueError(f"{part} holds what is no finite number")
    if table.num_tables != (2 if name == "ncf" else 1):
        raise ValueError(f"it has {table.num_tables} tables")
    if table.recommender not in (None, name):
        raise ValueError(f"its table is of a {table.recommender}")
    if scorer.origin is not None and (name != "mf" or scorer.origin not in SCORERS):
        raise ValueError(f"they come from {scorer.origin[:20]!r}")
