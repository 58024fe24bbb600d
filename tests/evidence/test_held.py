# SPDX-License-Identifier: BSD-3-Clause
"""Steps with W held: their derivatives against differences, where they lead against learning's own search."""

import numpy as np
import pytest

from marglik import learn
from marglik.columns import SideBySide, in_columns, leverages, weighted_gram
from marglik.evidence import Laplace
from marglik.evidence.held import FEWEST, Held, Rows, Scales, approach, bend
from marglik.evidence.scoring import interior_maximum
from marglik.fitting import fit_model
from marglik.likelihoods import Bernoulli, Gamma, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.priors import Gaussian as Given
from marglik.rows import InMemory
from marglik.testing.numbers import derivative

rng = np.random.default_rng(17)
GROUPS = np.repeat([0, 1, 2], 6)


def problem(n, likelihood=None, scale=(0.3, 0.1, 0.0), columns=18, size=1.0, order=None):
    """Three groups of columns, the last with weights of zero."""
    draw = np.random.default_rng(n)
    X = draw.standard_normal((n, columns)) + 0.4 * draw.standard_normal((n, 1))
    groups = np.sort(np.arange(columns) % 3)
    likelihood = likelihood or Poisson()
    eta = 0.2 + X @ (np.array(scale)[groups] * draw.standard_normal(columns))
    y = likelihood.sample(eta, (), draw)
    order = np.arange(n) if order is None else order(eta)
    prior = Flat(np.ones((n, 1)), ["Intercept"]) + Ridge(size * X[order], groups=groups)
    return LinearModel(likelihood, prior, InMemory(y[order]))


def held_at(model, w):
    rows = Rows.of(model)
    d1, d2, _ = rows.derivatives(rows.eta(w))
    G = weighted_gram(rows.X, -d2)
    return Held(Scales.of(model), G, G @ w + d1 @ rows.X)


def mode(model, theta):
    e = Laplace()(model, theta)
    return e, Scales.of(model).diagonal(theta) * e.posterior.mean


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [3, 40])
def test_products_of_rows(order, columns):
    X = np.array(rng.standard_normal((700, columns)), order=order)
    kept, w = X.copy(), rng.random(700)
    np.testing.assert_allclose(weighted_gram(X, w), X.T @ (w[:, None] * X), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(weighted_gram(X, None), X.T @ X, rtol=1e-12, atol=1e-10)
    C = np.cov(rng.standard_normal((columns, 100)))
    np.testing.assert_allclose(leverages(C, X), np.einsum("ij,jk,ik->i", X, C, X), rtol=1e-12)
    np.testing.assert_array_equal(in_columns([X, X[:, :1]]), np.column_stack([X, X[:, 0]]))
    np.testing.assert_array_equal(X, kept)
    np.testing.assert_allclose(weighted_gram(X, w - 0.5), X.T @ ((w - 0.5)[:, None] * X), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("columns", [3, 40])
def test_columns_that_are_not_copied(order, columns):
    """Arrays side by side give what one array of all columns gives."""
    parts = (
        np.ones((700, 1)),
        np.array(rng.standard_normal((700, columns)), order=order),
        rng.standard_normal((700, 15)),
    )
    X, whole = SideBySide(parts), np.concatenate(parts, axis=1)
    w, v = rng.standard_normal(columns + 16), rng.standard_normal(700)
    assert X.shape == whole.shape
    assert np.shares_memory(X[100:200].parts[1], parts[1])
    np.testing.assert_allclose(X @ w, whole @ w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(v @ X, v @ whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(X[50:90] @ w, whole[50:90] @ w, rtol=1e-12, atol=1e-12)
    for weights in (None, v, v**2):
        truth = whole.T @ (whole if weights is None else weights[:, None] * whole)
        np.testing.assert_allclose(weighted_gram(X, weights), truth, rtol=1e-12, atol=1e-10)
    C = np.cov(rng.standard_normal((columns + 16, 100)))
    for matrix in (C, -C):
        np.testing.assert_allclose(leverages(matrix, X), leverages(matrix, whole), rtol=1e-10)


def test_derivatives_with_w_held():
    model = problem(500)
    held = held_at(model, mode(model, np.array([0.3, 0.2, 0.1]))[1])
    rho = np.log([0.25, 0.1, 0.3])
    here = held.at(np.exp(rho))
    for k, along in enumerate(np.eye(3)):
        gradient = derivative(lambda t, e=along: held.at(np.exp(rho + t * e)).value)
        np.testing.assert_allclose(here.gradient[k], gradient, rtol=1e-8)
        hessian = derivative(lambda t, e=along: held.at(np.exp(rho + t * e)).gradient)
        np.testing.assert_allclose(here.hessian[k], hessian, rtol=1e-7, atol=1e-8)


def test_the_slope_in_the_variance_of_a_scale_of_zero():
    model, s, unit = problem(500), np.array([0.3, 0.2, 0.0]), np.array([0.0, 0.0, 1.0])
    e, w = mode(model, s)
    held = held_at(model, w)

    def from_above(slope):
        """Limit of slope(s)/2s, by two values."""
        far, near = (slope(s + size * unit)[2] / (2 * size) for size in (2e-4, 1e-4))
        return (4 * near - far) / 3

    slope = held.slope_in_variance(s, held.at(s), 2)
    np.testing.assert_allclose(slope, from_above(lambda t: held.at(t).gradient / t), rtol=1e-6)
    exact = e.posterior.slopes.mode.slope_in_variance(e.posterior.slopes.inverse, Scales.of(model).member[2])
    np.testing.assert_allclose(exact, from_above(lambda t: Laplace()(model, t).gradient), rtol=1e-7)
    assert abs(exact - slope) > 1e-3 * abs(exact)  # W moves


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli(), Bernoulli(link="probit")], ids=str)
def test_at_the_mode_the_slopes_add_up_to_those_of_laplace(likelihood):
    """What makes Laplace's maximum the fixed point of the steps."""
    model, theta = problem(400, likelihood), np.array([0.4, 0.2, 0.1])
    e, w = mode(model, theta)
    rows, here, T = Rows.of(model), held_at(model, w).at(theta), Scales.of(model).diagonal(theta)
    third = rows.derivatives(rows.eta(w))[2]
    z = rows.X.T @ (third * leverages(T[:, None] * here.C * T, rows.X))
    drifts = [2 * T * (here.C @ np.where(row != 0, here.u, 0)) for row in Scales.of(model).member]
    through_w = np.array([z @ drift / 2 for drift in drifts])
    np.testing.assert_allclose(here.gradient + through_w, e.gradient * theta, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli(), Bernoulli(link="probit")], ids=str)
def test_the_hessian_with_w_held_and_how_w_bends_it(likelihood):
    """Together Laplace's own, by differences of its gradient; of rows that are there twice, one of each will do."""
    model, theta = problem(400, likelihood), np.array([0.4, 0.2, 0.1])
    _, w = mode(model, theta)
    held, rows = held_at(model, w), Rows.of(model)

    def gradient(rho):
        return Laplace()(model, np.exp(rho)).gradient * np.exp(rho)

    exact = np.array([derivative(lambda t, e=e: gradient(np.log(theta) + t * e)) for e in np.eye(3)])
    found = bend(held.scales, held.G, theta, w, rows, 1.0)
    size = np.abs(found).max()
    assert size > 1e-3 * np.abs(exact).max()
    np.testing.assert_allclose(held.at(theta).hessian + found, exact, rtol=0, atol=3e-3 * size)
    half = bend(held.scales, 2 * held.G, theta, w, rows, 2.0)
    np.testing.assert_allclose(half, twice(model, theta, w), rtol=0, atol=1e-9 * size)


def twice(model, theta, w):
    rows = Rows.of(model)
    both = Rows(np.concatenate([rows.X, rows.X]), np.tile(rows.y, 2), rows.offset, rows.multiplier, rows.likelihood)
    return bend(Scales.of(model), 2 * held_at(model, w).G, theta, w, both, 1.0)


@pytest.mark.parametrize("n", [600, 4 * FEWEST + 500])
@pytest.mark.parametrize("likelihood", [Poisson(), Bernoulli()], ids=str)
def test_the_maximum_is_that_of_learning(n, likelihood):
    model = problem(n, likelihood, (0.3, 0.1, 0.2))
    free = np.ones(3, bool)
    assert (Rows.of(model).some is None) == (n < 4 * FEWEST)
    assert approach(model, np.full(3, 0.3), free) is not None
    found = interior_maximum(Laplace(), model, np.ones(3), free)
    objective = learn.Objective(Laplace(), model)
    learned = learn.maximise(objective, found.theta * 1.3, free[None])
    located = learn.Located(objective, found.theta, free, warm=found.start)
    assert located.converged.all()
    np.testing.assert_allclose(found.theta, learned.theta, rtol=2e-5)
    np.testing.assert_allclose(located.value, learned.value, rtol=1e-10)
    weights = [Laplace()(model, o.theta[0]).posterior.mean for o in (located, learned)]
    np.testing.assert_allclose(*weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [600, 4 * FEWEST + 500])
def test_neither_the_order_of_rows_nor_units_matter(n):
    plain = fit_model(problem(n))
    for other, size in (
        (problem(n, order=np.argsort), 1.0),
        (problem(n, order=lambda eta: np.arange(n)[::-1]), 1.0),
        (problem(n, size=1e3), 1e3),
        (problem(n, size=1e-3), 1e-3),
    ):
        fit = fit_model(other)
        np.testing.assert_allclose(fit.log_evidence, plain.log_evidence, rtol=1e-10)
        np.testing.assert_allclose(fit.optimum.theta * size, plain.optimum.theta, rtol=1e-5)


@pytest.mark.parametrize("n", [600, 4 * FEWEST + 500])
def test_a_scale_of_zero_among_others(n):
    """Found at once, and never where the general search, which tries all of them, finds more."""
    model = problem(n, scale=(0.3, 0.2, 0.0))
    found = interior_maximum(Laplace(), model, np.ones(3), np.ones(3, bool))
    assert found is not None
    objective = learn.Objective(Laplace(), model)
    learned = learn.maximise(objective, np.array([[0.2, 0.2, 0.05]]), np.ones((1, 3), bool))
    np.testing.assert_allclose(found.theta, learned.theta, rtol=2e-5, atol=1e-12)
    value = Laplace()(model, found.theta[0]).log_value
    assert value > learned.value[0] - 1e-9 * abs(value)


def test_given_variances_offsets_and_weights():
    n = 800
    draw = np.random.default_rng(3)
    X, Z, offset, weights = (
        draw.standard_normal((n, 8)),
        draw.standard_normal((n, 3)),
        draw.random(n),
        1.0 + draw.random(n),
    )
    y = draw.poisson(np.exp(offset + X @ np.full(8, 0.2))).astype(float)
    prior = Flat(np.ones((n, 1)), ["Intercept"]) + Ridge(X) + Given(Z, mean=0.1, covariance=[0.1, 0.2, 0.3])
    model = LinearModel(Poisson(), prior, InMemory(y, offset, weights))
    found = interior_maximum(Laplace(), model, np.ones(1), np.ones(1, bool))
    assert approach(model, np.ones(1), np.ones(1, bool)) is not None
    learned = learn.maximise(learn.Objective(Laplace(), model), np.array([[0.3]]), np.ones((1, 1), bool))
    np.testing.assert_allclose(found.theta, learned.theta, rtol=1e-6)


def test_other_models_go_another_way():
    n = 300
    flat, codes = Flat(np.ones((n, 1)), ["Intercept"]), np.arange(n) % 10
    X, y = rng.standard_normal((n, 5)), np.ones(n)
    one, own = np.ones(1), np.ones(2)
    grouped = LinearModel(Poisson(), flat + RandomEffects(codes, range(10), group="g"), y)
    assert approach(grouped, one, one > 0) is None
    assert approach(LinearModel(Gamma(), flat + Ridge(X), y), own, own > 0) is None
    ml = LinearModel(Poisson(), flat + Ridge(X), InMemory(y), reml=False).with_flat_in_theta()
    assert approach(ml, own, own > 0) is None
