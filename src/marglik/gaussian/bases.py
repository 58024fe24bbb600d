# SPDX-License-Identifier: BSD-3-Clause
"""Bases in which (A + λI)⁻¹ is cheap for any λ: eigenvectors, and for a single target a tridiagonal form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, eigh_tridiagonal, lapack

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

PANEL = 16
"""Columns that the tridiagonal reduction takes at a time."""
CHUNK = 8192
"""Numbers in an array of pivots: so few stay in cache."""


class Moments(NamedTuple):
    """m = cᵀ(aA + bI)⁻¹c and its derivatives in a and b, for each target."""

    m: Float[Array, "V"]
    da: Float[Array, "V"]
    db: Float[Array, "V"]
    daa: Float[Array, "V"]
    dab: Float[Array, "V"]
    dbb: Float[Array, "V"]


class Ridged(NamedTuple):
    """What the evidence needs at λ: S = λ cᵀ(A + λI)⁻¹c and L = −½ log|A/λ + I|, with derivatives in log λ.

    Each is a number, or (V,) for targets at a λ of their own.
    """

    S: Float[Array, "*V"]
    S1: Float[Array, "*V"]
    S2: Float[Array, "*V"]
    L: Float[Array, "*V"]
    L1: Float[Array, "*V"]
    L2: Float[Array, "*V"]


class Basis(ABC):
    """A in a basis where (A + λI)⁻¹ is cheap, with the targets' coordinates c in it."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of eigenvalues of A above rounding error."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Between which they lie."""

    @property
    @abstractmethod
    def eigenvalues(self) -> Float[Array, "r"]:
        """Those above rounding error, ascending."""

    @property
    @abstractmethod
    def eigenvectors(self) -> Float[Array, "m r"]:
        """Theirs, as columns."""

    @abstractmethod
    def explained(self) -> Float[Array, "V"]:
        """|c|²: squared length of y inside the span of X."""

    @abstractmethod
    def unridged(self, targets: slice) -> tuple[Float[Array, "V"], float]:
        """cᵀA⁻¹c, and log|A|, over the rank."""

    @abstractmethod
    def moments(self, targets: slice, a: Float[Array, "V"], b: Float[Array, "V"]) -> Moments:
        """The explained part of the quadratic form."""

    @abstractmethod
    def slopes(self, targets: slice, shifts: Float[Array, "g"]) -> tuple[Array, Array, Array]:
        """S and S1 (V, g), and L1 (g,), of `Ridged` on a grid of λ."""

    @abstractmethod
    def ridged(self, target: int, shift: float) -> Ridged:
        """For one target at one λ."""

    @abstractmethod
    def filtered(self, targets: slice, a: Float[Array, "V"], b: Float[Array, "V"]) -> Float[Array, "V m"]:
        """a (aA + bI)⁻¹ applied to the targets' XᵀY (or Y, in the dual), back in the original basis."""


@dataclass(frozen=True, eq=False)
class Eigen(Basis):
    """A = U diag(d) Uᵀ: for many targets, or few columns.

    Parameters
    ----------
    values : (r,)
        d.
    vectors : (p, r)
    coordinates : (V, r)
        UᵀXᵀy (primal) or Uᵀy (dual).
    squares : (V, r)
        c∘c, for c the coordinates of y along the left singular vectors.
    """

    values: Float[Array, "r"]
    vectors: Float[Array, "p r"]
    coordinates: Float[Array, "V r"]
    squares: Float[Array, "V r"]

    @property
    def eigenvalues(self):
        return self.values

    @property
    def eigenvectors(self):
        return self.vectors

    @property
    def rank(self):
        return len(self.values)

    @property
    def bounds(self):
        return float(self.values[0]), float(self.values[-1])

    @cached_property
    def _ones(self) -> Float[Array, "r"]:
        """To sum over eigenvalues by BLAS: faster than NumPy's sum, for short rows above all."""
        return np.ones(self.rank)

    def explained(self):
        return self.squares.dot(self._ones)

    def unridged(self, targets):
        return self.squares[targets] @ (1 / self.values), float(np.log(self.values).sum())

    def moments(self, targets, a, b):
        d = self.values
        inverse = 1 / (np.multiply.outer(a, d) + b[:, None])
        first = self.squares[targets] * inverse
        second = first * inverse
        third = second * inverse
        return Moments(
            first.sum(axis=1),
            -(second @ d),
            -second.sum(axis=1),
            2 * (third @ (d * d)),
            2 * (third @ d),
            2 * third.sum(axis=1),
        )

    def slopes(self, targets, shifts):
        c2, d = self.squares[targets], self.values[:, None]
        v = d + shifts
        kept, share = d / v, shifts / v
        return c2 @ share, c2 @ (share * kept), self._ones @ kept / 2

    def ridged(self, target, shift):
        return self._ridged(self.squares[target], shift)

    def ridged_each(self, targets: slice | Array, shifts: Float[Array, "V"]) -> Ridged:
        """For several targets, each at its own λ."""
        return self._ridged(self.squares[targets], shifts[:, None])

    def _ridged(self, c2: Float[Array, "*V r"], shift: Float[Array, "*V 1"] | float) -> Ridged:
        d, ones = self.values, self._ones
        v = d + shift
        kept, share = d / v, shift / v
        first = c2 * share
        second = first * kept
        S1, trace = second.dot(ones), kept.dot(ones)
        S2 = S1 - 2 * (second * share).dot(ones)
        L = np.log(share).dot(ones) / 2
        return Ridged(first.dot(ones), S1, S2, L, trace / 2, ((kept * kept).dot(ones) - trace) / 2)

    def filtered(self, targets, a, b):
        z = self.coordinates[targets]
        v = a[:, None] * self.values + b[:, None]
        if np.count_nonzero(b) < len(b):  # neither signal nor noise: a constant target
            v[(a == 0) & (b == 0)] = 1.0
        return (z * (a[:, None] / v)) @ self.vectors.T


class Chain(NamedTuple):
    """A tridiagonal matrix C with the eigenvalues of A, such that cᵀf(A)c = |c|² f(C)_mm for every f.

    Parameters
    ----------
    diagonal, off_diagonal
        Of C.
    square
        |c|².
    """

    diagonal: Float[Array, "m"]
    off_diagonal: Float[Array, "m-1"]
    square: float


@dataclass(frozen=True, eq=False)
class Tridiagonal(Basis):
    """A = Q T Qᵀ with tridiagonal T, the last column of Q along z: for one target, at a sixth of the cost of
    eigenvectors.

    z is Xᵀy in the primal and y in the dual (Golub & Meurant 2010, §4). All that the evidence asks for is in the pivots
    δ of C + λI = L diag(δ) Lᵀ, with l below the diagonal of L, and their derivatives in λ:

        δ_{i+1} = c_{i+1} + λ − l_i² δ_i,    δ'_{i+1} = 1 + l_i² δ'_i,    δ''_{i+1} = l_i² (δ''_i − 2 δ'_i²/δ_i)
        log|A + λI| = Σ log δ,    tr(A + λI)⁻¹ = Σ δ'/δ,    cᵀ(A + λI)⁻¹c = |c|²/δ_m

    C is T in the dual, where c = z. In the primal c = A^−½z, and with T = MMᵀ, M lower bidiagonal, C is MᵀM.

    Parameters
    ----------
    diagonal, off_diagonal
        Of T.
    length
        Of z, with the sign that Q's last column has.
    chain
        C and |c|².
    reflectors, mirror
        Of Q, which is a product of them with the order of columns reversed.
    norms
        1/‖T⁻¹‖ and ‖T‖, after Frobenius.
    lifted
        The eigenvalue of A's null space, and how many times it occurs there; see `marglik.gaussian.spectrum.Projected`.
    """

    diagonal: Float[Array, "m"]
    off_diagonal: Float[Array, "m-1"]
    length: float
    chain: Chain
    reflectors: tuple[Array, Array]
    mirror: Float[Array, "m"]
    norms: tuple[float, float]
    lifted: tuple[float, int]

    @property
    def rank(self):
        return len(self.diagonal) - self.lifted[1]

    @property
    def bounds(self):
        return self.norms

    @cached_property
    def eigenvalues(self):
        return lapack.dsterf(self.diagonal, self.off_diagonal)[0][: self.rank]

    @cached_property
    def eigenvectors(self):
        vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal, check_finite=False)[1]
        return self._turned(vectors[:, : self.rank])

    def explained(self):
        return np.array([self.chain.square])

    def unridged(self, targets):
        pivots, _ = self._pivots(np.zeros(1))
        lifted, times = self.lifted
        log_det = np.log(pivots).sum() - (times * math.log(lifted) if times else 0.0)
        return self.chain.square / pivots[-1:], float(log_det)

    def moments(self, targets, a, b):
        diagonal, off, square = self.chain
        factor = _factor(diagonal, off, a, b)
        c = _last(len(diagonal), math.sqrt(square))
        x = _solved(factor, c)
        Cx = diagonal * x
        Cx[:-1] += off * x[1:]
        Cx[1:] += off * x[:-1]
        x2, Cx2 = _solved(factor, x), _solved(factor, Cx)
        pairs = ((c, x), (-Cx, x), (-x, x), (2 * Cx, Cx2), (2 * Cx, x2), (2 * x, x2))
        return Moments(*(np.array([u.dot(v)]) for u, v in pairs))

    def slopes(self, targets, shifts):
        each = max(1, CHUNK // len(self.diagonal))
        parts = [self._slopes(shifts[i : i + each]) for i in range(0, len(shifts), each)]
        S, S1, L1 = np.concatenate(parts, axis=1)
        return S[None], S1[None], L1

    def _slopes(self, shifts: Float[Array, "g"]) -> Float[Array, "3 g"]:
        pivots, lower = self._pivots(shifts)
        m, (lifted, times) = len(self.diagonal), self.lifted
        squares = lower * lower
        first = _recurrence(squares, np.ones(len(pivots)))
        kept = self._kept(pivots, squares, np.repeat(shifts, m) * first)
        L1 = (kept.reshape(-1, m) @ np.ones(m) - times * lifted / (lifted + shifts)) / 2
        S = shifts * self.chain.square / pivots[m - 1 :: m]
        return np.array([S, S * kept[m - 1 :: m], L1])

    def ridged(self, target, shift):
        pivots, lower = self._pivots(np.array([shift]))
        squares = lower * lower
        first, second = _derivatives(pivots, squares)
        kept = self._kept(pivots, squares, shift * first)
        moved, bent = shift * first / pivots, shift * shift * second / pivots
        lifted, times = self.lifted
        of_lifted = lifted / (lifted + shift)
        L = (times * math.log1p(lifted / shift) - np.log(pivots / shift).sum()) / 2
        L1 = (kept.sum() - times * of_lifted) / 2
        L2 = (times * of_lifted * (1 - of_lifted) - kept.dot(moved) - bent.sum()) / 2
        S, k = shift * self.chain.square / pivots[-1], kept[-1]
        return Ridged(S, S * k, S * (k - bent[-1] - 2 * k * moved[-1]), L, L1, L2)

    def filtered(self, targets, a, b):
        z = _last(len(self.diagonal), self.length)
        x = a * _solved(_factor(self.diagonal, self.off_diagonal, a, b), z)
        return self._turned(x[:, None]).T

    def _pivots(self, shifts: Float[Array, "g"]) -> tuple[Array, Array]:
        """δ and l for every shift, one after the other."""
        return _factor(self.chain.diagonal, self.chain.off_diagonal, 1.0, shifts)

    def _kept(self, pivots: Array, squares: Array, moved: Array) -> Array:
        """Terms of tr C(C + λI)⁻¹, one shift after the other: q/δ with q = δ − λδ'.

        Formed as q_{i+1} = c_{i+1} − l_i² (δ_i + λδ'_i): at a large λ nothing cancels.
        """
        q = np.tile(self.chain.diagonal, len(pivots) // len(self.diagonal))
        q[1:] -= squares * (pivots[:-1] + moved[:-1])
        q /= pivots
        return q

    def _turned(self, V: Float[Array, "m r"]) -> Float[Array, "m r"]:
        """QV."""
        V = np.asfortranarray(V[::-1])
        if len(V) > 2:
            V[1:] = lapack.dormqr("L", "N", *self.reflectors, V[1:], PANEL * V.shape[1])[0]
        return V - np.multiply.outer(self.mirror, self.mirror @ V)


def tridiagonal(
    A: Float[Array, "m m"], z: Float[Array, "m"], primal: bool, lifted: tuple[float, int], rounding: float
) -> Tridiagonal | None:
    """The tridiagonal form from A's lower triangle, if it has full rank with room to spare; else None.

    A mirror H = I − vvᵀ takes z to the first axis, which the reduction of HAH leaves alone.
    """
    m, length = len(A), blas.dnrm2(z)
    v = z / length if length else _last(m, 1.0)
    sign = math.copysign(1.0, v[0])
    v[0] += sign
    v /= math.sqrt(abs(v[0]))
    Av = blas.dsymv(1.0, A, v, lower=1)
    turned = blas.dsyr2(-1.0, v, Av - v.dot(Av) / 2 * v, a=A, lower=1)
    turned, diagonal, off, tau, _ = lapack.dsytrd(turned, lower=1, lwork=PANEL * m, overwrite_a=1)
    diagonal, off = diagonal[::-1].copy(), off[::-1].copy()
    pivots, lower, failed = lapack.dpttrf(diagonal, off)
    if failed:
        return None
    norms = _norms(diagonal, off, pivots, lower, lifted)
    if not norms[0] > max(1e-10 * norms[1], rounding):
        return None
    chain = Chain(diagonal, off, length**2)
    if primal:  # M = L diag(√δ)
        root = np.sqrt(pivots)
        below = lower * root[:-1]
        inside = pivots.copy()
        inside[:-1] += below**2
        chain = Chain(inside, below * root[1:], length**2 / pivots[-1])
    reflectors = turned.ravel("F")[1 : m * (m - 1) + 1].reshape((m, m - 1), order="F")  # one row down, not copied
    return Tridiagonal(diagonal, off, -sign * length, chain, (reflectors, tau), v, norms, lifted)


def _norms(diagonal: Array, off: Array, pivots: Array, lower: Array, lifted: tuple[float, int]) -> tuple[float, float]:
    """1/‖T⁻¹‖ and ‖T‖ without the lifted eigenvalues: tr T⁻² = −∂/∂λ Σ δ'/δ at λ = 0."""
    first, second = _derivatives(pivots, lower * lower)
    ratio, (value, times) = first / pivots, lifted
    inverse = ratio.dot(ratio) - (second / pivots).sum()
    return 1 / math.sqrt(inverse), math.sqrt(diagonal.dot(diagonal) + 2 * off.dot(off) - times * value**2)


def _last(m: int, x: float) -> Float[Array, "m"]:
    """Zeros, with x at the end."""
    out = np.zeros(m)
    out[-1] = x
    return out


def _factor(
    diagonal: Array, off_diagonal: Array, a: Float[Array, "g"] | float, b: Float[Array, "g"]
) -> tuple[Array, Array]:
    """δ and l of every aT + bI: one after the other on the diagonal, they are one tridiagonal matrix."""
    of_a = np.multiply.outer(a, diagonal) + b[:, None]
    off = np.zeros_like(of_a)
    off[:, :-1] = np.multiply.outer(a, off_diagonal)
    pivots, lower, _ = lapack.dpttrf(of_a.reshape(-1), off.reshape(-1)[:-1], overwrite_d=1, overwrite_e=1)
    return pivots, lower


def _solved(factor: tuple[Array, Array], v: Float[Array, "m"]) -> Float[Array, "m"]:
    """(aT + bI)⁻¹v."""
    return lapack.dpttrs(*factor, v)[0]


def _derivatives(pivots: Array, squares: Array) -> tuple[Array, Array]:
    """δ' and δ''."""
    first = _recurrence(squares, np.ones(len(pivots)))
    forcing = np.zeros(len(pivots))
    forcing[1:] = -2 * squares * first[:-1] ** 2 / pivots[:-1]
    return first, _recurrence(squares, forcing)


def _recurrence(factors: Array, forcing: Array) -> Array:
    """x_{i+1} = f_i x_i + v_{i+1}; v is overwritten."""
    band = np.empty((2, len(forcing)), order="F")  # a unit diagonal, which is not read, and −f below it
    np.negative(factors, out=band[1, :-1])
    return blas.dtbsv(1, band, forcing, lower=1, diag=1, overwrite_x=1)
