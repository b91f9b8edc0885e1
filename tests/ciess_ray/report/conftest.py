"""Reports of folders, and their pages."""

import pytest
from report_page import Page

from ciess_ray.report import write_report


@pytest.fixture
def make(tmp_path):
    def make(*folders, name="report.html"):
        report = write_report(folders, tmp_path / "out" / name)
        return report, Page(report.page)

    return make


@pytest.fixture
def without_figures(monkeypatch):
    """Of what is in the tables alone, for the seconds that figures take."""
    monkeypatch.setattr("ciess_ray.report.page.draw_all", lambda groups, searches: [])
