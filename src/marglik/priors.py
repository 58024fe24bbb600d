# SPDX-License-Identifier: BSD-3-Clause
"""p(w|θ): a term owns design columns and the prior of their weights; ``+`` puts terms side by side.

A term with hyperparameters states its prior through a factor: w = L(θ) u with u ~ N(0, I). A scale of zero is then
an ordinary point. Evidence methods work with u; only `LinearModel` turns it into w.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from marglik.hyperparameters import Hyperparameter, Positive

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


class Prior(tuple["Term", ...]):
    """Terms side by side: their columns are concatenated, their factors stacked."""

    def __add__(self, other: Prior | Term) -> Prior:  # type: ignore[override]
        return Prior((*self, *(other if isinstance(other, Prior) else (other,))))


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
    """

    registry: ClassVar[dict[str, type[Term]]] = {}
    label: str
    flat: ClassVar[bool] = False
    grouped: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        Term.registry[re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()] = cls

    def __add__(self, other: Prior | Term) -> Prior:
        return Prior((self,)) + other

    @property
    @abstractmethod
    def columns(self) -> Float[Array, "n c"]:
        """The design: one row an observation."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Number of weights."""

    @abstractmethod
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Its coordinates of θ."""

    @abstractmethod
    def factor(self, theta: Float[Array, "k"]) -> Array:
        """L(θ): the diagonal (c,) of a dense term's factor, or the (c, c) factor of one level's block."""

    @abstractmethod
    def factor_vjp(self, theta: Float[Array, "k"], bar: Array) -> Float[Array, "k"]:
        """Σ bar · ∂L/∂θ_k for each k, with bar of the shape of `factor`."""

    @abstractmethod
    def factor_jvp(self, theta: Float[Array, "k"], direction: Float[Array, "k"]) -> Array:
        """Σ_k ∂L/∂θ_k direction_k, of the shape of `factor`."""

    @abstractmethod
    def units(self) -> Float[Array, "k"]:
        """For each hyperparameter, its value at which the term adds variance of order one to η."""


def _matrix(columns: Array) -> Float[Array, "n c"]:
    X = np.asarray(columns, np.float64)
    return X[:, None] if X.ndim == 1 else X


def _default_names(given: Sequence[str] | None, n: int, letter: str) -> tuple[str, ...]:
    return tuple(given) if given is not None else tuple(f"{letter}{i}" for i in range(n))


@dataclass(frozen=True, eq=False)
class Flat(Term):
    """Weights with density 1 in the units of their columns: fixed effects that are integrated out.

    Parameters
    ----------
    X : (n, f)
        The columns. They must be linearly independent, else the posterior is improper.
    column_names
        One name a column; ``b0, b1, …`` if not given.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Flat, Ridge
    >>> prior = Flat(np.ones(3), ["Intercept"]) + Ridge(np.eye(3))
    >>> [term.label for term in prior]
    ['fixed effects', 'ridge']
    """

    X: Float[Array, "n f"]
    column_names: Sequence[str] | None = None
    label: str = "fixed effects"
    flat = True

    @property
    def columns(self):
        return _matrix(self.X)

    @property
    def names(self):
        return _default_names(self.column_names, self.n_weights, "b")

    @property
    def n_weights(self):
        return self.columns.shape[1]

    def hyperparameters(self):
        return ()

    def factor(self, theta):
        return np.ones(self.n_weights)

    def factor_vjp(self, theta, bar):
        return np.zeros(0)

    def factor_jvp(self, theta, direction):
        return np.zeros(self.n_weights)

    def units(self):
        return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Ridge(Term):
    """Weights that share one scale, w_j ~ N(0, s²).

    Parameters
    ----------
    X : (n, p)
        The columns.
    column_names
        One name a column; ``x0, x1, …`` if not given.
    hyperparameter
        The scale's name.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Ridge
    >>> Ridge(np.eye(2)).hyperparameters()[0].name
    'sd(weights)'
    >>> Ridge(np.eye(2)).factor([0.5])
    array([0.5, 0.5])
    """

    X: Float[Array, "n p"]
    column_names: Sequence[str] | None = None
    hyperparameter: str = "sd(weights)"
    label: str = "ridge"

    @property
    def columns(self):
        return _matrix(self.X)

    @property
    def names(self):
        return _default_names(self.column_names, self.n_weights, "x")

    @property
    def n_weights(self):
        return np.shape(self.X)[1] if np.ndim(self.X) > 1 else 1

    def hyperparameters(self):
        return (Hyperparameter(self.hyperparameter, Positive(), even=True),)

    def factor(self, theta):
        return np.full(self.n_weights, theta[0])

    def factor_vjp(self, theta, bar):
        return np.array([bar.sum()])

    def factor_jvp(self, theta, direction):
        return np.full(self.n_weights, direction[0])

    def units(self):
        X = self.columns
        return 1 / np.sqrt([np.einsum("ij,ij->", X, X) / len(X)])


@dataclass(frozen=True, eq=False)
class RandomEffects(Term):
    """One weight a column for every level of a grouping factor, independent with one scale a column.

        η_i = … + Σ_j Z_ij w_{g(i) j},    w_{g j} ~ N(0, s_j²)

    Parameters
    ----------
    codes : (n,) of int
        The level of each row, from 0.
    levels
        The levels' names.
    Z : (n, m), optional
        The columns whose coefficients vary; a column of ones (a random intercept) if not given.
    coefficients
        Names of the columns.
    group
        Name of the grouping factor.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import RandomEffects
    >>> term = RandomEffects(np.array([0, 0, 1]), ["a", "b"], group="g")
    >>> [h.name for h in term.hyperparameters()], term.n_weights
    (['sd(Intercept | g)'], 2)
    """

    codes: Int[Array, "n"]
    levels: Sequence[str]
    Z: Float[Array, "n m"] | None = None
    coefficients: Sequence[str] = ("Intercept",)
    group: str = "group"
    label: str = field(default="")
    grouped = True

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", f"({' + '.join(self._symbols)} | {self.group})")

    @property
    def _symbols(self) -> list[str]:
        return ["1" if c == "Intercept" else c for c in self.coefficients]

    @property
    def columns(self):
        return np.ones((len(self.codes), 1)) if self.Z is None else _matrix(self.Z)

    @property
    def names(self):
        return tuple(self.coefficients)

    @property
    def n_weights(self):
        return len(self.levels) * len(self.coefficients)

    def hyperparameters(self):
        return tuple(Hyperparameter(f"sd({c} | {self.group})", Positive(), even=True) for c in self.coefficients)

    def factor(self, theta):
        return np.diag(np.asarray(theta, float))

    def factor_vjp(self, theta, bar):
        return bar.diagonal().copy()

    def factor_jvp(self, theta, direction):
        return np.diag(np.asarray(direction, float))

    def units(self):
        return 1 / np.sqrt((self.columns**2).mean(axis=0))
