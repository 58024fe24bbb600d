# SPDX-License-Identifier: BSD-3-Clause
"""Sites that are maximised: supports of all kinds, their own priors, and the same programs sampled."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

import marglik

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402

from marglik.interfaces.numpyro import program  # noqa: E402

Z = stats.norm.ppf(0.975)
COUNTS = np.array([12, 30, 8])
Y = np.array([0.3, -1.2, 2.2, 0.9])
SCHOOLS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SE = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def shares(n):
    p = numpyro.sample("p", dist.Dirichlet(2 * jnp.ones(3)))
    numpyro.sample("n", dist.Multinomial(int(n.sum()), p), obs=n)


def test_a_simplex():
    """Shares are n_i/n, with variances p (1 − p)/n and intervals on the logit of each."""
    fit = marglik.fit(shares, args=(COUNTS,), hyper=["p"])
    p, table = COUNTS / 50, fit.hyperparameters
    se = np.sqrt(p * (1 - p) / 50)
    half = Z * se / (p * (1 - p))
    assert list(table.index) == ["p[0]", "p[1]", "p[2]"]
    np.testing.assert_allclose(table["estimate"], p, rtol=1e-7)
    np.testing.assert_allclose(table["se"], se, rtol=1e-6)
    np.testing.assert_allclose(table["lower"], expit(logit(p) - half), rtol=1e-6)
    np.testing.assert_allclose(table["upper"], expit(logit(p) + half), rtol=1e-6)
    np.testing.assert_allclose(fit.log_evidence, stats.multinomial(50, p).logpmf(COUNTS), rtol=1e-10)
    given = {"p[0]": 0.2, "p[1]": 0.3, "p[2]": 0.5}
    truth = stats.multinomial(50, list(given.values())).logpmf(COUNTS)
    np.testing.assert_allclose(fit.log_evidence_at(given), truth, rtol=1e-10)
    held = marglik.fit(shares, args=(COUNTS,), hyper=["p"], fixed=given)
    np.testing.assert_allclose(held.log_evidence, truth, rtol=1e-10)
    np.testing.assert_allclose(held.hyperparameters["lower"], list(given.values()), rtol=1e-8)
    assert "p[0]" in str(fit)


def test_the_order_of_a_simplex_does_not_matter():
    there = marglik.fit(shares, args=(COUNTS,), hyper=["p"]).hyperparameters
    back = marglik.fit(shares, args=(COUNTS[::-1].copy(),), hyper=["p"]).hyperparameters
    np.testing.assert_allclose(back[::-1].to_numpy(float), there.to_numpy(float), rtol=1e-6)


def test_what_is_tied_is_not_given_alone():
    fit = marglik.fit(shares, args=(COUNTS,), hyper=["p"])
    with pytest.raises(ValueError, match=r"p\[0\] cannot be so: p\[0\] to p\[2\] are tied to each other. Give all"):
        fit.log_evidence_at({"p[0]": 0.2})
    with pytest.raises(ValueError, match=r"'p\[0\]' is tied to others, so it has no profile"):
        fit.confint("profile")
    with pytest.raises(ValueError, match=r"'p\[0\]' is tied to others, and this integrates"):
        fit.integrate_hyperparameters()
    with pytest.raises(ValueError, match=r"'p\[1\]' is tied to others.* no hyperprior of its own"):
        marglik.fit(shares, args=(COUNTS,), hyper=["p"], hyperprior={"p[1]": stats.beta(1, 2)})
    with pytest.raises(ValueError, match="must be a finite number from 0 to 1"):
        fit.log_evidence_at({"p[0]": 1.2})


def test_the_prior_of_a_simplex():
    """Its mode on its own scale: (n_i + 1)/(n + 3)."""
    fit = marglik.fit(shares, args=(COUNTS,), hyper=["p"], hyperprior=True)
    np.testing.assert_allclose(fit.hyperparameters["estimate"], (COUNTS + 1) / 53, rtol=1e-7)


def covariance(y):
    L = numpyro.sample("L", dist.LKJCholesky(3, 1.0))
    s = numpyro.param("s", jnp.ones(3), constraint=dist.constraints.positive)
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(3), scale_tril=s[:, None] * L), obs=y)


def test_the_factor_of_a_correlation():
    """At the maximum s and L are those of the data's second moments; se(L₁₀) = (1 − ρ²)/√n."""
    R = np.array([[1, 0.5, 0.2], [0.5, 1, -0.3], [0.2, -0.3, 1]])
    y = np.random.default_rng(0).multivariate_normal(np.zeros(3), R, 200)
    fit = marglik.fit(covariance, args=(y,), hyper=["L"])
    S, table = y.T @ y / 200, fit.hyperparameters
    sd = np.sqrt(np.diag(S))
    L = np.linalg.cholesky(S / np.outer(sd, sd))
    inside = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]  # L₀₀ is one, and above the diagonal all is zero
    assert list(table.index) == [f"s[{i}]" for i in range(3)] + [f"L[{i}, {j}]" for i, j in inside]
    np.testing.assert_allclose(table["estimate"], [*sd, *(L[at] for at in inside)], rtol=1e-6)
    np.testing.assert_allclose(table["se"].iloc[:4], [*sd / np.sqrt(400), (1 - L[1, 0] ** 2) / np.sqrt(200)], rtol=1e-5)
    np.testing.assert_allclose(fit.log_evidence, stats.multivariate_normal(np.zeros(3), S).logpdf(y).sum(), rtol=1e-10)


def cuts(y):
    c = numpyro.param("c", jnp.array([-1.0, 1.0]), constraint=dist.constraints.ordered_vector)
    numpyro.sample("y", dist.OrderedLogistic(0.0, c), obs=y)


def test_ordered_cutpoints():
    """At the maximum the cut points are the logits of the cumulative shares, with se 1/√(n p (1 − p))."""
    y = np.repeat([0, 1, 2], [20, 50, 30])
    table = marglik.fit(cuts, args=(y,)).hyperparameters
    p = np.array([0.2, 0.7])
    np.testing.assert_allclose(table["estimate"], logit(p), rtol=1e-6)
    np.testing.assert_allclose(table["se"], 1 / np.sqrt(100 * p * (1 - p)), rtol=1e-5)
    np.testing.assert_allclose(table["upper"] - table["estimate"], Z * table["se"], rtol=1e-9)


@pytest.mark.parametrize(("up", "constraint"), [(True, "greater_than"), (False, "less_than")])
def test_beyond_an_end(up, constraint):
    """A mean above 0.1, or below 1.5: intervals on the logarithm of its distance from there."""
    end = 0.1 if up else 1.5
    bound = getattr(dist.constraints, constraint)(end)

    def mean(y):
        m = numpyro.param("m", end + (1.0 if up else -1.0), constraint=bound)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    fit = marglik.fit(mean, args=(Y,))
    row, away = fit.hyperparameters.loc["m"], Y.mean() - end
    np.testing.assert_allclose([row["estimate"], row["se"]], [Y.mean(), 0.5], rtol=1e-6)
    ends = np.sort(end + away * np.exp(np.array([-1, 1]) * Z * 0.5 / abs(away)))
    np.testing.assert_allclose([row["lower"], row["upper"]], ends, rtol=1e-6)
    with pytest.raises(ValueError, match="'m' was given as"):
        fit.log_evidence_at({"m": end - 1 if up else end + 1})


def test_the_end_itself():
    """The mean of the data lies beyond the end: the estimate is the end, and said to be at its boundary."""

    def mean(y):
        m = numpyro.param("m", 3.0, constraint=dist.constraints.greater_than(2.0))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    fit = marglik.fit(mean, args=(Y,))
    assert fit.hyperparameters.loc["m", "estimate"] == 2.0
    assert fit.hyperparameters.loc["m", "at_boundary"]


def test_derivatives_of_what_is_tied():
    model = program(covariance, (np.ones((2, 3)),), {}, ["L"])
    ((_, image),) = model.hyperparameters.images
    theta, h = np.array([0.3, -0.4, 0.6]), 1e-6
    J = np.transpose([(image.report(theta + h * e) - image.report(theta - h * e)) / (2 * h) for e in np.eye(3)])
    np.testing.assert_allclose(image.jacobian(theta), J, atol=1e-9, rtol=0)
    np.testing.assert_allclose(image.coordinates(image.report(theta)), theta, rtol=1e-7)
    assert set(image.names) < set(model.hyperparameters.reported)


# Their own priors


def test_schools_integrated(case):
    """log ∫ p(y|τ) p(τ) dτ with τ ~ half-Cauchy(5), its prior in the program, by quadrature."""
    reference = case("eight_schools").reference["log_evidence_mu~N(0,5)_tau~HalfCauchy(5)"]["value"]

    def program(y, se):
        mu, tau = numpyro.sample("mu", dist.Normal(0, 5.0)), numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", 8):
            numpyro.sample("y", dist.Normal(mu + tau * numpyro.sample("z", dist.Normal(0, 1)), se), obs=y)

    fit = marglik.fit(program, args=(SCHOOLS, SE), hyper=["tau"])
    own = fit.integrate_hyperparameters()
    assert own.prior == {"tau": "its own in the program"}
    np.testing.assert_allclose(own.log_evidence, float(reference), atol=5e-5, rtol=0)
    given = fit.integrate_hyperparameters(prior={"tau": stats.halfcauchy(scale=5.0)})
    np.testing.assert_allclose(own.log_evidence, given.log_evidence, atol=1e-9, rtol=0)
    np.testing.assert_allclose(own.hyperparameters, given.hyperparameters, rtol=1e-8)


def test_a_param_is_flat():
    """Against a long run of NUTS under a flat prior on τ."""
    truth = json.loads((Path(__file__).parents[1] / "data/nuts/schools.json").read_text())["tau"]

    def program(y, se):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        tau = numpyro.param("tau", 5.0, constraint=dist.constraints.positive)
        with numpyro.plate("school", 8):
            numpyro.sample("y", dist.Normal(mu + tau * numpyro.sample("z", dist.Normal(0, 1)), se), obs=y)

    whole = marglik.fit(program, args=(SCHOOLS, SE)).integrate_hyperparameters()
    assert whole.prior == {"tau": "flat"}
    row = whole.hyperparameters.loc["tau"]
    for end in ("lower", "median", "upper"):
        assert abs(row[end] - truth[end]) < 0.02 * truth["sd"], end
    assert abs(row["mean"] - truth["mean"]) < 0.02 * truth["sd"]


def test_priors_that_depend_on_each_other():
    """m ~ N(0, 3), s | m ~ half-normal(1 + m²): what is integrated is their joint density."""

    def program(y):
        m = numpyro.sample("m", dist.Normal(0, 3.0))
        s = numpyro.sample("s", dist.HalfNormal(1 + m**2))
        numpyro.sample("y", dist.Normal(m, s), obs=y)

    whole = marglik.fit(program, args=(Y,), hyper=["m", "s"]).integrate_hyperparameters()
    m, u = np.linspace(-8, 8, 801)[:, None], np.linspace(-3, 4, 701)
    s = np.exp(u)
    log_p = stats.norm(m[..., None], s[:, None]).logpdf(Y).sum(-1) + stats.norm(0, 3).logpdf(m)
    log_p = log_p + stats.halfnorm(scale=1 + m**2).logpdf(s) + u
    truth = np.log(np.exp(log_p).sum() * (m[1, 0] - m[0, 0]) * (u[1] - u[0]))
    assert abs(whole.log_evidence - truth) < 0.01


# Sampled


@pytest.fixture(scope="module")
def conjugate():
    def program(y):
        m = numpyro.sample("m", dist.Normal(0, 3.0))
        w = numpyro.sample("w", dist.Normal(m, 2.0))
        numpyro.deterministic("twice", 2 * w)
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)

    fit = marglik.fit(program, args=(Y,), hyper=["m"])
    return fit, fit.nuts(draws=1500, warmup=500, chains=2, seed=1)


def test_nuts_of_a_conjugate_program(conjugate):
    """(m, w) | y is Gaussian with precision [[1/9 + 1/4, −1/4], [−1/4, 1/4 + n]]."""
    _, found = conjugate
    C = np.linalg.inv(np.array([[1 / 9 + 1 / 4, -1 / 4], [-1 / 4, 1 / 4 + 4]]))
    mean, sd = C @ np.array([0, Y.sum()]), np.sqrt(np.diag(C))
    table = found.summary()
    assert set(table.index) == {"m", "w", "twice"}
    for i, name in enumerate("mw"):
        row, n = table.loc[name], table.loc[name, "n_eff"]
        assert n > 400
        assert abs(row["mean"] - mean[i]) < 4 * sd[i] / np.sqrt(n)
        assert abs(row["sd"] / sd[i] - 1) < 4 / np.sqrt(2 * n)
        for end, p in (("lower", 0.025), ("median", 0.5), ("upper", 0.975)):
            error = np.sqrt(p * (1 - p) / n) / stats.norm.pdf(stats.norm.ppf(p))
            assert abs(row[end] - stats.norm(mean[i], sd[i]).ppf(p)) < 4 * sd[i] * error
        assert abs(row["r_hat"] - 1) < 0.02
    assert found.samples["m"].dtype == np.float64
    assert found.samples["m"].shape == (3000,)
    np.testing.assert_allclose(found.samples["twice"], 2 * found.samples["w"], rtol=1e-12)
    assert not jax.config.jax_enable_x64


def test_nuts_as_a_picture(conjugate):
    """Elements alone, in their order; areas of one; the interval and median of the table."""
    pytest.importorskip("matplotlib")
    _, found = conjugate
    figure, table = found.plot(), found.summary()
    assert figure.get_suptitle() == "3000 draws in 2 chains by NUTS"
    assert len(figure.axes) - sum(not ax.get_visible() for ax in figure.axes) == 3
    for ax, name in zip(figure.axes, found.samples, strict=False):
        low, middle, high = (f"{table.loc[name, end]:.3g}".replace("-", "−") for end in ("lower", "median", "upper"))
        assert ax.get_title(loc="left") == f"{name}: {middle}  ({low}, {high})"
        x, p = ax.lines[0].get_data()
        np.testing.assert_allclose(np.trapezoid(p, x), 1, rtol=1e-10)


@pytest.mark.slow
def test_nuts_is_the_same_from_the_same_seed(conjugate):
    fit, found = conjugate
    again = fit.nuts(draws=1500, warmup=500, chains=2, seed=1)
    np.testing.assert_array_equal(again.samples["w"], found.samples["w"])


@pytest.mark.slow
def test_nuts_holds_what_is_held():
    """A param is flat on its support, and one that is held stays at its value: m | y ~ N(ȳ, 1/n)."""

    def program(y):
        m = numpyro.param("m", 0.0)
        s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("y", dist.Normal(m, s), obs=y)

    table = marglik.fit(program, args=(Y,), fixed={"s": 1.0}).nuts(draws=1500, warmup=500, chains=2).summary()
    assert list(table.index) == ["m"]
    n = table.loc["m", "n_eff"]
    assert abs(table.loc["m", "mean"] - Y.mean()) < 4 * 0.5 / np.sqrt(n)
    assert abs(table.loc["m", "sd"] / 0.5 - 1) < 4 / np.sqrt(2 * n)


def test_nuts_refuses_in_a_sentence(conjugate):
    fit, _ = conjugate
    with pytest.raises(ValueError, match="draws must be a whole number, 4 or more, not 0"):
        fit.nuts(draws=0)
    with pytest.raises(Exception, match="NUTS samples NumPyro programs, and this model is linear"):
        marglik.fit("y ~ 1", {"y": Y}).nuts()
    prior = marglik.fit(fit.model.function, args=(Y,), hyper=["m"], hyperprior={"m": stats.norm(0, 1)})
    with pytest.raises(Exception, match="NUTS takes the priors that the program itself has"):
        prior.nuts()


# What a program names


def test_deterministic_sites():
    """By the delta method where members move alone, with the border, or several together; against dense algebra."""
    g = np.repeat(np.arange(5), 3)

    def program(y):
        mu = numpyro.sample("mu", dist.Normal(0, 3.0))
        with numpyro.plate("group", 5):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.deterministic("effect", mu + 0.7 * z)
        numpyro.deterministic("double", 2 * mu)
        numpyro.deterministic("total", jnp.sum(mu + 0.7 * z))
        numpyro.deterministic("centred", z - z.mean())
        numpyro.deterministic("eta", (mu + 0.7 * z)[g])
        numpyro.deterministic("size", 5)
        numpyro.sample("y", dist.Normal((mu + 0.7 * z)[g], 1.0), obs=y)

    y = np.random.default_rng(2).standard_normal(15)
    posterior = marglik.fit(program, args=(y,)).posterior
    member = np.eye(5)[g]
    X = np.c_[0.7 * member, np.ones(15)]  # z, then mu
    C = np.linalg.inv(X.T @ X + np.diag([1.0] * 5 + [1 / 9]))
    w = C @ X.T @ y
    effect = np.c_[0.7 * np.eye(5), np.ones(5)]
    rows = {
        "mu": np.eye(6)[5],
        "z": np.eye(6)[:5],
        "effect": effect,
        "double": 2 * np.eye(6)[5],
        "total": effect.sum(0),
        "centred": np.c_[np.eye(5) - 0.2, np.zeros(5)],
        "eta": effect[g],
    }
    assert list(posterior.mean) == list(posterior.sd)
    assert set(posterior.mean) == set(rows)
    for name, A in rows.items():
        np.testing.assert_allclose(posterior.mean[name], A @ w, atol=1e-9, rtol=0, err_msg=name)
        sd = np.sqrt(np.einsum("...i,ij,...j->...", A, C, A))
        np.testing.assert_allclose(posterior.sd[name], sd, rtol=1e-9, err_msg=name)
    draws = posterior.sample(50, seed=3)
    np.testing.assert_allclose(draws["total"], draws["effect"].sum(1), rtol=1e-10)
