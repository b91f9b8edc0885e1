"""One embedding table whose rows differ in size."""

import torch
from torch import Tensor, nn

from envs.budget import EmbeddingSizes


class SizedEmbedding(nn.Module):
    """Rows of users, then items; row n keeps its first d_n numbers and the rest are zero.

    The table is as wide as the largest size in use, not as d_max: what no row keeps is not stored.

    Args:
        sizes: One size a row.
        init_std: Standard deviation of the initial values.
        generator: Draws the initial values.
        device: Where the table lives.
    """

    mask: Tensor

    def __init__(
        self, sizes: EmbeddingSizes, *, init_std: float, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        self.num_users, self.num_items = len(sizes.user), len(sizes.item)
        row_sizes = torch.cat([torch.tensor(sizes.user), torch.tensor(sizes.item)])
        mask = torch.arange(sizes.width)[None, :] < row_sizes[:, None]
        values = torch.randn(mask.shape, generator=generator) * init_std
        self.register_buffer("mask", mask.to(device), persistent=False)
        self.weight = nn.Parameter((values * mask).to(device))

    def forward(self) -> Tensor:
        """The masked table, shape (num_users + num_items, width)."""
        return self.weight * self.mask

    def packed_values(self) -> Tensor:
        """The numbers that are kept, row after row, shape (Σ d_n,), float32, on the CPU."""
        return self.weight.detach()[self.mask].cpu()

    def load_packed_values(self, values: Tensor) -> None:
        """Put back what :meth:`packed_values` gave."""
        with torch.no_grad():
            self.weight.zero_()
            self.weight[self.mask] = values.to(self.weight.device)
