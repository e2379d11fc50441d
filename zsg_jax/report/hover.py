"""What is told where a pointer rests on a figure: unseen shapes with titles above the drawing.

Browsers show the `title` of a shape of SVG without a script; matplotlib writes none.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zsg_jax.report.curves import even_places

MOST = 60  # points of a curve with a title each; more would only make the page heavier
_REACH = 6.0  # points of 1/72 inch about a value, within which it is told
_KEPT = "told"  # where an axes holds its titles


class _Told(NamedTuple):
    """Titles in the coordinates of their axes; `line`: of the whole curve, "" for none."""

    x: np.ndarray
    y: np.ndarray
    texts: Sequence[str]
    line: str = ""


def tell_points(ax: Axes, x: Any, y: Any, texts: Iterable[str], line: str = "") -> None:
    """Gives points a title each, some of them where they are more than `MOST`.

    Args:
        x, y: (n,) numbers; what is not finite is left out.
        texts: n titles.
        line: of the curve between the points, "" where nothing is drawn between them.
    """
    x, y, texts = np.asarray(x, np.float64), np.asarray(y, np.float64), list(texts)
    there = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    kept = there[even_places(len(there), MOST)] if len(there) else there
    told = _Told(x[kept], y[kept], [texts[i] for i in kept.tolist()], line)
    vars(ax).setdefault(_KEPT, []).append(told)


def tell_boxes(ax: Axes, across: Any, up: Any, texts: Iterable[str]) -> None:
    """Gives rectangles a title each: `across` and `up` are (n, 2) numbers, from and to."""
    told = _Told(np.asarray(across, np.float64), np.asarray(up, np.float64), list(texts))
    vars(ax).setdefault(_KEPT, []).append(told)


def shapes(figure: Figure) -> str:
    """The shapes of all titles of a figure, as SVG in points of 1/72 inch; "" without any.

    The figure must have been drawn: only then its axes have their places.
    """
    boxes, lines, dots = [], [], []
    for ax in figure.axes:
        for told in vars(ax).get(_KEPT, ()):
            x, y = _places(figure, ax, told.x, told.y)
            if told.x.ndim == 2:
                boxes += _boxes(x, y, told.texts)
                continue
            if told.line and len(x) > 1:
                path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
                lines.append(f'<polyline points="{path}">{_title(told.line)}</polyline>')
            dots += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{_REACH:g}">{_title(text)}</circle>'
                for a, b, text in zip(x, y, told.texts, strict=True)
            ]
    groups = {
        'fill="transparent" stroke="none"': boxes,
        f'fill="none" stroke="transparent" stroke-width="{1.5 * _REACH:g}"': lines,
        'fill="transparent" stroke="none" ': dots,
    }
    return "".join(f"<g {look}>{''.join(one)}</g>\n" for look, one in groups.items() if one)


def _places(
    figure: Figure, ax: Axes, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the SVG, whose y falls from its top, of coordinates of the axes."""
    flat = ax.transData.transform(np.column_stack([x.ravel(), y.ravel()])) * 72 / figure.dpi
    top = 72 * figure.get_figheight()
    return flat[:, 0].reshape(x.shape), top - flat[:, 1].reshape(y.shape)


def _boxes(x: np.ndarray, y: np.ndarray, texts: Sequence[str]) -> list[str]:
    left, upper = x.min(axis=1), y.min(axis=1)
    wide, high = np.abs(np.diff(x)[:, 0]), np.abs(np.diff(y)[:, 0])
    return [
        f'<rect x="{a:.1f}" y="{b:.1f}" width="{w:.1f}" height="{h:.1f}">{_title(text)}</rect>'
        for a, b, w, h, text in zip(left, upper, wide, high, texts, strict=True)
    ]


def _title(text: str) -> str:
    return f"<title>{escape(printable(text))}</title>"


def printable(text: str) -> str:
    """`text` without control characters, which would make an SVG unreadable."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
