"""Figures in pages: what the pointer is told, where it is told, and ids of several on one page."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from zsg_jax.report import hover
from zsg_jax.report.drawing import Line, Panel, draw, looks
from zsg_jax.report.svg import inline, to_svg

SVG = "{http://www.w3.org/2000/svg}"


def titled(svg, tag):
    """(title, attributes) of every shape of a tag that has one."""
    root = ET.fromstring(svg)
    return [
        (one.findtext(f"{SVG}title"), one.attrib)
        for one in root.iter(f"{SVG}{tag}")
        if one.find(f"{SVG}title") is not None
    ]


def panels(count=1):
    steps, values = np.array([0, 1500, 3000]), np.array([3.0, 2.123456, 1.5])
    lines = {"a & b": Line(steps, values, [0.5, 0.25, 0.125]), "c": Line(steps, values + 1)}
    return draw([Panel("loss", f"panel {i}", lines) for i in range(count)], looks(lines))


def test_points_tell_their_values_where_they_are_drawn():
    svg = to_svg(panels(2))
    told = titled(svg, "circle")
    values = ["3", "2.123", "1.5", "4", "3.123", "2.5"]
    spread = [" ± 0.5", " ± 0.25", " ± 0.12", "", "", ""]
    steps = ["0", "1,500", "3,000"] * 2
    names = ["a & b"] * 3 + ["c"] * 3
    expected = [
        f"{name}, step {step}: {value}{more}"
        for name, step, value, more in zip(names, steps, values, spread, strict=True)
    ]
    assert [title for title, _ in told] == 2 * expected
    # matplotlib's own markers of the same points.
    uses = [one for one in ET.fromstring(svg).iter(f"{SVG}use") if "stroke" not in one.attrib]
    markers = {(round(float(u.get("x"))), round(float(u.get("y")))) for u in uses}
    for _, shape in told:
        x, y = float(shape["cx"]), float(shape["cy"])
        near = min(abs(x - a) + abs(y - b) for a, b in markers)
        assert near <= 1.2
    assert [title for title, _ in titled(svg, "polyline")] == ["a & b", "c"] * 2


def test_boxes_are_told_from_edge_to_edge_and_what_is_not_finite_is_not():
    figure = Figure(figsize=(2, 1), dpi=144)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 5)
    hover.tell_boxes(ax, [[0, 5]], [[0, 2]], ["a box\x01"])
    hover.tell_points(ax, [1, np.nan, 3], [1, 1, np.inf], ["one", "no x", "no y"])
    svg = to_svg(figure)
    [(title, box)] = titled(svg, "rect")
    assert title == "a box "
    told = [float(box[key]) for key in ("x", "y", "width", "height")]
    assert told == pytest.approx([0, 0.6 * 72, 72, 0.4 * 72], abs=0.1)
    assert [title for title, _ in titled(svg, "circle")] == ["one"]
    many = Figure()
    hover.tell_points(many.subplots(), range(1000), range(1000), map(str, range(1000)))
    told = [title for title, _ in titled(to_svg(many), "circle")]
    assert (told[0], told[-1], len(told)) == ("0", "999", hover.MOST)


def test_several_figures_of_one_page_share_no_id():
    svg = to_svg(panels())
    both = [inline(svg, name) for name in ("one", "other")]
    own = [set(re.findall(r' id="([^"]+)"', one)) for one in both]
    assert own[0]
    assert not own[0] & own[1]
    for one, ids in zip(both, own, strict=True):
        pointed = re.findall(r'(?:url\(|href=")#([^")]+)', one)
        assert set(pointed) == ids
        assert not re.search(r"xmlns|://|<style|<metadata|<\?xml", one)
        assert len(one) < len(svg)
