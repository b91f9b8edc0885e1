"""SCALL's networks: an actor and two critics, each of two hidden layers, for RLlib's SAC."""

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT
from torch import Tensor, nn


class Trunk(nn.Module):
    """The hidden layers over some columns of a batch side by side.

    Args:
        columns: Names of the columns, each of shape (n, k).
        num_inputs: Numbers in all of them together.
        hiddens: Widths of the layers, each followed by a ReLU.
    """

    def __init__(self, columns: Sequence[str], num_inputs: int, hiddens: Sequence[int]) -> None:
        super().__init__()
        self._columns = tuple(columns)
        widths = [num_inputs, *hiddens]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
            layers += [_linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The last hidden layer, under the name that RLlib looks for."""
        return {ENCODER_OUT: self.layers(torch.cat([batch[column] for column in self._columns], dim=-1))}


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ShapeModule(DefaultSACTorchRLModule):
    """Actor and critics of one width each, where RLlib's own critics encode state and action apart.

    ``model_config`` holds ``hiddens``. The actor gives the mean of each number before the squashing, then log
    σ of each. An env runner has the actor alone.
    """

    def setup(self) -> None:
        """Builds the networks; called once, by RLlib."""
        # RLlib declares them optional.
        config: Any = self.model_config
        spaces: tuple[Any, Any] = (self.observation_space, self.action_space)
        num_obs, num_actions = (int(space.shape[0]) for space in spaces)
        hiddens = config["hiddens"]
        self.twin_q = True
        self.pi_encoder = Trunk([Columns.OBS], num_obs, hiddens)
        self.pi = _linear(hiddens[-1], 2 * num_actions)
        if not self.inference_only:
            both = [Columns.OBS, Columns.ACTIONS], num_obs + num_actions, hiddens
            self.qf_encoder, self.qf = Trunk(*both), _linear(hiddens[-1], 1)
            self.qf_twin_encoder, self.qf_twin = Trunk(*both), _linear(hiddens[-1], 1)
