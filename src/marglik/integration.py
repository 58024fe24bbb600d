# SPDX-License-Identifier: BSD-3-Clause
"""∫ p(y|θ) p(θ) dθ: where to evaluate the evidence, and with which weights.

Each hyperparameter that users see is put on the real line, x = log s, artanh ρ, …; with the Jacobian of that change

    log p(x|y) = log p(y|θ(x)) + log p(θ(x)) + log|∂θ/∂x| + const

The tails of log s are exponential at worst: a flat prior on s leaves eˣ to the left, whatever the evidence at zero.

- One hyperparameter: a grid, interpolated by a spline.
- Two to four: importance sampling by a multivariate t that learns its place and shape from a few rounds of draws, all
  from Sobol points.
- More: a central composite design about the mode, each direction and side with a scale of its own.

References
----------
Rue, Martino & Chopin (2009), JRSS B 71, 319, §6.5 (the design). Martins, Simpson, Lindgren & Rue (2013), CSDA 67, 68
(scales by side). Cappé, Douc, Guillin, Marin & Robert (2008), Statistics and Computing 18, 447 (proposals that learn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import gammaln, logsumexp, ndtri

from marglik.likelihoods import LOG_2PI

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

Density: TypeAlias = Callable[[np.ndarray], float]

EDGE = 14.0
"""A grid ends where the log density has dropped by so much: a share of 1e-6."""
GRID = 45
"""Points of the grid."""
ROUNDS, FEW = 8, 64
"""Rounds of draws that a proposal may learn from, and their number in each."""
MANY, MOST_DRAWS = {1: 256, 2: 256, 3: 256, 4: 256, 5: 1024}, 4096
"""Draws in the last round, by the number of hyperparameters; with more of these they are not interpolated."""
GOOD = 0.5
"""Effective share of draws at which a proposal has learned enough."""
FINE, REACH = 2**14, 5.0
"""Draws at which log densities are interpolated, by a polynomial in z, and the radius beyond which z is drawn in."""
DEGREE = {1: 10, 2: 8, 3: 6, 4: 4, 5: 4}
"""Of that polynomial: as high as the draws allow."""
TAIL = 5.0
"""Degrees of freedom of the proposal."""
SPREAD = 1.1
"""Radius of the composite design, in units of √k standard deviations."""
FAR = 60.0
"""A density that has not dropped within so many units of x will not."""


class Improper(ValueError):
    """The posterior of a hyperparameter has no finite integral; holds its position."""

    def __init__(self, axis: int, side: int):
        self.axis, self.side = axis, side
        super().__init__(f"axis {axis}")


class Nodes(NamedTuple):
    """The posterior of x as a weighted sample.

    Attributes
    ----------
    x
        Where the evidence was evaluated.
    weights
        Their sum is one.
    log_integral
        log ∫ p(y|θ) p(θ) dθ.
    marginals
        Points and weights of x for quantiles; finer than `x` where the density could be interpolated.
    effective
        How many equally weighted draws it is worth.
    n_evaluations
        How often the evidence was evaluated.
    design
        Which it is.
    """

    x: Float[Array, "N k"]
    weights: Float[Array, "N"]
    log_integral: float
    marginals: tuple[Float[Array, "M k"], Float[Array, "M"]]
    effective: float
    n_evaluations: int
    design: str


@dataclass
class Counted:
    """A log density that counts its calls; NaN counts as none."""

    density: Density
    calls: int = 0

    def __call__(self, x: Float[Array, "k"]) -> float:
        self.calls += 1
        value = float(self.density(x))
        return value if value == value else -math.inf

    def each(self, x: Float[Array, "N k"]) -> Float[Array, "N"]:
        """Of several points."""
        return np.array([self(one) for one in x])


def grid(density: Density, centre: Float[Array, "1"], sd: float) -> Nodes:
    """One hyperparameter."""
    log_p = Counted(density)
    start, h = float(centre[0]), sd / 2
    known = {start: log_p(centre)}
    for side in (-1, 1):
        x, step = start, h
        while known[x] > max(known.values()) - EDGE:
            x, step = x + side * step, 1.25 * step
            known[x] = log_p(np.array([x]))
            if abs(x - start) > FAR:
                raise Improper(0, side)
    low, high = min(known), max(known)
    even = np.linspace(low, high, GRID)
    for x in even:
        known.setdefault(float(x), log_p(np.array([x])))
    points = np.array(sorted(known))
    values = np.array([known[x] for x in points])
    finite = np.isfinite(values)
    top = values.max()
    curve = CubicSpline(points[finite], values[finite] - top)
    fine = np.linspace(low, high, 40 * GRID)
    p = np.exp(curve(fine))
    total = _trapezoid(p, fine)
    mass = p / p.sum()
    weights = np.exp(curve(even))
    return Nodes(
        even[:, None],
        weights / weights.sum(),
        float(top + math.log(total)),
        (fine[:, None], mass),
        1 / float((mass**2).sum()),
        log_p.calls,
        "grid",
    )


def _trapezoid(p: Array, x: Array) -> float:
    return float(np.sum((p[1:] + p[:-1]) * np.diff(x)) / 2)


@dataclass(frozen=True, eq=False)
class StudentT:
    """A multivariate t with `TAIL` degrees of freedom, drawn from scrambled Sobol points."""

    mean: Float[Array, "k"]
    root: Float[Array, "k k"]

    def draws(self, n: int, seed: int) -> Float[Array, "n k"]:
        """Samples, one a row."""
        from scipy.stats import chi2, qmc

        k = len(self.mean)
        u = qmc.Sobol(k + 1, seed=seed).random(n)
        z = ndtri(np.clip(u[:, :k], 1e-12, 1 - 1e-12))
        return self.mean + (z / np.sqrt(chi2.ppf(u[:, k:], TAIL) / TAIL)) @ self.root.T

    def standardised(self, x: Float[Array, "n k"]) -> Float[Array, "n k"]:
        """z with x = mean + root z."""
        return np.linalg.solve(self.root, (x - self.mean).T).T

    def log_density(self, x: Float[Array, "n k"]) -> Float[Array, "n"]:
        """At each row."""
        k, z = len(self.mean), self.standardised(x)
        constant = gammaln((TAIL + k) / 2) - gammaln(TAIL / 2) - k / 2 * math.log(TAIL * math.pi)
        constant -= float(np.log(np.abs(self.root.diagonal())).sum())
        return constant - (TAIL + k) / 2 * np.log1p((z**2).sum(axis=1) / TAIL)


def importance(density: Density, centre: Float[Array, "k"], sd: Float[Array, "k"], seed: int = 0) -> Nodes:
    """A few hyperparameters."""
    log_p = Counted(density)
    proposal = StudentT(centre, np.diag(sd))
    for round_ in range(ROUNDS):
        x, log_w = _weighted(log_p, proposal, FEW, seed + round_)
        w = np.exp(log_w - logsumexp(log_w))
        if 1 / (w**2).sum() > GOOD * FEW:
            break
        proposal = _learned(x, log_w, proposal)
    k = len(centre)
    n = MANY.get(k, MOST_DRAWS)
    x, log_w = _weighted(log_p, proposal, n, seed + ROUNDS)
    log_sum = float(logsumexp(log_w))
    w = np.exp(log_w - log_sum)
    marginals = x, w
    if k in MANY:
        finite, fine = np.isfinite(log_w), proposal.draws(FINE, seed + ROUNDS + 1)
        powers = [p for p in product(range(DEGREE[k] + 1), repeat=k) if sum(p) <= DEGREE[k]]
        surface = Surface.through(proposal.standardised(x[finite]), log_w[finite], powers, np.sqrt(w[finite]))
        marginals = fine, _normalised(surface(proposal.standardised(fine)))
    return Nodes(x, w, log_sum - math.log(n), marginals, 1 / float((w**2).sum()), log_p.calls, "importance sampling")


def _normalised(log_w: Float[Array, "M"]) -> Float[Array, "M"]:
    return np.exp(log_w - logsumexp(log_w))


@dataclass(frozen=True, eq=False)
class Surface:
    """A polynomial in z, which is drawn in beyond `REACH`, with values no further out than those it goes through."""

    powers: Sequence[tuple[int, ...]]
    coefficients: Float[Array, "f"]
    ends: tuple[float, float]

    @classmethod
    def through(
        cls, z: Float[Array, "N k"], values: Float[Array, "N"], powers: Sequence[tuple[int, ...]], shares: Any = 1.0
    ) -> Surface:
        """By least squares with these shares of the errors; the smallest coefficients where there are many."""
        shares = np.broadcast_to(shares, values.shape)
        b = np.linalg.lstsq(_monomials(z, powers) * shares[:, None], values * shares, rcond=None)[0]
        return cls(powers, b, (float(values.min()), float(values.max())))

    def __call__(self, z: Float[Array, "M k"]) -> Float[Array, "M"]:
        return np.clip(_monomials(z, self.powers) @ self.coefficients, *self.ends)


def _monomials(z: Float[Array, "N k"], powers: Sequence[tuple[int, ...]]) -> Float[Array, "N f"]:
    drawn_in = z / np.sqrt(1 + (z**2).sum(axis=1, keepdims=True) / REACH**2)
    return np.stack([np.prod(drawn_in ** np.array(p), axis=1) for p in powers], axis=1)


def _weighted(log_p: Counted, proposal: StudentT, n: int, seed: int) -> tuple[Array, Array]:
    x = proposal.draws(n, seed)
    return x, log_p.each(x) - proposal.log_density(x)


def _learned(x: Array, log_w: Array, before: StudentT) -> StudentT:
    """The t with the moments of the draws, their weights evened out until they are worth enough of them."""
    k = x.shape[1]
    for power in (1.0, 0.7, 0.5, 0.35, 0.25, 0.15):
        w = np.exp(power * log_w - logsumexp(power * log_w))
        if 1 / (w**2).sum() > 5 * k:
            break
    mean = w @ x
    away = x - mean
    C = (away.T * w) @ away + 1e-6 * np.diag(before.root.diagonal() ** 2)
    return StudentT(mean, np.linalg.cholesky(C))


def composite(density: Density, centre: Float[Array, "k"], covariance: Float[Array, "k k"]) -> Nodes:
    """Many hyperparameters, known well: x = centre + U (σ± z), with U from the covariance and a scale for each side."""
    log_p = Counted(density)
    k = len(centre)
    d, U = np.linalg.eigh(covariance)
    axes = U * np.sqrt(d)
    peak = log_p(centre)
    reach = math.sqrt(2.0)
    scales, probes = np.ones((2, k)), np.empty((k, 2))
    for i, (s, sign) in product(range(k), enumerate((-1, 1))):
        probes[i, s] = log_p(centre + sign * reach * axes[:, i])
        scales[s, i] = np.clip(reach / math.sqrt(2 * max(peak - probes[i, s], 1e-3)), 0.3, 4.0)

    def placed(z: Float[Array, "N k"]) -> Float[Array, "N k"]:
        return centre + (z * np.where(z < 0, scales[0], scales[1])) @ axes.T

    z = np.concatenate([np.zeros((1, k)), SPREAD * math.sqrt(k) * _sphere(k)])
    x = placed(z)
    share = np.r_[1 - SPREAD**-2, np.full(len(z) - 1, SPREAD**-2 / (len(z) - 1))]
    values = log_p.each(x[1:])
    log_ratio = np.r_[peak, values] - peak + (z**2).sum(axis=1) / 2
    log_w = np.log(share) + log_ratio
    log_sum = float(logsumexp(log_w))
    volume = k / 2 * LOG_2PI + np.log(d).sum() / 2 + np.log(scales.mean(axis=0)).sum()
    t = StudentT(np.zeros(k), np.eye(k))
    fine = t.draws(FINE, 0)
    seen = np.concatenate([reach * np.eye(k), -reach * np.eye(k), (x - centre) @ np.linalg.inv(axes).T])
    known = np.concatenate([*probes.T, [peak], values]) - peak
    surface = Surface.through(seen, known + (seen**2).sum(axis=1) / 2, _along_axes(k))
    log_fine = surface(fine) - (fine**2).sum(axis=1) / 2 - t.log_density(fine)
    w = np.exp(log_w - log_sum)
    design, marginals = "central composite design", (centre + fine @ axes.T, _normalised(log_fine))
    return Nodes(x, w, peak + log_sum + float(volume), marginals, np.nan, log_p.calls, design)


def _along_axes(k: int) -> list[tuple[int, ...]]:
    """Powers of a quadratic polynomial, and of cubic and quartic terms along each axis."""
    return [p for p in product(range(5), repeat=k) if sum(p) <= 2 or sum(p) == max(p)]


def _sphere(k: int) -> Float[Array, "N k"]:
    """Corners of a cube, a balanced part of them from five axes on, and both ends of every axis; all at radius 1."""
    corners = np.array(list(product((-1.0, 1.0), repeat=k)))
    for word in GENERATORS.get(k, ()):
        corners = corners[np.prod(corners[:, list(word)], axis=1) == 1]
    ends = np.concatenate([np.eye(k), -np.eye(k)])
    return np.concatenate([corners / math.sqrt(k), ends])


GENERATORS: dict[int, Sequence[tuple[int, ...]]] = {
    5: [(0, 1, 2, 3, 4)],
    6: [(0, 1, 2, 3, 4, 5)],
    7: [(0, 1, 2, 3, 4, 5, 6)],
    8: [(0, 1, 2, 3, 6), (0, 1, 4, 5, 7)],
}
"""Defining words of fractions of resolution V or more (Box, Hunter & Hunter 2005, ch. 6)."""
MOST = max(GENERATORS)
"""More hyperparameters are not integrated."""
