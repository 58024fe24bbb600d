# SPDX-License-Identifier: BSD-3-Clause
"""NumPy's own BLAS threads rest while marglik computes, and are given back."""

from functools import cached_property

import numpy as np
import pytest

import marglik
from marglik.pools import numpys_pool, one_pool, within_one_pool


@pytest.fixture
def pool():
    own = numpys_pool()
    if own is None:
        pytest.skip("NumPy and SciPy share one BLAS here")
    before = own.num_threads
    own.set_num_threads(2)
    yield own
    own.set_num_threads(before)


def test_threads_are_given_back(pool):
    with one_pool():
        assert pool.num_threads == 1
        with one_pool():
            assert pool.num_threads == 1
        assert pool.num_threads == 1
    assert pool.num_threads == 2
    with pytest.raises(ZeroDivisionError), one_pool():
        raise ZeroDivisionError
    assert pool.num_threads == 2


def test_the_last_of_several_callers_gives_them_back(pool):
    first, second = one_pool(), one_pool()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert pool.num_threads == 1
    second.__exit__(None, None, None)
    assert pool.num_threads == 2


def test_members_of_a_class(pool):
    @within_one_pool
    class Counts:
        """Of threads."""

        def called(self, k=1):
            return k * pool.num_threads

        @property
        def read(self):
            """When it is read."""
            return pool.num_threads

        @cached_property
        def kept(self):
            return pool.num_threads

        def _own(self):
            return pool.num_threads

    counts = Counts()
    assert (counts.called(k=3), counts.read, counts.kept, counts._own()) == (3, 1, 1, 2)
    assert Counts.read.__doc__ == "When it is read."
    assert Counts.called.__name__ == "called"


def test_fits(pool):
    """A user's function that is called within a fit sees it; after fits, predictions and failures all is as before."""
    seen = []
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    y = X[:, 0] + rng.standard_normal(40)
    table = {"y": np.exp(y), "x": X[:, 0], "g": np.arange(40) // 4}
    fit = marglik.fit("y ~ x + (1 | g)", table, family="gamma", progress=lambda *_: seen.append(pool.num_threads))
    assert set(seen) == {1}
    fit.predict(table)
    with pytest.raises(ValueError, match="nothing"):
        marglik.fit("y ~ nothing", table)
    marglik.RidgeEB().fit(X, y).predict(X)
    assert pool.num_threads == 2
