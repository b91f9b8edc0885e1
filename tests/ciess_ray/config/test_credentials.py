import pytest

from ciess_ray.config.credentials import with_secret, without_secrets
from ciess_ray.config.run import TrackingConfig
from ciess_ray.config.yaml_file import parse_config
from envs.errors import ConfigError

HIDDEN = [
    ("postgresql://me:sesame@host/mlflow", "postgresql://…@host/mlflow"),
    ("mysql+pymysql://me:se/s@me?@host:1/db?ssl=1", "mysql+pymysql://…@host:1/db?ssl=1"),
    ("s3://KEY:se/sa+me@bucket/sweep?region=a", "s3://…@bucket/sweep?region=a"),
    ("https://sesame@host:5000/x", "https://…@host:5000/x"),
    ("https://host/x?access_token=sesame&page=1", "https://host/x?access_token=…&page=1"),
    ("sqlite:///file:a.db?uri=true&key=sesame", "sqlite:///file:a.db?uri=true&key=…"),
    ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsesame&x=1", "mssql+pyodbc:///?odbc_connect=…&x=1"),
    ("https://host/#access_token=sesame", "https://host/#access_token=…"),
    ("https://host/?sas=sesame&pass=sesame", "https://host/?sas=…&pass=…"),
    ("API request to http://me:sesame@host/api failed", "API request to http://…@host/api failed"),
]
OPEN = [
    "sqlite:///mlflow.db",
    "sqlite:////home/me@work/mlflow.db",
    "http://127.0.0.1:5000",
    "postgresql://me@host/db?sslmode=require",
    "s3://bucket/me@work/sweep?region=a&endpoint_override=b",
    "at 10:30, mail me@work",
]


@pytest.mark.parametrize(("text", "told"), [*HIDDEN, *((text, text) for text in OPEN)])
def test_secrets_of_uris_are_hidden_and_nothing_else(text, told):
    assert without_secrets(text) == told == without_secrets(told)


def test_a_configuration_that_leaves_the_process_has_none():
    uri = "http://me:sesame@host"
    config = parse_config({"dataset": {"path": "a.csv"}, "tracking": {"uri": uri}})
    assert config.tracking.uri == uri
    for told in (config.model_dump_json(), str(config.model_dump(mode="json")), repr(config)):
        assert "sesame" not in told and "sqlite" not in told


@pytest.mark.parametrize(
    "values", [{"tracking": "http://me:sesame@h"}, {"tracking": {"uri": ["http://sesame@h"]}}]
)
def test_a_mistake_beside_one_does_not_show_it(values):
    with pytest.raises(ConfigError, match="tracking") as caught:
        parse_config({"dataset": {"path": "a.csv"}} | values)
    assert "sesame" not in str(caught.value) and "…@h" in str(caught.value)


def test_what_is_kept_is_made_whole_by_the_environment(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    kept = without_secrets("https://me:sesame@host/x")
    with pytest.raises(ConfigError, match="tracking.uri=https://…@host/x: .*MLFLOW_TRACKING_URI.*_PASSWORD"):
        with_secret(kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:sesame@other/x")
    with pytest.raises(ConfigError):
        with_secret(kept)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:sesame@host/x")
    assert with_secret(kept) == "https://me:sesame@host/x"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    # A server is asked with what MLflow itself finds there; a database is not.
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame")
    assert with_secret(kept) == "https://host/x"
    with pytest.raises(ConfigError, match="tracking.uri=postgresql://…@host/x"):
        with_secret("postgresql://…@host/x")


@pytest.mark.parametrize("uri", [uri for uri, _ in HIDDEN[:-1]] + OPEN[:-1])
def test_what_was_never_hidden_is_taken_as_it_is(uri):
    assert with_secret(TrackingConfig(uri=uri).uri) == uri


def test_a_password_with_a_blank_is_refused_and_not_shown():
    with pytest.raises(ConfigError, match="tracking.uri: a URI holds no blanks.*%20") as refusal:
        TrackingConfig(uri="postgresql://me:open sesame@db/mlflow")
    assert "sesame" not in str(refusal.value)
    assert TrackingConfig(uri="sqlite:///my runs @home/mlflow.db").uri
