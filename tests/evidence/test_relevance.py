# SPDX-License-Identifier: BSD-3-Clause
"""One scale a column: the maximum against closed forms and against searches from many random starts."""

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
from scipy.optimize import minimize

import marglik
from marglik import textbook
from marglik.evidence import Exact, relevance
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory
from truth import Truth


def model(X, y, intercept=True, **rows):
    p = X.shape[1]
    ridge = Ridge(X, groups=np.arange(p), scales=[f"sd(x{j})" for j in range(p)])
    prior = Flat(np.ones(len(X)), ["Intercept"]) + ridge if intercept else Prior((ridge,))
    return LinearModel(Gaussian(), prior, InMemory(y, **rows))


def fit(X, y, intercept=True, fixed=None, **rows):
    return marglik.fit(model(X, y, intercept, **rows), fixed=fixed)


def theta_of(fitted, V=1):
    return fitted.hyperparameters["estimate"].to_numpy().reshape(V, -1)


def correlated(rng, n, p, rho, chain):
    """Columns with correlation ρ to each other, or each to the next."""
    X = rng.standard_normal((n, p))
    if not chain:
        return np.sqrt(1 - rho) * X + np.sqrt(rho) * rng.standard_normal((n, 1))
    for j in range(1, p):
        X[:, j] = rho * X[:, j - 1] + np.sqrt(1 - rho**2) * X[:, j]
    return X


def draw(seed, sizes=(30, 50, 100), widths=(3, 8, 15, 25)):
    """A problem with weak to strong signals in few or all columns."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.choice(sizes)), int(rng.choice(widths))
    X = correlated(rng, n, p, rng.choice([0.0, 0.5, 0.9]), rng.random() < 0.5)
    w = rng.standard_normal(p) * (rng.random(p) < rng.choice([0.1, 0.3, 1.0]))
    signal = X @ w
    signal *= rng.choice([0.1, 0.3, 1.0, 3.0]) / max(signal.std(), 1e-12)
    return X, signal + rng.standard_normal(n)


@dataclass(frozen=True)
class Search:
    """The log evidence in log scales, the noise at its best, and its local maxima by L-BFGS."""

    X: np.ndarray
    y: np.ndarray

    @property
    def n(self):
        return len(self.y) - 1

    @cached_property
    def turned(self):
        """The centred columns and y by rotations in fewest rows."""
        both = np.column_stack([self.X - self.X.mean(axis=0), self.y - self.y.mean()])
        both = np.linalg.qr(both, mode="r")
        return both[:, :-1], both[:, -1]

    def value(self, alpha):
        """With ratios e^α of the variances of weights to that of the noise; and the gradient."""
        X, y = self.turned
        S = X * np.exp(alpha / 2)
        H = S.T @ S
        H.flat[:: len(H) + 1] += 1.0
        C = np.linalg.inv(H)
        u = C @ (S.T @ y)
        e = y - S @ u
        q = e @ e + u @ u
        constant = self.n * (np.log(2 * np.pi / self.n) + 1) + np.log(len(self.y))
        value = -(self.n * np.log(q) + np.linalg.slogdet(H)[1] + constant) / 2
        return value, (u * u * self.n / q - 1 + C.diagonal()) / 2

    def climbed(self, start, free=None):
        """The local maximum next to a start; ratios that are not free are zero."""
        free = np.ones(len(start), bool) if free is None else free

        def negative(a):
            value, gradient = self.value(np.where(free, a, -np.inf))
            return -value, -gradient * free

        low, high = -25.0, 25.0 - np.log(np.var(self.X, axis=0) * len(self.y))
        bounds = [(low, h) for h in high]
        found = minimize(
            negative, np.clip(start, low, high), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 400}
        )
        return -found.fun, found.x

    def best(self, starts=20, seed=0):
        rng = np.random.default_rng(seed)
        unit = -np.log(np.var(self.X, axis=0) * len(self.y))
        draws = [unit + rng.uniform(-1, 6) + 2 * rng.standard_normal(len(unit)) for _ in range(starts)]
        return max(self.climbed(start)[0] for start in draws)


@pytest.mark.parametrize("seed", range(44))
def test_never_worse_than_random_starts(seed):
    X, y = draw(seed)
    fitted = fit(X, y)
    search = Search(X, y)
    assert fitted.log_evidence > search.best() - 1e-4
    check_maximum(X, y, fitted)


def check_maximum(X, y, fitted):
    """The slope is zero inside, negative in the variance at zero, and the value is that of θ̂ written out."""
    theta = theta_of(fitted)
    assert fitted.converged
    found = Exact()(model(X, y), theta)
    np.testing.assert_allclose(found.gradient * theta, 0, atol=1e-6)
    zero = np.flatnonzero(theta[0] == 0)
    assert np.all(found.hessian[0, zero, zero] <= 1e-9 * found.hessian[0].diagonal().max(initial=1, where=zero.any()))
    np.testing.assert_allclose(fitted.log_evidence, Truth(model(X, y)).at(theta[0]).value, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1060))
def test_never_worse_than_random_starts_on_harder_problems(seed):
    X, y = draw(seed, (100, 200), (30, 50))
    assert fit(X, y).log_evidence > Search(X, y).best() - 1e-4


SEEDS = [*range(2000, 2008), *(pytest.param(s, marks=pytest.mark.slow) for s in range(2008, 2040))]


@pytest.mark.parametrize("seed", SEEDS)
def test_more_columns_than_rows(seed):
    """There the best has often no noise at all, and as many columns as rows less one."""
    X, y = draw(seed, (10, 15, 20) if seed > 2007 else (9, 12), (12, 25, 40) if seed > 2007 else (12, 18))
    p = X.shape[1]
    if p < len(y):
        X = np.column_stack([X, np.random.default_rng(seed).standard_normal((len(y), len(y)))])
    fitted = fit(X, y)
    assert fitted.log_evidence > Search(X, y).best() - 1e-4
    if theta_of(fitted)[0, -1] > 0:
        check_maximum(X, y, fitted)


def test_no_single_column_added_or_dropped_gains():
    """Each column in turn taken out or put in at several sizes, and all others climbed anew."""
    for seed in (4, 11, 24):
        X, y = draw(seed, (60,), (12,))
        search, fitted = Search(X, y), fit(X, y)
        theta = theta_of(fitted)[0]
        with np.errstate(divide="ignore"):
            alpha = np.maximum(2 * np.log(theta[:-1] / theta[-1]), -25)
        for j in range(12):
            if theta[j] > 0:
                other, there = search.climbed(alpha, free=np.arange(12) != j)
                again, _ = search.climbed(np.where(np.arange(12) == j, -3.0 - np.log(60), there))
                assert max(other, again) < fitted.log_evidence + 1e-6
            else:
                for size in (-3.0, 0.0, 3.0):
                    start = np.where(np.arange(12) == j, size - np.log(60), alpha)
                    assert search.climbed(start)[0] < fitted.log_evidence + 1e-6


@pytest.mark.parametrize("signal", [0.0, 0.1, 0.5, 3.0])
def test_one_column_with_the_noise_given(signal):
    """The scalar model, in closed form."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20)
    y = signal * x + rng.standard_normal(20)
    z = rng.standard_normal(20)
    z -= x * (x @ z) / (x @ x)  # of no use to the other
    fitted = fit(np.column_stack([x, z]), y, intercept=False, fixed={"sd(noise)": 1.0})
    expected = [textbook.scalar_prior_variance(v, y, 1.0) for v in (x, z)]
    np.testing.assert_allclose(theta_of(fitted)[0, :2] ** 2, expected, rtol=1e-7, atol=0)


def test_orthogonal_columns_with_the_noise_learned():
    """Each column's share of y decides: the equation of the module's first page holds for each, given the others."""
    rng = np.random.default_rng(1)
    X = np.linalg.qr(rng.standard_normal((40, 6)))[0] * np.linspace(1, 30, 6)
    y = X @ [3.0, 1.0, 0.0, 0.1, 0.0, 0.05] + rng.standard_normal(40)
    fitted = fit(X, y, intercept=False)
    *s, sigma = theta_of(fitted)[0]
    c, m = np.sum(X**2, axis=0), X.T @ y
    np.testing.assert_allclose(np.square(s), np.maximum((m**2 / c - sigma**2) / c, 0), rtol=1e-7)
    v = sigma**2 + np.square(s) * c
    np.testing.assert_allclose(sigma**2 * 40, sigma**2 * np.sum(m**2 / c / v) + y @ y - np.sum(m**2 / c), rtol=1e-7)


def test_a_pair_that_is_of_use_together_only():
    """y = x₁ − x₂ where both are almost the same: neither gains alone."""
    rng = np.random.default_rng(5)
    common = rng.standard_normal(60)
    X = np.column_stack([common, common, rng.standard_normal(60)]) + 0.05 * rng.standard_normal((60, 3))
    y = 20 * (X[:, 0] - X[:, 1]) + 0.3 * rng.standard_normal(60)
    y -= X[:, :1] @ np.linalg.lstsq(X[:, :1], y)[0]
    theta = theta_of(fit(X, y))[0]
    assert np.all(theta[:2] > 5)


@pytest.mark.parametrize(
    "held", [{"sd(noise)": 0.8}, {"sd(x0)": 0.0}, {"sd(x1)": 0.5}, {"sd(x1)": 0.5, "sd(noise)": 1.2}]
)
def test_some_held(held):
    """What is held stays; the rest is at a maximum, given that."""
    X, y = draw(7, (40,), (6,))
    fitted = fit(X, y, fixed=held)
    table = fitted.hyperparameters["estimate"]
    for name, value in held.items():
        assert table[name] == value
    truth, names = Truth(model(X, y)), list(table.index)
    free = np.array([name not in held for name in names])
    rng = np.random.default_rng(0)

    def negative(phi):
        theta = np.where(free, np.exp(phi), table.to_numpy())
        at = truth.at(theta)
        return -at.value, -at.gradient * theta * free

    best = max(-minimize(negative, rng.standard_normal(7) - 1, jac=True, method="L-BFGS-B").fun for _ in range(8))
    assert fitted.log_evidence > best - 1e-6
    assert fitted.converged


@pytest.mark.parametrize(("seed", "held"), [(0, {}), (24, {}), (24, {"sd(noise)": 1.3}), (24, {"sd(x2)": 0.4})])
def test_upper_limits(seed, held):
    """Of columns without a scale: where twice the log evidence has dropped by 2.71, the others as they are."""
    X, y = draw(seed)
    X = np.column_stack([X, np.ones(len(X)), X[:, 0]])  # of a constant nothing is known, of a copy something
    if "sd(x2)" in held:
        held = {**held, "sd(noise)": 1.3}
    fitted = fit(X, y, fixed=held)
    table = fitted.hyperparameters
    upper = table["upper"][table["at_boundary"]]
    constant = f"sd(x{X.shape[1] - 2})"
    assert upper[constant] == np.inf
    assert len(upper) > 3
    for name, value in upper.drop(constant).items():
        drop = fitted.log_evidence - fitted.log_evidence_at({name: value})
        np.testing.assert_allclose(2 * drop, 2.705543454095404, rtol=1e-8)


def test_upper_limits_without_noise():
    """Of columns that are not needed, and of the noise."""
    X, y = draw(2014, (15,), (40,))
    fitted = fit(X, y)
    table = fitted.hyperparameters
    upper = table["upper"][table["at_boundary"]]
    assert len(upper) == 27
    assert upper.index[-1] == "sd(noise)"
    for name, value in upper.items():
        drop = fitted.log_evidence - fitted.log_evidence_at({name: value})
        np.testing.assert_allclose(2 * drop, 2.705543454095404, rtol=1e-5)


def test_upper_limits_of_many_columns_take_no_time():
    """As much as a few evaluations: a profile of each would take hours."""
    rng = np.random.default_rng(18)
    X = rng.standard_normal((400, 300))
    fitted = fit(X, X[:, :5] @ np.ones(5) + rng.standard_normal(400))
    start = time.process_time()
    table = fitted.hyperparameters
    assert time.process_time() - start < 5
    assert np.all(np.isfinite(table["upper"]))


def test_targets_are_independent():
    X, y = draw(3, (50,), (8,))
    rng = np.random.default_rng(0)
    Y = np.column_stack([y, rng.standard_normal(50), 10 * y + rng.standard_normal(50)])
    together = fit(X, Y)
    for v in range(3):
        alone = fit(X, Y[:, v])
        np.testing.assert_allclose(together.log_evidence[v], alone.log_evidence, rtol=1e-12)
        np.testing.assert_allclose(theta_of(together, 3)[v], theta_of(alone)[0], rtol=1e-8)


@pytest.mark.parametrize("seed", [2, 9, 31])
def test_invariances(seed):
    """Units of y and of columns, order of rows and of columns, signs."""
    X, y = draw(seed)
    n, p = X.shape
    base = fit(X, y)
    theta = theta_of(base)[0]
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(n), rng.permutation(p)
    units = 10.0 ** rng.integers(-5, 6, p) * np.where(rng.random(p) < 0.5, -1, 1)
    changes = {
        "y": (X, 1e6 * y, 1e6 * theta, -(n - 1) * np.log(1e6)),
        "columns": (X * units, y, theta / np.append(np.abs(units), 1), 0.0),
        "rows": (X[rows], y[rows], theta, 0.0),
        "order": (X[:, columns], y, theta[np.append(columns, p)], 0.0),
        "means": (X + 1e3, y - 1e5, theta, 0.0),
    }
    for what, (X2, y2, expected, shift) in changes.items():
        other = fit(X2, y2)
        np.testing.assert_allclose(other.log_evidence - shift, base.log_evidence, rtol=1e-7, err_msg=what)
        np.testing.assert_allclose(theta_of(other)[0], expected, rtol=1e-5, atol=0, err_msg=what)


def test_counts_stand_for_repeated_rows():
    X, y = draw(6, (30,), (8,))
    counts = np.arange(30) % 3 + 1
    i = np.repeat(np.arange(30), counts)
    counted, written = fit(X, y, counts=counts), fit(X[i], y[i])
    np.testing.assert_allclose(counted.log_evidence, written.log_evidence, rtol=1e-10)
    np.testing.assert_allclose(theta_of(counted), theta_of(written), rtol=1e-6)


def test_columns_that_say_nothing():
    """Constant ones are of no use next to the intercept; of copies the first stands for all."""
    X, y = draw(8, (40,), (8,))
    fitted = fit(X, y)
    more = fit(np.column_stack([X, np.full(40, 3.0), X[:, 2], -2 * X[:, 5]]), y)
    np.testing.assert_allclose(more.log_evidence, fitted.log_evidence, rtol=1e-10)
    theta = theta_of(more)[0]
    np.testing.assert_allclose(theta[:8], theta_of(fitted)[0, :8], rtol=1e-6)
    np.testing.assert_array_equal(theta[8:11], 0)


@pytest.mark.parametrize("intercept", [True, False])
def test_columns_without_any_variation(intercept):
    """Zeros and constants: their weights are zero, of zeros nothing is known; if that is all, what is left is noise."""
    X, y = draw(8, (40,), (8,))
    zeros = fit(np.column_stack([X, np.zeros(40)]), y, intercept)
    np.testing.assert_allclose(zeros.log_evidence, fit(X, y, intercept).log_evidence, rtol=1e-10)
    row = zeros.hyperparameters.loc["sd(x8)"]
    assert (row["estimate"], row["upper"]) == (0, np.inf)
    only = fit(np.zeros((40, 2)) if not intercept else np.ones((40, 2)), y, intercept)
    expected = np.sqrt(np.mean(y**2)) if not intercept else y.std(ddof=1)
    np.testing.assert_allclose(theta_of(only)[0], [0, 0, expected], rtol=1e-12)
    assert np.all(only.posterior.mean["ridge"] == 0)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("scale", [1e-70, 1e70])
def test_columns_of_very_different_size(scale, intercept):
    """Means, deviations and the value at the maximum, as in units of one."""
    X, y = draw(9, (40,), (6,))
    units = np.array([scale, 1, 1 / scale, 1e5, 1e-5, 1])
    plain, other = fit(X, y, intercept), fit(X * units, y, intercept)
    np.testing.assert_allclose(other.log_evidence, plain.log_evidence, rtol=1e-9)
    np.testing.assert_allclose(other.posterior.mean["ridge"] * units, plain.posterior.mean["ridge"], rtol=1e-6)
    np.testing.assert_allclose(other.posterior.sd["ridge"] * units, plain.posterior.sd["ridge"], rtol=1e-6)
    np.testing.assert_allclose(
        (other.hyperparameters["upper"] * np.append(units, 1)), plain.hyperparameters["upper"], rtol=1e-5
    )


@pytest.mark.parametrize("V", [None, 3])
def test_the_estimator_against_the_covariance_written_out(V):
    """Coefficients, their covariance, precisions, and predictions for new rows with a noise of their own."""
    X, y = draw(5, (40,), (8,))
    rng = np.random.default_rng(0)
    Y = y if V is None else np.column_stack([y, rng.standard_normal(40), X[:, 0] + 0.1 * y])
    found = marglik.RidgeEB(groups="columns").fit(X, Y)
    new = rng.standard_normal((4, 8))
    mean, sd = found.predict(new, return_std=True)
    for v in range(V or 1):
        at = (lambda a: a) if V is None else (lambda a: a[..., v])  # noqa: B023
        of = (lambda a: a) if V is None else (lambda a: a[v])  # noqa: B023
        s, noise = of(found.lambda_) ** -0.5, of(found.alpha_) ** -0.5
        true = Truth(model(X, at(Y))).at(np.append(s, noise))
        np.testing.assert_allclose(of(found.log_evidence_), true.value, rtol=1e-10)
        np.testing.assert_allclose(of(found.coef_), true.mean[1:], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(of(found.intercept_), true.mean[0], rtol=1e-9)
        np.testing.assert_allclose(of(found.sigma_), true.covariance[1:, 1:], rtol=1e-7, atol=1e-14)
        K = np.column_stack([np.ones(4), new])
        np.testing.assert_allclose(at(mean), K @ true.mean, rtol=1e-9)
        np.testing.assert_allclose(at(sd) ** 2, np.einsum("ij,jk,ik->i", K, true.covariance, K) + noise**2, rtol=1e-9)


def test_alpha_and_lambda_as_in_the_usual_estimator():
    """At its own maximum, which here is the same: precisions and the covariance of the weights that it keeps."""
    from sklearn.linear_model import ARDRegression

    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 6))
    y = 3 + X @ [2.0, 0, -1.0, 0, 0.5, 1.0] + 0.5 * rng.standard_normal(400)
    ours, theirs = marglik.RidgeEB(groups="columns").fit(X, y), ARDRegression(max_iter=10_000, tol=1e-12).fit(X, y)
    kept = np.isfinite(ours.lambda_)
    np.testing.assert_array_equal(kept, theirs.lambda_ < theirs.threshold_lambda)
    np.testing.assert_allclose(ours.lambda_[kept], theirs.lambda_[kept], rtol=5e-3)
    np.testing.assert_allclose(ours.alpha_, theirs.alpha_, rtol=1e-2)  # theirs does not count the intercept
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(ours.sigma_[np.ix_(kept, kept)], theirs.sigma_, rtol=2e-2, atol=1e-6)


def test_nothing_but_noise():
    """A constant y aside, no column is of use to half of all that are noise; then all weights are zero."""
    rng = np.random.default_rng(12)
    X, Y = rng.standard_normal((200, 2)), rng.standard_normal((200, 300))
    theta = theta_of(fit(X, Y), 300)
    none = np.mean(np.all(theta[:, :2] == 0, axis=1))
    assert 0.4 < none < 0.56  # P(F < n/(n − 1))² = 0.47
    alone = theta[np.all(theta[:, :2] == 0, axis=1), 2] ** 2
    residual = (Y - Y.mean(axis=0))[:, np.all(theta[:, :2] == 0, axis=1)]
    np.testing.assert_allclose(alone, np.sum(residual**2, axis=0) / 199, rtol=1e-10)


def test_a_perfect_fit_is_found_to_rounding():
    """y = Xw: with the columns that take part, and no others."""
    rng = np.random.default_rng(13)
    X = rng.standard_normal((40, 8))
    w = np.array([1.0, 0, 0, -2.0, 0, 0.5, 0, 0])
    fitted = fit(X, X @ w)
    theta = theta_of(fitted)[0]
    assert np.array_equal(theta[:-1] > 0, w != 0)
    assert 0 < theta[-1] < 1e-9
    np.testing.assert_allclose(fitted.posterior.mean["ridge"], w, rtol=1e-8)


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
def test_tiny_noise_is_found(noise):
    rng = np.random.default_rng(14)
    X = rng.standard_normal((40, 5))
    e = rng.standard_normal(40)
    fitted = fit(X, X @ [1.0, -1.0, 2.0, 0.5, 3.0] + noise * e)
    F = np.column_stack([np.ones(40), X])
    residual = e - F @ np.linalg.lstsq(F, e)[0]
    np.testing.assert_allclose(theta_of(fitted)[0, -1], noise * np.sqrt(residual @ residual / 34), rtol=1e-5)


def test_better_than_the_usual_iteration():
    """Than scikit-learn's, which prunes columns as it goes."""
    from sklearn.linear_model import ARDRegression

    for seed in range(4):
        X, y = draw(seed, (200,), (60,))
        peer = ARDRegression().fit(X, y)
        s = np.where(peer.lambda_ < peer.threshold_lambda, peer.lambda_**-0.5, 0.0)
        theirs = Truth(model(X, y)).at(np.append(s, peer.alpha_**-0.5)).value
        assert fit(X, y).log_evidence > theirs


def test_the_slope_and_curvature_that_climbs_follow():
    """Against differences of ℓ in α, the noise learned and given."""
    rng = np.random.default_rng(15)
    X, y = rng.standard_normal((30, 4)), rng.standard_normal(30)
    X, y = X / np.linalg.norm(X, axis=0), y / np.linalg.norm(y)
    alpha, active, h = np.array([1.0, -0.5, 2.0, 3.0]), np.arange(4), 1e-4
    for noise in (relevance.Noise(30), relevance.Noise(30, 0.02)):
        problem = relevance.Problem(X.T @ X, X.T @ y, noise, None)
        at = relevance.point(problem, active, alpha, problem.G)
        slope, minus_h = relevance._curvature(noise, at)
        values = lambda a: relevance.point(problem, active, a, problem.G)  # noqa: E731, B023
        slopes = lambda a: relevance._curvature(noise, values(a))[0]  # noqa: E731, B023
        for j, e in enumerate(np.eye(4) * h):
            rise = values(alpha + e).value - values(alpha - e).value
            np.testing.assert_allclose(rise / (2 * h), slope[j], rtol=1e-6)
            turn = slopes(alpha + e) - slopes(alpha - e)
            np.testing.assert_allclose(turn / (2 * h), -minus_h[j], rtol=1e-5, atol=1e-8)


def test_what_a_column_gains():
    """t and the gain of one column, against the evidence with and without it."""
    rng = np.random.default_rng(16)
    x, y = rng.standard_normal(20), rng.standard_normal(20)
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    x = (x + 2 * y) / np.linalg.norm(x + 2 * y)
    for noise in (relevance.Noise(20), relevance.Noise(20, 0.02)):
        problem = relevance.Problem(np.ones((1, 1)), np.array([x @ y]), noise, None)
        t, gain = noise.best_one((x @ y) ** 2, 1.0)
        np.testing.assert_allclose(noise.best(np.array([(x @ y) ** 2]), np.ones(1)), t)
        value = lambda a: relevance.point(problem, np.zeros(1, int), np.array([a]), problem.G).value  # noqa: E731, B023
        best = np.log(t / (1 - t))
        np.testing.assert_allclose(value(best) - relevance.nothing(problem).value, gain, rtol=1e-10)
        assert value(best) > max(value(best - 1e-3), value(best + 1e-3))


def test_weights_of_rows():
    """Precision weights: as if rows and y were scaled, and the constant added."""
    X, y = draw(10, (40,), (6,))
    w = np.random.default_rng(0).uniform(0.2, 5, 40)
    fitted = fit(X, y, weights=w)
    weighted = replace(model(X, y), rows=InMemory(y, weights=w))
    np.testing.assert_allclose(fitted.log_evidence, Truth(weighted).at(theta_of(fitted)[0]).value, rtol=1e-10)
