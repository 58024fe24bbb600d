# SPDX-License-Identifier: BSD-3-Clause
"""The parts of a Gaussian mixed model's covariance: V = I + Σ_c Z_c (I ⊗ Σ_c) Z_cᵀ, Σ_c as a function of θ.

Where Σ is diagonal and the blocks are wide, it is a vector, and so are its derivatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.gaussian.levels import LevelSums
    from marglik.priors import Term


def times(X: Float[Array, "*r m"], L: Array) -> Float[Array, "*r m"]:
    """XL, for a matrix L or the diagonal of one."""
    return X @ L if L.ndim == 2 else X * L


def square(L: Array) -> Array:
    """LLᵀ."""
    return L @ L.T if L.ndim == 2 else L**2


class Component(ABC):
    """Weights that come in equal blocks with covariance Σ = L Lᵀ.

    Attributes
    ----------
    place
        Where they lie in the border (q, m); None for the inner grouping factor.
    q, m : int
        Number of blocks and their size.
    coordinates : (k,)
        Positions in θ; −1 for a coordinate that is 1 in the units of y, and not learned.
    terms
        The terms it belongs to, and which rows of a block are theirs.
    """

    place: Array | None
    q: int
    m: int
    coordinates: Array
    terms: tuple[tuple[str, slice], ...]

    @property
    @abstractmethod
    def scales(self) -> Bool[Array, "k"]:
        """Which coordinates are in the units of y: Σ(cθ) = c²Σ(θ) where these are multiplied by c."""

    @abstractmethod
    def factor(self, theta: Float[Array, "k"]) -> Array:
        """L, from θ followed by a one."""

    @abstractmethod
    def tangents(self, theta: Float[Array, "k"]) -> Array:
        """∂Σ/∂θ_k, one after the other."""

    @abstractmethod
    def bends(self, theta: Float[Array, "k"], X: Array) -> Float[Array, "k k"]:
        """⟨∂²Σ/∂θ_k∂θ_l, X⟩ for a symmetric X, or the diagonal of one where Σ is diagonal."""

    @abstractmethod
    def directions(self, theta: Float[Array, "k"]) -> Array:
        """Matrices E_k of which a sum Σ_k u_kE_k tells what Σ might be better than at θ."""

    @abstractmethod
    def along(self, theta: Float[Array, "k"]) -> Float[Array, "k"]:
        """u for Σ at θ."""

    @abstractmethod
    def read(self, theta: Float[Array, "k"], u: Float[Array, "k"], least: float) -> Float[Array, "k"]:
        """Own coordinates for Σ_k u_kE_k, made no less than the share ``least``² of Σ at θ."""


@dataclass(frozen=True, eq=False)
class LinearComponent(Component):
    """L is linear in θ: L = Σ_k θ_k T_k, with templates (k, m, m)."""

    place: Array | None
    q: int
    m: int
    templates: Float[Array, "k m m"]
    coordinates: Array
    terms: tuple[tuple[str, slice], ...]

    @property
    def scales(self):
        return np.ones(len(self.coordinates), bool)

    def factor(self, theta):
        return (theta[self.coordinates] @ self.templates.reshape(-1, self.m**2)).reshape(self.m, self.m)

    def tangents(self, theta):
        """Σ̇_k = T_kLᵀ + LT_kᵀ."""
        TL = self.templates @ self.factor(theta).T
        return TL + TL.transpose(0, 2, 1)

    def bends(self, theta, X):
        """Σ̈_kl = T_kT_lᵀ + T_lT_kᵀ."""
        return 2 * np.einsum("kij,lhj,ih->kl", self.templates, self.templates, X)

    @cached_property
    def _pairs(self) -> Array:
        """Where Σ may have entries, the upper triangle."""
        L = np.abs(self.templates).sum(axis=0)
        return np.argwhere(np.triu(L @ L.T > 0))

    def directions(self, theta):
        return np.array([_unit(self.m, i, j) for i, j in self._pairs]).reshape(-1, self.m, self.m)

    def along(self, theta):
        return square(self.factor(theta))[tuple(self._pairs.T)]

    def read(self, theta, u, least):
        S = np.zeros((self.m, self.m))
        S[tuple(self._pairs.T)] = S[tuple(self._pairs[:, ::-1].T)] = u
        S = _definite(S, self.factor(theta), least)
        used = np.abs(self.templates).sum(axis=0)
        rows = np.argsort([np.flatnonzero(row)[-1] for row in used])
        L = np.zeros_like(S)
        L[rows] = np.linalg.cholesky(S[np.ix_(rows, rows)])
        return np.einsum("kij,ij->k", self.templates, L) / np.einsum("kij,kij->k", self.templates, self.templates)


@dataclass(frozen=True, eq=False)
class VaryingComponent(Component):
    """One block of dense columns, whose covariance the term itself states: a diagonal, or a whole matrix."""

    place: Array
    term: Term
    coordinates: Array
    q = 1

    @property
    def m(self):  # type: ignore[override]
        return self.place.size

    @property
    def terms(self):  # type: ignore[override]
        return ((self.term.label, slice(0, self.m)),)

    @cached_property
    def scales(self):
        return np.array([h.even for h in self.term.hyperparameters()], bool)

    def factor(self, theta):
        return self.term.factor(theta[self.coordinates])

    def tangents(self, theta):
        return self.term.covariance_tangents(theta[self.coordinates])

    def bends(self, theta, X):
        return np.tensordot(self.term.covariance_curvatures(theta[self.coordinates]), X, X.ndim)

    def directions(self, theta):
        return square(self.factor(theta))[None]

    def along(self, theta):
        return np.ones(1)

    def read(self, theta, u, least):
        own = theta[self.coordinates]
        return np.where(self.scales, own * np.sqrt(max(u[0], least**2)), own)


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
    out: list[Component] = []
    position = 0
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
        full_templates = np.array(templates), np.array(coordinates)
        out.append(LinearComponent(place, grouping.n_levels, m, *full_templates, tuple(labels)))
    one = np.ones((1, 1, 1))
    for own_columns in dense:
        k, start = len(own_columns.hyperparameters()), starts[id(own_columns)]
        if own_columns.covaries:
            place = np.arange(position, position + own_columns.n_weights)[None]
            out.append(VaryingComponent(place, own_columns, np.arange(start, start + k)))
        else:
            for i, e in enumerate(np.eye(k) if k else [np.ones(0)]):
                columns = np.flatnonzero(own_columns.factor(e)) if k else np.arange(own_columns.n_weights)
                place = (position + columns)[:, None]
                own_label = ((own_columns.label, slice(0, 1)),)
                learned = np.array([start + i if k else -1])
                out.append(LinearComponent(place, len(columns), 1, one, learned, own_label))
        position += own_columns.n_weights
    return tuple(out)


def _unit(m: int, i: int, j: int) -> Float[Array, "m m"]:
    """The symmetric matrix with a one at (i, j)."""
    E = np.zeros((m, m))
    E[i, j] = E[j, i] = 1.0
    return E


def _definite(S: Float[Array, "m m"], L: Float[Array, "m m"], least: float) -> Float[Array, "m m"]:
    """S with its eigenvalues, in units of a factor L of natural size, made no less than ``least``²."""
    scale = np.sqrt((L**2).sum(axis=1))
    scale = np.where(scale > 0, scale, 1.0)
    d, U = np.linalg.eigh(S / np.outer(scale, scale))
    return (U * np.maximum(d, least**2)) @ U.T * np.outer(scale, scale)
