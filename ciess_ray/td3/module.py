"""The networks of TD3 for one kind of entity."""

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from envs import mdp

# A mebibyte of a hidden layer stays in the cache.
_CHUNK_FLOATS = 2**18


class Mlp(nn.Sequential):
    """Linear layers with ReLU between them and one output, (n, num_inputs) to (n, 1)."""

    def __init__(self, num_inputs: int, hiddens: Sequence[int]) -> None:
        sizes = [num_inputs, *hiddens]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(sizes[-1], 1))
        self.chunk_rows = max(_CHUNK_FLOATS // max(hiddens), 1)
        self._hidden: list[Tensor] = []

    @torch.inference_mode()
    def infer(self, inputs: Tensor) -> Tensor:
        """The same for very many rows, without gradients.

        Some rows at a time, in memory that is kept: what is given back to the system between two parts has to
        be mapped anew, which takes as long as half of the arithmetic where layers are narrow.
        """
        linears = [layer for layer in self if isinstance(layer, nn.Linear)]
        if not self._hidden:
            self._hidden = [torch.empty(self.chunk_rows, layer.out_features) for layer in linears[:-1]]
        outputs = torch.empty(len(inputs), 1)
        for first in range(0, len(inputs), self.chunk_rows):
            rows = inputs[first : first + self.chunk_rows]
            last = outputs[first : first + self.chunk_rows]
            for layer, hidden in zip(linears, [*self._hidden, last], strict=True):
                rows = torch.addmm(layer.bias, rows, layer.weight.T, out=hidden[: len(rows)])
                if hidden is not last:
                    rows.relu_()
        return outputs


class Actor(nn.Module):
    """States (n, 3) to actions (n,) in [-1, 1]."""

    def __init__(self, hiddens: Sequence[int]) -> None:
        super().__init__()
        self.net = Mlp(mdp.NUM_STATE_FEATURES, hiddens)

    def forward(self, obs: Tensor) -> Tensor:
        """See the class."""
        return torch.tanh(self.net(obs)).squeeze(-1)

    def infer(self, obs: Tensor) -> Tensor:
        """The same by :meth:`Mlp.infer`."""
        return torch.tanh(self.net.infer(obs)).squeeze(-1)


class Critic(nn.Module):
    """States (n, 3) and actions (n,) to values (n,)."""

    def __init__(self, hiddens: Sequence[int]) -> None:
        super().__init__()
        self.net = Mlp(mdp.NUM_STATE_FEATURES + 1, hiddens)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """See the class."""
        value: Tensor = self.net(torch.cat([obs, action.unsqueeze(-1)], dim=-1))
        return value.squeeze(-1)

    def infer(self, inputs: Tensor) -> Tensor:
        """The same of states with their actions behind them, shape (n, 4), by :meth:`Mlp.infer`."""
        return self.net.infer(inputs).squeeze(-1)


class TD3Module(TorchRLModule, InferenceOnlyAPI):
    """One actor and two critics, with their targets on the learner.

    ``model_config`` holds ``hiddens``. An env runner keeps the actor and critic 1, which a walk asks.
    """

    def setup(self) -> None:
        """Builds the networks; called once, by RLlib."""
        config: Any = self.model_config
        hiddens = config.get("hiddens", (256, 256))
        self.actor = Actor(hiddens)
        self.critic_1 = Critic(hiddens)
        self.critic_2 = Critic(hiddens)
        self.target_actor = make_target_network(self.actor)
        self.target_critic_1 = make_target_network(self.critic_1)
        self.target_critic_2 = make_target_network(self.critic_2)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each network with its target."""
        return [
            (self.actor, self.target_actor),
            (self.critic_1, self.target_critic_1),
            (self.critic_2, self.target_critic_2),
        ]

    def get_non_inference_attributes(self) -> list[str]:
        """What env runners do without: all but the actor and critic 1."""
        return ["critic_2", "target_actor", "target_critic_1", "target_critic_2"]

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {Columns.ACTIONS: self.actor.infer(batch[Columns.OBS])}
