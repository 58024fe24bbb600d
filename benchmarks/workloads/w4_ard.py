# SPDX-License-Identifier: BSD-3-Clause
"""One scale a column, nine columns in ten of no use: marglik's `RidgeEB(groups="columns")` against `ARDRegression`."""

from collections.abc import Iterator

import numpy as np

from benchmarks.data import Arrays, cached, correlated_design
from benchmarks.harness import Case, Options, Side
from benchmarks.scores import ColumnsEvidence, r_squared

TITLE = "W4: one scale a column"
ROUNDS = {(1000, 50): 200, (1000, 500): 10, (2000, 2000): 2}


def cases(options: Options) -> Iterator[Case]:
    for (n, p), rounds in ROUNDS.items():
        if options.small and p > 50:
            continue
        data = cached(f"w4_{n}_{p}", lambda n=n, p=p: make_data(n, p))
        yield case(data, rounds // 10 if options.small else rounds)


def make_data(n: int, p: int) -> Arrays:
    rng = np.random.default_rng(4000 + n + p)
    draw = correlated_design(rng, p, rho=0.3)
    X, Xt = draw(n), draw(1000)
    w = np.zeros(p)
    useful = rng.choice(p, p // 10, replace=False)
    w[useful] = rng.standard_normal(p // 10)
    y = X @ w + rng.standard_normal(n)
    yt = Xt @ w + rng.standard_normal(1000)
    x_mean, y_mean = X.mean(0), y.mean()
    return {"X": X - x_mean, "y": y - y_mean, "Xt": Xt - x_mean, "yt": yt - y_mean, "w": w}


def case(data: Arrays, rounds: int) -> Case:
    """The peer's columns whose precision is beyond its threshold have no weight: their variance is zero."""
    X, y, Xt, yt, w = (data[name] for name in ("X", "y", "Xt", "yt", "w"))
    evidence = ColumnsEvidence(X, y)

    def scores(model, variances):
        return {
            "log evidence": evidence(1 / model.alpha_, variances),
            "held-out R²": r_squared(yt, model.predict(Xt)),
            "columns": float(np.count_nonzero(variances)),
            "of use": float(np.count_nonzero(variances[w != 0])),
        }

    def ours(model):
        return {**scores(model, 1 / model.lambda_), "as reported": float(model.log_evidence_)}

    def theirs(model):
        return scores(model, np.where(model.lambda_ < model.threshold_lambda, 1 / model.lambda_, 0.0))

    def marglik():
        from marglik import RidgeEB

        return lambda: RidgeEB(groups="columns").fit(X, y)

    def ard():
        from sklearn.linear_model import ARDRegression

        return lambda: ARDRegression().fit(X, y)

    sides = [Side("marglik", marglik, "marglik", ours), Side("ARDRegression", ard, scores=theirs)]
    return Case(f"n = {X.shape[0]}, p = {X.shape[1]}, {np.count_nonzero(w)} of use", sides, rounds)
