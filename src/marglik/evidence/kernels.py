# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of Gaussian processes with about a weight a row: by the Cholesky factor of y's covariance.

    V = Σ_t X_tΣ_tX_tᵀ + σ²I,    P = V⁻¹ − V⁻¹F(FᵀV⁻¹F)⁻¹FᵀV⁻¹,    α = Py

    −2 log p(y|θ) = ν log 2π + log|V| + log|FᵀV⁻¹F| + yᵀα                                             (REML)
    ∂_k log p(y|θ) = ½ ⟨ααᵀ − P, V̇_k⟩

Maximised flat weights (ML) leave log|FᵀV⁻¹F| out, and then P in the slope is V⁻¹ and ν = n. One factorisation gives the
value, the inverse from it the whole gradient: V̇_k meets ααᵀ − P element by element.

A factor c of all scales is at its maximum in closed form, c² = yᵀα/ν. The search runs in the logarithms of the others,
relative to the noise, by steps with a curvature that the steps before have shown (symmetric rank one). It sets out
from the maxima of the evidence of some of the rows, where looking around costs next to nothing.

References
----------
Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, §2.3, §2.7, §5.4.1. Harville (1977), JASA 72, 320.
Nocedal & Wright (2006), Numerical Optimization, §6.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import lapack

from marglik.evidence.base import Evidence, apart
from marglik.likelihoods import LOG_2PI

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel
    from marglik.priors import Term
    from marglik.priors.base import RowCovariance

EXACT = 1e-10
"""No noise is evaluated at a smaller share of the response's spread: y is then fitted exactly."""
FEW = 200
"""Rows whose evidence says where to set out."""
SHARES = (0.1, 0.5, 2.0)
"""The noise at which the search looks around, as shares of the amplitudes."""
INSIDE = 1e3
"""A coordinate at a larger multiple of its unit, or a smaller share than the inverse, is not inside."""
HOPELESS = 20.0
"""A maximum for some of the rows that is lower than the best by so many nats is not followed to all rows."""
MOST, RADIUS = 40, 1.0
ENOUGH = 1e-10
"""The last step promises less, in nats; it is taken, and nothing computed there."""
DISTINCT = 1e-3
"""Maxima closer in every coordinate are one."""
PROBE = 1e-4
"""Step of the differences that show the curvature where a search sets out."""


def evidence(model: LinearModel, theta: Float[Array, "k"]) -> Evidence:
    """Value and gradient in θ; the noise must be positive."""
    at = At.of(model, theta) if theta[-1] > EXACT * model.response_scale else None
    if at is None or at.failed:
        return Evidence(-np.inf, np.full(len(theta), np.nan))
    return Evidence(at.log_value, lambda: at.gradient)


@dataclass(frozen=True, eq=False)
class At:
    """The evidence of some of the rows at one θ.

    Parameters
    ----------
    model, theta, rows
        What is evaluated: all rows, or those with these numbers.
    profiled
        Whether θ stands for cθ with the best c.
    """

    model: LinearModel
    theta: Float[Array, "k"]
    rows: Array
    profiled: bool = False

    @classmethod
    def of(cls, model: LinearModel, theta: Float[Array, "k"]) -> At:
        """All rows."""
        return cls(model, np.asarray(theta, float), np.arange(model.rows.n))

    @cached_property
    def _y(self) -> Float[Array, "n"]:
        return self.model.residuals.read(slice(0, 1))[0][self.rows, 0]

    @cached_property
    def _flat(self) -> Float[Array, "n f"]:
        return self.model.flat_basis.Q[self.rows]

    @cached_property
    def parts(self) -> list[tuple[int, RowCovariance]]:
        """Position in θ and covariance of each term."""
        return [(i, t.on_rows(self.theta[i : i + len(t.hyperparameters())], self.rows)) for t, i in self._terms]

    @property
    def _terms(self) -> list[tuple[Term, int]]:
        return [(t, i) for t, i in self.model.theta_starts() if not t.flat]

    @cached_property
    def _factored(self) -> tuple[Float[Array, "n n"], int]:
        first, *others = (part.matrix for _, part in self.parts)
        V = np.array(first, order="F")
        for K in others:
            V += K
        V[np.diag_indices_from(V)] += self.theta[-1] ** 2
        return lapack.dpotrf(V, lower=1, overwrite_a=1, clean=0)

    @property
    def failed(self) -> bool:
        """Whether V is not positive definite to rounding."""
        return self._factored[1] != 0

    @cached_property
    def _solved(self) -> tuple[Array, Array, Array, Array]:
        """α, V⁻¹F, the Cholesky factor of FᵀV⁻¹F, and the flat weights."""
        L, F = self._factored[0], self._flat
        both = lapack.dpotrs(L, np.column_stack([F, self._y]), lower=1)[0]
        VF, Vy = both[:, :-1], both[:, -1]
        root = np.linalg.cholesky(F.T @ VF)
        beta = np.linalg.solve(root.T, np.linalg.solve(root, VF.T @ self._y))
        return Vy - VF @ beta, VF, root, beta

    @property
    def alpha(self) -> Float[Array, "n"]:
        """Py."""
        return self._solved[0]

    @property
    def solved_flat(self) -> Float[Array, "n f"]:
        """V⁻¹F."""
        return self._solved[1]

    @property
    def flat_root(self) -> Float[Array, "f f"]:
        """The Cholesky factor of FᵀV⁻¹F."""
        return self._solved[2]

    @property
    def beta(self) -> Float[Array, "f"]:
        """The flat weights."""
        return self._solved[3]

    def whitened(self, X: Float[Array, "n r"]) -> Float[Array, "n r"]:
        """L⁻¹X for V = LLᵀ."""
        return lapack.dtrtrs(self._factored[0], X, lower=1)[0]

    @cached_property
    def freedom(self) -> int:
        """ν."""
        return len(self.rows) - (self._flat.shape[1] if self.model.reml else 0)

    @cached_property
    def scale(self) -> float:
        """c² at which the evidence is taken."""
        return float(self._y @ self.alpha) / self.freedom if self.profiled else 1.0

    @cached_property
    def best(self) -> Float[Array, "k"]:
        """θ at which the evidence is taken."""
        even = np.array([h.even for h in self.model.hyperparameters])
        return np.where(even, np.sqrt(self.scale), 1.0) * self.theta

    @cached_property
    def log_value(self) -> float:
        """log p(y|θ)."""
        log_det = 2 * float(np.log(self._factored[0].diagonal()).sum())
        if self.model.reml:
            log_det += 2 * float(np.log(self._solved[2].diagonal()).sum())
        quadratic = float(self._y @ self.alpha) / self.scale
        flat = self.model.log_volume if self.model.reml else 0.0
        gaussian = self.freedom * (LOG_2PI + np.log(self.scale)) + log_det + quadratic
        return -gaussian / 2 - flat + self.model.log_row_scale

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """In θ; where it stands for cθ, of the profile."""
        _, VF, root, _ = self._solved
        alpha = self.alpha / np.sqrt(self.scale)
        G = lapack.dpotri(self._factored[0], lower=1, overwrite_c=0)[0]
        G = np.tril(G)
        trace = alpha @ alpha - G.trace()
        G *= -2.0
        G[np.diag_indices_from(G)] *= 0.5  # its lower triangle counts for both: V̇ is symmetric
        half = np.linalg.solve(root, VF.T) if self.model.reml else np.zeros((0, len(alpha)))
        trace += float(np.vdot(half, half))
        outer = np.vstack([half, alpha])
        out = np.empty(len(self.theta))
        for i, part in self.parts:
            slopes = part.slopes(G, outer) / 2
            out[i : i + len(slopes)] = slopes
        out[-1] = self.theta[-1] * trace
        return out


class Point(NamedTuple):
    """The evidence at one z, with slope."""

    z: Array
    value: float
    slope: Array
    theta: Array


@dataclass(frozen=True, eq=False)
class Search:
    """In z, the logarithms of the free coordinates; where all scales are free, relative to the noise.

    Parameters
    ----------
    model, theta, free
        As for `EvidenceMethod.maximum`.
    rows
        Rows that count.
    """

    model: LinearModel
    theta: Float[Array, "k"]
    free: Array
    rows: Array

    @cached_property
    def even(self) -> Array:
        """Which coordinates are scales."""
        return np.array([h.even for h in self.model.hyperparameters])

    @cached_property
    def profiled(self) -> bool:
        """Whether all scales are free."""
        return bool(self.free[self.even].all())

    @cached_property
    def moving(self) -> Array:
        """The coordinates of θ that z has."""
        last = len(self.theta) - 1
        return np.flatnonzero(self.free & ~(self.profiled & (np.arange(last + 1) == last)))

    def z(self, theta: Float[Array, "k"]) -> Array:
        """Of θ."""
        noise = np.where(self.even, theta[-1], 1.0) if self.profiled else 1.0
        return np.log(theta / noise)[self.moving]

    def at(self, z: Array, slope: bool = True) -> Point | None:
        """None where V is singular to rounding."""
        theta = self.theta.copy()
        if self.profiled:
            theta[-1] = self.model.response_scale
        theta[self.moving] = np.exp(z) * np.where(self.even & self.profiled, theta[-1], 1.0)[self.moving]
        at = At(self.model, theta, self.rows, self.profiled)
        if at.failed or not np.isfinite(at.log_value):
            return None
        g = (at.gradient * theta)[self.moving] if slope else np.zeros(0)
        return Point(z, at.log_value, g, at.best)

    def curvature(self, here: Point) -> Array:
        """−∂²ℓ/∂z² by forward differences."""
        there = [self.at(here.z + PROBE * e) for e in np.eye(len(here.z))]
        H = np.array([np.zeros(len(here.z)) if p is None else (here.slope - p.slope) / PROBE for p in there])
        return (H + H.T) / 2

    def climbed(self, here: Point, B: Array, inside: Callable[[Array], bool]) -> tuple[Point, Array] | None:
        """The maximum, and the curvature there; None where it is not inside, or not reached."""
        radius = RADIUS
        for _ in range(MOST):
            d, U = np.linalg.eigh(B)
            size = np.maximum(np.abs(d), 1e-8 * max(np.abs(d).max(initial=0), 1e-100))
            step = U @ (U.T @ here.slope / size)
            shrink = min(1.0, radius / max(np.abs(step).max(initial=0), 1e-300))
            step, gain = shrink * step, float(here.slope @ step) * shrink * (1 - shrink / 2)
            if gain < ENOUGH and (d > 0).all():
                last = self.at(here.z + step, slope=False) if len(self.rows) <= FEW else None
                return (here._replace(z=here.z + step) if last is None else last), B
            if not inside(here.z + step):
                return None
            new = self.at(here.z + step)
            if new is None:
                radius = np.abs(step).max() / 4
                continue
            missing = here.slope - new.slope - B @ step
            if abs(missing @ step) > 1e-8 * np.linalg.norm(missing) * np.linalg.norm(step):
                B = B + np.outer(missing, missing) / (missing @ step)
            if new.value < here.value + 1e-4 * gain - 1e-11 * abs(here.value):
                radius = np.abs(step).max() / 4
                if radius < 1e-9:
                    return None
            else:
                if new.value > here.value + 0.75 * gain and np.abs(step).max() > 0.9 * radius:
                    radius *= 2
                here = new
        return None


def _natural(model: LinearModel) -> Float[Array, "s k"]:
    """θ from which to look around: each term's starts, with noise of several sizes."""
    size = model.response_scale / np.sqrt(1 + len(model.dense))
    each = [_lengths(t, size) if t.kernel else size * t.units()[None] for t, _ in model.theta_starts() if not t.flat]
    out = []
    for i in range(max(map(len, each))):
        out += [np.array([*np.concatenate([own[i % len(own)] for own in each]), share * size]) for share in SHARES]
    return np.array(out)


def _lengths(term: Term, size: float) -> Float[Array, "s k"]:
    """A term's starts, each length scale with its first amplitude: the noise has several sizes."""
    even = np.array([h.even for h in term.hyperparameters()])
    first = {own[~even].tobytes(): own for own in reversed(term.starts(size))}
    return np.array([*first.values()])[::-1]


def starts(model: LinearModel, theta: Float[Array, "k"], free: Array) -> Float[Array, "s k"]:
    """Values of θ from which learning may set out."""
    return np.where(free, _natural(model), theta)


def maxima(model: LinearModel, theta: Float[Array, "k"], free: Array) -> Float[Array, "m k"]:
    """The distinct maxima inside the support, the best first; none where one may lie at an end of it."""
    none = np.empty((0, len(theta)))
    n = model.rows.n
    if not free.any() or not (free[-1] or theta[-1] > 0) or np.any(~free & (theta <= 0)):
        return none
    few = np.arange(n) if n <= FEW else np.random.default_rng(0).permutation(n)[:FEW]
    some, every = (Search(model, theta, free, rows) for rows in (few, np.arange(n)))
    if not len(every.moving):
        return none
    looked = [some.at(some.z(t), slope=False) for t in starts(model, theta, free)]
    middle = every.z(np.median(starts(model, theta, free), axis=0))

    def inside(z: Array) -> bool:
        return bool(np.all(np.abs(z - middle) < np.log(INSIDE)))

    ends: list[Point] = []
    curvatures: list[Array] = []
    escaped = -np.inf
    looked_at = [p for p in looked if p is not None]
    for i in apart(np.array([p.z for p in looked_at]), [p.value for p in looked_at], np.inf):
        start = looked_at[i]
        here = some.at(start.z)
        assert here is not None
        found = some.climbed(here, some.curvature(here), inside)
        if found is None:
            escaped = max(escaped, start.value)
        elif not any(np.abs(found[0].z - p.z).max() < DISTINCT for p in ends):
            ends.append(found[0])
            curvatures.append(found[1])
    if not ends or escaped > max(p.value for p in ends):
        return none
    if n > FEW:
        best = max(p.value for p in ends)
        kept = [(p, B) for p, B in zip(ends, curvatures, strict=True) if p.value > best - HOPELESS]
        climbs = []
        for p, B in kept:
            here = every.at(p.z)
            climbs.append(None if here is None else every.climbed(here, B * n / FEW, inside))
        if any(found is None for found in climbs):
            return none
        ends = [found[0] for found in climbs if found is not None]
    distinct: list[Point] = []
    for p in sorted(ends, key=lambda p: -p.value):
        if not any(np.abs(p.z - q.z).max() < DISTINCT for q in distinct):
            distinct.append(p)
    landed = [p if n <= FEW else every.at(p.z, slope=False) for p in distinct]
    if any(p is None or p.theta[-1] <= EXACT * model.response_scale for p in landed):
        return none
    return np.array([p.theta for p in landed if p is not None])
