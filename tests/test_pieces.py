# SPDX-License-Identifier: BSD-3-Clause
"""Columns as polynomials between breaks, against the same columns as arrays."""

import numpy as np
import pytest

import marglik
from marglik.gaussian import gram
from marglik.gaussian.spectrum import Residuals
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.pieces import Pieces, Polynomials, _cells, joint_gram, worthwhile
from marglik.priors import Flat, Ridge
from marglik.rows import InMemory
from marglik.smooths import s

N = 500
rng = np.random.default_rng(8)
DATA = {"x": np.r_[rng.uniform(-1, 2, N - 1), 0.5], "z": rng.standard_normal(N), "w": rng.uniform(-2, 2, N)}
BASES = {
    "cr": {"bs": "cr", "k": 8},
    "cr, data beyond its knots": {"bs": "cr", "k": 5, "knots": {"x": [-0.3, 0.1, 0.5, 1.0, 1.1]}},
    "cc": {"bs": "cc", "k": 7},
    "ps": {"bs": "ps", "k": 9},
    "ps of straight lines": {"bs": "ps", "k": 9, "m": [0, 1]},
    "ps of degree five": {"bs": "ps", "k": 9, "m": [4, 2]},
    "tp": {"k": 6},
    "tp of order one": {"k": 6, "m": 1},
    "tp of order three": {"k": 7, "m": 3},
    "tp of few knots": {"k": 5, "knots": {"x": np.linspace(-0.9, 1.9, 9)}},
}


@pytest.fixture(params=BASES)
def basis(request):
    (smooth,) = s(DATA, "x", **BASES[request.param])
    return smooth.basis


def close(found, wanted, size=1.0):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11 * size * max(1.0, np.abs(wanted).max()))


def test_they_are_the_functions_of_the_basis(basis):
    """Between knots, at them, far beyond the data; at no rows too."""
    knots = getattr(basis, "knots", np.zeros(0))
    x = np.concatenate([DATA["x"], knots, [-40.0, 70.0]])
    close(np.asarray(basis.pieces([x])), basis.design([x]), size=10)
    assert np.asarray(basis.pieces([x[:0]])).shape == (0, basis.design([x]).shape[1])


@pytest.mark.parametrize("factor", [None, DATA["w"]], ids=["plain", "rows multiplied"])
def test_sums_over_rows(basis, factor):
    (other,) = s(DATA, "z", bs="cr", k=6)
    left, right = basis.pieces([DATA["x"]]), other.basis.pieces([DATA["z"]])
    X, Z = np.asarray(left), np.asarray(right)
    if factor is not None:
        left, X = left.times(factor), X * factor[:, None]
    M = rng.standard_normal((X.shape[1], 3))
    Y = rng.standard_normal((N, 2))
    size = N * max(1.0, np.abs(X).max())
    close(left.sums(), X.sum(axis=0), size)
    close(left.products(Y), X.T @ Y, size)
    close(left.gram(), X.T @ X, size)
    close(left.cross(right), X.T @ Z, size)
    close(right.cross(left), Z.T @ X, size)
    close(joint_gram([left.combined(M), right]), np.hstack([X @ M, Z]).T @ np.hstack([X @ M, Z]), size)
    close(left.times(DATA["z"]).products(Y), (X * DATA["z"][:, None]).T @ Y, size)


def test_the_largest_row(basis):
    """Cells where functions change sign, and cells where none does."""
    pieces = basis.pieces([DATA["x"]])
    np.testing.assert_allclose(pieces.largest_row(), np.linalg.norm(np.asarray(pieces), np.inf), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_units_of_the_covariate(scale):
    """The values at knots are the same functions in any units."""
    (here,), (there,) = (s({"x": unit * DATA["x"]}, "x", bs="cr", k=8) for unit in (1.0, scale))
    close(there.basis.pieces([scale * DATA["x"]]).gram(), here.basis.pieces([DATA["x"]]).gram(), N)


def test_rows_near_a_break_lose_no_digits():
    """A cell far from zero, narrow beside that: places in it are differences of neighbours."""
    breaks = 1e6 + np.arange(5.0)
    (smooth,) = s({"x": breaks}, "x", bs="cr", k=5)
    close(np.asarray(smooth.basis.pieces([breaks])), np.eye(5))


@pytest.mark.parametrize("spread", [1, 9], ids=["even", "crowded"])
@pytest.mark.parametrize("n_breaks", [0, 1, 40, 300])
def test_cells(n_breaks, spread):
    """However breaks lie; a row at a break is right of it."""
    breaks = np.sort(np.random.default_rng(n_breaks).standard_normal(n_breaks) ** spread)
    x = np.concatenate([DATA["z"] ** spread, breaks, np.nextafter(breaks, -np.inf), [-1e300, 1e300]])
    np.testing.assert_array_equal(_cells(x, breaks), np.searchsorted(breaks, x, side="right"))


def test_numpy_takes_them_for_an_array():
    pieces = Polynomials(np.zeros(0), np.zeros(1), np.ones(1), np.array([[[1.0]], [[2.0]]])).at(np.array([0.5, -1.0]))
    assert (pieces.shape, pieces.ndim, len(pieces), np.shape(pieces)) == ((2, 1), 2, 2, (2, 1))
    np.testing.assert_array_equal(pieces, [[2.0], [-1.0]])
    copied = np.array(pieces, copy=True)
    copied[0] = 7.0
    assert np.asarray(pieces)[0, 0] == 2.0
    assert np.asarray(pieces, np.float32).dtype == np.float32


def additive(n=N, whole=False, bases=("cr", "ps"), **rows):
    """y = sin 3x + z + noise, as smooths of x and of z times w."""
    data = {name: column[:n] for name, column in DATA.items()}
    smooths = [*s(data, "x", bs=bases[0], k=16), *s(data, "z", bs=bases[1], k=15, by="w")]
    parts = [smooth.parts(data) if whole else smooth.split(data) for smooth in smooths]
    flat = Flat(np.column_stack([np.ones(n), *(flat for flat, _ in parts)]))
    ridges = [Ridge(own, None, one.scales[0], one.label) for (_, own), one in zip(parts, smooths, strict=True)]
    noise = np.random.default_rng(1).standard_normal(n)
    y = np.sin(3 * data["x"]) + data["z"] * data["w"] + 0.3 * noise
    return LinearModel(Gaussian(), flat + ridges[0] + ridges[1], InMemory(y, **rows))


@pytest.mark.parametrize(
    "rows", [{}, {"weights": np.exp(DATA["w"]), "offset": 5 + DATA["z"]}], ids=["plain", "weighted"]
)
def test_a_model_is_the_same_without_its_columns(rows):
    model, dense = additive(**rows), additive(whole=True, **rows)
    fit, truth = marglik.fit(model), marglik.fit(dense)
    assert worthwhile([term.pieces for term in model.dense])
    np.testing.assert_allclose(fit.log_evidence, truth.log_evidence, rtol=1e-12)
    np.testing.assert_allclose(fit.optimum.theta, truth.optimum.theta, rtol=1e-8)
    for label, mean in truth.posterior.mean.items():
        np.testing.assert_allclose(fit.posterior.mean[label], mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(fit.edf, truth.edf, rtol=1e-8)
    assert not any("values" in vars(term.pieces) for term in model.dense)
    np.testing.assert_allclose(fit.predict(), truth.predict(), rtol=1e-8)


def test_where_cells_are_as_many_as_rows_columns_are_cheaper():
    """A thin plate has a cell for every distinct value."""
    model, dense = (additive(bases=("tp", "cr"), whole=whole) for whole in (False, True))
    assert not worthwhile([term.pieces for term in model.dense])
    np.testing.assert_allclose(marglik.fit(model).log_evidence, marglik.fit(dense).log_evidence, rtol=1e-12)


def test_many_pairs_of_small_smooths_are_no_bargain():
    (smooth,) = s(DATA, "x", bs="cr", k=4)
    (larger,) = s(DATA, "x", bs="cr", k=20)
    assert worthwhile([larger.basis.pieces([DATA["x"]])] * 6)
    assert not worthwhile([smooth.basis.pieces([DATA["x"]])] * 12)


@pytest.mark.parametrize("near", [1.0, 1e-3], ids=["apart", "a flat column all but among them"])
def test_the_reduced_data(near):
    """The same as from arrays, also where projecting and multiplying change places."""
    parts = [term.pieces for term in additive().dense]
    X, Y = np.hstack([np.asarray(part) for part in parts]), rng.standard_normal((N, 2))
    Q, R = np.linalg.qr(np.column_stack([np.ones(N), X[:, 3] + near * rng.standard_normal(N)]))
    Q, R = Q * np.sqrt(N), R / np.sqrt(N)
    place = np.repeat([0, 1], [part.shape[1] for part in parts])
    found, truth = (
        gram.reduce(columns, place, Q, Residuals(Y, None, None, Q, R, None), N)
        for columns in (gram.Piecewise(parts), X)
    )
    size = np.abs(X.T @ X).max()
    for name in ("matrix", "products", "means", "squares", "total", "shift"):
        wanted = getattr(truth, name)
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=0, atol=1e-13 * max(size, np.abs(wanted).max()))
    close(found.correlations(Y, np.arange(5)), truth.correlations(Y, np.arange(5)), N)
    w = rng.standard_normal((4, 2))
    close(found.outside(w, np.arange(4), slice(0, 2)), truth.outside(w, np.arange(4), slice(0, 2)), 10)


def test_natural_size_of_a_scale():
    model, dense = additive(), additive(whole=True)
    for lazy, whole in zip(model.dense, dense.dense, strict=True):
        np.testing.assert_allclose(lazy.units(), whole.units(), rtol=1e-12)


def test_saved_and_read(tmp_path):
    fit = marglik.fit(additive())
    fit.save(tmp_path / "fit")
    again = marglik.load(tmp_path / "fit")
    assert again.log_evidence == fit.log_evidence
    assert isinstance(again.model.dense[0].X, Pieces)


def test_as_many_rows_as_the_response():
    model = additive()
    with pytest.raises(ValueError, match=r"Term 's\(x\)' has 500 rows but y has 499"):
        LinearModel(Gaussian(), model.prior[1], InMemory(model.rows.y[:-1]))
