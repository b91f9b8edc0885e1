r"""What a stream's tables give to everybody who comes in the next segment, and how right that is.

    ciess-ray stream online-retail-2.parquet segments.new_entities=1750 "budget=67020 params" \
        recommender.max_embedding_size=64 recommender.options.l2=0.0005 "methods=[split]" --output runs/retail
    OMP_NUM_THREADS=1 python benchmarks/stream_newcomers.py runs/retail

It counts the users and items of the next segment by what the segment's table knows of them, and fails where
somebody gets no list.

Then the cold rows of each segment's test part, whose user or item the table does not know, are revealed in
order of time, as serving meets them: the list of whoever comes is made of what happened strictly before, with
the table as it was trained. An unknown user has the mean of the items that they had by then, or what is
popular; an unknown item is scored by the known users who had it by then, and takes its place in the list.
Rows of one time, as of one invoice, tell nothing of each other.
Recall is the share of a user's cold rows that were in the list of their time, a mean over users (served);
beside it what is popular without what they had by then (popular), and one list for all that stays (kept).
"""

import argparse
import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ciess_ray.config.yaml_file import check_values
from ciess_ray.serving import ServedRecommender
from ciess_ray.streaming.config import StreamConfig
from ciess_ray.streaming.driver import read_stream
from ciess_ray.streaming.folder import StreamFolder
from ciess_ray.streaming.segment import reveal_test
from envs.data.stream import Segment, Stream

DEPTH = 20


def lists_of_next(served: ServedRecommender, stream: Stream, now: Segment, then: Segment) -> dict[str, int]:
    """How many users and items of the next segment there are of each kind, of whom all get a list.

    Raises:
        RuntimeError: Somebody gets none.
    """
    user, item = stream.user[now.end : then.end], stream.item[now.end : then.end]
    users, items = np.unique(user), np.unique(item)
    is_had = item < now.num_items
    lists = served.recommend(stream.user_ids[users].tolist(), DEPTH, unknown="popular")
    new = users[users >= now.num_users]
    had = [stream.item_ids[np.unique(item[is_had & (user == one)])].tolist() for one in new]
    by_items = served.recommend_to_new(had, DEPTH, unknown="popular")
    new_items = items[items >= now.num_items]
    first_users = [np.unique(user[(item == one) & (user < now.num_users)]) for one in new_items]
    scored = [stream.user_ids[some].tolist() for some in first_users if len(some)]
    known = stream.user_ids[users[users < now.num_users][:50]].tolist()
    scores = served.score_new_items(scored, known) if scored and known else np.zeros(0)
    short = min(DEPTH, now.num_items - int(np.diff(served.seen.indptr).max()))
    is_short = [((made.items >= 0).sum(axis=1) < short).any() for made in (lists, by_items)]
    if any(is_short) or not np.isfinite(scores).all():
        raise RuntimeError("somebody of the next segment gets no list")
    return {
        "known users": len(known := users[users < now.num_users]),
        "unknown users with items": int((~by_items.is_popular).sum()),
        "unknown users, popular": int(by_items.is_popular.sum()),
        "known items": len(items) - len(new_items),
        "unknown items with users": len(scored),
        "unknown items": len(new_items) - len(scored),
        "lists": len(lists.items) + len(by_items.items),
    }


def replay(served: ServedRecommender, stream: Stream, number: int) -> dict[str, Any]:
    """Recall of a segment's cold test rows, revealed in order of time and with lists that stay."""
    segment, test = stream.segments[number], reveal_test(stream, number)
    num_users, num_items = segment.num_users, segment.num_items
    # What the files say of test rows of known users and items nobody knew then.
    served = replace(served, seen=test.seen)
    popular = np.lexsort((np.arange(num_items), -served.item_popularity))
    had: defaultdict[int, set[int]] = defaultdict(set)
    users_of: defaultdict[int, list[int]] = defaultdict(list)
    for user in range(num_users):
        had[user].update(test.seen.indices[test.seen.indptr[user] : test.seen.indptr[user + 1]].tolist())
    rows = slice(segment.validation_start, segment.end)
    user, item, time = stream.user[rows], stream.item[rows], stream.timestamp[rows]
    num_told = 0
    begins = segment.test_start - segment.validation_start
    is_cold = stream.is_cold(segment)
    hits: dict[str, dict[int, list[bool]]] = {
        name: defaultdict(list) for name in ("served", "popular", "kept")
    }
    edges = np.flatnonzero(np.diff(time, prepend=time[0] - 1))
    for first, end in zip(edges, [*edges[1:], len(time)], strict=True):
        asked = np.unique(user[max(first, begins) : end][is_cold[max(first, begins) : end]])
        if len(asked):
            of_all = ranked(served, asked, had, users_of, num_users, num_items)
        for place, one in enumerate(asked.tolist()):
            mine = np.arange(max(first, begins), end)
            mine = mine[(user[mine] == one) & is_cold[mine]]
            left = [row for row in popular[: DEPTH + len(had[one])] if row not in had[one]][:DEPTH]
            num_told += len(mine) * bool(of_all[place][0] >= 0)
            lists = {
                "served": of_all[place].tolist() if of_all[place][0] >= 0 else left,
                "popular": left,
                "kept": popular[:DEPTH].tolist(),
            }
            for name, items in lists.items():
                hits[name][one] += [row in items for row in item[mine].tolist()]
        for one, row in zip(user[first:end].tolist(), item[first:end].tolist(), strict=True):
            had[one].add(row)
            if row >= num_items and one < num_users:
                users_of[row].append(one)
    recalls = {name: np.mean([np.mean(of) for of in by_user.values()]) for name, by_user in hits.items()}
    return {
        "users": len(hits["kept"]),
        "rows": test.cold.num_rows,
        "share of rows not popular": num_told / test.cold.num_rows,
        **recalls,
    }


def ranked(
    served: ServedRecommender,
    asked: NDArray[np.integer],
    had: dict[int, set[int]],
    users_of: dict[int, list[int]],
    num_users: int,
    num_items: int,
) -> NDArray[np.int64]:
    """Lists of known and unknown items at a time, shape (len(asked), DEPTH); -1 for whoever is not known."""
    lists = np.full((len(asked), DEPTH), -1, np.int64)
    new = sorted(users_of)
    means = weights([users_of[row] for row in new], num_users)
    for places, of in (
        (np.flatnonzero(asked < num_users), lambda ids: served.scorer.of_users(ids)),
        (
            np.array(
                [
                    n
                    for n, one in enumerate(asked)
                    if one >= num_users and any(row < num_items for row in had[one])
                ],
                int,
            ),
            lambda ids: served.scorer.of_items(
                weights([[row for row in had[one] if row < num_items] for one in ids], num_items)
            ),
        ),
    ):
        if len(places) == 0:
            continue
        represented = of(asked[places])
        scores = served.scorer.score(represented)
        if new:
            scores = np.hstack([scores, served.scorer.score(represented, served.scorer.new_items(means))])
        columns = {row: num_items + n for n, row in enumerate(new)}
        for n, one in enumerate(asked[places].tolist()):
            scores[
                n, [columns.get(row, row) for row in had[one] if row < num_items or row in columns]
            ] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        lists[places] = np.concatenate([np.arange(num_items), new]).astype(np.int64)[best]
    return lists


def weights(lists: list[list[int]], num_columns: int) -> csr_array:
    """Weights of means, shape (len(lists), num_columns)."""
    lengths = np.array([len(one) for one in lists], int)
    values = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    flat = np.array([value for one in lists for value in one], int)
    return csr_array(
        (values, flat, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(lists), num_columns)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a stream that is through")
    parser.add_argument("--method", default="split")
    parser.add_argument("--output", type=Path, default=Path("results/stream-newcomers.csv"))
    arguments = parser.parse_args()
    folder = StreamFolder(arguments.folder)
    config = check_values(StreamConfig, folder.read()["config"], str(arguments.folder))
    stream = read_stream(config)
    rows = []
    for number, segment in enumerate(stream.segments):
        served = ServedRecommender.open(folder.method(number, arguments.method))
        row: dict[str, Any] = {"segment": number, "method": arguments.method, "seed": config.seed}
        if number + 1 < len(stream.segments):
            row |= lists_of_next(served, stream, segment, stream.segments[number + 1])
        recalls = replay(served, stream, number)
        row |= {f"cold {name}": value for name, value in recalls.items()}
        print(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in row.items()
            ),
            flush=True,
        )
        rows.append(row)
    with arguments.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
