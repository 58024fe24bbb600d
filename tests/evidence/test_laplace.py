# SPDX-License-Identifier: BSD-3-Clause
"""Laplace's method against dense implementations in the weights' own coordinates, by SciPy's optimisers."""

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from scipy.linalg import block_diag

from marglik.evidence import Exact, Laplace, evaluate
from marglik.evidence.laplace import Newton
from marglik.fitting import fit_model
from marglik.likelihoods import Bernoulli, Likelihood, Poisson
from marglik.linalg import Arrow
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.rows import InMemory
from marglik.testing import check_evidence, derivative
from structures import STRUCTURES

OPTIONS = {
    "reml": {},
    "weights and offset": {"weights": True, "offset": True},
    "weights and counts": {"weights": True, "counts": True},
}
IN_THETA = {"reml": False, "flat_in_theta": True, "weights": True, "offset": True}


PAIRS = [(structure, likelihood) for structure in STRUCTURES for likelihood in ("gaussian", "poisson")]
PAIRS += [("slopes and ridge", name) for name in sorted(Likelihood.registry.keys() - {"gaussian", "poisson"})]


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    """Every structure with a Gaussian and with counts; every likelihood with correlated slopes beside a ridge."""
    return request.param[0], Likelihood.registry[request.param[1]]()


@pytest.mark.parametrize("options", OPTIONS)
def test_exact_for_a_gaussian(problem, structure, inside, options):
    model = problem(structure, n=21, **OPTIONS[options])
    theta = inside(model)[None]
    one, other = evaluate(Exact(), model, theta), evaluate(Laplace(), model, theta)
    np.testing.assert_allclose(other.log_value, one.log_value, rtol=1e-11)
    np.testing.assert_allclose(other.gradient, one.gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", ["weights and counts", "flat in theta"])
def test_contract(problem, pair, inside, options):
    model = problem(*pair, n=21, **OPTIONS.get(options, IN_THETA))
    check_evidence(Laplace(), model, inside(model))


def test_contract_at_zero_scales(problem, pair, inside):
    model = problem(*pair, n=21)
    theta = inside(model)
    scales = [i for i, h in enumerate(model.hyperparameters) if h.even and h.name != "sd(noise)"]
    for zeros in [scales[:1], scales] if len(scales) > 1 else [scales]:
        there = theta.copy()
        there[zeros] = 0
        check_evidence(Laplace(), model, there)


def dense_poisson_laplace(model, theta, beta=None):
    """In w rather than u, levels as columns of zeros and ones; flat weights integrated, or given."""
    rows = model.rows
    X, precision = [], []
    offset = np.zeros(rows.n) if rows.offset is None else rows.offset
    for term, own in model.term_theta(theta):
        L = term.factor(own)
        if term.flat and beta is not None:
            offset = offset + term.columns @ beta
        elif term.grouped:
            for level in range(len(term.levels)):
                X.append(term.columns * (term.codes == level)[:, None])
                precision.append(np.linalg.inv(L @ L.T))
        else:
            X.append(term.columns)
            precision.append(np.diag(np.zeros(term.n_weights) if term.flat else 1 / L**2))
    X, precision = np.column_stack(X), block_diag(*precision)
    weight = np.prod([w for w in (np.ones(rows.n), rows.weights, rows.counts) if w is not None], axis=0)

    def minus_log_joint(w):
        rate = np.exp(np.clip(X @ w + offset, -700, 50))
        return -np.sum(weight * (rows.y * (X @ w + offset) - rate)) + w @ precision @ w / 2

    def slope(w):
        return -X.T @ (weight * (rows.y - np.exp(np.clip(X @ w + offset, -700, 50)))) + precision @ w

    def curvature(w):
        return (X.T * (weight * np.exp(np.clip(X @ w + offset, -700, 50)))) @ X + precision

    w = optimize.minimize(minus_log_joint, np.zeros(X.shape[1]), jac=slope, hess=curvature, method="trust-exact").x
    for _ in range(200):  # far down an exponential tail one step of Newton's is one e-fold
        step = np.linalg.solve(curvature(w), slope(w))
        w = w - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-11:
            break
    assert np.abs(step).max() < 1e-7
    log_likelihood = np.sum(weight * stats.poisson(np.exp(X @ w + offset)).logpmf(rows.y))
    own = precision.diagonal() > 0
    prior = precision[np.ix_(own, own)]
    log_prior = (np.linalg.slogdet(prior)[1] - own.sum() * np.log(2 * np.pi) - w @ precision @ w) / 2
    sign, log_det = np.linalg.slogdet(curvature(w))
    assert sign == 1
    return log_likelihood + log_prior + len(w) * np.log(2 * np.pi) / 2 - log_det / 2, w


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_poisson_against_a_dense_implementation(problem, structure, inside, options, seed):
    model = problem(structure, Poisson(), seed=seed, **OPTIONS[options])
    theta = inside(model, seed)
    expected, _ = dense_poisson_laplace(model, theta)
    np.testing.assert_allclose(Laplace()(model, theta).log_value, expected, rtol=1e-11)


def test_poisson_with_fixed_effects_given(problem, structure, inside):
    """Flat weights in θ are coordinates γ of an orthogonal basis: X β = Q γ."""
    model = problem(structure, Poisson(), **IN_THETA)
    theta = inside(model)
    X = np.column_stack([np.zeros((model.rows.n, 0)), *(t.columns for t in model.prior if t.flat)])
    gamma = theta[len(theta) - X.shape[1] :]
    beta = np.linalg.lstsq(X, model.flat_basis.Q @ gamma, rcond=None)[0]
    if structure == "flat":
        expected = np.sum(model.rows.weights * stats.poisson(np.exp(X @ beta + model.rows.offset)).logpmf(model.rows.y))
    else:
        expected, _ = dense_poisson_laplace(model, theta, beta)
    np.testing.assert_allclose(Laplace()(model, theta).log_value, expected, rtol=1e-11)


def test_close_to_the_integral_where_a_group_has_much_data():
    """One random intercept, large counts: against quadrature, the error is that of the next order, 1/(24·Σy)-like."""
    y, s = np.array([480.0, 510.0, 495.0]), 0.6
    term = RandomEffects(np.zeros(3, int), ["a"])
    model = LinearModel(Poisson(), Prior((term,)), InMemory(y, np.full(3, 6.0)))

    def integrand(w):
        return np.exp(np.sum(stats.poisson(np.exp(6 + w)).logpmf(y)) + 20) * stats.norm(0, s).pdf(w)

    exact = np.log(integrate.quad(integrand, 0.0, 0.4, epsabs=0, epsrel=1e-12)[0]) - 20
    error = Laplace()(model, np.array([s])).log_value - exact
    assert abs(error) < 1 / y.sum()


GRID = np.logspace(-8, 8, 5)


def _counts(terms):
    """Few counts, one level without any: far from a Gaussian."""
    rng = np.random.default_rng(8)
    n = 30
    codes = np.arange(n) % 6
    y = rng.poisson(np.exp(0.5 + 1.5 * rng.standard_normal(6)[codes])).astype(float) * (codes > 0)
    parts = {
        "flat": Flat(np.ones(n), ["Intercept"]),
        "groups": RandomEffects(codes, "abcdef", group="g"),
        "ridge": Ridge(rng.standard_normal((n, 3))),
    }
    return LinearModel(Poisson(), Prior([parts[t] for t in terms.split(" + ")]), InMemory(y))


PLACES = [("flat + ridge", 1.0, s) for s in GRID]
PLACES += [(t, g, s) for t in ("groups + ridge", "flat + groups + ridge") for g in GRID for s in GRID]


@pytest.mark.parametrize(("terms", "first", "second"), PLACES)
def test_the_mode_is_found_from_any_scale(terms, first, second):
    model = _counts(terms)
    k = len(model.hyperparameters)
    digits = 9
    if terms == "flat + groups + ridge" and first > 1e6:
        # Beside effects of 1e8 on a log scale an intercept is known to 1e8: in float64 its mode is not defined.
        first, digits = 1e6, 7
    theta = np.array([first, second])[-k:]
    e = Laplace()(model, theta)
    assert not e.checks
    score = model.at(e.posterior.mean, theta).score
    assert score @ e.posterior.precision.solve(score) < 1e-12
    again = Laplace()(model, theta, e.posterior)
    np.testing.assert_allclose(again.log_value, e.log_value, rtol=10.0**-digits)


@pytest.mark.parametrize("terms", ["flat + ridge", "groups + ridge", "flat + groups + ridge"])
def test_a_start_from_far_away_changes_nothing(terms):
    model = _counts(terms)
    k = len(model.hyperparameters)
    places = [np.array(x)[-k:] for x in ([1.0, 1.0], [1e-3, 1e3], [1e3, 1e-3], [1e3, 1e3])]
    for theta in places:
        cold = Laplace()(model, theta).log_value
        for elsewhere in places:
            warm = Laplace()(model, theta, Laplace()(model, elsewhere).posterior)
            np.testing.assert_allclose(warm.log_value, cold, rtol=1e-9)


@pytest.mark.parametrize("scale", np.logspace(-4, 4, 9))
def test_value_far_from_the_data(scale):
    model = _counts("flat + groups + ridge")
    for theta in ([scale, 1.0], [1.0, scale]):
        expected, _ = dense_poisson_laplace(model, np.array(theta))
        np.testing.assert_allclose(Laplace()(model, np.array(theta)).log_value, expected, rtol=1e-8)


def test_scales_far_away_are_their_limits():
    """Tiny scales are none at all; a huge one costs −½ log s² for each weight that the data determine."""
    model = _counts("flat + groups + ridge")
    none = Laplace()(model, np.zeros(2)).log_value
    np.testing.assert_allclose(Laplace()(model, np.full(2, 1e-8)).log_value, none, rtol=1e-12)
    near, far = (Laplace()(_counts("flat + ridge"), np.array([s])).log_value for s in (1e6, 1e8))
    np.testing.assert_allclose(near - far, 3 * np.log(100), rtol=1e-9)


def test_a_search_that_is_cut_short_says_so():
    e = Laplace(Newton(max_steps=1))(_counts("flat + ridge"), np.array([1.0]))
    assert e.checks["mode"] == "Newton's method did not reach the mode in 1 steps."


EVERY = [(structure, name) for structure in STRUCTURES for name in sorted(Likelihood.registry)]


@pytest.mark.parametrize(("structure", "name"), EVERY, ids=map("-".join, EVERY))
def test_gradient_of_every_likelihood_and_structure(problem, inside, structure, name):
    model = problem(structure, Likelihood.registry[name](), n=23)
    theta = inside(model)
    e = Laplace()(model, theta)
    assert not e.checks
    for i, unit in enumerate(np.eye(len(theta))):
        slope = derivative(lambda t, d=unit: Laplace()(model, theta + 0.3 * t * d, e.posterior).log_value) / 0.3
        np.testing.assert_allclose(e.gradient[i], slope, rtol=1e-6, atol=1e-6)


CONCAVE = [(s, n) for s, n in EVERY if Likelihood.registry[n].concave]


@pytest.mark.parametrize(("structure", "name"), CONCAVE, ids=map("-".join, CONCAVE))
def test_no_scale_is_too_large_or_small_for_the_mode(problem, inside, structure, name):
    """All scales alike; those of each term in turn huge, and tiny. Correlations stay as they are.

    With a huge scale the outcomes of some level are separated: fixed effects may be known to no better than 300, which
    is said. Where what rows say cancels to e^-40 of itself, log|H| has few digits left.
    """
    model = problem(structure, Likelihood.registry[name](), n=23)
    k = model.n_prior_theta
    owners = np.repeat(np.arange(len(model.prior)), [len(t.hyperparameters()) for t in model.prior])
    for s in (1e-8, 1e-4, 1e4, 1e8):
        for one in [None, *sorted(set(owners))]:
            theta = inside(model)
            theta[:k] *= s if one is None else np.where(owners == one, s, 1.0)
            e = Laplace()(model, theta)
            if e.checks:
                assert "keeps rising" in e.checks["mode"], theta
                f = model.columns.n_flat
                assert s > 1
                assert np.linalg.eigvalsh(e.posterior.precision.border[:f, :f])[0] < 300.0**-2
            assert np.isfinite(e.log_value)
            assert np.isfinite(e.gradient).all()
            if not e.checks:
                again = Laplace()(model, theta, e.posterior).log_value
                np.testing.assert_allclose(again, e.log_value, rtol={1e4: 1e-7, 1e8: 1e-3}.get(s, 1e-9))


@pytest.mark.parametrize("name", sorted(n for n, c in Likelihood.registry.items() if not c.concave))
def test_a_mode_of_a_likelihood_that_is_not_concave(problem, inside, structure, name):
    """From where H is not positive definite by Fisher's steps: stationary, and H positive definite there, or said."""
    model = problem(structure, Likelihood.registry[name](), n=23)
    k = model.n_prior_theta
    for s in (1e-3, 1.0, 1e3):
        theta = inside(model)
        theta[:k] *= s
        rng = np.random.default_rng(5)
        far = Gaussian(rng.standard_normal(model.n_weights), Arrow.dense(np.eye(model.n_weights)))
        for start in (None, far):
            e = Laplace()(model, theta, start)
            assert not e.checks
            here = model.at(e.posterior.mean, theta)
            assert here.score @ here.neg_hessian.solve(here.score) < 1e-12


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("quasi", [True, False])
def test_separation_names_the_column(reml, quasi):
    """Flat weights run off; under a prior everything is finite."""
    rng = np.random.default_rng(2)
    n = 40
    x, z = rng.standard_normal((2, n))
    y = (x > 0).astype(float)
    x[0] = 0.0 if quasi else x[0]
    y[0] = 1 - y[1] if quasi else y[0]
    if quasi:
        x[1] = 0.0
    X = np.column_stack([np.ones(n), x, z])
    groups = RandomEffects(np.arange(n) % 8, range(8), group="g")
    flat = LinearModel(Bernoulli(), Flat(X, ["Intercept", "x", "z"]) + groups, InMemory(y), reml=reml)
    with pytest.raises(ValueError, match=r"keeps rising as fixed effects run off to infinity, those of .*x"):
        fit_model(flat)
    proper = LinearModel(Bernoulli(), Flat(X[:, ::2], ["Intercept", "z"]) + Ridge(x) + groups, InMemory(y), reml=reml)
    e = fit_model(proper, fixed={"sd(weights)": 2.0})
    assert np.isfinite(e.log_evidence)


def test_no_count_at_all_is_said():
    model = LinearModel(Poisson(), Flat(np.ones(9), ["Intercept"]) + Ridge(np.arange(9.0)), InMemory(np.zeros(9)))
    assert "those of Intercept," in Laplace()(model, np.array([0.1])).checks["mode"]


@pytest.mark.parametrize("name", ["bernoulli", "poisson"])
def test_steps_by_an_older_hessian_end_at_the_same_mode(name, monkeypatch):
    """Many dense columns: the same numbers as with H computed anew for each step, from far and from near."""
    draw = np.random.default_rng(4)
    X = draw.standard_normal((400, 60)) / 8
    likelihood = Likelihood.registry[name]()
    y = likelihood.sample(X @ draw.standard_normal(60) + 0.3, [], draw)
    prior = Flat(np.ones((400, 1)), ["Intercept"]) + Ridge(X)

    def climbed():
        model = LinearModel(likelihood, prior, InMemory(y))
        far = Laplace()(model, np.array([0.4]))
        return far, Laplace()(model, np.array([0.9]), far.posterior), fit_model(model)

    lagged = climbed()
    monkeypatch.setattr("marglik.expansion.MANY", 1000)
    plain = climbed()
    for ours, theirs in zip(lagged[:2], plain[:2], strict=True):
        assert not ours.checks
        np.testing.assert_allclose(ours.log_value, theirs.log_value, rtol=1e-12)
        np.testing.assert_allclose(ours.gradient, theirs.gradient, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(ours.posterior.mean, theirs.posterior.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(lagged[2].optimum.theta, plain[2].optimum.theta, rtol=1e-8)
    np.testing.assert_allclose(lagged[2].log_evidence, plain[2].log_evidence, rtol=1e-12)


def test_the_evidence_at_a_known_mode_is_read_from_it():
    draw = np.random.default_rng(5)
    X = draw.standard_normal((40, 3))
    model = LinearModel(Poisson(), Prior((Ridge(X),)), InMemory(draw.poisson(1.0, 40)))
    first = Laplace()(model, np.array([0.4]))
    again = Laplace()(model, np.array([0.4]), first.posterior)
    assert again.posterior.slopes is first.posterior.slopes
    assert again.log_value == first.log_value
