# SPDX-License-Identifier: BSD-3-Clause
from dataclasses import replace

import numpy as np
import pytest

from marglik.likelihoods import Gaussian, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.rows import InMemory

rng = np.random.default_rng(12)
N = 14
X, Y, W = rng.standard_normal((N, 4)), rng.standard_normal(N), rng.uniform(0.3, 3, N)
CODES = np.append(np.arange(3), rng.integers(0, 3, N - 3))
F = np.column_stack([np.ones(N), X[:, 0] * 1e5 + 1e7, X[:, 1] * 1e-6])


def model(prior=None, y=Y, likelihood=None, **options):
    rows = {k: options.pop(k) for k in ("offset", "weights", "counts", "chunk") if k in options}
    return LinearModel(likelihood or Gaussian(), prior or Flat(F) + Ridge(X[:, 2:]), InMemory(y, **rows), **options)


def written_out(m):
    """The design with the levels as columns."""
    c = m.columns
    levels = (np.arange(c.n_levels) == c.codes[:, None])[:, :, None] * c.Z[:, None, :]
    return np.column_stack([levels.reshape(N, -1), c.border])


def test_hyperparameters_stand_in_the_order_of_terms_with_the_likelihoods_last():
    effects = RandomEffects(CODES, "abc", X[:, :2], ("Intercept", "x"), "g", correlated=False)
    m = model(effects + Flat(F) + Ridge(X))
    assert m.hyperparameters.names == ("sd(Intercept | g)", "sd(x | g)", "sd(weights)", "sd(noise)")
    assert m.n_prior_theta == 3
    assert m.n_weights == 6 + 3 + 4
    assert m.n_flat == 3
    assert m.flat_names == ("b0", "b1", "b2")
    given = [(term.label, list(theta)) for term, theta in m.term_theta(np.arange(4.0))]
    assert given == [("(1 + x || g)", [0, 1]), ("fixed effects", []), ("ridge", [2])]
    in_theta = replace(m, reml=False, flat_in_theta=True)
    assert in_theta.n_weights == 6 + 4
    assert [h.name for h in in_theta.hyperparameters if h.fixed_effect] == ["basis0", "basis1", "basis2"]


def test_flat_columns_in_orthogonal_coordinates():
    """X = QR with QᵀQ = n I, rows scaled by √weights, whatever the columns' units."""
    for options in ({}, {"weights": W}, {"weights": W, "counts": np.arange(1, N + 1)}):
        m = model(**options)
        scale = np.sqrt(options.get("weights", np.ones(N)) * options.get("counts", np.ones(N)))
        Q, R, constant = m.flat_basis
        np.testing.assert_allclose(Q.T @ Q, N * np.eye(3), atol=1e-8)
        np.testing.assert_allclose(Q @ R, F * scale[:, None], rtol=1e-9)
        assert constant == (0, 1.0)
        sign, log_det = np.linalg.slogdet((F * scale[:, None]).T @ (F * scale[:, None]))
        np.testing.assert_allclose(m.log_volume, (log_det - 3 * np.log(N)) / 2, rtol=1e-6)
        assert sign == 1


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e12])
def test_residuals_of_the_flat_columns(mean):
    """The least squares residual and coefficients, however large the mean of y."""
    y = np.round(Y * 1024) / 1024 + mean
    F2 = np.column_stack([np.ones(N), X[:, :2]])
    for options in ({}, {"weights": W, "offset": X[:, 3]}):
        m = model(Flat(F2) + Ridge(X[:, 2:]), y, **options)
        scale = np.sqrt(options.get("weights", np.ones(N)))
        target = ((y - mean) - options.get("offset", 0)) * scale
        beta = np.linalg.lstsq(F2 * scale[:, None], target, rcond=None)[0]
        residual, shift = m.residuals.read(slice(0, 1))
        np.testing.assert_allclose(residual[:, 0], target - F2 * scale[:, None] @ beta, rtol=0, atol=1e-12)
        np.testing.assert_allclose(shift[:, 0], beta + [mean, 0, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [5, 1 << 17])
@pytest.mark.parametrize("grouped", [False, True])
def test_sums_over_the_design(grouped, chunk):
    prior = Flat(F) + Ridge(X[:, 2:])
    prior = RandomEffects(CODES, "abc", X[:, :2], ("Intercept", "x"), "g") + prior if grouped else prior
    m = model(prior, chunk=chunk)
    design, v, w = written_out(m), rng.standard_normal(N), rng.uniform(0, 1, N)
    np.testing.assert_allclose(m.columns.transpose_times(v, m.rows), design.T @ v, rtol=1e-12, atol=1e-12)
    for weights in (None, w):
        H = m.columns.gram(weights, m.rows)
        dense = (design.T * (1 if weights is None else weights)) @ design
        u = rng.standard_normal(len(dense))
        np.testing.assert_allclose(H.matvec(u), dense @ u, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(
            H.border, dense[H.size - len(H.border) :, H.size - len(H.border) :], rtol=1e-11, atol=1e-11
        )
    top, bottom = m.columns.split(np.arange(float(design.shape[1])))
    assert [*top.ravel(), *bottom] == list(range(design.shape[1]))


def test_weights_are_precisions_for_a_gaussian_and_multipliers_otherwise():
    counts = np.arange(1, N + 1)
    gaussian = model(weights=W, counts=counts)
    np.testing.assert_allclose(gaussian.row_scale, np.sqrt(W * counts))
    np.testing.assert_allclose(gaussian.log_row_scale, np.sum(counts * np.log(W)) / 2)
    assert np.all(gaussian.multiplier == 1)
    poisson = model(y=np.arange(N), likelihood=Poisson(), weights=W, counts=counts)
    assert poisson.row_scale is None
    assert poisson.log_row_scale == 0
    np.testing.assert_allclose(poisson.multiplier, W * counts)
    assert model(counts=counts).rows.n_observations == counts.sum()


def test_targets():
    y = rng.standard_normal((N, 3))
    m = model(y=y, weights=W)
    assert m.n_targets == 3
    for v in range(3):
        one = m.target(v)
        assert one.n_targets == 1
        np.testing.assert_array_equal(one.rows.y, y[:, v])
        np.testing.assert_array_equal(one.rows.weights, W)
    alone = model()
    assert alone.target(0) is alone
    some = m.subset(np.array([2, 0]))
    np.testing.assert_array_equal(some.rows.y, y[:, [2, 0]])


def test_subset_keeps_what_is_known_of_the_design():
    y = rng.standard_normal((N, 5)) + 100
    m = model(y=y)
    wanted = np.array([4, 1])
    _ = m.spectrum
    kept, anew = m.subset(wanted).spectrum, model(y=y[:, wanted]).spectrum
    a, b = np.array([0.3, 0.8]), np.array([1.0, 0.2])
    np.testing.assert_allclose(kept.rest, anew.rest, rtol=1e-12)
    np.testing.assert_allclose(kept.total, anew.total, rtol=1e-12)
    np.testing.assert_allclose(kept.shift, anew.shift, rtol=1e-12)
    np.testing.assert_allclose(kept.weights(a, b)[0], anew.weights(a, b)[0], rtol=1e-9)


def test_integer_and_single_precision_responses():
    integers = np.arange(N)
    np.testing.assert_array_equal(model(y=integers).rows.y, integers)
    assert model(y=integers).rows.y.dtype == np.float64
    rounded = Y.astype(np.float32)
    np.testing.assert_allclose(
        model(y=rounded).spectrum.total, model(y=rounded.astype(np.float64)).spectrum.total, rtol=1e-14
    )


def test_start_values_are_of_the_data_s_order():
    """Prior scales from a tenth to three times what explains the response, in the units of columns and response."""
    for c in (1e-6, 1.0, 1e6):
        scales = model(Flat(np.ones(N)) + Ridge(X), c * Y).start_theta() / c
        assert scales.shape[1] == 2
        assert np.all((scales > 1e-2) & (scales < 1e2))
        columns = model(Flat(np.ones(N)) + Ridge(c * X)).start_theta() * [c, 1]
        np.testing.assert_allclose(columns, model(Flat(np.ones(N)) + Ridge(X)).start_theta(), rtol=1e-12)


def test_start_of_a_count_model_is_at_its_mean():
    """Newton's method sets out where the rate, exposure included, is the mean of y."""
    counts, exposure = rng.poisson(50.0, N).astype(float), np.full(N, 2.0)
    m = model(Flat(np.ones(N)) + Ridge(X), counts, Poisson(), offset=np.log(exposure))
    eta = written_out(m) @ m.start_weights() + m.rows.offset
    np.testing.assert_allclose(np.exp(eta), counts.mean(), rtol=0.01)


GROUP = RandomEffects(CODES, "abc", group="g")
WRONG = {
    "Term 'ridge' has 13 rows but y has 14": lambda: model(Flat(F) + Ridge(X[1:])),
    r"response 'y' contains NaN in row 2, 5 \(rows count from 0\)": lambda: model(
        y=np.where(np.isin(np.arange(N), [2, 5]), np.nan, Y)
    ),
    r"column 'b' contains infinity in row 3 \(1 other columns have some too\)": lambda: model(
        Flat(np.where((np.arange(N) == 3)[:, None] & [False, True, True], np.inf, F), ["a", "b", "c"])
    ),
    "needs counts: whole numbers from 0, but the response is -1 in row 4": lambda: model(
        y=np.where(np.arange(N) == 4, -1, 2), likelihood=Poisson()
    ),
    "needs counts: whole numbers from 0, but the response is 0.5 in row 0": lambda: model(
        y=np.full(N, 0.5), likelihood=Poisson()
    ),
    "weights must be positive, but row 1 has 0": lambda: model(weights=np.where(np.arange(N) == 1, 0, W)),
    r"weights must have one value a row, shape \(14,\), but its shape is \(13,\)": lambda: model(weights=W[1:]),
    r"offset must have one value a row, shape \(14,\), but its shape is \(14, 1\)": lambda: model(offset=Y[:, None]),
    "The data have no rows": lambda: model(Prior((Ridge(np.zeros((0, 2))),)), np.zeros(0)),
    r"y must have shape \(n,\) or \(n, targets\)": lambda: model(y=np.zeros((N, 2, 2))),
    "Fixed effect 'c' is a linear combination of 'a' and 'b'": lambda: (
        model(Flat(np.column_stack([np.ones(N), Y, 2 - 3 * Y]), ["a", "b", "c"]) + Ridge(X)).flat_basis
    ),
    "Fixed effect 'b' is constant, like 'a'": lambda: (
        model(Flat(np.column_stack([np.ones(N), np.full(N, 7.0)]), ["a", "b"]) + Ridge(X)).flat_basis
    ),
    "Fixed effect 'b' is zero in every row": lambda: (
        model(Flat(np.column_stack([np.ones(N), np.zeros(N)]), ["a", "b"]) + Ridge(X)).flat_basis
    ),
    "There are 15 fixed effects but only 14 rows": lambda: (
        model(Flat(rng.standard_normal((N, 15))) + Ridge(X)).flat_basis
    ),
    "The model has no terms": lambda: LinearModel(Gaussian(), Prior(()), InMemory(Y)),
    "several flat terms": lambda: model(Flat(F[:, :1]) + Flat(F[:, 1:])),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_bad_input_is_refused_in_a_sentence(sentence):
    with pytest.raises(ValueError, match=sentence):
        WRONG[sentence]()


def test_columns_that_are_nearly_collinear_are_kept():
    """A millionth of new length is enough."""
    nearly = np.column_stack([np.ones(N), Y, 2 - 3 * Y + 1e-6 * X[:, 0]])
    Q, R, _ = model(Flat(nearly) + Ridge(X)).flat_basis
    np.testing.assert_allclose(Q @ R, nearly, rtol=1e-12, atol=1e-12)
