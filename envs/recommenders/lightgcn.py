"""LightGCN, the base recommender of the paper's main tables."""

import torch
from scipy.sparse import csr_array
from torch import Tensor

from envs.recommenders.base import DotProductRecommender
from envs.recommenders.propagation import TiledAdjacency, check_num_layers, mean_of_layers
from envs.sizes.embedding_sizes import EmbeddingSizes


class LightGCN(DotProductRecommender):
    """Mean of the table propagated 0 to ``num_layers`` times over the interaction graph.

    LightGCN (arXiv 2002.02126). Only layer 0 is masked: a short row is filled by its neighbours, which is
    why an item can live on a single dimension.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an entity.
        generator: Draws the initial values.
        device: Where the parameters live.
        l2: 1e-4 in CIESS and in LightGCN.
        init_std: Standard deviation of the table's initial values, 0.1 in LightGCN's code.
        num_layers: 3 in CIESS.

    Raises:
        ConfigError: There are too many layers.
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
        num_layers: int = 3,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=l2, init_std=init_std)
        check_num_layers("lightgcn", num_layers)
        self.num_layers = num_layers
        self.adjacency = TiledAdjacency(train, self.table.width, self.device)

    def encode(self) -> tuple[Tensor, Tensor]:
        """Means over the layers, (num_users, width) and (num_items, width)."""
        sizes = self.sizes
        return self.adjacency.split(
            mean_of_layers(self.adjacency, self.table(sizes.width), sizes.widths, self.num_layers)
        )
