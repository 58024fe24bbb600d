# SPDX-License-Identifier: BSD-3-Clause
"""What is drawn from: Student's t about a mode, at the points of independently shifted Sobol nets.

    x = z √(ν/χ²),    log q(x) = log Γ((ν+d)/2) − log Γ(ν/2) − (d/2) log νπ − ((ν+d)/2) log(1 + |x|²/ν)

One scrambled net (Owen 1998) is shifted digit by digit, by other random numbers for each run: every point of every run
is then uniform, runs are independent, and their scatter is an honest standard error of their mean. So it is for a
lattice that is shifted as a whole. Where an integrand and its derivatives vanish at the ends of the unit interval, its
mean over a shifted lattice converges faster than over a net, in one dimension faster than any power (the trapezoidal
rule); but a lattice of many dimensions has poor projections.

Student's t with 2 degrees of freedom has a quantile in closed form, and tails so heavy that densities with the tails of
a Gaussian vanish at the ends with all derivatives, as exp(−1/4u) does.

References
----------
Cools, Kuo & Nuyens (2006), SIAM J. Sci. Comput. 28, 2162 (the lattice).
Owen (1998), Journal of Complexity 14, 466. L'Ecuyer & Lemieux (2002), in Modeling Uncertainty, 419.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import chdtri, gammaln, ndtri

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

BITS = 30
GENERATOR = (1, 182667, 469891, 498753, 110745, 446247, 250185, 118627, 245333, 283199)
"""Of a lattice that is good for every power of two up to 2²⁰."""
TAILS = (2.5, 5.0, 12.0, 40.0)
SCALES = (1.0, 1.2, 1.5, 2.2)


class Student(NamedTuple):
    """Student's t about zero, with scale² I."""

    df: float
    scale: float

    def of(self, u: Float[Array, "*n d+1"]) -> Float[Array, "*n d"]:
        """Draws from points of the unit cube, the last coordinate for χ²."""
        return self.scale * ndtri(u[..., :-1]) * np.sqrt(self.df / chdtri(self.df, u[..., -1:]))

    def log_density(self, square: Float[Array, "*n"], d: int) -> Float[Array, "*n"]:
        """log q(x) where |x|² = square."""
        nu = self.df
        constant = gammaln((nu + d) / 2) - gammaln(nu / 2) - d / 2 * np.log(nu * np.pi * self.scale**2)
        return constant - (nu + d) / 2 * np.log1p(square / (nu * self.scale**2))


CANDIDATES = tuple(Student(df, scale) for df in TAILS for scale in SCALES)
PILOT = Student(5.0, 1.2)


def best(log_weights: Float[Array, "N"], square: Float[Array, "N"], d: int) -> Student:
    """The candidate under which weights would vary least, from draws of `PILOT` and their log weights.

    ∫ p²/q is the mean of (p/q₀)² q₀/q over draws from q₀.
    """
    second = [
        np.logaddexp.reduce(2 * log_weights + PILOT.log_density(square, d) - q.log_density(square, d))
        for q in CANDIDATES
    ]
    return CANDIDATES[int(np.argmin(second))]


def net(n: int, d: int, rng: np.random.Generator) -> Float[Array, "n d"]:
    """n points of a scrambled Sobol net in d dimensions, as whole numbers below 2³⁰."""
    from scipy.stats import qmc

    points = qmc.Sobol(d, scramble=True, bits=BITS, rng=rng).random(n)
    return (points * 2**BITS).astype(np.uint32)


def shifted(points: Float[Array, "n d"], runs: int, rng: np.random.Generator) -> Float[Array, "runs n d"]:
    """The points in the open unit cube, shifted anew for each run."""
    shifts = rng.integers(2**BITS, size=(runs, 1, points.shape[1]), dtype=np.uint32)
    return ((points ^ shifts) + 0.5) * 2.0**-BITS


def lattice(n: int, d: int, runs: int, rng: np.random.Generator) -> Float[Array, "runs n d"]:
    """A lattice in the open unit cube, moved for each run: frac(k g/n + U), k < n; a net beyond ten dimensions."""
    if d > len(GENERATOR):
        return shifted(net(n, d, rng), runs, rng)
    points = np.outer(np.arange(n), GENERATOR[:d]) % n / n
    return np.clip((points + rng.random((runs, 1, d))) % 1, 1e-16, 1 - 1e-16)


def t2(u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Quantiles of Student's t with 2 degrees of freedom: (2u − 1) / √(2u(1 − u))."""
    return (2 * u - 1) / np.sqrt(2 * u * (1 - u))


def log_t2(x: Float[Array, "*n m"], scale: Any) -> Float[Array, "*n"]:
    """log Π_d (1/s) (2 + x_d²/s²)^(−3/2)."""
    return np.sum(-1.5 * np.log(2 + (x / scale) ** 2) - np.log(scale), axis=-1)
