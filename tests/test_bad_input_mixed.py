# SPDX-License-Identifier: BSD-3-Clause
"""Bad input to mixed models of arrays: one sentence a case, which names the culprit. And what only looks bad."""

import numpy as np
import pytest

import marglik
from marglik import Flat, Gaussian, LinearModel, RandomEffects, Ridge
from truth import Truth, best_at

N = 40
rng = np.random.default_rng(8)
ONE, (X, Z) = np.ones(N), rng.standard_normal((2, N))
G, H = np.arange(N) % 8, np.arange(N) // 8
PAIR, TRIPLE = np.column_stack([ONE, X]), np.column_stack([ONE, X, Z])
B = rng.standard_normal((8, 3)) @ [[1.0, 0.5, -0.2], [0, 0.8, 0.3], [0, 0, 0.7]]
Y = 1 + X + np.sum(B[G] * TRIPLE, axis=1) + 0.5 * rng.standard_normal(5)[H] + 0.6 * rng.standard_normal(N)
FLAT = Flat(PAIR, ["Intercept", "x"])
NAN = float("nan")


def effects(codes=G, levels="abcdefgh", columns=PAIR, coefficients=("Intercept", "x"), group="g", **more):
    return RandomEffects(codes, list(levels), columns, coefficients, group, **more)


def intercepts(codes=H, levels="pqrst", group="h"):
    return RandomEffects(codes, list(levels), group=group)


def triple():
    return effects(columns=TRIPLE, coefficients=("Intercept", "x", "z"))


def fit(*terms, y=Y, **settings):
    prior = FLAT
    for term in terms:
        prior = prior + term
    return marglik.fit(LinearModel(Gaussian(), prior, y), **settings)


def says(parts, call, kind=ValueError):
    """``call`` raises one sentence with these parts in order."""
    with pytest.raises(kind) as refused:
        call()
    text, position = str(refused.value), 0
    assert "\n" not in text
    assert text.endswith(".")
    for part in parts:
        assert part in text[position:], text
        position = text.index(part, position) + len(part)


TERMS = {
    "codes below zero": (lambda: effects(G - 1), ("(1 + x | g)", "8 levels", "row 0 is -1")),
    "codes beyond the levels": (lambda: effects(levels="abc"), ("(1 + x | g)", "3 levels", "row 3 is 3")),
    "codes that are no whole numbers": (lambda: effects(G + 0.5), ("(1 + x | g)", "whole numbers")),
    "codes with two axes": (lambda: effects(G[:, None]), ("(1 + x | g)", f"({N}, 1)")),
    "columns of another length": (lambda: effects(columns=PAIR[:10]), ("(1 + x | g)", "(40, 2)", "(10, 2)")),
    "too few columns": (
        lambda: effects(coefficients=("Intercept", "x", "z")),
        ("(1 + x + z | g)", "(40, 3)", "(40, 2)"),
    ),
    "a coefficient twice": (lambda: effects(coefficients=("x", "x")), ("'x'",)),
    "NaN in a column": (
        lambda: fit(effects(columns=np.where(np.arange(N)[:, None] == 3, [1, NAN], PAIR))),
        ("'x'", "NaN", "row 3"),
    ),
    "a level twice": (lambda: effects(levels="abcdefga"), ("'(1 + x | g)'", "'a' at 0, 7")),
    "an order that is none": (lambda: effects(order=(0, 0)), ("order", "(0, 0)")),
}


@pytest.mark.parametrize("name", TERMS)
def test_bad_terms(name):
    call, parts = TERMS[name]
    says(parts, lambda: fit(call()))


MODELS = {
    "the same term twice": (lambda: fit(effects(), effects()), ("Two terms", "'(1 + x | g)'")),
    "an intercept twice": (
        lambda: fit(effects(), intercepts(G, "abcdefgh", "g")),
        ("(1 + x | g)", "(1 | g)", "'sd(Intercept | g)'"),
    ),
    "one name for two factors": (
        lambda: fit(effects(), effects(H, "pqrst", Z[:, None], ("z",))),
        ("'g'", "levels"),
    ),
    "one name for two scales": (
        lambda: fit(effects(), Ridge(Z, None, "sd(x | g)")),
        ("'sd(x | g)'",),
    ),
    "a scale called like the noise": (lambda: fit(effects(), Ridge(Z, None, "sd(noise)")), ("'sd(noise)'",)),
    "one label twice": (
        lambda: fit(Ridge(X, None, "sd(a)"), Ridge(Z, None, "sd(b)"), intercepts()),
        ("'ridge'",),
    ),
    "two factors that are one": (
        lambda: fit(intercepts(), intercepts(4 - H, "uvwxy", "k")),
        ("'h'", "'k'", "same groups"),
    ),
    "two factors that say all of y": (
        lambda: fit(effects(columns=ONE[:, None], coefficients=("Intercept",)), intercepts(), y=B[G, 0] + B[H, 1]),
        ("fitted exactly", "sd(noise)"),
    ),
    "effects that say all of y": (
        lambda: fit(effects(), y=np.arange(8.0)[G] ** 2 + 1.5 * np.arange(8.0)[G] * X),
        ("fitted exactly", "sd(noise)"),
    ),
    "a constant response": (lambda: fit(effects(), intercepts(), y=3 * ONE), ("constant", "sd(noise)")),
    "a response of fixed effects alone": (lambda: fit(effects(), intercepts(), y=2 - X), ("exactly", "sd(noise)")),
    "several targets, all of them constant": (
        lambda: fit(effects(), intercepts(), y=np.ones((N, 2))),
        ("constant", "sd(noise)"),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_bad_models(name):
    call, parts = MODELS[name]
    says(parts, call)


COR = "cor(Intercept, x | g)"
NO_COVARIANCE = {COR: 0.9, "cor(Intercept, z | g)": 0.9, "cor(x, z | g)": -0.9}
VALUES = {
    "a correlation beyond one": ({COR: 1.5}, (f"'{COR}'", "1.5", "-1 to 1")),
    "a correlation that is no number": ({COR: NAN}, (f"'{COR}'", "nan", "-1 to 1")),
    "a negative scale": ({"sd(x | g)": -1.0}, ("'sd(x | g)'", "-1.0", "0", "standard deviations")),
    "an infinite scale": ({"sd(x | g)": np.inf}, ("'sd(x | g)'", "inf", "finite")),
    "a word": ({"sd(x | g)": "a"}, ("'sd(x | g)'", "'a'", "finite number, 0 or more", "standard deviations")),
    "nothing": ({"sd(noise)": None}, ("'sd(noise)'", "None", "finite number")),
    "several numbers": ({"sd(x | g)": [1, 2]}, ("'sd(x | g)'", "[1, 2]", "a finite number")),
    "a word for a correlation": ({COR: "high"}, (f"'{COR}'", "'high'", "-1 to 1")),
    "a name alone": ("sd(noise)", ("by name", "{'sd(noise)': 1.0}", "'sd(noise)'")),
    "no covariance": (NO_COVARIANCE, (COR, "covariance")),
}


@pytest.mark.parametrize("name", VALUES)
def test_bad_values_of_hyperparameters(name):
    given, parts = VALUES[name]
    says(parts, lambda: fit(triple(), fixed=given))
    held = {**dict.fromkeys(["sd(Intercept | g)", "sd(x | g)", "sd(z | g)", "sd(noise)"], 1.0)}
    free = fit(triple(), fixed={**held, COR: 0.0, "cor(Intercept, z | g)": 0.0, "cor(x, z | g)": 0.0})
    says(parts, lambda: free.log_evidence_at(given))


@pytest.mark.parametrize(
    ("name", "advice", "other"), [(COR, "not as covariances", "precisions"), ("sd(x | g)", "precisions", "covariances")]
)
def test_advice_is_of_the_kind_of_hyperparameter(name, advice, other):
    with pytest.raises(ValueError, match=advice) as refused:
        fit(effects(), fixed={name: -2})
    assert other not in str(refused.value)


@pytest.mark.parametrize("name", ["cor(x, Intercept | g)", "factor(1, 1 | g)", "sd(1 + x | g)", "sd(x|g)", 3])
def test_unknown_names(name):
    """Coordinates of the engine are none of the names."""
    near = () if name == 3 else ("Did you mean",)
    parts = (repr(name), *near, "The names are 'sd(Intercept | g)', 'sd(x | g)', 'cor(Intercept, x | g)', 'sd(noise)'")
    says(parts, lambda: fit(effects(), fixed={name: 0.5}), KeyError)
    says(parts, lambda: fit(effects(), hyperprior={name: lambda v: -v}), KeyError)
    says(parts, lambda: fit(effects()).log_evidence_at({name: 0.5}), KeyError)


LABEL = "(1 + x | g)"
NEW = {
    "a level that is none": ({LABEL: (np.array([0, 9]), PAIR[:2])}, (repr(LABEL), "8 levels", "row 1 is 9")),
    "a level below −1": ({LABEL: (np.array([0, -5]), PAIR[:2])}, (repr(LABEL), "−1", "row 1 is -5")),
    "codes that are no whole numbers": ({LABEL: (np.array([0.5, 1]), PAIR[:2])}, (repr(LABEL), "whole numbers")),
    "no columns": ({LABEL: np.array([0, 1])}, (repr(LABEL), "Intercept, x", "pair")),
    "too few columns": ({LABEL: (np.array([0, 1]), PAIR[:2, :1])}, (repr(LABEL), "(2, 2)", "(2, 1)")),
    "more rows than the other terms": ({LABEL: (np.arange(3), PAIR[:3])}, ("2 of 'fixed effects'", f"3 of {LABEL!r}")),
    "no such term": ({"(x | g)": (np.array([0, 1]), PAIR[:2])}, (repr(LABEL),)),
}


@pytest.mark.parametrize("name", NEW)
def test_bad_new_rows(name):
    new, parts = NEW[name]
    fitted = fit(effects(), fixed={"sd(Intercept | g)": 1.0, "sd(x | g)": 1.0, COR: 0.0, "sd(noise)": 1.0})
    says(parts, lambda: fitted.predict({"fixed effects": PAIR[:2], **new}))


def test_new_rows_of_a_slope_without_intercept():
    """It has one column, but that column is not of ones."""
    term = effects(columns=X[:, None], coefficients=("x",))
    fitted = fit(term, fixed={"sd(x | g)": 1.0, "sd(noise)": 1.0})
    b = fitted.random_effects("g")["x"].to_numpy()
    codes, x = np.array([0, 2, -1]), np.array([[2.0], [-1.0], [5.0]])
    found = fitted.predict({term.label: (codes, x)}, include=term.label)
    np.testing.assert_allclose(found, [2 * b[0], -b[2], 0], rtol=1e-12)
    says((repr(term.label), "pair"), lambda: fitted.predict({term.label: codes}, include=term.label))


# Hyperparameters that are held.


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("rho", [0.0, 0.6, -0.4, 0.99])
def test_a_held_correlation(rho, reml):
    fitted = fit_reml(effects(), reml, {COR: rho})
    best, values = best_at(fitted.model, {COR: rho})
    assert fitted.converged
    np.testing.assert_allclose(fitted.log_evidence, best, rtol=0, atol=1e-7)
    estimate = fitted.hyperparameters["estimate"]
    np.testing.assert_allclose(estimate[COR], rho, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(estimate, [values[name] for name in estimate.index], rtol=1e-3, atol=1e-6)
    row = fitted.hyperparameters.loc[COR]
    assert np.isnan(row["se"])
    assert not row["at_boundary"]
    np.testing.assert_allclose([row["lower"], row["upper"]], rho, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rho", [1.0, -1.0])
def test_a_correlation_held_at_one(rho):
    """Held, so not at a boundary that was found."""
    fitted = fit_reml(effects(), True, {COR: rho})
    assert fitted.converged
    best, _ = best_at(fitted.model, {COR: rho})
    assert fitted.log_evidence >= best - 1e-7
    assert fitted.hyperparameters.loc[COR, "estimate"] == rho
    assert not fitted.hyperparameters.loc[COR, "at_boundary"]


def fit_reml(term, reml, given):
    model = LinearModel(Gaussian(), FLAT + term, Y, reml)
    return marglik.fit(model, fixed=given)


def fit_or_sentence(term, given):
    try:
        return fit_reml(term, True, given), ""
    except ValueError as refused:
        return None, str(refused)


PARTLY = {
    "a scale": {"sd(x | g)": 0.5},
    "the other scale": {"sd(Intercept | g)": 0.5},
    "a scale of zero": {"sd(x | g)": 0.0},
    "two scales": {"sd(x | g)": 0.5, "sd(Intercept | g)": 0.7},
    "a scale and the correlation": {"sd(x | g)": 0.5, COR: 0.3},
}


@pytest.mark.parametrize("name", PARTLY)
def test_a_held_scale_of_correlated_effects(name):
    """The best of what is left, or one sentence that says it cannot be held: never another answer."""
    given = PARTLY[name]
    fitted, refused = fit_or_sentence(effects(), given)
    if refused:
        assert refused.endswith(".")
        assert next(iter(given)) in refused
        return
    estimate = fitted.hyperparameters["estimate"]
    for key, value in given.items():
        np.testing.assert_allclose(estimate[key], value, rtol=1e-10, atol=1e-15)
    best, _ = best_at(fitted.model, given)
    np.testing.assert_allclose(fitted.log_evidence, best, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("name", "other"), [("x", "Intercept"), ("Intercept", "x")])
def test_a_correlation_with_what_is_held_not_to_vary(name, other):
    """It is neither learned nor at a boundary, and the verdict does not call singular what was asked to be."""
    fitted = fit(effects(), fixed={f"sd({name} | g)": 0.0})
    row = fitted.hyperparameters.loc[COR]
    assert row[["estimate", "se", "lower", "upper"]].isna().all()
    assert not row["at_boundary"]
    assert str(fitted.check()) == "The evidence is at a maximum and is exact."
    assert "boundary" not in fitted.summary()
    expected = fit(effects(columns=PAIR[:, [int(other == "x")]], coefficients=(other,)))
    np.testing.assert_allclose(fitted.log_evidence, expected.log_evidence, rtol=1e-10)
    columns = ["estimate", "se", "lower", "upper"]
    rest = expected.hyperparameters.index
    np.testing.assert_allclose(fitted.hyperparameters.loc[rest, columns], expected.hyperparameters[columns], rtol=1e-4)


def test_a_correlation_that_remains_where_a_scale_is_held_at_zero():
    """Of three coefficients one is held not to vary: the other two are as they are by themselves."""
    fitted = fit(triple(), fixed={"sd(x | g)": 0.0}).hyperparameters
    expected = fit(effects(columns=TRIPLE[:, [0, 2]], coefficients=("Intercept", "z"))).hyperparameters
    columns = ["estimate", "se", "lower", "upper"]
    np.testing.assert_allclose(fitted.loc[expected.index, columns], expected[columns], rtol=1e-4)
    assert not fitted["at_boundary"].any()


THREE = {
    "one correlation": {"cor(x, z | g)": 0.2},
    "two correlations": {"cor(x, z | g)": 0.2, COR: 0.1},
    "three correlations": {"cor(x, z | g)": 0.2, COR: 0.1, "cor(Intercept, z | g)": 0.0},
    "one scale": {"sd(z | g)": 0.3},
}


@pytest.mark.parametrize("name", THREE)
def test_held_values_of_three_correlated_effects(name):
    given = THREE[name]
    fitted, refused = fit_or_sentence(triple(), given)
    if refused:
        assert refused.endswith(".")
        assert next(iter(given)) in refused
        return
    estimate = fitted.hyperparameters["estimate"]
    for key, value in given.items():
        np.testing.assert_allclose(estimate[key], value, rtol=1e-10, atol=1e-15)
    best, _ = best_at(fitted.model, given, [None, estimate], polish=True)
    assert fitted.log_evidence >= best - 1e-6
    truth = Truth(fitted.model).at_values(estimate)
    np.testing.assert_allclose(fitted.log_evidence, truth.value, rtol=1e-9)


def test_noise_held():
    fitted = fit_reml(effects(), True, {"sd(noise)": 1.0})
    best, _ = best_at(fitted.model, {"sd(noise)": 1.0})
    assert fitted.converged
    np.testing.assert_allclose(fitted.log_evidence, best, rtol=0, atol=1e-7)
    assert fitted.hyperparameters.loc["sd(noise)", "estimate"] == 1


def test_more_effects_than_rows_with_the_noise_held():
    """Then their covariance can be learned: the rows of a level say what it is."""
    codes = np.arange(N) // 2
    term = effects(codes, range(20))
    says(("(1 + x | g)", "40", "sd(noise)"), lambda: fit(term))
    fitted = fit(term, fixed={"sd(noise)": 0.5})
    best, _ = best_at(fitted.model, {"sd(noise)": 0.5})
    assert fitted.log_evidence >= best - 1e-6


def test_a_hyperprior_on_part_of_a_covariance():
    for name in ("sd(x | g)", COR):
        says((repr(name), "covariance", "fixed="), lambda name=name: fit(effects(), hyperprior={name: lambda v: -v}))


def test_a_hyperprior_that_is_no_density():
    says(("'sd(noise)'", "3", "log density", "logpdf"), lambda: fit(intercepts(), hyperprior={"sd(noise)": 3}))


def test_a_group_called_noise():
    """Its scales are sd(… | noise): not to be confused with sd(noise)."""
    fitted, expected = fit(effects(group="noise")), fit(effects())
    assert fitted.log_evidence == expected.log_evidence
    assert list(fitted.hyperparameters.index) == [
        name.replace("| g", "| noise") for name in expected.hyperparameters.index
    ]
    np.testing.assert_array_equal(fitted.hyperparameters, expected.hyperparameters)
    np.testing.assert_array_equal(fitted.random_effects("noise"), expected.random_effects("g"))
    held = fit(effects(group="noise"), fixed={"sd(noise)": 0.5}).hyperparameters["estimate"]
    assert held["sd(noise)"] == 0.5
    assert held["sd(x | noise)"] != 0.5


@pytest.mark.parametrize("name", ["a scale", "a scale and the correlation"])
def test_a_fit_with_held_values_can_be_saved(name, tmp_path):
    frame = {"y": Y, "x": X, "g": G}
    fitted = marglik.fit("y ~ x + (x | g)", frame, fixed=PARTLY[name])
    fitted.save(tmp_path / "fit.marglik")
    loaded = marglik.load(tmp_path / "fit.marglik")
    columns = ["estimate", "se", "lower", "upper"]
    np.testing.assert_array_equal(loaded.hyperparameters[columns], fitted.hyperparameters[columns])
    assert loaded.log_evidence == fitted.log_evidence
    np.testing.assert_array_equal(loaded.predict(frame), fitted.predict(frame))
