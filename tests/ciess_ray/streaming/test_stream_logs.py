"""What a stream takes for a log, a budget and a configuration, and what it refuses before any work."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import content_of
from stream_content import plain
from stream_log import NUM_ROWS, write_log

from ciess_ray.packed.table import PackedTable
from ciess_ray.serving import ServedRecommender
from ciess_ray.serving.stream_tables import current_segment
from ciess_ray.streaming.driver import resume_stream, run_stream
from ciess_ray.streaming.folder import StreamFolder
from envs.errors import BudgetError, ConfigError, DataError


@pytest.mark.parametrize(
    ("times", "says"),
    [([5] * NUM_ROWS, "all of its rows have one time"), (None, "makes one segment of its")],
)
def test_a_log_without_an_order_or_with_one_segment_is_refused(make, tmp_path, times, says):
    write_log(tmp_path / "log.parquet", times)
    config = make(tmp_path / "out", dataset={"path": str(tmp_path / "log.parquet")}, segments={"rows": 1_000})
    with pytest.raises(DataError, match=says):
        run_stream(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda n: (n, n), id="everybody is new"),
        pytest.param(
            lambda n: (n // 20 * 10 + n % 5, n // 20 * 10 + n // 5 % 4), id="all is new in each segment"
        ),
        pytest.param(
            lambda n: (n % 30 // 5, n % 5 + n // 30 * 5), id="users who have had every item, and no new user"
        ),
    ],
)
def test_a_log_may_be_like_this(make, tmp_path, place):
    user, item = place(np.arange(60))
    log = {"user_id": user, "item_id": item, "timestamp": np.arange(60)[::-1] - 1000.5}
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    config = make(
        tmp_path / "out",
        dataset={"path": str(tmp_path / "log.parquet")},
        segments={"rows": 20},
        methods=["last sizes", "popular of late", "item cosine"],
        budget="50%",
    )
    assert len(run_stream(config)) == 9


def test_where_nobody_can_be_told_what_they_do_not_want_the_segment_is_named(make, tmp_path):
    pq.write_table(
        pa.table({"user_id": [1] * 60, "item_id": range(60), "timestamp": range(60)}),
        tmp_path / "log.parquet",
    )
    dataset = {"path": str(tmp_path / "log.parquet")}
    config = make(tmp_path / "out", dataset=dataset, methods=["split"], segments={"rows": 20})
    with pytest.raises(
        DataError, match="log.parquet, segment 000: every user .* no negative .* longer segments"
    ):
        run_stream(config)


def test_ids_may_become_text_as_the_log_goes_on(make, tmp_path):
    lines = ["user_id,item_id,timestamp", *(f"{n % 7},{n % 13},{n}" for n in range(60))]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    config = make(
        tmp_path / "out",
        dataset={"path": str(tmp_path / "log.csv")},
        segments={"rows": 20},
        methods=["popular ever"],
    )
    before = run_stream(config)
    (tmp_path / "log.csv").write_text("\n".join([*lines, *(f"x{n % 7},{n % 13},{n}" for n in range(60, 80))]))
    assert resume_stream(config.output)[: len(before)] == before


def test_a_log_without_times_is_refused(make, tmp_path):
    pq.write_table(pa.table({"user_id": [1, 2, 3], "item_id": [1, 2, 3]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match="has no times, which a stream needs; name their column"):
        run_stream(make(tmp_path / "out", dataset={"path": str(tmp_path / "log.parquet")}))


def test_a_log_that_outgrows_its_budget_leaves_the_segments_that_are_finished(make, log, tmp_path):
    dataset = {"path": str(tmp_path / "log.parquet")}
    whole = pq.read_table(log)
    pq.write_table(whole.slice(0, 130), dataset["path"])
    config = make(tmp_path / "stream", dataset=dataset, methods=["equal sizes"], budget="45 params")
    rows = run_stream(config)
    before, current = content_of(config.output), current_segment(config.output)
    pq.write_table(whole, dataset["path"])
    news = []
    with pytest.raises(BudgetError, match="45 parameters for .* the least that works is [5-9]. params"):
        resume_stream(config.output, on_progress=news.append)
    assert content_of(config.output) == before and news == []
    assert current_segment(config.output) == current == (config.output / f"segments/{rows[-1]['segment']:03}")
    assert ServedRecommender.open(current / "equal-sizes").recommend(["u000"], 3).items.shape == (1, 3)


def test_where_a_budget_has_no_room_for_everybody_the_coldest_share_a_row(make, tmp_path, run_cli):
    with pytest.raises(BudgetError, match="Or let the coldest share a row: overflow=share"):
        run_stream(make(tmp_path / "out", budget="40 params"))
    with pytest.raises(BudgetError, match="least that works is 4 params"):
        ncf = {"name": "ncf", "max_embedding_size": 8, "device": "cpu"}
        run_stream(make(tmp_path / "out", budget="3 params", overflow="share", recommender=ncf))
    assert not (tmp_path / "out").exists()
    config = make(tmp_path / "out", budget="1224B", overflow="share", methods=["last sizes", "split"])
    rows = run_stream(config)
    assert rows[0]["num_shared"] == 0 < rows[-1]["num_shared"]
    for row in rows:
        folder = StreamFolder(config.output).method(row["segment"], row["method"])
        table = PackedTable.open(folder / "table.safetensors")
        assert table.num_params == row["num_params"] == row["cap_params"]
        assert table.num_bytes == row["num_bytes"] <= 1224
        is_shared = table.sizes.is_shared
        assert row["num_shared"] == (0 if is_shared is None else is_shared.sum())
        if is_shared is not None:
            # Two numbers each on average leave something to decide.
            num_owners = table.num_rows - row["num_shared"]
            assert 2 <= (row["num_params"] - 2) / num_owners <= 2 + 3 / num_owners
    end = plain(config.output)
    shutil.rmtree(config.output / "segments" / "002")
    resume_stream(config.output)
    assert plain(config.output) == end
    served = ServedRecommender.open(config.output / "current" / "split")
    users = served.user_ids[table.sizes.is_shared[: table.num_users]]
    assert (served.recommend(users, 5).items >= 0).all()
    status, said, _ = run_cli("verify", config.output / "current" / "split")
    assert status == 0 and f"{rows[-1]['num_shared']} of which share a row of their kind" in said


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"segments": {}}, "give exactly one of segments.new_entities.* not none"),
        ({"segments": {"rows": 5, "period": "day"}}, "not rows and period"),
        ({"methods": ["splt"]}, "Did you mean 'split'"),
        ({"methods": ["split", "split"]}, "stands there twice"),
        ({"recommender": {"options": {"l2": [0.1, 0.2]}}}, "one value"),
        ({"methods": "equal size"}, "Did you mean 'equal sizes'"),
    ],
)
def test_a_wrong_field_is_named(make, fields, says):
    with pytest.raises(ConfigError, match=says):
        make("out", **fields)


def test_one_method_is_a_list_of_one(make):
    assert make("out", methods="equal sizes").methods == ("equal sizes",)
