# SPDX-License-Identifier: BSD-3-Clause
"""Posterior densities with their intervals, a panel each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.report.sheet import BLUE, GREY, INK, RED, printed, sheet
from marglik.report.text import number, shortened

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

MOST = 12
"""Of more densities than this the first are drawn."""
HIGH = 2.4
"""Inches of a panel."""


class Density(NamedTuple):
    """A density at values, its 95 % interval and median, and another estimate of the same if there is one."""

    name: str
    values: Float[Array, "m"]
    density: Float[Array, "m"]
    lower: float
    median: float
    upper: float
    estimate: float = np.nan


def overview(
    title: str, subtitle: str, densities: Sequence[Density], path: str | Path | None, more: str, estimate: str = ""
) -> Any:
    """A picture of densities; ``more`` says where the others are, ``estimate`` what the other estimate is."""

    def draw(figure: Any) -> float:
        shown = densities[:MOST]
        across = 1 if len(shown) == 1 else 2 if len(shown) in (2, 4) else 3
        inner = figure.subfigures()
        grid = inner.subplots(-(-len(shown) // across), across, squeeze=False)
        for ax in grid.ravel()[len(shown) :]:
            ax.set_visible(False)
        for ax, one in zip(grid.ravel(), shown, strict=False):
            _draw(ax, one)
        _explain(inner, estimate)
        if len(densities) > MOST:
            words = f"and {len(densities) - MOST:,} more in {more}"
            inner.supxlabel(words, x=0.01, ha="left", fontsize=9.5, color=GREY)
        return HIGH * len(grid) + 0.4

    return sheet(title, subtitle, draw, path)


def _draw(ax: Any, one: Density) -> None:
    """The area under the curve, darker within the interval; lines at the median and at the other estimate."""
    x, p = one.values, one.density
    inside = np.linspace(max(one.lower, x[0]), min(one.upper, x[-1]), 200)
    ax.fill_between(x, p, color=BLUE, alpha=0.15, lw=0)
    ax.fill_between(inside, np.interp(inside, x, p), color=BLUE, alpha=0.3, lw=0)
    ax.plot(x, p, color=BLUE, lw=1.6)
    ax.vlines(one.median, 0, np.interp(one.median, x, p), color=INK, lw=1.2)
    if np.isfinite(one.estimate):
        ax.axvline(one.estimate, color=RED, lw=1.4, ls=(0, (3, 2)), clip_on=False)
    ax.set_ylim(0, 1.08 * p.max())
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    middle, low, high = (printed(number(v, 3)) for v in (one.median, one.lower, one.upper))
    ax.set_title(f"{shortened(one.name, 34)}: {middle}  ({low}, {high})", color=GREY)


def _explain(figure: Any, estimate: str) -> None:
    """What is drawn, in one line above all panels."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=BLUE, alpha=0.45, lw=0), Line2D([], [], color=INK, lw=1.2)]
    words = ["posterior density, 95 % interval darker", "median"]
    if estimate:
        handles.append(Line2D([], [], color=RED, lw=1.4, ls=(0, (3, 2))))
        words.append(estimate)
    figure.legend(
        handles, words, loc="outside upper left", ncols=3, frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.6
    )
