# SPDX-License-Identifier: BSD-3-Clause
"""Smooths as curves with their bands, as maps, or as values a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.interfaces.data import is_numeric
from marglik.interfaces.formula import FormulaSource
from marglik.posterior.base import NewRows
from marglik.report.sheet import BLUE, GREY, INK, PALE
from marglik.report.text import fixed, shortened
from marglik.tables import NORMAL_975

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit

MOST = 12
"""More smooths than this are not all drawn."""
STEPS = 60
"""Points of a map along each side."""
MOST_DOTS = 5000
LETTERS = {3: 22, 4: 12}
"""Of a label that fit above a panel, where so many stand side by side."""


def drawable(fit: Fit) -> tuple[str, ...]:
    """Labels of the terms that can be drawn as functions."""
    if not isinstance(fit.source, FormulaSource) or fit._many:
        return ()
    return tuple(fit.source.special)[:MOST]


def draw(fit: Fit, labels: Sequence[str], figure: Any) -> None:
    """One panel a smooth; curves share the scale of their effect."""
    across = int(np.ceil(np.sqrt(len(labels))))
    down = -(-len(labels) // across)
    grid = figure.subplots(down, across, squeeze=False)
    for ax in grid.ravel()[len(labels) :]:
        ax.set_visible(False)
    curves = []
    for ax, label in zip(grid.ravel(), labels, strict=False):
        coarse = fit.source.special[label].grid(2)  # type: ignore[union-attr]
        moving = [name for name, x in coarse.items() if (x != x[0]).any()]
        frame = _effect(fit, label, STEPS if len(moving) > 1 else None)
        numeric = [name for name in moving if is_numeric(frame[name])]
        less = " − mean" if _shares_level(fit, label) else ""
        name = shortened(label, LETTERS.get(across, 36) - len(less)) + less
        size = {"fontsize": 8} if across in LETTERS else {}
        ax.set_title(f"{name}, edf {fixed(float(fit.edf[label]), 2)}", color=GREY, **size)
        if len(numeric) == 2 == len(moving):
            _map(ax, frame, numeric, figure)
        elif len(numeric) == 1:
            curves.append(ax)
            _curves(fit, ax, label, frame, numeric[0], [name for name in moving if name not in numeric])
        else:
            curves.append(ax)
            _levels(ax, frame)
    limits = [ax.get_ylim() for ax in curves]
    for ax in curves:
        ax.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _effect(fit: Fit, label: str, n: int | None) -> DataFrame:
    """`Fit.effect`; of a function whose level is the intercept's too, less its mean over the rows, with its own band.

    g(x) = f(x) − Σ_i f(x_i)/n,    f(x) = A f + e,    A as `Term.conditional` gives it
    """
    frame = fit.effect(label, n=n)
    if not _shares_level(fit, label):
        return frame
    _, rows = fit.source.effect_rows(label, None, n)  # type: ignore[union-attr]
    term, theta = next(known for known in fit._linear.term_theta(fit.optimum.theta[0]) if known[0].label == label)
    A, unseen = term.conditional(rows.columns[label], theta)
    level = term.conditional(term.inputs, theta)[0].mean(axis=0)
    centre, variance = fit._terms("smooths").linear_predictor(NewRows({label: A - level}, {}))
    half = NORMAL_975 * np.sqrt(variance + unseen)
    return frame.assign(estimate=centre, se=half / NORMAL_975, lower=centre - half, upper=centre + half)


def _shares_level(fit: Fit, label: str) -> bool:
    """Whether constants are functions of the term, and combinations of the fixed effects."""
    model = fit._linear
    flat = next((term.design for term in model.prior if term.flat), None)
    if not fit.source.special[label].constant or flat is None:  # type: ignore[union-attr]
        return False
    ones = np.ones(model.rows.n)
    return bool(np.allclose(flat @ np.linalg.lstsq(flat, ones, rcond=None)[0], ones, rtol=0, atol=1e-6))


def _curves(fit: Fit, ax: Any, label: str, frame: DataFrame, covariate: str, others: Sequence[str]) -> None:
    """A curve with its 95 % band and partial residuals, or one curve a level."""
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    ax.set_xlabel(covariate)
    if others:
        for _, part in frame.groupby(list(others), sort=False):
            ax.plot(part[covariate], part["estimate"], color=BLUE, lw=0.9, alpha=0.7)
        return
    x = fit.source.data[covariate].to_numpy(float)  # type: ignore[union-attr]
    additive = len(x) <= MOST_DOTS and _residuals(fit, ax, label, x)
    ax.fill_between(frame[covariate], frame["lower"], frame["upper"], color=BLUE, alpha=0.22, lw=0, zorder=2)
    ax.plot(frame[covariate], frame["estimate"], color=BLUE, lw=1.8, zorder=3)
    edges = frame[["lower", "upper"]].to_numpy()
    margin = (0.25 if additive else 0.08) * np.ptp(edges)
    ax.set_ylim(edges.min() - margin, edges.max() + margin)


def _residuals(fit: Fit, ax: Any, label: str, x: Array) -> bool:
    """Where the noise is additive, what is left of y and of this smooth; elsewhere only where the data are."""
    model = fit._linear
    term = fit.source.special[label]  # type: ignore[union-attr]
    if model.likelihood.gaussian and len(term.variables) == 1:
        own = fit.predict(include=[label])
        own = own - own.mean() * _shares_level(fit, label)
        ax.plot(x, model.rows.y - fit.predict() + own, "o", color=PALE, ms=2.2, mew=0, zorder=1)
        return True
    if term.level is not None:
        x = x[(fit.source.data[term.by] == term.level).to_numpy()]  # type: ignore[union-attr]
    ax.plot(x, np.zeros(len(x)), "|", color=INK, ms=5, mew=0.4, transform=ax.get_xaxis_transform(), zorder=1)
    return False


def _map(ax: Any, frame: DataFrame, covariates: Sequence[str], figure: Any) -> None:
    """Colours from blue, below zero, to red, with lines of equal height."""
    x, z = (np.unique(frame[name]) for name in covariates)
    height = frame.pivot_table(index=covariates[1], columns=covariates[0], values="estimate").to_numpy()
    most = float(np.abs(height).max()) or 1.0
    image = ax.pcolormesh(x, z, height, cmap="RdBu_r", vmin=-most, vmax=most, shading="gouraud", rasterized=True)
    ax.contour(x, z, height, levels=8, colors=INK, linewidths=0.6)
    ax.set(xlabel=covariates[0], ylabel=covariates[1])
    bar = figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)


def _levels(ax: Any, frame: DataFrame) -> None:
    """Values with their 95 % bands, from the lowest to the highest."""
    frame = frame.sort_values("estimate", kind="stable")
    place = np.arange(len(frame))
    ax.axhline(0, color=GREY, lw=0.7, zorder=0)
    ax.vlines(place, frame["lower"], frame["upper"], color=BLUE, alpha=0.55, lw=1.6)
    ax.plot(place, frame["estimate"], "o", color=BLUE, ms=3.5)
    names = frame.iloc[:, 0].astype(str)
    ax.set_xticks(place if len(place) <= 20 else [], list(names) if len(place) <= 20 else [], rotation=90)
    ax.set_xlabel(", ".join(frame.columns[:-4]))
