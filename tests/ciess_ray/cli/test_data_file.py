"""A file of data where a configuration may stand."""

import pytest


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

    return configured


def test_a_file_of_data_and_a_budget_are_enough(configured):
    config = configured("search", "purchases.csv", "--budget", "10%", "--user", "customer", "--item", "sku")
    assert str(config.dataset.path) == "purchases.csv" and config.budget == "10%"
    assert config.dataset.columns == {"user": "customer", "item": "sku"}
    config = configured("search", "a.tsv.gz", "--timestamp", "when", "dataset.k_core=3", "--budget", "5%")
    assert config.dataset.columns == {"timestamp": "when"} and config.dataset.k_core == 3


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
