# SPDX-License-Identifier: BSD-3-Clause
"""A place cell's rate along a track: every published number of the case that no spline has (Kramer & Eden, ch. 9)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marglik

FULL = Path(__file__).parent / "data" / "gam_placefield" / "full.npz"
SCALES = ["sd(gp(pos_bin_centre))", "length_scale(gp(pos_bin_centre))"]


def at(published, amp, rho, mean, **more):
    """The process about a given mean, with given amplitude and length scale."""
    data = published.data.assign(known=mean + np.log(published.data["exposure"]))
    values = dict(zip(SCALES, (amp, rho), strict=True))
    return marglik.fit("spikes ~ 0 + gp(pos_bin_centre) + offset(known)", data, family="poisson", fixed=values, **more)


@pytest.fixture(scope="module")
def published(case):
    return case("gam_placefield")


@pytest.fixture(scope="module")
def listed(published):
    """amplitude, length scale and mean → the published values there."""
    entry = published.reference["gp_fixed"]["value"]
    return {tuple(float(part.split("=")[1]) for part in key.split(",")): value for key, value in entry.items()}


def test_maximum_over_amplitude_length_scale_and_mean(published):
    """The case adds 1e-8 to the variance of f, which is 1e-7 nats."""
    formula = "spikes ~ gp(pos_bin_centre) + offset(log(exposure))"
    fit = marglik.fit(formula, published.data, family="poisson", reml=False)
    published.check("gp_laplace_max_log_evidence", fit.log_evidence)
    found = [*fit.hyperparameters["estimate"][SCALES], fit.fixed_effects.loc["Intercept", "estimate"]]
    published.check("gp_laplace_amp_rho_mean", found)


def test_laplace_at_given_values(published, listed):
    for theta, expected in listed.items():
        np.testing.assert_allclose(at(published, *theta).log_evidence, expected["laplace"], rtol=0, atol=1e-5)


def test_importance_sampling_at_given_values(published, listed):
    for theta, expected in listed.items():
        evidence = at(published, *theta, method="importance")._evidence
        error = np.hypot(evidence.std_error, expected["se"])
        assert error < 0.03
        np.testing.assert_allclose(evidence.log_value, expected["exact_is"], rtol=0, atol=4 * error)


def test_importance_sampling_at_the_maximum(published):
    best = published.value("gp_laplace_amp_rho_mean")
    fit = at(published, *best, method="importance", draws=1 << 16)
    published.check("gp_exact_at_laplace_optimum", fit.log_evidence)


def test_polynomials_at_full_resolution(published):
    """Positions are kept to 1e-6 cm, as third differences."""
    kept = np.load(FULL)
    x = kept["third_differences"].astype(np.int64).cumsum().cumsum().cumsum() * 1e-6
    data = pd.DataFrame({"x": x, "y": np.isin(np.arange(len(x)), kept["spikes"]).astype(float)})
    line, parabola = (marglik.fit(f, data, family="poisson", reml=False) for f in ("y ~ x", "y ~ x + I(x**2)"))
    published.check("full_resolution_glm2", line.fixed_effects["estimate"])
    published.check("full_resolution_glm3", parabola.fixed_effects["estimate"])
    published.check("full_resolution_dAIC", 2 * (parabola.log_evidence - line.log_evidence) - 2)
