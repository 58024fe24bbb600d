# SPDX-License-Identifier: BSD-3-Clause
"""The scalar model against integrals, densities, differences and searches that know none of its formulas."""

import math
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from marglik import textbook as tb

X = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
Y = np.array([1.9, 4.2, 5.8, 8.1, 10.3])
RANDOM = [
    (np.random.default_rng(seed).normal(size=n), np.random.default_rng(100 + seed).normal(size=n) + 0.5, noise)
    for seed, n, noise in ((0, 1, 1.0), (1, 3, 0.2), (2, 8, 2.5), (3, 25, 0.7))
]
INSTANCES = ("galileo_like", "boundary_zero", "just_above_threshold")
VARIANCES = (0.0, 1e-4, 0.3, 1.0, 7.0, 1e4)


def density(x, y, prior_variance, noise_variance):
    """log p(y|σ²) as the density of N(0, σ² x xᵀ + δ² I)."""
    covariance = prior_variance * np.outer(x, x) + noise_variance * np.eye(len(x))
    return stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(y)


def log_integrand(w, x, y, prior_variance, noise_variance):
    likelihood = stats.norm.logpdf(y, np.multiply.outer(w, x), noise_variance**0.5).sum(-1)
    return likelihood + stats.norm.logpdf(w, 0, prior_variance**0.5)


def moments(x, y, prior_variance, noise_variance):
    """Log of the integral over w, mean and variance of w, by quadrature about the integrand's peak."""

    def log_f(w):
        return log_integrand(w, x, y, prior_variance, noise_variance)

    peak = optimize.minimize_scalar(lambda w: -log_f(w)).x
    step = 1e-3 * max(1.0, abs(peak))
    width = (-(log_f(peak + step) + log_f(peak - step) - 2 * log_f(peak)) / step**2) ** -0.5

    def integral(power):
        def f(z):
            return z**power * np.exp(log_f(peak + width * z) - log_f(peak))

        return integrate.quad(f, -12, 12, epsabs=1e-12, epsrel=1e-11, limit=200)[0]

    total, first, second = (integral(power) for power in (0, 1, 2))
    variance = width**2 * (second / total - (first / total) ** 2)
    return log_f(peak) + math.log(width * total), peak + width * first / total, variance


def exact(x, y, prior_variance, noise_variance, digits=900):
    """The textbook formula as it stands, in so many digits that nothing cancels and nothing overflows."""
    with localcontext() as context:
        context.prec = digits
        s2, d2 = Decimal(float(prior_variance)), Decimal(float(noise_variance))
        x, y = [Decimal(float(z)) for z in x], [Decimal(float(z)) for z in y]
        v, m, c = (sum(a * b for a, b in zip(p, q, strict=True)) for p, q in ((y, y), (x, y), (x, x)))
        context.prec = 50
        pi = Decimal("3.1415926535897932384626433832795028841971693993751")
        constant, growth = (2 * pi * d2).ln(), (1 + c * s2 / d2).ln()
        context.prec = digits
        return float(-len(x) * constant / 2 - growth / 2 - (v / d2 - m * m / (d2 * d2 * (1 / s2 + c / d2))) / 2)


def central(f, at, step):
    return (f(at + step) - f(at - step)) / (2 * step)


# Published values.


@pytest.mark.parametrize("instance", INSTANCES)
def test_every_reference_value(case, instance):
    given = case("scalar_eb_a")
    rows = given.data[given.data["instance"] == instance]
    x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
    expected = given.value(instance)
    d2 = expected["d2"]
    assert (rows["d2"] == d2).all()
    n, v, m, c = tb.scalar_statistics(x, y)
    assert n == len(rows)
    assert v == pytest.approx(math.fsum(y * y))
    s2 = tb.scalar_prior_variance(x, y, d2)
    w_ml, (w_map, variance) = tb.scalar_ml(x, y), tb.scalar_posterior(x, y, s2, d2)
    found = {
        "d2": d2,
        "m": m,
        "c": c,
        "threshold_stat_m2_over_c_d2": tb.scalar_signal(x, y, d2),
        "s2_unclipped": (m**2 - c * d2) / c**2,
        "s2_hat": s2,
        "w_ML": w_ml,
        "w_MAP_at_s2_hat": w_map,
        "identity_wML_wMAP": w_ml * w_map,
        "log_evidence_at_s2_hat": tb.scalar_log_evidence(x, y, s2, d2),
        "log_evidence_at_s2_0": tb.scalar_log_evidence(x, y, 0, d2),
        "log_evidence_at_s2_1": tb.scalar_log_evidence(x, y, 1, d2),
        "d_log_evidence_d_s2_at_0": tb.scalar_log_evidence_slope(x, y, 0, d2),
        "posterior_var_at_s2_hat": variance,
        "d2_log_evidence_d_s2^2_at_hat": tb.scalar_log_evidence_curvature(x, y, s2, d2),
    }
    entry = given.reference[instance]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=entry["atol"], rel=entry["rtol"]), name
    if instance == "boundary_zero":
        assert s2 == 0
        assert w_map == 0


# The evidence.


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
@pytest.mark.parametrize("variance", VARIANCES)
def test_log_evidence_is_the_density_of_the_data(x, y, noise, variance):
    expected = density(x, y, variance, noise)
    assert tb.scalar_log_evidence(x, y, variance, noise) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
@pytest.mark.parametrize("variance", [1e-4, 0.3, 7.0])
def test_evidence_and_posterior_are_integrals_over_the_weight(x, y, noise, variance):
    log_evidence, mean, spread = moments(x, y, variance, noise)
    assert tb.scalar_log_evidence(x, y, variance, noise) == pytest.approx(log_evidence, rel=1e-9)
    posterior = tb.scalar_posterior(x, y, variance, noise)
    assert posterior.mean == pytest.approx(mean, rel=1e-8, abs=1e-12)
    assert posterior.variance == pytest.approx(spread, rel=1e-8)


def test_an_array_of_prior_variances_gives_an_array():
    grid = np.array([[0.0, 0.5, 2.0], [1e3, 1e300, np.inf]])
    for f in (tb.scalar_log_evidence, tb.scalar_map, tb.scalar_log_evidence_slope, tb.scalar_log_evidence_curvature):
        values = f(X, Y, grid, 0.25)
        assert values.shape == grid.shape
        assert not np.isnan(values).any()
        one_by_one = [f(X, Y, s2, 0.25) for s2 in grid.ravel()]
        assert all(isinstance(value, float) for value in one_by_one)
        np.testing.assert_array_equal(values.ravel(), one_by_one)


def test_edges_of_the_prior_variance():
    at_zero = stats.norm.logpdf(Y, 0, 0.5).sum()
    assert tb.scalar_log_evidence(X, Y, 0, 0.25) == pytest.approx(at_zero, rel=1e-14)
    assert tb.scalar_log_evidence(X, Y, 1e-320, 0.25) == pytest.approx(at_zero, rel=1e-14)
    assert tb.scalar_log_evidence(X, Y, np.inf, 0.25) == -np.inf
    assert tb.scalar_posterior(X, Y, 0, 0.25) == (0, 0)
    assert tb.scalar_posterior(X, Y, np.inf, 0.25) == pytest.approx((tb.scalar_ml(X, Y), 0.25 / 55), rel=1e-13)


@pytest.mark.parametrize("a", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("b", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("variance", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize("noise", [1e-300, 1.0, 1e300])
def test_log_evidence_at_any_scale(a, b, variance, noise):
    x, y = a * X[:3], b * Y[:3]
    with np.errstate(all="raise", under="ignore"):
        found = tb.scalar_log_evidence(x, y, variance, noise)
    assert found == pytest.approx(exact(x, y, variance, noise), rel=1e-12)


@pytest.mark.parametrize("a", [1e-150, 1e150])
def test_every_function_at_extreme_scales(a):
    """In units in which x and y are of order one, nothing may change but the units."""
    s2, d2 = 1.3, 0.25
    for x, y, w_unit, y_unit in ((a * X, a * Y, 1.0, a), (a * X, Y, 1 / a, 1.0), (X, a * Y, a, a)):
        variance, noise = s2 * w_unit * w_unit, d2 * y_unit * y_unit
        assert tb.scalar_signal(x, y, noise) == pytest.approx(tb.scalar_signal(X, Y, d2), rel=1e-12)
        shift = -5 * math.log(y_unit)
        expected = tb.scalar_log_evidence(X, Y, s2, d2) + shift
        assert tb.scalar_log_evidence(x, y, variance, noise) == pytest.approx(expected, rel=1e-12)
        assert tb.scalar_ml(x, y) / w_unit == pytest.approx(tb.scalar_ml(X, Y), rel=1e-12)
        assert tb.scalar_map(x, y, variance, noise) / w_unit == pytest.approx(tb.scalar_map(X, Y, s2, d2), rel=1e-12)
        best = tb.scalar_prior_variance(x, y, noise) / w_unit / w_unit
        assert best == pytest.approx(tb.scalar_prior_variance(X, Y, d2), rel=1e-12)
        slope = tb.scalar_log_evidence_slope(x, y, variance, noise) * w_unit * w_unit
        assert slope == pytest.approx(tb.scalar_log_evidence_slope(X, Y, s2, d2), rel=1e-11)
        assert tb.scalar_joint_mode(x, y, noise).w / w_unit == pytest.approx(tb.scalar_joint_mode(X, Y, d2).w)
        joint = tb.scalar_log_joint(x, y, 1.5 * w_unit, 0.7 * w_unit, noise) - shift + math.log(w_unit)
        assert joint == pytest.approx(tb.scalar_log_joint(X, Y, 1.5, 0.7, d2), rel=1e-10)


def test_nothing_cancels_when_the_data_fit_almost_exactly():
    """v/δ² and m²/(δ⁴(1/σ² + c/δ²)) agree here to twelve digits."""
    x = np.arange(1.0, 9)
    y = math.pi * x + 1e-5 * np.sin(x)
    found = tb.scalar_log_evidence(x, y, 4.0, 1e-10)
    assert found == pytest.approx(exact(x, y, 4.0, 1e-10), rel=1e-9)
    n, v, m, c = tb.scalar_statistics(x, y)
    naive = (
        -n / 2 * math.log(2 * math.pi * 1e-10)
        - math.log1p(c * 4e10) / 2
        - (v / 1e-10 - m**2 / (1e-20 * (0.25 + c / 1e-10))) / 2
    )
    assert abs(naive - found) > 1e-4


def test_one_observation_leaves_no_residual():
    """0.11 − (0.11/0.14) 0.14 is 1e-17 in floats, which is much where the noise is 1e-20."""
    expected = exact([0.14], [0.11], 2.0, 1e-40)
    assert tb.scalar_log_evidence([0.14], [0.11], 2.0, 1e-40) == pytest.approx(expected, rel=1e-12)


def test_an_x_of_zeros_says_nothing_of_the_weight():
    x, y, grid = np.zeros(3), np.array([1.0, -2.0, 0.5]), np.array([0, 1.0, np.inf])
    flat = stats.norm.logpdf(y, 0, 1.5).sum()
    np.testing.assert_allclose(tb.scalar_log_evidence(x, y, grid, 2.25), flat, rtol=1e-14)
    np.testing.assert_array_equal(tb.scalar_log_evidence_slope(x, y, grid, 2.25), 0)
    np.testing.assert_array_equal(tb.scalar_map(x, y, grid, 2.25), 0)
    np.testing.assert_array_equal(tb.scalar_posterior(x, y, grid, 2.25).variance, grid)
    assert tb.scalar_prior_variance(x, y, 2.25) == 0
    assert tb.scalar_signal(x, y, 2.25) == 0
    assert tb.scalar_joint_mode(x, y, 2.25) is None
    assert tb.scalar_log_likelihood(x, y, 1e300, 2.25) == pytest.approx(flat, rel=1e-14)
    with pytest.raises(ValueError, match="every x is 0"):
        tb.scalar_ml(x, y)


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
@pytest.mark.parametrize("variance", [0.05, 1.0, 30.0])
def test_slope_and_curvature_are_derivatives(x, y, noise, variance):
    def f(s2):
        return density(x, y, s2, noise)

    slope = tb.scalar_log_evidence_slope(x, y, variance, noise)
    assert slope == pytest.approx(central(f, variance, 1e-4 * variance), rel=1e-5, abs=1e-7)
    curvature = central(lambda s2: tb.scalar_log_evidence_slope(x, y, s2, noise), variance, 1e-5 * variance)
    assert tb.scalar_log_evidence_curvature(x, y, variance, noise) == pytest.approx(curvature, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
def test_slope_and_curvature_at_zero(x, y, noise):
    _, _, m, c = tb.scalar_statistics(x, y)
    at_zero = m**2 / (2 * noise**2) - c / (2 * noise)
    assert tb.scalar_log_evidence_slope(x, y, 0, noise) == pytest.approx(at_zero, rel=1e-12)
    forward = (density(x, y, 1e-6, noise) - density(x, y, 0, noise)) / 1e-6
    assert at_zero == pytest.approx(forward, rel=1e-3)
    curvature = c**2 / (2 * noise**2) - c * m**2 / noise**3
    assert tb.scalar_log_evidence_curvature(x, y, 0, noise) == pytest.approx(curvature, rel=1e-12)


def test_fit_and_complexity_sum_to_the_log_evidence():
    grid = np.geomspace(1e-6, 1e6, 50)
    best_fit, misfit, occam = tb.scalar_decomposition(X, Y, grid, 0.25)
    np.testing.assert_allclose(best_fit + misfit + occam, tb.scalar_log_evidence(X, Y, grid, 0.25), rtol=1e-14)
    slope = np.linalg.lstsq(X[:, None], Y, rcond=None)[0][0]
    assert best_fit == pytest.approx(stats.norm.logpdf(Y, slope * X, 0.5).sum(), rel=1e-12)
    assert (np.diff(misfit) > 0).all()
    assert (np.diff(occam) < 0).all()
    assert (misfit <= 0).all()
    sd_ratio = np.sqrt(tb.scalar_posterior(X, Y, grid, 0.25).variance / grid)
    np.testing.assert_allclose(occam, np.log(sd_ratio), rtol=1e-9, atol=1e-12)


# Its maximum.


@pytest.mark.parametrize(("x", "y", "noise"), [*RANDOM, (X, Y, 0.25), (X, Y, 25.0), (X, Y, 300.0)])
def test_prior_variance_maximises_the_evidence(x, y, noise):
    best = tb.scalar_prior_variance(x, y, noise)
    grid = np.append(0, np.geomspace(1e-6, 1e4, 400))
    values = [density(x, y, s2, noise) for s2 in grid]
    assert tb.scalar_log_evidence(x, y, best, noise) >= max(values) - 1e-9 * abs(max(values))
    if best == 0:
        assert np.argmax(values) == 0
        assert tb.scalar_log_evidence_slope(x, y, 0, noise) <= 0
    else:
        found = optimize.minimize_scalar(
            lambda log_s2: -density(x, y, math.exp(log_s2), noise),
            bounds=(-20, 20),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert best == pytest.approx(math.exp(found.x), rel=1e-5)
        assert abs(tb.scalar_log_evidence_slope(x, y, best, noise)) < 1e-9 * tb.scalar_log_evidence_slope(
            x, y, 0, noise
        )
        at_best = -((tb.scalar_statistics(x, y).c / noise / tb.scalar_signal(x, y, noise)) ** 2) / 2
        assert tb.scalar_log_evidence_curvature(x, y, best, noise) == pytest.approx(at_best, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_prior_scale_is_the_geometric_mean_of_the_estimates(seed):
    rng = np.random.default_rng(seed)
    x, y, noise = rng.normal(size=4), rng.normal(size=4), rng.exponential(0.5)
    best = tb.scalar_prior_variance(x, y, noise)
    assert tb.scalar_ml(x, y) * tb.scalar_map(x, y, best, noise) == pytest.approx(best, rel=1e-12)
    assert (best > 0) == (tb.scalar_signal(x, y, noise) > 1) == (tb.scalar_log_evidence_slope(x, y, 0, noise) > 0)


@pytest.mark.parametrize(("x", "y"), [([1], [3]), ([1, 1, 1], [3, 0, 0]), ([2, -1], [0, -5]), ([1, 2], [0, 0])])
def test_at_the_threshold_the_prior_variance_is_exactly_zero(x, y):
    _, _, m, c = tb.scalar_statistics(x, y)
    threshold = m**2 / c or 1.0
    assert tb.scalar_prior_variance(x, y, threshold) == 0
    assert tb.scalar_prior_variance(x, y, 2 * threshold) == 0
    if m:
        assert tb.scalar_signal(x, y, threshold) == 1
        assert tb.scalar_prior_variance(x, y, threshold * (1 - 1e-15)) > 0


def test_a_prior_variance_outside_the_floats_is_refused_and_not_called_zero():
    for x, y in ((1e150 * X, 1e-150 * Y), (1e-150 * X, 1e150 * Y)):
        with pytest.raises(ValueError, match="too large or too small for a float"):
            tb.scalar_prior_variance(x, y, float(1e-10 * max(y) ** 2))


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
def test_ml_and_map_minimise_what_they_say(x, y, noise):
    assert tb.scalar_ml(x, y) == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], rel=1e-12)
    found = optimize.minimize_scalar(lambda w: -log_integrand(w, x, y, 1.7, noise)).x
    assert tb.scalar_map(x, y, 1.7, noise) == pytest.approx(found, rel=1e-6)


# The joint density.


@pytest.mark.parametrize(("x", "y", "noise"), RANDOM)
def test_log_likelihood_and_log_joint_are_densities(x, y, noise):
    w, sd = np.linspace(-2, 3, 7)[:, None], np.array([0.1, 1.0, 20.0])
    likelihood = stats.norm.logpdf(y, w * x, noise**0.5).sum(-1, keepdims=True)
    np.testing.assert_allclose(tb.scalar_log_likelihood(x, y, w, noise), likelihood, rtol=1e-11)
    joint = likelihood + stats.norm.logpdf(w, 0, sd)
    np.testing.assert_allclose(tb.scalar_log_joint(x, y, w, sd, noise), joint, rtol=1e-11)
    assert isinstance(tb.scalar_log_joint(x, y, 1.0, 1.0, noise), float)


def test_the_ridge_is_the_best_scale_for_its_weight_and_has_no_end():
    for w in (-2.0, 0.03, 1.9):
        found = optimize.minimize_scalar(lambda log_sd, w=w: -tb.scalar_log_joint(X, Y, w, math.exp(log_sd), 25.0))
        assert math.exp(found.x) == pytest.approx(abs(w), rel=1e-6)
        assert tb.scalar_log_joint_ridge(X, Y, w, 25.0) == pytest.approx(-found.fun, rel=1e-12)
    w = 10.0 ** -np.arange(3, 300, 9)
    steps = np.diff(tb.scalar_log_joint_ridge(X, Y, w, 25.0))
    np.testing.assert_allclose(steps[1:], 9 * math.log(10), rtol=1e-6)
    assert tb.scalar_log_joint_ridge(X, Y, 0.0, 25.0) == np.inf


def hessian(x, y, w, sd, noise, h=1e-4):
    def f(a, b):
        return tb.scalar_log_joint(x, y, w + a * h, sd + b * h, noise)

    cross = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / 4
    return np.array([[f(1, 0) - 2 * f(0, 0) + f(-1, 0), cross], [cross, f(0, 1) - 2 * f(0, 0) + f(0, -1)]]) / h**2


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("noise", [0.25, 25.0, 50.0])
def test_joint_mode_is_a_local_maximum_and_its_partner_a_saddle(sign, noise):
    y = sign * Y
    w, sd = tb.scalar_joint_mode(X, y, noise)
    assert sd == abs(w)
    assert np.sign(w) == sign
    found = optimize.minimize(
        lambda z: -tb.scalar_log_joint(X, y, z[0], math.exp(z[1]), noise),
        [1.02 * w, math.log(0.98 * sd)],
        tol=1e-10,
        method="Nelder-Mead",
    )
    assert found.x[0] == pytest.approx(w, rel=1e-5)
    assert math.exp(found.x[1]) == pytest.approx(sd, rel=1e-5)
    assert (np.linalg.eigvalsh(hessian(X, y, w, sd, noise)) < 0).all()
    other = tb.scalar_ml(X, y) - w
    h = 1e-3 * abs(other)
    assert central(lambda z: tb.scalar_log_joint_ridge(X, y, z, noise), other, h) * other == pytest.approx(0, abs=1e-4)
    low, high = np.linalg.eigvalsh(hessian(X, y, other, abs(other), noise, h))
    assert low < 0 < high


def test_joint_mode_exists_only_beyond_four():
    assert tb.scalar_joint_mode([1], [4], 4.0) is None  # m² = 4cδ² exactly
    assert tb.scalar_joint_mode([1], [4], 3.999) is not None
    assert tb.scalar_joint_mode(X, Y, 100.0) is None
    w = np.geomspace(1e-6, 10, 2000)
    assert (np.diff(tb.scalar_log_joint_ridge(X, Y, w, 100.0)) < 0).all()


# Simple Monte Carlo.


def run(seed, n=4000, noise=25.0):
    best = tb.scalar_prior_variance(X, Y, noise)
    w = np.random.default_rng(seed).normal(0, best**0.5, n)
    estimate = tb.simple_monte_carlo(lambda w: tb.scalar_log_likelihood(X, Y, w, noise), w)
    return estimate, tb.scalar_log_evidence(X, Y, best, noise)


@pytest.mark.parametrize("seed", range(5))
def test_monte_carlo_is_within_four_of_its_standard_errors(seed):
    estimate, truth = run(seed)
    assert abs(estimate.log_evidence - truth) < 4 * estimate.std_error


def test_the_standard_error_is_calibrated_in_one_dimension():
    """Squared standardised errors of 400 runs average one; by chi-squared, 4 of its sds are 0.28."""
    z = np.array([(e.log_evidence - truth) / e.std_error for e, truth in map(run, range(400))])
    assert np.mean(z**2) == pytest.approx(1, abs=4 * (2 / 400) ** 0.5)
    assert abs(z.mean()) < 4 / 20


def test_monte_carlo_in_several_dimensions():
    """Two independent copies of the model: draws of shape (N, 2)."""
    best = tb.scalar_prior_variance(X, Y, 25.0)
    w = np.random.default_rng(0).normal(0, best**0.5, (20_000, 2))
    estimate = tb.simple_monte_carlo(lambda w: tb.scalar_log_likelihood(X, Y, w, 25.0).sum(1), w)
    assert abs(estimate.log_evidence - 2 * tb.scalar_log_evidence(X, Y, best, 25.0)) < 4 * estimate.std_error


def test_monte_carlo_far_from_zero():
    values = np.random.default_rng(0).normal(size=1000)
    near, far = (tb.simple_monte_carlo(values + shift, np.zeros(1000)) for shift in (0.0, -1e5))
    assert near.log_evidence == pytest.approx(special.logsumexp(values) - math.log(1000), rel=1e-12)
    assert far.log_evidence == pytest.approx(near.log_evidence - 1e5, rel=1e-14)
    assert far.std_error == pytest.approx(near.std_error, rel=1e-9)
    likelihood = np.exp(values)
    assert near.std_error == pytest.approx(stats.sem(likelihood) / likelihood.mean(), rel=1e-12)


def test_the_standard_error_and_the_effective_sample_size_agree():
    values = np.random.default_rng(0).normal(0, 3, size=500)
    size, error = tb.effective_sample_size(values), tb.simple_monte_carlo(values, values).std_error
    assert error == pytest.approx(((500 / size - 1) / 499) ** 0.5, rel=1e-10)
    assert tb.effective_sample_size(np.full(7, -1e6)) == 7
    assert tb.effective_sample_size([0, -1e6, -np.inf]) == 1


def test_the_standard_error_never_exceeds_one_nat():
    lonely = np.full(1000, -1e4)
    lonely[3] = 0
    assert tb.simple_monte_carlo(lonely, lonely) == pytest.approx((-math.log(1000), 1))


def test_likelihoods_of_zero():
    some = tb.simple_monte_carlo([-np.inf, 0.0, 0.0, -np.inf], np.zeros(4))
    assert some.log_evidence == pytest.approx(-math.log(2))
    none = tb.simple_monte_carlo([-np.inf, -np.inf], np.zeros(2))
    assert none.log_evidence == -np.inf
    assert math.isnan(none.std_error)
    assert tb.effective_sample_size([-np.inf, -np.inf]) == 0
    single = tb.simple_monte_carlo([-3.0], [0.1])
    assert single.log_evidence == -3
    assert math.isnan(single.std_error)


# Bad input, and what importing costs.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tb.scalar_statistics([1, np.nan], [1, 2]), r"x\[1\] is nan"),
        (lambda: tb.scalar_ml([1, 2], [np.inf, 2]), r"y\[0\] is inf"),
        (lambda: tb.scalar_ml([1, 2], [1]), "2 of x and 1 of y"),
        (lambda: tb.scalar_ml([], []), r"x, of shape \(n,\).*\(0,\)"),
        (lambda: tb.scalar_ml([1, 2], [[1, 2]]), r"y, of shape \(n,\).*\(1, 2\)"),
        (lambda: tb.scalar_ml(3.0, [1]), r"x, of shape \(n,\).*\(\)"),
        (lambda: tb.scalar_ml(["a"], [1]), "x, but its type is <U1"),
        (lambda: tb.scalar_ml([1j], [1]), "x, but its type is complex128"),
        (lambda: tb.scalar_log_evidence([1], [1], -0.5, 1), "prior_variance is -0.5"),
        (lambda: tb.scalar_log_evidence([1], [1], [1, np.nan], 1), r"prior_variance\[1\] is nan"),
        (lambda: tb.scalar_map([1], [1], [[1, -2]], 1), r"prior_variance\[0, 1\] is -2"),
        (lambda: tb.scalar_log_evidence([1], [1], 1, 0), "noise_variance is 0"),
        (lambda: tb.scalar_prior_variance([1], [1], -1), "noise_variance is -1"),
        (lambda: tb.scalar_joint_mode([1], [1], np.inf), "noise_variance is inf"),
        (lambda: tb.scalar_signal([1], [1], np.nan), "noise_variance is nan"),
        (lambda: tb.scalar_log_evidence([1], [1], 1, [1, 1]), r"noise_variance is \[1. 1.\]"),
        (lambda: tb.scalar_log_likelihood([1], [1], [0, np.inf], 1), r"w\[1\] is inf"),
        (lambda: tb.scalar_log_joint([1], [1], 0, [1, 0], 1), r"prior_sd\[1\] is 0"),
        (lambda: tb.scalar_statistics([1e200], [1]), "Σ x² is too large or too small"),
        (lambda: tb.scalar_statistics([1], [1e-200]), "Σ y² is too large or too small"),
        (lambda: tb.simple_monte_carlo([0, np.nan], [1, 2]), r"array\[1\] is nan"),
        (lambda: tb.simple_monte_carlo([np.inf], [1]), r"array\[0\] is inf"),
        (lambda: tb.simple_monte_carlo(lambda w: w.sum(), [1, 2]), r"of shape \(n,\).*\(\)"),
        (lambda: tb.simple_monte_carlo([0, 1], [1, 2, 3]), r"there are 2 for draws in shape \(3,\)"),
        (lambda: tb.simple_monte_carlo(lambda w: w, []), r"\(0,\)"),
        (lambda: tb.effective_sample_size([[1]]), r"of shape \(n,\).*\(1, 1\)"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_importing_the_textbook_is_light():
    heavy = "pandas", "matplotlib", "sklearn", "jax", "rich", "scipy.stats", "scipy.optimize"
    code = f"import sys, marglik.textbook; print(*(m for m in {heavy} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
