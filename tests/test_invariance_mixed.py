# SPDX-License-Identifier: BSD-3-Clause
"""What must not matter to a Gaussian mixed model: units, order, names, and where a slope's zero lies."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.rows import InMemory
from truth import Truth, reported_covariance

CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@dataclass(frozen=True)
class Problem:
    """Arrays of a model with correlated effects of g; each change of them is one that the fit must follow."""

    kind: str
    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    U: np.ndarray
    g: np.ndarray
    h: np.ndarray
    weights: np.ndarray
    reml: bool
    order: tuple = (0, 1, 2, 3)
    swapped: bool = False

    def fit(self):
        one, q = np.ones(len(self.y)), self.g.max() + 1
        pair = {"Intercept": one, "x": self.x, **({"z": self.z} if self.kind == "triple" else {})}
        pair = dict(reversed(pair.items())) if self.swapped else pair

        def effects(codes, group, correlated=True, **columns):
            Z, levels = np.column_stack([*columns.values()]), [f"{group}{i}" for i in range(codes.max() + 1)]
            return RandomEffects(codes, levels, Z, [*columns], group, correlated=correlated)

        terms = [
            Flat(np.column_stack([one, self.x, self.z]), ["Intercept", "x", "z"]),
            effects(self.g, "g", self.kind != "independent", **pair),
        ]
        if self.kind == "crossed":
            terms += [effects(self.h, "h", Intercept=one, z=self.z), Ridge(self.U, groups=[0, 0, 1], scales=["a", "b"])]
        if self.kind == "nested":
            terms += [effects(self.g + q * (self.h % 2), "g:h", Intercept=one)]
        terms = [terms[i] for i in self.order if i < len(terms)]
        fitted = marglik.fit(LinearModel(Gaussian(), Prior(terms), InMemory(self.y, None, self.weights), self.reml))
        assert fitted.converged
        return fitted


KINDS = ["pair", "triple", "independent", "crossed", "nested", "singular"]


def problem(kind, reml, seed=32):
    rng = np.random.default_rng(seed)
    n = 120
    x, z, U = rng.standard_normal(n), rng.standard_normal(n), rng.standard_normal((n, 3))
    g, h = rng.permutation(np.arange(n) % 10), rng.permutation(np.arange(n) % 6)
    b = rng.standard_normal((10, 3)) @ [[0.9, 0.3, -0.3], [0, 0.7, 0.2], [0, 0, 0.6]]
    if kind == "singular":
        b = np.outer(b[:, 0], [1, 0.5, 0])
    y = 1 + 0.5 * x + b[g, 0] + b[g, 1] * x + b[g, 2] * z * (kind == "triple")
    y += 0.6 * rng.standard_normal(6)[h] * (kind == "crossed") + U @ [0.8, -0.5, 0.3] * (kind == "crossed")
    y += 0.7 * rng.standard_normal((10, 2))[g, h % 2] * (kind == "nested")
    y += rng.standard_normal((6, 1))[h, 0] * z * (kind == "crossed")
    w = rng.uniform(0.5, 2, n)
    return Problem(kind, y + rng.standard_normal(n) / np.sqrt(w), x, z, U, g, h, w, reml)


@cache
def base(kind, reml):
    start = problem(kind, reml)
    return start, start.fit()


EVERY = [*((kind, True) for kind in KINDS), ("pair", False), ("crossed", False), ("singular", False)]


@pytest.fixture(params=EVERY, ids=lambda p: f"{p[0]}, reml={p[1]}")
def pair(request):
    return base(*request.param)


def check_same(fitted, other, factor=lambda name: 1.0, shift=0.0, renamed=str):
    """The same fit, scales multiplied by a factor, correlations as they were, the log evidence moved by a shift."""
    expected, found = fitted.hyperparameters, other.hyperparameters
    assert set(found.index) == {renamed(name) for name in expected.index}
    for name in expected.index:
        for column in ("estimate", "se", "lower", "upper"):
            value = expected.loc[name, column] * factor(name)
            np.testing.assert_allclose(
                found.loc[renamed(name), column], value, rtol=1e-6, atol=1e-6, err_msg=f"{column} of {name}"
            )
        assert found.loc[renamed(name), "at_boundary"] == expected.loc[name, "at_boundary"]
    np.testing.assert_allclose(other.log_evidence - shift, fitted.log_evidence, rtol=1e-9)


def check_same_fit(fitted, other):
    """The same predictions, with their intervals."""
    ours, theirs = fitted.predict(interval=0.9), other.predict(interval=0.9)
    np.testing.assert_allclose(theirs, ours, **CLOSE)


def test_the_singular_case_is_singular():
    table = problem("singular", True).fit().hyperparameters
    assert table.loc["cor(Intercept, x | g)", "estimate"] == 1
    assert table.loc["cor(Intercept, x | g)", "at_boundary"]
    assert not problem("pair", True).fit().hyperparameters["at_boundary"].any()


@pytest.mark.parametrize("c", [1e-5, 1e5])
def test_units_of_y(pair, c):
    start, fitted = pair
    other = replace(start, y=c * start.y).fit()
    freedom = len(start.y) - 3 * start.reml
    check_same(fitted, other, lambda name: 1.0 if name.startswith("cor") else c, -freedom * np.log(c))
    np.testing.assert_allclose(other.predict(interval=0.9), c * fitted.predict(interval=0.9), **CLOSE)
    np.testing.assert_allclose(other.random_effects("g"), c * fitted.random_effects("g"), rtol=1e-6, atol=1e-8 * c)
    np.testing.assert_allclose(other.vcov(), c**2 * fitted.vcov(), rtol=1e-6, atol=1e-9 * c**2)


@pytest.mark.parametrize("c", [1e-5, 1e5, -3.0])
def test_units_of_a_slope(pair, c):
    """Its scale goes the other way; a change of sign turns its correlations; REML loses log |c|, the volume of dβ."""
    start, fitted = pair
    other = replace(start, x=c * start.x).fit()
    ours, theirs = fitted.hyperparameters["estimate"], other.hyperparameters["estimate"]
    for name in ours.index:
        factor = 1 / abs(c) if name == "sd(x | g)" else np.sign(c) if "cor(" in name and "x" in name else 1.0
        np.testing.assert_allclose(theirs[name], ours[name] * factor, rtol=1e-6, err_msg=name)
    shift = np.log(abs(c)) * start.reml
    np.testing.assert_allclose(other.log_evidence + shift, fitted.log_evidence, rtol=1e-9)
    check_same_fit(fitted, other)
    if c > 0:
        check_same(fitted, other, lambda name: 1 / c if name == "sd(x | g)" else 1.0, -shift)
    scaled = other.random_effects("g") * [c if name == "x" else 1.0 for name in other.random_effects("g")]
    np.testing.assert_allclose(scaled, fitted.random_effects("g"), rtol=1e-6, atol=1e-7)


def test_order_of_rows(pair):
    start, fitted = pair
    order = np.random.default_rng(0).permutation(len(start.y))
    parts = {name: getattr(start, name)[order] for name in ("y", "x", "z", "U", "g", "h", "weights")}
    other = replace(start, **parts).fit()
    check_same(fitted, other)
    np.testing.assert_allclose(other.predict(), fitted.predict()[order], **CLOSE)


def test_order_of_levels(pair):
    start, fitted = pair
    g, h = np.random.default_rng(1).permutation(10), np.random.default_rng(2).permutation(6)
    h = np.arange(6) if start.kind == "nested" else h  # the finer factor is made of g and h
    other = replace(start, g=g[start.g], h=h[start.h]).fit()
    check_same(fitted, other)
    check_same_fit(fitted, other)
    ours, theirs = fitted.random_effects("g").to_numpy(), other.random_effects("g").to_numpy()
    np.testing.assert_allclose(theirs[g], ours, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2)])
def test_order_of_terms(pair, order):
    start, fitted = pair
    other = replace(start, order=order).fit()
    check_same(fitted, other)
    check_same_fit(fitted, other)


def test_order_of_coefficients(pair):
    """Names of correlations follow it."""
    start, fitted = pair
    other = replace(start, swapped=True).fit()

    def turned(name):
        if not name.startswith("cor(") or not name.endswith("| g)"):
            return name
        a, b = name[4 : name.index(" |")].split(", ")
        return f"cor({b}, {a} | g)"

    check_same(fitted, other, renamed=turned)
    check_same_fit(fitted, other)


@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_units_of_weights(pair, c):
    """All weights times c: the noise goes with √c, and nothing that is said of y or its mean changes."""
    start, fitted = pair
    other = replace(start, weights=c * start.weights).fit()
    check_same(fitted, other, lambda name: np.sqrt(c) if name == "sd(noise)" else 1.0)
    check_same_fit(fitted, other)
    np.testing.assert_allclose(other.vcov(), fitted.vcov(), rtol=1e-6, atol=1e-9)
    ours, theirs = (f.random_effects("g").attrs["sd"] for f in (fitted, other))
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("by", [2.5, -40.0])
def test_where_a_slope_has_its_zero(pair, by):
    """Correlated effects follow, Σ' = AΣAᵀ with intercept' = intercept − by·slope; without correlations they cannot."""
    start, fitted = pair
    other = replace(start, x=start.x + by).fit()
    if start.kind == "independent":
        assert abs(other.log_evidence - fitted.log_evidence) > 0.01
        return
    np.testing.assert_allclose(other.log_evidence, fitted.log_evidence, rtol=1e-9)
    check_same_fit(fitted, other)
    term = next(t for t in fitted.model.prior if t.label.endswith("| g)"))
    A = np.eye(len(term.coefficients))
    A[0, 1] = -by
    ours, theirs = (reported_covariance(term, f.hyperparameters["estimate"]) for f in (fitted, other))
    np.testing.assert_allclose(theirs, A @ ours @ A.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        other.hyperparameters.loc["sd(noise)"].astype(float),
        fitted.hyperparameters.loc["sd(noise)"].astype(float),
        **CLOSE,
    )


def test_a_constant_added_to_y(pair):
    start, fitted = pair
    other = replace(start, y=start.y + 1e5).fit()
    check_same(fitted, other)
    np.testing.assert_allclose(other.predict() - 1e5, fitted.predict(), rtol=1e-6, atol=1e-8)


FRAME = pd.DataFrame({"x": np.tile([-1.0, 0.2, 0.7, 1.4, 2.0], 24), "a": np.repeat(np.arange(6), 20)})
FRAME["b"] = np.tile(np.repeat(np.arange(4), 5), 6)
_rng = np.random.default_rng(6)
FRAME["y"] = (
    _rng.standard_normal(6)[FRAME["a"]]
    + _rng.standard_normal(6)[FRAME["a"]] * FRAME["x"]
    + _rng.standard_normal((6, 4))[FRAME["a"], FRAME["b"]]
    + _rng.standard_normal((6, 4))[FRAME["a"], FRAME["b"]] * FRAME["x"]
    + 0.7 * _rng.standard_normal(120)
)
WORDS = np.array(["pear", "fig", "kiwi", "plum", "date", "lime"])


def test_names_of_levels_in_a_formula():
    """Numbers, words, categories in another order or with levels that do not occur: the same groups."""
    backwards = pd.CategoricalDtype([*sorted(WORDS)[::-1], "quince"])
    kinds = [
        FRAME,
        FRAME.assign(a=WORDS[FRAME["a"]], b=WORDS[FRAME["b"]]),
        FRAME.assign(a=pd.Categorical(WORDS[FRAME["a"]], dtype=backwards), b=FRAME["b"] * 1000 - 5),
    ]
    fits = [marglik.fit("y ~ x + (x | a/b)", frame) for frame in kinds]
    for other in fits[1:]:
        check_same(fits[0], other)
        check_same_fit(fits[0], other)


def test_ways_to_write_the_same_nesting():
    finest = FRAME.assign(ab=FRAME["a"].astype(str) + "/" + FRAME["b"].astype(str))
    one = marglik.fit("y ~ x + (x | a/b)", FRAME)
    assert not one.hyperparameters["at_boundary"].any()
    for terms in ("(x | a) + (x | a:b)", "(1 + x | a:b) + (1 + x | a)", "(x | b:a) + (x | a)"):
        other = marglik.fit(f"y ~ x + {terms}", FRAME)
        check_same(one, other, renamed=lambda name, t=terms: name.replace("a:b", "b:a") if "b:a" in t else name)
        check_same_fit(one, other)
    other = marglik.fit("y ~ x + (x | a) + (x | ab)", finest)
    check_same(one, other, renamed=lambda name: name.replace("a:b", "ab"))
    check_same_fit(one, other)


@pytest.mark.parametrize("c", [1e2, -1e4, 1e6])
@pytest.mark.parametrize("kind", ["pair", "triple", "crossed", "nested", "singular"])
def test_a_slope_far_from_its_zero(kind, c):
    """Zero c standard deviations away: the maximum of the density with x as it was, and Σ' = AΣAᵀ as far as defined."""
    start, fitted = base(kind, True)
    other = replace(start, x=start.x + c).fit()
    theta = other.optimum.theta[0]
    there = Truth(fitted.model).at(theta)  # the same columns are varied
    np.testing.assert_allclose([other.log_evidence, there.value], fitted.log_evidence, rtol=0, atol=1e-6)
    term = next(t for t in fitted.model.prior if t.label.endswith("| g)"))
    A = np.eye(len(term.coefficients))
    A[0, 1] = -c
    ours, theirs = (
        pd.Series(names.report(fit.optimum.theta)[0], names.reported)
        for fit in (fitted, other)
        for names in [fit.model.hyperparameters]
    )
    far = A @ reported_covariance(term, ours) @ A.T
    np.testing.assert_allclose(theirs["sd(Intercept | g)"], np.sqrt(far[0, 0]), rtol=1e-6)
    np.testing.assert_allclose(theirs["cor(Intercept, x | g)"], -np.sign(c), rtol=0, atol=(10 / c) ** 2)
    for name in ours.index.drop(["sd(Intercept | g)", *(n for n in ours.index if n.startswith("cor(Intercept"))]):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(other.predict(interval=0.9), fitted.predict(interval=0.9), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(other.random_effects("g")["x"], fitted.random_effects("g")["x"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", [1e-6, 1e4])
def test_units_of_a_response_with_heavy_tails(c):
    """Scales go with the units, degrees of freedom stay; log p(y) falls by log c for each row but the intercept."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=60), "g": np.repeat(list("abcdef"), 10), "y": rng.normal(size=60)}
    data["y"][::10] += 6 * rng.standard_t(2, 6)
    own, other = (marglik.fit("y ~ x + (1 | g)", {**data, "y": s * data["y"]}, family="student_t") for s in (1.0, c))
    np.testing.assert_allclose(other.log_evidence + 58 * np.log(c), own.log_evidence, atol=1e-6, rtol=0)
    estimates = own.hyperparameters["estimate"].to_numpy()
    np.testing.assert_allclose(other.hyperparameters["estimate"] / [c, c, 1], estimates, rtol=1e-4)
    assert other.converged


def test_columns_without_a_sign():
    """Differences of unsigned integers do not wrap."""
    plain = {"y": np.random.default_rng(0).normal(size=40), "u": np.arange(40), "v": np.full(40, 30)}
    unsigned = {**plain, "u": plain["u"].astype(np.uint8), "v": plain["v"].astype(np.uint64)}
    own, other = (marglik.fit("y ~ I(u - v) + offset(-u)", data) for data in (plain, unsigned))
    assert own.log_evidence == other.log_evidence
