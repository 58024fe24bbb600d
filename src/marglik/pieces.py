# SPDX-License-Identifier: BSD-3-Clause
"""Columns that are polynomials of one covariate between break points, as splines are.

Sums over rows of products of two such columns are sums of moments: of how many rows lie in each cell between breaks
(in each pair of cells, for two covariates), and of powers of their places there. So XᵀX needs no X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray as Array

RUN = 1 << 13
"""Rows that columns are evaluated at in one go, so that they stay in the cache."""
COMPARED = 64
"""With no more breaks than this, a row's cell is found by comparing it with each."""
CROWDED = 8
"""Many breaks are put in bins; with more than so many in one, a row's cell is found by bisection."""
SIGN = 1e-13
"""A polynomial counts as positive on a cell if it is, but for such a share of its size."""
MOMENT, OWN = 1.4, 40.0
"""Nanoseconds a row: for one moment over the cells of a pair, and for the sums of one covariate alone."""
COLUMN, PRODUCT = 6.0, 0.045
"""The same for a column as an array, and for its product with another."""


@dataclass(frozen=True, eq=False)
class Polynomials:
    """Functions that are polynomials between breaks: Σ_r C_rjc u^r in cell c, u = (x − centre_c) / half_c.

    Parameters
    ----------
    breaks : (m - 1,)
        Where cells meet, ascending; the first and the last reach to infinity.
    centre, half : (m,)
    coefficients : (r, k, m)
        C.

    Examples
    --------
    >>> import numpy as np
    >>> hat = Polynomials.of(np.array([0.0, 1.0]), np.array([1.0, 1.0]), np.array([[[0.0], [1.0]], [[1.0], [-1.0]]]))
    >>> np.asarray(hat.at(np.array([0.25, 1.5]))).ravel()
    array([0.25, 0.5 ])
    """

    breaks: Float[Array, "m-1"]
    centre: Float[Array, "m"]
    half: Float[Array, "m"]
    coefficients: Float[Array, "r k m"]

    @classmethod
    def of(cls, starts: Float[Array, "m"], widths: Float[Array, "m"], c: Float[Array, "r m k"]) -> Polynomials:
        """Σ_q c_qcj (x − start_c)^q in each cell.

        x − start = (1 + u) h,    C_r = Σ_q (q over r) c_q h^q,    h = width/2
        """
        h = widths / 2
        scaled = [part.T * h**q for q, part in enumerate(c)]
        out = [sum(comb(q, r) * scaled[q] for q in range(r, len(c))) for r in range(len(c))]
        return cls(starts[1:], starts + h, h, np.array(out))

    @classmethod
    def spline(cls, knots: Float[Array, "m+1"], c: Float[Array, "r m k"], straight: bool) -> Polynomials:
        """Those between knots; beyond the outer ones, if asked, their tangents there."""
        if not straight:
            return cls.of(knots[:-1], np.diff(knots), c)
        reach, powers = np.ptp(knots), np.arange(1, len(c))
        rising = np.diff(knots)[-1] ** powers
        tail = np.zeros((len(c), 2, c.shape[2]))
        tail[:2, 0] = c[:2, 0]
        tail[0, 0] -= reach * c[1, 0]  # it starts where the line is one reach to the left
        tail[0, 1] = c[0, -1] + rising @ c[1:, -1]
        tail[1, 1] = (powers * rising / rising[0]) @ c[1:, -1]
        starts = np.concatenate([knots[:1] - reach, knots])
        return cls.of(starts, np.append(np.diff(starts), reach), np.concatenate([tail[:, :1], c, tail[:, 1:]], axis=1))

    def at(self, x: Float[Array, "n"]) -> Pieces:
        """The functions at these rows."""
        cell = _cells(x, self.breaks)
        u = (x - self.centre[cell]) * (1 / self.half)[cell]
        return Pieces(Places(cell, u, len(self.half)), self.coefficients)


@dataclass(frozen=True, eq=False)
class Places:
    """Where rows lie.

    Parameters
    ----------
    cell : (n,)
    u : (n,)
        Where in its cell, from −1 to 1; beyond these in a cell that reaches to infinity.
    n_cells
    factor : (n,), optional
        What a row is multiplied by.
    """

    cell: Int[Array, "n"]
    u: Float[Array, "n"]
    n_cells: int
    factor: Float[Array, "n"] | None = None

    def powers(self, size: int, rows: slice = slice(None)) -> list[Float[Array, "n"]]:
        """The factor times 1, u, u², …"""
        u = self.u[rows]
        out = [np.ones(len(u)) if self.factor is None else self.factor[rows]]
        for _ in range(size - 1):
            out.append(out[-1] * u)
        return out

    def local(self, rows: slice, size: int) -> sparse.csr_array:
        """`powers` in the columns of each row's cell, (n, m size)."""
        values = np.stack(self.powers(size, rows), axis=1)
        columns = (size * self.cell[rows, None] + np.arange(size)).astype(np.int32)
        ends = np.arange(0, values.size + 1, size, dtype=np.int32)
        return sparse.csr_array((values.ravel(), columns.ravel(), ends), shape=(len(values), self.n_cells * size))


@dataclass(frozen=True, eq=False)
class Pieces:
    """Columns X_ij = w_i Σ_r C_rjc u_i^r, c the cell of row i; NumPy's functions take them for the array X.

    Parameters
    ----------
    places
        c, u and w.
    coefficients : (r, k, m)
        C.
    """

    places: Places
    coefficients: Float[Array, "r k m"]
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """(n, k)."""
        return len(self.places.u), self.coefficients.shape[1]

    def __len__(self) -> int:
        return len(self.places.u)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype, copy=copy)

    def combined(self, M: Float[Array, "k c"]) -> Pieces:
        """XM."""
        return replace(self, coefficients=M.T @ self.coefficients)

    def times(self, factor: Float[Array, "n"]) -> Pieces:
        """Rows multiplied."""
        old = self.places.factor
        return replace(self, places=replace(self.places, factor=factor if old is None else old * factor))

    @cached_property
    def values(self) -> Float[Array, "n k"]:
        """X, column after column in memory; by Horner's rule."""
        return self._evaluated(slice(None))

    def _evaluated(self, rows: slice | Array) -> Float[Array, "l k"]:
        cell, u, factor = self.places.cell[rows], self.places.u[rows], self.places.factor
        out = np.empty((len(u), self.shape[1]), order="F")
        for i in range(0, len(u), RUN):
            here, v = cell[i : i + RUN], u[i : i + RUN]
            part = self.coefficients[-1].take(here, axis=1)
            for c in self.coefficients[-2::-1]:
                part *= v
                part += c.take(here, axis=1)
            out[i : i + RUN] = part.T
        if factor is not None:
            out *= factor[rows, None]
        return out

    @cached_property
    def _across(self) -> Float[Array, "k mr"]:
        """C with a row for each column, cell after cell."""
        return np.ascontiguousarray(self.coefficients.transpose(1, 2, 0)).reshape(self.shape[1], -1)

    def sums(self) -> Float[Array, "k"]:
        """Xᵀ1."""
        moments = self._moments(len(self.coefficients), self.places.factor)
        return np.einsum("rkc,rc->k", self.coefficients, moments)

    def products(self, Y: Float[Array, "n v"]) -> Float[Array, "k v"]:
        """XᵀY."""
        size, total = len(self.coefficients), np.zeros((self.places.n_cells * len(self.coefficients), Y.shape[1]))
        for i in range(0, len(Y), RUN):
            rows = slice(i, i + RUN)
            total += self.places.local(rows, size).T @ np.ascontiguousarray(Y[rows])
        return self._across @ total

    def gram(self) -> Float[Array, "k k"]:
        """XᵀX: Σ_c C_cᵀ M_c C_c with M_c the moments of cell c, (M_c)_ab = Σ_i w_i² u_i^{a+b}."""
        size, w = len(self.coefficients), self.places.factor
        moments = self._moments(2 * size - 1, None if w is None else w * w)
        a = np.arange(size)
        inner = moments.T[:, a[:, None] + a] @ self.coefficients.transpose(2, 0, 1)
        return self._across @ inner.reshape(-1, self.shape[1])

    def cross(self, other: Pieces) -> Float[Array, "k l"]:
        """XᵀZ: Σ_cd C_cᵀ M_cd D_d with moments of pairs of cells, (M_cd)_ab = Σ_i w_i u_i^a v_i^b."""
        mine, its, (p, q) = self.places, other.places, (len(self.coefficients), len(other.coefficients))
        pair = mine.cell * its.n_cells + its.cell
        M = np.empty((p, q, mine.n_cells * its.n_cells))
        for a, left in enumerate(mine.powers(p)):
            weights = left if its.factor is None else left * its.factor
            for b in range(q):
                weights = weights * its.u if b else weights
                M[a, b] = np.bincount(pair, weights, M.shape[2])
        inner = M.reshape(p, q, mine.n_cells, its.n_cells).transpose(2, 0, 3, 1).reshape(mine.n_cells * p, -1)
        return self._across @ inner @ other._across.T

    @cached_property
    def squares(self) -> Float[Array, "k"]:
        """Squared length of each column."""
        return self.gram().diagonal()

    def _moments(self, size: int, weights: Float[Array, "n"] | None) -> Float[Array, "size m"]:
        places, out = self.places, np.empty((size, self.places.n_cells))
        for r in range(size):
            if r:
                weights = places.u if weights is None else weights * places.u
            out[r] = np.bincount(places.cell, weights, places.n_cells)
        return out

    def largest_row(self) -> float:
        """‖X‖_∞, the largest sum of sizes in a row, where rows have no factors.

        In a cell where no function changes sign the sum is a polynomial itself.
        """
        signs, known = self._signs
        places, total = self.places, np.einsum("rkc,kc->rc", self.coefficients, signs)
        size = Pieces(places, total[:, None])._evaluated(slice(None))[:, 0]
        rest = np.flatnonzero(~known[places.cell] | (np.abs(places.u) > 1 + SIGN))
        largest = max((np.abs(self._evaluated(part)).sum(axis=1).max() for part in _runs(rest)), default=0.0)
        size[rest] = 0.0
        return float(max(size.max(initial=0.0), largest))

    @property
    def _signs(self) -> tuple[Float[Array, "k m"], Bool[Array, "m"]]:
        """The sign of each function on |u| ≤ 1, and for which cells Bernstein's coefficients tell that of all.

        u^r (1 + u + 1 − u)^{d−r} / 2^{d−r} is a sum of (1 + u)^s (1 − u)^{d−s} / 2^d, of which b_s is the share.
        """
        b = np.tensordot(_to_bernstein(len(self.coefficients)), self.coefficients, axes=1)
        slight = SIGN * np.abs(b).max(axis=0)
        positive, negative = (b >= -slight).all(axis=0), (b <= slight).all(axis=0)
        return np.where(positive, 1.0, -1.0), (positive | negative).all(axis=0)


@cache
def _to_bernstein(size: int) -> Float[Array, "s r"]:
    """Σ_r a_r u^r = Σ_s b_s (d over s) ((1+u)/2)^s ((1−u)/2)^{d−s}: b = T a."""
    d = size - 1
    values = np.array([[comb(d, s) * t**s * (1 - t) ** (d - s) for s in range(size)] for t in np.linspace(0, 1, size)])
    return np.linalg.solve(values, np.linspace(-1, 1, size)[:, None] ** np.arange(size))


def _runs(rows: Int[Array, "l"]) -> list[Int[Array, "l"]]:
    return [rows[i : i + RUN] for i in range(0, len(rows), RUN)]


def _cells(x: Float[Array, "n"], breaks: Float[Array, "m-1"]) -> Int[Array, "n"]:
    """How many breaks are no larger than each value."""
    if len(breaks) <= COMPARED:
        few = np.zeros(len(x), np.uint8)
        for b in breaks:
            few += x >= b
        return few.astype(np.intp)
    low, high, size = breaks[0], breaks[-1], 4 * len(breaks)

    def bin_of(values: Float[Array, "l"]) -> Int[Array, "l"]:
        return ((np.clip(values, low, high) - low) * (size / (high - low))).astype(np.intp)

    held = np.bincount(bin_of(breaks), minlength=size + 1)
    if held.max() > CROWDED:
        return np.searchsorted(breaks, x, side="right")
    cell = (np.cumsum(held) - held)[bin_of(x)]  # breaks in bins before a row's are smaller, for rounding is monotone
    ahead = np.append(breaks, np.inf)
    for _ in range(held.max()):
        cell += x >= ahead[cell]
    return cell


def joint_gram(parts: Sequence[Pieces]) -> Float[Array, "p p"]:
    """XᵀX of columns side by side."""
    ends = np.cumsum([0, *(part.shape[1] for part in parts)])
    places = [slice(a, b) for a, b in pairwise(ends)]
    out = np.empty((ends[-1], ends[-1]), order="F")
    for i, left in enumerate(parts):
        out[places[i], places[i]] = left.gram()
        for j, right in enumerate(parts[:i]):
            out[places[i], places[j]] = block = left.cross(right)
            out[places[j], places[i]] = block.T
    return out


def worthwhile(parts: Sequence[Pieces]) -> bool:
    """Whether moments cost less than columns do: where cells are few beside rows, and covariates beside columns."""
    n, cells = len(parts[0]), [part.places.n_cells for part in parts]
    sizes, p = [len(part.coefficients) for part in parts], sum(part.shape[1] for part in parts)
    if sum(cells) ** 2 > n * len(parts) ** 2:
        return False
    pairs = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) / 2
    return MOMENT * pairs + OWN * len(parts) < COLUMN * p + PRODUCT * p**2
