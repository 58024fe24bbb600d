# SPDX-License-Identifier: BSD-3-Clause
"""Smooths whose penalties overlap: mgcv's scores, smoothing parameters, edf and fitted values (gam_products/make.R)."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge, Smooth
from marglik.smooths import s, te, ti
from marglik.smooths.smooth import Smooth as Basis

TRUTH = json.loads((Path(__file__).parents[1] / "data" / "gam_products" / "cases.json").read_text())
ROWS = pd.DataFrame(TRUTH["rows"])
CASES = {f"{c['formula']}, {c['family']}, {c['method']}{', select' * c['select']}": c for c in TRUTH["cases"]}
OPTIONS = {"gaussian": {}, "poisson": {"family": "poisson"}, "binomial": {"family": "bernoulli"}}
OPTIONS["gamma"] = {"family": "gamma", "link": "log"}


@pytest.fixture(scope="module", params=CASES)
def fitted(request):
    case = CASES[request.param]
    formula = re.sub(r"c\(([^)]*)\)", r"[\1]", case["formula"])
    return case, marglik.fit(
        formula, ROWS, reml=case["method"] == "REML", select=case["select"], **OPTIONS[case["family"]]
    )


def scale_of(case, fit):
    """mgcv's scale parameter."""
    h = fit.hyperparameters["estimate"]
    return h["sd(noise)"] ** 2 if case["family"] == "gaussian" else 1 / h.get("shape", 1.0)


def own_scales(fit):
    return [name for name in fit.hyperparameters.index if name not in ("sd(noise)", "shape")]


def test_maximum(fitted):
    """Smoothing parameters beyond 10⁸ stand for infinity, where mgcv stops short."""
    case, fit = fitted
    assert fit.converged
    np.testing.assert_allclose(-fit.log_evidence, case["score"], rtol=1e-10)
    with np.errstate(divide="ignore"):
        sp = scale_of(case, fit) / fit.hyperparameters["estimate"][own_scales(fit)].to_numpy() ** 2
    expected = np.atleast_1d(case["sp"])
    np.testing.assert_array_equal(np.isinf(sp), expected > 1e8)
    finite = np.isfinite(sp)
    np.testing.assert_allclose(sp[finite], expected[finite], rtol=2e-6)
    np.testing.assert_allclose(scale_of(case, fit), case["scale"], rtol=1e-7)
    np.testing.assert_allclose(fit.predict()[:8], case["fitted"], rtol=2e-6)


def test_edf(fitted):
    case, fit = fitted
    if case["family"] == "gamma":  # mgcv counts with Fisher's weights there, and not those of its score
        pytest.skip("another definition")
    np.testing.assert_allclose(fit.edf.iloc[1:], np.atleast_1d(case["edf"]), rtol=1e-6)


def test_score_at_given_smoothing_parameters(fitted):
    case, fit = fitted
    scale = case["at"]["scale"]
    known = {"gaussian": {"sd(noise)": np.sqrt(scale)}, "gamma": {"shape": 1 / scale}}.get(case["family"], {})
    sd = np.sqrt(scale / np.atleast_1d(case["at"]["sp"]))
    found = fit.log_evidence_at({**dict(zip(own_scales(fit), sd, strict=True)), **known})
    np.testing.assert_allclose(found, -case["at"]["score"], rtol=1e-11)


DATA = {name: ROWS[name].to_numpy() for name in ROWS}
PRODUCTS = {
    "two": te(DATA, "x", "z"),
    "selected": te(DATA, "x", "z", select=True),
    "three, centred": te(DATA, "x", "z", "v", k=4),
    "three, selected": te(DATA, "x", "z", "v", k=3, select=True),
    "interaction of three": ti(DATA, "x", "z", "v", k=4),
    "mixed": te(DATA, "x", "z", "g", bs=["tp", "cc", "re"], k=[5, 6, 8]),
    "plane and line": te(DATA, "x", "v", "z", d=[2, 1], bs=["tp", "ps"], k=[8, 6]),
    "by": te(DATA, "x", "z", by="f"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_penalties_are_diagonal_in_the_same_coordinates(name):
    """β = N α + R u covers all of β, N is what no penalty sees, RᵀS_iR = diag(D_·i)."""
    for smooth in PRODUCTS[name]:
        N, R, D = smooth.null, smooth.root, smooth.shares
        assert np.linalg.matrix_rank(np.column_stack([N, R])) == smooth.n_weights == N.shape[1] + R.shape[1]
        for i, S in enumerate(smooth.penalties):
            np.testing.assert_allclose(R.T @ S @ R, np.diag(D[:, i]), rtol=0, atol=1e-11 * np.abs(D[:, i]).max())
            assert np.abs(S @ N).max(initial=0) < 1e-10 * np.linalg.norm(S)


@pytest.mark.parametrize("ratio", [1e-10, 1e-3, 1.0, 1e10])
def test_determinant_of_the_sum_of_penalties(ratio):
    """log|Σ_i S_i/s_i²|₊ = −Σ_j log v_j − 2 log|R|, against one computed penalty by penalty (Wood 2011, App. B)."""
    (smooth,) = PRODUCTS["two"]
    W, s2 = smooth.wiggly, np.array([1.0, ratio])
    v = Smooth(smooth.root, smooth.shares, smooth.scales).covariance(np.sqrt(s2))
    found = -np.log(v).sum() - 2 * np.linalg.slogdet(W.T @ smooth.root)[1]
    first, second = (W.T @ S @ W / x for S, x in zip(smooth.penalties, s2, strict=True))
    big, small = (first, second) if ratio >= 1 else (second, first)
    d, U = np.linalg.eigh(big)
    rank = int(np.sum(d > 1e-11 * d[-1]))
    a, b, c = (P.T @ small @ Q for P, Q in [(U[:, :-rank],) * 2, (U[:, :-rank], U[:, -rank:]), (U[:, -rank:],) * 2])
    eliminated = np.diag(d[-rank:]) + c - b.T @ np.linalg.solve(a, b)
    expected = np.linalg.slogdet(a)[1] + np.linalg.slogdet(eliminated)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_penalties_that_do_not_commute():
    A, B = np.diag([1.0, 2, 3]), np.ones((3, 3)) + np.eye(3)
    C = np.array([[2, 0, 1], [0, 1, 0], [1, 0, 3.0]])
    (plain,) = s(DATA, "x", k=4)
    smooth = Basis("odd", ("x",), plain.basis, (A, B, C), (1.0,) * 3, None, 0, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"odd has 3 penalties that are not diagonal in the same coordinates"):
        _ = smooth.root


def overlapping(X, smooth):
    return Smooth(X, smooth.shares, smooth.scales, smooth.label)


def built(smooth, prior=overlapping, more=(), y=DATA["y"]):
    flat, own = smooth.parts(DATA)
    columns = Flat(np.column_stack([np.ones(len(ROWS)), flat]))
    return LinearModel(Gaussian(), columns + Prior((prior(own, smooth), *more)), y)


def test_one_penalty_is_a_ridge():
    (smooth,) = s(DATA, "x", bs="cr", k=8)
    ridge = built(smooth, lambda X, smooth: Ridge(X, hyperparameter=smooth.scales[0], label=smooth.label))
    one, other = marglik.fit(built(smooth)), marglik.fit(ridge)
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(one.hyperparameters["estimate"], other.hyperparameters["estimate"], rtol=1e-6)
    np.testing.assert_allclose(one.edf, other.edf, rtol=1e-6)


def test_equal_scales_are_the_isotropic_penalty():
    """βᵀ(S_1 + S_2)β/s² is one penalty with one scale: the same evidence at any s, and the same fit."""
    (smooth,) = PRODUCTS["two"]
    d, U = np.linalg.eigh(smooth.wiggly.T @ sum(smooth.penalties) @ smooth.wiggly)
    root = smooth.wiggly @ (U / np.sqrt(d))
    product = built(smooth)
    single = built(smooth, lambda own, smooth: Ridge(smooth.design(DATA) @ root, hyperparameter="s", label="s"))
    fit = marglik.fit(single)
    both = marglik.fit(product)
    noise = fit.hyperparameters["estimate"]["sd(noise)"]
    for scale in (0.0, 1e-2, fit.hyperparameters["estimate"]["s"], 1e2):
        equal = dict.fromkeys(smooth.scales, scale) | {"sd(noise)": noise}
        expected = fit.log_evidence_at({"s": scale, "sd(noise)": noise})
        np.testing.assert_allclose(both.log_evidence_at(equal), expected, rtol=1e-9)
    held = marglik.fit(product, fixed=dict.fromkeys(smooth.scales, fit.hyperparameters["estimate"]["s"]))
    np.testing.assert_allclose(held.hyperparameters["estimate"]["sd(noise)"], noise, rtol=1e-6)
    np.testing.assert_allclose(held.predict(), fit.predict(), rtol=1e-6)
    np.testing.assert_allclose(held.edf["te(x, z)"], fit.edf["s"], rtol=1e-6)


def test_random_effects_as_a_smooth():
    found = marglik.fit("y ~ s(g, bs='re') + te(x, z, k=4)", ROWS)
    expected = marglik.fit("y ~ (1 | g) + te(x, z, k=4)", ROWS)
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(
        sorted(found.hyperparameters["estimate"]), sorted(expected.hyperparameters["estimate"]), rtol=1e-6
    )
    np.testing.assert_allclose(found.predict(), expected.predict(), rtol=1e-7)


def test_units_and_order():
    """Of y and of the covariates, of rows; the scales follow mgcv's scaled penalties, so only y's units show."""
    fit = marglik.fit("y ~ te(x, z, k=4)", ROWS)
    moved = ROWS.assign(y=-1e6 * ROWS["y"] + 3e5, x=1e4 * ROWS["x"] - 7, z=1e-3 * ROWS["z"]).sample(
        frac=1, random_state=1
    )
    other = marglik.fit("y ~ te(x, z, k=4)", moved)
    np.testing.assert_allclose(other.hyperparameters["estimate"], 1e6 * fit.hyperparameters["estimate"], rtol=1e-5)
    np.testing.assert_allclose(other.predict()[np.argsort(moved.index)], -1e6 * fit.predict() + 3e5, rtol=1e-7)
    swapped = marglik.fit("y ~ te(z, x, k=4)", ROWS)
    np.testing.assert_allclose(swapped.log_evidence, fit.log_evidence, rtol=1e-11)


def test_beside_a_grouping_factor():
    """Eliminated level by level, or with an indicator column a level: the same evidence and the same maximum."""
    n_levels = 40
    codes = np.arange(len(ROWS)) * 7 % n_levels
    y = DATA["y"] + np.random.default_rng(0).standard_normal(n_levels)[codes]
    (smooth,) = PRODUCTS["two"]
    levels = RandomEffects(codes, [str(i) for i in range(n_levels)], group="h")
    columns = Ridge(np.eye(n_levels)[codes], hyperparameter="sd(Intercept | h)", label="h")
    found, expected = (marglik.fit(built(smooth, more=(term,), y=y)) for term in (levels, columns))
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-11)
    np.testing.assert_allclose(found.hyperparameters["estimate"], expected.hyperparameters["estimate"], rtol=1e-6)
    np.testing.assert_allclose(found.hyperparameters["se"], expected.hyperparameters["se"], rtol=1e-5)
    np.testing.assert_allclose(found.predict(), expected.predict(), rtol=1e-7)
