"""One embedding table whose rows differ in size."""

import torch
from torch import Tensor, nn

from envs.sizes.embedding_sizes import EmbeddingSizes


class SizedEmbedding(nn.Module):
    """Rows of users, then items; row n keeps its first d_n numbers and the rest are zero.

    The table is as wide as the largest size it was made for, not as d_max: what no row keeps is not stored.
    Where ``sizes.num_tables`` is more than one, the tables stand side by side and share the sizes.

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
        self.sizes, self.width = sizes, sizes.width
        mask = torch.from_numpy(sizes.mask()).to(device)
        values = torch.randn(mask.shape, generator=generator) * init_std
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(values.to(device) * mask)

    def forward(self, num_columns: int | None = None) -> Tensor:
        """The masked table, shape (num_users + num_items, num_tables * width).

        Args:
            num_columns: Leading columns that are wanted; None for all.
        """
        # A product with a mask of booleans makes one of numbers first.
        return torch.where(self.mask[:, :num_columns], self.weight[:, :num_columns], 0.0)

    def mask_to(self, sizes: EmbeddingSizes) -> None:
        """Let each row show another prefix from now on; what it holds beyond it stays.

        Args:
            sizes: One size a row, none above :attr:`width`.
        """
        self.sizes = sizes
        self.mask = torch.from_numpy(sizes.mask(self.width)).to(self.weight.device)

    def packed_values(self) -> Tensor:
        """The numbers that are kept, row after row, shape (num_params,), float32, on the CPU."""
        return self.weight.detach()[self.mask].cpu()

    def load_packed_values(self, values: Tensor) -> None:
        """Put back what :meth:`packed_values` gave."""
        with torch.no_grad():
            self.weight.zero_()
            self.weight[self.mask] = values.to(self.weight.device)
