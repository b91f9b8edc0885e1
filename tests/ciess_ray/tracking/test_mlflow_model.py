import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from ciess_ray.config.yaml_file import parse_config
from ciess_ray.result import SearchResult
from ciess_ray.serving.files import TEST_FILE
from ciess_ray.serving.interactions_file import read_interactions_file
from ciess_ray.tracking.mlflow_model import can_model, save_model
from ciess_ray.tracking.mlflow_store import MlflowStore

# MLflow's own store uses what SQLAlchemy 2.1 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NUM_USERS, NUM_ITEMS = 60, 40


@pytest.fixture(scope="module", params=["text", "numbers"])
def folder(request, make_result):
    """The files of a finished search, without the search."""
    text = [np.array([f"{kind}{i}" for i in range(n)]) for kind, n in (("u", NUM_USERS), ("i", NUM_ITEMS))]
    name, ids = ("lightgcn", text) if request.param == "text" else ("neighbours", None)
    path, _, _ = make_result(name, ids)
    (path / "sizes.png").write_bytes(b"no part of a model")
    return path


@pytest.fixture(scope="module")
def model_path(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model"
    save_model(folder, path)
    return path


def test_nothing_is_pickled_and_no_more_than_needed_is_there(model_path):
    names = {file.name for file in model_path.rglob("*") if file.is_file()}
    assert {"MLmodel", "mlflow_recommender.py", "input_example.json", "table.safetensors"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pth", ".png"))]


def test_it_recommends_what_the_recommender_ranks_first_and_users_have_not_seen(folder, model_path):
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(model_path))
    result = SearchResult.load(folder)
    user_ids, item_ids = result.ids()
    wanted = user_ids[[3, 0, 3]]
    found = model.predict(pd.DataFrame({"user_id": wanted}), params={"num_items": 5})
    assert found.columns.tolist() == ["user_id", "rank", "item_id", "score"]
    assert found["user_id"].tolist() == np.repeat(wanted, 5).tolist()
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    recommender = result.recommender()
    with torch.no_grad():
        scores = recommender.score(recommender.encode(), torch.tensor([3]))[0].numpy().astype(float)
    known = result.train + read_interactions_file(folder / TEST_FILE, result.train.shape)
    scores[known[[3]].indices] = -np.inf
    assert found["item_id"][:5].tolist() == item_ids[np.argsort(-scores)[:5]].tolist()
    assert np.allclose(found["score"][:5], np.sort(scores)[::-1][:5])
    assert len(model.predict(pd.DataFrame({"user_id": user_ids[:1]}))) == 10
    # More than there are: all that are left.
    every = model.predict(pd.DataFrame({"user_id": user_ids[:1]}), params={"num_items": 1000})
    assert len(every) == NUM_ITEMS - known[[0]].nnz


def test_an_unknown_user_is_named(model_path, folder):
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(model_path))
    unknown = "nobody" if SearchResult.load(folder).ids()[0].dtype == object else 10**9
    with pytest.raises(Exception, match=f"not in the table: 1 of 1 users, e.g. {unknown}"):
        model.predict(pd.DataFrame({"user_id": [unknown]}))


def test_it_is_served_without_ray(model_path):
    code = (
        "import sys, json, mlflow.pyfunc, pandas as pd\n"
        f"model = mlflow.pyfunc.load_model({str(model_path)!r})\n"
        f"example = pd.read_json({str(model_path / 'input_example.json')!r}, orient='split', dtype=False)\n"
        "print(len(model.predict(example)), [name for name in sys.modules if name.split('.')[0] == 'ray'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.stdout.split("\n")[-2] == "30 []", done.stderr


def test_it_is_an_artifact_of_its_run(folder, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = parse_config({"dataset": {"path": "log.parquet"}, "tracking": {"uri": uri}})
    store = MlflowStore(config.tracking, "runs/mine")
    run = store.run("key", "mine")
    run.log_model(folder)
    run.end("FINISHED")
    assert store.close() == []
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        model = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/model")
    finally:
        mlflow.set_tracking_uri(before)
    user_ids, _ = SearchResult.load(folder).ids()
    assert len(model.predict(pd.DataFrame({"user_id": user_ids}), params={"num_items": 2})) == 2 * NUM_USERS


def test_a_recommender_of_ones_own_is_no_model(folder, tmp_path):
    shutil.copy(folder / "result.json", tmp_path)
    assert can_model(tmp_path)
    summary = json.loads((tmp_path / "result.json").read_text())
    summary["config"]["recommender"]["name"] = "mine:Mine"
    (tmp_path / "result.json").write_text(json.dumps(summary))
    assert not can_model(tmp_path)
