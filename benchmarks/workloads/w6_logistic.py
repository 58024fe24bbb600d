# SPDX-License-Identifier: BSD-3-Clause
"""Classification: `LogisticRidgeEB` against cross-validated logistic regression, from arrays to probabilities."""

from collections.abc import Iterator

import numpy as np

from benchmarks.data import Arrays, cached, correlated_design
from benchmarks.harness import Case, Options, Side

TITLE = "W6: logistic ridge as an estimator"
SIZES = {(2_000, 20): 10, (20_000, 200): 3}


def cases(options: Options) -> Iterator[Case]:
    for (n, p), rounds in SIZES.items():
        if options.small and n > 2_000:
            continue
        data = cached(f"w6_logistic_{n}_{p}", lambda n=n, p=p: make_data(n, p))
        yield case(data, 1 if options.small else rounds)


def make_data(n: int, p: int) -> Arrays:
    rng = np.random.default_rng(6000 + n + p)
    draw = correlated_design(rng, p)
    X, Xt = draw(n), draw(10_000)
    w = rng.standard_normal(p) * 2 / np.sqrt(p)
    y, yt = (rng.random(len(A)) < 1 / (1 + np.exp(-A @ w - 0.5)) for A in (X, Xt))
    return {"X": X, "y": y.astype(int), "Xt": Xt, "yt": yt.astype(int)}


def case(data: Arrays, rounds: int) -> Case:
    X, y, Xt, yt = (data[name] for name in ("X", "y", "Xt", "yt"))

    def held_out(model) -> dict[str, float]:
        p = np.clip(model.predict_proba(Xt)[np.arange(len(yt)), yt], 1e-15, 1)
        return {"held-out log loss": float(-np.log(p).mean())}

    def ours(model) -> dict[str, float]:
        return {**held_out(model), "as reported": float(model.log_evidence_)}

    def marglik():
        from marglik import LogisticRidgeEB

        return lambda: LogisticRidgeEB().fit(X, y)

    def linear_model():
        from marglik import Flat, LinearModel, Ridge, fit
        from marglik.likelihoods import Bernoulli

        return lambda: fit(LinearModel(Bernoulli(), Flat(np.ones(len(y)), ["Intercept"]) + Ridge(X), y.astype(float)))

    def cross_validation():
        from sklearn.linear_model import LogisticRegressionCV

        return lambda: LogisticRegressionCV(Cs=10, cv=5).fit(X, y)

    def evidence(fit) -> dict[str, float]:
        return {"as reported": float(fit.log_evidence)}

    sides = [
        Side("marglik", marglik, "marglik", ours),
        Side("the same as a LinearModel", linear_model, scores=evidence),
        Side("LogisticRegressionCV", cross_validation, scores=held_out),
    ]
    return Case(f"n = {X.shape[0]}, p = {X.shape[1]}", sides, rounds)
