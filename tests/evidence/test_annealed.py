# SPDX-License-Identifier: BSD-3-Clause
"""Annealed evidence against integrals of known value."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

import marglik
from marglik.evidence import Annealed, Exact, Laplace, Quadrature, annealed, tempering
from marglik.evidence.annealed import estimate
from marglik.likelihoods import Bernoulli, Binomial, Gaussian, Likelihood, Poisson, StudentT
from marglik.linalg import Arrow
from marglik.model import LinearModel
from marglik.paths import Along, Leap
from marglik.paths import Path as PathOfDensities
from marglik.posterior.base import Gaussian as GaussianPosterior
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.priors import Gaussian as GivenGaussian
from marglik.rows import InMemory
from marglik.testing.numbers import derivative
from structures import STRUCTURES, design

CASES = Path(__file__).parent.parent / "data"
NONE = np.zeros(0)
SHELLS = {  # radial quadrature; Feroz, Hobson & Bridges (2009) print two decimals
    2: -1.74564187204676452,
    5: -5.67360123620021586,
    10: -14.5904910743851707,
    20: -36.0865476408104812,
    30: -60.127767341370878,
}
ROSENBROCK = -7.14934401307107159
PIMA = ["NP", "PGC", "BMI", "DP"]


def known(case):
    """Reference values of a published case, and its table."""
    told = json.loads((CASES / case / "case.json").read_text())["reference"]
    table = np.genfromtxt(CASES / case / "data.csv", delimiter=",", names=True)
    return {name: float(v["value"]) for name, v in told.items() if not isinstance(v["value"], list)}, table


def agrees(found, truth, most=0.1):
    """Within four reported standard errors, which are small."""
    assert 0 < found.std_error < most
    assert abs(found.log_value - truth) < 4 * found.std_error, (found, truth)


def gaussian_model(scale=1.0, flat=True, order=None):
    rng = np.random.default_rng(3)
    n = 30
    X, w = rng.standard_normal((n, 4)), rng.uniform(0.5, 2, n)
    y = X @ [1.0, -0.5, 0.2, 0.0] + 2 + rng.standard_normal(n)
    order = np.arange(n) if order is None else order
    rows = InMemory(y[order], weights=w[order], offset=0.1 * np.arange(n)[order])
    prior = Ridge(X[order])
    if flat:
        prior = Flat(np.column_stack([np.ones(n), scale * rng.standard_normal(n)])[order], ["a", "b"]) + prior
    return LinearModel(Gaussian(), prior, rows), np.array([0.7, 1.1])


# ---- the densities that clouds follow


@pytest.mark.parametrize("name", sorted(Likelihood.registry))
@pytest.mark.parametrize("structure", STRUCTURES)
def test_densities_of_many_weights_are_those_of_each(name, structure):
    rng = np.random.default_rng(4)
    likelihood = Likelihood.registry[name]()
    prior = design(rng, 9)[structure]
    k = sum(len(t.hyperparameters()) for t in prior)
    own = [2.5] * len(likelihood.hyperparameters())
    theta = np.array([0.8] * k + own)
    y = likelihood.sample(rng.standard_normal(9), np.array(own), rng)
    weights = rng.uniform(0.5, 2, 9)
    model = LinearModel(likelihood, prior, InMemory(y, weights=weights, offset=np.full(9, 0.1)))
    W = 0.5 * rng.standard_normal((3, model.n_weights))
    mode = GaussianPosterior(W[0], model.at(W[0], theta).neg_hessian.plus_shift(50.0))
    for path in filter(None, (model.path(theta), model.path(theta, mode))):
        here = path.at(W, 0.3)
        for i, w in enumerate(W):
            point = model.at(w, theta)
            np.testing.assert_allclose(
                here.reference[i] + here.potential[i], point.log_joint - model.log_volume, rtol=1e-11, atol=1e-9
            )
        along = derivative(lambda t, p=path: (a := p.at(W + t, 0.3)).reference + 0.3 * a.potential)
        np.testing.assert_allclose(here.slope.sum(axis=1), along, rtol=1e-6, atol=1e-6)


def test_a_path_in_little_memory_is_the_same(monkeypatch):
    model, theta = gaussian_model(flat=False)
    W = np.random.default_rng(0).standard_normal((50, 4))
    whole = model.path(theta).at(W, 0.4)
    monkeypatch.setattr("marglik.paths.ENTRIES", 100)
    for a, b in zip(whole, model.path(theta).at(W, 0.4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_halves_are_a_density_and_draws_follow_it():
    """E w = ½ E₁ w + ½ E₂ w, and log q is that of the mixture."""
    model, theta = gaussian_model(flat=False)
    near = Laplace()(model, theta).posterior
    path, rng = model.path(theta, near), np.random.default_rng(0)
    S, zero = near.precision.solve(np.eye(4)), np.zeros(4)
    one, other = stats.multivariate_normal(zero, np.eye(4)), stats.multivariate_normal(near.mean, S)
    W = path.draws(100_000, rng)
    np.testing.assert_allclose(W.mean(axis=0), near.mean / 2, rtol=0, atol=0.02)
    np.testing.assert_allclose((W**2).mean(axis=0), (1 + S.diagonal() + near.mean**2) / 2, rtol=0.03)
    log_q = np.logaddexp(one.logpdf(W[:50]), other.logpdf(W[:50])) - np.log(2)
    np.testing.assert_allclose(path.at(W[:50], 0.0).reference, log_q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("start", ["prior", "gaussian", "halves"])
def test_compiled_trajectories_are_those_of_numpy(start):
    model, rng = program_of(rosenbrock), np.random.default_rng(0)
    near = GaussianPosterior(np.array([0.2, 0.1]), Arrow.dense(np.array([[2.0, 0.5], [0.5, 3.0]])))
    path = model.path(NONE, None if start == "prior" else near, start != "gaussian")
    W, z, t = 0.1 * rng.standard_normal((7, 2)), rng.standard_normal((7, 2)), 0.3
    leap = Leap(t, rng.uniform(0.01, 0.05, (7, 1)), np.array([[0.2, 0.0], [0.1, 0.3]]), 5)
    slope = path.at(W, t).slope
    along = derivative(lambda h: (a := path.at(W + h, t)).reference + t * a.potential)
    np.testing.assert_allclose(slope.sum(axis=1), along, rtol=1e-6, atol=1e-6)
    compiled, plain = path.leapfrog(W, z, slope, leap), PathOfDensities.leapfrog(path, W, z, slope, leap)
    for a, b in zip((*compiled[:2], *compiled[2]), (*plain[:2], *plain[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_the_reference_is_a_density_and_draws_follow_it():
    model, theta = gaussian_model()
    posterior = Laplace()(model, theta).posterior
    path = model.path(theta, posterior)
    draws = path.draws(200_000, np.random.default_rng(0))
    H = posterior.precision.to_dense()
    np.testing.assert_allclose(np.cov(draws.T) @ H, np.eye(len(H)), rtol=0, atol=0.03)
    # the mean of N(w; 2m − w) under N is that of its peak: E log q = log|H|/2 − p/2 (1 + log 2π)
    entropy = (len(H) * (1 + np.log(2 * np.pi)) - posterior.precision.log_det) / 2
    assert path.at(draws, 0.0).reference.mean() == pytest.approx(-entropy, abs=0.02)


# ---- clouds


def test_temperatures_keep_the_share_of_the_cloud_that_they_should():
    potential = np.random.default_rng(0).normal(scale=30.0, size=4000)
    t, log_weights = tempering._next(0.0, potential, 0.7)
    u = np.exp(log_weights - log_weights.max())
    assert u.sum() ** 2 / (u**2).sum() / 4000 == pytest.approx(0.7, abs=1e-3)
    assert tempering._next(0.9, 1e-6 * potential, 0.7)[0] == 1.0
    assert 0 < t < 1


def test_resampling_is_systematic():
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    for seed in range(20):
        kept = tempering._resampled(np.log(np.maximum(weights, 1e-300)).repeat(25), np.random.default_rng(seed))
        counts = np.bincount(kept, minlength=100)
        assert (np.abs(counts - weights.repeat(25) * 4) <= 1).all()


def test_moves_leave_the_density_as_it_is():
    """Draws from a conjugate posterior, moved thrice with steps that are much rejected, are draws from it still."""
    model, theta = gaussian_model(flat=False)
    posterior = Laplace()(model, theta).posterior
    rng = np.random.default_rng(1)
    W, path = posterior.draws(40_000, rng), model.path(theta)
    here, stage = path.at(W, 1.0), tempering.Stage(1.0, np.diag([0.3, 0.1, 0.2, 0.5]), 1.0, 3, 1)
    moved = W
    for _ in range(3):
        moved, here, accepted = tempering._move(path, moved, here, stage, rng)
    assert 0.1 < accepted < 0.95
    z = (moved - posterior.mean) @ np.linalg.cholesky(posterior.precision.to_dense())
    np.testing.assert_allclose(z.mean(axis=0), 0, rtol=0, atol=0.025)
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(4), rtol=0, atol=0.03)


def test_every_cloud_is_unbiased():
    """The mean of Ẑ / Z over many small clouds is one."""
    model, theta = gaussian_model(flat=False)
    path, truth = model.path(theta), Laplace()(model, theta).log_value
    stages, _ = tempering.plan(path, 128, np.random.default_rng(0))
    ratio = np.exp(tempering.follow(path, stages, 64, 600, np.random.default_rng(1)) - truth)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(600) < 0.2


# ---- integrals of known value


@pytest.mark.parametrize("flat", [False, True])
def test_gaussian_models(flat):
    model, theta = gaussian_model(flat=flat)
    agrees(Annealed()(model, theta), Exact()(model, theta[None]).log_value[0])


def test_units_of_flat_columns_and_the_order_of_rows():
    (model, theta), (other, _) = gaussian_model(), gaussian_model(scale=1000.0)
    value = Annealed()(model, theta).log_value
    assert Annealed()(other, theta).log_value == pytest.approx(value - np.log(1000.0), abs=1e-6)
    shuffled, _ = gaussian_model(order=np.random.default_rng(0).permutation(30))
    assert abs(Annealed()(shuffled, theta).log_value - value) < 0.1


@pytest.mark.parametrize("columns", [PIMA, [*PIMA, "AGE"]])
@pytest.mark.parametrize("tau", [0.01, 1.0])
def test_pima(tau, columns):
    reference, table = known("logit_pima")
    X = np.column_stack([np.ones(len(table)), *(table[c] for c in columns)])
    model = LinearModel(Bernoulli(), Ridge(X), table["y"])
    truth = reference[f"tau{tau}_m{len(columns) - 3}_exact"]
    agrees(estimate(model, np.array([tau**-0.5]), particles=256), truth, 0.2)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_bioassay(rho):
    reference, table = known("logit_bioassay")
    X = np.column_stack([np.ones(len(table)), table["x"]])
    prior = GivenGaussian(X, [0.0, 10.0], [[4, 20 * rho], [20 * rho, 100]])
    model = LinearModel(Binomial(table["n"]), prior, table["y"])
    agrees(Annealed()(model, NONE), reference[f"log_evidence_rho{rho:g}"])


def test_an_effect_of_each_of_twenty_levels():
    codes = np.repeat(np.arange(20), 3)
    y = (np.tile([0, 1, 2], 20) < np.resize([3, 1, 0, 2, 3], 20).repeat(3)).astype(float)
    model = LinearModel(Bernoulli(), RandomEffects(codes, [*map(str, range(20))], group="g"), y)
    theta = np.array([2.0])
    truth = Quadrature(25)(model, theta).log_value
    assert Laplace()(model, theta).log_value < truth - 0.5
    agrees(Annealed()(model, theta), truth)


def test_as_many_weights_as_rows_can_tell_apart():
    rng = np.random.default_rng(0)
    model = LinearModel(Poisson(), Ridge(rng.standard_normal((6, 40)) / 6), rng.poisson(2.0, 6))
    found = Annealed()(model, np.array([0.8]))
    proposal = found.posterior.precision
    z = np.random.default_rng(1).standard_normal((200_000, 6)) * 1.3
    here = model.path(np.array([0.8])).at(found.posterior.mean + proposal.solve_half(z.T).T, 1.0)
    log_q = proposal.log_det / 2 - 6 * np.log(1.3 * np.sqrt(2 * np.pi)) - np.sum(z**2, axis=1) / 1.3**2 / 2
    truth = marglik.textbook.simple_monte_carlo(here.reference + here.potential - log_q, z)
    assert truth.std_error < 0.005
    agrees(found, truth.log_evidence)


def program_of(function, *args, **kwargs):
    pytest.importorskip("numpyro")
    from marglik.interfaces.numpyro import program

    return program(function, args, kwargs, ())


def shells(d):
    import jax.numpy as jnp
    import numpyro
    from numpyro import distributions as dist

    x = numpyro.sample("x", dist.Uniform(-6, 6).expand([d]).to_event(1))

    def shell(c):
        away = jnp.sqrt(jnp.sum((x - c * jnp.eye(d)[0]) ** 2)) - 2
        return -jnp.log(2 * jnp.pi * 0.01) / 2 - away**2 / 0.02

    numpyro.factor("shells", jnp.logaddexp(shell(3.5), shell(-3.5)))


def rosenbrock():
    import numpyro
    from numpyro import distributions as dist

    x = numpyro.sample("x", dist.Uniform(-10, 10))
    y = numpyro.sample("y", dist.Uniform(-5, 15))
    numpyro.factor("valley", -(100 * (y - x**2) ** 2 + (1 - x) ** 2))


def regression(X, y):
    import numpyro
    from numpyro import distributions as dist

    b = numpyro.sample("b", dist.Normal(0, 10).expand([5]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10))
    numpyro.sample("y", dist.Normal(X @ b, sigma), obs=y)


def flat_mean(y):
    import numpyro
    from numpyro import distributions as dist

    mean = numpyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mean, 2.0), obs=y)


@pytest.mark.parametrize("d", [2, *(pytest.param(d, marks=pytest.mark.slow) for d in (5, 10, 20, 30))])
def test_gaussian_shells(d):
    agrees(estimate(program_of(shells, d), NONE, particles=256 if d < 10 else 1024), SHELLS[d], 0.15)


def test_rosenbrock():
    agrees(estimate(program_of(rosenbrock), NONE, particles=256), ROSENBROCK, 0.15)


def test_a_regression_and_its_noise():
    """A funnel: from a prior 10,000 times wider than the posterior, the weights' width goes with the noise."""
    reference, table = known("sblrc_blr")
    X = np.column_stack([table[f"x{j}"] for j in range(1, 6)])
    model, truth = program_of(regression, X, table["y"]), reference["log_evidence_half_normal"]
    agrees(Annealed(from_prior=False)(model, NONE), truth)
    agrees(Annealed()(model, NONE), truth)


def test_two_modes_of_which_laplace_knows_one():
    x, y = np.ones((2, 1)), np.array([-7.0, 9.0])
    model, theta = LinearModel(StudentT(), Ridge(x), y), np.array([5.0, 0.3, 3.0])
    w = np.linspace(-60, 60, 240_001)
    log_p = stats.norm(scale=5).logpdf(w) + stats.t(3, w, 0.3).logpdf(y[:, None]).sum(axis=0)
    truth = special.logsumexp(log_p) + np.log(w[1] - w[0])
    share = np.exp(log_p - special.logsumexp(log_p))[w < 1].sum()
    assert 0.2 < share < 0.8
    assert Laplace()(model, theta).log_value < truth - 0.3
    agrees(Annealed()(model, theta), truth)


def test_a_program_with_a_flat_site():
    pytest.importorskip("numpyro")
    y = np.array([1.0, 2.5, 0.5])
    truth = -np.log(8 * np.pi) - np.log(3) / 2 - np.sum((y - y.mean()) ** 2) / 8
    agrees(marglik.fit(flat_mean, args=(y,), method="annealed")._evidence, truth)


# ---- its place among the methods


def test_fit_learns_by_laplace_and_reports_the_annealed_evidence(tmp_path):
    data = {"y": [1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1], "g": list("aaaabbbbccccdddd")}
    data["y"] = np.array(data["y"], float)
    fit = marglik.fit(
        "y ~ 1 + (1 | g)", data, family="bernoulli", method="annealed", seed=5, fixed={"sd(Intercept | g)": 2.0}
    )
    plain = marglik.fit("y ~ 1 + (1 | g)", data, family="bernoulli", method="laplace", fixed={"sd(Intercept | g)": 2.0})
    assert fit.method == "annealed"
    assert fit.evidence_method.seed == 5
    assert fit.log_evidence != plain.log_evidence
    np.testing.assert_allclose(fit.posterior.mean["(1 | g)"], plain.posterior.mean["(1 | g)"], rtol=1e-9)
    assert fit.occam["nats"].sum() == pytest.approx(fit.log_evidence, abs=1e-9)
    fit.save(tmp_path / "fit.zip")
    assert marglik.load(tmp_path / "fit.zip").log_evidence == pytest.approx(fit.log_evidence, abs=1e-9)


def test_fit_finds_the_hyperparameters_of_laplace():
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(8), 5)
    data = {"y": rng.poisson(np.exp(0.5 + 0.8 * rng.standard_normal(8))[g]), "g": g}
    fit = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", method="annealed")
    plain = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson")
    np.testing.assert_allclose(fit.hyperparameters["estimate"], plain.hyperparameters["estimate"], rtol=1e-9)
    np.testing.assert_allclose(fit.hyperparameters["se"], plain.hyperparameters["se"], rtol=1e-6)
    found = fit._evidence
    # of one factor and a flat mean, quadrature leaves the mean to Laplace's method, which is good to a thousandth here
    by_quadrature = marglik.fit(
        "y ~ 1 + (1 | g)", data, family="poisson", method="quadrature", fixed=dict(plain.hyperparameters["estimate"])
    )
    assert abs(fit.log_evidence - by_quadrature.log_evidence) < 4 * found.std_error + 0.005
    assert re.search(r"standard error of 0\.0\d+ nats; Laplace's approximation", str(fit.check()))


def test_the_seed_decides():
    model, theta = gaussian_model(flat=False)
    once, again, other = (estimate(model, theta, seed=s, particles=128) for s in (1, 1, 2))
    assert once.log_value == again.log_value
    assert once.log_value != other.log_value
    assert len(once.log_values) == annealed.RUNS


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pupils", "flat", "shells"])
def test_standard_errors_are_true(kind):
    """Over 100 seeds the standardised error is centred, with the spread of Student's t with 7 degrees of freedom."""
    posterior, theta = None, NONE
    if kind == "shells":
        model, truth = program_of(shells, 2), SHELLS[2]
    elif kind == "flat":
        model, theta = gaussian_model()
        truth, posterior = Exact()(model, theta[None]).log_value[0], Laplace()(model, theta).posterior
    else:
        codes, y = np.repeat(np.arange(5), 3), np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1.0])
        model, theta = LinearModel(Bernoulli(), RandomEffects(codes, "abcde", group="g"), y), np.array([2.0])
        truth = Quadrature(25)(model, theta).log_value
    found = [estimate(model, theta, posterior, seed, particles=256) for seed in range(100)]
    z = np.array([(f.log_value - truth) / f.std_error for f in found])
    assert abs(z.mean()) < 0.3
    assert 0.7 < z.std(ddof=1) < 1.4


# ---- bad input


class Nowhere(PathOfDensities):
    """A path to a density that is too sharp, or zero everywhere."""

    def __init__(self, potential):
        self.potential = potential

    def draws(self, n, rng):
        return rng.standard_normal((n, 1))

    def at(self, W, t):
        zero = np.zeros(len(W))
        return Along(zero, self.potential(W[:, 0]), np.zeros_like(W))


def told(path):
    """A model that has this path."""
    model, _ = gaussian_model(flat=False)

    class Told(LinearModel):
        def path(self, theta, around=None, prior=True):
            return path

    return Told(model.likelihood, model.prior, model.rows)


def test_a_density_that_is_zero_at_all_draws():
    with pytest.raises(ValueError, match=r"did not reach the joint density\. The density is zero at every draw"):
        estimate(told(Nowhere(lambda x: np.full(len(x), -np.inf))), NONE)


def test_runs_that_did_not_temper_to_one(monkeypatch):
    monkeypatch.setattr(tempering, "MOST_STAGES", 3)
    with pytest.raises(
        ValueError, match=r"did not reach the joint density\. 3 temperatures did not suffice: .* came to .*Try"
    ):
        estimate(told(Nowhere(lambda x: -1e6 * x**2)), NONE)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"runs": 7}, r"runs=7 independent runs are too few for a standard error\. Ask for 8 or more\."),
        ({"particles": 10}, r"particles=10 are too few to adapt to\. Ask for 64 or more\."),
    ],
)
def test_too_few(asked, sentence):
    model, theta = gaussian_model(flat=False)
    with pytest.raises(ValueError, match=sentence):
        estimate(model, theta, **asked)


def test_flat_weights_need_a_reference():
    model, theta = gaussian_model()
    with pytest.raises(
        ValueError, match=r"cannot start from the prior, since some weights have a flat one.*Give posterior=Laplace\(\)"
    ):
        estimate(model, theta)


def test_many_targets_and_many_weights_are_refused():
    X = np.random.default_rng(0).standard_normal((12, 2))
    many = LinearModel(Gaussian(), Ridge(X), np.ones((12, 3)) * np.arange(12)[:, None])
    with pytest.raises(ValueError, match="takes one target at a time, and this model has 3; fit each by itself"):
        marglik.fit(many, method="annealed")
    with pytest.raises(ValueError, match="takes one target at a time"):
        estimate(many, np.array([1.0, 1.0]))
    wide = LinearModel(Poisson(), Ridge(np.ones((600, 1)) * np.arange(600)), np.ones(600))
    wide = replace(wide, prior=RandomEffects(np.arange(600), [*map(str, range(600))], group="g"))
    with pytest.raises(ValueError, match=r"600 are more than the 500 it can.*Use method='laplace'"):
        marglik.fit(wide, method="annealed")


def test_a_vague_standard_error_is_said():
    model, theta = gaussian_model(flat=False)
    e = replace(Annealed(), particles=64)(LinearModel(model.likelihood, Ridge(np.eye(30) * 50), model.rows), theta)
    assert (e.std_error > annealed.VAGUE) == ("annealed" in e.checks)
