# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian mixed model keeps of its rows: sums by level of one grouping factor, and a border of all the rest.

The grouping factor with the most coefficients is the inner one: its blocks are eliminated level by level. The border
holds the coefficients of the other grouping factors, then dense columns, then flat ones, then y.

Arrays by level have shape (q, …) and Fortran order: an entry of all blocks is a contiguous vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse
from scipy.linalg import blas

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.priors import RandomEffects

WIDE = 6
"""Blocks of more rows are multiplied one by one."""
NARROW = 200
"""Up to this many columns a level, all products of G B are summed at once, and directions read off the sum."""
KEPT = 1e-3
"""If less than this share of a column's square lies within levels, that is summed from the rows."""
SPANNED = 1e-12
"""A column of which less than this share of the square lies within levels is spanned by theirs."""
MANY_PAIRS = 40_000_000
"""Beyond this number of pairs of border columns that meet in a level, the border counts as dense."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """A grouping factor with all the columns whose coefficients vary over its levels.

    Parameters
    ----------
    codes : (n,)
    n_levels : int
    Z : (n, m)
        The columns of all its terms side by side, rows scaled.
    terms
        The terms, in the order of their columns.
    """

    codes: Int[Array, "n"]
    n_levels: int
    Z: Float[Array, "n m"]
    terms: tuple[RandomEffects, ...]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.n_levels * self.Z.shape[1]

    @cached_property
    def design(self) -> sparse.csr_array:
        """The columns of its weights, (n, size): m entries a row."""
        n, m = self.Z.shape
        columns = (self.codes[:, None] * m + np.arange(m)).reshape(-1)
        return sparse.csr_array((self.Z.reshape(-1), columns, np.arange(0, n * m + 1, m)), shape=(n, self.size))

    @cached_property
    def _runs(self) -> tuple[Int[Array, "l"], Int[Array, "l"] | slice] | None:
        """Where the runs of equal codes start, and of which levels they are, if rows come level by level."""
        steps = np.diff(self.codes)
        if not len(self.codes) or steps.min(initial=0) < 0:
            return None
        starts = np.append(0, np.flatnonzero(steps) + 1)
        return starts, slice(None) if len(starts) == self.n_levels else self.codes[starts]

    def sums(self, columns: Sequence[Float[Array, "n"]]) -> Float[Array, "q m c"]:
        """Z times columns, by level."""
        m, buffer = self.Z.shape[1], np.empty(len(self.codes))
        out = by_level(self.n_levels, m, len(columns))
        for i, z in enumerate(self.Z.T):
            plain = bool((z == 1).all())
            for c, x in enumerate(columns):
                self._sum(x if plain else np.multiply(z, x, out=buffer), out[:, i, c])
        return out

    def blocks(self) -> Float[Array, "q m m"]:
        """ZᵀZ by level."""
        m, buffer = self.Z.shape[1], np.empty(len(self.codes))
        out = by_level(self.n_levels, m, m)
        for i, z in enumerate(self.Z.T):
            for j in range(i + 1):
                self._sum(np.multiply(z, self.Z[:, j], out=buffer), out[:, i, j])
                out[:, j, i] = out[:, i, j]
        return out

    def _sum(self, values: Float[Array, "n"], out: Float[Array, "q"]) -> None:
        """By level; rows that come level by level are summed as they lie."""
        if self._runs is None:
            out[:] = np.bincount(self.codes, values, self.n_levels)
        else:
            starts, levels = self._runs
            out[levels] = np.add.reduceat(values, starts)


class Shrunk(ABC):
    """G_gB_g, for the G_g of one θ: sums over levels that are made of it."""

    @abstractmethod
    def between(self) -> Float[Array, "F F"]:
        """Σ_g B_gᵀA_g⁻G_gB_g."""

    @abstractmethod
    def along(self, D: Float[Array, "k m m"]) -> Float[Array, "k F F"]:
        """Σ_g B_gᵀG_gᵀ D_k G_gB_g for symmetric D_k."""

    @abstractmethod
    def spread(self, Y: Float[Array, "F F"]) -> Float[Array, "q m m"]:
        """G_gB_g Y B_gᵀG_gᵀ for symmetric Y."""

    @abstractmethod
    def times(self, v: Float[Array, "F"]) -> Float[Array, "q m"]:
        """G_gB_g v."""

    @abstractmethod
    def rows(self, left: Float[Array, "m m"]) -> sparse.csr_array:
        """left · G_gB_g as a matrix of q m rows."""


class Cross(ABC):
    """B: the inner weights' columns times the border's, by level: (q, m, F)."""

    @abstractmethod
    def shrunk(self, G: Float[Array, "q m m"]) -> Shrunk:
        """G_gB_g."""

    @abstractmethod
    def between(self) -> Float[Array, "F F"]:
        """Σ_g B_gᵀA_g⁻B_g."""


@dataclass(frozen=True, eq=False)
class DenseCross(Cross):
    """Every level meets every column of the border.

    Parameters
    ----------
    values : (q, m, F)
        B.
    means : (q, m, F)
        A⁻B.
    """

    values: Float[Array, "q m F"]
    means: Float[Array, "q m F"]

    def shrunk(self, G):
        return DenseShrunk(self, blockwise(G, self.values))

    def between(self):
        return _paired(self.means, self.values)


@dataclass(frozen=True, eq=False)
class DenseShrunk(Shrunk):
    """Kept as an array."""

    cross: DenseCross
    values: Float[Array, "q m F"]

    def between(self):
        out = _paired(self.cross.means, self.values)
        return (out + out.T) / 2

    def along(self, D):
        q, m, F = self.values.shape
        if m * F < NARROW:
            flat = self.values.reshape(q, m * F, order="F")
            gram = (flat.T @ flat).reshape(F, m, F, m).transpose(1, 3, 0, 2)  # Σ_g (GB)_giᵀ(GB)_gj
            return (D.reshape(-1, m * m) @ gram.reshape(m * m, F * F)).reshape(-1, F, F)
        every = [np.broadcast_to(d, (q, m, m)) for d in D]
        return np.array([_paired(blockwise(d, self.values), self.values) for d in every]).reshape(-1, F, F)

    def spread(self, Y):
        q, m, F = self.values.shape
        moved = product(Y, _rows(self.values).T).T.reshape(q, m, F, order="F")
        out = by_level(q, m, m)
        for i in range(m):
            for j in range(i + 1):
                out[:, i, j] = out[:, j, i] = np.einsum("qf,qf->q", moved[:, i], self.values[:, j])
        return out

    def times(self, v):
        return (_rows(self.values) @ v).reshape(self.values.shape[:2], order="F")

    def rows(self, left):
        return sparse.csr_array((left @ self.values).reshape(-1, self.values.shape[2]))


def by_level(q: int, m: int, r: int) -> Float[Array, "q m r"]:
    """Zeros."""
    return np.zeros((q, m, r), order="F")


def _rows(X: Float[Array, "q m r"]) -> Float[Array, "qm r"]:
    """The rows of all levels, the first rows before the second ones."""
    return X.reshape(-1, X.shape[2], order="F")


def _paired(X: Float[Array, "q m F"], Y: Float[Array, "q m F"]) -> Float[Array, "F F"]:
    """Σ_g X_gᵀY_g."""
    return product(_rows(X).T, _rows(Y))


def product(X: Array, Y: Array) -> Array:
    """XY; where it is work, by SciPy's BLAS like all heavy algebra, for two pools would get in each other's way."""
    if X.size + Y.size < 10_000:
        return X @ Y
    (x, as_x), (y, as_y) = ((M, 1) if M.flags.f_contiguous else (M.T, 0) for M in (X, Y))
    return blas.dgemm(1.0, y, x, trans_a=as_y, trans_b=as_x).T  # (XY)ᵀ = YᵀXᵀ, from columns that are contiguous


def blockwise(X: Float[Array, "q m m"], Y: Float[Array, "q m r"]) -> Float[Array, "q m r"]:
    """X_gY_g; NumPy's products of stacks are slow for small blocks."""
    m = X.shape[2]
    if m > WIDE:
        return np.asfortranarray(X @ Y)
    out = np.multiply(X[:, :, :1], Y[:, :1], out=np.empty(Y.shape, order="F"))
    buffer = np.empty_like(out)
    for k in range(1, m):
        out += np.multiply(X[:, :, k : k + 1], Y[:, k : k + 1], out=buffer)
    return out


@dataclass(frozen=True, eq=False)
class PairedCross(Cross):
    """A level meets few columns of the border: sums run over the pairs of columns that meet.

    Parameters
    ----------
    level, column : (K,)
        Where B has entries, sorted by level.
    values : (K, m)
    inverse : (q, m, m)
        A⁻.
    n_levels, width : int
        q and F.
    """

    level: Int[Array, "K"]
    column: Int[Array, "K"]
    values: Float[Array, "K m"]
    inverse: Float[Array, "q m m"]
    n_levels: int
    width: int

    @cached_property
    def _operator(self) -> PairOperator:
        return PairOperator.of(self)

    def gather(self, N: Float[Array, "q m m"]) -> Float[Array, "F F"]:
        """Σ_g B_gᵀN_gB_g for symmetric N."""
        F = self.width
        lower = np.zeros(F * F)
        lower[self._operator.place] = sum(A.T @ N[:, i, j] for (i, j), A in self._operator.by_entry.items())
        return _symmetric(lower.reshape(F, F))

    def spread(self, Y: Float[Array, "F F"]) -> Float[Array, "q m m"]:
        """B_gYB_gᵀ for symmetric Y."""
        m, q = self.values.shape[1], self.n_levels
        once = Y.reshape(-1)[self._operator.place]
        twice = np.where(self._operator.off_diagonal, 2 * once, once)
        out = by_level(q, m, m)
        for (i, j), A in self._operator.by_entry.items():
            out[:, i, j] = out[:, j, i] = A @ twice if i == j else A @ twice / 2
        return out

    def times(self, v: Float[Array, "F"]) -> Float[Array, "q m"]:
        """B_gv."""
        weighted = self.values * v[self.column, None]
        return np.stack([np.bincount(self.level, w, self.n_levels) for w in weighted.T], axis=1)

    def shrunk(self, G):
        return PairedShrunk(self, G)

    def between(self):
        return self.gather(self.inverse)


@dataclass(frozen=True, eq=False)
class PairedShrunk(Shrunk):
    """Through the pairs of B and the blocks of G."""

    cross: PairedCross
    G: Float[Array, "q m m"]

    def between(self):
        N = blockwise(self.cross.inverse, self.G)  # symmetric only where A_g has an inverse
        return self.cross.gather((N + N.transpose(0, 2, 1)) / 2)

    def along(self, D):
        GT, F = self.G.transpose(0, 2, 1), self.cross.width
        every = [np.broadcast_to(d, self.G.shape) for d in D]
        return np.array([self.cross.gather(blockwise(blockwise(GT, d), self.G)) for d in every]).reshape(-1, F, F)

    def spread(self, Y):
        return blockwise(blockwise(self.G, self.cross.spread(Y)), self.G.transpose(0, 2, 1))

    def times(self, v):
        return blockwise(self.G, self.cross.times(v)[:, :, None])[:, :, 0]

    def rows(self, left):
        cross, m = self.cross, self.cross.values.shape[1]
        values = np.einsum("kij,kj->ki", (left @ self.G)[cross.level], cross.values)
        row = (cross.level[:, None] * m + np.arange(m)).reshape(-1)
        entries = values.reshape(-1), (row, np.repeat(cross.column, m))
        return sparse.csr_array(entries, shape=(cross.n_levels * m, cross.width))


class PairOperator(NamedTuple):
    """The lower triangle of Σ_g B_gᵀN_gB_g as a linear function of N, one sparse matrix for each entry of its blocks.

    Parameters
    ----------
    place
        Where the lower triangle has entries, in a flat F × F matrix.
    off_diagonal
        Which of these are off the diagonal.
    by_entry
        (i, j ≤ i) → matrix with a row for each level and a column for each place.
    """

    place: Int[Array, "P"]
    off_diagonal: Array
    by_entry: dict[tuple[int, int], sparse.csr_array]

    @classmethod
    def of(cls, cross: PairedCross) -> PairOperator:
        """By all pairs of columns that meet in a level."""
        first, second, starts = _pairs_of(cross.level, cross.n_levels)
        a, b = cross.column[first], cross.column[second]
        key = np.maximum(a, b) * cross.width + np.minimum(a, b)
        used = np.zeros(cross.width**2, bool)
        used[key] = True
        place = np.flatnonzero(used)
        number = np.empty(cross.width**2, np.int32)
        number[place] = np.arange(len(place), dtype=np.int32)
        column, u, v = number[key], cross.values[first], cross.values[second]
        shape, out = (cross.n_levels, len(place)), {}
        for i in range(cross.values.shape[1]):
            for j in range(i + 1):
                product = u[:, i] * v[:, i] if i == j else u[:, i] * v[:, j] + u[:, j] * v[:, i]
                out[i, j] = sparse.csr_array((product, column, starts), shape=shape)
        return cls(place, place // cross.width != place % cross.width, out)


def _symmetric(lower: Float[Array, "F F"]) -> Float[Array, "F F"]:
    """Both triangles, from the lower one with zeros above."""
    lower.reshape(-1)[:: len(lower) + 1] /= 2
    return lower + lower.T


def _pairs_of(level: Int[Array, "K"], n_levels: int) -> tuple[Array, Array, Array]:
    """All pairs (first, second ≤ first) of entries with the same level, and where those of each level start."""
    count = np.bincount(level, minlength=n_levels)
    before = np.arange(len(level)) - np.repeat(np.cumsum(count) - count, count)
    first = np.repeat(np.arange(len(level)), before + 1)
    # second runs from the first entry of the level up to ``first``, for each ``first`` anew
    jumps = np.ones(len(first), np.int64)
    runs = np.cumsum(before + 1)
    jumps[0] = 0
    jumps[runs[:-1]] = (np.arange(1, len(level)) - before[1:]) - np.arange(len(level) - 1)
    starts = np.concatenate([[0], np.cumsum(count * (count + 1) // 2)]).astype(np.int32)
    return first, np.cumsum(jumps), starts


@dataclass(frozen=True, eq=False)
class LevelSums:
    """The reduced data.

    Parameters
    ----------
    inner
        The grouping factor that is eliminated level by level; None where there is no grouping factor.
    outer
        The others, in the order of the border.
    blocks : (q, m, m)
        A_g = Z_gᵀZ_g.
    cross
        B = ZᵀX for the border's columns, y the last.
    border : (F, F)
        XᵀX.
    within : (F, F)
        XᵀX less Σ_g B_gᵀA_g⁻B_g: the scatter of the border within levels. From here on only positive parts are added.
    n_penalised : int
        Number of border columns before the flat ones.
    """

    inner: Grouping | None
    outer: tuple[Grouping, ...]
    blocks: Float[Array, "q m m"]
    cross: Cross
    border: Float[Array, "F F"]
    within: Float[Array, "F F"]
    n_penalised: int


def sum_levels(
    groupings: Sequence[Grouping], dense: Float[Array, "n p"], flat: Float[Array, "n f"], y: Float[Array, "n"]
) -> LevelSums:
    """One pass for the sums by level, one for the scatter within levels.

    Parameters
    ----------
    groupings
        The grouping factors.
    dense, flat, y
        The columns of other terms, the flat columns and the response; rows scaled.
    """
    if not groupings:
        gram = _gram([dense, flat, y[:, None]])
        nothing = np.zeros((0, 1, len(gram)))
        return LevelSums(None, (), nothing[:, :, :1], DenseCross(nothing, nothing), gram, gram, dense.shape[1])
    inner, *outer = sorted(groupings, key=lambda g: -g.size)
    blocks, with_rest = inner.blocks(), inner.sums([*dense.T, *flat.T, y])
    inverse = _generalised_inverse(blocks)
    n_penalised = sum(g.size for g in outer) + dense.shape[1]
    if outer:
        rest = np.column_stack([dense, flat, y])
        cross, border, within = _with_outer(inner, outer, rest, with_rest, inverse)
        return LevelSums(inner, tuple(outer), blocks, cross, border, within, n_penalised)
    alone = DenseCross(with_rest, blockwise(inverse, with_rest))
    border = _gram([dense, flat, y[:, None]])
    within = border - alone.between()
    share = within.diagonal() / np.maximum(border.diagonal(), 1e-300)
    spanned = share < SPANNED
    within[spanned] = within[:, spanned] = 0.0
    if (share[~spanned] < KEPT).any():  # a difference would cost digits
        rest = np.column_stack([dense, flat, y])
        left = rest - sum(z[:, None] * alone.means[inner.codes, j] for j, z in enumerate(inner.Z.T))
        within = product(left.T, left)
        border = within + alone.between()
    return LevelSums(inner, (), blocks, alone, border, within, n_penalised)


def _gram(parts: Sequence[Float[Array, "n c"]]) -> Float[Array, "F F"]:
    """XᵀX for columns that lie in several arrays."""
    parts = [X for X in parts if X.shape[1]]
    return np.block([[product(X.T, Y) for Y in parts] for X in parts])


def _with_outer(
    inner: Grouping, outer: Sequence[Grouping], rest: Array, with_rest: Array, inverse: Array
) -> tuple[Cross, Array, Array]:
    """The cross, the border and its scatter where other grouping factors stand in the border."""
    S = sparse.hstack([g.design for g in outer], format="csr")
    size, width = S.shape[1], S.shape[1] + rest.shape[1]
    q, m = inner.n_levels, inner.Z.shape[1]
    border = np.empty((width, width))
    border[:size, :size] = (S.T @ S).toarray()
    border[:size, size:] = S.T @ rest
    border[size:, :size] = border[:size, size:].T
    border[size:, size:] = rest.T @ rest
    key = np.repeat(inner.codes.astype(np.int64), np.diff(S.indptr)) * size + S.indices
    met, entry = np.unique(key, return_inverse=True)
    level, column = np.divmod(met, size)
    meets = np.bincount(level, minlength=q) + rest.shape[1]
    if np.sum(meets * (meets + 1) / 2) > MANY_PAIRS:
        values = by_level(q, m, width)
        values[:, :, :size] = (inner.design.T @ S).toarray().reshape(q, m, size)
        values[:, :, size:] = with_rest
        cross: Cross = DenseCross(values, blockwise(inverse, values))
    else:
        weights = S.data * np.repeat(inner.Z, np.diff(S.indptr), axis=0).T
        values = np.stack([np.bincount(entry, w, len(met)) for w in weights], axis=1)
        more = np.tile(np.arange(size, width), q)
        order = np.argsort(np.concatenate([level, np.repeat(np.arange(q), rest.shape[1])]), kind="stable")
        values = np.concatenate([values, with_rest.transpose(0, 2, 1).reshape(-1, m)])[order]
        column = np.concatenate([column, more])[order]
        cross = PairedCross(np.repeat(np.arange(q), meets), column, values, inverse, q, width)
    return cross, border, border - cross.between()


def _generalised_inverse(A: Float[Array, "q m m"]) -> Float[Array, "q m m"]:
    """A⁻ for positive semidefinite blocks; in directions that a level does not tell, zero."""
    m = A.shape[1]
    if m == 1:
        return np.divide(1.0, A, out=np.zeros_like(A), where=A > 0)
    scale = np.sqrt(np.einsum("qmm->qm", A))
    scale = np.where(scale > 0, scale, 1.0)
    scale = scale[:, :, None] * scale[:, None, :]
    C = A / scale
    if m == 2:
        det = 1 - C[:, 0, 1] ** 2
        if det.min() > 1e-6 and (A[:, [0, 1], [0, 1]] > 0).all():
            out = C * np.array([[1.0, -1.0], [-1.0, 1.0]])
            return out / det[:, None, None] / scale
    d, U = np.linalg.eigh(C)
    kept = np.divide(1.0, d, out=np.zeros_like(d), where=d > 1e-12 * m)
    return np.einsum("qik,qk,qjk->qij", U, kept, U) / scale
