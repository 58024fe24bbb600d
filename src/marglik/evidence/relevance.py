# SPDX-License-Identifier: BSD-3-Clause
"""One scale a column (automatic relevance determination): which columns have one above zero, and how large.

In units of the noise, b = σ², column j has the ratio γ_j = s_j²/b, and with V = I + XΓXᵀ, P = V⁻¹, q = yᵀPy

    ℓ = −N/2 log q − ½ log|V| + const        or, with the noise given,        ℓ = −q/2b − ½ log|V| + const

where b = q/N is at its maximum. Along one column, with P without it, S = xᵀPx, R = xᵀPy, ρ = R²/(Sq) and
t = γS/(1 + γS) from 0 to 1, q falls to q(1 − ρt) and log|V| grows by −log(1 − t), so that the best is

    t = (Nρ − 1)/(ρ(N − 1)) where Nρ > 1, else 0        or        t = 1 − b/(qρ) where qρ > b, else 0

Many columns end at exactly zero. Several local maxima come from pairs of columns that resemble each other.

References
----------
MacKay (1992), Neural Computation 4, 415. Tipping & Faul (2003), AISTATS. Wipf & Nagarajan (2008), NIPS 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.gram import Gram

RADIUS = 2.0
"""First trust radius, in logarithms of ratios."""
FARTHEST = 8.0
DONE = 1e-11
"""Nats that Newton's step still promises when a climb ends."""
ROUGH = 1e-2
CLOSE = 1e-6
"""Below this share of |y|², what the columns leave is computed from the rows: a difference would cost digits."""
FEW = 64


@dataclass(frozen=True)
class Noise:
    """The part of ℓ that depends on q.

    Parameters
    ----------
    n
        N.
    given
        b, where the noise is held; 0 where it is at its maximum for every Γ.
    """

    n: float
    given: float = 0.0

    def value(self, q: float) -> float:
        """−N/2 log q or −q/2b."""
        return -q / (2 * self.given) if self.given else -self.n / 2 * math.log(q)

    def rise(self, before: Array, after: Array) -> Array:
        """Its gain as q falls."""
        return (before - after) / (2 * self.given) if self.given else self.n / 2 * np.log(before / after)

    def precision(self, q: Array) -> Array:
        """1/b."""
        return np.ones_like(q) / self.given if self.given else self.n / q

    @property
    def bend(self) -> float:
        """How much less ℓ curves because the noise follows: times v²v²ᵀ."""
        return 0.0 if self.given else 0.5 / self.n

    def best(self, rho: Array, q: Array) -> Array:
        """t at the maximum along a column."""
        x = rho * (q / self.given if self.given else self.n)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = 1 - 1 / x if self.given else (x - 1) / (rho * (self.n - 1))
        return np.where(x > 1, t, 0.0)

    def best_one(self, rho: float, q: float) -> tuple[float, float]:
        """The same for one column, and the gain."""
        x = rho * (q / self.given if self.given else self.n)
        if x <= 1:
            return 0.0, 0.0
        t = 1 - 1 / x if self.given else min((x - 1) / (rho * (self.n - 1)), 1 - 1e-15)
        fit = x * t if self.given else -self.n * math.log1p(-rho * t)
        return t, (fit + math.log1p(-t)) / 2


@dataclass(frozen=True, eq=False)
class Problem:
    """One target; columns and y have unit length.

    Parameters
    ----------
    G, z
        XᵀX and Xᵀy.
    noise
        Learned or given.
    outside
        |y − Xw|² from the rows, for active columns and their weights.
    """

    G: Float[Array, "p p"]
    z: Float[Array, "p"]
    noise: Noise
    outside: Callable[[Array, Array], float]


class Point(NamedTuple):
    """ℓ and what it is made of at ratios e^α of the active columns: H = I + SGS = LLᵀ, C = H⁻¹, û = C S z."""

    active: Int[Array, "m"]
    alpha: Float[Array, "m"]
    value: float
    q: float
    s: Float[Array, "m"]
    L: Float[Array, "m m"]
    C: Float[Array, "m m"]
    c: Float[Array, "m"]
    u: Float[Array, "m"]


def point(problem: Problem, active: Array, alpha: Array, block: Array) -> Point:
    """Everything at one place; ``block`` is the active part of G."""
    m = len(alpha)
    s = np.exp(0.5 * alpha)
    if not m:
        return Point(active, alpha, problem.noise.value(1.0), 1.0, s, block, block, s, s)
    H = block * s
    H *= s[:, None]
    H.flat[:: m + 1] += 1.0
    L = lapack.dpotrf(H.T, lower=1, overwrite_a=1)[0]
    if m <= FEW:
        C = lapack.dpotrs(L, np.eye(m), lower=1, overwrite_b=1)[0]
    else:
        C = lapack.dpotri(L, lower=1)[0]
        C += C.T
        C.flat[:: m + 1] *= 0.5
    sz = s * problem.z[active]
    u = C @ sz
    q = 1.0 - float(sz @ u)
    if q < CLOSE:
        q = problem.outside(active, s * u) + float(u @ u)
    value = problem.noise.value(q) - float(np.log(L.diagonal()).sum())
    return Point(active, alpha, value, q, s, L, C, C.diagonal(), u)


def curvature(noise: Noise, at: Point) -> tuple[Array, Array]:
    """Slope and negative curvature in α.

    With D = I − C and v = û/√b,    g = ½(v² − diag D),    −h = (vvᵀ − ½D)∘D − v²v²ᵀ/2N − diag g
    """
    m = len(at.u)
    D = -at.C
    D.flat[:: m + 1] += 1.0
    v = at.u * math.sqrt(noise.precision(at.q))
    v2 = v * v
    g = 0.5 * (v2 - D.diagonal())
    M = v[:, None] * v
    M -= 0.5 * D
    M *= D
    if noise.bend:
        M -= v2[:, None] * (noise.bend * v2)
    M.flat[:: m + 1] -= g
    return g, M


def newton(noise: Noise, at: Point, radius: float) -> tuple[Array, float]:
    """A step within the radius, and what it should gain."""
    g, M = curvature(noise, at)
    m = len(g)
    shift = 0.0
    while True:
        A = M.copy()
        if shift:
            A.flat[:: m + 1] += shift
        L, info = lapack.dpotrf(A.T, lower=1, overwrite_a=1)
        if info == 0:
            step = lapack.dpotrs(L, g, lower=1)[0]
            if max(step.max(), -step.min()) <= radius:
                return step, float(g @ step - 0.5 * step @ (M @ step))
        shift = 2 * shift if shift else 1e-2 * float(np.abs(M.diagonal()).max())


def climb(problem: Problem, active: Array, alpha: Array, enough: float = DONE) -> Point:
    """Newton's method in α within a trust region; a column whose own best is zero, the others as they are, is left out."""
    noise = problem.noise
    block = problem.G[active[:, None], active]
    here = point(problem, active, alpha, block)
    radius = RADIUS
    for _ in range(MAX_STEPS):
        c, u2 = here.c, here.u * here.u
        stays = u2 * noise.precision(here.q + u2 / c) > c * (1 - c)
        if not stays.all():
            active = here.active[stays]
            block = problem.G[active[:, None], active]
            here = point(problem, active, here.alpha[stays], block)
            continue
        if not len(c):
            return here
        step, gain = newton(noise, here, radius)
        if gain < enough:
            return here
        there = point(problem, here.active, here.alpha + step, block)
        ratio = (there.value - here.value) / gain
        if ratio < 0.25:
            radius = max(step.max(), -step.min()) / 4
        elif ratio > 0.75:
            radius = min(2 * radius, FARTHEST)
        if ratio > 1e-4:
            here = there
        elif radius < 1e-12:
            return here
    return here


MAX_STEPS = 300


class Columns(NamedTuple):
    """All columns at a point: R = XᵀPy, S = diag XᵀPX, and W with XᵀPX = G − WᵀW."""

    R: Float[Array, "p"]
    S: Float[Array, "p"]
    W: Float[Array, "m p"]


def columns(problem: Problem, at: Point) -> Columns:
    """R, S and W."""
    z = problem.z
    if not len(at.active):
        return Columns(z, np.ones(len(z)), np.zeros((0, len(z))))
    GA = problem.G[at.active]
    W = blas.dtrsm(1.0, at.L, at.s[:, None] * GA, lower=1)
    return Columns(z - (at.s * at.u) @ GA, 1.0 - np.einsum("mp,mp->p", W, W), W)


def nothing(problem: Problem) -> Point:
    """No column has a scale."""
    return point(problem, np.zeros(0, int), np.zeros(0), np.zeros((0, 0)))


def forward(problem: Problem, at: Point) -> Point:
    """Columns added one by one, the one that gains most first, and all climbed, until no column gains."""
    polished = False
    while True:
        added, alpha = additions(problem, at)
        if added:
            active, alphas = np.concatenate([at.active, added]), np.concatenate([at.alpha, alpha])
            at, polished = climb(problem, active, alphas, ROUGH), False
        elif polished:
            return at
        else:
            at, polished = climb(problem, at.active, at.alpha), True


def additions(problem: Problem, at: Point) -> tuple[list[int], list[float]]:
    """A greedy choice of columns to add, each at its best given those before."""
    noise, G, q = problem.noise, problem.G, at.q
    R, S, known = columns(problem, at)
    m = len(known)
    W = np.empty((m + max(8, 2 * m), len(R)))
    W[:m] = known
    free = np.ones(len(R))
    free[at.active] = 0.0
    added: list[int] = []
    alpha: list[float] = []
    while m < len(W):
        x = R * R
        x /= S
        x *= free
        j = int(x.argmax())
        t, gain = noise.best_one(x[j] / q, q)
        if gain < 1e-9:
            break
        w = G[j] - W[:m, j] @ W[:m]
        w *= math.sqrt(t / S[j])  # t/S = γ/(1 + γS)
        W[m] = w
        added.append(j)
        alpha.append(math.log(t / ((1 - t) * S[j])))
        q -= t * R[j] ** 2 / S[j]
        R = R - (math.sqrt(t / S[j]) * R[j]) * w
        S = S - w * w
        free[j] = 0.0
        m += 1
    return added, alpha


ALIKE = 0.2
"""Squared correlation, given all others, from which two columns may stand in for each other."""
NEAR = 0.5
"""Nats that a pair may lose before the others follow."""


def pairs(problem: Problem, at: Point) -> list[tuple[float, int, int, float, float]]:
    """Other local maxima of pairs of columns, the rest as it is: gain, columns and ratios, the best first.

    For each pair of similar columns, P without both, and from there each one best given the other, in turn.
    """
    R, S, W = columns(problem, at)
    Q = problem.G - blas.dgemm(1.0, W, W, trans_a=1)
    ratio = np.zeros(len(R))
    ratio[at.active] = at.s**2
    # With D = S_iS_j − Q_ij², the pair's squared correlation in P without it is Q²/((S_i − γ_jD)(S_j − γ_iD)).
    square = Q * Q
    M = (square - np.multiply.outer(S, S)) * ratio
    M += S[:, None]
    M *= M.T
    i, j = np.nonzero(np.tril(square > ALIKE * M, -1))
    if not len(i):
        return None
    noise = problem.noise
    a, b, c, gi, gj = S[i], S[j], Q[i, j], ratio[i], ratio[j]
    det = (1 - a * gi) * (1 - b * gj) - c * c * gi * gj
    D = a * b - c * c
    sa, sb, sc = (a - gj * D) / det, (b - gi * D) / det, c / det
    ra = ((1 - b * gj) * R[i] + c * gj * R[j]) / det
    rb = ((1 - a * gi) * R[j] + c * gi * R[i]) / det
    q = at.q + gi * R[i] * ra + gj * R[j] * rb
    now = noise.rise(q, np.full_like(q, at.q)) + np.log(det) / 2
    one, none = np.ones(len(i)), np.zeros(len(i))
    strong = 9.0
    # From three starts: both large, either alone.
    ga = np.concatenate([strong / sa, none, one])
    gb = np.concatenate([strong / sb, one, none])
    sa, sb, sc, ra, rb, q = (np.tile(x, 3) for x in (sa, sb, sc, ra, rb, q))

    def best(g: Array, s: Array, r: Array, s_other: Array, r_other: Array) -> Array:
        """The ratio of one column, given that of the other."""
        k = g / (1 + g * s_other)
        rest, left = s - k * sc * sc, r - k * sc * r_other
        t = noise.best(left * left / (rest * (q - k * r_other**2)), q - k * r_other**2)
        return t / ((1 - t) * rest)

    n = len(i)
    gb[n : 2 * n] = best(none.repeat(3), sb, rb, sa, ra)[:n]
    ga[2 * n :] = best(none.repeat(3), sa, ra, sb, rb)[:n]
    for _ in range(ROUNDS):
        ga = best(gb, sa, ra, sb, rb)
        gb = best(ga, sb, rb, sa, ra)
    det = (1 + ga * sa) * (1 + gb * sb) - ga * gb * sc * sc
    left = q - (ga * ra * ra * (1 + gb * sb) + gb * rb * rb * (1 + ga * sa) - 2 * ga * gb * sc * ra * rb) / det
    gain = noise.rise(q, left) - np.log(det) / 2 - np.tile(now, 3)
    i, j, gi, gj = (np.tile(x, 3) for x in (i, j, gi, gj))
    other = ((ga > 0) != (gi > 0)) | ((gb > 0) != (gj > 0))
    found = np.flatnonzero((other & (gain > -NEAR)) | (gain > LEAST))
    found = found[np.argsort(-gain[found], kind="stable")]
    return [(float(gain[k]), int(i[k]), int(j[k]), float(ga[k]), float(gb[k])) for k in found]


ROUNDS = 12
LEAST = 1e-6


def exchange(problem: Problem, at: Point, stats=None) -> Point:
    """Pairs of columns set to their other local maxima, and all climbed, while that gains."""
    tried = set()
    improved = True
    while improved:
        improved = False
        for gain, i, j, a, b in pairs(problem, at) or []:
            keep = (at.active != i) & (at.active != j)
            more = [(k, math.log(g)) for k, g in ((i, a), (j, b)) if g > 0]
            active = np.concatenate([at.active[keep], np.array([k for k, _ in more], int)])
            alpha = np.concatenate([at.alpha[keep], np.array([g for _, g in more])])
            key = tuple(sorted(active))
            if key in tried:
                continue
            tried.add(key)
            other = forward(problem, climb(problem, active, alpha, ROUGH))
            if stats is not None: stats.append((gain, other.value - at.value))
            if other.value > at.value + LEAST:
                at, improved = other, True
                break
    return at


def backward(problem: Problem, level: float) -> Point:
    """From all columns at the same ratio."""
    p = len(problem.z)
    return forward(problem, climb(problem, np.arange(p), np.full(p, level), ROUGH))


def search(problem: Problem) -> Point:
    at = forward(problem, nothing(problem))
    found = pairs(problem, at)
    at = exchange(problem, at)
    if found is not None and len(problem.z) <= 60:
        for level in (0.0, 3.0, 6.0, 10.0):
            other = backward(problem, level)
            if abs(other.value - at.value) > LEAST:
                other = exchange(problem, other)
            if other.value > at.value: at = other
    return at
