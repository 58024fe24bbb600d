# SPDX-License-Identifier: BSD-3-Clause
"""A smooth term: a basis with its penalties on a common scale, centred, and what is flat in it and what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.smooths.base import SmoothBasis, centred, mirror, scaled, uncentred

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.pieces import Pieces

SEEN = 1e-11
"""A penalty that sees a smaller share of a direction does not see it."""

RUN = 1 << 13
"""Rows that a basis is evaluated at in one go, so that its functions stay in the cache."""


@dataclass(frozen=True, eq=False)
class Smooth:
    """f = Xβ with the prior p(β) ∝ exp(−½ Σ_i βᵀS_iβ / s_i²).

    In β = N α + R u the weights α are flat, N is an orthonormal basis of what no penalty sees, and R makes all
    penalties diagonal, RᵀS_iR = diag D[:, i], so that u_j ~ N(0, v_j) with 1/v_j = Σ_i D_ji/s_i². Where no direction is
    seen by two penalties R consists of one R_i for each, with weights u ~ N(0, s_i² I).

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
        X, by = centred(self.basis.design(self._covariates(data)), self.constraint), self._multiplier(data)
        return X if by is None else X * by[:, None]

    def codes(self, data: Mapping[str, Any]) -> Int[Array, "n"] | None:
        """Where every level has β of its own, the level of each row, −1 where the fit had no such level."""
        return self.basis.codes(self._covariates(data))

    def parts(self, data: Mapping[str, Any]) -> tuple[Float[Array, "n f"], Float[Array, "n r"]]:
        """XN and XR."""
        flat, own = self.split(data)
        return flat, np.asarray(own)

    def split(self, data: Mapping[str, Any]) -> tuple[Float[Array, "n f"], Float[Array, "n r"] | Pieces]:
        """The same, with XR not evaluated where it consists of polynomials between breaks."""
        M, f = uncentred(np.column_stack([self.null, self.root]), self.constraint), self.null_dimension
        x, by = self._covariates(data), self._multiplier(data)
        pieces = self.basis.pieces(x)
        if pieces is not None:
            pieces = pieces if by is None else pieces.times(by)
            return np.asarray(pieces.combined(M[:, :f])), pieces.combined(M[:, f:])
        both = np.empty((len(x[0]), M.shape[1]), order="F")
        for i in range(0, len(both), RUN):
            both[i : i + RUN] = self.basis.design([column[i : i + RUN] for column in x]) @ M
        both = both if by is None else both * by[:, None]
        return both[:, :f], both[:, f:]

    def _covariates(self, data: Mapping[str, Any]) -> list[Array]:
        return [np.asarray(data[name]) for name in self.names]

    def _multiplier(self, data: Mapping[str, Any]) -> Float[Array, "n"] | None:
        """What `by` multiplies rows with."""
        if self.by is None:
            return None
        by = np.asarray(data[self.by])
        return np.asarray(by if self.level is None else by == self.level, float)

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
    def overlap(self) -> bool:
        """Whether some direction is seen by two penalties, as in tensor products."""
        of = [S / np.linalg.norm(S) for S in self.penalties]
        return any(np.linalg.norm(A @ B) > 1e-8 for i, A in enumerate(of) for B in of[:i])

    @cached_property
    def roots(self) -> tuple[Float[Array, "c r"], ...]:
        """R_i, where penalties do not overlap."""
        if self.overlap:
            raise ValueError(
                f"{self.label} has {len(self.penalties)} penalties of the same directions, so its prior is not one of "
                "independent weights with one scale each. Use its `root` and `shares`."
            )
        left = len(self.wiggly.T)
        out = []
        for S in self.penalties:
            d, U = np.linalg.eigh(self.wiggly.T @ S @ self.wiggly)
            rank = left if len(self.penalties) == 1 else int(np.sum(d > 1e-10 * d[-1]))
            out.append(self.wiggly @ (U[:, -rank:] / np.sqrt(d[-rank:])))
        return tuple(out)

    @property
    def root(self) -> Float[Array, "c r"]:
        """R with RᵀS_iR = diag D[:, i] for each penalty; the R_i side by side where they do not overlap."""
        return self._joint[0]

    @property
    def shares(self) -> Float[Array, "r m"]:
        """D: how much each penalty sees of each weight u_j ~ N(0, v_j), 1/v_j = Σ_i D_ji/s_i²."""
        return self._joint[1]

    @cached_property
    def _joint(self) -> tuple[Float[Array, "c r"], Float[Array, "r m"]]:
        """Whitened by Σ_i S_i/‖S_i‖ the penalties commute, so the eigenvectors of a generic sum are those of each."""
        m = len(self.penalties)
        if not self.overlap:
            return np.column_stack(self.roots), np.repeat(np.eye(m), [R.shape[1] for R in self.roots], axis=0)
        norms = np.array([np.linalg.norm(S) for S in self.penalties])
        d, U = np.linalg.eigh(
            sum(self.wiggly.T @ S @ self.wiggly / a for S, a in zip(self.penalties, norms, strict=True))
        )
        white = self.wiggly @ (U / np.sqrt(d))
        each = [white.T @ S @ white / a for S, a in zip(self.penalties, norms, strict=True)]
        turn = np.linalg.eigh(sum(np.sqrt(i + 2) * S for i, S in enumerate(each)))[1]
        turned = np.array([turn.T @ S @ turn for S in each])
        D = np.einsum("ijj->ji", turned)
        if np.abs(turned - np.einsum("ji,jk->ijk", D, np.eye(len(D)))).max() > 1e-8:
            raise ValueError(
                f"{self.label} has {m} penalties that are not diagonal in the same coordinates, so its weights are not "
                "independent. Products of smooths have such coordinates: use te() or ti()."
            )
        return white @ turn, np.where(D > SEEN, D, 0.0) * norms


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
    mean, largest = _size(basis, [np.asarray(data[name]) for name in names])
    penalties, rescaling = zip(*(scaled(S, largest) for S in basis.penalties), strict=True)
    numeric = by is not None and data[by].dtype.kind in "iuf"
    centre = basis.centred and not (numeric and np.ptp(data[by]) > 0)  # type: ignore[index]
    v = mirror(mean) if centre else None
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


def _size(basis: SmoothBasis, x: Sequence[Array]) -> tuple[Float[Array, "k"], float]:
    """Means of a basis' functions over rows, and ‖X‖_∞."""
    pieces = basis.pieces(x)
    if pieces is not None:
        return pieces.sums() / len(x[0]), pieces.largest_row()
    total, largest, n = np.zeros(()), 0.0, len(x[0])
    for i in range(0, n, RUN):
        X = basis.design([column[i : i + RUN] for column in x])
        total, largest = total + X.sum(axis=0), max(largest, float(np.linalg.norm(X, np.inf)))
    return total / n, largest


def _renamed(scales: tuple[str, ...], label: str, new: str) -> tuple[str, ...]:
    return tuple(scale.replace(label, new, 1) for scale in scales)
