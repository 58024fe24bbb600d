# SPDX-License-Identifier: BSD-3-Clause
"""Published smooths as prior terms: flat columns XN and weights of XR with one scale. mgcv's scores, sp, edf, scale.

−log evidence = mgcv's REML and ML score,    sp = σ²/s²
"""

import numpy as np
import pytest

import marglik
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, Ridge
from marglik.rows import InMemory
from marglik.smooths import s

TP, CR = {}, {"bs": "cr", "k": 20}
CASES = {
    "gam_gamsim1_tp": ("y", {"x0": TP, "x1": TP, "x2": TP, "x3": TP}),
    "gam_mcycle_cr": ("accel", {"times": CR}),
    "gam_airquality": ("o3", {"Solar.R": TP, "Wind": TP, "Temp": TP}),
    "gam_coal_poisson": ("count", {"year": CR}),
    "gam_placefield": ("spikes", {"pos_bin_centre": {"bs": "cr", "k": 25}}),
}


def model(data, smooths, likelihood, response, offset=None, reml=True):
    designs = [smooth.design(data) for smooth in smooths]
    flat = [X @ smooth.null for X, smooth in zip(designs, smooths, strict=True)]
    prior = Prior([Flat(np.column_stack([np.ones(len(data)), *flat]))])
    for X, smooth in zip(designs, smooths, strict=True):
        prior += Ridge(X @ smooth.roots[0], hyperparameter=smooth.scales[0], label=smooth.label)
    return LinearModel(likelihood, prior, InMemory(data[response].to_numpy(float), offset), reml=reml)


def check(published, criterion, smooths, fit, noise):
    published.check(f"{criterion}_score", -fit.log_evidence)
    scale = fit.hyperparameters["estimate"][[smooth.scales[0] for smooth in smooths]].to_numpy()
    with np.errstate(divide="ignore"):
        sp = noise**2 / scale**2
    expected = np.array(published.value(f"{criterion}_sp"))
    np.testing.assert_array_equal(np.isinf(sp), np.isinf(expected))
    finite = np.isfinite(expected)
    published.check(f"{criterion}_sp", sp[finite], lambda value: np.array(value)[finite])
    edf = [fit.edf[smooth.label] + smooth.null_dimension for smooth in smooths]
    published.check(f"{criterion}_edf_per_smooth", edf, lambda value: list(value.values()))
    published.check(f"{criterion}_scale", noise**2)


@pytest.mark.parametrize("criterion", ["REML", "ML"])
@pytest.mark.parametrize("name", ["gam_gamsim1_tp", "gam_mcycle_cr", "gam_airquality"])
def test_gaussian(case, name, criterion):
    published, (response, terms) = case(name), CASES[name]
    smooths = [s(published.data, x, **asked)[0] for x, asked in terms.items()]
    fit = marglik.fit(model(published.data, smooths, Gaussian(), response, reml=criterion == "REML"))
    check(published, criterion, smooths, fit, fit.hyperparameters["estimate"]["sd(noise)"])
    published.check(f"{criterion}_fitted_first8", fit.predict()[:8])


@pytest.mark.parametrize("name", ["gam_coal_poisson", "gam_placefield"])
def test_counts(case, name):
    published, (response, terms) = case(name), CASES[name]
    data = published.data
    offset = np.log(data["exposure"].to_numpy()) if "exposure" in data else None
    smooths = [s(data, x, **asked)[0] for x, asked in terms.items()]
    fit = marglik.fit(model(data, smooths, Poisson(), response, offset))
    check(published, "REML", smooths, fit, 1.0)
    published.check("REML_fitted_first8", fit.predict()[:8])
