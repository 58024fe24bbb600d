# SPDX-License-Identifier: BSD-3-Clause
"""What a smooth is beyond mgcv's numbers: penalties as integrals, flat and penalised directions, products, levels."""

from itertools import pairwise

import numpy as np
import pytest

from marglik.smooths import Cubic, Cyclic, PSpline, RandomEffect, s, te, ti
from marglik.smooths.knots import distinct
from marglik.smooths.sampling import sample
from marglik.smooths.thin_plate import Line, ThinPlate, _kernel, _largest

rng = np.random.default_rng(3)
DATA = {
    "x": rng.uniform(-1, 2, 60),
    "z": rng.standard_normal(60),
    "w": rng.uniform(0.5, 2, 60),
    "f": rng.choice(["a", "b", "c"], 60),
}
TERMS = {
    "tp": lambda **more: s(DATA, "x", k=7, **more),
    "tp in the plane": lambda **more: s(DATA, "x", "z", k=12, **more),
    "cr": lambda **more: s(DATA, "x", bs="cr", k=7, **more),
    "cc": lambda **more: s(DATA, "x", bs="cc", k=7, **more),
    "ps": lambda **more: s(DATA, "x", bs="ps", k=7, **more),
    "re": lambda **more: s(DATA, "f", bs="re", **more),
    "te": lambda **more: te(DATA, "x", "z", k=4, **more),
    "ti": lambda **more: ti(DATA, "x", "z", bs=["ps", "tp"], k=5, **more),
}


@pytest.mark.parametrize("basis", [Cubic, Cyclic])
def test_cubic_penalty_is_the_integrated_squared_curvature(basis):
    """By Gauss-Legendre quadrature between knots, where both it and second differences are exact."""
    spline = basis(np.array([0.0, 0.4, 1.0, 1.3, 2.0]))
    integral = 0.0
    for a, b in pairwise(spline.knots):
        nodes = (a + b) / 2 + (b - a) / 2 * np.array([-1, 1]) / np.sqrt(3)
        h = (b - a) / 10
        below, at, above = (spline.design([nodes + step]) for step in (-h, 0, h))
        curvature = (below - 2 * at + above) / h**2
        integral += (b - a) / 2 * curvature.T @ curvature
    np.testing.assert_allclose(spline.penalties[0], integral, rtol=1e-9, atol=1e-9)


def test_thin_plate_penalty_is_the_integrated_squared_curvature():
    """Of one covariate: f″ is piecewise linear, and zero beyond the points."""
    (smooth,) = s(DATA, "x", k=6)
    basis, points = smooth.basis, smooth.basis.points[:, 0]
    beta = rng.standard_normal(6)
    curvature = np.abs(points[:, None] - points) @ (basis.weights @ beta[:4]) / 2
    left, right = curvature[:-1], curvature[1:]
    integral = np.sum(np.diff(points) * (left**2 + left * right + right**2)) / 3
    np.testing.assert_allclose(beta @ basis.penalty @ beta, integral, rtol=1e-9)


@pytest.mark.parametrize("kind", ["even", "with ties", "crowded", "all the same", "wider than numbers reach"])
def test_distinct_values(kind):
    x = np.random.default_rng(0).uniform(-3, 1, 20_000)
    x = {
        "even": x,
        "with ties": np.concatenate([x[:18_000], x[:2_000]]),
        "crowded": x**15,
        "all the same": np.full(20_000, 7.0),
        "wider than numbers reach": 5e307 * x,
    }[kind]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(distinct(x), np.unique(x))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_sums_along_a_line(scale):
    """Against every pair of points."""
    x = scale * np.sort(np.random.default_rng(1).standard_normal(300)) ** 3
    V = np.random.default_rng(2).standard_normal((300, 2))
    apart = x[:, None] - x
    for s_, found in enumerate(Line.of(x, 5).sums(V)):
        wanted = np.where(apart < 0, -1.0, 1.0) * apart**s_ @ V
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14 * np.ptp(x) ** s_ * np.abs(V).sum())
    for m in (1, 2, 3):
        E = _kernel(x[:, None], x[:, None], m)
        np.testing.assert_allclose(
            Line.of(x, 2 * m - 1).kernel(m) @ V[:, 0], E @ V[:, 0], rtol=0, atol=1e-12 * np.abs(E).max()
        )


@pytest.mark.parametrize("d", [1, 2])
def test_largest_eigenvalues_of_many_points(d):
    """By Lanczos' method, against all of them."""
    points = np.random.default_rng(3).standard_normal((450, d))
    points = np.sort(points, axis=0) if d == 1 else points
    D, U = _largest(points, 2, 12)
    E = _kernel(points, points, 2)
    every = np.linalg.eigvalsh(E)
    wanted = every[np.argsort(-np.abs(every))[:12]]
    np.testing.assert_allclose(np.diag(D), -np.sort(-wanted), rtol=1e-9)
    np.testing.assert_allclose(E @ U, U @ D, rtol=0, atol=1e-9 * np.abs(wanted).max())
    np.testing.assert_allclose(U.T @ U, np.eye(12), rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_pieces_are_the_kernel(m):
    """Of one covariate, also far outside the points."""
    basis = s(DATA, "x", k=7, m=m)[0].basis
    x = np.linspace(-4, 5, 101)[:, None]
    kernel = _kernel(x, basis.points, m) @ basis.weights
    found = basis.design([x[:, 0] + basis.centre])[:, : basis.weights.shape[1]]
    np.testing.assert_allclose(found, kernel, rtol=0, atol=1e-9 * np.abs(kernel).max())


def test_a_thin_plate_of_all_points_interpolates():
    """With a function for each of twelve points, f runs through any values there."""
    x = [DATA["x"][:12], DATA["z"][:12]]
    X = s({"x": x[0], "z": x[1]}, "x", "z", k=12)[0].basis.design(x)
    assert np.linalg.svd(X, compute_uv=False)[-1] > 1e-6


@pytest.mark.parametrize("bs", ["tp", "cr", "ps"])
def test_straight_lines_beyond_the_data(bs):
    smooth = s(DATA, "x", bs=bs, k=7)[0]
    lower, upper = DATA["x"].min(), DATA["x"].max()
    for points in ([lower - 3, lower - 2, lower - 1], [upper + 1, upper + 2, upper + 3]):
        X = smooth.design({"x": np.array(points)})
        np.testing.assert_allclose(X[0] - 2 * X[1] + X[2], 0, atol=1e-10 * np.abs(X).max())


def test_cyclic_ends_meet_smoothly():
    basis = s(DATA, "x", bs="cc", k=8, knots={"x": [-1, 2]})[0].basis
    near = np.array([-0.1, 0.0, 0.1])
    np.testing.assert_allclose(basis.design([-1 + near]), basis.design([2 + near]), rtol=0, atol=1e-12)
    beyond, last, first = (basis.design([np.array([x])]) for x in (-1.0 - 1e-9, 2.0 - 1e-9, -1.0))
    np.testing.assert_allclose(beyond, last, rtol=0, atol=1e-12)
    np.testing.assert_allclose(beyond, first, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in TERMS if name not in ("re", "ti")])
def test_centred_over_the_data(name):
    X = TERMS[name]()[0].design(DATA)
    np.testing.assert_allclose(X.sum(axis=0), 0, atol=1e-10 * np.abs(X).max())


def test_margins_of_ti_are_centred():
    (smooth,) = ti(DATA, "x", "z", k=5)
    for margin, name in zip(smooth.basis.margins, ("x", "z"), strict=True):
        np.testing.assert_allclose(margin.design([DATA[name]]).sum(axis=0), 0, atol=1e-10)


def test_te_holds_the_main_effects_and_ti():
    """Columns of s(x), s(z) and ti(x, z), with the constant, span what those of te(x, z) do."""
    ones = np.ones((60, 1))
    sums = [t(DATA, *names, bs="cr", k=4)[0].design(DATA) for t, names in ((s, "x"), (s, "z"), (ti, "xz"))]
    parts, whole = np.hstack([ones, *sums]), np.hstack([ones, te(DATA, "x", "z", k=4)[0].design(DATA)])
    assert parts.shape == whole.shape == (60, 16)
    solved = np.linalg.lstsq(parts, whole)[0]
    np.testing.assert_allclose(parts @ solved, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("by", [None, "w", "f"])
@pytest.mark.parametrize("select", [False, True])
@pytest.mark.parametrize("name", TERMS)
def test_directions(name, select, by):
    """N is orthonormal and unseen, each R_i whitens its penalty, and together they are all directions."""
    if name == "re" and by == "f":
        by = None
    for smooth in TERMS[name](select=select, by=by):
        N, S = smooth.null, smooth.penalties
        assert len(smooth.scales) == len(S) == len(set(smooth.scales))
        np.testing.assert_allclose(N.T @ N, np.eye(smooth.null_dimension), rtol=0, atol=1e-12)
        for penalty in S:
            np.testing.assert_allclose(penalty @ N, 0, atol=1e-10 * np.abs(penalty).max())
        total = sum(penalty / np.linalg.norm(penalty) for penalty in S)
        assert np.linalg.eigvalsh(smooth.wiggly.T @ total @ smooth.wiggly)[0] > 1e-9
        if name in ("te", "ti"):
            continue
        roots = smooth.roots
        for i, R in enumerate(roots):
            for j, penalty in enumerate(S):
                identity = np.eye(R.shape[1]) * (i == j)
                np.testing.assert_allclose(R.T @ penalty @ R, identity, rtol=0, atol=1e-7)
        assert np.linalg.matrix_rank(np.hstack([N, *roots])) == smooth.n_weights


@pytest.mark.parametrize("by", [None, "w", "f"])
@pytest.mark.parametrize("name", TERMS)
def test_parts_are_the_columns_of_directions(name, by, monkeypatch):
    """At the data and at new ones, run by run of rows or all at once; by levels, if the basis allows them."""
    if name == "re" and by == "f":
        by = None
    new = {"x": np.linspace(-2, 3, 25), "z": np.linspace(-2, 2, 25), "w": np.ones(25), "f": np.repeat(["a"], 25)}
    for smooth in TERMS[name](by=by):
        for data in (DATA, new):
            X = smooth.design(data)
            expected = X @ smooth.null, X @ smooth.root
            for run in (7, 1000):
                monkeypatch.setattr("marglik.smooths.smooth.RUN", run)
                for part, whole in zip(smooth.parts(data), expected, strict=True):
                    np.testing.assert_allclose(part, whole, rtol=1e-9, atol=1e-9 * np.abs(X).max())


def test_products_have_no_independent_weights():
    message = r"te\(x, z\) has 2 penalties of the same directions, .*Use its `root` and `shares`\."
    with pytest.raises(ValueError, match=message):
        _ = te(DATA, "x", "z")[0].roots


def test_by_levels_is_one_design_in_rows_of_its_own():
    plain, levels = s(DATA, "x", k=6)[0], s(DATA, "x", k=6, by="f")
    assert [smooth.label for smooth in levels] == ["s(x):f[a]", "s(x):f[b]", "s(x):f[c]"]
    assert [smooth.scales[0] for smooth in levels] == ["sd(s(x):f[a])", "sd(s(x):f[b])", "sd(s(x):f[c])"]
    np.testing.assert_allclose(sum(smooth.design(DATA) for smooth in levels), plain.design(DATA))


def test_by_a_constant_stays_centred():
    """The constant times a constant is still what an intercept stands for."""
    data = {**DATA, "two": np.full(60, 2)}
    np.testing.assert_allclose(s(data, "x", by="two")[0].design(data), 2 * s(data, "x")[0].design(data))


def test_thinned_knots_of_several_covariates():
    """A sample of the distinct rows, in lexicographic order: the same basis as with these rows as knots."""
    rows = np.unique(np.column_stack([DATA["x"], DATA["z"]]), axis=0)[sample(60, 25)]
    thinned = s(DATA, "x", "z", k=9, max_knots=25)[0]
    given = s(DATA, "x", "z", k=9, knots={"x": rows[:, 0], "z": rows[:, 1]})[0]
    np.testing.assert_allclose(thinned.design(DATA), given.design(DATA), rtol=1e-12)


def test_samples_are_those_of_r():
    """`set.seed(1); sample(100, 5)`, `set.seed(1); sample(100000, 3)`."""
    assert (sample(100, 5) + 1).tolist() == [68, 39, 1, 34, 87]
    assert (sample(100_000, 3) + 1).tolist() == [24388, 59521, 43307]
    assert sorted(sample(1000, 1000)) == list(range(1000))


def test_units_of_covariates_do_not_matter():
    """x in other units from another zero: the same columns, up to signs, and the same penalty."""
    for name, asked in {"tp": {}, "cr": {}, "cc": {}, "ps": {}}.items():
        data = {"x": 1e4 + 1e-3 * DATA["x"]}
        here, there = s(DATA, "x", bs=name, k=7, **asked)[0], s(data, "x", bs=name, k=7, **asked)[0]
        X, Y = here.design(DATA), there.design(data)
        np.testing.assert_allclose(np.abs(X), np.abs(Y), rtol=0, atol=1e-6 * np.abs(X).max())
        np.testing.assert_allclose(np.abs(here.penalties[0]), np.abs(there.penalties[0]), rtol=1e-5, atol=1e-5)


def test_bases_are_registered_by_their_names():
    assert [basis.bs for basis in (ThinPlate, Cubic, Cyclic, PSpline, RandomEffect)] == ["tp", "cr", "cc", "ps", "re"]


def test_sums_of_weights_at_levels():
    """s(f, x, bs="re") is a slope of x for every level; an unseen level has none."""
    (slopes,) = s(DATA, "f", "x", bs="re")
    new = {"f": np.array(["c", "d"]), "x": np.array([2.0, 3.0])}
    np.testing.assert_array_equal(slopes.design(new), [[0, 0, 2], [0, 0, 0]])


@pytest.mark.parametrize("name", TERMS)
def test_rows_one_by_one(name):
    """No row, one row, whole numbers: each row's columns depend on that row alone."""
    (smooth,) = TERMS[name]()
    new = {"x": np.array([0, 1, -3]), "z": np.array([2, 0, 1]), "f": np.array(["b", "a", "c"])}
    X = smooth.design(new)
    for row in range(3):
        alone = smooth.design({key: column[row : row + 1] for key, column in new.items()})
        np.testing.assert_allclose(alone[0], X[row], rtol=1e-12, atol=1e-12)
    assert smooth.design({key: column[:0] for key, column in new.items()}).shape == (0, smooth.n_weights)
