# SPDX-License-Identifier: BSD-3-Clause
"""Derivatives of a function that is known by its values alone: of the polynomial through Chebyshev points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.polynomial.chebyshev import chebder, chebpts1, chebval, chebvander

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameter

RESOLVED = 1e-12
"""A polynomial has a function's digits when its last coefficients are this much smaller than its largest."""
FLAT = 0.01
"""Where a log density bends by fewer nats, what bends it has lost digits: wider points are tried."""
ROUNDS = 24
EPS, TINY = float(np.finfo(float).eps), float(np.finfo(float).tiny)


def _weights(n: int, orders: int) -> tuple[Array, Float[Array, "n n"], Float[Array, "orders n"]]:
    """Points in (−1, 1); from values there to coefficients, and to derivatives at 0."""
    points = chebpts1(n)
    to_coefficients = np.linalg.inv(chebvander(points, n - 1))
    at_zero = np.array([[chebval(0.0, chebder(e, j)) for e in np.eye(n)] for j in range(1, orders + 1)])
    return points, to_coefficients, at_zero @ to_coefficients


POINTS, TO_COEFFICIENTS, TO_DERIVATIVES = _weights(17, 3)
REACH = 0.25
"""How far points in φ are apart: supports are such that functions of θ change character over about one."""
FEW_POINTS, _, FEW_TO_DERIVATIVES = _weights(13, 1)


def derivatives(f: Callable[[Array], Array], at: Float[Array, "..."]) -> tuple[Array, Array, Array]:
    """f′, f″ and f‴ of an elementwise function, f‴ to five digits or more where rounding leaves f so many.

    The points around each element are as far apart as the polynomial through them allows: they are drawn together
    until it fits, or apart where the function hardly bends.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods.numerical import derivatives
    >>> x = np.array([0.0, 2.0, 100.0])
    >>> _, _, third = derivatives(lambda t: np.log1p(t**2), x)
    >>> exact = 4 * x * (x**2 - 3) / (x**2 + 1) ** 3
    >>> bool(np.all(np.abs(third - exact) < 1e-7 * np.abs(exact) + 1e-10))
    True
    """
    at = np.asarray(at, float)
    found, quality = np.full((3, *at.shape), np.nan), np.full(at.shape, np.inf)
    width, searching = np.ones(at.shape), np.ones(at.shape, bool)
    powers = np.arange(1, 4).reshape(3, *[1] * at.ndim)
    with np.errstate(all="ignore"):
        for _ in range(ROUNDS):
            values = np.array([f(at + width * x) for x in POINTS])
            coefficients = np.abs(np.tensordot(TO_COEFFICIENTS, values, 1))
            level, size, bend, tail = (coefficients[k:].max(axis=0) for k in (0, 1, 2, -2))
            ratio = (tail + EPS * level) / np.maximum(size, TINY)
            better = searching & (ratio < quality)
            found = np.where(better, np.tensordot(TO_DERIVATIVES, values, 1) / width**powers, found)
            quality = np.where(better, ratio, quality)
            fits = tail <= RESOLVED * size + EPS * level
            wider = searching & fits & (width >= 1) & (bend < FLAT)
            searching = wider | (searching & ~fits & (width <= 1))
            if not searching.any():
                break
            width = width * np.where(wider, 4.0, 0.25)
    return found[0], found[1], found[2]


def theta_derivatives(
    f: Callable[[Array], Array], names: Sequence[Hyperparameter], theta: Float[Array, "k"]
) -> list[tuple[Array, Array, Array]]:
    """∂f/∂θ_i for each i, with points along the unconstrained coordinate: ∂f/∂θ = (∂f/∂φ) / (∂θ/∂φ).

    Parameters
    ----------
    f
        Has values (3, …).
    names
        With the support of each coordinate.
    theta
        A point inside.
    """
    theta = np.asarray(theta, float)
    out = []
    for i, h in enumerate(names):
        phi = h.support.to_unconstrained(theta[i])
        moved = np.repeat(theta[None], len(FEW_POINTS), axis=0)
        moved[:, i] = h.support.from_unconstrained(phi + REACH * FEW_POINTS)
        along = np.tensordot(FEW_TO_DERIVATIVES[0], np.array([f(x) for x in moved]), 1) / REACH
        first, second, third = along / h.support.derivatives(theta[i])[0]
        out.append((first, second, third))
    return out
