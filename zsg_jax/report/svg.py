"""From a figure to SVG: a file of its own, and a part of a page."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from zsg_jax.report import hover
from zsg_jax.report.drawing import STYLE, Captioned

_LONG = re.compile(r"\d+\.\d{3,}")
_ROUNDED = ("d", "x", "y")  # attributes that hold coordinates
_POINTED = re.compile(r"url\(#([^)]+)\)")


def to_svg(figure: Figure) -> bytes:
    """`figure` as SVG without a date, so that building it again gives the same bytes."""
    out = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # Text is written as text: a glyph that matplotlib's font lacks is the viewer's to draw.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(out, format="svg", metadata={"Date": None})
    body, end, rest = out.getvalue().rpartition(b"</svg>")
    return body + hover.shapes(figure).encode() + end + rest


def embedded(name: str, drawn: Captioned, svg: bytes | None = None) -> dict[str, Any]:
    """A figure as templates take it, drawn in the page itself, where its titles can be hovered.

    Args:
        name: of the figure, other than that of any other of the page: its ids begin with it.
        drawn: the figure and its texts.
        svg: of the figure, if that is there already.
    """
    texts = {key: text for key, text in drawn._asdict().items() if key != "figure"}
    return {"drawing": inline(svg or to_svg(drawn.figure), name), **texts}


def all_embedded(drawn: Iterable[Captioned | None]) -> list[dict[str, Any]]:
    """What `embedded` gives of the figures that there are, by their places."""
    return [embedded(f"figure{i}", one) for i, one in enumerate(drawn) if one is not None]


def inline(svg: bytes, name: str) -> Markup:
    """SVG as a part of HTML: without namespaces, styles and sizes, its ids behind `name`."""
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    pointed = set()
    for one in root.iter():
        one.tag = _plain(one.tag)
        for key in list(one.attrib):
            value = one.attrib.pop(key)
            key = _plain(key)
            if key == "href" and value.startswith("#"):
                pointed.add(value[1:])
                value = f"#{name}-{value[1:]}"
            pointed.update(_POINTED.findall(value))
            value = _POINTED.sub(rf"url(#{name}-\1)", value)
            if key in _ROUNDED:
                value = _LONG.sub(lambda found: f"{float(found[0]):.2f}", value)
            one.set(key, value)
    for one in root.iter():
        own = one.attrib.pop("id", None)
        if own in pointed:
            one.set("id", f"{name}-{own}")
    for sized in ("width", "height", "version"):
        root.attrib.pop(sized, None)
    return Markup(ET.tostring(root, encoding="unicode"))


def _plain(name: Any) -> Any:
    """A tag or a key without its namespace; of a comment, which has no name, itself."""
    return name.rpartition("}")[2] if isinstance(name, str) else name
