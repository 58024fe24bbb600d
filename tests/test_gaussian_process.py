# SPDX-License-Identifier: BSD-3-Clause
"""Gaussian processes: the prior, and evidence and predictions beside scikit-learn's."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, Matern, RationalQuadratic, WhiteKernel
from sklearn.utils.estimator_checks import check_estimator

import marglik
from marglik import GaussianProcessEB
from marglik.kernels import parse, spell, without_scale
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import GaussianProcess, Ridge
from marglik.testing import check_prior, derivative

rng = np.random.default_rng(5)
x = rng.uniform(0, 10, 60)
y = np.sin(x) + 0.3 * rng.standard_normal(60)
NEW = np.linspace(-1, 11, 30)
KERNELS = {
    "RBF()": [0.8, 1.3],
    "Matern(nu=1.5)": [0.8, 2.0],
    "Matern(nu=2.5)": [0.8, 2.0],
    "RationalQuadratic()": [0.8, 1.5, 0.7],
    "ExpSineSquared()": [0.8, 1.2, 6.0],
    "RBF() + 0.5 * Matern(nu=0.5)": [0.8, 1.3, 0.5, 2.0],
    "RBF() * ExpSineSquared()": [0.8, 5.0, 1.2, 6.0],
}
COUNTS = np.array([40, 37, 29, 12, 4, 3, 9, 19, 77, 82, 33])  # Stan's gp_pois_regr, at −10, −8, …, 10


def gp_regressor(term, theta, points, response):
    kernel = term.fitted_kernel(theta[:-1]) + WhiteKernel(theta[-1] ** 2)
    return GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(points, response)


@pytest.mark.parametrize("kernel", KERNELS)
def test_evidence_and_predictions_are_scikit_learns(kernel):
    term = GaussianProcess(x, kernel, label="gp(x)")
    names = [h.name for h in term.hyperparameters()]
    theta = np.array([*KERNELS[kernel], 0.3])
    fit = marglik.fit(LinearModel(Gaussian(), term, y), fixed=dict(zip([*names, "sd(noise)"], theta, strict=True)))
    other = gp_regressor(term, theta, x[:, None], y)
    np.testing.assert_allclose(fit.log_evidence, other.log_marginal_likelihood_value_, rtol=0, atol=1e-9)
    mean, sd = other.predict(NEW[:, None], return_std=True)
    found = fit.predict({"gp(x)": NEW}, interval=0.95)
    np.testing.assert_allclose(found["mean"], mean, rtol=0, atol=1e-9)
    spread = ((found["upper"] - found["mean"]) / 1.959963984540054) ** 2
    np.testing.assert_allclose(spread, sd**2 - theta[-1] ** 2, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_derivatives_of_the_covariance(kernel):
    term, theta = GaussianProcess(x[:7], kernel), np.array(KERNELS[kernel])
    first, second = term.covariance_tangents(theta), term.covariance_curvatures(theta)
    for k, e in enumerate(np.eye(len(theta))):
        slopes = derivative(lambda t, e=e: term.covariance(theta + t * e), 0.05)
        bends = derivative(lambda t, e=e: term.covariance_tangents(theta + t * e), 0.05)
        np.testing.assert_allclose(first[k], slopes, rtol=0, atol=1e-8)
        np.testing.assert_allclose(second[k], bends, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kernel", ["RBF()", "RationalQuadratic()", "Matern(nu=2.5)"])
def test_contract(kernel):
    check_prior(GaussianProcess([0.0, 1.0, 1.0, 3.0, 7.0], kernel), [0.7, 1.2, 0.8][: 1 + len(KERNELS[kernel][1:])])


def test_maximum_is_that_of_scikit_learn_in_any_units_and_order():
    fit = marglik.fit(LinearModel(Gaussian(), GaussianProcess(x), y))
    other = GaussianProcessRegressor(ConstantKernel() * RBF() + WhiteKernel(), n_restarts_optimizer=3, random_state=0)
    best = other.fit(x[:, None], y).log_marginal_likelihood_value_
    np.testing.assert_allclose(fit.log_evidence, best, rtol=0, atol=1e-6)
    order = rng.permutation(60)
    moved = marglik.fit(LinearModel(Gaussian(), GaussianProcess(1e-3 * x[order] + 5), 1e4 * y[order]))
    np.testing.assert_allclose(moved.log_evidence, fit.log_evidence - 60 * np.log(1e4), rtol=1e-9)
    sizes = moved.hyperparameters["estimate"].to_numpy() / fit.hyperparameters["estimate"].to_numpy()
    np.testing.assert_allclose(sizes, [1e4, 1e-3, 1e4], rtol=1e-5)


def test_repeated_inputs_share_a_weight():
    twice, both = np.repeat(x[:20], 2), np.repeat(y[:20], 2) + 0.1 * rng.standard_normal(40)
    term, theta = GaussianProcess(twice), np.array([0.8, 1.3, 0.3])
    assert term.n_weights == 20
    values = dict(zip(["sd(gp)", "length_scale(gp)", "sd(noise)"], theta, strict=True))
    fit = marglik.fit(LinearModel(Gaussian(), term, both), fixed=values)
    other = gp_regressor(term, theta, twice[:, None], both)
    np.testing.assert_allclose(fit.log_evidence, other.log_marginal_likelihood_value_, rtol=0, atol=1e-9)


def test_counts_as_published():
    """posteriordb's gp_pois_regr: the maximum of Laplace's evidence."""
    model = LinearModel(Poisson(), GaussianProcess(np.arange(-10.0, 11.0, 2.0)), COUNTS)
    fit = marglik.fit(model)
    np.testing.assert_allclose(fit.log_evidence, -45.602907, rtol=0, atol=1e-6)
    np.testing.assert_allclose(fit.hyperparameters["estimate"], [2.85596, 5.56684], rtol=1e-5)
    held = marglik.fit(model, fixed={"sd(gp)": 3.0, "length_scale(gp)": 3.0})
    np.testing.assert_allclose(held.log_evidence, -50.566419659, rtol=0, atol=1e-6)


def test_laplace_equals_that_of_the_equivalent_basis():
    places = np.arange(11.0)
    term, theta = GaussianProcess(places), np.array([1.5, 1.2])
    fit = marglik.fit(LinearModel(Poisson(), term, COUNTS), fixed={"sd(gp)": 1.5, "length_scale(gp)": 1.2})
    basis = Ridge(np.linalg.cholesky(term.covariance(theta)))
    other = marglik.fit(LinearModel(Poisson(), basis, COUNTS), fixed={"sd(weights)": 1.0})
    np.testing.assert_allclose(fit.log_evidence, other.log_evidence, rtol=0, atol=1e-9)


def test_formula_effect_and_file(tmp_path):
    data = pd.DataFrame({"t": x, "z": x[::-1].copy(), "y": y + 3})
    fit = marglik.fit("y ~ gp(t, kernel=Matern(nu=1.5))", data)
    assert list(fit.hyperparameters.index) == ["sd(gp(t))", "length_scale(gp(t))", "sd(noise)"]
    np.testing.assert_allclose(fit.predict(data), fit.predict(), rtol=0, atol=1e-12)
    effect = fit.effect("gp(t)", at=data)["estimate"].to_numpy()
    only = fit.predict(data, include=["gp(t)"])
    np.testing.assert_allclose(effect, only, rtol=0, atol=1e-10)
    fit.save(tmp_path / "fit.marglik")
    np.testing.assert_array_equal(marglik.load(tmp_path / "fit.marglik").predict(data), fit.predict(data))
    several = GaussianProcess(data[["t", "z"]].to_numpy(), RBF([1.0, 1.0]), "gp(t, z)", ("t", "z"))
    names = [h.name for h in several.hyperparameters()]
    assert names == ["sd(gp(t, z))", "length_scale(gp(t, z))[t]", "length_scale(gp(t, z))[z]"]


@pytest.mark.parametrize(
    "kernel",
    [RBF(1 / 3), ConstantKernel(2.0, "fixed") * Matern([0.1, 2], nu=1.5), RationalQuadratic() + ExpSineSquared() ** 2],
)
def test_text_of_a_kernel_has_all_digits(kernel):
    points = np.array([[0.0, 1.0], [2.5, 0.3], [4.0, 4.5]])
    np.testing.assert_array_equal(parse(spell(kernel))(points), kernel(points))
    np.testing.assert_array_equal(parse(spell(kernel)).theta, kernel.theta)


@pytest.mark.parametrize(
    ("called", "written"),
    [
        ("Exponentiation(RBF(), 2)", "RBF()**2"),
        ("Sum(RBF(), Product(Matern(), DotProduct()))", "RBF() + Matern() * DotProduct()"),
    ],
)
def test_names_of_operators(called, written):
    assert parse(called) == parse(written)


@pytest.mark.filterwarnings("ignore:The data tell little more than the ratio")  # rounding says whether it bends
def test_sine_has_only_a_ratio():
    """As s and ℓ grow with one ratio, s² exp(−2 sin²/ℓ²) is a sine beside the intercept."""
    rng = np.random.default_rng(5)
    inputs = rng.uniform(0, 5, 60)
    response = np.sin(2 * inputs) + 0.2 * rng.standard_normal(60)
    fit = marglik.fit("y ~ gp(x, kernel=ExpSineSquared())", {"x": inputs, "y": response})
    assert "little more than the ratio of length_scale(gp(x)) and sd(gp(x))" in fit.check().verdict
    np.testing.assert_allclose(fit.hyperparameters["estimate"]["period(gp(x))"], np.pi, rtol=0.03)


def test_scale_of_a_kernel_is_the_amplitude():
    assert without_scale(2.0 * RBF(3.0)) == RBF(3.0)
    assert GaussianProcess(x, ConstantKernel() * RBF()).hyperparameters() == GaussianProcess(x).hyperparameters()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            "RBF() + WhiteKernel()",
            "has a WhiteKernel, but the noise is the likelihood's, as sd\\(noise\\). Leave it out",
        ),
        ("RFB()", "names 'RFB'. Did you mean 'RBF'"),
        ("PairwiseKernel()", "DotProduct, ConstantKernel; they may be joined by"),
        ("Sum(RBF())", "names 'Sum'"),
        ("RBF(", "could not be understood"),
        ("__import__('os')", "names '__import__'"),
        ("RBF(sigma=1)", "has options that RBF does not take"),
        ("RBF().theta", "may hold kernels, numbers"),
        (RBF([1.0, 2.0]), "but there are 1 inputs. Give one for all of them, or one each"),
    ],
)
def test_bad_kernels(kernel, message):
    with pytest.raises(ValueError, match=message):
        GaussianProcess(x, kernel)


@pytest.mark.parametrize("kernel", ["ExpSineSquared()", "ExpSineSquared(periodicity=2.0)"])
def test_periods_are_found(kernel):
    """From far off: as high as from the truth, where scikit-learn's search starts."""
    rng = np.random.default_rng(0)
    inputs = np.sort(rng.uniform(0, 5, 80))
    response = np.sign(np.sin(9 * inputs)) + 0.3 * rng.standard_normal(80)
    fit = marglik.fit(f"y ~ 0 + gp(x, kernel={kernel})", {"x": inputs, "y": response})
    near = 1.0 * ExpSineSquared(0.5, 2 * np.pi / 9) + WhiteKernel(0.1)
    best = GaussianProcessRegressor(near).fit(inputs[:, None], response).log_marginal_likelihood_value_
    assert fit.log_evidence > best - 1e-6
    np.testing.assert_allclose(fit.hyperparameters["estimate"]["period(gp(x))"], 2 * np.pi / 9, rtol=0.02)


def test_categorical_input():
    with pytest.raises(ValueError, match="is a function of numbers, but 'g' is categorical"):
        marglik.fit("y ~ gp(g)", pd.DataFrame({"g": list("abcd"), "y": [1.0, 2.0, 4.0, 3.0]}))


def test_estimator_is_scikit_learns():
    model = GaussianProcessEB(fit_intercept=False).fit(x[:, None], y)
    noise = float(model.hyperparameters_["estimate"]["sd(noise)"])
    other = GaussianProcessRegressor(model.kernel_ + WhiteKernel(noise**2), alpha=0.0, optimizer=None).fit(
        x[:, None], y
    )
    np.testing.assert_allclose(model.log_evidence_, other.log_marginal_likelihood_value_, rtol=0, atol=1e-8)
    for own, theirs in zip(model.predict(NEW[:, None], True), other.predict(NEW[:, None], True), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=0, atol=1e-8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The process fits the response exactly")
@pytest.mark.filterwarnings("ignore:The data tell little more than the ratio")
def test_estimator_contract():
    """Some of its responses are straight lines, others without noise."""
    check_estimator(GaussianProcessEB(), on_skip=None)


@pytest.mark.slow
def test_an_evidence_that_rises_to_where_the_mode_is_lost():
    """Laplace's under Student's t, as it may: said, with the way out, which the check finds good."""
    data = pd.read_csv(Path(__file__).parent / "data" / "gp_student_t" / "data.csv")
    with pytest.warns(UserWarning, match="where the mode of the weights is lost.*method='variational'"):
        fit = marglik.fit("y ~ gp(x)", data, family="student_t")
    assert not fit.converged
    assert fit.check().verdict.startswith("Do not trust the numbers.")
    bound = marglik.fit("y ~ gp(x)", data, family="student_t", method="variational")
    assert bound.converged
    assert abs(bound.check().approximation.gap) < 0.1
