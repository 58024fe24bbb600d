# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of Gaussian mixed models against the density of y with its covariance written out."""

import numpy as np
import pytest
from scipy.linalg import block_diag, null_space
from scipy.stats import multivariate_normal

from marglik.evidence import Exact, Laplace, evaluate
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, ReceptiveField, Smooth
from marglik.testing import check_evidence, derivative
from mixed_problems import AB, FLAT, OPTIONS, PAIR, STRUCTURES, TRIPLE, A, G, H, U, X, effects, problem, somewhere
from truth import Truth


def coordinates(term, L):
    """θ of a grouping term whose factor is L."""
    k = len(term.hyperparameters())
    templates = np.array([term.factor(unit) for unit in np.eye(k)]).reshape(k, -1)
    theta = np.linalg.lstsq(templates.T, np.ravel(L), rcond=None)[0]
    np.testing.assert_allclose(term.factor(theta), L, atol=1e-12)
    return np.round(theta, 14)


def check(model, theta, exact=False, units=None, rtol=1e-9):
    """Value, gradient and Hessian, in nats for each unit of θ given in units (1 if not given)."""
    truth, e = Truth(model, exact).at(theta), evaluate(Exact(), model, np.array([theta], float))
    units = np.ones(len(theta)) if units is None else units
    np.testing.assert_allclose(e.log_value, [truth.value], rtol=rtol, atol=rtol)
    g = truth.gradient * units
    np.testing.assert_allclose(e.gradient[0] * units, g, rtol=0, atol=1e-6 * max(1, np.abs(g).max()))
    if e.hessian is not None:
        h = truth.hessian * np.outer(units, units)
        np.testing.assert_allclose(
            e.hessian[0] * np.outer(units, units), h, rtol=0, atol=1e-4 * max(1, np.abs(h).max()), err_msg="Hessian"
        )


# The truth itself.


@pytest.mark.parametrize("option", ["reml", "ml with weights and offset"])
@pytest.mark.parametrize("structure", ["three correlated", "everything", "no fixed effects"])
def test_truth_is_the_density_of_error_contrasts(structure, option):
    """Or of y at the generalised least squares fit; in floats and in decimals; its derivatives are differences."""
    model = problem(structure, option)
    truth, theta = Truth(model), somewhere(model)
    density = truth.at(theta)
    V = sum(b.columns @ b.covariance(L) @ b.columns.T for b, L in zip(truth.blocks, density.factors, strict=True))
    F, r = truth.X, model.rows.y - truth.offset
    if model.reml and F.shape[1]:
        C = null_space(F.T)
        expected = multivariate_normal(np.zeros(C.shape[1]), C.T @ V @ C).logpdf(C.T @ r)
        expected -= np.linalg.slogdet(F.T @ F)[1] / 2
    else:
        fitted = F @ density.mean[: F.shape[1]]
        expected = multivariate_normal(fitted, V).logpdf(r)
    np.testing.assert_allclose(density.value, expected, rtol=1e-11)
    exact = Truth(model, exact=True).at(theta)
    for name in ("value", "gradient", "hessian"):
        np.testing.assert_allclose(getattr(exact, name), getattr(density, name), rtol=1e-8, atol=1e-9)
    for i, unit in enumerate(np.eye(len(theta))):
        slope = derivative(lambda t, u=unit: truth.at(theta + t * u).value)
        np.testing.assert_allclose(density.gradient[i], slope, rtol=1e-7, atol=1e-7)
        bend = derivative(lambda t, u=unit: truth.at(theta + t * u).gradient)
        np.testing.assert_allclose(density.hessian[i], bend, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("structure", ["crossed slopes", "given", "one factor, three terms"])
def test_truth_of_the_weights_solves_the_normal_equations(structure):
    """Henderson's: H = CᵀWC/σ² + K⁻¹ with C = [X D], K⁻¹ = 0 for β."""
    model = problem(structure, "reml with weights and offset")
    theta, truth = somewhere(model), Truth(model)
    density, f = truth.at(theta), truth.X.shape[1]
    given = zip(truth.blocks[:-1], density.factors, strict=False)
    K_inverse = block_diag(np.zeros((f, f)), *(np.linalg.inv(b.covariance(L)) for b, L in given))
    C, W = density.columns, model.rows.weights / theta[-1] ** 2
    H = (C.T * W) @ C + K_inverse
    means = np.concatenate([np.zeros(f), *(b.mean for b in truth.blocks[:-1])])
    expected = np.linalg.solve(H, (C.T * W) @ (model.rows.y - model.rows.offset) + K_inverse @ means)
    np.testing.assert_allclose(density.mean, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(density.covariance, np.linalg.inv(H), rtol=1e-9, atol=1e-9)


# The engine.


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_value_and_derivatives(structure, option):
    for seed in range(3):
        model = problem(structure, option, seed)
        check(model, somewhere(model, seed))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_contract(structure):
    option = OPTIONS[list(STRUCTURES).index(structure) % 4]
    model = problem(structure, option)
    check_evidence(Exact(), model, somewhere(model, 3))


SINGULAR = {
    "nothing": np.zeros((3, 3)),
    "first column zero": [[0, 0, 0], [0, 0.8, 0], [0, -0.4, 0.5]],
    "middle column zero": [[0.8, 0, 0], [0.5, 0, 0], [-0.4, 0, 0.6]],
    "last column zero": [[-0.8, 0, 0], [0.5, 0.3, 0], [0.4, 0.7, 0]],
    "first row zero": [[0, 0, 0], [0.3, 0.7, 0], [0.2, 0.3, -0.9]],
    "middle row zero": [[0.7, 0, 0], [0, 0, 0], [-0.2, 0.3, 0.9]],
    "last row zero": [[0.7, 0, 0], [0.3, -0.6, 0], [0, 0, 0]],
    "rank one": [[0.7, 0, 0], [-0.3, 0, 0], [0.5, 0, 0]],
    "rank one, in the last column": [[0, 0, 0], [0, 0, 0], [0, 0, 0.5]],
    "rank one, last column, no row": [[0, 0, 0], [0, 0, 0], [0.5, 0.2, 0.1]],
    "diagonal zero": [[0, 0, 0], [0.6, 0, 0], [0.3, 0.8, 0]],
    "one small column": [[0.7, 0, 0], [0.3, 1e-9, 0], [0.2, 1e-9, 1e-12]],
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("structure", ["three correlated", "crossed, correlated and not"])
def test_singular_covariances(structure, name, option):
    """Ordinary points, from whichever side they are seen."""
    model = problem(structure, option)
    theta, L = somewhere(model), np.array(SINGULAR[name], float)
    term = next(t for t in model.prior if t.grouped)
    theta[: len(term.hyperparameters())] = coordinates(term, L)
    check(model, theta)


@pytest.mark.parametrize("structure", ["crossed, sparse", "nested twice", "everything", "two independent"])
def test_scales_of_zero(structure):
    """Each alone, then all but the noise."""
    model = problem(structure, "ml with weights and offset")
    theta = somewhere(model)
    for i in range(len(theta) - 1):
        check(model, np.where(np.arange(len(theta)) == i, 0.0, theta))
    check(model, np.append(np.zeros(len(theta) - 1), theta[-1]))


@pytest.mark.parametrize("option", ["reml", "ml with weights and offset"])
@pytest.mark.parametrize(
    ("structure", "scale"),
    [(s, 1e-4) for s in ("three correlated", "crossed", "crossed slopes", "nested twice", "banded")]
    + [("three correlated", 1e4), ("banded", 1e4), ("crossed", 1e3), ("nested twice", 1e3), ("crossed slopes", 1e2)],
)
def test_scales_far_from_the_noise(structure, scale, option):
    """In decimal arithmetic; all prior scales times a factor, then one of them.

    Several grouping factors lose digits like the square of a large factor (limitations.md).
    """
    model = problem(structure, option)
    base = somewhere(model)
    check(model, base * np.append(np.full(len(base) - 1, scale), 1), True, base * scale)
    one = base * np.where(np.arange(len(base)) == 0, scale, 1)
    check(model, one, True, one)


@pytest.mark.parametrize("structure", ["intercept and slope", "three correlated", "crossed slopes"])
def test_signs_of_columns_do_not_matter(structure):
    """Σ = L Lᵀ is what it was when columns of L change sign."""
    model = problem(structure)
    theta = somewhere(model)
    expected = Exact()(model, theta)
    position = 0
    for term in model.prior:
        k = len(term.hyperparameters())
        own = slice(position, position + k)
        position += k
        if not k:
            continue
        L = term.factor(theta[own])
        for j in range(len(L)):
            flipped = theta.copy()
            flipped[own] = coordinates(term, L * np.where(np.arange(len(L)) == j, -1, 1))
            e = Exact()(model, flipped)
            np.testing.assert_allclose(e.log_value, expected.log_value, rtol=1e-12)
            np.testing.assert_allclose(np.abs(e.gradient), np.abs(expected.gradient), rtol=1e-8, atol=1e-8)


def test_coordinates_are_the_entries_of_the_factor():
    term = effects(G, "g", **TRIPLE)
    assert [h.support.lower for h in term.hyperparameters()] == [-np.inf] * 6
    L = np.array([[0.5, 0, 0], [-0.2, 1.5, 0], [0.3, 0.1, -2]])
    assert sorted(coordinates(term, L)) == sorted(L[np.tril_indices(3)])
    independent = effects(G, "g", correlated=False, **TRIPLE)
    assert [h.name for h in independent.hyperparameters()] == ["sd(Intercept | g)", "sd(x | g)", "sd(z | g)"]
    np.testing.assert_array_equal(independent.factor(np.array([1.0, 2.0, 3.0])), np.diag([1.0, 2, 3]))


UNRELATED = effects(G, "g", **PAIR).triangle.coordinates(np.array([0.7, 0.4, 0.0]))


def test_nested_models_agree():
    """No correlations, or one coefficient, or two terms on one factor: the same density, written in two ways."""
    y = problem("intercept").rows
    pairs = [
        (FLAT + effects(G, "g", correlated=False, **PAIR), FLAT + effects(G, "g") + effects(G, "g", x=X), None),
        (FLAT + effects(G, "g", correlated=False, **PAIR), FLAT + effects(G, "g", **PAIR), UNRELATED),
        (FLAT + effects(AB, "a:b"), FLAT + effects(AB, "a:b") + effects(A, "a"), None),
    ]
    for one, other, theta in pairs:
        few, many = (LinearModel(Gaussian(), prior, y) for prior in (one, other))
        at = np.array([0.7, 0.4][: len(few.hyperparameters) - 1])
        there = at if theta is None else theta
        there = np.append(there, np.zeros(len(many.hyperparameters) - 1 - len(there)))
        found = [Exact()(m, np.append(t, 0.6)).log_value for m, t in ((few, at), (many, there))]
        np.testing.assert_allclose(*found, rtol=1e-12)


FIELD = ReceptiveField(U, 4)
OVERLAPPING = Smooth(U[:, :3], [[1, 0], [0.5, 2], [0, 0.3]], ["sd(a)", "sd(b)"], "te")
VARYING = {
    "whole": (FLAT + FIELD, [0.8, 1.3, 0.5]),
    "whole beside slopes": (FIELD + FLAT + effects(G, "g", **PAIR), [0.8, 1.3, 0.7, 0.2, 0.4, 0.5]),
    "diagonal beside slopes": (FLAT + OVERLAPPING + effects(G, "g", **PAIR), [0.8, 1.3, 0.7, 0.2, 0.4, 0.5]),
    "both, crossed": (
        OVERLAPPING + effects(G, "g") + FLAT + effects(H, "h", **PAIR) + FIELD,
        [0.4, 1.5, 0.6, 0.7, 0.2, 0.4, 0.9, 1.1, 0.5],
    ),
}


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("zero", [None, 0])
@pytest.mark.parametrize("name", VARYING)
def test_terms_that_state_their_covariance(name, zero, reml):
    """Exact: held to the density of y with its covariance written out, and to differences."""
    prior, theta = VARYING[name]
    theta = np.array(theta)
    if zero is not None:
        theta[zero] = 0.0
    model = LinearModel(Gaussian(), prior, problem("intercept").rows, reml=reml)
    check_evidence(Exact(), model, theta)
    if reml:
        found, expected = (evaluate(m, model, theta[None]) for m in (Exact(), Laplace()))
        np.testing.assert_allclose(found.log_value, expected.log_value, rtol=1e-12)
        np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_scales_of_any_ratio_under_several_penalties(scale):
    """A penalty that is no more is one left out, one without limit leaves its weights out."""
    D = OVERLAPPING.penalties
    kept = D[:, 0] > 0 if scale > 1 else D[:, 1] == 0
    one = Smooth(U[:, :3][:, kept], D[kept, :1], ["sd(a)"], "te")
    free = Flat(np.column_stack([FLAT.X, U[:, :3][:, ~kept]])) if scale > 1 else FLAT
    y, theta = problem("intercept").rows, np.array([0.8, scale, 0.5])
    whole, part = LinearModel(Gaussian(), FLAT + OVERLAPPING, y), LinearModel(Gaussian(), free + one, y)
    found, expected = (Exact()(m, t) for m, t in ((whole, theta), (part, np.delete(theta, 1))))
    unit = np.log(scale**2 / D[~kept, 1] * 2 * np.pi).sum() / 2 if scale > 1 else 0.0
    np.testing.assert_allclose(found.log_value + unit, expected.log_value, rtol=1e-9)
    np.testing.assert_allclose(np.delete(found.gradient, 1), expected.gradient, rtol=0, atol=1e-7)
