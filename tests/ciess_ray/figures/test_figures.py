"""What figures say beside what they draw."""

import pytest

from ciess_ray.figures import Panel, Point, draw_quality, draw_segments, format_bytes, to_svg
from ciess_ray.statistics import Spread


def test_an_axis_that_does_not_begin_at_0_bears_a_mark():
    def marks(*values):
        points = [
            Point(f"m{place}", 10.0 ** (place + 1), Spread(value, None)) for place, value in enumerate(values)
        ]
        (axes,) = draw_quality({"": points}, "R@20").axes
        return [line for line in axes.lines if line.get_transform() == axes.transAxes]

    assert len(marks(0.20, 0.21)) == 1 and marks(0.0, 0.21) == []


def test_a_label_changes_no_attribute():
    point = Point('"><script> id="x" #1d2733 url(#a)', 10.0, Spread(0.1, None))
    svg = to_svg(draw_quality({"": [point]}, "<R&D>"), "one", 'an "alt" <text>')
    assert 'aria-label="an &quot;alt&quot; &lt;text&gt;"' in svg
    assert "<script" not in svg and "&lt;R&amp;D&gt;" in svg
    assert 'id="x" #1d2733 url(#a)' in svg


def test_segments_have_the_numbers_of_their_folders():
    (axes,) = draw_segments([Panel("quality", {"split": {9: 0.1, 10: 0.2}})], ["split"]).axes
    assert [axes.xaxis.get_major_formatter()(number, 0) for number in (9.0, 10.0)] == ["009", "010"]


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1 kB"),
        (259_289, "259 kB"),
        (999_700, "1 MB"),
        (2.5e6, "2.5 MB"),
    ],
)
def test_bytes_are_told_in_at_most_three_digits(num_bytes, told):
    assert format_bytes(num_bytes) == told
