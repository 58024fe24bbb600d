# SPDX-License-Identifier: BSD-3-Clause
"""Mixed models under hostile data, against dense linear algebra; and covariances that are partly held."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from mixed_problems import FLAT, PAIR, TRIPLE, G, N, effects
from test_intervals import Profile
from truth import Truth, reported_covariance, root


def frame(n=60, q=8, r=5, seed=0):
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, q, n), rng.integers(0, r, n), rng.standard_normal(n)
    y = 1 + 0.5 * x + rng.standard_normal(q)[g] + 0.6 * rng.standard_normal(q)[g] * x
    y += 0.5 * rng.standard_normal(r)[h] + 0.5 * rng.standard_normal(n)
    w, o = 10 ** rng.uniform(-3, 3, n), rng.standard_normal(n)
    return pd.DataFrame({"y": y, "x": x, "g": [f"g{i}" for i in g], "h": [f"h{i}" for i in h], "w": w, "o": o})


DATA, FORMULA = frame(), "y ~ x + (x | g) + (1 | h)"
WIDE = frame(150).join(pd.DataFrame(np.random.default_rng(1).standard_normal((150, 60))).add_prefix("f"))
LONG = DATA.join(pd.DataFrame(np.random.default_rng(2).standard_normal((60, 100))).add_prefix("p"))
SIXTY, HUNDRED = " + ".join(f"f{i}" for i in range(60)), ", ".join(f"p{i}" for i in range(100))
MODELS = {
    "as it is": lambda: marglik.fit(FORMULA, DATA),
    "tiny responses": lambda: marglik.fit(FORMULA, DATA.assign(y=1e-9 * DATA.y)),
    "huge responses": lambda: marglik.fit(FORMULA, DATA.assign(y=1e9 * DATA.y)),
    "huge columns": lambda: marglik.fit(FORMULA, DATA.assign(x=1e6 * DATA.x)),
    "tiny columns": lambda: marglik.fit(FORMULA, DATA.assign(x=1e-8 * DATA.x)),
    "columns far from zero": lambda: marglik.fit(FORMULA, DATA.assign(x=100 + DATA.x)),
    "weights over six orders": lambda: marglik.fit(FORMULA, DATA, weights="w"),
    "weights over six orders, ML": lambda: marglik.fit(FORMULA, DATA, weights="w", reml=False),
    "a large offset": lambda: marglik.fit("y ~ x + offset(I(100 * o)) + (x | g)", DATA),
    "no fixed effects": lambda: marglik.fit("y ~ 0 + (x | g) + (1 | h)", DATA),
    "no intercepts": lambda: marglik.fit("y ~ 0 + x + (0 + x | g)", DATA),
    "two levels": lambda: marglik.fit("y ~ x + (x | k)", DATA.assign(k=np.arange(60) % 2)),
    "mostly one row a level": lambda: marglik.fit("y ~ x + (1 | k)", DATA.assign(k=np.maximum(np.arange(60), 12))),
    "every row twice": lambda: marglik.fit(FORMULA, pd.concat([DATA, DATA])),
    "sixty fixed effects": lambda: marglik.fit(f"y ~ {SIXTY} + (x | g) + (1 | h)", WIDE),
    "sixty fixed effects, ML": lambda: marglik.fit(f"y ~ {SIXTY} + (x | g) + (1 | h)", WIDE, reml=False),
    "ridge of more columns than rows": lambda: marglik.fit(f"y ~ x + ridge({HUNDRED}) + (1 | g)", LONG),
    "three coefficients of a factor": lambda: marglik.fit("y ~ x + (h | g)", frame(200, 30, 3)),
    "levels that are bools": lambda: marglik.fit("y ~ x + (1 | k)", DATA.assign(k=DATA.o > 0)),
    "rows left out": lambda: marglik.fit(
        FORMULA, DATA.assign(x=DATA.x.where(DATA.index > 2), g=DATA.g.where(DATA.index != 7)), missing="drop"
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_against_the_dense_density(name):
    """Value, slope, weights with their sds and fitted values at the reported hyperparameters."""
    fit = MODELS[name]()
    estimate = fit.hyperparameters["estimate"]
    truth = Truth(fit.model).at_values(estimate)
    assert fit.converged
    np.testing.assert_allclose(fit.log_evidence, truth.value, rtol=1e-9)
    near = {"rtol": 1e-6, "atol": 1e-7 * np.abs(truth.mean).max()}
    f, sd = fit.model.n_flat, np.sqrt(np.maximum(truth.covariance.diagonal(), 0))
    np.testing.assert_allclose(fit.fixed_effects["estimate"], truth.mean[:f], **near)
    np.testing.assert_allclose(fit.fixed_effects["se"], sd[:f], rtol=1e-6)
    for term in (t for t in fit.model.prior if t.grouped):
        place = truth.weights[term.label]
        np.testing.assert_allclose(np.ravel(fit.posterior.mean[term.label]), truth.mean[place], **near)
        np.testing.assert_allclose(np.ravel(fit.posterior.sd[term.label]), sd[place], rtol=1e-6, atol=1e-7 * sd.max())
        L = root(reported_covariance(term, estimate))
        np.testing.assert_allclose(L.T @ truth.slopes[term.label] @ L, 0, atol=1e-5)
    np.testing.assert_allclose(truth.gradient[-1] * estimate["sd(noise)"], 0, atol=1e-5)
    eta = truth.columns @ truth.mean + Truth(fit.model).offset
    np.testing.assert_allclose(fit.predict(), eta, rtol=1e-6, atol=1e-7 * np.abs(eta).max())


def test_unused_categories_are_no_levels():
    plain = marglik.fit("y ~ x + (1 | g)", DATA)
    some = DATA.assign(g=pd.Categorical(DATA.g, categories=[f"g{i}" for i in range(12)]))
    fit = marglik.fit("y ~ x + (1 | g)", some)
    assert fit.random_effects().index.tolist() == plain.random_effects().index.tolist()
    np.testing.assert_allclose(fit.log_evidence, plain.log_evidence, rtol=1e-13)


TERMS = ("fixed effects", "(1 + x | g)", "(1 | h)")


@pytest.mark.parametrize("include", [c for k in range(4) for c in combinations(TERMS, k)])
def test_predictions_for_levels_that_are_new_in_one_factor(include):
    """An unseen level has an effect of mean zero with its prior's variance, whatever the other factor's level is.

    The offset goes with the fixed effects.
    """
    fit = marglik.fit("y ~ x + offset(o) + (x | g) + (1 | h)", DATA, fixed={"sd(Intercept | h)": 0.7})
    new = pd.DataFrame({"x": [0.3, -2, 1, 1], "o": [1.0, 2, 0, 0.5]})
    new = new.assign(g=["g1", "new", "g2", "zz"], h=["h0", "h1", "unseen", "qq"])
    truth = Truth(fit.model).at_values(fit.hyperparameters["estimate"])
    mean, variance = new.o.to_numpy(copy=True) * ("fixed effects" in include), np.zeros(4)
    for i, row in new.iterrows():
        c = np.zeros(len(truth.mean))
        if "fixed effects" in include:
            c[truth.weights["fixed effects"]] = [1, row.x]
        for term in (t for t in fit.model.prior if t.grouped and t.label in include):
            Z, level = ([1, row.x] if term.group == "g" else [1]), row[term.group]
            if level in term.levels:
                c[truth.weights[term.label]] = np.kron(np.array(term.levels) == level, Z)
            else:
                variance[i] += Z @ reported_covariance(term, fit.hyperparameters["estimate"]) @ Z
        mean[i] += c @ truth.mean
        variance[i] += c @ truth.covariance @ c
    found, half = fit.predict(new, interval=0.9, include=list(include)), norm.ppf(0.95) * np.sqrt(variance)
    np.testing.assert_allclose(found, np.column_stack([mean, mean - half, mean + half]), rtol=1e-9, atol=1e-9)


SD, SX, SZ, COR = "sd(Intercept | g)", "sd(x | g)", "sd(z | g)", "cor(Intercept, x | g)"
HELD = {
    "first scale": (PAIR, {SD: 0.5}),
    "second scale": (PAIR, {SX: 0.9}),
    "a scale of zero": (PAIR, {SX: 0.0}),
    "correlation": (PAIR, {COR: -0.7}),
    "correlation and first scale": (PAIR, {COR: 0.4, SD: 1.2}),
    "correlation and second scale": (PAIR, {COR: 0.4, SX: 1.2}),
    "correlation of one": (PAIR, {COR: 1.0}),
    "all": (PAIR, {COR: -0.3, SD: 0.6, SX: 1.1}),
    "third scale of three": (TRIPLE, {SZ: 0.6}),
    "last correlation of three": (TRIPLE, {"cor(x, z | g)": 0.2}),
    "last correlation of three and a scale": (TRIPLE, {"cor(x, z | g)": 0.2, SZ: 0.6}),
}


@pytest.fixture(scope="module")
def held():
    """held(name) -> the fit, and what is held."""
    found = {}

    def build(name):
        if name not in found:
            columns, given = HELD[name]
            rng = np.random.default_rng(5)
            term = effects(G, "g", **columns)
            y = np.sum(term.columns * rng.standard_normal((5, len(columns)))[G], axis=1) + 0.5 * rng.standard_normal(N)
            found[name] = marglik.fit(LinearModel(Gaussian(), FLAT + term, y), fixed=given), given
        return found[name]

    return build


@pytest.mark.parametrize("name", HELD)
def test_maximum_with_some_of_a_covariance_held(held, name):
    fit, given = held(name)
    assert fit.converged
    table = fit.hyperparameters
    np.testing.assert_allclose(table.loc[list(given), "estimate"], list(given.values()), rtol=1e-12)
    np.testing.assert_allclose(fit.log_evidence, Profile(fit.model)(given), rtol=0, atol=1e-6)
    assert not table.loc[list(given), "at_boundary"].any()
    assert table.loc[list(given), "se"].isna().all()
    shown = {line.split("  ")[0]: line for line in fit.summary().splitlines()}
    for label in table.index:
        assert shown[label].endswith("held") == (label in given)


@pytest.mark.parametrize("name", HELD)
def test_saved_with_some_of_a_covariance_held(held, name, tmp_path):
    fit, _ = held(name)
    fit.save(tmp_path / "fit")
    again = marglik.load(tmp_path / "fit")
    pd.testing.assert_frame_equal(again.hyperparameters, fit.hyperparameters)
    pd.testing.assert_frame_equal(again.confint(), fit.confint())
    assert again.log_evidence == fit.log_evidence
    np.testing.assert_array_equal(again.simulate(2), fit.simulate(2))


@pytest.mark.parametrize("given", [{SD: 1.0, SX: 1.0}, {COR: 0.0, SZ: 1.0}, {COR: 0.0, "cor(x, z | g)": 0.0}])
def test_what_cannot_be_held(given):
    y = np.random.default_rng(0).standard_normal(N)
    model = LinearModel(Gaussian(), FLAT + effects(G, "g", **TRIPLE), y)
    words = (
        r"^fixed= cannot hold .* while the rest of the covariance of \(1 \+ x \+ z \| g\) is learned\. Hold one standa"
    )
    with pytest.raises(ValueError, match=words):
        marglik.fit(model, fixed=given)


def test_no_noise():
    """−∞ where asked for; one sentence where it is held."""
    assert marglik.fit(FORMULA, DATA).log_evidence_at({"sd(noise)": 0.0}) == -np.inf
    with pytest.raises(
        ValueError, match=r"^sd\(noise\) is held at zero, but the evidence of a mixed model .* positive"
    ):
        marglik.fit(FORMULA, DATA, fixed={"sd(noise)": 0.0})
