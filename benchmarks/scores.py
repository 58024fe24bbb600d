# SPDX-License-Identifier: BSD-3-Clause
"""Figures by which the sides' answers are compared, computed here for all of them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse
from scipy.optimize import minimize, minimize_scalar

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


@dataclass(frozen=True)
class ColumnsEvidence:
    """The same with a variance for each column, wⱼ ~ N(0, aⱼ), from the covariance V = σ²I + XAXᵀ itself.

    −½ [ (n−1) log 2π + log|V| + log 1ᵀV⁻¹1 + yᵀV⁻¹y − (1ᵀV⁻¹y)²/1ᵀV⁻¹1 ]
    """

    X: np.ndarray
    y: np.ndarray

    def __call__(self, noise_variance: float, weight_variances: np.ndarray) -> float:
        n, on = len(self.y), weight_variances > 0
        V = self.X[:, on] * weight_variances[on] @ self.X[:, on].T
        V.flat[:: n + 1] += noise_variance
        L = linalg.cholesky(V, lower=True, overwrite_a=True)
        one, y = linalg.solve_triangular(L, np.column_stack([np.ones(n), self.y]), lower=True).T
        log_det = 2 * np.log(L.diagonal()).sum() + np.log(one @ one)
        return float(-((n - 1) * LOG_2PI + log_det + y @ y - (one @ y) ** 2 / (one @ one)) / 2)


@dataclass(frozen=True)
class GroupedREML:
    """The REML log-likelihood of y = Xβ + Zb + ε, b ~ N(0, Σ) anew in each of J groups of m rows, ε ~ N(0, σ²).

    −½ [ (n−p) log 2π + Σ_g log|V_g| + log|XᵀV⁻¹X| + min_β (y−Xβ)ᵀV⁻¹(y−Xβ) ],    V_g = σ²I + Z_g Σ Z_gᵀ
    """

    Z: np.ndarray
    Xy: np.ndarray

    @classmethod
    def of(cls, y, X, Z, n_groups: int):
        """Rows lie group by group."""
        return cls(Z.reshape(n_groups, -1, Z.shape[1]), np.column_stack([X, y]).reshape(n_groups, -1, X.shape[1] + 1))

    def __call__(self, noise_variance: float, covariances: Sequence[np.ndarray]) -> float:
        J, m, width = self.Xy.shape
        L = np.linalg.cholesky(noise_variance * np.eye(m) + self.Z @ covariances[0] @ self.Z.transpose(0, 2, 1))
        log_det = 2 * np.log(np.einsum("gmm->gm", L)).sum()
        whitened = np.linalg.solve(L, self.Xy).reshape(J * m, width)
        return _reml(J * m, log_det, whitened.T @ whitened)


@dataclass(frozen=True)
class CrossedREML:
    """The same with one scalar effect a level, of several factors; the first factor is eliminated.

    V = σ²(I + ZΛ²Zᵀ),    A = I + ΛZᵀZΛ = [[D, E], [Eᵀ, F]],    Λ = diag(τ/σ)
    log|A| = log|D| + log|F − EᵀD⁻¹E|,    σ²BᵀV⁻¹B = BᵀB − BᵀZΛA⁻¹ΛZᵀB,    B = [X y]
    """

    counts: np.ndarray
    cross: sparse.csr_array
    rest: sparse.csr_array
    ZB: np.ndarray
    BB: np.ndarray
    levels: list[int]
    n: int

    @classmethod
    def of(cls, y, X, factors: Sequence[np.ndarray]):
        """`factors` have a level's code for each row, and that of the most levels comes first."""
        first, *others = [sparse.csr_array((np.ones(len(y)), (np.arange(len(y)), codes))) for codes in factors]
        Z, B = sparse.hstack(others, "csr"), np.column_stack([X, y])
        levels = [block.shape[1] for block in (first, *others)]
        ZB = np.vstack([first.T @ B, Z.T @ B])
        return cls(first.sum(axis=0), (first.T @ Z).tocsr(), (Z.T @ Z).tocsr(), ZB, B.T @ B, levels, len(y))

    def __call__(self, noise_variance: float, covariances: Sequence[np.ndarray]) -> float:
        scales = np.sqrt([variance.item() / noise_variance for variance in covariances])
        J, other = self.levels[0], np.repeat(scales[1:], self.levels[1:])
        D = 1 + scales[0] ** 2 * self.counts
        E = scales[0] * self.cross * other
        S = (other[:, None] * self.rest * other - E.T @ (E / D[:, None])).toarray()
        S.flat[:: len(S) + 1] += 1.0
        top, bottom = scales[0] * self.ZB[:J], other[:, None] * self.ZB[J:]
        L = linalg.cholesky(S, lower=True, overwrite_a=True)
        bottom = linalg.solve_triangular(L, bottom - E.T @ (top / D[:, None]), lower=True)
        log_det = self.n * np.log(noise_variance) + np.log(D).sum() + 2 * np.log(np.diag(L)).sum()
        return _reml(self.n, log_det, (self.BB - top.T @ (top / D[:, None]) - bottom.T @ bottom) / noise_variance)


def _reml(n: int, log_det: float, C: np.ndarray) -> float:
    """From log|V| and C = [X y]ᵀV⁻¹[X y], whose Cholesky factor ends with the root of the least sum of squares."""
    *pivots, least = np.diag(linalg.cholesky(C))
    return float(-((n - len(pivots)) * LOG_2PI + log_det + 2 * np.log(pivots).sum() + least**2) / 2)


def best_reml(criterion: Callable[..., float], noise_variance: float, covariances: Sequence[np.ndarray]) -> float:
    """Its maximum, by BFGS on log σ and the entries of the covariances' Cholesky factors."""
    factors = [np.linalg.cholesky(covariance) for covariance in covariances]
    triangles = [np.tril_indices(len(L)) for L in factors]
    ends = np.cumsum([1, *(len(rows) for rows, _ in triangles)])

    def negative(phi):
        roots = [np.zeros_like(L) for L in factors]
        for root, triangle, start, stop in zip(roots, triangles, ends, ends[1:], strict=False):
            root[triangle] = phi[start:stop]
        return -criterion(np.exp(2 * phi[0]), [root @ root.T for root in roots])

    start = [[np.log(noise_variance) / 2], *(L[triangle] for L, triangle in zip(factors, triangles, strict=True))]
    return -minimize(
        negative,
        np.concatenate(start),
        method="BFGS",
        jac="3-point",
        options={"gtol": 1e-2, "finite_diff_rel_step": 1e-4},
    ).fun
