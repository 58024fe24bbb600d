# SPDX-License-Identifier: BSD-3-Clause
"""Ten thousand targets with one design, a penalty for each: marglik against cross-validation."""

from collections.abc import Iterator

import numpy as np
from scipy import linalg
from scipy.linalg import blas

from benchmarks.data import Arrays, cached, correlated_design
from benchmarks.harness import Case, Options, Side
from benchmarks.scores import r_squared

TITLE = "W2: ridge, many targets"
N, P, TARGETS = 3000, 500, 10_000
ALPHAS = np.logspace(1, 5.5, 10)
FINE_ALPHAS = np.logspace(-1, 6, 20)
LOOPED = 100


def cases(options: Options) -> Iterator[Case]:
    data = cached("w2", make_data)
    if options.small:
        data = {**data, "Y": data["Y"][:, :200], "Yt": data["Yt"][:, :200]}
    yield case(data, 1 if options.small else 3, options.slow)


def make_data() -> Arrays:
    rng = np.random.default_rng(2002)
    draw = correlated_design(rng, P)
    X, Xt = draw(N), draw(1000)
    r2 = rng.uniform(0.0, 0.6, TARGETS)
    W = rng.standard_normal((P, TARGETS)) / np.sqrt(P) * np.sqrt(r2 / (1 - r2))
    Y = X @ W + rng.standard_normal((N, TARGETS))
    Yt = Xt @ W + rng.standard_normal((1000, TARGETS))
    x_mean, y_mean = X.mean(0), Y.mean(0)
    Y, Yt = (Y - y_mean).astype(np.float32), (Yt - y_mean).astype(np.float32)
    return {"X": X - x_mean, "Y": Y, "Xt": Xt - x_mean, "Yt": Yt, "r2": r2}


def case(data: Arrays, rounds: int, slow: bool) -> Case:
    """All sides get the same float64 arrays, in C order."""
    X, Xt, Yt = data["X"], data["Xt"], data["Yt"]
    Y = data["Y"].astype(np.float64)
    targets = Y.shape[1]

    def held_out(model):
        return {"held-out R²": r_squared(Yt, model.predict(Xt))}

    def marglik():
        from marglik import RidgeEB

        return lambda: RidgeEB().fit(X, Y)

    def himalaya(alphas):
        from himalaya.backend import set_backend
        from himalaya.ridge import RidgeCV

        set_backend("numpy")
        return lambda: RidgeCV(alphas=alphas, fit_intercept=True, cv=5).fit(X, Y)

    def ridge_cv():
        from sklearn.linear_model import RidgeCV

        return lambda: RidgeCV(alphas=ALPHAS, alpha_per_target=True).fit(X, Y)

    def bayesian_ridge():
        from sklearn.linear_model import BayesianRidge

        return lambda: [BayesianRidge().fit(X, y) for y in Y[:, :LOOPED].T]

    sides = [
        Side("marglik", marglik, "marglik", held_out),
        Side("himalaya RidgeCV", lambda: himalaya(ALPHAS), scores=held_out),
        Side("RidgeCV(alpha_per_target)", ridge_cv, scores=held_out),
        Side("floor", lambda: lambda: floor(X, Y), "floor"),
    ]
    if slow:
        sides[3:3] = [
            Side("himalaya RidgeCV, 20 penalties", lambda: himalaya(FINE_ALPHAS), scores=held_out, apart=True),
            Side("BayesianRidge, looped", bayesian_ridge, apart=True, repeats=targets / LOOPED),
        ]
    return Case(f"n = {len(X)}, p = {X.shape[1]}, {targets} targets", sides, rounds)


def floor(X, Y):
    """XᵀX, its eigenvectors V, XᵀY, and the two rotations V(D Vᵀ(XᵀY)); here D is one for all targets."""
    gram = blas.dsyrk(1.0, X.T, lower=1)
    s, V = linalg.eigh(gram, lower=True, overwrite_a=True, check_finite=False, driver="evd")
    rotated = V.T @ (X.T @ Y)
    rotated /= (s + 1.0)[:, None]
    return V @ rotated
