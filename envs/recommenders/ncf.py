"""NCF: a learned score beside the inner product, each with a table of its own."""

from typing import Any, ClassVar

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from envs.pairs import hidden_scores, paired_products
from envs.recommenders.rows import RowWiseRecommender
from envs.sizes.embedding_sizes import EmbeddingSizes


class _HiddenScores(torch.autograd.Function):
    """Σ_h w_h · relu(a_uh + b_ih) for every pair of rows, without a number for each pair and unit.

    With relu(x) = (x + |x|) / 2 it is a separable sum and half of an L1 distance between a and -b, taken for
    the units of positive w less that of the negative ones; the distance is a loop over pairs in C++. The
    gradient goes unit by unit.
    """

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(user, item, weight)
        scale = weight.abs()
        users, items = user * scale, item * scale
        scores = (user @ weight)[:, None] + item @ weight
        for units, sign in ((weight > 0, 1.0), (weight < 0, -1.0)):
            scores.add_(torch.cdist(users[:, units], -items[:, units], p=1.0), alpha=sign)
        return scores.mul_(0.5)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        user, item, weight = ctx.saved_tensors
        users, threshold = user.T.contiguous(), -item.T.contiguous()
        grad_user, grad_item = torch.empty_like(users), torch.empty_like(threshold)
        for unit in range(len(weight)):
            active = grads[0] * (users[unit, :, None] > threshold[unit])
            torch.sum(active, dim=1, out=grad_user[unit])
            torch.sum(active, dim=0, out=grad_item[unit])
        grad_weight = (users * grad_user).sum(dim=1) - (threshold * grad_item).sum(dim=1)
        return grad_user.T * weight, grad_item.T * weight, grad_weight


class NCF(RowWiseRecommender):
    """Scores a pair by a hidden layer on its rows of one table, and by the products of those of another.

    NeuMF (arXiv 1708.05031) with one hidden layer, as in CIESS (arXiv 2304.03501). The layer has d_max units
    whatever the largest size in use. Differs: the two tables share the sizes and both are masked, where the
    authors of CIESS leave that of the products whole. The table holds both, [hidden | product], side by side.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an entity, made with ``num_tables=2``.
        generator: Draws the initial values.
        device: Where the parameters live.
        l2: 1e-2 in CIESS, on the rows of both tables.
        init_std: Standard deviation of the table's initial values.
    """

    num_tables: ClassVar[int] = 2

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        l2: float = 1e-2,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=l2, init_std=init_std)
        width, num_units = self.table.width, sizes.max_embedding_size

        self.hidden_user = self.xavier(2 * width, num_units, width, num_units, generator=generator)
        self.hidden_item = self.xavier(2 * width, num_units, width, num_units, generator=generator)
        self.hidden_bias = nn.Parameter(torch.zeros(num_units, device=self.device))
        self.output_hidden = self.xavier(num_units + width, 1, num_units, generator=generator)
        self.output_product = self.xavier(num_units + width, 1, width, generator=generator)
        self.output_bias = nn.Parameter(torch.zeros(1, device=self.device))

    def encode_rows(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """What each side brings to the hidden layer, and its row of the second table.

        Shapes (n, d_max + width) and (m, d_max + width). The layer is linear in the two rows of a pair, so
        that each is multiplied once and not once a pair; its bias goes with the users.
        """
        width = self.table.width
        hidden_user = torch.addmm(self.hidden_bias, user[:, :width], self.hidden_user)
        hidden_item = item[:, :width] @ self.hidden_item
        return (
            torch.cat([hidden_user, user[:, width:]], dim=1),
            torch.cat([hidden_item, item[:, width:]], dim=1),
        )

    def score(self, encoded: tuple[Tensor, Tensor], users: Tensor, items: Tensor | None = None) -> Tensor:
        """Logits, shape (batch, number of items)."""
        hidden_user, product_user = self._parts(encoded[0].index_select(0, users))
        item = encoded[1] if items is None else encoded[1].index_select(0, items)
        hidden_item, product_item = self._parts(item)
        hidden: Tensor = _HiddenScores.apply(  # type: ignore[no-untyped-call]
            hidden_user, hidden_item, self.output_hidden
        )
        return torch.addmm(hidden + self.output_bias, product_user * self.output_product, product_item.T)

    def score_pairs(self, encoded: tuple[Tensor, Tensor], users: Tensor, items: Tensor) -> Tensor:
        """Logits, shape (batch,)."""
        hidden_user, product_user = self._parts(encoded[0])
        hidden_item, product_item = self._parts(encoded[1])
        hidden = hidden_scores(hidden_user, hidden_item, self.output_hidden, users, items)
        product = paired_products(product_user * self.output_product, product_item, users, items)
        return hidden + product + self.output_bias

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The part for the hidden layer and the part for the products."""
        num_units = len(self.output_hidden)
        return rows[:, :num_units], rows[:, num_units:]
