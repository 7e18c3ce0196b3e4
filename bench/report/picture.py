"""A drawn figure as files whose bytes depend on the numbers alone.

Figure objects instead of pyplot, so that no window, no global figure and no user's style sheet
comes in. Matplotlib is imported when a figure is made, not before.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
_RC: Any = {
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 9.0,
    "text.parse_math": False,  # names come from outside; our own formulas ask for it
}
_NO_WIDTH = "\u200b"


def fitted(lines: Iterable[str], inches: float) -> str:
    """Lines of text at 9 points, broken where a figure of that width ends; empty ones left out."""
    return "\n".join(textwrap.fill(line, int(13.5 * inches)) for line in lines if line)


def legend_label(name: str) -> str:
    """Return the name as a label of a legend, which leaves out labels that begin with `_`."""
    return f"{_NO_WIDTH}{name}" if name.startswith("_") else name


def picture_files(draw: Callable[[], Figure], note: str, salt: str) -> dict[str, bytes]:
    """The .png and .svg of a figure, by suffix.

    `note` says where the numbers are from. `salt` names the kind of figure: it keeps the ids
    inside two .svg files apart, should a page hold both.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC | {"svg.hashsalt": salt})
        figure = draw()
        _lay_out(figure)
        png = _saved(figure, "png", {"Software": None, "Description": note})
        svg = _saved(figure, "svg", {"Date": None, "Creator": None, "Description": note})
        return {".png": png, ".svg": svg}


def _lay_out(figure: Figure) -> None:
    """Once for both files. `savefig` would draw the figure once more for each, to the same end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.set_dpi(DPI)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def _saved(figure: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    return buffer.getvalue()
