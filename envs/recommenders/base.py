"""What every base recommender is, and the table of rows that differ in size which it scores with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from envs.budget import bytes_per_id
from envs.errors import ConfigError, EmbeddingSizeError
from envs.pairs import paired_products, squared_norms
from envs.sizes.embedding_sizes import EmbeddingSizes

Encoded = tuple[Tensor, Tensor]

#: What of a recommender's state is in the packed table.
PACKED = ("table.weight", "table.ids")


class SizedEmbedding(nn.Module):
    """Rows of users, if they have any, then items; row n keeps its first d_n numbers and the rest are zero.

    The table is as wide as the largest size it was made for, not as d_max: what no row keeps is not stored.
    Where ``sizes.num_tables`` is more than one, the tables stand side by side and share the sizes. Rows that
    share one show its numbers, and its gradient is the sum of theirs.

    Args:
        sizes: One size a row.
        init_std: Standard deviation of the initial values.
        generator: Draws the initial values.
        device: Where the table lives.
        has_ids: Whether an item stands beside every number, whose weight it is.

    Attributes:
        ids: Those items, in the shape of the weights, int32; None of a table without.
    """

    mask: Tensor
    row_of: Tensor | None
    ids: Tensor | None

    def __init__(
        self,
        sizes: EmbeddingSizes,
        *,
        init_std: float,
        generator: torch.Generator,
        device: torch.device,
        has_ids: bool = False,
    ) -> None:
        super().__init__()
        self.sizes, self.width = sizes, sizes.width
        mask = torch.from_numpy(sizes.mask()).to(device)
        values = torch.randn(mask.shape, generator=generator) * init_std
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("row_of", _rows_shown(sizes, device), persistent=False)
        self.weight = nn.Parameter(values.to(device) * mask)
        self.register_buffer("ids", torch.zeros_like(mask, dtype=torch.int32) if has_ids else None)
        self._is_whole = bool(mask.all())

    def forward(self, num_columns: int | None = None) -> Tensor:
        """The masked table, shape (num_rows, num_tables * width).

        Args:
            num_columns: Leading columns that are wanted; None for all.
        """
        # A product with a mask of booleans makes one of numbers first.
        table = torch.where(self.mask[:, :num_columns], self.weight[:, :num_columns], 0.0)
        return table if self.row_of is None else table.index_select(0, self.row_of)

    def read(self) -> Tensor:
        """The masked table to look at alone: where every row is whole, it is the parameter itself."""
        return self.weight if self._is_whole else self()

    def holding(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The rows whose numbers some rows show, and where each of these finds its own among them.

        Args:
            rows: Row numbers, ascending, each once, shape (n,), int64.

        Returns:
            Row numbers, ascending, each once, shape (m,), and places in them, shape (n,), or None where each
            shows its own.
        """
        if self.row_of is None:
            return rows, None
        held, place = torch.unique(self.row_of.index_select(0, rows), return_inverse=True)
        return held, place

    def shown(self, values: Tensor, rows: Tensor, place: Tensor | None) -> Tensor:
        """What some rows show, given the numbers of the rows that hold it.

        Args:
            values: Their numbers, shape (m, num_tables * width).
            rows: Which they are, see :meth:`holding`.
            place: Where each row that is shown stands among them, shape (n,); None where each is its own.
        """
        if not self._is_whole:
            values = torch.where(self.mask.index_select(0, rows), values, 0.0)
        return values if place is None else values.index_select(0, place)

    def mask_to(self, sizes: EmbeddingSizes) -> None:
        """Let each row show another prefix from now on; what it holds beyond it stays.

        Args:
            sizes: One size a row, none above :attr:`width`.
        """
        self.sizes = sizes
        mask = sizes.mask(self.width)
        self._is_whole = bool(mask.all())
        self.mask = torch.from_numpy(mask).to(self.weight.device)
        self.row_of = _rows_shown(sizes, self.weight.device)

    def packed_values(self) -> Tensor:
        """The numbers that are kept, row after row, shape (num_params,), float32, on the CPU."""
        return self.weight.detach()[self.mask].cpu()

    def packed_ids(self) -> Tensor | None:
        """The item beside each of these, shape (num_params,), int32, on the CPU; None of a table without."""
        return None if self.ids is None else self.ids[self.mask].cpu()

    def load_packed_values(self, values: Tensor, ids: Tensor | None = None) -> None:
        """Put back what :meth:`packed_values` and :meth:`packed_ids` gave."""
        with torch.no_grad():
            self.weight.zero_()
            self.weight[self.mask] = values.to(self.weight.device)
            if self.ids is not None and ids is not None:
                self.ids.zero_()
                self.ids[self.mask] = ids.to(self.ids)


def _rows_shown(sizes: EmbeddingSizes, device: torch.device) -> Tensor | None:
    """The row whose numbers each row shows, int64; None where each shows its own."""
    return None if sizes.row_of is None else torch.from_numpy(sizes.row_of).to(device)


class BaseRecommender(nn.Module, ABC):
    """A model that scores items for users from one table of sized rows.

    Subclasses say how the masked table becomes representations (:meth:`encode`) and how these are scored,
    for single pairs in training (:meth:`score_pairs`) and against the catalogue (:meth:`score`). Anything
    else that they learn is an ordinary parameter; it is stored beside the packed table and does not count
    against the budget.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an entity.
        generator: Draws the initial values.
        device: Where the parameters live.
        l2: Weight of the squared norm of the rows used, summed over a batch and divided by its length.
        init_std: Standard deviation of the table's initial values.

    Attributes:
        num_tables: Tables that a row has its size in; ``sizes.num_tables`` must say the same.
        has_user_rows: Whether users have rows of the table. Where they have none, a user is what their
            history makes of the items' rows, and ``sizes.user`` is empty.
        has_ids: Whether the numbers of an item's row are weights of other items, whose ids are packed beside
            them and counted in a budget in bytes.
        tried: By option, values beside its default that are tried on validation where no value is given.

    Raises:
        EmbeddingSizeError: The sizes are made for another number of tables, or of users and items with rows.
    """

    num_tables: ClassVar[int] = 1
    has_user_rows: ClassVar[bool] = True
    has_ids: ClassVar[bool] = False
    tried: ClassVar[Mapping[str, tuple[float, ...]]] = {}

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        l2: float = 1e-4,
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        if sizes.num_tables != self.num_tables:
            raise EmbeddingSizeError(
                f"{type(self).__name__} has {self.num_tables} table(s) of sized rows, the sizes are made for "
                f"{sizes.num_tables}: make them with num_tables={self.num_tables}."
            )
        rows = self.row_counts(*train.shape)
        if (len(sizes.user), len(sizes.item)) != rows:
            raise EmbeddingSizeError(
                f"{type(self).__name__} has rows of {rows[0]} users and {rows[1]} items here, and sizes are "
                f"given for {len(sizes.user)} and {len(sizes.item)}: make them for what row_counts says."
            )
        self.num_users, self.num_items = train.shape
        self.device = device or torch.device("cpu")
        self.l2 = l2
        self.table = SizedEmbedding(
            sizes, init_std=init_std, generator=generator, device=self.device, has_ids=self.has_ids
        )

    @classmethod
    def row_counts(cls, num_users: int, num_items: int) -> tuple[int, int]:
        """Rows of the table that are users', and rows that are items'.

        Args:
            num_users: Users that there are.
            num_items: Items that there are.
        """
        return num_users if cls.has_user_rows else 0, num_items

    @classmethod
    def id_bytes(cls, num_items: int) -> int:
        """Bytes that a parameter of the table has beside it in the packed file."""
        return bytes_per_id(num_items) if cls.has_ids else 0

    @classmethod
    def most_numbers(cls, num_users: int, num_items: int) -> int | None:
        """Numbers of a row that can say something, beyond which it holds zeros; None where all can.

        Args:
            num_users: Users that there are.
            num_items: Items that there are.
        """
        return None

    def xavier(self, fan_in: int, fan_out: int, *shape: int, generator: torch.Generator) -> nn.Parameter:
        """A parameter of a layer, normal with the deviation of Glorot and Bengio (AISTATS 2010)."""
        values = torch.randn(shape, generator=generator) * (2.0 / (fan_in + fan_out)) ** 0.5
        return nn.Parameter(values.to(self.device))

    @property
    def sizes(self) -> EmbeddingSizes:
        """One embedding size an entity."""
        return self.table.sizes

    @abstractmethod
    def encode(self) -> Encoded:
        """Representations of all users and all items, (num_users, ·) and (num_items, ·).

        Called once before a whole evaluation, and once a training batch.
        """

    @abstractmethod
    def score(self, encoded: Encoded, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores of items for some users.

        Args:
            encoded: What :meth:`encode` gave.
            users: Row numbers, shape (batch,), int64.
            items: Item numbers, shape (n,), int64; None for every item.

        Returns:
            Shape (batch, n).
        """

    @abstractmethod
    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Scores of one item a user; each argument and the result have shape (batch,)."""

    def penalty(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """L2 of what a batch uses: of masked rows here, one number.

        Args:
            encoded: What :meth:`encode` gave.
            users: Row numbers, shape (batch,), int64.
            items: Item numbers, of any length.
        """
        used = torch.cat([users, items + self.num_users])
        return self.l2 / len(users) * squared_norms(self.table.read(), used)

    def scorer_state(self) -> dict[str, Tensor]:
        """The parameters that are not packed with the table, by name, on the CPU."""
        return {k: v.detach().cpu() for k, v in self.state_dict().items() if k not in PACKED}


class ClosedForm(BaseRecommender):
    """A recommender whose table is computed, not trained: there are no batches, no loss and no gradient.

    Its columns come by importance, so that what masks them needs no training: a search judges masks of one
    full table, and what was judged is what is packed.
    """

    @abstractmethod
    def solve(self, rng: np.random.Generator) -> None:
        """Compute the table, as wide as it is, and everything else from the training interactions.

        Called once where the recommender is new, and not where it is given values that were kept.

        Args:
            rng: Draws what is drawn.
        """

    def penalty(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Nothing is trained, and so nothing has a price."""
        return torch.zeros((), device=self.device)


def check_exponents(recommender: str, **exponents: float) -> None:
    """Refuse powers of degrees or of singular values, options of a recommender, outside 0 to 1.

    Raises:
        ConfigError: Naming the option.
    """
    for name, value in exponents.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"the option {name} of {recommender} must lie in 0 to 1, not be {value:g}.")


class DotProductRecommender(BaseRecommender):
    """A recommender whose score is the inner product of two representations."""

    def score(self, encoded: Encoded, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Inner products, shape (batch, number of items)."""
        user, item = encoded
        return user[users] @ (item if items is None else item[items]).T

    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Inner products, shape (batch,)."""
        return paired_products(*encoded, users, items)
