# SPDX-License-Identifier: BSD-3-Clause
"""What all pictures share: colours, letters, a title and a line below it, files."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from marglik.report.text import shortened

# Okabe & Ito's blue and vermilion, which colour-blind readers tell apart, and greys.
BLUE, RED, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#B8B8B8"
FORMATS = (".svg", ".png", ".pdf")
SIZE = (12.0, 6.75)
"""Inches; taller where there is more to show."""
HEADER = 0.8
"""Inches that the title and the line below it take."""
PAD = 0.1
"""Inches between the edge of the picture or of a column and what stands there."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.hashsalt": "marglik",
    "svg.fonttype": "path",
}


def sheet(title: str, subtitle: str, draw: Callable[[Any], float], path: str | Path | None) -> Any:
    """A picture under a title, written where asked; ``draw`` fills a figure and says how many inches it takes."""
    check_drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=0.06, wspace=0.01, hspace=0.02)
        figure = Figure(figsize=SIZE, layout=layout)
        figure.suptitle(shortened(title, 80), x=PAD / SIZE[0], ha="left", fontsize=14, weight="bold", color=INK)
        body: Any = figure.subfigures()
        body.suptitle(subtitle, x=PAD / SIZE[0], ha="left", fontsize=10, color=GREY)
        figure.set_figheight(max(SIZE[1], draw(body) + HEADER))
        if path is not None:
            _write(figure, Path(path))
    # Notebooks show it by this, with or without pyplot.
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]
    return figure


def printed(number: str) -> str:
    """A number as print has it."""
    return number.replace("-", "−")


def check_drawable(path: str | Path | None = None) -> None:
    """Raise where a picture could not be drawn, or not be written under that name."""
    if find_spec("matplotlib") is None:
        raise ImportError("Pictures need matplotlib, which is not installed: pip install 'marglik[plot]'.")
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"Pictures end in {', '.join(FORMATS)}, but the path is {str(path)!r}. Give it one of these.")


def _write(figure: Any, path: Path) -> None:
    kind = path.suffix.lower()
    undated = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
    }
    figure.savefig(path, metadata=undated[kind])


def _png(figure: Any) -> bytes:
    sheet = io.BytesIO()
    figure.savefig(sheet, format="png", dpi=110)
    return sheet.getvalue()
