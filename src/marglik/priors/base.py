# SPDX-License-Identifier: BSD-3-Clause
"""p(w|θ): a term owns design columns and the prior of their weights; ``+`` puts terms side by side.

A term with hyperparameters states its prior through a factor: w = L(θ) u with u ~ N(0, I). A scale of zero is then
an ordinary point. Evidence methods work with u; only `LinearModel` turns it into w.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from marglik.hyperparameters import Hyperparameter
from marglik.roots import Root

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.hyperpriors import Hyperprior
    from marglik.pieces import Pieces


START = (0.1, 0.3, 1.0, 3.0)
"""Multiples of a scale's natural size from which learning may set out."""
ROUNDING = 1e-9
"""Directions with a smaller share of the largest prior standard deviation count for nothing."""


class Prior(tuple["Term", ...]):
    """Terms side by side: their columns are concatenated, their factors stacked.

    Parameters
    ----------
    terms
        In order.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Flat, Ridge
    >>> prior = Flat(np.ones(3)) + Ridge(np.eye(3))
    >>> [term.n_weights for term in prior]
    [1, 3]
    """

    def __add__(self, other: Prior | Term) -> Prior:  # type: ignore[override]
        return Prior((*self, *(other if isinstance(other, Prior) else (other,))))


class Grid(NamedTuple):
    """Cells of which the last dimension runs fastest.

    Attributes
    ----------
    shape, dims, spacing
        Of each dimension: its number of cells, its name, the distance of neighbours.
    """

    shape: tuple[int, ...]
    dims: tuple[str, ...]
    spacing: tuple[float, ...]


class Term(ABC):
    """Columns of the design and the prior of their weights.

    Attributes
    ----------
    label
        What the term is called in tables.
    flat
        True where the weights have density 1 in the units of their columns (no factor, no hyperparameters).
    grouped
        True where the columns are repeated for every level of a grouping factor: w has one block a level, and the
        factor is that of a block. Otherwise the columns are dense and the factor is diagonal.
    kernel
        True where columns are dense and their weights correlated: the factor is a whole matrix (c, c). Neither flat
        nor grouped.
    covaries
        True where the covariance of dense weights is not a scale times a fixed matrix, one scale a column:
        the evidence of Gaussian models then takes `covariance` and its derivatives in θ.
    by_inputs
        True where `on_rows` is a function of the rows' inputs that needs no factor.
    """

    registry: ClassVar[dict[str, type[Term]]] = {}
    label: str
    flat: ClassVar[bool] = False
    grouped: ClassVar[bool] = False
    kernel: ClassVar[bool] = False
    covaries: ClassVar[bool] = False
    by_inputs: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        Term.registry[re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()] = cls

    def __add__(self, other: Prior | Term) -> Prior:
        return Prior((self,)) + other

    @property
    @abstractmethod
    def columns(self) -> Float[Array, "n c"]:
        """The design: one row an observation."""

    @property
    def pieces(self) -> Pieces | None:
        """`columns` as polynomials between breaks, where they are given as such; they are then made on first use."""
        return None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.columns)

    @property
    def design(self) -> Float[Array, "n c"]:
        """The columns of the weights themselves; `columns`, except where `mixing` stands between them."""
        return self.columns

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Number of weights."""

    @property
    def offset(self) -> Float[Array, "n"] | None:
        """What the prior mean of the weights adds to η, if it is not zero."""
        return None

    @property
    def mixing(self) -> Float[Array, "c c"] | None:
        """M, where the coefficients v of `columns` stand for the weights w = μ + M v; None where w = v."""
        return None

    def weights(self, coefficients: Float[Array, "*r c"]) -> Float[Array, "*r c"]:
        """w from v."""
        return coefficients

    @abstractmethod
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Its coordinates of θ."""

    @abstractmethod
    def factor(self, theta: Float[Array, "k"]) -> Array:
        """L(θ): the diagonal (c,) of a dense term's factor, or (c, c), of one level's block or of a `kernel` term."""

    @abstractmethod
    def factor_vjp(self, theta: Float[Array, "k"], bar: Array) -> Float[Array, "k"]:
        """Σ bar · ∂L/∂θ_k for each k, with bar of the shape of `factor`."""

    @abstractmethod
    def factor_jvp(self, theta: Float[Array, "k"], direction: Float[Array, "k"]) -> Array:
        """Σ_k ∂L/∂θ_k direction_k, of the shape of `factor`."""

    def acting(self, theta: Float[Array, "k"], direction: Float[Array, "k"] | None = None) -> Any:
        """`factor`, or `factor_jvp` along a direction, as something by which matrices are multiplied from the left."""
        return self.factor(theta) if direction is None else self.factor_jvp(theta, direction)

    def covariance(self, theta: Float[Array, "k"]) -> Array:
        """Σ(θ) = LLᵀ: its diagonal (c,) where the factor is diagonal, else (c, c)."""
        L = self.factor(theta)
        return _across(L, L)

    def covariance_tangents(self, theta: Float[Array, "k"]) -> Array:
        """∂Σ/∂θ_k = L̇_kLᵀ + LL̇_kᵀ, (k, c) or (k, c, c)."""
        L, slopes = self.factor(theta), self._factor_slopes(theta)
        return np.array([_across(T, L) + _across(L, T) for T in slopes]).reshape(len(slopes), *L.shape)

    def covariance_curvatures(self, theta: Float[Array, "k"]) -> Array:
        """∂²Σ/∂θ_k∂θ_l, (k, k, c) or (k, k, c, c): for a factor that is linear in θ, L̇_kL̇_lᵀ + L̇_lL̇_kᵀ."""
        slopes = self._factor_slopes(theta)
        return np.array([[_across(S, T) + _across(T, S) for T in slopes] for S in slopes])

    def _factor_slopes(self, theta: Float[Array, "k"]) -> list[Array]:
        return [self.factor_jvp(theta, e) for e in np.eye(len(self.hyperparameters()))]

    @property
    def grid(self) -> Grid | None:
        """Where the weights lie, if they are the cells of a grid."""
        return None

    @property
    def inputs(self) -> Float[Array, "n d"]:
        """What a row to predict consists of; the columns of the weights, unless `conditional` makes these of it."""
        return self.design

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of `inputs`."""
        return self.names

    def conditional(self, inputs: Float[Array, "n d"], theta: Float[Array, "k"]) -> tuple[Array, Array | float]:
        """The columns of the weights at new inputs, and the variance of η there that the weights say nothing of."""
        return inputs, 0.0

    @abstractmethod
    def units(self) -> Float[Array, "k"]:
        """For each hyperparameter, its value at which the term adds variance of order one to η."""

    def starts(self, scale: float) -> Float[Array, "s k"]:
        """Values from which learning may set out, where η varies by about ``scale``."""
        return np.multiply.outer(START, scale * self.units())

    def hyperpriors(self, scale: float) -> dict[str, Hyperprior]:
        """Priors for integrating, by name, where the usual one leaves no posterior and η varies by about ``scale``."""
        return {}

    def on_rows(self, theta: Float[Array, "k"], rows: Array) -> RowCovariance:
        """What it adds to the covariance of these rows."""
        return FactoredRows(self, theta, rows)

    def moves(self, theta: Float[Array, "k"]) -> Moves:
        """How its covariance and the derivatives of that act, where weights are dense."""
        return DenseMoves(self, theta)

    def compact(self, theta: Float[Array, "k"]) -> Term:
        """The same prior near θ, in as few coordinates as it takes; the same object for a θ that is close."""
        return self


class Moves(ABC):
    """What the covariance Σ of a term's weights at one θ, and its derivatives, do to matrices."""

    @abstractmethod
    def half(self, X: Float[Array, "r c"]) -> Float[Array, "r q"]:
        """XL for some L with LLᵀ = Σ, to rounding."""

    @abstractmethod
    def times(self, k: int, X: Float[Array, "r c"]) -> Float[Array, "r c"]:
        """XΣ̇_k."""

    @abstractmethod
    def inner(self, S: Float[Array, "c c"]) -> Float[Array, "k"]:
        """⟨S, Σ̇_k⟩ for a symmetric S."""

    @abstractmethod
    def inner_second(self, S: Float[Array, "c c"]) -> Float[Array, "k k"]:
        """⟨S, Σ̈_kl⟩ for a symmetric S."""


@dataclass(frozen=True, eq=False)
class DenseMoves(Moves):
    """By Σ, Σ̇ and Σ̈ as vectors where Σ is diagonal, or as matrices."""

    term: Term
    theta: Float[Array, "k"]

    @cached_property
    def _half(self) -> Array:
        if not self.term.kernel:
            return self.term.factor(self.theta)
        s, U = Root(self.term.covariance(self.theta)).spectrum
        kept = s > ROUNDING * s[-1]
        return U[:, kept] * s[kept]

    @cached_property
    def _tangents(self) -> Array:
        """Σ̇."""
        return self.term.covariance_tangents(self.theta)

    def half(self, X):
        return X * self._half if self._half.ndim == 1 else X @ self._half

    def times(self, k, X):
        return X * self._tangents[k] if self._tangents.ndim == 2 else X @ self._tangents[k]

    def inner(self, S):
        return np.array([_inner(S, T) for T in self._tangents])

    def inner_second(self, S):
        return np.array([[_inner(S, T) for T in row] for row in self.term.covariance_curvatures(self.theta)])


def _across(L: Array, T: Array) -> Array:
    """LTᵀ, of factors that may be diagonal."""
    return L * T if L.ndim == 1 else L @ T.T


def _inner(S: Float[Array, "c c"], T: Array) -> float:
    return float(S.diagonal() @ T) if T.ndim == 1 else float(np.vdot(S, T))


class RowCovariance(ABC):
    """X Σ Xᵀ of some rows at one θ."""

    @property
    @abstractmethod
    def matrix(self) -> Float[Array, "n n"]:
        """X Σ Xᵀ; the caller does not change it."""

    @abstractmethod
    def slopes(self, B: Float[Array, "n n"], w: Float[Array, "r n"]) -> Float[Array, "k"]:
        """⟨B + wᵀw, X Σ̇_k Xᵀ⟩, where B may be a lower triangle."""

    @abstractmethod
    def weights(self, alpha: Float[Array, "n"]) -> Float[Array, "c"]:
        """The weights that explain rows with V⁻¹(y − Fβ) = α."""

    @abstractmethod
    def cross(self, inputs: Float[Array, "m d"]) -> Float[Array, "m n"]:
        """Covariance of new rows, by their `Term.inputs`, with these."""

    @abstractmethod
    def variance(self, inputs: Float[Array, "m d"]) -> Float[Array, "m"]:
        """Variance of new rows."""


@dataclass(frozen=True, eq=False)
class FactoredRows(RowCovariance):
    """By the factor of Σ."""

    term: Term
    theta: Float[Array, "k"]
    rows: Array

    @cached_property
    def _factor(self) -> Array:
        return self.term.factor(self.theta)

    @cached_property
    def _X(self) -> Array:
        return self.term.columns[self.rows]

    def _over_factor(self, X: Array) -> Array:
        return X @ self._factor if self.term.kernel else X * self._factor

    @cached_property
    def matrix(self):
        L = self._over_factor(self._X)
        return L @ L.T

    def weights(self, alpha):
        pull = self._over_factor(self._X).T @ alpha
        return self.term.weights(self._factor @ pull if self.term.kernel else self._factor * pull)

    def _new(self, inputs: Array) -> Array:
        X = self.term.conditional(inputs, self.theta)[0]
        return self._over_factor(X if self.term.mixing is None else X @ self.term.mixing)

    def cross(self, inputs):
        return self._new(inputs) @ self._over_factor(self._X).T

    def variance(self, inputs):
        return (self._new(inputs) ** 2).sum(axis=1) + self.term.conditional(inputs, self.theta)[1]

    def slopes(self, B, w):
        """⟨B, 2XLL̇ᵀXᵀ⟩."""
        inner = self._X.T @ (B @ self._X)
        inner = inner + inner.T + 2 * (w @ self._X).T @ (w @ self._X)
        return self.term.factor_vjp(
            self.theta, inner @ self._factor if self.term.kernel else inner.diagonal() * self._factor
        )


def as_matrix(columns: Array) -> Float[Array, "n c"]:
    """Columns as floats, one of them as a matrix too."""
    X = np.asarray(columns, np.float64)
    return X[:, None] if X.ndim == 1 else X


def default_names(given: Sequence[str] | None, n: int, letter: str) -> tuple[str, ...]:
    """The names given, or numbered ones."""
    return tuple(given) if given is not None else tuple(f"{letter}{i}" for i in range(n))
