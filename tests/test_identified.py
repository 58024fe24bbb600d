# SPDX-License-Identifier: BSD-3-Clause
"""Hyperparameters of kernels that the data cannot tell: which, in one sentence."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.learn import covariance
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, GaussianProcess

N = 40
x = np.linspace(0, 10, N)
rng = np.random.default_rng(7)
noise = rng.standard_normal(N)
wave = np.sin(x) + 0.3 * noise
RESPONSES = {
    "a straight line": (x + 0.1 * noise, "gp(x)"),
    "a constant beside the intercept": (wave, "gp(x, kernel=RBF() + 0.5)"),
    "a product of the same kernels": (wave, "gp(x, kernel=RBF() * RBF())"),
    "tails of no weight": (wave, "gp(x, kernel=RationalQuadratic())"),
}
SENTENCES = {
    "a straight line": "tell little more than the ratio of length_scale(gp(x)) and sd(gp(x)): hold one",
    "a constant beside the intercept": "The data do not tell constant_value(gp(x))",
    "a product of the same kernels": "The data do not tell length_scale(gp(x))[",
    "tails of no weight": "alpha(gp(x)) is at its limit, inf: kernel=RBF() suffices",
}


def fitted(name, scale=1.0):
    response, term = RESPONSES[name]
    return marglik.fit(f"y ~ {term}", pd.DataFrame({"x": scale * x, "y": response}))


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.filterwarnings("ignore:The data tell little")
def test_the_verdict_names_it(name, scale):
    """In any unit of the inputs."""
    verdict = fitted(name, scale).check().verdict
    assert SENTENCES[name] in verdict
    assert verdict.startswith("The evidence is at a maximum") == (name == "tails of no weight")


def test_a_straight_line_is_the_limit():
    """Under s, ℓ → ∞ with s/ℓ = r the process is a line through a flat intercept with slope N(0, r²)."""
    y, r, sd = x + noise, 0.8, 1.1
    process = LinearModel(Gaussian(), Flat(np.ones(N)) + GaussianProcess(x), y)
    line = LinearModel(Gaussian(), Flat(np.ones(N)) + marglik.Ridge(x - x.mean()), y)
    given = {"sd(gp)": r * 1e4, "length_scale(gp)": 1e4, "sd(noise)": sd}
    limit = marglik.fit(line, fixed={"sd(weights)": r, "sd(noise)": sd}).log_evidence
    np.testing.assert_allclose(marglik.fit(process, fixed=given).log_evidence, limit, rtol=0, atol=1e-3)


def test_without_any_process_in_the_data():
    """An amplitude of zero and a length scale of zero are the same there: noise."""
    data = pd.DataFrame({"x": x, "y": (-1.0) ** np.arange(N) + 0.01 * noise})
    fit, alone = marglik.fit("y ~ gp(x)", data), marglik.fit("y ~ 1", data)
    np.testing.assert_allclose(fit.log_evidence, alone.log_evidence, rtol=0, atol=1e-7)
    zero = fit.hyperparameters.index[fit.hyperparameters["estimate"] == 0]
    sentences = {
        "sd(gp(x))": "gp(x) is not needed; its kernel means nothing",
        "length_scale(gp(x))": "different inputs share nothing, so that gp(x) is noise of each",
    }
    assert len(zero)
    assert all(
        f"{name} is at zero, where the data are explained best: {sentences[name]}" in str(fit.check()) for name in zero
    )


def test_a_coordinate_that_the_evidence_does_not_have_costs_no_other_its_error():
    """As a length scale where the amplitude is zero."""
    hessian = np.array([[[-4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, -2.0]]])
    found = covariance(SimpleNamespace(hessian=hessian, free=np.ones((1, 3), bool)))[0]
    np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], np.linalg.inv([[4.0, -1.0], [-1.0, 2.0]]), rtol=1e-12)
    assert np.isnan(found[1, 1])


def test_what_holds_one_is_converged():
    data = pd.DataFrame({"x": x, "y": wave})
    fit = marglik.fit("y ~ gp(x, kernel=RBF() + 0.5)", data, fixed={"constant_value(gp(x))": 1.0})
    plain = marglik.fit("y ~ gp(x)", data)
    assert fit.converged
    assert "do not tell" not in fit.check().verdict
    np.testing.assert_allclose(fit.log_evidence, plain.log_evidence, rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", [1, 2])
def test_inputs_that_share_nothing(seed):
    counts = np.random.default_rng(seed).poisson(np.exp(1.3 * np.random.default_rng(seed + 7).standard_normal(N)))
    fit = marglik.fit("y ~ gp(x)", pd.DataFrame({"x": x, "y": counts}), family="poisson")
    if fit.hyperparameters.loc["length_scale(gp(x))", "estimate"] == 0:
        assert "different inputs share nothing, so that gp(x) is noise of each" in fit.check().verdict
    else:
        assert fit.converged


def test_lengths_of_a_sum_set_out_apart():
    """With equal starts they would stay equal."""
    term = GaussianProcess(x, "RBF() + RBF()")
    starts = term.starts(1.0)
    assert (starts[:, 1] != starts[:, 2]).all()
    mixed = np.linalg.cholesky(term.covariance(np.array([1.0, 0.5, 6.0])) + 0.01 * np.eye(N)) @ noise
    fit = marglik.fit(LinearModel(Gaussian(), term, mixed))
    one = marglik.fit(LinearModel(Gaussian(), GaussianProcess(x), mixed))
    assert fit.log_evidence > one.log_evidence + 1


def test_a_parameter_beyond_its_limit_moves_nothing():
    """Value, slopes and those of the rows' covariance agree with differences there: all are zero."""
    term = GaussianProcess(x[:6], "RationalQuadratic()")
    theta = np.array([0.8, 1e12, 2.0])
    assert not term.covariance_tangents(theta)[1].any()
    assert not term.covariance_curvatures(theta)[1].any()
    rows = term.on_rows(theta, np.arange(6))
    assert rows.slopes(np.tril(np.ones((6, 6))), np.ones((1, 6)))[1] == 0
    np.testing.assert_array_equal(term.covariance(theta), term.covariance(theta * [1, 10, 1]))
