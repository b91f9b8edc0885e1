"""The world of CIESS-Ray: interactions, base recommenders, memory budgets, Gymnasium environments.

Importing this package registers ``CIESS/EmbeddingSize-v0``, ``CIESS/ToySize-v0`` and
``CIESS/PendulumTable-v0`` with Gymnasium. It imports neither Ray nor MLflow and serves any
reinforcement-learning library.
"""

from gymnasium.envs.registration import register, registry

EMBEDDING_SIZE_ENV_ID = "CIESS/EmbeddingSize-v0"
TOY_SIZE_ENV_ID = "CIESS/ToySize-v0"
PENDULUM_TABLE_ENV_ID = "CIESS/PendulumTable-v0"

for _id, _entry_point in (
    (EMBEDDING_SIZE_ENV_ID, "envs.embedding_size:EmbeddingSizeEnv"),
    (TOY_SIZE_ENV_ID, "envs.toy:ToySizeEnv"),
    (PENDULUM_TABLE_ENV_ID, "envs.pendulum:PendulumTableEnv"),
):
    if _id not in registry:
        register(id=_id, entry_point=_entry_point)
