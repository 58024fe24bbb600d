# SPDX-License-Identifier: BSD-3-Clause
"""Laplace's method: the integral of the log joint, expanded to second order at its mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod, first_weights
from marglik.evidence.scoring import interior_maximum
from marglik.evidence.slopes import Slopes
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.expansion import Expansion
    from marglik.linalg import Arrow
    from marglik.model import Model


@dataclass(frozen=True)
class Newton:
    """Finds the mode by Newton's method with backtracking, from where H is not positive definite by Fisher's steps.

    Stops when the gain predicted for a full step is below ``tolerance`` nats and a small fraction of the one before,
    and takes that step: convergence is then quadratic, so that the mode is good to all digits that the score has. A
    small gain alone does not say so: log|H| can still move along a tail where the joint density is all but flat. A gain
    that grows again below ``tolerance`` is rounding.

    Where H costs much more than a score, steps are taken with one from nearby as long as these converge fast.
    """

    tolerance: float = 1e-12
    max_steps: int = 200

    def __call__(
        self, model: Model, theta: Array, start: Array, known: Gaussian | None = None
    ) -> tuple[Expansion, Array, str | None]:
        """The expansion at the mode, the mode, and what went wrong, if anything did.

        ``known`` is the posterior at this θ, or at one nearby.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # trial points are judged by whether they are finite
            return self._climb(model, theta, start, known)

    def _climb(
        self, model: Model, theta: Array, start: Array, known: Gaussian | None
    ) -> tuple[Expansion, Array, str | None]:
        w, point = start, model.at(start, theta)
        if known is not None and point.costly:
            slopes = known.slopes
            curvature = known.precision if slopes is None else point.neg_hessian_of_rows_at(slopes.mode)
            w, point = self._coasted(model, theta, w, point, curvature)
        step, gain, trouble = _step(point)
        if trouble or not gain < FAR:  # a warm start from another θ can be far off
            cold = model.start_weights()
            there = model.at(cold, theta)
            if not point.log_joint >= there.log_joint:
                w, point = cold, there
                step, gain, trouble = _step(point)
        before = np.inf
        for _ in range(self.max_steps):
            if not np.isfinite(gain):
                return point, w, NOT_FINITE
            small = self._small(point)
            if gain < small and (gain < 1e-3 * before or gain < 1e-10 * small or gain > before):
                away = _off_saddle(model, theta, w, point) if trouble else None
                if away is not None:
                    w, point = away
                    step, gain, trouble = _step(point)
                    before = np.inf
                    continue
                arrived = trouble or gain < ARRIVED * small
                last = point if arrived else model.at(w + step, theta)
                if last is not point and np.isfinite(last.log_joint):
                    point, w = last, w + step
                return point, w, trouble
            fraction, rounding = 1.0, 1e-13 * abs(point.log_joint) * (gain < small)
            while True:
                there = model.at(w + fraction * step, theta)
                if there.log_joint >= point.log_joint + 1e-4 * fraction * gain - rounding:
                    break
                fraction /= 2
                if fraction < 1e-10:
                    return point, w, trouble or (None if gain < ROUNDING * (1 + abs(point.log_joint)) else STUCK)
            H, point, w, before = point, there, w + fraction * step, gain
            if point.costly and trouble is None:
                w, point = self._coasted(model, theta, w, point, H.neg_hessian)
            step, gain, trouble = _step(point)
        return point, w, f"Newton's method did not reach the mode in {self.max_steps} steps."

    def _small(self, point: Expansion) -> float:
        return self.tolerance * (1 + 1e-3 * abs(point.log_joint))

    def _coasted(self, model: Model, theta: Array, w: Array, point: Expansion, H: Arrow) -> tuple[Array, Expansion]:
        """Steps by an H from nearby, while each cuts the gain that the next promises to a thirtieth."""
        try:
            step = H.solve(point.score)
        except NotPositiveDefinite:
            return w, point
        gain, shrunk = float(point.score @ step), 0.0
        while gain > ARRIVED / 10 * self._small(point) and shrunk < 0.03:
            there = model.at(w + step, theta)
            if not there.log_joint >= point.log_joint - 1e-13 * abs(point.log_joint):
                break
            w, point, step, before = w + step, there, H.solve(there.score), gain
            gain = float(point.score @ step)
            shrunk = gain / before
        return w, point


ARRIVED = 1e-7
"""A share of the small gain at which the search stops: nothing is left that a last step would better."""
FAR = 10.0
"""A warm start that a Newton step is expected to better by more nats is compared with a cold one."""
ROUNDING = 1e-9
"""A share of the log joint that its digits may not tell, where effects of a huge scale cancel in η."""
STUCK = "Newton's method could not climb any further, short of a mode."
NOT_FINITE = "The log joint density or its derivatives are not finite."
SADDLE = "The point found is a saddle or a minimum, not a mode."


def _off_saddle(model: Model, theta: Array, w: Array, point: Expansion) -> tuple[Array, Expansion] | None:
    """A higher point along the direction in which the log joint bends up most; None if none is found."""
    along = point.upward()
    if along is None:
        return None
    for size in (1.0, -1.0, 0.1, -0.1, 0.01, -0.01):
        there = model.at(w + size * along, theta)
        if there.log_joint > point.log_joint + 1e-3 * size**2:
            return w + size * along, there
    return None


def _step(point: Expansion) -> tuple[Array, float, str | None]:
    """Newton's step, the gain that it promises, and what is wrong here if this is the end of the search."""
    try:
        step, trouble = point.neg_hessian.solve(point.score), None
    except NotPositiveDefinite:
        step, trouble = point.ascent(), SADDLE
    return step, float(point.score @ step), trouble


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
        model = model.compact(theta)
        slopes = getattr(start, "slopes", None)
        slopes = slopes if isinstance(slopes, Slopes) and slopes.model is model else None
        if slopes is not None and np.array_equal(start.theta, theta):
            return self._about(model, theta, slopes.mode, start.mean, slopes.trouble, slopes)
        w0 = first_weights(model, theta, start)
        bare = isinstance(start, Gaussian) and start.slopes is None and start.precision.size == len(w0)
        return self._about(model, theta, *self.find_mode(model, theta, w0, start if slopes or bare else None))

    def nearby(self, model, theta, start):
        """The mode is that of ``start``, moved to first order: what it misses is the same at θ + h and at θ − h."""
        slopes, model = getattr(start, "slopes", None), model.compact(theta)
        known = isinstance(slopes, Slopes) and slopes.model is model
        if not known:
            return self(model, theta, start)
        w = start.near(theta)
        return self._about(model, theta, model.at(w, theta), w, None)

    def _about(
        self, model: Model, theta: Array, mode: Expansion, w: Array, trouble: str | None, slopes: Slopes | None = None
    ) -> Evidence:
        """The evidence by this mode."""
        try:
            H = mode.neg_hessian
            trouble = trouble or model.improper(H)
            log_value = mode.log_joint + (len(w) * LOG_2PI - H.log_det) / 2 - model.log_volume
        except NotPositiveDefinite:
            return Evidence(-np.inf, np.full(len(theta), np.nan), checks={"mode": SADDLE})
        checks = {} if trouble is None else {"mode": trouble}
        slopes = slopes or Slopes(mode, H, model, trouble)
        posterior = Gaussian(w, H, theta, slopes)
        return Evidence(log_value, lambda: slopes.gradient, posterior=posterior, checks=checks)

    def maximum(self, model, theta, free):
        return interior_maximum(self, model.working, theta, free)

    def unsuited(self, model):
        return None
