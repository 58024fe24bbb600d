# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian model with one shared scale keeps of its rows: the spectrum of its design, and y in that basis.

With flat columns projected out, y has covariance a A + b I on n − f directions, a = s² the variance of a weight and
b = σ² that of the noise. A is XXᵀ, or XᵀX where that is smaller; either way yᵀ(aA + bI)⁻¹y and its derivatives, for
any a and b, cost O(p) a target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

EPS = float(np.finfo(float).eps)
KEPT = 1e-2
"""If projecting flat columns out leaves less than this share of a column's square, project first and multiply then."""
BLOCK = 256
"""Targets handled at a time, so that their share of the arrays stays in cache."""


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
        """λ cᵀ(A + λI)⁻¹c and λ times its derivative in λ, on a grid of λ."""

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

    def squares(self, targets: slice | Array) -> Float[Array, "V r"]:
        """Squared coordinates of y along the left singular vectors."""
        z = self.coordinates[targets]
        return z * z / self.eigenvalues if self.primal else z * z

    def explained(self, targets):
        return self.squares(targets).sum(axis=1)

    def moments(self, targets, a, b):
        d = self.eigenvalues
        inverse = 1 / (np.multiply.outer(a, d) + b[:, None])
        first = self.squares(targets) * inverse
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
        c2 = self.squares(targets)
        share = shifts / (self.eigenvalues[:, None] + shifts)
        return c2 @ share, c2 @ (share * (1 - share))

    def filtered(self, targets, a, b):
        z = self.coordinates[targets]
        z = z * (a[:, None] / (np.multiply.outer(a, self.eigenvalues) + b[:, None]))
        return z @ self.vectors.T


@dataclass(frozen=True, eq=False)
class Tridiagonal(Basis):
    """A = Q T Qᵀ with tridiagonal T: for one target, at a third of the cost of eigenvectors.

    The quadratic form is lᵀ(aT + bI)⁻¹r: l = r = Qᵀy in the dual; in the primal r = QᵀXᵀy and l = T⁻¹r.
    """

    eigenvalues: Float[Array, "r"]
    diagonal: Float[Array, "p"]
    off_diagonal: Float[Array, "p"]
    left: Float[Array, "p"]
    right: Float[Array, "p"]
    reflectors: tuple[Array, Array]

    def _factor(self, a: float, b: float) -> Callable[[Array], Array]:
        d, e, _ = lapack.dpttrf(a * self.diagonal + b, a * self.off_diagonal)
        return lambda v: lapack.dpttrs(d, e, v)[0]

    def _times(self, v: Float[Array, "p *r"]) -> Float[Array, "p *r"]:
        out = (self.diagonal * v.T).T
        out[:-1] += (self.off_diagonal * v[1:].T).T
        out[1:] += (self.off_diagonal * v[:-1].T).T
        return out

    def explained(self, targets):
        return np.array([self.left @ self.right])

    def moments(self, targets, a, b):
        rows = [self._moments(float(ai), float(bi)) for ai, bi in zip(a, b, strict=True)]
        return Moments(*np.array(rows).T)

    def _moments(self, a: float, b: float) -> tuple[float, ...]:
        solve = self._factor(a, b)
        x = solve(np.column_stack([self.left, self.right]))
        left, right = x.T
        Tx = self._times(x)
        twice = solve(np.column_stack([right, Tx[:, 1]]))
        return (
            self.left @ right,
            -(Tx[:, 0] @ right),
            -(left @ right),
            2 * (Tx[:, 0] @ twice[:, 1]),
            2 * (Tx[:, 0] @ twice[:, 0]),
            2 * (left @ twice[:, 0]),
        )

    def profile(self, targets, shifts):
        value, slope = np.empty(len(shifts)), np.empty(len(shifts))
        for i, shift in enumerate(shifts):
            x = self._factor(1.0, float(shift))(np.column_stack([self.left, self.right]))
            value[i] = shift * (self.left @ x[:, 1])
            slope[i] = shift * (x[:, 0] @ self._times(x[:, 1]))
        return value[None], slope[None]

    def filtered(self, targets, a, b):
        x = a[0] * self._factor(float(a[0]), float(b[0]))(self.right)
        return _reflect(self.reflectors, x)[None]


def _reflect(reflectors: tuple[Array, Array], v: Array, transposed: bool = False) -> Array:
    """Qv or Qᵀv for the Q of a tridiagonal reduction (its first row and column are the identity's)."""
    if len(v) < 3:
        return v
    c, tau = reflectors
    rest = lapack.dormqr("L", "T" if transposed else "N", c[1:, :-1], tau, v[1:, None], 64 * len(v))[0]
    return np.concatenate([v[:1], rest[:, 0]])


class Response(NamedTuple):
    """How to get at y a block of targets at a time: targets -> (y less its fit on the flat columns, that fit)."""

    read: Callable[[slice], tuple[Array, Array]]
    n_targets: int

    def blocks(self) -> Iterator[slice]:
        """Slices of targets that fit in cache."""
        return (slice(i, min(i + BLOCK, self.n_targets)) for i in range(0, self.n_targets, BLOCK))


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The reduced data of a model with one shared scale.

    Parameters
    ----------
    X, Q, means
        The design, the orthogonal flat columns (QᵀQ = n I), and QᵀX/n: X − Q means is the projected design.
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
    """

    X: Float[Array, "n p"]
    Q: Float[Array, "n f"]
    means: Float[Array, "f p"]
    primal: bool
    gram: Float[Array, "m m"]
    basis: Basis
    rest: Float[Array, "V"]
    total: Float[Array, "V"]
    shift: Float[Array, "f V"]
    response: Response

    @property
    def n_free(self) -> int:
        """Number of directions that the flat columns leave, n − f."""
        return len(self.X) - self.Q.shape[1]

    @property
    def rank(self) -> int:
        """Rank of the projected design."""
        return len(self.basis.eigenvalues)

    def weights(self, a: Float[Array, "V"], b: Float[Array, "V"]) -> Float[Array, "V p"]:
        """Posterior mean of the weights, a X(aXXᵀ + bI)⁻¹y."""
        parts = [self.basis.filtered(t, a[t], b[t]) for t in self.response.blocks()]
        filtered = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return filtered if self.primal else filtered @ self.X - filtered @ self.Q @ self.means

    def eigen(self) -> tuple[Array, Array]:
        """Eigenvalues above rounding error and eigenvectors of A."""
        if isinstance(self.basis, Eigen):
            return self.basis.eigenvalues, self.basis.vectors
        d, U, _ = lapack.dsyevd(self.gram, lower=1)
        return d[-self.rank :], U[:, -self.rank :]


def reduce(X: Float[Array, "n p"], Q: Float[Array, "n f"], response: Response) -> Spectrum:
    """One XᵀX (or XXᵀ), one XᵀY, one factorisation.

    Parameters
    ----------
    X
        The columns of the shared scale.
    Q
        Orthogonal flat columns, QᵀQ = n I.
    response
        The targets, orthogonal to Q.
    """
    n, p = X.shape
    f = Q.shape[1]
    if not (X.flags.c_contiguous or X.flags.f_contiguous):
        X = np.ascontiguousarray(X)
    primal = p <= n - f
    means = Q.T @ X / n
    gram = _gram(X, Q, means, primal)
    if gram is None:
        X, means = X - Q @ means, np.zeros_like(means)
        gram = _lower_gram(X if primal else X.T)

    shift, total = np.empty((f, response.n_targets)), np.empty(response.n_targets)
    products = []
    for targets in response.blocks():
        y, shift[:, targets] = response.read(targets)
        total[targets] = np.einsum("nv,nv->v", y, y)
        products.append(_transposed_product(y, X) if primal else y.T)
    z = products[0] if len(products) == 1 else np.concatenate(products)

    rounding = max(n, p) * EPS
    basis = _tridiagonal(gram, z[0], primal, n - f) if len(z) == 1 and len(gram) > 48 else None
    basis = basis or _eigen(gram, z, primal, 0 if primal else f, rounding)
    rest = _rest(basis, X, Q, means, response, total, n - f)
    return Spectrum(X, Q, means, primal, gram, basis, rest, total, shift, response)


def _lower_gram(X: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The lower triangle of XᵀX."""
    return blas.dsyrk(1.0, X.T, lower=1) if X.flags.c_contiguous else blas.dsyrk(1.0, X, trans=1, lower=1)


def _gram(X: Array, Q: Array, means: Array, primal: bool) -> Array | None:
    """A for the projected design, by correcting that of X; None where the correction would cost digits."""
    n = len(X)
    if primal:
        raw = _lower_gram(X)
        A = raw - n * (means.T @ means)
    else:
        raw = _lower_gram(X.T)
        raw = np.tril(raw) + np.tril(raw, -1).T
        KQ = raw @ Q / n
        A = raw - KQ @ Q.T - Q @ KQ.T + Q @ (Q.T @ KQ / n) @ Q.T
    return A if np.all(A.diagonal() >= KEPT * raw.diagonal()) else None


def _transposed_product(y: Float[Array, "n v"], X: Float[Array, "n p"]) -> Float[Array, "v p"]:
    """yᵀX, by SciPy's BLAS like all heavy algebra here: two BLAS pools would get in each other's way."""
    if y.shape[1] == 1:
        return (blas.dgemv(1.0, X.T, y[:, 0]) if X.flags.c_contiguous else blas.dgemv(1.0, X, y[:, 0], trans=1))[None]
    if X.flags.c_contiguous:
        return blas.dgemm(1.0, y.T, X.T, trans_b=1)
    return blas.dgemm(1.0, y.T, X)


def _eigen(gram: Array, z: Array, primal: bool, null: int, rounding: float) -> Eigen:
    """Eigenvalues above rounding error; in the dual the flat columns span the first ``null`` vectors."""
    d, U, _ = lapack.dsyevd(gram, lower=1)
    kept = d > rounding * max(d[-1], 0.0)
    kept[:null] = False
    d, U = d[kept], np.asfortranarray(U[:, kept])
    return Eigen(d, U, z @ U, primal)


def _tridiagonal(gram: Array, z: Array, primal: bool, n_free: int) -> Tridiagonal | None:
    """The tridiagonal form, if A has full rank with room to spare; None where only eigenvectors would do."""
    m = len(gram)
    c, diagonal, off, tau, _ = lapack.dsytrd(gram, lower=1, lwork=32 * m)
    d, _ = lapack.dsterf(diagonal, off)
    d = d if primal else d[m - n_free :]
    if d[0] <= 1e-10 * d[-1]:
        return None
    reflectors = (c, tau)
    right = _reflect(reflectors, z, transposed=True)
    left = lapack.dpttrs(*lapack.dpttrf(diagonal, off)[:2], right)[0] if primal else right
    return Tridiagonal(d, diagonal, off, left, right, reflectors)


def _rest(
    basis: Basis, X: Array, Q: Array, means: Array, response: Response, total: Array, n_free: int
) -> Float[Array, "V"]:
    """Squared length of y outside the span of X; by explicit residuals where a difference would cost digits."""
    rest = np.zeros_like(total)
    if len(basis.eigenvalues) == n_free:
        return rest
    one, zero = np.ones(BLOCK), np.zeros(BLOCK)
    for targets in response.blocks():
        size = targets.stop - targets.start
        rest[targets] = total[targets] - basis.explained(targets)
        close = np.flatnonzero(rest[targets] < 1e-6 * total[targets])
        if len(close):
            y, _ = response.read(targets)
            w = basis.filtered(targets, one[:size], zero[:size])[close]
            r = y[:, close] - X @ w.T + Q @ (means @ w.T) if len(w.T) == X.shape[1] else _outside(basis, y[:, close])
            rest[targets.start + close] = np.einsum("nv,nv->v", r, r)
    return rest


def _outside(basis: Basis, y: Array) -> Array:
    """What the dual eigenvectors leave of y."""
    U = basis.vectors  # type: ignore[attr-defined]
    return y - U @ (U.T @ y)
