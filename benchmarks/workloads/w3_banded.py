# SPDX-License-Identifier: BSD-3-Clause
"""Banded ridge, a thousand targets with shares of signal of their own: marglik against himalaya's random search."""

from collections.abc import Iterator

import numpy as np
from scipy import linalg

from benchmarks.data import Arrays, cached, correlated_design
from benchmarks.harness import Case, Options, Side
from benchmarks.scores import r_squared

TITLE = "W3: banded ridge, many targets"
N, P, BANDS, TARGETS = 2000, 600, 6, 1000
ALPHAS = np.logspace(1, 5, 9)
ITERATIONS, ALL_ITERATIONS = 5, 100


def cases(options: Options) -> Iterator[Case]:
    data = cached("w3", make_data)
    if options.small:
        data = data | {name: data[name][..., :50] for name in ("Y", "Yt", "v")}
    yield case(data, options.slow)


def make_data() -> Arrays:
    rng = np.random.default_rng(3003)
    draw = correlated_design(rng, P)
    X, Xt = draw(N), draw(1000)
    groups = np.repeat(np.arange(BANDS), P // BANDS)
    share = rng.gamma(0.5, 1.0, (BANDS, TARGETS))
    share /= share.sum(0)
    r2 = rng.uniform(0.05, 0.6, TARGETS)
    v = share * (r2 / (1 - r2)) / (P // BANDS)
    W = rng.standard_normal((P, TARGETS)) * np.sqrt(v[groups])
    Y = X @ W + rng.standard_normal((N, TARGETS))
    Yt = Xt @ W + rng.standard_normal((1000, TARGETS))
    x_mean, y_mean = X.mean(0), Y.mean(0)
    return {"X": X - x_mean, "Y": Y - y_mean, "Xt": Xt - x_mean, "Yt": Yt - y_mean, "groups": groups, "v": v}


def case(data: Arrays, slow: bool) -> Case:
    X, Y, Xt, Yt, groups = (data[name] for name in ("X", "Y", "Xt", "Yt", "groups"))

    def held_out(model):
        return {"held-out R²": r_squared(Yt, model.predict(Xt))}

    def ours(model):
        return {**held_out(model), "converged": float(np.mean(model.converged_))}

    def marglik():
        from marglik import RidgeEB

        return lambda: RidgeEB(groups=groups).fit(X, Y)

    def himalaya(iterations):
        from himalaya.backend import set_backend
        from himalaya.ridge import GroupRidgeCV

        set_backend("numpy")
        search = {"n_iter": iterations, "alphas": ALPHAS, "progress_bar": False}
        return lambda: GroupRidgeCV(groups, solver_params=search, fit_intercept=True, cv=5, random_state=0).fit(X, Y)

    sides = [
        Side("marglik", marglik, "marglik", ours),
        Side(f"himalaya, {ITERATIONS} draws", lambda: himalaya(ITERATIONS), scores=held_out, apart=True),
    ]
    if slow:
        sides.append(
            Side(f"himalaya, {ALL_ITERATIONS} draws", lambda: himalaya(ALL_ITERATIONS), scores=held_out, apart=True)
        )
    best = {"held-out R²": r_squared(Yt, Xt @ true_means(X, Y, data["v"][groups]))}
    return Case(f"n = {len(X)}, p = {X.shape[1]}, {BANDS} bands, {Y.shape[1]} targets", sides, 1, best)


def true_means(X, Y, variances):
    """Posterior means at the variances that the weights were drawn with and noise of one: S(I + SXᵀXS)⁻¹SXᵀy."""
    gram, products = X.T @ X, X.T @ Y
    means = np.empty_like(products)
    for k, s in enumerate(np.sqrt(variances).T):
        H = s[:, None] * gram * s
        H.flat[:: len(H) + 1] += 1.0
        means[:, k] = s * linalg.solve(H, s * products[:, k], assume_a="pos", overwrite_a=True)
    return means
