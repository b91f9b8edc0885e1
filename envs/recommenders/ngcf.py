"""NGCF: propagation with a learned transformation a layer."""

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from envs.errors import ConfigError
from envs.recommenders.base import DotProductRecommender
from envs.recommenders.propagation import (
    SparseMatrix,
    check_num_layers,
    dropout_factors,
    row_normalised_adjacency,
)
from envs.sizes.embedding_sizes import EmbeddingSizes

_SLOPE = 0.2


class NGCF(DotProductRecommender):
    """The table beside its rows after each of ``num_layers`` transformed propagations.

    NGCF (arXiv 1905.08108) as CIESS (arXiv 2304.03501) uses it: the table is masked, and every layer is d_max
    wide whatever the largest size in use. A layer is LeakyReLU(s W_1 + (e ⊙ s) W_2 + b), s = D^-1 (A+I) e,
    handed on as it is and shown normalised. Differs from the authors' code: dropout, of entries of
    D^-1 (A+I) and of what layers hand on, acts in training alone and not in evaluation too; the two biases of
    a layer, which only enter as their sum, are one.

    Args:
        train: Training interactions, shape (num_users, num_items).
        sizes: One embedding size an entity.
        generator: Draws the initial values, and a seed for what dropout draws.
        device: Where the parameters live.
        l2: 1e-3 in CIESS, on the representations of a batch and not on rows of the table.
        init_std: Standard deviation of the table's initial values.
        num_layers: 3 in CIESS and in NGCF.
        node_dropout: Share of the entries of D^-1 (A+I) that a batch goes without; 0.1 in CIESS.
        message_dropout: Share of the numbers of a layer that a batch goes without; 0.1 in both.

    Raises:
        ConfigError: A dropout is not below 1, or there are too many layers.
    """

    def __init__(
        self,
        train: csr_array,
        sizes: EmbeddingSizes,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
        l2: float = 1e-3,
        init_std: float = 0.1,
        num_layers: int = 3,
        node_dropout: float = 0.1,
        message_dropout: float = 0.1,
    ) -> None:
        super().__init__(train, sizes, generator=generator, device=device, l2=l2, init_std=init_std)
        for name, rate in (("node_dropout", node_dropout), ("message_dropout", message_dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(f"the option {name} of the recommender ngcf must be below 1, not {rate:g}.")
        check_num_layers("ngcf", num_layers)
        self.num_layers, self.node_dropout, self.message_dropout = num_layers, node_dropout, message_dropout
        self.graph = SparseMatrix.of(row_normalised_adjacency(train), self.device)
        self.dropout_generator = torch.Generator(self.device)
        self.dropout_generator.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        d_max = sizes.max_embedding_size
        shapes = [(self.table.width, d_max), *[(d_max, d_max)] * (num_layers - 1)][:num_layers]
        self.weights_sum = nn.ParameterList([self.xavier(*s, *s, generator=generator) for s in shapes])
        self.weights_product = nn.ParameterList([self.xavier(*s, *s, generator=generator) for s in shapes])
        self.biases = nn.ParameterList([torch.zeros(d_max, device=self.device) for _ in shapes])

    def encode(self) -> tuple[Tensor, Tensor]:
        """The table and every layer, normalised, side by side.

        Shapes (num_users, width + num_layers * d_max) and (num_items, the same). In training each call draws
        anew what is dropped.
        """
        graph = self.graph
        if self.training and self.node_dropout > 0:
            graph = graph.drop(self.node_dropout, self.dropout_generator)
        layer = self.table()
        shown = [layer]
        for weight_sum, weight_product, bias in zip(
            self.weights_sum, self.weights_product, self.biases, strict=True
        ):
            neighbours = graph @ layer
            linear = torch.addmm(bias, neighbours, weight_sum)
            layer = F.leaky_relu(torch.addmm(linear, layer * neighbours, weight_product), _SLOPE)
            if self.training and self.message_dropout > 0:
                layer = layer * dropout_factors(layer, self.message_dropout, self.dropout_generator)
            shown.append(F.normalize(layer))
        return torch.split(torch.cat(shown, dim=1), [self.num_users, self.num_items])  # type: ignore[return-value]

    def penalty(self, encoded: tuple[Tensor, Tensor], users: Tensor, items: Tensor) -> Tensor:
        """L2 of the representations that a batch uses, one number."""
        user, item = (part.square().sum(dim=1) for part in encoded)
        total: Tensor = self.l2 * (user.index_select(0, users).sum() + item.index_select(0, items).sum())
        return total / len(users)
