# SPDX-License-Identifier: BSD-3-Clause
"""P for given variances of several scales and of the noise: what the evidence and the posterior are made of.

With flat columns projected out, y has covariance V = Σ_k a_k K_k on n − f directions: K_k = X_kX_kᵀ for the columns of
scale k, and I for the noise, the last of the variances. P = V⁻¹ there. Where fewer columns than directions have a
variance above zero, P goes through a matrix of their number (`Primal`), else through one of the rows' (`Dual`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.linalg import blas, lapack

from marglik.gaussian.gram import lower_gram, symmetric
from marglik.linalg import NotPositiveDefinite, cholesky

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.gaussian.gram import Gram

CLOSE = 1e-6
"""Below this share of y's square, what the columns leave is computed from the rows: a difference would cost digits."""
WEAK = 1e-4
"""A column whose a x²/b is smaller says too little about itself for I − H⁻¹ to have digits."""
STEEP = 1e6
"""From this ratio of variances on, the dual's factor is found by rotations: products would cost digits."""
SINGULAR = 1e-13
"""Without noise, a direction in which columns reach no further than this share of others counts as out of reach."""
COLLINEAR = 1e-6
"""A pivot below this share of its diagonal calls for rotations, too."""


class Moments(NamedTuple):
    """yᵀPy, yᵀPK_kPy and yᵀPK_kPK_lPy for each target."""

    quadratic: Float[Array, "V"]
    first: Float[Array, "V k"]
    second: Float[Array, "V k k"]


def solver(data: Gram, variances: Float[Array, "k"]) -> Solver:
    """P at variances of the scales and of the noise."""
    active = np.flatnonzero(variances[data.place] > 0)
    if len(active) < data.n_directions and variances[-1] > 0:
        return Primal(data, variances, active)
    return Dual(data, variances, active)


@dataclass(frozen=True, eq=False)
class Solver(ABC):
    """P at given variances.

    Parameters
    ----------
    data
        The reduced data.
    variances : (k,)
        Of the scales, then of the noise.
    active
        The columns with a variance above zero.
    """

    data: Gram
    variances: Float[Array, "k"]
    active: Int[Array, "m"]

    @property
    def noise(self) -> float:
        """b."""
        return float(self.variances[-1])

    @cached_property
    def scales(self) -> Float[Array, "m"]:
        """√a of the active columns."""
        return np.sqrt(self.variances[self.data.place[self.active]])

    @cached_property
    def _weak(self) -> Array:
        """Which scales' own columns are too weak, or absent, for I − H⁻¹."""
        data, b = self.data, max(self.noise, 1e-300)
        told = np.zeros(data.n_scales)
        np.maximum.at(told, data.place, data.squares)
        return self.variances[:-1] * told < WEAK * b

    def _by_scale(self, values: Float[Array, "*V m"]) -> Float[Array, "*V k"]:
        """Sums over the active columns of each scale."""
        data = self.data
        if data.single:
            out = np.zeros((*values.shape[:-1], data.n_scales))
            out[..., data.place[self.active]] = values
            return out
        return values @ data.indicator[self.active]

    @abstractmethod
    def quadratic(self, targets: slice | Array) -> Float[Array, "V"]:
        """yᵀPy of some of the targets."""

    @abstractmethod
    def moments(self, targets: slice | Array) -> Moments:
        """Of some of the targets; second ones are zero along variances that are zero."""

    @property
    @abstractmethod
    def log_det(self) -> float:
        """log|V|."""

    @property
    @abstractmethod
    def traces(self) -> tuple[Float[Array, "k"], Float[Array, "k k"]]:
        """tr PK_k and tr PK_kPK_l; second ones are zero along variances that are zero."""

    @abstractmethod
    def gram(self, columns: Array) -> Float[Array, "m m"]:
        """X̃ᵀPX̃ for columns without variance."""

    @abstractmethod
    def correlations(self, columns: Array, targets: slice | Array) -> Float[Array, "V m"]:
        """X̃ᵀPy for columns without variance."""

    @abstractmethod
    def weights(self, targets: slice | Array) -> Float[Array, "V p"]:
        """Posterior mean of the weights."""

    @abstractmethod
    def halves(self, K: Float[Array, "r p"]) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        """A and B with AᵀA − BᵀB the posterior covariance of Kw."""

    @abstractmethod
    def shares(self) -> Float[Array, "p"]:
        """1 − posterior over prior variance of each weight; 0 where both are."""

    def spread(self) -> Float[Array, "p"]:
        """Posterior variance of each weight."""
        return self.variances[self.data.place] * (1 - self.shares())

    @abstractmethod
    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Samples of the weights less their mean."""


@dataclass(frozen=True, eq=False)
class Primal(Solver):
    """Through H = I + S X̃ᵀX̃ S/b for the m active columns, S = diag(√a), C = H⁻¹ and û = C S X̃ᵀy/b.

        log|V| = log|H| + (n − f) log b,    yᵀPy = (|y|² − ûᵀSX̃ᵀy)/b
        a tr PK_k = Σ_k (1 − C_jj),    a yᵀPK_kPy = Σ_k û_j²

    and so on: I − C and û are S X̃ᵀPX̃ S and S X̃ᵀPy. For weak columns and those without variance these say little, and
    X̃ᵀPX̃ = (X̃ᵀX̃ − X̃ᵀX̃ S C S X̃ᵀX̃/b)/b and X̃ᵀPy = X̃ᵀ(y − X̃Sû)/b themselves are used.
    """

    @cached_property
    def _whole(self) -> bool:
        return len(self.active) == len(self.data.place)

    @cached_property
    def _root(self) -> Float[Array, "m m"]:
        data, s = self.data, self.scales / np.sqrt(self.noise)
        H = data.matrix * s if self._whole and data.in_memory else data.block(self.active, self.active) * s
        H *= s[:, None]
        H.flat[:: len(H) + 1] += 1
        L = cholesky(H)
        if (np.square(L.diagonal()) > COLLINEAR * H.diagonal()).all():
            return L
        return _rotated(np.vstack([data.projected[:, self.active] * s, np.eye(len(s))]))

    @cached_property
    def inverse(self) -> Float[Array, "m m"]:
        """C."""
        L = self._root
        return symmetric(lapack.dpotri(L, lower=1)[0]) if L.size else L

    @property
    def log_det(self):
        return 2 * float(np.log(self._root.diagonal()).sum()) + self.data.n_free * np.log(self.noise)

    @cached_property
    def traces(self):
        data, b, C = self.data, self.noise, self.inverse
        m, a = len(C), self.variances[:-1]
        diagonal = C.diagonal()
        squared = C * C
        rows = squared.sum(axis=0)
        first = np.empty(len(a) + 1)
        with np.errstate(divide="ignore"):
            inverse_a = np.where(a > 0, 1 / a, 0.0)
        first[:-1] = self._by_scale(1 - diagonal) * inverse_a
        first[-1] = (data.n_free - m + diagonal.sum()) / b
        if self._weak.any():
            first[:-1][self._weak] = self._weak_traces()
        second = np.empty((len(first), len(first)))
        squared.flat[:: m + 1] = (1 - diagonal) ** 2
        if data.single:
            second[:-1, :-1] = 0.0
            own = data.place[self.active]
            second[np.ix_(own, own)] = squared
        else:
            ones = data.indicator[self.active]
            second[:-1, :-1] = ones.T @ blas.dgemm(1.0, squared, ones)
        second[:-1, -1] = second[-1, :-1] = self._by_scale(diagonal - rows)
        second[-1, -1] = data.n_free - m + rows.sum()
        inverse = np.append(inverse_a, 1 / b)
        return first, second * inverse * inverse[:, None]

    def _half(self, columns: Array) -> Float[Array, "m j"]:
        """What active columns take from the squares of others."""
        if not self.active.size:
            return np.zeros((0, len(columns)))
        scaled = self.data.block(self.active, columns) * (self.scales / self.noise)[:, None]
        return lapack.dtrtrs(self._root, scaled, lower=1)[0]

    def gram(self, columns):
        G = self.data.block(columns, columns) / self.noise
        half = self._half(columns)
        return G - blas.dgemm(1.0, half, half, trans_a=1) if len(half) else G

    def correlations(self, columns, targets):
        return self._correlations(columns, targets, *self._solved(targets)[::2])

    def _correlations(self, columns: Array, targets: slice | Array, u: Array, e: Array | None) -> Float[Array, "V m"]:
        data = self.data
        if e is not None:
            return data.correlations(e, columns) / self.noise
        r = data.products[targets][:, columns]
        if self.active.size:
            r = r - blas.dgemm(1.0, u * self.scales, data.block(self.active, columns))
        return r / self.noise

    def _weak_columns(self) -> Array:
        return np.flatnonzero(self._weak[self.data.place])

    def _weak_traces(self) -> Float[Array, "k"]:
        """tr PK_k of the weak scales."""
        data, columns = self.data, self._weak_columns()
        half = self._half(columns)
        Q = data.squares[columns] / self.noise - np.einsum("mj,mj->j", half, half)
        return np.bincount(data.place[columns], Q, data.n_scales)[self._weak]

    def _solved(self, targets: slice | Array) -> tuple[Array, Array, Array | None]:
        """û and yᵀPy; y − X̃ŵ where a difference would cost digits."""
        data, b = self.data, self.noise
        z, total = data.products[targets], data.total[targets]
        if not self.active.size:
            return np.zeros((len(z), 0)), total / b, None
        zs = z * (self.scales / b) if self._whole else z[:, self.active] * (self.scales / b)
        u = lapack.dpotrs(self._root, zs.T, lower=1)[0].T
        quadratic = total / b - np.einsum("vm,vm->v", zs, u)
        if (quadratic * b > CLOSE * total).all():
            return u, quadratic, None
        e = data.outside((u * self.scales).T, self.active, targets)
        return u, np.einsum("nv,nv->v", e, e) / b + np.einsum("vm,vm->v", u, u), e

    def quadratic(self, targets):
        return self._solved(targets)[1]

    def moments(self, targets):
        data, b, a = self.data, self.noise, self.variances[:-1]
        u, quadratic, e = self._solved(targets)
        with np.errstate(divide="ignore"):
            inverse = np.append(np.where(a > 0, 1 / a, 0.0), 1 / b)
        V, k = len(u), len(a)
        squares = self._by_scale(u * u)
        rest = quadratic - squares.sum(axis=1)
        first = np.column_stack([squares, rest]) * inverse
        if self._weak.any():
            first[:, :-1][:, self._weak] = self._weak_moments(u, e, targets)
        kept = np.zeros((V, k, k))  # û_kᵀC_klû_l
        if data.single:
            own = data.place[self.active]
            kept[:, own[:, None], own] = u[:, :, None] * u[:, None, :] * self.inverse
        elif V == 1:
            apart = u.T * data.indicator[self.active]
            kept[0] = apart.T @ blas.dgemm(1.0, self.inverse, apart)
        else:
            for j in np.flatnonzero(a > 0):
                columns = np.flatnonzero(data.place[self.active] == j)
                kept[:, :, j] = self._by_scale(u * blas.dgemm(1.0, u[:, columns], self.inverse[columns]))
        second = np.empty((V, k + 1, k + 1))
        second[:, :-1, :-1] = -kept
        second[:, range(k), range(k)] += squares
        second[:, :-1, -1] = second[:, -1, :-1] = kept.sum(axis=2)
        second[:, -1, -1] = rest - kept.sum(axis=(1, 2))
        return Moments(quadratic, first, second * inverse * inverse[:, None])

    def _weak_moments(self, u: Array, e: Array | None, targets: slice | Array) -> Float[Array, "V k"]:
        """yᵀPK_kPy of the weak scales."""
        columns = self._weak_columns()
        squares = self._correlations(columns, targets, u, e) ** 2
        place = self.data.place[columns]
        return np.stack([np.bincount(place, row, self.data.n_scales) for row in squares])[:, self._weak]

    def weights(self, targets):
        u = self._solved(targets)[0]
        out = np.zeros((len(u), len(self.data.place)))
        out[:, self.active] = u * self.scales
        return out

    def halves(self, K):
        kept = lapack.dtrtrs(self._root, (K[:, self.active] * self.scales).T, lower=1)[0] if self.active.size else None
        return np.zeros((0, len(K))) if kept is None else kept, np.zeros((0, len(K)))

    def shares(self):
        out = np.zeros(len(self.data.place))
        out[self.active] = 1 - self.inverse.diagonal()
        return out

    def draws(self, n, rng):
        out = np.zeros((n, len(self.data.place)))
        if self.active.size:
            z = rng.standard_normal((len(self.active), n))
            out[:, self.active] = lapack.dtrtrs(self._root, z, lower=1, trans=1)[0].T * self.scales
        return out


@dataclass(frozen=True, eq=False)
class Dual(Solver):
    """Through V = LLᵀ for the rows, E = L⁻¹X̃ and h = L⁻¹y.

        yᵀPy = |h|²,    tr PK_k = ‖E_k‖²,    yᵀPK_kPy = |E_kᵀh|²,    tr PK_kPK_l = ‖E_kᵀE_l‖²

    V has τ QQᵀ/n added, where neither y nor X̃ has a part, so that the noise may be zero. Where variances differ a lot,
    L comes from rotating (X̃S, √b I)ᵀ to triangular form rather than from V.
    """

    @cached_property
    def _lift(self) -> float:
        """τ."""
        s = self.data.squares[self.active] @ self.scales**2 / self.data.n_rows
        return float(s + self.noise)

    @cached_property
    def _root(self) -> Float[Array, "n n"]:
        data, b = self.data, self.noise
        n = data.n_rows
        XS = data.projected[:, self.active] * self.scales
        lift = data.Q * np.sqrt(self._lift / n)
        own = data.squares[self.active] * self.scales**2
        if own.max(initial=0) <= STEEP * n * b:
            V = lower_gram(np.ascontiguousarray(np.hstack([XS, lift]).T))
            V.flat[:: n + 1] += b
            return cholesky(V)
        L = _rotated(np.vstack([XS.T, lift.T, np.sqrt(b) * np.eye(n)]))
        if b == 0 and not L.diagonal().min() > SINGULAR * L.diagonal().max():
            raise NotPositiveDefinite(f"Without noise, the active columns do not span the {n} rows.")
        return L

    @cached_property
    def _inverse_root(self) -> Float[Array, "n n"]:
        """L⁻¹."""
        return lapack.dtrtri(self._root, lower=1)[0]

    @cached_property
    def _columns(self) -> Float[Array, "n p"]:
        """E."""
        return lapack.dtrtrs(self._root, self.data.projected, lower=1)[0]

    def _responses(self, targets: slice | Array) -> Float[Array, "n V"]:
        """h."""
        return lapack.dtrtrs(self._root, self.data.read(targets), lower=1)[0]

    @property
    def _unseen(self) -> float:
        """Observations beyond the rows, less flat columns that were lifted."""
        return self.data.n_observations - self.data.n_rows

    @cached_property
    def log_det(self):
        f, lifted = self.data.Q.shape[1], self.noise + self._lift
        more = self._unseen * np.log(self.noise) if self._unseen else 0.0
        return 2 * float(np.log(self._root.diagonal()).sum()) - f * np.log(lifted) + more

    @cached_property
    def traces(self):
        data, E, b = self.data, self._columns, self.noise
        k, f, lifted = data.n_scales, data.Q.shape[1], self.noise + self._lift
        more = self._unseen / b if self._unseen else 0.0
        Li = self._inverse_root
        first = np.empty(k + 1)
        first[:-1] = np.bincount(data.place, np.einsum("nj,nj->j", E, E), k)
        first[-1] = np.vdot(Li, Li) - f / lifted + more
        second = np.empty((k + 1, k + 1))
        inverse = blas.dsyrk(1.0, Li, lower=1)  # L⁻¹L⁻ᵀ, whose square has the trace of V⁻²
        symmetric(inverse)
        second[-1, -1] = np.vdot(inverse, inverse) - f / lifted**2 + (more / b if more else 0.0)
        along = blas.dtrmm(1.0, Li, E, lower=1, trans_a=1)  # PX̃
        second[:-1, -1] = second[-1, :-1] = np.bincount(data.place, np.einsum("nj,nj->j", along, along), k)
        if data.single:
            Q = blas.dgemm(1.0, E, E, trans_a=1)
            second[np.ix_(data.place, data.place)] = Q * Q
        else:
            own = [E[:, data.place == j] for j in range(k)]
            squares = [blas.dgemm(1.0, e, e, trans_b=1) for e in own]
            second[:-1, :-1] = [[np.vdot(s, t) for t in squares] for s in squares]
        return first, second

    def quadratic(self, targets):
        h = self._responses(targets)
        return np.einsum("nv,nv->v", h, h)

    def moments(self, targets):
        data, E, k = self.data, self._columns, self.data.n_scales
        h = self._responses(targets)
        r = blas.dgemm(1.0, E, h, trans_a=1)
        Py = blas.dtrmm(1.0, self._inverse_root, h, lower=1, trans_a=1)
        V = h.shape[1]
        first = np.empty((V, k + 1))
        first[:, :-1] = (data.indicator.T @ (r * r)).T if not data.single else (r * r)[np.argsort(data.place)].T
        first[:, -1] = np.einsum("nv,nv->v", Py, Py)
        if data.single:
            parts = np.empty((k + 1, len(h), V))
            parts[data.place] = E.T[:, :, None] * r[:, None, :]
        else:
            parts = np.empty((k + 1, len(h), V))
            for j in range(k):
                columns = data.place == j
                parts[j] = blas.dgemm(1.0, E[:, columns], r[columns])
        parts[-1] = blas.dtrmm(1.0, self._inverse_root, Py, lower=1)
        second = np.einsum("knv,lnv->vkl", parts, parts, optimize=True)
        return Moments(np.einsum("nv,nv->v", h, h), first, second)

    def gram(self, columns):
        E = self._columns[:, columns]
        return blas.dgemm(1.0, E, E, trans_a=1)

    def correlations(self, columns, targets):
        return blas.dgemm(1.0, self._responses(targets), self._columns[:, columns], trans_a=1)

    def weights(self, targets):
        r = blas.dgemm(1.0, self._columns, self._responses(targets), trans_a=1)
        return r.T * self.variances[self.data.place]

    def halves(self, K):
        a = self.variances[self.data.place]
        return (K * np.sqrt(a)).T, blas.dgemm(1.0, self._columns, K * a, trans_b=1)

    def shares(self):
        return self.variances[self.data.place] * np.einsum("nj,nj->j", self._columns, self._columns)

    def draws(self, n, rng):
        data, a = self.data, self.variances[self.data.place]
        w = rng.standard_normal((n, len(a))) * np.sqrt(a)
        e = rng.standard_normal((data.n_rows, n)) * np.sqrt(self.noise)
        y = blas.dgemm(1.0, data.projected, w, trans_b=1) + e - data.Q @ (data.Q.T @ e / len(e))
        half = lapack.dtrtrs(self._root, y, lower=1)[0]
        return w - blas.dgemm(1.0, half, self._columns, trans_a=1) * a


def _rotated(A: Float[Array, "n m"]) -> Float[Array, "m m"]:
    """L with LLᵀ = AᵀA, by rotations of the rows of A: half the digits that products lose are kept."""
    R = np.triu(lapack.dgeqrf(A)[0][: A.shape[1]])
    return (R * np.sign(R.diagonal())[:, None]).T
