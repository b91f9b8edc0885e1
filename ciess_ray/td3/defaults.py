"""What the agent learns with where nobody says otherwise, be it in a ``TD3Config`` or a search's ``agent``.

Where CIESS (arXiv 2304.03501) has another value, the fields of ``ciess_ray.config.agent`` say why.
"""

HIDDENS = (256, 256)
GAMMA = 0.0
#: Transitions of users, and of items, an update.
BATCH_SIZE = 4096
UPDATES_PER_STEP = 20
IMITATION_WEIGHT = 30.0
EXPLORATION = {"name": "random_walk", "noise": "gaussian"}
#: Transitions kept of users, and as many of items.
CAPACITY = 1_000_000
