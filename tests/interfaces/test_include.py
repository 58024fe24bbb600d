# SPDX-License-Identifier: BSD-3-Clause
"""`include=`: terms add up to the whole linear predictor, which has the offset with its fixed effects."""

import numpy as np
import pytest

import marglik
from marglik import Flat, Gaussian, InMemory, LinearModel, RandomEffects

N = 60
RNG = np.random.default_rng(5)
G = np.arange(N) % 6
DATA = {"x": RNG.standard_normal(N), "z": RNG.uniform(size=N), "g": G, "o": 3 * RNG.standard_normal(N)}
DATA["y"] = DATA["x"] + np.sin(6 * DATA["z"]) + RNG.standard_normal(6)[G] + DATA["o"] + RNG.standard_normal(N) / 3
NEW = {name: values[:7][::-1] for name, values in DATA.items()}
FORMULAS = {
    "y ~ x + offset(o) + (1 | g) + s(z, k=5)": ["fixed effects", "(1 | g)", "s(z)"],
    "y ~ offset(o) + ridge(x, z)": ["fixed effects", "ridge(x, z)"],
    "y ~ 0 + offset(o) + (1 | g)": ["fixed effects", "(1 | g)"],
    "y ~ 0 + offset(o) + s(z, k=5)": ["fixed effects", "s(z)"],
    "y ~ x + (1 | g)": ["fixed effects", "(1 | g)"],
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_terms_add_up(formula):
    fit, terms = marglik.fit(formula, DATA), FORMULAS[formula]
    for new in (None, NEW):
        parts = [fit.predict(new, include=[term]) for term in terms]
        np.testing.assert_allclose(sum(parts), fit.predict(new), rtol=0, atol=1e-12)
        np.testing.assert_allclose(fit.predict(new, include=terms), fit.predict(new), rtol=0, atol=1e-12)


def test_a_term_alone_is_its_own_contribution():
    """That of levels is their effect, and that of a smooth its curve, whatever the offset."""
    fit = marglik.fit("y ~ x + offset(o) + (1 | g) + s(z, k=5)", DATA)
    effects = fit.random_effects("g")["Intercept"].to_numpy()
    np.testing.assert_allclose(fit.predict(include="(1 | g)"), effects[G], rtol=0, atol=1e-12)
    np.testing.assert_allclose(fit.predict(NEW, include="(1 | g)"), effects[NEW["g"]], rtol=0, atol=1e-12)
    curve = fit.effect("s(z)", at={"z": DATA["z"]})["estimate"]
    np.testing.assert_allclose(fit.predict(include="s(z)"), curve, rtol=0, atol=1e-12)


def test_the_population_has_the_constant_and_the_offset():
    fit = marglik.fit("y ~ x + offset(o) + (1 | g)", DATA)
    b = fit.fixed_effects["estimate"]
    for rows in (DATA, NEW):
        expected = b["Intercept"] + b["x"] * rows["x"] + rows["o"]
        np.testing.assert_allclose(fit.predict(rows, include="fixed effects"), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"needs|uses 'o'"):
        fit.predict({"x": NEW["x"]}, include="fixed effects")
    assert fit.predict({"g": NEW["g"]}, include="(1 | g)").shape == (7,)


def test_a_model_of_arrays_has_its_offset_with_its_flat_term():
    prior = Flat(np.ones((N, 1)), ["one"], label="base") + RandomEffects(G, list("abcdef"), label="groups")
    fit = marglik.fit(LinearModel(Gaussian(), prior, InMemory(DATA["y"], DATA["o"])))
    base, groups = fit.predict(include="base"), fit.predict(include="groups")
    np.testing.assert_allclose(base + groups, fit.predict(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(base - DATA["o"], base[0] - DATA["o"][0], rtol=0, atol=1e-12)


def test_without_pooling_means_are_those_of_what_the_offset_leaves():
    """With no term but the groups, the pale dots of the picture are the means of y less the offset."""
    from marglik.report.plots import _without_pooling

    fit = marglik.fit("y ~ 0 + offset(o) + (1 | g)", DATA)
    expected = np.bincount(G, DATA["y"] - DATA["o"]) / np.bincount(G)
    np.testing.assert_allclose(_without_pooling(fit, fit.model.prior[0]), expected, rtol=1e-12)
