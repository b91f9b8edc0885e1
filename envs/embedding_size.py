"""The environment of CIESS: set every embedding size at once, train, see what ranking quality is left."""

import time
from typing import Any, ClassVar, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.budget import MemoryBudget
from envs.data import Interactions
from envs.errors import ConfigError, EmbeddingSizeError, UnknownNameError
from envs.mdp import (
    KINDS,
    NUM_STATE_FEATURES,
    Form,
    memory_cost,
    observe,
    relative_quality,
    reward,
    saturated_quality,
    scale_popularity,
    scale_size,
    unscale_size,
)
from envs.metrics import EntityQuality, entity_quality
from envs.recommenders import check_recommender, resolve_device
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.sizes.embedding_sizes import EmbeddingSizes
from envs.sizes.projection import check_bounds
from envs.step_modes import STEP_MODES, State, batches_of_step

Observation = dict[str, NDArray[np.float32]]
Action = dict[str, NDArray[np.float32]]


_FULL_SIZE_SEED = 0


class EmbeddingSizeEnv(gym.Env[Observation, Action]):
    """One step gives every user and every item an embedding size and trains a recommender with them.

    ## Description
    The Markov decision process of CIESS (arXiv 2304.03501, section 2.2) for a whole table at a time. A
    step masks the table to the sizes asked for, trains a fresh base recommender for a few epochs and
    ranks the validation interactions. Learning treats every entity as a sample of its own; ``info``
    carries the arrays that this needs.

    ## Action Space
    ``Dict(user=Box(-1, 1, (num_users,)), item=Box(-1, 1, (num_items,)))``, float32: -1 is
    ``min_embedding_size``, +1 is ``max_embedding_size``. Sizes are rounded. Under a budget the executed
    sizes are the exact projection of the proposed ones onto the cap, which they use up: a table that
    leaves memory unused ranks no better for it.

    ## Observation Space
    ``Dict(user=Box(-1, 1, (num_users, 3)), item=Box(-1, 1, (num_items, 3)))``, float32:

    | column | meaning | -1 | +1 |
    | --- | --- | --- | --- |
    | 0 | popularity, in training | least | most |
    | 1 | embedding size | d_min | d_max |
    | 2 | share of the full table's quality; in the ``reference`` form whether there is any | 0 | 1 |

    ## Rewards
    The mean over the entities that have a quality of q - λ · (d / d_max)², where q is the entity's share of
    the quality that the full-size table gives it and d the size that earned it, the executed one. In the
    ``reference`` form q is the entity's quality itself and the cost ((d - 1) / d_max)².
    ``info["user"]`` and ``info["item"]`` hold, for each entity, ``reward``, ``quality`` (NaN where there
    is none), ``memory_cost``, ``proposed_sizes``, ``embedding_sizes`` (executed) and ``action`` (these on
    the action's scale, which is what learning takes for the action); ``info`` itself ``kept_ratio``,
    ``proposed_ratio``, ``num_params``, ``packed_bytes``, ``quality`` (mean of the six ranking metrics),
    ``recall@k``, ``ndcg@k``, ``train_s`` and ``evaluate_s``.

    ## Starting State
    Every size at ``max_embedding_size`` and every quality at the full table's own, 1; in the ``reference``
    form at 0, the middle of the scale.

    ## Episode End
    Never terminates; truncates after ``episode_length`` steps.

    ## Arguments
    - ``interactions``: the frozen splits.
    - ``recommender``, ``recommender_options``: a name in ``envs.recommenders.RECOMMENDERS`` and its options.
    - ``training``: the recipe of one step and of the full-size fit.
    - ``step_mode``: how a step obtains its recommender, see :mod:`envs.step_modes`: ``fresh`` (the paper),
      ``finetune``, ``supernet`` or ``finetuned_supernet``.
    - ``pretrained``: what ``finetune`` (the full-size recommender) or the others (a supernet) start from.
    - ``batches_per_step``: batches that a step trains; None for the paper's 5 epochs.
    - ``budget``: anything ``MemoryBudget.parse`` reads; None leaves the sizes as proposed.
    - ``min_embedding_size``, ``max_embedding_size``: d_min and d_max.
    - ``episode_length``: T, 10 in the paper.
    - ``memory_weight``: λ; settable later as an attribute.
    - ``form``: ``paper``, or ``reference`` for the state and the reward of the authors' released code, which
      never trains a full-size table: see :func:`envs.mdp.saturated_quality` and :func:`envs.mdp.memory_cost`.
      That code counts an entity without validation items as one of quality 0; here, in either form, it has
      no quality, acts, and is not learned from.
    - ``shows_quality``: whether column 2 is filled, as in the paper; without it every entity shows 0 there,
      the middle of the scale. Quality is measured on the validation interactions that the reward comes from,
      of which an entity may have two: a policy that sees it can tell whose are lost anyway.
    - ``full_quality``: quality of every entity under the fully trained full-size table; None trains one
      at the first reset. The ``reference`` form has no use for this and the one before.
    - ``device``: ``cpu``, ``cuda`` or ``auto``.

    ## Version History
    - v0: first version.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # Gymnasium's base declares it on instances
        "render_modes": ["rgb_array"],
        "render_fps": 1,
    }

    def __init__(
        self,
        interactions: Interactions,
        *,
        recommender: str = "lightgcn",
        recommender_options: dict[str, Any] | None = None,
        training: TrainingSettings | None = None,
        step_mode: str = "fresh",
        pretrained: State | None = None,
        batches_per_step: int | None = None,
        budget: MemoryBudget | str | float | None = None,
        min_embedding_size: int = 1,
        max_embedding_size: int = 128,
        episode_length: int = 10,
        memory_weight: float = 0.4,
        form: Form = "paper",
        shows_quality: bool = True,
        full_quality: EntityQuality | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        check_bounds(min_embedding_size, max_embedding_size)
        if episode_length < 1:
            raise ConfigError(f"episode_length must be at least 1, not {episode_length}.")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}.")
        if form not in get_args(Form):
            raise UnknownNameError("form", form, get_args(Form))
        self.interactions = interactions
        self.min_embedding_size, self.max_embedding_size = min_embedding_size, max_embedding_size
        self.episode_length = episode_length
        self.memory_weight = memory_weight
        self.render_mode = render_mode
        self._num_tables = check_recommender(recommender, recommender_options or {}).num_tables
        self.training = training or TrainingSettings()
        self.cap_params = (
            None
            if budget is None
            else MemoryBudget.parse(budget).cap_params(
                interactions.num_entities, min_embedding_size, max_embedding_size, self._num_tables
            )
        )
        self._recipe = Recipe(
            interactions.train, self.training, recommender, recommender_options or {}, resolve_device(device)
        )
        self.batches_per_step = (
            batches_of_step(self._recipe) if batches_per_step is None else batches_per_step
        )
        self._form, self._shows_quality = form, shows_quality
        self._full_quality = full_quality
        self._popularity = {
            "user": scale_popularity(interactions.user_popularity),
            "item": scale_popularity(interactions.item_popularity),
        }
        counts = {"user": interactions.num_users, "item": interactions.num_items}
        self.observation_space = spaces.Dict(
            {k: spaces.Box(-1.0, 1.0, (n, NUM_STATE_FEATURES), np.float32) for k, n in counts.items()}
        )
        self.action_space = spaces.Dict(
            {k: spaces.Box(-1.0, 1.0, (n,), np.float32) for k, n in counts.items()}
        )
        self._sizes = self._full_sizes()
        if step_mode not in STEP_MODES:
            raise UnknownNameError("step mode", step_mode, STEP_MODES)
        self._step_mode = STEP_MODES[step_mode](self._recipe, self.batches_per_step, self._sizes, pretrained)
        self._quality: dict[str, NDArray[np.float32]] = {}
        self._num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode from the full table."""
        super().reset(seed=seed)
        self._num_steps = 0
        self._sizes = self._full_sizes()
        if self._form == "reference":
            self._quality = {k: np.full_like(self._popularity[k], np.nan) for k in KINDS}
        else:
            full = self.full_quality
            self._quality = {k: relative_quality(getattr(full, k), getattr(full, k)) for k in KINDS}
        return self._observation(), {}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Train and judge a recommender with the sizes asked for.

        Args:
            action: For ``user`` and ``item`` one number in [-1, 1] an entity, float32.

        Returns:
            Observation, mean reward, False, whether the episode is over, and info (see the class).

        Raises:
            EmbeddingSizeError: An action has the wrong shape, or is NaN or infinite.
        """
        proposed = {k: self._proposal(k, action[k]) for k in KINDS}
        self._sizes = self._execute(proposed)
        metrics, seconds = self._train_and_rank()
        quality = entity_quality(metrics, self.interactions.train)
        info: dict[str, Any] = {}
        for kind in KINDS:
            of_kind = getattr(quality, kind)
            if self._form == "reference":
                rewarded, shown = of_kind.astype(np.float32), saturated_quality(of_kind)
            else:
                full = getattr(self.full_quality, kind)
                rewarded = shown = relative_quality(of_kind, full)
            executed = getattr(self._sizes, kind)
            cost = memory_cost(executed, self.max_embedding_size, self._form)
            info[kind] = {
                "reward": reward(rewarded, cost, self.memory_weight),
                "quality": rewarded,
                "memory_cost": cost,
                "action": scale_size(executed, self.min_embedding_size, self.max_embedding_size),
                "proposed_sizes": proposed[kind],
                "embedding_sizes": executed,
            }
            self._quality[kind] = shown
        num_proposed = sum(int(p.sum(dtype=np.int64)) for p in proposed.values())
        info |= {
            "kept_ratio": self._sizes.kept_ratio,
            "proposed_ratio": num_proposed / (self._sizes.num_rows * self.max_embedding_size),
            "num_params": self._sizes.num_params,
            "packed_bytes": self._sizes.packed_bytes,
            "quality": metrics.quality,
            **metrics.summary(),
            **seconds,
        }
        rewards = np.concatenate([info[k]["reward"] for k in KINDS])
        mean_reward = float(np.nanmean(rewards)) if not np.isnan(rewards).all() else 0.0
        self._num_steps += 1
        return self._observation(), mean_reward, False, self._num_steps >= self.episode_length, info

    @property
    def full_quality(self) -> EntityQuality:
        """Quality of every entity under the full-size table, trained now if none was given."""
        if self._full_quality is None:
            # Not from the episode's own draws: one seed must give one episode, the first like any other.
            rng = np.random.default_rng(_FULL_SIZE_SEED)
            report = self._recipe.trainer(self._full_sizes(), rng).fit(self.interactions.validation)
            self._full_quality = entity_quality(report.best, self.interactions.train)
        return self._full_quality

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Sizes against popularity, users and items side by side, as an image (height, width, 3)."""
        if self.render_mode is None:
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, kind in zip(figure.subplots(1, 2, sharey=True), KINDS, strict=True):
            counts = getattr(self.interactions, f"{kind}_popularity")
            axes.scatter(counts, getattr(self._sizes, kind), s=4, alpha=0.4, linewidths=0)
            axes.set_xscale("symlog")
            axes.set_ylim(0, self.max_embedding_size * 1.03)
            axes.set_xlabel(f"training interactions of the {kind}")
        figure.axes[0].set_ylabel("embedding size")
        figure.suptitle(f"step {self._num_steps}, kept ratio {self._sizes.kept_ratio:.4f}")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def get_state(self) -> dict[str, Any]:
        """Everything that the next step depends on beside the arguments."""
        return {
            "user_sizes": self._sizes.user,
            "item_sizes": self._sizes.item,
            "quality": {k: v.copy() for k, v in self._quality.items()},
            "num_steps": self._num_steps,
            "memory_weight": self.memory_weight,
            "random_state": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`get_state` gave."""
        bounds = self.min_embedding_size, self.max_embedding_size
        self._sizes = EmbeddingSizes(state["user_sizes"], state["item_sizes"], *bounds, self._num_tables)
        self._quality = {k: v.copy() for k, v in state["quality"].items()}
        self._num_steps = state["num_steps"]
        self.memory_weight = state["memory_weight"]
        self.np_random.bit_generator.state = state["random_state"]

    def _proposal(self, kind: str, action: NDArray[np.float32]) -> NDArray[np.int32]:
        expected = self.action_space[kind].shape  # type: ignore[index]
        if np.shape(action) != expected or not np.isfinite(action).all():
            raise EmbeddingSizeError(
                f"the action of {kind}s must be finite and of shape {expected}, not {np.shape(action)}."
            )
        proposed = unscale_size(action, self.min_embedding_size, self.max_embedding_size)
        return np.rint(proposed).astype(np.int32)

    def _full_sizes(self) -> EmbeddingSizes:
        return EmbeddingSizes.full(
            self.interactions.num_users,
            self.interactions.num_items,
            self.max_embedding_size,
            self.min_embedding_size,
            self._num_tables,
        )

    def _execute(self, proposed: dict[str, NDArray[np.int32]]) -> EmbeddingSizes:
        bounds = (self.min_embedding_size, self.max_embedding_size)
        if self.cap_params is None:
            return EmbeddingSizes(proposed["user"], proposed["item"], *bounds, self._num_tables)
        return EmbeddingSizes.from_proposal(
            proposed["user"],
            proposed["item"],
            self.cap_params,
            *bounds,
            self.np_random,
            fill=True,
            num_tables=self._num_tables,
        )

    def _train_and_rank(self) -> tuple[Any, dict[str, float]]:
        started = time.perf_counter()
        recommender = self._step_mode.recommender(self._sizes, self.np_random)
        trained = time.perf_counter()
        metrics = evaluate(recommender, self.interactions.train, self.interactions.validation)
        return metrics, {"train_s": trained - started, "evaluate_s": time.perf_counter() - trained}

    def _observation(self) -> Observation:
        return {
            k: observe(
                self._popularity[k],
                getattr(self._sizes, k),
                self._quality[k] if self._shows_quality else np.full(len(self._quality[k]), np.nan),
                self.min_embedding_size,
                self.max_embedding_size,
            )
            for k in KINDS
        }
