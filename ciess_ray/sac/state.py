"""What SCALL's policy has learnt as plain arrays by name, so that a file of it holds no code.

    module/pi.weight                      networks, targets included
    optimizer/default_policy_qf/0/step    steps that Adam has taken for a parameter, and its two means
    replay/obs                            transitions, the oldest first, and how many draws there were
    num_steps, obs                        table steps, and what is seen where the policy stands

A number alone has the shape (1,). What RLlib counts beside, seconds among it, changes nothing in what the
policy does, and is left out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ciess_ray.sac.algorithm import CAPACITY
from envs.errors import ResultError

Arrays = dict[str, NDArray[Any]]
Shapes = dict[str, tuple[int, ...]]

_MODULE_ID = "default_policy"
_MODULE, _OPTIMIZER, _REPLAY = "module/", "optimizer/", "replay/"
_NUM_STEPS, _NUM_DRAWS, _OBS = "num_steps", f"{_REPLAY}num_draws", "obs"
_MEANS, _STEP = ("exp_avg", "exp_avg_sq"), "step"


def arrays_of(algorithm: Any, num_steps: int, obs: NDArray[np.float32]) -> Arrays:
    """All that an algorithm needs to go on to the same steps.

    Args:
        algorithm: A :class:`ciess_ray.sac.algorithm.ShapeSAC`.
        num_steps: Table steps so far.
        obs: What is seen where it stands.
    """
    state = algorithm.get_state()
    learner = state["learner_group"]["learner"]
    values: dict[str, Any] = {_NUM_STEPS: num_steps, _OBS: obs}
    values |= {_MODULE + name: value for name, value in learner["rl_module"][_MODULE_ID].items()}
    for optimizer, content in learner["optimizer"].items():
        for place, kept in content["state"]["state"].items():
            values |= {f"{_OPTIMIZER}{optimizer}/{place}/{name}": kept[name] for name in (*_MEANS, _STEP)}
    values |= {_REPLAY + name: value for name, value in state["replay_buffer"].items()}
    # Copies: what is learnt next would be written into them.
    return {name: np.atleast_1d(np.array(value)) for name, value in values.items()}


def put_into(algorithm: Any, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, NDArray[np.float32]]:
    """Have an algorithm that has not trained yet go on from :func:`arrays_of` another.

    Args:
        algorithm: The new one.
        arrays: By name.

    Returns:
        Table steps so far, and what is seen, shape (num_obs,).

    Raises:
        ResultError: An array is missing or unknown, of another shape, or has what is no finite number.
    """
    learner = algorithm.get_state()["learner_group"]["learner"]
    module, optimizers = learner["rl_module"][_MODULE_ID], learner["optimizer"]
    num_steps = _count(arrays, _NUM_STEPS)
    num_stored = len(arrays.get(f"{_REPLAY}reward", ()))
    obs, action = _shapes_of_spaces(algorithm)
    rows = {"obs": obs, "action": action, "reward": (), "next_obs": obs}
    # Of no transitions there is nothing that would tell how long they are.
    replay = {
        f"{_REPLAY}{name}": (num_stored, *shape) if num_stored else (0,) for name, shape in rows.items()
    }
    shapes = {_MODULE + name: value.shape for name, value in module.items()} | replay
    if num_steps:
        shapes |= _optimizer_shapes(algorithm, optimizers)
    _check(arrays, shapes | {_NUM_STEPS: (1,), _NUM_DRAWS: (1,), _OBS: obs})
    if num_stored > CAPACITY:
        raise ResultError(f"{_REPLAY}reward has {num_stored:,} transitions, and a policy keeps {CAPACITY:,}.")

    def adam(optimizer: str, place: int) -> dict[str, Any]:
        stem = f"{_OPTIMIZER}{optimizer}/{place}/"
        return {name: arrays[stem + name] for name in _MEANS} | {_STEP: float(arrays[stem + _STEP][0])}

    for name, content in optimizers.items():
        state = content["state"]
        places = [place for group in state["param_groups"] for place in group["params"]]
        state["state"] = {place: adam(name, place) for place in places if num_steps}
    stored = {name: np.array(arrays[_REPLAY + name]) for name in rows}
    taken_up = {
        "rl_module": {_MODULE_ID: {name: arrays[_MODULE + name] for name in module}},
        "optimizer": optimizers,
    }
    algorithm.set_state(
        {
            "learner_group": {"learner": taken_up},
            "replay_buffer": stored | {"num_draws": _count(arrays, _NUM_DRAWS)},
        }
    )
    return num_steps, np.array(arrays[_OBS], np.float32)


def _shapes_of_spaces(algorithm: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    stage = algorithm.env_runner.env.unwrapped.envs[0].unwrapped
    return stage.observation_space.shape, stage.action_space.shape


def _optimizer_shapes(algorithm: Any, names: Mapping[str, Any]) -> Shapes:
    shapes: Shapes = {}
    for name in names:
        (group,) = algorithm.learner_group._learner.get_optimizer(optimizer_name=name).param_groups
        for place, parameter in enumerate(group["params"]):
            stem = f"{_OPTIMIZER}{name}/{place}/"
            shapes |= {stem + mean: tuple(parameter.shape) for mean in _MEANS} | {stem + _STEP: (1,)}
    return shapes


def _count(arrays: Mapping[str, NDArray[Any]], name: str) -> int:
    array = arrays.get(name)
    if array is None or array.shape != (1,) or array.dtype.kind not in "iu" or array[0] < 0:
        raise ResultError(f"{name} is missing, or no count.")
    return int(array[0])


def _check(arrays: Mapping[str, NDArray[Any]], shapes: Shapes) -> None:
    odd = sorted(set(arrays) ^ set(shapes))
    if odd:
        raise ResultError(f"{odd[0]} is {'missing' if odd[0] in shapes else 'nothing that a policy keeps'}.")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape:
            raise ResultError(f"{name} has the shape {array.shape}, and {shape} here.")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ResultError(f"{name} has something in it that is no finite number.")
