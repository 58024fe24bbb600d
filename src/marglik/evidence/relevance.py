# SPDX-License-Identifier: BSD-3-Clause
"""One scale a column (automatic relevance determination): which columns have one above zero, and how large.

In units of the noise, b = σ², column j has the ratio γ_j = s_j²/b, and with V = I + XΓXᵀ, P = V⁻¹, q = yᵀPy

    ℓ = −N/2 log q − ½ log|V| + const        or, with the noise given,        ℓ = −q/2b − ½ log|V| + const

where b = q/N is at its maximum. Along one column, with P without it, S = xᵀPx, R = xᵀPy, ρ = R²/(Sq) and
t = γS/(1 + γS) from 0 to 1, q falls to q(1 − ρt) and log|V| grows by −log(1 − t), so that the best is

    t = (Nρ − 1)/(ρ(N − 1)) where Nρ > 1, else 0        or        t = 1 − b/(qρ) where qρ > b, else 0

Columns are added greedily, all are climbed by Newton's method in log γ, and those whose best is zero leave. Where two
columns resemble each other there may be other local maxima: their pair is tried at those. With as many columns as rows
there are also those without noise; see `marglik.evidence.noiseless`.

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

from marglik.evidence import noiseless
from marglik.gaussian.solvers import solver

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray as Array

    from marglik.gaussian.gram import Gram

RADIUS, FARTHEST = 2.0, 8.0
"""First trust radius, and the largest, in logarithms of ratios."""
MAX_STEPS = 300
AT_ONCE = 16
"""Columns that may be added before all are climbed; later, twice as many as there are."""
DONE, ROUGH = 1e-11, 0.1
"""Nats that Newton's step still promises when a climb ends, the last one or one on the way."""
LEAST = 1e-6
"""Nats by which one maximum must be better than another."""
CLOSE = 1e-6
"""Below this share of |y|², what the columns leave is computed from the rows: a difference would cost digits."""
NO_NOISE = 1e-11
"""Share of |y|² that columns leave, below which they leave nothing."""
EXACT = 1e-22
"""The same, where columns can leave nothing of a special y only."""
TWINS = 1e-12
ROUNDING = 1e-14
EPS = float(np.finfo(float).eps)
WEAK = 0.5
"""A column with t below this steps in its ratio, others in its logarithm."""
FEW = 64
"""Up to so many columns, solving for the inverse is faster than inverting; and starts from all columns are cheap."""
MANY = 200
"""From so many active columns on, those that are nearly settled are left alone for a while."""
ALIKE = 0.2
"""Squared correlation, given all others, from which two columns may stand in for each other."""
NEAR = 0.5
"""Nats that a pair may lose at first, in the hope that the other columns follow."""
LEVELS = (0.0, 3.0, 6.0, 10.0)
"""Logarithms of the ratios at which all columns start, where there are few."""


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
        """What it gains as q falls."""
        return (before - after) / (2 * self.given) if self.given else self.n / 2 * np.log(before / after)

    def precision(self, q: Array | float) -> Array | float:
        """1/b."""
        return 1 / self.given + 0 * q if self.given else self.n / q

    def best(self, rho: Array, q: Array) -> Array:
        """t at the maximum along columns."""
        x = rho * (q / self.given) if self.given else rho * self.n
        with np.errstate(divide="ignore", invalid="ignore"):
            t = 1 - 1 / x if self.given else (x - 1) / (rho * (self.n - 1))
        return np.where(x > 1, np.minimum(t, 1 - 1e-15), 0.0)

    def best_one(self, rho: float, q: float) -> tuple[float, float]:
        """The same for one column, and the gain."""
        rho = min(rho, 1.0)
        x = rho * (q / self.given if self.given else self.n)
        if x <= 1:
            return 0.0, 0.0
        t = min(1 - 1 / x if self.given else (x - 1) / (rho * (self.n - 1)), 1 - 1e-15)
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
    full
        Whether the columns can fit any y exactly.
    """

    G: Float[Array, "p p"]
    z: Float[Array, "p"]
    noise: Noise
    outside: Callable[[Array, Array], float] | None
    full: bool = False

    def without_noise(self, q: float) -> bool:
        """Whether nothing is left for the noise."""
        return q < (NO_NOISE if self.full else EXACT)


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
    if q < CLOSE and problem.outside is not None:
        q = problem.outside(active, s * u) + float(u @ u)
    value = problem.noise.value(q) - float(np.log(L.diagonal()).sum())
    return Point(active, alpha, value, q, s, L, C, C.diagonal(), u)


def nothing(problem: Problem) -> Point:
    """No column has a scale above zero."""
    return point(problem, np.zeros(0, int), np.zeros(0), np.zeros((0, 0)))


def _curvature(noise: Noise, at: Point) -> tuple[Array, Array]:
    """Slope and negative curvature in α.

    With D = I − C and v = û/√b,    g = ½(v² − diag D),    −h = (vvᵀ − ½D)∘D − v²v²ᵀ/2N − diag g,

    the term in N only where the noise is learned.
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
    if not noise.given:
        M -= v2[:, None] * (0.5 / noise.n * v2)
    M.flat[:: m + 1] -= g
    return g, M


def _newton(noise: Noise, at: Point, radius: float, stays: Bool[Array, "m"] | None) -> tuple[Array, float]:
    """A step in α of the columns that stay, within the radius, and what it should gain; −∞ is a ratio of zero.

    Weak columns step in γ, where ℓ has a slope at zero: by γ_j s_j, with −h_jj − g_j in place of −h_jj. Damping is
    relative to each coordinate's own curvature, which vanishes with its ratio.
    """
    g, M = _curvature(noise, at)
    c = at.c
    if stays is not None:
        g, M, c = g[stays], M[stays][:, stays], c[stays]
    m, damping = len(g), 0.0
    weak = c > 1 - WEAK
    some = bool(weak.any())
    if some:
        M.flat[:: m + 1] += np.where(weak, g, 0.0)
    while True:
        A = M.copy()
        if damping:
            A.flat[:: m + 1] += damping * np.abs(M.diagonal())
        L, info = lapack.dpotrf(A.T, lower=1, overwrite_a=1)
        if info == 0:
            step: Array = lapack.dpotrs(L, g, lower=1)[0]
            if some:
                np.maximum(step, -1.0, out=step, where=weak)
            gain = float(g @ step - 0.5 * step @ (M @ step))
            if some:
                with np.errstate(divide="ignore"):
                    np.log1p(step, out=step, where=weak)
            if max(step.max(), -step.min(where=step > -np.inf, initial=0.0)) <= radius:
                return step, gain
        damping = 3 * damping if damping else 0.1


def climb(problem: Problem, active: Array, alpha: Array, enough: float = DONE) -> Point:
    """Newton's method within a trust region. A column whose own best is zero, the others as they are, leaves."""
    noise = problem.noise
    block = problem.G[active[:, None], active]
    here = point(problem, active, alpha, block)
    radius = RADIUS
    for _ in range(MAX_STEPS):
        if problem.without_noise(here.q):
            return here
        c, u2 = here.c, here.u * here.u
        stays = u2 * noise.precision(here.q + u2 / c) > c * (1 - c)
        active, alpha, inner, fewer = here.active, here.alpha, block, not stays.all()
        if fewer:
            active, alpha, inner = active[stays], alpha[stays], block[stays][:, stays]
        if not len(active):
            return nothing(problem)
        step, gain = _newton(noise, here, radius, stays if fewer else None)
        on = step > -np.inf
        whole = bool(on.all())
        if whole:
            there = point(problem, active, alpha + step, inner)
        else:
            inner = inner[on][:, on]
            there = point(problem, active[on], alpha[on] + step[on], inner)
        if fewer:
            if there.value > here.value:
                here, block = there, inner
            else:
                block = block[stays][:, stays]
                here = point(problem, active, alpha, block)
            continue
        if whole and gain < enough:
            return there if there.value >= here.value - DONE * (1 + abs(here.value)) else here
        ratio = (there.value - here.value) / max(gain, DONE)
        if ratio < 0.25:
            radius = float(np.abs(step[on]).max(initial=radius if not whole else 0.0)) / 4
        elif ratio > 0.75:
            radius = min(2 * radius, FARTHEST)
        if ratio > 1e-4:
            here, block = there, inner
        elif radius < 1e-12:
            return here
    return here


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
    S = np.maximum(1.0 - np.einsum("mp,mp->p", W, W), 1e-14)
    return Columns(z - (at.s * at.u) @ GA, S, W)


def forward(problem: Problem, at: Point) -> Point:
    """Columns added and all climbed, until none gains."""
    polished = False
    while not problem.without_noise(at.q):
        added, ratios = _additions(problem, at)
        there = at
        if added:
            active, alpha = np.concatenate([at.active, np.array(added, int)]), np.concatenate([at.alpha, ratios])
            there = climb(problem, active, alpha, ROUGH)
        if there.value > at.value:
            at, polished = there, False
        elif polished:
            return at
        else:
            at, polished = max(climb(problem, at.active, at.alpha), at, key=lambda end: end.value), True
    return at


def _additions(problem: Problem, at: Point) -> tuple[list[int], list[float]]:
    """Columns that gain, the one that gains most first, each at its best given those before."""
    noise, G, q = problem.noise, problem.G, at.q
    R, S, known = columns(problem, at)
    m = len(known)
    W = np.empty((m + max(AT_ONCE, 2 * m), len(R)))
    W[:m] = known
    absent = np.ones(len(R))
    absent[at.active] = 0.0
    added: list[int] = []
    alpha: list[float] = []
    while m < len(W) and q > ROUNDING:
        x = R * R
        x /= S
        x *= absent
        j = int(x.argmax())
        t, gain = noise.best_one(x[j] / q, q)
        if gain < 1e-9:
            break
        w = G[j] - W[:m, j] @ W[:m]
        w *= math.sqrt(t / S[j])  # t/S = γ/(1 + γS)
        W[m] = w
        added.append(j)
        alpha.append(math.log(t / ((1 - t) * S[j])))
        q -= t * x[j]
        R = R - (math.sqrt(t / S[j]) * R[j]) * w
        S = np.maximum(S - w * w, 1e-14)
        absent[j] = 0.0
        m += 1
    return added, alpha


def _projected(problem: Problem, at: Point) -> tuple[Array, Array, Array]:
    """R, S and Q = XᵀPX, those of active columns from û and C: differences would leave no digits of strong ones."""
    R, S, W = columns(problem, at)
    Q = problem.G - blas.dgemm(1.0, W, W, trans_a=1)
    A = at.active
    if len(A):
        R, S = R.copy(), S.copy()
        R[A], S[A] = at.u / at.s, (1 - at.c) / at.s**2
        Q[A] = blas.dtrsm(1.0, at.L, W, lower=1, trans_a=1) / at.s[:, None]
        Q[A[:, None], A] = -at.C / at.s / at.s[:, None]
        Q[:, A] = Q[A].T
        Q[A, A] = S[A]
    return R, S, Q


class Pair(NamedTuple):
    """Another local maximum of two columns, the rest as it is."""

    gain: float
    columns: tuple[int, int]
    ratios: tuple[float, float]


def pairs(problem: Problem, at: Point) -> list[Pair] | None:
    """Other local maxima of pairs, the best first; None where no two columns are alike.

    For each pair of similar columns, P without both; and from there, each at its best given the other, in turn.
    """
    noise = problem.noise
    R, S, Q = _projected(problem, at)
    ratio, left = np.zeros(len(R)), np.ones(len(R))
    ratio[at.active], left[at.active] = at.s**2, at.c
    # Their squared correlation in P without both is Q_ij²/((S_il_j + γ_jQ_ij²)(S_jl_i + γ_iQ_ij²)), l = 1 − γS.
    square = Q * Q
    M = square * ratio
    M += np.multiply.outer(S, left)
    M *= M.T.copy()
    i, j = np.nonzero(np.tril(square > ALIKE * M, -1))
    if not len(i):
        return None
    a, b, c, gi, gj, li, lj = S[i], S[j], Q[i, j], ratio[i], ratio[j], left[i], left[j]
    det = li * lj - c * c * gi * gj
    sa, sb, sc = (a * lj + gj * c * c) / det, (b * li + gi * c * c) / det, c / det
    ra, rb = (lj * R[i] + c * gj * R[j]) / det, (li * R[j] + c * gi * R[i]) / det
    q = at.q + gi * R[i] * ra + gj * R[j] * rb
    now = noise.rise(q, np.full_like(q, at.q)) + np.log(det) / 2
    one, none = np.ones(len(i)), np.zeros(len(i))
    ga, gb = np.concatenate([9 / sa, one, none]), np.concatenate([9 / sb, none, one])  # both large, or either alone
    i, j, gi, gj, sa, sb, sc, ra, rb, q, now = (np.tile(x, 3) for x in (i, j, gi, gj, sa, sb, sc, ra, rb, q, now))

    def best(g: Array, s: Array, r: Array, s_other: Array, r_other: Array) -> Array:
        """The ratio of one column, given that of the other."""
        k = g / (1 + g * s_other)
        rest, left, without = s - k * sc * sc, r - k * sc * r_other, q - k * r_other**2
        t = noise.best(left * left / (rest * without), without)
        return t / ((1 - t) * rest)

    ga, gb = np.where(gb == 0, best(gb, sa, ra, sb, rb), ga), np.where(ga == 0, best(ga, sb, rb, sa, ra), gb)
    for _ in range(12):
        ga = best(gb, sa, ra, sb, rb)
        gb = best(ga, sb, rb, sa, ra)
    det = (1 + ga * sa) * (1 + gb * sb) - ga * gb * sc * sc
    left = q - (ga * ra * ra * (1 + gb * sb) + gb * rb * rb * (1 + ga * sa) - 2 * ga * gb * sc * ra * rb) / det
    gain = noise.rise(q, np.maximum(left, ROUNDING)) - np.log(det) / 2 - now
    other = ((ga > 0) != (gi > 0)) | ((gb > 0) != (gj > 0))
    found = np.flatnonzero((other & (gain > -NEAR)) | (gain > LEAST))
    found = found[np.argsort(-gain[found], kind="stable")]
    return [Pair(float(gain[k]), (int(i[k]), int(j[k])), (float(ga[k]), float(gb[k]))) for k in found]


def exchange(problem: Problem, at: Point) -> tuple[Point, bool]:
    """Pairs set to their other local maxima, and all climbed, as long as that gains; and whether any two are alike."""
    tried: set[tuple[int, ...]] = set()
    found = pairs(problem, at) if not problem.without_noise(at.q) else None
    alike = found is not None
    while found:
        better = None
        for pair in found[:MOST_TRIED]:
            rest = ~np.isin(at.active, pair.columns)
            on = np.array(pair.ratios) > 0
            active = np.concatenate([at.active[rest], np.array(pair.columns)[on]])
            key = tuple(sorted(active.tolist()))
            if key in tried:
                continue
            tried.add(key)
            alpha = np.concatenate([at.alpha[rest], np.log(np.array(pair.ratios)[on])])
            other = forward(problem, climb(problem, active, alpha, ROUGH))
            if other.value > at.value + LEAST:
                better = other
                break
        if better is None:
            break
        at = better
        found = pairs(problem, at) if not problem.without_noise(at.q) else None
    return at, alike


MOST_TRIED = 200


def search(problem: Problem) -> Point | noiseless.Fit:
    """The best maximum that these moves find, with noise or without.

    Where no two columns are alike, and where there are many, columns are added from none only; otherwise there are
    starts from all columns, at the same ratio and at random ones.
    """
    p = len(problem.z)
    if not p:
        return nothing(problem)
    at, alike = exchange(problem, forward(problem, nothing(problem)))
    ends = [at]
    if alike and p <= FEW:
        highest = at.value
        for start in _starts(p, 20 if problem.full else 4):
            end = forward(problem, climb(problem, np.arange(p), start, ROUGH))
            if end.value > highest - HOPE and abs(end.value - highest) > LEAST:
                end, _ = exchange(problem, end)
            highest = max(highest, end.value)
            ends.append(end)
    bare = [end for end in ends if problem.without_noise(end.q)]
    noisy = [end for end in ends if not problem.without_noise(end.q)]
    best = max(noisy, key=lambda end: end.value, default=None)
    by_correlation = np.argsort(-np.abs(problem.z))
    if problem.full and (bare or p <= FEW):
        starts = [end.active[np.argsort(-np.abs(end.s * end.u))] for end in bare] or [by_correlation]
        fit = noiseless.search(problem.G, problem.z, int(problem.noise.n), starts)
        if fit is not None:
            return fit if best is None or fit.value > best.value else best
    if bare:  # the evidence has no bound: the fewest columns that fit y exactly
        fewest = min(bare, key=lambda end: len(end.active))
        rank = noiseless.rank(problem.G)
        fit = noiseless.search(problem.G, problem.z, rank, [by_correlation]) if len(fewest.active) >= rank else None
        return fit or fewest
    assert best is not None  # no start without noise, so one with it
    return best


HOPE = 5.0
"""Nats that an end may be worse than the best and still be worth exchanging pairs."""


def _starts(p: int, n: int) -> list[Float[Array, "p"]]:
    rng = np.random.default_rng(0)
    drawn = [rng.uniform(-1, 6) + 2 * rng.standard_normal(p) for _ in range(n)]
    return [np.full(p, level) for level in LEVELS] + drawn


def maxima(data: Gram, theta: Float[Array, "k"], free: Bool[Array, "k"]) -> Float[Array, "V k"]:
    """θ at the best maximum found for every target over the free coordinates.

    Scales that are held above zero become part of the noise's covariance; then the noise must be held, too.
    """
    V = len(data.products)
    out = np.tile(theta, (V, 1))
    out[:, :-1][:, free[:-1]] = 0.0
    base = solver(data, np.append(np.where(free[:-1], 0.0, theta[:-1] ** 2), 1.0 if free[-1] else theta[-1] ** 2))
    learned = np.flatnonzero(free[data.place])
    Q = base.gram(learned)
    length = np.sqrt(np.maximum(Q.diagonal(), 0.0))
    if not length.all():
        learned, Q, length = learned[length > 0], Q[length > 0][:, length > 0], length[length > 0]
    G = Q / length
    G /= length[:, None]
    alike = np.abs(G) > 1 - TWINS
    if np.count_nonzero(alike) > len(learned):  # of columns that are the same, the first stands for all
        twins = np.triu(alike, 1).any(axis=0)
        learned, length, G = learned[~twins], length[~twins], G[~twins][:, ~twins]
    full = bool(free[-1]) and len(learned) >= data.n_directions == data.n_free
    r, q = base.correlations(learned, slice(0, V)), base.quadratic(slice(0, V))
    for v in np.flatnonzero(q > 0):
        root = math.sqrt(q[v])
        noise = Noise(data.n_free, 0.0 if free[-1] else 1 / q[v])
        outside = None if base.active.size else _outside(data, learned, root * np.sqrt(base.noise) / length, int(v))
        best = search(Problem(G, r[v] / (length * root), noise, outside, full))
        if isinstance(best, noiseless.Fit):
            b = 0.0 if len(best.columns) == data.n_free else EPS**2 * q[v]
            own, scales = best.columns, np.abs(best.weights) * root
        else:
            b = float(q[v] * best.q / data.n_free) if free[-1] else 1.0
            own, scales = best.active, np.exp(best.alpha / 2) * math.sqrt(b)
        out[v, data.place[learned[own]]] = scales / length[own]
        if free[-1]:
            out[v, -1] = math.sqrt(b)
    if free[-1]:
        out[~(q > 0), -1] = 0.0
    return out


def _outside(data: Gram, columns: Array, unit: Array, v: int) -> Callable[[Array, Array], float]:
    """|y − Xw|² in units of |y|², from the rows; no smaller than rounding."""

    def outside(active: Array, w: Array) -> float:
        e = data.outside((w * unit[active])[:, None], columns[active], slice(v, v + 1))[:, 0]
        return max(float(e @ e / data.total[v]), EPS**2 * data.n_free)

    return outside
