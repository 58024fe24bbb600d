# SPDX-License-Identifier: BSD-3-Clause
"""The design in working order, and the sums over rows that are made of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse
from scipy.linalg import blas

from marglik.linalg import Arrow, Levels, NotPositiveDefinite, cholesky

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.gaussian.levels import Grouping
    from marglik.linalg import Scaling
    from marglik.rows import InMemory

FEW = 12
"""Up to this many dense columns are summed by level one at a time."""
MOST_ENTRIES = 50_000_000
"""No factor is computed from rows whose border, written out, has more entries."""
BLOCK = 1 << 17
"""Entries of the dense columns that are weighted at a time, so that they stay in the cache."""

RUN = 1 << 10
"""Rows that are turned into columns at a time."""
LARGE = 1 << 20
"""So many entries of columns are not copied: new memory takes longer than a better layout saves."""
FAR = 10
"""Columns are centred where one of them has a mean of more than so many standard deviations."""


@dataclass(frozen=True, eq=False)
class Factor:
    """The columns of a grouping factor: m entries a row, in the columns of the row's level."""

    codes: Int[Array, "n"]
    n_levels: int
    Z: Float[Array, "n m"]

    @classmethod
    def of(cls, grouping: Grouping) -> Factor:
        """Those of a grouping factor of the model."""
        return cls(grouping.codes, grouping.n_levels, grouping.Z)

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.n_levels * self.Z.shape[1]

    @cached_property
    def _columns(self) -> list[Float[Array, "n"] | None]:
        return [None if np.all(z == 1) else np.ascontiguousarray(z) for z in self.Z.T]

    def entries(self, rows: slice) -> list[Float[Array, "n"] | None]:
        """The columns of Z; None for one that is all ones."""
        return [None if z is None else z[rows] for z in self._columns]

    def times(self, w: Float[Array, "q m"], rows: slice) -> Float[Array, "n"]:
        """Zw."""
        codes = self.codes[rows]
        return _total(_times(z, v[codes]) for z, v in zip(self.entries(rows), w.T, strict=True))

    def sums(self, v: Float[Array, "n"] | None, rows: slice) -> Float[Array, "q m"]:
        """Zᵀv; v = None stands for ones."""
        codes, out = self.codes[rows], np.empty((self.n_levels, self.Z.shape[1]))
        for i, z in enumerate(self.entries(rows)):
            out[:, i] = np.bincount(codes, _times(z, v), self.n_levels)
        return out

    def blocks(self, v: Float[Array, "n"] | None, rows: slice) -> Float[Array, "q m m"]:
        """Zᵀ diag(v) Z, level by level."""
        codes, Z, m = self.codes[rows], self.entries(rows), self.Z.shape[1]
        out = np.empty((self.n_levels, m, m))
        for i in range(m):
            for j in range(i + 1):
                out[:, i, j] = out[:, j, i] = np.bincount(codes, _times(Z[i], _times(Z[j], v)), self.n_levels)
        return out

    def with_dense(self, v: Float[Array, "n"] | None, X: Float[Array, "n d"], rows: slice) -> Float[Array, "q m d"]:
        """Zᵀ diag(v) X."""
        codes, d = self.codes[rows], X.shape[1]
        out = np.empty((self.n_levels, self.Z.shape[1], d))
        for i, z in enumerate(self.entries(rows)):
            weighted = _times(z, v)
            if d <= FEW:
                for c in range(d):
                    out[:, i, c] = np.bincount(codes, _times(weighted, X[:, c]), self.n_levels)
            else:
                ones = np.ones(len(codes)) if weighted is None else weighted
                by_row = sparse.csr_array((ones, codes, np.arange(len(codes) + 1)), shape=(len(codes), self.n_levels))
                out[:, i] = by_row.T @ X
        return out

    def crossed(self, other: Factor, v: Float[Array, "n"] | None, rows: slice) -> Float[Array, "q m s"]:
        """Zᵀ diag(v) Z′, by a table of the levels of both."""
        key, q, r = self.codes[rows] * other.n_levels + other.codes[rows], self.n_levels, other.n_levels
        out = np.empty((q, self.Z.shape[1], r, other.Z.shape[1]))
        for i, z in enumerate(self.entries(rows)):
            for j, x in enumerate(other.entries(rows)):
                out[:, i, :, j] = np.bincount(key, _times(z, _times(x, v)), q * r).reshape(q, r)
        return out.reshape(q, self.Z.shape[1], -1)


def _times(z: Any, v: Any) -> Any:
    """zv, where None stands for ones."""
    return v if z is None else z if v is None else z * v


def _total(parts: Iterator[Array]) -> Array:
    out = next(parts)
    for part in parts:
        out = out + part
    return out


@dataclass(frozen=True, eq=False)
class Columns:
    """A grouping factor that is eliminated level by level, and a border: flat columns, dense ones, the other factors.

    Parameters
    ----------
    inner
        The factor of most weights; None where the model has none.
    dense : (n, d)
        The flat columns, then those of the dense terms.
    outer
        The other factors.
    n_flat
        Number of flat columns.
    shift : (n_flat, d)
        A, where the model's own dense columns are QA + ``dense`` (`centred`): its flat weights are then γ − Aw.
    """

    inner: Factor | None
    dense: Dense
    outer: tuple[Factor, ...]
    n_flat: int
    shift: Float[Array, "f d"]

    @classmethod
    def of(
        cls,
        factors: Sequence[Factor],
        parts: Sequence[Float[Array, "n c"]],
        n_flat: int,
        shift: Float[Array, "f d"] | None = None,
    ) -> Columns:
        """With the first of the factors as the inner one; the dense columns in parts."""
        if len(parts) == 1:
            dense: Dense = parts[0]
        else:
            dense = np.concatenate(parts, axis=1) if factors else side_by_side(parts)
        few = np.asfortranarray(dense) if dense.shape[1] <= FEW else dense
        shift = np.zeros((n_flat, few.shape[1])) if shift is None else shift
        return cls(factors[0] if factors else None, few, tuple(factors[1:]), n_flat, shift)

    @property
    def n_levels(self) -> int:
        """Number of levels of the inner factor."""
        return 0 if self.inner is None else self.inner.n_levels

    @property
    def Z(self) -> Float[Array, "n m"]:
        """Its columns."""
        return np.zeros((len(self.dense), 1)) if self.inner is None else self.inner.Z

    @property
    def codes(self) -> Int[Array, "n"]:
        """The level of each row."""
        return np.zeros(len(self.dense), int) if self.inner is None else self.inner.codes

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(q, m, f): levels, coefficients a level, and columns of the border."""
        m = 1 if self.inner is None else self.inner.Z.shape[1]
        return self.n_levels, m, self.dense.shape[1] + sum(f.size for f in self.outer)

    @cached_property
    def places(self) -> tuple[slice, ...]:
        """Where the other factors lie on the border."""
        ends = np.cumsum([self.dense.shape[1], *(f.size for f in self.outer)])
        return tuple(slice(int(a), int(b)) for a, b in pairwise(ends))

    @cached_property
    def border(self) -> Float[Array, "n f"]:
        """All columns of the border written out."""
        return self._border(slice(0, len(self.dense)))

    def _border(self, rows: slice) -> Float[Array, "n f"]:
        X = written(self.dense[rows])
        if not self.outer:
            return X
        out = np.zeros((len(X), self.shape[2]))
        out[:, : X.shape[1]] = X
        for factor, place in zip(self.outer, self.places, strict=True):
            m = factor.Z.shape[1]
            at = place.start + factor.codes[rows, None] * m + np.arange(m)
            np.put_along_axis(out, at, factor.Z[rows], axis=1)
        return out

    def split(self, v: Float[Array, "*r p"]) -> tuple[Float[Array, "*r q m"], Float[Array, "*r f"]]:
        """A vector's part along the blocks and its part along the border; leading axes are kept."""
        q, m, _ = self.shape
        top, bottom = v[..., : q * m], v[..., q * m :]
        return top.reshape(*v.shape[:-1], q, m), bottom

    def times(self, w: Float[Array, "p"], rows: slice) -> Float[Array, "n"]:
        """Xw."""
        top, bottom = self.split(w)
        eta = self.dense[rows] @ bottom[: self.dense.shape[1]]
        if self.inner is not None:
            eta += self.inner.times(top, rows)
        for factor, place in zip(self.outer, self.places, strict=True):
            eta += factor.times(bottom[place].reshape(factor.n_levels, -1), rows)
        return eta

    def transpose_times(self, v: Float[Array, "n"], over: InMemory) -> Float[Array, "p"]:
        """Xᵀv."""

        def part(rows: slice) -> tuple[Array, ...]:
            own = v[rows]
            top = () if self.inner is None else (self.inner.sums(own, rows).reshape(-1),)
            return (*top, own @ self.dense[rows], *(f.sums(own, rows).reshape(-1) for f in self.outer))

        return np.concatenate(over.sum(part))

    def gram(self, weights: Float[Array, "n"] | None, over: InMemory) -> Arrow:
        """XᵀWX on the arrow's pattern."""
        blocks, cross, border = over.sum(lambda rows: self._gram(None if weights is None else weights[rows], rows))
        gram = Arrow(blocks, cross, border)
        q, m, _ = self.shape
        if m > 1 or not q:
            return gram
        N, B = gram.blocks[:, 0, 0], gram.cross[:, 0]
        return replace(gram, levels=Levels(N, B, lambda: self._scatter(weights, over, N, B)))

    def _gram(self, w: Float[Array, "n"] | None, rows: slice) -> tuple[Array, Array, Array]:
        X = self.dense[rows]
        d, f = X.shape[1], self.shape[2]
        border = np.zeros((f, f))
        border[:d, :d] = weighted_gram(X, w)
        for i, (factor, place) in enumerate(zip(self.outer, self.places, strict=True)):
            size, k = factor.Z.shape[1], factor.n_levels
            own = border[place, place].reshape(k, size, k, size)
            own[np.arange(k), :, np.arange(k)] = factor.blocks(w, rows)
            beside = factor.with_dense(w, written(X), rows).reshape(factor.size, d)
            border[place, :d], border[:d, place] = beside, beside.T
            for other, there in zip(self.outer[:i], self.places[:i], strict=True):
                beside = factor.crossed(other, w, rows).reshape(factor.size, other.size)
                border[place, there], border[there, place] = beside, beside.T
        if self.inner is None:
            return np.zeros((0, 1, 1)), np.zeros((0, 1, f)), border
        cross = [self.inner.with_dense(w, written(X), rows), *(self.inner.crossed(o, w, rows) for o in self.outer)]
        return self.inner.blocks(w, rows), cross[0] if len(cross) == 1 else np.concatenate(cross, axis=2), border

    def _scatter(
        self, weights: Float[Array, "n"] | None, over: InMemory, N: Float[Array, "q"], B: Float[Array, "q f"]
    ) -> Float[Array, "f f"]:
        """Σ_i W_i r_i r_iᵀ, with r_i the border's columns less their regression on Z within the level of row i."""
        means = B / np.where(N > 0, N, 1.0)[:, None]

        def part(rows: slice) -> tuple[Array]:
            r = self._border(rows) - self.Z[rows] * means[self.codes[rows]]
            return (weighted_gram(r, None if weights is None else weights[rows]),)

        few = max(BLOCK * 32 // max(B.shape[1], 1), 1)
        return replace(over, chunk=min(over.chunk, few)).sum(part)[0]

    def rooted(
        self, weights: Float[Array, "n"], L: Float[Array, "m m"], T: Scaling, mask: Float[Array, "f"]
    ) -> tuple[Float[Array, "q m m"], Float[Array, "q m f"], Float[Array, "f f"]]:
        """The factor of an arrow H = AᵀA + I from A = W^½XL itself, by orthogonal transformations a level.

        Where a scale is so large that H, which squares it, no longer holds the prior or what differs from a level's
        own columns, A still does.
        """
        q, m, f = self.shape
        if not weights.min(initial=0) >= 0 or len(weights) * f > MOST_ENTRIES:
            raise NotPositiveDefinite("The matrix is not positive definite.")
        root = np.sqrt(weights)[:, None]
        own, border = root * (self.Z @ L), T.right(root * self._border(slice(0, len(weights))))
        order = np.argsort(self.codes, kind="stable")
        ends = np.append(0, np.cumsum(np.bincount(self.codes, minlength=q)))
        blocks, half, rest = np.zeros((q, m, m)), np.zeros((q, m, f)), []
        for g in range(q):
            rows = order[ends[g] : ends[g + 1]]
            Q, R = np.linalg.qr(np.concatenate([own[rows], np.eye(m)]))
            signs = np.where(R.diagonal() < 0, -1.0, 1.0)
            X = np.concatenate([border[rows], np.zeros((m, f))])
            along = Q.T @ X
            left = X - Q @ along
            again = Q.T @ left
            blocks[g], half[g] = (signs[:, None] * R).T, signs[:, None] * (along + again)
            rest.append(left - Q @ again)
        R = np.linalg.qr(np.concatenate([*(rest or [border]), np.diag(mask)]))[1]
        S = (np.where(R.diagonal() < 0, -1.0, 1.0)[:, None] * R).T
        if not (np.isfinite(S).all() and np.isfinite(half).all() and S.diagonal().min(initial=1) > 0):
            raise NotPositiveDefinite("The matrix is singular.")
        return blocks, half, S

    def quadratic(self, C: Arrow, over: InMemory) -> Float[Array, "n"]:
        """x_iᵀ C x_i for each row."""
        return over.map(lambda rows: self._quadratic(C, rows))

    def _quadratic(self, C: Arrow, rows: slice) -> Float[Array, "n"]:
        X = self.dense[rows]
        d = X.shape[1]
        out = leverages(C.border[:d, :d], X)
        for i, (factor, place) in enumerate(zip(self.outer, self.places, strict=True)):
            k, size = factor.n_levels, factor.Z.shape[1]
            own = C.border[place, place].reshape(k, size, k, size)
            out += _along(factor, own[np.arange(k), :, np.arange(k)], rows)
            out += 2 * _beside(factor, C.border[place, :d].reshape(k, size, d), written(X), rows)
            for other, there in zip(self.outer[:i], self.places[:i], strict=True):
                out += 2 * _between(factor, other, C.border[place, there].reshape(k, size, -1), rows)
        if self.inner is not None:
            out += _along(self.inner, C.blocks, rows)
            out += 2 * _beside(self.inner, C.cross[:, :, :d], written(X), rows)
            for factor, place in zip(self.outer, self.places, strict=True):
                out += 2 * _between(self.inner, factor, C.cross[:, :, place], rows)
        return out


def centred(Q: Float[Array, "n f"], X: Float[Array, "n c"]) -> tuple[Float[Array, "n c"], Float[Array, "f c"]]:
    """X̃ and A of X = QA + X̃, with QᵀQ = n I: QᵀX̃ = 0 where a column lies far from zero, X̃ = X where none does.

    As Q has flat weights, X̃ makes the same model as X. But XᵀWX of columns far from zero has what distinguishes rows in
    its last digits.
    """
    n = max(len(X), 1)
    A = np.array([np.einsum("n,nc->c", q, X) for q in Q.T]).reshape(Q.shape[1], X.shape[1]) / n
    means = np.einsum("fc,fc->c", A, A)
    if not np.any(means > FAR**2 * (np.einsum("nc,nc->c", X, X) / n - means)):
        return X, np.zeros_like(A)
    return X - Q @ A, A


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Several arrays of columns as one design of which nothing is copied.

    Parameters
    ----------
    parts : of (n, c_i) each
    """

    parts: tuple[Float[Array, "n c"], ...]

    __array_ufunc__ = None

    @cached_property
    def _ends(self) -> list[int]:
        return np.cumsum([part.shape[1] for part in self.parts]).tolist()

    @property
    def shape(self) -> tuple[int, int]:
        """(n, Σ c_i)."""
        return len(self), self._ends[-1]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: Any) -> SideBySide:
        return SideBySide(tuple(part[rows] for part in self.parts))

    def __matmul__(self, w: Float[Array, "d"]) -> Float[Array, "n"]:
        pairs = zip(self.parts, np.split(w, self._ends), strict=False)
        return _total(np.einsum("nd,d->n", X, own) if _streams(X) else X @ own for X, own in pairs)

    def __rmatmul__(self, v: Float[Array, "n"]) -> Float[Array, "d"]:
        return np.concatenate([np.einsum("n,nd->d", v, X) if _streams(X) else v @ X for X in self.parts])


def _streams(X: Float[Array, "n d"]) -> bool:
    """Whether NumPy's own loops, which read memory once and in order, beat BLAS: long rows, one after another."""
    return X.shape[1] > FEW and X.flags.c_contiguous


Dense: TypeAlias = np.ndarray | SideBySide
"""Columns with X[rows], Xw as X @ w and Xᵀv as v @ X."""


def side_by_side(parts: Sequence[Float[Array, "n c"]]) -> Dense:
    """One array of all columns, or the arrays that there are where they are large."""
    large = sum(part.size for part in parts) >= LARGE
    return SideBySide(tuple(parts)) if large else in_columns(parts)


def in_columns(parts: Sequence[Float[Array, "n c"]]) -> Float[Array, "n d"]:
    """A copy with column after column in memory: Xv and Xᵀv then take half the time."""
    n, ends = len(parts[0]), np.cumsum([0, *(part.shape[1] for part in parts)])
    out = np.empty((n, ends[-1]), order="F")
    for part, (a, b) in zip(parts, pairwise(ends), strict=True):
        for i in range(0, n, RUN):
            out[i : i + RUN, a:b] = part[i : i + RUN]
    return out


def written(X: Dense) -> Float[Array, "n d"]:
    """As one array."""
    return np.concatenate(X.parts, axis=1) if isinstance(X, SideBySide) else X


def weighted_gram(X: Dense, w: Float[Array, "n"] | None) -> Float[Array, "d d"]:
    """XᵀWX, both triangles: half the products where no weight is negative."""
    d, signed = X.shape[1], w is not None and not w.min(initial=0) >= 0
    if isinstance(X, np.ndarray) and (d <= FEW or signed):
        return X.T @ (X if w is None else X * w[:, None])
    out = np.zeros((d, d), order="F")
    for rows, part in _blocks(X, None if w is None or signed else np.sqrt(w)):
        if signed:
            out += part.T @ (part * w[rows, None])  # type: ignore[index]
            continue
        by_column = part.flags.f_contiguous
        out = blas.dsyrk(1.0, part if by_column else part.T, trans=int(by_column), beta=1.0, c=out, overwrite_c=1)
    return out if signed else np.triu(out) + np.triu(out, 1).T


def leverages(C: Float[Array, "d d"], X: Dense) -> Float[Array, "n"]:
    """x_iᵀ C x_i: half the products, as |Lᵀx_i|² with C = LLᵀ, where C is positive definite."""
    n, d = X.shape
    try:
        L = cholesky(C) if d > FEW else None
    except NotPositiveDefinite:
        L = None
    out = np.empty(n)
    for rows, part in _blocks(X):
        if L is None:
            half = part @ C
        elif part.flags.f_contiguous:
            half = part = blas.dtrmm(1.0, L, part, side=1, lower=1, overwrite_b=1)
        else:
            half = part = blas.dtrmm(1.0, L, part.T, lower=1, trans_a=1, overwrite_b=1).T
        np.einsum("nd,nd->n", half, part, out=out[rows])
    return out


def _blocks(X: Dense, by: Float[Array, "n"] | None = None) -> Iterator[tuple[slice, Float[Array, "m d"]]]:
    """Rows that fit into the cache, and what is in them, each row times its number, in memory to be written over."""
    n, d = X.shape
    step = BLOCK // max(d, 1) + 1
    parts, by_column = (X.parts, False) if isinstance(X, SideBySide) else ((X,), X.flags.f_contiguous)
    memory = np.empty(min(step, n) * d)
    for i in range(0, n, step):
        rows = slice(i, min(i + step, n))
        block = memory[: (rows.stop - i) * d].reshape(rows.stop - i, d, order="F" if by_column else "C")
        for own, part in zip(np.split(block, np.cumsum([p.shape[1] for p in parts])[:-1], axis=1), parts, strict=True):
            if by is None:
                own[...] = part[rows]
            else:
                np.multiply(part[rows], by[rows, None], out=own)
        yield rows, block


def _along(factor: Factor, blocks: Float[Array, "q m m"], rows: slice) -> Float[Array, "n"]:
    """z_iᵀ C_g z_i with g the level of row i."""
    codes, Z = factor.codes[rows], factor.entries(rows)
    pairs = [(i, j) for i in range(len(Z)) for j in range(len(Z))]
    return _total(_times(Z[i], _times(Z[j], blocks[:, i, j][codes])) for i, j in pairs)


def _beside(factor: Factor, cross: Float[Array, "q m d"], X: Float[Array, "n d"], rows: slice) -> Float[Array, "n"]:
    """z_iᵀ C_g x_i."""
    codes = factor.codes[rows]
    if X.shape[1] > FEW:
        along = (np.einsum("nd,nd->n", cross[:, i][codes], X) for i in range(cross.shape[1]))
        return _total(_times(z, a) for z, a in zip(factor.entries(rows), along, strict=True))
    out = np.zeros(len(codes))
    for i, z in enumerate(factor.entries(rows)):
        for c in range(X.shape[1]):
            out += _times(z, cross[:, i, c][codes] * X[:, c])
    return out


def _between(factor: Factor, other: Factor, cross: Float[Array, "q m s"], rows: slice) -> Float[Array, "n"]:
    """z_iᵀ C_gh z′_i with g and h the levels of row i."""
    a, b = factor.codes[rows], other.codes[rows] * other.Z.shape[1]
    return _total(
        _times(z, _times(x, cross[a, i, b + j]))
        for i, z in enumerate(factor.entries(rows))
        for j, x in enumerate(other.entries(rows))
    )
