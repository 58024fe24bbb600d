# SPDX-License-Identifier: BSD-3-Clause
"""The log joint density against its definition, and every derivative against differences of the one before."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import block_diag

from marglik.likelihoods import Likelihood
from marglik.linalg import Arrow
from marglik.testing import derivative
from structures import STRUCTURES

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
PAIRS = [(structure, likelihood) for structure in STRUCTURES for likelihood in ("gaussian", "poisson")]
PAIRS += [("crossed slopes and bands", name) for name in sorted(Likelihood.registry.keys() - {"gaussian", "poisson"})]
OPTIONS = {
    "plain": {},
    "weights and offset": {"weights": True, "offset": True},
    "weights and counts": {"weights": True, "counts": True},
    "flat in theta": {"reml": False, "flat_in_theta": True, "weights": True},
}


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request):
    """Every structure with a Gaussian and with counts; every likelihood with the structure that has everything."""
    return request.param


@pytest.fixture(params=OPTIONS)
def model(request, problem, pair):
    structure, likelihood = pair
    return problem(structure, Likelihood.registry[likelihood](), n=23, **OPTIONS[request.param])


@pytest.fixture
def point(model, inside):
    """(u, θ) away from anything special."""
    u = 0.3 * np.random.default_rng(4).standard_normal(model.n_weights)
    return u, inside(model)


def _dense(model):
    """The design, the levels written out as columns, in working order; and the flat columns where they are in θ."""
    c = model.columns
    levels = (np.arange(c.n_levels) == c.codes[:, None])[:, :, None] * c.Z[:, None, :]
    Q = model.flat_basis.Q
    return np.column_stack([levels.reshape(len(c.codes), -1), c.border]), Q if model.flat_in_theta else None


def _factor(model, theta):
    """L as a full matrix, and which weights have a prior."""
    own = {id(term): term.factor(x) for term, x in model.term_theta(theta)}
    levels = [np.kron(np.eye(g.n_levels), block_diag(*(own[id(t)] for t in g.terms))) for g in model.groupings]
    dense = [np.diag(own[id(t)]) for t in model.dense]
    L = block_diag(np.zeros((0, 0)), *levels[:1], np.eye(model.columns.n_flat), *dense, *levels[1:])
    penalised, start = np.ones(len(L)), len(levels[0]) if levels else 0
    penalised[start : start + model.columns.n_flat] = 0
    return L, penalised


def _definition(model, u, theta):
    """Σ log p(y_i|η_i) + log N(u; 0, I), a row at a time."""
    X, Q = _dense(model)
    L, penalised = _factor(model, theta)
    likelihood, rows = model.likelihood, model.rows
    own = theta[model.n_prior_theta :][: len(likelihood.hyperparameters())]
    scale = np.ones(rows.n) if model.row_scale is None else model.row_scale
    eta = X @ L @ u / scale
    if model.flat_in_theta:
        eta += Q @ theta[-model.n_flat :] / scale if model.n_flat else 0
    eta += 0 if rows.offset is None else rows.offset
    y = rows.y
    w = np.ones(rows.n) if rows.weights is None else rows.weights
    counts = np.ones(rows.n) if rows.counts is None else rows.counts
    if likelihood.gaussian:
        sd = own[0] / np.sqrt(w)
        log_density = np.sum(counts * (-np.log(2 * np.pi) / 2 - np.log(sd) - ((y - eta) / sd) ** 2 / 2))
    else:
        log_density = np.sum(counts * w * likelihood.log_density(y, eta, own))
    v = u[penalised > 0]
    return log_density - len(v) / 2 * np.log(2 * np.pi) - v @ v / 2


def test_log_joint_is_its_definition(model, point):
    expected = _definition(model, *point)
    np.testing.assert_allclose(model.at(*point).log_joint, expected, rtol=1e-11)


def test_score(model, point):
    u, theta = point
    for i, e in enumerate(np.eye(len(u))):
        slope = derivative(lambda t, e=e: model.at(u + t * e, theta).log_joint)
        np.testing.assert_allclose(model.at(u, theta).score[i], slope, **CLOSE)


def test_neg_hessian(model, point):
    """All entries: also those that the arrow says are zero."""
    u, theta = point
    columns = [-derivative(lambda t, e=e: model.at(u + t * e, theta).score) for e in np.eye(len(u))]
    here = model.at(u, theta)
    np.testing.assert_allclose(_written_out(here.neg_hessian), np.reshape(columns, (len(u),) * 2), **CLOSE)
    prior = _written_out(here.neg_hessian) - _written_out(here.data_hessian)
    np.testing.assert_allclose(prior, np.diag(_factor(model, theta)[1]), rtol=1e-12, atol=1e-12)


def _written_out(H):
    q, m, f = H.cross.shape
    A = np.zeros((q * m + f, q * m + f))
    for g in range(q):
        block = slice(g * m, (g + 1) * m)
        A[block, block], A[block, q * m :], A[q * m :, block] = H.blocks[g], H.cross[g], H.cross[g].T
    A[q * m :, q * m :] = H.border
    return A


def test_theta_derivatives(model, point):
    u, theta = point
    found = model.at(u, theta).theta_derivatives()
    assert found.log_joint.shape == theta.shape
    assert found.score.shape == (len(u), len(theta))
    for i, e in enumerate(np.eye(len(theta))):
        slope = derivative(lambda t, e=e: model.at(u, theta + t * e * 0.5).log_joint) / 0.5
        np.testing.assert_allclose(found.log_joint[i], slope, **CLOSE)
        slope = derivative(lambda t, e=e: model.at(u, theta + t * e * 0.5).score) / 0.5
        np.testing.assert_allclose(found.score[:, i], slope, **CLOSE)


def _on_pattern(H, seed=0):
    """A symmetric matrix with entries wherever H has some."""
    rng = np.random.default_rng(seed)
    q, m, f = H.cross.shape
    blocks, border = rng.standard_normal((q, m, m)), rng.standard_normal((f, f))
    return Arrow(blocks + blocks.transpose(0, 2, 1), rng.standard_normal((q, m, f)), border + border.T)


def test_neg_hessian_vjp(model, point):
    u, theta = point
    C = _on_pattern(model.at(u, theta).neg_hessian)
    slope_u, slope_theta = model.at(u, theta).neg_hessian_vjp(C)
    assert slope_u.shape == u.shape
    assert slope_theta.shape == theta.shape

    def pairing(u, theta):
        return C.inner(model.at(u, theta).neg_hessian)

    for i, e in enumerate(np.eye(len(u))):
        np.testing.assert_allclose(slope_u[i], derivative(lambda t, e=e: pairing(u + t * e, theta)), **CLOSE)
    for i, e in enumerate(np.eye(len(theta))):
        slope = derivative(lambda t, e=e: pairing(u, theta + t * e * 0.5)) / 0.5
        np.testing.assert_allclose(slope_theta[i], slope, **CLOSE)


def test_zero_scales_are_ordinary_points(model, point):
    """All scales at zero: the prior has no data, and derivatives are still those of differences."""
    u, theta = point
    scales = np.array([h.even and h.name != "sd(noise)" for h in model.hyperparameters], bool)
    theta = np.where(scales, 0.0, theta)
    there = model.at(u, theta)
    np.testing.assert_allclose(there.log_joint, _definition(model, u, theta), rtol=1e-11)
    d = there.theta_derivatives()
    C = _on_pattern(there.neg_hessian)
    _, slope_theta = there.neg_hessian_vjp(C)
    for i in np.flatnonzero(scales):
        e = np.eye(len(theta))[i] * 0.3

        def at(t, e=e):
            return model.at(u, theta + t * e)

        slope = derivative(lambda t: at(t).log_joint, one_sided=True, levels=6) / 0.3
        np.testing.assert_allclose(d.log_joint[i], slope, rtol=1e-6, atol=1e-6)
        slope = derivative(lambda t: C.inner(at(t).neg_hessian), one_sided=True, levels=6) / 0.3
        np.testing.assert_allclose(slope_theta[i], slope, rtol=1e-6, atol=1e-6)


def test_rows_in_chunks_are_the_same_rows(model, point):
    u, theta = point
    chunked = replace(model, rows=replace(model.rows, chunk=7))
    one, other = model.at(u, theta), chunked.at(u, theta)
    C = _on_pattern(one.neg_hessian)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(other.log_joint, one.log_joint, **close)
    np.testing.assert_allclose(other.score, one.score, **close)
    np.testing.assert_allclose(_written_out(other.neg_hessian), _written_out(one.neg_hessian), **close)
    for a, b in zip(other.theta_derivatives(), one.theta_derivatives(), strict=True):
        np.testing.assert_allclose(a, b, **close)
    for a, b in zip(other.neg_hessian_vjp(C), one.neg_hessian_vjp(C), strict=True):
        np.testing.assert_allclose(a, b, **close)
