# SPDX-License-Identifier: BSD-3-Clause
"""Terms of dense columns with independent weights: flat, on shared scales, or with a given covariance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from marglik.hyperparameters import Hyperparameter
from marglik.pieces import Pieces
from marglik.priors.base import Term, as_matrix, default_names
from marglik.validate import check_coefficients, listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Flat(Term):
    """Weights with density 1 in the units of their columns: fixed effects that are integrated out.

    Parameters
    ----------
    X : (n, f)
        The columns. They must be linearly independent, else the posterior is improper.
    column_names
        One name a column; ``b0, b1, …`` if not given.
    owners
        The term to which each column belongs, where some are the flat part of another term; `label` if not given.

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
    owners: Sequence[str] | None = None
    flat = True

    def __post_init__(self) -> None:
        if self.owners is not None and len(self.owners) != self.n_weights:
            raise ValueError(f"{self.label!r} has {self.n_weights} columns but {len(self.owners)} owners.")
        check_coefficients(self.column_names or (), self.label)

    def owned(self, labels: Collection[str]) -> Bool[Array, "f"]:
        """Which columns belong to these terms."""
        owners = [self.label] * self.n_weights if self.owners is None else self.owners
        return np.array([owner in labels for owner in owners], bool)

    @property
    def columns(self):
        return as_matrix(self.X)

    @property
    def names(self):
        return default_names(self.column_names, self.n_weights, "b")

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
        The columns; `Pieces` where they are polynomials of a covariate between breaks.
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

    X: Float[Array, "n p"] | Pieces
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
        return as_matrix(np.asarray(self.X))

    @property
    def pieces(self):
        return self.X if isinstance(self.X, Pieces) else None

    @property
    def n_rows(self):
        return len(self.X)

    @property
    def names(self):
        return default_names(self.column_names, self.n_weights, "x")

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
        own = sizes(self.columns) if self.pieces is None else self.pieces.squares / self.n_rows
        squares = self.factor_vjp(np.zeros(0), own)
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
    covariance: Float[Array, "p p"] | float = 1.0  # type: ignore[assignment]
    column_names: Sequence[str] | None = None
    label: str = "gaussian"

    def __post_init__(self) -> None:
        p = as_matrix(self.X).shape[1]
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
        return as_matrix(self.X)

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
        return default_names(self.column_names, self.n_weights, "x")

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


FAR = 10
"""A column varies by its variance, rather than its mean square, where its mean is more than so many times its sd."""


def sizes(X: Float[Array, "n p"]) -> Float[Array, "p"]:
    """Mean squares of columns; of those far from zero about their means, unless they are constant."""
    n = max(len(X), 1)
    out, means = np.einsum("ij,ij->j", X, X) / n, np.einsum("ij->j", X) / n
    for j in np.flatnonzero(FAR**2 * (out - means**2) < means**2):
        out[j] = np.var(X[:, j] - X[0, j]) or out[j]
    return out


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
