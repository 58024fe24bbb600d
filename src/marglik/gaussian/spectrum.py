# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian model with one shared scale keeps of its rows: the spectrum of its design, and y in that basis.

With flat columns projected out, y has covariance a A + b I on n − f directions, a = s² the variance of a weight and
b = σ² that of the noise. A is XXᵀ, or XᵀX where that is smaller; either way yᵀ(aA + bI)⁻¹y and its derivatives, for
any a and b, cost O(p) a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from marglik.gaussian.bases import Basis, Eigen, tridiagonal
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
SMALL = 48
"""Up to so many columns (rows, in the dual) eigenvectors are cheaper than the tridiagonal form."""
TALL = 1000
"""From so many rows on OpenBLAS has the upper triangle of XᵀX a tenth sooner than the lower one, X in C order."""
FEW = 8
"""Up to so many targets are read at once, and multiplied with the design the other way round."""


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
        return self.blocks(max(FEW, min(1024, CHUNK // len(self.y))))

    def spread(self) -> Float[Array, "V"]:
        """Sum of squares of each response less its first value, rows scaled."""
        y = self.y.astype(np.float64)
        y = y - y[0]
        if self.offset is not None:
            y -= (self.offset - self.offset[0])[:, None]
        return ((y if self.row_scale is None else y * self.row_scale[:, None]) ** 2).sum(axis=0)

    def read(self, targets: slice) -> tuple[Float[Array, "n v"], Float[Array, "f v"]]:
        """The residuals of some targets, rows scaled, and the flat weights of that fit."""
        y, offset = self.y[:, targets], self.offset
        if self.constant is None:
            y = y.astype(np.float64)
        else:  # y less one of its own values is exact, however large their mean
            j, c = self.constant
            own = y[0].astype(np.float64)
            y = np.subtract(y, own, dtype=np.float64)
            if offset is not None:
                own, offset = own - offset[0], offset - offset[0]
        if offset is not None:
            y -= offset[:, None]
        if self.row_scale is not None:
            y *= self.row_scale[:, None]
        if not len(self.R):
            return y, np.zeros((0, y.shape[1]))
        if y.flags.f_contiguous:  # y − Qγ in place, whichever way y lies
            gamma = blas.dgemm(1 / len(y), self.Q, y, trans_a=1)
            y = blas.dgemm(-1.0, self.Q, gamma, beta=1.0, c=y, overwrite_c=1)
        else:
            gamma = self.Q.T @ y / len(y)
            y = blas.dgemm(-1.0, gamma.T, self.Q.T, beta=1.0, c=y.T, overwrite_c=1).T
        shift = solve_upper(self.R, gamma)
        if self.constant is not None:
            shift[j] += own / c
        return y, shift


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The reduced data of a model with one shared scale.

    Parameters
    ----------
    X, Q
        The design (projected where that saves digits), and the orthogonal flat columns (QᵀQ = n I).
    primal
        Whether A is XᵀX rather than XXᵀ.
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
    cross : (f, p) or (f, n)
        `means` or, in the dual, `means` Xᵀ.
    known_means
        `means`, where they are known already.
    """

    X: Float[Array, "n p"]
    Q: Float[Array, "n f"]
    primal: bool
    basis: Basis
    rest: Float[Array, "V"]
    total: Float[Array, "V"]
    shift: Float[Array, "f V"]
    response: Residuals
    n_observations: float
    cross: Float[Array, "f m"]
    known_means: Float[Array, "f p"] | None = None

    @cached_property
    def means(self) -> Float[Array, "f p"]:
        """QᵀX/n of the design as it was given: that less Q means is the projected design."""
        return _means(self.X, self.Q) if self.known_means is None else self.known_means

    @property
    def n_free(self) -> float:
        """Number of observations less that of flat columns, n − f."""
        return self.n_observations - self.Q.shape[1]

    @property
    def rank(self) -> int:
        """Rank of the projected design."""
        return self.basis.rank

    def subset(self, targets: Array) -> Spectrum:
        """The spectrum for some of the targets."""
        basis = self.basis
        if isinstance(basis, Eigen):
            basis = replace(basis, coordinates=basis.coordinates[targets], squares=basis.squares[targets])
        response = replace(self.response, y=self.response.y[:, targets])
        return replace(
            self,
            basis=basis,
            rest=self.rest[targets],
            total=self.total[targets],
            shift=self.shift[:, targets],
            response=response,
        )

    def weights(self, a: Float[Array, "V"], b: Float[Array, "V"]) -> tuple[Float[Array, "V p"], Float[Array, "V f"]]:
        """Posterior mean of the weights w = a X(aXXᵀ + bI)⁻¹y, and QᵀXw/n, their part along the flat columns."""
        V = self.response.n_targets
        if V <= BLOCK:
            filtered = self.basis.filtered(slice(0, V), a, b)
        else:
            filtered = np.empty((V, self.cross.shape[1]))
            for t in self.response.blocks():
                filtered[t] = self.basis.filtered(t, a[t], b[t])
        along = filtered @ self.cross.T
        # In the dual `filtered` is orthogonal to Q, as y is, so X needs no projection.
        return filtered if self.primal else _transposed_product(filtered.T, self.X), along


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
    f, V = Q.shape[1], response.n_targets
    if not (X.flags.c_contiguous or X.flags.f_contiguous):
        X = np.ascontiguousarray(X)
    primal = p < n - f  # a square design loses fewer digits as XXᵀ, whose coordinates keep the length of y
    shift, total, z = np.empty((f, V)), np.empty(V), np.empty((V, p if primal else n))
    means = _means(X, Q) if primal and V > FEW else None
    for targets in response.chunks():
        y, shift[:, targets] = response.read(targets)
        total[targets] = _squares(y)
        if primal and means is None:  # along with a few targets, to read X once less
            product = _transposed_product(np.concatenate((Q.T, y.T)).T, X)
            means, z[:] = product[:f] / n, product[f:]
        else:
            z[targets] = _transposed_product(y, X) if primal else y.T
    gram = _gram(X, means) if means is not None else _dual_gram(X, Q)
    rounding = 0.0
    if gram is None:
        rounding = (max(n, p) * EPS) ** 2 * float(np.einsum("ij,ij->", X, X))
        means = _means(X, Q) if means is None else means
        X = X - Q @ means
        gram = Projected(_lower_gram(X), means) if primal else _lifted(_lower_gram(X.T), Q, means @ X.T)

    basis: Basis | None = None
    if V == 1 and len(gram.A) > SMALL:
        basis = tridiagonal(gram.A, z[0], primal, gram.lifted, rounding)
    if basis is None:  # only eigenvectors tell which directions count
        basis = _eigen(gram, z, primal, max(n, p) * EPS, rounding)
    rest = _rest(basis, X, Q, primal, response, total, n_observations)
    return Spectrum(X, Q, primal, basis, rest, total, shift, response, n_observations, gram.cross, means)


def _lower_gram(X: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The lower triangle of XᵀX."""
    if not X.flags.c_contiguous:
        return blas.dsyrk(1.0, X, trans=1, lower=1)
    if len(X) < TALL:
        return blas.dsyrk(1.0, X.T, lower=1)
    return np.asfortranarray(blas.dsyrk(1.0, X.T).T)


class Projected(NamedTuple):
    """A for the projected design, `Spectrum.cross`, and the eigenvalue of A's null space with its multiplicity.

    In the dual, projection leaves a null space, where y has no part. It is lifted above all other eigenvalues.
    """

    A: Float[Array, "m m"]
    cross: Float[Array, "f m"]
    lifted: tuple[float, int] = (0.0, 0)


def _gram(X: Float[Array, "n p"], means: Float[Array, "f p"]) -> Projected | None:
    """XᵀX of the projected design, by correcting that of X; None where the correction would cost digits."""
    A = _lower_gram(X)
    before = _finite_diagonal(A)
    if len(means):
        A = blas.dsyrk(-len(X), means.T, beta=1.0, c=A, lower=1, overwrite_c=1)
    return None if np.count_nonzero(A.diagonal() < KEPT * before) else Projected(A, means)


def _dual_gram(X: Float[Array, "n p"], Q: Float[Array, "n f"]) -> Projected | None:
    """The same for XXᵀ."""
    K = _lower_gram(X.T)
    before = _finite_diagonal(K)
    if not Q.shape[1]:
        return Projected(K, np.zeros((0, len(K))))
    KQ = blas.dsymm(1 / len(Q), K, Q, lower=1)
    # (I − QQᵀ/n) K (I − QQᵀ/n) = K − MQᵀ − QMᵀ
    M = KQ - Q @ (Q.T @ KQ / (2 * len(Q)))
    after = before - 2 * (M * Q).sum(axis=1)
    return None if np.count_nonzero(after < KEPT * before) else _lifted(K, Q, KQ.T, M, float(after.sum()))


def _lifted(K: Array, Q: Array, cross: Array, M: Array | float = 0.0, trace: float | None = None) -> Projected:
    """K − MQᵀ − QMᵀ + κQQᵀ/n, where κ is twice the trace of the first three."""
    trace = float(np.trace(K)) if trace is None else trace
    A = blas.dsyr2k(-1.0, M - trace / len(Q) * Q, Q, beta=1.0, c=K, lower=1, overwrite_c=1)
    return Projected(A, cross, (2 * trace, Q.shape[1]))


def _finite_diagonal(A: Float[Array, "m m"]) -> Float[Array, "m"]:
    before = A.diagonal().copy()
    if not math.isfinite(blas.dasum(before)):
        raise FloatingPointError("The design has values that are not finite, or too large to be squared.")
    return before


def _squares(y: Float[Array, "n v"]) -> Float[Array, "v"] | float:
    """Squared length of each column."""
    return np.einsum("nv,nv->v", y, y) if y.shape[1] > 1 else np.vdot(y, y)


def _means(X: Float[Array, "n p"], Q: Float[Array, "n f"]) -> Float[Array, "f p"]:
    """QᵀX/n."""
    return _transposed_product(Q, X) / len(X)


def _transposed_product(y: Float[Array, "n v"], X: Float[Array, "n p"]) -> Float[Array, "v p"]:
    """yᵀX, by SciPy's BLAS like all heavy algebra here: two BLAS pools would get in each other's way."""
    if not y.shape[1]:
        return np.zeros((0, X.shape[1]))
    if y.shape[1] == 1:
        return (blas.dgemv(1.0, X.T, y[:, 0]) if X.flags.c_contiguous else blas.dgemv(1.0, X, y[:, 0], trans=1))[None]
    if y.shape[1] <= FEW:  # the wide matrix first: for a few columns OpenBLAS is then twice as fast
        return (blas.dgemm(1.0, X.T, y) if X.flags.c_contiguous else blas.dgemm(1.0, X, y, trans_a=1)).T
    return blas.dgemm(1.0, y.T, X.T, trans_b=1) if X.flags.c_contiguous else blas.dgemm(1.0, y.T, X)


def _eigen(gram: Projected, z: Array, primal: bool, relative: float, rounding: float) -> Eigen:
    """Eigenvalues above rounding error, without the lifted ones.

    ``rounding`` is that of a design of which little is left after projection: a column in the span of the flat ones.
    """
    d, U, _ = lapack.dsyevd(gram.A, lower=1, overwrite_a=1)
    kept = len(d) - gram.lifted[1]
    d, U = d[:kept], U[:, :kept]
    least = max(relative * float(d[-1]), rounding) if len(d) else 0.0
    if len(d) and not d[0] > least:
        first = int(np.searchsorted(d, least, side="right"))
        d, U = d[first:], U[:, first:]
    c = z @ U
    squares = c * c
    if primal:
        squares /= d
    return Eigen(d, U, c, squares)


def _rest(
    basis: Basis, X: Array, Q: Array, primal: bool, response: Residuals, total: Array, n_observations: float
) -> Float[Array, "V"]:
    """Squared length of y outside the span of X; by explicit residuals where a difference would cost digits."""
    n, f = Q.shape
    if basis.rank == n - f:
        rest = np.zeros_like(total)
    else:
        rest = total - basis.explained()
        close = rest < 1e-6 * total
        if not np.count_nonzero(close):
            return rest
        one = np.ones(BLOCK)
        for targets in response.blocks():
            rows = np.flatnonzero(close[targets])
            if len(rows):
                y = response.read(targets)[0][:, rows]
                size = targets.stop - targets.start
                w = basis.filtered(targets, one[:size], 0 * one[:size])[rows]
                r = y - X @ w.T if primal else _outside(basis, y)
                r -= Q @ (Q.T @ r / n)
                rest[targets.start + rows] = _squares(r)
    # Fewer directions than observations: an exact fit is known to rounding only.
    return np.maximum(rest, EPS**2 * n * total) if basis.rank < n_observations - f else rest


def _outside(basis: Basis, y: Array) -> Array:
    """What the dual eigenvectors leave of y."""
    U = basis.vectors  # type: ignore[attr-defined]
    return y - U @ (U.T @ y)
