# SPDX-License-Identifier: BSD-3-Clause
"""Adaptive quadrature: between Laplace's method and the integral, which sums over fine grids give to all digits."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import optimize, stats
from scipy.special import expit, logsumexp

import marglik
from marglik import learn
from marglik.evidence import Exact, Laplace, Quadrature, choose, evaluate, nodes
from marglik.interfaces.cli import main
from marglik.likelihoods import Bernoulli, Likelihood, NegativeBinomial, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.rows import InMemory
from marglik.testing import check_evidence

ONE_FACTOR = ("intercepts", "slopes", "independent slopes", "two terms a factor", "everything", "slopes and ridge")
NO_FACTOR = ("flat",)
OPTIONS = {
    "integrated": {"weights": True, "offset": True, "counts": True},
    "in theta": {"reml": False, "flat_in_theta": True, "weights": True, "offset": True},
}
PAIRS = [(structure, name) for structure in ONE_FACTOR for name in ("bernoulli", "poisson")]
PAIRS += [("slopes and ridge", name) for name in sorted(Likelihood.registry.keys() - {"bernoulli", "poisson"})]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    """Every structure with yes or no and with counts; every likelihood with correlated slopes beside a ridge."""
    return request.param[0], Likelihood.registry[request.param[1]]()


@pytest.mark.parametrize("options", OPTIONS)
def test_one_point_is_laplace(problem, pair, inside, options):
    model = problem(*pair, n=21, **OPTIONS[options])
    theta = inside(model)
    one, laplace = Quadrature(1)(model, theta), Laplace()(model, theta)
    np.testing.assert_allclose(one.log_value, laplace.log_value, rtol=1e-9)
    np.testing.assert_allclose(one.gradient, laplace.gradient, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.posterior.mean, laplace.posterior.mean, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(
        one.posterior.precision.to_dense(), laplace.posterior.precision.to_dense(), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("points", [1, 2, 5])
@pytest.mark.parametrize("structure", [*ONE_FACTOR, *NO_FACTOR])
def test_exact_for_a_gaussian(problem, structure, inside, points):
    model = problem(structure, n=21, weights=True, offset=True, counts=True)
    theta = inside(model)
    exact, found = (evaluate(method, model, theta[None]) for method in (Exact(), Quadrature(points)))
    np.testing.assert_allclose(found.log_value, exact.log_value, rtol=1e-9)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("options", "points"), [("integrated", 2), ("in theta", 3)])
def test_contract(problem, pair, inside, options, points):
    """With as few points, the nodes' own motion is most of what the gradient could miss."""
    model = problem(*pair, n=21, **OPTIONS[options])
    check_evidence(Quadrature(points), model, inside(model))


def test_contract_at_zero_scales(problem, pair, inside):
    model = problem(*pair, n=21)
    theta = inside(model)
    scales = [i for i, h in enumerate(model.hyperparameters) if h.even and h.name != "sd(noise)"]
    for zeros in [scales[:1], scales] if len(scales) > 1 else [scales]:
        there = theta.copy()
        there[zeros] = 0
        check_evidence(Quadrature(3), model, there)


# Against sums over fine grids: for analytic integrands that vanish at both ends they are right to all digits.

RNG = np.random.default_rng(3)
CODES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3])
SLOPE = RNG.standard_normal(13)
DENSITIES = {
    "bernoulli": lambda y, eta, own: stats.bernoulli.logpmf(y, expit(eta)),
    "poisson": lambda y, eta, own: stats.poisson.logpmf(y, np.exp(eta)),
    "negative_binomial": lambda y, eta, own: stats.nbinom.logpmf(y, own[0], own[0] / (own[0] + np.exp(eta))),
}
RESPONSES = {
    "bernoulli": (Bernoulli(), np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1])),
    "poisson": (Poisson(), np.array([3, 5, 1, 2, 0, 1, 0, 7, 4, 9, 6, 1, 0])),
    "negative_binomial": (NegativeBinomial(), np.array([3, 5, 1, 2, 0, 1, 0, 7, 14, 9, 6, 1, 0])),
}
OWN = {"bernoulli": [], "poisson": [], "negative_binomial": [1.7]}
SIZES = {1: [1.3], 2: [1.1, 0.5, 0.8]}
WANTED = {1: 45, 2: 61}


def tiny(family, m, **more):
    """Four levels, 13 rows; an intercept for each level, or an intercept and a slope; and a fixed intercept."""
    likelihood, y = RESPONSES[family]
    Z = np.column_stack([np.ones(13), SLOPE])[:, :m]
    effects = RandomEffects(CODES, "abcd", Z, ("Intercept", "x")[:m], group="g")
    return LinearModel(likelihood, Flat(np.ones(13), ["Intercept"]) + effects, InMemory(y), **more)


def on_a_grid(model, family, theta, beta, own):
    """Σ_g log ∫ p(y_g|u, β) N(u) du by the trapezoid rule."""
    effects = model.prior[1]
    L = effects.factor(theta)
    m, step = len(L), 0.05
    axis = np.arange(-8.5, 8.5 + step / 2, step)
    u = np.stack(np.meshgrid(*[axis] * m, indexing="ij"), axis=-1).reshape(-1, m)
    prior = -np.sum(u**2, axis=1) / 2 - m * np.log(2 * np.pi) / 2 + m * np.log(step)
    total = 0.0
    for level in range(4):
        rows = effects.codes == level
        eta = effects.columns[rows] @ L @ u.T + beta
        total += logsumexp(DENSITIES[family](model.rows.y[rows, None], eta, own).sum(axis=0) + prior)
    return total


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("family", RESPONSES)
def test_converges_to_the_integral(family, m):
    model = tiny(family, m, reml=False, flat_in_theta=True)
    theta = np.array([*SIZES[m], *OWN[family], 0.3])
    truth = on_a_grid(model, family, np.array(SIZES[m]), 0.3, OWN[family])
    errors = [abs(Quadrature(p)(model, theta).log_value - truth) for p in (1, 5, 15, WANTED[m])]
    assert errors[0] > 1e-3
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3
    assert errors[3] < 1e-9


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("family", RESPONSES)
def test_fixed_effects_by_laplace_on_top(family, m):
    """F(β) from grids: its slope is zero at β̂, and Laplace's method needs its value and curvature there."""
    model = tiny(family, m)
    theta = np.array([*SIZES[m], *OWN[family]])
    found = Quadrature(WANTED[m])(model, theta)
    best, h = found.posterior.mean[-1], 0.04
    F = [on_a_grid(model, family, np.array(SIZES[m]), best + h * i, OWN[family]) for i in range(-3, 4)]
    slope = np.array([-1, 9, -45, 0, 45, -9, 1]) @ F / (60 * h)
    curvature = -np.array([2, -27, 270, -490, 270, -27, 2]) @ F / (180 * h**2)
    assert abs(slope) < 1e-7
    np.testing.assert_allclose(found.log_value, F[3] + np.log(2 * np.pi / curvature) / 2, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.posterior.covariance.border[0, 0], 1 / curvature, rtol=1e-7)


def test_without_a_grouping_factor():
    """A fixed effect that is integrated beside two weights with a shared scale, as one integral."""
    y = RESPONSES["bernoulli"][1]
    X = np.column_stack([SLOPE, np.cos(np.arange(13))])
    model = LinearModel(Bernoulli(), Flat(np.ones(13), ["Intercept"]) + Ridge(X), InMemory(y))
    step = 0.15
    axes = np.arange(-16, 16, step), np.arange(-7, 7, step), np.arange(-7, 7, step)
    beta, *u = (grid.reshape(-1, 1) for grid in np.meshgrid(*axes, indexing="ij"))
    u = np.concatenate(u, axis=1)
    total = -np.sum(u**2, axis=1) / 2 - np.log(2 * np.pi) + 3 * np.log(step)
    for row, outcome in zip(0.9 * X, y, strict=True):
        total -= np.logaddexp(0, (1 - 2 * outcome) * (beta[:, 0] + u @ row))
    found = Quadrature(41)(model, np.array([0.9])).log_value
    np.testing.assert_allclose(found, logsumexp(total), rtol=0, atol=1e-9)
    check_evidence(Quadrature(3), model, [0.9])


def test_three_coefficients_a_level(inside):
    """A product of three one-dimensional integrals, where each coefficient has rows of its own."""
    codes, which = np.repeat(np.arange(4), 9), np.tile(np.repeat(np.arange(3), 3), 4)
    y = np.random.default_rng(0).integers(0, 2, 36)
    Z, apart = np.eye(3)[which], codes * 3 + which
    together = RandomEffects(codes, "abcd", Z, ("u", "v", "w"), group="g", correlated=False)
    model = LinearModel(Bernoulli(), together, InMemory(y))
    alone = [
        LinearModel(Bernoulli(), RandomEffects(codes[which == j], "abcd", group="h"), InMemory(y[which == j]))
        for j in range(3)
    ]
    assert len(np.unique(apart)) == 12
    theta = inside(model)
    found = Quadrature(5)(model, theta)
    parts = [Quadrature(5)(one, theta[[j]]) for j, one in enumerate(alone)]
    np.testing.assert_allclose(found.log_value, sum(part.log_value for part in parts), rtol=1e-12)
    np.testing.assert_allclose(found.gradient, np.concatenate([part.gradient for part in parts]), rtol=1e-9)
    check_evidence(Quadrature(2), model, theta)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tile", [5, 60])
def test_a_few_rows_at_a_time(problem, inside, monkeypatch, options, tile):
    """Levels in several parts, and a level in several tiles."""
    model = problem("slopes and ridge", NegativeBinomial(), n=31, **OPTIONS[options])
    theta = inside(model)
    whole = Quadrature(3)(model, theta)
    monkeypatch.setattr(nodes, "TILE", tile)
    parts = Quadrature(3)(model, theta)
    np.testing.assert_allclose(parts.log_value, whole.log_value, rtol=1e-12)
    np.testing.assert_allclose(parts.gradient, whole.gradient, rtol=1e-9)


def test_levels_without_rows_change_nothing():
    y, codes = RESPONSES["poisson"][1], CODES * 2 + 1
    few = LinearModel(Poisson(), Flat(np.ones(13)) + RandomEffects(CODES, "abcd", group="g"), InMemory(y))
    many = LinearModel(Poisson(), Flat(np.ones(13)) + RandomEffects(codes, "abcdefghi", group="g"), InMemory(y))
    one, other = (Quadrature(7)(model, np.array([0.8])) for model in (few, many))
    np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-13)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-10)
    top, _ = many.columns.split(other.posterior.mean)
    np.testing.assert_allclose(top[1:8:2, 0], one.posterior.mean[:4], rtol=1e-10)
    assert not top[::2].any()


@pytest.mark.parametrize("flat_in_theta", [False, True])
@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial(), Bernoulli()], ids=lambda x: type(x).__name__)
def test_nodes_where_densities_overflow(likelihood, flat_in_theta):
    """Levels without any event and with all of them, effects a hundred times their size on the log scale."""
    y = np.array([0, 0, 0, 3, 900, 2, 0, 0, 0, 1, 0, 2])
    y = np.minimum(y, 1) if likelihood.outcomes.upper == 1 else y
    prior = Flat(np.ones(12)) + RandomEffects(np.repeat(np.arange(4), 3), "abcd", group="g")
    model = LinearModel(likelihood, prior, y, reml=not flat_in_theta, flat_in_theta=flat_in_theta)
    own, flat = [2.0] * len(likelihood.hyperparameters()), [0.1] * flat_in_theta
    check_evidence(Quadrature(401), model, [100.0, *own, *flat])


@pytest.mark.parametrize("points", [1, 2, 7, 30, 100])
def test_rule(points):
    """Nodes and weights against NumPy's; moments of the normal distribution."""
    x, log_weights = nodes.rule(points, 1)
    there, weights = np.polynomial.hermite_e.hermegauss(points)
    np.testing.assert_allclose(x[:, 0], there, rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_weights, np.log(weights) + there**2 / 2, rtol=0, atol=1e-8)
    x, log_weights = nodes.rule(points, 2)
    share = np.exp(log_weights - np.sum(x**2, axis=1) / 2) / (2 * np.pi)
    np.testing.assert_allclose([share.sum(), share @ x[:, 0] ** 2], [1, points > 1], rtol=1e-11)


def test_rule_with_many_points():
    x, log_weights = nodes.rule(600, 1)
    assert np.isfinite(log_weights).all()
    share = np.exp(log_weights - x[:, 0] ** 2 / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(share @ x**8, [105], rtol=1e-11)


# What users see.

DATA = {
    "y": RESPONSES["poisson"][1],
    "seen": RESPONSES["bernoulli"][1],
    "x": SLOPE,
    "g": np.array(list("abcd"))[CODES],
    "h": np.array(list("uvw"))[np.arange(13) % 3],
}


def test_fit_maximises_the_integral():
    """θ̂ and β̂ against SciPy's search on grids."""
    fitted = marglik.fit("y ~ 1 + (1 | g)", DATA, family="poisson", reml=False, method="quadrature", points=45)
    model = tiny("poisson", 1)
    best = optimize.minimize(
        lambda p: -on_a_grid(model, "poisson", np.exp(p[:1]), p[1], []), [0.0, 1.0], tol=1e-9, method="Nelder-Mead"
    )
    assert fitted.converged
    np.testing.assert_allclose(fitted.log_evidence, -best.fun, rtol=0, atol=1e-9)
    np.testing.assert_allclose(fitted.hyperparameters["estimate"].iloc[0], np.exp(best.x[0]), rtol=1e-4)
    np.testing.assert_allclose(fitted.fixed_effects["estimate"].iloc[0], best.x[1], rtol=1e-4)


def test_no_variance_at_all():
    """Where levels do not differ, the scale is zero and the evidence that of the fixed effects alone."""
    data = {"y": np.tile([2, 3, 4], 8), "g": np.repeat(list("abcdefgh"), 3)}
    for reml in (True, False):
        fitted = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", method="quadrature", reml=reml)
        row = fitted.hyperparameters.loc["sd(Intercept | g)"]
        assert fitted.converged
        assert (row["estimate"], row["at_boundary"]) == (0, True)
        assert row["upper"] > 0
        alone = stats.poisson.logpmf(data["y"], 3).sum() + reml * np.log(2 * np.pi / (24 * 3)) / 2
        np.testing.assert_allclose(fitted.log_evidence, alone, rtol=1e-9)


def test_parts_sum_to_the_evidence():
    for reml in (True, False):
        fitted = marglik.fit("seen ~ 1 + (1 | g)", DATA, family="bernoulli", method="quadrature", reml=reml)
        np.testing.assert_allclose(fitted.occam["nats"].sum(), fitted.log_evidence, rtol=1e-12)
        laplace = LinearModel(Bernoulli(), fitted.model.prior, fitted.model.rows, reml, flat_in_theta=not reml)
        gap = fitted.log_evidence - Laplace()(laplace, fitted.optimum.theta[0]).log_value
        if not reml:
            np.testing.assert_allclose(fitted.occam["nats"]["beyond_laplace"], gap, rtol=1e-8)


def test_check_says_how_good_it_is():
    fit = lambda **more: marglik.fit("y ~ 1 + (1 | g)", DATA, family="poisson", method="quadrature", **more)  # noqa: E731
    few, many, beside = fit(points=3, reml=False), fit(points=45, reml=False), fit()
    model, theta = few.model, few.optimum.theta[0]
    gap = abs(Quadrature(5)(model, theta).log_value - Quadrature(3)(model, theta).log_value)
    assert few.check().verdict.startswith(
        "The evidence is at a maximum; the integral over levels is by quadrature with 3 points a dimension (5 move it "
        f"by {gap:.1g} nats); the approximation is good, 0.036 nats too low"
    )
    assert "(89 move it by less than 1e-10 nats); the approximation is good, less than" in str(many.check())
    assert "but that over all else by Laplace's method; the approx" in str(beside.check())


def test_saved_and_loaded(tmp_path):
    fitted = marglik.fit("seen ~ x + (1 | g)", DATA, family="bernoulli", method="quadrature", points=9)
    fitted.save(tmp_path / "fit.marglik")
    again = marglik.load(tmp_path / "fit.marglik")
    assert again.evidence_method == Quadrature(9)
    np.testing.assert_allclose(again.log_evidence, fitted.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(again.predict(), fitted.predict(), rtol=1e-9)


def test_several_targets_one_by_one():
    y = np.column_stack([RESPONSES["poisson"][1], RESPONSES["negative_binomial"][1]])
    prior = Flat(np.ones(13), ["Intercept"]) + RandomEffects(CODES, "abcd", group="g")
    both = marglik.fit(LinearModel(Poisson(), prior, y), method="quadrature")
    for v in range(2):
        alone = marglik.fit(LinearModel(Poisson(), prior, y[:, v]), method="quadrature")
        np.testing.assert_allclose(both.log_evidence[v], alone.log_evidence, rtol=1e-10)


def test_hessian_is_that_of_the_integral():
    """Standard errors come from differences of the gradient: against second differences of the value on grids."""
    fitted = marglik.fit("y ~ 1 + (1 | g)", DATA, family="poisson", reml=False, method="quadrature", points=45)
    model, (sd, beta) = tiny("poisson", 1), fitted.optimum.theta[0]
    at = lambda t, b: on_a_grid(model, "poisson", np.array([sd * np.exp(t)]), beta + b, [])  # noqa: E731
    h = 0.01
    mixed = (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4 * h**2)
    twice = [(at(h, 0) - 2 * at(0, 0) + at(-h, 0)) / h**2, (at(0, h) - 2 * at(0, 0) + at(0, -h)) / h**2]
    expected = np.linalg.inv(-np.array([[twice[0], mixed], [mixed, twice[1]]]))
    np.testing.assert_allclose(learn.covariance(fitted.optimum)[0], expected, rtol=1e-3)


UNSUITED = {
    "y ~ 1 + (1 | g) + (1 | h)": "one grouping factor, but this model has g, h",
    "y ~ 1 + (1 | g / h)": "one grouping factor, but this model has",
    "y ~ 1 + (x + I(x**2) + I(x**3) | g)": "3 coefficients a level at most, but each level of g has 4",
    "y ~ 1 + x + ridge(x, I(x**2))": "3 weights at most where there is no grouping factor, but this model has 4",
}


@pytest.mark.parametrize("formula", UNSUITED)
def test_unsuited(formula):
    with pytest.raises(ValueError, match="method='quadrature' integrates over") as error:
        marglik.fit(formula, DATA, family="poisson", method="quadrature")
    assert UNSUITED[formula] in str(error.value)
    assert "Use method='laplace', or method='auto', which chooses it because" in str(error.value)


def test_nothing_to_integrate():
    with pytest.raises(ValueError, match="but this model has nothing to integrate over"):
        marglik.fit("y ~ x", DATA, family="poisson", method="quadrature", reml=False)


@pytest.mark.parametrize("points", [0, -3, 2.5, 15.0, True, "15"])
def test_points_are_whole_numbers(points):
    with pytest.raises(ValueError, match=rf"points must be a whole number, 1 or more, but is {points!r}"):
        marglik.fit("y ~ 1 + (1 | g)", DATA, family="poisson", method="quadrature", points=points)


@pytest.mark.parametrize("method", ["auto", "laplace", "exact"])
def test_points_are_for_quadrature(method):
    with pytest.raises(
        ValueError, match=rf"points=5 is for method='quadrature', but the method asked for is '{method}'"
    ):
        marglik.fit("y ~ 1 + (1 | g)", DATA, family="poisson", method=method, points=5)


def test_programs_are_refused():
    assert "cannot split up a program" in Quadrature().unsuited(object())


def test_on_the_command_line(tmp_path):
    pd.DataFrame(DATA).to_csv(tmp_path / "data.csv", index=False)
    told = [str(tmp_path / "data.csv"), "seen ~ x + (1 | g)", "--family", "bernoulli", "--json"]
    found = CliRunner().invoke(main, ["fit", *told, "--ml", "--method", "quadrature", "--points", "9"])
    expected = marglik.fit("seen ~ x + (1 | g)", DATA, family="bernoulli", reml=False, method="quadrature", points=9)
    answer = json.loads(found.stdout)
    assert (found.exit_code, answer["method"]) == (0, "quadrature")
    np.testing.assert_allclose(answer["log_evidence"], expected.log_evidence, rtol=1e-9)
    refused = CliRunner().invoke(main, ["fit", *told, "--points", "9"])
    assert refused.exit_code == 2
    assert "points=9 is for method='quadrature', but the method asked for is 'auto'" in refused.stderr


def test_auto_does_not_choose_it():
    assert type(choose(tiny("poisson", 1)).method) is Laplace


def test_a_posterior_without_volume_is_refused():
    """All zeros: the likelihood rises for ever as the intercept falls."""
    data = {"y": np.zeros(8), "g": list("aabbccdd")}
    with pytest.raises(ValueError, match="keeps rising as fixed effects run off to infinity"):
        marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", method="quadrature")
