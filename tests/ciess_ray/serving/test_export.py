import dataclasses
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.torch
import torch
from scipy.sparse import csr_array

from ciess_ray.files.manifest import MANIFEST_FILE
from ciess_ray.packed.resize import resize, unshared
from ciess_ray.packed.table import PackedTable
from ciess_ray.serving.export import FORMATS, export
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    NEIGHBOUR_TABLES,
    SCORER_FILE,
    TABLE_FILE,
    TEST_FILE,
    ScorerFile,
)
from ciess_ray.serving.interactions_file import write_interactions
from ciess_ray.serving.recommender import ServedRecommender
from ciess_ray.serving.torchrec_tables import dequantize_rows
from envs.errors import ConfigError, ResultError, UnknownNameError
from envs.metrics import ranking_metrics
from envs.recommenders import RECOMMENDERS

NUM_USERS, NUM_ITEMS = 60, 40


@pytest.fixture(scope="module", params=list(RECOMMENDERS))
def made(request, make_result):
    return make_result(request.param)


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


@pytest.fixture(scope="module")
def scores(made):
    _, recommender, _ = made
    with torch.no_grad():
        return recommender.score(recommender.encode(), torch.arange(NUM_USERS)).numpy()


@pytest.fixture(scope="module")
def lightgcn(make_result):
    return make_result("lightgcn")[0]


def skip_neighbours(folder):
    if PackedTable.open(folder / TABLE_FILE).neighbours is not None:
        pytest.skip("has no such form, see test_a_neighbour_table_is_no_form_of_rows")


def scores_of(folder):
    scorer = ServedRecommender.open(folder).scorer
    return scorer.score(scorer.of_users(np.arange(NUM_USERS)))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 0.005), ("bfloat16", 0.05), ("int8", 0.05), ("int8/int6", 0.2)]
)
def test_smaller_values_make_a_smaller_table_and_their_loss_is_told(
    made, folder, scores, tmp_path, dtype, tolerance
):
    written = export(folder, tmp_path / "served", dtype=dtype)
    table = PackedTable.open(tmp_path / "served" / TABLE_FILE)
    assert table.dtype == (dtype if table.num_users else dtype.partition("/")[2] or dtype)
    assert written.after.files[TABLE_FILE] == table.num_bytes < written.before.files[TABLE_FILE]
    assert np.abs(scores_of(tmp_path / "served") - scores).max() <= tolerance * np.abs(scores).max()
    _, _, interactions = made
    for form, path in ((written.before, folder), (written.after, tmp_path / "served")):
        # Figures on test are of all that was not trained on; who is served has seen the test items too.
        served = dataclasses.replace(ServedRecommender.open(path), seen=interactions.train)
        ranked = served.recommend(served.user_ids, 20).items
        found = ranking_metrics(ranked, interactions.test, (20,)).summary()["ndcg@20"]
        # Ties of int8 fall differently, and those of items of which no neighbour was had.
        assert form.ndcg == pytest.approx(found, rel=2e-3 if table.neighbours is None else 0.05)


def test_an_export_is_exported_again(folder, tmp_path):
    export(folder, tmp_path / "half", dtype="float16")
    written = export(tmp_path / "half", tmp_path / "whole")
    assert written.notes == [] and written.before.ndcg == written.after.ndcg > 0
    (tmp_path / "half" / TEST_FILE).unlink()
    with pytest.raises(ResultError, match=f"{TEST_FILE}: no such file"):
        export(tmp_path / "half", tmp_path / "third")
    (tmp_path / "half" / MANIFEST_FILE).unlink()
    written = export(tmp_path / "half", tmp_path / "third")
    assert written.notes == [f"N@20 was not measured: there is no {TEST_FILE} in {tmp_path / 'half'}"]
    np.testing.assert_array_equal(scores_of(tmp_path / "half"), scores_of(tmp_path / "whole"))


def test_propagated_rows_score_alike_without_a_graph(made, folder, scores, tmp_path):
    _, _, interactions = made
    name = ScorerFile.read(folder).recommender
    if name not in ("lightgcn", "ngcf"):
        with pytest.raises(ConfigError, match=f"the rows of {name} are not propagated"):
            export(folder, tmp_path / "served", propagated=True)
        assert not (tmp_path / "served").exists()
        return
    written = export(folder, tmp_path / "served", propagated=True)
    np.testing.assert_allclose(
        scores_of(tmp_path / "served"), scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max()
    )
    assert written.after.ndcg == pytest.approx(written.before.ndcg)
    served = ServedRecommender.open(tmp_path / "served")
    assert served.recommender == name
    assert served.recommend([served.user_ids[0]], 3).items.tolist() == (
        ServedRecommender.open(folder).recommend([served.user_ids[0]], 3).items.tolist()
    )
    assert set(written.after.files) == set(written.before.files)


def test_parquet_has_a_row_an_entity(made, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ciess_ray.serving.export._ROWS_AT_ONCE", 32)
    export(folder, tmp_path / "table.parquet", format="parquet")
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    table = PackedTable.open(folder / TABLE_FILE)
    # Of a table without rows of users there are none.
    assert [row["kind"] for row in rows] == ["user"] * table.num_users + ["item"] * NUM_ITEMS
    _, _, interactions = made
    user_ids = interactions.user_ids[: table.num_users].tolist()
    assert [row["id"] for row in rows] == [*user_ids, *interactions.item_ids.tolist()]
    assert [row["embedding_size"] for row in rows] == table.row_sizes.tolist()
    assert [number for row in rows for number in row["vector"]] == table.values.tolist()
    assert all(len(row["vector"]) == table.num_tables * row["embedding_size"] for row in rows)
    if table.neighbours is not None:
        named = [item for row in rows for item in row["neighbours"]]
        assert named == interactions.item_ids[table.neighbours].tolist()


@pytest.mark.parametrize("name", NEIGHBOUR_TABLES)
def test_a_neighbour_table_is_no_form_of_rows(make_result, tmp_path, name):
    folder = make_result(name)[0]
    for format in ("torchrec", "onnx"):
        with pytest.raises(ConfigError, match=f"those of {name} are weights of neighbours: choose packed or"):
            export(folder, tmp_path / "x", format=format)
    with pytest.raises(ResultError, match="a neighbour table is computed anew for other sizes"):
        table = PackedTable.open(folder / TABLE_FILE)
        resize(table, table.sizes, np.random.default_rng(0))
    assert not (tmp_path / "x").exists()


def test_torchrec_tables_hold_rows_of_like_size(folder, tmp_path):
    skip_neighbours(folder)
    export(folder, tmp_path / "tables", format="torchrec")
    described = json.loads((tmp_path / "tables" / "tables.json").read_text())
    rows = pq.read_table(tmp_path / "tables" / "rows.parquet").to_pylist()
    table = PackedTable.open(folder / TABLE_FILE)
    whole = table.unpack(8).reshape(table.num_rows, table.num_tables, 8)
    with safetensors.safe_open(tmp_path / "tables" / "embeddings.safetensors", framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for config in described["tables"]:
        weight = weights.pop(f"embedding_bags.{config['name']}.weight")
        assert weight.shape == (config["num_embeddings"], config["embedding_dim"])
        assert config["embedding_dim"] in (4, 8) and config["data_type"] == "FP32"
        weights[config["name"]] = weight
    for position, row in enumerate(rows):
        kind, dim = row["table"].split("_")
        assert kind == row["kind"] and row["embedding_size"] <= int(dim) < 2 * max(row["embedding_size"], 4)
        for number in range(table.num_tables):
            name = f"{kind}_{number}_{dim}" if table.num_tables > 1 else row["table"]
            expected = whole[position, number, : int(dim)]
            np.testing.assert_array_equal(weights[name][row["row"]].numpy(), expected)


@pytest.mark.parametrize(("bits", "name"), [(8, "byte"), (4, "4bit"), (2, "2bit")])
def test_quantised_torchrec_tables_are_read_by_the_kernels_that_serve_them(folder, tmp_path, bits, name):
    skip_neighbours(folder)
    plain = export(folder, tmp_path / "plain", format="torchrec")
    written = export(folder, tmp_path / "tables", format="torchrec", dtype=f"int{bits}")
    described = json.loads((tmp_path / "tables" / "tables.json").read_text())
    weights, exact = (
        safetensors.torch.load_file(tmp_path / place / "embeddings.safetensors")
        for place in ("tables", "plain")
    )
    kernels = torch.ops.quantized
    unpack, prepack = (getattr(kernels, f"embedding_bag_{name}_{what}") for what in ("unpack", "prepack"))
    look_up = getattr(kernels, f"embedding_bag_{name}_rowwise_offsets")
    for config in described["tables"]:
        assert config["data_type"] == f"INT{bits}"
        weight = f"embedding_bags.{config['name']}.weight"
        held, rows = weights[weight], exact[weight]
        assert held.dtype == torch.uint8 and held.shape == prepack(rows).shape
        found, theirs = unpack(held), unpack(prepack(rows))
        # As near as what the library makes of the same rows.
        assert (found - rows).abs().max() <= 1.01 * (theirs - rows).abs().max() + 1e-6
        of_one = torch.arange(len(rows) + 1)[:-1]
        torch.testing.assert_close(look_up(held, of_one, of_one), found)
        np.testing.assert_allclose(
            dequantize_rows(held.numpy(), bits, rows.shape[1]), found.numpy(), rtol=1e-6, atol=1e-7
        )
    assert written.after.num_bytes < plain.after.num_bytes
    assert written.after.name == f"torchrec, int{bits}"
    assert written.before.ndcg is not None and written.after.ndcg is not None
    if bits == 8:
        assert written.after.ndcg == pytest.approx(written.before.ndcg, rel=0.05)


def test_rows_that_share_one_are_written_out_where_a_form_has_none(folder, tmp_path):
    skip_neighbours(folder)
    own = PackedTable.open(folder / TABLE_FILE).sizes
    sizes = np.concatenate([own.user, own.item])
    is_shared = (np.arange(len(sizes)) % 3 == 0) & (sizes < own.width)
    user, item = np.split(np.where(is_shared, own.min_embedding_size, sizes), [len(own.user)])
    sizes = dataclasses.replace(own, user=user, item=item, is_shared=is_shared)
    shared = resize(PackedTable.open(folder / TABLE_FILE), sizes, np.random.default_rng(0)).table
    for name, table in (("shared", shared), ("own", unshared(shared))):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / MANIFEST_FILE).unlink()
        table.save(tmp_path / name / TABLE_FILE)
        export(tmp_path / name, tmp_path / f"{name}.parquet", format="parquet")
        export(tmp_path / name, tmp_path / f"{name}-tables", format="torchrec")
    np.testing.assert_array_equal(scores_of(tmp_path / "shared"), scores_of(tmp_path / "own"))
    assert (tmp_path / "shared.parquet").read_bytes() == (tmp_path / "own.parquet").read_bytes()
    for file in (tmp_path / "own-tables").iterdir():
        assert file.read_bytes() == (tmp_path / "shared-tables" / file.name).read_bytes(), file.name
    written = export(tmp_path / "shared", tmp_path / "served", dtype="int8")
    assert written.after.ndcg == pytest.approx(written.before.ndcg, rel=0.05)
    served = PackedTable.open(tmp_path / "served" / TABLE_FILE)
    np.testing.assert_array_equal(served.sizes.is_shared, is_shared)
    assert served.num_params == sizes.num_params < own.num_params


@pytest.mark.parametrize(
    ("format", "reason"),
    [
        ("packed", None),
        ("parquet", "plain float32 numbers"),
        ("torchrec", "with zeros up to the next power of two"),
        ("onnx", "no rows of different sizes"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_file_counts_and_what_is_larger_says_why(make_result, tmp_path, format, reason, run_cli):
    place, (mf, _, _) = tmp_path / "there", make_result("mf")
    written = export(mf, place, format=format)
    files = [place] if place.is_file() else list(place.iterdir())
    assert written.after.files == {file.name: file.stat().st_size for file in files}
    status, told, _ = run_cli("export", mf, place, "--format", format, "--overwrite")
    assert status == 0
    assert re.search(rf"in all +{sum(file.stat().st_size for file in files):,}\s", told)
    assert ("bytes more than the packed form of the same" in told) == (reason is not None)
    assert reason is None or reason in told
    if format == "packed":
        assert {TEST_FILE, MANIFEST_FILE} < set(written.before.files) == set(written.after.files)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_scores_alike(folder, scores, tmp_path):
    import onnxruntime

    skip_neighbours(folder)
    export(folder, tmp_path / "scorer.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "scorer.onnx", providers=["CPUExecutionProvider"])
    users = np.array([5, 0, 59])
    (found,) = session.run(["score"], {"user": users})
    np.testing.assert_allclose(found, scores[users], rtol=1e-4, atol=1e-5 * np.abs(scores).max())


def test_onnx_that_is_not_installed(lightgcn, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ConfigError, match="pip install 'ciess-ray\\[onnx\\]'"):
        export(lightgcn, tmp_path / "scorer.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


class TestRefusals:
    @pytest.mark.parametrize("format", FORMATS)
    def test_what_is_there_stays_unless_it_may_go(self, lightgcn, tmp_path, format):
        place = tmp_path / "place"
        export(lightgcn, place, format=format)
        with pytest.raises(ResultError, match="exists; name another place, or replace it with --overwrite"):
            export(lightgcn, place, format=format)
        export(lightgcn, place, format=format, overwrite=True)

    @pytest.mark.parametrize("format", ["packed", "torchrec"])
    def test_an_empty_folder_may_be_filled(self, lightgcn, tmp_path, format):
        export(lightgcn, tmp_path, format=format)
        assert list(tmp_path.iterdir())

    @pytest.mark.parametrize("format", ["packed", "torchrec"])
    def test_what_no_export_wrote_is_left_alone(self, lightgcn, tmp_path, format):
        shutil.copytree(lightgcn, tmp_path / "other")
        (tmp_path / "other" / "result.json").write_text("{}")
        before = {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()}
        with pytest.raises(ResultError, match=r"holds files that no export wrote, e\.g\. result\.json"):
            export(lightgcn, tmp_path / "other", format=format, overwrite=True)
        assert {file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()} == before

    def test_a_folder_is_not_replaced_by_a_file(self, lightgcn, tmp_path):
        with pytest.raises(ConfigError, match="is a folder; name a file"):
            export(lightgcn, tmp_path, format="parquet", overwrite=True)

    @pytest.mark.parametrize("format", ["packed", "torchrec"])
    def test_a_file_is_not_replaced_by_a_folder(self, lightgcn, tmp_path, format):
        (tmp_path / "mine").write_text("mine")
        with pytest.raises(ConfigError, match="is a file; name a folder"):
            export(lightgcn, tmp_path / "mine", format=format, overwrite=True)
        assert (tmp_path / "mine").read_text() == "mine"

    @pytest.mark.parametrize("name", [INTERACTIONS_FILE, IDS_FILE, SCORER_FILE])
    @pytest.mark.parametrize("format", FORMATS)
    def test_what_is_missing_is_named_before_anything_is_written(self, lightgcn, tmp_path, name, format):
        shutil.copytree(lightgcn, tmp_path / "copy")
        (tmp_path / "copy" / name).unlink()
        with pytest.raises(ResultError, match=f"{name}: no such file"):
            export(tmp_path / "copy", tmp_path / "x", format=format)
        assert not (tmp_path / "x").exists()

    def test_interactions_of_another_search(self, lightgcn, tmp_path):
        shutil.copytree(lightgcn, tmp_path / "copy")
        (tmp_path / "copy" / MANIFEST_FILE).unlink()
        write_interactions(tmp_path / "copy" / INTERACTIONS_FILE, csr_array((60, 41), dtype=np.float32))
        with pytest.raises(ResultError, match="60 users and 40 items, the interactions 60 and 41"):
            export(tmp_path / "copy", tmp_path / "x")

    def test_onto_itself(self, lightgcn):
        with pytest.raises(ConfigError, match="is what is exported"):
            export(lightgcn, lightgcn, overwrite=True)

    def test_a_link_in_place_of_a_folder_or_in_it_is_not_followed(self, lightgcn, tmp_path):
        export(lightgcn, tmp_path / "served")
        (tmp_path / "precious").write_text("precious")
        for name in (TABLE_FILE, IDS_FILE):
            (tmp_path / "served" / name).unlink(missing_ok=True)
            (tmp_path / "served" / name).symlink_to(tmp_path / "precious")
        export(str(lightgcn), str(tmp_path / "served"), overwrite=True)
        assert (tmp_path / "precious").read_text() == "precious"
        assert not any(file.is_symlink() for file in (tmp_path / "served").iterdir())
        (tmp_path / "link").symlink_to(tmp_path / "served")
        with pytest.raises(ResultError, match="link: is a link; name the folder itself"):
            export(lightgcn, tmp_path / "link", overwrite=True)

    def test_a_table_and_companions_of_two_folders_are_seen(self, lightgcn, tmp_path):
        export(lightgcn, tmp_path / "one")
        export(lightgcn, tmp_path / "two", dtype="int8")
        shutil.copy(tmp_path / "two" / TABLE_FILE, tmp_path / "one" / TABLE_FILE)
        with pytest.raises(ResultError, match=f"{TABLE_FILE}: damaged, or of another folder"):
            export(tmp_path / "one", tmp_path / "three")

    def test_names_that_are_none(self, lightgcn, tmp_path):
        with pytest.raises(UnknownNameError, match="unknown format 'parket'. Did you mean 'parquet'"):
            export(lightgcn, tmp_path / "x", format="parket")
        with pytest.raises(UnknownNameError, match="unknown type of value 'int9'. Did you mean 'int"):
            export(lightgcn, tmp_path / "x", dtype="int9")

    @pytest.mark.parametrize("options", [{"dtype": "int8"}, {"propagated": True}])
    def test_options_of_another_format(self, lightgcn, tmp_path, options):
        with pytest.raises(ConfigError, match="propagated of packed, not of the format parquet"):
            export(lightgcn, tmp_path / "x", format="parquet", **options)

    def test_a_type_that_torchrec_has_not(self, lightgcn, tmp_path):
        with pytest.raises(ConfigError, match="tables of TorchRec are float32, int8, int4, int2, not int3"):
            export(lightgcn, tmp_path / "x", format="torchrec", dtype="int3")

    def test_a_table_of_no_numbers(self, lightgcn, tmp_path):
        shutil.copytree(lightgcn, tmp_path / "copy")
        table = PackedTable.open(lightgcn / TABLE_FILE)
        table.values[3] = np.nan
        table.save(tmp_path / "copy" / TABLE_FILE)
        with pytest.raises(ResultError, match="table.safetensors: value 3 of .* is no finite number"):
            export(tmp_path / "copy", tmp_path / "x", dtype="float16")

    def test_a_recommender_of_ones_own(self, lightgcn, tmp_path):
        shutil.copytree(lightgcn, tmp_path / "copy")
        (tmp_path / "copy" / MANIFEST_FILE).unlink()
        ScorerFile("mine:Mine", {}, {}).write(tmp_path / "copy")
        written = export(tmp_path / "copy", tmp_path / "x", dtype="float16")
        assert written.notes == ["N@20 was not measured: mine:Mine is a recommender of your own"]
        with pytest.raises(ResultError, match="'mine:Mine' is a recommender of your own"):
            export(tmp_path / "copy", tmp_path / "y", format="onnx")

    def test_no_result(self, tmp_path):
        with pytest.raises(ResultError, match="no such file"):
            export(tmp_path, tmp_path / "x")
        assert not (tmp_path / "x").exists() and not (tmp_path / SCORER_FILE).exists()
