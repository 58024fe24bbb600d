# SPDX-License-Identifier: BSD-3-Clause
"""One target: marglik's `RidgeEB` against `BayesianRidge`, fit from arrays to coefficients."""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import blas, lapack

from benchmarks.data import Arrays, cached, correlated_design
from benchmarks.harness import Case, Options, Side
from benchmarks.scores import RidgeEvidence, r_squared

TITLE = "W1: ridge, one target"
ROUNDS = {(500, 10): 200, (5000, 100): 50, (20000, 1000): 3, (300, 5000): 3}
ALPHAS = np.logspace(-1, 6, 20)


def cases(options: Options) -> Iterator[Case]:
    for (n, p), rounds in ROUNDS.items():
        if options.small and rounds < 50:
            continue
        data = cached(f"w1_{n}_{p}", lambda n=n, p=p: make_data(n, p))
        yield case(data, rounds // 10 if options.small else rounds, options.slow)


def make_data(n: int, p: int) -> Arrays:
    rng = np.random.default_rng(1000 + n + p)
    draw = correlated_design(rng, p)
    X, Xt = draw(n), draw(1000)
    w = rng.standard_normal(p) / np.sqrt(p)
    y = X @ w + rng.standard_normal(n)
    yt = Xt @ w + rng.standard_normal(1000)
    x_mean, y_mean = X.mean(0), y.mean()
    return {"X": X - x_mean, "y": y - y_mean, "Xt": Xt - x_mean, "yt": yt - y_mean, "w": w}


def case(data: Arrays, rounds: int, slow: bool) -> Case:
    X, y, Xt, yt = (data[name] for name in ("X", "y", "Xt", "yt"))
    evidence = RidgeEvidence.of(X, y)

    def held_out(model):
        return {"held-out R²": r_squared(yt, model.predict(Xt))}

    def both(model):
        return {"log evidence": evidence(1 / model.alpha_, 1 / model.lambda_), **held_out(model)}

    def ours(model):
        return {**both(model), "as reported": float(model.log_evidence_)}

    def marglik():
        from marglik import RidgeEB

        return lambda: RidgeEB().fit(X, y)

    def bayesian_ridge():
        from sklearn.linear_model import BayesianRidge

        return lambda: BayesianRidge().fit(X, y)

    def grid_search():
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV

        return lambda: GridSearchCV(Ridge(), {"alpha": ALPHAS}).fit(X, y)

    sides = [
        Side("marglik", marglik, "marglik", ours),
        Side("BayesianRidge", bayesian_ridge, scores=both),
        Side("floor", lambda: lambda: floor(X, y), "floor"),
        Side("floor, any λ", lambda: lambda: spectral_floor(X, y)),
    ]
    if slow:
        sides.insert(2, Side("GridSearchCV(Ridge)", grid_search, scores=held_out, apart=True))
    name = f"n = {X.shape[0]}, p = {X.shape[1]}"
    return Case(name, sides, rounds, {"log evidence": evidence.best()})


def spectral_floor(X, y):
    """The same with a tridiagonal form and its eigenvalues: what the evidence at every λ cannot avoid."""
    n, p = X.shape
    gram = blas.dsyrk(1.0, X.T, trans=n < p, lower=1)
    _, d, e, _, _ = lapack.dsytrd(gram, lower=1, lwork=32 * len(gram), overwrite_a=1)
    return lapack.dsterf(d, e), X.T @ y


def floor(X, y):
    """The smaller Gram matrix, Xᵀy and one Cholesky factor: what one ridge fit at a known λ cannot avoid."""
    n, p = X.shape
    gram = blas.dsyrk(1.0, X.T, trans=n < p, lower=1)
    gram.flat[:: len(gram) + 1] += 1.0
    return lapack.dpotrf(gram, lower=1, overwrite_a=1), X.T @ y
