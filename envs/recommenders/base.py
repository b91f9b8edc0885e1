"""What every base recommender is."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from envs.budget import EmbeddingSizes
from envs.recommenders.sized_embedding import SizedEmbedding


class BaseRecommender(nn.Module, ABC):
    """A model that scores items for users from one table of sized rows.

    Subclasses say how the masked table becomes representations (:meth:`encode`), how a pair of them is
    scored (:meth:`score`), and what training minimises (:meth:`loss`). Anything else that they learn is an
    ordinary parameter; it is stored beside the packed table and does not count against the budget.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an entity.
        generator: Draws the initial values.
        device: Where the parameters live.
        l2: Weight of the squared norm of the rows used, summed over a batch and divided by its length.
        init_std: Standard deviation of the table's initial values.
    """

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
        self.num_users, self.num_items = train.shape
        self.device = device or torch.device("cpu")
        self.sizes = sizes
        self.l2 = l2
        self.table = SizedEmbedding(sizes, init_std=init_std, generator=generator, device=self.device)

    @abstractmethod
    def encode(self) -> tuple[Tensor, Tensor]:
        """Representations of all users and all items, (num_users, ·) and (num_items, ·).

        Called once before a whole evaluation, and once a training batch by recommenders that need it.
        """

    @abstractmethod
    def score(self, encoded: tuple[Tensor, Tensor], users: Tensor) -> Tensor:
        """Scores of every item for some users.

        Args:
            encoded: What :meth:`encode` gave.
            users: Row numbers, shape (batch,), int64.

        Returns:
            Shape (batch, num_items).
        """

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """What a batch of triples costs, one number; each argument has shape (batch,), int64."""

    def scorer_state(self) -> dict[str, Tensor]:
        """The parameters that are not the table, by name, on the CPU."""
        return {k: v.detach().cpu() for k, v in self.state_dict().items() if k != "table.weight"}


class DotProductRecommender(BaseRecommender):
    """A recommender whose score is the inner product of two representations, trained with BPR."""

    def score(self, encoded: tuple[Tensor, Tensor], users: Tensor) -> Tensor:
        """Inner products, shape (batch, num_items)."""
        user, item = encoded
        return user[users] @ item.T

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR (arXiv 1205.2618) plus L2 on the masked rows that the batch uses."""
        user, item = self.encode()
        chosen = user.index_select(0, users)
        margin = (chosen * (item.index_select(0, negatives) - item.index_select(0, positives))).sum(dim=1)
        rows = self.table()
        used = torch.cat([users, positives + self.num_users, negatives + self.num_users])
        squared_norm = rows.square().sum(dim=1).index_select(0, used).sum()
        total: Tensor = F.softplus(margin).mean() + self.l2 * squared_norm / len(users)
        return total
