# SPDX-License-Identifier: BSD-3-Clause
"""What must not matter: units, the order of rows, the names of levels, the coding of fixed effects, chunks."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.rows import InMemory

CLOSE = {"rtol": 1e-6}


@dataclass(frozen=True)
class Problem:
    """Arrays of a model; each change of them is one that the fit must follow."""

    kind: str
    y: np.ndarray
    flat: np.ndarray
    X: np.ndarray
    codes: np.ndarray
    slopes: np.ndarray
    reml: bool = True
    chunk: int = 1 << 17

    def fit(self):
        flat = Flat(self.flat, [f"f{i}" for i in range(self.flat.shape[1])])
        levels = [f"level {i}" for i in range(self.codes.max() + 1)]
        effects = RandomEffects(self.codes, levels, self.slopes, ("Intercept", "z"), "g")
        prior = {
            "one shared scale": flat + Ridge(self.X),
            "groups": flat + effects,
            "groups and ridge": flat + Ridge(self.X) + effects,
            "counts": flat + effects,
        }[self.kind]
        likelihood = Poisson() if self.kind == "counts" else Gaussian()
        fitted = marglik.fit(LinearModel(likelihood, Prior(prior), InMemory(self.y, chunk=self.chunk), self.reml))
        assert np.all(fitted.converged)
        return fitted


def problem(kind, reml=True):
    rng = np.random.default_rng(21)
    n = 80
    X, z, codes = rng.standard_normal((n, 4)), rng.standard_normal(n), rng.permutation(np.arange(n) % 10)
    slopes = np.column_stack([np.ones(n), z])
    eta = 0.5 + 0.3 * X[:, 0] + np.sum(slopes * (rng.standard_normal((10, 2)) * [0.8, 0.5])[codes], axis=1)
    y = (
        rng.poisson(np.exp(eta)).astype(float)
        if kind == "counts"
        else eta + X @ [1, -1, 0.5, 0] + rng.standard_normal(n)
    )
    flat = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    return Problem(kind, y, flat, X, codes, slopes, reml)


KINDS = ["one shared scale", "groups", "groups and ridge", "counts"]


@pytest.fixture(params=[(kind, reml) for kind in KINDS for reml in (True, False)], ids=lambda p: f"{p[0]}, reml={p[1]}")
def start(request):
    return problem(*request.param)


def scales(fitted):
    table = fitted.hyperparameters
    return {(name, column): table.loc[name, column] for name in table.index for column in ("estimate", "se", "upper")}


def check_same(fitted, other, factor=lambda name: 1.0, shift=0.0):
    """The same fit, scales multiplied by a factor, the log evidence moved by a shift."""
    expected, found = scales(fitted), scales(other)
    for (name, column), value in expected.items():
        np.testing.assert_allclose(found[name, column], value * factor(name), **CLOSE, err_msg=f"{column} of {name}")
    np.testing.assert_allclose(other.log_evidence - shift, fitted.log_evidence, **CLOSE)


@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_units_of_y(start, c):
    """Scales and coefficients follow; the density loses log c for each observation that is not spent on β."""
    if start.kind == "counts":
        return
    fitted, other = start.fit(), replace(start, y=c * start.y).fit()
    freedom = len(start.y) - (3 if start.reml else 0)
    check_same(fitted, other, lambda name: 1.0 if name.startswith("cor(") else c, -freedom * np.log(c))
    ours, theirs = fitted.fixed_effects, other.fixed_effects
    np.testing.assert_allclose(theirs[["estimate", "se"]], c * ours[["estimate", "se"]], **CLOSE)
    np.testing.assert_allclose(other.predict(), c * fitted.predict(), **CLOSE)


@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_units_of_columns(start, c):
    """Of the ridge and of the random slope: their scales go the other way, all else stays."""
    fitted = start.fit()
    other = replace(start, X=c * start.X, slopes=start.slopes * [1, c]).fit()
    check_same(fitted, other, lambda name: 1 / c if name in ("sd(weights)", "sd(z | g)") else 1.0)
    np.testing.assert_allclose(other.predict(), fitted.predict(), **CLOSE)


@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_units_of_fixed_effects(start, c):
    """Coefficients go the other way; under REML the evidence loses log c, the volume of dβ."""
    fitted, other = start.fit(), replace(start, flat=start.flat * [1, c, 1]).fit()
    check_same(fitted, other, shift=-np.log(c) if start.reml else 0.0)
    for column in ("estimate", "se"):
        ours, theirs = fitted.fixed_effects[column], other.fixed_effects[column]
        np.testing.assert_allclose(theirs * [1, c, 1], ours, **CLOSE)


def test_coding_of_fixed_effects(start):
    """Other columns that span the same space: only REML's evidence moves, by log |det A|."""
    A = np.array([[1.0, 2.0, 100.0], [0.0, -3.0, 0.5], [0.0, 0.1, 4.0]])
    fitted, other = start.fit(), replace(start, flat=start.flat @ A).fit()
    check_same(fitted, other, shift=-np.log(abs(np.linalg.det(A))) if start.reml else 0.0)
    beta = A @ other.fixed_effects["estimate"].to_numpy()
    np.testing.assert_allclose(beta, fitted.fixed_effects["estimate"], **CLOSE)
    covariance = A @ other.vcov().to_numpy() @ A.T
    np.testing.assert_allclose(covariance, fitted.vcov(), rtol=1e-5, atol=1e-9)


def test_order_of_rows(start):
    order = np.random.default_rng(0).permutation(len(start.y))
    parts = {name: getattr(start, name)[order] for name in ("y", "flat", "X", "codes", "slopes")}
    fitted, other = start.fit(), replace(start, **parts).fit()
    check_same(fitted, other)
    np.testing.assert_allclose(other.predict(), fitted.predict()[order], **CLOSE)


def test_order_of_levels(start):
    if start.kind == "one shared scale":
        return
    order = np.random.default_rng(1).permutation(10)
    fitted, other = start.fit(), replace(start, codes=order[start.codes]).fit()
    check_same(fitted, other)
    ours, theirs = fitted.random_effects("g").to_numpy(), other.random_effects("g").to_numpy()
    np.testing.assert_allclose(theirs[order], ours, rtol=1e-6, atol=1e-9)


def test_a_constant_added_to_y(start):
    """The intercept takes all of it."""
    if start.kind == "counts":
        return
    fitted, other = start.fit(), replace(start, y=start.y + 1e6).fit()
    check_same(fitted, other)
    moved = other.fixed_effects["estimate"] - [1e6, 0, 0]
    np.testing.assert_allclose(moved, fitted.fixed_effects["estimate"], rtol=1e-6, atol=1e-8)


def test_chunks_of_rows(start):
    fitted, other = start.fit(), replace(start, chunk=7).fit()
    check_same(fitted, other)
    np.testing.assert_allclose(other.log_evidence, fitted.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(other.predict(), fitted.predict(), rtol=1e-8)


def test_names_of_levels_in_a_formula():
    """Numbers, words or categories in another order: the same groups."""
    rng = np.random.default_rng(2)
    g = np.arange(40) % 8
    y = rng.standard_normal(8)[g] + 0.5 * rng.standard_normal(40)
    words = np.array(["pear", "fig", "kiwi", "plum", "date", "lime", "sloe", "nut"])[g]
    kinds = [g, words, pd.Categorical(words, categories=sorted(set(words))[::-1]), g * 1000 - 5]
    fits = [marglik.fit("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": kind})) for kind in kinds]
    for other in fits[1:]:
        check_same(fits[0], other)
        np.testing.assert_allclose(other.predict(), fits[0].predict(), **CLOSE)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_coding_of_a_factor_in_a_formula(family):
    """An intercept with contrasts, or one column a level: the same fit, REML's evidence moved by |det A| = 1."""
    rng = np.random.default_rng(3)
    n = 60
    data = pd.DataFrame({"a": np.array(list("xyz"))[np.arange(n) % 3], "g": np.arange(n) // 6})
    eta = np.array([0.2, 1.0, 1.6])[np.arange(n) % 3] + 0.6 * rng.standard_normal(10)[data["g"]]
    data["y"] = rng.poisson(np.exp(eta)) if family == "poisson" else eta + rng.standard_normal(n)
    one, other = (marglik.fit(f"y ~ {terms} + (1 | g)", data, family=family) for terms in ("a", "0 + a"))
    check_same(one, other)
    np.testing.assert_allclose(other.predict(), one.predict(), **CLOSE)
