# SPDX-License-Identifier: BSD-3-Clause
"""A tridiagonal form of one target against matrices written out, in extended precision where digits are at stake."""

import numpy as np
import pytest

from marglik.gaussian.bases import tridiagonal

LAMBDAS = np.geomspace(1e-6, 1e12, 7)


def problem(primal, lifted=0, size=9):
    """A, z and, without the lifted directions, A's eigenvalues and the squares of c along its eigenvectors."""
    rng = np.random.default_rng(0)
    d = np.geomspace(0.3, 40, size)
    U = np.linalg.qr(rng.standard_normal((size, size)))[0]
    z = rng.standard_normal(size)
    d[:lifted] = 1e3
    z -= U[:, :lifted] @ (U[:, :lifted].T @ z)
    A = (U * d) @ U.T
    c2 = (U.T @ z) ** 2 / (d if primal else 1.0)
    basis = tridiagonal(A, z, primal, (1e3, lifted), 0.0)
    return A, z, d[lifted:], c2[lifted:], basis


CASES = [(True, 0), (False, 0), (False, 1), (False, 3)]


@pytest.mark.parametrize(("primal", "lifted"), CASES)
def test_along_lambda(primal, lifted):
    """S = λ Σ c²/(d + λ), L = −½ Σ log(1 + d/λ) and derivatives in log λ: relative digits, however large λ is."""
    _, _, d, c2, basis = problem(primal, lifted)
    found = np.array([basis.ridged(0, lam) for lam in LAMBDAS]).T
    lam = np.asarray(LAMBDAS, np.longdouble)[:, None]
    share, kept = lam / (d + lam), d / (d + lam)
    S = [share, share * kept, share * kept * (kept - share)]
    L = [np.log(share) / 2, kept / 2, -kept * share / 2]
    expected = np.array([c2 @ part.T for part in S] + [part.sum(axis=1) for part in L], float)
    np.testing.assert_allclose(found[[0, 1, 4]], expected[[0, 1, 4]], rtol=1e-10)
    np.testing.assert_allclose(found[[2, 5]], expected[[2, 5]], rtol=1e-9)
    np.testing.assert_allclose(found[3], expected[3], rtol=1e-10, atol=1e-13)
    for one, other in zip(basis.slopes(slice(0, 1), LAMBDAS), expected[[0, 1, 4]], strict=True):
        np.testing.assert_allclose(np.ravel(one), other, rtol=1e-10)


@pytest.mark.parametrize(("primal", "lifted"), CASES)
def test_without_a_ridge(primal, lifted):
    _, _, d, c2, basis = problem(primal, lifted)
    m, log_det = basis.unridged(slice(0, 1))
    np.testing.assert_allclose(m, [np.sum(c2 / d)], rtol=1e-12)
    np.testing.assert_allclose(log_det, np.log(d).sum(), rtol=1e-12)
    np.testing.assert_allclose(basis.explained(), [c2.sum()], rtol=1e-12)


@pytest.mark.parametrize(("primal", "lifted"), CASES)
def test_eigenvalues_lie_within_bounds(primal, lifted):
    A, _, d, _, basis = problem(primal, lifted)
    low, high = basis.bounds
    assert low <= d.min()
    assert high >= d.max()
    np.testing.assert_allclose(low, 1 / np.sqrt(np.sum(np.linalg.eigvalsh(A) ** -2.0)), rtol=1e-10)
    np.testing.assert_allclose(high, np.sqrt(np.sum(d**2)), rtol=1e-9)
    np.testing.assert_allclose(basis.eigenvalues, np.sort(d), rtol=1e-12)
    U = basis.eigenvectors
    np.testing.assert_allclose(A @ U, U * basis.eigenvalues, rtol=0, atol=1e-12 * np.linalg.norm(A))


@pytest.mark.parametrize(("primal", "lifted"), CASES)
def test_filtered(primal, lifted):
    A, z, _, _, basis = problem(primal, lifted)
    found = basis.filtered(slice(0, 1), np.array([0.7]), np.array([0.2]))
    np.testing.assert_allclose(found[0], 0.7 * np.linalg.solve(0.7 * A + 0.2 * np.eye(len(A)), z), rtol=1e-10)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("primal", [True, False])
def test_small_matrices(size, primal):
    A, z, d, c2, basis = problem(primal, size=size)
    np.testing.assert_allclose(basis.ridged(0, 0.4).S, 0.4 * np.sum(c2 / (d + 0.4)), rtol=1e-12)
    found = basis.filtered(slice(0, 1), np.array([0.7]), np.array([0.2]))
    np.testing.assert_allclose(found[0], 0.7 * np.linalg.solve(0.7 * A + 0.2 * np.eye(size), z), rtol=1e-12)


def test_a_target_outside_the_span():
    """z = 0: nothing is explained, and the rest is as it was."""
    A = problem(True)[0]
    basis = tridiagonal(A, np.zeros(len(A)), True, (0.0, 0), 0.0)
    found = basis.ridged(0, 0.4)
    assert found.S == found.S1 == found.S2 == 0
    np.testing.assert_allclose(found.L, -np.linalg.slogdet(A / 0.4 + np.eye(len(A)))[1] / 2, rtol=1e-12)
    assert np.all(basis.filtered(slice(0, 1), np.ones(1), np.ones(1)) == 0)


@pytest.mark.parametrize("smallest", [0.0, 1e-12])
def test_no_room_to_spare(smallest):
    """Only eigenvectors tell which directions count."""
    rng = np.random.default_rng(1)
    U = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    A = (U * np.array([smallest, 1, 2, 3, 4, 5])) @ U.T
    assert tridiagonal(A, rng.standard_normal(6), True, (0.0, 0), 0.0) is None
