# SPDX-License-Identifier: BSD-3-Clause
"""`RandomEffects`: weights for every level of a grouping factor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas

from marglik.hyperparameters import Hyperparameter, Positive, Real, Triangle
from marglik.priors.base import Term, as_matrix
from marglik.validate import check_effects, check_levels, check_shared

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


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
    groups : (m,), optional
        For coefficients that are not correlated, the place of each one's scale among `scales`, which some may share.
    scales
        Names of these scales.

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
    groups: Sequence[int] | None = None
    scales: Sequence[str] | None = None
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
        if self.groups is not None:
            check_shared(self.groups, self.scales, len(self.coefficients), self.correlated, self.label)

    @property
    def _symbols(self) -> list[str]:
        symbols = ["1" if c == "Intercept" else c for c in self.coefficients]
        return symbols if "1" in symbols else ["0", *symbols]

    @cached_property
    def design(self):
        return np.ones((len(self.codes), 1)) if self.Z is None else as_matrix(self.Z)

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
        if self.scales is not None:
            return tuple(self.scales)
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
            Hyperparameter(f"factor({i + 1}, {j + 1} | {self.group})", support, image=self.triangle)
            for (i, j), support in zip(self.triangle.entries, supports, strict=True)
        )

    @cached_property
    def _own(self) -> Int[Array, "m"]:
        """The place in θ of each coefficient's scale, where they are not correlated."""
        return np.arange(len(self.coefficients)) if self.groups is None else np.asarray(self.groups)

    def factor(self, theta):
        if self.triangle is None:
            return np.diag(np.asarray(theta, float)[self._own])
        return np.tensordot(theta, self._templates, 1)

    def factor_vjp(self, theta, bar):
        return (
            np.bincount(self._own, bar.diagonal()) if self.triangle is None else np.tensordot(self._templates, bar, 2)
        )

    def factor_jvp(self, theta, direction):
        return self.factor(direction)

    def units(self):
        if self.triangle is None:
            return 1 / np.sqrt(np.bincount(self._own, 1 / self._natural**2))
        return self.triangle.diagonal @ self._natural


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
