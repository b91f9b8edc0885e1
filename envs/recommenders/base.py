"""What every base recommender is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from envs.budget import EmbeddingSizes
from envs.errors import EmbeddingSizeError
from envs.recommenders.sized_embedding import SizedEmbedding

Encoded = tuple[Tensor, Tensor]


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

    Raises:
        EmbeddingSizeError: The sizes are made for another number of tables.
    """

    num_tables: ClassVar[int] = 1

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
        self.num_users, self.num_items = train.shape
        self.device = device or torch.device("cpu")
        self.l2 = l2
        self.table = SizedEmbedding(sizes, init_std=init_std, generator=generator, device=self.device)

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
        squared_norm = self.table().square().sum(dim=1)
        used = squared_norm.index_select(0, torch.cat([users, items + self.num_users]))
        total: Tensor = self.l2 * used.sum() / len(users)
        return total

    def scorer_state(self) -> dict[str, Tensor]:
        """The parameters that are not the table, by name, on the CPU."""
        return {k: v.detach().cpu() for k, v in self.state_dict().items() if k != "table.weight"}


class DotProductRecommender(BaseRecommender):
    """A recommender whose score is the inner product of two representations."""

    def score(self, encoded: Encoded, users: Tensor, items: Tensor | None = None) -> Tensor:
        """Inner products, shape (batch, number of items)."""
        user, item = encoded
        return user[users] @ (item if items is None else item[items]).T

    def score_pairs(self, encoded: Encoded, users: Tensor, items: Tensor) -> Tensor:
        """Inner products, shape (batch,)."""
        user, item = encoded
        return (user.index_select(0, users) * item.index_select(0, items)).sum(dim=1)
