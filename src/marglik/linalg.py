# SPDX-License-Identifier: BSD-3-Clause
"""Structured positive definite matrices: each algorithm above them is written once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import lapack

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


LARGE = 100.0
"""Square root of the block size from which the Schur complement is summed rather than subtracted."""


SMALL_BLOCK = 2
"""Blocks up to this size are solved with entry by entry, larger ones by the inverses of their factors."""

LOST = 1e-9
"""Where a pivot is a smaller share of its diagonal entry, the factor is computed from the rows instead."""


class NotPositiveDefinite(np.linalg.LinAlgError):
    """A matrix that must be positive definite is not."""


def cholesky(A: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Lower Cholesky factor; raises `NotPositiveDefinite` instead of repairing."""
    if not A.size:
        return np.zeros_like(A)
    L, info = lapack.dpotrf(A, lower=1, clean=1)
    if info > 0:
        raise NotPositiveDefinite(f"A matrix of size {len(A)} is not positive definite (leading minor {info}).")
    if info < 0 or not np.isfinite(L[-1, -1]):
        raise NotPositiveDefinite(f"A matrix of size {len(A)} has entries that are not finite.")
    return L


def solve_lower(L: Float[Array, "p p"], B: Float[Array, "p *r"], transposed: bool = False) -> Float[Array, "p *r"]:
    """L⁻¹B, or L⁻ᵀB."""
    if not B.size:
        return np.zeros_like(B)
    return lapack.dtrtrs(L, B, lower=1, trans=int(transposed))[0].reshape(B.shape)


def solve_upper(R: Float[Array, "p p"], B: Float[Array, "p *r"], transposed: bool = False) -> Float[Array, "p *r"]:
    """R⁻¹B, or R⁻ᵀB."""
    if len(R) == 1:
        return B / R[0, 0]
    if not B.size:
        return np.zeros_like(B)
    return lapack.dtrtrs(R, B, trans=int(transposed))[0].reshape(B.shape)


def cholesky_inverse(L: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """(LLᵀ)⁻¹, both triangles."""
    if not L.size:
        return np.zeros_like(L)
    inverse = lapack.dpotri(L, lower=1)[0]
    inverse.T.reshape(-1)[:: len(L) + 1] /= 2
    return inverse + inverse.T


def level_blocks(M: Float[Array, "F F"], place: slice, n_levels: int) -> Float[Array, "q m m"]:
    """The diagonal blocks of a matrix on the border that belong to the levels of a grouping factor."""
    at = np.arange(place.start, place.stop).reshape(n_levels, -1)
    return M[at[:, :, None], at[:, None]]


def along(X: Float[Array, "r p"], parts: Sequence[Float[Array, "m q"]]) -> Float[Array, "r q"]:
    """X ⊗A_d, dimension by dimension, the last one running fastest."""
    out, lead, tail = X, *X.shape
    for A in parts:
        tail //= len(A)
        out = out.reshape(lead, len(A), tail)
        out = out[..., 0] @ A if tail == 1 else A.T @ out
        lead *= A.shape[1]
    return out.reshape(len(X), math.prod(A.shape[1] for A in parts))


@dataclass(frozen=True, eq=False)
class Kron:
    """⊗A_d, which stands where a matrix is multiplied from the left.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.linalg import Kron
    >>> A = Kron((np.array([[1.0, 2.0], [0.0, 1.0]]), np.eye(2)))
    >>> np.array([1.0, 0.0, 0.0, 1.0]) @ A
    array([1., 0., 2., 1.])
    """

    parts: tuple[Float[Array, "m m"], ...]
    __array_ufunc__ = None

    def __len__(self) -> int:
        return math.prod(map(len, self.parts))

    @property
    def T(self) -> Kron:
        """The transpose."""
        return Kron(tuple(A.T for A in self.parts))

    def __rmatmul__(self, X: Float[Array, "*r p"]) -> Float[Array, "*r p"]:
        return along(X.reshape(-1, len(self)), self.parts).reshape(X.shape)


@dataclass(frozen=True, eq=False)
class Scaling:
    """A block-diagonal factor T of a border: a diagonal, and runs of equal blocks (of a single one, where it is dense).

    Parameters
    ----------
    diagonal : (f,)
        Zero where a run of blocks lies.
    runs
        Where each run lies, and its block (m, m).
    """

    diagonal: Float[Array, "f"]
    runs: tuple[tuple[slice, Float[Array, "m m"]], ...] = ()

    @cached_property
    def _split(self) -> tuple[Float[Array, "f"], list[tuple[slice, Array]]]:
        """The diagonal with the runs of single entries, and the other runs."""
        diagonal = self.diagonal.copy()
        for place, L in self.runs:
            if len(L) == 1:
                diagonal[place] = L[0, 0]
        return diagonal, [(place, L) for place, L in self.runs if len(L) > 1]

    def right(self, X: Float[Array, "*r f"], transposed: bool = False) -> Float[Array, "*r f"]:
        """X T, or X Tᵀ."""
        diagonal, runs = self._split
        out = X * diagonal
        for place, L in runs:
            part = X[..., place].reshape(-1, len(L)) @ (L.T if transposed else L)
            out[..., place] = part.reshape(*X.shape[:-1], place.stop - place.start)
        return out

    def both(self, A: Float[Array, "f f"], transposed: bool = False) -> Float[Array, "f f"]:
        """TᵀA T, or T A Tᵀ, for symmetric A."""
        return self.right(self.right(A, transposed).T, transposed)

    def on_pattern(self, *pairs: tuple[Float[Array, "r f"], Float[Array, "r f"]]) -> Scaling:
        """The derivative in T of ⟨ΣAᵀB, T⟩: the diagonal of ΣAᵀB, and its blocks summed over each run."""
        runs = []
        for place, L in self.runs:
            blocks = [A[:, place].reshape(-1, len(L)).T @ B[:, place].reshape(-1, len(L)) for A, B in pairs]
            runs.append((place, np.sum(blocks, axis=0)))
        return Scaling(np.sum([np.einsum("rf,rf->f", A, B) for A, B in pairs], axis=0), tuple(runs))

    def head(self, d: int, run: int) -> Scaling:
        """Of the first d columns, where the runs from that number on lie."""
        return Scaling(self.diagonal[:d], self.runs[run:])

    def keep(self, columns: Array) -> Scaling:
        """Without columns of the diagonal part that are not kept."""
        before = np.cumsum(columns)
        runs = tuple((slice(before[p.stop - 1] - (p.stop - p.start), before[p.stop - 1]), L) for p, L in self.runs)
        return Scaling(self.diagonal[columns], runs)


@dataclass(frozen=True, eq=False)
class Levels:
    """What makes the Schur complement of H = TᵀGT + I a sum of positive parts, for blocks of size one.

    With G = [N B; Bᵀ C], the factor s on levels and T on the border, and C_w = C − Σ_g B_gᵀB_g/N_g, the scatter of the
    border within levels,

        S = TᵀC_wT + Σ_g TᵀB_gᵀB_gT / (N_g (1 + s²N_g)) + diag(mask).

    Subtracting instead loses s²N_g of the digits: all of them for an intercept beside levels that differ a lot.

    Parameters
    ----------
    N : (q,)
    B : (q, f)
    within
        Computes C_w from the rows, when it is needed.
    s, border, mask
        The factor, and where the border has a prior.
    """

    N: Float[Array, "q"]
    B: Float[Array, "q f"]
    within: Callable[[], Float[Array, "f f"]]
    s: float = 1.0
    border: Scaling | None = None
    mask: Float[Array, "f"] | float = 0.0

    def scaled(self, s: float, border: Scaling) -> Levels:
        """With another factor."""
        return Levels(self.N, self.B, self.within, s, border, self.mask)

    def masked(self, mask: Float[Array, "f"]) -> Levels:
        """With another prior on the border."""
        return Levels(self.N, self.B, self.within, self.s, self.border, mask)

    def times(self, c: float) -> Levels:
        """For cG."""
        return replace(self, N=c * self.N, B=c * self.B, within=lambda: c * self.within())

    def keep(self, columns: Array) -> Levels:
        """Without the border's other columns."""
        inner, mask = self.within, np.asarray(self.mask)[columns] if np.ndim(self.mask) else self.mask
        border = None if self.border is None else self.border.keep(columns)
        within = lambda: inner()[np.ix_(columns, columns)]  # noqa: E731
        return replace(self, B=self.B[:, columns], within=within, border=border, mask=mask)

    def schur(self) -> Float[Array, "f f"]:
        """S."""
        N = np.where(self.N > 0, self.N, 1.0)
        between, within = self.B / np.sqrt(N * (1 + self.s**2 * self.N))[:, None], self.within()
        if self.border is not None:
            between, within = self.border.right(between), self.border.both(within)
        return within + between.T @ between + np.diag(np.broadcast_to(self.mask, len(within)))


@dataclass(frozen=True, eq=False)
class Arrow:
    """A block-diagonal matrix bordered by a dense one.

        H = [ D   B ]     D = diag(D_1, …, D_q),  each m × m
            [ Bᵀ  C ]     B (q m × f),  C (f × f)

    Factored by eliminating the blocks first: S = C − BᵀD⁻¹B, log|H| = Σ log|D_g| + log|S|. Time and memory are
    proportional to q, so that a hundred thousand groups are ordinary. With q = 0 it is a dense matrix.

    Vectors lie as the levels' coefficients in order, then the border: length q m + f.

    Parameters
    ----------
    blocks : (q, m, m)
    cross : (q, m, f)
    border : (f, f)
    levels
        How to form the Schur complement without loss where blocks are large.
    rooted
        Computes the factor (L, L⁻¹B, that of S) without forming H, for where Cholesky's fails or loses digits.
    """

    blocks: Float[Array, "q m m"]
    cross: Float[Array, "q m f"]
    border: Float[Array, "f f"]
    levels: Levels | None = None
    rooted: Callable[[], tuple[Array, Array, Array]] | None = None

    @classmethod
    def dense(cls, A: Float[Array, "f f"]) -> Arrow:
        """A dense matrix: no blocks, all border."""
        return cls(np.zeros((0, 1, 1)), np.zeros((0, 1, len(A))), A)

    @property
    def size(self) -> int:
        """Number of rows."""
        q, m, f = self.cross.shape
        return q * m + f

    def split(self, v: Float[Array, "p *r"]) -> tuple[Float[Array, "q m *r"], Float[Array, "f *r"]]:
        """A vector's part along the blocks and its part along the border."""
        q, m, _ = self.cross.shape
        return v[: q * m].reshape(q, m, *v.shape[1:]), v[q * m :]

    @cached_property
    def _factor(self) -> tuple[Array, Array, Array]:
        """L of the blocks, L⁻¹B, and the factor of S."""
        try:
            factor, lost = self._cholesky()
        except NotPositiveDefinite:
            if self.rooted is None:
                raise
            return self.rooted()
        if lost and self.rooted is not None:
            with suppress(NotPositiveDefinite):
                return self.rooted()
        return factor

    def _cholesky(self) -> tuple[tuple[Array, Array, Array], bool]:
        """The factor, and whether a pivot is what is left of much larger numbers."""
        L = _cholesky_blocks(self.blocks)
        half = _solve_blocks(L, self.cross)
        if self.levels is not None and L.max(initial=0) > LARGE:
            schur = before = self.levels.schur()
        else:
            flat = stacked(half)
            schur, before = self.border - flat.T @ flat, self.border
        S = cholesky(schur)
        lost = bool((S.diagonal() ** 2 < LOST * before.diagonal()).any())
        if L.shape[1] > 1:
            lost = lost or bool((np.einsum("qmm->qm", L) ** 2 < LOST * np.einsum("qmm->qm", self.blocks)).any())
        return (L, half, S), lost

    @cached_property
    def log_det(self) -> float:
        """log|H|."""
        L, _, S = self._factor
        return 2 * float(np.log(np.einsum("qmm->qm", L)).sum() + np.log(S.diagonal()).sum())

    def solve(self, v: Float[Array, "p *r"]) -> Float[Array, "p *r"]:
        """H⁻¹v."""
        _, half, S = self._factor
        top, bottom = self.split(v if v.ndim > 1 else v[:, None])
        top = self._halved(top)
        bottom = solve_lower(S, bottom - stacked(half).T @ stacked(top))
        bottom = solve_lower(S, bottom, transposed=True)
        top = self._halved(top - half @ bottom, transposed=True)
        return _joined(top, bottom).reshape(v.shape)

    def _halved(self, B: Float[Array, "q m r"], transposed: bool = False) -> Float[Array, "q m r"]:
        """L⁻¹B or L⁻ᵀB for every block."""
        if B.shape[1] <= SMALL_BLOCK:
            return _solve_blocks(self._factor[0], B, transposed)
        return (self._inverse_roots.transpose(0, 2, 1) if transposed else self._inverse_roots) @ B

    @cached_property
    def _inverse_roots(self) -> Float[Array, "q m m"]:
        L = self._factor[0]
        return _solve_blocks(L, np.broadcast_to(np.eye(L.shape[1]), L.shape))

    def solve_half(self, v: Float[Array, "p *r"]) -> Float[Array, "p *r"]:
        """F⁻ᵀv for the factor H = FFᵀ, so that standard normal v become draws with covariance H⁻¹."""
        _, half, S = self._factor
        top, bottom = self.split(v if v.ndim > 1 else v[:, None])
        bottom = solve_lower(S, bottom, transposed=True)
        top = self._halved(top - half @ bottom, transposed=True)
        return _joined(top, bottom).reshape(v.shape)

    def plus_shift(self, shift: float) -> Arrow:
        """H + shift I."""
        blocks = self.blocks + shift * np.eye(self.blocks.shape[1])
        return Arrow(blocks, self.cross, self.border + shift * np.eye(len(self.border)))

    def inverse_on_pattern(self) -> Arrow:
        """H⁻¹ where H has entries, kept; the rest of H⁻¹ is dense and never formed."""
        return self._inverse

    @cached_property
    def _inverse(self) -> Arrow:
        L, half, S = self._factor
        E = _solve_blocks(L, half, transposed=True)
        C = cholesky_inverse(S)
        EC = (stacked(E) @ C).reshape(E.shape)
        identity = np.broadcast_to(np.eye(L.shape[1]), L.shape)
        D = _solve_blocks(L, _solve_blocks(L, identity), transposed=True)
        within = EC @ E.transpose(0, 2, 1) if E.shape[1] > 1 else np.einsum("qif,qif->qi", EC, E)[:, :, None]
        return Arrow(D + within, -EC, C)

    def matvec(self, v: Float[Array, "p"]) -> Float[Array, "p"]:
        """Hv."""
        top, bottom = self.split(v)
        own = self.blocks[:, :, 0] * top if top.shape[1] == 1 else (self.blocks @ top[:, :, None])[:, :, 0]
        above = own + self.cross @ bottom
        below = top.reshape(-1) @ stacked(self.cross) + self.border @ bottom
        return np.concatenate([above.reshape(-1), below])

    def times(self, c: float) -> Arrow:
        """cH."""
        levels = None if self.levels is None else self.levels.times(c)
        return Arrow(c * self.blocks, c * self.cross, c * self.border, levels)

    def congruence(self, L: Float[Array, "m m"], T: Scaling, transposed: bool = False) -> Arrow:
        """The congruence of H with L on every block and T on the border: TᵀHT, or THTᵀ."""
        levels = None if self.levels is None else self.levels.scaled(float(L[0, 0]), T)
        border = T.both(self.border, transposed)
        if len(L) == 1:
            return Arrow(L[0, 0] ** 2 * self.blocks, T.right(L[0, 0] * self.cross, transposed), border, levels)
        L = L.T if transposed else L
        return Arrow(L.T @ self.blocks @ L, T.right(L.T @ self.cross, transposed), border, levels)

    def plus_identity(self, mask: Float[Array, "f"]) -> Arrow:
        """H + I on the blocks, H + diag(mask) on the border."""
        levels = None if self.levels is None else self.levels.masked(mask)
        border = self.border.copy()
        border.reshape(-1)[:: len(border) + 1] += mask
        return Arrow(self.blocks + np.eye(self.blocks.shape[1]), self.cross, border, levels)

    def keep_border(self, keep: Array) -> Arrow:
        """H without the border's other rows and columns."""
        levels = None if self.levels is None else self.levels.keep(keep)
        return Arrow(self.blocks, self.cross[:, :, keep], self.border[np.ix_(keep, keep)], levels)

    def inner(self, other: Arrow) -> float:
        """⟨H, G⟩ = tr(HG) for two matrices on the same pattern."""
        return float(
            np.vdot(self.blocks, other.blocks)
            + 2 * np.vdot(self.cross, other.cross)
            + np.vdot(self.border, other.border)
        )

    def to_dense(self) -> Float[Array, "p p"]:
        """All entries, for tests and small problems."""
        q, m, f = self.cross.shape
        H = np.zeros((self.size, self.size))
        for g in range(q):
            H[g * m : (g + 1) * m, g * m : (g + 1) * m] = self.blocks[g]
        H[: q * m, q * m :] = self.cross.reshape(q * m, f)
        H[q * m :, : q * m] = H[: q * m, q * m :].T
        H[q * m :, q * m :] = self.border
        return H


def stacked(X: Float[Array, "q m r"]) -> Float[Array, "qm r"]:
    """The rows of all blocks, one after the other."""
    q, m, r = X.shape
    return X.reshape(q * m, r)


def _cholesky_blocks(A: Float[Array, "q m m"]) -> Float[Array, "q m m"]:
    if A.shape[1] == 1:
        if not A.min(initial=np.inf) > 0:
            raise NotPositiveDefinite("A block of the matrix is not positive definite.")
        return np.sqrt(A)
    try:
        return np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        raise NotPositiveDefinite("A block of the matrix is not positive definite.") from None


def _joined(top: Float[Array, "q m r"], bottom: Float[Array, "f r"]) -> Float[Array, "p r"]:
    q, m, r = top.shape
    return np.concatenate([top.reshape(q * m, r), bottom])


def _solve_blocks(L: Float[Array, "q m m"], B: Float[Array, "q m r"], transposed: bool = False) -> Array:
    """L_g⁻¹B_g (or L_g⁻ᵀB_g) for every block: a loop over m, vectorised over the levels."""
    m = L.shape[1]
    X = np.array(B, float)
    order = range(m - 1, -1, -1) if transposed else range(m)
    for i in order:
        done = range(i + 1, m) if transposed else range(i)
        for j in done:
            X[:, i] -= (L[:, j, i] if transposed else L[:, i, j])[:, None] * X[:, j]
        X[:, i] /= L[:, i, i][:, None]
    return X
