# SPDX-License-Identifier: BSD-3-Clause
"""Formulas against matrices built by hand, and fits against the density of y written out in full."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import marglik
from marglik.interfaces.formula import build, restored
from marglik.interfaces.grammar import BadFormula
from marglik.likelihoods import Gaussian

N = 30
rng = np.random.default_rng(11)
DATA = pd.DataFrame(
    {
        "y": rng.standard_normal(N),
        "x": rng.uniform(0.5, 3, N),
        "z": rng.standard_normal(N),
        "k": rng.integers(1, 4, N),
        "g": np.array(["b", "c", "a"])[np.arange(N) % 3],
        "h": np.array(["v", "u"])[rng.integers(0, 2, N)],
        "on": rng.random(N) > 0.5,
        "dose": pd.Categorical(
            np.array(["low", "mid", "high"])[rng.integers(0, 3, N)], ["low", "mid", "high", "lethal"]
        ),
        "my x": rng.standard_normal(N),
        "größe": rng.standard_normal(N),
        "x.1": rng.standard_normal(N),
        "w": rng.uniform(0.2, 2, N),
    }
)
ONE = np.ones(N)
Y, X, Z, K, ON = (DATA[c].to_numpy(float) for c in ("y", "x", "z", "k", "on"))


def is_(column, value):
    return (DATA[column] == value).to_numpy(float)


G = {level: is_("g", level) for level in "abc"}
V = is_("h", "v")
FIXED = {
    "1": {"Intercept": ONE},
    "x": {"Intercept": ONE, "x": X},
    "x + z": {"Intercept": ONE, "x": X, "z": Z},
    "x - 1": {"x": X},
    "x + -1": {"x": X},
    "0 + x": {"x": X},
    "x + 0": {"x": X},
    "on": {"Intercept": ONE, "on": ON},
    "g": {"Intercept": ONE, "g[b]": G["b"], "g[c]": G["c"]},
    "0 + g": {"g[a]": G["a"], "g[b]": G["b"], "g[c]": G["c"]},
    "g - 1": {"g[a]": G["a"], "g[b]": G["b"], "g[c]": G["c"]},
    "dose": {"Intercept": ONE, "dose[mid]": is_("dose", "mid"), "dose[high]": is_("dose", "high")},
    "C(k)": {"Intercept": ONE, "C(k)[2]": K == 2, "C(k)[3]": K == 3},
    "C(on)": {"Intercept": ONE, "C(on)[True]": ON},
    "T(g, ref='b')": {"Intercept": ONE, "T(g, ref='b')[a]": G["a"], "T(g, ref='b')[c]": G["c"]},
    "C(g, Sum)": {"Intercept": ONE, "C(g, Sum)[a]": G["a"] - G["c"], "C(g, Sum)[b]": G["b"] - G["c"]},
    "x:z": {"Intercept": ONE, "x:z": X * Z},
    "x*z": {"Intercept": ONE, "x": X, "z": Z, "x:z": X * Z},
    "x*h": {"Intercept": ONE, "x": X, "h[v]": V, "x:h[v]": X * V},
    "h*x": {"Intercept": ONE, "h[v]": V, "x": X, "h[v]:x": V * X},
    "x:h": {"Intercept": ONE, "x:h[u]": X * (1 - V), "x:h[v]": X * V},
    "g*h": {
        "Intercept": ONE,
        "g[b]": G["b"],
        "g[c]": G["c"],
        "h[v]": V,
        "g[b]:h[v]": G["b"] * V,
        "g[c]:h[v]": G["c"] * V,
    },
    "(x + z)**2": {"Intercept": ONE, "x": X, "z": Z, "x:z": X * Z},
    "(x + z)^2": {"Intercept": ONE, "x": X, "z": Z, "x:z": X * Z},
    "x*z - x": {"Intercept": ONE, "z": Z, "x:z": X * Z},
    "I(x**2)": {"Intercept": ONE, "I(x ** 2)": X**2},
    "I(x + 2*z)": {"Intercept": ONE, "I(x + 2 * z)": X + 2 * Z},
    "{x - z}": {"Intercept": ONE, "I(x - z)": X - Z},
    "I(x > 1)": {"Intercept": ONE, "I(x > 1)": X > 1},
    "log(x)": {"Intercept": ONE, "log(x)": np.log(X)},
    "np.log(x)": {"Intercept": ONE, "np.log(x)": np.log(X)},
    "exp(-x)": {"Intercept": ONE, "exp(-x)": np.exp(-X)},
    "sqrt(x):h": {"Intercept": ONE, "sqrt(x):h[u]": np.sqrt(X) * (1 - V), "sqrt(x):h[v]": np.sqrt(X) * V},
    "center(x)": {"Intercept": ONE, "center(x)": X - X.mean()},
    "scale(x)": {"Intercept": ONE, "scale(x)": (X - X.mean()) / X.std()},
    "`my x`": {"Intercept": ONE, "my x": DATA["my x"]},
    "`my x`:x": {"Intercept": ONE, "my x:x": DATA["my x"] * X},
    "größe": {"Intercept": ONE, "größe": DATA["größe"]},
    "x.1": {"Intercept": ONE, "x.1": DATA["x.1"]},
    "x + x": {"Intercept": ONE, "x": X},
}


@pytest.mark.parametrize("formula", FIXED)
def test_fixed_effects_are_the_columns_built_by_hand(formula):
    model, _, notes = build(f"y ~ {formula}", DATA, Gaussian())
    (term,) = model.prior
    assert notes == ()
    assert (term.flat, term.label) == (True, "fixed effects")
    assert list(term.names) == list(FIXED[formula])
    np.testing.assert_allclose(term.columns, np.column_stack(list(FIXED[formula].values())), rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(model.rows.y, Y)


@pytest.mark.parametrize("formula", FIXED)
def test_new_rows_get_the_same_columns(formula):
    model, source, _ = build(f"y ~ {formula}", DATA, Gaussian())
    some = np.array([7, 3, 20])
    rows = source.new_rows(DATA.iloc[some].drop(columns="y"), {"fixed effects"}, "raise")
    np.testing.assert_allclose(rows.columns["fixed effects"], model.prior[0].columns[some], rtol=1e-14)


RESPONSES = {
    "y": Y,
    "log(x)": np.log(X),
    "I(x + z)": X + Z,
    "`my x`": DATA["my x"],
    "on": ON,
    "k": K,
    "scale(x)": (X - X.mean()) / X.std(),
}


@pytest.mark.parametrize("response", RESPONSES)
def test_responses(response):
    model, _, _ = build(f"{response} ~ 1", DATA, Gaussian())
    np.testing.assert_allclose(model.rows.y, RESPONSES[response], rtol=1e-14)


OFFSETS = {
    "offset(x)": X,
    "offset(log(x))": np.log(X),
    "offset(x) + offset(z)": X + Z,
    "offset(I(2*x))": 2 * X,
}


@pytest.mark.parametrize("term", OFFSETS)
def test_offsets_leave_the_design_and_enter_the_rows(term):
    model, source, _ = build(f"y ~ z + {term}", DATA, Gaussian())
    assert model.prior[0].names == ("Intercept", "z")
    np.testing.assert_allclose(model.rows.offset, OFFSETS[term], rtol=1e-14)
    rows = source.new_rows(DATA[:5], {"fixed effects"}, "raise")
    np.testing.assert_allclose(rows.offset, OFFSETS[term][:5], rtol=1e-14)
    assert source.new_rows(DATA[:5], set(), "raise").offset == 0


def test_offsets_are_added_to_predictions():
    plain = marglik.fit("I(y - log(x)) ~ z", DATA)
    fit = marglik.fit("y ~ z + offset(log(x))", DATA)
    assert fit.log_evidence == pytest.approx(plain.log_evidence, rel=1e-13)
    np.testing.assert_allclose(fit.predict(DATA[:4]), plain.predict(DATA[:4]) + np.log(X[:4]), rtol=1e-12)


GROUPS = {
    "g": ["a", "b", "c"],
    "k": [1, 2, 3],
    "on": [False, True],
    "dose": ["low", "mid", "high"],
    "h": ["u", "v"],
}


@pytest.mark.parametrize("group", GROUPS)
def test_a_grouping_factor_is_categorical_whatever_its_type(group):
    model, source, _ = build(f"y ~ x + (1 | {group})", DATA, Gaussian())
    term = model.prior[1]
    assert (term.label, term.group) == (f"(1 | {group})", group)
    assert list(term.levels) == GROUPS[group]
    assert [term.levels[i] for i in term.codes] == DATA[group].tolist()
    assert [h.name for h in term.hyperparameters()] == [f"sd(Intercept | {group})"]
    rows = source.new_rows(DATA[10:15], {term.label}, "raise")
    np.testing.assert_array_equal(rows.codes[term.label], term.codes[10:15])
    np.testing.assert_array_equal(rows.columns[term.label], np.ones((5, 1)))


def test_a_group_with_spaces_in_its_name():
    model, _, _ = build("y ~ (1 | `the site`)", DATA.assign(**{"the site": DATA["g"]}), Gaussian())
    assert [h.name for h in model.hyperparameters] == ["sd(Intercept | the site)", "sd(noise)"]


def test_a_group_of_numbers_finds_its_levels_in_a_file_of_text_and_the_other_way_round():
    _, numbers, _ = build("y ~ (1 | k)", DATA, Gaussian())
    _, texts, _ = build("y ~ (1 | k)", DATA.astype({"k": str}), Gaussian())
    for source in (numbers, texts):
        for kind in (int, float, str):
            if (source is texts) and kind is float:
                continue
            new = {"k": DATA["k"].astype(kind)}
            assert source.new_rows(new, {"(1 | k)"}, "raise").codes["(1 | k)"].tolist() == (K - 1).tolist()


def test_ridge_columns_share_one_scale():
    model, source, _ = build("y ~ z + ridge(x, log(x), h)", DATA, Gaussian())
    flat, ridge = model.prior
    assert flat.names == ("Intercept", "z")
    assert ridge.label == "ridge(x, log(x), h)"
    assert ridge.names == ("x", "log(x)", "h[u]", "h[v]")
    assert [h.name for h in ridge.hyperparameters()] == ["sd(ridge(x, log(x), h))"]
    expected = np.column_stack([X, np.log(X), 1 - V, V])
    np.testing.assert_allclose(ridge.columns, expected, rtol=1e-14)
    rows = source.new_rows(DATA[5:9], {ridge.label}, "raise")
    np.testing.assert_allclose(rows.columns[ridge.label], expected[5:9], rtol=1e-14)


def test_two_factors_in_one_ridge_have_all_their_levels():
    model, _, _ = build("y ~ ridge(g, h)", DATA, Gaussian())
    assert model.prior[1].names == ("g[a]", "g[b]", "g[c]", "h[u]", "h[v]")


def test_scale_remembers_the_data_of_the_fit():
    fit = marglik.fit("y ~ scale(x)", DATA)
    slope, intercept = np.polyfit((X - X.mean()) / X.std(), Y, 1)
    new = np.array([10.0, 20.0, 1e3])
    expected = intercept + slope * (new - X.mean()) / X.std()
    np.testing.assert_allclose(fit.predict({"x": new}), expected, rtol=1e-10)


def test_least_squares_where_nothing_is_shrunk():
    names = ["Intercept", "x", "h[v]", "x:h[v]"]
    A = np.column_stack([ONE, X, V, X * V])
    fit = marglik.fit("y ~ x*h", DATA)
    beta, rss, _, _ = np.linalg.lstsq(A, Y)
    assert fit.fixed_effects.index.tolist() == names
    np.testing.assert_allclose(fit.fixed_effects["estimate"], beta, rtol=1e-11)
    assert fit.hyperparameters.loc["sd(noise)", "estimate"] == pytest.approx(np.sqrt(rss[0] / (N - 4)), rel=1e-9)
    se = np.sqrt(rss[0] / (N - 4) * np.linalg.inv(A.T @ A).diagonal())
    np.testing.assert_allclose(fit.fixed_effects["se"], se, rtol=1e-8)


def restricted(y, A, C):
    """log ∫ N(y; Aβ, C) dβ, term by term."""
    P = np.linalg.inv(C)
    H = A.T @ P @ A
    r = y - A @ np.linalg.solve(H, A.T @ P @ y)
    logdets = np.linalg.slogdet(C)[1] + np.linalg.slogdet(H)[1]
    return -((len(y) - A.shape[1]) * np.log(2 * np.pi) + logdets + r @ P @ r) / 2


@pytest.mark.parametrize("reml", [True, False])
def test_the_evidence_is_that_of_the_density_written_out(reml):
    fit = marglik.fit("y ~ x + (1 | g)", DATA, reml=reml, fixed={"sd(Intercept | g)": 0.7, "sd(noise)": 0.9})
    Zg = np.column_stack(list(G.values()))
    C = 0.49 * Zg @ Zg.T + 0.81 * np.eye(N)
    A = np.column_stack([ONE, X])
    beta = np.linalg.solve(A.T @ np.linalg.solve(C, A), A.T @ np.linalg.solve(C, Y))
    expected = restricted(Y, A, C) if reml else multivariate_normal.logpdf(Y, A @ beta, C)
    assert fit.log_evidence == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", ["w", DATA["w"].to_numpy(), DATA["w"].tolist(), DATA["w"]])
def test_precision_weights_by_name_or_as_numbers(weights):
    fit = marglik.fit("y ~ x", DATA, weights=weights, fixed={"sd(noise)": 0.8})
    C = np.diag(0.64 / DATA["w"].to_numpy())
    assert fit.log_evidence == pytest.approx(restricted(Y, np.column_stack([ONE, X]), C), rel=1e-12)


def test_rows_with_missing_values_are_dropped_with_their_weights():
    holes = DATA.copy()
    holes.loc[3, "x"] = np.nan
    holes.loc[7, "g"] = None
    holes.loc[9, "größe"] = np.nan  # not in the formula
    kept = DATA.drop(index=[3, 7]).reset_index(drop=True)
    fit = marglik.fit("y ~ x + (1 | g)", holes, missing="drop", weights=DATA["w"].to_numpy())
    expected = marglik.fit("y ~ x + (1 | g)", kept, weights="w")
    assert fit.notes == ("2 of 30 rows dropped: missing values",)
    assert fit.log_evidence == expected.log_evidence
    np.testing.assert_array_equal(fit.predict(), expected.predict())


def test_new_levels_are_predicted_for_the_population():
    fit = marglik.fit("y ~ x + (1 | g)", DATA, fixed={"sd(Intercept | g)": 0.7})
    new = pd.DataFrame({"x": [1.0, 2.0], "g": ["a", "new"]})
    beta = fit.fixed_effects["estimate"]
    effect = fit.random_effects().loc["a", "Intercept"]
    expected = [beta["Intercept"] + beta["x"] + effect, beta["Intercept"] + 2 * beta["x"]]
    np.testing.assert_allclose(fit.predict(new), expected, rtol=1e-12)
    alone = fit.predict(new, include=["fixed effects"])
    np.testing.assert_allclose(alone[1], expected[1], rtol=1e-12)


def test_a_prediction_needs_only_the_columns_of_the_terms_that_it_includes():
    fit = marglik.fit("y ~ x + ridge(z) + (1 | g)", DATA)
    effects = fit.random_effects()["Intercept"]
    found = fit.predict({"g": ["c", "a"]}, include=["(1 | g)"])
    np.testing.assert_allclose(found, [effects["c"], effects["a"]], rtol=1e-12)


def test_a_recipe_gives_the_model_back():
    formula = "log(x) ~ scale(z)*h + dose + on + ridge(y, `my x`) + (1 | größe)"
    model, source, _ = build(formula, DATA, Gaussian(), weights=DATA["w"])
    settings, arrays = source.recipe()
    assert settings["formula"] == formula
    again, _, _ = build(formula, restored(settings, arrays.__getitem__), Gaussian(), weights=settings["weights"])
    for one, other in zip(model.prior, again.prior, strict=True):
        assert (one.label, one.names) == (other.label, other.names)
        np.testing.assert_array_equal(one.columns, other.columns)
    np.testing.assert_array_equal(again.rows.weights, DATA["w"])
    np.testing.assert_array_equal(again.rows.y, model.rows.y)


COLUMNS = "The columns are y, x, z, k, g, h, on, dose, my x, größe, x.1, w."
BAD = {
    "y x": "A formula has one ~ between response and terms, as in 'y ~ x + (1 | g)', but this is 'y x'.",
    "y ~ x ~ z": "A formula has one ~ between response and terms, as in 'y ~ x + (1 | g)', but this is 'y ~ x ~ z'.",
    "~ x": "The formula '~ x' has nothing on the left of its ~. Write 'y ~ 1' for an intercept alone.",
    "y ~": "The formula 'y ~' has nothing on the right of its ~. Write 'y ~ 1' for an intercept alone.",
    "y ~ 0": "'y ~ 0' has no terms, so there is nothing to learn. Write 'y ~ 1'.",
    "y ~ (x": "The parentheses in 'y ~ (x' do not match.",
    "y ~ x +": "In 'y ~ x +' a '+' or '-' has no term after it.",
    "y ~ ridge(x,, z)": "In 'y ~ ridge(x,, z)' a comma has no term after it.",
    "y ~ ridge()": "'ridge()' could not be understood. Write a term of its own, such as 'ridge(a, b, c)'.",
    "y ~ ridge(x):z": "'ridge(x):z' could not be understood. Write a term of its own, such as 'ridge(a, b, c)'.",
    "y ~ ridge(x) + ridge(x)": "'ridge(x)' is in the formula twice. Keep one.",
    "y ~ (1 | g) + (1 | g)": "'(1 | g)' is in the formula twice. Keep one.",
    "y ~ x - (1 | g)": "'(1 | g)' cannot be taken away with a minus; leave it out of the formula.",
    "y ~ x | g": "'x | g' has a | outside parentheses. A grouping factor is written '(1 | g)'.",
    "y ~ x z": "'x z' has two names without a sign between them. Join terms by +, * or :.",
    "y ~ x %in% g": "'x %in% g' has a %, which formulas do not know. Use * and : for interactions.",
    "y ~ .": "A lone '.' for all other columns is not available. Name the columns.",
    "y ~ 2*x": "'2*x' begins with a number, but terms are columns; 0 and 1 stand for the intercept. For arithmetic "
    "write I(2 * x).",
    "y ~ x*2": "'1 + x*2' could not be understood. Write arithmetic inside I(…), such as I(a + 2 * b).",
    "y ~ x + $": "'1 + x + $' could not be understood: Unexpected character: $.",
    "y + z ~ x": "The response 'y + z' must be one column. For arithmetic write I(a + b).",
    "y ~ xx": f"The formula uses 'xx', but the data have no such column. Did you mean 'x'? {COLUMNS}",
    "y ~ log(größ)": f"The formula uses 'größ', but the data have no such column. Did you mean 'größe'? {COLUMNS}",
    "y ~ x + (1 | subject)": f"The formula uses 'subject', but the data have no such column. {COLUMNS}",
    "yy ~ x": f"The formula uses 'yy', but the data have no such column. Did you mean 'y'? {COLUMNS}",
    "y ~ lag(x)": "'y ~ lag(x)' uses 'lag', which is neither a column nor a known function. Functions are log, log2, "
    "log10, log1p, exp, expm1, sqrt, abs, sin, cos, tan, tanh, C, I, scale, center, poly, bs, offset.",
    "y ~ build(x)": "'y ~ build(x)' uses 'build', which is neither a column nor a known function. Functions are log, "
    "log2, log10, log1p, exp, expm1, sqrt, abs, sin, cos, tan, tanh, C, I, scale, center, poly, bs, offset.",
    "y ~ log(g)": "'y ~ log(g)' could not be evaluated: 'g' holds text, 'b' in row 0 (rows count from 0), not numbers.",
    "y ~ log(x + 5, 10)": "'y ~ log(x + 5, 10)' could not be evaluated: log takes one column and nothing else. For "
    "logarithms to another base write log2 or log10, or divide: I(log(x) / log(b)).",
    "y ~ factor(k)": "'factor(k)': formulas have no factor(). Write C(k).",
    "y ~ x:as.factor(k)": "'x:as.factor(k)': formulas have no as.factor(). Write C(k).",
    "y ~ Q('my x')": "\"Q('my x')\": formulas have no Q(). Write the name in backticks, such as `my x`.",
    "y ~ C(g, levels=['b', 'a'])": "\"C(g, levels=['b', 'a'])\" has levels in brackets, which formulas do not know. "
    "Order the categories of the column in the data, such as pandas.Categorical(k, categories=…), and write its "
    "name alone.",
}
POWER = (
    "{!r} takes a power of one column, which as in R is that column itself. Write I({}) for the number; (a + b)^2 is "
)
BAD |= {
    f"y ~ {whole}": POWER.format(term, power) + "for interactions."
    for whole, term, power in (
        ("x^2", "x^2", "x**2"),
        ("z + x**2", "x**2", "x**2"),
        ("(x)^2", "(x)^2", "x**2"),
        ("`my x`^2", "`my x`^2", "`my x`**2"),
        ("(x^2 + z)*k", "(x^2 + z)*k", "x**2"),
        ("log(w)^2", "log(w)^2", "log(w)**2"),
        ("x + (x^2 | g)", "x^2", "x**2"),
        ("ridge(x, z^2)", "z^2", "z**2"),
    )
}


@pytest.mark.parametrize("formula", BAD)
def test_bad_formulas_are_refused_in_one_sentence(formula, capsys):
    with pytest.raises(BadFormula) as refused:
        build(formula, DATA, Gaussian())
    assert str(refused.value) == BAD[formula]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("formula", "name", "level", "shown"),
    [
        ("y ~ one", "one", "u", "y ~ one"),
        ("y ~ 0 + x:one", "one", "u", "y ~ 0 + x:one"),
        ("y ~ (one | g)", "one", "u", "(1 + one | g)"),
        ("y ~ x + C(k)", "k", "7", "y ~ x + C(k)"),
    ],
)
def test_a_categorical_with_one_level_is_refused(formula, name, level, shown):
    with pytest.raises(BadFormula) as refused:
        build(formula, DATA.assign(one="u", k=7), Gaussian())
    assert str(refused.value) == (
        f"{shown!r} has an effect of {name!r}, which has one level only, {level!r}, so there is nothing to compare. "
        "Leave it out."
    )


def test_dates_are_no_numbers():
    dates = DATA.assign(when=pd.date_range("2020-01-01", periods=N))
    with pytest.raises(ValueError) as refused:
        build("y ~ when", dates, Gaussian())
    assert str(refused.value) == (
        "Column 'when' holds dates or times, which a term or response cannot use. Turn it into numbers, such as days "
        "since the first."
    )
    model, _, _ = build("y ~ (1 | when)", dates, Gaussian())
    assert model.prior[1].levels[0] == "2020-01-01 00:00:00"


NESTED = {
    "g/h": "g + g:h",
    "g/h/z": "g + g:h + g:h:z",
    "C(k)/`my x`": "C(k) + C(k):`my x`",
    "x/z - x": "x:z",
    "0 + g/x": "0 + g + g:x",
    "I(x/z)": "I(x / z)",
}


@pytest.mark.parametrize("text", NESTED)
def test_a_slash_nests(text):
    found, expected = (build(f"y ~ {t}", DATA, Gaussian())[0].prior[0] for t in (text, NESTED[text]))
    assert found.names == expected.names
    np.testing.assert_array_equal(found.columns, expected.columns)
    assert np.linalg.matrix_rank(found.columns) == len(found.names)


@pytest.mark.parametrize("text", ["(g + h)/x", "g*h/x", "g/(x + z)"])
def test_a_slash_beside_others_is_refused(text):
    with pytest.raises(BadFormula) as refused:
        build(f"y ~ {text}", DATA, Gaussian())
    assert str(refused.value) == f"{text!r} has a / beside a * or parentheses. Write it out: a/b is a + a:b."


@pytest.mark.parametrize("pi", ["pi", "np.pi"])
def test_pi_inside_functions(pi):
    model, source, _ = build(f"I({pi} * y) ~ sin({pi} * x)", DATA, Gaussian())
    np.testing.assert_allclose(model.rows.y, np.pi * DATA["y"], rtol=1e-15)
    np.testing.assert_allclose(model.prior[0].columns[:, 1], np.sin(np.pi * DATA["x"]), rtol=1e-15)
    new = source.new_rows(DATA[3:7], {model.prior[0].label}, "raise").columns[model.prior[0].label]
    np.testing.assert_array_equal(new, model.prior[0].columns[3:7])
    with pytest.raises(BadFormula, match=f"The formula uses '{pi}', but the data have no such column"):
        build(f"y ~ {pi}", DATA, Gaussian())


def test_a_column_called_pi_goes_first():
    model, _, _ = build("y ~ sin(pi * x)", DATA.assign(pi=2.0), Gaussian())
    np.testing.assert_allclose(model.prior[0].columns[:, 1], np.sin(2 * DATA["x"]), rtol=1e-15)


NAMED_TWICE = {
    "y ~ Intercept": ("Intercept", "the constant"),
    "y ~ h + `h[v]`": ("h[v]", "another"),
    "y ~ x*z + `x:z`": ("x:z", "another"),
}


@pytest.mark.parametrize("formula", NAMED_TWICE)
def test_a_column_with_the_name_of_another_coefficient_is_refused(formula):
    name, other = NAMED_TWICE[formula]
    with pytest.raises(BadFormula) as refused:
        build(formula, DATA.assign(**{name: Z**2}), Gaussian())
    assert str(refused.value) == (
        f"{formula!r} has two fixed effects called {name!r}: that of the column of this name, and {other}. Rename the "
        "column."
    )


def test_a_column_called_intercept_without_the_constant():
    fit = marglik.fit("y ~ 0 + Intercept", DATA.assign(Intercept=X))
    np.testing.assert_allclose(fit.fixed_effects.loc["Intercept", "estimate"], X @ Y / (X @ X), rtol=1e-10)
