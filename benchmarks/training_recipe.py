"""What a full-size recommender owes to its recipe: one thing changed at a time, at equal CPU seconds.

    python benchmarks/training_recipe.py DATA_FOLDER
    python benchmarks/training_recipe.py DATA_FOLDER --data gowalla --recommenders mf

Every training has the seconds of its recipe, in a process of its own with one thread, and its learning rate
falls to a tenth in them. Quality is that on validation, of split 0; test is not looked at. Uncut item cosine
stands beside them. A row a training is appended, none is measured twice, and a page is written of them.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recommender_table_plan import DATA_SETS, FIELDS, WIDTH
from timed_training import config_of, kept_row, row_of, trained

from ciess_ray.config.data import load_interactions
from envs.yardsticks import item_cosine

ITEM_COSINE, RECIPE = "item cosine", "the recipe"
_LOSS, _POSITIVES, _TEMPERATURE = (f"training.{name}" for name in ("loss", "positives", "temperature"))
_RATE, _BATCH, _WIDTH = "training.learning_rate", "training.batch_size", "recommender.max_embedding_size"
_L2, _STD, _LAYERS = (f"recommender.options.{name}" for name in ("l2", "init_std", "num_layers"))
_SECONDS = "seconds"

#: As CIESS's code trains, and the package by default.
_FORMER = {
    _LOSS: "bpr",
    _POSITIVES: "user",
    _TEMPERATURE: None,
    _RATE: 0.03,
    _BATCH: 10_000,
    _L2: 1e-4,
    _STD: 0.1,
}
#: BPR at settings that suit it.
_BPR = {_LOSS: "bpr", _TEMPERATURE: None, _RATE: 0.1, _BATCH: 20_000, _L2: 5e-4, _STD: 0.1}
_COSINES = {_TEMPERATURE: 0.1, _L2: 0.0}


@dataclass(frozen=True)
class Recipe:
    """A recipe, and what is changed in it.

    Attributes:
        fields: What it sets, and the CPU seconds of a training.
        changes: By title what differs, one thing each.
    """

    fields: dict[str, Any]
    changes: dict[str, dict[str, Any]]

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The recipe itself, and then each change of it."""
        yield RECIPE, self.fields
        for title, changed in self.changes.items():
            yield title, self.fields | changed


def _scaled(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is done to any recipe."""
    return {
        "as before: BPR, 0.03": _FORMER,
        "BPR at its best settings": _BPR,
        "a third of the L2": {_L2: fields[_L2] / 3},
        "three times the L2": {_L2: fields[_L2] * 3},
        "a third of the learning rate": {_RATE: fields[_RATE] / 3},
        "three times the learning rate": {_RATE: fields[_RATE] * 3},
        "64 columns": {_WIDTH: 64},
        "twice the seconds": {_SECONDS: fields[_SECONDS] * 2},
    }


_BY_USER, _BY_INTERACTION = ({_POSITIVES: positives} for positives in ("user", "interaction"))
_FULL, _SAMPLED, _SCE = ({_LOSS: loss} for loss in ("full_softmax", "softmax", "sce"))
_DEPTHS = {f"layers: {number}": {_LAYERS: number} for number in (1, 2, 3)}
_ALL = {_TEMPERATURE: None, _WIDTH: WIDTH}
_RETAIL = _ALL | FIELDS["online-retail-2", "lightgcn"] | {_SECONDS: 20}
_RETAIL_MF = _ALL | FIELDS["online-retail-2", "mf"] | {_SECONDS: 12}
_GOWALLA = _ALL | FIELDS["gowalla", "lightgcn"] | {_SECONDS: 60}
_GOWALLA_MF = _ALL | FIELDS["gowalla", "mf"] | {_SECONDS: 60}
_ML1M = _ALL | FIELDS["ml-1m", "ngcf"] | {_RATE: 0.15, _LAYERS: 3, _SECONDS: 45}
_ML1M_MF = _ALL | FIELDS["ml-1m", "mf"] | {_SECONDS: 20}

_OF_SOFTMAX = {
    "positives by user": _BY_USER,
    "SCE": _SCE,
    "initial deviation 0.1": {_STD: 0.1},
}
#: By data set and recommender.
RECIPES = {
    ("online-retail-2", "lightgcn"): Recipe(
        _RETAIL,
        _scaled(_RETAIL) | _OF_SOFTMAX | _DEPTHS | {"sampled softmax": _SAMPLED, "cosines / 0.1": _COSINES},
    ),
    ("online-retail-2", "mf"): Recipe(
        _RETAIL_MF,
        _scaled(_RETAIL_MF) | _OF_SOFTMAX | {"sampled softmax": _SAMPLED, "cosines / 0.1": _COSINES},
    ),
    ("gowalla", "lightgcn"): Recipe(
        _GOWALLA,
        _scaled(_GOWALLA)
        | _DEPTHS
        | {
            "positives by user": _BY_USER,
            "SCE": _SCE,
            "full softmax": _FULL | {_BATCH: 8192},
            "inner products": {_TEMPERATURE: None, _L2: 1e-3, _STD: 0.01},
            "cosines / 0.2": {_TEMPERATURE: 0.2},
            "batches of 8,192": {_BATCH: 8192},
        },
    ),
    ("gowalla", "mf"): Recipe(
        _GOWALLA_MF,
        _scaled(_GOWALLA_MF)
        | _OF_SOFTMAX
        | {"full softmax": _FULL | {_BATCH: 8192}, "cosines / 0.1": _COSINES},
    ),
    ("ml-1m", "lightgcn"): Recipe(
        _ML1M,
        _scaled(_ML1M)
        | _DEPTHS
        | {
            "positives by interaction": _BY_INTERACTION,
            "batches of 8,192": {_BATCH: 8192},
            "sampled softmax": _SAMPLED,
            "SCE": _SCE,
            "cosines / 0.2": {_TEMPERATURE: 0.2, _L2: 0.0},
        },
    ),
    ("ml-1m", "mf"): Recipe(
        _ML1M_MF,
        _scaled(_ML1M_MF)
        | {
            "positives by interaction": _BY_INTERACTION,
            "sampled softmax": _SAMPLED,
            "SCE": _SCE,
            "cosines / 0.2": {_TEMPERATURE: 0.2, _L2: 0.0},
        },
    ),
}


def points_of_cosine(case: dict[str, Any]) -> dict[str, Any]:
    """What uncut item cosine has on validation, as a training's one point."""
    started = time.process_time()
    interactions = load_interactions(config_of(case))
    yardstick = item_cosine(interactions.train, interactions.item_popularity)
    figures = yardstick.evaluate(interactions.train, interactions.validation).summary()
    return {
        "points": [[round(time.process_time() - started, 2), 0, figures["recall@20"], figures["ndcg@20"]]]
    }


def cases_of(data: str, recommender: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Item cosine, a recipe, and each change of it."""
    share = f"dataset.validation_share={DATA_SETS[data].validation_share}"
    common = {"data": str(folder / str(DATA_SETS[data].file))}
    yield common | {"name": ITEM_COSINE, "overrides": sorted(["seed=0", share]), "seconds": 0}
    for title, fields in RECIPES[data, recommender].variants():
        given = {name: value for name, value in fields.items() if name != _SECONDS}
        overrides = [f"{name}={'null' if value is None else value}" for name, value in given.items()]
        overrides = ["seed=0", share, f"recommender.name={recommender}", *overrides]
        yield common | {"name": title, "overrides": sorted(overrides), "seconds": fields[_SECONDS]}


def rows_of(cases: Iterable[dict[str, Any]], output: Path, is_finished: bool) -> dict[str, dict[str, Any]]:
    """By title the rows of cases; what has none is measured, unless all that is wanted is what there is."""
    found = {}
    for case in cases:
        measured_by = points_of_cosine if case["name"] == ITEM_COSINE else trained
        row = kept_row(case, output) if is_finished else row_of(case, output, measured_by)
        if row is not None:
            found[case["name"]] = row
    return found


def section_of(data: str, recommender: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """A table of Markdown, what is best first."""
    mark = rows[ITEM_COSINE]["points"][-1][3]
    fields = [field for field in rows[RECIPE]["case"]["overrides"] if field.startswith(("rec", "tr"))]
    lines = [
        f"## {recommender} on {DATA_SETS[data].title}",
        "",
        f"Recipe: {', '.join(f'`{field}`' for field in fields)}.",
        "",
        "| one thing changed | N@20 | of item cosine | R@20 | batches | CPU s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, row in sorted(rows.items(), key=lambda item: -item[1]["points"][-1][3]):
        seconds, batches, recall, ndcg = row["points"][-1]
        shown = f"**{title}**" if title in (RECIPE, ITEM_COSINE) else title
        lines.append(
            f"| {shown} | {ndcg:.4f} | {ndcg / mark:.2f} | {recall:.4f} | {batches} | {seconds:.0f} |"
        )
    return [*lines, ""]


def main() -> None:
    """Measure what is missing, and write the page of what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the data lie")
    parser.add_argument("--data", nargs="+", choices=sorted({data for data, _ in RECIPES}))
    parser.add_argument("--recommenders", nargs="+", choices=sorted({name for _, name in RECIPES}))
    parser.add_argument("--output", type=Path, default=Path("results/training-recipe.jsonl"))
    parser.add_argument("--finished", action="store_true", help="write the page of what there is")
    arguments = parser.parse_args()
    page = ["# What recommenders owe to their recipes", "", __doc__.split("\n\n")[2].replace("\n", " "), ""]
    for data, recommender in RECIPES:
        if data in (arguments.data or [data]) and recommender in (arguments.recommenders or [recommender]):
            cases = cases_of(data, recommender, arguments.folder)
            rows = rows_of(cases, arguments.output, arguments.finished)
            if ITEM_COSINE in rows and RECIPE in rows:
                page += section_of(data, recommender, rows)
    arguments.output.with_suffix(".md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
