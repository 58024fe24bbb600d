# SPDX-License-Identifier: BSD-3-Clause
"""Smooths beside other terms of a formula: equalities, parts of predictions, new rows, files, and bad input."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import marglik
from marglik.interfaces.cli import main
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Ridge
from marglik.smooths import s

N = 160
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def data():
    x, z, g = RNG.uniform(size=N), RNG.uniform(1, 3, N), RNG.integers(0, 9, N)
    out = pd.DataFrame({"x": x, "z": z, "w": RNG.normal(size=N), "one": 1.0, "few": np.round(3 * x)})
    out["f"] = pd.Categorical(RNG.choice(list("abc"), N))
    out["g"] = [f"g{i}" for i in g]
    out["my z"] = z
    out["hour"] = RNG.uniform(0, 24, N)
    out["y"] = np.sin(6 * x) + 0.3 * z**2 + RNG.normal(size=9)[g] / 2 + (out["f"] == "b") * x
    out["y"] += 0.3 * RNG.normal(size=N)
    out["count"] = RNG.poisson(np.exp(np.sin(6 * x) + 0.4))
    out["words"] = x.astype(str)
    out["odd"] = np.where(np.arange(N) == 3, "1,5", out["words"])
    return out


@pytest.fixture(scope="module")
def fit(data):
    return marglik.fit("y ~ f + w + s(x, bs='cr') + s(log(z), k=6) + (1 | g)", data)


def test_a_formula_is_the_model_of_its_columns(data):
    (smooth,) = s(data, "x")
    X = smooth.design(data)
    prior = Flat(np.column_stack([np.ones(N), data["w"], X @ smooth.null]))
    prior += Ridge(X @ smooth.roots[0], hyperparameter="sd(s(x))", label="s(x)")
    by_hand = marglik.fit(LinearModel(Gaussian(), prior, data["y"].to_numpy()))
    fit = marglik.fit("y ~ w + s(x)", data)
    assert fit.log_evidence == pytest.approx(by_hand.log_evidence, rel=1e-12)
    pd.testing.assert_frame_equal(fit.hyperparameters, by_hand.hyperparameters, rtol=1e-6)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_random_effects_by_either_name(data, family):
    response = "y" if family == "gaussian" else "count"
    as_smooth = marglik.fit(f"{response} ~ s(x) + s(g, bs='re')", data, family=family)
    grouped = marglik.fit(f"{response} ~ s(x) + (1 | g)", data, family=family)
    assert as_smooth.log_evidence == pytest.approx(grouped.log_evidence, rel=1e-9)
    levels = sorted(data["g"].unique())
    effect = as_smooth.effect("s(g)", at={"g": levels})
    np.testing.assert_allclose(effect["estimate"], grouped.random_effects("g").loc[levels].iloc[:, 0], rtol=1e-4)
    sd = grouped.random_effects("g").attrs["sd"].loc[levels].iloc[:, 0]
    np.testing.assert_allclose(effect["se"], sd, rtol=1e-4)
    rows = data[:3].assign(g=["g0", "new", "g1"])
    mine, theirs = (f.predict(rows, interval=0.9, scale="link") for f in (as_smooth, grouped))
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-4)


def test_select_for_one_and_for_all(data):
    alone = marglik.fit("y ~ s(x, select=True) + s(w, select=True)", data)
    every = marglik.fit("y ~ s(x) + s(w)", data, select=True)
    some = marglik.fit("y ~ s(x) + s(w, select=False)", data, select=True)
    assert alone.log_evidence == every.log_evidence
    assert list(every.hyperparameters.index[:4]) == ["sd(s(x))", "sd(s(x): null)", "sd(s(w))", "sd(s(w): null)"]
    assert list(some.hyperparameters.index[:3]) == ["sd(s(x))", "sd(s(x): null)", "sd(s(w))"]
    assert every.model.n_flat == 1


def test_parts_add_up(fit):
    terms = ["fixed effects", "(1 | g)", "s(x)", "s(log(z))"]
    assert list(fit.edf.index) == terms
    parts = [fit.predict(include=[term]) for term in terms]
    np.testing.assert_allclose(np.sum(parts, axis=0), fit.predict(), rtol=1e-10)


def test_fixed_effects_are_the_parametric_ones(fit, data):
    names = ["Intercept", "f[b]", "f[c]", "w"]
    assert list(fit.fixed_effects.index) == list(fit.vcov().index) == list(fit.vcov().columns) == names
    assert fit.edf["fixed effects"] == 4
    X = np.column_stack([np.ones(N), data["f"] == "b", data["f"] == "c", data["w"]])
    np.testing.assert_allclose(fit.predict(include="fixed effects"), X @ fit.fixed_effects["estimate"], rtol=1e-10)
    intervals = fit.confint(names=["w", "sd(s(x))"])
    np.testing.assert_allclose(intervals.loc["w", "lower"], fit.fixed_effects.loc["w", "lower"])
    profile = fit.confint("profile", names="w").loc["w"]
    assert profile["lower"] < fit.fixed_effects.loc["w", "estimate"] < profile["upper"]


@pytest.mark.parametrize("include", [None, ["s(x)"], ["fixed effects", "s(log(z))"], ["(1 | g)", "s(x)"]])
def test_new_rows_are_those_of_the_fit(fit, data, include):
    """Few rows, in another order: knots, constraint and levels stay those of the fit."""
    rows = [7, 3, 150, 3]
    mine = fit.predict(include=include, interval=0.9).iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(fit.predict(data.iloc[rows], include=include, interval=0.9), mine, rtol=1e-10)


def test_terms_left_out_need_no_columns(fit, data):
    np.testing.assert_allclose(fit.predict(data[["x"]], include="s(x)"), fit.predict(include="s(x)"), rtol=1e-10)
    assert fit.predict(data[:0]).shape == (0,)


def test_saved_and_loaded(fit, data, tmp_path):
    fit.save(tmp_path / "fit")
    again = marglik.load(tmp_path / "fit")
    assert again.log_evidence == fit.log_evidence
    pd.testing.assert_series_equal(again.edf, fit.edf)
    pd.testing.assert_frame_equal(again.effect("s(x)", n=5), fit.effect("s(x)", n=5))
    np.testing.assert_array_equal(again.predict(data[:5]), fit.predict(data[:5]))
    every = marglik.fit("y ~ s(x)", data, select=True)
    every.save(tmp_path / "every")
    assert marglik.load(tmp_path / "every").edf.equals(every.edf)


def test_rows_and_units_do_not_matter(fit, data):
    shuffled = marglik.fit(fit.source.formula.text, data.sample(frac=1, random_state=0))
    assert shuffled.log_evidence == pytest.approx(fit.log_evidence, abs=1e-8)
    scaled = data.assign(y=1000 * data["y"], x=1e-6 * data["x"])
    other = marglik.fit("y ~ s(x)", scaled)
    own = marglik.fit("y ~ s(x)", data)
    np.testing.assert_allclose(other.predict(), 1000 * own.predict(), rtol=1e-6)
    np.testing.assert_allclose(other.edf, own.edf, rtol=1e-6)


def test_extrapolation_is_straight_and_said_once(data):
    fit = marglik.fit("y ~ s(x, bs='cr')", data)
    with pytest.warns(UserWarning, match=r"s\(x\): 'x' in row 1, 2, 3, outside 0\.\d+ to 0\.\d+") as said:
        eta = fit.predict({"x": [0.5, 2.0, 3.0, 4.0]})
    assert len(said) == 1
    assert eta[3] - eta[2] == pytest.approx(eta[2] - eta[1], rel=1e-9)


def test_a_cyclic_smooth_goes_round(data):
    fit = marglik.fit("y ~ s(hour, bs='cc', knots=[0, 24])", data)
    assert not fit.notes
    np.testing.assert_allclose(fit.predict({"hour": [3.0]}), fit.predict({"hour": [27.0]}), rtol=1e-10)
    (note,) = marglik.fit("y ~ s(hour, bs='cc')", data).notes
    assert note.startswith("s(hour) takes the range of 'hour', ")
    assert note.endswith("both ends are the same point; to give the period, knots={'hour': [start, end]}.")


def test_levels_that_were_not_in_the_fit(data):
    fit = marglik.fit("y ~ s(x, by=f) + s(g, bs='re')", data)
    rows = data[:2].assign(g=["g0", "new"])
    population = fit.predict(rows, include=["fixed effects", "s(x):f[a]", "s(x):f[b]", "s(x):f[c]"])
    np.testing.assert_allclose(fit.predict(rows)[1], population[1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"'g' has levels that were not in the fit: new\. Use new_levels="):
        fit.predict(rows, new_levels="raise")
    with pytest.raises(ValueError, match=r"s\(x\):f\[a\] is one smooth for each level of 'f', and d was not"):
        fit.predict(data[:1].assign(f="d"))
    with pytest.raises(ValueError, match="has no value"):
        fit.predict(data[:1].assign(x=np.nan))


BAD = {
    "s(few)": "s(few) asks for k=10 functions, but 'few' has only 4 distinct values. Give k=4 or less.",
    "s(one)": "'one' is the same in every row, so s(one) has nothing to vary with. Leave it out.",
    "s(x, bs='cr', knots=[5, 6, 7], k=3)": "No knot of s(x) lies where 'x' does, between ",
    "s(x, bs='cr', k=5, knots=[0, 1])": "s(x) has 2 knots, but needs 5. Leave knots out, or give k to match them.",
    "s(x, knots={'z': [0, 1]})": "s(x) has knots of 'z', which is none of its covariates.",
    "s(x, z, knots=[0, 1])": "'s(x, z, knots=[0, 1])' has knots=[0, 1], but they are a list for one covariate, or a "
    "dict of lists by covariate: knots={'x': [0, 0.5, 1]}.",
    "s(f)": "s(f) needs numbers, but 'f' is categorical. Use bs='re', or by='f'.",
    "s(odd)": "s(odd) needs numbers, but 'odd' holds '1,5' in row 3 (rows count from 0). Convert the column, or "
    "correct that value; for names of levels use bs='re', or by='odd'.",
    "s(words)": "s(words) needs numbers, but 'words' holds them as text, such as ",
    "s(log(f))": "'s(log(f))' is a function of 'log(f)', but 'f' is categorical. Give a column, or a function of one.",
    "s(x) + s(x, bs='cr')": "'s(x)' is in the formula twice, the second time as \"s(x, bs='cr')\". Keep one.",
    "s(x) + x": "s(x) has a part that no penalty sees, and it is a combination of 'x', so they cannot be told apart. A "
    "smooth holds the straight line, and one of several columns the smooths of each: leave one of them out, or write "
    "what a surface adds to curves as ti().",
    "s(x) + s(x, z)": "s(x, z) has a part that no penalty sees, and it is a combination of s(x), so they cannot be "
    "told apart.",
    "s(x, by=nope)": "The formula uses 'nope', but the data have no such column.",
    "s(nope)": "The formula uses 'nope', but the data have no such column.",
    "s(y)": "'y' is the response, so it cannot be in a term too: 'y'.",
    "te(x)": "'te(x)' is a product of one covariate. Write s(x), or name two.",
    "s(x, kk=3)": "'s(x, kk=3)' has an option 'kk', which s() does not know. Did you mean 'k'? Its options are bs, k, ",
    "s(x, bs='xx')": "s(x) has bs='xx', but the bases are ",
    "s(x, k=2.5)": "s(x) has k=2.5, but k is a number of functions, a whole number above zero.",
    "s(x, k='a')": "\"s(x, k='a')\" has k='a', but k must be a number of functions.",
    "s(x, bs=['cr'])": "\"s(x, bs=['cr'])\" has bs=['cr'], but bs must be the name of a basis in quotes.",
    "s(x, select=1)": "'s(x, select=1)' has select=1, but select must be True or False.",
    "s(x, bs='cc', knots=[0.2, 0.8])": "Row ",
}


@pytest.mark.parametrize("term", BAD)
def test_one_sentence(data, term):
    with pytest.raises(ValueError) as refused:
        marglik.fit(f"y ~ {term}", data)
    assert str(refused.value).startswith(BAD[term])
    assert str(refused.value).endswith(".")


ENDS = {
    "s(x, bs='cr', k=4, knots=[0, 0.3, 0.6, 1])": "",
    "s(x, bs='cr', k=4, knots=[-1, 0.3, 0.6, 2])": "",
    "s(x, bs='cr', k=4, knots=[-1, 0.3, 0.6, 0.7])": "s(x) is a straight line above 0.7, where it has no knots; ",
    "s(x, bs='cr', k=3, knots=[0.2, 0.3, 0.7])": "s(x) is a straight line below 0.2 and above 0.7, where it has no "
    "knots; ",
    "te(x, z, k=3, knots={'x': [0.2, 0.3, 1]})": "te(x, z) is a straight line below 0.2, where it has no knots; ",
    "s(x, k=4, knots=[0.2, 0.3, 0.6, 0.7])": "",
}


@pytest.mark.parametrize("term", ENDS)
def test_what_goes_on_beyond_its_knots_is_told(data, term):
    """As in mgcv, knots may lie beyond the data, and data beyond those of a cubic spline, which is straight there."""
    fit = marglik.fit(f"y ~ {term}", data)
    seen = f"'x' reaches from {data['x'].min():g} to {data['x'].max():g}"
    assert fit.notes == ((f"{ENDS[term]}{seen}",) if ENDS[term] else ())
    if "above 0.7" in ENDS[term]:
        curve = fit.effect("s(x)", at={"x": [0.7, 0.75, 0.8, 0.85]})["estimate"]
        np.testing.assert_allclose(np.diff(curve, 2), 0, rtol=0, atol=1e-12)


def test_missing_values_and_bad_settings(data):
    with pytest.raises(ValueError, match=r"'x'.*missing='drop'"):
        marglik.fit("y ~ s(x)", data.assign(x=data["x"].where(data.index > 0)))
    with pytest.raises(ValueError, match="select must be True or False"):
        marglik.fit("y ~ s(x)", data, select="yes")


def test_command_line(data, tmp_path):
    data.to_csv(tmp_path / "data.csv", index=False)
    asked = ["fit", str(tmp_path / "data.csv"), "y ~ s(x) + s(w)", "--json", "--select"]
    found = CliRunner().invoke(main, asked, catch_exceptions=False)
    page, fit = json.loads(found.stdout), marglik.fit("y ~ s(x) + s(w)", data, select=True)
    assert page["log_evidence"] == pytest.approx(fit.log_evidence, rel=1e-12)
    assert page["edf"] == pytest.approx(dict(fit.edf))
