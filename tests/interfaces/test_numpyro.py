# SPDX-License-Identifier: BSD-3-Clause
"""Programs: the same numbers as formulas and closed forms, and the caller's JAX left as it was."""

import sys

import numpy as np
import pytest
from scipy import integrate, stats

import marglik

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.infer.util import log_density  # noqa: E402

Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools(y, sigma, mu_prior=None, centred=True):
    mu = numpyro.sample("mu", mu_prior or dist.ImproperUniform(dist.constraints.real, (), ()))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(y)):
        if centred:
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
        else:
            theta = mu + tau * numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def fits():
    return {c: marglik.fit(schools, args=(Y, SIGMA), kwargs={"centred": c}, hyper=["tau"]) for c in (True, False)}


@pytest.mark.parametrize("centred", [True, False])
def test_eight_schools_is_at_its_limit(case, fits, centred):
    reference = case("eight_schools").reference
    fit = fits[centred]
    row = fit.hyperparameters.loc["tau"]
    assert row["estimate"] == 0
    assert row["at_boundary"]
    assert np.isnan(row["se"])
    expected = {float(k): float(v) for k, v in reference["restricted_loglik_flat_mu"]["value"].items()}
    np.testing.assert_allclose(fit.log_evidence, expected[0.0], atol=1e-8)
    for tau, value in expected.items():
        if tau > 0:
            np.testing.assert_allclose(fit.log_evidence_at({"tau": tau}), value, atol=1e-9)
    # twice the drop of the log evidence at the upper limit is 2.71
    drop = fit.log_evidence - fit.log_evidence_at({"tau": row["upper"]})
    np.testing.assert_allclose(2 * drop, stats.chi2(1).ppf(0.9), rtol=1e-5)
    mu, se = map(float, reference["mu_hat_se_at_tau0"]["value"])
    np.testing.assert_allclose(fit.posterior.mean["mu"], mu, rtol=1e-5)
    np.testing.assert_allclose(fit.posterior.sd["mu"], se, rtol=1e-4)


def test_eight_schools_with_a_prior_on_the_mean(case):
    reference = case("eight_schools").reference["log_p_y_given_tau_mu~N(0,5^2)"]["value"]
    fit = marglik.fit(schools, args=(Y, SIGMA, dist.Normal(0, 5)), hyper=["tau"])
    np.testing.assert_allclose(fit.log_evidence, float(reference["0"]), atol=1e-8)
    np.testing.assert_allclose(fit.log_evidence_at({"tau": 5.0}), float(reference["5"]), atol=1e-9)


def test_formula_and_program_are_one_gaussian_model(fits):
    data = {"y": Y, "w": 1 / SIGMA**2, "school": list("ABCDEFGH")}
    formula = marglik.fit("y ~ 1 + (1 | school)", data, weights="w", fixed={"sd(noise)": 1.0})
    name = "sd(Intercept | school)"
    np.testing.assert_allclose(fits[False].log_evidence, formula.log_evidence, atol=1e-8)
    np.testing.assert_allclose(
        fits[False].hyperparameters.loc["tau", "upper"], formula.hyperparameters.loc[name, "upper"], rtol=1e-4
    )
    for tau in (0.5, 4.0, 30.0):
        np.testing.assert_allclose(
            fits[True].log_evidence_at({"tau": tau}), formula.log_evidence_at({name: tau}), atol=1e-9
        )


def counts():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(8), 5)
    x = rng.standard_normal(40)
    y = rng.poisson(np.exp(0.5 + 0.4 * x + 1.2 * rng.standard_normal(8)[g]))
    return y.astype(float), x, g


def poisson(y, x, g, ml=False):
    if ml:
        b = numpyro.param("b", jnp.zeros(2))
    else:
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 8):
        u = numpyro.sample("u", dist.Normal(0, tau))
    numpyro.sample("y", dist.Poisson(jnp.exp(b[0] + b[1] * x + u[g])), obs=y)


@pytest.mark.parametrize("ml", [False, True])
def test_formula_and_program_are_one_poisson_model(ml):
    y, x, g = counts()
    program = marglik.fit(poisson, args=(y, x, g), kwargs={"ml": ml}, hyper=["tau"])
    formula = marglik.fit("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, family="poisson", reml=not ml)
    np.testing.assert_allclose(program.log_evidence, formula.log_evidence, atol=1e-6)
    ours = formula.hyperparameters.loc["sd(Intercept | g)"]
    theirs = program.hyperparameters.loc["tau"]
    np.testing.assert_allclose(
        theirs[["estimate", "se", "lower", "upper"]].astype(float),
        ours[["estimate", "se", "lower", "upper"]].astype(float),
        rtol=1e-4,
    )
    if ml:
        np.testing.assert_allclose(
            program.hyperparameters.loc[["b[0]", "b[1]"], ["estimate", "se"]],
            formula.fixed_effects[["estimate", "se"]],
            rtol=1e-4,
        )
    else:
        np.testing.assert_allclose(program.posterior.mean["b"], formula.fixed_effects["estimate"], rtol=1e-5)
        np.testing.assert_allclose(program.posterior.sd["b"], formula.fixed_effects["se"], rtol=1e-5)
        np.testing.assert_allclose(program.posterior.mean["u"], formula.random_effects()["Intercept"], rtol=1e-4)
    assert program.converged
    assert program.check().converged


def rates(y, exposure):
    """Gamma–Poisson: the evidence is negative binomial in closed form; Laplace is taken in log rate."""
    shape = numpyro.sample("shape", dist.HalfNormal(10.0))
    with numpyro.plate("units", len(y)):
        rate = numpyro.sample("rate", dist.Gamma(shape, 2.0))
        numpyro.sample("y", dist.Poisson(rate * exposure), obs=y)


def test_a_constrained_site_is_integrated_on_the_log_scale():
    """Against the integral itself: Laplace of a Gamma posterior in log rate misses by Stirling's error, 1/12a each."""
    y, exposure = np.array([40.0, 55.0, 62.0]), np.array([10.0, 12.0, 9.0])
    fit = marglik.fit(rates, args=(y, exposure), hyper=["shape"])
    a = 7.0
    exact = stats.nbinom(a, 2.0 / (2.0 + exposure)).logpmf(y).sum()
    stirling = np.sum(1 / (12 * (a + y)) - 1 / (360 * (a + y) ** 3))
    np.testing.assert_allclose(fit.log_evidence_at({"shape": a}), exact - stirling, atol=1e-6)
    assert fit.posterior.mean["rate"].min() > 0


def funnel(y):
    s = numpyro.sample("s", dist.Uniform(0.5, 3.0))
    w = numpyro.sample("w", dist.Normal(0, s))
    numpyro.sample("y", dist.Bernoulli(logits=w), obs=y)


def test_gradient_and_value_of_a_program_with_one_weight():
    """Laplace by hand for one weight; the fit's slope vanishes in differences of its own values."""
    y = np.array([1.0, 1, 1, 0, 1, 1, 0, 1])
    fit = marglik.fit(funnel, args=(y,), hyper=["s"])
    k, n, s = y.sum(), len(y), 1.3
    log_joint = lambda w: k * w - n * np.logaddexp(0, w) + stats.norm(0, s).logpdf(w)  # noqa: E731
    w = 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-w))
        w += (k - n * p - w / s**2) / (n * p * (1 - p) + 1 / s**2)
    H = n * p * (1 - p) + 1 / s**2
    np.testing.assert_allclose(fit.log_evidence_at({"s": s}), log_joint(w) + np.log(2 * np.pi / H) / 2, atol=1e-9)
    truth = np.log(integrate.quad(lambda w: np.exp(log_joint(w)), -30, 30, epsabs=0, epsrel=1e-11)[0])
    assert abs(fit.log_evidence_at({"s": s}) - truth) < 0.05


def test_nothing_free_just_evaluates():
    def program(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)

    y = np.array([0.3, -1.2, 2.2])
    fit = marglik.fit(program, args=(y,))
    expected = stats.multivariate_normal(np.zeros(3), np.eye(3) + 4.0).logpdf(y)
    np.testing.assert_allclose(fit.log_evidence, expected, rtol=1e-12)
    assert len(fit.hyperparameters) == 0
    draws = fit.posterior.sample(4000, seed=1)["w"]
    variance = 1 / (3 + 1 / 4)
    assert abs(draws.mean() - variance * y.sum()) < 4 * np.sqrt(variance / 4000)


def test_the_callers_configuration_is_left_alone(fits):
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32
    seeded = handlers.seed(lambda: schools(Y, SIGMA, dist.Normal(0, 5)), 0)
    sites = {"mu": 0.0, "tau": 1.0, "theta": np.zeros(8, np.float32)}
    density, _ = log_density(seeded, (), {}, sites)  # of the very arrays that were fitted
    assert density.dtype == jnp.float32
    expected = stats.norm(0, SIGMA).logpdf(Y).sum() + stats.norm(0, 5).logpdf(0) + 8 * stats.norm.logpdf(0)
    np.testing.assert_allclose(density, expected + stats.halfcauchy(0, 5).logpdf(1.0), rtol=1e-5)


def test_bad_programs_get_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match=r"no latent site 'tao' to maximise. Did you mean 'tau'"):
        marglik.fit(schools, args=(Y, SIGMA), hyper=["tao"])

    def mixture(y):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match="Site 'z' is latent and discrete"):
        marglik.fit(mixture, args=(1.0,))

    def contrasts(y):
        w = numpyro.sample("w", dist.ZeroSumNormal(1.0, event_shape=(3,)))
        numpyro.sample("y", dist.Normal(w[0], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"Site 'w' has the support .*, which can be integrated but not maximised"):
        marglik.fit(contrasts, args=(1.0,), hyper=["w"])
    monkeypatch.setitem(sys.modules, "numpyro", None)
    monkeypatch.delitem(sys.modules, "marglik.interfaces.numpyro", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'marglik\[numpyro\]'"):
        marglik.fit(schools, args=(Y, SIGMA), hyper=["tau"])
