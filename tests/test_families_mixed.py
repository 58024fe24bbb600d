# SPDX-License-Identifier: BSD-3-Clause
"""Random effects under every family and link: glmmTMB's likelihoods and estimates (data/glmm_families/make.R)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marglik

DATA_AT = Path(__file__).parent / "data" / "glmm_families"
DATA = pd.read_csv(DATA_AT / "data.csv", dtype={"g": str, "h": str})
FITS = pd.read_csv(DATA_AT / "fits.csv").set_index(["fit", "quantity"])["value"]
MODELS = {
    "gamma_slopes": ("gamma ~ x + z + (x | g)", "gamma", None),
    "gamma_crossed": ("gamma ~ x + z + (1 | g) + (1 | h)", "gamma", None),
    "beta_intercepts": ("beta ~ x + z + (1 | g)", "beta", None),
    "beta_slopes": ("beta ~ x + (x || g)", "beta", None),
    "nbinom_offset": ("counts ~ x + z + (1 | g) + offset(log(e))", "negative_binomial", None),
    "nbinom_slopes": ("counts ~ x + z + (x | g) + offset(log(e))", "negative_binomial", None),
    "poisson_crossed": ("poisson ~ x + z + (1 | g) + (1 | h)", "poisson", None),
    "binomial_probit": ("cbind(probit, trials - probit) ~ x + z + (1 | g)", "binomial", "probit"),
    "binomial_cloglog": ("cbind(cloglog, trials - cloglog) ~ x + z + (x | g)", "binomial", "cloglog"),
    "student": ("t ~ x + z + (1 | g)", "student_t", None),
}
DISPERSION = {  # glmmTMB's, of our own hyperparameter
    "gamma": ("shape", lambda shape: shape**-0.5),
    "beta": ("precision", lambda precision: precision),
    "negative_binomial": ("size", lambda size: size),
    "student_t": ("scale", lambda scale: scale),
}


@pytest.mark.parametrize("name", MODELS)
def test_glmm_tmb(name):
    formula, family, link = MODELS[name]
    fit = marglik.fit(formula, DATA, family=family, link=link, reml=False)
    theirs = FITS[name]
    estimates = fit.hyperparameters["estimate"]
    sd, cor = (estimates[estimates.index.str.startswith(kind)] for kind in ("sd(", "cor("))

    def of(kind):
        return theirs[theirs.index.str.startswith(kind)]

    np.testing.assert_allclose(fit.log_evidence, theirs["logLik"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(sd, of("sd."), rtol=3e-6)
    if len(cor):
        np.testing.assert_allclose(cor, of("cor."), rtol=0, atol=3e-6)
    if family in DISPERSION:
        own, theirs_of = DISPERSION[family]
        np.testing.assert_allclose(theirs_of(estimates[own]), theirs["dispersion"], rtol=3e-6)
    np.testing.assert_allclose(fit.fixed_effects["estimate"], of("beta."), rtol=0, atol=3e-6)
    np.testing.assert_allclose(fit.fixed_effects["se"], of("se."), rtol=3e-6)
