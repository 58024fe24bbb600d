# SPDX-License-Identifier: BSD-3-Clause
"""Cubic splines through k values at knots: the smoothest curve through them, and its roughness ∫f″²."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicSpline

from marglik.pieces import Polynomials
from marglik.smooths.base import NamedBasis, extended
from marglik.smooths.knots import check_inside, check_number, check_reached, placed

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


def _roughness(knots: Float[Array, "k"], curvature: Float[Array, "k c"]) -> Float[Array, "c c"]:
    """∫f″² for f″ piecewise linear between its values γ at the knots.

    Σ_j h_j/6 (γ_j² + γ_{j+1}² + (γ_j + γ_{j+1})²)
    """
    h = np.diff(knots) / 6
    left, right = curvature[:-1], curvature[1:]
    return sum(part.T @ (h[:, None] * part) for part in (left, right, left + right))


@dataclass(frozen=True, eq=False)
class Cubic(NamedBasis):
    """Natural cubic spline: β are the values at the knots; beyond them it goes on as a straight line.

        S = ∫ b″ b″ᵀ

    Parameters
    ----------
    knots : (k,)
        Quantiles of the distinct values, if none are given.

    References
    ----------
    Wood (2017), Generalized Additive Models, §5.3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import Cubic
    >>> Cubic(np.array([0.0, 1.0, 2.0])).design([np.array([1.0, 3.0])])
    array([[ 0.  ,  1.  ,  0.  ],
           [ 0.25, -1.5 ,  2.25]])
    """

    bs = "cr"
    straight_beyond = True
    knots: Float[Array, "k"]

    @classmethod
    def of(cls, x, asked):
        asked.one_covariate(cls.bs)
        asked.without_orders(cls.bs)
        k, knots = asked.size(10, 3), asked.given_line()
        if knots is None:
            return cls(placed(x[0], k, asked))
        check_number(knots, (k,), asked)
        check_reached(x[0], knots, asked.names[0], asked)
        return cls(knots)

    @cached_property
    def _curve(self) -> CubicSpline:
        return CubicSpline(self.knots, np.eye(len(self.knots)), bc_type="natural")

    def design(self, x):
        return extended(self._curve, lambda at: self._curve(at, 1), x[0], self.knots[0], self.knots[-1])

    def pieces(self, x):
        return self._polynomials.at(x[0])

    @cached_property
    def _polynomials(self) -> Polynomials:
        return Polynomials.spline(self.knots, self._curve.c[::-1], straight=True)

    @cached_property
    def penalties(self):
        return (_roughness(self.knots, self._curve(self.knots, 2)),)

    @property
    def null_dimension(self):
        return 2


@dataclass(frozen=True, eq=False)
class Cyclic(NamedBasis):
    """Periodic cubic spline: β are the values at all knots but the last, which is the first again.

        S = ∫ b″ b″ᵀ    over one period

    Parameters
    ----------
    knots : (k,)
        From one end of a period to the other. Given the two ends alone, the rest are quantiles of the distinct values.

    References
    ----------
    Wood (2017), Generalized Additive Models, §5.3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import Cyclic
    >>> hours = Cyclic(np.array([0.0, 6.0, 12.0, 18.0, 24.0]))
    >>> np.allclose(hours.design([np.array([3.0])]), hours.design([np.array([27.0])]))
    True
    """

    bs = "cc"
    knots: Float[Array, "k"]

    @classmethod
    def of(cls, x, asked):
        asked.one_covariate(cls.bs)
        asked.without_orders(cls.bs)
        k, knots = asked.size(10, 4), asked.given_line()
        if knots is None:
            return cls(placed(x[0], k, asked))
        check_number(knots, (2, k), asked)
        check_inside(x[0], knots[0], knots[-1], asked, "Give the two ends of the period, or x modulo the period.")
        return cls(placed(np.append(x[0], knots), k, asked) if len(knots) == 2 else knots)

    @cached_property
    def _curve(self) -> CubicSpline:
        k = len(self.knots)
        return CubicSpline(self.knots, np.eye(k - 1)[np.arange(k) % (k - 1)], bc_type="periodic")

    def extrapolates(self, covariate):
        return False

    def design(self, x):
        return self._curve(self._phase(x[0]))

    def pieces(self, x):
        return self._polynomials.at(self._phase(x[0]))

    @cached_property
    def _polynomials(self) -> Polynomials:
        return Polynomials.spline(self.knots, self._curve.c[::-1], straight=False)

    def _phase(self, x: Float[Array, "n"]) -> Float[Array, "n"]:
        """In the period between the outer knots."""
        lower, upper = self.knots[0], self.knots[-1]
        return lower + (x - lower) % (upper - lower)

    @cached_property
    def penalties(self):
        return (_roughness(self.knots, self._curve(self.knots, 2)),)

    @property
    def null_dimension(self):
        return 1
