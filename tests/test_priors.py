# SPDX-License-Identifier: BSD-3-Clause
from types import SimpleNamespace

import numpy as np
import pytest

from marglik.priors import Flat, Gaussian, GaussianProcess, Prior, RandomEffects, ReceptiveField, Ridge, Smooth, Term
from marglik.testing import check_prior, derivative

rng = np.random.default_rng(3)
X = rng.standard_normal((12, 3)) * [1, 20, 0.3]
CODES = np.arange(12) % 4
COVARIANCE = np.cov(rng.standard_normal((3, 9)))
EXAMPLES = {
    "flat": lambda c: Flat(c * X, ["a", "b", "c"]),
    "ridge": lambda c: Ridge(c * X),
    "random_effects": lambda c: RandomEffects(CODES, "wxyz", c * X[:, :2], ("u", "v"), "g"),
    "gaussian": lambda c: Gaussian(c * X, 0.3, COVARIANCE),
    "smooth": lambda c: Smooth(c * X, [[1, 0], [0.5, 0.2], [0, 3]], ["sd(a)", "sd(b)"]),
    "receptive_field": lambda c: ReceptiveField(c * X, 3),
    "gaussian_process": lambda c: GaussianProcess(np.arange(12) // 2, "Matern(nu=1.5)"),
}
NO_COLUMNS_GIVEN = {"gaussian_process"}
MORE = {
    "independent": lambda c: RandomEffects(CODES, "wxyz", c * X[:, :2], ("u", "v"), "g", correlated=False),
    "three correlated": lambda c: RandomEffects(CODES, "wxyz", c * X, ("u", "v", "w"), "g"),
    "in another order": lambda c: RandomEffects(CODES, "wxyz", c * X, ("u", "v", "w"), "g", order=(2, 0, 1)),
    "correlation held": lambda c: RandomEffects(CODES, "wxyz", c * X[:, :2], ("u", "v"), "g", held_correlation=0.4),
    "three penalties": lambda c: Smooth(
        c * np.tile(X, 2), np.array([[1, 0, 0], [0, 2, 0], [0, 0, 1], [1, 3, 0], [0, 1, 0.2], [2, 0.3, 1]]), "abc"
    ),
    "bands": lambda c: Ridge(c * X, groups=[0, 1, 0], scales=["sd(a)", "sd(b)"]),
}
ONE_COLUMN = {
    "flat, one column": lambda c: Flat(c * X[:, 0]),
    "ridge, one column": lambda c: Ridge(c * X[:, 0]),
    "random intercepts": lambda c: RandomEffects(CODES, "wxyz", np.full((12, 1), c), group="g"),
}


@pytest.mark.parametrize("name", sorted(Term.registry))
def test_contract(name):
    check_prior(EXAMPLES[name](1.0), scaled=None if name in NO_COLUMNS_GIVEN else EXAMPLES[name])


@pytest.mark.parametrize("name", MORE)
def test_contract_of_variants(name):
    check_prior(MORE[name](1.0), scaled=MORE[name])


@pytest.mark.parametrize("name", ONE_COLUMN)
def test_contract_with_one_column(name):
    check_prior(ONE_COLUMN[name](1.0), scaled=ONE_COLUMN[name])


def test_random_intercepts_are_the_default():
    given, default = ONE_COLUMN["random intercepts"](1.0), RandomEffects(CODES, "wxyz", group="g")
    np.testing.assert_array_equal(given.columns, default.columns)
    assert default.label == "(1 | g)"
    assert EXAMPLES["random_effects"](1.0).label == "(0 + u + v | g)"
    assert EXAMPLES["random_effects"](1.0).reported_names == ("sd(u | g)", "sd(v | g)", "cor(u, v | g)")
    names = [h.name for h in MORE["independent"](1.0).hyperparameters()]
    assert names == ["sd(u | g)", "sd(v | g)"]


@pytest.mark.parametrize("name", ["random_effects", "three correlated", "in another order"])
def test_a_factor_reports_standard_deviations_and_correlations(name):
    term = (EXAMPLES | MORE)[name](1.0)
    theta = np.random.default_rng(1).standard_normal(len(term.hyperparameters()))
    L, m = term.mixing @ term.factor(theta), len(term.names)
    S = L @ L.T
    sd = np.sqrt(S.diagonal())
    cor = (S / np.outer(sd, sd))[np.triu_indices(m, 1)]
    found = term.triangle.report(theta)
    np.testing.assert_allclose(found, [*sd, *cor], rtol=1e-13)
    back = term.mixing @ term.factor(term.triangle.coordinates(found))
    np.testing.assert_allclose(back @ back.T, S, rtol=1e-12, atol=1e-12)
    for i, e in enumerate(np.eye(len(theta))):
        slope = derivative(lambda t, e=e: term.triangle.report(theta + t * e))
        np.testing.assert_allclose(term.triangle.jacobian(theta)[:, i], slope, rtol=1e-8, atol=1e-8)


def test_no_covariance_has_these_correlations():
    assert MORE["three correlated"](1.0).triangle.coordinates(np.array([1, 1, 1, 0.9, 0.9, -0.9])) is None


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_column_without_a_diagonal_is_rotated_away(gone):
    triangle = MORE["three correlated"](1.0).triangle
    theta = np.array([1.0, 0.5, 2.0, 0.3, 0.2, 1.1])
    theta[[0, 2, 5][gone]] = 1e-14
    found, held = triangle.settled(theta, np.ones(3))
    before, after = triangle.factor(theta), triangle.factor(found)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-12)
    np.testing.assert_array_equal(after[:, gone], 0)
    assert held.sum() == 3 - gone
    assert triangle.settled(np.array([1.0, 0.5, 2.0, 0.3, 0.2, 1.1]), np.ones(3)) is None


def test_a_given_covariance():
    """w = μ + K^½ v has that mean and covariance, and X w = X μ + (X K^½) v."""
    term = EXAMPLES["gaussian"](1.0)
    v = np.random.default_rng(0).standard_normal((5, 3))
    np.testing.assert_allclose(term.mixing @ term.mixing.T, COVARIANCE, rtol=1e-12)
    np.testing.assert_allclose(term.design @ term.weights(v).T, term.offset[:, None] + term.columns @ v.T, rtol=1e-12)


@pytest.mark.parametrize(
    ("sentence", "make"),
    [
        ("has 3 columns, but its mean has shape", lambda: Gaussian(X, [0.0, 1.0])),
        ("not symmetric and positive semidefinite", lambda: Gaussian(X, 0.0, np.diag([1.0, -1.0, 1.0]))),
        ("groups must give each of the 3 columns", lambda: Ridge(X, groups=[0, 1])),
        ("groups must give each of the 3 columns", lambda: Ridge(X, groups=[0, 2, 2])),
        ("'fixed effects' has two coefficients called 'b'", lambda: Flat(X, ["a", "b", "b"])),
        ("has 2 groups but 1 names", lambda: Ridge(X, groups=[0, 1, 1], scales=["sd(a)"])),
    ],
)
def test_bad_terms_are_refused_in_a_sentence(sentence, make):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_plus_puts_terms_side_by_side():
    a, b, c = (EXAMPLES[name](1.0) for name in ("flat", "ridge", "random_effects"))
    for prior in (a + b + c, a + (b + c), Prior((a, b)) + c):
        assert isinstance(prior, Prior)
        assert list(prior) == [a, b, c]


def test_prior_variance_is_that_of_draws():
    """L(θ)u has the covariance that the docstrings state: s² I, and L Lᵀ within a level."""
    u = np.random.default_rng(0).standard_normal((200_000, 3))
    np.testing.assert_allclose(np.var(u * Ridge(X).factor([0.7]), axis=0), 0.49, rtol=4 * np.sqrt(2 / 2e5))
    w = u[:, :2] @ MORE["independent"](1.0).factor([0.7, 3.0]).T
    np.testing.assert_allclose(np.var(w, axis=0), [0.49, 9.0], rtol=4 * np.sqrt(2 / 2e5))
    assert abs(np.corrcoef(w.T)[0, 1]) < 4 / np.sqrt(2e5)


@pytest.mark.parametrize("name", ["ridge", "independent", "bands"])
def test_units_add_a_variance_of_one(name):
    term = (EXAMPLES | MORE)[name](1.0)
    for i, unit in enumerate(term.units()):
        theta = np.where(np.arange(len(term.units())) == i, unit, 0)
        L = term.factor(theta)
        added = term.columns @ L if term.grouped else term.columns * L
        np.testing.assert_allclose(np.mean(np.sum(added**2, axis=1)), 1, rtol=1e-12)


def _changed(term, **changes):
    names = [n for n in dir(term) if not n.startswith("_")]
    return SimpleNamespace(**{n: getattr(term, n) for n in names} | changes)


RIDGE, EFFECTS = EXAMPLES["ridge"](1.0), MORE["independent"](1.0)
FAULTS = {
    "names": (_changed(RIDGE, names=("a", "b")), "2 names for 3 columns"),
    "names alike": (_changed(RIDGE, names=("a", "b", "a")), "two columns have the same name"),
    "number of weights": (_changed(EFFECTS, n_weights=2), "n_weights is 2, but there are 8"),
    "flat with hyperparameters": (_changed(RIDGE, flat=True), "a flat term can have no hyperparameters"),
    "vjp": (
        _changed(EFFECTS, factor_vjp=lambda theta, bar: bar.diagonal() + 1e-6),
        "factor_vjp is not the adjoint",
    ),
    "jvp": (_changed(RIDGE, factor_jvp=lambda theta, d: np.full(3, 2 * d[0])), "factor_jvp along coordinate 0"),
    "variance for scale": (
        _changed(
            RIDGE,
            factor=lambda theta: np.full(3, theta[0] ** 2),
            factor_jvp=lambda theta, d: np.full(3, 2 * theta[0] * d[0]),
            factor_vjp=lambda theta, bar: np.array([2 * theta[0] * bar.sum()]),
        ),
        "doubling the scales must double the factor",
    ),
    "precision for scale": (
        _changed(
            RIDGE,
            factor=lambda theta: np.full(3, np.divide(1, theta[0])),
            factor_jvp=lambda theta, d: np.full(3, -np.divide(1, theta[0] ** 2) * d[0]),
            factor_vjp=lambda theta, bar: np.array([-np.divide(1, theta[0] ** 2) * bar.sum()]),
        ),
        "doubling the scales|the factor is not finite",
    ),
    "factor's shape": (_changed(EFFECTS, factor=lambda theta: theta), r"the factor must have shape \(2, 2\)"),
    "units": (_changed(RIDGE, units=lambda: RIDGE.units() * 10), "which is not of order one"),
    "units of zero": (_changed(RIDGE, units=lambda: np.zeros(1)), "units must be 1 positive numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_contract_sees_faults(fault):
    term, sentence = FAULTS[fault]
    with np.errstate(divide="ignore"), pytest.raises(AssertionError, match=sentence):
        check_prior(term)


def test_contract_sees_units_that_do_not_follow_the_columns():
    with pytest.raises(AssertionError, match="columns times 100 must divide units by 100"):
        check_prior(RIDGE, scaled=lambda c: EXAMPLES["ridge"](np.sqrt(c)))


PENALTIES = np.array([[1, 0, 0], [0.3, 2, 0], [0, 1, 0.1], [2, 0.3, 1]])


@pytest.mark.parametrize("theta", [(0.5, 2, 3), (-0.5, 2, 3), (1e-9, 2, 1e7), (0, 2, 3), (0, 0, 3), (1, 1e-120, 1e120)])
def test_variances_under_several_penalties(theta):
    """v_j = 1 / Σ_i D_ji/s_i², in units of the least scale."""
    term, theta = Smooth(np.ones((5, 4)), PENALTIES, "abc"), np.array(theta, float)
    seen = np.where(PENALTIES > 0, np.abs(theta), np.inf)
    least = seen.min(axis=1, keepdims=True)
    share = np.where(seen > least, least, 1) / np.where(seen > least, seen, 1)
    variance = least[:, 0] ** 2 / np.sum(PENALTIES * share**2, axis=1)
    np.testing.assert_allclose(term.covariance(theta), variance, rtol=1e-14)
    np.testing.assert_allclose(term.factor(theta) ** 2, variance, rtol=1e-14)


@pytest.mark.parametrize("theta", [(0.5, 2, 3), (-0.5, 2, 3), (0, 2, 3), (0.7, 0, 3)])
def test_variances_move_as_their_derivatives_say(theta):
    term, theta = Smooth(np.ones((5, 4)), PENALTIES, "abc"), np.array(theta, float)
    first, second = term.covariance_tangents(theta), term.covariance_curvatures(theta)
    for i, e in enumerate(np.eye(3)):
        for found, f in ((first, term.covariance), (second, term.covariance_tangents)):
            slope = derivative(lambda t, e=e, f=f: f(theta + t * e))
            np.testing.assert_allclose(found[i], slope, rtol=0, atol=1e-8 * max(1, np.abs(slope).max()))


def test_an_infinite_scale_takes_out_its_penalty():
    term, alone = (Smooth(np.ones((5, 2)), D, "ab"[: np.shape(D)[1]]) for D in ([[1, 2], [3, 1]], [[1], [3]]))
    np.testing.assert_allclose(term.factor(np.array([0.7, np.inf])), alone.factor(np.array([0.7])), rtol=1e-15)
    slopes = term.factor_vjp(np.array([0.7, np.inf]), np.ones(2))
    np.testing.assert_allclose(slopes, [*alone.factor_vjp(np.array([0.7]), np.ones(2)), 0], rtol=1e-15)


@pytest.mark.parametrize(
    ("D", "message"),
    [
        ([[1, 0]], r"'te' has 3 columns and 2 scales, but its penalties have shape \(1, 2\)\. Give \(3, 2\)\."),
        (
            [[1, 0], [0, 0], [0, 1]],
            "Column 1 of 'te' is seen by no penalty, so its weight is flat. Give it to a Flat term.",
        ),
        ([[1, 0], [1, 0], [1, 0]], "'sd\\(b\\)' of 'te' is the scale of a penalty that sees nothing."),
        ([[1, 0], [-1, 0], [1, 1]], "The penalties of 'te' must be finite and not negative."),
    ],
)
def test_bad_penalties(D, message):
    with pytest.raises(ValueError, match=message):
        Smooth(X, D, ["sd(a)", "sd(b)"], "te")
