# SPDX-License-Identifier: BSD-3-Clause
"""Smooths in formulas: published cases, each at its tolerance, and fits of mgcv 1.8-41 (data/gam_formulas/make.R)."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marglik

CASES = {
    "gam_gamsim1_tp": ("y ~ s(x0) + s(x1) + s(x2) + s(x3)", "gaussian"),
    "gam_mcycle_cr": ("accel ~ s(times, bs='cr', k=20)", "gaussian"),
    "gam_airquality": ("o3 ~ s(Solar.R) + s(Wind) + s(Temp)", "gaussian"),
    "gam_coal_poisson": ("count ~ s(year, bs='cr', k=20)", "poisson"),
    "gam_placefield": ("spikes ~ s(pos_bin_centre, bs='cr', k=25) + offset(log(exposure))", "poisson"),
}
GAUSSIAN = [name for name, (_, family) in CASES.items() if family == "gaussian"]
FOLDER = Path(__file__).parent / "data" / "gam_formulas"
FITS = json.loads((FOLDER / "fits.json").read_text())
ASKED = {"weighted": {"weights": "w"}, "selected": {"select": True}, "selected_product": {"select": True}}


@pytest.mark.parametrize(("name", "criterion"), [*((n, "REML") for n in CASES), *((n, "ML") for n in GAUSSIAN)])
def test_published(case, name, criterion):
    """−log evidence is mgcv's score, sp = σ²/s² (1/s² outside the Gaussian)."""
    published, (formula, family) = case(name), CASES[name]
    fit = marglik.fit(formula, published.data, family=family, reml=criterion == "REML")
    published.check(f"{criterion}_score", -fit.log_evidence)
    estimates = fit.hyperparameters["estimate"]
    noise = estimates["sd(noise)"] if family == "gaussian" else 1.0
    published.check(f"{criterion}_scale", noise**2)
    expected = np.array(published.value(f"{criterion}_sp"))
    with np.errstate(divide="ignore"):
        sp = noise**2 / estimates[[f"sd({label})" for label in fit.source.special]].to_numpy() ** 2
    np.testing.assert_array_equal(np.isinf(sp), np.isinf(expected))
    finite = np.isfinite(expected)
    published.check(f"{criterion}_sp", sp[finite], lambda value: np.array(value)[finite])
    for label in fit.source.special:
        published.check(f"{criterion}_edf_per_smooth", fit.edf[label], lambda value, label=label: value[label])
    published.check(f"{criterion}_fitted_first8", fit.predict()[:8])


@pytest.fixture(scope="module", params=FITS)
def pair(request):
    """A fit, what mgcv says of it, and the first six rows."""
    theirs = FITS[request.param]
    data = pd.read_csv(FOLDER / f"{theirs['data']}.csv")
    if "fac" in data:
        data["fac"] = data["fac"].astype(str)
    fit = marglik.fit(theirs["formula"], data, family=theirs["family"], **ASKED.get(request.param, {}))
    return fit, theirs, data[:6]


def smooths(pair):
    """Labels, and how closely to agree: where a scale is zero, mgcv's smoothing parameter is only large."""
    fit, theirs, _ = pair
    for ours, label in zip(fit.source.special, theirs["edf"], strict=True):
        gone = fit.hyperparameters["at_boundary"][list(fit.source.special[ours].scales)].any()
        yield ours, label, 1e-4 if gone else 2e-6


def test_score_and_fitted_values(pair):
    fit, theirs, _ = pair
    assert fit.converged
    np.testing.assert_allclose(-fit.log_evidence, theirs["score"], rtol=0, atol=1e-7)
    np.testing.assert_allclose(fit.predict()[:6], theirs["fitted"], rtol=1e-6)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], list(theirs["parametric"].values()), rtol=0, atol=1e-6)


def test_smoothing_parameters(pair):
    fit, theirs, _ = pair
    estimates = fit.hyperparameters["estimate"]
    scales = [name for term in fit.source.special.values() for name in term.scales]
    phi = 1 / estimates["shape"] if "shape" in estimates else estimates.get("sd(noise)", 1.0) ** 2
    np.testing.assert_allclose(phi, theirs["scale"], rtol=1e-6)
    for name, sp in zip(scales, np.ravel(theirs["sp"]), strict=True):
        if estimates[name] > 0:
            np.testing.assert_allclose(phi / estimates[name] ** 2, sp, rtol=1e-4)
        else:
            assert sp > 1e3


def expected_edf(fit):
    """By the expected information of a Gamma, which mgcv takes here and marglik does not: W = shape."""
    model = fit.model
    scale = fit.hyperparameters["estimate"]
    X, precision, owners = [], [], []
    for term in model.prior:
        X.append(term.columns)
        owners += list(term.owners) if term.flat else [term.label] * term.n_weights
        with np.errstate(divide="ignore"):
            sd = np.inf if term.flat else scale[term.hyperparameters()[0].name]
        precision += [1 / sd**2 if sd else np.inf] * term.n_weights
    keep = np.isfinite(precision)
    G = scale["shape"] * np.column_stack(X)[:, keep].T @ np.column_stack(X)[:, keep]
    share = np.linalg.solve(G + np.diag(np.array(precision)[keep]), G).diagonal()
    return pd.Series(share).groupby(np.array(owners)[keep]).sum()


def test_effective_degrees_of_freedom(pair):
    fit, theirs, _ = pair
    edf = expected_edf(fit) if "shape" in fit.hyperparameters.index else fit.edf
    for ours, label, tolerance in smooths(pair):
        np.testing.assert_allclose(edf[ours], theirs["edf"][label], rtol=0, atol=10 * tolerance)


def test_effects_and_their_bands(pair):
    fit, theirs, rows = pair
    for ours, label, tolerance in smooths(pair):
        effect = fit.effect(ours, at=rows)
        np.testing.assert_allclose(effect["estimate"], theirs["effect"][label], rtol=0, atol=tolerance)
        if "shape" not in fit.hyperparameters.index:
            np.testing.assert_allclose(effect["se"], theirs["se"][label], rtol=0, atol=tolerance)


def test_errors_of_the_predictor_and_of_fixed_effects(pair):
    fit, theirs, rows = pair
    if "shape" in fit.hyperparameters.index:
        pytest.skip("mgcv's covariance is that of the expected information")
    band = fit.predict(rows, interval=0.95, scale="link")
    se = (band["upper"] - band["mean"]) / 1.959963984540054
    np.testing.assert_allclose(se, theirs["link_se"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(fit.fixed_effects["se"], theirs["parametric_se"], rtol=0, atol=1e-6)


def test_uncertainty_of_smoothing_parameters(pair):
    """mgcv's correction has a further term, which is positive: ours lies between the two of mgcv."""
    fit, theirs, rows = pair
    if "shape" in fit.hyperparameters.index:
        pytest.skip("mgcv's covariance is that of the expected information")
    for ours, label, tolerance in smooths(pair):
        if tolerance < 1e-4:
            se = fit.effect(ours, at=rows, hyperparameters=True)["se"].to_numpy()
            assert np.all(se >= np.array(theirs["se"][label]) - 1e-6)
            assert np.all(se <= np.array(theirs["unconditional_se"][label]) * (1 + 1e-6))
