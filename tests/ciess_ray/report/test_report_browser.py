"""The page in a browser: it is whole at both widths, asks nobody for anything, and its tables sort."""

import shutil

import pytest
from report_folders import comparison_rows, write_comparison, write_search

from ciess_ray.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}

# A contributor needs no browser for the rest; CI installs one.
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH, in which the page could be opened"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    folders = [write_search(folder / "quick"), write_comparison(folder / "compared")]
    return write_report(folders, folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def opened(request, browser, report):
    """The page at one width, with what it asked for and complained of."""
    width, height = WIDTHS[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda made: asked.append(made.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.page.as_uri())
    yield page, asked, complaints, width
    context.close()


def column(page, table, place):
    return page.locator(f"#table-{table} tbody tr td:nth-child({place})").all_inner_texts()


def test_it_is_whole_and_asks_nobody(opened, report):
    page, asked, complaints, width = opened
    figures = page.locator("figure svg")
    assert figures.count() == len(report.figures)
    for number in range(figures.count()):
        figures.nth(number).scroll_into_view_if_needed()
        box = figures.nth(number).bounding_box()
        assert figures.nth(number).is_visible()
        assert box["height"] > 100 and 0.7 * min(width, 520) < box["width"] <= width
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert asked == [report.page.as_uri()] and complaints == []


def test_only_tables_are_wider_than_the_window(opened):
    page, *_, width = opened
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.body.scrollWidth") == width
    boxes = page.locator(".scroll")
    for number in range(boxes.count()):
        box = boxes.nth(number).bounding_box()
        assert box is None or box["x"] + box["width"] <= width


def test_no_column_lies_beyond_an_edge_without_a_mark(opened, browser, report):
    page, *_, width = opened
    boxes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(box => box.clientWidth)"
        ".map(box => [box.querySelector('table').id, box.scrollWidth - box.clientWidth])"
    )
    beyond = {name for name, letters in boxes if letters > 0}
    # Of the cells of a comparison CPU seconds and bytes may; the edge is shaded there.
    assert beyond <= ({"table-cells"} if width > 760 else set())
    shades = page.locator("#table-cells").evaluate("t => getComputedStyle(t.parentNode).backgroundImage")
    assert shades.count("linear-gradient") == 4
    for name in ("R@20", "N@20", "status"):
        heading = page.locator("#table-cells th").filter(has_text=name)
        box = heading.bounding_box()
        assert 0 <= box["x"] and box["x"] + box["width"] <= width
    first = page.locator("#table-cells tbody tr").first.locator("td[data-heading='R@20']").bounding_box()
    assert first["x"] + first["width"] <= width


def test_text_of_figures_can_be_read(opened):
    page, *_ = opened
    heights = page.evaluate(
        "[...document.querySelectorAll('figure svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(height for height in heights if height > 0) >= 8


def test_a_click_sorts_by_number_and_another_turns_round(opened):
    page, *_ = opened
    heading = page.locator("#table-cells th").filter(has_text="packed bytes")
    place = 1 + heading.evaluate("th => th.cellIndex")

    def shown():
        return [int(text.replace(",", "")) for text in column(page, "cells", place) if text]

    before = shown()
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    # As text, 100,000 would come before 6,000.
    assert shown() == sorted(before) != before
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(before, reverse=True)
    # What has no bytes is last in either order.
    assert column(page, "cells", place)[-1] == ""
    others = page.locator("#table-cells th[aria-sort='none']")
    assert others.count() == page.locator("#table-cells th").count() - 1


def test_a_key_sorts_by_text(opened):
    page, *_ = opened
    heading = page.locator("#table-means th").filter(has_text="method")
    place = 1 + heading.evaluate("th => th.cellIndex")
    heading.locator("button").press("Enter")
    shown = column(page, "means", place)
    assert shown == sorted(shown) and len(set(shown)) == 6


def test_it_is_complete_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.page.as_uri())
    assert page.locator("figure svg").count() == len(report.figures)
    # Of the search there are three.
    assert page.locator("#table-cells tbody tr").count() == 3 + len(comparison_rows())
    context.close()
