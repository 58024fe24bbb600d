# SPDX-License-Identifier: BSD-3-Clause
"""The Gaussian lower bound: below the integral, and the best of all Gaussians, which plain searches find as well."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import optimize
from scipy.special import logsumexp

import marglik
from marglik import evidence
from marglik.evidence import Exact, Laplace, Variational, evaluate
from marglik.interfaces.cli import main
from marglik.likelihoods import Bernoulli, Binomial, Gaussian, Likelihood, Poisson
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian as Normal
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.rows import InMemory
from marglik.testing import check_evidence
from structures import STRUCTURES

LIKELIHOODS = tuple(sorted(Likelihood.registry))
OPTIONS = {
    "integrated": {"weights": True, "offset": True, "counts": True},
    "in theta": {"reml": False, "flat_in_theta": True, "weights": True, "offset": True},
}
FEW = {("integrated", structure, "bernoulli") for structure in STRUCTURES}
FEW |= {("in theta", "slopes", name) for name in LIKELIHOODS}
ALL = {("integrated", structure, name) for structure in STRUCTURES for name in LIKELIHOODS}
CASES = [pytest.param(*each, marks=() if each in FEW else pytest.mark.slow) for each in sorted(ALL | FEW)]


@pytest.mark.parametrize(("options", "structure", "name"), CASES)
def test_contract(problem, inside, options, structure, name):
    """The gradient equals differences, for every likelihood with every structure."""
    model = problem(structure, Likelihood.registry[name](), n=17, **OPTIONS[options])
    check_evidence(Variational(), model, inside(model))


@pytest.mark.parametrize("pair", [("crossed", "bernoulli"), ("two ridges", "poisson")])
def test_contract_at_zero_scales(problem, pair, inside):
    model = problem(pair[0], Likelihood.registry[pair[1]](), n=21)
    theta = inside(model)
    scales = [i for i, h in enumerate(model.hyperparameters) if h.even]
    for zeros in (scales[:1], scales):
        there = theta.copy()
        there[zeros] = 0
        check_evidence(Variational(), model, there)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_exact_for_a_gaussian(problem, structure, inside):
    model = problem(structure, weights=True, offset=True, counts=True)
    theta = inside(model)
    exact, found = (evaluate(method, model, theta[None]) for method in (Exact(), Variational()))
    np.testing.assert_allclose(found.log_value, exact.log_value, rtol=1e-11)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=1e-9, atol=1e-9)


# Two weights: the integral on a grid, and the best Gaussian by a plain search over its mean and Cholesky factor.

X = np.column_stack([np.ones(5), [-1.0, 0.4, 1.1, -0.3, 0.8]])
RESPONSES = {
    "bernoulli": [1, 0, 1, 1, 0],
    "beta": [0.2, 0.5, 0.93, 0.41, 0.6],
    "binomial": [1, 0, 1, 1, 0],
    "gamma": [0.4, 1.3, 5.2, 0.9, 2.2],
    "gaussian": [-0.7, 0.2, 1.9, 0.3, 0.4],
    "negative_binomial": [0, 2, 9, 1, 3],
    "poisson": [0, 2, 6, 1, 3],
    "student_t": [-0.7, 0.2, 5.9, 0.3, 0.4],
}
OWN = {"beta": [3.0], "gamma": [1.4], "gaussian": [0.8], "negative_binomial": [1.7], "student_t": [0.5, 2.5]}
GAPS = {"bernoulli": 0.1, "beta": 0.05, "binomial": 0.1, "gamma": 0.05, "gaussian": 1e-9, "negative_binomial": 0.1}
GAPS |= {"poisson": 0.04, "student_t": 0.2}
SCALE = 1.3
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(120)


def tiny(name, reml=True):
    """An intercept with a flat prior beside a ridge, or two coefficients under one ridge."""
    likelihood, y = Likelihood.registry[name](), np.array(RESPONSES[name], float)
    prior = Flat(X[:, :1], ["Intercept"]) + Ridge(X[:, 1:]) if reml else Ridge(X)
    return LinearModel(likelihood, prior, y), np.array([SCALE, *OWN.get(name, [])])


def density(name, eta):
    """log p(y|η) for the five rows; η (…, 5)."""
    return Likelihood.registry[name]().log_density(np.array(RESPONSES[name], float), eta, OWN.get(name, []))


def log_prior(w, reml):
    """Of two coefficients (…, 2)."""
    ridge = w[..., 1:] if reml else w
    return np.sum(-((ridge / SCALE) ** 2) / 2 - np.log(2 * np.pi * SCALE**2) / 2, axis=-1)


def best_gaussian(name, reml):
    """By a search over the mean and the Cholesky factor of the covariance of the weights themselves."""

    def bound(parameters):
        mean, C = parameters[:2], np.array([[np.exp(parameters[2]), 0], [parameters[3], np.exp(parameters[4])]])
        sd = np.sqrt(np.sum((X @ C) ** 2, axis=1))
        eta = (X @ mean) + NODES[:, None] * sd
        fit = WEIGHTS @ density(name, eta).sum(axis=1) / np.sqrt(2 * np.pi)
        spread = np.diag(C @ C.T)[1:] if reml else np.diag(C @ C.T)
        return (
            fit
            + log_prior(mean, reml)
            - np.sum(spread) / SCALE**2 / 2
            + 1
            + np.log(2 * np.pi)
            + sum(parameters[[2, 4]])
        )

    found = optimize.minimize(lambda p: -bound(p), [0.1, 0.1, -0.5, 0.0, -0.5], method="BFGS", options={"gtol": 1e-8})
    C = np.array([[np.exp(found.x[2]), 0], [found.x[3], np.exp(found.x[4])]])
    return -found.fun, found.x[:2], C @ C.T


def integral(name, reml):
    """By the trapezoid rule over a wide square."""
    axis = np.arange(-16, 16, 0.04)
    w = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    with np.errstate(over="ignore"):
        return logsumexp(density(name, w @ X.T).sum(axis=1) + log_prior(w, reml)) + 2 * np.log(0.04)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_best_gaussian(name, reml):
    """Value, mean and covariance against the plain search; no more than the integral, by a gap that is known."""
    model, theta = tiny(name, reml)
    found = Variational()(model, theta)
    value, mean, covariance = best_gaussian(name, reml)
    np.testing.assert_allclose(found.log_value, value, rtol=0, atol=1e-9)
    scales = np.array([1.0, SCALE]) if reml else np.full(2, SCALE)
    np.testing.assert_allclose(scales * found.posterior.mean, mean, rtol=0, atol=1e-5)
    S = scales[:, None] * found.posterior.covariance.to_dense() * scales
    np.testing.assert_allclose(S, covariance, rtol=0, atol=1e-5)
    gap = integral(name, reml) - found.log_value
    assert -1e-9 < gap < GAPS[name]
    assert gap > 1e-3 or name == "gaussian"


def test_precision_is_the_averaged_curvature(problem, inside):
    """S⁻¹ = I + LᵀXᵀW̄XL and ∇_m = 0 written out, with crossed factors whose H is an arrow with a border."""
    model = problem("crossed", Bernoulli(), n=21)
    theta = inside(model)
    q = Variational()(model, theta).posterior
    S = np.linalg.inv(q.precision.to_dense())
    g, h, flat = model.prior[0], model.prior[1], model.prior[2]
    onehot = lambda term: np.eye(len(term.levels))[term.codes]  # noqa: E731
    A = np.column_stack([theta[0] * onehot(g), model.flat_basis.Q, theta[1] * onehot(h)])
    eta, sd = A @ q.mean, np.sqrt(np.einsum("np,pq,nq->n", A, S, A))
    first, second, _ = Bernoulli().derivatives(model.rows.y, eta + NODES[:, None] * sd, [])
    share = WEIGHTS / np.sqrt(2 * np.pi)
    penalty = np.r_[np.ones(5), np.zeros(flat.n_weights), np.ones(3)]
    np.testing.assert_allclose(
        q.precision.to_dense(), A.T @ ((-share @ second)[:, None] * A) + np.diag(penalty), rtol=0, atol=1e-8
    )
    np.testing.assert_allclose(A.T @ (share @ first), penalty * q.mean, rtol=0, atol=1e-9)


def test_wheeze(case):
    """Level by level the best Gaussian in one dimension by a plain search; below the exact log likelihood."""
    found = case("glmm_ohio_wheeze")
    beta, sd = np.array([-2.9, -0.17, 0.39]), 1.9
    data = found.data
    F = np.column_stack([np.ones(len(data)), data["age"], data["smoke"]]).astype(float)
    y, codes = data["resp"].to_numpy(float), data["id"].astype("category").cat.codes.to_numpy()
    levels = [str(level) for level in range(codes.max() + 1)]
    effects, flat = RandomEffects(codes, levels, group="id"), Flat(F, ["Intercept", "age", "smoke"])
    model = LinearModel(Bernoulli(), flat + effects, y, reml=False, flat_in_theta=True)
    theta = np.array([sd, *model.flat_basis.R @ beta])

    def best(smoke, outcomes):
        ages = F[codes == codes[0], 1]

        def bound(p):
            eta = F_beta(ages, smoke) + sd * (p[0] + np.exp(p[1]) * NODES[:, None])
            fit = WEIGHTS @ Bernoulli().log_density(np.array(outcomes), eta, []).sum(axis=1) / np.sqrt(2 * np.pi)
            return fit - p[0] ** 2 / 2 - np.exp(2 * p[1]) / 2 + p[1] + 0.5

        return -optimize.minimize(lambda p: -bound(p), [0.0, -0.5], options={"gtol": 1e-9}).fun

    def F_beta(ages, smoke):
        return beta[0] + beta[1] * ages + beta[2] * smoke

    kinds = pd.Series([(F[codes == g, 2][0], *y[codes == g]) for g in range(len(levels))]).value_counts()
    total = sum(count * best(kind[0], kind[1:]) for kind, count in kinds.items())
    np.testing.assert_allclose(Variational()(model, theta).log_value, total, rtol=0, atol=1e-7)

    fit = lambda method: marglik.fit(  # noqa: E731
        "resp ~ age + smoke + (1 | id)", data, family="bernoulli", reml=False, method=method
    )
    bound, exact = fit("variational"), found.value("exact_logLik")
    assert bound.converged
    assert total <= bound.log_evidence < exact - 7  # one in three of its levels has a posterior far from Gaussian
    assert fit("laplace").log_evidence > exact + 2.5


# What does not matter.


def test_order_of_rows_and_columns(problem, inside):
    model = problem("slopes and ridge", Poisson(), n=21, offset=True)
    order = np.random.default_rng(0).permutation(21)
    flat, ridge, slopes = model.prior
    flipped = Ridge(ridge.columns[order][:, ::-1])
    effects = RandomEffects(slopes.codes[order], slopes.levels, slopes.columns[order], ("Intercept", "z"), group="g")
    rows = InMemory(model.rows.y[order], model.rows.offset[order])
    theta = inside(model)
    other = LinearModel(Poisson(), Flat(flat.columns[order][:, ::-1]) + flipped + effects, rows)
    one, two = (Variational()(m, theta) for m in (model, other))
    np.testing.assert_allclose(two.log_value, one.log_value, rtol=1e-12)
    np.testing.assert_allclose(two.gradient, one.gradient, rtol=1e-7, atol=1e-8)


def test_units_of_columns():
    """x in other units is another scale, and with flat columns the density of their weights in these units."""
    y, x = np.array(RESPONSES["bernoulli"], float), X[:, 1]
    one = Variational()(LinearModel(Bernoulli(), Ridge(x), y), np.array([0.7]))
    other = Variational()(LinearModel(Bernoulli(), Ridge(1e6 * x), y), np.array([0.7e-6]))
    np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-12)
    flat = [LinearModel(Bernoulli(), Flat(X * unit), y) for unit in (1.0, 1e3)]
    values = [Variational()(model, np.zeros(0)).log_value for model in flat]
    np.testing.assert_allclose(values[1], values[0] - 2 * np.log(1e3), rtol=1e-10)


def test_units_of_the_response():
    """Student's t: y, scale and effects times a thousand cost log 1000 a row."""
    values = []
    for unit in (1.0, 1e3):
        y, prior = unit * np.array(RESPONSES["student_t"]), Flat(np.ones(5)) + Ridge(X[:, 1])
        model = LinearModel(Likelihood.registry["student_t"](), prior, y)
        values.append(Variational()(model, np.array([1.3 * unit, 0.5 * unit, 2.5])).log_value)
    np.testing.assert_allclose(values[1], values[0] - 4 * np.log(1e3), rtol=1e-10)


def test_more_columns_than_rows():
    """The model as it is, and in as many columns as there are rows (`working`)."""
    wide = np.random.default_rng(0).standard_normal((5, 40))
    y, theta = np.array(RESPONSES["bernoulli"], float), np.array([0.3])
    found = Variational()(LinearModel(Bernoulli(), Ridge(wide), y), theta)
    half = np.linalg.cholesky(wide @ wide.T)
    same = Variational()(LinearModel(Bernoulli(), Ridge(half), y), theta)
    np.testing.assert_allclose(found.log_value, same.log_value, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, same.gradient, rtol=1e-8)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 0.03, 30.0])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_any_scale(problem, inside, name, factor):
    """From no effects to those of a size that no data have: the same maximum from a start far away."""
    model = problem("everything", Likelihood.registry[name](), n=21)
    theta = inside(model)
    theta[: model.n_prior_theta] *= factor
    found = Variational()(model, theta)
    assert not found.checks
    for shift, more in ((1.0, 7.0), (10.0, 0.1)):
        far = Normal(found.posterior.mean + shift, found.posterior.precision.times(more))
        np.testing.assert_allclose(Variational()(model, theta, far).log_value, found.log_value, rtol=1e-10)


@pytest.mark.parametrize("factor", [1e3, 1e6])
@pytest.mark.parametrize("name", ["bernoulli", "gamma", "poisson", pytest.param("student_t", marks=pytest.mark.slow)])
def test_scales_beyond_reason(problem, inside, name, factor):
    """The maximum, or a value that is no higher and a sentence."""
    model = problem("intercepts", Likelihood.registry[name](), n=21)
    theta = inside(model)
    theta[0] *= factor
    found = Variational()(model, theta)
    assert not np.isnan(found.log_value)
    if found.checks:
        assert "lower bound" in found.checks["mode"]
    else:
        check_evidence(Variational(), model, theta, gradient_rtol=1e-5)


# What users see.

CODES = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3])
DATA = {
    "y": np.array([3, 5, 1, 2, 0, 1, 0, 7, 4, 9, 6, 1, 0]),
    "seen": np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1]),
    "x": np.random.default_rng(3).standard_normal(13),
    "g": np.array(list("abcd"))[CODES],
    "h": np.array(list("uvw"))[np.arange(13) % 3],
}


@pytest.mark.parametrize(
    ("formula", "reml"), [("y ~ x + (1 | g)", False), ("y ~ x + (1 | g) + (1 | h)", True), ("y ~ 1 + ridge(x)", True)]
)
def test_fit_maximises_the_bound(formula, reml):
    """θ̂ against SciPy's search of the values alone."""
    fitted = marglik.fit(formula, DATA, family="poisson", method="variational", reml=reml)
    names, model = fitted.model.hyperparameters, fitted.model
    lower = lambda phi: -Variational()(model, names.constrain(phi)).log_value  # noqa: E731
    inside = np.where(fitted.optimum.theta[0] == 0, 1e-3, fitted.optimum.theta[0])
    best = optimize.minimize(lower, names.unconstrain(inside[None])[0] + 0.1, method="BFGS", options={"gtol": 1e-4})
    assert fitted.converged
    np.testing.assert_allclose(fitted.log_evidence, -best.fun, rtol=0, atol=1e-6)
    assert fitted.log_evidence >= -best.fun - 1e-9


def test_tables_are_of_the_bound_s_posterior():
    fitted = marglik.fit("seen ~ x + (1 | g)", DATA, family="bernoulli", method="variational")
    theta = fitted.optimum.theta[0]
    q = Variational()(fitted.model, theta).posterior
    top, bottom = fitted.model.columns.split(q.mean)
    np.testing.assert_allclose(fitted.random_effects("g")["Intercept"], theta[0] * top[:, 0], rtol=1e-6)
    beta = np.linalg.solve(fitted.model.flat_basis.R, bottom)
    np.testing.assert_allclose(fitted.fixed_effects["estimate"], beta, rtol=1e-6)
    R = np.linalg.inv(fitted.model.flat_basis.R)
    variance = R @ q.covariance.border @ R.T
    np.testing.assert_allclose(fitted.posterior.sd["fixed effects"], np.sqrt(np.diag(variance)), rtol=1e-6)
    np.testing.assert_allclose(fitted.occam["nats"].sum(), fitted.log_evidence, rtol=1e-12)


def test_check_says_that_it_is_a_bound():
    fitted = marglik.fit("seen ~ 1 + (1 | g)", DATA, family="bernoulli", method="variational")
    gap = Laplace()(fitted.model, fitted.optimum.theta[0]).log_value - fitted.log_evidence
    assert str(fitted.check()).startswith(
        "The evidence is at a maximum; it is a lower bound by a Gaussian posterior, below the log of the integral by "
        f"an unknown amount (Laplace's approximation is {abs(gap):.2g} nats {'higher' if gap > 0 else 'lower'}); "
    )
    assert Variational.bound
    assert not Variational.exact


def test_saved_and_loaded(tmp_path):
    fitted = marglik.fit("seen ~ x + (1 | g)", DATA, family="bernoulli", method="variational")
    fitted.save(tmp_path / "fit.marglik")
    again = marglik.load(tmp_path / "fit.marglik")
    assert again.evidence_method == Variational()
    np.testing.assert_allclose(again.log_evidence, fitted.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(again.predict(), fitted.predict(), rtol=1e-9)
    np.testing.assert_allclose(again.fixed_effects, fitted.fixed_effects, rtol=1e-6)


def test_command_line(tmp_path):
    pd.DataFrame(DATA).to_csv(tmp_path / "data.csv", index=False)
    options = ["--family", "poisson", "--method", "variational", "--json"]
    run = CliRunner().invoke(main, ["fit", str(tmp_path / "data.csv"), "y ~ x + (1 | g)", *options])
    assert run.exit_code == 0, run.output
    told = json.loads(run.output)
    fitted = marglik.fit("y ~ x + (1 | g)", DATA, family="poisson", method="variational")
    assert told["method"] == "variational"
    np.testing.assert_allclose(told["log_evidence"], fitted.log_evidence, rtol=1e-10)


def test_several_targets_one_by_one():
    y = np.column_stack([DATA["y"], DATA["y"][::-1]]).astype(float)
    prior = Flat(np.ones(13), ["Intercept"]) + RandomEffects(CODES, "abcd", group="g")
    both = marglik.fit(LinearModel(Poisson(), prior, y), method="variational")
    for v in range(2):
        alone = marglik.fit(LinearModel(Poisson(), prior, y[:, v]), method="variational")
        np.testing.assert_allclose(both.log_evidence[v], alone.log_evidence, rtol=1e-10)


def test_a_separating_column_is_named():
    y = np.array([0, 0, 1, 1, 1.0])
    model = LinearModel(Bernoulli(), Flat(np.column_stack([np.ones(5), np.arange(5)]), ["Intercept", "t"]), y)
    found = Variational()(model, np.zeros(0))
    assert found.checks["mode"].startswith("The likelihood keeps rising as fixed effects run off to infinity")


def test_trials_by_row():
    """A likelihood that holds something of each row, also where single rows need more nodes than others."""
    trials, y = np.array([1.0, 400.0, 3.0, 20.0, 2.0]), np.array([1.0, 230.0, 0.0, 14.0, 2.0])
    apart = RandomEffects(np.arange(5), "abcde", group="row")
    found = Variational()(LinearModel(Binomial(trials), apart, y), np.array([6.0])).log_value
    alone = [
        Variational()(
            LinearModel(Binomial(trials[[i]]), RandomEffects([0], "a", group="row"), y[[i]]), np.array([6.0])
        ).log_value
        for i in range(5)
    ]
    np.testing.assert_allclose(found, sum(alone), rtol=1e-10)


def test_gaussian_by_name():
    fitted = marglik.fit("y ~ x + (1 | g)", DATA, method="variational")
    exact = marglik.fit("y ~ x + (1 | g)", DATA)
    assert isinstance(exact.evidence_method, evidence.Exact)
    assert isinstance(fitted.model.likelihood, Gaussian)
    np.testing.assert_allclose(fitted.log_evidence, exact.log_evidence, rtol=1e-9)
