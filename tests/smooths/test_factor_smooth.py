# SPDX-License-Identifier: BSD-3-Clause
"""Curves for levels whose penalties share scales: mgcv's scores, smoothing parameters, edf, values (gam_fs/make.R)."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.smooths import s, te
from marglik.testing import check_prior

TRUTH = json.loads((Path(__file__).parents[1] / "data" / "gam_fs" / "cases.json").read_text())
ROWS = pd.DataFrame(TRUTH["rows"])
CASES = {f"{c['formula']}, {c['family']}, {c['method']}": c for c in TRUTH["cases"]}
DATA = {name: ROWS[name].to_numpy() for name in ROWS} | {"one": np.ones(len(ROWS))}
INFINITE = 1e8
"""mgcv's smoothing parameters beyond this stand for infinity, where it stops short."""


AT_THE_MODE = {name: CASES[name] for name in CASES if name.endswith("poisson, ML")}


@pytest.fixture(scope="module", params=[name for name in CASES if name not in AT_THE_MODE])
def fitted(request):
    case = CASES[request.param]
    formula = re.sub(r"c\(([^)]*)\)", r"[\1]", case["formula"]).replace("turned", "fs")
    family = {} if case["family"] == "gaussian" else {"family": case["family"]}
    return case, marglik.fit(formula, ROWS, reml=case["method"] == "REML", **family)


def scale_of(case, fit):
    return fit.hyperparameters["estimate"]["sd(noise)"] ** 2 if case["family"] == "gaussian" else 1.0


def own_scales(fit):
    return [name for name in fit.hyperparameters.index if name != "sd(noise)"]


def test_maximum(fitted):
    case, fit = fitted
    assert fit.converged
    np.testing.assert_allclose(-fit.log_evidence, case["score"], rtol=0, atol=1e-7)
    with np.errstate(divide="ignore"):
        sp = scale_of(case, fit) / fit.hyperparameters["estimate"][own_scales(fit)].to_numpy() ** 2
    expected = np.atleast_1d(case["sp"])
    np.testing.assert_array_equal(np.isinf(sp), expected > INFINITE)
    finite = np.isfinite(sp)
    np.testing.assert_allclose(sp[finite], expected[finite], rtol=1e-5)
    np.testing.assert_allclose(fit.predict()[:12], case["fitted"], rtol=5e-6)


def test_edf(fitted):
    case, fit = fitted
    smooths = [label for label in fit.edf.index if label.startswith("s(")]
    np.testing.assert_allclose(fit.edf[smooths], np.atleast_1d(case["edf"]), rtol=1e-5)


def test_score_at_given_smoothing_parameters(fitted):
    case, fit = fitted
    scale = case["at"]["scale"] if case["family"] == "gaussian" else 1.0
    known = {"sd(noise)": np.sqrt(scale)} if case["family"] == "gaussian" else {}
    sd = np.sqrt(scale / np.atleast_1d(case["at"]["sp"]))
    found = fit.log_evidence_at({**dict(zip(own_scales(fit), sd, strict=True)), **known})
    np.testing.assert_allclose(found, -case["at"]["score"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", AT_THE_MODE)
def test_maximum_likelihood_outside_the_gaussian(name):
    """mgcv's ML has flat weights where the joint density is highest; here they maximise the likelihood: more."""
    case = CASES[name]
    at, formula = case["at"], case["formula"].replace("turned", "fs")
    fit = marglik.fit(formula, ROWS, family="poisson", reml=False)
    scales = dict(zip(own_scales(fit), 1 / np.sqrt(at["sp"]), strict=True))
    assert fit.log_evidence_at(scales) > -at["score"] + 1e-3
    held = formula.replace("~", "~ 0 + offset(at) +")
    given = marglik.fit(held, ROWS.assign(at=at["intercept"]), family="poisson", reml=False)
    np.testing.assert_allclose(given.log_evidence_at(scales), -at["score"], rtol=0, atol=1e-9)


def estimates(fit):
    return fit.hyperparameters[["estimate", "se"]]


def dense(smooth, y):
    """A column for every coefficient of every level."""
    codes, own = smooth.codes(DATA), smooth.parts(DATA)[1]
    levels = np.arange(codes.max() + 1)
    X = (own[:, None, :] * (codes[:, None] == levels)[:, :, None]).reshape(len(own), -1)
    groups = np.tile(smooth.basis.groups, len(levels))
    return LinearModel(
        Gaussian(), Flat(np.ones((len(y), 1))) + Ridge(X, label="s(x, g)", groups=groups, scales=smooth.scales), y
    )


def test_level_by_level_is_the_dense_model():
    found = marglik.fit("y ~ s(x, g, bs='fs', k=6)", ROWS)
    expected = marglik.fit(dense(*s(DATA, "x", "g", bs="fs", k=6), DATA["y"]))
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-11)
    np.testing.assert_allclose(estimates(found), estimates(expected), rtol=1e-5)
    np.testing.assert_allclose(found.edf["s(x, g)"], expected.edf["s(x, g)"], rtol=1e-7)
    np.testing.assert_allclose(found.predict(), expected.predict(), rtol=0, atol=1e-8)


def test_closed_form():
    """y ~ N(1β, V), V_ij = Σ_k s_k² b_k(x_i)b_k(x_j) within a level, and noise."""
    (smooth,) = s(DATA, "x", "g", bs="fs", k=4)
    sd, noise, own, one = np.array([0.5, 1.0, 0.3]), 0.3, smooth.parts(DATA)[1], np.ones(len(ROWS))
    V = (own * sd[smooth.basis.groups] ** 2) @ own.T * (DATA["g"][:, None] == DATA["g"]) + noise**2 * np.eye(len(own))
    mean = one * (np.linalg.solve(V, DATA["y"]).sum() / np.linalg.solve(V, one).sum())
    fit = marglik.fit("y ~ s(x, g, bs='fs', k=4)", ROWS, reml=False)
    found = fit.log_evidence_at({**dict(zip(smooth.scales, sd, strict=True)), "sd(noise)": noise})
    np.testing.assert_allclose(found, multivariate_normal(mean, V).logpdf(DATA["y"]), rtol=1e-11)


@pytest.mark.parametrize("asked", [{"k": 6}, {"k": 6, "xt": "cr"}, {"k": 7, "m": 3}, {"xt": "cc"}, {"xt": "ps"}])
def test_coordinates(asked):
    """bᵀSb is the curve's own roughness, what it does not see are powers, and both have mean square one."""
    (smooth,) = s(DATA, "x", "g", bs="fs", **asked)
    basis = smooth.basis
    b, bent = smooth.design(DATA), basis.groups == 0
    np.testing.assert_allclose([(b[:, bent] ** 2).mean(), (b[:, ~bent] ** 2).mean()], 1, rtol=1e-10)
    P, S = basis.turn[:, bent], basis.base.penalties[0]
    roughness = P.T @ S @ P
    np.testing.assert_allclose(roughness, roughness[0, 0] * np.eye(len(roughness)), rtol=0, atol=1e-8 * roughness[0, 0])
    np.testing.assert_allclose(b[:, bent].T @ b[:, ~bent], 0, rtol=0, atol=1e-8)
    powers = np.linalg.qr(np.vander(DATA["x"] - 0.5, (~bent).sum(), increasing=True))[0]
    np.testing.assert_allclose(
        np.abs(b[:, ~bent].T @ powers), np.sqrt(len(b)) * np.eye((~bent).sum()), rtol=0, atol=1e-7
    )


def test_units_and_order():
    formula = "y ~ s(x) + s(x, g, bs='fs', k=6)"
    fit = marglik.fit(formula, ROWS)
    names = {"p": "z", "q": "b", "r": "y", "s": "a", "t": "k"}
    moved = ROWS.assign(y=-1e5 * ROWS["y"] + 3e5, x=1e4 * ROWS["x"] - 7, g=ROWS["g"].map(names))
    moved = moved.sample(frac=1, random_state=1)
    other = marglik.fit(formula.replace("x, g", "g, x"), moved)
    np.testing.assert_allclose(other.hyperparameters["estimate"], 1e5 * fit.hyperparameters["estimate"], rtol=1e-5)
    np.testing.assert_allclose(other.predict()[np.argsort(moved.index)], -1e5 * fit.predict() + 3e5, rtol=1e-7)
    effect = other.effect("s(g, x)", at=moved.loc[[0, 3], ["g", "x"]])["estimate"]
    np.testing.assert_allclose(
        effect, -1e5 * fit.effect("s(x, g)", at=ROWS.loc[[0, 3], ["x", "g"]])["estimate"], rtol=1e-5
    )


def test_a_new_level_has_the_curve_zero():
    """And, as its prior has it, the variance Σ_j s_j² b_j(x)²."""
    fit = marglik.fit("y ~ z + s(x, g, bs='fs', k=6)", ROWS)
    new = pd.DataFrame({"x": [0.2, 0.9], "z": [0.5, 0.1], "g": ["p", "new"]})
    with pytest.raises(ValueError, match=r"'g' has levels that were not in the fit: new\. Use new_levels='population'"):
        fit.predict(new, new_levels="raise")
    found = fit.predict(new, new_levels="population")
    slope = fit.fixed_effects["estimate"]
    np.testing.assert_allclose(found[1], slope["Intercept"] + 0.1 * slope["z"], rtol=1e-10)
    np.testing.assert_allclose(found[0], fit.predict(new[:1])[0], rtol=1e-12)
    (smooth,) = s(DATA, "x", "g", bs="fs", k=6)
    own = smooth.parts({"x": np.array([0.9]), "g": np.array(["new"], object)})[1][0]
    scales = fit.hyperparameters["estimate"][list(smooth.scales)].to_numpy()[smooth.basis.groups]
    effect = fit.effect("s(x, g)", at=new)
    np.testing.assert_allclose(effect["estimate"][1], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(effect["se"][1], np.linalg.norm(scales * own), rtol=1e-8)


def test_saved(tmp_path):
    fit = marglik.fit("count ~ s(x, g, bs='fs', k=5, xt='cr')", ROWS, family="poisson")
    fit.save(tmp_path / "fit.npz")
    again = marglik.load(tmp_path / "fit.npz")
    new = ROWS[["x", "g"]][:7]
    np.testing.assert_allclose(again.predict(new), fit.predict(new), rtol=1e-10)


def test_beside_an_intercept_of_the_same_levels():
    with pytest.raises(ValueError, match=r"\(1 \| g\) and s\(x, g\) cannot be told apart"):
        marglik.fit("y ~ (1 | g) + s(x, g, bs='fs', k=5)", ROWS)


def test_beside_fixed_effects_of_every_level():
    with pytest.raises(
        ValueError, match=r"nothing is left to learn sd\(s\(x, g\): null 1\) from\. Leave out s\(x, g\)"
    ):
        marglik.fit("y ~ g + s(x, g, bs='fs', k=5)", ROWS)


def test_a_level_for_every_row():
    rows = ROWS.assign(row=[f"r{i}" for i in range(len(ROWS))])
    with pytest.raises(ValueError, match=r"so sd\(s\(x, row\): null 1\) and sd\(noise\) cannot be told apart"):
        marglik.fit("y ~ s(x, row, bs='fs', k=5)", rows)


def test_shared_scales_of_random_effects():
    """Coefficients that share a scale, against indicator columns in one ridge a scale."""
    codes = np.arange(len(ROWS)) % 5
    Z = np.column_stack([np.ones(len(ROWS)), DATA["x"], DATA["z"]])
    term = RandomEffects(
        codes, list("abcde"), Z, ["1", "x", "z"], "g", correlated=False, groups=[0, 1, 1], scales=["level", "slopes"]
    )
    X = (Z[:, None] * (codes[:, None] == np.arange(5))[:, :, None]).reshape(len(Z), -1)
    ridge = Ridge(X, label="ridge", groups=np.tile([0, 1, 1], 5), scales=["level", "slopes"])
    one = Flat(np.ones((len(Z), 1)))
    found, expected = (marglik.fit(LinearModel(Gaussian(), one + t, DATA["y"])) for t in (term, ridge))
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-11)
    np.testing.assert_allclose(estimates(found), estimates(expected), rtol=1e-5)
    check_prior(term)
    theta, bar = np.array([0.7, 1.3]), np.arange(9.0).reshape(3, 3)
    slopes = [(bar * term.factor_jvp(theta, e)).sum() for e in np.eye(2)]
    np.testing.assert_allclose(term.factor_vjp(theta, bar), slopes, rtol=1e-14)


@pytest.mark.parametrize("formula", ["y ~ x + s(x, g, bs='fs', k=4)", "y ~ x + s(g, bs='re')"])
def test_a_new_level_with_scales_integrated(formula):
    """The mean is the population's, the variance that of the predictor without the term and E[Σ_j s_j² b_j(x)²]."""
    fit = marglik.fit(formula, ROWS)
    label = formula.split(" + ")[1].split(", bs")[0] + ")"
    full = fit.integrate_hyperparameters()
    new = pd.DataFrame({"x": [0.3], "g": ["new"]})
    found, without = (full.predict(new, interval=0.95, include=w, scale="link") for w in (None, ["fixed effects"]))
    np.testing.assert_allclose(found["mean"], without["mean"], rtol=1e-9)
    other = {"y ~ x + s(g, bs='re')": "y ~ x + (1 | g)"}.get(formula)
    if other:
        expected = marglik.fit(other, ROWS).integrate_hyperparameters().predict(new, interval=0.95, scale="link")
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found["lower"][0] < without["lower"][0] < without["upper"][0] < found["upper"][0], label


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"correlated": True}, "has groups=, scales that coefficients share, so give correlated=False."),
        ({"groups": [0, 2]}, "but groups=[0, 2]. Give the place of each coefficient's scale, from 0, every scale once"),
    ],
)
def test_shared_scales_that_cannot_be(options, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        RandomEffects(
            np.zeros(4, int),
            ["a"],
            np.ones((4, 2)),
            ["u", "v"],
            **{"correlated": False, "groups": [0, 1]} | options,
            scales=["s", "t"],
        )


NUMBERED = {name: place for place, name in zip([30, 4, 11, 2, 7, 19, 5, 3], np.unique(ROWS["g"]), strict=False)}


@pytest.mark.parametrize("formula", ["y ~ s(x, g, bs='fs', k=5)", "y ~ s(g, x, bs='fs', k=5)"])
def test_whole_numbers_are_levels(formula):
    """The model is that of names, level by level, for new rows and pictures too."""
    rows = ROWS.assign(g=ROWS["g"].map(NUMBERED))
    fit, named = marglik.fit(formula, rows), marglik.fit(formula, ROWS)
    assert fit.log_evidence == pytest.approx(named.log_evidence, abs=1e-9)
    np.testing.assert_allclose(fit.predict(rows[:9]), named.predict(ROWS[:9]), rtol=0, atol=1e-6)
    label = fit.source.formula.calls[0].text.split(", bs")[0] + ")"
    assert set(fit.effect(label, n=3)["g"]) == set(rows["g"])
    new = rows[:2].assign(g=[1, 1000])
    assert np.ptp(fit.predict(new, include=[label])) == 0
    with pytest.raises(ValueError, match=r"'g' has levels that were not in the fit: 1, 1000\."):
        fit.predict(new, new_levels="raise")


def test_of_two_columns_of_whole_numbers_the_last_has_the_levels():
    rows = ROWS.assign(g=ROWS["g"].map(NUMBERED), day=np.arange(len(ROWS)) % 7)
    fit, named = (marglik.fit("y ~ s(day, g, bs='fs', k=4)", data) for data in (rows, rows.assign(g=ROWS["g"])))
    assert fit.log_evidence == pytest.approx(named.log_evidence, abs=1e-9)


def test_numbers_that_are_not_whole_are_no_levels():
    with pytest.raises(
        ValueError, match="needs one categorical column beside columns of numbers, but has numbers alone"
    ):
        marglik.fit("y ~ s(x, z, bs='fs', k=4)", ROWS.assign(z=np.linspace(0.1, 0.9, len(ROWS))))


BAD = [
    (s, ["one", "g"], {"bs": "fs"}, "'one' is the same in every row, so s(one, g) has nothing to vary with. Leave it"),
    (s, ["x", "z"], {"bs": "fs"}, "s(x, z) with bs='fs' is a curve for each level, so it needs one categorical column"),
    (s, ["g"], {"bs": "fs"}, "s(g) with bs='fs' is a curve for each level, so it needs one categorical column beside "),
    (s, ["x", "g"], {"bs": "fs", "by": "z"}, "s(x, g) has bs='fs', whose curves nothing multiplies, and by='z'. Leave"),
    (
        s,
        ["x", "g"],
        {"bs": "fs", "xt": "re"},
        "s(x, g) has xt='re', which has no curves. Use 'tp', 'cr', 'cc' or 'ps'.",
    ),
    (s, ["x", "g"], {"bs": "fs", "xt": "q"}, "s(x, g) has xt='q', but the bases are cc, cr, fs, ps, re, tp."),
    (s, ["x"], {"xt": "cr"}, "s(x) gives xt='cr', the basis of curves for levels. Add bs='fs', or leave xt out."),
    (s, ["x", "g"], {"bs": "fs", "k": 200}, "s(x, g) asks for k=200 functions, but 'x' has only 160 distinct values."),
    (te, ["x", "g"], {"bs": "fs"}, "te(x, g) has a margin with bs='fs', which has several penalties. Use bs='re'."),
]


@pytest.mark.parametrize(("term", "names", "asked", "sentence"), BAD, ids=[b[3][:40] for b in BAD])
def test_bad_input(term, names, asked, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        term(DATA, *names, **asked)
