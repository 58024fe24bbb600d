# SPDX-License-Identifier: BSD-3-Clause
"""Linear mixed models from a data frame and a formula, by REML: marglik, mixedlm, lme4 and statsmodels."""

import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from benchmarks.data import Arrays, cached, cached_csv
from benchmarks.harness import Case, Options, Side
from benchmarks.scores import CrossedREML, GroupedREML, best_reml

TITLE = "W5: mixed models"
MIB = 2**20
GROUPS, ROWS = 1000, 20
SLOPES = np.array([[1.0, 0.15], [0.15, 0.25]])


@dataclass(frozen=True)
class Workload:
    """A formula with its grouping factors, the true variances, the criterion and the least algebra for a fit."""

    name: str
    title: str
    formula: str
    effects: Mapping[str, Sequence[str]]
    truth: tuple[float, list[np.ndarray]]
    data: Arrays
    criterion: Callable[..., float]
    floor: Callable[[], object]

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.data)


def cases(options: Options) -> Iterator[Case]:
    slopes = random_slopes()
    sides = [marglik(slopes), mixedlm(slopes), lme4(slopes), statsmodels(slopes), floor(slopes)]
    yield case(slopes, sides, 1 if options.small else 10)
    if options.small:
        return
    for workload, rounds in ((crossed(), 5), (ratings(), 3)):
        yield case(workload, [marglik(workload), mixedlm(workload), lme4(workload), floor(workload)], rounds)
    large = nested()
    yield case(large, [marglik(large, memory=True), floor(large)], 3)


def case(workload: Workload, sides: list[Side], rounds: int) -> Case:
    best = best_reml(workload.criterion, *workload.truth)
    return Case(workload.title, sides, rounds, {"log evidence": best})


def two_sets() -> dict[str, Arrays]:
    """Random slopes, and two crossed factors: the sets behind the published figures, from one seed."""
    rng = np.random.default_rng(5005)
    g, x = np.repeat(np.arange(GROUPS), ROWS), rng.standard_normal(GROUPS * ROWS)
    b = rng.multivariate_normal([0, 0], SLOPES, GROUPS)
    y = 2 + 1.5 * x + b[g, 0] + b[g, 1] * x + rng.standard_normal(len(x))
    sets = {"w5a": {"y": y, "x": x, "g": g}}
    n, levels = 50_000, (2000, 500)
    a, b, x = rng.integers(0, levels[0], n), rng.integers(0, levels[1], n), rng.standard_normal(n)
    effects = 0.8 * rng.standard_normal(levels[0])[a] + 0.5 * rng.standard_normal(levels[1])[b]
    return sets | {"w5b": {"y": 1 + 0.5 * x + effects + rng.standard_normal(n), "x": x, "a": a, "b": b}}


def random_slopes() -> Workload:
    data = cached("w5a", lambda: two_sets()["w5a"])
    X = with_intercept(data["x"])

    def least() -> object:
        """Cross-products a group, a factor of each block and of what is left."""
        Z, B = X.reshape(GROUPS, ROWS, 2), np.column_stack([X, data["y"]]).reshape(GROUPS, ROWS, 3)
        ZtZ, ZtB = Z.transpose(0, 2, 1) @ Z, Z.transpose(0, 2, 1) @ B
        A = np.eye(2) + SLOPES @ ZtZ
        return np.linalg.slogdet(A), np.einsum("gqp,gqr->pr", ZtB, np.linalg.solve(A, SLOPES @ ZtB))

    return Workload(
        "w5a",
        "random slopes, 1,000 groups of 20",
        "y ~ x + (x | g)",
        {"g": ("Intercept", "x")},
        (1.0, [SLOPES]),
        data,
        GroupedREML.of(data["y"], X, X, GROUPS),
        least,
    )


def crossed() -> Workload:
    title, formula = "crossed, 2,000 × 500, 50,000 rows", "y ~ x + (1 | a) + (1 | b)"
    return intercepts("w5b", title, formula, cached("w5b", lambda: two_sets()["w5b"]), {"a": 0.8, "b": 0.5}, 1.0)


def ratings() -> Workload:
    """The size and the variances of lme4's InstEval: students rate lecturers, who are uneven in number of ratings."""
    n, students, lecturers, departments = 73_000, 3000, 1100, 14
    scales, noise = {"student": 0.33, "lecturer": 0.51, "department": 0.1}, 1.18

    def make() -> Arrays:
        rng = np.random.default_rng(5007)
        home = rng.permutation(np.arange(lecturers) % departments)
        data = {
            "student": rng.choice(students, n, p=uneven(rng, students, 2.5)),
            "lecturer": rng.choice(lecturers, n, p=uneven(rng, lecturers, 0.8)),
        }
        data["department"] = home[data["lecturer"]]
        x = rng.integers(0, 2, n).astype(float)
        effects = sum(sd * rng.standard_normal(data[g].max() + 1)[data[g]] for g, sd in scales.items())
        return {"y": 3.3 - 0.1 * x + effects + noise * rng.standard_normal(n), "x": x, **data}

    title = "as InstEval: 3,000 × 1,100 × 14, 73,000 rows"
    formula = "y ~ x + (1 | student) + (1 | lecturer) + (1 | department)"
    return intercepts("w5c", title, formula, cached("w5c", make), scales, noise)


def uneven(rng, levels: int, shape: float) -> np.ndarray:
    """Shares of the levels, none next to nothing."""
    return 0.15 / levels + 0.85 * rng.dirichlet(np.full(levels, shape))


def nested() -> Workload:
    outer, inner, m = 1000, 100, 5
    n = outer * inner * m
    scales, noise = {"a:b": 0.5, "a": 0.8}, 1.0

    def make() -> Arrays:
        rng = np.random.default_rng(5008)
        ab = np.repeat(np.arange(outer * inner), m)
        a, b, x = ab // inner, ab % inner, rng.standard_normal(n)
        effects = scales["a:b"] * rng.standard_normal(outer * inner)[ab] + scales["a"] * rng.standard_normal(outer)[a]
        return {"y": 1 + 0.5 * x + effects + noise * rng.standard_normal(n), "x": x, "a": a, "b": b}

    data = cached("w5d", make)
    title = "nested, 100,000 in 1,000, 500,000 rows"
    inside = {"a:b": inner * data["a"] + data["b"], "a": data["a"]}
    return intercepts("w5d", title, "y ~ x + (1 | a/b)", data, scales, noise, inside)


def intercepts(
    name: str,
    title: str,
    formula: str,
    data: Arrays,
    scales: Mapping[str, float],
    noise: float,
    codes: Arrays | None = None,
) -> Workload:
    """Scalar effects of several factors, that of the most levels first."""
    y, X = data["y"], with_intercept(data["x"])
    factors = [np.unique((codes or data)[group], return_inverse=True)[1] for group in scales]
    truth = (noise**2, [np.array([[sd**2]]) for sd in scales.values()])
    return Workload(
        name,
        title,
        formula,
        dict.fromkeys(scales, ("Intercept",)),
        truth,
        data,
        CrossedREML.of(y, X, factors),
        lambda: CrossedREML.of(y, X, factors)(*truth),
    )


def with_intercept(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def scored(workload: Workload, noise_variance, covariances, log_evidence) -> dict[str, float]:
    return {"log evidence": workload.criterion(noise_variance, covariances), "as reported": float(log_evidence)}


def marglik(workload: Workload, memory: bool = False) -> Side:
    frame = workload.frame

    def prepare():
        import marglik

        return lambda: marglik.fit(workload.formula, frame)

    def scores(fit):
        theta = fit.hyperparameters["estimate"]
        covariances = [covariance(theta, names, group) for group, names in workload.effects.items()]
        found = scored(workload, theta["sd(noise)"] ** 2, covariances, fit.log_evidence)
        return {**found, "peak MiB": peak_memory(prepare()) / MIB} if memory else found

    return Side("marglik", prepare, "marglik", scores)


def covariance(theta: pd.Series, names: Sequence[str], group: str) -> np.ndarray:
    sd = np.array([theta[f"sd({name} | {group})"] for name in names])
    correlation = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        correlation[i, j] = correlation[j, i] = theta[f"cor({names[i]}, {names[j]} | {group})"]
    return sd[:, None] * correlation * sd


def peak_memory(call: Callable[[], object]) -> int:
    """Most bytes that Python and NumPy held at a time during a call, beyond what they held before."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def mixedlm(workload: Workload) -> Side:
    frame = workload.frame

    def prepare():
        from mixedlm import lmer

        return lambda: lmer(workload.formula, frame)

    def scores(fit):
        covariances = [fit.VarCorr().get_cov(group) for group in workload.effects]
        return scored(workload, fit.sigma**2, covariances, -fit.REMLcrit() / 2)

    return Side("mixedlm", prepare, scores=scores)


def lme4(workload: Workload) -> Side:
    def prepare():
        from benchmarks.lme4 import lmer

        return lmer(cached_csv(workload.name, workload.frame), workload.formula, list(workload.effects))

    def scores(answer):
        covariances = [np.reshape(answer["covariances"][g], (len(c), -1)) for g, c in workload.effects.items()]
        return scored(workload, answer["noise"], covariances, answer["log_evidence"])

    return Side("lme4", prepare, scores=scores, self_timed=True)


def statsmodels(workload: Workload) -> Side:
    """The model with random slopes."""
    frame = workload.frame

    def prepare():
        from statsmodels.formula.api import mixedlm

        return lambda: mixedlm("y ~ x", frame, groups="g", re_formula="~ x").fit(reml=True)

    def scores(fit):
        return scored(workload, fit.scale, [np.asarray(fit.cov_re)], fit.llf)

    return Side("statsmodels", prepare, scores=scores, apart=True)


def floor(workload: Workload) -> Side:
    return Side("floor", lambda: workload.floor, "floor")
