# SPDX-License-Identifier: BSD-3-Clause
"""∫ p(y|θ) p(θ) dθ: where to evaluate the evidence, and with which weights.

Each hyperparameter that users see is put on the real line, x = log s, artanh ρ, …; with the Jacobian of that change

    log p(x|y) = log p(y|θ(x)) + log p(θ(x)) + log|∂θ/∂x| + const

The tails of log s are exponential at worst: a flat prior on s leaves eˣ to the left, whatever the evidence at zero.

- One hyperparameter: a grid whose steps grow with the distance, interpolated by a spline.
- Two to four: importance sampling by a multivariate t that learns its place and shape from a few rounds of draws, all
  from Sobol points.
- More: a central composite design about the mode, each direction and side with a scale of its own, and points further
  out along each. Marginals are those of curves through the points of each direction, and of products of pairs.

References
----------
Rue, Martino & Chopin (2009), JRSS B 71, 319, §6.5 (the design). Martins, Simpson, Lindgren & Rue (2013), CSDA 67, 68
(scales by side). Cappé, Douc, Guillin, Marin & Robert (2008), Statistics and Computing 18, 447 (proposals that learn).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import eigh_tridiagonal
from scipy.special import gammaln, logsumexp, ndtri

from marglik.likelihoods import LOG_2PI

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

Density: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""A log density at each row."""

EDGE = 16.0
"""A grid ends where the log density has dropped by so much: a share of 1e-7."""
FINEST, INTERPOLATED, SUMMED = 100, 3e-4, 1e-6
"""A grid has no more points, nor more than it takes for a curve to miss no more of the peak and the rule of the sum."""
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
TAIL_DROP, NOTHING = 6.0, 40.0
"""Along its axes the design goes on to where the log density has dropped by about so much; no drop counts for more."""
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
    """A log density that counts where it was evaluated; NaN counts as none."""

    density: Density
    calls: int = 0

    def __call__(self, x: Float[Array, "N k"]) -> Float[Array, "N"]:
        self.calls += len(x)
        values = self.density(x)
        return np.where(np.isnan(values), -np.inf, values)

    def at(self, x: Float[Array, "k"]) -> float:
        """Of one point."""
        return float(self(x[None])[0])


def grid(density: Density, centre: Float[Array, "1"], sd: float) -> Nodes:
    """One hyperparameter, by the trapezoid rule in t: x = centre + 2 sd sinh t, so that steps grow with the distance.

    The rule converges geometrically: where it moves by ε as its step is halved, what is left is about ε². The step is
    halved until that is small, and until a curve through every other point foretells the rest.
    """
    log_p, start, step = Counted(density), float(centre[0]), 0.25
    place = lambda t: start + 2 * sd * np.sinh(t)  # noqa: E731
    known = {0.0: log_p.at(centre)}
    for side in (-step, step):
        t = 0.0
        while known[t] > max(known.values()) - EDGE:
            t += side
            if abs(place(t) - start) > FAR:
                raise Improper(0, int(np.sign(side)))
            known[t] = log_p.at(np.array([place(t)]))
    while _missed(known, step, place) > 1 and 2 * len(known) < FINEST:
        step /= 2
        new = np.arange(min(known) + step, max(known), 2 * step)
        known |= dict(zip(new, log_p(place(new)[:, None]), strict=True))
    at, values = _sorted(known)
    top = values.max()
    weights = np.exp(values - top) * 2 * sd * np.cosh(at)
    fine = np.linspace(at[0], at[-1], 20 * FINEST)
    mass = np.exp(_curve(place(at), values - top)(place(fine))) * np.cosh(fine)
    mass /= mass.sum()
    return Nodes(
        place(at)[:, None],
        weights / weights.sum(),
        float(top + math.log(step * weights.sum())),
        (place(fine)[:, None], mass),
        1 / float((mass**2).sum()),
        log_p.calls,
        "grid",
    )


def _missed(known: Mapping[float, float], step: float, place: Callable[[Array], Array]) -> float:
    """What a curve misses, h⁴ by one of every other point, and the rule, in units of what may be missed."""
    t, values = _sorted(known)
    p, coarse = np.exp(values - values.max()), np.round(t / step) % 2 == 0
    between = ~coarse & (t > t[coarse][0]) & (t < t[coarse][-1])
    foretold = _curve(place(t[coarse]), (values - values.max())[coarse])(place(t[between]))
    curve = np.abs(p[between] - np.exp(foretold)).max(initial=0) / 16
    mass = p * np.cosh(t)
    rule = 1 - 2 * mass[coarse].sum() / mass.sum()
    return float(max(curve / INTERPOLATED, abs(rule) / np.sqrt(SUMMED)))


def _sorted(known: Mapping[float, float]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    t = np.array(sorted(known))
    return t, np.array([known[one] for one in t])


def _curve(x: Float[Array, "n"], values: Float[Array, "n"]) -> CubicSpline:
    """Through those that are finite."""
    finite = np.isfinite(values)
    return CubicSpline(x[finite], values[finite])


def gauss(x: Float[Array, "M"], w: Float[Array, "M"], n: int) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Nodes and weights of the Gauss rule of masses w at x: exact for polynomials of degree 2n − 1.

    References
    ----------
    Golub & Welsch (1969), Math. Comp. 23, 221.

    Examples
    --------
    >>> import numpy as np
    >>> nodes, weights = gauss(np.arange(5.0), np.full(5, 0.2), 2)
    >>> (weights @ nodes**3).round(12) == np.mean(np.arange(5.0) ** 3)
    np.True_
    """
    basis = [np.sqrt(w / w.sum())]
    diagonal, beside = np.empty(n), np.empty(n)
    for i in range(n):  # Lanczos, each vector made orthogonal to all before it
        diagonal[i] = basis[-1] @ (x * basis[-1])
        rest = x * basis[-1]
        for _ in range(2):
            rest = rest - np.array(basis).T @ (np.array(basis) @ rest)
        beside[i] = np.linalg.norm(rest)
        basis.append(rest / max(beside[i], 1e-300))
    nodes, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    return nodes, vectors[0] ** 2


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
    near = _drawn_in(z).T
    known = [[column**d for d in range(max(map(max, powers)) + 1)] for column in near]
    return np.stack([math.prod(column[d] for column, d in zip(known, p, strict=True)) for p in powers], axis=1)


def _drawn_in(z: Float[Array, "N k"]) -> Float[Array, "N k"]:
    return z / np.sqrt(1 + (z**2).sum(axis=1, keepdims=True) / REACH**2)


def _weighted(log_p: Counted, proposal: StudentT, n: int, seed: int) -> tuple[Array, Array]:
    x = proposal.draws(n, seed)
    return x, log_p(x) - proposal.log_density(x)


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
    """Many hyperparameters, known well: x = centre + A (σ± z), with a scale for each side.

    A is the square root of the covariance that turns least: skewness is that of single scales, with few levels each.
    """
    log_p = Counted(density)
    k = len(centre)
    sd = np.sqrt(covariance.diagonal())
    d, U = np.linalg.eigh(covariance / np.outer(sd, sd))
    axes = sd[:, None] * (U * np.sqrt(d)) @ U.T
    peak = log_p.at(centre)
    reach, spread = math.sqrt(2.0), SPREAD * math.sqrt(k)
    scales, known = np.ones((2, k)), [{0.0: 0.0} for _ in range(k)]

    def drop(z: Float[Array, "k"]) -> float:
        return max(log_p.at(centre + axes @ z) - peak, -NOTHING)

    for i, (s, sign) in product(range(k), enumerate((-1.0, 1.0))):
        near = known[i][sign * reach] = drop(sign * reach * np.eye(k)[i])
        scales[s, i] = np.clip(reach / math.sqrt(2 * max(-near, 1e-3)), 0.3, 4.0)
        end = spread * scales[s, i]
        further = known[i][sign * end] = drop(sign * end * np.eye(k)[i])
        slope = max((near - further) / (end - reach), 0.5) if end > reach else 1.0
        far = sign * min(end + max((TAIL_DROP + further) / slope, 0.5), 4 * spread)
        known[i][far] = drop(far * np.eye(k)[i])

    z, axial = _sphere(k)
    placed = spread * z * np.where(z < 0, scales[0], scales[1])
    ends = [known[int(np.abs(one).argmax())][float(one[np.abs(one).argmax()])] for one in placed[axial]]
    off = np.maximum(log_p(centre + placed[~axial] @ axes.T) - peak, -NOTHING)
    values = np.r_[0.0, off, ends]
    x = centre + np.r_[np.zeros((1, k)), placed[~axial], placed[axial]] @ axes.T
    share = np.r_[1 - SPREAD**-2, np.full(len(z), SPREAD**-2 / len(z))]
    log_w = np.log(share) + values + np.r_[0.0, np.full(len(z), spread**2 / 2)]

    curves = Curves.through(known, placed[~axial], values[1 : 1 + np.sum(~axial)])
    t = StudentT(np.zeros(k), np.eye(k))
    fine = t.draws(FINE, 0)
    log_ratio = -(fine**2).sum(axis=1) / 2 - t.log_density(fine)
    log_fine = log_ratio + curves(fine)
    volume = k / 2 * LOG_2PI + np.log(d).sum() / 2 + np.log(sd).sum()
    log_integral = peak + volume + float(logsumexp(log_fine) - logsumexp(log_ratio))
    design, marginals = "central composite design", (centre + fine @ axes.T, _normalised(log_fine))
    return Nodes(x, _normalised(log_w), log_integral, marginals, np.nan, log_p.calls, design)


@dataclass(frozen=True, eq=False)
class Curves:
    """How a log density differs from −|z|²/2: a curve along each axis, straight beyond its ends, and products of pairs.

    g(z) = Σ_i g_i(z_i) + Σ_{i<j} c_ij z_i z_j,    z in the products drawn in beyond `REACH`
    """

    along: Sequence[CubicSpline]
    pairs: Float[Array, "k k"]

    @classmethod
    def through(cls, known: Sequence[Mapping[float, float]], z: Float[Array, "N k"], values: Array) -> Curves:
        """Log densities by place on each axis, and elsewhere: pairs by least squares to what the curves leave."""
        along = []
        for one in known:
            at = np.array(sorted(one))
            along.append(CubicSpline(at, [one[p] + p**2 / 2 for p in at]))
        k, bare = z.shape[1], cls(along, np.zeros((z.shape[1], z.shape[1])))
        first, second = np.triu_indices(k, 1)
        near = _drawn_in(z)
        left = values + (z**2).sum(axis=1) / 2 - bare(z)
        pairs = np.zeros((k, k))
        pairs[first, second] = np.linalg.lstsq(near[:, first] * near[:, second], left, rcond=None)[0]
        return cls(along, pairs)

    def __call__(self, z: Float[Array, "M k"]) -> Float[Array, "M"]:
        near = _drawn_in(z)
        out = np.einsum("Mi,ij,Mj->M", near, self.pairs, near)
        for curve, one in zip(self.along, z.T, strict=True):
            inside = one.clip(curve.x[0], curve.x[-1])
            out += curve(inside) + curve(inside, 1) * (one - inside)
        return out


def _sphere(k: int) -> tuple[Float[Array, "N k"], Bool[Array, "N"]]:
    """Corners of a cube, a balanced part of them from five axes on, and both ends of every axis, at radius 1; which
    are ends.
    """
    corners = np.array(list(product((-1.0, 1.0), repeat=k)))
    for word in GENERATORS.get(k, ()):
        corners = corners[np.prod(corners[:, list(word)], axis=1) == 1]
    ends = np.concatenate([np.eye(k), -np.eye(k)])
    return np.concatenate([corners / math.sqrt(k), ends]), np.arange(len(corners) + 2 * k) >= len(corners)


GENERATORS: dict[int, Sequence[tuple[int, ...]]] = {
    5: [(0, 1, 2, 3, 4)],
    6: [(0, 1, 2, 3, 4, 5)],
    7: [(0, 1, 2, 3, 4, 5, 6)],
    8: [(0, 1, 2, 3, 6), (0, 1, 4, 5, 7)],
}
"""Defining words of fractions of resolution V or more (Box, Hunter & Hunter 2005, ch. 6)."""
MOST = max(GENERATORS)
"""More hyperparameters are not integrated."""
