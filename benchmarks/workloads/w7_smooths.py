# SPDX-License-Identifier: BSD-3-Clause
"""Four smooths of 20 functions each, from columns to the fit: mgcv's gam and bam(discrete = TRUE), gamfit."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from benchmarks.data import Arrays, cached, cached_csv
from benchmarks.harness import Case, Options, Side

TITLE = "W7: additive models"
NAMES = ("x0", "x1", "x2", "x3")
FORMULA = "y ~ " + " + ".join(f's({x}, bs="cr", k=20)' for x in NAMES)


@dataclass(frozen=True)
class Workload:
    """Columns and a family; the model that evaluates every side's smoothing parameters."""

    name: str
    family: str
    data: Arrays

    @cached_property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.data)

    def model(self):
        """As prior terms, basis included."""
        from marglik.likelihoods import Gaussian, Poisson
        from marglik.model import LinearModel
        from marglik.priors import Flat, Prior, Ridge
        from marglik.rows import InMemory
        from marglik.smooths import s

        smooths = [s(self.data, x, bs="cr", k=20)[0] for x in NAMES]
        parts = [smooth.split(self.data) for smooth in smooths]
        prior = Prior([Flat(np.column_stack([np.ones(len(self.data["y"])), *(flat for flat, _ in parts)]))])
        for (_, own), smooth in zip(parts, smooths, strict=True):
            prior += Ridge(own, hyperparameter=smooth.scales[0], label=smooth.label)
        return LinearModel(Gaussian() if self.family == "gaussian" else Poisson(), prior, InMemory(self.data["y"]))

    @cached_property
    def fit(self):
        import marglik

        return marglik.fit(self.model())

    def scores(self, sp, variance: float, reported: float) -> dict[str, float]:
        """The log evidence at a side's smoothing parameters, sp = σ²/s², and σ²."""
        scales = [np.sqrt(variance / one) for one in sp]
        noise = [np.sqrt(variance)] if self.family == "gaussian" else []
        names = self.fit.hyperparameters.index
        at = self.fit.log_evidence_at(dict(zip(names, [*scales, *noise], strict=True)))
        return {"log evidence": float(at), "as reported": float(reported)}


def cases(options: Options) -> Iterator[Case]:
    for n in (2_000,) if options.small else (2_000, 100_000):
        for family in ("gaussian", "poisson"):
            workload = Workload(
                f"w7_{family}_{n}", family, cached(f"w7_{family}_{n}", lambda n=n, f=family: draw(n, f))
            )
            sides = [formula(workload), terms(workload), in_r(workload, "bam"), in_r(workload, "gam", apart=n > 2_000)]
            if n == 2_000 or family == "gaussian" or options.slow:
                sides.append(in_rust(workload, apart=n > 2_000))
            yield Case(f"{family}, n = {n:,}", sides, 1 if options.small else 5)


def draw(n: int, family: str) -> Arrays:
    """Gu and Wahba's four functions, the last of them zero."""
    rng = np.random.default_rng(7000 + n)
    x0, x1, x2, _ = X = rng.random((n, 4)).T.copy()
    f = 2 * np.sin(np.pi * x0) + np.exp(2 * x1)
    f += 0.2 * x2**11 * (10 * (1 - x2)) ** 6 + 10 * (10 * x2) ** 3 * (1 - x2) ** 10
    y = f + 2 * rng.standard_normal(n) if family == "gaussian" else rng.poisson(np.exp(f / 8)).astype(float)
    return {"y": y, **dict(zip(NAMES, X, strict=True))}


def ours(workload: Workload):
    def scores(fit) -> dict[str, float]:
        return {"log evidence": float(fit.log_evidence), "as reported": float(fit.log_evidence)}

    return scores


def formula(workload: Workload) -> Side:
    def prepare():
        import marglik

        return lambda: marglik.fit(FORMULA, workload.frame, family=workload.family)

    return Side("marglik", prepare, "marglik", ours(workload))


def terms(workload: Workload) -> Side:
    def prepare():
        import marglik

        return lambda: marglik.fit(workload.model())

    return Side("the same as a LinearModel", prepare, "terms", ours(workload))


def in_rust(workload: Workload, apart: bool) -> Side:
    """Its score is a criterion of its own, with other constants."""

    def prepare():
        import gamfit

        formula = FORMULA.replace("k=20", "k=20, double_penalty=false")
        return lambda: gamfit.fit(workload.frame, formula, family=workload.family)

    return Side("gamfit", prepare, scores=lambda fit: {"as reported": -fit.summary().reml_score}, apart=apart)


def in_r(workload: Workload, function: str, apart: bool = False) -> Side:
    def prepare():
        from benchmarks.lme4 import in_r

        data = cached_csv(workload.name, workload.frame)
        return in_r("gam.R", function, workload.family, str(data), FORMULA)

    def scores(answer):
        return workload.scores(answer["sp"], answer["variance"], -answer["score"])

    name = "mgcv bam(discrete)" if function == "bam" else "mgcv gam"
    return Side(name, prepare, scores=scores, self_timed=True, apart=apart)
