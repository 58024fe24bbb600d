# SPDX-License-Identifier: BSD-3-Clause
"""A smooth term: a basis with its penalties on a common scale, centred, and what is flat in it and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.smooths.base import SmoothBasis, centred, mirror, scaled, uncentred

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Smooth:
    """f = Xβ with the prior p(β) ∝ exp(−½ Σ_i βᵀS_iβ / s_i²).

    In β = N α + Σ_i R_i u_i the weights α are flat and u_i ~ N(0, s_i² I): N is an orthonormal basis of what no penalty
    sees, and R_iᵀ S_i R_i = I. Such R_i exist where no direction is seen by two penalties: not in tensor products.

    mgcv's smoothing parameters are λ_i = σ²/s_i², with σ = 1 outside the Gaussian. β agrees with its coefficients,
    save for signs in thin plates.

    Parameters
    ----------
    label
        In words, as ``s(x)``, ``te(x, z)``, ``s(x):w``, ``s(x):f[a]``.
    names
        Of the covariates.
    basis
    penalties : of (c, c)
        S_i.
    rescaling
        What each penalty of the basis was divided by.
    constraint : (k,) or None
        The mirror that takes the basis' means over the data to the first axis; the other k − 1 axes, which sum to
        zero, are those of β.
    null_dimension
        Number of α.
    scales
        Names of s_i.
    by
        Name of what multiplies it, if anything does: numbers, or whether a categorical is at `level`.
    level

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import s
    >>> x = np.linspace(0, 1, 50)
    >>> (smooth,) = s({"x": x}, "x", bs="cr", k=6)
    >>> smooth.label, smooth.scales, smooth.null.shape, smooth.roots[0].shape
    ('s(x)', ('sd(s(x))',), (5, 1), (5, 4))
    >>> bool(np.allclose(smooth.design({"x": x}).sum(axis=0), 0))
    True
    """

    label: str
    names: tuple[str, ...]
    basis: SmoothBasis
    penalties: tuple[Float[Array, "c c"], ...]
    rescaling: tuple[float, ...]
    constraint: Float[Array, "k"] | None
    null_dimension: int
    scales: tuple[str, ...]
    by: str | None = None
    level: Any = None

    @property
    def n_weights(self) -> int:
        """Number of β."""
        return len(self.penalties[0])

    def design(self, data: Mapping[str, Any]) -> Float[Array, "n c"]:
        """X at the data of the fit, or at new ones."""
        return self._times_by(centred(self.basis.design(self._covariates(data)), self.constraint), data)

    def parts(self, data: Mapping[str, Any]) -> tuple[Float[Array, "n f"], Float[Array, "n r"]]:
        """XN, and the XR_i side by side."""
        M = uncentred(np.column_stack([self.null, *self.roots]), self.constraint)
        both = self._times_by(self.basis.combined(self._covariates(data), M), data)
        return both[:, : self.null_dimension], both[:, self.null_dimension :]

    def _covariates(self, data: Mapping[str, Any]) -> list[Array]:
        return [np.asarray(data[name]) for name in self.names]

    def _times_by(self, X: Float[Array, "n c"], data: Mapping[str, Any]) -> Float[Array, "n c"]:
        if self.by is None:
            return X
        by = np.asarray(data[self.by])
        return X * (by if self.level is None else by == self.level)[:, None]

    @cached_property
    def _directions(self) -> Float[Array, "c c"]:
        """Orthonormal: first those that no penalty sees."""
        return np.linalg.eigh(sum(S / np.linalg.norm(S) for S in self.penalties))[1]

    @property
    def null(self) -> Float[Array, "c f"]:
        """N."""
        return self._directions[:, : self.null_dimension]

    @property
    def wiggly(self) -> Float[Array, "c r"]:
        """An orthonormal basis of all else."""
        return self._directions[:, self.null_dimension :]

    @cached_property
    def roots(self) -> tuple[Float[Array, "c r"], ...]:
        """R_i."""
        norms = [np.linalg.norm(S) for S in self.penalties]
        for i, S in enumerate(self.penalties):
            for j in range(i):
                if np.linalg.norm(S @ self.penalties[j]) > 1e-8 * norms[i] * norms[j]:
                    raise ValueError(
                        f"{self.label} has {len(norms)} penalties of the same directions, so its prior is not one of "
                        "independent weights with one scale each. Use s() for one penalty."
                    )
        left = len(self.wiggly.T)
        out = []
        for S in self.penalties:
            d, U = np.linalg.eigh(self.wiggly.T @ S @ self.wiggly)
            rank = left if len(norms) == 1 else int(np.sum(d > 1e-10 * d[-1]))
            out.append(self.wiggly @ (U[:, -rank:] / np.sqrt(d[-rank:])))
        return tuple(out)


def assembled(
    basis: SmoothBasis,
    data: Mapping[str, Array],
    names: tuple[str, ...],
    label: str,
    scales: tuple[str, ...],
    by: str | None,
    select: bool,
) -> tuple[Smooth, ...]:
    """One smooth, or one for each level where `by` is categorical.

    Times numbers that differ, the constant function is no longer one that an intercept stands for, so nothing is
    centred.
    """
    X = basis.design([data[name] for name in names])
    penalties, rescaling = zip(*(scaled(X, S) for S in basis.penalties), strict=True)
    numeric = by is not None and data[by].dtype.kind in "iuf"
    centre = basis.centred and not (numeric and np.ptp(data[by]) > 0)  # type: ignore[index]
    v = mirror(X.mean(axis=0)) if centre else None
    penalties = tuple(centred(centred(S, v).T, v) for S in penalties)
    null_dimension = max(basis.null_dimension - centre, 0)
    if select and null_dimension:
        N = Smooth(label, names, basis, penalties, rescaling, v, null_dimension, scales).null
        penalties, rescaling, null_dimension = (*penalties, N @ N.T), (*rescaling, 1.0), 0
        scales = (*scales, f"sd({label}: null)")
    common = (basis, penalties, rescaling, v, null_dimension)
    if by is None:
        return (Smooth(label, names, *common, scales),)
    if numeric:
        return (Smooth(f"{label}:{by}", names, *common, _renamed(scales, label, f"{label}:{by}"), by),)
    each = ((level, f"{label}:{by}[{level}]") for level in np.unique(data[by]))
    return tuple(Smooth(name, names, *common, _renamed(scales, label, name), by, level) for level, name in each)


def _renamed(scales: tuple[str, ...], label: str, new: str) -> tuple[str, ...]:
    return tuple(scale.replace(label, new, 1) for scale in scales)
