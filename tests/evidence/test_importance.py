# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling: within its own standard errors of integrals that are known, with the gradient of its value."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit, logsumexp

import marglik
from marglik import pareto
from marglik.evidence import Exact, Importance, Laplace, Quadrature, choose, draws, evaluate, importance, proposals
from marglik.evidence.clouds import Joint, effective, scatter
from marglik.evidence.draws import log_t2, t2
from marglik.evidence.groups import Place
from marglik.likelihoods import Bernoulli, Binomial, Likelihood, Poisson, StudentT
from marglik.linalg import Arrow
from marglik.model import LinearModel
from marglik.priors import Flat, Gaussian, RandomEffects, Ridge
from marglik.rows import InMemory

CATTLE = "cbind(incidence, size - incidence) ~ C(period) + (1 | herd)"
WHEEZE = "resp ~ age + smoke + (1 | id)"


def off(found, truth):
    """In reported standard errors."""
    return (found.log_value - truth) / found.std_error


def check_gradient(model, theta):
    """With draws held where they were drawn, and nearby."""
    held, h = Importance(256)(model, theta).posterior, 1e-5

    def slope(e):
        return (held.evidence(theta + h * e).log_value - held.evidence(theta - h * e).log_value) / (2 * h)

    gradient = held.evidence(theta).gradient
    differences = np.array([slope(e) for e in np.eye(len(theta))]).reshape(len(theta))
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6 * max(1, np.abs(gradient).max(initial=0)))


def test_held_gradient_is_that_of_the_value(problem, structure, inside):
    model = problem(structure, Bernoulli(), n=21, weights=True, offset=True)
    if Importance().unsuited(model) is None:
        check_gradient(model, inside(model))


@pytest.mark.parametrize("structure", ["flat", "independent slopes", "everything"])
@pytest.mark.parametrize("name", ["negative_binomial", "binomial"])
def test_held_gradient_with_fixed_effects_maximised(problem, inside, structure, name):
    model = problem(structure, Likelihood.registry[name](), n=21, weights=True, reml=False, flat_in_theta=True)
    check_gradient(model, inside(model))


def test_gaussian_models(problem, structure, inside):
    model = problem(structure, n=21, weights=True, offset=True, counts=True)
    theta = inside(model)
    if Importance().unsuited(model):
        pytest.skip("more weights than can be drawn")
    found = importance.estimate(model, theta)
    truth = evaluate(Exact(), model, theta[None]).log_value[0]
    assert abs(off(found, truth)) < 4
    assert found.std_error < 0.1
    assert found.k_hat < 0.7


@pytest.mark.parametrize(("tau", "which"), [(0.01, "m1"), (0.01, "m2"), (1.0, "m1"), (1.0, "m2")])
def test_pima(case, tau, which):
    found = case("logit_pima")
    columns = ["NP", "PGC", "BMI", "DP"] + ["AGE"] * (which == "m2")
    X = np.column_stack([np.ones(len(found.data)), found.data[columns]])
    model = LinearModel(Bernoulli(), Gaussian(X, covariance=1 / tau), found.data["y"].to_numpy(float))
    e = importance.estimate(model, np.zeros(0))
    assert abs(off(e, found.value(f"tau{tau}_{which}_exact"))) < 4
    assert e.std_error < 0.002


@pytest.mark.parametrize("rho", [0, 0.5])
def test_bioassay(case, rho):
    found = case("logit_bioassay")
    x, n, y = (found.data[c].to_numpy(float) for c in ("x", "n", "y"))
    prior = Gaussian(np.column_stack([np.ones(len(x)), x]), [0, 10], [[4, 20 * rho], [20 * rho, 100]])
    e = importance.estimate(LinearModel(Binomial(n), prior, y), np.zeros(0))
    truth = found.value(f"log_evidence_rho{rho:g}")
    assert abs(off(e, truth)) < 4
    assert abs(e.log_value - truth) < 0.05


def test_wheeze_level_by_level(case):
    """Laplace's method is off by 2.7 nats; at the exact maximum, from a search by quadrature."""
    found = case("glmm_ohio_wheeze")
    fit = marglik.fit(WHEEZE, found.data, family="bernoulli", reml=False, method="quadrature", points=25)
    e = importance.estimate(fit.objective.model, fit.optimum.theta[0])
    assert abs(off(e, found.value("exact_logLik"))) < 4
    assert e.std_error < 0.005
    assert len(e.groups.log_value) == 537
    assert e.k_hat < 0.5


@pytest.mark.parametrize("name", ["cattle", pytest.param("wheeze", marks=pytest.mark.slow)])
def test_learning_level_by_level(case, name):
    found = case({"cattle": "glmm_cbpp", "wheeze": "glmm_ohio_wheeze"}[name])
    formula, family = {"cattle": (CATTLE, "binomial"), "wheeze": (WHEEZE, "bernoulli")}[name]
    fit = marglik.fit(formula, found.data, family=family, reml=False, method="importance")
    e = fit._evidence
    assert fit.converged
    assert abs(fit.log_evidence - found.value("exact_logLik")) < 4 * e.std_error < 0.02
    theirs = [found.value(f"exact_{what}") for what in ("fixef", "se", "sd")]
    np.testing.assert_allclose(fit.fixed_effects["estimate"], [*theirs[0].values()], rtol=0, atol=5e-4)
    np.testing.assert_allclose(fit.fixed_effects["se"], [*theirs[1].values()], rtol=2e-3)
    np.testing.assert_allclose(fit.hyperparameters["estimate"], [theirs[2]], rtol=2e-3)


def pupils():
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(40), 4)
    y = (rng.random(160) < expit(2 * rng.standard_normal(40)[codes])).astype(float)
    return codes, y, LinearModel(Bernoulli(), RandomEffects(codes, [*range(41)], group="pupil"), y)


def test_groups_are_the_levels_own_integrals():
    """Against adaptive integration; a level without rows has none to speak of."""
    codes, y, model = pupils()
    theta = np.array([2.0])
    found = importance.estimate(model, theta)

    def integral(g):
        own = y[codes == g]
        eta = lambda u: 2.0 * u * np.ones(len(own))  # noqa: E731
        density = lambda u: np.exp(np.sum(own * eta(u) - np.logaddexp(0, eta(u))) - u * u / 2) / np.sqrt(2 * np.pi)  # noqa: E731
        return np.log(quad(density, -12, 12, epsabs=1e-13, epsrel=1e-12, limit=200)[0])

    truth = np.array([integral(g) for g in range(40)])
    error = np.abs(found.groups.log_value[:40] - truth)
    assert 0.4 < np.median(error / found.groups.std_error[:40]) < 1.0
    assert error.max() < 5e-4
    np.testing.assert_allclose(found.log_value, truth.sum(), rtol=0, atol=1e-3)
    assert (found.groups.log_value[40], found.groups.std_error[40], found.groups.k_hat[40]) == (0.0, 0.0, -np.inf)
    np.testing.assert_allclose(found.std_error, np.sqrt(np.sum(found.groups.std_error**2)), rtol=1e-3)


def test_fixed_effects_drawn_outside():
    """Against all weights drawn at once."""
    rng = np.random.default_rng(8)
    codes, x = np.repeat(np.arange(5), 6), rng.standard_normal(30)
    y = rng.poisson(np.exp(0.3 + 0.4 * x + 0.6 * rng.standard_normal(5)[codes])).astype(float)
    flat = Flat(np.column_stack([np.ones(30), x]))
    by_level = LinearModel(Poisson(), flat + RandomEffects(codes, [*range(5)], group="g"), y)
    jointly = LinearModel(Poisson(), flat + Ridge(np.eye(5)[codes]), y)
    theta = np.array([0.6])
    a, b = importance.estimate(by_level, theta, n=4096), importance.estimate(jointly, theta, n=16384)
    assert abs(a.log_value - b.log_value) < 4 * np.hypot(a.std_error, b.std_error) < 0.1
    assert b.groups is None


def test_learning_reaches_the_exact_maximum():
    """A Gaussian model has its maximum in closed form."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 4))
    model = LinearModel(marglik.likelihoods.Gaussian(), Ridge(X), X @ rng.standard_normal(4) + rng.standard_normal(60))
    exact, drawn = marglik.fit(model), marglik.fit(model, method="importance")
    se = exact.hyperparameters["se"]
    np.testing.assert_array_less(
        np.abs(drawn.hyperparameters["estimate"] - exact.hyperparameters["estimate"]), 0.02 * se
    )
    assert abs(drawn.log_evidence - exact.log_evidence) < 4 * drawn._evidence.std_error


def test_a_scale_that_vanishes_stays_at_zero():
    rng = np.random.default_rng(2)
    X, y = np.repeat(rng.standard_normal((40, 3)), 2, axis=0), np.tile([0.0, 1.0], 40)
    model = LinearModel(Bernoulli(), Flat(np.ones(80)) + Ridge(X), y)
    laplace, drawn = marglik.fit(model), marglik.fit(model, method="importance")
    assert laplace.hyperparameters["at_boundary"].tolist() == drawn.hyperparameters["at_boundary"].tolist() == [True]


def test_invariance():
    """To the order of rows and to a column's unit, with the same seed; another seed differs."""
    rng = np.random.default_rng(4)
    X, order = rng.standard_normal((50, 3)), rng.permutation(50)
    y = (rng.random(50) < expit(X @ [1.0, -1.0, 0.5])).astype(float)

    def value(X, y, seed=0, prior=Ridge):
        theta = np.ones(1 if prior is Ridge else 0)
        return importance.estimate(LinearModel(Bernoulli(), prior(X), y), theta, seed=seed).log_value

    here, flat = value(X, y), value(X, y, prior=Flat)
    np.testing.assert_allclose(value(X[order], y[order]), here, rtol=1e-9)
    np.testing.assert_allclose(value(X * [1, 1, 1000], y, prior=Flat) + np.log(1000), flat, rtol=1e-9)
    assert value(X, y, seed=1) != here


def test_a_density_of_zero_is_a_weight_of_zero():
    """A beta likelihood beside its support: no draw breaks the sum."""
    log_q = np.zeros((2, 8))

    class Half:
        def log_joints(self, theta):
            return np.where(np.arange(16) % 2, -np.inf, 0.0)

    cloud = Joint(Half(), log_q, 0.0)
    np.testing.assert_allclose(cloud.at(np.zeros(0)).log_value, np.log(0.5), rtol=1e-12)


def test_weights_and_hyperpriors():
    """Row weights multiply log densities: weights of two are the rows twice."""
    rng = np.random.default_rng(6)
    X, y = rng.standard_normal((20, 2)), rng.integers(0, 2, 20).astype(float)
    twice = LinearModel(Bernoulli(), Ridge(np.tile(X, (2, 1))), np.tile(y, 2))
    weighted = LinearModel(Bernoulli(), Ridge(X), InMemory(y, weights=np.full(20, 2.0)))
    theta = np.array([0.8])
    a, b = (importance.estimate(m, theta) for m in (twice, weighted))
    np.testing.assert_allclose(a.log_value, b.log_value, rtol=1e-9)
    prior = {"sd(weights)": stats.norm(1.0, 0.05)}
    plain, drawn = (marglik.fit(weighted, hyperprior=prior, method=m) for m in ("laplace", "importance"))
    np.testing.assert_allclose(drawn.hyperparameters["estimate"], plain.hyperparameters["estimate"], rtol=1e-2)


def test_many_targets_one_by_one():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((40, 2))
    Y = (rng.random((40, 2)) < expit(2 * X)).astype(float)
    both = marglik.fit(LinearModel(Bernoulli(), Ridge(X), Y), method="importance")
    alone = [marglik.fit(LinearModel(Bernoulli(), Ridge(X), y), method="importance").log_evidence for y in Y.T]
    np.testing.assert_allclose(both.log_evidence, alone, rtol=1e-9)


@pytest.mark.parametrize("n", [0, 100, 2.5, True, "many"])
def test_bad_draws(n):
    with pytest.raises(ValueError, match=r"draws must be a whole number, 256 or more, but is .*; 4096 is usual"):
        Importance(n)


def test_draws_are_a_power_of_two():
    with pytest.raises(ValueError, match=r"but is 1000\. Ask for 512 or 1024\."):
        Importance(1000)


def test_settings_belong_to_methods():
    model = pupils()[2]
    with pytest.raises(ValueError, match=r"draws=512 is for .*method='importance'.* the method asked for is 'laplace'"):
        choose(model, "laplace", draws=512)
    assert choose(model, "importance", draws=512).method.draws == 512


def test_too_many_weights():
    model = LinearModel(Bernoulli(), Ridge(np.eye(1201)), np.tile([0.0, 1.0], 601)[:1201])
    with pytest.raises(ValueError, match=r"draws 1201 weights jointly .* more than 1000 cannot be covered"):
        importance.estimate(model, np.array([1.0]))
    with pytest.raises(ValueError, match=r"takes one target at a time, and this model has 2"):
        importance.estimate(LinearModel(Bernoulli(), Ridge(np.eye(2)), np.eye(2)), np.array([1.0]))


def test_draws_that_miss_the_posterior_are_called_out():
    """Separated outcomes in 40 dimensions, a wide prior: the posterior is far from any Student's t."""
    rng = np.random.default_rng(0)
    y, x = np.r_[np.zeros(15), np.ones(15)], rng.standard_normal((30, 40))
    model = LinearModel(Bernoulli(), Ridge(x), y)
    e = Importance(256)(model, np.array([30.0]))
    assert importance.estimate(model, np.array([30.0]), n=256).k_hat > 0.7
    assert "Pareto k̂" in e.checks["draws"]


def test_student_draws():
    """Their density integrates to one, and they have its quantiles."""
    q, rng = draws.Student(5.0, 1.3), np.random.default_rng(0)
    x = q.of(draws.shifted(draws.net(1 << 12, 2, rng), 4, rng))[..., 0].ravel()
    np.testing.assert_allclose(q.log_density(x**2, 1), stats.t(5, scale=1.3).logpdf(x), rtol=1e-12)
    np.testing.assert_allclose(np.quantile(x, [0.1, 0.5, 0.9]), stats.t(5, scale=1.3).ppf([0.1, 0.5, 0.9]), atol=0.02)
    u = np.array([1e-9, 0.01, 0.3, 0.5, 0.77, 1 - 1e-6])
    np.testing.assert_allclose(t2(u), stats.t(2).ppf(u), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(log_t2(x[:, None], 0.7), stats.t(2, scale=0.7).logpdf(x), rtol=1e-12)


def test_runs_are_uniform_and_independent():
    rng = np.random.default_rng(0)
    for points in (draws.shifted(draws.net(64, 3, rng), 400, rng), draws.lattice(64, 3, 400, rng)):
        assert ((points > 0) & (points < 1)).all()
        means = np.mean(points**3, axis=1)
        np.testing.assert_allclose(means.mean(axis=0), 0.25, rtol=0, atol=5 * means.std(axis=0).max() / 20)
        first = points[:, 0, 0]
        np.testing.assert_allclose(first.mean(), 0.5, rtol=0, atol=4 * np.sqrt(1 / 12 / 400))
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.2


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_shape(k):
    u = np.random.default_rng(5).random(40_000)
    np.testing.assert_allclose(pareto.shape(-k * np.log(u)), k, rtol=0, atol=0.12)
    np.testing.assert_allclose(pareto.shape(-k * np.log(u) + 700), pareto.shape(-k * np.log(u)), rtol=1e-9)
    assert pareto.shape(np.zeros(1000)) == -np.inf


@pytest.mark.slow
@pytest.mark.parametrize("by_level", [False, True])
def test_standard_errors_are_true(case, by_level):
    """Over 200 seeds the standardised error has mean 0 and standard deviation 1."""
    if by_level:
        fit = marglik.fit(CATTLE, case("glmm_cbpp").data, family="binomial", reml=False)
        model, theta, n = fit.objective.model, fit.optimum.theta[0], 256
        truth = float(Quadrature(65)(model, theta).log_value)
    else:
        found = case("logit_pima")
        X = np.column_stack([np.ones(len(found.data)), found.data[["NP", "PGC", "BMI", "DP", "AGE"]]])
        model = LinearModel(Bernoulli(), Gaussian(X), found.data["y"].to_numpy(float))
        theta, n, truth = np.zeros(0), 1024, found.value("tau1.0_m2_exact")
    start = Laplace()(model, theta).posterior
    estimates = [importance.estimate(model, theta, start, n, seed) for seed in range(200)]
    z = np.array([off(e, truth) for e in estimates])
    assert max(e.k_hat for e in estimates) < 0.5
    assert abs(z.mean()) < 0.3
    assert 0.7 < z.std() < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_bent_valley_is_drawn_by_a_fitted_mixture(seed):
    """Rosenbrock's, of which a Student's t about the mode misses the arms (k̂ 0.8 to 1.3). Truth by quadrature."""
    numpyro = pytest.importorskip("numpyro")
    dist = numpyro.distributions

    def valley():
        x, y = numpyro.sample("x", dist.Uniform(-10, 10)), numpyro.sample("y", dist.Uniform(-5, 15))
        numpyro.factor("valley", -100 * (y - x**2) ** 2 - (1 - x) ** 2)

    e = importance.estimate(marglik.fit(valley).model, np.zeros(0), seed=seed)
    assert abs(e.log_value + 7.14934401307107159) < min(4 * e.std_error, 0.05)
    assert e.k_hat < 0.7


def crooked(W):
    """log of a normalised density: a Gaussian along a parabola, u₁ ~ N(0, 2²), u₂ ~ N(u₁², ½²)."""
    return -(W[:, 0] ** 2 / 8 + 2 * (W[:, 1] - W[:, 0] ** 2) ** 2) - np.log(4 * np.pi) + np.log(2)


def test_fitting_a_mixture_raises_the_effective_number():
    rng = np.random.default_rng(0)
    q = first = proposals.Mixture((proposals.Part(np.zeros(2), np.eye(2), draws.Student(5.0, 3.0), 1.0),))
    shares, values = [], []
    for _ in range(5):
        W, log_q, _ = q.drawn(512, 8, rng)
        log_weights = (crooked(W) - log_q.reshape(-1)).reshape(8, -1)
        shares.append(float(effective(log_weights.reshape(-1))))
        values.append((shares[-1], logsumexp(log_weights) - np.log(log_weights.size), float(scatter(log_weights))))
        q = first.fitted(W, log_weights.reshape(-1), rng)
    share, log_value, error = max(values)
    assert share > max(5 * shares[0], 0.25)
    assert abs(log_value) < 4 * error < 0.2


def test_a_mixture_s_density_is_that_of_its_draws():
    """The average of any density over it is one: here of each of its parts."""
    rng = np.random.default_rng(1)
    parts = [
        proposals.Part(np.full(3, m), np.eye(3) * s, draws.Student(6.0, 1.0), a) for m, s, a in [(0, 1, 3), (2, 2, 1)]
    ]
    q = proposals.Mixture(tuple(parts))
    assert q.counts(64) == [48, 16, 0]
    W, log_q, squares = q.drawn(256, 16, rng)
    assert W.shape == (4096, 3)
    for part, square in zip(parts, squares, strict=True):
        np.testing.assert_allclose(square, part.square(W), rtol=1e-9)
        ratio = (part.log_density(square) - log_q.reshape(-1)).reshape(16, -1)
        assert abs(logsumexp(ratio) - np.log(ratio.size)) < 4 * scatter(ratio) + 1e-3


def test_levels_of_several_modes():
    """Student's t about observations that disagree, a level: against adaptive integration."""
    y = np.tile([-4.0, -4.1, 3.9, 4.0, 4.2], 6) + np.repeat(np.linspace(-0.5, 0.5, 6), 5)
    codes, theta = np.repeat(np.arange(6), 5), np.array([5.0, 0.3, 1.0])
    model = LinearModel(StudentT(), RandomEffects(codes, [*range(6)], group="g"), y)
    names = model.hyperparameters.names
    values = {"scale": 0.3, "df": 1.0}
    theta = np.array([values.get(name, 5.0) for name in names])
    found = importance.estimate(model, theta)

    def integral(g):
        density = lambda u: np.exp(stats.t.logpdf(y[codes == g], 1.0, 5 * u, 0.3).sum() + stats.norm.logpdf(u))  # noqa: E731
        return np.log(
            sum(
                quad(density, a, b, epsabs=0, epsrel=1e-10, limit=400)[0]
                for a, b in [(-9, -0.4), (-0.4, 0.4), (0.4, 9)]
            )
        )

    truth = np.array([integral(g) for g in range(6)])
    np.testing.assert_allclose(found.groups.log_value, truth, rtol=0, atol=5e-3)
    assert abs(found.log_value - truth.sum()) < 4 * found.std_error + 1e-9
    assert found.k_hat < 0.5


def test_several_modes_are_found():
    """y ~ t(w) with two clusters and a wide prior: one mode has a tenth of the integral."""
    y = np.array([-4.0, -4.1, 3.9, 4.0, 4.2])
    model = LinearModel(StudentT(), Ridge(np.ones((5, 1))), y)
    values = {"scale": 0.3, "df": 1.0}
    theta = np.array([values.get(name, 10.0) for name in model.hyperparameters.names])
    w = np.linspace(-60, 60, 400_001)
    log_f = stats.t.logpdf(y[:, None], 1.0, w, 0.3).sum(axis=0) + stats.norm.logpdf(w, 0, 10)
    e = importance.estimate(model, theta)
    assert abs(e.log_value - logsumexp(log_f) - np.log(w[1] - w[0])) < 4 * e.std_error < 0.05


def test_few_draws_of_levels_tell_how_they_move_with_the_border():
    """Standardised errors with a border, by size: against 16 times as many draws."""
    rng = np.random.default_rng(8)
    codes, x = np.repeat(np.arange(12), 4), rng.standard_normal(48)
    y = (rng.random(48) < expit(0.3 + 0.4 * x + 1.5 * rng.standard_normal(12)[codes])).astype(float)
    flat = Flat(np.column_stack([np.ones(48), x]))
    model, theta = LinearModel(Bernoulli(), flat + RandomEffects(codes, [*range(12)], group="g"), y), np.array([1.5])
    truth = importance.weighed(Importance(4096), model, theta, None, importance.Border(1024, 256))[0].estimate
    found = [
        importance.weighed(Importance(1024, seed), model, theta, None, importance.Border(64, 64))[0].estimate
        for seed in range(1, 13)
    ]
    z = [(e.log_value - truth.log_value) / np.hypot(e.std_error, truth.std_error) for e in found]
    assert abs(np.mean(z)) < 1
    assert 0.5 < np.std(z) < 2
    assert max(e.std_error for e in found) < 0.1


def test_the_place_of_a_program_is_that_of_its_hessian():
    """Conditional mean and precision of a Gaussian in arrow form, from a dense twin."""
    rng = np.random.default_rng(3)
    blocks = np.array([np.eye(2) * 3 + a @ a.T for a in rng.standard_normal((4, 2, 2))])
    cross, border = rng.standard_normal((4, 2, 3)) * 0.3, np.eye(3) * 4
    H, w = Arrow(blocks, cross, border), rng.standard_normal(11)
    place = Place.of(w, H)
    cov = np.linalg.inv(H.to_dense())
    v = cov[-3:, -3:]
    np.testing.assert_allclose(place.half @ place.half.T, np.linalg.inv(v), rtol=1e-9)
    np.testing.assert_allclose(place.E.reshape(8, 3), cov[:-3, -3:] @ np.linalg.inv(v), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(place.C @ place.C.transpose(0, 2, 1), blocks, rtol=1e-12)


def test_scatter_is_the_delta_method():
    each = np.log([1.0, 1.2, 0.8, 1.1])[:, None]
    np.testing.assert_allclose(scatter(each), np.std([1.0, 1.2, 0.8, 1.1], ddof=1) / 1.025 / 2, rtol=1e-12)
