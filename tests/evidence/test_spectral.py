# SPDX-License-Identifier: BSD-3-Clause
"""The global maximum of one shared scale, for every target, against a dense grid polished by SciPy."""

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar

import marglik
from marglik import textbook
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory


class BruteForce:
    """The evidence of one target from a singular value decomposition, and its maximum by search."""

    def __init__(self, X, y, F=None):
        n = len(y)
        C = np.eye(n) if F is None else null_space(F.T)
        self.constant = 0.0 if F is None else -np.linalg.slogdet(F.T @ F)[1] / 2
        X, y = C.T @ X, C.T @ y
        U, s, _ = np.linalg.svd(X, full_matrices=True)
        self.d = np.zeros(len(y))
        self.d[: len(s)] = np.where(s > 1e-8 * s.max(initial=0), s, 0) ** 2
        self.z2 = (U.T @ y) ** 2
        self.n = len(y)

    def value(self, a, b):
        """log p(y) for the variances a of weights and b of noise."""
        with np.errstate(divide="ignore", invalid="ignore"):
            v = np.multiply.outer(a, self.d) + np.asarray(b)[..., None]
            terms = np.log(v) + self.z2 / v
        return self.constant - (self.n * np.log(2 * np.pi) + terms.sum(axis=-1)) / 2

    def both(self, log_ratio):
        """(a, b) at the best b for a given b/a."""
        lam = np.exp(log_ratio)
        b = np.sum(self.z2 * lam[..., None] / (self.d + lam[..., None]), axis=-1) / self.n
        return b / lam, b

    def maximum(self, path, low=-40.0, high=40.0):
        """Largest value along t ↦ (a, b), by a fine grid and a bounded search next to each of its maxima."""
        centre = np.log(self.d[self.d > 0]).mean() if self.d.any() else 0.0
        grid = centre + np.linspace(low, high, 2001)
        values = self.value(*path(grid))
        peaks = np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:])) + 1
        best = values.max()
        for i in peaks[np.argsort(values[peaks])[-4:]]:  # plateaus have many, of rounding
            found = minimize_scalar(
                lambda t: -float(self.value(*path(np.array(t)))),
                bounds=(grid[i - 1], grid[i + 1]),
                method="bounded",
                options={"xatol": 1e-9},
            )
            best = max(best, -found.fun)
        return best


def fit(X, Y, F=None, fixed=None, **rows):
    prior = Prior((Ridge(X),)) if F is None else Flat(F) + Ridge(X)
    return marglik.fit(LinearModel(Gaussian(), prior, InMemory(Y, **rows)), fixed=fixed)


def estimates(fitted, V):
    """(a, b) of every target."""
    return np.square(fitted.hyperparameters["estimate"].to_numpy().reshape(V, 2)).T


def check_global_maxima(X, Y, F=None):
    """No grid and no search finds more than the fit did, and the fit's value is that of its θ̂."""
    fitted = fit(X, Y, F)
    V = Y.shape[1]
    a, b = estimates(fitted, V)
    assert np.all(fitted.converged)
    for v in range(V):
        brute = BruteForce(X, Y[:, v], F)
        no_signal = brute.value(0.0, np.sum(brute.z2) / brute.n)
        best = max(brute.maximum(brute.both), no_signal)
        tolerance = 1e-9 * (1 + abs(best))
        assert fitted.log_evidence[v] > best - tolerance, (v, fitted.log_evidence[v], best)
        np.testing.assert_allclose(brute.value(a[v], b[v]), fitted.log_evidence[v], rtol=1e-9, atol=1e-9)
        assert (a[v] == 0) == (best - no_signal <= tolerance), (v, a[v], best, no_signal)
    return a, b


def polynomial(degree, n=10):
    return np.linspace(0, 1, n)[:, None] ** np.arange(degree + 1)


DESIGNS = {
    "more rows": lambda rng: (rng.standard_normal((40, 6)), np.ones((40, 1))),
    "more rows, many columns": lambda rng: (rng.standard_normal((90, 60)), np.ones((90, 1))),
    "one column": lambda rng: (rng.standard_normal((12, 1)), None),
    "as many columns as free rows": lambda rng: (rng.standard_normal((20, 19)), np.ones((20, 1))),
    "square": lambda rng: (rng.standard_normal((15, 15)), None),
    "more columns": lambda rng: (rng.standard_normal((20, 200)), np.ones((20, 1))),
    "more columns, no intercept": lambda rng: (rng.standard_normal((20, 200)), None),
    "more columns of low rank": lambda rng: (
        rng.standard_normal((20, 5)) @ rng.standard_normal((5, 80)),
        np.ones((20, 1)),
    ),
    "spectrum over eight decades": lambda rng: (
        np.linalg.qr(rng.standard_normal((25, 9)))[0] * np.logspace(0, -4, 9),
        None,
    ),
    "several fixed effects": lambda rng: (
        rng.standard_normal((30, 8)),
        np.column_stack([np.ones(30), rng.standard_normal((30, 3))]),
    ),
    "duplicated columns": lambda rng: (np.repeat(rng.standard_normal((30, 4)), 3, axis=1), np.ones((30, 1))),
}


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("seed", range(2))
def test_global_maxima(name, seed):
    """From no signal to almost no noise: 24 targets for each design."""
    rng = np.random.default_rng(seed)
    X, F = DESIGNS[name](rng)
    n, V = len(X), 24
    signal = X @ rng.standard_normal((X.shape[1], V)) / np.sqrt(np.mean(np.sum(X**2, axis=1)))
    noise = np.repeat(np.logspace(-3, 2, V // 2), 2)
    check_global_maxima(X, 5 + signal + noise * rng.standard_normal((n, V)), F)


def test_one_target_at_a_time_takes_another_way_to_the_same_place():
    """A single target goes through the tridiagonal form."""
    rng = np.random.default_rng(3)
    for shape in ((90, 60), (60, 90)):
        X, Y = rng.standard_normal(shape), rng.standard_normal((shape[0], 6))
        Y += X[:, :1] * np.arange(6)
        together = fit(X, Y, np.ones((len(X), 1)))
        for v in range(6):
            alone = fit(X, Y[:, v], np.ones((len(X), 1)))
            np.testing.assert_allclose(alone.log_evidence, together.log_evidence[v], rtol=1e-10)
            a, b = estimates(alone, 1)
            np.testing.assert_allclose([a[0], b[0]], np.array(estimates(together, 6))[:, v], rtol=1e-6)


@pytest.mark.parametrize("degree", range(10))
def test_several_local_maxima(degree, case):
    """Polynomials in the monomial basis: the published data, where the best of several maxima is no signal at all,
    and variations on it."""
    data = case("prml_curvefit").data
    rng = np.random.default_rng(degree)
    x, t = data["x"].to_numpy(), data["t"].to_numpy()
    X = x[:, None] ** np.arange(degree + 1)
    variations = t[:, None] * rng.uniform(0.5, 2, 20) + rng.uniform(0, 0.6, 20) * rng.standard_normal((10, 20))
    a, _ = check_global_maxima(X, np.column_stack([t, variations]))
    assert a[0] == 0


def test_variations_have_maxima_inside_and_at_both_ends():
    """That the tests above see all kinds: counted by the grid."""
    kinds = set()
    for degree in (1, 3, 9):
        X = polynomial(degree)
        rng = np.random.default_rng(degree)
        for _ in range(60):
            y = np.sin(2 * np.pi * np.linspace(0, 1, 10)) + rng.uniform(0.05, 1) * rng.standard_normal(10)
            brute = BruteForce(X, y)
            grid = np.linspace(-30, 30, 2001)
            values = brute.value(*brute.both(grid))
            inside = int(np.sum((values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])))
            kinds.add((inside, bool(values[-1] >= values.max() - 1e-9)))
    assert {(1, False), (1, True), (2, False)} <= kinds


def test_no_signal_is_exactly_zero():
    """Half of all targets without signal belong there; the scalar model says which, in closed form."""
    rng = np.random.default_rng(4)
    x, Y = rng.standard_normal(30), rng.standard_normal((30, 400))
    fitted = fit(x[:, None], Y, fixed={"sd(noise)": 1.0})
    a, b = estimates(fitted, 400)
    expected = np.array([textbook.scalar_prior_variance(x, y, 1.0) for y in Y.T])
    np.testing.assert_allclose(a, expected, rtol=1e-9, atol=0)
    assert np.array_equal(a == 0, expected == 0)
    assert 0.5 < np.mean(a == 0) < 0.8
    assert np.all(b == 1)
    assert np.array_equal(fitted.hyperparameters["at_boundary"].xs("sd(weights)", level="name"), a == 0)


@pytest.mark.parametrize("name", ["more rows", "more columns", "more columns of low rank", "square"])
@pytest.mark.parametrize("held", [1e-5, 0.02, 1.0, 50.0, 1e5])
def test_global_maxima_with_the_noise_given(name, held):
    rng = np.random.default_rng(5)
    X, F = DESIGNS[name](rng)
    Y = X[:, :3] @ rng.standard_normal((3, 12)) + np.logspace(-2, 1, 12) * rng.standard_normal((len(X), 12))
    fitted = fit(X, Y, F, fixed={"sd(noise)": held})
    a, b = estimates(fitted, 12)
    np.testing.assert_allclose(b, held**2, rtol=1e-15)
    for v in range(12):
        brute = BruteForce(X, Y[:, v], F)
        inside = brute.maximum(lambda t: (held**2 / np.exp(t), np.full(np.shape(t), held**2)))
        best = max(inside, brute.value(0.0, held**2))
        assert fitted.log_evidence[v] > best - 1e-9 * (1 + abs(best))
        np.testing.assert_allclose(brute.value(a[v], b[v]), fitted.log_evidence[v], rtol=1e-9)


@pytest.mark.parametrize("name", ["more rows", "more columns", "more columns of low rank", "square"])
@pytest.mark.parametrize("held", [1e-5, 0.02, 1.0, 50.0, 1e5])
def test_global_maxima_with_the_scale_given(name, held):
    rng = np.random.default_rng(6)
    X, F = DESIGNS[name](rng)
    Y = X[:, :3] @ rng.standard_normal((3, 12)) + np.logspace(-2, 1, 12) * rng.standard_normal((len(X), 12))
    fitted = fit(X, Y, F, fixed={"sd(weights)": held})
    a, b = estimates(fitted, 12)
    np.testing.assert_allclose(a, held**2, rtol=1e-15)
    for v in range(12):
        brute = BruteForce(X, Y[:, v], F)
        best = brute.maximum(lambda t: (np.full(np.shape(t), held**2), held**2 * np.exp(t)))
        assert fitted.log_evidence[v] > best - 1e-9 * (1 + abs(best))
        np.testing.assert_allclose(brute.value(a[v], b[v]), fitted.log_evidence[v], rtol=1e-9)


def test_a_scale_of_zero_may_be_given():
    """Then there is noise alone."""
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((20, 4))
    a, b = estimates(fit(X, Y, fixed={"sd(weights)": 0.0}), 4)
    assert np.all(a == 0)
    np.testing.assert_allclose(b, np.mean(Y**2, axis=0), rtol=1e-12)


def test_both_given():
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((20, 4))
    fitted = fit(X, Y, fixed={"sd(weights)": 0.3, "sd(noise)": 0.8})
    np.testing.assert_allclose(fitted.log_evidence, [BruteForce(X, y).value(0.09, 0.64) for y in Y.T], rtol=1e-12)


@pytest.mark.parametrize("noise", [1e-2, 1e-5, 1e-8])
def test_tiny_noise_is_found(noise):
    """Next to a signal of order one: the maximum is that of residuals in extended precision."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((40, 5))
    Y = X @ rng.standard_normal((5, 3)) + noise * rng.standard_normal((40, 3))
    _, b = estimates(fit(X, Y), 3)
    X, Y = np.asarray(X, np.longdouble), np.asarray(Y, np.longdouble)
    Q = X.copy()
    for _ in range(2):
        for j in range(5):
            Q[:, j] -= Q[:, :j] @ (Q[:, :j].T @ Q[:, j])
            Q[:, j] /= np.sqrt(Q[:, j] @ Q[:, j])
    r = Y - Q @ (Q.T @ Y)
    # Where noise is negligible next to the signal, σ̂² → RSS/(n − p) up to a relative noise².
    expected = np.sum(r**2, axis=0).astype(float) / 35
    np.testing.assert_allclose(b, expected, rtol=max(noise**2 * 100, 1e-6))


@pytest.mark.parametrize("shape", [(40, 5), (90, 60)])
def test_a_perfect_fit_is_found_to_rounding(shape):
    """y = Xw without noise: the evidence has no finite maximum, but the weights are those of least squares."""
    n, p = shape
    rng = np.random.default_rng(9)
    X, W = rng.standard_normal((n, p)), rng.standard_normal((p, 2))
    for Y in (X @ W, (X @ W)[:, 0]):
        fitted = fit(X, Y)
        _, b = estimates(fitted, Y.size // n)
        assert np.all(np.sqrt(b) < 1e-13)
        np.testing.assert_allclose(np.reshape(fitted.posterior.mean["ridge"], (-1, p)), W.T[: Y.size // n], rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-40, 1e-12, 1e12, 1e40])
@pytest.mark.parametrize("shape", [(30, 4), (15, 40), (90, 60)])
def test_tiny_and_huge_units(scale, shape):
    """y and X in other units: scales follow, and the evidence by the Jacobian of y alone."""
    n, _ = shape
    rng = np.random.default_rng(10)
    X, Y = rng.standard_normal(shape), rng.standard_normal((n, 5))
    Y += X[:, :1] * np.arange(5)
    base = fit(X, Y, np.ones((n, 1)))
    a, b = estimates(base, 5)
    of_y = fit(X, scale * Y, np.ones((n, 1)))
    np.testing.assert_allclose(of_y.log_evidence + (n - 1) * np.log(scale), base.log_evidence, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.sqrt(estimates(of_y, 5)) / scale, np.sqrt([a, b]), rtol=1e-6)
    of_x = fit(scale * X, Y, np.ones((n, 1)))
    np.testing.assert_allclose(of_x.log_evidence, base.log_evidence, rtol=1e-8)
    np.testing.assert_allclose(np.sqrt(estimates(of_x, 5)), np.sqrt([a / scale**2, b]), rtol=1e-6)


def test_weights_enter_as_precisions():
    rng = np.random.default_rng(11)
    n = 25
    X, Y, w = rng.standard_normal((n, 4)), rng.standard_normal((n, 6)), rng.uniform(0.1, 10, n)
    fitted = fit(X, Y, np.ones((n, 1)), weights=w)
    root = np.sqrt(w)[:, None]
    for v in range(6):
        brute = BruteForce(root * X, root[:, 0] * Y[:, v], root)
        best = max(brute.maximum(brute.both), brute.value(0.0, np.sum(brute.z2) / brute.n))
        np.testing.assert_allclose(fitted.log_evidence[v], best + np.log(w).sum() / 2, rtol=1e-9)


@pytest.mark.parametrize("shape", [(30, 4), (90, 60)])
def test_counts_stand_for_repeated_rows(shape):
    """Three times each third row: the same maxima as with the rows written out."""
    n, _ = shape
    rng = np.random.default_rng(12)
    X, Y = rng.standard_normal(shape), rng.standard_normal((n, 8))
    Y += X[:, :2] @ rng.standard_normal((2, 8))
    counts = np.where(np.arange(n) % 3 == 0, 3, 1)
    i = np.repeat(np.arange(n), counts)
    for targets in (slice(None), 0):
        counted = fit(X, Y[:, targets], np.ones((n, 1)), counts=counts)
        written = fit(X[i], Y[i, targets], np.ones((len(i), 1)))
        np.testing.assert_allclose(counted.log_evidence, written.log_evidence, rtol=1e-10)
        found, expected = (f.hyperparameters["estimate"].to_numpy() for f in (counted, written))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
