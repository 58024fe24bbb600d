# SPDX-License-Identifier: BSD-3-Clause
"""`Fit.simulate`: moments of simulated responses against those of the fitted model."""

import numpy as np
import pytest

import marglik
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory
from mixed_problems import FLAT, GIVEN, ONE, PAIR, RIDGE, G, H, N, X, effects
from truth import Truth

MANY = 40_000
STRUCTURES = {
    "intercept": FLAT + effects(G, "g"),
    "pair": FLAT + effects(G, "g", **PAIR),
    "independent": FLAT + effects(G, "g", correlated=False, **PAIR),
    "crossed and ridge": FLAT + effects(G, "g") + effects(H, "h", **PAIR) + RIDGE,
    "given": GIVEN + effects(G, "g") + FLAT,
    "no fixed effects": Prior((effects(G, "g", **PAIR),)),
}
THETA = {
    "sd(Intercept | g)": 0.8,
    "sd(x | g)": 0.5,
    "cor(Intercept, x | g)": -0.6,
    "sd(Intercept | h)": 0.7,
    "sd(x | h)": 0.4,
    "cor(Intercept, x | h)": 1.0,
    "sd(weights)": 0.3,
    "sd(noise)": 0.6,
}
RNG = np.random.default_rng(0)
Y, W, OFFSET = RNG.standard_normal(N), RNG.uniform(0.1, 4, N), RNG.uniform(-3, 3, N)


def held(structure, rows=None):
    """A fit at given hyperparameters."""
    model = LinearModel(Gaussian(), STRUCTURES[structure], InMemory(Y) if rows is None else rows)
    return marglik.fit(model, fixed={name: THETA[name] for name in model.hyperparameters.reported})


def check_moments(y, mean, V, z=4.0):
    """Means, variances and covariances within so many of their standard errors."""
    s = np.sqrt(V.diagonal())
    assert (np.abs(y.mean(axis=0) - mean) < z * s / np.sqrt(len(y))).all()
    r = y - mean
    se = np.sqrt((np.outer(s, s) ** 2 + V**2) / len(y))  # of r_i r_j, by Isserlis
    assert (np.abs(r.T @ r / len(y) - V) < z * se).all()


@pytest.mark.parametrize("given", ["plain", "weights", "offset", "weights and offset"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_gaussian_moments(structure, given):
    """y ~ N(Xβ̂ + offset, V): weights divide the noise's variance."""
    rows = InMemory(Y, OFFSET if "offset" in given else None, W if "weights" in given else None)
    fit = held(structure, rows)
    truth = Truth(fit.model)
    V = sum(b.columns @ b.covariance(L) @ b.columns.T for b, L in zip(truth.blocks, truth.reported(THETA), strict=True))
    beta = fit.fixed_effects["estimate"].to_numpy()
    check_moments(fit.simulate(MANY, seed=2), truth.X @ beta + truth.offset, V)


def test_poisson_moments():
    """Means exp(η + s²/2) and variances m + m²(exp(s²) − 1) for an intercept of variance s²."""
    y = np.random.default_rng(3).poisson(3, N)
    fit = marglik.fit(LinearModel(Poisson(), FLAT + effects(G, "g"), y), fixed={"sd(Intercept | g)": 0.4})
    eta = FLAT.columns @ fit.fixed_effects["estimate"].to_numpy()
    m = np.exp(eta + 0.08)
    same = G[:, None] == G
    V = np.diag(m) + np.outer(m, m) * (np.exp(0.16) - 1) * same
    draws = fit.simulate(MANY, seed=2)
    assert (draws == np.round(draws)).all()
    assert (draws >= 0).all()
    r = draws - m
    products = np.einsum("si,sj->sij", r, r)
    assert (np.abs(r.mean(axis=0)) < 4 * np.sqrt(V.diagonal() / MANY)).all()
    assert (np.abs(products.mean(axis=0) - V) < 4 * products.std(axis=0) / np.sqrt(MANY)).all()


def test_seeds():
    fit = held("crossed and ridge")
    first = fit.simulate(5, seed=7)
    assert first.shape == (5, N)
    np.testing.assert_array_equal(fit.simulate(5, seed=7), first)
    assert not np.isclose(fit.simulate(5, seed=8), first).any()
    np.testing.assert_array_equal(fit.simulate(3), fit.simulate(3, seed=0))


def test_what_was_simulated_is_found_again():
    """Fits of simulated responses scatter around the truth: the mean of the variances, which REML leaves unbiased."""
    g, x = np.repeat(np.arange(60), 5), np.tile(np.linspace(-1, 1, 5), 60)
    prior = Flat(np.column_stack([np.ones(300), x]), ["Intercept", "x"])
    prior += effects(g, "g", Intercept=np.ones(300))
    truth = {"sd(Intercept | g)": 0.9, "sd(noise)": 0.5}
    y = np.random.default_rng(0).standard_normal(300)
    draws = marglik.fit(LinearModel(Gaussian(), prior, y), fixed=truth).simulate(60, seed=4)
    found = np.array([marglik.fit(LinearModel(Gaussian(), prior, d)).hyperparameters["estimate"] ** 2 for d in draws])
    error = found.mean(axis=0) - np.array([*truth.values()]) ** 2
    assert (np.abs(error) < 4 * found.std(axis=0, ddof=1) / np.sqrt(len(draws))).all()


def test_from_a_formula():
    data = {"y": Y, "x": X, "g": G, "w": W, "o": OFFSET}
    fit = marglik.fit("y ~ x + offset(o) + (x | g)", data, weights="w", fixed={"sd(noise)": 0.6})
    arrays = LinearModel(Gaussian(), FLAT + effects(G, "g", **PAIR), InMemory(Y, OFFSET, W))
    other = marglik.fit(arrays, fixed={"sd(noise)": 0.6})
    np.testing.assert_allclose(fit.simulate(2, seed=3), other.simulate(2, seed=3), rtol=1e-4, atol=1e-4)


def counted():
    return marglik.fit(LinearModel(Gaussian(), FLAT + effects(G, "g"), InMemory(Y, counts=np.full(N, 2))))


def weighted_counts():
    y = np.random.default_rng(0).poisson(3, N)
    return marglik.fit(LinearModel(Poisson(), Prior((Flat(ONE),)), InMemory(y, weights=W)))


def two_targets():
    return marglik.fit(LinearModel(Gaussian(), Prior((Ridge(X),)), RNG.standard_normal((N, 2))))


SENTENCES = {
    "counts": (counted, r"^simulate needs one outcome a row, but this model has rows that stand for several obs"),
    "weights": (
        weighted_counts,
        r"^simulate needs one outcome a row, but this model has weighted log densities\. Fit ",
    ),
    "several targets": (two_targets, r"^simulate is for one target at a time; fit the target alone\.$"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name):
    make, words = SENTENCES[name]
    fit = make()
    with pytest.raises(ValueError, match=words):
        fit.simulate()


@pytest.mark.parametrize("n", [-1, 2.5, "3"])
def test_numbers_of_data_sets(n):
    with pytest.raises(ValueError, match=rf"^n must be a whole number of data sets, 1 or more, not {n!r}\.$"):
        held("intercept").simulate(n)
