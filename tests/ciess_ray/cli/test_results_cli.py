"""What a search came to, as its command tells it."""

import json
from types import SimpleNamespace

import pytest
from report_folders import write_search

from ciess_ray.cli.results import say_result


@pytest.fixture
def told(tmp_path, capsys):
    """What is said of a search whose rows say this too."""

    def tell(*more):
        summary = json.loads((write_search(tmp_path / "out") / "result.json").read_text())
        for row, its in zip(summary["methods"], more, strict=True):
            row |= its
        summary["bytes"] |= dict.fromkeys(("scorer.safetensors", "interactions.npz", "ids.parquet"), 1)
        say_result(SimpleNamespace(path=tmp_path / "out", summary=summary, looser=list))
        return " ".join(capsys.readouterr().out.split())

    return tell


def test_options_that_validation_chose_are_named(told):
    assert "validation chose" not in told({}, {"options": ""}, {"options": ""})
    chosen = told({"options": "L2 0.0003"}, {"options": ""}, {"options": "item_exponent 0.3, outgoing 1"})
    assert (
        "options that validation chose: full size L2 0.0003; equal sizes what is searched with; "
        "search item_exponent 0.3, outgoing 1"
    ) in chosen


def test_users_without_rows_have_no_size(told):
    assert "served bytes user : item full size" in (shown := told({}, {}, {})) and "8.0 : 2.0" in shown
    shown = told(*[{"mean_user_size": 0.0}] * 3)
    assert "served bytes items full size" in shown and " 2.0 " in shown and " : 2.0" not in shown
