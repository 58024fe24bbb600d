# SPDX-License-Identifier: BSD-3-Clause
"""Bad input beside the Gaussian: one clear sentence that says what is wrong, where, and what to try."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import marglik
from marglik import Flat, LinearModel, Ridge, RidgeEB
from marglik.interfaces.cli import main
from marglik.likelihoods import Bernoulli, Binomial, Poisson

DATA = pd.DataFrame(
    {
        "k": [1, 0, 2, 4, 1, 3, 2, 5],
        "n": [4, 3, 2, 6, 5, 3, 2, 5],
        "x": [0.1, 1.0, 0.0, 2.0, 0.5, 1.5, 0.2, 0.9],
        "g": list("aabbccdd"),
        "half": [1.0, 0.5, 2.0, 4.0, 1.5, 3.0, 2.0, 5.0],
        "less": [1, 0, -2, 4, 1, 3, -2, 5],
        "none": np.zeros(8, int),
        "three": list("nyynmyny"),
        "same": ["y"] * 8,
        "t": [1.0, 2.0, 0.0, 3.0, 1.0, 0.0, 2.0, 1.0],
    }
)
DATA["p"] = DATA["x"].clip(0.05, 1)
DATA["away"] = DATA["n"] * (DATA["x"] > 0)
DATA["apart"] = (DATA["x"] > 0.6).astype(int)
RHS = "~ x + (1 | g)"
FORMULAS = {
    "a negative count": ("less", "poisson", {}, ("counts: whole numbers from 0", "-2 in row 2", "2 such rows: 2, 6")),
    "half a count": ("half", "negative_binomial", {}, ("counts", "0.5 in row 1", "2 such rows: 1, 4")),
    "a zero for a gamma": ("k", "gamma", {}, ("numbers above 0", "0 in row 1")),
    "a proportion of one": ("p", "beta", {}, ("between 0 and 1, both excluded", "1 in row 1")),
    "two for yes": ("k", "bernoulli", {}, ("0 (no) or 1 (yes)", "2 in row 2")),
    "three words": ("three", "bernoulli", {}, ("'three'", "two levels", "has 3: m, n, y")),
    "one word": ("same", "bernoulli", {}, ("'same'", "two levels", "has 1: y")),
    "words for counts": ("three", "poisson", {}, ("'three' must be numbers", "'n' in row 0")),
    "binomial with one column": ("k", "binomial", {}, ("cbind(successes, failures) ~", "family='bernoulli'")),
    "cbind of counts": ("cbind(k, n)", "poisson", {}, ("Poisson takes one column", "family='binomial'")),
    "cbind by default": ("cbind(k, n)", "gaussian", {}, ("Gaussian takes one column", "family='binomial'")),
    "cbind of three": ("cbind(k, n, x)", "binomial", {}, ("two columns", "cbind(successes, failures)")),
    "cbind of nothing": ("cbind(k, )", "binomial", {}, ("two columns",)),
    "more than cbind": ("cbind(k, n) + 1", "binomial", {}, ("two columns",)),
    "successes beside trials": ("cbind(n, k - n)", "binomial", {}, ("'k - n'", "whole numbers from 0", "-3 in row 0")),
    "half a success": ("cbind(half, n)", "binomial", {}, ("'half'", "0.5 in row 1, 4", "numbers of trials")),
    "words for successes": ("cbind(three, n)", "binomial", {}, ("'three' must be numbers",)),
    "no such column": ("cbind(kk, n)", "binomial", {}, ("'kk'", "no such column", "Did you mean 'k'")),
    "no trials": ("cbind(none, away)", "binomial", {}, ("no trials in row 2", "Leave such rows out")),
    "a link it does not have": ("k", "poisson", {"link": "sqrt"}, ("Poisson has the link 'log' only, not 'sqrt'",)),
    "no such link": ("apart", "bernoulli", {"link": "log"}, ("'logit', 'probit' and 'cloglog', not 'log'",)),
    "no such family": ("k", "poison", {}, ("no family 'poison'", "'poisson'")),
    "no family": ("k", None, {}, ("family must be the name of a family or a likelihood", "None")),
    "a class": ("k", Poisson, {}, ("family must be the name of a family or a likelihood",)),
}


def says(parts, call):
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    left, family, more, parts = FORMULAS[name]
    says(parts, lambda: marglik.fit(f"{left} {RHS}", DATA, family=family, **more))


def test_an_offset_beyond_all_counts():
    rng = np.random.default_rng(3)
    data = {"k": rng.poisson(3, 60), "x": rng.normal(size=60), "o": 30 * rng.normal(size=60), "g": np.arange(60) % 6}
    low, high = f"{data['o'].min():.3g}", f"{data['o'].max():.3g}"
    parts = ("could not be computed", f"The offset reaches from {low} to {high} on the scale of the linear predictor")
    says(parts, lambda: marglik.fit("k ~ s(x) + offset(o)", data, family="poisson"))


def test_an_exposure_of_zero():
    parts = ("offset(log(t)) is -inf in row 2 and 1 more", "t = 0", "above zero")
    says(parts, lambda: marglik.fit("k ~ x + offset(log(t)) + (1 | g)", DATA, family="poisson"))
    fit = marglik.fit("k ~ x + offset(log(t)) + (1 | g)", DATA[DATA["t"] > 0], family="poisson")
    says(("row 2, 5",), lambda: fit.predict(DATA))


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_counts_that_are_all_zero(family):
    says(("all counts are zero", "prior: ridge"), lambda: marglik.fit(f"none {RHS}", DATA, family=family))


def test_a_column_that_separates():
    says(("separates the outcomes", "prior: ridge"), lambda: marglik.fit("apart ~ x", DATA, family="bernoulli"))
    trials = {"trials": DATA["n"].to_numpy(float)}
    model = LinearModel(Binomial(**trials), Flat(np.ones(8)) + Ridge(DATA[["x"]]), DATA["k"].to_numpy(float))
    assert np.isfinite(marglik.fit(model).log_evidence)


def test_separation_beside_a_learned_scale():
    """Under REML the evidence rises with the scale for ever: said, with what to do."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    with pytest.warns(UserWarning, match=r"rises as sd\(ridge\(x\)\) grows without end.*reml=False"):
        fit = marglik.fit("y ~ ridge(x)", {"x": x, "y": (x > 0) * 1}, family="bernoulli")
    assert not fit.converged
    assert "separation" in fit.check().verdict


def test_trials_that_are_none():
    says(("whole number from 0", "1.5 in row 1"), lambda: Binomial(trials=[1.0, 1.5]))
    says(("numbers of trials for 2 rows",), lambda: LinearModel(Binomial(trials=[1, 1]), Ridge(np.eye(3)), np.zeros(3)))
    says(("'logit', 'probit' and 'cloglog', not 'log'",), lambda: Bernoulli("log"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["k ~ x", "--family", "binomial"], "cbind(successes, failures)"),
        (["k ~ x", "--family", "poisson", "--link", "sqrt"], "Poisson has the link 'log' only"),
        (["cbind(k, n) ~ x", "--family", "poisson"], "Poisson takes one column"),
    ],
)
def test_on_the_command_line(arguments, part, tmp_path):
    DATA.to_csv(tmp_path / "data.csv", index=False)
    result = CliRunner().invoke(main, ["fit", str(tmp_path / "data.csv"), *arguments])
    assert result.exit_code == 2
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_link_on_the_command_line(tmp_path):
    DATA.to_csv(tmp_path / "data.csv", index=False)
    formula = "cbind(k, n) ~ x + (1 | g)"
    arguments = ["fit", str(tmp_path / "data.csv"), formula, "--family", "binomial", "--link", "probit", "--json"]
    result = CliRunner().invoke(main, arguments)
    expected = marglik.fit(formula, DATA, family="binomial", link="probit")
    assert result.exit_code == 0
    assert f'"log_evidence": {expected.log_evidence}'[:30] in result.stdout


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("terms", ["x", "x + (1 | g)"])
@pytest.mark.parametrize("family", ["gamma", "beta"])
def test_a_response_without_scatter_is_refused(family, terms, reml):
    x, g = np.linspace(-1, 1, 40), np.arange(40) % 8
    eta = 1 + x + (g % 3 if "g" in terms else 0)
    y, name = (np.exp(eta), "shape") if family == "gamma" else (1 / (1 + np.exp(-eta)), "precision")
    with pytest.raises(ValueError) as refused:
        marglik.fit(f"y ~ {terms}", {"y": y, "x": x, "g": g}, family=family, reml=reml)
    assert str(refused.value) == (
        f"The response is fitted exactly by the terms of the model, so {name} has no size to learn: it goes to "
        f"infinity. Leave a term out, or hold it: fixed={{{name!r}: 100.0}}."
    )


SCATTER = "Check the column, or hold the noise: fixed={'scale': 1.0}."
NO_SIZE = (
    "So many rows are fitted exactly by the terms of the model that scale has no size to learn: it goes to zero. Leave "
    "a term out, take another family, or hold it: fixed={'scale': 1.0}."
)
EXACT = {
    "constant": (lambda x, g: np.full(40, 3.0), f"The response is constant, so there is no noise to learn. {SCATTER}"),
    "a line": (
        lambda x, g: 1 + x,
        f"The response is fitted exactly by the fixed effects, so there is no noise to learn. {SCATTER}",
    ),
    "levels": (
        lambda x, g: g - 2.5 * (g == 3),
        NO_SIZE,
    ),
    "mostly zeros": (lambda x, g: np.where(g < 6, 0.0, np.sin(9 * x)), NO_SIZE),
}


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("name", EXACT)
def test_heavy_tails_need_scatter_too(name, reml):
    x, g = np.linspace(-1, 1, 40), np.arange(40) % 8
    y, sentence = EXACT[name]
    with pytest.raises(ValueError) as refused:
        marglik.fit("y ~ x + (1 | g)", {"y": y(x, g), "x": x, "g": g}, family="student_t", reml=reml)
    assert str(refused.value) == sentence


def test_heavy_tails_of_an_estimator_need_scatter_too():
    X = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError) as refused:
        RidgeEB(family="student_t").fit(X, np.full(40, 3.0))
    assert str(refused.value) == EXACT["constant"][1]


def test_heavy_tails_about_nothing_have_scatter_where_the_response_is_constant():
    """y ~ 0 + x does not fit a constant: with the scale held the weight is the mode of Σ log t(3 − wx)."""
    x = np.linspace(-1, 2, 40)
    fit = marglik.fit("y ~ 0 + x", {"y": np.full(40, 3.0), "x": x}, family="student_t", fixed={"df": 5.0})
    scale = fit.hyperparameters["estimate"]["scale"]
    w = fit.fixed_effects["estimate"]["x"]
    r = (3 - w * x) / scale
    np.testing.assert_allclose((r / (5 + r**2)) @ x, 0, rtol=0, atol=1e-9)


def test_counts_that_are_all_alike_are_poisson_at_most():
    """Unlike a precision, the size of a negative binomial has an end: at infinity it is a Poisson."""
    data = {"y": np.full(40, 3.0), "x": np.linspace(-1, 1, 40)}
    fit, poisson = (marglik.fit("y ~ x", data, family=name) for name in ("negative_binomial", "poisson"))
    np.testing.assert_allclose(fit.log_evidence, poisson.log_evidence, rtol=0, atol=1e-6)
