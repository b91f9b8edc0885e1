import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from ciess_ray.files.manifest import MANIFEST_FILE
from ciess_ray.serving import scorers
from ciess_ray.serving.files import (
    IDS_FILE,
    INTERACTIONS_FILE,
    SCORER_FILE,
    TABLE_FILE,
    ScorerFile,
    write_ids,
)
from ciess_ray.serving.interactions_file import read_interactions_file, write_interactions
from ciess_ray.serving.recommender import ServedRecommender
from envs.errors import ConfigError, DataError, ResultError, UnknownNameError
from envs.recommenders import RECOMMENDERS
from envs.recommenders.evaluation import rank_items

NUM_USERS, NUM_ITEMS = 60, 40


def test_every_recommender_of_the_package_can_be_served():
    assert scorers.SCORERS.keys() == RECOMMENDERS.keys()


@pytest.fixture(scope="module", params=[*RECOMMENDERS, "lightgcn, one layer"])
def made(request, make_result):
    """A folder that recommends, its recommender, and what it was trained on; ids of users are text."""
    name, _, short = request.param.partition(",")
    users = np.array([f"u{user:02}" for user in range(NUM_USERS)], object)
    ids = users, np.arange(NUM_ITEMS) * 10
    return *make_result(name, ids, {"num_layers": 1} if short else None), name


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


def test_it_is_shown_in_a_line(made):
    served = ServedRecommender.open(made[0])
    shown = f"({made[3]}, 60 users, 40 items, {served.table.num_params:,} parameters in float32)"
    assert repr(served) == f"ServedRecommender{shown}"


@pytest.fixture(scope="module")
def trained(made):
    """The masked recommender, its name, and all that users had."""
    _, recommender, interactions, name = made
    return recommender, name, interactions.train + interactions.test


@pytest.fixture(scope="module")
def scores(trained):
    """Of the masked recommender itself, shape (num_users, num_items)."""
    recommender, *_ = trained
    with torch.no_grad():
        return recommender.score(recommender.encode(), torch.arange(NUM_USERS)).numpy()


@pytest.fixture
def served(folder):
    return ServedRecommender.open(folder)


@pytest.mark.parametrize("num_users", [1, 3, NUM_USERS])
def test_scores_are_those_of_the_masked_recommender(served, scores, num_users):
    users = np.arange(num_users)
    found = served.scorer.score(served.scorer.of_users(users))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scores[users], rtol=1e-5, atol=1e-5 * np.abs(scores).max())


def test_lists_are_those_of_the_masked_recommender(served, trained, scores):
    recommender, _, known = trained
    everyone = np.arange(NUM_USERS)
    found = served.recommend(served.user_ids, 20)
    expected = rank_items(recommender, known, everyone, 20)
    np.testing.assert_array_equal(found.items, expected)
    one_by_one = np.concatenate([served.recommend([user], 20).items for user in served.user_ids])
    np.testing.assert_array_equal(one_by_one, expected)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_somebody_new_is_the_mean_of_the_items_they_name(served, trained, scores):
    recommender, name, _ = trained
    found = served.recommend_to_new([[30, 50], [70]], 5)
    if served.table.neighbours is not None:
        # As whoever had these items, and named one twice or not.
        _, says = recommender.encode()
        expected = says.to_dense()[[3, 5]].sum(dim=0).numpy()
        twice = served.recommend_to_new([[30, 50, 30]], 5)
        np.testing.assert_array_equal(twice.scores[0], found.scores[0])
    elif name != "ncf":
        with torch.no_grad():
            users, items = recommender.encode()
        # Of a closed form they count as they do in a history.
        counted = items * getattr(recommender, "history_weight", torch.ones(1)).float()[:, None]
        expected = (counted[[3, 5]].mean(dim=0) @ items.T).detach().numpy()
    else:
        # Their rows of both tables take the user's place.
        rows = recommender.table().detach()
        with torch.no_grad():
            weight = recommender.table.weight
            kept, mask = weight.clone(), recommender.table.mask.clone()
            weight[0] = rows[NUM_USERS + torch.tensor([3, 5])].mean(dim=0)
            recommender.table.mask[0] = True
            expected = recommender.score(recommender.encode(), torch.tensor([0]))[0].numpy()
            weight.copy_(kept)
            recommender.table.mask.copy_(mask)
    expected = expected.copy()
    expected[[3, 5]] = -np.inf
    if served.table.neighbours is None:
        assert found.items[0].tolist() == np.argsort(-expected)[:5].tolist()
    np.testing.assert_allclose(found.scores[0], expected[found.items[0]], rtol=1e-4)
    np.testing.assert_allclose(found.scores[0], np.sort(expected)[::-1][:5], rtol=1e-4)
    assert 7 not in found.items[1]
    many = served.recommend_to_new([[30, 50]] * 50, 5)
    np.testing.assert_array_equal(many.items, np.repeat(found.items[:1], 50, axis=0))


def test_what_was_seen_may_come_again_where_asked_for(served, trained):
    *_, known = trained
    seen = set(known[[0]].indices.tolist())
    assert not seen & set(served.recommend(["u00"], NUM_ITEMS).items[0].tolist())
    assert seen <= set(served.recommend(["u00"], NUM_ITEMS, include_seen=True).items[0].tolist())


def test_what_was_held_out_for_test_is_known(served, made):
    _, _, interactions, _ = made
    found = served.recommend(served.user_ids, NUM_ITEMS).items
    for user, items in enumerate(found):
        assert not set(interactions.test[[user]].indices.tolist()) & set(items.tolist())


def test_a_list_ends_where_no_item_is_left(served, trained):
    *_, known = trained
    found = served.recommend(["u00"], 1000)
    num_left = NUM_ITEMS - known[[0]].nnz
    assert found.items.shape == (1, NUM_ITEMS)
    assert (found.items[0, num_left:] == -1).all() and (found.items[0, :num_left] >= 0).all()
    assert np.isneginf(found.scores[0, num_left:]).all()


def test_ids_come_back_as_the_data_has_them(served):
    items = served.recommend(["u03"], 3).items
    # The file keeps one type for both kinds.
    assert served.ids_of(items).tolist() == [[str(10 * item) for item in items[0]]]


def test_ids_that_are_numbers_are_found_by_their_text(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / MANIFEST_FILE).unlink()
    write_ids(tmp_path / IDS_FILE, np.arange(NUM_USERS) + 100, np.arange(NUM_ITEMS) * 10)
    served = ServedRecommender.open(tmp_path)
    expected = served.recommend([103], 3)
    np.testing.assert_array_equal(served.recommend(["103"], 3).items, expected.items)
    np.testing.assert_array_equal(served.recommend([103] * 9, 3).items[4], expected.items[0])
    for few_or_many in (["nobody"], ["nobody", *range(100, 120)], [200], [200, *range(100, 120)]):
        with pytest.raises(
            DataError, match="not in the table: 1 of [0-9]+ users, e.g. (nobody|200); its ids are like"
        ):
            served.recommend(few_or_many)


@pytest.mark.parametrize("num_users", [1, 20])
def test_blanks_around_an_id_are_no_part_of_it(served, num_users):
    expected = served.recommend(["u03"] * num_users, 3).items
    np.testing.assert_array_equal(served.recommend([" u03\t"] * num_users, 3).items, expected)
    liked = served.recommend_to_new([["30", "50"]], 3).items
    np.testing.assert_array_equal(served.recommend_to_new([[" 30", "50 "]], 3).items, liked)
    # A folder may hold ids that kept the blanks around them.
    with_blanks = replace(served, user_ids=np.array(["u03 ", *served.user_ids[1:]], object))
    found = with_blanks.recommend(["u03 "] * num_users, 3).items
    np.testing.assert_array_equal(found, served.recommend([served.user_ids[0]] * num_users, 3).items)


@pytest.fixture(scope="module")
def numbered(make_result):
    """Ids are numbers, the user of row r is 100 + r."""
    ids = np.arange(NUM_USERS) + 100, np.arange(NUM_ITEMS) * 10
    return ServedRecommender.open(str(make_result("mf", ids)[0]))


@pytest.fixture(scope="module")
def named(make_result):
    users = np.array([str(user) for user in range(100, 100 + NUM_USERS)], object)
    return ServedRecommender.open(make_result("mf", (users, np.arange(NUM_ITEMS) * 10))[0])


class TestIds:
    @pytest.mark.parametrize("value", [103, np.int16(103), np.uint64(103), "103", np.str_("103")])
    def test_a_number_is_found_by_itself_and_by_its_text(self, numbered, named, value):
        for served in (numbered, named):
            expected = served.recommend([served.user_ids[3]], 4).items
            np.testing.assert_array_equal(served.recommend([value], 4).items, expected)
            np.testing.assert_array_equal(
                served.recommend([value] * 9, 4).items, np.repeat(expected, 9, axis=0)
            )

    @pytest.mark.parametrize(
        "value",
        [
            103.9, 103.0, np.float32(103), True, np.True_, None, float("nan"), float("inf"), -1, 2**63,
            10**400, pytest.param(10**5000, id="huge"), "103.0", "+103", "1_03", "0103", "9" * 5000, "",
            "nobody", b"103", (103,), ["103"],
        ],
    )  # fmt: skip
    def test_what_only_resembles_an_id_is_nobody(self, numbered, named, value):
        for served in (numbered, named):
            for few_or_many in ([value], [value, *served.user_ids]):
                with pytest.raises(DataError, match="not in the table: 1 of [0-9]+ users"):
                    served.recommend(few_or_many)
            with pytest.raises(DataError, match="not in the table: 1 of 1 items"):
                served.recommend_to_new([[value]])

    @pytest.mark.parametrize("ids", ["103", b"103", 103, None, {103: 1}, np.array([[103]]), np.array(103)])
    def test_what_is_no_list_of_ids_is_said(self, numbered, ids):
        with pytest.raises(DataError, match="no list of user ids: write"):
            numbered.recommend(ids)
        for named in (ids, [ids], [[10], ids]):
            with pytest.raises(DataError, match="no list of item ids: write|not in the table"):
                numbered.recommend_to_new(named)

    @pytest.mark.parametrize("k", [0, -1, 2.5, True, "3", None, float("nan")])
    def test_how_many_is_a_whole_number(self, numbered, k):
        for ask in (numbered.recommend, numbered.recommend_to_new):
            with pytest.raises(ConfigError, match="items: ask for at least one"):
                ask([100], k)

    def test_very_many_are_all(self, numbered):
        assert numbered.recommend([100], 10**30).items.shape == (1, NUM_ITEMS)

    @pytest.mark.parametrize("rows", [[0.9], [True], ["0"], [None]])
    def test_rows_of_a_table_are_whole_numbers(self, numbered, rows):
        with pytest.raises(IndexError, match="rows are whole numbers"):
            numbered.table.rows(np.array(rows))


@pytest.mark.parametrize("width", [1, 10_000])
def test_large_batches_come_in_parts(served, folder, monkeypatch, width):
    expected = served.recommend(served.user_ids, 4)
    monkeypatch.setattr("ciess_ray.serving.recommender._MAX_SCORES", width)
    found = ServedRecommender.open(folder).recommend(served.user_ids, 4)
    np.testing.assert_array_equal(found.items, expected.items)


def test_no_users(served):
    assert served.recommend([], 3).items.shape == (0, 3)


def test_what_cannot_be_recommended_is_said(served):
    with pytest.raises(
        DataError, match="not in the table: 2 of 3 users, e.g. x, y; its ids are like u00, u01, u02"
    ):
        served.recommend(["x", "u01", "y"])
    with pytest.raises(DataError, match="not in the table: 1 of 2 items, e.g. 7; its ids are like 0, 10, 20"):
        served.recommend_to_new([[7, 10]])
    with pytest.raises(DataError, match="user 1 names no item"):
        served.recommend_to_new([[10], []])
    with pytest.raises(ConfigError, match="0 items: ask for at least one"):
        served.recommend(["u00"], 0)


def test_unknown_users_get_what_is_popular_and_stop_nobody(served, made):
    train = made[2].train
    counts = np.bincount(train.indices, minlength=NUM_ITEMS)
    expected = np.argsort(-counts, kind="stable")[:7]
    known = served.recommend(["u03", "u05"], 7)
    assert not known.is_popular.any()
    found = served.recommend(["x", "u03", None, "u05"], 7, unknown="popular")
    assert found.is_popular.tolist() == [True, False, True, False]
    for place in (0, 2):
        np.testing.assert_array_equal(found.items[place], expected)
        np.testing.assert_array_equal(found.scores[place], counts[expected])
    np.testing.assert_array_equal(found.items[[1, 3]], known.items)
    np.testing.assert_array_equal(found.scores[[1, 3]], known.scores)
    assert served.recommend(["x"], 10**30, unknown="popular").items.shape == (1, NUM_ITEMS)
    assert served.recommend([], 3, unknown="popular").items.shape == (0, 3)


def test_of_unknown_items_somebody_new_is_what_is_left(served):
    usual = served.recommend_to_new([[30, 50], [70]], 5)
    found = served.recommend_to_new([[30, 7, 50], ["no"], [], [70]], 5, unknown="popular")
    assert found.is_popular.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(found.items[[0, 3]], usual.items)
    np.testing.assert_array_equal(found.scores[[0, 3]], usual.scores)
    popular = served.recommend(["x"], 5, unknown="popular")
    np.testing.assert_array_equal(found.items[[1, 2]], popular.items[[0, 0]])


@pytest.mark.parametrize("ask", ["recommend", "recommend_to_new"])
def test_there_is_no_third_way_with_the_unknown(numbered, ask):
    with pytest.raises(
        UnknownNameError, match="unknown way with unknown ids 'popluar'. Did you mean 'popular'"
    ):
        getattr(numbered, ask)([100], 3, unknown="popluar")


def test_a_new_item_is_the_mean_of_its_first_users(served, made, trained, monkeypatch):
    recommender, name, _ = trained
    first = [["u03"], ["u05", "u07", "u05"]]
    found = served.score_new_items(first, served.user_ids)
    assert found.shape == (NUM_USERS, 2) and found.dtype == np.float32
    if served.table.neighbours is not None:
        return
    rows = recommender.table().detach()
    means = [rows[[3]].mean(dim=0), rows[[5, 7, 5]].mean(dim=0)]
    _, _, interactions, _ = made
    with torch.no_grad():
        if name == "spectral":
            # Folded in: the sum over users, each by their activity, column by column.
            users, _ = recommender.encode()
            activity = torch.from_numpy(np.diff(interactions.train.indptr)).clamp(min=1)
            users_scaled = users * activity[:, None] ** (-2 * recommender.user_exponent)
            sums = [users_scaled[3], users_scaled[[5, 7, 5]].mean(dim=0) * 2]
            expected = (users @ (torch.stack(sums) * recommender.fold_in).T).numpy()
        elif name != "ncf":
            users, _ = recommender.encode()
            of_items = torch.stack([users[[3]].mean(dim=0), users[[5, 7, 5]].mean(dim=0)])
            expected = (users @ of_items.T).numpy()
        else:
            # Their rows of both tables take an item's place.
            weight, mask = recommender.table.weight, recommender.table.mask
            kept = weight.clone(), mask.clone()
            for item, mean in enumerate(means):
                weight[NUM_USERS + item], mask[NUM_USERS + item] = mean, True
            expected = recommender.score(recommender.encode(), torch.arange(NUM_USERS)).numpy()[:, :2]
            weight.copy_(kept[0])
            mask.copy_(kept[1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # Whoever is alike: the item that one user had is scored as that user's row would be.
    monkeypatch.setattr("ciess_ray.serving.recommender._MAX_SCORES", 3)
    np.testing.assert_allclose(served.score_new_items(first, ["u09", "u02"]), found[[9, 2]], rtol=1e-5)
    assert served.score_new_items([], ["u09"]).shape == (1, 0)
    assert served.score_new_items(first, []).shape == (0, 2)


def test_a_new_item_that_nobody_had_is_refused(numbered):
    with pytest.raises(DataError, match="item 1 had no user: name at least one"):
        numbered.score_new_items([[100], []], [100])
    for first, users in (([[5]], [100]), ([[100]], [5])):
        with pytest.raises(DataError, match="not in the table: 1 of 1 users, e.g. 5"):
            numbered.score_new_items(first, users)
    with pytest.raises(DataError, match="100 is no list of user ids"):
        numbered.score_new_items([100], [100])


def test_what_takes_long_to_import_is_not_imported(folder):
    code = (
        "import sys; from pathlib import Path; from ciess_ray.serving.recommender import ServedRecommender\n"
        f"served = ServedRecommender.open(Path({str(folder)!r}))\n"
        "served.score_new_items([['u01']], ['u00'])\n"
        "print(len(served.recommend(['u00', 'x'], 20, unknown='popular').items[0]))\n"
        "slow = {'ray', 'torch', 'mlflow', 'pandas', 'pyarrow.compute'}\n"
        "print(slow & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "20\nset()\n", done.stderr


class TestDamage:
    @pytest.fixture
    def copy(self, folder, tmp_path):
        """Without checksums: what is in the files has to give them away."""
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / MANIFEST_FILE).unlink()
        return tmp_path

    def test_no_folder(self, tmp_path):
        with pytest.raises(ResultError, match="no such folder"):
            ServedRecommender.open(tmp_path / "nowhere")
        (tmp_path / "file").touch()
        with pytest.raises(ResultError, match="file: is no folder; name that of a finished search"):
            ServedRecommender.open(tmp_path / "file")

    @pytest.mark.parametrize("name", [TABLE_FILE, SCORER_FILE, INTERACTIONS_FILE, IDS_FILE])
    def test_a_file_that_is_missing_or_cut_off(self, copy, name):
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ResultError, match=f"{name}: damaged"):
            ServedRecommender.open(copy)
        (copy / name).unlink()
        with pytest.raises(ResultError, match=f"{name}: no such file"):
            ServedRecommender.open(copy)

    def test_interactions_that_point_elsewhere(self, copy):
        np.savez(
            copy / INTERACTIONS_FILE,
            indptr=np.arange(NUM_USERS + 1),
            indices=np.full(NUM_USERS, NUM_ITEMS),
            shape=np.array([NUM_USERS, NUM_ITEMS]),
        )
        with pytest.raises(ResultError, match="interactions.npz: damaged"):
            read_interactions_file(copy / INTERACTIONS_FILE, (NUM_USERS, NUM_ITEMS))

    def test_parts_of_different_searches(self, copy):
        write_interactions(copy / INTERACTIONS_FILE, csr_array((NUM_USERS, NUM_ITEMS + 1), dtype=np.float32))
        with pytest.raises(ResultError, match="come from different searches"):
            ServedRecommender.open(copy)

    def test_ids_of_another_table(self, copy):
        write_ids(copy / IDS_FILE, np.arange(3), np.arange(NUM_ITEMS))
        with pytest.raises(ResultError, match="43 ids for 60 users and 40 items"):
            ServedRecommender.open(copy)

    def test_another_scorers_weights(self, copy):
        ScorerFile("ncf", {}, {}).write(copy)
        with pytest.raises(ResultError, match="the scorer's weights are not those of a ncf"):
            ServedRecommender.open(copy)

    def test_a_recommender_of_ones_own(self, copy):
        ScorerFile("mine:Mine", {}, {}).write(copy)
        with pytest.raises(
            ResultError, match="'mine:Mine' is a recommender of your own.*recommender\\(ItsCl"
        ):
            ServedRecommender.open(copy)

    def test_a_scorer_of_another_format(self, copy):
        import safetensors.numpy

        (copy / SCORER_FILE).write_bytes(safetensors.numpy.save({}, {"format": "other"}))
        with pytest.raises(ResultError, match="its format is 'other', not 'ciess-ray scorer 2'"):
            ServedRecommender.open(copy)
        (copy / SCORER_FILE).write_bytes(safetensors.numpy.save({}, {"format": "ciess-ray scorer 2"}))
        with pytest.raises(ResultError, match="damaged.*options"):
            ServedRecommender.open(copy)


def test_ids_are_read_by_no_thread_that_could_outlive_the_process():
    """Seen on a busy machine: what was recommended stood there, and the process ended in an abort."""
    folder = Path(__file__).parents[2] / "golden" / "result"
    code = (
        "import os, sys; from pathlib import Path; from ciess_ray.serving.files import read_ids\n"
        "before = set(os.listdir('/proc/self/task'))\n"
        f"read_ids(Path({str(folder)!r}), 60, 40)\n"
        "sys.exit(len(set(os.listdir('/proc/self/task')) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
