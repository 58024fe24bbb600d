# SPDX-License-Identifier: BSD-3-Clause
"""Hyperparameters integrated: marglik's evaluations of the evidence against NumPyro's NUTS.

NUTS runs until its draws know the ends of 95 % intervals as well as marglik does: to `ERROR` of their width.
"""

import importlib.util
import json
from collections.abc import Iterator
from math import sqrt

import numpy as np

from benchmarks.environment import ROOT
from benchmarks.harness import Case, Options, Side

TITLE = "Full Bayes: hyperparameters integrated"
DATA = ROOT / "tests" / "data"
ERROR = 0.0125
"""Root mean square error of the ends of intervals of hyperparameters, as a share of their width."""
NEEDED = int((sqrt(0.025 * 0.975) / 0.0584 / 3.92 / ERROR) ** 2)
"""Independent draws whose 2.5 % quantile has that error: √(p(1 − p)/n)/φ(z), widths 3.92 standard deviations."""
DRAWS = {"schools": 7_000, "sleepstudy": 12_000, "poisson": 15_000}
"""These give as many effective ones, or nearly."""


def cases(options: Options) -> Iterator[Case]:
    for name in ("schools", "sleepstudy", "poisson"):
        yield case(name, 1 if options.small else 3)


def programs():
    """The programs whose long runs are the tests' reference."""
    spec = importlib.util.spec_from_file_location("make", DATA / "nuts" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCALES = {
    "schools": {"tau": "sd(Intercept | school)"},
    "sleepstudy": {
        "sd_int": "sd(Intercept | Subject)",
        "sd_slope": "sd(Days | Subject)",
        "cor": "cor(Intercept, Days | Subject)",
        "sigma": "sd(noise)",
    },
    "poisson": {"sd": "sd(Intercept | g)"},
}


def fitted(name):
    """Learned before the clock starts, as NUTS's model is written before it starts."""
    import pandas as pd

    import marglik

    if name == "schools":
        s = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
        data = {"y": [28.0, 8, -3, 7, -1, 1, 18, 12], "school": list("ABCDEFGH"), "w": 1 / s**2}
        return marglik.fit("y ~ 1 + (1 | school)", data, fixed={"sd(noise)": 1.0}, weights="w")
    if name == "sleepstudy":
        frame = pd.read_csv(DATA / "lmm_sleepstudy" / "data.csv")
        return marglik.fit("Reaction ~ Days + (Days | Subject)", frame)
    return marglik.fit("y ~ x + (1 | g)", pd.read_csv(DATA / "nuts" / "poisson.csv"), family="poisson")


def case(name: str, rounds: int) -> Case:
    reference = json.loads((DATA / "nuts" / f"{name}.json").read_text())

    def error(ends):
        """Of the ends of intervals of hyperparameters."""
        misses = []
        for site, (low, high) in ends.items():
            truth = reference[site]
            width = truth["upper"] - truth["lower"]
            misses += [(low - truth["lower"]) / width, (high - truth["upper"]) / width]
        return {"error of ends": float(np.sqrt(np.mean(np.square(misses))))}

    def marglik():
        fit = fitted(name)

        def run():
            whole = fit.integrate_hyperparameters()
            return whole, whole.hyperparameters, whole.fixed_effects, whole.random_effects()

        return run

    def of_marglik(result):
        table = result[1]
        return error({site: table.loc[own, ["lower", "upper"]] for site, own in SCALES[name].items()})

    def nuts():
        import jax
        from numpyro.infer import MCMC, NUTS, init_to_uniform

        model = getattr(programs(), name)

        def run():
            kernel = NUTS(model, target_accept_prob=0.95, init_strategy=init_to_uniform(radius=0.3))
            runs = MCMC(kernel, num_warmup=500, num_samples=DRAWS[name], num_chains=1, progress_bar=False)
            runs.run(jax.random.PRNGKey(2))
            return {site: np.asarray(draws) for site, draws in runs.get_samples().items()}

        return run

    def of_nuts(draws):
        from numpyro.diagnostics import effective_sample_size

        ends = {site: np.quantile(draws[site], [0.025, 0.975]) for site in SCALES[name]}
        least = min(float(effective_sample_size(draws[site][None])) for site in SCALES[name])
        return {**error(ends), f"least effective draws ({NEEDED} needed)": least}

    sides = [Side("marglik", marglik, "marglik", of_marglik), Side("NumPyro NUTS", nuts, scores=of_nuts)]
    return Case(name, sides, rounds)
