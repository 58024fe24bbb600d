# SPDX-License-Identifier: BSD-3-Clause
"""What gradients at several θ tell of the Hessian: enough for a step, not for a standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


def corrected(
    H: Float[Array, "1 k k"], step: Float[Array, "k"], change: Float[Array, "k"], askew: float = 1e-8
) -> Float[Array, "1 k k"]:
    """H with Hs = change along a step s: H + rrᵀ/rᵀs, where r = change − Hs is what is missing.

    That is huge where r is all but perpendicular to s. Up to a cosine of ``askew`` the correction is the smallest
    symmetric one instead, (rsᵀ + srᵀ)/sᵀs − (rᵀs) ssᵀ/(sᵀs)² (Powell's).
    """
    missing = change - H[0] @ step
    along, length = missing @ step, step @ step
    if not length > 0:
        return H
    if abs(along) > askew * np.linalg.norm(missing) * np.sqrt(length):
        return H + np.outer(missing, missing) / along
    beside = np.outer(missing, step) / length
    return H + beside + beside.T - along / length**2 * np.outer(step, step)


def diagonal(away: Float[Array, "1 k"], change: Float[Array, "1 k"]) -> Float[Array, "k"]:
    """The change of each gradient over its own coordinate's, where that is negative; zero elsewhere."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = (change / away)[0]
    return np.where(np.isfinite(bend) & (bend < 0), bend, 0.0)


def shrunk(H: Float[Array, "1 k k"], share: Float[Array, "k"]) -> Float[Array, "1 k k"]:
    """H in log θ after each θ² has fallen to a share of itself, if the function is linear in θ²."""
    return H * np.where(np.eye(len(share), dtype=bool), share, share[:, None] * share)


def slope_at_zero(
    theta: Float[Array, "1 k"], gradient: Float[Array, "1 k"], theta_before: Array, gradient_before: Array
) -> Float[Array, "1 k"]:
    """2 ∂/∂θ² at θ = 0, extrapolated along θ² from gradients in log θ at two points; NaN where θ is the same."""
    with np.errstate(divide="ignore", invalid="ignore"):
        here, there = gradient / theta**2, gradient_before / theta_before**2
        return here - theta**2 * (there - here) / (theta_before**2 - theta**2)
