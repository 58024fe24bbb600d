# SPDX-License-Identifier: BSD-3-Clause
"""Sums by level and products of blocks, against loops over levels."""

import numpy as np
import pytest

from marglik.gaussian.levels import DenseCross, Grouping, blockwise, product

RNG = np.random.default_rng(0)
CODES = {
    "sorted": np.repeat([0, 1, 2], [3, 1, 4]),
    "sorted, levels without rows": np.repeat([1, 3], [5, 3]),
    "shuffled": np.array([2, 0, 1, 1, 0, 2, 2, 0]),
    "one row": np.array([1]),
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("rows", CODES)
def test_sums_by_level(rows, intercept):
    codes = CODES[rows]
    Z, X = RNG.standard_normal((len(codes), 3)), RNG.standard_normal((len(codes), 2))
    if intercept:
        Z[:, 0] = 1
    grouping = Grouping(codes, 5, Z, ())
    found, blocks = grouping.sums([*X.T]), grouping.blocks()
    assert found.flags.f_contiguous
    for level in range(5):
        here = codes == level
        np.testing.assert_allclose(found[level], Z[here].T @ X[here], rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(blocks[level], Z[here].T @ Z[here], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("m", [1, 2, 3, 6, 7])
def test_blocks_times_blocks(m, order):
    X, Y = np.array(RNG.standard_normal((4, m, m)), order=order), RNG.standard_normal((4, m, 3))
    found = blockwise(X, Y)
    assert found.flags.f_contiguous
    np.testing.assert_allclose(found, np.einsum("qij,qjk->qik", X, Y), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("orders", ["CC", "CF", "FC", "FF"])
@pytest.mark.parametrize("n", [5, 5000])
def test_products_in_any_order(n, orders):
    X, Y = (np.array(RNG.standard_normal(s), order=o) for s, o in zip([(3, n), (n, 4)], orders, strict=True))
    np.testing.assert_allclose(product(X, Y), np.einsum("ij,jk->ik", X, Y), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("width", [3, 120])
def test_what_is_made_of_shrunk_blocks(width):
    """Few columns or many, of m = 2 rows a level."""
    q, m = 6, 2
    G, B = RNG.standard_normal((q, m, m)), np.asfortranarray(RNG.standard_normal((q, m, width)))
    shrunk = DenseCross(B, B).shrunk(G)
    GB = [g @ b for g, b in zip(G, B, strict=True)]
    Y, v = RNG.standard_normal((width, width)), RNG.standard_normal(width)
    Y, D = Y + Y.T, RNG.standard_normal((2, m, m))
    D = D + D.transpose(0, 2, 1)
    close = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(shrunk.along(D), [sum(x.T @ d @ x for x in GB) for d in D], **close)
    np.testing.assert_allclose(shrunk.spread(Y), [x @ Y @ x.T for x in GB], **close)
    np.testing.assert_allclose(shrunk.times(v), [x @ v for x in GB], **close)
