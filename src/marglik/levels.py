# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian mixed model keeps of its rows: sums by level of one grouping factor, and a border of all the rest.

The grouping factor with the most coefficients is the inner one: its blocks are eliminated level by level. The border
holds the coefficients of the other grouping factors, then dense columns, then flat ones, then y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.linalg import blas

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.priors import RandomEffects, Term

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


class Cross(ABC):
    """B: the inner weights' columns times the border's, by level: (q, m, F)."""

    @abstractmethod
    def gather(self, N: Float[Array, "q m m"]) -> Float[Array, "F F"]:
        """Σ_g B_gᵀ N_g B_g for symmetric N."""

    @abstractmethod
    def spread(self, Y: Float[Array, "F F"]) -> Float[Array, "q m m"]:
        """B_g Y B_gᵀ for symmetric Y."""

    @abstractmethod
    def times(self, v: Float[Array, "F"]) -> Float[Array, "q m"]:
        """B_g v."""

    @abstractmethod
    def rows(self, left: Float[Array, "q m m"]) -> sparse.csr_array | Float[Array, "p F"]:
        """left_g B_g as a matrix of q m rows."""


@dataclass(frozen=True, eq=False)
class DenseCross(Cross):
    """Every level meets every column of the border."""

    values: Float[Array, "q m F"]

    def gather(self, N):
        q, m, F = self.values.shape
        NB = _times(N, self.values).reshape(q * m, F)
        return blas.dgemm(1.0, NB.T, self.values.reshape(q * m, F).T, trans_b=1)

    def spread(self, Y):
        BY = self.values @ Y
        return np.einsum("qmf,qnf->qmn", BY, self.values)

    def times(self, v):
        return self.values @ v

    def rows(self, left):
        return _times(left, self.values).reshape(-1, self.values.shape[2])


@dataclass(frozen=True, eq=False)
class PairedCross(Cross):
    """A level meets few columns of the border: sums run over the pairs of columns that meet.

    Parameters
    ----------
    level, column : (K,)
        Where B has entries, sorted by level.
    values : (K, m)
    n_levels, width : int
        q and F.
    """

    level: Int[Array, "K"]
    column: Int[Array, "K"]
    values: Float[Array, "K m"]
    n_levels: int
    width: int

    @cached_property
    def _pairs(self) -> tuple[Array, Array, Array]:
        """Entries of the same level, the second no later than the first; and their place in the border."""
        first, second = _pairs_of(self.level, self.n_levels)
        a, b = self.column[first], self.column[second]
        return first, second, np.maximum(a, b) * self.width + np.minimum(a, b)

    @cached_property
    def _products(self) -> tuple[Array, Array, Array]:
        """For a single column: the product of each pair, its level, and how often it counts."""
        first, second, _ = self._pairs
        product = self.values[first, 0] * self.values[second, 0]
        return product, self.level[first], np.where(first == second, product, 2 * product)

    def gather(self, N):
        first, second, place = self._pairs
        if self.values.shape[1] == 1:
            product, level, _ = self._products
            weights = product * N[level, 0, 0]
        else:
            NB = np.einsum("kij,kj->ki", N[self.level], self.values)
            weights = np.einsum("pi,pi->p", self.values[first], NB[second])
        lower = np.bincount(place, weights, self.width**2).reshape(self.width, self.width)
        return lower + np.tril(lower, -1).T

    def spread(self, Y):
        first, second, place = self._pairs
        m, q = self.values.shape[1], self.n_levels
        here = Y.reshape(-1)[place]
        if m == 1:
            _, level, doubled = self._products
            return np.bincount(level, doubled * here, q)[:, None, None]
        out, level = np.empty((q, m, m)), self.level[first]
        here = np.where(first == second, here / 2, here)
        for i in range(m):
            for j in range(i + 1):
                both = self.values[first, i] * self.values[second, j] + self.values[first, j] * self.values[second, i]
                out[:, i, j] = out[:, j, i] = np.bincount(level, both * here, q)
        return out

    def times(self, v):
        weighted = self.values * v[self.column, None]
        return np.stack([np.bincount(self.level, w, self.n_levels) for w in weighted.T], axis=1)

    def rows(self, left):
        m = self.values.shape[1]
        values = np.einsum("kij,kj->ki", left[self.level], self.values)
        row = self.level[:, None] * m + np.arange(m)
        column = np.repeat(self.column, m)
        shape = (self.n_levels * m, self.width)
        return sparse.csr_array((values.reshape(-1), (row.reshape(-1), column)), shape=shape)


def _times(N: Float[Array, "q m m"], B: Float[Array, "q m F"]) -> Float[Array, "q m F"]:
    """N_g B_g."""
    return N * B if N.shape[1] == 1 else np.einsum("qij,qjf->qif", N, B)


def _pairs_of(level: Int[Array, "K"], n_levels: int) -> tuple[Array, Array]:
    """All pairs (first, second ≤ first) of entries with the same level."""
    starts = np.searchsorted(level, np.arange(n_levels))
    before = np.arange(len(level)) - starts[level]
    first = np.repeat(np.arange(len(level)), before + 1)
    offset = np.cumsum(before + 1) - (before + 1)
    second = starts[level][first] + np.arange(len(first)) - offset[first]
    return first, second


@dataclass(frozen=True, eq=False)
class LevelSums:
    """The reduced data.

    Parameters
    ----------
    inner
        The grouping factor that is eliminated level by level; None where there is no grouping factor.
    outer
        The others, in the order of the border.
    blocks, generalised_inverse : (q, m, m)
        A_g = Z_gᵀZ_g, and A_g⁻.
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
    generalised_inverse: Float[Array, "q m m"]
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
    rest = np.column_stack([dense, flat, y])
    if not groupings:
        gram = blas.dsyrk(1.0, rest.T, lower=1)
        gram = np.tril(gram) + np.tril(gram, -1).T
        none = np.zeros((0, 1, 1))
        return LevelSums(None, (), none, none, DenseCross(np.zeros((0, 1, len(gram)))), gram, gram, dense.shape[1])
    inner, *outer = sorted(groupings, key=lambda g: -g.size)
    q, m = inner.n_levels, inner.Z.shape[1]
    Zt = inner.design.T.tocsr()
    sums = Zt @ np.column_stack([inner.Z, rest])
    sums = sums.reshape(q, m, -1)
    blocks, with_rest = (sums[:, :, :m] + sums[:, :, :m].transpose(0, 2, 1)) / 2, sums[:, :, m:]
    inverse = _generalised_inverse(blocks)
    n_penalised = sum(g.size for g in outer) + dense.shape[1]
    if not outer:
        means = _times(inverse, with_rest)
        left = rest - np.einsum("nm,nmf->nf", inner.Z, means[inner.codes])
        within = left.T @ left
        cross: Cross = DenseCross(np.ascontiguousarray(with_rest))
        return LevelSums(inner, (), blocks, inverse, cross, within + cross.gather(inverse), within, n_penalised)
    return LevelSums(
        inner, tuple(outer), blocks, inverse, *_with_outer(inner, outer, rest, with_rest, inverse), n_penalised
    )


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
    met = sparse.csr_array((np.ones(S.nnz), (np.repeat(inner.codes, np.diff(S.indptr)), S.indices)), shape=(q, size))
    met.sum_duplicates()
    meets = np.diff(met.indptr) + rest.shape[1]
    if np.sum(meets * (meets + 1) / 2) > MANY_PAIRS:
        values = np.concatenate([(inner.design.T @ S).toarray().reshape(q, m, size), with_rest], axis=2)
        cross: Cross = DenseCross(values)
    else:
        level = np.repeat(np.arange(q), np.diff(met.indptr))
        values = np.stack([_by_level(inner, j, S, met) for j in range(m)], axis=1)
        dense_level = np.repeat(np.arange(q), rest.shape[1])
        dense_column = np.tile(np.arange(size, width), q)
        dense_values = with_rest.transpose(0, 2, 1).reshape(-1, m)
        level, column = np.concatenate([level, dense_level]), np.concatenate([met.indices, dense_column])
        order = np.argsort(level, kind="stable")
        cross = PairedCross(level[order], column[order], np.concatenate([values, dense_values])[order], q, width)
    return cross, border, border - cross.gather(inverse)


def _by_level(inner: Grouping, j: int, S: sparse.csr_array, pattern: sparse.csr_array) -> Float[Array, "K"]:
    """Sums of the j-th inner column times the columns of S, by level, on the pattern's entries."""
    per_row = np.diff(S.indptr)
    row, weight = np.repeat(inner.codes, per_row), S.data * np.repeat(inner.Z[:, j], per_row)
    key = row.astype(np.int64) * S.shape[1] + S.indices
    there = (
        np.repeat(np.arange(pattern.shape[0], dtype=np.int64), np.diff(pattern.indptr)) * S.shape[1] + pattern.indices
    )
    return np.bincount(np.searchsorted(there, key), weight, len(there))


def _generalised_inverse(A: Float[Array, "q m m"]) -> Float[Array, "q m m"]:
    """A⁻ for positive semidefinite blocks; in directions that a level does not tell, zero."""
    if A.shape[1] == 1:
        return np.divide(1.0, A, out=np.zeros_like(A), where=A > 0)
    scale = np.sqrt(np.einsum("qmm->qm", A))
    scale = np.where(scale > 0, scale, 1.0)
    d, U = np.linalg.eigh(A / (scale[:, :, None] * scale[:, None, :]))
    kept = np.divide(1.0, d, out=np.zeros_like(d), where=d > 1e-12 * A.shape[1])
    return np.einsum("qik,qk,qjk->qij", U, kept, U) / (scale[:, :, None] * scale[:, None, :])


@dataclass(frozen=True, eq=False)
class Component:
    """Weights that come in equal blocks with covariance Σ = L Lᵀ.

    Parameters
    ----------
    place
        Where they lie in the border; None for the inner grouping factor.
    q, m : int
        Number of blocks and their size.
    templates : (k, m, m)
        L = Σ_k θ_k T_k.
    coordinates : (k,)
        Positions in θ; −1 for a coordinate that is 1 in the units of y, and not learned.
    terms
        The terms it belongs to, and which rows of a block are theirs.
    """

    place: Array | None
    q: int
    m: int
    templates: Float[Array, "k m m"]
    coordinates: Array
    terms: tuple[tuple[str, slice], ...]

    def read(self, S: Float[Array, "m m"]) -> Float[Array, "k"]:
        """θ with L Lᵀ = Σ, for a Σ that such an L can have."""
        rows = np.argsort([np.flatnonzero(r)[-1] for r in self.templates.any(axis=0)])
        L = np.zeros_like(S)
        L[rows] = np.linalg.cholesky(S[np.ix_(rows, rows)])
        return np.einsum("kij,ij->k", self.templates, L) / np.einsum("kij,kij->k", self.templates, self.templates)


def components(sums: LevelSums, dense: Sequence[Term], starts: Mapping[int, int]) -> tuple[Component, ...]:
    """The components of a model, the inner one first, then those of the border in its order.

    Parameters
    ----------
    sums
        The reduced data.
    dense
        The terms of the dense columns.
    starts
        Position in θ of each term's first coordinate, by the term's ``id``.
    """
    out, position = [], 0
    for grouping in [] if sums.inner is None else [sums.inner, *sums.outer]:
        m = grouping.Z.shape[1]
        templates, coordinates, labels, row = [], [], [], 0
        for term in grouping.terms:
            own = [term.factor_jvp(np.zeros(0), e) for e in np.eye(len(term.hyperparameters()))]
            c = len(term.coefficients)
            for k, T in enumerate(own):
                full = np.zeros((m, m))
                full[row : row + c, row : row + c] = T
                templates.append(full)
                coordinates.append(starts[id(term)] + k)
            labels.append((term.label, slice(row, row + c)))
            row += c
        inner = grouping is sums.inner
        place = None if inner else np.arange(position, position + grouping.size).reshape(-1, m)
        position += 0 if inner else grouping.size
        out.append(Component(place, grouping.n_levels, m, np.array(templates), np.array(coordinates), tuple(labels)))
    one = np.ones((1, 1, 1))
    for term in dense:
        k, start = len(term.hyperparameters()), starts[id(term)]
        for i, e in enumerate(np.eye(k) if k else [np.ones(0)]):
            columns = np.flatnonzero(term.factor(e)) if k else np.arange(term.n_weights)
            place = (position + columns)[:, None]
            own_label = ((term.label, slice(0, 1)),)
            out.append(Component(place, len(columns), 1, one, np.array([start + i if k else -1]), own_label))
        position += term.n_weights
    return tuple(out)
