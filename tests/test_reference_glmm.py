# SPDX-License-Identifier: BSD-3-Clause
"""Mixed models of counts and proportions, and logistic evidences, with gold-standard answers, each at its tolerance."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.likelihoods import Bernoulli, Binomial
from marglik.model import LinearModel
from marglik.priors import Gaussian


class Problem(NamedTuple):
    """A formula for a case's data; its factors with their levels, the baseline first; points for nine digits."""

    case: str
    formula: str
    family: str
    factors: dict
    variant: str = ""
    points: int = 25


SPECIES = ["GP", "PR", "DM", "EC-A", "EC-L", "DES-L", "DF"]
SALAMANDERS = "count ~ spp + mined + (1 | site)", {"spp": SPECIES, "mined": ["yes", "no"]}
SEEDS = {"gen": ["O73", "O75"], "extract": ["bean", "cucumber"]}
SEIZURES = "y ~ lbase * trt + lage + V4 + (1 | subject)"
TREATMENTS = {"trt": ["placebo", "progabide"]}
PROBLEMS = {
    "melanoma": Problem("mmec", "deaths ~ uvb + offset(log(expected)) + (1 | region)", "poisson", {}),
    "cattle": Problem(
        "cbpp", "cbind(incidence, size - incidence) ~ period + (1 | herd)", "binomial", {"period": ["1", "2", "3", "4"]}
    ),
    "seeds": Problem("seeds", "cbind(germ, n - germ) ~ gen * extract + (1 | plate)", "binomial", SEEDS),
    "seizures": Problem("epilepsy", SEIZURES, "poisson", TREATMENTS),
    "wheeze": Problem("ohio_wheeze", "resp ~ age + smoke + (1 | id)", "bernoulli", {}, points=65),
    "salamanders": Problem("salamanders_count", SALAMANDERS[0], "poisson", SALAMANDERS[1], "_poisson"),
    "overdispersed salamanders": Problem(
        "salamanders_count", SALAMANDERS[0], "negative_binomial", SALAMANDERS[1], "_nbinom2"
    ),
}
INTEGRATED = ["cattle", "seeds", "seizures", "salamanders"]


def read(case, problem):
    """The case, and its data with factors as such."""
    found = case(f"glmm_{problem.case}")
    data = found.data.copy()
    for name, levels in problem.factors.items():
        text = data[name].map(lambda x: x if isinstance(x, str) else f"{x:g}")
        data[name] = pd.Categorical(text, levels)
    return found, data


def ours(name, factors):
    """R's name of a fixed effect in our words: trtprogabide is trt[progabide]."""
    parts = []
    for part in name.split(":"):
        factor = next((f for f in factors if part.startswith(f) and part[len(f) :] in factors[f]), None)
        parts.append(part if factor is None else f"{factor}[{part[len(factor) :]}]")
    return "Intercept" if name == "(Intercept)" else ":".join(parts)


def compare(found, problem, which, fitted):
    """Log likelihood, fixed effects and their errors, standard deviation and dispersion."""
    prefix = f"{which}{problem.variant}"
    assert fitted.converged
    found.check(f"{prefix}_logLik", fitted.log_evidence)
    estimates = fitted.hyperparameters["estimate"]
    found.check(f"{prefix}_sd", estimates.iloc[0])
    for theirs in found.value(f"{prefix}_fixef"):
        row = fitted.fixed_effects.loc[ours(theirs, problem.factors)]
        found.check(f"{prefix}_fixef", row["estimate"], lambda v, theirs=theirs: v[theirs])
        found.check(f"{prefix}_se", row["se"], lambda v, theirs=theirs: v[theirs])
    gold = found.gold[f"exact{problem.variant}" if which == "exact" else f"tmb{problem.variant or '_laplace'}"]
    np.testing.assert_allclose(fitted.hyperparameters["se"].iloc[0], gold["sd"] * gold["log_sd_se"], rtol=1e-6)
    if f"{prefix}_nb_phi" in found.reference:
        found.check(f"{prefix}_nb_phi", estimates["size"])


@pytest.mark.parametrize("name", PROBLEMS)
def test_laplace(case, name):
    problem = PROBLEMS[name]
    found, data = read(case, problem)
    fitted = marglik.fit(problem.formula, data, family=problem.family, reml=False)
    assert fitted.method == "laplace"
    compare(found, problem, "laplace", fitted)


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact(case, name):
    """By quadrature with enough points."""
    problem = PROBLEMS[name]
    found, data = read(case, problem)
    fitted = marglik.fit(
        problem.formula, data, family=problem.family, reml=False, method="quadrature", points=problem.points
    )
    compare(found, problem, "exact", fitted)


@pytest.mark.parametrize("name", INTEGRATED)
def test_fixed_effects_integrated(case, name):
    problem = PROBLEMS[name]
    found, data = read(case, problem)
    fitted = marglik.fit(problem.formula, data, family=problem.family)
    prefix = f"laplace{problem.variant}_flat_beta"
    found.check(f"{prefix}_log_evidence", fitted.log_evidence)
    found.check(f"{prefix}_sd", [fitted.hyperparameters["estimate"].iloc[0]])


def test_modes_of_random_effects(case):
    """Those of lme4 1.1-31 with nAGQ = 25, for the first herds."""
    problem = PROBLEMS["cattle"]
    _, data = read(case, problem)
    fitted = marglik.fit(problem.formula, data, family=problem.family, reml=False, method="quadrature", points=25)
    expected = [0.593024826, -0.300258288, 0.407864003, 0.0396878883, -0.190792176, -0.402402222]
    np.testing.assert_allclose(fitted.random_effects("herd").to_numpy()[:6, 0], expected, rtol=0, atol=1e-6)


def test_an_effect_for_each_observation(case):
    """Two factors, of which one has a level for each row."""
    problem = PROBLEMS["seizures"]
    found, data = read(case, problem)
    fitted = marglik.fit(f"{SEIZURES} + (1 | obs)", data, family="poisson", reml=False)
    assert fitted.converged
    found.check("OLRE_laplace_logLik", fitted.log_evidence)
    order = ["Intercept", "lbase", "trt[progabide]", "lage", "V4", "lbase:trt[progabide]"]
    for i, name in enumerate(order):
        key = f"beta.{i}" if i else "beta"
        found.check("OLRE_laplace_par", fitted.fixed_effects["estimate"][name], lambda v, key=key: v[key])
    for key, group in (("theta", "subject"), ("theta.1", "obs")):
        estimate = np.log(fitted.hyperparameters["estimate"][f"sd(Intercept | {group})"])
        found.check("OLRE_laplace_par", estimate, lambda v, key=key: v[key])


@pytest.mark.parametrize(("model", "columns"), [("m1", 4), ("m2", 5)])
@pytest.mark.parametrize("tau", ["0.01", "1.0"])
def test_diabetes_in_pima(case, tau, model, columns):
    """Logistic evidence for five and six weights with a given prior."""
    pima = case("logit_pima")
    X = np.column_stack([np.ones(len(pima.data)), pima.data[["NP", "PGC", "BMI", "DP", "AGE"][:columns]]])
    weights = Gaussian(X, covariance=1 / float(tau))
    fitted = marglik.fit(LinearModel(Bernoulli(), weights, pima.data["y"].to_numpy()))
    pima.check(f"tau{tau}_{model}_laplace", fitted.log_evidence)
    pima.check(f"tau{tau}_{model}_mode", fitted.posterior.mean["gaussian"])


def bioassay(case, rho):
    assay = case("logit_bioassay")
    n, y = assay.data["n"].to_numpy(), assay.data["y"].to_numpy()
    X = np.column_stack([np.ones(len(y)), assay.data["x"]])
    covariance = np.array([[4, 20 * rho], [20 * rho, 100]])
    return assay, LinearModel(Binomial(n), Gaussian(X, [0, 10], covariance), y)


@pytest.mark.parametrize("rho", ["0", "0.5"])
def test_bioassay(case, rho):
    """Four rows and two weights: Laplace's method, and the integral itself as one small integral without a group."""
    assay, model = bioassay(case, float(rho))
    laplace = marglik.fit(model)
    assay.check(f"laplace_rho{rho}", laplace.log_evidence)
    assay.check(f"mode_rho{rho}", laplace.posterior.mean["gaussian"])
    assay.check(f"log_evidence_rho{rho}", marglik.fit(model, method="quadrature", points=401).log_evidence)


def test_bioassay_by_maximum_likelihood(case):
    assay = case("logit_bioassay")
    fitted = marglik.fit("cbind(y, n - y) ~ x", assay.data, family="binomial", reml=False)
    assay.check("mle", fitted.fixed_effects["estimate"])
    assay.check("mle_se", fitted.fixed_effects["se"])


def test_claims(case):
    """Counts with a Gamma rate, ν and scale σ, are negative binomial of mean νσ and size ν."""
    claims = case("robbins_claims")
    fitted = marglik.fit("claims ~ 1", claims.data, family="negative_binomial", weights="policies", reml=False)
    nu = fitted.hyperparameters["estimate"]["size"]
    sigma = np.exp(fitted.fixed_effects["estimate"]["Intercept"]) / nu
    claims.check("nu", nu)
    claims.check("sigma", sigma)
    claims.check("loglik", fitted.log_evidence)
    claims.check("posterior_means_x0..6", (np.arange(7) + nu) * sigma / (1 + sigma))
