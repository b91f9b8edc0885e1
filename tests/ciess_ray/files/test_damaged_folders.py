"""What is beside a packed table is checked as it is read, with a manifest and without."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from report_folders import write_search
from scipy.sparse import csr_array

from ciess_ray.files.manifest import MANIFEST_FILE, Manifest, write_manifest
from ciess_ray.packed.embedding import PackedEmbedding
from ciess_ray.packed.table import PackedTable
from ciess_ray.result import RESULT_FILE, SearchResult
from ciess_ray.serving import files
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
)
from ciess_ray.serving.interactions_file import read_interactions_file, write_interactions
from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import CiessError, ConfigError, ResultError
from envs.recommenders.propagation import MAX_LAYERS, check_num_layers

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "result"
FILES = (TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE, RESULT_FILE)


@pytest.fixture
def folder(tmp_path):
    """The result of a search from before there were manifests: NGCF of two layers, 60 users, 40 items."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "folder"))


@pytest.fixture
def whole(folder):
    """The same with a manifest."""
    write_manifest(folder, FILES)
    return folder


def refused(folder, match):
    with pytest.raises(ResultError, match=match):
        ServedRecommender.open(folder)


def test_a_folder_without_a_manifest_serves_as_it_did(folder, run_cli):
    told = json.loads((TESTS / "golden" / "result.json").read_text())
    found = ServedRecommender.open(folder).recommend(range(1, 6), 10, include_seen=True)
    assert found.items.tolist() == told["items"]
    np.testing.assert_allclose(found.scores, told["scores"], rtol=1e-4)
    recommender = SearchResult.load(str(folder)).recommender()
    with torch.no_grad():
        scores = recommender.score(recommender.encode(), torch.arange(5)).topk(10).values
    np.testing.assert_allclose(scores, told["scores"], rtol=1e-4)
    status, out, _ = run_cli("verify", folder)
    assert status == 0 and "all is well" in out


class TestManifest:
    @pytest.mark.parametrize("name", [SCORER_FILE, INTERACTIONS_FILE, IDS_FILE, TEST_FILE])
    def test_a_companion_of_another_folder_is_seen_as_it_is_opened(self, whole, name):
        content = (whole / name).read_bytes()
        (whole / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused(whole, f"{name}: damaged, or of another folder: manifest.json has another checksum")
        (whole / name).unlink()
        refused(whole, f"{name}: no such file")

    def test_two_sizes_that_changed_places_are_seen_by_verify(self, whole, run_cli):
        table = PackedTable.open(whole / TABLE_FILE)
        one, two = 0, int(np.flatnonzero(table.row_sizes != table.row_sizes[0])[0])
        table.row_sizes[[one, two]] = table.row_sizes[[two, one]]
        table.save(whole / TABLE_FILE)
        status, out, err = run_cli("verify", whole)
        assert status == 2 and not out and f"{TABLE_FILE}: damaged, or of another folder" in err

    def test_what_was_not_needed_may_be_gone(self, whole, run_cli):
        (whole / RESULT_FILE).unlink()
        assert run_cli("verify", whole)[0] == 0

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            "[" * 10_000,
            '{"format": "ciess-ray manifest 2", "files": {}}',
            "{}",
            "9" * 5000,
        ],
    )
    def test_a_manifest_that_is_none(self, whole, text):
        (whole / MANIFEST_FILE).write_text(text)
        refused(whole, f"{MANIFEST_FILE}: damaged")

    def test_names_of_other_folders(self, whole):
        told = json.loads((whole / MANIFEST_FILE).read_text())
        told["files"]["../x"] = told["files"][IDS_FILE]
        (whole / MANIFEST_FILE).write_text(json.dumps(told))
        refused(whole, "a name is that of no file")

    def test_a_file_that_it_does_not_name(self, whole):
        told = json.loads((whole / MANIFEST_FILE).read_text())
        del told["files"][IDS_FILE]
        (whole / MANIFEST_FILE).write_text(json.dumps(told))
        refused(whole, f"{IDS_FILE}: damaged, or of another folder: manifest.json does not name it")

    def test_one_that_is_too_long_is_not_read(self, whole):
        with (whole / MANIFEST_FILE).open("wb") as stream:
            stream.truncate(2**40)
        refused(whole, "are more than it can have")

    def test_of_a_pipe_nobody_waits(self, whole):
        for name in (MANIFEST_FILE, TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE):
            content = (whole / name).read_bytes()
            (whole / name).unlink()
            os.mkfifo(whole / name)
            refused(whole, f"{name}: damaged: it is no regular file")
            (whole / name).unlink()
            (whole / name).write_bytes(content)
        assert Manifest.read(whole).verify() is None


class TestIds:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda ids, kinds: ([*ids[:-1], None], kinds), "the column id is int64 with 1 gaps"),
            (lambda ids, kinds: ([float(one) for one in ids], kinds), "the column id is double"),
            (lambda ids, kinds: ([*ids[:-1], ids[-2]], kinds), "two items have one id"),
            (lambda ids, kinds: ([ids[1], *ids[1:]], kinds), "two users have one id"),
            (lambda ids, kinds: (ids, kinds[::-1]), "its rows are not 60 users and then 40 items"),
            (lambda ids, kinds: (ids, [None, *kinds[1:]]), "the column kind is string with 1 gaps"),
            (lambda ids, kinds: ([one > 5 for one in ids], kinds), "the column id is bool"),
            (lambda ids, kinds: (ids * 2, kinds * 2), "200 ids for 60 users and 40 items"),
            (lambda ids, kinds: ([[one] for one in ids], kinds), "damaged"),
        ],
    )
    def test_what_is_no_list_of_ids(self, folder, change, match):
        table = pq.read_table(folder / IDS_FILE)
        ids, kinds = change(table["id"].to_pylist(), table["kind"].to_pylist())
        pq.write_table(pa.table({"kind": kinds, "id": ids}), folder / IDS_FILE)
        refused(folder, match)


class TestScorer:
    @pytest.mark.parametrize("num_layers", [10**9, -1, MAX_LAYERS + 1, 2.5, True, "2", None, 3])
    def test_other_numbers_of_layers(self, folder, num_layers):
        scorer = ScorerFile.read(folder)
        scorer.options["num_layers"] = num_layers
        scorer.write(folder)
        refused(
            folder,
            "the scorer's weights are not those of a ngcf of this table: (its num_layers|biases.2 is)",
        )
        with pytest.raises(CiessError):
            SearchResult.load(folder).recommender()

    @pytest.mark.parametrize(
        "change",
        [
            lambda value: value[:-1],
            lambda value: value[None],
            lambda value: value.astype(np.float64),
            lambda value: value.astype(np.int32),
            lambda value: np.where(np.arange(value.shape[-1]) == 3, np.nan, value).astype(np.float32),
        ],
    )
    @pytest.mark.parametrize("part", ["weights_sum.0", "biases.1"])
    def test_other_weights(self, folder, part, change):
        scorer = ScorerFile.read(folder)
        scorer.state[part] = change(scorer.state[part])
        scorer.write(folder)
        refused(folder, f"the scorer's weights are not those of a ngcf of this table: {part}")
        with pytest.raises(ResultError, match="are not those of a ngcf"):
            SearchResult.load(folder).recommender()

    def test_a_table_of_another_recommender(self, folder):
        ScorerFile("lightgcn", {"num_layers": 2}, {}).write(folder)
        refused(folder, "its table is of a ngcf")

    def test_a_depth_that_cannot_be_served_cannot_be_searched(self):
        assert files.MAX_LAYERS == MAX_LAYERS
        with pytest.raises(ConfigError, match="num_layers of the recommender lightgcn must be at most 100"):
            check_num_layers("lightgcn", MAX_LAYERS + 1)

    def test_equal_parts_make_equal_bytes(self, folder):
        """Metadata of the library's own are in another order every time."""
        scorer = ScorerFile.read(folder)
        written = set()
        for _ in range(20):
            scorer.write(folder)
            written.add((folder / SCORER_FILE).read_bytes())
        assert len(written) == 1
        again = ScorerFile.read(folder)
        assert again.options == scorer.options and again.state.keys() == scorer.state.keys()
        assert safetensors.numpy.load(written.pop()).keys() == scorer.state.keys()


class TestInteractions:
    @pytest.fixture
    def parts(self, folder):
        """As former versions wrote them."""
        train = read_interactions_file(folder / INTERACTIONS_FILE, (60, 40))
        return {"indptr": train.indptr, "indices": train.indices, "shape": np.array(train.shape)}

    @pytest.fixture
    def packed(self, folder, parts):
        """As they are written now."""
        ones = np.ones(len(parts["indices"]))
        train = csr_array((ones, parts["indices"], parts["indptr"]), shape=(60, 40))
        write_interactions(folder / INTERACTIONS_FILE, train)
        with np.load(folder / INTERACTIONS_FILE) as arrays:
            return dict(arrays)

    def test_what_former_versions_wrote_is_read(self, folder, parts):
        before = read_interactions_file(folder / INTERACTIONS_FILE, (60, 40))
        np.savez_compressed(folder / INTERACTIONS_FILE, **parts)
        after = read_interactions_file(folder / INTERACTIONS_FILE, (60, 40))
        assert (before != after).nnz == 0 and after.dtype == np.float32

    @pytest.mark.parametrize(
        ("name", "change", "match"),
        [
            ("numbers", lambda part: part + [0, 0, 1, 0, 0], "its bytes are not the|its users have"),
            (
                "numbers",
                lambda part: part * [1, 1, 1, 3, 1],
                "its bytes are not the|its numbers have 3 bytes",
            ),
            ("numbers", lambda part: part * [1, 1, 1, 1, -1], "its parts are none"),
            ("numbers", lambda part: part[:4], "its parts are none"),
            ("numbers", lambda part: part * [1, 1, 10**9, 1, 1], "it claims"),
            ("numbers", lambda part: part + [1, 0, 0, 0, 0], "come from different searches"),
            ("packed", lambda part: part[:-3], "damaged"),
            ("packed", lambda part: np.append(part, np.uint8(0)), "its bytes are not the"),
            ("packed", lambda part: part.astype(np.int64), "its parts are none"),
            ("packed", lambda part: part[::-1].copy(), "damaged"),
        ],
    )
    def test_what_does_not_unpack(self, folder, packed, name, change, match):
        packed[name] = change(packed[name])
        np.savez(folder / INTERACTIONS_FILE, **packed)
        refused(folder, match)

    @pytest.mark.parametrize(
        ("name", "change", "match"),
        [
            ("indptr", lambda part: part.astype(np.float64), "its parts are no whole numbers"),
            ("indices", lambda part: part.astype(np.float32), "its parts are no whole numbers"),
            ("indices", lambda part: np.array([{}] * len(part), object), "damaged"),
            ("indices", lambda part: part[::-1], "out of order"),
            ("indices", lambda part: part + 1, "indices must be < 40"),
            ("indptr", lambda part: part[::-1], "index pointer should start with 0"),
            ("indptr", lambda part: part[:-1], "index pointer size 60 should be 61"),
            ("shape", lambda part: part * 0 - 1, "come from different searches"),
            ("shape", lambda part: part + [0, 1], "come from different searches"),
        ],
    )
    def test_what_is_no_graph(self, folder, parts, name, change, match):
        parts[name] = change(parts[name])
        np.savez(folder / INTERACTIONS_FILE, **parts)
        refused(folder, match)

    def test_a_small_file_that_claims_much_takes_no_memory(self, folder):
        """Two parts say 8 GB each; a limit of half a gigabyte is never met."""
        code = (
            "import resource, sys; from ciess_ray.serving import interactions_file\n"
            "from pathlib import Path; from envs.errors import ResultError\n"
            "pages = int(open('/proc/self/statm').read().split()[0])\n"
            "limit = pages * resource.getpagesize() + 2**29\n"
            "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
            "try: interactions_file.read_interactions_file(Path(sys.argv[1]), (10**9 - 1, 40))\n"
            "except ResultError as error: print(error)\n"
        )
        described = {"descr": "<i8", "fortran_order": False, "shape": (10**9,)}
        with zipfile.ZipFile(folder / INTERACTIONS_FILE, "w") as archive:
            with archive.open("shape.npy", "w") as part:
                np.lib.format.write_array(part, np.array([10**9 - 1, 40]))
            for name in ("indptr", "indices"):
                with archive.open(f"{name}.npy", "w") as part:
                    np.lib.format.write_array_header_1_0(part, described)
                    part.write(bytes(1000))
        given = [sys.executable, "-c", code, folder / INTERACTIONS_FILE]
        done = subprocess.run(given, capture_output=True, text=True)
        assert f"{INTERACTIONS_FILE}: damaged" in done.stdout, done.stdout + done.stderr


class TestTable:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_row_of_no_numbers_is_refused_where_it_is_read(self, folder, value):
        table = PackedTable.open(str(folder / TABLE_FILE))
        table.values[-1] = value
        table.rows(np.arange(99))
        embedding = PackedEmbedding(table)
        embedding(torch.arange(99))
        with pytest.raises(ResultError, match="row 99 of 100 holds what is no finite number"):
            table.rows(np.array([3, 99]))
        with pytest.raises(ResultError, match="a row holds what is no finite number"):
            embedding(torch.tensor([3, 99]))
        table.save(folder / TABLE_FILE)
        refused(folder, "row 99 of 100 holds")
        with pytest.raises(ResultError, match="is no finite number"):
            SearchResult.load(folder).recommender()

    def test_scores_of_no_numbers_are_told(self, folder):
        table = PackedTable.open(folder / TABLE_FILE)
        table.values[:] = 3e38
        table.save(folder / TABLE_FILE)
        with pytest.raises(ResultError, match="a score is no finite number"):
            ServedRecommender.open(folder).recommend([1])


@pytest.mark.parametrize("name", ["../x", "..", "", "/x", "a/b", 3])
def test_a_looser_budget_lies_in_the_folder(folder, name, run_cli):
    shutil.copytree(GOLDEN, folder.parent / "x")
    searched = write_search(folder.parent / "searched")
    for one in (folder, searched):
        told = json.loads((one / RESULT_FILE).read_text())
        (one / RESULT_FILE).write_text(json.dumps(told | {"looser_budgets": {"20%": name}}))
    with pytest.raises(ResultError, match="looser_budgets names .* which lies elsewhere"):
        SearchResult.load(folder).looser()
    status, _, err = run_cli("report", searched, "--output", folder / "report.html")
    assert status == 2 and "looser_budgets" in err


def test_mutated_companions_are_refused_or_served_as_they_were(tmp_path):
    """Three hundred of the cases of benchmarks/mutations.py."""
    script, output = TESTS.parent / "benchmarks" / "mutations.py", tmp_path / "mutations.json"
    given = ["--cases", "300", "--seed", "1", "--output", output]
    done = subprocess.run([sys.executable, script, *given], capture_output=True, text=True)
    told = json.loads(output.read_text())
    assert told["bad"] == [] and told["good"] == told["cases"] == 300, done.stderr
    assert told["outcomes"]["refused"] > 200
    assert not [
        row
        for row in told["by_file"]
        if (row["manifest"], row["outcome"]) == ("with manifest", "other values")
    ]
