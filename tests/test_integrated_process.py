# SPDX-License-Identifier: BSD-3-Clause
"""Length scales integrated: their proper default priors, and posteriors against brute-force quadrature."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad

import marglik
from marglik.hyperpriors import penalised_complexity, penalised_range, simple_range, simple_scale, simple_variance
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import GaussianProcess, ReceptiveField

N = 30
rng = np.random.default_rng(3)
x = np.sort(rng.uniform(0, 10, N))
y = np.sin(x) + 0.3 * rng.standard_normal(N)
DATA = pd.DataFrame({"x": x, "y": y})
NAMES = ["sd(gp(x))", "length_scale(gp(x))", "sd(noise)"]


@pytest.fixture(scope="module")
def fit():
    return marglik.fit("y ~ gp(x)", DATA)


def log_evidence(s, ell, noise):
    """Of many amplitudes and noises at one length scale, the intercept integrated: y's variance is diagonal there."""
    away = np.linalg.qr(np.column_stack([np.ones(N), np.eye(N)[:, 1:]]))[0][:, 1:]
    d, U = np.linalg.eigh(away.T @ np.exp(-((x[:, None] - x) ** 2) / (2 * ell**2)) @ away)
    v = np.multiply.outer(s**2, np.maximum(d, 0))[:, None] + noise[:, None] ** 2
    squares = (U.T @ away.T @ y) ** 2
    return -((N - 1) * np.log(2 * np.pi) + np.log(v).sum(-1) + (squares / v).sum(-1) + np.log(N)) / 2


def brute_force(noise, log_prior_of_noise):
    """log ∫ p(y|θ) p(θ) dθ on a grid of logarithms, and 2.5 %, 50 %, 97.5 % of s and ℓ, then of the noise."""
    log_ell, log_s = np.linspace(np.log(0.1), np.log(300), 91), np.linspace(np.log(0.1), np.log(60), 61)
    log_p = np.array([log_evidence(np.exp(log_s), ell, np.exp(noise)) for ell in np.exp(log_ell)])
    log_p += (penalised_range(0.05 * np.ptp(x)).logpdf(np.exp(log_ell)) + log_ell)[:, None, None]
    log_p += (penalised_complexity(3 * y.std()).logpdf(np.exp(log_s)) + log_s)[:, None] + log_prior_of_noise
    steps = [a[1] - a[0] for a in (log_ell, log_s, noise) if len(a) > 1]
    p = np.exp(log_p - log_p.max())
    rows = []
    for axis, at in ((1, log_s), (0, log_ell), (2, noise)):
        share = p.sum(axis=tuple({0, 1, 2} - {axis})) / p.sum()
        rows.append(np.exp(np.interp([0.025, 0.5, 0.975], np.cumsum(share) - share / 2, at)))
    return float(np.log(p.sum() * np.prod(steps)) + log_p.max()), np.array(rows)


def test_quadrature_of_all_three(fit):
    noise = np.linspace(np.log(0.05), np.log(3), 61)
    total, expected = brute_force(noise, noise)
    whole = fit.integrate_hyperparameters()
    assert whole.prior == {
        NAMES[0]: f"penalised complexity, P(> {3 * y.std():.4g}) = 0.05",
        NAMES[1]: f"penalised complexity, P(< {0.05 * np.ptp(x):.4g}) = 0.05",
        NAMES[2]: "flat",
    }
    found = whole.hyperparameters.loc[NAMES, ["lower", "median", "upper"]].to_numpy()
    width = expected[:, [2]] - expected[:, [0]]
    assert_allclose(whole.log_evidence, total, rtol=0, atol=0.04)
    assert_allclose((found - expected)[:, [1]] / width, 0, rtol=0, atol=0.01)
    assert_allclose((found - expected)[:, [0, 2]] / width, 0, rtol=0, atol=0.07)


def test_quadrature_with_the_noise_held():
    fit = marglik.fit("y ~ gp(x)", DATA, fixed={"sd(noise)": 0.3})
    total, expected = brute_force(np.log([0.3]), 0.0)
    whole = fit.integrate_hyperparameters()
    found = whole.hyperparameters.loc[NAMES[:2], ["lower", "median", "upper"]].to_numpy()
    assert_allclose(whole.log_evidence, total, rtol=0, atol=0.03)
    width = expected[:2, [2]] - expected[:2, [0]]
    assert_allclose((found - expected[:2]) / width, 0, rtol=0, atol=0.05)


def test_units_of_inputs_and_response_do_not_matter(fit):
    other = marglik.fit("y ~ gp(x)", DATA.assign(x=1e-3 * x + 2, y=1e4 * y))
    whole, moved = fit.integrate_hyperparameters(), other.integrate_hyperparameters()
    ratio = moved.hyperparameters.loc[NAMES, "median"] / whole.hyperparameters.loc[NAMES, "median"]
    assert_allclose(ratio, [1e4, 1e-3, 1e4], rtol=1e-4)
    assert_allclose(whole.log_evidence - moved.log_evidence, (N - 2) * np.log(1e4), rtol=0, atol=1e-3)


def test_where_the_data_say_nothing_the_posterior_is_the_prior():
    """With an amplitude of next to nothing the evidence does not move with the length scale."""
    fit = marglik.fit("y ~ gp(x)", DATA, fixed={NAMES[0]: 1e-7, NAMES[2]: 0.8})
    whole = fit.integrate_hyperparameters()
    prior = penalised_range(0.05 * np.ptp(x))
    found = whole.hyperparameters.loc[NAMES[1], ["lower", "median", "upper"]]
    assert_allclose(prior.cdf(found.to_numpy(float)), [0.025, 0.5, 0.975], rtol=0, atol=1e-3)
    assert_allclose(whole.log_evidence, fit.log_evidence, rtol=0, atol=1e-3)


def test_a_given_prior_takes_the_place_of_one_default(fit):
    whole = fit.integrate_hyperparameters(prior={NAMES[1]: penalised_range(1.0, 0.01)})
    assert whole.prior[NAMES[1]].startswith("invweibull(0.5")
    assert whole.prior[NAMES[0]].startswith("penalised complexity")


@pytest.mark.parametrize("own", [simple_scale(2.0), simple_variance(2.0), simple_range(0.3), simple_range(0.3, 2)])
def test_densities_integrate_to_one_with_the_share_they_name(own):
    def mass(a, b):
        return quad(lambda t: np.exp(own.log_density(np.exp(t)) + t), np.log(a), np.log(b), limit=400)[0]

    assert own.proper
    assert_allclose(mass(1e-12, 1e12), 1, rtol=0, atol=1e-4)
    shares = {"P(> 2) = 0.05": (2.0, 1e9), "P(< 0.3) = 0.05": (1e-9, 0.3)}
    a, b = next(ends for words, ends in shares.items() if own.words.endswith(words))
    a, b = (a**2, b**2) if "square root" in own.words else (a, b)
    assert_allclose(mass(a, b), 0.05, rtol=0, atol=1e-6)


def test_every_parameter_of_every_kernel_has_a_proper_prior():
    kernels = ["RationalQuadratic()", "RBF() + ExpSineSquared()", "RBF() + 0.5 * DotProduct()", "RBF((1.0, 1.0))"]
    terms = [GaussianProcess(np.column_stack([x, x**2]), kernel) for kernel in kernels]
    terms.append(ReceptiveField(rng.standard_normal((N, 12)), (4, 3)))
    for term in terms:
        own = {prior.names[0]: prior for prior in LinearModel(Gaussian(), term, y).hyperpriors()}
        assert list(own) == [h.name for h in term.hyperparameters()]
        assert all(prior.proper for prior in own.values())


def test_the_shape_of_a_periodic_kernel_is_no_distance():
    """Its length scale is in units of the period, and does not move with the unit of the inputs."""
    one, other = (GaussianProcess(c * x, f"ExpSineSquared(periodicity={3.0 * c})") for c in (1.0, 1000.0))
    assert_allclose(other.starts(1.0) / one.starts(1.0), [[1, 1, 1000]] * len(one.starts(1.0)), rtol=1e-12)
    assert one.hyperpriors(1.0)["length_scale(gp)"].words == other.hyperpriors(1.0)["length_scale(gp)"].words


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: penalised_range(0.0), "lower must be a number above zero, not 0.0"),
        (lambda: penalised_range(1.0, 1.0), "tail must be a probability between 0 and 1"),
        (lambda: penalised_range(1.0, 0.05, 0), "dimension must be a whole number of inputs, 1 or more, not 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
