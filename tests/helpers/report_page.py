"""A report's page, as tests look at it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and its tables as rows of text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.ids, self.tables, self.text = [], [], {}, ""
        self._table = None
        self._is_code = self._is_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.elements.append((tag, told))
        self.ids += [told["id"]] if "id" in told else []
        self._is_code = tag in ("style", "script")
        if tag == "table":
            self._table = self.tables.setdefault(told["id"].removeprefix("table-"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag):
        self._is_code = False
        if tag in ("td", "th"):
            self._is_cell = False
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        if not self._is_code:
            self.text += data
        if self._is_cell:
            self._table[-1][-1] += data

    def attributes(self, tag):
        return [told for name, told in self.elements if name == tag]

    def rows(self, table):
        """Rows of a table by heading."""
        headings, *rows = self.tables[table]
        return [dict(zip(headings, row, strict=True)) for row in rows]


def name_of(figure):
    """The name of a figure's file without what it has of its content."""
    assert re.fullmatch(r".*-[0-9a-f]{8}\.png", figure.name)
    return f"{figure.name[:-13]}.png"
