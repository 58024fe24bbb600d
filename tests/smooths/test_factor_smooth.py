# SPDX-License-Identifier: BSD-3-Clause
"""Curves for levels whose penalties share scales: mgcv's scores, smoothing parameters, edf, values (gam_fs/make.R)."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.smooths import s, te

TRUTH = json.loads((Path(__file__).parents[1] / "data" / "gam_fs" / "cases.json").read_text())
ROWS = pd.DataFrame(TRUTH["rows"])
CASES = {f"{c['formula']}, {c['family']}, {c['method']}": c for c in TRUTH["cases"]}
DATA = {name: ROWS[name].to_numpy() for name in ROWS}
INFINITE = 1e8
"""mgcv's smoothing parameters beyond this stand for infinity, where it stops short."""


@pytest.fixture(scope="module", params=CASES)
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
