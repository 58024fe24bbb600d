# SPDX-License-Identifier: BSD-3-Clause
"""What several scales keep of the rows, against plain arrays."""

import numpy as np
import pytest

from marglik.gaussian import gram
from marglik.gaussian.spectrum import Residuals


def flat_basis(F):
    """Q and R with F = QR and QᵀQ = n I."""
    n = len(F)
    Q, R = np.linalg.qr(F)
    return Q * np.sqrt(n), R / np.sqrt(n)


def reduced(X, Y, place, F=None, n_observations=None, row_scale=None):
    """The reduced data of plain arrays; X and F have scaled rows."""
    n = len(X)
    F = np.zeros((n, 0)) if F is None else F
    Q, R = flat_basis(F)
    response = Residuals(Y.reshape(n, -1), None, row_scale, Q, R, None)
    return gram.reduce(X, np.asarray(place), Q, response, n if n_observations is None else n_observations)


def projector(F):
    return np.eye(len(F)) - F @ np.linalg.pinv(F)


@pytest.fixture(params=["no flat columns", "two flat columns"])
def data(request):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((12, 5)), rng.standard_normal((12, 3))
    F = np.column_stack([np.ones(12), rng.standard_normal(12)]) if request.param != "no flat columns" else None
    return X, Y, F


@pytest.mark.parametrize("order", ["C", "F"])
def test_products(data, order):
    X, Y, F = data
    found = reduced(np.asarray(X, order=order), Y, [0, 0, 1, 1, 2], F)
    P = np.eye(12) if F is None else projector(F)
    np.testing.assert_allclose(found.matrix, X.T @ P @ X, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.products, Y.T @ P @ X, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.total, np.diag(Y.T @ P @ Y), rtol=1e-12)
    np.testing.assert_allclose(found.projected, P @ X, atol=1e-12)
    np.testing.assert_allclose(found.squares, np.diag(X.T @ P @ X), rtol=1e-12)
    i, j = np.array([0, 3]), np.array([1, 2, 4])
    np.testing.assert_allclose(found.block(i, j), (X.T @ P @ X)[np.ix_(i, j)], rtol=1e-11, atol=1e-12)
    w = np.array([[1.0, 2.0], [0.5, -1.0]])
    np.testing.assert_allclose(found.outside(w, i, slice(0, 2)), P @ (Y[:, :2] - X[:, i] @ w), atol=1e-12)
    np.testing.assert_allclose(found.correlations(P @ Y, j), Y.T @ P @ X[:, j], atol=1e-12)
    assert (found.n_free, found.n_directions, found.n_scales) == (12 - (F is not None) * 2, 12 - (F is not None) * 2, 3)


def test_wide_data_make_their_blocks_when_needed(data, monkeypatch):
    X, Y, F = data
    narrow = reduced(X, Y, np.arange(5), F)
    monkeypatch.setattr(gram, "WIDE", 2)
    wide = reduced(X[:4], Y[:4], np.arange(5), None if F is None else F[:4])
    assert not wide.in_memory
    narrow = reduced(X[:4], Y[:4], np.arange(5), None if F is None else F[:4])
    P = np.eye(4) if F is None else projector(F[:4])
    i, j = np.array([4, 1]), np.array([0, 2, 3])
    for found in (wide, narrow):
        np.testing.assert_allclose(found.block(i, j), (X[:4].T @ P @ X[:4])[np.ix_(i, j)], atol=1e-12)
        np.testing.assert_allclose(found.squares, np.diag(X[:4].T @ P @ X[:4]), atol=1e-12)


@pytest.mark.parametrize("mean", [1e4, 1e8])
def test_large_means_cost_no_digits(mean):
    """Columns of which projection leaves little are projected first: as if their means had been taken off."""
    rng = np.random.default_rng(1)
    X, Y, one = rng.integers(-9, 9, (15, 4)).astype(float), rng.standard_normal((15, 2)), np.ones((15, 1))
    plain, moved = reduced(X, Y, np.arange(4), one), reduced(X + mean, Y, np.arange(4), one)
    np.testing.assert_allclose(moved.matrix, plain.matrix, rtol=1e-15 * mean, atol=1e-14 * mean)
    np.testing.assert_allclose(moved.products, plain.products, rtol=1e-14 * mean, atol=1e-15 * mean)
    np.testing.assert_allclose(moved.Q @ moved.means, plain.Q @ plain.means + mean, rtol=1e-14)


def test_a_column_in_the_span_of_the_flat_ones_is_zero():
    """What projection leaves of it is rounding."""
    rng = np.random.default_rng(2)
    F = np.column_stack([np.ones(9), rng.standard_normal(9)])
    X = np.column_stack([rng.standard_normal(9), 0.1 + 3 * F[:, 1], np.full(9, 7.0)])
    found = reduced(X, rng.standard_normal(9), np.arange(3), F)
    assert found.squares[0] > 0
    np.testing.assert_array_equal(found.squares[1:], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_values_that_cannot_be_squared_are_refused(bad):
    X = np.ones((4, 2))
    X[1, 1] = bad
    with pytest.raises(FloatingPointError, match="not finite, or too large"):
        reduced(X, np.arange(4.0), [0, 1])


def test_a_scale_that_is_fixed_comes_last():
    """Columns at place −1 have scale 1, which is no coordinate of θ."""
    rng = np.random.default_rng(3)
    found = reduced(rng.standard_normal((8, 4)), rng.standard_normal(8), [1, -1, 0, -1])
    assert found.place.tolist() == [1, 2, 0, 2]
    theta = np.array([[0.5, 2.0, 3.0]])
    np.testing.assert_array_equal(found.complete(theta), [[0.5, 2.0, 1.0, 3.0]])
    np.testing.assert_array_equal(found.complete(theta)[:, found.learned], theta)


def test_compressed_columns_have_the_same_kernels(data):
    """X_kX_kᵀ from no more columns than rows."""
    rng = np.random.default_rng(4)
    _, Y, F = data
    X = rng.standard_normal((12, 40))
    place = np.where(np.arange(40) % 8 == 0, 1, 0)
    found = reduced(X, Y, place, F)
    fewer = found.compressed
    assert np.bincount(fewer.place).tolist() == [12, 5]
    for k in range(2):
        one, other = found.projected[:, place == k], fewer.projected[:, fewer.place == k]
        np.testing.assert_allclose(other @ other.T, one @ one.T, atol=1e-12)
    np.testing.assert_allclose(fewer.products, Y.T @ fewer.projected, atol=1e-12)
    assert found.subset(np.array([1])).compressed.products.shape == (1, 17)


def test_some_of_the_targets(data):
    X, Y, F = data
    found, chosen = reduced(X, Y, np.arange(5), F), np.array([2, 0])
    found.matrix  # noqa: B018
    fewer, alone = found.subset(chosen), reduced(X, Y[:, chosen], np.arange(5), F)
    np.testing.assert_allclose(fewer.products, alone.products)
    np.testing.assert_allclose(fewer.total, alone.total)
    np.testing.assert_allclose(fewer.shift, alone.shift)
    assert fewer.matrix is found.matrix
