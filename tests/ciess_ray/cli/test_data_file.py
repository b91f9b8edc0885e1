"""A file of data where a configuration may stand, and the configuration that ``init`` writes for it."""

import fsspec
import pytest
import yaml

import ciess_ray
from ciess_ray.config.data import load_interactions
from ciess_ray.config.grid import absolute_paths, slug
from ciess_ray.config.yaml_file import load_config
from ciess_ray.config.yaml_values import read_yaml
from ciess_ray.result import dataset_name
from envs.errors import DataError


@pytest.fixture
def configured(run_cli, tmp_path, monkeypatch):
    """What a command asks a search for."""
    monkeypatch.chdir(tmp_path)
    asked = []

    class Reached(BaseException):
        pass

    def reached(config, **options):
        asked.append(config)
        raise Reached

    monkeypatch.setattr("ciess_ray.searches.driver.search", reached)

    def configured(*arguments):
        with pytest.raises(Reached):
            run_cli(*arguments)
        return asked[-1]

    configured.asked = asked
    return configured


def test_a_file_of_data_and_a_budget_are_enough(configured):
    config = configured("search", "purchases.csv", "--budget", "10%", "--user", "customer", "--item", "sku")
    assert str(config.dataset.path) == "purchases.csv" and config.budget == "10%"
    assert config.dataset.columns == {"user": "customer", "item": "sku"}
    config = configured("search", "a.tsv.gz", "--timestamp", "when", "dataset.k_core=3", "--budget", "5%")
    assert config.dataset.columns == {"timestamp": "when"} and config.dataset.k_core == 3


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ([], "auto"),
        (["--time", "10m", "--device", "cpu", "recommender.max_embedding_size=32"], "auto"),
        (["search.num_episodes=3", "agent.updates_per_step=2"], "auto"),
        (["--recommender", "mf"], "mf"),
        (["recommender=spectral"], "spectral"),
        (["recommender.options.l2=0.1"], "lightgcn"),
        (["training.max_batches=100"], "lightgcn"),
        (["search.mode=paper"], "lightgcn"),
        (["search.tried_communities=[16]"], "lightgcn"),
        (["search.user_share=0.5"], "lightgcn"),
    ],
)
def test_where_nothing_is_said_of_one_recommender_validation_chooses(configured, tmp_path, said, name):
    (tmp_path / "run.yaml").write_text("dataset: {path: a.csv}\n")
    for source in ("purchases.csv", "run.yaml"):
        assert configured("search", source, *said).recommender.name == name
    fields = dict(each.split("=") for each in said if "=" in each)
    if len(fields) == len(said):
        fields = {field: read_yaml(value) for field, value in fields.items()}
        with pytest.raises(BaseException, match="^$"):
            ciess_ray.search("purchases.csv", progress=False, **fields)
        assert configured.asked[-1].recommender.name == name


def test_so_is_a_uri_which_keeps_both_of_its_strokes(configured, tmp_path):
    uri = "s3://bucket/log?region=eu-west-1"
    for arguments in ([uri], ["run.yaml", f"dataset.path={uri}"]):
        (tmp_path / "run.yaml").write_text("dataset: {path: a.csv}\n")
        config = configured("search", *arguments)
        assert config.dataset.path == config.model_dump(mode="json")["dataset"]["path"] == uri
        assert dataset_name(config.model_dump(mode="json")) == "log"
    assert absolute_paths({"dataset": {"path": uri}}) == {"dataset": {"path": uri}}
    assert slug({"dataset.path": uri}) == "path-log"


def test_what_lies_behind_a_uri_is_read_and_described(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = fsspec.filesystem("memory")
    try:
        store.pipe(
            "/bucket/log.csv", b"customer,sku\n" + b"".join(b"c%d,%d\n" % (n % 5, n) for n in range(40))
        )
        uri = "fsspec+memory:///bucket/log.csv"
        status, told, _ = run_cli("data", "describe", uri, "--user", "customer", "--item", "sku")
        assert status == 0 and "interactions" in told
        assert run_cli("init", uri)[0] == 0
        config = load_config("log.yaml")
        assert config.dataset.path == uri and load_interactions(config).num_users == 5
        store.rm("/bucket/log.csv")
        with pytest.raises(DataError, match=r"bucket/log\.csv: there is no such file to read; check the URI"):
            load_interactions(config)
    finally:
        store.rm("/", recursive=True)


def test_so_is_a_folder_of_parquet_and_columns_go_over_a_file_of_yaml(configured, tmp_path):
    (tmp_path / "parts").mkdir()
    assert str(configured("search", "parts").dataset.path) == "parts"
    (tmp_path / "run.yaml").write_text("dataset: {path: a.csv, columns: {user: u, item: i}}\n")
    config = configured("search", "run.yaml", "--user", "customer", "--item", "sku")
    assert config.dataset.columns == {"user": "customer", "item": "sku"}


def test_what_is_neither_is_told(run_cli):
    status, _, complaint = run_cli("search", "purchases.xls")
    assert status == 2 and "purchases.xls: no such configuration" in complaint
    status, _, complaint = run_cli("search", "purchases.csv")
    assert status == 2 and "purchases.csv: there is no such file to read" in complaint


def test_the_version(run_cli):
    assert run_cli("--version") == (0, f"ciess-ray {ciess_ray.__version__}\n", "")


def test_a_recommender_is_named_beside_them(configured):
    config = configured(
        "search", "purchases.csv", "--recommender", "auto", "--user", "customer", "--item", "sku"
    )
    assert config.recommender.is_auto and config.finds_recipe


class TestInit:
    @pytest.fixture
    def purchases(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        rows = [f"{number},c{number % 7},s{number % 5}" for number in range(50)]
        (tmp_path / "purchases.csv").write_text("\n".join(["when,Customer,sku no", *rows]) + "\n")
        return tmp_path

    def test_what_it_writes_is_what_a_search_takes(self, run_cli, purchases, configured):
        status, told, _ = run_cli("init", "purchases.csv", "--budget", "5%")
        assert status == 0 and told.splitlines() == [
            "purchases.csv: 7 users, 5 items, 35 interactions",
            'columns: user "Customer", item "sku no"',
            "configuration: purchases.yaml",
            "search: ciess-ray search purchases.yaml",
        ]
        config = configured("search", "purchases.yaml")
        assert config.dataset.columns == {"user": "Customer", "item": "sku no"}
        assert (str(config.dataset.path), config.budget) == ("purchases.csv", "5%")
        assert str(config.output) == "runs/purchases"
        text = (purchases / "purchases.yaml").read_text()
        assert "7 users, 5 items, 35 interactions" in text and "other columns: when" in text
        # Nothing but what it says differs from the defaults.
        (purchases / "bare.yaml").write_text(yaml.safe_dump({"dataset": {"path": "a.csv"}}))
        bare = load_config(purchases / "bare.yaml")
        assert config.model_dump(exclude={"dataset", "budget", "output"}) == bare.model_dump(
            exclude={"dataset", "budget", "output"}
        )

    def test_it_replaces_no_file_that_it_was_not_told_to(self, run_cli, purchases):
        (purchases / "purchases.yaml").write_text("mine")
        status, _, complaint = run_cli("init", "purchases.csv")
        assert status == 2 and "purchases.yaml: is there already; name another by --output" in complaint
        assert (purchases / "purchases.yaml").read_text() == "mine"
        assert run_cli("init", "purchases.csv", "--overwrite")[0] == 0
        assert load_config(purchases / "purchases.yaml").budget == "10%"
        assert run_cli("init", "purchases.csv", "--output", "other.yaml", "--item", "when")[0] == 0
        assert load_config(purchases / "other.yaml").dataset.columns == {"user": "Customer", "item": "when"}

    def test_what_it_cannot_guess_it_asks_for(self, run_cli, purchases):
        (purchases / "log.tsv").write_text("a\tb\n" + "1\t2\n" * 9)
        status, _, complaint = run_cli("init", "log.tsv")
        assert status == 2
        assert "log.tsv: which of its columns, 'a', 'b', is the user? Say so: --user NAME" in complaint
        status, _, complaint = run_cli("init", "purchases.csv", "--budget", "200%")
        assert status == 2 and "more than the full table" in complaint
        assert not (purchases / "purchases.yaml").exists() and not (purchases / "log.yaml").exists()

    @pytest.mark.parametrize("name", ["ratings.dat", "train.txt", "ratings.csv", "a\nb.csv"])
    def test_of_other_formats(self, name, run_cli, purchases):
        lines = {"ratings.dat": "1::2::3::4", "train.txt": "1 2 3", "ratings.csv": "userId,movieId\n1,2"}
        (purchases / name).write_text(lines.get(name, "user_id,item_id\n1,2") + "\n")
        assert run_cli("init", name, "--output", "it.yaml")[0] == 0
        assert str(load_config(purchases / "it.yaml").dataset.path) == name
