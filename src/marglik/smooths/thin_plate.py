# SPDX-License-Identifier: BSD-3-Clause
"""Thin plate regression splines: of all functions of k dimensions those that bend least, in any number of covariates.

References: Wood (2003), Journal of the Royal Statistical Society B 65, 95.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import PPoly
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh

from marglik.pieces import Polynomials
from marglik.smooths.base import Asked, NamedBasis
from marglik.smooths.knots import check_distinct, check_reached, distinct
from marglik.smooths.sampling import sample

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

CHUNK = 2**21
"""Numbers in a piece of the kernel matrix between rows and points."""
DENSE = 400
"""Number of points up to which all eigenvectors are found."""


@dataclass(frozen=True, eq=False)
class ThinPlate(NamedBasis):
    """Thin plate regression spline (Wood 2003).

        f(x) = Σ_i δ_i η(|x − x_i|) + Σ_j α_j φ_j(x),    Tᵀδ = 0,    ∫ |∇^m f|² = δᵀEδ

    E_ij = η(|x_i − x_j|), and φ are the M polynomials of degree below m, T their values at the points. E is replaced by
    U D Uᵀ, its k largest eigenvalues in size, positive ones first. With an orthonormal Z for the null space of TᵀU and

        δ = U Z β,    S = ZᵀDZ

    k − M coefficients β remain beside α. Each function is then scaled to a mean square of one over the data. Signs of
    eigenvectors are a matter of taste, so those of the first k − M functions are too.

    Parameters
    ----------
    points : (q, d)
        x_i less `centre`: the distinct rows of the data, a sample of `max_knots` of them, or knots.
    centre : (d,)
        Mean of the data.
    order
        m: if it is not given, the smallest with 2m > d + 1.
    weights : (q, k - M)
        UZ, divided by the functions' scales.
    units : (M,)
        1 over the scales of the polynomials.
    penalty : (k, k)

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import s
    >>> x = np.linspace(0, 1, 50)
    >>> (smooth,) = s({"x": x}, "x", k=6)
    >>> smooth.basis.design([x]).shape, bool(np.allclose((smooth.basis.design([x]) ** 2).mean(axis=0), 1))
    ((50, 6), True)
    """

    bs = "tp"
    rotated = True
    points: Float[Array, "q d"]
    centre: Float[Array, "d"]
    order: int
    weights: Float[Array, "q r"]
    units: Float[Array, "M"]
    penalty: Float[Array, "k k"]

    @classmethod
    def of(cls, x, asked):
        X = np.column_stack(x)
        d, m = X.shape[1], _order(asked)
        M = math.comb(m + d - 1, d)
        k = asked.size(M + {1: 8, 2: 27}.get(d, 100), M + 1)
        centre = X.mean(axis=0)
        points = _points(X, k, asked) - centre
        T = _polynomials(points, m)
        if np.linalg.matrix_rank(T / np.linalg.norm(T, axis=0)) < M:
            raise ValueError(
                f"{asked.label} cannot tell its polynomials of degree below {m} apart: the covariates lie on a line or "
                "curve. Leave one out, or use te()."
            )
        D, U = _largest(points, m, k)
        Z = _null_space(T.T @ U)
        S = np.zeros((k, k))
        S[:-M, :-M] = Z.T @ (D @ Z)
        raw = cls(points, centre, m, U @ Z, np.ones(M), S)
        pieces = raw.pieces(x)
        squares = (raw.design(x) ** 2).sum(axis=0) if pieces is None else pieces.squares
        units = 1 / np.sqrt(squares / len(X))
        out = cls(points, centre, m, raw.weights * units[:-M], units[-M:], S * np.outer(units, units))
        if pieces is not None:
            out.__dict__["_pieces"] = PPoly(raw._pieces.c * units[:-M], raw._pieces.x)
        return out

    def design(self, x):
        X = np.column_stack(x) - self.centre
        if X.shape[1] == 1:
            bent = self._pieces(X[:, 0])
        else:
            each = max(1, CHUNK // len(self.points))
            chunks = (X[start : start + each] for start in range(0, max(len(X), 1), each))
            bent = np.concatenate([_kernel(chunk, self.points, self.order) @ self.weights for chunk in chunks])
        return np.hstack([bent, _polynomials(X, self.order) * self.units])

    def pieces(self, x):
        return None if len(x) > 1 else self._polynomials.at(x[0] - self.centre[0])

    @cached_property
    def _polynomials(self) -> Polynomials:
        """All functions of one covariate, x^j = Σ_r (j over r) start^{j−r} (x − start)^r."""
        curve, m = self._pieces, self.order
        starts = curve.x[:-1]
        straight = np.zeros((2 * m, len(starts), m))
        for r in range(m):
            for j in range(r, m):
                straight[r, :, j] = math.comb(j, r) * starts ** (j - r) * self.units[j]
        widths = np.append(np.diff(starts), np.ptp(self.points))
        return Polynomials.of(starts, widths, np.concatenate([curve.c[::-1], straight], axis=2))

    @cached_property
    def _pieces(self) -> PPoly:
        """Σ_i δ_i η(|x − x_i|) of one covariate, which is a polynomial between neighbouring points.

        |t + h|^p = Σ_r (p over r) |t|^{p−r} sign(t)^r h^r    while t + h has the sign of t
        """
        points, p = self.points[:, 0], 2 * self.order - 1
        starts = np.append(points[0] - np.ptp(points), points)
        sums = Line.of(starts, p).sums(np.vstack([np.zeros(self.weights.shape[1]), self.weights]))
        pieces = [_constant(1, self.order) * math.comb(p, r) * sums[p - r] for r in range(p, -1, -1)]
        return PPoly(np.array(pieces), np.append(starts, np.inf))

    @property
    def penalties(self):
        return (self.penalty,)

    @property
    def null_dimension(self):
        return len(self.units)


def _order(asked: Asked) -> int:
    d = len(asked.names)
    if asked.m is None:
        return (d + 1) // 2 + 1
    m = np.ravel(asked.m)
    if len(m) != 1 or m[0] != int(m[0]) or 2 * m[0] <= d:
        raise ValueError(
            f"{asked.label} gives m={asked.m!r}, but the order of a thin plate is a whole number above half the number "
            f"of covariates: here {d // 2 + 1} or more."
        )
    return int(m[0])


def _points(X: Float[Array, "n d"], k: int, asked: Asked) -> Float[Array, "q d"]:
    """Knots, or distinct rows, thinned where there are many."""
    knots = asked.given_knots()
    if knots is not None:
        for j, name in enumerate(asked.names):
            check_reached(X[:, j], knots[:, j], name, asked)
        if len(knots) < k:
            raise ValueError(f"{asked.label} asks for k={k} functions, but has only {len(knots)} knots.")
        return knots
    rows = np.unique(X, axis=0) if X.shape[1] > 1 else distinct(X[:, 0])[:, None]
    check_distinct(len(rows), k, asked)
    if len(rows) > asked.max_knots:
        check_distinct(asked.max_knots, k, asked)
        return rows[np.sort(sample(len(rows), asked.max_knots))]
    return rows


def _kernel(X: Float[Array, "n d"], points: Float[Array, "q d"], m: int) -> Float[Array, "n q"]:
    """η(r) between rows and points.

    η(r) = Γ(d/2 − m) / (2^{2m} π^{d/2} (m − 1)!) r^{2m−d}                                   for odd d
    η(r) = (−1)^{m+1+d/2} / (2^{2m−1} π^{d/2} (m − 1)! (m − d/2)!) r^{2m−d} log r            for even d
    """
    d = X.shape[1]
    r2 = sum((X[:, j, None] - points[:, j]) ** 2 for j in range(d))
    if d % 2:
        return _constant(d, m) * _power(np.sqrt(r2), 2 * m - d)
    log_r = np.log(r2, out=np.zeros_like(r2), where=r2 > 0) / 2
    return _constant(d, m) * _power(r2, m - d // 2) * log_r


def _constant(d: int, m: int) -> float:
    """What stands before the power of r in η."""
    common = 4**m * math.pi ** (d / 2) * math.factorial(m - 1)
    if d % 2:
        return math.gamma(d / 2 - m) / common
    return (-1) ** (m + 1 + d // 2) * 2 / (common * math.factorial(m - d // 2))


def _power(r: Array, n: int) -> Array:
    """rⁿ by products: much faster than `**` for n above two."""
    out = r.copy()
    for _ in range(n - 1):
        out *= r
    return out


def _powers(d: int, m: int) -> Int[Array, "M d"]:
    """Exponents of the polynomials of degree below m, the first covariate's fastest."""
    return np.array([p[::-1] for p in product(range(m), repeat=d) if sum(p) < m])


def _polynomials(X: Float[Array, "n d"], m: int) -> Float[Array, "n M"]:
    return np.column_stack([np.prod(X**p, axis=1) for p in _powers(X.shape[1], m)])


def _largest(points: Float[Array, "q d"], m: int, k: int) -> tuple[Float[Array, "k k"], Float[Array, "q k"]]:
    """The k eigenvalues of E largest in size, descending on a diagonal, with their vectors; E and I if k = q."""
    q, d = points.shape
    if q > DENSE and 4 * k <= q:
        E = Line.of(points[:, 0], 2 * m - 1).kernel(m) if d == 1 else _kernel(points, points, m)
        D, U = eigsh(E, k, which="LM", v0=np.ones(q))
    elif k < q:
        D, U = eigh(_kernel(points, points, m))
    else:
        return _kernel(points, points, m), np.eye(k)
    largest = np.argsort(-np.abs(D))[:k]
    descending = largest[np.argsort(-D[largest])]
    return np.diag(D[descending]), U[:, descending]


@dataclass(frozen=True, eq=False)
class Line:
    """Sums over all points of a line at each of them, in a time that grows with their number alone.

        Σ_i sign(x_j − x_i) (x_j − x_i)^s v_i = Σ_r (s over r) x_j^{s−r} S_rj
        S_rj = Σ_{i ≤ j} (−x_i)^r v_i − Σ_{i > j} (−x_i)^r v_i

    No more digits cancel than in the sum itself, with the middle of the points as zero.

    Parameters
    ----------
    powers : of (q,)
        x^r, x from −1 to 1 and ascending.
    half
        What x is in units of.
    """

    powers: tuple[Float[Array, "q"], ...]
    half: float

    @classmethod
    def of(cls, points: Float[Array, "q"], degree: int) -> Line:
        """For s up to a degree."""
        half = float(np.ptp(points)) / 2
        x = (points - points[0]) / half - 1
        return cls(tuple(x**r for r in range(degree + 1)), half)

    def sums(self, V: Float[Array, "q c"]) -> list[Float[Array, "q c"]]:
        """For each s."""
        S = self._from_the_left(V)
        return [self._sum(s, S) for s in range(len(self.powers))]

    def kernel(self, m: int) -> LinearOperator:
        """E: (x_j − x_i)^{2m−1} with its sign is |x_j − x_i|^{2m−1}."""
        q, c = len(self.powers[0]), _constant(1, m)
        degree = 2 * m - 1
        return LinearOperator(
            (q, q), lambda v: c * self._sum(degree, self._from_the_left(v.reshape(-1, 1)))[:, 0], dtype=float
        )

    def _from_the_left(self, V: Float[Array, "q c"]) -> list[Float[Array, "q c"]]:
        parts = (np.cumsum((-1) ** r * x[:, None] * V, axis=0) for r, x in enumerate(self.powers))
        return [2 * part - part[-1] for part in parts]

    def _sum(self, s: int, S: list[Float[Array, "q c"]]) -> Float[Array, "q c"]:
        return self.half**s * sum(math.comb(s, r) * self.powers[s - r][:, None] * S[r] for r in range(s + 1))


def _null_space(A: Float[Array, "M k"]) -> Float[Array, "k k-M"]:
    """Z with A Q = [0, T], Q = [Z, Y], T with zeros above its other diagonal: by mirrors, from the first row on."""
    M, k = A.shape
    Q = np.eye(k)
    for i in range(M):
        v = (A @ Q)[i, : k - i]
        v[-1] += np.copysign(np.linalg.norm(v), v[-1])
        Q[:, : k - i] -= np.outer(Q[:, : k - i] @ v, v * (2 / v.dot(v)))
    return Q[:, : k - M]
