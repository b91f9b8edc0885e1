"""The networks of TD3 for one kind of entity, and the exploration that uses them."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from ciess_ray.exploration import Exploration, build_exploration
from envs import mdp

#: What the actor itself would do, beside the action that exploration made of it.
PROTO_ACTIONS = "proto_actions"
#: What the critic values the end of each walk more than its start.
WALK_GAINS = "walk_gains"
TARGET_VALUES_1 = "target_values_1"
TARGET_VALUES_2 = "target_values_2"

# A mebibyte of a hidden layer: it stays in the cache, and its memory with the allocator.
_CHUNK_FLOATS = 2**18


def mlp(num_inputs: int, hiddens: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them and one output."""
    sizes = [num_inputs, *hiddens]
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1))


class Actor(nn.Module):
    """States (n, 3) to actions (n,) in [-1, 1]."""

    def __init__(self, hiddens: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp(mdp.NUM_STATE_FEATURES, hiddens)
        self.chunk_rows = max(_CHUNK_FLOATS // max(hiddens), 1)

    def forward(self, obs: Tensor) -> Tensor:
        """See the class."""
        return torch.tanh(self.net(obs)).squeeze(-1)


class Critic(nn.Module):
    """States (n, 3) and actions (n,) to values (n,)."""

    def __init__(self, hiddens: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp(mdp.NUM_STATE_FEATURES + 1, hiddens)
        self.chunk_rows = max(_CHUNK_FLOATS // max(hiddens), 1)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """See the class."""
        value: Tensor = self.net(torch.cat([obs, action.unsqueeze(-1)], dim=-1))
        return value.squeeze(-1)


@torch.inference_mode()
def in_chunks(network: Actor | Critic, *columns: Tensor) -> Tensor:
    """What ``network`` gives for columns of n rows, shape (n,), worked out a part of the rows at a time."""
    rows = network.chunk_rows
    firsts = range(0, len(columns[0]), rows)
    return torch.cat([network(*(column[first : first + rows] for column in columns)) for first in firsts])


class TD3Module(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI):
    """One actor and two critics, with their targets on the learner.

    ``model_config`` holds ``hiddens`` and, on an env runner, ``exploration`` with ``min_embedding_size`` and
    ``max_embedding_size``. An env runner keeps the actor and critic 1, which the random walk asks.
    """

    exploration: Exploration | None

    def setup(self) -> None:
        """Builds the networks; called once, by RLlib."""
        config: Any = self.model_config
        hiddens = config.get("hiddens", (256, 256))
        self.actor = Actor(hiddens)
        self.critic_1 = Critic(hiddens)
        self.critic_2 = Critic(hiddens)
        self.exploration = None
        if "max_embedding_size" in config:
            self.exploration = build_exploration(
                config["exploration"], config["min_embedding_size"], config["max_embedding_size"]
            )

    def make_target_networks(self) -> None:
        """Copies of the three networks; called once, by the learner."""
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

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Values both target critics give ``actions`` at ``obs``."""
        obs, actions = batch[Columns.OBS], batch[Columns.ACTIONS]
        return {
            TARGET_VALUES_1: self.target_critic_1(obs, actions),
            TARGET_VALUES_2: self.target_critic_2(obs, actions),
        }

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        actions = in_chunks(self.actor, batch[Columns.OBS])
        return {Columns.ACTIONS: actions, PROTO_ACTIONS: actions, WALK_GAINS: torch.zeros_like(actions)}

    def _forward_exploration(
        self, batch: dict[str, Any], generator: torch.Generator | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        if self.exploration is None or generator is None:
            raise RuntimeError("to explore, a module needs the sizes in its model_config, and a generator.")
        obs = batch[Columns.OBS]
        proto_actions = in_chunks(self.actor, obs)
        critic = functools.partial(in_chunks, self.critic_1)
        explored = self.exploration.explore(obs, proto_actions, critic, generator)
        return {
            Columns.ACTIONS: explored.actions,
            PROTO_ACTIONS: proto_actions,
            WALK_GAINS: explored.walk_gains,
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {Columns.ACTIONS: self.actor(batch[Columns.OBS])}
