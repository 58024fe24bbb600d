# SPDX-License-Identifier: BSD-3-Clause
"""Every operation of the arrow matrix against the same operation on its dense twin."""

import numpy as np
import pytest
from scipy.linalg import block_diag

from marglik.linalg import Arrow, NotPositiveDefinite, Scaling, cholesky, cholesky_inverse, solve_lower, solve_upper

SHAPES = [(q, m, f) for q in (0, 1, 6) for m in (1, 2, 3) for f in (0, 1, 4) if (q or m == 1) and q + f]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def arrow(q, m, f, seed=0):
    """A random positive definite one."""
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((q, m, m))
    cross = rng.standard_normal((q, m, f))
    blocks = half @ half.transpose(0, 2, 1) + m * np.eye(m)
    half = rng.standard_normal((f, f))
    explained = np.einsum("qmf,qmg->fg", cross, np.linalg.solve(blocks, cross)) if q else np.zeros((f, f))
    return Arrow(blocks, cross, half @ half.T + np.eye(f) + explained)


@pytest.fixture(params=SHAPES, ids=lambda s: "q={} m={} f={}".format(*s))
def H(request):
    return arrow(*request.param)


@pytest.fixture
def A(H):
    """The dense twin, written out block by block."""
    q, m, f = H.cross.shape
    A = np.zeros((q * m + f, q * m + f))
    for g in range(q):
        block = slice(g * m, (g + 1) * m)
        A[block, block], A[block, q * m :], A[q * m :, block] = H.blocks[g], H.cross[g], H.cross[g].T
    A[q * m :, q * m :] = H.border
    return A


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def _pattern(H):
    """1 where the arrow has entries."""
    q, m, f = H.cross.shape
    return Arrow(np.ones((q, m, m)), np.ones((q, m, f)), np.ones((f, f))).to_dense()


def test_to_dense_and_size(H, A):
    np.testing.assert_array_equal(H.to_dense(), A)
    assert H.size == len(A)


def test_log_det(H, A):
    sign, log_det = np.linalg.slogdet(A)
    assert sign == 1
    np.testing.assert_allclose(H.log_det, log_det, **CLOSE)


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_solve(H, A, rng, columns):
    v = rng.standard_normal(len(A) if columns is None else (len(A), columns))
    x = H.solve(v)
    assert x.shape == v.shape
    np.testing.assert_allclose(x, np.linalg.solve(A, v), **CLOSE)


@pytest.mark.parametrize("columns", [None, 2])
def test_solve_half_gives_the_covariance(H, A, rng, columns):
    half = H.solve_half(np.eye(len(A)))
    np.testing.assert_allclose(half @ half.T, np.linalg.inv(A), **CLOSE)
    v = rng.standard_normal(len(A) if columns is None else (len(A), columns))
    np.testing.assert_allclose(H.solve_half(v), half @ v, **CLOSE)


def test_inverse_on_pattern(H, A):
    C = H.inverse_on_pattern()
    np.testing.assert_allclose(C.to_dense(), np.linalg.inv(A) * _pattern(H), **CLOSE)


def test_matvec(H, A, rng):
    v = rng.standard_normal(len(A))
    np.testing.assert_allclose(H.matvec(v), A @ v, **CLOSE)


def test_shifts_and_multiples(H, A, rng):
    q, m, f = H.cross.shape
    mask = rng.integers(0, 2, f).astype(float)
    np.testing.assert_allclose(H.times(-2.5).to_dense(), -2.5 * A, **CLOSE)
    np.testing.assert_allclose(H.plus_shift(0.7).to_dense(), A + 0.7 * np.eye(len(A)), **CLOSE)
    identity = np.diag(np.append(np.ones(q * m), mask))
    np.testing.assert_allclose(H.plus_identity(mask).to_dense(), A + identity, **CLOSE)


@pytest.mark.parametrize("transposed", [False, True])
def test_congruence(H, A, rng, transposed):
    q, m, f = H.cross.shape
    L, d = rng.standard_normal((m, m)), rng.standard_normal(f)
    T = np.zeros_like(A)
    T[: q * m, : q * m], T[q * m :, q * m :] = np.kron(np.eye(q), L), np.diag(d)
    T = T.T if transposed else T
    np.testing.assert_allclose(H.congruence(L, Scaling(d), transposed).to_dense(), T.T @ A @ T, **CLOSE)


@pytest.mark.parametrize("transposed", [False, True])
def test_scaling_with_runs_of_blocks(rng, transposed):
    d, L, M = rng.standard_normal(11), rng.standard_normal((2, 2)), rng.standard_normal((3, 3))
    d[1:5] = d[5:11] = 0
    scaling = Scaling(d, ((slice(1, 5), L), (slice(5, 11), M)))
    T = block_diag(d[:1], np.kron(np.eye(2), L), np.kron(np.eye(2), M))
    X = rng.standard_normal((2, 4, 11))
    A = X[0].T @ X[0]
    written = T.T if transposed else T
    np.testing.assert_allclose(scaling.right(X, transposed), X @ written, **CLOSE)
    np.testing.assert_allclose(scaling.both(A, transposed), written.T @ A @ written, **CLOSE)
    B = rng.standard_normal(A.shape)
    found = scaling.on_pattern((A, np.eye(11)), (B, A))
    A = A.T + B.T @ A
    np.testing.assert_allclose(found.diagonal, A.diagonal(), **CLOSE)
    np.testing.assert_allclose(found.runs[0][1], A[1:3, 1:3] + A[3:5, 3:5], **CLOSE)
    np.testing.assert_allclose(found.runs[1][1], A[5:8, 5:8] + A[8:, 8:], **CLOSE)
    kept = scaling.keep(np.arange(11) > 0)
    np.testing.assert_allclose(kept.right(X[..., 1:]), X[..., 1:] @ T[1:, 1:], **CLOSE)


def test_congruence_with_zeros_keeps_an_identity_solvable(H, A):
    """A scale of zero: H = 0ᵀA0 + I."""
    _, m, f = H.cross.shape
    nothing = H.congruence(np.zeros((m, m)), Scaling(np.zeros(f))).plus_identity(np.ones(f))
    assert nothing.log_det == 0
    np.testing.assert_array_equal(nothing.solve(np.ones(len(A))), np.ones(len(A)))


def test_keep_border(H, A):
    q, m, f = H.cross.shape
    keep = np.arange(f) % 2 == 0
    kept = np.append(np.ones(q * m, bool), keep)
    np.testing.assert_array_equal(H.keep_border(keep).to_dense(), A[np.ix_(kept, kept)])


def test_inner(H, A):
    G = arrow(*H.cross.shape, seed=5)
    np.testing.assert_allclose(H.inner(G), np.sum(A * G.to_dense()), **CLOSE)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_cholesky_and_what_follows(size):
    rng = np.random.default_rng(size)
    half = rng.standard_normal((size, size))
    A = half @ half.T + np.eye(size)
    L = cholesky(A)
    np.testing.assert_allclose(L @ L.T, A, **CLOSE)
    np.testing.assert_array_equal(L, np.tril(L))
    np.testing.assert_allclose(cholesky_inverse(L) @ A, np.eye(size), **CLOSE)
    for b in (rng.standard_normal(size), rng.standard_normal((size, 2))):
        np.testing.assert_allclose(solve_lower(L, b), np.linalg.solve(L, b), **CLOSE)
        np.testing.assert_allclose(solve_lower(L, b, transposed=True), np.linalg.solve(L.T, b), **CLOSE)
        np.testing.assert_allclose(solve_upper(L.T, b), np.linalg.solve(L.T, b), **CLOSE)
        np.testing.assert_allclose(solve_upper(L.T, b, transposed=True), np.linalg.solve(L, b), **CLOSE)


def test_what_is_not_positive_definite_is_refused():
    with pytest.raises(NotPositiveDefinite, match=r"size 2 is not positive definite \(leading minor 2\)"):
        cholesky(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(NotPositiveDefinite, match="not finite"):
        cholesky(np.array([[1.0, 0.0], [0.0, np.nan]]))
    H = arrow(3, 2, 2)
    for wrong in (
        Arrow(-H.blocks, H.cross, H.border),
        Arrow(H.blocks, 100 * H.cross, H.border),
        Arrow(H.blocks, H.cross, H.border - 1e3 * np.eye(2)),
    ):
        for use in (lambda G: G.log_det, lambda G: G.solve(np.ones(8)), lambda G: G.inverse_on_pattern()):
            with pytest.raises(NotPositiveDefinite):
                use(wrong)


def test_many_groups_are_eliminated_one_by_one():
    """log|H| and H⁻¹v for a hundred thousand groups of known form: blocks b, cross c, border C."""
    q, b, c = 100_000, 2.0, 0.01
    H = Arrow(np.full((q, 1, 1), b), np.full((q, 1, 1), c), np.array([[30.0]]))
    schur = 30 - q * c**2 / b
    np.testing.assert_allclose(H.log_det, q * np.log(b) + np.log(schur), rtol=1e-12)
    x = H.solve(np.ones(q + 1))
    last = (1 - q * c / b) / schur
    np.testing.assert_allclose(x, np.append(np.full(q, (1 - c * last) / b), last), rtol=1e-10)
