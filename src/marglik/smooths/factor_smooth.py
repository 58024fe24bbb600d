# SPDX-License-Identifier: BSD-3-Clause
"""Factor smooths: a curve for every level of a categorical column, whose penalties share their scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, count, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.smooths.base import NamedBasis

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

DEPENDENT = 1e-10
"""Of the functions' singular values over the data, the share below which the data do not tell them apart."""


@dataclass(frozen=True, eq=False)
class FactorSmooth(NamedBasis):
    """Functions of the other covariates, with coefficients for every level of one that is categorical.

        f(x, g) = Σ_j β_gj b_j(x),    b = φ P,    penalty_i(f) = Σ_g Σ_{j in i} β_gj²

    φ are the functions of `base`. With φ = QR over the data, and eigenvectors U of R⁻ᵀSR⁻¹ = U diag(d) Uᵀ,

        P = R⁻¹ U diag(d)^{−1/2},

    so that the first penalty is that of `base`. What that does not see, where d = 0, is turned into orthogonal
    functions with a penalty each: the constant, the straight line, and so on; of several covariates the constant, and
    all else together. Both parts have mean square one over the data. No direction is free, so no curve is centred.

    `design` has the columns of one level, and `codes` says whose coefficients a row has.

    Parameters
    ----------
    base
        The basis of the curves.
    turn : (k, k)
        P.
    groups : (k,)
        Which penalty each coefficient has.
    levels
        Of the categorical covariate.
    place
        Which of the covariates that is.

    References
    ----------
    Wood (2017), §7.4; Pedersen, Miller, Simpson & Ross (2019), PeerJ 7, e6876.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import s
    >>> data = {"x": np.linspace(0, 1, 20), "g": np.tile(["a", "b"], 10)}
    >>> (smooth,) = s(data, "x", "g", bs="fs", k=5)
    >>> smooth.scales
    ('sd(s(x, g))', 'sd(s(x, g): null 1)', 'sd(s(x, g): null 2)')
    >>> smooth.design(data).shape, smooth.basis.groups.tolist()
    ((20, 5), [0, 0, 0, 1, 2])
    """

    bs = "fs"
    centred = False
    marginal = False
    needs_factor = True
    base: NamedBasis
    turn: Float[Array, "k k"]
    groups: Int[Array, "k"]
    levels: Any
    place: int

    @classmethod
    def of(cls, x, asked):
        words = [i for i, column in enumerate(x) if np.asarray(column).dtype.kind not in "iuf"]
        if len(words) != 1 or len(x) < 2:
            what = f"{len(words)} categorical ones" if words else "numbers alone"
            raise ValueError(
                f"{asked.label} with bs='fs' is a curve for each level, so it needs one categorical column beside "
                f"columns of numbers, but has {what}. Write s(x, g, bs='fs'); numbers that are names become text by "
                "astype(str)."
            )
        place = words[0]
        names = tuple(name for i, name in enumerate(asked.names) if i != place)
        curve = [column for i, column in enumerate(x) if i != place]
        same = [name for name, column in zip(names, curve, strict=True) if np.ptp(column) == 0]
        if same:
            raise ValueError(
                f"{same[0]!r} is the same in every row, so {asked.label} has nothing to vary with. Leave it out."
            )
        base = NamedBasis.registry[asked.xt or "tp"].of(curve, replace(asked, names=names, xt=None))
        return cls(base, *_natural(base, curve, asked.label), np.unique(x[place]), place)

    def extrapolates(self, covariate):
        return covariate != self.place and self.base.extrapolates(covariate - (covariate > self.place))

    def design(self, x):
        return self.base.design([column for i, column in enumerate(x) if i != self.place]) @ self.turn

    def codes(self, x):
        return np.where(np.isin(x[self.place], self.levels), np.searchsorted(self.levels, x[self.place]), -1)

    @property
    def penalties(self):
        return tuple(np.diag((self.groups == i).astype(float)) for i in range(self.groups.max() + 1))

    @property
    def null_dimension(self):
        return 0


def _natural(base: NamedBasis, x: list[Array], label: str) -> tuple[Float[Array, "k k"], Int[Array, "k"]]:
    """P, and which penalty each of its columns has."""
    R, S, f = np.linalg.qr(base.design(x))[1], base.penalties[0], base.null_dimension
    singular = np.linalg.svd(R / np.linalg.norm(R, axis=0), compute_uv=False)
    if len(R) < R.shape[1] or singular[-1] < DEPENDENT * singular[0]:
        raise ValueError(
            f"{label} has k={R.shape[1]} functions that the data do not tell apart, so none can have a penalty of its "
            "own. Give a smaller k."
        )
    d, U = np.linalg.eigh(np.linalg.solve(R.T, np.linalg.solve(R.T, S).T))
    bent, free = np.linalg.solve(R, U[:, f:] / np.sqrt(d[f:])), np.linalg.solve(R, U[:, :f])
    known = _monomials(np.column_stack(x), f)
    free = free @ np.linalg.qr((base.design(x) @ free).T @ np.linalg.qr(known)[0])[0]
    bent /= np.sqrt(np.mean((base.design(x) @ bent) ** 2))
    apart = np.arange(f) if len(x) == 1 else np.minimum(np.arange(f), 1)
    return np.column_stack([bent, free * np.sqrt(len(known))]), np.append(np.zeros(len(R) - f, int), 1 + apart)


def _monomials(X: Float[Array, "n d"], f: int) -> Float[Array, "n f"]:
    """The first f, of ascending degree, in covariates that are centred and scaled."""
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    powers = (some for degree in count() for some in combinations_with_replacement(Z.T, degree))
    return np.array([np.prod(some, axis=0) * np.ones(len(Z)) for some in islice(powers, f)]).reshape(f, len(Z)).T
