"""The world of CIESS-Ray: interactions, base recommenders, memory budgets, Gymnasium environments.

Importing this package registers ``CIESS/EmbeddingSize-v0`` and ``CIESS/ToySize-v0`` with Gymnasium. It
imports neither Ray nor MLflow and serves any reinforcement-learning library.
"""

from gymnasium.envs.registration import register

EMBEDDING_SIZE_ENV_ID = "CIESS/EmbeddingSize-v0"
TOY_SIZE_ENV_ID = "CIESS/ToySize-v0"

register(EMBEDDING_SIZE_ENV_ID, entry_point="envs.embedding_size:EmbeddingSizeEnv")
register(TOY_SIZE_ENV_ID, entry_point="envs.toy:ToySizeEnv")
