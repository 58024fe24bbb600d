# SPDX-License-Identifier: BSD-3-Clause
"""Symmetric square roots of covariance matrices, and how they move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Root:
    """The symmetric square root S of a positive semidefinite matrix, S² = K.

        S = U diag(s) Uᵀ,    Ṡ = U [ (UᵀK̇U)_ij / (s_i + s_j) ] Uᵀ

    It is smooth in K and needs no jitter where K is singular to rounding: there Ṡ is zero between two directions that K
    does not have. K̇ ↦ Ṡ is its own adjoint.

    Parameters
    ----------
    K : (c, c)
        Eigenvalues that rounding made negative count as zero.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.roots import Root
    >>> root = Root(np.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> (root.matrix @ root.matrix).round(12)
    array([[2., 1.],
           [1., 2.]])
    """

    K: Float[Array, "c c"]

    @cached_property
    def spectrum(self) -> tuple[Float[Array, "c"], Float[Array, "c c"]]:
        """s, in ascending order, and U."""
        d, U = eigh(self.K, check_finite=False)
        return np.sqrt(np.maximum(d, 0.0)), U

    @cached_property
    def matrix(self) -> Float[Array, "c c"]:
        """S."""
        s, U = self.spectrum
        return (U * s) @ U.T

    @cached_property
    def _shares(self) -> Float[Array, "c c"]:
        """1 / (s_i + s_j); zero where both are."""
        s = self.spectrum[0]
        total = np.add.outer(s, s)
        return np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)

    def slope(self, K_dot: Float[Array, "c c"]) -> Float[Array, "c c"]:
        """Ṡ, for a symmetric K̇."""
        U = self.spectrum[1]
        return U @ (U.T @ K_dot @ U * self._shares) @ U.T
