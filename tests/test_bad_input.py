# SPDX-License-Identifier: BSD-3-Clause
"""Bad input: one sentence a case, which names the culprit and what to try. And what only looks bad."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik import Flat, Gaussian, InMemory, LinearModel, Poisson, RandomEffects, Ridge
from marglik.scatter import check_noise
from marglik.validate import check_grouping, did_you_mean

N = 20
rng = np.random.default_rng(8)
DATA = pd.DataFrame(
    {
        "y": rng.standard_normal(N),
        "x": rng.standard_normal(N),
        "z": rng.standard_normal(N),
        "g": np.repeat(list("abcde"), 4),
        "count": rng.poisson(3, N),
        "w": rng.uniform(0.5, 2, N),
    }
)
NAN, INF = float("nan"), float("inf")


def changed(column, row, value):
    values = DATA[column].astype(object if isinstance(value, str) or value is None else float).copy()
    values.iloc[row] = value
    return DATA.assign(**{column: values})


def says(sentence, call, kind=ValueError):
    """``call`` raises one sentence: that one, or one with these parts in order."""
    parts = [sentence] if isinstance(sentence, str) else sentence
    with pytest.raises(kind) as refused:
        call()
    text = str(refused.value)
    assert "\n" not in text
    assert text.endswith(".")
    if isinstance(sentence, str):
        assert text == sentence
    position = 0
    for part in parts:
        assert part in text[position:], text
        position = text.index(part, position) + len(part)


MISSING = (
    "Column {!r} has no value (NaN) in row {} (rows count from 0). Use missing='drop' to leave such rows out, or fill "
    "the values in."
)
NOT_FINITE = "column {!r} contains infinity in row {} (rows count from 0). Leave these rows out, or correct them."
NO_VALUE = (
    "{}. The data have a value there, which missing='drop' does not leave out: leave such rows out, or take a function "
    "that is finite everywhere."
)
VALUES = {
    "NaN in y": ("y ~ x + (1 | g)", changed("y", 4, NAN), MISSING.format("y", 4)),
    "NaN in x": ("y ~ x + (1 | g)", changed("x", [2, 7], NAN), MISSING.format("x", "2, 7")),
    "NaN in many": (
        "y ~ x",
        changed("x", slice(3, 12), NAN),
        MISSING.format("x", "3, 4, 5, 6, 7 and 4 more"),
    ),
    "no level": ("y ~ x + (1 | g)", changed("g", 3, None), MISSING.format("g", 3)),
    "NaN in ridge": ("y ~ ridge(x, z)", changed("z", 0, NAN), MISSING.format("z", 0)),
    "NaN in offset": ("y ~ x + offset(z)", changed("z", 0, NAN), MISSING.format("z", 0)),
    "infinity in y": ("y ~ x + (1 | g)", changed("y", 4, INF), NOT_FINITE.format("y", 4)),
    "both infinities in x": ("y ~ x", changed("x", [3, 5], [INF, -INF]), NOT_FINITE.format("x", "3, 5")),
    "infinity in x": ("y ~ x + (1 | g)", changed("x", 19, -INF), NOT_FINITE.format("x", 19)),
    "infinity in ridge": ("y ~ ridge(x, z)", changed("z", 5, INF), NOT_FINITE.format("z", 5)),
    "infinity in a group": ("y ~ (1 | count)", changed("count", 1, INF), NOT_FINITE.format("count", 1)),
    "infinity made by a function": (
        "y ~ log(x)",
        changed("x", 6, 0.0).assign(x=lambda d: d["x"].abs()),
        NO_VALUE.format("'log(x)' is -inf in row 6 (rows count from 0), where x = 0"),
    ),
    "a logarithm of what is below zero": (
        "y ~ log(x)",
        changed("x", [6, 9], -2.0).assign(x=lambda d: np.where(d["x"] == -2, -2, 1 + d["x"].abs())),
        NO_VALUE.format("'log(x)' is NaN in row 6, 9 (rows count from 0), where x = -2 in the first of them"),
    ),
    "the same for levels": (
        "y ~ (log(x) | g)",
        changed("x", 6, -2.0).assign(x=lambda d: np.where(d["x"] == -2, -2, 1 + d["x"].abs())),
        NO_VALUE.format("'log(x)' is NaN in row 6 (rows count from 0), where x = -2"),
    ),
    "the same under a prior": (
        "y ~ ridge(z, log(x))",
        changed("x", 6, -2.0).assign(x=lambda d: np.where(d["x"] == -2, -2, 1 + d["x"].abs())),
        NO_VALUE.format("'log(x)' is NaN in row 6 (rows count from 0), where x = -2"),
    ),
    "the same of the response": (
        "log(x) ~ z",
        changed("x", 6, -2.0).assign(x=lambda d: np.where(d["x"] == -2, -2, 1 + d["x"].abs())),
        "response 'log(x)' contains NaN in row 6 (rows count from 0). The function has no value there: leave these "
        "rows out.",
    ),
    "a column in tiny units": (
        "y ~ x",
        DATA.assign(x=DATA["x"] * 1e200),
        f"column 'x' holds numbers as large as {DATA['x'].abs().max() * 1e200:.1g}, whose squares overflow in "
        "floating point. Give it in another unit.",
    ),
    "a slope in tiny units": (
        "y ~ (0 + x | g)",
        DATA.assign(x=DATA["x"] * 1e200),
        f"column 'x' holds numbers as large as {DATA['x'].abs().max() * 1e200:.1g}, whose squares overflow in "
        "floating point. Give it in another unit.",
    ),
    "a column in huge units": (
        "y ~ x",
        DATA.assign(x=DATA["x"] * 1e-200),
        f"column 'x' holds numbers as small as {DATA['x'].abs().max() * 1e-200:.1g}, whose squares are zero in "
        "floating point. Give it in another unit.",
    ),
    "a response in tiny units": (
        "y ~ x + (1 | g)",
        DATA.assign(y=DATA["y"] * 1e200),
        f"response 'y' holds numbers as large as {DATA['y'].abs().max() * 1e200:.1g}, whose squares overflow in "
        "floating point. Give it in another unit.",
    ),
    "a response in huge units": (
        "y ~ x + (1 | g)",
        DATA.assign(y=DATA["y"] * 1e-200),
        f"response 'y' holds numbers as small as {DATA['y'].abs().max() * 1e-200:.1g}, whose squares are zero in "
        "floating point. Give it in another unit.",
    ),
    "a polynomial of no degree": (
        "y ~ poly(x, 0)",
        DATA,
        "'y ~ poly(x, 0)' has poly(x, 0), but the degree of a polynomial is a whole number from 1, such as poly(x, 2).",
    ),
    "a polynomial of half a degree": (
        "y ~ poly(x, degree=1.5)",
        DATA,
        "'y ~ poly(x, degree=1.5)' has poly(x, degree=1.5), but the degree of a polynomial is a whole number from 1, "
        "such as poly(x, 2).",
    ),
    "text in y": (
        "y ~ x",
        changed("y", 6, "n/a"),
        "The response 'y' must be numbers, but holds 'n/a' in row 6 (rows count from 0). Convert the column, or "
        "correct that value.",
    ),
    "text for y": (
        "g ~ x",
        DATA,
        "The response 'g' must be numbers, but holds 'a' in row 0 (rows count from 0). Convert the column, or correct "
        "that value.",
    ),
    "no rows": (
        "y ~ x",
        DATA[:0],
        "The data have no rows, so there is nothing to learn from. Check the file or the filter.",
    ),
    "every row misses something": (
        "y ~ x",
        DATA.assign(x=NAN),
        MISSING.format("x", "0, 1, 2, 3, 4 and 15 more"),
    ),
    "a constant column": (
        "y ~ x + k",
        DATA.assign(k=3.0),
        "Fixed effect 'k' is constant, like 'Intercept', so their coefficients cannot be told apart. Drop one of them, "
        "or give them a prior: ridge(…).",
    ),
    "a column of zeros": (
        "y ~ x + k",
        DATA.assign(k=0.0),
        "Fixed effect 'k' is zero in every row, so its coefficient cannot be learned. Drop it.",
    ),
    "collinear columns": (
        "y ~ x + z + k",
        DATA.assign(k=2 * DATA["x"] - DATA["z"] / 3),
        "Fixed effect 'k' is a linear combination of 'x' and 'z', so their coefficients cannot be told apart. Drop one "
        "of them, or give them a prior: ridge(…).",
    ),
    "a column twice": (
        "y ~ x + k",
        DATA.assign(k=DATA["x"]),
        "Fixed effect 'k' is a linear combination of 'x', so their coefficients cannot be told apart. Drop one of "
        "them, or give them a prior: ridge(…).",
    ),
    "more fixed effects than rows": (
        "y ~ x*C(k)",
        DATA.assign(k=range(N)),
        "There are 40 fixed effects but only 20 rows, so they cannot all be learned. Drop some, or give them a prior: "
        "ridge(…).",
    ),
    "repeated names": (
        "y ~ x",
        DATA.set_axis(["y", "x", "x", "g", "count", "w"], axis=1),
        "The data have several columns called 'x'. Rename them.",
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_bad_values(name):
    formula, data, sentence = VALUES[name]
    says(sentence, lambda: marglik.fit(formula, data))


def test_rows_keep_their_numbers_where_some_are_dropped():
    holes = changed("z", [0, 3], NAN)
    says(
        NO_VALUE.format("'log(x)' is NaN in row 6 (rows count from 0), where x = -2"),
        lambda: marglik.fit(
            "y ~ log(x) + z", holes.assign(x=np.where(np.arange(N) == 6, -2.0, 1.0 + np.arange(N))), missing="drop"
        ),
    )
    infinite = holes.assign(x=np.where(np.arange(N) == 6, INF, 1.0 + np.arange(N)))
    says(NOT_FINITE.format("x", 6), lambda: marglik.fit("y ~ x + z", infinite, missing="drop"))
    zero = holes.assign(x=np.where(np.arange(N) == 6, 0.0, 1.0 + np.arange(N)))
    says(("in row 6 (", "x = 0"), lambda: marglik.fit("y ~ z + offset(log(x))", zero, missing="drop"))


OTHERS = {
    "y": (
        "n/a",
        {},
        "The response 'y' must be numbers, but holds 'n/a' in row 6 (rows count from 0). Convert the column, or "
        "correct that value.",
    ),
    "w": (0.0, {"weights": "w"}, ("weights must be positive, but row 6 has 0.",)),
    "count": (-1.0, {"family": "poisson"}, ("but the response is -1 in row 6 (1 such rows: 6)",)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_so_they_do_left_of_the_tilde_and_in_weights(name):
    value, options, sentence = OTHERS[name]
    data = changed(name, 6, value).assign(z=changed("z", [0, 3], NAN)["z"])
    response = "count" if name == "count" else "y"
    says(sentence, lambda: marglik.fit(f"{response} ~ z", data, missing="drop", **options))


def test_weights_without_a_value_are_missing_like_any_column():
    w = np.where(np.isin(np.arange(N), [3, 5]), NAN, DATA["w"])
    says(MISSING.format("(weights)", "3, 5"), lambda: marglik.fit("y ~ x", DATA, weights=w))
    fit = marglik.fit("y ~ x + (1 | g)", DATA, weights=w, missing="drop")
    left = DATA[np.isfinite(w)]
    assert fit.notes == ("2 of 20 rows dropped: missing values",)
    assert fit.log_evidence == marglik.fit("y ~ x + (1 | g)", left, weights=left["w"]).log_evidence
    assert (
        fit.log_evidence == marglik.fit("y ~ x + (1 | g)", DATA.assign(w=w), weights="w", missing="drop").log_evidence
    )


@pytest.mark.parametrize("unit", [1e-100, 1e100])
def test_units_far_from_one_are_not_refused(unit):
    here, there = marglik.fit("y ~ x + z", DATA), marglik.fit("y ~ x + z", DATA.assign(x=DATA["x"] * unit))
    np.testing.assert_allclose(there.predict(), here.predict(), rtol=0, atol=1e-12)


def test_nothing_left_after_dropping():
    says(
        "Every row has a missing value in a column that the formula uses, so no row is left.",
        lambda: marglik.fit("y ~ x", DATA.assign(x=NAN), missing="drop"),
    )


COLUMNS = "The columns are y, x, z, g, count, w."
SETTINGS = {
    "no such column": (
        {"model": "y ~ dose"},
        f"The formula uses 'dose', but the data have no such column. {COLUMNS}",
    ),
    "a near name": (
        {"model": "y ~ x + (1 | gg)"},
        f"The formula uses 'gg', but the data have no such column. Did you mean 'g'? {COLUMNS}",
    ),
    "no such weights": (
        {"weights": "ww"},
        f"weights= names 'ww', but the data have no such column. Did you mean 'w'? {COLUMNS}",
    ),
    "weights of text": (
        {"weights": "g"},
        "The weights 'g' must be numbers, but holds 'a' in row 0 (rows count from 0). Convert the column, or correct "
        "that value.",
    ),
    "weights of another length": (
        {"weights": np.ones(7)},
        "weights must have one value a row, 20 in all, but their shape is (7,).",
    ),
    "weights that are no numbers": (
        {"weights": ["a"] * N},
        "weights must be a column's name or one number a row.",
    ),
    "weights with zeros": (
        {"weights": np.where(np.arange(N) % 9 == 2, 0.0, 1.0)},
        ("weights must be positive", "row 2, 11", "0", "drop the rows"),
    ),
    "a weight that is NaN": ({"weights": np.where(np.arange(N) == 2, NAN, 1.0)}, ("weights", "NaN", "row 2")),
    "missing=": ({"missing": "ignore"}, "missing must be 'raise' or 'drop', not 'ignore'."),
    "an unknown family": ({"family": "gausian"}, ("gausian", "gaussian", "poisson")),
    "an unknown method": ({"method": "lapalce"}, ("lapalce", "exact", "laplace")),
    "an unsuited method": (
        {"model": "count ~ x + (1 | g)", "family": "poisson", "method": "exact"},
        ("method='exact'", "Poisson", "method='laplace'"),
    ),
    "an unknown link": ({"link": "log"}, ("Gaussian", "'identity'", "'log'")),
    "a value outside its support": (
        {"fixed": {"sd(noise)": -1.0}},
        ("'sd(noise)'", "-1.0", "0", "standard deviations"),
    ),
    "no data": ({"data": None}, ("'y ~ x + (1 | g)'", "needs data")),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings(name):
    more, sentence = SETTINGS[name]
    says(sentence, lambda: marglik.fit(**{"model": "y ~ x + (1 | g)", "data": DATA, **more}))


@pytest.mark.parametrize("name", ["fixed", "hyperprior"])
def test_unknown_hyperparameters_are_answered_with_the_nearest_names(name):
    says(
        ("'sd(Intercpt | g)'", "Did you mean 'sd(Intercept | g)'", "The names are", "'sd(noise)'"),
        lambda: marglik.fit("y ~ x + (1 | g)", DATA, **{name: {"sd(Intercpt | g)": 1.0}}),
        KeyError,
    )


COUNTS = {
    "negative": ([3, 9], -1.0, "-1 in row 3 (2 such rows: 3, 9)"),
    "not whole": ([5], 2.5, "2.5 in row 5 (1 such rows: 5)"),
    "many": (slice(2, 10), -3.0, "-3 in row 2 (8 such rows: 2, 3, 4, 5, 6 and 3 more)"),
}


@pytest.mark.parametrize("name", COUNTS)
def test_impossible_counts(name):
    rows, value, words = COUNTS[name]
    data = changed("count", rows, value)
    says(
        ("counts: whole numbers from 0", words),
        lambda: marglik.fit("count ~ x + (1 | g)", data, family="poisson"),
    )


ARRAYS = {
    "a term of another length": (
        lambda: LinearModel(Gaussian(), Flat(np.ones(N)) + Ridge(np.ones((19, 2))), DATA["y"].to_numpy()),
        ("'ridge'", "19 rows", "y has 20"),
    ),
    "codes of another length": (
        lambda: LinearModel(Gaussian(), RandomEffects(np.zeros(19, int), ["a"], group="g"), np.ones(N)),
        ("'(1 | g)'", "19 rows", "y has 20"),
    ),
    "three axes": (lambda: LinearModel(Gaussian(), Flat(np.ones(N)), np.ones((N, 2, 2))), ("(20, 2, 2)",)),
    "an offset of another length": (
        lambda: LinearModel(Gaussian(), Flat(np.ones(N)), InMemory(np.ones(N), np.ones(3))),
        ("offset", "(20,)", "(3,)"),
    ),
    "NaN in a target": (
        lambda: LinearModel(Gaussian(), Flat(np.ones(N)), np.where(np.arange(2 * N).reshape(N, 2) == 9, NAN, 0)),
        ("'y[:, 1]'", "NaN", "row 4"),
    ),
    "infinity in a flat column": (
        lambda: LinearModel(Gaussian(), Flat(np.where(np.arange(N) == 4, INF, 1.0), ["a"]), np.ones(N)),
        ("'a'", "infinity", "row 4"),
    ),
    "a count below zero": (
        lambda: LinearModel(Poisson(), Flat(np.ones(N)), np.where(np.arange(N) == 4, -2.0, 1)),
        ("whole numbers from 0", "-2 in row 4"),
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_bad_arrays(name):
    call, parts = ARRAYS[name]
    says(parts, call)


FIT = marglik.fit("y ~ x*g + ridge(z)", DATA)
GROUPED = marglik.fit("y ~ x + (1 | g)", DATA, fixed={"sd(Intercept | g)": 0.5})
NEW = {
    "a column is not there": (
        DATA.drop(columns="x"),
        "The formula uses 'x', but the new data have no such column. The columns are y, z, g, count, w.",
    ),
    "a column of ridge is not there": (
        DATA.drop(columns="z"),
        "The formula uses 'z', but the new data have no such column. The columns are y, x, g, count, w.",
    ),
    "NaN": (
        changed("x", [4, 6], NAN),
        "Column 'x' of the new data has no value (NaN) in row 4, 6 (rows count from 0). Leave such rows out, or fill "
        "the values in.",
    ),
    "infinity": (changed("x", 4, INF), "'x' is inf in row 4 of the new data (rows count from 0). Leave such rows out."),
    "text": (
        changed("z", 5, "low"),
        "The column 'z' must be numbers, but holds 'low' in row 5 (rows count from 0). Convert the column, or correct "
        "that value.",
    ),
    "an unseen level of a fixed effect": (
        changed("g", 5, "q"),
        "Each level of 'g' has an effect of its own, and 'q' was not in the fit, so its effect is unknown. Leave such "
        "rows out, or make it a grouping factor: (1 | …).",
    ),
    "no rows, and a column is not there": (
        DATA[:0].drop(columns="x"),
        "The formula uses 'x', but the new data have no such column. The columns are y, z, g, count, w.",
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_bad_new_data(name):
    new, sentence = NEW[name]
    says(sentence, lambda: FIT.predict(new))


def test_unseen_levels_of_a_group_are_refused_on_request():
    new = changed("g", [1, 5, 6], "q")
    says(
        "'g' has levels that were not in the fit: q. Use new_levels='population' to predict them with an effect of "
        "zero.",
        lambda: GROUPED.predict(new, new_levels="raise"),
    )
    population = GROUPED.predict(DATA, include="fixed effects")
    np.testing.assert_array_equal(GROUPED.predict(new)[[1, 5, 6]], population[[1, 5, 6]])


def test_a_group_without_a_value_is_not_a_new_level():
    says(
        "Column 'g' of the new data has no value (NaN) in row 4, 6 (rows count from 0). Leave such rows out, or fill "
        "the values in.",
        lambda: GROUPED.predict(changed("g", [4, 6], None)),
    )
    population = GROUPED.predict(changed("g", [4, 6], None), include="fixed effects")
    np.testing.assert_array_equal(population, GROUPED.predict(DATA, include="fixed effects"))


@pytest.mark.parametrize("fitted", [FIT, GROUPED], ids=["ridge", "grouped"])
def test_no_new_rows_have_no_predictions(fitted, tmp_path):
    DATA[:0].to_csv(tmp_path / "none.csv", index=False)
    for new in (DATA[:0], {name: [] for name in DATA}, tmp_path / "none.csv"):
        assert fitted.predict(new).shape == (0,)
        assert fitted.predict(new, average=True).shape == (0,)
        assert fitted.predict(new, interval=0.9).shape == (0, 3)


def test_unknown_terms_and_scales():
    says(("'(1 | h)'", "'fixed effects', '(1 | g)'"), lambda: GROUPED.predict(include=["(1 | h)"]))
    says("scale must be 'response' or 'link', not 'log'.", lambda: GROUPED.predict(scale="log"))
    says(("interval", "1.5"), lambda: GROUPED.predict(interval=1.5))


def test_a_prior_makes_constant_and_collinear_columns_proper():
    """y ~ N(0, s² XXᵀ + σ² I) needs no rank, and a direction that both columns share counts twice."""
    data = DATA.assign(double=2 * DATA["x"], k=3.0)
    held = {"sd(noise)": 0.8}
    pair = marglik.fit("y ~ 0 + ridge(x, double)", data, fixed={"sd(ridge(x, double))": 0.4, **held})
    single = marglik.fit("y ~ 0 + ridge(x)", data, fixed={"sd(ridge(x))": 0.4 * 5**0.5, **held})
    assert pair.log_evidence == pytest.approx(single.log_evidence, rel=1e-12)
    constant = marglik.fit("y ~ ridge(x, k)", data, fixed={"sd(ridge(x, k))": 0.4, **held})
    without = marglik.fit("y ~ ridge(x)", data, fixed={"sd(ridge(x))": 0.4, **held})
    assert constant.log_evidence == pytest.approx(without.log_evidence, rel=1e-12)


def test_near_names():
    assert did_you_mean("Dayz", ["Reaction", "Days", "Subject"]) == " Did you mean 'Days'?"
    assert did_you_mean("q", ["Reaction", "Days", "Subject"]) == ""


FLAGS = {
    "reml": (("no", None, 1), "reml must be True or False, but is {!r}."),
    "restarts": ((-1, 1.5, True, None), "restarts must be a whole number, 0 or more, but is {!r}."),
    "seed": ((-1, 0.5, "a", None), "seed must be a whole number, 0 or more, but is {!r}."),
    "missing": (("skip", None, True), "missing must be 'raise' or 'drop', not {!r}."),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_what_they_are_called(name):
    values, sentence = FLAGS[name]
    for value in values:
        with pytest.raises(ValueError) as refused:
            marglik.fit("y ~ x", DATA, **{name: value})
        assert str(refused.value) == sentence.format(value)


# What makes the evidence unbounded or flat.

NO_NOISE = "so there is no noise to learn. Check the column, or hold the noise: fixed={'sd(noise)': 1.0}."
SPREAD = {
    "constant": ([0.0], [0.0], 20, 2, f"The response is constant, {NO_NOISE}"),
    "exact": ([1e-30], [4.0], 20, 2, f"The response is fitted exactly by the fixed effects, {NO_NOISE}"),
    "targets": ([1.0, 0.0, 2.0, 0.0], [1, 0, 3, 1], 20, 2, f"Target 1, 3 is constant, {NO_NOISE}"),
    "one row": (
        [0.0],
        [0.0],
        1,
        1,
        "There is 1 row and 1 fixed effect, so nothing is left to learn sd(noise) from. Give more rows, or hold it: "
        "fixed={'sd(noise)': 1.0}.",
    ),
    "as many effects as rows": (
        [1e-31],
        [0.5],
        2,
        2,
        "There are 2 rows and 2 fixed effects, so nothing is left to learn sd(noise) from. Give more rows, or hold it: "
        "fixed={'sd(noise)': 1.0}.",
    ),
}


@pytest.mark.parametrize("name", SPREAD)
def test_noise_that_cannot_be_learned(name):
    left_over, total, n, n_flat, sentence = SPREAD[name]
    says(sentence, lambda: check_noise(np.array(left_over), np.array(total, float), n, n_flat))


def test_noise_that_can_be_learned():
    check_noise(np.array([1e-6, 3.0]), np.array([1e12, 3.0]), 20, 2)
    check_noise(np.array([5.0]), np.array([0.0]), 20, 0)  # constant, and nothing to fit it with


def _grouping(codes, weights=None, learned=("sd(Intercept | g)", "sd(noise)"), noise="sd(noise)", Z=None):
    term = RandomEffects(np.array(codes), [f"L{c}" for c in range(max(codes) + 1)], Z, group="g")
    check_grouping([Flat(np.ones(len(codes))), term], InMemory(np.ones(len(codes)), weights=weights), learned, noise)


def test_a_grouping_factor_with_one_level():
    says(
        "Grouping factor 'g' has one level only, 'L0', so how its levels differ cannot be learned. Leave out (1 | g), "
        "or hold its scale: fixed={'sd(Intercept | g)': 1.0}.",
        lambda: _grouping([0, 0, 0]),
    )
    _grouping([0, 0, 0], learned=("sd(noise)",))
    _grouping([0, 0, 1])


def test_a_grouping_factor_with_as_many_levels_as_rows():
    says(
        "Grouping factor 'g' has as many levels as there are rows, 4, so sd(Intercept | g) and sd(noise) cannot be "
        "told apart. Leave out (1 | g), or hold one of them: fixed={'sd(noise)': 1.0}.",
        lambda: _grouping([0, 1, 2, 3]),
    )
    _grouping([0, 1, 2, 3], learned=("sd(Intercept | g)",))
    _grouping([0, 1, 2, 3], learned=("sd(noise)",))
    _grouping([0, 1, 2, 3], noise=None)  # Poisson: overdispersion
    _grouping([0, 1, 2, 3], weights=np.array([1.0, 2.0, 1.0, 1.0]))
    _grouping([0, 1, 2, 3], Z=np.array([1.0, 2.0, 1.0, 1.0]))
    _grouping([0, 1, 2, 2])


UNBOUNDED = {
    "constant": ("y ~ x + (1 | g)", {"y": 2.0}, "The response is constant"),
    "constant, ridge": ("y ~ ridge(x, z)", {"y": 2.0}, "The response is constant"),
    "exact": ("y ~ x + (1 | g)", {"y": 1 + 2 * DATA["x"]}, "The response is fitted exactly by the fixed effects"),
    "one level": ("y ~ x + (1 | g)", {"g": "a"}, "Grouping factor 'g' has one level only, 'a'"),
    "all levels": ("y ~ x + (1 | g)", {"g": range(N)}, "Grouping factor 'g' has as many levels as there are rows, 20"),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_fits_without_a_maximum(name):
    formula, columns, sentence = UNBOUNDED[name]
    says((sentence,), lambda: marglik.fit(formula, DATA.assign(**columns)))


ONE_ROW = {
    "y ~ 1": "There is 1 row and 1 fixed effect",
    "y ~ ridge(x)": "There is 1 row and 1 fixed effect",
    "y ~ 1 + (1 | g)": "Grouping factor 'g' has one level only, 'a'",
}


@pytest.mark.parametrize("formula", ONE_ROW)
def test_one_row(formula):
    says((ONE_ROW[formula],), lambda: marglik.fit(formula, DATA[:1]))


def test_with_the_noise_held_a_constant_response_has_an_answer():
    """With s = 0, y = 2 leaves log ∫ N(y; b, 1) db = −(n − 1)/2 log 2π − ½ log n."""
    fit = marglik.fit("y ~ 1 + (1 | g)", DATA.assign(y=2.0), fixed={"sd(noise)": 1.0})
    assert fit.hyperparameters.loc["sd(Intercept | g)", "estimate"] == 0
    assert fit.log_evidence == pytest.approx(-(N - 1) / 2 * np.log(2 * np.pi) - np.log(N) / 2, rel=1e-12)


def test_with_the_noise_held_every_row_may_have_a_level():
    """Known variances, as in a meta-analysis: var(y) = s² + σ²."""
    y = 3 * DATA["y"]
    fit = marglik.fit("y ~ 1 + (1 | g)", DATA.assign(g=range(N), y=y), fixed={"sd(noise)": 0.5})
    assert fit.hyperparameters.loc["sd(Intercept | g)", "estimate"] == pytest.approx(
        np.sqrt(y.var(ddof=1) - 0.25), rel=1e-7
    )
