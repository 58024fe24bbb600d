# SPDX-License-Identifier: BSD-3-Clause
"""Lower bounds of programs: below the truth, exact where the guide can be, and rising with the number of draws."""

import numpy as np
import pytest
from scipy import special, stats

import marglik

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402

Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
NORMAL = np.random.default_rng(0).normal(1.0, 1.5, 20)


def mean_of(y, part=None):
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    w = numpyro.sample("w", dist.Normal(0, tau))
    with numpyro.plate("rows", len(y), subsample_size=part):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(w, 1.0), obs=batch)


def beta_binomial(y, n):
    a = numpyro.param("a", 2.0, constraint=dist.constraints.positive)
    with numpyro.plate("groups", len(y)):
        p = numpyro.sample("p", dist.Beta(a, 3.0))
        numpyro.sample("y", dist.Binomial(n, p), obs=y)


def gamma_poisson(y):
    a = numpyro.param("a", 2.0, constraint=dist.constraints.positive)
    with numpyro.plate("groups", len(y)):
        rate = numpyro.sample("rate", dist.Gamma(a, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def bounded(program, args, truth, fixed, guide="mean_field", samples=1, hyper=()):
    """The bound with θ held, checked to be one."""
    fit = marglik.fit(program, args=args, hyper=hyper, fixed=fixed, method="variational", guide=guide, samples=samples)
    assert fit.log_evidence <= truth + 4 * fit._evidence.std_error + 1e-9
    return fit


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("guide", ["full", "low_rank", "mean_field"])
def test_exact_where_the_posterior_is_in_the_family(guide):
    fit = marglik.fit(mean_of, args=(NORMAL,), hyper=["tau"], method="variational", guide=guide)
    n, s = len(NORMAL), NORMAL.sum()
    tau = np.sqrt((s**2 - n) / n**2)  # the scalar model's maximum
    covariance = np.eye(n) + tau**2
    assert fit.converged
    np.testing.assert_allclose(fit.hyperparameters.loc["tau", "estimate"], tau, rtol=1e-7)
    np.testing.assert_allclose(
        fit.log_evidence, stats.multivariate_normal(np.zeros(n), covariance).logpdf(NORMAL), rtol=0, atol=1e-8
    )
    laplace = marglik.fit(mean_of, args=(NORMAL,), hyper=["tau"])  # exact here
    np.testing.assert_allclose(
        fit.hyperparameters.loc["tau", ["se", "lower", "upper"]].astype(float),
        laplace.hyperparameters.loc["tau", ["se", "lower", "upper"]].astype(float),
        rtol=1e-5,
    )
    np.testing.assert_allclose(fit.posterior.mean["w"], laplace.posterior.mean["w"], rtol=1e-7)
    np.testing.assert_allclose(fit.posterior.sd["w"], laplace.posterior.sd["w"], rtol=1e-6)


@slow
@pytest.mark.parametrize(("samples", "gap"), [(1, (0.03, 0.2)), (10, (0.01, 0.03)), (100, (-0.01, 0.01))])
def test_more_draws_come_closer(samples, gap):
    """How far the bound of a beta–binomial program lies below its evidence."""
    y, n, a = np.array([0.0, 2, 7, 9]), 10, 2.0
    truth = np.sum(special.gammaln(n + 1) - special.gammaln(y + 1) - special.gammaln(n - y + 1))
    truth += np.sum(special.betaln(a + y, 3 + n - y) - special.betaln(a, 3))
    assert gap[0] < truth - bounded(beta_binomial, (y, n), truth, {"a": a}, samples=samples).log_evidence < gap[1]


@slow
def test_ten_draws_come_closer_than_one():
    y = np.array([0.0, 1, 4, 12])
    truth = np.sum(stats.nbinom(2.0, 0.5).logpmf(y))
    one, ten = (bounded(gamma_poisson, (y,), truth, {"a": 2.0}, samples=K) for K in (1, 10))
    error = np.hypot(one._evidence.std_error, ten._evidence.std_error)
    assert ten.log_evidence - one.log_evidence > 4 * error


@slow
def test_the_slope_is_that_of_the_bound_and_se_its_curvature():
    y = np.array([0.0, 1, 4, 12])
    fit = marglik.fit(gamma_poisson, args=(y,), method="variational", guide="mean_field")
    assert fit.converged
    learner, model, h = fit.evidence_method.learner, fit.model, 1e-3
    a = fit.optimum.theta[0]
    down, here, up = (learner(model, a + d) for d in (-h, 0.0, h))
    np.testing.assert_allclose(here.gradient, 0, rtol=0, atol=1e-6)
    np.testing.assert_allclose((up.log_value - down.log_value) / (2 * h), here.gradient[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose((up.gradient - down.gradient) / (2 * h), here.hessian[0], rtol=1e-4)
    # se: −∂²/∂(log a)² = −a² B″ at the maximum, and by the delta method back
    se = fit.hyperparameters.loc["a", "se"]
    np.testing.assert_allclose(se, 1 / np.sqrt(-here.hessian[0, 0]), rtol=1e-4)
    # near the maximum of the evidence itself
    grid = np.linspace(0.5, 20, 4000)
    best = grid[np.argmax([np.sum(stats.nbinom(b, 0.5).logpmf(y)) for b in grid])]
    assert abs(a[0] - best) < 0.2 * se


@slow
def test_eight_schools(case):
    truth = float(case("eight_schools").reference["log_p_y_given_tau_mu~N(0,5^2)"]["value"]["5"])
    full = bounded(schools, (Y, SIGMA), truth, {"tau": 5.0}, guide="full", hyper=["tau"])
    np.testing.assert_allclose(full.log_evidence, truth, rtol=0, atol=1e-6)
    one, ten = (
        bounded(schools, (Y, SIGMA), truth, {"tau": 5.0}, "mean_field", K, ["tau"]).log_evidence for K in (1, 10)
    )
    # the best independent Gaussian for precision H is diag(H): KL = ½(Σ log H_ii − log|H|)
    H = np.diag(np.append(1 / SIGMA**2 + 1 / 25, 8 / 25 + 1 / 25))
    H[:8, 8] = H[8, :8] = -1 / 25
    gap = (np.log(H.diagonal()).sum() - np.linalg.slogdet(H)[1]) / 2
    np.testing.assert_allclose(one, truth - gap, rtol=0, atol=0.03)
    assert one < ten < truth + 0.04


@slow
def test_parts_of_the_rows_lead_to_the_same_answer():
    whole = marglik.fit(mean_of, args=(NORMAL,), hyper=["tau"], method="variational", guide="mean_field")
    parts = marglik.fit(mean_of, args=(NORMAL, 5), hyper=["tau"], method="variational", guide="mean_field")
    assert parts.converged
    np.testing.assert_allclose(parts.log_evidence, whole.log_evidence, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        parts.hyperparameters.loc["tau", ["estimate", "se"]].astype(float),
        whole.hyperparameters.loc["tau", ["estimate", "se"]].astype(float),
        rtol=1e-6,
    )


def rates(y):
    a = numpyro.param("q_a", jnp.full(len(y), 2.0), constraint=dist.constraints.positive)
    b = numpyro.param("q_b", jnp.full(len(y), 1.0), constraint=dist.constraints.positive)
    with numpyro.plate("groups", len(y)):
        numpyro.sample("rate", dist.LogNormal(jnp.log(a), b))


@slow
def test_a_guide_of_ones_own_finds_what_numpyros_does():
    y = np.array([0.0, 1, 4, 12])
    truth = np.sum(stats.nbinom(2.0, 0.5).logpmf(y))
    own = bounded(gamma_poisson, (y,), truth, {"a": 2.0}, guide=rates)
    named = bounded(gamma_poisson, (y,), truth, {"a": 2.0}, guide="mean_field")  # log-normal rates as well
    np.testing.assert_allclose(own.log_evidence, named.log_evidence, rtol=0, atol=0.05)
    np.testing.assert_allclose(own.posterior.mean["rate"], named.posterior.mean["rate"], rtol=0.1)


def test_noise_held_evenly_has_the_moments_of_a_normal():
    from marglik.interfaces.numpyro.guides import _even

    E = _even(64, 5, np.random.default_rng(0))
    np.testing.assert_allclose(E.mean(axis=0), 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(E.T @ E / 64, np.eye(5), rtol=0, atol=1e-12)


def misnamed(y):
    numpyro.sample("rates", dist.Normal(0, 1))


def too_few(y):
    pass


def discrete(y):
    with numpyro.plate("groups", len(y)):
        numpyro.sample("rate", dist.Poisson(1.0))


def misshapen(y):
    numpyro.sample("rate", dist.LogNormal(0.0, 1.0))


@pytest.mark.parametrize(
    ("guide", "sentence"),
    [
        ("fulll", "There is no guide 'fulll'. Did you mean 'full'?"),
        (3, "or a function, but is a int"),
        (misnamed, "The guide draws 'rates', which is no latent site of the program. Did you mean 'rate'?"),
        (too_few, "The guide does not draw 'rate', latent in the program"),
        (discrete, "Site 'rate' of the guide is discrete"),
        (misshapen, r"Site 'rate' has the shape \(\) in the guide and \(2,\) in the program"),
    ],
)
def test_a_guide_that_cannot_be_used(guide, sentence):
    with pytest.raises(ValueError, match=sentence):
        marglik.fit(gamma_poisson, args=(np.array([1.0, 2.0]),), method="variational", guide=guide)


@pytest.mark.parametrize("method", ["laplace", "auto", "importance"])
def test_parts_of_the_rows_are_for_the_bound_alone(method):
    with pytest.raises(ValueError, match=r"plate 'rows' looks at 5 of its 20 members at a time\. Leave subsample_size"):
        marglik.fit(mean_of, args=(NORMAL, 5), hyper=["tau"], method=method)


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="no lower bound with samples=3 where plate 'rows' looks at 5 of its 20"):
        marglik.fit(mean_of, args=(NORMAL, 5), hyper=["tau"], method="variational", samples=3)
    with pytest.raises(ValueError, match="at least 1 as samples=, and was given 0"):
        marglik.fit(mean_of, args=(NORMAL,), hyper=["tau"], method="variational", samples=0)
    with pytest.raises(ValueError, match="guide='full' is for method='variational'"):
        marglik.fit(mean_of, args=(NORMAL,), hyper=["tau"], method="laplace", guide="full")
    with pytest.raises(ValueError, match="is for NumPyro programs, and this is a formula"):
        marglik.fit("y ~ 1", {"y": NORMAL}, method="variational", guide="full")


def local(y):
    with numpyro.plate("rows", len(y), subsample_size=2):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=numpyro.subsample(y, event_dim=0))


def test_latent_sites_by_parts():
    with pytest.raises(ValueError, match="Site 'z' is latent within plate 'rows', which looks at 2 of its 20 members"):
        marglik.fit(local, args=(NORMAL,), method="variational")
