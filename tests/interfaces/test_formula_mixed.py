# SPDX-License-Identifier: BSD-3-Clause
"""Grouping terms as lme4 reads them: columns, levels, names and new rows, against matrices built by hand."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.interfaces.formula import build, restored
from marglik.interfaces.grammar import BadFormula
from marglik.likelihoods import Gaussian, Poisson

N = 60
rng = np.random.default_rng(21)
DATA = pd.DataFrame(
    {
        "y": rng.standard_normal(N),
        "x": rng.uniform(0.5, 3, N),
        "z": rng.standard_normal(N),
        "g": np.array(list("bcadfe"))[np.arange(N) % 6],
        "h": np.array(["v", "u"])[rng.integers(0, 2, N)],
        "dose": pd.Categorical(
            np.array(["low", "mid", "high"])[rng.integers(0, 3, N)], ["low", "mid", "high", "lethal"]
        ),
        "a": np.arange(N) // 20 + 7,
        "b": np.array(["s", "r"])[np.arange(N) // 10 % 2],
        "c": np.arange(N) % 3 == 1,
        "the site": np.arange(N) % 5,
        "noise": rng.standard_normal(N),
        "count": rng.poisson(2.0, N),
    }
)
ONE = np.ones(N)
X, Z = DATA["x"].to_numpy(), DATA["z"].to_numpy()
V, MID, HIGH = (np.array(DATA[k] == v, float) for k, v in (("h", "v"), ("dose", "mid"), ("dose", "high")))
LOW = 1 - MID - HIGH

EFFECTS = {
    "1": {"Intercept": ONE},
    "x": {"Intercept": ONE, "x": X},
    "1 + x": {"Intercept": ONE, "x": X},
    "0 + x": {"x": X},
    "x - 1": {"x": X},
    "x + z": {"Intercept": ONE, "x": X, "z": Z},
    "x*z": {"Intercept": ONE, "x": X, "z": Z, "x:z": X * Z},
    "0 + x:z": {"x:z": X * Z},
    "log(x)": {"Intercept": ONE, "log(x)": np.log(X)},
    "I(x**2)": {"Intercept": ONE, "I(x ** 2)": X**2},
    "dose": {"Intercept": ONE, "dose[mid]": MID, "dose[high]": HIGH},
    "0 + dose": {"dose[low]": LOW, "dose[mid]": MID, "dose[high]": HIGH},
    "C(c)": {"Intercept": ONE, "C(c)[True]": DATA["c"].to_numpy(float)},
    "h:x": {"Intercept": ONE, "h[u]:x": (1 - V) * X, "h[v]:x": V * X},
    "h*x": {"Intercept": ONE, "h[v]": V, "x": X, "h[v]:x": V * X},
}


@pytest.mark.parametrize("effects", EFFECTS)
def test_effects_are_the_columns_built_by_hand(effects):
    model, source, _ = build(f"y ~ z + ({effects} | g)", DATA, Gaussian())
    term = model.prior[1]
    expected = np.column_stack(list(EFFECTS[effects].values()))
    assert term.names == tuple(EFFECTS[effects])
    np.testing.assert_allclose(term.design, expected, rtol=1e-14)
    assert term.group == "g"
    assert list(term.levels) == list("abcdef")
    assert [term.levels[i] for i in term.codes] == DATA["g"].tolist()
    some = np.array([5, 40, 5])
    new = source.new_rows(DATA.iloc[some].drop(columns="y"), {term.label}, "raise")
    np.testing.assert_allclose(new.columns[term.label], expected[some], rtol=1e-14)
    np.testing.assert_array_equal(new.codes[term.label], term.codes[some])


NAMES = {
    "(1 | g)": ["sd(Intercept | g)"],
    "(x | g)": ["sd(Intercept | g)", "sd(x | g)", "cor(Intercept, x | g)"],
    "(x || g)": ["sd(Intercept | g)", "sd(x | g)"],
    "(0 + x + z | g)": ["sd(x | g)", "sd(z | g)", "cor(x, z | g)"],
    "(1 | g) + (0 + x | g)": ["sd(Intercept | g)", "sd(x | g)"],
    "(x + log(x) | g)": [
        *("sd(Intercept | g)", "sd(x | g)", "sd(log(x) | g)"),
        *("cor(Intercept, x | g)", "cor(Intercept, log(x) | g)", "cor(x, log(x) | g)"),
    ],
    "(dose | g)": [
        *("sd(Intercept | g)", "sd(dose[mid] | g)", "sd(dose[high] | g)"),
        *("cor(Intercept, dose[mid] | g)", "cor(Intercept, dose[high] | g)", "cor(dose[mid], dose[high] | g)"),
    ],
    "(1 | a/b)": ["sd(Intercept | a)", "sd(Intercept | a:b)"],
    "(1 | `the site`)": ["sd(Intercept | the site)"],
    "(1 | noise)": ["sd(Intercept | noise)"],
}


@pytest.mark.parametrize("terms", NAMES)
def test_names_of_hyperparameters(terms):
    model, _, _ = build(f"y ~ 1 + {terms}", DATA, Gaussian())
    assert [name for term in model.prior[1:] for name in term.reported_names] == NAMES[terms]


def test_effects_are_correlated_unless_there_are_two_bars():
    model, _, _ = build("y ~ 1 + (x | g) + (x + z || a)", DATA, Gaussian())
    assert [(t.label, t.correlated) for t in model.prior[1:]] == [("(1 + x | g)", True), ("(1 + x + z || a)", False)]


FACTORS = {
    "(1 | a:b)": {"a:b": ["7:r", "7:s", "8:r", "8:s", "9:r", "9:s"]},
    "(1 | b:a)": {"b:a": ["r:7", "r:8", "r:9", "s:7", "s:8", "s:9"]},
    "(1 | a/b)": {"a": [7, 8, 9], "a:b": ["7:r", "7:s", "8:r", "8:s", "9:r", "9:s"]},
    "(1 | a:h)": {"a:h": ["7:u", "7:v", "8:u", "8:v", "9:u", "9:v"]},
    "(1 | dose)": {"dose": ["low", "mid", "high"]},
    "(1 | dose:b)": {"dose:b": ["low:r", "low:s", "mid:r", "mid:s", "high:r", "high:s"]},
    "(1 | a) + (1 | g)": {"a": [7, 8, 9], "g": list("abcdef")},
    "(1 | c)": {"c": [False, True]},
}


@pytest.mark.parametrize("terms", FACTORS)
def test_levels_nested_and_crossed(terms):
    model, source, _ = build(f"y ~ 1 + {terms}", DATA, Gaussian())
    assert {t.group: list(t.levels) for t in model.prior[1:]} == FACTORS[terms]
    for term in model.prior[1:]:
        values = DATA[term.group.split(":")].astype(str)
        assert [str(term.levels[i]) for i in term.codes] == values.agg(":".join, axis=1).tolist()
        new = source.new_rows(DATA[::-7], {term.label}, "raise")
        np.testing.assert_array_equal(new.codes[term.label], term.codes[::-7])


def test_three_nested_factors_with_slopes():
    model, source, _ = build("y ~ x + (x | a/b/c)", DATA, Gaussian())
    labels = ["(1 + x | a)", "(1 + x | a:b)", "(1 + x | a:b:c)"]
    assert [t.label for t in model.prior[1:]] == labels
    assert [len(t.levels) for t in model.prior[1:]] == [3, 6, 12]
    assert list(model.prior[3].levels)[:3] == ["7:r:False", "7:r:True", "7:s:False"]
    rows = source.new_rows(DATA[3:9], {"fixed effects", *labels}, "raise")
    for term in model.prior:
        np.testing.assert_array_equal(rows.columns[term.label], term.design[3:9])


def test_combinations_that_do_not_occur_are_no_levels():
    some = DATA[(DATA["a"] != 8) | (DATA["b"] != "r")]
    model, _, _ = build("y ~ (1 | a:b)", some, Gaussian())
    assert list(model.prior[1].levels) == ["7:r", "7:s", "8:s", "9:r", "9:s"]


def test_terms_on_one_factor_share_its_levels():
    model, _, _ = build("y ~ (1 | a) + (0 + x | a) + (1 | a:b)", DATA, Gaussian())
    first, second, _ = model.prior[1:]
    assert first.codes is second.codes


def test_a_variable_may_be_number_and_group():
    model, _, _ = build("y ~ a + (a | g) + (1 | a)", DATA, Gaussian())
    flat, slopes, group = model.prior
    np.testing.assert_array_equal(flat.columns[:, 1], DATA["a"])
    np.testing.assert_array_equal(slopes.design[:, 1], DATA["a"])
    assert list(group.levels) == [7, 8, 9]


def test_rows_with_missing_values_in_any_term_are_dropped():
    holes = DATA.astype({"a": float})
    for row, column in ((1, "a"), (4, "b"), (6, "x"), (8, "z"), (9, "g"), (11, "dose")):
        holes.loc[row, column] = np.nan
    holes.loc[20, "count"] = np.nan  # not in the formula
    formula = "y ~ (log(x) | a/b) + (0 + I(z**2) | g) + (dose | g) + ridge(z)"
    with pytest.raises(ValueError, match=r"^Column '.' has no value \(NaN\) in row \d+ \(rows count from 0\)\. Use"):
        build(formula, holes, Gaussian())
    model, source, notes = build(formula, holes, Gaussian(), missing="drop", weights=np.arange(1.0, N + 1))
    kept = DATA.drop(index=[1, 4, 6, 8, 9, 11]).reset_index(drop=True)
    again, _, _ = build(formula, kept, Gaussian())
    assert notes == ("6 of 60 rows dropped: missing values",)
    np.testing.assert_array_equal(
        model.rows.weights, kept.index.map(dict(enumerate(np.delete(np.arange(1.0, N + 1), [1, 4, 6, 8, 9, 11]))))
    )
    assert [list(t.levels) for t in model.prior[3:]] == [list(t.levels) for t in again.prior[3:]]
    for one, other in zip(model.prior, again.prior, strict=True):
        np.testing.assert_array_equal(one.columns, other.columns)
    assert list(source.data) == ["y", "z", "x", "dose", "a", "b", "g", "(weights)"]


def test_levels_that_were_not_in_the_fit_are_those_of_the_population():
    _, source, _ = build("y ~ x + (x | a/b)", DATA, Gaussian())
    new = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "a": [7, 8, 10, 9], "b": ["r", "t", "r", "u"]})
    rows = source.new_rows(new, {"(1 + x | a)", "(1 + x | a:b)"}, "population")
    assert rows.codes["(1 + x | a)"].tolist() == [0, 1, -1, 2]
    assert rows.codes["(1 + x | a:b)"].tolist() == [0, -1, -1, -1]
    np.testing.assert_array_equal(rows.columns["(1 + x | a:b)"], np.column_stack([np.ones(4), new["x"]]))
    with pytest.raises(ValueError) as refused:
        source.new_rows(new[:3], {"(1 + x | a:b)"}, "raise")
    assert str(refused.value) == (
        "'a:b' has levels that were not in the fit: 8:t, 10:r. Use new_levels='population' to predict them with an "
        "effect of zero."
    )


def test_new_rows_need_only_the_columns_of_the_terms_asked_for():
    _, source, _ = build("y ~ offset(z) + (dose | g) + (1 | a/b) + ard(x)", DATA, Gaussian())
    new = {"g": ["c", "a"], "dose": ["high", "low"]}
    rows = source.new_rows(new, {"(1 + dose | g)"}, "raise")
    np.testing.assert_array_equal(rows.columns["(1 + dose | g)"], [[1, 0, 1], [1, 0, 0]])
    assert rows.codes["(1 + dose | g)"].tolist() == [2, 0]
    assert list(rows.columns) == ["(1 + dose | g)"]
    assert rows.offset == 0
    with pytest.raises(BadFormula, match=r"^The formula uses 'b', but the new data have no such column\."):
        source.new_rows({**new, "a": [7, 7]}, {"(1 | a:b)"}, "raise")


def test_a_categorical_slope_keeps_the_coding_of_the_fit():
    _, source, _ = build("y ~ (dose | g)", DATA, Gaussian())
    rows = source.new_rows({"dose": ["high"], "g": ["a"]}, {"(1 + dose | g)"}, "raise")
    np.testing.assert_array_equal(rows.columns["(1 + dose | g)"], [[1, 0, 1]])
    with pytest.raises(ValueError) as refused:
        source.new_rows({"dose": ["lethal"], "g": ["a"]}, {"(1 + dose | g)"}, "raise")
    assert str(refused.value).startswith(
        "Each level of 'dose' has an effect of its own, and 'lethal' was not in the fit"
    )


def test_one_scale_a_column():
    model, source, _ = build("y ~ ard(x, log(x), h) + ridge(z) + ridge(noise, a)", DATA, Gaussian())
    _, ard, *ridges = model.prior
    assert (ard.label, ard.names) == ("ard(x, log(x), h)", ("x", "log(x)", "h[u]", "h[v]"))
    assert [h.name for h in ard.hyperparameters()] == ["sd(x)", "sd(log(x))", "sd(h[u])", "sd(h[v])"]
    assert ard.factor(np.arange(4.0)).tolist() == [0, 1, 2, 3]
    assert [[h.name for h in r.hyperparameters()] for r in ridges] == [["sd(ridge(z))"], ["sd(ridge(noise, a))"]]
    expected = np.column_stack([X, np.log(X), 1 - V, V])
    np.testing.assert_allclose(ard.columns, expected, rtol=1e-14)
    rows = source.new_rows(DATA[5:9], {ard.label, "ridge(noise, a)"}, "raise")
    np.testing.assert_allclose(rows.columns[ard.label], expected[5:9], rtol=1e-14)
    np.testing.assert_array_equal(rows.columns["ridge(noise, a)"], DATA[["noise", "a"]][5:9])


def test_a_recipe_gives_the_model_back():
    formula = "log(x) ~ z*h + (dose | g) + (z || `the site`) + (0 + z | a/b) + (1 | c:g) + ard(y, count)"
    model, source, _ = build(formula, DATA, Gaussian(), weights="x")
    settings, arrays = source.recipe()
    again, _, _ = build(formula, restored(settings, arrays.__getitem__), Gaussian(), weights=settings["weights"])
    for one, other in zip(model.prior, again.prior, strict=True):
        assert (one.label, one.names) == (other.label, other.names)
        np.testing.assert_array_equal(one.columns, other.columns)
        if one.grouped:
            assert list(one.levels) == list(other.levels)
            np.testing.assert_array_equal(one.codes, other.codes)


COLUMNS = "The columns are y, x, z, g, h, dose, a, b, c, the site, noise, count."
TOGETHER = (
    "{!r} asks for independent effects, but {!r} is categorical or has several columns ({}), which hang together. "
    "Write '(0 + {} | g)' for correlated effects{}."
)
ALIKE = ", or '(1 | g) + (1 | g:{})' for ones alike"
NEGATIVE = "{}, {}, {}, {}, {} and {} more".format(*np.flatnonzero(Z < 0)[:5], (Z < 0).sum() - 5)
BELOW = Z[Z < 0][0]
BAD = {
    "y ~ (x || gg)": f"The formula uses 'gg', but the data have no such column. Did you mean 'g'? {COLUMNS}",
    "y ~ (1 | a/bb)": f"The formula uses 'bb', but the data have no such column. Did you mean 'b'? {COLUMNS}",
    "y ~ (xx | g)": f"The formula uses 'xx', but the data have no such column. Did you mean 'x'? {COLUMNS}",
    "y ~ ard(xx)": f"The formula uses 'xx', but the data have no such column. Did you mean 'x'? {COLUMNS}",
    "y ~ (dose || g)": TOGETHER.format(
        "(1 + dose || g)", "dose", "dose[mid], dose[high]", "dose", ALIKE.format("dose")
    ),
    "y ~ (0 + h || g)": TOGETHER.format("(0 + h || g)", "h", "h[u], h[v]", "h", ALIKE.format("h")),
    "y ~ (x + x:h || g)": TOGETHER.format("(1 + x + x:h || g)", "x:h", "x:h[v]", "x:h", ""),
    "y ~ (log(h) | g)": "'(1 + log(h) | g)' could not be evaluated: 'h' holds text, 'v' in row 0 (rows count from 0), "
    "not numbers.",
    "y ~ (lag(x) | g)": "'(1 + lag(x) | g)' uses 'lag', which is neither a column nor a known function. Functions are "
    "log, log2, log10, log1p, exp, expm1, sqrt, abs, sin, cos, tan, tanh, C, I, scale, center, poly, bs, offset.",
    "y ~ (1 | g) + (x | g)": "(1 | g) and (1 + x | g) both have a hyperparameter called 'sd(Intercept | g)'. Drop one "
    "of them; beside (1 | g), other effects are written (0 + … | g).",
    "y ~ (x | g) + (0 + x | g)": "(1 + x | g) and (0 + x | g) both have a hyperparameter called 'sd(x | g)'. Rename or "
    "drop one of them.",
    "y ~ ard(x, noise)": "ard(x, noise) and the Gaussian likelihood both have a hyperparameter called 'sd(noise)'. "
    "Rename or drop one of them.",
    "y ~ ard(x, z) + ard(z, a)": "ard(x, z) and ard(z, a) both have a hyperparameter called 'sd(z)'. Rename or drop "
    "one of them.",
    "y ~ (y | g)": "'y' is the response, so it cannot be in a term too: '1 + y'.",
    "y ~ ridge(x, log(y + 9))": "'y' is the response, so it cannot be in a term too: 'log(y + 9)'.",
    "y ~ (0 + x + I(0 * x) | g)": "'I(0 * x)' in (0 + x + I(0 * x) | g) is zero in every row, so its scale cannot be "
    "learned. Drop it.",
    "y ~ ard(x, I(0 * x))": "'I(0 * x)' in ard(x, I(0 * x)) is zero in every row, so its scale cannot be learned. Drop "
    "it.",
    "y ~ ridge(I(0 * x), I(0 * z))": "'I(0 * x)' in ridge(I(0 * x), I(0 * z)) is zero in every row, so its scale "
    "cannot be learned. Drop it.",
    "log(z) ~ (1 | g)": f"response 'log(z)' contains NaN in row {NEGATIVE} (rows count from 0). The function has no "
    "value there: leave these rows out.",
    "y ~ (log(z) | g)": f"'log(z)' is NaN in row {NEGATIVE} (rows count from 0), where z = {BELOW:g} in the first of "
    "them. The data have a value there, which missing='drop' does not leave out: leave such rows out, or take a "
    "function that is finite everywhere.",
    "y ~ ard(x*z, z)": "ard(x*z, z) has two hyperparameters called 'sd(z)'. Rename or drop one of them.",
}


@pytest.mark.parametrize("formula", BAD)
def test_bad_formulas_are_refused_in_one_sentence(formula, capsys):
    with pytest.raises(ValueError) as refused:
        build(formula, DATA, Gaussian())
    assert str(refused.value) == BAD[formula]
    assert capsys.readouterr() == ("", "")


def test_a_column_called_noise_is_no_clash_where_there_is_no_noise():
    model, _, _ = build("count ~ ard(x, noise)", DATA, Poisson())
    assert model.hyperparameters.names == ("sd(x)", "sd(noise)")


NESTED = DATA.assign(
    level=DATA["a"] * 1.5,
    only=1,
    row=np.arange(N),
    pair=np.arange(N) // 2,
    triple=np.arange(N) // 3,
    twin=DATA["g"].map(str.upper),
    two=np.arange(N) % 2,
    kind=np.array(["p", "q"])[DATA["a"] % 2],
)
UNKNOWN = (
    "{} cannot be learned: {}, so cor({} | {}) is unknown. Leave {!r} out, or make the effects independent: || in "
)
UNLEARNABLE = {
    "y ~ (1 | only)": "Grouping factor 'only' has one level only, 1, so how its levels differ cannot be learned. Leave "
    "out (1 | only), or hold its scale: fixed={'sd(Intercept | only)': 1.0}.",
    "y ~ (x | only)": "Grouping factor 'only' has one level only, 1, so how its levels differ cannot be learned. Leave "
    "out (1 + x | only), or hold all of it: fixed={'sd(Intercept | only)': 1.0, 'sd(x | only)': 1.0, "
    "'cor(Intercept, x | only)': 0.0}.",
    "y ~ (1 | g) + (1 | row)": "Grouping factor 'row' has as many levels as there are rows, 60, so sd(Intercept | row) "
    "and sd(noise) cannot be told apart. Leave out (1 | row), or hold one of them: fixed={'sd(noise)': 1.0}.",
    "y ~ (x || row)": "Grouping factor 'row' has as many levels as there are rows, 60, so sd(Intercept | row) and "
    "sd(noise) cannot be told apart. Leave out (1 + x || row), or hold one of them: fixed={'sd(noise)': 1.0}.",
    "y ~ (x | pair)": "(1 + x | pair) has 60 random effects, 2 for each of 30 levels, but there are only 60 rows, so "
    "their covariance and sd(noise) cannot be told apart. Leave some out, or hold the noise: fixed={'sd(noise)': 1.0}.",
    "y ~ (x + z | two)": "(1 + x + z | two) has 3 correlated effects (Intercept, x, z), but 'two' has only 2 levels, "
    "so their covariance cannot be learned. Leave some out, or make them independent: || in place of |.",
    "y ~ (level | a)": UNKNOWN.format(
        "(1 + level | a)", "'level' is constant within every level of 'a'", "Intercept, level", "a", "level"
    )
    + "place of |.",
    "y ~ (x + level | a/b)": UNKNOWN.format(
        "(1 + x + level | a)", "'level' is constant within every level of 'a'", "Intercept, level", "a", "level"
    )
    + "place of |.",
    "y ~ (kind | a)": "(1 + kind | a) cannot be learned: 'kind[q]' is constant within every level of 'a', so "
    "cor(Intercept, kind[q] | a) is unknown. Leave 'kind' out: (1 | a).",
    "y ~ (0 + kind | a)": "(0 + kind | a) cannot be learned: no level of 'a' tells 'kind[p]' and 'kind[q]' apart, so "
    "cor(kind[p], kind[q] | a) is unknown. Leave 'kind' out: (1 | a).",
    "y ~ (x + kind | a)": "(1 + x + kind | a) cannot be learned: 'kind[q]' is constant within every level of 'a', so "
    "cor(Intercept, kind[q] | a) is unknown. Leave 'kind' out: (1 + x | a).",
    "y ~ (1 | g) + (0 + b | g)": "(1 | g) and (0 + b | g) cannot be told apart: 'Intercept' is a combination of "
    "'b[r]', 'b[s]', so that the covariance of (0 + b | g) takes up sd(Intercept | g). Leave out (1 | g).",
    "y ~ (0 + b | g) + (1 | g)": "(1 | g) and (0 + b | g) cannot be told apart: 'Intercept' is a combination of "
    "'b[r]', 'b[s]', so that the covariance of (0 + b | g) takes up sd(Intercept | g). Leave out (1 | g).",
    "y ~ (x || g) + (0 + I(2*x) | g)": "(1 + x || g) and (0 + I(2*x) | g) cannot be told apart: 'x' is a multiple of "
    "'I(2 * x)', so that the covariance of (0 + I(2*x) | g) takes up sd(x | g). Leave out (1 + x || g).",
    "y ~ (1 | g) + (1 | twin)": "'g' and 'twin' put the rows into the same groups, so sd(Intercept | g) and "
    "sd(Intercept | twin) cannot be told apart. Leave out (1 | twin).",
    "y ~ (1 | a/kind)": "'a' and 'a:kind' put the rows into the same groups, so sd(Intercept | a) and sd(Intercept | "
    "a:kind) cannot be told apart. Leave out (1 | a:kind).",
    "y ~ g + (1 | g)": "The fixed effects hold 'Intercept' for every level of 'g', so nothing is left to learn "
    "sd(Intercept | g) from. Leave out (1 | g), or these fixed effects.",
    "y ~ x*g + (x | g)": "The fixed effects hold 'Intercept' for every level of 'g', so nothing is left to learn "
    "sd(Intercept | g) from. Leave out (1 + x | g), or these fixed effects.",
    "y ~ x:g + (0 + x | g)": "The fixed effects hold 'x' for every level of 'g', so nothing is left to learn sd(x | g) "
    "from. Leave out (0 + x | g), or these fixed effects.",
    "y ~ b*C(a) + (1 | a)": "The fixed effects hold 'Intercept' for every level of 'a', so nothing is left to learn "
    "sd(Intercept | a) from. Leave out (1 | a), or these fixed effects.",
    "y ~ (x | a:b) + (1 | b:a)": "'a:b' and 'b:a' put the rows into the same groups, so sd(Intercept | a:b) and "
    "sd(Intercept | b:a) cannot be told apart. Leave out (1 | b:a).",
}


@pytest.mark.parametrize("formula", UNLEARNABLE)
def test_what_the_data_cannot_tell_is_refused_in_one_sentence(formula):
    with pytest.raises(ValueError) as refused:
        marglik.fit(formula, NESTED)
    assert str(refused.value) == UNLEARNABLE[formula]


SAME_MODELS = {
    "(x || g)": "(1 | g) + (0 + x | g)",
    "(1 | a/b)": "(1 | a) + (1 | a:b)",
    "(x | g)": "(1 + x | g)",
    "(1 | a:g)": "(1 | cell)",
    "(1 | b/g) + ridge(z)": "ridge(z) + (1 | b:g) + (1 | b)",
}


@pytest.mark.parametrize("formula", SAME_MODELS)
def test_two_ways_of_writing_one_model(formula):
    signal = {"g": 1.5, "a": 0.7, "b": 0.9}
    effects = sum(s * DATA[c].map({v: rng.standard_normal() for v in DATA[c].unique()}) for c, s in signal.items())
    slopes = DATA["g"].map(dict(zip("abcdef", [1.3, -1, 0.4, -2, 0.9, 0.1], strict=True)))
    data = DATA.assign(y=effects + slopes * DATA["x"] + DATA["y"] / 2, cell=DATA["a"].astype(str) + DATA["g"])
    one, other = (marglik.fit(f"y ~ x + {terms}", data) for terms in (formula, SAME_MODELS[formula]))
    assert one.log_evidence == pytest.approx(other.log_evidence, abs=1e-8)
    np.testing.assert_allclose(one.fixed_effects, other.fixed_effects, rtol=1e-5)
    np.testing.assert_allclose(one.predict(data[::5]), other.predict(data[::5]), rtol=1e-5)


def test_random_effects_are_named_by_level_and_column():
    held = {"sd(Intercept | a)": 0.5, "sd(x | a)": 0.4, "sd(Intercept | a:b)": 0.3, "sd(z | a:b)": 0.6}
    fit = marglik.fit("y ~ (1 | a) + (0 + x | a) + (z | a:b)", DATA, fixed={**held, "cor(Intercept, z | a:b)": -0.5})
    by_a, by_both = fit.random_effects("a"), fit.random_effects("a:b")
    assert (by_a.index.tolist(), by_a.index.name, by_a.columns.tolist()) == ([7, 8, 9], "a", ["Intercept", "x"])
    assert by_a.attrs["sd"].columns.tolist() == ["Intercept", "x"]
    assert by_both.index.tolist() == ["7:r", "7:s", "8:r", "8:s", "9:r", "9:s"]
    beta = fit.fixed_effects.loc["Intercept", "estimate"]
    new = pd.DataFrame({"a": [8, 8, 1], "b": ["r", "new", "r"], "x": [1.5, 1.5, 1.5], "z": [-1.0, -1.0, -1.0]})
    of_a = by_a.loc[8, "Intercept"] + 1.5 * by_a.loc[8, "x"]
    of_both = by_both.loc["8:r", "Intercept"] - by_both.loc["8:r", "z"]
    np.testing.assert_allclose(fit.predict(new), [beta + of_a + of_both, beta + of_a, beta], rtol=1e-12)
    np.testing.assert_allclose(fit.predict(new[:1], include=["(1 + z | a:b)"]), of_both, rtol=1e-12)


@pytest.mark.parametrize("terms", ["g + (0 + x | g)", "x + (1 | g)", "C(a) + (1 | a:b)", "z + ridge(I(0 * x), x)"])
def test_what_only_looks_unlearnable_is_learned(terms):
    assert marglik.fit(f"y ~ {terms}", DATA).hyperparameters["estimate"].notna().all()


def test_given_scales_need_no_learning():
    given = {"sd(Intercept | a)": 1.0, "sd(level | a)": 0.5, "cor(Intercept, level | a)": 0.3}
    fit = marglik.fit("y ~ (level | a)", NESTED, fixed=given)
    assert fit.hyperparameters.loc["cor(Intercept, level | a)", "estimate"] == pytest.approx(0.3)
    one_level = {"sd(Intercept | only)": 1.0, "sd(x | only)": 1.0, "cor(Intercept, x | only)": 0.0}
    assert marglik.fit("y ~ (x | only)", NESTED, fixed=one_level).converged


def test_an_intercept_beside_the_effects_of_levels_changes_the_covariance_alone():
    """N(0, Σ + s² 11ᵀ) is what N(0, Σ) is with another Σ: the evidence of the two is one."""
    one = {"sd(b[r] | g)": 0.6, "sd(b[s] | g)": 0.8, "cor(b[r], b[s] | g)": 0.2}
    S, s2 = np.array([[0.36, 0.096], [0.096, 0.64]]), 0.25
    both = marglik.fit("y ~ x + (0 + b | g) + (1 | g)", DATA, fixed={**one, "sd(Intercept | g)": 0.5, "sd(noise)": 1.0})
    sd = np.sqrt(np.diag(S + s2))
    other = dict(zip(one, [*sd, (S + s2)[0, 1] / sd.prod()], strict=True))
    absorbed = marglik.fit("y ~ x + (0 + b | g)", DATA, fixed={**other, "sd(noise)": 1.0})
    assert both.log_evidence == pytest.approx(absorbed.log_evidence, abs=1e-9)


BAD_WEIGHTS = {
    "negative": (np.where(np.arange(N) == 3, -1.0, 1.0), "row 3 has -1"),
    "all zero": (np.zeros(N), "row 0, 1, 2, 3, 4 and 55 more has 0"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
@pytest.mark.parametrize("by_name", [True, False])
def test_weights_must_be_positive(name, by_name):
    weights, words = BAD_WEIGHTS[name]
    with pytest.raises(ValueError) as refused:
        build("y ~ (1 | g)", DATA.assign(w=weights), Gaussian(), weights="w" if by_name else weights)
    assert str(refused.value) == (
        f"weights must be positive, but {words}. They are precision weights, var(ε_i) = σ²/w_i, for a "
        "Gaussian, and multiply log densities for other families; drop the rows that "
        "should not count."
    )
