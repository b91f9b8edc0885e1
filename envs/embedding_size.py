"""The environment of CIESS: set every embedding size at once, train, see what ranking quality is left."""

import time
from functools import cached_property
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from envs.budget import MemoryBudget
from envs.data import Interactions
from envs.errors import ConfigError, check_name
from envs.mdp import (
    KINDS,
    Form,
    TableEnv,
    relative_quality,
    saturated_quality,
    scale_size,
)
from envs.metrics import entity_quality
from envs.recommenders import check_recommender, resolve_device
from envs.recommenders.evaluation import evaluate
from envs.recommenders.training import Recipe, TrainingSettings
from envs.step_modes import State, StepRecommenders, batches_of_step

_FULL_SIZE_SEED = 0


class EmbeddingSizeEnv(TableEnv):
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
    leaves memory unused ranks no better for it. Where a recommender has no rows of users, their box is
    empty, in observations too.

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
      ``finetune``, ``supernet``, ``finetuned_supernet`` or ``masked``.
    - ``pretrained``: what ``finetune`` and ``masked`` (the full-size recommender) or the others (a supernet)
      start from.
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
        full_quality: dict[str, NDArray[np.float64]] | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}.")
        check_name("form", form, get_args(Form))
        options, bounds = recommender_options or {}, (min_embedding_size, max_embedding_size)
        recommender_class = check_recommender(recommender, options)
        num_tables = recommender_class.num_tables
        id_bytes = recommender_class.id_bytes(interactions.num_items)
        counts = recommender_class.row_counts(interactions.num_users, interactions.num_items)
        cap_params = None
        if budget is not None:
            asked = MemoryBudget.parse(budget)
            cap_params = asked.cap_params(sum(counts), *bounds, num_tables, id_bytes=id_bytes)
        popularities = interactions.user_popularity, interactions.item_popularity
        self._counts = dict(zip(KINDS, counts, strict=True))
        super().__init__(
            {
                kind: popularity[: self._counts[kind]]
                for kind, popularity in zip(KINDS, popularities, strict=True)
            },
            *bounds,
            episode_length,
            memory_weight,
            num_tables=num_tables,
            cap_params=cap_params,
            form=form,
            shows_quality=shows_quality,
            id_bytes=id_bytes,
        )
        self.interactions = interactions
        self.render_mode = render_mode
        settings = training or TrainingSettings()
        self._recipe = Recipe(interactions.train, settings, recommender, options, resolve_device(device))
        self.batches_per_step = (
            batches_of_step(self._recipe) if batches_per_step is None else batches_per_step
        )
        if full_quality is not None:
            self.full_quality = full_quality
        self._recommenders = StepRecommenders(
            step_mode, self._recipe, self.batches_per_step, self._full_sizes, pretrained
        )

    def _full_size_quality(self) -> dict[str, NDArray[np.float32]]:
        if self._form == "reference":
            return {kind: np.full_like(self._popularity[kind], np.nan) for kind in KINDS}
        full = self._of_rows(self.full_quality)
        return {kind: relative_quality(full[kind], full[kind]) for kind in KINDS}

    def _judge(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]], dict[str, Any]]:
        started = time.perf_counter()
        recommender = self._recommenders.recommender(self._sizes, self.np_random)
        trained = time.perf_counter()
        metrics = evaluate(recommender, self.interactions.train, self.interactions.validation)
        seconds = {"train_s": trained - started, "evaluate_s": time.perf_counter() - trained}
        quality = self._of_rows(entity_quality(metrics, self.interactions.train))
        if self._form == "reference":
            rewarded = {kind: quality[kind].astype(np.float32) for kind in KINDS}
            shown = {kind: saturated_quality(quality[kind]) for kind in KINDS}
        else:
            full = self._of_rows(self.full_quality)
            rewarded = {k: relative_quality(quality[k], full[k]) for k in KINDS}
            shown = rewarded
        bounds = self.min_embedding_size, self.max_embedding_size
        actions = {kind: {"action": scale_size(getattr(self._sizes, kind), *bounds)} for kind in KINDS}
        return rewarded, shown, {"quality": metrics.quality, **metrics.summary(), **seconds, **actions}

    @cached_property
    def full_quality(self) -> dict[str, NDArray[np.float64]]:
        """Quality of every entity under the full-size table, trained now if none was given."""
        # Not from the episode's own draws: one seed must give one episode, the first like any other.
        rng = np.random.default_rng(_FULL_SIZE_SEED)
        report = self._recipe.trainer(self._full_sizes, rng).fit(self.interactions.validation)
        return entity_quality(report.best, self.interactions.train)

    def _of_rows(self, quality: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        """Of those who have rows of the table: where users have none, no size of theirs is set."""
        return {kind: quality[kind][: self._counts[kind]] for kind in KINDS}

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
            limits = 0, self.max_embedding_size * 1.03
            axes.set(xscale="symlog", ylim=limits, xlabel=f"training interactions of the {kind}")
        figure.axes[0].set_ylabel("embedding size")
        figure.suptitle(f"step {self._num_steps}, kept ratio {self._sizes.kept_ratio:.4f}")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
