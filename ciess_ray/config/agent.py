"""What the agent is told, and the search that it makes."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ciess_ray.config.section import Section, one_of, refuse_twice
from ciess_ray.td3 import defaults
from ciess_ray.td3.exploration import build_exploration
from envs.errors import ConfigError
from envs.mdp import MAX_MEMORY_WEIGHT
from envs.step_modes import STEP_MODES


class AgentConfig(Section):
    """TD3 and its exploration."""

    hiddens: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        defaults.HIDDENS, min_length=1, max_length=100, description="hidden widths; 2 x 256 in CIESS"
    )
    gamma: float = Field(
        defaults.GAMMA,
        ge=0,
        lt=1,
        description="discount; 0.99 in CIESS. A fresh recommender's quality depends on no earlier size, so 0 "
        "loses nothing and learns from far fewer steps",
    )
    updates_per_step: int = Field(
        defaults.UPDATES_PER_STEP, ge=0, description="updates a table step; 1 in CIESS"
    )
    imitation_weight: float = Field(
        defaults.IMITATION_WEIGHT,
        ge=0,
        description="how strongly the actors are held near the best table so far; 0 in CIESS: not at all",
    )
    exploration: dict[str, Any] = Field(
        default_factory=defaults.EXPLORATION.copy,
        description="{name: random_walk, noise: gaussian}; CIESS: Gaussian of 6 sizes, 5 steps of at most 5 "
        "sizes; in mode projected a quarter of the budget's mean size where that is less",
    )

    @field_validator("exploration")
    @classmethod
    def _check_exploration(cls, spec: dict[str, Any]) -> dict[str, Any]:
        build_exploration(spec, 1, 2)
        return spec


class SearchConfig(Section):
    """The search itself."""

    mode: Literal["projected", "paper", "reference"] = Field(
        "projected",
        description="projected: each step meets the budget exactly; paper: λ alone does; reference: λ alone, "
        "and state, reward and exploration of the authors' code. The last two bring defaults of their own",
    )
    num_episodes: int = Field(30, ge=1, description="M; 30 in CIESS")
    episode_length: int = Field(10, ge=1, description="T, steps an episode; 10 in CIESS")
    step_mode: Annotated[str, one_of("search.step_mode", ["auto", *STEP_MODES])] = Field(
        "auto",
        description=f"where a step's recommender comes from: {', '.join(STEP_MODES)}; fresh in CIESS. "
        "auto: supernet, which ranks allocations best and costs least, but fresh in modes paper and "
        "reference. finetuned_supernet wants few batches_per_step, such as 20. A recommender in closed form "
        "is masked, in every mode",
    )
    batches_per_step: int | None = Field(
        None, ge=1, description="batches that a step trains; null: 5 epochs, as in CIESS"
    )
    step_learning_rate: float | None = Field(
        None, gt=0, description="first learning rate of a step's short training; null: training.learning_rate"
    )
    supernet_batches: int = Field(2_000, ge=1, description="batches that the supernet is trained, once")
    supernet_kept_ratios: tuple[float, float] | None = Field(
        None,
        description="least and greatest kept ratio of the tables the supernet is trained on; null: a third "
        "below and above the budget",
    )
    num_warmup_steps: int = Field(
        0,
        ge=0,
        description="first steps, taken by policies of a whole table, at random and then near the best; none "
        "in CIESS",
    )
    memory_weight: Annotated[float, Field(ge=0, le=MAX_MEMORY_WEIGHT)] | Literal["auto"] = Field(
        "auto",
        description="λ: a number (CIESS: 0.4 for ML-1M), or auto: from 0 by dual ascent onto the budget",
    )
    shows_quality: bool = Field(
        True,
        description="whether the state has an entity's quality, as in CIESS. It comes of the interactions "
        "that sizes are chosen on: where an entity has few of them, a policy learns whose are lost anyway",
    )
    num_candidates: int = Field(
        5,
        ge=1,
        description="l, candidates that are trained to convergence, a plain split among them; 5 in CIESS",
    )
    tried_communities: tuple[Annotated[int, Field(ge=2, le=255)], ...] = Field(
        (),
        description="what is best, and the best plain split, are trained too with the rows of users in as "
        "many communities beginning at columns of their own, at a byte a row, until one is no better than "
        "the last; for recommenders that propagate and tight budgets; none in CIESS",
    )
    user_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of users, drawn by seed, that the recipe, the full-size fit, the supernet, the "
        "steps and the finalists are trained and judged on, with all items; the last tables, those that are "
        "measured and packed, are trained on everybody",
    )
    refit: bool = Field(
        True,
        description="whether what is packed is trained once more on all interactions, test included, at the "
        "sizes, communities and options that were chosen; all figures stay those of the table that was "
        "trained without test, which is kept beside it. false in sweeps, which compare",
    )
    tries_users_first: bool = Field(
        False,
        description="whether the last of the candidates is the plain split that leaves items the least, "
        "whatever steps make of it; for recommenders that propagate. Found where nothing is said of training",
    )
    tried_recipes: tuple[dict[str, Any], ...] = Field(
        (),
        description="other ways to train, by fields of training and options of the recommender, such as "
        "{training.loss: bpr, l2: 0.001}: the full table, equal sizes and what was chosen are trained in "
        "each of them too, and keep what is best on validation. Found where nothing is said of training",
    )
    num_env_runners: int = Field(
        0, ge=0, description="Ray actors that take steps in parallel; 0: the driver does"
    )
    evaluation_interval: int = Field(
        0,
        ge=0,
        description="table steps between two greedy steps while the policy still learns; 0: at the end alone",
    )
    checkpoint_interval_s: float = Field(
        60.0, ge=0, description="seconds between two checkpoints, which is what a killed search may lose"
    )

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        refuse_twice("search.tried_communities", self.tried_communities)
        refuse_twice("search.tried_recipes", self.tried_recipes)
        if {} in self.tried_recipes:
            raise ConfigError(
                "search.tried_recipes: {} is what is searched with; name a field of training or an option."
            )
        if self.user_share < 1 and self.mode != "projected":
            raise ConfigError(
                f"search.user_share: search.mode={self.mode} does as CIESS does, which searches with "
                "everybody: leave it out."
            )
        low, high = self.supernet_kept_ratios or (1.0, 1.0)
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"search.supernet_kept_ratios must be two kept ratios in (0, 1], the lower first, "
                f"not [{low:g}, {high:g}]."
            )
        return self

    @property
    def num_greedy_steps(self) -> int:
        """Steps at the end that the actors take alone, without exploration; none in CIESS."""
        return 2 if self.mode == "projected" else 0

    @property
    def num_steps(self) -> int:
        """Table steps in all."""
        return self.num_episodes * self.episode_length

    @property
    def num_judgements(self) -> int:
        """Tables that are evaluated on validation: steps, evaluations between them, and greedy steps.

        Of a search whose driver takes the steps; several env runners meet the interval as near as they can.
        """
        num_evaluations = self.num_steps // self.evaluation_interval if self.evaluation_interval else 0
        return self.num_steps + num_evaluations + self.num_greedy_steps
