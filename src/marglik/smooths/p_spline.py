# SPDX-License-Identifier: BSD-3-Clause
"""P-splines: B-splines on even knots, with a penalty on differences of neighbouring coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import factorial
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import BSpline

from marglik.pieces import Polynomials
from marglik.smooths.base import Asked, NamedBasis, extended
from marglik.smooths.knots import check_inside, check_number

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

MARGIN = 0.001
"""By which the inner knots reach beyond the data at each end, as a share of their range."""


@dataclass(frozen=True, eq=False)
class PSpline(NamedBasis):
    """B-splines of a degree, with a penalty on differences of an order d; straight lines beyond the inner knots.

        S = DᵀD,    (Dβ)_j = Δ^d β_j

    Parameters
    ----------
    knots : (k + degree + 1,)
        Even, if they are not given; of these the outermost, `degree` at each end, lie beyond the data.
    degree
        One above the first of `m`, which is 2 if it is not given: cubic.
    order
        d, the second of `m`.

    References
    ----------
    Eilers & Marx (1996), Statistical Science 11, 89.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import PSpline
    >>> PSpline(np.arange(-1.0, 5.0), degree=1, order=2).design([np.array([1.25])])
    array([[0.  , 0.75, 0.25, 0.  ]])
    """

    bs = "ps"
    rotated = True
    knots: Float[Array, "k+degree+1"]
    degree: int = 3
    order: int = 2

    @classmethod
    def of(cls, x, asked):
        asked.one_covariate(cls.bs)
        degree, order = _orders(asked)
        k, knots = asked.size(10, max(degree, order) + 1), asked.given_line()
        beyond = "Give knots that reach beyond the data, or leave them out."
        if knots is not None and len(knots) > 2:
            check_number(knots, (2, k + degree + 1), asked)
            check_inside(x[0], knots[degree], knots[-degree - 1], asked, beyond)
            return cls(knots, degree, order)
        lower, upper = (x[0].min(), x[0].max()) if knots is None else knots
        check_inside(x[0], lower, upper, asked, beyond)
        lower, upper = lower - MARGIN * (upper - lower), upper + MARGIN * (upper - lower)
        step = (upper - lower) / (k - degree)
        return cls(np.linspace(lower - degree * step, upper + degree * step, k + degree + 1), degree, order)

    @cached_property
    def _curve(self) -> BSpline:
        return BSpline(self.knots, np.eye(len(self.knots) - self.degree - 1), self.degree)

    def design(self, x):
        lower, upper = self.knots[self.degree], self.knots[-self.degree - 1]
        return extended(self._curve, lambda at: self._curve(at, 1), x[0], lower, upper)

    def pieces(self, x):
        return self._polynomials.at(x[0])

    @cached_property
    def _polynomials(self) -> Polynomials:
        inner = self.knots[self.degree : len(self.knots) - self.degree]
        c = np.array([self._curve(inner[:-1], r) / factorial(r) for r in range(self.degree + 1)])
        return Polynomials.spline(inner, c, straight=True)

    @cached_property
    def penalties(self):
        differences = np.diff(np.eye(len(self.knots) - self.degree - 1), self.order, axis=0)
        return (differences.T @ differences,)

    @property
    def null_dimension(self):
        return self.order


def _orders(asked: Asked) -> tuple[int, int]:
    """Degree of the spline and order of the differences."""
    m = (2, 2) if asked.m is None else tuple(np.ravel(asked.m).tolist())
    if len(m) == 1:
        m *= 2
    if len(m) != 2 or min(m) < 0 or any(order != int(order) for order in m):
        raise ValueError(
            f"{asked.label} gives m={asked.m!r}, but a P-spline has two orders, of its spline and of its differences, "
            "as m=[2, 2] for a cubic spline with second differences."
        )
    return int(m[0]) + 1, int(m[1])
