# SPDX-License-Identifier: BSD-3-Clause
import numpy as np
import pytest

import marglik

rng = np.random.default_rng(2)


@pytest.mark.parametrize("frame", [(), (4,), (2, 3)])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_columns_are_the_definition(frame, first):
    x = rng.standard_normal((9, *frame))
    found = marglik.lagged(x, 4, first).reshape(9, 4, *frame)
    for i in range(9):
        for lag in range(4):
            back = i - first - lag
            np.testing.assert_array_equal(found[i, lag], x[back] if back >= 0 else np.zeros(frame))


def test_a_convolution_is_a_product():
    x, kernel = rng.standard_normal(30), rng.standard_normal(5)
    np.testing.assert_allclose(marglik.lagged(x, 5) @ kernel, np.convolve(x, kernel)[:30], rtol=0, atol=1e-13)


def test_trials_are_apart():
    x, trial = rng.standard_normal((10, 2)), np.repeat([3, 1, 2], [4, 1, 5])
    apart = np.concatenate([marglik.lagged(x[trial == t], 3, 1) for t in (3, 1, 2)])
    np.testing.assert_array_equal(marglik.lagged(x, 3, 1, trial), apart)


def test_more_lags_than_rows():
    assert not marglik.lagged(np.ones(2), 5)[:, 2:].any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1.0, 3), "x is a single number"),
        (([1, 2], 0), "lags must be a whole number, 1 or more, not 0"),
        (([1, 2], 2.5), "lags must be a whole number"),
        (([1, 2], 2, -1), "first must be a whole number, 0 or more, not -1"),
        (([1, 2], 2, 0, [1]), "the trial of each of the 2 rows"),
        (([1, 2, 3], 2, 0, list("aba")), "trial a are not next to each other"),
    ],
)
def test_bad_input(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        marglik.lagged(*arguments)
