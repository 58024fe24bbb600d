# SPDX-License-Identifier: BSD-3-Clause
"""p(w|θ): a term owns design columns and the prior of their weights; ``+`` puts terms side by side.

A term with hyperparameters states its prior through a factor: w = L(θ) u with u ~ N(0, I). A scale of zero is then
an ordinary point. Evidence methods work with u; only `LinearModel` turns it into w.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.linalg import blas

from marglik.hyperparameters import Hyperparameter, Positive, Real, Triangle
from marglik.validate import check_effects, check_levels, listed

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


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
    """Weights that share a scale, w_j ~ N(0, s²): one for all columns, one a group of columns, or one a column (ARD).

        w_j ~ N(0, s_{g(j)}²)

    Parameters
    ----------
    X : (n, p)
        The columns.
    column_names
        One name a column; ``x0, x1, …`` if not given.
    hyperparameter
        The scale's name, where there is one.
    groups : (p,) of int, optional
        The group g(j) of each column, from 0; all in one group if not given.
    scales
        The scales' names, one a group.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Ridge
    >>> Ridge(np.eye(2)).hyperparameters()[0].name
    'sd(weights)'
    >>> banded = Ridge(np.eye(3), groups=[0, 0, 1], scales=["sd(a)", "sd(b)"])
    >>> banded.factor(np.array([0.5, 2.0]))
    array([0.5, 0.5, 2. ])
    """

    X: Float[Array, "n p"]
    column_names: Sequence[str] | None = None
    hyperparameter: str = "sd(weights)"
    label: str = "ridge"
    groups: Int[Array, "p"] | None = None
    scales: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.groups is None:
            return
        groups = np.asarray(self.groups, int)
        object.__setattr__(self, "groups", groups)
        n = int(groups.max(initial=-1)) + 1
        if groups.shape != (self.n_weights,) or len(np.unique(groups)) < n or groups.min(initial=0) < 0:
            raise ValueError(
                f"groups must give each of the {self.n_weights} columns of {self.label!r} a group 0, 1, …, none left "
                f"out, but has shape {groups.shape} and the groups {listed(np.unique(groups))}."
            )
        if self.scales is None:
            object.__setattr__(self, "scales", tuple(f"sd(group{g})" for g in range(n)))
        if len(self.scales) != n:  # type: ignore[arg-type]
            raise ValueError(f"{self.label!r} has {n} groups but {len(self.scales)} names of scales.")  # type: ignore[arg-type]

    @property
    def columns(self):
        return _matrix(self.X)

    @property
    def names(self):
        return _default_names(self.column_names, self.n_weights, "x")

    @property
    def n_weights(self):
        return np.shape(self.X)[1] if np.ndim(self.X) > 1 else 1

    @cached_property
    def _hyperparameters(self) -> tuple[Hyperparameter, ...]:
        if self.scales is None:
            return (Hyperparameter(self.hyperparameter, even=True),)
        return tuple(Hyperparameter(name, even=True) for name in self.scales)

    def hyperparameters(self):
        return self._hyperparameters

    def factor(self, theta):
        return np.full(self.n_weights, theta[0]) if self.groups is None else np.asarray(theta, float)[self.groups]

    def factor_vjp(self, theta, bar):
        return np.array([bar.sum()]) if self.groups is None else np.bincount(self.groups, bar, len(self.scales or ()))

    def factor_jvp(self, theta, direction):
        return self.factor(direction)

    def units(self):
        X = self.columns
        squares = self.factor_vjp(np.zeros(0), np.einsum("ij,ij->j", X, X) / len(X))
        return 1 / np.sqrt(np.where(squares > 0, squares, 1.0))


@dataclass(frozen=True, eq=False)
class Gaussian(Term):
    """Weights with a given mean and covariance, w ~ N(μ, K): nothing to learn.

    Parameters
    ----------
    X : (n, p)
        The columns.
    mean : (p,) or float
        μ.
    covariance : (p, p), (p,) or float
        K, its diagonal, or one variance for all.
    column_names
        One name a column; ``x0, x1, …`` if not given.

    Raises
    ------
    ValueError
        The covariance is not positive semidefinite, or shapes do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Gaussian
    >>> term = Gaussian(np.eye(2), mean=1.0, covariance=[4.0, 9.0])
    >>> term.hyperparameters(), term.mean
    ((), array([1., 1.]))
    >>> term.columns
    array([[2., 0.],
           [0., 3.]])
    """

    X: Float[Array, "n p"]
    mean: Float[Array, "p"] | float = 0.0
    covariance: Float[Array, "p p"] | float = 1.0
    column_names: Sequence[str] | None = None
    label: str = "gaussian"

    def __post_init__(self) -> None:
        p = _matrix(self.X).shape[1]
        mean, K = np.asarray(self.mean, float), np.asarray(self.covariance, float)
        if mean.shape not in ((), (p,)) or K.shape not in ((), (p,), (p, p)):
            raise ValueError(
                f"{self.label!r} has {p} columns, but its mean has shape {mean.shape} and its covariance {K.shape}. "
                f"Give ({p},) and ({p}, {p}), or numbers."
            )
        object.__setattr__(self, "mean", np.broadcast_to(mean, (p,)))
        object.__setattr__(self, "root", _root(K if K.ndim == 2 else np.diag(np.broadcast_to(K, (p,))), self.label))

    @property
    def columns(self):
        """X K^½: the columns of independent standard normal weights."""
        return self.design @ self.root  # type: ignore[attr-defined]

    @property
    def design(self):
        return _matrix(self.X)

    @property
    def offset(self):
        return self.design @ self.mean

    @property
    def mixing(self):
        return self.root  # type: ignore[attr-defined]

    def weights(self, coefficients):
        return self.mean + coefficients @ self.root.T  # type: ignore[attr-defined]

    @property
    def names(self):
        return _default_names(self.column_names, self.n_weights, "x")

    @property
    def n_weights(self):
        return np.shape(self.X)[1] if np.ndim(self.X) > 1 else 1

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


def _root(K: Float[Array, "p p"], label: str) -> Float[Array, "p p"]:
    """The symmetric square root of a covariance."""
    d, U = np.linalg.eigh((K + K.T) / 2)
    if (
        not np.all(np.isfinite(K))
        or d.min(initial=0) < -1e-12 * d.max(initial=0)
        or np.abs(K - K.T).max() > 1e-10 * d[-1]
    ):
        raise ValueError(f"The covariance of {label!r} is not symmetric and positive semidefinite.")
    return (U * np.sqrt(np.maximum(d, 0))) @ U.T


@dataclass(frozen=True, eq=False)
class RandomEffects(Term):
    """Weights for every level of a grouping factor, of one column or of several that are correlated.

        η_i = … + Σ_j Z_ij w_{g(i) j},    w_g ~ N(0, Σ)

    Σ = M L LᵀMᵀ, and L is lower triangular. Its entries are the coordinates of θ, so that a scale of zero or a
    correlation of ±1, or any other singular Σ, is an ordinary point. M makes the columns Z M orthogonal, an intercept
    beside a slope the level at the mean of its column: where zero lies on that column's scale does not matter. What
    users see are standard deviations and correlations. Without correlations, M = I and L is diagonal.

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
    correlated : bool
        Whether the coefficients of a level are.
    order
        If given, it is the factor of Σ itself that is triangular, with the coefficients in this order.
    held_correlation
        A given correlation of the first two coefficients in that order.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import RandomEffects
    >>> term = RandomEffects(np.array([0, 0, 1]), ["a", "b"], group="g")
    >>> [h.name for h in term.hyperparameters()], term.n_weights
    (['sd(Intercept | g)'], 2)
    >>> both = RandomEffects(np.array([0, 0, 1]), ["a", "b"], np.eye(3)[:, :2], ["Intercept", "x"], "g")
    >>> both.factor(np.array([2.0, 1.0, 0.5]))
    array([[2. , 0. ],
           [1. , 0.5]])
    >>> both.reported_names
    ('sd(Intercept | g)', 'sd(x | g)', 'cor(Intercept, x | g)')
    """

    codes: Int[Array, "n"]
    levels: Sequence[str]
    Z: Float[Array, "n m"] | None = None
    coefficients: Sequence[str] = ("Intercept",)
    group: str = "group"
    label: str = field(default="")
    correlated: bool = True
    order: tuple[int, ...] | None = None
    held_correlation: float | None = None
    grouped = True

    def __post_init__(self) -> None:
        if not self.label:
            bar = "|" if self.correlated else "||"
            object.__setattr__(self, "label", f"({' + '.join(self._symbols)} {bar} {self.group})")
        check_levels(self.levels, self.label)
        check_effects(self.codes, len(self.levels), self.Z, self.coefficients, self.label)
        if self.order is not None and sorted(self.order) != list(range(len(self.coefficients))):
            raise ValueError(
                f"order must put the {len(self.coefficients)} coefficients of {self.label!r} in an order, but is "
                f"{self.order}."
            )

    @property
    def _symbols(self) -> list[str]:
        symbols = ["1" if c == "Intercept" else c for c in self.coefficients]
        return symbols if "1" in symbols else ["0", *symbols]

    @cached_property
    def design(self):
        return np.ones((len(self.codes), 1)) if self.Z is None else _matrix(self.Z)

    @cached_property
    def _orthogonal(self) -> tuple[Float[Array, "n m"], Float[Array, "m m"]]:
        return orthogonal(self.design)

    @property
    def columns(self):
        return self.design if self.mixing is None else self._orthogonal[0]

    @property
    def mixing(self):
        return self._orthogonal[1] if self.correlated and len(self.coefficients) > 1 else None

    def weights(self, coefficients):
        return coefficients if self.mixing is None else coefficients @ self.mixing.T

    @property
    def names(self):
        return tuple(self.coefficients)

    @property
    def n_weights(self):
        return len(self.levels) * len(self.coefficients)

    @property
    def reported_names(self) -> tuple[str, ...]:
        """Standard deviations, and correlations if there are any."""
        c, g = self.coefficients, self.group
        sds = [f"sd({name} | {g})" for name in c]
        pairs = combinations(range(len(c)), 2) if self.correlated else ()
        return (*sds, *(f"cor({c[i]}, {c[j]} | {g})" for i, j in pairs))

    @cached_property
    def triangle(self) -> Triangle | None:
        """L as a linear function of θ, unless it is diagonal."""
        if self.mixing is None:
            return None
        order = self.order or tuple(range(len(self.coefficients)))
        return Triangle(self.reported_names, order, self.held_correlation, None if self.order else self.mixing)

    @cached_property
    def _templates(self) -> Float[Array, "k m m"]:
        """∂L/∂θ_k."""
        T = self.triangle.templates  # type: ignore[union-attr]
        return np.linalg.solve(self.mixing, T) if self.order else T

    def holding(self, names: Sequence[str], values: Sequence[float]) -> tuple[RandomEffects, dict[int, float]] | None:
        """The same term with some of what it reports held, and which coordinates are held at what.

        One standard deviation, one correlation, or a correlation and one of its standard deviations can be held: the
        coefficients are put in an order in which these are entries of L. None for other choices.
        """
        m, c = len(self.coefficients), list(self.reported_names)
        held = {c.index(name): float(value) for name, value in zip(names, values, strict=True)}
        sds = [i for i in held if i < m]
        pairs = [tuple(int(p) for p in np.transpose(np.triu_indices(m, 1))[i - m]) for i in held if i >= m]
        if len(sds) > 1 or len(pairs) > 1 or (pairs and sds and sds[0] not in pairs[0]):
            return None
        first = [*sds, *(i for pair in pairs for i in pair if i not in sds)]
        order = (*first, *(i for i in range(m) if i not in first))
        rho = next((value for i, value in held.items() if i >= m), None)
        return replace(self, order=order, held_correlation=rho), ({0: held[sds[0]]} if sds else {})

    @cached_property
    def _natural(self) -> Float[Array, "m"]:
        Z = self.design if self.order else self.columns
        return 1 / np.sqrt(np.array([z @ z for z in Z.T]) / len(Z))

    def hyperparameters(self):
        if self.triangle is None:
            return tuple(Hyperparameter(name, Positive(), even=True) for name in self.reported_names)
        unit = self._natural[list(self.triangle.order)]
        lengths = () if self.held_correlation is None else ((0, 0), (1, 1))  # with a sign, ρ would be ±ρ
        supports = ((Positive if e in lengths else Real)(float(unit[e[0]])) for e in self.triangle.entries)
        return tuple(
            Hyperparameter(f"factor({i + 1}, {j + 1} | {self.group})", support, triangle=self.triangle)
            for (i, j), support in zip(self.triangle.entries, supports, strict=True)
        )

    def factor(self, theta):
        return np.diag(np.asarray(theta, float)) if self.triangle is None else np.tensordot(theta, self._templates, 1)

    def factor_vjp(self, theta, bar):
        return bar.diagonal().copy() if self.triangle is None else np.tensordot(self._templates, bar, 2)

    def factor_jvp(self, theta, direction):
        return self.factor(direction)

    def units(self):
        return self._natural if self.triangle is None else self.triangle.diagonal @ self._natural


DEPENDENT = 1e-9
"""A column of which no more than this share of its length is new stays as it is."""


def orthogonal(Z: Float[Array, "n m"]) -> tuple[Float[Array, "n m"], Float[Array, "m m"]]:
    """Z M with orthogonal columns, and the unit upper triangular M: each column less its part along those before it.

    Examples
    --------
    >>> import numpy as np
    >>> columns, M = orthogonal(np.array([[1.0, 7.0], [1.0, 9.0]]))
    >>> columns.tolist(), M.tolist()
    ([[1.0, -1.0], [1.0, 1.0]], [[1.0, -8.0], [0.0, 1.0]])
    """
    out, M = np.array(Z, order="F"), np.eye(Z.shape[1])
    squares: list[float] = []
    for j, new in enumerate(out.T):
        whole = new @ new
        for i in np.flatnonzero(squares):
            share = new @ out[:, i] / squares[i]
            blas.daxpy(out[:, i], new, a=-share)  # in place
            M[:, j] -= share * M[:, i]
        if new @ new <= DEPENDENT**2 * whole:
            out[:, j], M[:, j] = Z[:, j], np.arange(len(M)) == j
        squares.append(new @ new)
    return out, M
