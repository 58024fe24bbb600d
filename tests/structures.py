# SPDX-License-Identifier: BSD-3-Clause
"""Ways in which terms may stand together, as priors on random columns."""

import numpy as np

from marglik.priors import Flat, Prior, RandomEffects, Ridge, Smooth

LEVELS = tuple("abcde")


def design(rng, n):
    """Name → prior, for each way in which terms may stand together."""
    X, codes = rng.standard_normal((n, 7)), np.append(np.arange(5), rng.integers(0, 5, n - 5))
    flat = Flat(np.column_stack([np.ones(n), X[:, 0]]), ["Intercept", "x"])
    intercepts = RandomEffects(codes, LEVELS, group="g")
    both, ones = np.column_stack([np.ones(n), X[:, 1]]), np.ones((n, 1))
    slopes = RandomEffects(codes, LEVELS, both, ("Intercept", "z"), group="g")
    independent = RandomEffects(codes, LEVELS, both, ("Intercept", "z"), group="g", correlated=False)
    slopes_alone = RandomEffects(codes, LEVELS, X[:, 1:2], ("z",), group="g")
    others = rng.permutation(np.append(np.arange(3), rng.integers(0, 3, n - 3)))
    crossed = RandomEffects(others, "xyz", np.column_stack([ones, X[:, 2]]), ("Intercept", "t"), group="h")
    banded = Ridge(X[:, 2:7], groups=[0, 1, 0, 1, 1], scales=["sd(a)", "sd(b)"], label="banded")
    ridge = Ridge(X[:, 2:5])
    D = [[1, 0], [2, 0.5], [0.1, 1], [0, 2]]
    product = Smooth(X[:, 2:6], D, ["sd(te: a)", "sd(te: b)"], "te")
    other = Ridge(3 * X[:, 5:], ["u", "v"], "sd(other)", "other")
    return {
        "flat": Prior((flat,)),
        "ridge": Prior((ridge,)),
        "flat + ridge": flat + ridge,
        "two ridges": ridge + flat + other,
        "intercepts": flat + intercepts,
        "slopes": slopes + flat,
        "everything": ridge + intercepts + flat + other,
        "slopes and ridge": flat + ridge + slopes,
        "independent slopes": flat + independent,
        "two terms a factor": intercepts + flat + slopes_alone,
        "crossed": intercepts + RandomEffects(others, "xyz", group="h") + flat,
        "crossed slopes and bands": crossed + banded + slopes + flat,
        "overlapping penalties": flat + product,
        "overlapping penalties and slopes": other + product + flat + slopes,
    }


STRUCTURES = tuple(design(np.random.default_rng(0), 9))
