# SPDX-License-Identifier: BSD-3-Clause
"""Several scales over dense columns: evidence against the truth in 60 digits, maxima against searches by SciPy."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import minimize

import marglik
from marglik.evidence import Exact, scales
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from marglik.priors import Gaussian as Given
from marglik.rows import InMemory
from truth import Truth

BANDS = {"few columns": (30, 9), "many columns": (12, 40), "as many as rows": (14, 12)}


@dataclass(frozen=True)
class Problem:
    """Columns in three groups, two flat ones, several targets with signals in some of the groups."""

    X: np.ndarray
    Y: np.ndarray
    F: np.ndarray
    groups: np.ndarray
    rows: dict

    def model(self, target=None):
        n = int(self.groups.max()) + 1
        ridge = Ridge(self.X, groups=self.groups, scales=[f"sd({k})" for k in range(n)])
        flat = Flat(self.F, ["Intercept", "x"][: self.F.shape[1]])
        y = self.Y if target is None else self.Y[:, target]
        return LinearModel(Gaussian(), flat + ridge, InMemory(y, **self.rows))

    def fit(self, target=None, fixed=None):
        return marglik.fit(self.model(target), fixed=fixed)


def problem(name, seed=0, V=5, **rows):
    n, p = BANDS[name]
    rng = np.random.default_rng(seed)
    groups = np.sort(np.arange(p) % 3)
    X = rng.standard_normal((n, p)) * np.array([1.0, 0.1, 10.0])[groups]
    scales = np.array([1.0, 10.0, 0.1])[groups, None] * (rng.random((3, V)) < 0.6)[groups] / np.sqrt(p)
    Y = 3 + X @ (scales * rng.standard_normal((p, V))) + 0.5 * rng.standard_normal((n, V))
    return Problem(X, Y, np.column_stack([np.ones(n), rng.standard_normal(n)]), groups, rows)


def theta_of(fitted, V=1):
    """Not from the table, which has upper limits that take longer than the fit."""
    assert fitted.optimum.theta.shape[0] == V
    return fitted.optimum.theta


THETA = {
    "inside": np.array([0.7, 3.0, 0.05, 0.6]),
    "a scale of zero": np.array([0.7, 0.0, 0.05, 0.6]),
    "all scales zero": np.array([0.0, 0.0, 0.0, 0.6]),
    "strong": np.array([7e3, 3e4, 5e2, 0.6]),
    "weak": np.array([7e-5, 3e-4, 5e-6, 0.6]),
    "strong and weak": np.array([7e3, 3e-4, 0.05, 0.6]),
}


@pytest.mark.parametrize("where", THETA)
@pytest.mark.parametrize("name", BANDS)
def test_evidence_and_its_derivatives(name, where):
    """Derivatives in natural units: those in which a scale adds variance one to a row."""
    given, theta = problem(name, V=2), THETA[where]
    found = Exact()(given.model(), np.tile(theta, (2, 1)))
    unit = np.array([1.0, 10.0, 0.1, 1.0])
    for v in range(2):
        true = Truth(given.model(v), exact=True).at(theta)
        np.testing.assert_allclose(found.log_value[v], true.value, rtol=1e-9)
        size = np.maximum(unit, theta)
        np.testing.assert_allclose(found.gradient[v] * size, true.gradient * size, rtol=1e-7, atol=1e-7)
        both = np.outer(size, size)
        np.testing.assert_allclose(found.hessian[v] * both, true.hessian * both, rtol=1e-6, atol=1e-6)


def test_one_scale_a_column():
    given = replace(problem("few columns", V=1), groups=np.arange(9))
    theta = np.append(np.where(np.arange(9) % 3, 0.4, 0.0), 0.7)
    found, true = Exact()(given.model(0), theta[None]), Truth(given.model(0), exact=True).at(theta)
    np.testing.assert_allclose(found.log_value[0], true.value, rtol=1e-11)
    np.testing.assert_allclose(found.gradient[0], true.gradient, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.hessian[0], true.hessian, rtol=1e-8, atol=1e-8)


def test_weights_offset_and_weights_with_a_given_prior():
    """All the constants: precision weights, an offset, columns whose scale is not learned, no flat columns."""
    rng = np.random.default_rng(3)
    n = 15
    X, U = rng.standard_normal((n, 5)), rng.standard_normal((n, 2))
    y, w, o = rng.standard_normal(n), rng.uniform(0.2, 5, n), rng.standard_normal(n)
    banded = Ridge(X, groups=[0, 1, 1, 0, 0], scales=["sd(a)", "sd(b)"])
    given = Given(U, [1.0, -2.0], np.array([[2.0, 0.5], [0.5, 1.0]]))
    for prior in (
        given + banded,
        Flat(np.ones(n), ["Intercept"]) + banded + Ridge(U, hyperparameter="sd(u)", label="u"),
    ):
        model = LinearModel(Gaussian(), Prior(prior), InMemory(y, o, w))
        theta = np.array([0.8, 1.3, *([0.5] if "sd(u)" in model.hyperparameters.names else []), 0.6])
        found, true = Exact()(model, theta[None]), Truth(model, exact=True).at(theta)
        np.testing.assert_allclose(found.log_value[0], true.value, rtol=1e-12)
        np.testing.assert_allclose(found.gradient[0], true.gradient, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.hessian[0], true.hessian, rtol=1e-9, atol=1e-9)


def test_targets_at_one_place_share_what_they_can():
    """The same values, whether or not targets have θ in common."""
    given = problem("few columns", V=4)
    theta = np.array([[0.7, 3.0, 0.05, 0.6], [0.7, 3.0, 0.05, 0.6], [0.1, 0.0, 0.05, 0.3], [0.7, 3.0, 0.05, 0.6]])
    together = Exact()(given.model(), theta)
    for v in range(4):
        alone = Exact()(given.model(v), theta[[v]])
        np.testing.assert_allclose(together.log_value[v], alone.log_value[0], rtol=1e-12)
        np.testing.assert_allclose(together.gradient[v], alone.gradient[0], rtol=1e-9)
        np.testing.assert_allclose(together.hessian[v], alone.hessian[0], rtol=1e-9)


def test_without_noise():
    """Possible where columns suffice; elsewhere only what they fit exactly has a density."""
    wide, narrow = problem("many columns", V=1), problem("few columns", V=1)
    theta = np.array([0.7, 3.0, 0.05, 0.0])
    true = [Truth(wide.model(0), exact=True).at(np.append(theta[:3], b)).value for b in (1e-6, 2e-6)]
    found = Exact()(wide.model(0), theta[None])
    np.testing.assert_allclose(found.log_value[0], true[0] - (true[1] - true[0]) / 3, rtol=1e-10)
    assert Exact()(narrow.model(0), theta[None]).log_value[0] == -np.inf


class Dense:
    """log p(y|s) = −½ [m log 2π + log|V| + yᵀV⁻¹y + log|FᵀF|] and its slope in log s, orthogonal to flat columns."""

    def __init__(self, given, v):
        f = given.F.shape[1]
        Q, R = np.linalg.qr(given.F, mode="complete")
        X, self.y = Q[:, f:].T @ given.X, Q[:, f:].T @ given.Y[:, v]
        parts = [X[:, given.groups == k] for k in range(given.groups.max() + 1)]
        self.K = np.array([*(part @ part.T for part in parts), np.eye(len(X))])
        self.constant = len(X) * np.log(2 * np.pi) + 2 * np.log(np.abs(R.diagonal())).sum()

    def __call__(self, theta):
        V = np.tensordot(theta**2, self.K, 1)
        P = np.linalg.inv(V)
        Py = P @ self.y
        value = -(self.constant + np.linalg.slogdet(V)[1] + self.y @ Py) / 2
        return value, theta**2 * (Py @ self.K @ Py - np.tensordot(self.K, P, 2))


def searched(given, v, starts=12, held=None, seed=0):
    """The largest log evidence that L-BFGS finds from random places, over log scales; scales may be zero."""
    dense = Dense(given, v)
    rng = np.random.default_rng(seed)
    unit = np.array([1.0, 10.0, 0.1, 1.0]) * 0.3
    free = np.array([k not in (held or {}) for k in range(4)])
    base = np.array([(held or {}).get(k, 0.0) for k in range(4)])

    def negative(phi):
        value, slope = dense(np.where(free, np.exp(np.clip(phi, [-30, -30, -30, least], np.log(unit) + 6)), base))
        return -value, -slope * free

    least = np.log(given.Y[:, v].std()) - 8  # NumPy's inverse has no digits beyond
    best = -np.inf
    for _ in range(starts):
        start = np.log(unit) + 1.5 * rng.standard_normal(4)
        start[3] = np.log(given.Y[:, v].std()) + 0.5 * rng.standard_normal()
        best = max(best, -minimize(negative, start, jac=True, method="L-BFGS-B").fun)
    return best


@pytest.mark.parametrize("name", BANDS)
def test_the_density_that_is_searched(name):
    """Against the covariance written out."""
    given, theta = problem(name), THETA["inside"]
    value, slope = Dense(given, 1)(theta)
    true = Truth(given.model(1)).at(theta)
    np.testing.assert_allclose(value, true.value, rtol=1e-10)
    np.testing.assert_allclose(slope, true.gradient * theta, rtol=1e-8)


@pytest.mark.parametrize("variances", [[0.5, 9.0, 0.0, 0.4], [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
@pytest.mark.parametrize("name", BANDS)
def test_the_value_alone(name, variances):
    """At given variances and at their best multiple; where none is a density, too."""
    data, targets = problem(name).model().reduced, np.arange(5)
    for rescaled in (True, False):
        whole = scales._expanded(data, np.array(variances), targets, rescaled).value
        np.testing.assert_allclose(scales._value(data, np.array(variances), targets, rescaled), whole, rtol=1e-13)


def test_a_start_that_follows_a_better_one_is_given_up():
    at = scales._unknown(np.array([[1.0, 0.0], [1.005, 0.0], [1.0, 1e-9], [1.0, 0.0]]), np.array([1.0, 2.0, 3.0, 0.0]))
    targets, nothing = np.array([0, 0, 0, 1]), scales._none_known(at.variances)
    np.testing.assert_array_equal(scales._apart(at, targets, np.arange(4), nothing), [1, 2, 3])
    np.testing.assert_array_equal(scales._apart(at, targets, np.array([0, 3]), nothing), [0, 3])
    known = scales._unknown(np.tile([1.001, 0.0], (4, 1)), np.full(4, 9.0))
    np.testing.assert_array_equal(scales._apart(at, targets, np.arange(4), known), [2])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", BANDS)
def test_maxima(name, seed):
    """No random start leads to more; slopes are zero inside and negative in the variance at zero."""
    given = problem(name, seed, V=3)
    for v in range(3):
        fitted = given.fit(v)
        theta = theta_of(fitted)
        assert fitted.log_evidence > searched(given, v) - 1e-6
        found = Exact()(given.model(v), theta)
        unit = np.where(theta > 0, theta, np.array([1.0, 10.0, 0.1, 1.0]))
        np.testing.assert_allclose(found.gradient[theta > 0] * theta[theta > 0], 0, atol=1e-5)
        at_zero = theta[0] == 0
        assert np.all(np.einsum("kk->k", found.hessian[0])[at_zero] * unit[0, at_zero] ** 2 <= 0)
        assert fitted.converged
        assert np.array_equal(fitted.optimum.limit[0], at_zero)


@pytest.mark.parametrize("held", [{"sd(noise)": 0.7}, {"sd(1)": 4.0}, {"sd(0)": 0.0}, {"sd(0)": 0.0, "sd(noise)": 0.3}])
@pytest.mark.parametrize("name", ["few columns", "many columns"])
def test_some_held(name, held):
    given = problem(name, 5, V=2)
    places = {"sd(0)": 0, "sd(1)": 1, "sd(noise)": 3}
    for v in range(2):
        fitted = given.fit(v, fixed=held)
        for key, value in held.items():
            assert fitted.hyperparameters["estimate"][key] == value
        best = searched(given, v, 6, {places[key]: value for key, value in held.items()})
        assert fitted.log_evidence > best - 1e-6
        assert fitted.converged


def test_all_held():
    given = problem("few columns", V=2)
    fitted = given.fit(fixed={"sd(0)": 0.5, "sd(1)": 2.0, "sd(2)": 0.0, "sd(noise)": 0.4})
    for v in range(2):
        true = Truth(given.model(v)).at([0.5, 2.0, 0.0, 0.4]).value
        np.testing.assert_allclose(fitted.log_evidence[v], true, rtol=1e-10)


def test_many_targets_together_end_where_each_does_alone():
    """Shared places on the way cost nothing at the end."""
    given = problem("few columns", 7, V=40)
    together = given.fit()
    assert np.all(together.converged)
    alone = [given.fit(v) for v in range(40)]
    values = np.array([f.log_evidence for f in alone])
    np.testing.assert_allclose(together.log_evidence, values, atol=1e-6, rtol=0)
    np.testing.assert_allclose(
        theta_of(together, 40), np.concatenate([theta_of(f) for f in alone]), rtol=1e-4, atol=1e-9
    )


def test_a_group_without_anything_to_say_is_zero():
    """Columns in the span of the flat ones."""
    given = problem("few columns", V=1)
    X = given.X.copy()
    X[:, given.groups == 1] = given.F[:, 1:] * [1.0, -2.0, 3.0] + 1
    fitted = replace(given, X=X).fit(0)
    assert fitted.hyperparameters["estimate"]["sd(1)"] == 0


@pytest.mark.parametrize("name", BANDS)
def test_invariances(name):
    """Units of y, of a group; order of rows, of columns, of groups."""
    given = problem(name, 11, V=2)
    base = given.fit()
    n, p = given.X.shape
    theta = theta_of(base, 2)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(n), rng.permutation(p)
    units = np.array([1e3, 1.0, 1e-4])
    turned = np.array([2, 0, 1])
    changes = {
        "y": (replace(given, Y=1e5 * given.Y), 1e5 * theta, -(n - 2) * np.log(1e5)),
        "groups": (replace(given, X=given.X * units[given.groups]), theta / np.append(units, 1), 0.0),
        "rows": (replace(given, X=given.X[rows], Y=given.Y[rows], F=given.F[rows]), theta, 0.0),
        "columns": (replace(given, X=given.X[:, columns], groups=given.groups[columns]), theta, 0.0),
        "names": (replace(given, groups=turned[given.groups]), theta[:, [1, 2, 0, 3]], 0.0),
    }
    for what, (changed, expected, shift) in changes.items():
        other = changed.fit()
        np.testing.assert_allclose(other.log_evidence - shift, base.log_evidence, rtol=1e-8, err_msg=what)
        np.testing.assert_allclose(theta_of(other, 2), expected, rtol=1e-5, atol=1e-12, err_msg=what)


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_tiny_and_huge_units(scale):
    given = problem("few columns", 2, V=2)
    base, other = given.fit(), replace(given, Y=scale * given.Y).fit()
    np.testing.assert_allclose(theta_of(other, 2) / scale, theta_of(base, 2), rtol=1e-5, atol=1e-9)


def test_counts_stand_for_repeated_rows():
    given = problem("few columns", 4, V=2)
    counts = np.arange(30) % 3 + 1
    i = np.repeat(np.arange(30), counts)
    counted = replace(given, rows={"counts": counts}).fit()
    written = replace(given, X=given.X[i], Y=given.Y[i], F=given.F[i]).fit()
    np.testing.assert_allclose(counted.log_evidence, written.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(theta_of(counted, 2), theta_of(written, 2), rtol=1e-5, atol=1e-9)


def test_a_perfect_fit_is_found_to_rounding():
    """y = Xw: the evidence has no bound, but the weights are those of least squares."""
    given = problem("few columns", V=1)
    w = np.random.default_rng(1).standard_normal(9)
    fitted = replace(given, Y=(given.X @ w)[:, None]).fit(0)
    assert fitted.hyperparameters["estimate"]["sd(noise)"] < 1e-10
    np.testing.assert_allclose(fitted.posterior.mean["ridge"], w, rtol=1e-8)
    np.testing.assert_allclose(fitted.predict(), given.X @ w, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", BANDS)
def test_posterior(name):
    """Means, deviations, covariances, predictions and degrees of freedom against those of all weights written out."""
    given = problem(name, 13, V=2)
    fitted = given.fit()
    posterior, theta = fitted.posterior, theta_of(fitted, 2)
    new = {"fixed effects": given.F[:4] + 0.5, "ridge": given.X[:4] - 0.2}
    mean, variance = np.empty((4, 2)), np.empty((4, 2))
    for v in range(2):
        true = Truth(given.model(v)).at(theta[v])
        sd = np.sqrt(np.diag(true.covariance))
        np.testing.assert_allclose(posterior.mean["fixed effects"][v], true.mean[:2], rtol=1e-7)
        np.testing.assert_allclose(posterior.mean["ridge"][v], true.mean[2:], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(posterior.sd["fixed effects"][v], sd[:2], rtol=1e-8)
        np.testing.assert_allclose(posterior.sd["ridge"][v], sd[2:], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(posterior.covariance(v), true.covariance[2:, 2:], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(posterior.flat_covariance[v], true.covariance[:2, :2], rtol=1e-7, atol=1e-10)
        assert np.all(posterior.mean["ridge"][v][theta[v][given.groups] == 0] == 0)
        a = np.concatenate([np.zeros(2), 1 / np.maximum(theta[v][given.groups], 1e-12) ** 2])
        shares = 1 - np.diag(true.covariance) * a
        np.testing.assert_allclose(posterior.edf["ridge"][v], shares[2:][theta[v][given.groups] > 0].sum(), rtol=1e-7)
        K = np.column_stack([new["fixed effects"], new["ridge"]])
        mean[:, v], variance[:, v] = K @ true.mean, np.einsum("ij,jk,ik->i", K, true.covariance, K)
    found = fitted.predict(new, interval=0.95)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-7)
    np.testing.assert_allclose((found["upper"] - found["mean"]) / 1.959963984540054, np.sqrt(variance), rtol=1e-6)
    only = fitted.predict({"ridge": new["ridge"]}, include="ridge")
    np.testing.assert_allclose(only, new["ridge"] @ posterior.mean["ridge"].T, rtol=1e-10)
    parts = fitted.occam["nats"]
    np.testing.assert_allclose(parts.groupby(level="target").sum(), fitted.log_evidence, rtol=1e-9)
    assert np.all(parts.xs("overlap", level="part") >= -1e-9)
    draws = posterior.sample(20_000, seed=1)
    for label in ("fixed effects", "ridge"):
        error = posterior.sd[label] / np.sqrt(20_000)
        assert np.all(np.abs(draws[label].mean(axis=0) - posterior.mean[label]) <= 5 * error)
        np.testing.assert_allclose(draws[label].std(axis=0), posterior.sd[label], rtol=0.03, atol=1e-12)


def test_several_terms():
    """Ridges side by side and weights with a given prior: means in their own coordinates."""
    rng = np.random.default_rng(17)
    n = 20
    X, Z, U = rng.standard_normal((n, 3)), rng.standard_normal((n, 4)), rng.standard_normal((n, 2))
    y = 1 + X @ [1.0, -1.0, 0.5] + U @ [1.0, 2.0] + 0.5 * rng.standard_normal(n)
    prior = (
        Flat(np.ones(n), ["Intercept"])
        + Ridge(X, label="x", hyperparameter="sd(x)")
        + Given(U, [1.0, 1.5], np.array([[2.0, 0.5], [0.5, 1.0]]), label="u")
        + Ridge(Z, label="z", hyperparameter="sd(z)")
    )
    model = LinearModel(Gaussian(), prior, y)
    fitted = marglik.fit(model)
    true = Truth(model).at(theta_of(fitted)[0])
    sd = np.sqrt(np.diag(true.covariance))
    for label, place in true.weights.items():
        np.testing.assert_allclose(fitted.posterior.mean[label], true.mean[place], rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(fitted.posterior.sd[label], sd[place], rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(fitted.predict(), true.columns @ true.mean, rtol=1e-8)
    np.testing.assert_allclose(fitted.occam["nats"].sum(), fitted.log_evidence, rtol=1e-10)


def test_many_bands_and_targets():
    """Shares of signal of any size: every target at a maximum, above the truth, and where it ends alone."""
    rng = np.random.default_rng(3)
    n, bands, width, V = 800, 6, 40, 60
    p = bands * width
    X = rng.standard_normal((n, p)) + rng.standard_normal((n, p // 10)) @ rng.standard_normal((p // 10, p)) / 5
    share, r2 = rng.gamma(0.5, 1.0, (bands, V)), rng.uniform(0.05, 0.6, V)
    scales = np.sqrt(share / share.sum(axis=0) * r2 / (1 - r2) / width)
    groups = np.repeat(np.arange(bands), width)
    Y = X @ (rng.standard_normal((p, V)) * scales[groups]) + rng.standard_normal((n, V))
    given = Problem(X, Y, np.ones((n, 1)), groups, {})
    fitted = given.fit()
    assert np.all(fitted.converged)
    truth = Exact()(given.model(), np.column_stack([scales.T, np.ones(V)])).log_value
    assert np.all(fitted.log_evidence > truth)
    for v in range(0, V, 10):
        np.testing.assert_allclose(fitted.log_evidence[v], given.fit(v).log_evidence, rtol=0, atol=1e-6)
