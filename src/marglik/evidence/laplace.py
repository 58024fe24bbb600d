# SPDX-License-Identifier: BSD-3-Clause
"""Laplace's method: the integral of the log joint, expanded to second order at its mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite
from marglik.posterior import Gaussian

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.expansion import Expansion
    from marglik.model import Model


@dataclass(frozen=True)
class Newton:
    """Finds the mode by Newton's method with backtracking; where H is not positive definite, it is shifted until it is.

    Stops when the gain predicted for a full step is below ``tolerance`` nats and a small fraction of the one before,
    and takes that step: convergence is then quadratic, so that the mode is good to all digits that the score has. A
    small gain alone does not say so: log|H| can still move along a tail where the joint density is all but flat.
    """

    tolerance: float = 1e-12
    max_steps: int = 200

    def __call__(self, model: Model, theta: Array, start: Array) -> tuple[Expansion, Array, str | None]:
        """The expansion at the mode, the mode, and what went wrong, if anything did."""
        with np.errstate(over="ignore", invalid="ignore"):  # trial points are judged by whether they are finite
            return self._climb(model, theta, start)

    def _climb(self, model: Model, theta: Array, start: Array) -> tuple[Expansion, Array, str | None]:
        w = start
        point = model.at(w, theta)
        cold = model.at(model.start_weights(), theta)
        if not point.log_joint >= cold.log_joint:  # a warm start from another θ can be far off
            w, point = model.start_weights(), cold
        before = np.inf
        for _ in range(self.max_steps):
            step, concave = _step(point)
            gain = float(point.score @ step)
            if not np.isfinite(gain):
                return point, w, "The log joint density or its derivatives are not finite."
            small = self.tolerance * (1 + 1e-3 * abs(point.log_joint))
            if concave and gain < small and (gain < 1e-3 * before or gain < 1e-10 * small):
                last = model.at(w + step, theta)
                if np.isfinite(last.log_joint):
                    point, w = last, w + step
                return point, w, None
            fraction, rounding = 1.0, 1e-13 * abs(point.log_joint) * (gain < small)
            while True:
                there = model.at(w + fraction * step, theta)
                if there.log_joint >= point.log_joint + 1e-4 * fraction * gain - rounding:
                    break
                fraction /= 2
                if fraction < 1e-10:
                    return point, w, "Newton's method could not climb any further, short of a mode."
            point, w, before = there, w + fraction * step, gain
        return point, w, f"Newton's method did not reach the mode in {self.max_steps} steps."


def _step(point: Expansion) -> tuple[Array, bool]:
    H = point.neg_hessian
    try:
        return H.solve(point.score), True
    except NotPositiveDefinite:
        shift = 1e-3 * float(max(np.abs(H.border).max(initial=0), np.abs(H.blocks).max(initial=0), 1e-8))
    while True:
        try:
            return H.plus_shift(shift).solve(point.score), False
        except NotPositiveDefinite:
            shift *= 10
            if not np.isfinite(shift):
                return np.full_like(point.score, np.nan), False


@dataclass(frozen=True)
class Laplace(EvidenceMethod):
    """Gaussian integral of the log joint, expanded to second order at its mode.

        log p(y|θ) ≈ log p(y, ŵ|θ) + (p log 2π − log|H|) / 2
        ŵ = argmax_w log p(y, w|θ),    H = −∇²_w log p(y, w|θ) at ŵ

    H is the observed information at the mode, verified to be positive definite. Exact when the likelihood is
    Gaussian.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, §3.4 and §5.5.1 (gradient).
    """

    find_mode: Newton = Newton()

    def __call__(self, model, theta, start=None):
        w0 = model.start_weights() if start is None else start.mean
        mode, w, trouble = self.find_mode(model, theta, w0)
        try:
            H = mode.neg_hessian
            trouble = trouble or model.improper(H)
            log_value = mode.log_joint + (len(w) * LOG_2PI - H.log_det) / 2 - model.log_volume
        except NotPositiveDefinite:
            nothing = np.full(len(theta), np.nan)
            return Evidence(-np.inf, nothing, checks={"mode": "The point found is a saddle or a minimum, not a mode."})

        checks = {} if trouble is None else {"mode": trouble}
        # ŵ moves with θ: ∂ŵ/∂θ = H⁻¹ ∂θ∇_w. The joint is flat there, log|H| is not.
        d = mode.theta_derivatives()
        slope_w, slope_theta = mode.neg_hessian_vjp(H.inverse_on_pattern())
        gradient = d.log_joint - (slope_theta + d.score.T @ H.solve(slope_w)) / 2
        return Evidence(log_value, gradient, posterior=Gaussian(w, H), checks=checks)

    def unsuited(self, model):
        return None
