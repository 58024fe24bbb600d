# SPDX-License-Identifier: BSD-3-Clause
"""The log evidence of a logistic regression at given hyperparameters: importance sampling against nested sampling."""

from collections.abc import Iterator

import numpy as np

from benchmarks.data import Arrays, cached
from benchmarks.harness import Case, Options, Side

TITLE = "W10: log evidence of a logistic regression, 10 weights, n = 500"
REFERENCE = -219.5580  # ± 0.0006, by importance sampling with 4 million draws
PRIOR_SD = 1.5
LIVE_POINTS = 500


def cases(options: Options) -> Iterator[Case]:
    yield case(cached("w10", make_data), 1 if options.small else 3, options.small)


def make_data() -> Arrays:
    rng = np.random.default_rng(10010)
    X = np.c_[np.ones(500), rng.standard_normal((500, 9))]
    w = rng.standard_normal(10) * 0.8
    return {"X": X, "y": (rng.random(500) < 1 / (1 + np.exp(-X @ w))).astype(float)}


def case(data: Arrays, rounds: int, small: bool) -> Case:
    X, y = data["X"], data["y"]

    def scores(value: float, error: float) -> dict[str, float]:
        return {"log evidence": value, "its standard error": error, "off": value - REFERENCE}

    def marglik():
        from marglik.evidence import importance
        from marglik.likelihoods import Bernoulli
        from marglik.model import LinearModel
        from marglik.priors import Gaussian

        return lambda: importance.estimate(
            LinearModel(Bernoulli(), Gaussian(X, covariance=PRIOR_SD**2), y), np.zeros(0)
        )

    def nested():
        import dynesty
        from scipy.special import ndtri

        def log_likelihood(w):
            eta = X @ w
            return y @ eta - np.logaddexp(0, eta).sum()

        def run():
            sampler = dynesty.NestedSampler(
                log_likelihood,
                lambda u: PRIOR_SD * ndtri(u),
                10,
                nlive=50 if small else LIVE_POINTS,
                rstate=np.random.default_rng(1),
            )
            sampler.run_nested(print_progress=False)
            return sampler.results

        return run

    sides = [
        Side("marglik", marglik, "marglik", lambda e: scores(e.log_value, e.std_error)),
        Side("dynesty", nested, scores=lambda r: scores(float(r.logz[-1]), float(r.logzerr[-1])), apart=True),
    ]
    return Case("4,096 draws, 500 live points", sides, rounds)
