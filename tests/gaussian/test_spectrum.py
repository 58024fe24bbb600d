# SPDX-License-Identifier: BSD-3-Clause
"""The reduced data of a shared scale against the n × n matrices that they stand for."""

import numpy as np
import pytest

from marglik.gaussian.bases import Eigen, Tridiagonal
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge
from marglik.rows import InMemory

A, B = np.array([0.7, 2.0, 0.01]), np.array([0.3, 0.05, 4.0])
SHAPES = {  # rows, columns, targets -> the basis that is cheapest
    "primal, one target, small": (30, 5, 1, True, Eigen),
    "primal, one target": (90, 60, 1, True, Tridiagonal),
    "primal, targets": (90, 60, 3, True, Eigen),
    "as many columns as free rows": (62, 60, 1, True, Tridiagonal),
    "dual, one target, small": (20, 50, 1, False, Eigen),
    "dual, one target": (60, 90, 1, False, Tridiagonal),
    "dual, targets": (60, 90, 3, False, Eigen),
    "one column": (12, 1, 1, True, Eigen),
    "two columns, two targets": (12, 2, 2, True, Eigen),
}


def spectrum_of(X, y, flat=True, **rows):
    n = len(X)
    prior = Flat(np.column_stack([np.ones(n), np.linspace(-1, 1, n)])) + Ridge(X) if flat else Ridge(X)
    return LinearModel(Gaussian(), prior, InMemory(y, **rows)).spectrum


def projected(X, y, flat=True, weights=None):
    """X and y less their fits on the flat columns, rows scaled, in extended precision."""
    n = len(X)
    F = np.column_stack([np.ones(n), np.linspace(-1, 1, n)]) if flat else np.zeros((n, 0))
    s = np.ones(n) if weights is None else np.sqrt(weights)
    F, X, y = (np.asarray(a, np.longdouble) * s[:, None] for a in (F, X, y.reshape(n, -1)))
    for _ in range(2):
        Q = orthonormal(F)
        X, y = X - Q @ (Q.T @ X), y - Q @ (Q.T @ y)
    return X, y


def orthonormal(F):
    """Gram–Schmidt, twice."""
    Q = F.copy()
    for _ in range(2):
        for j in range(Q.shape[1]):
            Q[:, j] -= Q[:, :j] @ (Q[:, :j].T @ Q[:, j])
            Q[:, j] /= np.sqrt(Q[:, j] @ Q[:, j])
    return Q


@pytest.fixture(params=[f"{name}{flat}" for name in SHAPES for flat in ("", ", no flat columns")])
def data(request):
    """X, y, whether there are flat columns, and what basis to expect."""
    name, _, none = request.param.partition(", no flat")
    n, p, V, primal, kind = SHAPES[name]
    rng = np.random.default_rng(7)
    X = rng.standard_normal((n, p)) @ np.diag(rng.uniform(0.5, 2, p))
    y = 3 + X[:, :1] + rng.standard_normal((n, V))
    return X, y[:, 0] if V == 1 else y, not none, primal, kind


def dense(X, y, flat, **rows):
    X, y = (np.asarray(a, float) for a in projected(X, y, flat, **rows))
    d, U = np.linalg.eigh(X @ X.T)
    kept = d > 1e-9 * d[-1]
    return X, y, d[kept], U[:, kept]


def test_the_cheapest_basis_is_used(data):
    X, y, flat, primal, kind = data
    spectrum = spectrum_of(X, y, flat)
    assert isinstance(spectrum.basis, kind)
    free_rows = len(X) - 2 * flat
    assert spectrum.primal == primal or X.shape[1] == free_rows  # then both are of the same size


def test_eigenvalues_and_lengths(data):
    X, y, flat, *_ = data
    spectrum = spectrum_of(X, y, flat)
    _, y, d, U = dense(X, y, flat)
    np.testing.assert_allclose(spectrum.basis.eigenvalues, d, rtol=1e-10, atol=1e-13 * d[-1])
    np.testing.assert_allclose(spectrum.total, np.sum(y**2, axis=0), rtol=1e-12)
    explained = np.sum((U.T @ y) ** 2, axis=0)
    np.testing.assert_allclose(spectrum.basis.explained(), explained, rtol=1e-10)
    np.testing.assert_allclose(spectrum.rest, np.sum(y**2, axis=0) - explained, rtol=1e-9, atol=1e-12)


def test_moments(data):
    """yᵀ(aXXᵀ + bI)⁻¹y and its derivatives, each by solving with the n × n matrix."""
    X, y, flat, *_ = data
    spectrum = spectrum_of(X, y, flat)
    X, y, _, U = dense(X, y, flat)
    V = y.shape[1]
    a, b = A[:V], B[:V]
    found = spectrum.basis.moments(slice(0, V), a, b)
    G = X @ X.T
    for v in range(V):
        c = U @ (U.T @ y[:, v])
        K = a[v] * G + b[v] * np.eye(len(X))
        x = np.linalg.solve(K, c)
        Gx, Kx, KGx = G @ x, np.linalg.solve(K, x), np.linalg.solve(K, G @ x)
        expected = [c @ x, -x @ Gx, -x @ x, 2 * Gx @ KGx, 2 * Gx @ Kx, 2 * x @ Kx]
        np.testing.assert_allclose([part[v] for part in found], expected, rtol=1e-9)


def test_profile_and_quadratic(data):
    """S(λ) = λ yᵀ(XXᵀ + λI)⁻¹y and its derivatives in log λ."""
    X, y, flat, *_ = data
    spectrum = spectrum_of(X, y, flat)
    X, y, _, U = dense(X, y, flat)
    V, lam = y.shape[1], np.geomspace(1e-3, 1e5, 9)
    c = U @ (U.T @ y)
    value, slope, curvature = np.empty((3, V, len(lam)))
    for i, shift in enumerate(lam):
        R = np.linalg.inv(X @ X.T + shift * np.eye(len(X)))
        Rc, RRc = R @ c, R @ R @ c
        value[:, i] = shift * np.sum(c * Rc, axis=0)
        slope[:, i] = value[:, i] - shift**2 * np.sum(c * RRc, axis=0)
        third = np.sum(RRc * Rc, axis=0)
        curvature[:, i] = slope[:, i] - 2 * shift**2 * np.sum(c * RRc, axis=0) + 2 * shift**3 * third
    trace = np.array([np.trace(X @ X.T @ np.linalg.inv(X @ X.T + shift * np.eye(len(X)))) for shift in lam])
    found = spectrum.basis.slopes(slice(0, V), lam)
    size = np.abs(value).max()
    np.testing.assert_allclose(found[0], value, rtol=1e-9, atol=1e-9 * size)
    np.testing.assert_allclose(found[1], slope, rtol=1e-8, atol=1e-9 * size)
    np.testing.assert_allclose(found[2], trace / 2, rtol=1e-9)
    for i, shift in enumerate(lam):
        at = np.array([spectrum.basis.ridged(v, shift)[:3] for v in range(V)]).T
        np.testing.assert_allclose(at, [value[:, i], slope[:, i], curvature[:, i]], rtol=1e-8, atol=1e-9 * size)


def test_weights(data):
    X, y, flat, *_ = data
    spectrum = spectrum_of(X, y, flat)
    means = spectrum.Q.T @ X / len(X)
    X, y, *_ = dense(X, y, flat)
    V = y.shape[1]
    found, along = spectrum.weights(A[:V], B[:V])
    np.testing.assert_allclose(spectrum.means, means, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(along, found @ means.T, rtol=1e-9, atol=1e-12)
    for v in range(V):
        K = A[v] * X @ X.T + B[v] * np.eye(len(X))
        np.testing.assert_allclose(found[v], A[v] * X.T @ np.linalg.solve(K, y[:, v]), rtol=1e-8, atol=1e-10)


def test_eigenvectors(data):
    X, y, flat, *_ = data
    spectrum = spectrum_of(X, y, flat)
    X, *_ = dense(X, y, flat)
    d, U = spectrum.basis.eigenvalues, spectrum.basis.eigenvectors
    G = X.T @ X if spectrum.primal else X @ X.T
    np.testing.assert_allclose(G @ U, U * d, rtol=0, atol=1e-10 * d[-1])
    np.testing.assert_allclose(U.T @ U, np.eye(len(d)), rtol=0, atol=1e-11)


DEFICIENT = {
    "duplicates": lambda rng, n, p: np.repeat(rng.standard_normal((n, p // 2)), 2, axis=1),
    "rank two": lambda rng, n, p: rng.standard_normal((n, 2)) @ rng.standard_normal((2, p)),
    "a constant column": lambda rng, n, p: np.column_stack([np.full(n, 5.0), rng.standard_normal((n, p - 1))]),
    "columns of zeros": lambda rng, n, p: np.column_stack([rng.standard_normal((n, p - 3)), np.zeros((n, 3))]),
}


@pytest.mark.parametrize("shape", [(90, 60, 1), (90, 60, 2), (60, 90, 1), (60, 90, 2), (20, 8, 1)])
@pytest.mark.parametrize("kind", DEFICIENT)
def test_rank_deficient_designs(kind, shape):
    n, p, V = shape
    rng = np.random.default_rng(2)
    X = DEFICIENT[kind](rng, n, p)
    y = rng.standard_normal((n, V))
    spectrum = spectrum_of(X, y)
    X, y, d, U = dense(X, y, True)
    assert spectrum.rank == len(d)
    np.testing.assert_allclose(spectrum.basis.eigenvalues, d, rtol=1e-9)
    explained = np.sum((U.T @ y) ** 2, axis=0)
    np.testing.assert_allclose(spectrum.rest, np.sum(y**2, axis=0) - explained, rtol=1e-9, atol=1e-12)
    w = spectrum.weights(A[:V], B[:V])[0]
    for v in range(V):
        K = A[v] * X @ X.T + B[v] * np.eye(n)
        np.testing.assert_allclose(w[v], A[v] * X.T @ np.linalg.solve(K, y[:, v]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mean", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("shape", [(90, 60, 1), (90, 60, 2), (60, 90, 1), (60, 90, 2)])
def test_columns_with_huge_means(shape, mean):
    """Only digits that the data themselves have lost: relative to deviations, mean · 2⁻⁵³."""
    n, p, V = shape
    rng = np.random.default_rng(3)
    X = mean * rng.uniform(0.5, 1, p) + rng.standard_normal((n, p))
    y = rng.standard_normal((n, V)) + X[:, :1]
    spectrum = spectrum_of(X, y)
    w, along = spectrum.weights(A[:V], B[:V])
    np.testing.assert_allclose(spectrum.means, spectrum.Q.T @ X / n, rtol=0, atol=1e-14 * mean)
    np.testing.assert_allclose(along, w @ spectrum.means.T, rtol=0, atol=1e-9 * mean * np.abs(w).max())
    X, y, d, U = dense(X, y, True)
    lost = max(1e-9, 1e4 * mean * 2.0**-53)
    np.testing.assert_allclose(spectrum.basis.eigenvalues, d, rtol=lost)
    explained = np.sum((U.T @ y) ** 2, axis=0)
    np.testing.assert_allclose(spectrum.basis.explained(), explained, rtol=lost)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("shape", [(90, 60, 1), (90, 10, 2), (200, 3, 1)])
def test_what_is_left_when_noise_is_tiny(shape, noise):
    """Residual sum of squares, against extended precision: good to eps / noise rather than eps / noise²."""
    n, p, V = shape
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n, p))
    y = 1 + X @ rng.standard_normal((p, V)) + noise * rng.standard_normal((n, V))
    spectrum = spectrum_of(X, y)
    X, y = projected(X, y)
    Q = orthonormal(X)
    r = y - Q @ (Q.T @ y)
    np.testing.assert_allclose(spectrum.rest, np.sum(r**2, axis=0).astype(float), rtol=max(1e-9, 1e-12 / noise))


def test_weighted_rows_are_scaled_rows():
    rng = np.random.default_rng(5)
    X, y, w = rng.standard_normal((40, 6)), rng.standard_normal(40), rng.uniform(0.2, 5, 40)
    spectrum = spectrum_of(X, y, weights=w)
    _, y, d, _ = dense(X, y, True, weights=w)
    np.testing.assert_allclose(spectrum.basis.eigenvalues, d, rtol=1e-10, atol=1e-13 * d[-1])
    np.testing.assert_allclose(spectrum.total, np.sum(y**2, axis=0), rtol=1e-12)


def test_many_targets_are_the_targets_one_by_one():
    """More than one block of them."""
    rng = np.random.default_rng(6)
    X, y = rng.standard_normal((30, 8)), rng.standard_normal((30, 600)) + 1e3
    together = spectrum_of(X, y)
    assert len(list(together.response.blocks())) > 1
    some = [0, 255, 256, 599]
    a, b = np.full(600, 0.4), np.full(600, 0.9)
    for v in some:
        alone = spectrum_of(X, y[:, v])
        np.testing.assert_allclose(together.rest[v], alone.rest[0], rtol=1e-12)
        np.testing.assert_allclose(together.shift[:, v], alone.shift[:, 0], rtol=1e-12)
        w = alone.weights(a[:1], b[:1])[0][0]
        np.testing.assert_allclose(together.weights(a, b)[0][v], w, rtol=1e-11, atol=1e-13)
