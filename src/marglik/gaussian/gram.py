# SPDX-License-Identifier: BSD-3-Clause
"""What a Gaussian model with several scales keeps of its rows: the columns' products with each other and with y."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas, lapack

from marglik.pieces import joint_gram

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.gaussian.spectrum import Residuals
    from marglik.pieces import Pieces

KEPT = 1e-2
"""If projecting flat columns out leaves less than this share of a column's square, project first and multiply then."""
IN_SPAN = 1e-13
"""A column of which projection leaves less than this share of its length lies in the span of the flat ones."""
WIDE = 5000
"""More columns than this, and than rows, have no Gram matrix in memory; its blocks are made when needed."""


class Design(ABC):
    """Columns side by side."""

    @property
    @abstractmethod
    def X(self) -> Float[Array, "n p"]:
        """As an array."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, p)."""

    @abstractmethod
    def lower_gram(self) -> Float[Array, "p p"]:
        """The lower triangle of XᵀX, zeros above."""

    @abstractmethod
    def times(self, y: Float[Array, "n v"]) -> Float[Array, "v p"]:
        """yᵀX."""


@dataclass(frozen=True, eq=False)
class Whole(Design):
    """An array."""

    columns: Float[Array, "n p"]

    @property
    def X(self):
        return self.columns

    @property
    def shape(self):
        return self.columns.shape

    def lower_gram(self):
        return lower_gram(self.X)

    def times(self, y):
        return _times(y, self.X)


@dataclass(frozen=True, eq=False)
class Piecewise(Design):
    """Polynomials between breaks, not evaluated unless that is needed."""

    parts: Sequence[Pieces]

    @cached_property
    def shape(self):
        return len(self.parts[0]), sum(part.shape[1] for part in self.parts)

    @cached_property
    def X(self):
        return np.concatenate([part.values for part in self.parts], axis=1)

    def lower_gram(self):
        return np.asfortranarray(np.tril(joint_gram(self.parts)))

    def times(self, y):
        return np.concatenate([part.products(y) for part in self.parts]).T


@dataclass(frozen=True, eq=False)
class Gram:
    """The reduced data.

    Parameters
    ----------
    design, Q
        The columns, and the orthogonal flat ones (QᵀQ = n I).
    place : (p,)
        The variance of each column, from 0; every number occurs.
    means
        QᵀX/n of the design as given: X − Q means is the projected one.
    products, total
        X̃ᵀy and |y|² of each target, X̃ the projected design.
    shift : (f, V)
        The flat weights' fit to y alone.
    response
        The targets, orthogonal to Q.
    n_observations
        How many observations the rows stand for.
    fixed
        Whether the last scale is 1 rather than a coordinate of θ.
    centred
        Whether X is projected already.
    """

    design: Design
    Q: Float[Array, "n f"]
    place: Int[Array, "p"]
    means: Float[Array, "f p"]
    products: Float[Array, "V p"]
    total: Float[Array, "V"]
    shift: Float[Array, "f V"]
    response: Residuals
    n_observations: float
    fixed: bool = False
    centred: bool = False

    @property
    def X(self) -> Float[Array, "n p"]:
        """The columns as an array."""
        return self.design.X

    @property
    def n_rows(self) -> int:
        """n."""
        return self.design.shape[0]

    @property
    def n_free(self) -> float:
        """n − f."""
        return self.n_observations - self.Q.shape[1]

    @property
    def n_directions(self) -> int:
        """n − f for the rows themselves: what columns can span."""
        return self.n_rows - self.Q.shape[1]

    @cached_property
    def n_scales(self) -> int:
        """Number of variances but that of the noise."""
        return int(self.place.max(initial=-1)) + 1

    @property
    def learned(self) -> slice | Array:
        """Which variances belong to coordinates of θ: all but that of a scale fixed at 1, just before the noise's."""
        return np.append(np.arange(self.n_scales - 1), self.n_scales) if self.fixed else slice(None)

    def complete(self, theta: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """θ with the scale that is fixed at 1, if there is one."""
        return np.insert(theta, -1, 1.0, axis=-1) if self.fixed else theta

    @cached_property
    def single(self) -> bool:
        """Whether every column has a variance of its own."""
        return self.n_scales == len(self.place)

    @cached_property
    def indicator(self) -> Float[Array, "p k"]:
        """1 where a column has variance k."""
        out = np.zeros((len(self.place), self.n_scales))
        out[np.arange(len(self.place)), self.place] = 1.0
        return out

    @cached_property
    def projected(self) -> Float[Array, "n p"]:
        """X̃."""
        return self.X if self.centred else blas.dgemm(-1.0, self.Q, self.means, beta=1.0, c=self.X)

    @cached_property
    def matrix(self) -> Float[Array, "p p"]:
        """X̃ᵀX̃, both triangles."""
        return self._corrected(self.design.lower_gram())

    def _corrected(self, A: Float[Array, "p p"]) -> Float[Array, "p p"]:
        """X̃ᵀX̃ from the lower triangle of XᵀX, in place."""
        if not self.centred:
            A = blas.dsyrk(-self.n_rows, self.means.T, beta=1.0, c=A, lower=1, overwrite_c=1)
        return symmetric(A)

    @cached_property
    def squares(self) -> Float[Array, "p"]:
        """Squared length of each projected column."""
        if self.in_memory:
            return self.matrix.diagonal()
        return np.einsum("ij,ij->j", self.projected, self.projected)

    @property
    def in_memory(self) -> bool:
        """Whether the Gram matrix of all columns is kept."""
        n, p = self.design.shape
        return p <= max(n, WIDE)

    def block(self, i: Array, j: Array) -> Float[Array, "i j"]:
        """Rows i and columns j of X̃ᵀX̃."""
        if self.in_memory:
            whole = len(i) == len(j) == len(self.place) and (i == j).all()
            return self.matrix if whole and (np.diff(i) > 0).all() else self.matrix[i[:, None], j]
        return blas.dgemm(1.0, self.projected[:, i], self.projected[:, j], trans_a=1)

    def read(self, targets: slice | Array) -> Float[Array, "n V"]:
        """The targets themselves, orthogonal to Q."""
        if isinstance(targets, slice):
            return self.response.read(targets)[0]
        return np.hstack([self.response.read(slice(t, t + 1))[0] for t in targets])

    def outside(self, w: Float[Array, "m V"], columns: Array, targets: slice | Array) -> Float[Array, "n V"]:
        """y − X̃w, from the rows."""
        full = np.zeros((len(self.place), w.shape[1]))
        full[columns] = w
        e = self.read(targets) - self.X @ full
        return e if self.centred else e + self.Q @ (self.means @ full)

    def correlations(self, e: Float[Array, "n V"], columns: Array) -> Float[Array, "V m"]:
        """X̃ᵀe for some columns, e orthogonal to Q."""
        return self.design.times(e)[:, columns]

    def subset(self, targets: Array) -> Gram:
        """The same for some of the targets."""
        out = replace(
            self,
            products=self.products[targets],
            total=self.total[targets],
            shift=self.shift[:, targets],
            response=replace(self.response, y=self.response.y[:, targets]),
        )
        known = ("matrix", "projected", "squares", "indicator")
        out.__dict__.update({name: self.__dict__[name] for name in known if name in self.__dict__})
        if self.__dict__.get("compressed", self) is not self:
            out.__dict__["compressed"] = self.compressed.subset(targets)
        return out

    @cached_property
    def compressed(self) -> Gram:
        """The same evidence from fewer columns: K_k = R_kᵀR_k, where a scale has more columns than there are rows."""
        n = self.n_rows
        counts = np.bincount(self.place)
        if counts.max(initial=0) <= n:
            return self
        parts = []
        for k, count in enumerate(counts):
            X = self.projected[:, self.place == k]
            parts.append(np.triu(lapack.dgeqrf(X.T)[0][:n]).T if count > n else X)
        X = np.asfortranarray(np.hstack(parts))
        y = np.hstack([self.response.read(t)[0] for t in self.response.chunks()])
        place = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
        means = np.zeros((len(self.means), X.shape[1]))
        return replace(self, design=Whole(X), place=place, means=means, products=y.T @ X, centred=True)


def reduce(
    X: Float[Array, "n p"] | Design,
    place: Int[Array, "p"],
    Q: Float[Array, "n f"],
    response: Residuals,
    n_observations: float,
) -> Gram:
    """One XᵀX, one XᵀY, and what it takes to project flat columns out; with many columns XᵀX when it is needed.

    Parameters
    ----------
    X
        The columns, side by side.
    place
        The coordinate of θ that is the scale of each, from 0, every number up to the largest; −1 for a scale of 1.
    Q
        Orthogonal flat columns, QᵀQ = n I.
    response
        The targets, orthogonal to Q.
    n_observations
        How many observations the rows stand for.

    Raises
    ------
    FloatingPointError
        X has values that are not finite, or too large to be squared.
    """
    if isinstance(X, Design):
        design = X
    else:
        design = Whole(X if X.flags.c_contiguous or X.flags.f_contiguous else np.asfortranarray(X))
    n, p = design.shape
    f, V = Q.shape[1], response.n_targets
    fixed = bool((place < 0).any())
    place = np.where(place < 0, place.max(initial=-1) + 1, place) if fixed else place
    products, total, shift, means = np.empty((V, p)), np.empty(V), np.empty((f, V)), np.zeros((f, p))
    for targets in response.chunks():
        y, shift[:, targets] = response.read(targets)
        total[targets] = np.einsum("nv,nv->v", y, y)
        if targets.start == 0:  # along with the first block, to read X once less
            both = design.times(np.hstack([Q, y]))
            means, products[targets] = both[:f] / n, both[f:]
        else:
            products[targets] = design.times(y)
    gram = Gram(design, Q, place, means, products, total, shift, response, n_observations, fixed, centred=not f)
    A = design.lower_gram() if p < n else None
    squares = np.einsum("ij,ij->j", design.X, design.X) if A is None else A.diagonal().copy()
    if not np.isfinite(squares.sum()):
        raise FloatingPointError("The design has values that are not finite, or too large to be squared.")
    left = squares - n * np.einsum("fp,fp->p", means, means)
    if not f or (left >= KEPT * squares).all():
        if A is not None:
            gram.__dict__["matrix"] = gram._corrected(A)
        return gram
    X = design.X - Q @ means
    X -= Q @ (Q.T @ X / n)
    X[:, np.einsum("ij,ij->j", X, X) <= IN_SPAN**2 * squares] = 0.0
    y = np.hstack([response.read(t)[0] for t in response.chunks()])
    return replace(gram, design=Whole(X), products=_times(y, X), centred=True)


def _times(y: Float[Array, "n v"], X: Float[Array, "n p"]) -> Float[Array, "v p"]:
    """yᵀX, by SciPy's BLAS like all heavy algebra here: two BLAS pools would get in each other's way."""
    if not y.shape[1]:
        return np.zeros((0, X.shape[1]))
    if X.flags.c_contiguous:
        return blas.dgemm(1.0, X.T, y).T
    return blas.dgemm(1.0, X, y, trans_a=1).T


def lower_gram(X: Float[Array, "n p"]) -> Float[Array, "p p"]:
    """The lower triangle of XᵀX."""
    return blas.dsyrk(1.0, X.T, lower=1) if X.flags.c_contiguous else blas.dsyrk(1.0, X, trans=1, lower=1)


def symmetric(lower: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """Both triangles, from a matrix whose upper one is zero; in place."""
    lower += lower.T
    lower.flat[:: len(lower) + 1] /= 2
    return lower
