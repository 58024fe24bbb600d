# SPDX-License-Identifier: BSD-3-Clause
"""`Smooth`: independent weights under several penalties at once, as in tensor products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from marglik.hyperparameters import Hyperparameter
from marglik.priors.base import Term, as_matrix, default_names

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Smooth(Term):
    """Independent weights that several penalties share, with a scale for each.

        w_j ~ N(0, v_j),    1/v_j = Σ_i D_ji / s_i²

    In these coordinates all penalties are diagonal, so log|Σ_i S_i/s_i²| = −Σ_j log v_j has no cancellation, whatever
    the scales are. A scale of zero takes out the weights that its penalty sees, an infinite one takes out the penalty.

    Parameters
    ----------
    X : (n, c)
        The columns.
    penalties : (c, m)
        D: how much each penalty sees of each weight. Every weight is seen by some, every penalty sees some.
    scales
        Names of the s_i.
    label
        What the term is called in tables.
    column_names
        One name a column; ``x0, x1, …`` if not given.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.priors import Smooth
    >>> term = Smooth(np.eye(3), [[1, 0], [0.5, 0.5], [0, 2]], ["sd(x)", "sd(z)"])
    >>> term.factor(np.array([1.0, 1.0])) ** 2
    array([1. , 1. , 0.5])
    >>> term.factor(np.array([1.0, 0.0]))
    array([1., 0., 0.])
    """

    X: Float[Array, "n c"]
    penalties: Float[Array, "c m"]
    scales: Sequence[str]
    label: str = "smooth"
    column_names: Sequence[str] | None = None
    covaries = True

    def __post_init__(self) -> None:
        D, c = np.asarray(self.penalties, float), self.n_weights
        if D.shape != (c, len(self.scales)):
            raise ValueError(
                f"{self.label!r} has {c} columns and {len(self.scales)} scales, but its penalties have shape "
                f"{D.shape}. Give ({c}, {len(self.scales)})."
            )
        if not np.isfinite(D).all() or (D < 0).any():
            raise ValueError(f"The penalties of {self.label!r} must be finite and not negative.")
        unseen = np.flatnonzero(~D.any(axis=1))
        if len(unseen):
            raise ValueError(
                f"Column {unseen[0]} of {self.label!r} is seen by no penalty, so its weight is flat. Give it to a Flat "
                "term."
            )
        blind = np.flatnonzero(~D.any(axis=0))
        if len(blind):
            raise ValueError(
                f"{self.scales[blind[0]]!r} of {self.label!r} is the scale of a penalty that sees nothing."
            )
        object.__setattr__(self, "penalties", D)

    @cached_property
    def columns(self):
        return as_matrix(self.X)

    @property
    def names(self):
        return default_names(self.column_names, self.n_weights, "x")

    @property
    def n_weights(self):
        return np.shape(self.X)[1] if np.ndim(self.X) > 1 else 1

    @cached_property
    def _hyperparameters(self) -> tuple[Hyperparameter, ...]:
        return tuple(Hyperparameter(name, even=True) for name in self.scales)

    def hyperparameters(self):
        return self._hyperparameters

    def _ratios(self, theta: Float[Array, "m"]) -> tuple[Float[Array, "c m"], Float[Array, "m"]]:
        """|L_j / s_i| = (Σ_k D_jk s_i²/s_k²)^−½, which stays finite at zero and at infinity; and the signs of s."""
        s = np.abs(np.asarray(theta, float))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            square = (s[:, None] / s) ** 2
        square[np.isnan(square)] = np.inf
        np.fill_diagonal(square, 1.0)
        seen = np.where(self.penalties[:, None] > 0, square, 0.0)
        with np.errstate(divide="ignore"):
            return 1 / np.sqrt(np.einsum("jk,jik->ji", self.penalties, seen)), np.where(
                np.asarray(theta) < 0, -1.0, 1.0
            )

    def _sign(self, signs: Float[Array, "m"]) -> Float[Array, "c"]:
        return np.prod(np.where(self.penalties > 0, signs, 1.0), axis=1)

    def factor(self, theta):
        ratios, signs = self._ratios(theta)
        s = np.where(self.penalties > 0, np.abs(theta), np.inf)
        least = s.argmin(axis=1)
        rows = np.arange(len(s))
        return self._sign(signs) * ratios[rows, least] * s[rows, least]

    def _slopes(self, theta: Float[Array, "m"]) -> Float[Array, "c m"]:
        """∂L_j/∂s_i = D_ji (L_j/s_i)³."""
        ratios, signs = self._ratios(theta)
        return self._seen(ratios, 3) * signs * self._sign(signs)[:, None]

    def _seen(self, ratios: Float[Array, "c m"], power: int) -> Float[Array, "c m"]:
        """D_ji (L_j/s_i)^power."""
        return self.penalties * np.where(self.penalties > 0, ratios, 0.0) ** power

    def factor_vjp(self, theta, bar):
        return bar @ self._slopes(theta)

    def factor_jvp(self, theta, direction):
        return self._slopes(theta) @ direction

    def covariance(self, theta):
        """v."""
        return self.factor(theta) ** 2

    def covariance_tangents(self, theta):
        """∂v_j/∂s_i = 2 L_j ∂L_j/∂s_i."""
        return 2 * self.factor(theta) * self._slopes(theta).T

    def covariance_curvatures(self, theta):
        """∂²v_j/∂s_i∂s_k = 8 ∂L_j/∂s_i ∂L_j/∂s_k − 6 [i = k] D_ji (L_j/s_i)⁴."""
        slopes = self._slopes(theta).T
        out = 8 * slopes[:, None] * slopes
        own = np.arange(len(out))
        out[own, own] -= 6 * self._seen(self._ratios(theta)[0], 4).T
        return out

    def units(self):
        X, D = self.columns, self.penalties
        squares = np.einsum("ij,ij->j", X, X)[:, None] / len(X)
        alone = (D > 0) & ((D > 0).sum(axis=1) == 1)[:, None]
        among = np.where((squares * alone).any(axis=0), alone, D > 0)
        added = np.sum(np.where(among, squares / D.sum(axis=1, keepdims=True), 0.0), axis=0)
        return 1 / np.sqrt(np.where(added > 0, added, 1.0))
