# SPDX-License-Identifier: BSD-3-Clause
"""Secants, each exact for the functions that it is made for."""

import numpy as np

from marglik.secants import corrected, diagonal, shrunk, slope_at_zero


def test_a_correction_says_what_the_step_has_shown():
    """After k steps along a quadratic the Hessian is its own."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 3))
    A, H = A + A.T, -np.eye(3)[None]
    for step in rng.standard_normal((3, 3)):
        H = corrected(H, step, A @ step)
        np.testing.assert_allclose(H[0] @ step, A @ step, atol=1e-12, rtol=0)
    np.testing.assert_allclose(H[0], A, atol=1e-10, rtol=0)
    again = corrected(H, np.ones(3), A @ np.ones(3))
    np.testing.assert_allclose(again, H, atol=1e-10, rtol=0)


def test_what_lies_across_the_step_is_no_reason_for_a_leap():
    """All but perpendicular to the step, what is missing is made up for by a correction of its own size."""
    step, missing = np.array([1e-4, 0.0]), np.array([1e-9, 1e-6])
    H = corrected(-np.eye(2)[None], step, -step + missing, askew=0.1)[0]
    np.testing.assert_allclose(H @ step, -step + missing, rtol=1e-12)
    np.testing.assert_allclose(H, H.T)
    assert np.abs(H + np.eye(2)).max() < 2 * np.linalg.norm(missing) / np.linalg.norm(step)


def test_a_diagonal_is_what_bends_down():
    away, change = np.array([[2.0, 2.0, 0.0, -1.0]]), np.array([[-3.0, 3.0, 1.0, 0.5]])
    np.testing.assert_array_equal(diagonal(away, change), [-1.5, 0.0, 0.0, -0.5])


def test_what_is_linear_in_squares():
    """f = a·s + sᵀBs/2 with B zero on its diagonal, s = θ²: the Hessian in log θ after s has shrunk, the slope at 0."""
    a, B = np.array([-1.0, 2.0, -0.5]), np.array([[0.0, 0.3, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def gradient(theta):
        s = theta**2
        return 2 * s * (a + B @ s)

    def hessian(theta):
        s = theta**2
        return np.diag(2 * gradient(theta)) + 4 * np.outer(s, s) * B

    theta, share = np.array([0.5, 0.8, 0.2]), np.array([0.01, 1.0, 0.1])
    smaller = shrunk(hessian(theta)[None], share)[0]
    truth = hessian(theta * np.sqrt(share))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(smaller[off], truth[off], rtol=1e-12)
    np.testing.assert_allclose(smaller[2, 2], truth[2, 2], rtol=1e-12)

    only_first = theta * np.array([0.7, 1.0, 1.0])
    found = slope_at_zero(theta[None], gradient(theta)[None], only_first[None], gradient(only_first)[None])[0]
    np.testing.assert_allclose(found[0], 2 * (a + B @ theta**2)[0], rtol=1e-12)
    assert np.isnan(found[2])
    quartic = [4 * 0.3 * t**4 - 2 * 1.5 * t**2 for t in (0.4, 0.3)]
    found = slope_at_zero(np.array([[0.4]]), np.array([[quartic[0]]]), np.array([[0.3]]), np.array([[quartic[1]]]))
    np.testing.assert_allclose(found, -3.0, rtol=1e-12)
