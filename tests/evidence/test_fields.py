# SPDX-License-Identifier: BSD-3-Clause
"""The evidence of correlated weights by the Gram matrix: against the projection's, a dense twin, and differences."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import marglik
from marglik.evidence import fields, mixed
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, GaussianProcess, ReceptiveField, Ridge
from marglik.priors.base import DenseMoves
from marglik.testing import derivative

N = 150
rng = np.random.default_rng(4)
X = rng.standard_normal((N, 60)) + 0.5
y = X[:, 20:25].sum(axis=1) + rng.standard_normal(N) + 3
FLAT = Flat(np.column_stack([np.ones(N), X[:, 0]]))
MODELS = {
    "one field": (FLAT + ReceptiveField(X, (5, 4, 3)), [0.3, 1.5, 1.1, 2.0, 0.9]),
    "no flat columns": (ReceptiveField(X, (1, 60)) + Ridge(X[:, :0], label="none"), [0.3, 1.5, 0.5, 0.9]),
    "a dimension of one cell": (FLAT + ReceptiveField(X, (1, 60)), [0.3, 1.5, 0.9]),
    "two fields and columns": (
        FLAT + ReceptiveField(X, (12, 5)) + Ridge(X[:, :7] ** 2, label="r") + ReceptiveField(X[:, :12], 12, label="b"),
        [0.3, 1.5, 1.2, 0.2, 0.4, 3.0, 0.9],
    ),
    "a process of repeated inputs": (
        FLAT + GaussianProcess(np.round(X[:, 0], 1)) + Ridge(X[:, :7], label="r"),
        [0.7, 0.8, 0.4, 0.9],
    ),
    "few coordinates": (FLAT + ReceptiveField(X, (5, 4, 3)), [0.3, 40.0, 30.0, 25.0, 0.9]),
}


def built(name):
    prior, theta = MODELS[name]
    model, theta = LinearModel(Gaussian(), prior, y), np.array(theta)
    assert model.dense_weights
    return model, theta


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no flat columns"])
def test_value_gradient_and_hessian_are_the_projections(name):
    """Where terms are compact there, they leave out directions that are worth some 1e-9 nats."""
    model, theta = built(name)
    own, other = fields.evidence(model, theta), mixed.evidence(model.compact(theta), theta)
    assert_allclose(own.log_value, other.log_value, rtol=0, atol=1e-8)
    assert_allclose(own.gradient, other.gradient, rtol=0, atol=1e-7)
    assert_allclose(own.hessian, other.hessian, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_the_dense_definition(name):
    model, theta = built(name)

    def dense(at):
        V, start = at[-1] ** 2 * np.eye(N), 0
        for term in model.prior:
            own = at[start : start + len(term.hyperparameters())]
            start += len(own)
            if not term.flat:
                K = term.covariance(own)
                V += (term.columns * K if K.ndim == 1 else term.columns @ K) @ term.columns.T
        F = next((term.columns for term in model.prior if term.flat), np.zeros((N, 0)))
        A = F.T @ np.linalg.solve(V, F)
        left = y - F @ np.linalg.solve(A, F.T @ np.linalg.solve(V, y))
        total = (N - F.shape[1]) * np.log(2 * np.pi) + np.linalg.slogdet(V)[1] + np.linalg.slogdet(A)[1]
        return -(total + left @ np.linalg.solve(V, left)) / 2

    found = fields.evidence(model, theta)
    assert_allclose(found.log_value, dense(theta), rtol=0, atol=1e-8)
    for k, e in enumerate(np.eye(len(theta))):
        step = 0.05 * theta[k]
        slope = derivative(lambda t, e=e: dense(theta + t * e), step)
        bend = derivative(lambda t, e=e: fields.evidence(model, theta + t * e).gradient, step)
        assert_allclose(found.gradient[k], slope, rtol=1e-6, atol=1e-6)
        assert_allclose(found.hessian[k], bend, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [60, (1, 60), (12, 5), (5, 4, 3)])
def test_a_fields_covariance_acts_as_its_matrix(shape):
    term = ReceptiveField(X, shape, spacing=0.5)
    theta = np.array([0.7, 0.8, 1.1, 0.6])[: len(term.hyperparameters())]
    own, dense = term.moves(theta), DenseMoves(term, theta)
    R = rng.standard_normal((7, 60))
    S = R.T @ R
    assert_allclose(own.half(R) @ own.half(R).T, R @ term.covariance(theta) @ R.T, rtol=0, atol=1e-11)
    for k in range(len(theta)):
        assert_allclose(own.times(k, R), R @ term.covariance_tangents(theta)[k], rtol=0, atol=1e-11)
    assert_allclose(own.inner(S), dense.inner(S), rtol=1e-11, atol=1e-10)
    assert_allclose(own.inner_second(S), dense.inner_second(S), rtol=1e-11, atol=1e-10)


def test_scales_at_zero_are_ordinary_points():
    model, theta = built("two fields and columns")
    for k in (0, 3, 4):
        at = np.where(np.arange(len(theta)) == k, 0.0, theta)
        own, other = fields.evidence(model, at), mixed.evidence(model, at)
        assert_allclose(own.log_value, other.log_value, rtol=0, atol=1e-9)
        assert_allclose(own.gradient, other.gradient, rtol=0, atol=1e-8)
    nothing = fields.evidence(model, np.append(theta[:-1], 0.0))
    assert nothing.log_value == -np.inf


def test_a_fit_is_the_projections_maximum():
    """In any units of the stimulus and of y."""
    model, _ = built("one field")
    fit = marglik.fit(model)
    assert fit.converged
    best = mixed.evidence(model, fit.optimum.theta[0])
    assert_allclose(best.gradient * fit.optimum.theta[0], 0, rtol=0, atol=1e-6)
    other = LinearModel(Gaussian(), FLAT + ReceptiveField(1e-3 * X, (5, 4, 3)), 1e4 * y)
    moved = marglik.fit(other).hyperparameters["estimate"] / fit.hyperparameters["estimate"]
    assert_allclose(moved, [1e7, 1, 1, 1, 1e4], rtol=1e-5)
