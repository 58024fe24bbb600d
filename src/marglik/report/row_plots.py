# SPDX-License-Identifier: BSD-3-Clause
"""Estimates with their intervals, one a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.report.sheet import BLUE, GREY, INK, PAD, RED
from marglik.report.text import number, shortened

if TYPE_CHECKING:
    from numpy import ndarray as Array

MOST_NAMED = 40
"""More rows than this are drawn without their names."""
PITCH = 0.165
"""Inches from row to row; less where there are many."""
FEW, CLOSER = 12, 0.75
"""More rows than this lie closer, by this factor, and have smaller letters."""


@dataclass(frozen=True)
class Row:
    """An estimate with its interval, drawn on one line."""

    name: str
    estimate: float
    lower: float
    upper: float
    text: str = ""
    mark: str = "interval"
    unpooled: float = np.nan


@dataclass(frozen=True)
class Rows:
    """Estimates that share an axis."""

    title: str
    rows: Sequence[Row]
    label: str = ""
    log: bool = False
    centre: float | None = None
    framing: Sequence[Row] | None = None
    """Those that set the ends of the axis, if not all do."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def room(self) -> float:
        """What they need, in rows of a few."""
        return 14.0 if len(self) > MOST_NAMED else min(len(self), FEW) + CLOSER * max(len(self) - FEW, 0)


def draw_rows(ax: Any, rows: Rows) -> None:
    """Dots and intervals, one a row, names on the left and numbers on the right."""
    n = len(rows)
    named = n <= MOST_NAMED
    place = np.arange(n)[::-1].astype(float)
    lower, upper = _limits(rows)
    width = 2.2 if n <= FEW else 1.6 if named else max(0.35, 90 / n)
    if rows.centre is not None and lower <= rows.centre <= upper:
        ax.axvline(rows.centre, color=GREY, lw=0.7, zorder=0)
    for y, row in zip(place, rows.rows, strict=True):
        _draw_row(ax, y, row, (lower, upper), width, 5.5 if n <= FEW else 3.8 if named else min(3.0, 220 / n))
    if any(np.isfinite(row.unpooled) for row in rows.rows):
        _explain_pooling(ax, rows, place)
    ax.set(xlim=(lower, upper), ylim=(-0.75, n - 0.25), xlabel=rows.label)
    if rows.log:
        log_axis(ax, lower, upper)
    elif any(row.text for row in rows.rows):
        ax.locator_params(axis="x", nbins=3)
    entitle(ax, rows.title)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(place if named else [], [shortened(row.name, 30) for row in rows.rows] if named else [])
    if named and n > FEW:
        ax.tick_params(axis="y", labelsize=7)
    for y, row in zip(place, rows.rows, strict=True):
        if row.text:
            ax.annotate(
                row.text,
                (1, y),
                (16, 0),
                ax.get_yaxis_transform(),
                "offset points",
                va="center",
                color=INK,
                fontsize=8.5 if n <= FEW else 7,
                annotation_clip=False,
            )


def entitle(ax: Any, title: str) -> None:
    """A title flush with the left side of the column, in the room that an empty one makes."""
    from matplotlib.transforms import blended_transform_factory

    ax.set_title(" ")
    across = blended_transform_factory(ax.get_figure(root=False).transSubfigure, ax.transAxes)
    text = ax.annotate(
        title, (0, 1), (72 * PAD, 8), across, "offset points", color=GREY, fontsize=9.5, annotation_clip=False
    )
    text.set_in_layout(False)


def _draw_row(ax: Any, y: float, row: Row, limits: tuple[float, float], width: float, size: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    if row.mark == "held":
        ax.plot(row.estimate, y, "D", mfc="white", mec=GREY, ms=size)
        return
    if row.mark == "boundary":
        low, high = max(row.lower, limits[0]), min(row.upper, limits[1])
        ax.plot([low, high], [y, y], color=RED, lw=width, solid_capstyle="butt")
        ax.plot(max(row.estimate, limits[0]), y, "o", mfc="white", mec=RED, ms=size, clip_on=False, zorder=3)
        return
    for end, beyond, arrow in zip(limits, (row.lower < limits[0], row.upper > limits[1]), "<>", strict=True):
        if beyond:
            inwards = ScaledTranslation((1 if arrow == "<" else -1) * size / 144, 0, ax.figure.dpi_scale_trans)
            ax.plot(end, y, arrow, color=BLUE, ms=size, clip_on=False, transform=ax.transData + inwards)
    if np.isfinite(row.unpooled):
        ax.plot(row.unpooled, y, "o", mfc="white", mec=RED, mew=0.9, ms=size, zorder=2)
    ax.plot([row.lower, row.upper], [y, y], color=BLUE, lw=width, solid_capstyle="butt", alpha=0.55)
    ax.plot(row.estimate, y, "o", color=BLUE, ms=size, zorder=3)


def _limits(rows: Rows) -> tuple[float, float]:
    """The ends of the axis."""
    framing = rows.framing or rows.rows
    values = np.array([[r.lower, r.upper, r.estimate, r.unpooled] for r in framing]).ravel()
    values = values[np.isfinite(values)]
    if rows.log:
        values = values[values > 0]
        low, high = (values.min(), values.max()) if len(values) else (0.1, 10.0)
        return float(low / 1.35), float(high * 1.35)
    if rows.centre is not None:
        values = np.append(values, rows.centre)
    margin = 0.05 * (np.ptp(values) or 1.0)
    return float(values.min() - margin), float(values.max() + margin)


def log_axis(ax: Any, lower: float, upper: float) -> None:
    """Few ticks, in plain numbers."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    decades = np.arange(np.floor(np.log10(lower)), np.ceil(np.log10(upper)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**d for d in decades for m in steps if lower <= m * 10.0**d <= upper]
        if len(ticks) >= 3:
            break
    apart: list[float] = []
    for tick in ticks:
        if not apart or np.log(tick / apart[-1]) > 0.25 * np.log(upper / lower):
            apart.append(tick)
    ax.set_xticks(apart, [number(t) for t in apart])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(lower, upper)


def _explain_pooling(ax: Any, rows: Rows, place: Array) -> None:
    """Names what is filled and what is hollow, above the rows, right of the title."""
    handles = [
        ax.plot([], [], "o", color=BLUE, ms=4)[0],
        ax.plot([], [], "o", mfc="white", mec=RED, mew=0.9, ms=4)[0],
    ]
    ax.legend(
        handles,
        ["shrunk towards the population", "own rows alone"],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        facecolor="white",
        edgecolor="none",
        framealpha=0.85,
        fontsize=8,
        handletextpad=0.2,
        labelcolor=INK,
        borderpad=0.1,
    )
