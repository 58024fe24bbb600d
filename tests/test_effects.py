# SPDX-License-Identifier: BSD-3-Clause
"""Curves and bands against penalised least squares and Newton's method by hand, and their coverage."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.smooths import s
from marglik.validate import Unsupported

N = 90
RNG = np.random.default_rng(8)
X = RNG.uniform(0, 2, N)
DATA = pd.DataFrame({"x": X, "z": RNG.normal(size=N), "g": np.arange(N) % 6})
DATA["v"] = RNG.uniform(size=N)
DATA["y"] = np.sin(3 * X) + 0.3 * RNG.normal(size=N)
DATA["count"] = RNG.poisson(np.exp(0.5 + np.sin(3 * X)))
AT = {"x": [0.1, 0.9, 1.7]}


def penalised(family, log_scale, log_noise=0.0):
    """Weights of an intercept and s(x) at given scales, their covariance, and ∂β̂/∂log s, with dense matrices."""
    (smooth,) = s(DATA, "x")
    Z = np.column_stack([np.ones(N), smooth.design(DATA)])
    y = DATA["y" if family == "gaussian" else "count"].to_numpy(float)
    S = np.zeros((Z.shape[1],) * 2)
    S[1:, 1:] = smooth.penalties[0] / np.exp(2 * log_scale)
    beta = np.zeros(len(S))
    for _ in range(50):
        eta = Z @ beta
        mean, w = (eta, np.full(N, np.exp(-2 * log_noise))) if family == "gaussian" else (np.exp(eta), np.exp(eta))
        unit = np.exp(-2 * log_noise) if family == "gaussian" else 1.0
        H = Z.T @ (w[:, None] * Z) + S
        beta = beta + np.linalg.solve(H, unit * Z.T @ (y - mean) - S @ beta)
    to_noise = np.linalg.solve(H, -2 * S @ beta)  # only σ/s matters
    return smooth, beta, np.linalg.inv(H), np.linalg.solve(H, 2 * S @ beta), to_noise


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_a_curve_with_its_band(family):
    response = "y" if family == "gaussian" else "count"
    fit = marglik.fit(f"{response} ~ s(x)", DATA, family=family)
    estimates = np.log(fit.hyperparameters["estimate"])
    names = list(estimates.index)
    smooth, beta, C, *slopes = penalised(family, *estimates)
    Z = np.column_stack([np.zeros(3), smooth.design({"x": np.array(AT["x"])})])
    found = fit.effect("s(x)", at=AT, interval=0.9)
    np.testing.assert_allclose(found["estimate"], Z @ beta, rtol=1e-6)
    se = np.sqrt(np.einsum("ni,ij,nj->n", Z, C, Z))
    np.testing.assert_allclose(found["se"], se, rtol=1e-6)
    np.testing.assert_allclose(found["upper"], Z @ beta + 1.6448536269514722 * se, rtol=1e-6)

    h, k = 1e-3, len(names)

    def evidence(moved):
        return fit.log_evidence_at(dict(zip(names, np.exp(estimates + moved), strict=True)))

    E = h * np.eye(k)
    hessian = [[evidence(a + b) - evidence(a - b) - evidence(b - a) + evidence(-a - b) for b in E] for a in E]
    V = np.linalg.inv(-np.array(hessian) / (4 * h**2))
    J = Z @ np.column_stack(slopes[:k])
    wide = fit.effect("s(x)", at=AT, hyperparameters=True)
    np.testing.assert_allclose(wide["estimate"], found["estimate"], rtol=1e-12)
    np.testing.assert_allclose(wide["se"], np.sqrt(se**2 + np.einsum("nk,kl,nl->n", J, V, J)), rtol=1e-5)


def test_under_ml_the_band_is_that_of_the_same_scales():
    ml = marglik.fit("y ~ s(x)", DATA, reml=False)
    held = marglik.fit("y ~ s(x)", DATA, fixed=dict(ml.hyperparameters["estimate"]))
    pd.testing.assert_frame_equal(ml.effect("s(x)", at=AT), held.effect("s(x)", at=AT), rtol=1e-6)
    pd.testing.assert_frame_equal(held.effect("s(x)", at=AT, hyperparameters=True), held.effect("s(x)", at=AT))


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_a_curve_is_a_part_of_the_predictor(family, reml):
    fit = marglik.fit(f"{'y' if family == 'gaussian' else 'count'} ~ z + s(x)", DATA, family=family, reml=reml)
    band = fit.predict(AT, include="s(x)", interval=0.95, scale="link")
    found = fit.effect("s(x)", at=AT)
    np.testing.assert_allclose(found[["estimate", "lower", "upper"]], band, rtol=1e-12)
    assert (fit.effect("s(x)", at=AT, hyperparameters=True)["se"] > found["se"]).all()


def test_grids():
    fit = marglik.fit("y ~ s(x) + s(z, k=5, by=v) + s(g, k=4)", DATA)
    curve = fit.effect("s(x)")
    assert list(curve.columns) == ["x", "estimate", "se", "lower", "upper"]
    np.testing.assert_allclose(curve["x"], np.linspace(X.min(), X.max(), 100))
    times = fit.effect("s(z):v", n=4)
    np.testing.assert_array_equal(times["v"], 1.0)
    np.testing.assert_allclose(
        fit.effect("s(z):v", at=times[["z"]].assign(v=2.0))["estimate"], 2 * times["estimate"], rtol=1e-10
    )
    surface = marglik.fit("y ~ s(x, z, k=12)", DATA).effect("s(x, z)", n=3)
    assert len(surface) == 9
    np.testing.assert_allclose(surface["x"][:3], [X.min(), (X.min() + X.max()) / 2, X.max()])


def test_the_effect_of_a_function_of_a_column():
    fit = marglik.fit("y ~ s(log(x), k=6)", DATA)
    again = marglik.fit("y ~ s(u, k=6)", DATA.assign(u=np.log(X)))
    assert list(fit.effect("s(log(x))").columns[:1]) == ["x"]
    np.testing.assert_allclose(
        fit.effect("s(log(x))", at=AT)["estimate"],
        again.effect("s(u)", at={"u": np.log(AT["x"])})["estimate"],
        rtol=1e-9,
    )


def test_effects_sum_to_the_predictor():
    fit = marglik.fit("y ~ z + s(x) + (1 | g)", DATA)
    eta = fit.predict(include=["fixed effects", "(1 | g)"]) + fit.effect("s(x)", at=DATA)["estimate"]
    np.testing.assert_allclose(fit.predict(), eta, rtol=1e-10)
    np.testing.assert_allclose(fit.effect("s(x)", at=DATA)["estimate"].sum(), 0, atol=1e-9, rtol=0)


def test_what_has_no_effect_to_show():
    fit = marglik.fit("y ~ z + s(x)", DATA)
    with pytest.raises(
        ValueError, match=r"'z' is none\..* The smooths are s\(x\)\. Coefficients are in fit\.fixed_effects"
    ):
        fit.effect("z")
    with pytest.raises(ValueError, match="This fit has no smooths"):
        marglik.fit("y ~ z", DATA).effect("s(x)")
    with pytest.raises(ValueError, match="interval must be a probability"):
        fit.effect("s(x)", interval=95)
    with pytest.raises(ValueError, match="n must be a whole number of points"):
        fit.effect("s(x)", n=1)
    with pytest.raises(ValueError, match="The formula uses 'x', but the new data have no such column"):
        fit.effect("s(x)", at={"u": [1.0]})
    with pytest.warns(UserWarning, match="extrapolated"):
        fit.effect("s(x)", at={"x": [9.0]})
    model = marglik.LinearModel(marglik.Gaussian(), marglik.Flat(np.ones(N)) + marglik.Ridge(X), DATA["y"].to_numpy())
    with pytest.raises(Unsupported, match="effect is for smooths of formulas"):
        marglik.fit(model).effect("ridge")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_bands_cover_the_curve_on_average_over_it(family):
    """Nychka (1988): the average over x is near the nominal 95 %; with the uncertainty of θ no lower."""
    rng = np.random.default_rng(5)
    x = np.linspace(0, 1, 150)
    truth = np.sin(2 * np.pi * x) * (1 - x)
    truth -= truth.mean()
    covered, wide = [], []
    for _ in range(100):
        y = truth + 0.4 * rng.normal(size=150) if family == "gaussian" else rng.poisson(np.exp(1 + truth))
        fit = marglik.fit("y ~ s(x)", {"x": x, "y": y}, family=family)
        for out, more in ((covered, False), (wide, True)):
            band = fit.effect("s(x)", at={"x": x}, hyperparameters=more)
            out.append(((band["lower"] < truth) & (truth < band["upper"])).mean())
    assert 0.92 < np.mean(covered) <= np.mean(wide) < 0.98
