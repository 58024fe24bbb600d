# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian model with one shared scale keeps of its rows: the spectrum of its design, and y in that basis.

With flat columns projected out, y has covariance a A + b I on n − f directions, a = s² the variance of a weight and
b = σ² that of the noise. A is XXᵀ, or XᵀX where that is smaller; either way yᵀ(aA + bI)⁻¹y and its derivatives, for
any a and b, cost O(p) a target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from marglik.linalg import solve_upper

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

EPS = float(np.finfo(float).eps)
KEPT = 1e-2
"""If projecting flat columns out leaves less than this share of a column's square, project first and multiply then."""
CHUNK = 4_000_000
"""Numbers of the response that are read at a time."""
BLOCK = 256
"""Targets handled at a time, so that their share of the arrays stays in cache."""


FEW = 8


class Moments(NamedTuple):
    """m = cᵀ(aA + bI)⁻¹c and its derivatives in a and b, for each target."""

    m: Float[Array, "V"]
    da: Float[Array, "V"]
    db: Float[Array, "V"]
    daa: Float[Array, "V"]
    dab: Float[Array, "V"]
    dbb: Float[Array, "V"]


class Basis(ABC):
    """A in a basis where (aA + bI)⁻¹ is cheap, with the targets' coordinates in it."""

    eigenvalues: Float[Array, "r"]

    @abstractmethod
    def explained(self, targets: slice) -> Float[Array, "V"]:
        """|c|²: squared length of y inside the span of X."""

    @abstractmethod
    def moments(self, targets: slice | Array, a: Float[Array, "V"], b: Float[Array, "V"]) -> Moments:
        """The explained part of the quadratic form."""

    @abstractmethod
    def profile(self, targets: slice, shifts: Float[Array, "g"]) -> tuple[Float[Array, "V g"], Float[Array, "V g"]]:
        """λ cᵀ(A + λI)⁻¹c and its derivative in log λ, on a grid of λ."""

    @abstractmethod
    def quadratic(self, targets: slice | Array, shift: Float[Array, "V"]) -> tuple[Array, Array, Array]:
        """λ cᵀ(A + λI)⁻¹c and its first two derivatives in log λ, each target at its own λ (or one, as scalars)."""

    @cached_property
    def _ones(self) -> Float[Array, "r"]:
        """To sum over eigenvalues by BLAS: faster than NumPy's sum, for short rows above all."""
        return np.ones(len(self.eigenvalues))

    def half_trace(self, shifts: Float[Array, "g"]) -> Float[Array, "g"]:
        """First derivative in log λ of `half_log_det`, on a grid of λ."""
        return (self._ones / 2) @ (self.eigenvalues[:, None] / (self.eigenvalues[:, None] + shifts))

    def half_log_det(self, shift: Float[Array, "V"]) -> Float[Array, "V"]:
        """−½ log|A/λ + I|."""
        return np.log1p(self.eigenvalues / shift[..., None]) @ self._ones / -2

    def half_traces(self, shift: Float[Array, "V"]) -> tuple[Float[Array, "V"], Float[Array, "V"]]:
        """First two derivatives in log λ of `half_log_det`."""
        kept = self.eigenvalues / (self.eigenvalues + shift[..., None])
        trace = kept @ self._ones
        return trace / 2, ((kept * kept) @ self._ones - trace) / 2

    @abstractmethod
    def filtered(self, targets: slice, a: Float[Array, "V"], b: Float[Array, "V"]) -> Float[Array, "V p"]:
        """a (aA + bI)⁻¹ applied to the targets' XᵀY (or Y, in the dual), back in the original basis."""


@dataclass(frozen=True, eq=False)
class Eigen(Basis):
    """A = U diag(d) Uᵀ: for many targets.

    Parameters
    ----------
    eigenvalues : (r,)
        Those above rounding error.
    vectors : (p, r)
    coordinates : (V, r)
        UᵀXᵀy (primal) or Uᵀy (dual).
    primal
        Which of the two.
    """

    eigenvalues: Float[Array, "r"]
    vectors: Float[Array, "p r"]
    coordinates: Float[Array, "V r"]
    primal: bool

    @cached_property
    def squares(self) -> Float[Array, "V r"]:
        """Squared coordinates of y along the left singular vectors."""
        z2 = np.square(self.coordinates)
        if self.primal:
            z2 /= self.eigenvalues
        return z2

    def explained(self, targets):
        return self.squares[targets] @ self._ones

    def moments(self, targets, a, b):
        d = self.eigenvalues
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

    def profile(self, targets, shifts):
        c2 = self.squares[targets]
        inverse = 1 / (self.eigenvalues[:, None] + shifts)
        share = shifts * inverse
        return c2 @ share, c2 @ (share * (self.eigenvalues[:, None] * inverse))

    def quadratic(self, targets, shift):
        inverse = 1 / (self.eigenvalues + shift[..., None])
        share = shift[..., None] * inverse
        first = self.squares[targets] * share
        second = first * (self.eigenvalues * inverse)
        slope = second @ self._ones
        return first @ self._ones, slope, slope - 2 * ((second * share) @ self._ones)

    def filtered(self, targets, a, b):
        z = self.coordinates[targets]
        v = np.multiply.outer(a, self.eigenvalues) + b[:, None]
        if b.min() == 0:  # neither signal nor noise: a constant target
            v[(a == 0) & (b == 0)] = 1.0
        return (z * (a[:, None] / v)) @ self.vectors.T


@dataclass(frozen=True, eq=False)
class Tridiagonal(Basis):
    """A = Q T Qᵀ with tridiagonal T: for one target, at a third of the cost of eigenvectors.

    The quadratic form cᵀ(aT + bI)⁻¹c is lᵀ(aT + bI)⁻¹r with r = QᵀXᵀy and l = T⁻¹r in the primal (so that Tl = r),
    l = r = Qᵀy in the dual. Many shifts are solved at once: their matrices, one after the other on the diagonal, are
    one tridiagonal matrix.
    """

    eigenvalues: Float[Array, "r"]
    diagonal: Float[Array, "p"]
    off_diagonal: Float[Array, "p"]
    left: Float[Array, "p"]
    right: Float[Array, "p"]
    primal: bool
    reflectors: tuple[Array, Array]

    def _solver(self, a: Float[Array, "g"], b: Float[Array, "g"]) -> Callable[[Array], Float[Array, "g p"]]:
        """(g, p) ↦ (a_g T + b_g I)⁻¹ applied to row g."""
        diagonal = np.multiply.outer(a, self.diagonal) + b[:, None]
        off = np.zeros_like(diagonal)
        np.multiply.outer(a, self.off_diagonal, out=off[:, :-1])
        d, e, _ = lapack.dpttrf(diagonal.reshape(-1), off.reshape(-1)[:-1])
        return lambda v: lapack.dpttrs(d, e, v.reshape(-1))[0].reshape(diagonal.shape)

    def _times(self, v: Float[Array, "g p"]) -> Float[Array, "g p"]:
        """T applied to every row."""
        out = self.diagonal * v
        out[:, :-1] += self.off_diagonal * v[:, 1:]
        out[:, 1:] += self.off_diagonal * v[:, :-1]
        return out

    def explained(self, targets):
        return np.array([self.left @ self.right])

    def moments(self, targets, a, b):
        solve = self._solver(a, b)
        x = solve(np.repeat(self.right[None], len(a), axis=0))
        y = solve(np.repeat(self.left[None], len(a), axis=0)) if self.primal else x
        Ty, Tx = (x, self._times(x)) if self.primal else (self._times(y),) * 2
        x2, Tx2 = solve(x), solve(Tx)
        return Moments(
            x @ self.left,
            -np.einsum("gp,gp->g", Ty, x),
            -np.einsum("gp,gp->g", y, x),
            2 * np.einsum("gp,gp->g", Ty, Tx2),
            2 * np.einsum("gp,gp->g", Ty, x2),
            2 * np.einsum("gp,gp->g", y, x2),
        )

    def profile(self, targets, shifts):
        x = self._solver(np.ones_like(shifts), shifts)(np.repeat(self.right[None], len(shifts), axis=0))
        Ty = x if self.primal else self._times(x)
        return (shifts * (x @ self.left))[None], (shifts * np.einsum("gp,gp->g", x, Ty))[None]

    def quadratic(self, targets, shift):
        shift = np.atleast_1d(shift)
        solve = self._solver(np.ones_like(shift), shift)
        x = solve(np.repeat(self.right[None], len(shift), axis=0))
        Ty = x if self.primal else self._times(x)
        slope = shift * np.einsum("gp,gp->g", x, Ty)
        return shift * (x @ self.left), slope, slope - 2 * shift**2 * np.einsum("gp,gp->g", Ty, solve(x))

    def filtered(self, targets, a, b):
        x = a[:, None] * self._solver(a, b)(self.right[None].copy())
        return _reflect(self.reflectors, x[0])[None]


def _reflect(reflectors: tuple[Array, Array], v: Array, transposed: bool = False) -> Array:
    """Qv or Qᵀv for the Q of a tridiagonal reduction (its first row and column are the identity's)."""
    if len(v) < 3:
        return v
    rest = lapack.dormqr("L", "T" if transposed else "N", *reflectors, v[1:, None], 64)[0]
    return np.concatenate([v[:1], rest[:, 0]])


@dataclass(frozen=True, eq=False)
class Residuals:
    """A response less offset and its fit on the flat columns, a block of targets at a time.

    Residuals are numbers of their own size, so that neither the units of the flat columns nor a large mean of y cost
    digits later.

    Parameters
    ----------
    y : (n, V)
    offset, row_scale : (n,), optional
    Q, R
        The flat columns, QᵀQ = n I.
    constant
        Position and value of a flat column that is constant, if there is one.
    """

    y: Float[Array, "n V"]
    offset: Float[Array, "n"] | None
    row_scale: Float[Array, "n"] | None
    Q: Float[Array, "n f"]
    R: Float[Array, "f f"]
    constant: tuple[int, float] | None

    @property
    def n_targets(self) -> int:
        """V."""
        return self.y.shape[1]

    def blocks(self, size: int = BLOCK) -> Iterator[slice]:
        """Slices of that many targets."""
        return (slice(i, min(i + size, self.n_targets)) for i in range(0, self.n_targets, size))

    def chunks(self) -> Iterator[slice]:
        """Slices of targets to read at a time: enough for fast products, few enough to be no burden on memory."""
        return self.blocks(max(8, min(1024, CHUNK // len(self.y))))

    def spread(self) -> Float[Array, "V"]:
        """Sum of squares of each response less its first value, rows scaled."""
        y = self.y.astype(np.float64)
        y = y - y[0]
        if self.offset is not None:
            y -= (self.offset - self.offset[0])[:, None]
        return ((y if self.row_scale is None else y * self.row_scale[:, None]) ** 2).sum(axis=0)

    def read(self, targets: slice) -> tuple[Float[Array, "n v"], Float[Array, "f v"]]:
        """The residuals of some targets, rows scaled, and the flat weights of that fit."""
        y = self.y[:, targets].astype(np.float64)
        offset = 0.0 if self.offset is None else self.offset[:, None]
        shift = np.zeros((self.Q.shape[1], y.shape[1]))
        if self.constant is not None:  # y less one of its own values is exact, however large their mean
            j, c = self.constant
            first = 0.0 if self.offset is None else self.offset[0]
            shift[j] = (y[0] - first) / c
            y -= y[0].copy()
            offset = offset - first
        y -= offset
        if self.row_scale is not None:
            y *= self.row_scale[:, None]
        if len(shift):
            gamma = self.Q.T @ y / len(y)
            shift += solve_upper(self.R, gamma)
            y -= self.Q @ gamma
        return y, shift


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The reduced data of a model with one shared scale.

    Parameters
    ----------
    X, Q
        The design, and the orthogonal flat columns (QᵀQ = n I).
    primal
        Whether A is XᵀX rather than XXᵀ.
    gram
        A, lower triangle.
    basis
        A in a convenient basis, and the targets' coordinates there.
    rest, total : (V,)
        Squared length of y outside the span of X, and in all.
    shift : (f, V)
        The flat weights' fit to y alone.
    response
        The targets.
    n_observations
        How many observations the rows stand for.
    known_means
        `means`, where they are known already.
    """

    X: Float[Array, "n p"]
    Q: Float[Array, "n f"]
    primal: bool
    gram: Float[Array, "m m"]
    basis: Basis
    rest: Float[Array, "V"]
    total: Float[Array, "V"]
    shift: Float[Array, "f V"]
    response: Residuals
    n_observations: float
    known_means: Float[Array, "f p"] | None = None

    @cached_property
    def means(self) -> Float[Array, "f p"]:
        """QᵀX/n: X − Q means is the projected design."""
        return self.Q.T @ self.X / len(self.X) if self.known_means is None else self.known_means

    @property
    def n_free(self) -> float:
        """Number of observations less that of flat columns, n − f."""
        return self.n_observations - self.Q.shape[1]

    @property
    def rank(self) -> int:
        """Rank of the projected design."""
        return len(self.basis.eigenvalues)

    def subset(self, targets: Array) -> Spectrum:
        """The spectrum for some of the targets."""
        basis = self.basis
        if isinstance(basis, Eigen):
            basis = replace(basis, coordinates=basis.coordinates[targets])
        response = replace(self.response, y=self.response.y[:, targets])
        return replace(
            self,
            basis=basis,
            rest=self.rest[targets],
            total=self.total[targets],
            shift=self.shift[:, targets],
            response=response,
        )

    def weights(self, a: Float[Array, "V"], b: Float[Array, "V"]) -> Float[Array, "V p"]:
        """Posterior mean of the weights, a X(aXXᵀ + bI)⁻¹y."""
        filtered = np.empty((self.response.n_targets, len(self.gram)))
        for t in self.response.blocks():
            filtered[t] = self.basis.filtered(t, a[t], b[t])
        if self.primal:
            return filtered
        if self.known_means is not None:
            return filtered @ self.X
        # `filtered` is orthogonal to Q, as y is, so X needs no projection; its means come along in the same pass.
        both = _transposed_product(np.concatenate([filtered, self.Q.T / len(self.X)]).T, self.X)
        self.__dict__["means"] = both[len(filtered) :]
        return both[: len(filtered)]

    def eigen(self) -> tuple[Array, Array]:
        """Eigenvalues above rounding error and eigenvectors of A."""
        if isinstance(self.basis, Eigen):
            return self.basis.eigenvalues, self.basis.vectors
        d, U = _unlifted(self.gram, 0 if self.primal else self.Q.shape[1])
        return d[-self.rank :], U[:, -self.rank :]


def reduce(X: Float[Array, "n p"], Q: Float[Array, "n f"], response: Residuals, n_observations: float) -> Spectrum:
    """One XᵀX (or XXᵀ), one XᵀY, one factorisation.

    Parameters
    ----------
    X
        The columns of the shared scale.
    Q
        Orthogonal flat columns, QᵀQ = n I.
    response
        The targets, orthogonal to Q.
    n_observations
        How many observations the rows stand for.
    """
    n, p = X.shape
    f = Q.shape[1]
    if not (X.flags.c_contiguous or X.flags.f_contiguous):
        X = np.ascontiguousarray(X)
    primal = p < n - f  # a square design loses fewer digits as XXᵀ, whose coordinates keep the length of y
    shift, total = np.empty((f, response.n_targets)), np.empty(response.n_targets)
    z = np.empty((response.n_targets, p if primal else n))
    means: Array | None = None
    for targets in response.chunks():
        y, shift[:, targets] = response.read(targets)
        total[targets] = np.einsum("nv,nv->v", y, y)
        if primal and means is None:  # along with the first block, to read X once less
            product = _transposed_product(np.hstack([Q, y]), X)
            means = product[:f] / n
            z[targets] = product[f:]
        else:
            z[targets] = _transposed_product(y, X) if primal else y.T
    rounding = 0.0
    corrected = _gram(X, Q, means, primal)
    if corrected is None:
        rounding = (max(n, p) * EPS) ** 2 * float(np.einsum("ij,ij->", X, X))
        X, means = X - Q @ (Q.T @ X / n), np.zeros((f, p))
        gram = _lower_gram(X) if primal else _lifted(_lower_gram(X.T), Q)
    else:
        gram = corrected

    basis: Basis | None = None
    if len(z) == 1 and len(gram) > 48:
        basis = _tridiagonal(gram, z[0], primal, n - f, rounding)
    if basis is None:
        basis = _eigen(gram, z, primal, 0 if primal else f, max(n, p) * EPS, rounding)
    rest = _rest(basis, X, Q, primal, response, total, n - f)
    if len(basis.eigenvalues) < n_observations - f:  # an exact fit is known to rounding only
        rest = np.maximum(rest, EPS**2 * n * total)
    return Spectrum(X, Q, primal, gram, basis, rest, total, shift, response, n_observations, means)


def _lower_gram(X: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The lower triangle of XᵀX."""
    return blas.dsyrk(1.0, X.T, lower=1) if X.flags.c_contiguous else blas.dsyrk(1.0, X, trans=1, lower=1)


def _gram(X: Array, Q: Array, means: Array | None, primal: bool) -> Array | None:
    """A for the projected design, by correcting that of X; None where the correction would cost digits."""
    n = len(X)
    A = _lower_gram(X if primal else X.T)
    before = A.diagonal().copy()
    if not np.isfinite(before.sum()):
        raise FloatingPointError("The design has values that are not finite, or too large to be squared.")
    if Q.shape[1] and means is not None:
        A = blas.dsyrk(-n, means.T, beta=1.0, c=A, lower=1, overwrite_c=1)
    elif Q.shape[1]:  # (I − QQᵀ/n) K (I − QQᵀ/n) = K − MQᵀ − QMᵀ
        KQ = blas.dsymm(1 / n, A, Q, lower=1)
        M = KQ - Q @ (Q.T @ KQ / (2 * n))
        A = blas.dsyr2k(-1.0, M, Q, beta=1.0, c=A, lower=1, overwrite_c=1)
    if (A.diagonal() < KEPT * before).any():
        return None
    return A if primal else _lifted(A, Q)


def _lifted(A: Array, Q: Array) -> Array:
    """XXᵀ with the null space that projection leaves, where y has no part, lifted above all other eigenvalues."""
    if not Q.shape[1]:
        return A
    return blas.dsyrk(2 * np.trace(A) / len(Q), Q, beta=1.0, c=A, lower=1, overwrite_c=1)


def _transposed_product(y: Float[Array, "n v"], X: Float[Array, "n p"]) -> Float[Array, "v p"]:
    """yᵀX, by SciPy's BLAS like all heavy algebra here: two BLAS pools would get in each other's way."""
    if not y.shape[1]:
        return np.zeros((0, X.shape[1]))
    if y.shape[1] <= FEW:  # the wide matrix first: for a few columns OpenBLAS is then twice as fast
        return (blas.dgemm(1.0, X.T, y) if X.flags.c_contiguous else blas.dgemm(1.0, X, y, trans_a=1)).T
    return blas.dgemm(1.0, y.T, X.T, trans_b=1) if X.flags.c_contiguous else blas.dgemm(1.0, y.T, X)


def _eigen(gram: Array, z: Array, primal: bool, null: int, relative: float, rounding: float) -> Eigen:
    """Eigenvalues above rounding error, without those that `_lifted` put on top.

    ``rounding`` is that of a design of which little is left after projection: a column in the span of the flat ones.
    """
    d, U = _unlifted(gram, null)
    first = int(np.searchsorted(d, max(relative * d[-1], rounding, 0.0), side="right")) if len(d) else 0
    d, U = d[first:], U[:, first:]
    return Eigen(d, U, z @ U, primal)


def _unlifted(gram: Array, null: int) -> tuple[Array, Array]:
    """Eigenvalues and vectors without the ``null`` on top."""
    d, U, _ = lapack.dsyevd(gram, lower=1)
    return d[: len(d) - null], U[:, : len(d) - null]


def _tridiagonal(gram: Array, z: Array, primal: bool, n_free: int, rounding: float) -> Tridiagonal | None:
    """The tridiagonal form, if A has full rank with room to spare; None where only eigenvectors would do."""
    m = len(gram)
    c, diagonal, off, tau, _ = lapack.dsytrd(gram, lower=1, lwork=32 * m)
    d, _ = lapack.dsterf(diagonal, off)
    d = d if primal else d[:n_free]
    if not d[0] > max(1e-10 * d[-1], rounding):
        return None
    reflectors = (np.asfortranarray(c[1:, :-1]), tau)
    right = _reflect(reflectors, z, transposed=True)
    left = lapack.dpttrs(*lapack.dpttrf(diagonal, off)[:2], right)[0] if primal else right
    return Tridiagonal(d, diagonal, off, left, right, primal, reflectors)


def _rest(
    basis: Basis, X: Array, Q: Array, primal: bool, response: Residuals, total: Array, n_free: int
) -> Float[Array, "V"]:
    """Squared length of y outside the span of X; by explicit residuals where a difference would cost digits."""
    if len(basis.eigenvalues) == n_free:
        return np.zeros_like(total)
    rest = total - basis.explained(slice(None))
    close = rest < 1e-6 * total
    if not close.any():
        return rest
    one = np.ones(BLOCK)
    for targets in response.blocks():
        rows = np.flatnonzero(close[targets])
        if len(rows):
            y = response.read(targets)[0][:, rows]
            size = targets.stop - targets.start
            w = basis.filtered(targets, one[:size], 0 * one[:size])[rows]
            r = y - X @ w.T if primal else _outside(basis, y)
            r -= Q @ (Q.T @ r / len(X))
            rest[targets.start + rows] = np.einsum("nv,nv->v", r, r)
    return rest


def _outside(basis: Basis, y: Array) -> Array:
    """What the dual eigenvectors leave of y."""
    U = basis.vectors  # type: ignore[attr-defined]
    return y - U @ (U.T @ y)
