"""Spectral tables: the leading factors of the items, in closed form and without rows of users.

The interactions R are normalised by degrees, X = D_u^-a R D_i^-p, and X ≈ U Σ Vᵀ. The row of an item is
``w_i = d_i^p σ^q v_i``, a user is the sum of ``w_j / d_j^2p`` over the items of their history, and the score
an inner product. With q = 0 it is the projection of a user's normalised history onto the leading factors,
with popularity put back; with q = 1 that history times XᵀX, item cosine for a = 0 and p = 1/2. Between the
two a column counts the less the weaker its factor is, so that a table may be wide and not learn by heart.

Columns come by singular value: the first d numbers of a row are the best d, in the sense of Eckart and
Young, and what masks them needs no training. Sources: PureSVD (Cremonesi, Koren and Turrin, RecSys 2010),
whose user is the projection of their history; EigenRec (arXiv 1511.06033) scales by powers of degrees.
Differs from both: powers of both degrees, and of the singular values.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.recommenders.base import ClosedForm, DotProductRecommender, check_exponents
from envs.recommenders.propagation import to_torch
from envs.sizes.embedding_sizes import EmbeddingSizes

#: Relative accuracy of the squared singular values.
_TOLERANCE = 1e-4
#: Factors whose squared singular value is so small a part of the largest are rounding errors.
_LEAST_SHARE = 1e-10


class Factors(NamedTuple):
    """The leading factors of the items.

    Attributes:
        rows: Rows of the items by column, most important first, shape (num_items, rank), float64; zeros for
            an item without interactions, and in columns beyond the rank of the interactions.
        history_weights: What an item of a user's history counts, shape (num_items,), float64; scaled so that
            the largest lies as far above 1 as the smallest below.
        fold_in: By column, what the sum of an item's users, each divided by ``d_u^2a``, is multiplied with to
            become its row, shape (rank,), float64; 0 beyond the rank.
    """

    rows: NDArray[np.float64]
    history_weights: NDArray[np.float64]
    fold_in: NDArray[np.float64]


def item_factors(
    train: csr_array,
    rank: int,
    rng: np.random.Generator,
    *,
    user_exponent: float,
    item_exponent: float,
    spectrum_exponent: float,
) -> Factors:
    """The leading factors of the items, see the module, each column with its largest number above 0.

    Nothing is dense but the factors: a Krylov space of about 2 · rank vectors of the items is orthogonalised
    (ARPACK), and an interaction is read some 4 · rank times.

    Args:
        train: Training interactions, ones, shape (num_users, num_items).
        rank: Columns.
        rng: Draws the first vector of the Krylov space.
        user_exponent: a, of the users' degrees.
        item_exponent: p, of the items'.
        spectrum_exponent: q, of the singular values.
    """
    user_degrees, item_degrees = np.diff(train.indptr), np.bincount(train.indices, minlength=train.shape[1])
    user_scale = np.maximum(user_degrees, 1) ** -user_exponent
    popularity = np.maximum(item_degrees, 1).astype(np.float64)
    item_scale = popularity**-item_exponent
    values = np.repeat(user_scale, user_degrees) * item_scale[train.indices]
    squared, vectors = _leading(
        csr_array((values, train.indices, train.indptr), shape=train.shape), rank, rng
    )
    is_there = squared > 0
    strength = np.divide(squared, squared[0], out=np.zeros(rank), where=is_there) ** (spectrum_exponent / 2)
    unit = (popularity.max() * popularity.min()) ** item_exponent
    return Factors(
        vectors * strength / item_scale[:, None],
        item_scale**2 * unit,
        np.divide(1.0, squared * unit, out=np.zeros(rank), where=is_there),
    )


def _leading(
    matrix: csr_array, rank: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared singular values, descending, and right singular vectors, (rank,) and (num_columns, rank)."""
    num_columns = matrix.shape[1]
    squared, vectors = np.zeros(rank), np.zeros((num_columns, rank))
    if matrix.nnz == 0:
        return squared, vectors
    transposed = matrix.T.tocsr()
    if num_columns <= 2 * rank + 1:
        # ARPACK wants a space that is larger than what is asked of it.
        found = np.linalg.eigh((transposed @ matrix).toarray())
    else:
        gram = LinearOperator(
            (num_columns, num_columns), matvec=lambda x: transposed @ (matrix @ x), dtype=np.float64
        )
        found = eigsh(gram, k=rank, v0=rng.standard_normal(num_columns), tol=_TOLERANCE)
    order = np.argsort(-found[0], kind="stable")[:rank]
    largest = float(found[0][order[0]])
    order = order[found[0][order] > _LEAST_SHARE * largest]
    leading = found[1][:, order]
    # A factor and its negative are the same: one of them is chosen, whatever the machine's libraries give.
    signs = np.sign(leading[np.argmax(np.abs(leading), axis=0), np.arange(len(order))])
    squared[: len(order)], vectors[:, : len(order)] = found[0][order], signs * leading
    return squared, vectors


class Spectral(ClosedForm, DotProductRecommender):
    """Items-only factors in closed form; see the module.

    A user has no row: what they are is read off their history, so that somebody new needs nothing but that.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an item, and none for users.
        generator: Has nothing to draw.
        device: Where the table lives; it is computed on the CPU.
        user_exponent: a; less than a half lets the active, of whom more is known, say more.
        item_exponent: p; the more, the less a factor is about what is popular.
        spectrum_exponent: q; 0 is as good for narrow tables, and up to a fifth worse where a table is wide
            for its data.

    Raises:
        ConfigError: An exponent is above 1.
    """

    has_user_rows = False
    #: What is best differs from data to data, and computing is cheap.
    tried = {"item_exponent": (0.3, 0.4, 0.45), "spectrum_exponent": (0.0, 0.25)}
    history_weight: Tensor
    fold_in: Tensor

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        user_exponent: float = 0.3,
        item_exponent: float = 0.35,
        spectrum_exponent: float = 0.125,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=0.0, init_std=0.0)
        check_exponents(
            "spectral",
            user_exponent=user_exponent,
            item_exponent=item_exponent,
            spectrum_exponent=spectrum_exponent,
        )
        self.user_exponent, self.item_exponent = user_exponent, item_exponent
        self.spectrum_exponent = spectrum_exponent
        self._train, self._histories = train, to_torch(train, self.device)
        # Half precision: one in 2,000 of what an item counts, and two bytes an item less to serve.
        self.history_weight = nn.Buffer(torch.ones(self.num_items, dtype=torch.float16, device=self.device))
        self.fold_in = nn.Buffer(torch.zeros(self.table.width, device=self.device))

    @classmethod
    def most_numbers(cls, num_users: int, num_items: int) -> int | None:
        """Factors that there can be: the rank of the interactions is no larger."""
        return min(num_users, num_items)

    def solve(self, rng: np.random.Generator) -> None:
        """Compute table, weights of histories and what new items are folded in with.

        Raises:
            ConfigError: What an item counts in a history is beyond float16.
        """
        factors = item_factors(
            self._train,
            self.table.width,
            rng,
            user_exponent=self.user_exponent,
            item_exponent=self.item_exponent,
            spectrum_exponent=self.spectrum_exponent,
        )
        if factors.history_weights.max() > np.finfo(np.float16).max:
            raise ConfigError(
                f"the option item_exponent of spectral is {self.item_exponent:g}, and some items are so much "
                "more popular than others that float16 has no room for what the rare ones count: lower it."
            )
        with torch.no_grad():
            self.table.weight.copy_(torch.from_numpy(factors.rows) * self.table.mask.cpu())
            self.history_weight.copy_(torch.from_numpy(factors.history_weights))
            self.fold_in.copy_(torch.from_numpy(factors.fold_in))

    def encode(self) -> tuple[Tensor, Tensor]:
        """Sums of the rows of histories, (num_users, width), and the rows, (num_items, width)."""
        item = self.table()
        return self._histories @ (self.history_weight.float()[:, None] * item), item
