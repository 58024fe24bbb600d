# SPDX-License-Identifier: BSD-3-Clause
"""Figures by which the sides' answers are compared, computed here for all of them alike."""

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.optimize import minimize_scalar

LOG_2PI = np.log(2 * np.pi)


def r_squared(y, prediction) -> float:
    """Mean over targets of 1 − Σ(y − ŷ)² / Σ(y − ȳ)²."""
    residual = ((y - prediction) ** 2).sum(axis=0)
    return float(np.mean(1 - residual / ((y - y.mean(axis=0)) ** 2).sum(axis=0)))


@dataclass(frozen=True)
class RidgeEvidence:
    """The log evidence of y = 1b + Xw + ε, w ~ N(0, τ²), ε ~ N(0, σ²), with b flat and integrated.

        −½ [ (n−1) log 2π + Σ log(σ² + τ²sᵢ) + (n−1−r) log σ² + Σ zᵢ²/(σ² + τ²sᵢ) + ρ²/σ² + log n ]

    sᵢ are the r eigenvalues of the centred XXᵀ, zᵢ the coordinates of y along its eigenvectors and ρ² what
    they leave of the centred y.
    """

    s: np.ndarray
    z_squared: np.ndarray
    rest: float
    n: int

    @classmethod
    def of(cls, X, y):
        n, p = X.shape
        X, y = X - X.mean(axis=0), y - y.mean()
        rank = min(n - 1, p)
        if p < n:
            s, V = linalg.eigh(X.T @ X)
            z_squared = (V.T @ (X.T @ y)) ** 2 / s
        else:
            s, U = linalg.eigh(X @ X.T)
            s, z_squared = s[-rank:], (U.T @ y)[-rank:] ** 2
        rest = max(0.0, float(y @ y - z_squared.sum())) if rank < n - 1 else 0.0
        return cls(s, z_squared, rest, n)

    def __call__(self, noise_variance: float, weight_variance: float) -> float:
        n_unseen = self.n - 1 - len(self.s)
        variance = noise_variance + weight_variance * self.s
        log_det = np.log(variance).sum() + n_unseen * np.log(noise_variance)
        fit = (self.z_squared / variance).sum() + self.rest / noise_variance
        return float(-((self.n - 1) * LOG_2PI + log_det + fit + np.log(self.n)) / 2)

    def best(self) -> float:
        """Its maximum: σ² in closed form given γ = τ²/σ², and a fine grid of γ polished by Brent's method."""

        def negative(log_gamma):
            gamma = np.exp(log_gamma)
            noise = ((self.z_squared / (1 + gamma * self.s)).sum() + self.rest) / (self.n - 1)
            return -self(noise, gamma * noise)

        grid = np.linspace(-30, 10, 161) - np.log(self.s.mean())
        start = grid[np.argmin([negative(point) for point in grid])]
        step = grid[1] - grid[0]
        return -minimize_scalar(negative, bounds=(start - step, start + step), method="bounded").fun
