# SPDX-License-Identifier: BSD-3-Clause
"""What programs are made of: plates, factors, masks, scales, transforms; each against a closed form."""

import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate, optimize, stats

import marglik

jax = pytest.importorskip("jax")
numpyro = pytest.importorskip("numpyro")
import jax.numpy as jnp  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro import handlers  # noqa: E402
from numpyro.infer.reparam import LocScaleReparam, TransformReparam  # noqa: E402

from marglik.interfaces.numpyro import program  # noqa: E402

Y = np.array([0.3, -1.2, 2.2, 0.9])


def differences(f, x, h=1e-5):
    """Central ones, along a last axis."""
    return np.stack([(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(len(x))], axis=-1)


def normal(y, prior_sd=2.0, noise=1.0):
    """log p(y) for y_i = w + ε_i."""
    n = len(y)
    return stats.multivariate_normal(np.zeros(n), noise**2 * np.eye(n) + prior_sd**2).logpdf(y)


def shared(y):
    w = numpyro.sample("w", dist.Normal(0, 2.0))
    numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


def test_factors_count_as_likelihood():
    def factored(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.factor("y", stats_normal(y - w))

    def stats_normal(r):
        return jnp.sum(-(r**2) / 2 - jnp.log(2 * jnp.pi) / 2)

    np.testing.assert_allclose(marglik.fit(factored, args=(Y,)).log_evidence, normal(Y), rtol=1e-12)


def test_masked_data_do_not_count():
    def masked(y, mask):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        with handlers.mask(mask=mask):
            numpyro.sample("y", dist.Normal(w, 1.0), obs=y)

    mask = np.array([True, False, True, True])
    np.testing.assert_allclose(marglik.fit(masked, args=(Y, mask)).log_evidence, normal(Y[mask]), rtol=1e-12)


def test_a_scale_of_two_is_each_row_twice():
    def scaled(y):
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        with handlers.scale(scale=2.0):
            numpyro.sample("y", dist.Normal(w, 1.0), obs=y)

    np.testing.assert_allclose(marglik.fit(scaled, args=(Y,)).log_evidence, normal(np.concatenate([Y, Y])), rtol=1e-12)


def groups(y, se):
    tau = numpyro.sample("tau", dist.HalfNormal(3.0))
    mu = numpyro.sample("mu", dist.Normal(0, 5.0))
    with numpyro.plate("groups", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, se), obs=y)


SE = np.array([0.5, 0.8, 0.6, 1.1])


def groups_evidence(tau):
    return stats.multivariate_normal(np.zeros(4), np.diag(tau**2 + SE**2) + 25.0).logpdf(Y)


@pytest.mark.parametrize(
    "config",
    [{}, {"theta": LocScaleReparam(centered=0)}, {"theta": LocScaleReparam(centered=0.4)}],
    ids=["as written", "non-centred", "partly centred"],
)
def test_reparameterisation_leaves_a_gaussian_evidence_alone(config):
    fit = marglik.fit(handlers.reparam(groups, config=config), args=(Y, SE), hyper=["tau"])
    for tau in (0.3, 1.0, 4.0):
        np.testing.assert_allclose(fit.log_evidence_at({"tau": tau}), groups_evidence(tau), atol=1e-9, rtol=0)
    best = max(np.linspace(0.5, 3, 2001), key=groups_evidence)
    np.testing.assert_allclose(fit.hyperparameters.loc["tau", "estimate"], best, atol=1.3e-3, rtol=0)
    assert fit.model.layout.plate == "groups"


def test_transform_reparam_moves_the_expansion_to_the_base():
    def lognormal(y):
        with handlers.reparam(config={"s": TransformReparam()}):
            s = numpyro.sample(
                "s", dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.AffineTransform(1.0, 2.0))
            )
        numpyro.deterministic("twice", 2 * s)
        numpyro.sample("y", dist.Normal(s - 1.0, 1.0), obs=y)

    fit = marglik.fit(lognormal, args=(Y,))
    np.testing.assert_allclose(fit.log_evidence, normal(Y), rtol=1e-12)
    assert set(fit.posterior.mean) == {"s_base", "s", "twice"}
    np.testing.assert_allclose(fit.posterior.mean["twice"], 2 + 4 * fit.posterior.mean["s_base"], rtol=1e-12)
    np.testing.assert_allclose(fit.posterior.sd["twice"], 4 * fit.posterior.sd["s_base"], rtol=1e-12)


def test_a_vector_site_with_a_full_covariance():
    C = np.array([[2.0, 0.7], [0.7, 1.0]])
    X = np.array([[1.0, 0.2], [0.3, -1.0], [0.5, 0.5]])

    def regression(y):
        w = numpyro.sample("w", dist.MultivariateNormal(jnp.zeros(2), C))
        numpyro.sample("y", dist.Normal(X @ w, 0.7), obs=y)

    fit = marglik.fit(regression, args=(Y[:3],))
    V = 0.49 * np.eye(3) + X @ C @ X.T
    np.testing.assert_allclose(fit.log_evidence, stats.multivariate_normal(np.zeros(3), V).logpdf(Y[:3]), rtol=1e-12)
    mean = C @ X.T @ np.linalg.solve(V, Y[:3])
    np.testing.assert_allclose(fit.posterior.mean["w"], mean, rtol=1e-10)
    sd = np.sqrt(np.diag(C - C @ X.T @ np.linalg.solve(V, X @ C)))
    np.testing.assert_allclose(fit.posterior.sd["w"], sd, rtol=1e-10)


def test_a_simplex_is_integrated_on_its_unconstrained_scale():
    """A Beta posterior as a Dirichlet on two: Laplace in the logit, by hand, and within its error of the truth."""
    y, n, a, b = 14, 30, 2.0, 3.0

    def proportions(y):
        p = numpyro.sample("p", dist.Dirichlet(jnp.array([a, b])))
        numpyro.sample("y", dist.Binomial(n, p[0]), obs=y)

    fit = marglik.fit(proportions, args=(y,))
    exact = stats.betabinom(n, a, b).logpmf(y)
    assert abs(fit.log_evidence - exact) < 0.02
    mean = fit.posterior.mean["p"]
    np.testing.assert_allclose(mean[0], (y + a) / (n + a + b), rtol=1e-8)  # the mode in the logit
    information = (y + a) * (n - y + b) / (n + a + b)
    np.testing.assert_allclose(fit.posterior.sd["p"], mean[0] * mean[1] / np.sqrt(information), rtol=1e-8)


def test_a_support_may_depend_on_another_site():
    """v ~ Uniform(0, s): integrated in the logit of v/s; against the truth in one dimension."""

    def dependent(y):
        s = numpyro.param("s", 2.0, constraint=dist.constraints.positive)
        v = numpyro.sample("v", dist.Uniform(0.0, s))
        numpyro.sample("y", dist.Normal(v, 1.0).expand([len(y)]).to_event(1), obs=y)

    fit = marglik.fit(dependent, args=(Y,))
    for s in (2.0, 5.0):

        def inside(z, s=s):
            return stats.norm(s / (1 + np.exp(-z))).logpdf(Y).sum() + stats.logistic().logpdf(z)

        peak = optimize.minimize_scalar(lambda z, f=inside: -f(z), (-2, 2), tol=1e-12).x
        h = 1e-3
        curvature = -(inside(peak + h) - 2 * inside(peak) + inside(peak - h)) / h**2
        laplace = inside(peak) + np.log(2 * np.pi / curvature) / 2
        np.testing.assert_allclose(fit.log_evidence_at({"s": s}), laplace, atol=1e-6, rtol=0)
        truth = np.log(integrate.quad(lambda z, f=inside: np.exp(f(z)), -30, 30)[0])
        assert abs(fit.log_evidence_at({"s": s}) - truth) < 0.3


def nested(y, school, prior):
    scale = numpyro.param("scale", jnp.array([1.0, 0.5]), constraint=dist.constraints.positive)
    mu = numpyro.sample("mu", dist.Normal(0, 3.0))
    with numpyro.plate("schools", 4, dim=-1):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("classes", 3, dim=-2):
            b = numpyro.sample("b", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(mu + scale[0] * a + scale[1] * b, 0.4), obs=y)


def test_nested_plates_give_blocks_of_the_outer_one():
    y = np.random.default_rng(3).standard_normal((3, 4)) + np.array([0.0, 1.0, -1.0, 0.5])
    fit = marglik.fit(nested, args=(y, None, None))
    layout = fit.model.layout
    assert (layout.plate, layout.n_members, layout.n_local, layout.n_border) == ("schools", 4, 4, 1)
    school = np.tile(np.arange(4), 3)

    def evidence(s):
        V = 9.0 + s[0] ** 2 * (school[:, None] == school) + (s[1] ** 2 + 0.16) * np.eye(12)
        return stats.multivariate_normal(np.zeros(12), V).logpdf(y.ravel())

    for s in ([1.0, 0.5], [0.3, 2.0]):
        value = fit.log_evidence_at({"scale[0]": s[0], "scale[1]": s[1]})
        np.testing.assert_allclose(value, evidence(s), atol=1e-9, rtol=0)


def poisson_slopes(y, x, g):
    mu = numpyro.sample("mu", dist.Normal(0, 2.0).expand([2]).to_event(1))
    s = numpyro.param("s", jnp.array([0.8, 0.5]), constraint=dist.constraints.positive)
    with numpyro.plate("g", 6):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
        rate = numpyro.sample("rate", dist.Gamma(3.0, 3.0))
    B = mu + s * z
    numpyro.sample("y", dist.Poisson(rate[g] * jnp.exp(B[g, 0] + B[g, 1] * x)), obs=y)


def slopes_data():
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(6), 5), rng.standard_normal(30)
    return rng.poisson(np.exp(0.5 + 0.3 * x + 0.5 * rng.standard_normal(6)[g])).astype(float), x, g


def test_blocks_equal_their_dense_twin():
    """H, the derivatives of the evidence, and the posterior, against JAX's dense Hessian and central differences."""
    model = program(poisson_slopes, slopes_data(), {}, ())
    layout, densities = model.layout, model.densities
    assert (layout.plate, layout.n_members, layout.n_local, layout.n_border) == ("g", 6, 3, 2)
    rng = np.random.default_rng(0)
    w, theta = 0.4 * rng.standard_normal(model.n_weights), np.array([0.7, 0.3])
    point = model.at(w, theta)
    with jax.enable_x64(True):
        dense = -np.asarray(jax.jit(jax.hessian(densities.log_joint))(w, theta))
    np.testing.assert_allclose(point.neg_hessian.to_dense(), dense, atol=1e-10, rtol=0)
    H = point.neg_hessian.plus_shift(1.0)
    C = H.inverse_on_pattern()
    along_w, along_theta = point.log_det_slopes(H)
    np.testing.assert_allclose(
        along_w, differences(lambda v: C.inner(model.at(v, theta).neg_hessian), w), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        along_theta, differences(lambda t: C.inner(model.at(w, t).neg_hessian), theta), rtol=1e-6, atol=1e-7
    )
    explicit = point.theta_derivatives()
    np.testing.assert_allclose(explicit.log_joint, differences(lambda t: model.at(w, t).log_joint, theta), rtol=1e-7)
    np.testing.assert_allclose(explicit.score, differences(lambda t: model.at(w, t).score, theta), atol=1e-7, rtol=1e-6)


def test_posterior_by_blocks_is_that_of_the_dense_matrix():
    fit = marglik.fit(poisson_slopes, args=slopes_data())
    joint, layout = fit.posterior.joint, fit.model.layout
    C = np.linalg.inv(joint.precision.to_dense())
    with jax.enable_x64(True):
        J = jax.jit(jax.jacobian(fit.model.densities.values))(joint.mean, fit.posterior.theta)
    for name, sd in fit.posterior.sd.items():
        np.testing.assert_allclose(sd, np.sqrt(np.einsum("...i,ij,...j->...", J[name], C, J[name])), rtol=1e-9)
    raw = layout.unravel(joint.mean)
    np.testing.assert_allclose(fit.posterior.mean["rate"], np.exp(raw["rate"]), rtol=1e-6)
    draws = fit.posterior.sample(4000, seed=2)
    se = fit.posterior.sd["z"] / np.sqrt(4000)
    assert np.all(np.abs(draws["z"].mean(0) - fit.posterior.mean["z"]) < 4.5 * se)


def test_members_that_depend_on_each_other_are_found_out():
    """A random walk written with a plate: its increments are independent, but not given the data."""

    def walk(y):
        with numpyro.plate("time", len(y)):
            z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(jnp.cumsum(z), 0.5), obs=y)

    fit = marglik.fit(walk, args=(Y,))
    t = np.arange(1, 5)
    V = np.minimum(t[:, None], t) + 0.25 * np.eye(4)
    np.testing.assert_allclose(fit.log_evidence, stats.multivariate_normal(np.zeros(4), V).logpdf(Y), rtol=1e-12)
    assert fit.model.layout.plate is None
    assert "plate 'time' depend on each other" in fit.notes[0]


def test_hyperprior_of_the_program():
    """log p(y|τ) + log HalfNormal(τ): no Jacobian, and the evidence stays that at τ̂."""
    fit = marglik.fit(groups, args=(Y, SE), hyper=["tau"], hyperprior=True)
    objective = lambda tau: groups_evidence(tau) + stats.halfnorm(scale=3.0).logpdf(tau)  # noqa: E731
    best = fit.hyperparameters.loc["tau", "estimate"]
    assert abs(differences(lambda t: objective(t[0]), np.array([best]))[0]) < 1e-6
    np.testing.assert_allclose(fit.log_evidence, groups_evidence(best), atol=1e-9, rtol=0)
    same = marglik.fit(groups, args=(Y, SE), hyper=["tau"], hyperprior={"tau": stats.halfnorm(scale=3.0)})
    np.testing.assert_allclose(best, same.hyperparameters.loc["tau", "estimate"], rtol=1e-6)
    np.testing.assert_allclose(fit.hyperparameters["se"], same.hyperparameters["se"], rtol=1e-5)


def test_log_joints_and_the_prior():
    """Draws from the prior average the likelihood to the evidence; the log joint is prior and likelihood."""
    model = program(shared, (Y,), {}, ())
    W = model.prior_draws(np.zeros(0), 3000, seed=1)
    assert W.shape == (3000, 1)
    assert stats.kstest(W[:, 0], stats.norm(0, 2.0).cdf).pvalue > 1e-3
    likelihood = model.log_likelihoods(W, np.zeros(0))
    np.testing.assert_allclose(likelihood, stats.norm(W).logpdf(Y).sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(
        model.log_joints(W, np.zeros(0)), likelihood + stats.norm(0, 2.0).logpdf(W[:, 0]), rtol=1e-10
    )
    weights = np.exp(likelihood - normal(Y))
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(3000)


def test_the_start_moves_where_zero_has_no_density():
    """Zero on the unconstrained scale has a rate of zero: the search sets out from a draw from the prior."""

    def shifted(y):
        w = numpyro.sample("w", dist.Normal(3.0, 0.5))
        numpyro.sample("y", dist.Exponential(jnp.where(w > 1e-3, w, jnp.nan)), obs=y)

    y = np.array([0.2, 0.5, 0.1])
    fit = marglik.fit(shifted, args=(y,))
    log_joint = lambda w: 3 * np.log(w) - w * y.sum() + stats.norm(3.0, 0.5).logpdf(w)  # noqa: E731
    truth = np.log(integrate.quad(lambda w: np.exp(log_joint(w)), 1e-3, 8)[0])
    assert abs(fit.log_evidence - truth) < 0.02


def bimodal():
    """w² ~ N(9, 1): zero is stationary and a minimum along w; the modes are at ±3."""
    w = numpyro.sample("w", dist.Normal(0, 10.0))
    numpyro.sample("y", dist.Normal(w**2, 1.0), obs=9.0)


def test_a_search_leaves_the_line_of_symmetry():
    """Next to zero the slope points to one of the modes; the check sees both."""
    fit = marglik.fit(bimodal)
    w = np.sqrt(9 - 1 / 200)  # where 2w (9 − w²) = w/100
    bend = 6 * w**2 - 18 + 1 / 100
    joint = stats.norm(0, 10).logpdf(w) + stats.norm(w**2, 1).logpdf(9)
    np.testing.assert_allclose(fit.log_evidence, joint + np.log(2 * np.pi / bend) / 2, atol=1e-9, rtol=0)
    assert "it is 0.7 nats too low" in str(fit.check())


def test_a_saddle_is_not_a_mode(monkeypatch):
    """A search that sets out on the line of symmetry stays there where there are too many directions to look at."""
    module = sys.modules["marglik.interfaces.numpyro.program"]
    monkeypatch.setattr(module, "NEXT_TO_ZERO", 0.0)
    monkeypatch.setattr(module, "MOST_DENSE", 0)
    fit = marglik.fit(bimodal)
    assert fit.log_evidence == -np.inf
    assert not fit.check().converged
    assert str(fit.check()).startswith("Do not trust these numbers: The point found is a saddle or a minimum")


def test_order_of_rows_and_units_do_not_matter():
    y, x, g = slopes_data()
    order = np.random.default_rng(1).permutation(len(y))
    once = marglik.fit(poisson_slopes, args=(y, x, g))
    again = marglik.fit(poisson_slopes, args=(y[order], x[order], g[order]))
    np.testing.assert_allclose(once.log_evidence, again.log_evidence, atol=1e-9, rtol=0)
    np.testing.assert_allclose(once.hyperparameters["estimate"], again.hyperparameters["estimate"], rtol=1e-5)


def test_a_changed_global_is_seen():
    """What is compiled is found by what it computes: new data behind the same name are used."""
    data = {"y": Y}

    def closed():
        w = numpyro.sample("w", dist.Normal(0, 2.0))
        numpyro.sample("y", dist.Normal(w, 1.0), obs=data["y"])

    np.testing.assert_allclose(marglik.fit(closed).log_evidence, normal(Y), rtol=1e-12)
    data["y"] = Y + 1
    np.testing.assert_allclose(marglik.fit(closed).log_evidence, normal(Y + 1), rtol=1e-12)


def test_nothing_is_compiled_twice():
    from marglik.interfaces.numpyro.compiling import _compiled

    marglik.fit(shared, args=(Y,))
    before = _compiled.cache_info()
    other = marglik.fit(shared, args=(2 * Y,))
    np.testing.assert_allclose(other.log_evidence, normal(2 * Y), rtol=1e-12)
    after = _compiled.cache_info()
    assert after.misses == before.misses
    assert after.hits > before.hits


@pytest.mark.slow
def test_a_second_process_finds_what_the_first_has_compiled(tmp_path):
    code = """
import numpy as np, numpyro, numpyro.distributions as dist, marglik
def program(y):
    w = numpyro.sample("w", dist.Normal(0, numpyro.param("s", 1.0, constraint=dist.constraints.positive)))
    numpyro.sample("y", dist.Normal(w, 1.0), obs=y)
marglik.fit(program, args=(np.array([2.0, 3.0, 2.5]),))
"""
    asked = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], env=os.environ | asked, check=True)
        found.append({path.name for path in tmp_path.iterdir() if not path.name.endswith("-atime")})
    assert found[0] == found[1] != set()


def test_a_posterior_without_latent_sites():
    def plain(y):
        m = numpyro.param("m", 0.0)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    fit = marglik.fit(plain, args=(Y,))
    np.testing.assert_allclose(fit.hyperparameters.loc["m", "estimate"], Y.mean(), rtol=1e-8)
    np.testing.assert_allclose(fit.hyperparameters.loc["m", "se"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(fit.log_evidence, stats.norm(Y.mean()).logpdf(Y).sum(), rtol=1e-12)


@pytest.mark.parametrize("what", ["edf", "occam", "fixed_effects"])
def test_tables_of_linear_models_are_refused(what):
    fit = marglik.fit(shared, args=(Y,))
    with pytest.raises(Exception, match="A program has no"):
        getattr(fit, what)
    with pytest.raises(Exception, match="A program has no linear predictor"):
        fit.predict()
