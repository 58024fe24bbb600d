# SPDX-License-Identifier: BSD-3-Clause
"""Weights on a grid: a curve with its band, an image, or a row of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.report.sheet import BLUE, GREY
from marglik.tables import NORMAL_975

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.priors.base import Grid


def draw(ax: Any, title: str, grid: Grid, mean: Float[Array, "p"], sd: Float[Array, "p"]) -> None:
    """On axes: weights along one dimension, over two, or over two for each place along a third."""
    ax.set_title(title, color=GREY)
    long = [i for i, size in enumerate(grid.shape) if size > 1]
    names, steps = [grid.dims[i] for i in long], [grid.spacing[i] for i in long]
    cells = mean.reshape([grid.shape[i] for i in long])
    if len(long) < 2:
        return _curve(ax, names, np.arange(len(mean)) * (steps or [1.0])[0], mean, sd)
    if len(long) == 2:
        return _image(ax, cells, names, steps)
    many, _, width = cells.shape
    gaps = np.full((*cells.shape[:2], 1), np.nan)
    row = np.concatenate([part for one in zip(cells, gaps, strict=True) for part in one], axis=1)[:, :-1]
    _image(ax, row, [names[1], f"{names[2]}, for each {names[0]}"], steps[1:])
    middles = (np.arange(many) * (width + 1) + (width - 1) / 2) * steps[2]
    ax.set_xticks(middles, [f"{names[0]} {k * steps[0]:g}" for k in range(many)])
    return None


def _curve(ax: Any, names: list[str], x: Array, mean: Array, sd: Array) -> None:
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    ax.fill_between(x, mean - NORMAL_975 * sd, mean + NORMAL_975 * sd, color=BLUE, alpha=0.22, lw=0)
    ax.plot(x, mean, color=BLUE, lw=1.8)
    ax.set(xlabel=", ".join(names), ylabel="weight")


def _image(ax: Any, cells: Array, names: list[str], steps: list[float]) -> None:
    """Colours from blue, below zero, to red; the first dimension downwards."""
    most = float(np.nanmax(np.abs(cells))) or 1.0
    down, across = (size * step for size, step in zip(cells.shape, steps, strict=True))
    extent = (-steps[1] / 2, across - steps[1] / 2, down - steps[0] / 2, -steps[0] / 2)
    image = ax.imshow(cells, cmap="RdBu_r", vmin=-most, vmax=most, extent=extent, aspect="auto", interpolation="none")
    ax.set(xlabel=names[1], ylabel=names[0])
    ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02).outline.set_visible(False)
