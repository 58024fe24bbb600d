# SPDX-License-Identifier: BSD-3-Clause
"""Generalised linear mixed models by ML and Laplace, and a logistic ridge: mixedlm, lme4, glmmTMB, scikit-learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.linalg import blas, lapack
from scipy.special import expit

from benchmarks.data import Arrays, cached, cached_csv
from benchmarks.harness import Case, Options, Side

TITLE = "W6: counts and binary responses"


@dataclass(frozen=True)
class Workload:
    """A formula with its grouping factors, and a family."""

    name: str
    title: str
    formula: str
    groups: tuple[str, ...]
    family: str
    data: Arrays

    @cached_property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.data)

    @cached_property
    def fit(self):
        """marglik's, whose model evaluates every side's estimates."""
        import marglik

        return marglik.fit(self.formula, self.frame, family=self.family, reml=False)

    def scores(self, sd, beta, reported: float) -> dict[str, float]:
        """Laplace's log-likelihood at these standard deviations of the groups and fixed effects."""
        from marglik.evidence import Laplace

        model = self.fit.model
        theta = np.concatenate([sd, model.flat_basis.R @ beta])
        return {"log evidence": float(Laplace()(model, theta).log_value), "as reported": float(reported)}


def cases(options: Options) -> Iterator[Case]:
    for workload in glmms()[: 1 if options.small else None]:
        sides = [marglik(workload), mixedlm(workload), in_r(workload, "lme4"), in_r(workload, "glmmTMB")]
        yield Case(workload.title, [*sides, floor(workload)], 1 if options.small else 5)
    n, p = (1000, 20) if options.small else (20_000, 200)
    X, y = logistic(n, p)
    sides = [ridge(X, y), cross_validation(X, y), eight_factors(X)]
    yield Case(f"logistic ridge, n = {n:,}, p = {p}", sides, 1 if options.small else 5)


def glmms() -> list[Workload]:
    """The sets behind the published figures, from one seed."""
    rng = np.random.default_rng(6006)
    g, x = np.repeat(np.arange(500), 20), rng.standard_normal(10_000)
    u = 0.7 * rng.standard_normal(500)
    counts = rng.poisson(np.exp(0.5 + 0.4 * x + u[g]))
    binary = (rng.random(len(x)) < expit(-0.3 + 0.8 * x + u[g] / 0.7)).astype(int)
    n, levels = 10_000, (200, 100)
    a, b, z = rng.integers(0, levels[0], n), rng.integers(0, levels[1], n), rng.standard_normal(n)
    effects = 0.9 * rng.standard_normal(levels[0])[a] + 0.6 * rng.standard_normal(levels[1])[b]
    crossed = (rng.random(n) < expit(-0.2 + 0.7 * z + effects)).astype(int)
    one, two = "y ~ x + (1 | g)", "y ~ x + (1 | a) + (1 | b)"
    grouped = {"x": x, "g": g}
    return [
        Workload("w6a", "Poisson, 500 groups of 20", one, ("g",), "poisson", {"y": counts, **grouped}),
        Workload("w6b", "Bernoulli, 500 groups of 20", one, ("g",), "bernoulli", {"y": binary, **grouped}),
        Workload(
            "w6c",
            "Bernoulli, crossed, 200 × 100, 10,000 rows",
            two,
            ("a", "b"),
            "bernoulli",
            {"y": crossed, "x": z, "a": a, "b": b},
        ),
    ]


def marglik(workload: Workload) -> Side:
    def prepare():
        import marglik

        frame = workload.frame
        return lambda: marglik.fit(workload.formula, frame, family=workload.family, reml=False)

    def scores(fit):
        sd = [fit.hyperparameters.loc[f"sd(Intercept | {g})", "estimate"] for g in workload.groups]
        return workload.scores(sd, fit.fixed_effects["estimate"].to_numpy(), fit.log_evidence)

    return Side("marglik", prepare, "marglik", scores)


def mixedlm(workload: Workload) -> Side:
    def prepare():
        from mixedlm import families, glmer

        frame = workload.frame
        family = families.Poisson() if workload.family == "poisson" else families.Binomial()
        return lambda: glmer(workload.formula, frame, family=family)

    def scores(fit):
        sd = [np.sqrt(fit.VarCorr().get_cov(g)[0, 0]) for g in workload.groups]
        return workload.scores(sd, fit.beta, fit.logLik().value)

    return Side("mixedlm", prepare, scores=scores)


def in_r(workload: Workload, package: str) -> Side:
    def prepare():
        from benchmarks.lme4 import glmm

        data = cached_csv(workload.name, workload.frame)
        return glmm(package, workload.family, data, workload.formula, workload.groups)

    def scores(answer):
        return workload.scores(answer["sd"], np.array(answer["beta"]), answer["log_likelihood"])

    return Side(package, prepare, scores=scores, self_timed=True)


def floor(workload: Workload) -> Side:
    def prepare():
        from marglik.evidence import Laplace

        model, theta = workload.fit.model, workload.fit.optimum.theta[0]
        return lambda: Laplace()(model, theta).log_value

    return Side("floor", prepare, "floor")


def logistic(n: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    def make() -> Arrays:
        rng = np.random.default_rng(6007)
        X = rng.standard_normal((n, p))
        eta = 0.3 + X @ rng.standard_normal(p) * (1.5 / np.sqrt(p))
        return {"X": X, "y": (rng.random(n) < expit(eta)).astype(float)}

    data = cached(f"w6d_{n}_{p}", make)
    return data["X"], data["y"]


def ridge(X: np.ndarray, y: np.ndarray) -> Side:
    def prepare():
        from marglik.fitting import fit_model
        from marglik.likelihoods import Bernoulli
        from marglik.model import LinearModel
        from marglik.priors import Flat, Ridge

        return lambda: fit_model(LinearModel(Bernoulli(), Flat(np.ones(len(y)), ["Intercept"]) + Ridge(X), y))

    def scores(fit):
        return {"log evidence": fit.log_evidence, "weight sd": fit.hyperparameters["estimate"].iloc[0]}

    return Side("marglik", prepare, "marglik", scores)


def cross_validation(X: np.ndarray, y: np.ndarray) -> Side:
    def prepare():
        from sklearn.linear_model import LogisticRegressionCV

        return lambda: LogisticRegressionCV(Cs=10, cv=5).fit(X, y)

    return Side("LogisticRegressionCV", prepare, scores=lambda m: {"weight sd": float(np.sqrt(m.C_[0]))})


def eight_factors(X: np.ndarray) -> Side:
    def least() -> object:
        for _ in range(8):
            A = blas.dsyrk(1.0, X.T, lower=1)
            factor = lapack.dpotrf(A, lower=1, overwrite_a=1)
        return factor

    return Side("floor", lambda: least, "floor")
