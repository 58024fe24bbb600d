# SPDX-License-Identifier: BSD-3-Clause
"""Published cases written as programs: their evidences, modes and hyperparameters."""

import numpy as np
import pytest
from scipy.special import gammaln

import marglik

pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402

from marglik.evidence import importance  # noqa: E402
from marglik.interfaces.numpyro import program  # noqa: E402


def number(reference, name):
    value = reference[name]["value"]
    return np.array(value, float) if isinstance(value, list) else float(value)


def pine(y, x):
    tau = numpyro.sample("tau", dist.Gamma(3.0, 180_000.0))
    alpha = numpyro.sample("alpha", dist.Normal(3000.0, (0.06 * tau) ** -0.5))
    beta = numpyro.sample("beta", dist.Normal(185.0, (6.0 * tau) ** -0.5))
    with numpyro.plate("tree", len(y)):
        numpyro.sample("y", dist.Normal(alpha + beta * (x - x.mean()), tau**-0.5), obs=y)


@pytest.mark.parametrize(("column", "name"), [("x", "log_evidence_model1_x"), ("z", "log_evidence_model2_z")])
def test_radiata_pine(case, column, name):
    """Given u = log τ the rest is Gaussian and p(y, u) ∝ e^(au − b e^u); at the joint mode a is A = a + d/2, so that

    Laplace − exact = a log A − A − ½ log A + ½ log 2π − log Γ(a),    a = n/2 + 3,  d = 2
    """
    pines = case("radiata_pine")
    y, x = (pines.data[c].to_numpy(float) for c in ("y", column))
    exact, a = number(pines.reference, name), len(y) / 2 + 3
    A = a + 1
    error = a * np.log(A) - A - np.log(A) / 2 + np.log(2 * np.pi) / 2 - gammaln(a)
    np.testing.assert_allclose(marglik.fit(pine, args=(y, x)).log_evidence, exact + error, atol=1e-8, rtol=0)
    whole = marglik.fit(pine, args=(y, x), hyper=["tau"]).integrate_hyperparameters()
    np.testing.assert_allclose(whole.log_evidence, exact, atol=1e-6, rtol=0)


def regression(X, y, eb=False):
    s = numpyro.param("s", 1.0, constraint=dist.constraints.positive) if eb else 10.0
    b = numpyro.sample("b", dist.Normal(0, s).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


def test_sblrc(case):
    """Coefficients are integrated in closed form, sigma is held, maximised or integrated under its own prior."""
    sblrc = case("sblrc_blr")
    X, y = sblrc.data[[f"x{i}" for i in range(1, 6)]].to_numpy(float), sblrc.data["y"].to_numpy(float)
    at, reference = lambda name: number(sblrc.reference, name), sblrc.reference
    fit = marglik.fit(regression, args=(X, y), hyper=["sigma"])
    np.testing.assert_allclose(
        fit.hyperparameters.loc["sigma", "estimate"],
        at("sigma_maximising_marginal"),
        rtol=reference["sigma_maximising_marginal"]["rtol"],
    )
    np.testing.assert_allclose(fit.log_evidence, at("log_marginal_at_that_sigma"), atol=1e-8, rtol=0)
    np.testing.assert_allclose(fit.log_evidence_at({"sigma": 1.0}), at("log_p_y_given_sigma_1"), atol=1e-8, rtol=0)
    whole = fit.integrate_hyperparameters()
    np.testing.assert_allclose(whole.log_evidence, at("log_evidence_half_normal"), atol=1e-6, rtol=0)
    both = marglik.fit(regression, args=(X, y, True), hyper=["sigma"])
    found = both.hyperparameters.loc[["s", "sigma"], "estimate"]
    np.testing.assert_allclose(found, [at("EB_prior_sd"), at("EB_sigma")], rtol=1e-6)
    np.testing.assert_allclose(both.log_evidence, at("EB_log_evidence"), atol=1e-7, rtol=0)


def bioassay(x, n, y, rho):
    prior = dist.MultivariateNormal(jnp.array([0.0, 10.0]), jnp.array([[4.0, 20 * rho], [20 * rho, 100.0]]))
    w = numpyro.sample("w", prior)
    numpyro.sample("y", dist.Binomial(n, logits=w[0] + w[1] * x), obs=y)


@pytest.mark.parametrize("rho", ["0", "0.5"])
def test_bioassay(case, rho):
    doses = case("logit_bioassay")
    args = (*(doses.data[c].to_numpy(float) for c in ("x", "n", "y")), float(rho))
    fit = marglik.fit(bioassay, args=args)
    np.testing.assert_allclose(fit.log_evidence, number(doses.reference, f"laplace_rho{rho}"), atol=1e-8, rtol=0)
    np.testing.assert_allclose(fit.posterior.mean["w"], number(doses.reference, f"mode_rho{rho}"), rtol=1e-8)
    close(bioassay, args, number(doses.reference, f"log_evidence_rho{rho}"))


def close(program, args, exact):
    """Importance sampling is within 0.05 nats of the truth and within four of its standard errors."""
    fit = marglik.fit(program, args=args, method="importance")
    error = fit.log_evidence - exact
    assert abs(error) < min(0.05, 4 * fit._evidence.std_error)


def pima(X, y, tau):
    b = numpyro.sample("b", dist.Normal(0, tau**-0.5).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


@pytest.mark.parametrize("tau", [0.01, 1.0])
@pytest.mark.parametrize("model", ["m1", "m2"])
def test_pima(case, tau, model):
    women = case("logit_pima")
    columns = ["NP", "PGC", "BMI", "DP", "AGE"][: 4 if model == "m1" else 5]
    X = np.column_stack([np.ones(len(women.data)), women.data[columns].to_numpy(float)])
    args, name = (X, women.data["y"].to_numpy(float), tau), f"tau{tau}_{model}"
    fit = marglik.fit(pima, args=args)
    np.testing.assert_allclose(fit.log_evidence, number(women.reference, f"{name}_laplace"), atol=1e-8, rtol=0)
    np.testing.assert_allclose(fit.posterior.mean["b"], number(women.reference, f"{name}_mode"), rtol=1e-7)
    close(pima, args, number(women.reference, f"{name}_exact"))


def claims(x, policies):
    """Efron & Hastie's ν and σ: rates that are Gamma(ν, scale σ), integrated in closed form."""
    nu, sigma = (numpyro.param(name, 1.0, constraint=dist.constraints.positive) for name in ("nu", "sigma"))
    with handlers.scale(scale=policies):
        numpyro.sample("x", dist.GammaPoisson(nu, 1 / sigma), obs=x)
    numpyro.deterministic("rate", (nu + x) * sigma / (1 + sigma))


def test_motor_claims(case):
    motor = case("robbins_claims")
    x, policies = (motor.data[c].to_numpy(float) for c in ("claims", "policies"))
    fit = marglik.fit(claims, args=(x, policies))
    np.testing.assert_allclose(fit.log_evidence, number(motor.reference, "loglik"), atol=1e-6, rtol=0)
    found = fit.hyperparameters["estimate"]
    np.testing.assert_allclose(found, [number(motor.reference, n) for n in ("nu", "sigma")], rtol=1e-6)
    means = number(motor.reference, "posterior_means_x0..6")
    np.testing.assert_allclose(fit.posterior.mean["rate"][: len(means)], means, rtol=1e-6)


def claims_with_rates(x):
    nu, sigma = (numpyro.sample(name, dist.LogNormal(0, 1)) for name in ("nu", "sigma"))
    with numpyro.plate("policies", len(x)):
        numpyro.sample("x", dist.Poisson(numpyro.sample("rate", dist.Gamma(nu, 1 / sigma))), obs=x)


@pytest.mark.slow
def test_motor_claims_with_a_rate_for_each_policy(case):
    """9,461 latent rates, drawn one by one."""
    motor = case("robbins_claims")
    x = np.repeat(*(motor.data[c].to_numpy(int) for c in ("claims", "policies"))).astype(float)
    theta = np.array([number(motor.reference, name) for name in ("nu", "sigma")])
    found = importance.estimate(program(claims_with_rates, (x,), {}, ("nu", "sigma")), theta)
    error = found.log_value - number(motor.reference, "loglik")
    assert abs(error) < min(4 * found.std_error, 0.05)
    assert found.k_hat < 0.7


def rosenbrock():
    """exp(−100 (y − x²)² − (1 − x)²) on a box, under a uniform prior."""
    x, y = numpyro.sample("x", dist.Uniform(-10.0, 10.0)), numpyro.sample("y", dist.Uniform(-5.0, 15.0))
    numpyro.factor("valley", -100 * (y - x**2) ** 2 - (1 - x) ** 2)


EXACT_ROSENBROCK = -7.14934401307107159
"""log Z by quadrature: the inner integral by erf, the outer one by mpmath."""


def test_rosenbrock():
    """Laplace's method in the logits, by hand; it misses the bent valley by 0.2 nats."""
    fit = marglik.fit(rosenbrock)
    logit = lambda p: np.log(p) - np.log1p(-p)  # noqa: E731
    box = lambda z, low, width: low + width / (1 + np.exp(-z))  # noqa: E731

    def log_joint(z):
        x, y = box(z[0], -10, 20), box(z[1], -5, 20)
        return -100 * (y - x**2) ** 2 - (1 - x) ** 2 - sum(np.logaddexp(0, z) + np.logaddexp(0, -z))

    mode = np.array([logit((fit.posterior.mean["x"] + 10) / 20), logit((fit.posterior.mean["y"] + 5) / 20)])
    h, e = 1e-4, np.eye(2) * 1e-4
    slope = [(log_joint(mode + d / 10) - log_joint(mode - d / 10)) / (h / 5) for d in e]
    np.testing.assert_allclose(slope, 0, atol=1e-5, rtol=0)
    H = [
        [
            (log_joint(mode + a + b) - log_joint(mode + a - b) - log_joint(mode - a + b) + log_joint(mode - a - b))
            / (4 * h * h)
            for a in e
        ]
        for b in e
    ]
    laplace = log_joint(mode) + np.log(2 * np.pi) - np.log(np.linalg.det(-np.array(H))) / 2
    np.testing.assert_allclose(fit.log_evidence, laplace, atol=1e-3, rtol=0)
    assert abs(fit.log_evidence - EXACT_ROSENBROCK) < 0.3
