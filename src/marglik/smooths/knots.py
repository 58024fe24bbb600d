# SPDX-License-Identifier: BSD-3-Clause
"""Where the knots of a spline of one covariate lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from marglik.smooths.base import Asked

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


MANY, CROWDED = 10_000, 32
"""So many values, with no more than so many in a bin of 65,536, are sorted by bins first."""


def distinct(x: Float[Array, "n"]) -> Float[Array, "u"]:
    """The distinct values, ascending: `np.unique`.

    Bins of 16 bits are sorted without comparisons; what is left is all but in order, which merging takes advantage of.
    """
    if len(x) < MANY or not 0 < (spread := np.ptp(x)) < np.inf:
        return np.unique(x)
    bins = ((x - x.min()) * (65535 / spread)).astype(np.uint16)
    if np.bincount(bins).max() > CROWDED:
        return np.unique(x)
    values = np.sort(x[np.argsort(bins, kind="stable")], kind="stable")
    new = np.append(True, values[1:] != values[:-1])
    return values if new.all() else values[new]


def placed(x: Float[Array, "n"], k: int, asked: Asked) -> Float[Array, "k"]:
    """Knots at k evenly spaced quantiles of the distinct values of x, from the smallest to the largest."""
    values = distinct(x)
    check_distinct(len(values), k, asked)
    return np.interp(np.linspace(0, len(values) - 1, k), np.arange(len(values)), values)


def check_distinct(n_values: int, k: int, asked: Asked) -> None:
    """Refuse more functions than there are distinct values."""
    if n_values < k:
        what = f"{asked.names[0]!r} has only {n_values} distinct values"
        if len(asked.names) > 1:
            what = f"{', '.join(map(repr, asked.names))} have only {n_values} distinct combinations"
        raise ValueError(f"{asked.label} asks for k={k} functions, but {what}. Give k={n_values} or less.")


def check_number(knots: Float[Array, "q"], counts: tuple[int, ...], asked: Asked) -> None:
    """Refuse knots that are too few or too many for k."""
    if len(knots) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ValueError(
            f"{asked.label} has {len(knots)} knots, but needs {wanted}. Leave knots out, or give k to match them."
        )


def check_inside(x: Float[Array, "n"], lower: float, upper: float, asked: Asked, advice: str) -> None:
    """Refuse data outside an interval."""
    outside = np.flatnonzero((x < lower) | (x > upper))
    if len(outside):
        name, value = asked.names[0], x[outside[0]]
        raise ValueError(
            f"Row {outside[0]} of {name!r} is {value:g}, outside the knots of {asked.label}, which reach from "
            f"{lower:g} to {upper:g}. {advice}"
        )


def check_reached(x: Float[Array, "n"], knots: Float[Array, "q"], name: str, asked: Asked) -> None:
    """Refuse knots of which none lies where the data do."""
    lower, upper = x.min(), x.max()
    if not np.any((knots >= lower) & (knots <= upper)):
        raise ValueError(
            f"No knot of {asked.label} lies where {name!r} does, between {lower:g} and {upper:g}. "
            "Give knots there, or leave them out."
        )
