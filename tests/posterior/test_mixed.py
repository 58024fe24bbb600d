# SPDX-License-Identifier: BSD-3-Clause
"""What a fit of a mixed model says of its weights, against the conditional normal density written out."""

from functools import cache

import numpy as np
import pytest
from scipy.special import ndtri

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat
from mixed_problems import STRUCTURES, A, G, N, effects, problem, somewhere
from truth import Truth, best_at, named

SINGULAR = ["intercept and slope", "three correlated", "crossed slopes", "everything", "crossed", "banded"]
WHERE = [
    *((structure, option, False) for structure in STRUCTURES for option in ("reml", "ml with weights and offset")),
    *((structure, "reml with weights and offset", True) for structure in SINGULAR),
]
CLOSE = {"rtol": 1e-7, "atol": 1e-8}


@cache
def held(structure, option, singular):
    """A fit with every hyperparameter held, and its truth; singular factors have a column of zeros."""
    model = problem(structure, option)
    theta, position = somewhere(model, 5), 0
    for term in model.prior:
        k = len(term.hyperparameters())
        if singular and k:
            templates = np.array([term.factor(unit) for unit in np.eye(k)])
            last = templates[:, :, -1].any(axis=1) if term.grouped else np.arange(k) == 0
            theta[position : position + k][last] = 0
        position += k
    return marglik.fit(model, fixed=named(model, theta)), Truth(model).at(theta)


@pytest.fixture(params=WHERE, ids=lambda p: f"{p[0]}, {p[1]}{', singular' * p[2]}")
def pair(request):
    return held(*request.param)


def shaped(term, values):
    return values.reshape(len(term.levels), -1) if term.grouped else values


def test_held_hyperparameters_give_the_density(pair):
    fit, truth = pair
    np.testing.assert_allclose(fit.log_evidence, truth.value, rtol=1e-9)
    assert fit.converged


def test_moments_by_term(pair):
    fit, truth = pair
    sd = np.sqrt(np.maximum(truth.covariance.diagonal(), 0))
    assert [*fit.posterior.mean] == [*fit.posterior.sd] == [term.label for term in fit.model.prior]
    for term in fit.model.prior:
        place = truth.weights[term.label]
        np.testing.assert_allclose(fit.posterior.mean[term.label], shaped(term, truth.mean[place]), **CLOSE)
        np.testing.assert_allclose(fit.posterior.sd[term.label], shaped(term, sd[place]), **CLOSE)


def test_tables(pair):
    fit, truth = pair
    f = truth.weights["fixed effects"]
    if f.stop:
        table = fit.fixed_effects
        np.testing.assert_allclose(table["estimate"], truth.mean[f], **CLOSE)
        se = np.sqrt(truth.covariance[f, f].diagonal())
        np.testing.assert_allclose(table["se"], se, **CLOSE)
        np.testing.assert_allclose(table["upper"] - table["lower"], 2 * ndtri(0.975) * se, **CLOSE)
        np.testing.assert_allclose(fit.vcov(), truth.covariance[f, f], **CLOSE)
    groups = {term.group for term in fit.model.prior if term.grouped}
    for group in groups:
        found = fit.random_effects(group)
        terms = [t for t in fit.model.prior if t.grouped and t.group == group]
        assert found.columns.tolist() == [c for t in terms for c in t.coefficients]
        assert found.index.tolist() == list(terms[0].levels)
        mean = [shaped(t, truth.mean[truth.weights[t.label]]) for t in terms]
        variance = [shaped(t, truth.covariance.diagonal()[truth.weights[t.label]]) for t in terms]
        np.testing.assert_allclose(found, np.concatenate(mean, axis=1), **CLOSE)
        sd = np.sqrt(np.maximum(np.concatenate(variance, axis=1), 0))
        np.testing.assert_allclose(found.attrs["sd"], sd, **CLOSE)
        assert found.attrs["sd"].columns.tolist() == found.columns.tolist()


def test_effective_degrees_of_freedom(pair):
    """By term, and in all the trace of the matrix that takes y to its fit."""
    fit, truth = pair
    w, sigma = fit.model.rows.weights, fit.hyperparameters.loc["sd(noise)", "estimate"]
    W = np.diag(np.ones(N) if w is None else w) / sigma**2
    F = truth.covariance @ truth.columns.T @ W @ truth.columns
    for label, place in truth.weights.items():
        if place.stop > place.start:
            np.testing.assert_allclose(fit.edf[label], np.trace(F[place, place]), **CLOSE)
    hat = truth.columns @ truth.covariance @ truth.columns.T @ W
    np.testing.assert_allclose(fit.edf.sum(), np.trace(hat), **CLOSE)


def test_parts_of_the_evidence(pair):
    """Each term's I + KDᵀWD/σ², and the density of y and of the weights at their mean."""
    fit, truth = pair
    model, sigma = fit.model, fit.hyperparameters.loc["sd(noise)", "estimate"]
    w = np.ones(N) if model.rows.weights is None else model.rows.weights
    offset = 0 if model.rows.offset is None else model.rows.offset
    residual = model.rows.y - offset - truth.columns @ truth.mean
    expected = {"fit": np.sum(np.log(w / (2 * np.pi * sigma**2)) - w * residual**2 / sigma**2) / 2}
    X = truth.truth.X
    for term in model.prior:
        if term.flat:
            f = X.shape[1]
            density = f * np.log(2 * np.pi) - np.linalg.slogdet((X.T * w) @ X / sigma**2)[1]
            expected[term.label] = density / 2 * model.reml
            continue
        i = next(i for i, b in enumerate(truth.truth.blocks) if b.label == term.label)
        b, K = truth.truth.blocks[i], truth.truth.blocks[i].covariance(truth.factors[i])
        pull = b.columns.T @ (w * residual) / sigma**2  # ŵ − μ = K Dᵀ W residual/σ²
        log_det = np.linalg.slogdet(np.eye(len(K)) + K @ (b.columns.T * w) @ b.columns / sigma**2)[1]
        expected[term.label] = -(pull @ K @ pull + log_det) / 2
    expected["overlap"] = truth.value - sum(expected.values())
    nats = fit.occam["nats"]
    assert nats.index.tolist() == [*expected]
    np.testing.assert_allclose(nats, [*expected.values()], **CLOSE)
    np.testing.assert_allclose(nats.sum(), fit.log_evidence, rtol=1e-9)
    assert nats["overlap"] >= -1e-9


def design(model, rows, labels):
    """Columns of all weights, in the order of the truth, for a mapping of new rows; other terms have zeros."""
    parts = []
    for term in sorted(model.prior, key=lambda t: not t.flat):
        if term.grouped:
            codes, Z = rows[term.label]
            part = np.zeros((len(Z), len(term.levels), Z.shape[1]))
            seen = codes >= 0
            part[np.flatnonzero(seen), codes[seen]] = Z[seen]
            part = part.reshape(len(Z), -1)
        else:
            part = rows[term.label]
        parts.append(part if term.label in labels else 0 * part)
    return np.concatenate(parts, axis=1)


def new_rows(model, n=9, seed=3):
    """Columns at random; levels that were seen, or were not (−1), the same in all terms of a factor."""
    rng = np.random.default_rng(seed)
    codes, out = {}, {}
    for term in model.prior:
        if term.grouped:
            q = len(term.levels)
            own = codes.setdefault(term.group, rng.integers(-1, q, n))
            out[term.label] = own, rng.standard_normal((n, len(term.names)))
        else:
            out[term.label] = rng.standard_normal((n, len(term.names)))
    return out


def as_given(model, rows):
    """As `predict` takes them: a random intercept alone needs codes only."""
    out = dict(rows)
    for term in model.prior:
        if term.grouped and len(term.names) == 1 and term.names[0] == "Intercept":
            out[term.label] = rows[term.label][0]
            rows[term.label][1][:] = 1.0
    return out


def test_predictions(pair):
    """With all terms, with some, with levels that were not seen: their effects have the prior's variance."""
    fit, truth = pair
    model = fit.model
    labels = [term.label for term in model.prior]
    rows = new_rows(model)
    given = as_given(model, rows)
    for wanted in (labels, labels[:1], labels[1:], labels[::2]):
        if not wanted:
            continue
        X = design(model, rows, wanted)
        variance = np.einsum("ij,jk,ik->i", X, truth.covariance, X)
        for term in model.prior:
            if term.grouped and term.label in wanted:
                i = next(i for i, b in enumerate(truth.truth.blocks) if b.label == term.label)
                codes, Z = rows[term.label]
                variance += np.sum((Z @ truth.factors[i]) ** 2, axis=1) * (codes < 0)
        mean = X @ truth.mean
        np.testing.assert_allclose(fit.predict(given, include=wanted), mean, **CLOSE)
        interval = fit.predict(given, include=wanted, interval=0.9)
        half = ndtri(0.95) * np.sqrt(variance)
        np.testing.assert_allclose(interval["mean"], mean, **CLOSE)
        np.testing.assert_allclose(interval["upper"], mean + half, **CLOSE)
        np.testing.assert_allclose(interval["lower"], mean - half, **CLOSE)


def test_fitted_values(pair):
    fit, truth = pair
    offset = 0 if fit.model.rows.offset is None else fit.model.rows.offset
    eta = offset + truth.columns @ truth.mean
    sd = np.sqrt(np.einsum("ij,jk,ik->i", truth.columns, truth.covariance, truth.columns))
    interval = fit.predict(interval=0.95)
    np.testing.assert_allclose(fit.predict(), eta, **CLOSE)
    np.testing.assert_allclose(interval["upper"] - eta, ndtri(0.975) * sd, **CLOSE)


def stacked(fit, by_term, n):
    """Draws of all weights side by side, in the order of the truth."""
    flat_first = sorted(fit.model.prior, key=lambda t: not t.flat)
    return np.concatenate([np.reshape(by_term[t.label], (n, -1)) for t in flat_first], axis=1)


def test_samples(pair):
    """Means of all weights, variances of twenty combinations of them, within four standard errors."""
    fit, truth = pair
    n = 4000
    draws = stacked(fit, fit.posterior.sample(n, seed=1), n)
    sd = np.sqrt(np.maximum(truth.covariance.diagonal(), 0))
    error = np.abs(draws.mean(axis=0) - truth.mean)
    assert np.all(error <= 4 * sd / np.sqrt(n) + 1e-7)
    C = np.random.default_rng(2).standard_normal((len(sd), 20))
    expected = np.einsum("ic,ij,jc->c", C, truth.covariance, C)
    ratio = np.var((draws - truth.mean) @ C, axis=0) / expected
    assert np.all(np.abs(ratio - 1) < 4 * np.sqrt(2 / n))
    again = stacked(fit, fit.posterior.sample(n, seed=1), n)
    np.testing.assert_array_equal(again, draws)


def test_simulated_data(pair):
    """From N(Xβ̂ + offset + Dμ, V): means of all rows, variances of twenty combinations, within four standard errors."""
    fit, truth = pair
    n, X = 4000, truth.truth.X
    parts = zip(truth.truth.blocks, truth.factors, strict=True)
    V = sum(b.columns @ b.covariance(L) @ b.columns.T for b, L in parts)
    mean = X @ truth.mean[: X.shape[1]] + truth.truth.offset
    draws = fit.simulate(n, seed=3)
    assert draws.shape == (n, N)
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 4 * np.sqrt(V.diagonal() / n))
    C = np.random.default_rng(2).standard_normal((N, 20))
    ratio = np.var((draws - mean) @ C, axis=0) / np.einsum("ic,ij,jc->c", C, V, C)
    assert np.all(np.abs(ratio - 1) < 4 * np.sqrt(2 / n))


# Of hyperparameters that were learned.


def learned(reml=True, correlated=True):
    """Twelve levels with two coefficients, crossed with five."""
    rng = np.random.default_rng(11)
    n = 120
    g, h, x = np.arange(n) % 12, np.arange(n) // 12 % 5, rng.standard_normal(n)
    b = rng.standard_normal((12, 2)) @ [[1.0, 0.4], [0, 0.6]]
    y = 1 + x + b[g, 0] + b[g, 1] * x + 0.7 * rng.standard_normal(5)[h] + 0.8 * rng.standard_normal(n)
    one = np.ones(n)
    prior = Flat(np.column_stack([one, x]), ["Intercept", "x"])
    prior += effects(g, "g", correlated, Intercept=one, x=x) + effects(h, "h", Intercept=one)
    return LinearModel(Gaussian(), prior, y, reml)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("correlated", [True, False])
def test_standard_errors_of_hyperparameters(correlated, reml):
    """From the curvature of the density in the numbers that are reported, by differences."""
    fit = marglik.fit(learned(reml, correlated))
    table, truth = fit.hyperparameters, Truth(fit.model)
    at = table["estimate"]
    steps = 1e-3 * np.eye(len(at))

    def density(v):
        return truth.at_values(dict(zip(at.index, v, strict=True))).value

    v = at.to_numpy()
    H = np.array(
        [
            [sum(s * t * density(v + s * a + t * b) for s in (1, -1) for t in (1, -1)) / 4e-6 for a in steps]
            for b in steps
        ]
    )
    np.testing.assert_allclose(table["se"], np.sqrt(np.linalg.inv(-H).diagonal()), rtol=1e-4)
    assert (table["lower"] < at).all()
    assert (table["upper"] > at).all()
    scales = table[table.index.str.startswith("sd")]
    half = ndtri(0.975) * scales["se"] / scales["estimate"]
    np.testing.assert_allclose(np.log(scales["upper"] / scales["estimate"]), half, rtol=1e-6)
    np.testing.assert_allclose(np.log(scales["estimate"] / scales["lower"]), half, rtol=1e-6)


@pytest.mark.parametrize("reml", [True, False])
def test_learned_weights(reml):
    fit = marglik.fit(learned(reml))
    truth = Truth(fit.model).at_values(fit.hyperparameters["estimate"])
    np.testing.assert_allclose(fit.log_evidence, truth.value, rtol=1e-10)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], truth.mean[:2], **CLOSE)
    np.testing.assert_allclose(fit.vcov(), truth.covariance[:2, :2], **CLOSE)
    effects_of_g = truth.mean[truth.weights["(1 + x | g)"]].reshape(-1, 2)
    np.testing.assert_allclose(fit.random_effects("g"), effects_of_g, **CLOSE)


def test_levels_without_rows_keep_their_prior():
    fit, truth = held("levels without rows", "reml", False)
    term = next(t for t in fit.model.prior if t.grouped)
    empty = sorted(set(range(7)) - set(2 * A))
    assert len(empty) == 4
    found = fit.random_effects("a").iloc[empty]
    np.testing.assert_array_equal(found, 0)
    L = truth.factors[0]
    np.testing.assert_allclose(found.attrs["sd"].iloc[empty] ** 2, np.tile((L @ L.T).diagonal(), (4, 1)), **CLOSE)
    assert term.levels[empty[0]] in found.index


def test_a_group_is_asked_for_by_name():
    fit, _ = held("crossed", "reml", False)
    with pytest.raises(ValueError, match=r"no grouping factor None.* g, h\."):
        fit.random_effects()
    with pytest.raises(ValueError, match=r"no grouping factor 'k'.* g, h\."):
        fit.random_effects("k")
    single, _ = held("one factor, two terms", "reml", False)
    assert single.random_effects().columns.tolist() == ["Intercept", "x"]
    assert len(single.random_effects()) == G.max() + 1


@pytest.mark.parametrize("reml", [True, False])
def test_profile_intervals(reml):
    """At their ends the best density has dropped by half the quantile of χ²₁."""
    rng = np.random.default_rng(3)
    g, x = np.arange(48) % 8, rng.standard_normal(48)
    b = rng.standard_normal((8, 2)) @ [[1.0, 0.3], [0, 0.8]]
    y = b[g, 0] + b[g, 1] * x + 0.5 * rng.standard_normal(48)
    one = np.ones(48)
    prior = Flat(np.column_stack([one, x]), ["Intercept", "x"]) + effects(g, "g", Intercept=one, x=x)
    fit = marglik.fit(LinearModel(Gaussian(), prior, y, reml))
    estimate = fit.hyperparameters["estimate"]
    table = fit.confint("profile", level=0.9, names=list(estimate.index))
    assert table.index.tolist() == estimate.index.tolist()
    for name, row in table.iterrows():
        for end in (row["lower"], row["upper"]):
            drop = fit.log_evidence - best_at(fit.model, {name: end}, [estimate])[0]
            np.testing.assert_allclose(2 * drop, 2.705543454095404, rtol=1e-4, err_msg=name)
