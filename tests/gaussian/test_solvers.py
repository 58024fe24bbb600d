# SPDX-License-Identifier: BSD-3-Clause
"""P for given variances, through columns and through rows, against the covariance written out in 60 digits."""

from decimal import localcontext
from functools import cached_property

import numpy as np
import pytest

from gaussian.test_gram import projector, reduced
from marglik.gaussian import solvers
from marglik.gaussian.solvers import Dual, Primal, solver
from truth import DIGITS, _decimal, _inverse

N = 9
rng = np.random.default_rng(0)
FLAT = np.column_stack([np.ones(N), rng.standard_normal(N)])
BASE = rng.standard_normal((N, 14))
COLUMNS = {
    "few": BASE[:, :4],
    "many": BASE,
    "as many as rows": BASE[:, :N],
    "collinear": np.column_stack([BASE[:, :3], BASE[:, :1], BASE[:, 1:2] + 1e-9 * BASE[:, 3:4]]),
    "tiny and huge": BASE[:, :5] * np.logspace(-5, 5, 5),
}
Y = np.column_stack([BASE @ rng.standard_normal(14) + rng.standard_normal(N), rng.standard_normal(N)])
VARIANCES = {
    "of one size": lambda k: np.linspace(0.3, 2.0, k),
    "some zero": lambda k: np.where(np.arange(k) % 2, 0.0, 1.3),
    "all zero": lambda k: np.zeros(k),
    "weak": lambda k: np.full(k, 1e-8),
    "strong": lambda k: np.full(k, 1e8),
    "all sizes": lambda k: 10.0 ** (np.arange(k) * 5 % 17 - 8),
}


class Dense:
    """The same from V = Σ a_k X_kX_kᵀ + b I, flat columns projected out by P."""

    def __init__(self, X, place, F, variances):
        self.X, self.place, self.F, self.variances = X, place, np.zeros((N, 0)) if F is None else F, variances

    @cached_property
    def parts(self):
        with localcontext(prec=DIGITS):
            X, F, a = _decimal(self.X), _decimal(self.F), _decimal(self.variances)
            V = (X * a[self.place]) @ X.T + a[-1] * _decimal(np.eye(N))
            inverse, log_det = _inverse(V)
            B, more = _inverse(F.T @ inverse @ F)
            _, volume = _inverse(F.T @ F)
            P = inverse - inverse @ F @ B @ F.T @ inverse
            K = [X[:, self.place == k] @ X[:, self.place == k].T for k in range(len(a) - 1)]
            return P, float(log_det + more - volume), [*K, _decimal(np.eye(N))]

    def products(self, y):
        """log|V|, yᵀPy, tr PK_k, tr PK_kPK_l, yᵀPK_kPy, yᵀPK_kPK_lPy."""
        P, log_det, K = self.parts
        with localcontext(prec=DIGITS):
            PK, y = [P @ k for k in K], _decimal(y)
            Py = P @ y
            KPy = [k @ Py for k in K]
            second = [[float((a * b.T).sum()) for b in PK] for a in PK]
            curved = [[float(a @ P @ b) for b in KPy] for a in KPy]
            first = [float(np.trace(a)) for a in PK]
            return log_det, float(y @ Py), *map(np.array, (first, second, [float(Py @ a) for a in KPy], curved))

    @cached_property
    def covariance(self):
        """Of the weights."""
        with localcontext(prec=DIGITS):
            a, X = _decimal(np.diag(self.variances[self.place])), _decimal(self.X)
            return (a - a @ X.T @ self.parts[0] @ X @ a).astype(float)


def each_way(data, variances):
    active = np.flatnonzero(variances[data.place] > 0)
    return [kind(data, variances, active) for kind in (Primal, Dual)]


@pytest.mark.parametrize("strength", VARIANCES)
@pytest.mark.parametrize("single", [True, False], ids=["one a column", "grouped"])
@pytest.mark.parametrize("name", COLUMNS)
def test_both_ways_and_the_truth(name, single, strength):
    """Derivatives in logarithms of variances, in nats; at zero, in the variances."""
    X, F = COLUMNS[name], None if single else FLAT
    place = np.arange(X.shape[1]) if single else np.arange(X.shape[1]) % 3
    k = place.max() + 1
    variances = np.append(VARIANCES[strength](k), 0.8)
    data, dense = reduced(X, Y, place, F), Dense(X, place, F, variances)
    unit = np.where(variances > 0, variances, 1.0)
    on = variances > 0
    for at in [solver(data, variances)] if name == "tiny and huge" else each_way(data, variances):
        first, second = at.traces
        moments = at.moments(slice(0, 2))
        quadratic = at.quadratic(slice(0, 2))
        for v in range(2):
            log_det, q, t, T, p, S = dense.products(Y[:, v])
            np.testing.assert_allclose([at.log_det, quadratic[v]], [log_det, q], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(moments.quadratic[v], q, rtol=1e-9)
            np.testing.assert_allclose(unit * first, unit * t, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(unit * moments.first[v], unit * p, rtol=1e-7, atol=1e-9)
            both, size = np.outer(on, on), np.outer(unit, unit)
            np.testing.assert_allclose((size * second)[both], (size * T)[both], rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose((size * moments.second[v])[both], (size * S)[both], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strength", ["of one size", "some zero", "strong", "all sizes"])
@pytest.mark.parametrize("name", ["few", "many", "as many as rows"])
def test_weights(name, strength):
    X, place = COLUMNS[name], np.arange(COLUMNS[name].shape[1]) % 3
    variances = np.append(VARIANCES[strength](3), 0.8)
    data, dense = reduced(X, Y, place, FLAT), Dense(X, place, FLAT, variances)
    a = variances[place]
    P = dense.parts[0].astype(float)
    K = np.random.default_rng(1).standard_normal((3, len(place)))
    size = np.sqrt(a.max())
    for at in each_way(data, variances):
        np.testing.assert_allclose(at.weights(slice(0, 2)) / size, (Y.T @ P @ X * a) / size, rtol=1e-6, atol=1e-8)
        kept, lost = at.halves(K)
        C = K @ dense.covariance @ K.T
        np.testing.assert_allclose(kept.T @ kept - lost.T @ lost, C, rtol=1e-7, atol=1e-8 * size**2)
        np.testing.assert_allclose(at.spread(), np.diag(dense.covariance), rtol=1e-7, atol=1e-8 * size**2)
        draws = at.draws(20_000, np.random.default_rng(2))
        error = np.cov(draws.T) - dense.covariance
        sd = np.sqrt(np.diag(dense.covariance))
        assert np.abs(error).max() < 5 * (sd.max() ** 2) * np.sqrt(2 / 20_000)
        assert np.all(draws[:, a == 0] == 0)


def test_columns_without_variance():
    """XᵀPX and XᵀPy for columns that are not active, as a base for others to build on."""
    X, place = BASE[:, :6], np.array([0, 0, 1, 1, 1, 1])
    for a, kind in ((np.array([1.7, 0.0, 0.6]), Primal), (np.array([0.0, 0.0, 0.6]), Primal)):
        data, dense = reduced(X, Y, place, FLAT), Dense(X, place, FLAT, a)
        P = dense.parts[0].astype(float)
        J = np.array([3, 5, 4])
        for at in (solver(data, a), Dual(data, a, np.flatnonzero(a[place] > 0))):
            np.testing.assert_allclose(at.gram(J), X[:, J].T @ P @ X[:, J], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(at.correlations(J, slice(0, 2)), Y.T @ P @ X[:, J], rtol=1e-10, atol=1e-12)
        assert type(solver(data, a)) is kind


def test_no_noise_where_columns_suffice():
    """V = XS²Xᵀ on the rows less flat columns."""
    variances = np.append(np.linspace(0.5, 2, 14), 0.0)
    data = reduced(BASE, Y, np.arange(14), FLAT)
    at = solver(data, variances)
    M = projector(FLAT)
    V = M @ (BASE * variances[:-1]) @ BASE.T @ M
    P, d = np.linalg.pinv(V), np.linalg.eigvalsh(V)[2:]
    np.testing.assert_allclose(at.log_det, np.log(d).sum(), rtol=1e-10)
    np.testing.assert_allclose(at.quadratic(slice(0, 2)), np.einsum("nv,nm,mv->v", Y, P, Y), rtol=1e-9)
    first, _ = at.traces
    np.testing.assert_allclose(first[-1], np.trace(P), rtol=1e-9)
    np.testing.assert_allclose(at.moments(slice(0, 2)).first[:, -1], np.einsum("nv,nm,mv->v", Y, P @ P, Y), rtol=1e-8)


def test_rows_that_stand_for_several():
    """Rows scaled by √counts, and the directions among repeated rows, which have noise alone."""
    counts = np.array([1, 3, 2, 1, 1, 2, 4, 1, 1])
    i, r = np.repeat(np.arange(N), counts), np.sqrt(counts)[:, None]
    for X in (BASE[:, :4], BASE):
        variances = np.append(np.linspace(0.5, 2, X.shape[1]), 0.7)
        place = np.arange(X.shape[1])
        fewer = reduced(r * X, Y, place, r * FLAT, counts.sum(), row_scale=r[:, 0])
        written = reduced(X[i], Y[i], place, FLAT[i])
        a, b = solver(fewer, variances), solver(written, variances)
        np.testing.assert_allclose(a.log_det, b.log_det, rtol=1e-11)
        np.testing.assert_allclose(a.moments(slice(0, 2)).second, b.moments(slice(0, 2)).second, rtol=1e-7, atol=1e-10)
        for one, other in zip(a.traces, b.traces, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def test_tiny_residuals_are_computed_from_the_rows():
    """y = Xw + 1e-9 ε: the quadratic form keeps its digits where a difference of squares has none."""
    X = BASE[:, :4]
    y = X @ np.array([1.0, -2.0, 0.5, 3.0]) + 1e-9 * BASE[:, 5]
    variances = np.array([1.0, 1.0, 1.0, 1.0, 1e-18])
    data, dense = reduced(X, y, np.arange(4), FLAT), Dense(X, np.arange(4), FLAT, variances)
    at = solver(data, variances)
    _, q, _, _, p, _ = dense.products(y)
    np.testing.assert_allclose(at.quadratic(slice(0, 1))[0], q, rtol=1e-6)
    np.testing.assert_allclose(at.moments(slice(0, 1)).first[0], p, rtol=1e-5)


@pytest.mark.parametrize("name", ["collinear", "many"])
def test_rotations_replace_products_where_those_lose_digits(name, monkeypatch):
    """With them off, the tests above would fail: log|V| then has an error of 1e8 times rounding."""
    monkeypatch.setattr(solvers, "STEEP", np.inf)
    monkeypatch.setattr(solvers, "COLLINEAR", 0.0)
    X = COLUMNS[name]
    strong = 1e10 if name == "collinear" else np.where(np.arange(X.shape[1]) < 3, 1e12, 1e-3)
    variances = np.append(np.broadcast_to(strong, X.shape[1]), 1e-3)
    data, dense = reduced(X, Y, np.arange(X.shape[1])), Dense(X, np.arange(X.shape[1]), None, variances)
    without = solver(data, variances).log_det
    monkeypatch.undo()
    found, true = solver(data, variances).log_det, dense.products(Y[:, 0])[0]
    assert abs(found - true) < 1e-9 * abs(true) < abs(without - true)
