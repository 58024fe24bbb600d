# SPDX-License-Identifier: BSD-3-Clause
"""Fits whose best covariance is singular: correlations of ±1, scales of zero, coefficients that span a plane.

The truth is a maximum of the density of y over factors by SciPy's BFGS, from random covariances; and the conditions
that a maximum over Σ ≥ 0 meets: with Λ = ∂ log p/∂Σ, ΛΣ = 0 and Λ ≤ 0 on the null space of Σ.
"""

from functools import cache

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import minimize

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects
from truth import Truth, best_at, reported_covariance, root

LEVELS, EACH = 8, 5


def effects(codes, group, correlated=True, **columns):
    names = [f"{group}{i}" for i in range(codes.max() + 1)]
    return RandomEffects(codes, names, np.column_stack([*columns.values()]), [*columns], group, correlated=correlated)


def problem(kind, seed, reml=True):
    """Data with effects of rank zero, one or two among the levels of g, by turns."""
    rng = np.random.default_rng(seed)
    n = LEVELS * EACH
    g, h = np.arange(n) % LEVELS, np.arange(n) // 4 % 5
    (x, z), one = rng.standard_normal((2, n)), np.ones(n)
    pair = {"Intercept": one, "x": x}
    prior = (
        Flat(np.column_stack([one, x]))
        + {
            "pair": effects(g, "g", **pair),
            "triple": effects(g, "g", **pair, z=z),
            "crossed": effects(g, "g", **pair) + effects(h, "h", Intercept=one, z=z),
            "independent": effects(g, "g", correlated=False, **pair),
        }[kind]
    )
    y, slopes, b = rng.standard_normal(n), rng.standard_normal(3), rng.standard_normal(LEVELS)
    if seed % 3 == 0:
        y += 0.6 * b[g] * (slopes[0] + slopes[1] * x + slopes[2] * z * (kind == "triple"))
    if seed % 3 == 1:
        y += 0.6 * b[g] + 0.5 * rng.standard_normal(LEVELS)[g] * x
    return LinearModel(Gaussian(), prior, y, reml)


class Dense:
    """−log p as a function of the entries of all factors in units of the noise, which is at its best.

        log p = −½ [m log(2πq/m) + m + log|I + ΛᵀGΛ| + log|FᵀF|]    (ML: without |FᵀF|)
        q = |ỹ|² − cᵀΛu,    u = (I + ΛᵀKΛ)⁻¹Λᵀc

    Λ has each term's factor once a level; A and ỹ are Z and y in an orthonormal basis of what is orthogonal to F;
    K = AᵀA, c = Aᵀỹ; G is K, or ZᵀZ under ML; m = n − f, or n.
    """

    def __init__(self, model):
        self.truth = truth = Truth(model)
        blocks = truth.blocks[:-1]
        self.templates = np.array(
            [
                block_diag(*(c.repeated(t if c is b else np.zeros(t.shape)) for c in blocks))
                for b in blocks
                for t in b.templates
            ]
        )
        F, Z = truth.X, np.hstack([b.columns for b in blocks])
        Q, R = np.linalg.qr(F, mode="complete")
        A, y = Q[:, F.shape[1] :].T @ Z, Q[:, F.shape[1] :].T @ model.rows.y
        self.K, self.c, self.total = A.T @ A, A.T @ y, y @ y
        self.G = self.K if model.reml else Z.T @ Z
        self.m = truth.freedom
        flat = 2 * np.log(np.abs(np.diag(R))).sum() if model.reml else 0.0
        self.constant = self.m * (1 + np.log(2 * np.pi / self.m)) + flat

    def quadratic(self, factor):
        """q, and r and u of its slope −2 r uᵀ in Λ."""
        scaled = self.K @ factor
        u = np.linalg.solve(np.eye(len(factor)) + factor.T @ scaled, factor.T @ self.c)
        return self.total - u @ (factor.T @ self.c), self.c - scaled @ u, u

    def noise(self, theta):
        return np.sqrt(self.quadratic(np.tensordot(theta, self.templates, 1))[0] / self.m)

    def __call__(self, theta):
        factor = np.tensordot(theta, self.templates, 1)
        q, r, u = self.quadratic(factor)
        scaled = self.G @ factor
        H = np.eye(len(factor)) + factor.T @ scaled
        slope = scaled @ np.linalg.inv(H) - np.outer(r, u) * (self.m / q)
        value = (self.m * np.log(q) + np.linalg.slogdet(H)[1] + self.constant) / 2
        return value, np.tensordot(self.templates, slope, 2)

    def best(self, n, seed=0):
        """The best value from n random starts of any size and sign, and its factors."""
        rng = np.random.default_rng(seed)
        starts = 10 ** rng.uniform(-1.5, 0.5, (n, 1)) * rng.standard_normal((n, len(self.templates)))
        found = [minimize(self, s, jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 150}) for s in starts]
        top = min(found, key=lambda r: r.fun)
        theta = self.noise(top.x) * np.append(top.x, 1.0)
        return -top.fun, self.truth.factors(theta)[:-1]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("kind", ["pair", "triple", "crossed", "independent"])
def test_the_density_that_is_searched(kind, reml):
    """Value and slope against the covariance written out."""
    dense = Dense(problem(kind, 0, reml))
    theta = np.random.default_rng(1).standard_normal(len(dense.templates))
    noise = dense.noise(theta)
    density = dense.truth.at(noise * np.append(theta, 1.0))
    value, slope = dense(theta)
    np.testing.assert_allclose(-value, density.value, rtol=1e-10)
    np.testing.assert_allclose(-slope, density.gradient[:-1] * noise, rtol=1e-8, atol=1e-9)


RANKS = {  # of Σ, by term
    ("pair", 0): [1],
    ("pair", 1): [1],
    ("pair", 2): [1],
    ("pair", 3): [1],
    ("pair", 6): [0],
    ("pair", 8): [1],
    ("pair", 9): [1],
    ("pair", 12): [2],
    ("triple", 0): [1],
    ("triple", 1): [2],
    ("triple", 8): [1],
    ("triple", 10): [2],
    ("crossed", 1): [1, 1],
    ("crossed", 4): [2, 2],
    ("crossed", 5): [1, 2],
    ("crossed", 6): [0, 1],
    ("independent", 0): [1],
    ("independent", 6): [0],
    ("independent", 7): [2],
}


@cache
def fitted(kind, seed, reml=True):
    return marglik.fit(problem(kind, seed, reml))


def covariances(fit):
    """Label → Σ as reported."""
    values = fit.hyperparameters["estimate"]
    return {t.label: reported_covariance(t, values) for t in fit.model.prior if t.grouped}


def rank(S):
    d = np.linalg.eigvalsh(S)
    return int((d > 1e-9 * max(d[-1], 1e-3)).sum())


def check_maximum(fit, atol=1e-6):
    """ΛL = 0, Λ ≤ 0 where Σ is zero, no slope in the noise; and log_evidence is the density at what is reported."""
    values = fit.hyperparameters["estimate"]
    density = Truth(fit.model).at_values(values)
    np.testing.assert_allclose(fit.log_evidence, density.value, rtol=1e-9)
    for term in (t for t in fit.model.prior if t.grouped):
        label, S = term.label, reported_covariance(term, values)
        slope = density.slopes[label] * (1 if term.correlated else np.eye(len(S)))
        np.testing.assert_allclose(slope @ root(S), 0, atol=atol, err_msg=label)
        d, U = np.linalg.eigh(S)
        null = U[:, d <= 1e-9 * max(d[-1], 1e-3)]
        assert np.linalg.eigvalsh(null.T @ slope @ null).max(initial=-np.inf) <= atol, label
    np.testing.assert_allclose(density.gradient[-1], 0, atol=atol)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("kind", "seed"), RANKS)
def test_singular_fits(kind, seed, reml):
    model = problem(kind, seed, reml)
    fit = fitted(kind, seed, reml)
    assert fit.converged
    best, factors = Dense(model).best(2)
    assert fit.log_evidence >= best - 1e-6
    ranks = [rank(S) for S in covariances(fit).values()]
    assert ranks == (RANKS[kind, seed] if reml else [rank(L @ L.T) for L in factors])
    check_maximum(fit)
    table = fit.hyperparameters
    for term, r in zip((t for t in model.prior if t.grouped), ranks, strict=True):
        check_report(table, term, r)


def check_report(table, term, r):
    """Zeros and correlations of ±1 are exact and said to be at the boundary; inside, nothing is."""
    g, names = term.group, term.coefficients
    sds = table.loc[[f"sd({c} | {g})" for c in names]]
    zero = sds["estimate"] == 0
    np.testing.assert_array_equal(sds["at_boundary"], zero)
    assert sds["se"].isna().tolist() == zero.tolist()
    assert zero.all() == (r == 0)
    if not term.correlated:
        assert zero.sum() == len(names) - r
        return
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            row = table.loc[f"cor({names[i]}, {names[j]} | {g})"]
            if zero.iloc[i] or zero.iloc[j]:
                assert np.isnan(row["estimate"])
            elif r == 1:
                assert abs(row["estimate"]) == 1
                assert row["at_boundary"]
                assert np.isnan(row["se"])
            elif r == len(names):
                assert abs(row["estimate"]) < 1
                assert not row["at_boundary"]
                assert row["se"] > 0
                assert -1 < row["lower"] < row["estimate"] < row["upper"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize(("kind", "seed"), RANKS)
def test_nothing_better_from_two_hundred_covariances(kind, seed, reml):
    best, _ = Dense(problem(kind, seed, reml)).best(200, seed=1)
    assert fitted(kind, seed, reml).log_evidence >= best - 1e-6


# Data whose levels agree exactly in one coefficient.

PATTERN = np.array([-1.0, 1, 1, -1])  # x within a level; the noise lies along what is orthogonal to it and to 1
NOISE = np.array([[1.0, 1, -1, -1], [1, -1, 1, -1]])


def level_means(intercepts, slopes, correlated=True, reml=True):
    """Levels with given intercepts and slopes, and noise that says nothing of either."""
    q = len(intercepts)
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((q, 2)) @ NOISE
    y = (np.array(intercepts)[:, None] + np.array(slopes)[:, None] * PATTERN + noise).reshape(-1)
    x, one = np.tile(PATTERN, q), np.ones(4 * q)
    term = effects(np.repeat(np.arange(q), 4), "g", correlated, Intercept=one, x=x)
    return LinearModel(Gaussian(), Flat(np.column_stack([one, x])) + term, y, reml)


DEVIATIONS = np.array([-2.0, 1.5, 0.7, -1.1, 3.0, -0.4])
AGREED = {
    "equal slopes": (DEVIATIONS, np.full(6, 0.3), ["x"]),
    "equal intercepts": (np.full(6, 2.0), DEVIATIONS, ["Intercept"]),
    "equal both": (np.full(6, 2.0), np.full(6, 0.3), ["Intercept", "x"]),
}


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("correlated", [True, False])
@pytest.mark.parametrize("name", AGREED)
def test_a_scale_of_exactly_zero(name, correlated, reml):
    """The other scale and the noise then have the closed form of a balanced layout."""
    intercepts, slopes, zero = AGREED[name]
    model = level_means(intercepts, slopes, correlated, reml)
    fit = marglik.fit(model)
    assert fit.converged
    table = fit.hyperparameters
    for c in ("Intercept", "x"):
        row = table.loc[f"sd({c} | g)"]
        assert (row["estimate"] == 0) == (c in zero)
        assert row["at_boundary"] == (c in zero)
        if c in zero:
            assert np.isnan(row["se"])
            assert row["lower"] == 0
            assert row["upper"] > 0
    if correlated:
        assert np.isnan(table.loc["cor(Intercept, x | g)", "estimate"])
    check_maximum(fit)
    Y = model.rows.y.reshape(6, 4)
    noise = np.sum((Y - Y.mean(axis=1, keepdims=True) - np.outer(Y @ PATTERN / 4, PATTERN)) ** 2)
    # Of the 24 − 2 (ML: 24) degrees of freedom, a scale that is not zero takes its 6 − 1 (ML: 6).
    freedom = 24 - 2 * reml - sum(6 - reml for c in ("Intercept", "x") if c not in zero)
    np.testing.assert_allclose(table.loc["sd(noise)", "estimate"] ** 2, noise / freedom, rtol=1e-8)
    if len(zero) == 1:
        between = 4 * np.sum((DEVIATIONS - DEVIATIONS.mean()) ** 2) / (6 - reml)
        (other,) = {"Intercept", "x"} - set(zero)
        expected = (between - noise / freedom) / 4
        np.testing.assert_allclose(table.loc[f"sd({other} | g)", "estimate"] ** 2, expected, rtol=1e-8)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("slope", [0.5, -2.0])
def test_slopes_in_proportion_to_intercepts(slope, reml):
    """The correlation is ±1 and the scales are in that proportion: one direction of a balanced layout."""
    fit = marglik.fit(level_means(DEVIATIONS, 0.3 + slope * DEVIATIONS, reml=reml))
    assert fit.converged
    estimate = fit.hyperparameters["estimate"]
    assert estimate["cor(Intercept, x | g)"] == np.sign(slope)
    np.testing.assert_allclose(estimate["sd(x | g)"], abs(slope) * estimate["sd(Intercept | g)"], rtol=1e-7)
    check_maximum(fit)


@pytest.mark.parametrize(("kind", "seed"), [("pair", 0), ("pair", 3), ("pair", 9), ("triple", 0), ("crossed", 1)])
def test_other_standard_errors_hold_the_correlation(kind, seed):
    """Curvature over what is left: a vector of signed scales for each term of rank one, and the noise."""
    fit = fitted(kind, seed)
    truth, table = Truth(fit.model), fit.hyperparameters
    values, names, signed = table["estimate"], [], []
    for term in (t for t in fit.model.prior if t.grouped):
        c = [f"sd({name} | {term.group})" for name in term.coefficients]
        sign = [1, *(values[f"cor(Intercept, {name} | {term.group})"] for name in term.coefficients[1:])]
        names += c
        signed += list(values[c] * sign)

    def density(v):
        factors, position = [], 0
        for block in truth.blocks[:-1]:
            factors.append(np.asarray(v[position : position + block.size])[:, None])
            position += block.size
        return truth.at_factors([*factors, v[-1] * np.eye(len(fit.model.rows.y))]).value

    v = np.append(signed, values["sd(noise)"])
    step = 1e-3 * np.eye(len(v))
    H = np.array([[_bend(density, v, a, b) for b in step] for a in step]) / 1e-6
    se = np.sqrt(np.linalg.inv(-H).diagonal())
    np.testing.assert_allclose(table.loc[[*names, "sd(noise)"], "se"], se, rtol=1e-3)


def _bend(f, v, a, b):
    return (f(v + a + b) - f(v + a - b) - f(v - a + b) + f(v - a - b)) / 4


@pytest.mark.parametrize("kind", ["pair", "crossed", "triple"])
def test_steps_are_counted_from_the_start(kind):
    """Also those before the covariance was found to be singular: the trace rises from a start value to the maximum."""
    fit = fitted(kind, 0)
    assert fit.optimum.limit.any()
    objective, free = fit.objective, fit.optimum.free | fit.optimum.limit
    starts = fit.evidence_method.starts(fit.model, objective.units, free[0])
    values = [objective.evidence(np.atleast_2d(start)).log_value for start in starts]
    assert np.isclose(fit.trace[0], values, rtol=1e-12).any()
    assert np.all(np.diff(fit.trace) >= -1e-8)
    np.testing.assert_allclose(fit.trace[-1], fit.log_evidence, rtol=1e-12)
    assert fit.n_iterations > 1


ENDS = {
    "independent": ("independent", 0, "sd(Intercept | g)"),
    "of two at zero": ("pair", 6, "sd(x | g)"),
    "correlation of one": ("proportional", 1.5, "cor(Intercept, x | g)"),
    "correlation of minus one": ("proportional", -0.7, "cor(Intercept, x | g)"),
}


@pytest.mark.parametrize("name", ENDS)
def test_other_end_of_the_interval_at_a_boundary(name):
    """There twice the drop of the best density is 2.71, the other hyperparameters free."""
    kind, which, hyperparameter = ENDS[name]
    if kind == "proportional":
        fit = marglik.fit(level_means(3 * DEVIATIONS, which * 3 * DEVIATIONS))
    else:
        fit = fitted(kind, which)
    table = fit.hyperparameters
    row = table.loc[hyperparameter]
    assert row["at_boundary"]
    ends = [row["lower"], row["upper"]]
    assert row["estimate"] in ends
    (other,) = (end for end in ends if end != row["estimate"])
    starts = [{n: r if n.startswith("cor") else 0.6 for n in table.index} for r in (-0.6, 0.6)]
    drop = fit.log_evidence - best_at(fit.model, {hyperparameter: other}, starts)[0]
    np.testing.assert_allclose(2 * drop, 2.705543454095404, rtol=1e-4)


def test_words_for_what_is_at_the_boundary():
    text = str(fitted("pair", 0).check())
    assert "cor(Intercept, x | g)" in text
    assert "sd(x | g)" in str(fitted("pair", 6).check())


@pytest.mark.parametrize(
    ("formula", "family", "seed", "reml"),
    [
        ("y ~ x + (x | g)", "poisson", 12, False),
        ("y ~ x + z + (x + z | g)", "poisson", 12, False),
        ("y ~ x + z + (x + z | g)", "poisson", 4, True),
        ("v ~ x + (x | g)", "gamma", 3, True),
        ("v ~ x + (x | g / h)", "gamma", 4, False),
    ],
)
def test_singular_outside_the_gaussian(formula, family, seed, reml):
    """What is all but at its limit is at its limit, and the fit is one; no other start leads higher."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(8), 5)
    (x, z), b = rng.standard_normal((2, 40)), 0.7 * rng.standard_normal(8)
    mu = np.exp(0.5 + b[g] * (1 + 0.3 * x * (seed % 2)))
    data = {
        "y": rng.poisson(mu),
        "v": mu * rng.gamma(3, 1 / 3, 40),
        "x": x,
        "z": z,
        "g": g,
        "h": np.arange(40) // 2 % 4,
    }
    fit = marglik.fit(formula, data, family=family, reml=reml)
    assert fit.converged
    table = fit.hyperparameters
    assert table["at_boundary"].any()
    cor, sd = (table[table.index.str.startswith(kind)] for kind in ("cor", "sd"))
    assert not (cor["estimate"].abs() > 1 - 1e-6)[~cor["at_boundary"]].any()
    assert not (sd["estimate"] < 1e-5)[~sd["at_boundary"]].any()
    again = marglik.fit(formula, data, family=family, reml=reml, restarts=1, seed=1)
    assert fit.log_evidence > again.log_evidence - 1e-7
