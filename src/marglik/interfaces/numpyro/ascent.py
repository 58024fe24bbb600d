# SPDX-License-Identifier: BSD-3-Clause
"""Newton's method for functions of many parameters, of which products with the Hessian are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

RADIUS = 3.0
"""First trust radius, in units of the unconstrained parameters."""
MAX_STEPS = 200
SMALL, TINY = 1e-9, 1e-22
"""Gain at which rounding may hide a rise, and at which nothing is left, as shares of 1 + |F|."""

FLAT = 1e-9
"""Share of the largest curvature below which a direction has none."""


@dataclass(frozen=True)
class Ascent:
    """The maximum of F within a trust region, by truncated Newton steps (Steihaug 1983).

    Parameters
    ----------
    slope
        x → F, ∇F.
    product
        (x, u) → ∇²F u.
    """

    slope: Callable[[Array], tuple[Array, Array]]
    product: Callable[[Array, Array], Array]

    def __call__(self, x: Float[Array, "l"]) -> tuple[Array, str | None]:
        """The maximum next to x, and what went wrong, if anything did."""
        F, g = self.slope(x)
        radius, rejected = RADIUS, False
        if not (np.isfinite(F) and np.isfinite(g).all()):
            return x, "The lower bound is not finite at the guide from which its search sets out."
        for _ in range(MAX_STEPS):
            unit = 1 + abs(F)
            step, gain, clipped = self._step(x, g, radius)
            if gain < TINY * unit or (rejected and gain < SMALL * unit):
                return x, None
            there = x + step
            F_there, g_there = self.slope(there)
            finite = np.isfinite(F_there) and np.isfinite(g_there).all()
            if finite and gain < SMALL * unit:
                rejected = not np.linalg.norm(g_there) < np.linalg.norm(g)
            else:
                rejected = not (finite and F_there - F > 0.1 * gain)
            if rejected:
                radius = float(np.linalg.norm(step)) / 4
                continue
            if clipped and F_there - F > 0.75 * gain:
                radius *= 3
            x, F, g = there, F_there, g_there
        return x, f"The lower bound was not at its maximum after {MAX_STEPS} steps."

    def _step(self, x: Array, g: Array, radius: float) -> tuple[Array, float, bool]:
        """A step, the gain that it promises, and whether the trust region ended it."""
        s, r = np.zeros_like(g), g.copy()
        d, size = r.copy(), float(np.linalg.norm(g))
        enough, largest = size * min(0.1, size), 0.0
        for _ in range(2 * len(g)):
            if np.linalg.norm(r) <= enough:
                break
            Hd = self.product(x, d)
            bend = -(d @ Hd)
            largest = max(largest, bend / (d @ d))
            if abs(bend) < FLAT * largest * (d @ d):  # what turns at no cost, as factors of a covariance do
                break
            along = (r @ r) / bend if bend > 0 else np.inf
            if not np.linalg.norm(s + min(along, 1e100) * d) < radius:
                s = s + _to_edge(s, d, radius) * d
                return s, float(g @ s + s @ self.product(x, s) / 2), True
            s = s + along * d
            left = r + along * Hd
            d = left + (left @ left) / (r @ r) * d
            r = left
        return s, float(g @ s + s @ self.product(x, s) / 2), False


def _to_edge(s: Array, d: Array, radius: float) -> float:
    """How far along d from s the trust region ends."""
    a, b, c = d @ d, s @ d, s @ s - radius**2
    return float((np.sqrt(b * b - a * c) - b) / a)


def solve(product: Callable[[Array], Array], v: Float[Array, "l"]) -> Float[Array, "l"]:
    """A⁻¹v for a positive definite A, by conjugate gradients."""
    x, r = np.zeros_like(v), np.array(v)
    d, enough, largest = r.copy(), 1e-11 * np.linalg.norm(v), 0.0
    for _ in range(3 * len(v)):
        if np.linalg.norm(r) <= enough:
            break
        Ad = product(d)
        bend = d @ Ad
        largest = max(largest, bend / (d @ d))
        if bend < FLAT * largest * (d @ d):
            break
        along = (r @ r) / bend
        x, left = x + along * d, r - along * Ad
        d = left + (left @ left) / (r @ r) * d
        r = left
    return x
