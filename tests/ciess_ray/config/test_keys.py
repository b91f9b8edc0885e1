"""A key changes with every field that can change the result, and with no other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from ciess_ray.comparisons.cell import Board
from ciess_ray.comparisons.config import ComparisonPlan
from ciess_ray.config.data import caps_params_of, dataset_key, load_interactions
from ciess_ray.config.keys import values_of_key, without_former
from ciess_ray.config.run import RunConfig
from ciess_ray.config.yaml_file import parse_config
from ciess_ray.names import flatten
from ciess_ray.searches.beginning import checkpoints_of
from ciess_ray.training.preparing import Preparation, training_file
from envs.sizes.embedding_sizes import EmbeddingSizes

#: How it is done, and where.
NEVER = ("output", "cache", "resources", "tracking", "time", "search.refit", "search.checkpoint_interval_s")
#: It decides whose interactions there are, and these count.
NEVER += ("search.user_share",)
BUDGETS = ("budget",)
STEPS = ("search.step_mode", "search.batches_per_step", "search.step_learning_rate")
SUPERNET = ("search.supernet_batches", "search.supernet_kept_ratios")
WAYS = ("search.tried_recipes",)
CHOSEN = ("search.num_candidates", "search.tried_communities", "search.tries_users_first", *WAYS)
RANDOM = tuple(
    f"search.{name}"
    for name in (
        # Greedy steps at the end are those of one mode.
        "mode",
        "num_warmup_steps",
        "memory_weight",
        "num_episodes",
        "episode_length",
        "evaluation_interval",
    )
)
#: By what is kept, the fields that do not matter to it, or whole sections.
IGNORED = {
    "full size": ("agent", "search", *BUDGETS),
    "training": ("agent", "search", *BUDGETS),
    "checkpoint": ("search.num_episodes", "search.num_candidates"),
    # Budgets and kept ratios are looked at below.
    "supernet": ("agent", "search", *BUDGETS),
    "cell full size": ("agent", "search", *BUDGETS),
    "cell equal sizes": ("agent", "search"),
    "cell split": ("agent", "search"),
    "cell random search": ("agent", "search"),
    "cell search": ("search.supernet_kept_ratios",),
    # A yardstick is made of interactions.
    "cell ease": ("agent", "search", "recommender", "training", "seed", *BUDGETS),
}
#: Of what is ignored above, the fields that matter all the same.
COUNTED = {
    "supernet": SUPERNET,
    "cell full size": WAYS,
    "cell equal sizes": ("search.num_candidates", *WAYS),
    "cell split": (*STEPS, *SUPERNET, "search.num_candidates", *WAYS),
    "cell random search": (
        *STEPS,
        *SUPERNET,
        *CHOSEN,
        *RANDOM,
    ),
    "cell search": ("search.supernet_kept_ratios",),
}
#: Another value where its type does not say one.
OTHERS = {
    "time": "5m",
    "budget": "30%",
    "recommender.name": "mf",
    "recommender.max_embedding_size": 17,
    "recommender.device": "auto",
    "search.mode": "paper",
    "search.step_mode": "fresh",
    "search.memory_weight": 0.5,
    "search.tried_recipes": ({"training.loss": "softmax", "l2": 0.5},),
    "search.supernet_kept_ratios": (0.1, 0.9),
}


def fields_of(model=RunConfig, prefix=""):
    """Every field of a configuration by its dotted name."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def other_than(value):
    match value:
        case bool():
            return not value
        case dict():
            return value | {"another": 1}
        case tuple():
            return (*value, 3)
        case None:
            return 3
        case str() | Path():
            return type(value)(f"{value}-another")
    return value + 1


def changed(config, name):
    section, _, field = name.rpartition(".")
    inner = getattr(config, section) if section else config
    value = OTHERS.get(name, other_than(getattr(inner, field)))
    inner = inner.model_copy(update={field: value})
    return config.model_copy(update={section: inner}) if section else inner


def is_in(name, names):
    return any(name == one or name.startswith(f"{one}.") for one in names)


@pytest.fixture(scope="module")
def keys(make_config, tmp_path_factory):
    """By what is kept, a function that gives the key under a configuration."""
    folder = tmp_path_factory.mktemp("keys")
    # Other seeds are to be seeds of the same data.
    config = make_config(folder / "out", dataset={"split_seed": 0})
    interactions = load_interactions(config)
    plan = ComparisonPlan.of(
        {
            "base": config.model_dump(mode="json"),
            "space": {"budget": ["20%"]},
            "methods": ["full size", "equal sizes", "split", "random search", "search"],
            "yardsticks": ["ease"],
            "output": str(folder / "comparison"),
        },
        "comparison",
        folder,
    )
    board = Board(plan)
    rows = np.full(interactions.num_users, 2), np.full(interactions.num_items, 2)
    sizes = EmbeddingSizes(*rows, 1, 16)

    def in_cell(cell):
        def key(config):
            # Other modes may split otherwise; here a key is of the same data.
            board.data.setdefault(dataset_key(config), board.data[dataset_key(cell.config)])
            return board.key(replace(cell, config=config))

        return key

    made = {
        "full size": lambda config: Preparation.full_size(config, interactions, keeps_state=False).key,
        "supernet": lambda config: (
            Preparation.supernet(config, interactions, caps_params_of(config, interactions)).key
        ),
        "training": lambda config: training_file(interactions, config.with_options({}), sizes, (0, 9), None),
        "checkpoint": lambda config: checkpoints_of(config, interactions).identity,
    }
    return config, made | {f"cell {cell.method}": in_cell(cell) for cell in plan.cells}


def test_a_key_says_of_every_field_what_it_always_said():
    folder = Path(__file__).parents[2] / "golden" / "result"
    recorded = json.loads((folder / "result.json").read_text())["config"]
    assert flatten(values_of_key(parse_config(without_former(recorded)), ())) == {
        name: value
        for name, value in flatten(recorded).items()
        if not is_in(name, ("dataset", *NEVER, "search.num_checkpoints"))
    }


@pytest.mark.parametrize("what", IGNORED)
def test_a_key_changes_with_what_matters_and_with_nothing_else(keys, what):
    config, made = keys
    before, wrong = made[what](config), []
    for name in fields_of():
        # Of data the interactions count, see below.
        if name.startswith("dataset."):
            continue
        matters = not is_in(name, (*NEVER, *IGNORED[what])) or name in COUNTED.get(what, ())
        # Each budget is one of the supernet's.
        matters |= what == "supernet" and name in BUDGETS
        if (made[what](changed(config, name)) != before) != matters:
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize("option", ["l2", "init_std", "num_layers"])
@pytest.mark.parametrize("what", ["full size", "supernet", "training", "cell split", "cell search"])
def test_of_several_values_of_an_option_the_first_counts_where_one_is_trained(keys, what, option):
    config, made = keys

    def key(value, **others):
        recommender = config.recommender.model_copy(update={"options": {option: value, **others}})
        return made[what](config.model_copy(update={"recommender": recommender}))

    is_cell = "cell" in what
    assert (key([4, 1]) == key(4)) == (not is_cell)
    assert key([4, 1]) != key([1, 4]) and (key([4, 1, 2]) == key([4, 2, 1])) == (not is_cell)
    # A list of one is that one, and what is tried of another option is not what is tried of this.
    assert key([4]) == key(4) != key(1)
    assert (key([4, 1], another=5) == key(4, another=[5, 1])) == (not is_cell)


def test_validation_has_as_little_of_many_interactions_as_tells_tables_apart(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def share(num_users, **sections):
        pairs = np.arange(1000 * num_users)
        pq.write_table(pa.table({"user_id": pairs // 1000, "item_id": pairs % 1000}), tmp_path / "a.parquet")
        config = RunConfig.model_validate({"dataset": {"path": tmp_path / "a.parquet"}, **sections})
        interactions = load_interactions(config)
        return interactions.validation.nnz / interactions.num_interactions, dataset_key(config)

    shares, keys = zip(share(100), share(300), share(600), strict=True)
    assert shares == (0.25, pytest.approx(1 / 6, abs=1e-3), 0.1)
    # In one sweep they are on other splits.
    paper, of_paper = share(300, search={"mode": "paper"})
    assert paper == 0.25 and of_paper != keys[1]


@pytest.mark.parametrize(
    "changes", [{"split_seed": 1}, {"validation_share": 0.1}, {"k_core": 10}, {"path": "other.parquet"}]
)
def test_other_interactions_are_another_key(keys, make_config, tmp_path, changes):
    import pyarrow.parquet as pq

    config, _ = keys
    if "path" in changes:
        changes = {"path": tmp_path / "other.parquet"}
        pq.write_table(pq.read_table(config.dataset.path).slice(1), changes["path"])
    other = make_config(tmp_path, dataset=changes)
    found = [Preparation.full_size(one, load_interactions(one)).key for one in (config, other)]
    assert found[0] != found[1]


def test_a_split_by_time_is_another_key_and_one_for_all_seeds(make_config, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    file = tmp_path / "timed.parquet"
    columns = {"user_id": rng.integers(0, 20, 300), "item_id": rng.integers(0, 30, 300)}
    pq.write_table(pa.table(columns | {"timestamp": rng.permutation(300)}), file)
    drawn, *by_time = (
        make_config(tmp_path, dataset={"path": file, "split": split}, seed=seed)
        for split, seed in (("random", 0), ("time", 0), ("time", 1))
    )
    assert len({dataset_key(config) for config in (drawn, *by_time)}) == 2
    assert {config.split_seed for config in by_time} == {0}
    keys = [Preparation.full_size(one, load_interactions(one)).key for one in (drawn, by_time[0])]
    assert keys[0] != keys[1]
    fingerprints = {load_interactions(config).fingerprint for config in by_time}
    assert len(fingerprints) == 1
