# SPDX-License-Identifier: BSD-3-Clause
"""Small Gaussian mixed models of every structure."""

import numpy as np

from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Flat, Prior, RandomEffects, Ridge
from marglik.priors import Gaussian as Given
from marglik.rows import InMemory

N = 20
A = np.arange(N) % 3
AB = A + 3 * (np.arange(N) // 3 % 2)
ABC = AB + 6 * (np.arange(N) // 6 % 2)
BALANCED = np.arange(N) % 5, np.arange(N) // 5
_rng = np.random.default_rng(1)
ONE, X, Z, W = np.ones(N), *_rng.standard_normal((3, N))
U = _rng.standard_normal((N, 4))
G, H = np.append(np.arange(5), _rng.integers(0, 5, N - 5)), np.append(_rng.integers(0, 4, N - 4), np.arange(4))
SPARSE = np.append(np.arange(8), _rng.integers(0, 8, N - 8)), np.append(_rng.integers(0, 7, N - 7), np.arange(7))
FLAT = Flat(np.column_stack([ONE, X]), ["Intercept", "x"])


def effects(codes, group, correlated=True, levels=None, **columns):
    """Random effects of named columns; of the intercept alone if there are none."""
    columns = columns or {"Intercept": ONE}
    names = [f"{group}{i}" for i in range(levels or codes.max() + 1)]
    return RandomEffects(codes, names, np.column_stack([*columns.values()]), [*columns], group, correlated=correlated)


PAIR, TRIPLE = {"Intercept": ONE, "x": X}, {"Intercept": ONE, "x": X, "z": Z}
RIDGE = Ridge(U, list("pqrs"))
BANDED = Ridge(U, list("pqrs"), groups=[0, 1, 1, 0], scales=["sd(a)", "sd(b)"], label="banded")
ARD = Ridge(U, list("pqrs"), groups=range(4), scales=[f"sd({c})" for c in "pqrs"], label="ard")
GIVEN = Given(U[:, :3], [1.0, -0.5, 0.0], np.array([[2.0, 0.5, 0], [0.5, 1, 0.3], [0, 0.3, 0.4]]), list("ijk"))
STRUCTURES = {
    "intercept": FLAT + effects(G, "g"),
    "slope": FLAT + effects(G, "g", x=X),
    "intercept and slope": FLAT + effects(G, "g", **PAIR),
    "three correlated": FLAT + effects(G, "g", **TRIPLE),
    "four correlated": FLAT + effects(G, "g", **TRIPLE, w=W),
    "two independent": FLAT + effects(G, "g", correlated=False, **PAIR),
    "three independent": FLAT + effects(G, "g", correlated=False, **TRIPLE),
    "crossed": FLAT + effects(BALANCED[0], "g") + effects(BALANCED[1], "h"),
    "crossed, sparse": FLAT + effects(SPARSE[0], "g") + effects(SPARSE[1], "h"),
    "crossed thrice": FLAT + effects(SPARSE[0], "g") + effects(SPARSE[1], "h") + effects(A, "a"),
    "crossed slopes": FLAT + effects(SPARSE[0], "g", **PAIR) + effects(SPARSE[1], "h", Intercept=ONE, z=Z),
    "crossed, correlated and not": FLAT + effects(G, "g", **TRIPLE) + effects(H, "h", correlated=False, **PAIR),
    "nested": FLAT + effects(A, "a") + effects(AB, "a:b"),
    "nested, finest first": effects(AB, "a:b") + effects(A, "a") + FLAT,
    "nested twice": FLAT + effects(A, "a") + effects(AB, "a:b") + effects(ABC, "a:b:c"),
    "nested slopes": FLAT + effects(A, "a", **PAIR) + effects(AB, "a:b", **PAIR),
    "nested and crossed": FLAT + effects(A, "a") + effects(AB, "a:b") + effects(H, "h"),
    "one factor, two terms": FLAT + effects(G, "g") + effects(G, "g", x=X),
    "one factor, two correlated terms": FLAT + effects(G, "g", **PAIR) + effects(G, "g", z=Z, w=W),
    "one factor, three terms": FLAT + effects(G, "g", **PAIR) + effects(G, "g", z=Z) + effects(G, "g", w=W),
    "one factor, two terms, crossed": FLAT + effects(G, "g") + effects(H, "h", **PAIR) + effects(G, "g", x=X),
    "as many levels as rows": FLAT + effects(np.arange(N)[::-1].copy(), "row") + effects(G, "g"),
    "levels without rows": FLAT + effects(2 * A, "a", levels=7, **PAIR) + effects(H, "h", levels=6),
    "ridge": FLAT + effects(G, "g", **PAIR) + RIDGE,
    "ridge, crossed": RIDGE + effects(G, "g") + FLAT + effects(H, "h"),
    "banded": effects(G, "g", **PAIR) + BANDED + FLAT,
    "ard": FLAT + effects(G, "g") + effects(H, "h") + ARD,
    "given": FLAT + effects(G, "g", **PAIR) + GIVEN,
    "given, crossed": GIVEN + effects(G, "g") + effects(H, "h") + FLAT,
    "everything": GIVEN + effects(G, "g", **PAIR) + BANDED + FLAT + effects(H, "h") + RIDGE + effects(AB, "a:b", z=Z),
    "no fixed effects": effects(G, "g", **PAIR) + effects(H, "h"),
    "no fixed effects, one term": Prior((effects(G, "g", **PAIR),)),
    "dense alone": FLAT + BANDED + GIVEN,
}
OPTIONS = ["reml", "ml", "reml with weights and offset", "ml with weights and offset"]


def problem(structure, option="reml", seed=0):
    """A model on simulated data of order one."""
    rng = np.random.default_rng(seed)
    given = "weights" in option
    w, o = rng.uniform(0.5, 2, N), rng.uniform(-0.5, 0.5, N)
    y = rng.standard_normal(5)[G] + rng.standard_normal(4)[H] * X + 0.7 * rng.standard_normal(N)
    return LinearModel(
        Gaussian(), STRUCTURES[structure], InMemory(y, o if given else None, w if given else None), option[:2] == "re"
    )


def somewhere(model, seed=0):
    """θ of order one; entries of factors have either sign."""
    rng = np.random.default_rng(seed)
    positive = [h.support.lower == 0 for h in model.hyperparameters]
    k = len(positive)
    return np.where(positive, np.exp(rng.uniform(-1, 0.5, k)), rng.standard_normal(k))
