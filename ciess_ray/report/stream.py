"""What a report tells of a stream: read from its folder, checked, and gathered by method and by segment."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from ciess_ray.config.credentials import without_secrets
from ciess_ray.files.formats import read_json
from ciess_ray.metric_keys import NUM_DECILES
from ciess_ray.names import (
    EQUAL_SIZES,
    FULL_SIZE,
    SEGMENTS_FOLDER,
    STREAM_FILE,
    STREAM_FORMAT,
    STREAM_ROWS_FILE,
)
from ciess_ray.plain_text import command
from ciess_ray.report.material import at, check, read_entities, read_rows
from ciess_ray.report.measurements import LARGEST, Row, is_number, whole_percent
from ciess_ray.result import SIZES_FILE, dataset_name
from ciess_ray.td3.rollout import decile_means
from envs.errors import ResultError
from envs.mdp import KINDS

#: What the headline is about, and what chooses.
METRIC, QUALITY, OVERLAP = "test/ndcg@20", "validation/quality", "list_overlap@20"
#: More segments of arrival than these are put together.
_MAX_AGES = 10
_AT_MOST = 2**63

_Count = Annotated[int, Field(strict=True, ge=0, le=_AT_MOST)]
_Positive = Annotated[int, Field(strict=True, ge=1, le=_AT_MOST)]
_Measure = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]


class _Segment(BaseModel):
    start: _Count
    end: _Positive
    num_users: _Positive
    num_items: _Positive


class _State(BaseModel):
    """What a page tells of a ``stream.json``."""

    recommender: str = at("config", "recommender", "name")
    sample: str | None = at("config", "dataset", "sample")
    path: str | None = at("config", "dataset", "path")
    budget: str | _Measure = at("config", "budget")
    segments: Annotated[list[_Segment], Field(min_length=1)]
    versions: dict[str, str] = {}


class _StreamRow(BaseModel):
    """What a page has to find in a row of a ``stream.parquet``; what a method lacks is empty."""

    segment: _Count
    method: Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$")]
    chosen: str | None = None
    num_bytes: _Measure
    cpu_s: _Measure
    cold_share: _Measure | None = None
    num_params: _Measure | None = None
    cap_params: _Measure | None = None
    num_new: _Count | None = None
    num_grown: _Count | None = None
    num_shrunk: _Count | None = None
    num_moved: _Count | None = None


@dataclass(frozen=True, eq=False)
class StreamMaterial:
    """All that a report tells of a stream.

    Attributes:
        name: Of its folder.
        config: Plain values of its configuration.
        versions: Of what its figures depend on.
        segments: Rows, users and items of each that is finished.
        num_segments: Those of the log, which need not be finished yet.
        rows: What every method came to in every segment, by segment and then by method.
        entities: Of every method with a table within the budget, its users and items in the last finished
            segment in order of arrival, by kind: ``id``, ``embedding_size`` and ``popularity``.
    """

    name: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    segments: Sequence[Mapping[str, int]]
    num_segments: int
    rows: Sequence[Row]
    entities: Mapping[str, Mapping[str, pd.DataFrame]]

    @property
    def methods(self) -> list[str]:
        """All, in the order of the configuration."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def tables(self) -> list[str]:
        """The methods whose table is within the budget, which full size is not."""
        return [method for method in self.methods if all(map(_is_within, self.of_method(method)))]

    def of_method(self, method: str) -> list[Row]:
        """Its rows, in order of segments."""
        return [row for row in self.rows if row["method"] == method]

    def by_segment(self, method: str, name: str) -> dict[int, float]:
        """What a method came to in each segment in which it came to something."""
        rows = self.of_method(method)
        return {row["segment"]: float(row[name]) for row in rows if is_number(row.get(name))}

    def mean(self, method: str, name: str) -> float | None:
        """Over the segments after the first, in which no table begins with another; of one that is alone."""
        values = self.by_segment(method, name)
        later = [value for segment, value in values.items() if segment > 0 or len(self.segments) == 1]
        return statistics.mean(later) if later else None

    @cached_property
    def best(self) -> str:
        """Of the methods with a table the best on validation; of all where none has one."""
        choice = self.tables or self.methods
        return max(choice, key=lambda method: self.mean(method, QUALITY) or -1.0)

    def changes(self, method: str) -> dict[str, dict[int, float]]:
        """Of a table from segment to segment: rows ``resized``, and ``moved``, a share of its numbers."""
        rows = [
            row for row in self.of_method(method) if row["segment"] > 0 and is_number(row.get("num_moved"))
        ]
        return {
            "resized": {row["segment"]: float(row["num_grown"] + row["num_shrunk"]) for row in rows},
            "moved": {
                row["segment"]: row["num_moved"] / row["num_params"] for row in rows if row.get("num_params")
            },
        }

    def arrivals(self, kind: str, number: int) -> NDArray[np.int64]:
        """The segment in which the first so many users, or items, came to be known; shape (number,)."""
        known = [segment[f"num_{kind}s"] for segment in self.segments]
        return np.searchsorted(known, np.arange(number), side="right")


@dataclass(frozen=True)
class StreamVerdict:
    """What a stream comes to, in words.

    Attributes:
        sentence: For the head of the page.
        caution: What is to be read with it.
        share: NDCG@20 on test of the best table, in percent of what it is measured against.
        against: What that is.
        bars: The same of every method.
    """

    sentence: str
    caution: str
    share: float
    against: str
    bars: Mapping[str, float]


def read_stream(folder: Path) -> StreamMaterial:
    """Read the folder of a stream.

    Raises:
        ResultError: No segment is finished yet, or a file is damaged.
    """
    state = read_json(folder / STREAM_FILE, STREAM_FORMAT)
    check(_State, state, str(folder / STREAM_FILE))
    if not (folder / STREAM_ROWS_FILE).is_file():
        again = command("ciess-ray", "stream", "--resume", folder)
        raise ResultError(
            f"{folder}: no segment of this stream is finished yet; wait, or go on with it: {again}"
        )
    rows = read_rows(folder / STREAM_ROWS_FILE, _StreamRow)
    numbers = sorted({row["segment"] for row in rows})
    if not rows or numbers != list(range(len(numbers))) or len(numbers) > len(state["segments"]):
        raise ResultError(
            f"{folder / STREAM_ROWS_FILE}: damaged (its segments are not those of {STREAM_FILE})."
        )
    latest = folder / SEGMENTS_FOLDER / f"{numbers[-1]:03}"
    entities = {
        method: read_entities(latest / method.replace(" ", "-") / SIZES_FILE)
        for method in dict.fromkeys(row["method"] for row in rows if row["method"] != FULL_SIZE)
    }
    return StreamMaterial(
        folder.resolve().name,
        state["config"],
        state.get("versions", {}),
        state["segments"][: len(numbers)],
        len(state["segments"]),
        rows,
        {method: of_method for method, of_method in entities.items() if of_method},
    )


def _is_within(row: Row) -> bool:
    """Whether it is of a table within its budget."""
    num_params, cap_params = row.get("num_params"), row.get("cap_params")
    return num_params is not None and (cap_params is None or num_params <= cap_params)


def places(material: StreamMaterial) -> list[str]:
    """What was recommended, and from what."""
    return [f"{material.config['recommender']['name']} on {without_secrets(dataset_name(material.config))}"]


def verdict(material: StreamMaterial) -> StreamVerdict | None:
    """What the best table is worth beside equal sizes; None where no known user was tested."""
    means = {method: material.mean(method, METRIC) for method in material.methods}
    against = EQUAL_SIZES if means.get(EQUAL_SIZES) else material.best
    unit = means[against]
    if not unit:
        return None
    bars = {method: 100 * mean / unit for method, mean in means.items() if mean is not None}
    first, last = material.segments[0], material.segments[-1]
    grown = [sum(segment[f"num_{kind}s"] for kind in KINDS) for segment in (first, last)]
    sentence = f"While {grown[0]:,} users and items became {grown[1]:,}, "
    if material.tables:
        sentence += f"{material.best} was the best table on validation"
    else:
        sentence += f"{material.best} had the best lists on validation"
    if against != material.best and material.best in bars:
        sentence += f": on test {whole_percent(bars[material.best])} of {against}' NDCG@20"
    ahead = [name for name, share in bars.items() if share > bars.get(material.best, 0.0)]
    caution = (
        f"On test {', '.join(ahead)} {'is' if len(ahead) == 1 else 'are'} ahead of it. " if ahead else ""
    )
    caution += "One seed: differences of a few percent may be chance."
    return StreamVerdict(f"{sentence}.", caution, bars.get(material.best, 0.0), against, bars)


def ages(material: StreamMaterial) -> dict[str, dict[str, dict[int, float]]]:
    """Mean sizes by kind, by method and by the segment in which users and items arrived."""
    means: dict[str, dict[str, dict[int, float]]] = {kind: {} for kind in KINDS}
    for method, of_kinds in material.entities.items():
        for kind, entities in of_kinds.items():
            sizes = entities["embedding_size"].to_numpy()
            arrived = material.arrivals(kind, len(sizes))
            counts, sums = np.bincount(arrived), np.bincount(arrived, sizes)
            means[kind][method] = {
                int(segment): float(sums[segment] / counts[segment]) for segment in np.flatnonzero(counts)
            }
    return means


def age_rows(material: StreamMaterial) -> tuple[list[str], list[Row]]:
    """Mean sizes by arrival for a table: the names of its columns, and a row a method and kind."""
    groups = np.array_split(np.arange(len(material.segments)), min(len(material.segments), _MAX_AGES))
    names = [f"{of[0]:03}" if len(of) == 1 else f"{of[0]:03}-{of[-1]:03}" for of in groups]
    rows: list[Row] = []
    for method, kind, sizes in _sizes(material):
        arrived = material.arrivals(kind, len(sizes))
        row: Row = {"method": method, "kind": f"{kind}s", "all": float(sizes.mean())}
        for name, of in zip(names, groups, strict=True):
            is_here = np.isin(arrived, of)
            row[name] = float(sizes[is_here].mean()) if is_here.any() else None
        rows.append(row)
    return names, rows


def tenth_rows(material: StreamMaterial) -> tuple[list[str], list[Row]]:
    """Mean sizes by tenth of popularity for a table, the least popular first."""
    names = [str(tenth) for tenth in range(1, NUM_DECILES + 1)]
    rows: list[Row] = []
    for method, kind, sizes in _sizes(material):
        popularity = material.entities[method][kind]["popularity"].to_numpy()
        means = decile_means(popularity, sizes)
        rows.append({"method": method, "kind": f"{kind}s"} | dict(zip(names, map(float, means), strict=True)))
    return names, rows


def _sizes(material: StreamMaterial) -> Iterable[tuple[str, str, NDArray[Any]]]:
    for method, of_kinds in material.entities.items():
        for kind, entities in of_kinds.items():
            yield method, kind, entities["embedding_size"].to_numpy()
