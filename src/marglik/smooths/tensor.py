# SPDX-License-Identifier: BSD-3-Clause
"""Tensor products: functions of several covariates, each with a roughness along its own axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.linalg import eigvalsh

from marglik.smooths.base import Covariates, NamedBasis, SmoothBasis, centred, mirror, products

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

UNSTABLE = np.finfo(float).eps ** 0.66
"""Ratio of singular values below which coefficients stay those of the basis."""


@dataclass(frozen=True, eq=False)
class Margin:
    """A basis along some of the covariates, in coordinates that suit a product.

    Where a basis is `rotated`, β are the function's values at evenly spaced points: a penalty along one axis then is
    the average roughness of curves along it.

    Parameters
    ----------
    basis
        Of `width` covariates.
    width
    turn : (k, c)
        Coefficients of the basis from those of the margin.
    null_dimension
        How many directions of the c the penalty does not see.
    """

    basis: NamedBasis
    width: int
    turn: Float[Array, "k c"]
    null_dimension: int

    @classmethod
    def of(cls, basis: NamedBasis, x: Covariates, centre: bool) -> Self:
        """From the data, summing to zero over them if it is to be centred."""
        centre = centre and basis.centred
        X = basis.design(x)
        turn = centred(np.eye(X.shape[1]), mirror(X.mean(axis=0)) if centre else None)
        if basis.rotated and len(x) == 1:
            points = np.linspace(x[0].min(), x[0].max(), turn.shape[1])
            values = basis.design([points]) @ turn
            singular = np.linalg.svd(values, compute_uv=False)
            if singular[-1] > UNSTABLE * singular[0]:
                turn = np.linalg.solve(values.T, turn.T).T
        return cls(basis, len(x), turn, max(basis.null_dimension - centre, 0))

    def design(self, x: Covariates) -> Float[Array, "n c"]:
        """Its functions at each row."""
        return self.basis.design(x) @ self.turn

    @cached_property
    def penalty(self) -> Float[Array, "c c"]:
        """Over its largest eigenvalue."""
        S = self.turn.T @ self.basis.penalties[0] @ self.turn
        return S / eigvalsh(S)[-1]


@dataclass(frozen=True, eq=False)
class Tensor(SmoothBasis):
    """Products of one function of each margin, those of the last margin running fastest.

        S_i = I ⊗ … ⊗ S^(i) ⊗ … ⊗ I

    Parameters
    ----------
    margins
    main_effects
        Whether the margins hold the constant: `te`, not `ti`.

    References
    ----------
    Wood (2006), Biometrics 62, 1025; Wood (2017), §5.6.
    """

    margins: tuple[Margin, ...]
    main_effects: bool = True

    @property
    def centred(self) -> bool:  # type: ignore[override]
        """Not where margins are centred one by one, nor where the constant is in none of their products."""
        return self.main_effects and all(margin.basis.centred for margin in self.margins)

    def extrapolates(self, covariate):
        owners = [(margin.basis, i) for margin in self.margins for i in range(margin.width)]
        basis, i = owners[covariate]
        return basis.extrapolates(i)

    def design(self, x):
        out, start = np.ones((len(x[0]), 1)), 0
        for margin in self.margins:
            out = products(out, margin.design(x[start : start + margin.width]))
            start += margin.width
        return out

    @cached_property
    def penalties(self):
        sizes = [margin.turn.shape[1] for margin in self.margins]
        before = np.cumprod([1, *sizes])
        return tuple(
            np.kron(np.kron(np.eye(before[i]), margin.penalty), np.eye(before[-1] // before[i + 1]))
            for i, margin in enumerate(self.margins)
        )

    @property
    def null_dimension(self):
        return int(np.prod([margin.null_dimension for margin in self.margins]))
