# SPDX-License-Identifier: BSD-3-Clause
"""Published data with published or gold-standard answers, each number at its own tolerance."""

import numpy as np
import pytest
from scipy import integrate, stats

import marglik
from marglik import learn
from marglik.evidence import Exact
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Prior, RandomEffects, Ridge
from marglik.rows import InMemory

# Diabetes: ridge over ten columns.


def test_diabetes_centred(case):
    """Variant S: y centred, no intercept."""
    diabetes = case("diabetes_ridge")
    X = diabetes.data.drop(columns="target").to_numpy()
    y = diabetes.data["target"].to_numpy()
    fitted = marglik.fit(LinearModel(Gaussian(), Ridge(X - X.mean(axis=0)), InMemory(y - y.mean())))
    estimate = fitted.hyperparameters["estimate"]
    diabetes.check("S_alpha_noise_precision", estimate["sd(noise)"] ** -2)
    diabetes.check("S_lambda_weight_precision", estimate["sd(weights)"] ** -2)
    diabetes.check("S_log_evidence", fitted.log_evidence)
    diabetes.check("S_coef", fitted.posterior.mean["ridge"])
    diabetes.check("S_edf", fitted.edf["ridge"])


def test_diabetes_with_an_intercept(case):
    """Variant F: the intercept integrated out; through a formula."""
    diabetes = case("diabetes_ridge")
    columns = [c for c in diabetes.data if c != "target"]
    data = diabetes.data - diabetes.data[columns].mean().reindex(diabetes.data.columns, fill_value=0)
    term = f"ridge({', '.join(columns)})"
    fitted = marglik.fit(f"target ~ 1 + {term}", data)
    estimate = fitted.hyperparameters["estimate"]
    diabetes.check("F_alpha_noise_precision", estimate["sd(noise)"] ** -2)
    diabetes.check("F_lambda_weight_precision", estimate[f"sd({term})"] ** -2)
    diabetes.check("F_log_evidence", fitted.log_evidence)
    diabetes.check("F_coef", fitted.posterior.mean[term])


# Polynomials through ten points.


def polynomial(data, degree):
    X = data["x"].to_numpy()[:, None] ** np.arange(degree + 1)
    return LinearModel(Gaussian(), Ridge(X), InMemory(data["t"].to_numpy()))


def test_curve_fitting_at_given_precisions(case):
    prml = case("prml_curvefit")
    given = {"sd(weights)": 0.005**-0.5, "sd(noise)": 11.1**-0.5}
    fits = [marglik.fit(polynomial(prml.data, degree), fixed=given) for degree in range(10)]
    found = [fitted.log_evidence for fitted in fits]
    prml.check("log_evidence_alpha0.005_beta11.1", found)
    prml.check("posterior_mean_M3", fits[3].posterior.mean["ridge"])
    prml.check("posterior_mean_M9", fits[9].posterior.mean["ridge"])
    assert np.argmax(found) == prml.value("argmax_M")


@pytest.mark.parametrize("degree", range(10))
def test_curve_fitting_global_maximum(case, degree):
    """At the boundary, w = 0, for every degree."""
    prml = case("prml_curvefit")
    fitted = marglik.fit(polynomial(prml.data, degree))
    assert fitted.hyperparameters["estimate"]["sd(weights)"] == 0
    prml.check("global_max_over_alpha_beta_is_boundary_w=0_log_evidence", fitted.log_evidence)
    prml.check("boundary_beta", fitted.hyperparameters["estimate"]["sd(noise)"] ** -2)


@pytest.mark.parametrize("degree", range(10))
def test_curve_fitting_local_maxima(case, degree):
    """Each interior maximum is found from nearby, with its evidence; where there is none, no search ends inside."""
    prml = case("prml_curvefit")
    maxima = prml.value("interior_local_maxima")[str(degree)]
    objective = learn.Objective(Exact(), polynomial(prml.data, degree))
    everywhere = np.ones((1, 2), bool)
    for i, entry in enumerate(maxima):
        start = np.array([[1.1 * entry["alpha"] ** -0.5, 0.9 * entry["beta"] ** -0.5]])
        optimum = learn.maximise(objective, start, everywhere)
        assert optimum.converged.all()
        alpha, beta = optimum.theta[0] ** -2.0
        found = [alpha, beta, optimum.value[0]]
        prml.check("interior_local_maxima", found, lambda v, i=i: [*v[str(degree)][i].values()])
    if not maxima:
        for start in ([10.0, 0.3], [1.0, 0.5], [0.3, 0.6]):
            assert learn.maximise(objective, np.array([start]), everywhere).theta[0, 0] == 0


# Mixed models.


@pytest.mark.parametrize("criterion", ["ML", "REML"])
def test_dyestuff(case, criterion):
    dyestuff = case("lmm_dyestuff")
    fitted = marglik.fit("Yield ~ 1 + (1 | Batch)", dyestuff.data, reml=criterion == "REML")
    sd, sigma = fitted.hyperparameters["estimate"]
    effects, fixed = fitted.random_effects("Batch")["Intercept"], fitted.fixed_effects.loc["Intercept"]
    dyestuff.check(f"{criterion}_criterion_minus2loglik", -2 * fitted.log_evidence)
    dyestuff.check(f"{criterion}_sigma", sigma)
    dyestuff.check(f"{criterion}_theta_relative_cholesky", [sd / sigma])
    dyestuff.check(f"{criterion}_random_effect_cov", [[sd**2]], lambda v: v["Batch"])
    dyestuff.check(f"{criterion}_random_effect_sd", [sd], lambda v: v["Batch"])
    dyestuff.check(f"{criterion}_fixef", fixed["estimate"], lambda v: v["Intercept"])
    dyestuff.check(f"{criterion}_fixef_se", fixed["se"], lambda v: v["Intercept"])
    first = list(dyestuff.value(f"{criterion}_blup_first_levels")["Batch"])
    blups = effects[first].to_numpy()[:, None]
    dyestuff.check(f"{criterion}_blup_first_levels", blups, lambda v: [v["Batch"][level] for level in first])


@pytest.mark.parametrize("criterion", ["ML", "REML"])
def test_dyestuff_closed_form(case, criterion):
    """Twelve digits, of all but the random effects, which are given to fifteen decimals only."""
    dyestuff = case("lmm_dyestuff")
    fitted = marglik.fit("Yield ~ 1 + (1 | Batch)", dyestuff.data, reml=criterion == "REML")
    sd, sigma = fitted.hyperparameters["estimate"]
    fixed = fitted.fixed_effects.loc["Intercept"]
    names = ["crit", "sigma", "sd_batch", "theta", "mean", "se_mean"]
    found = [-2 * fitted.log_evidence, sigma, sd, sd / sigma, fixed["estimate"], fixed["se"]]
    dyestuff.check("closed_form", found, lambda v: [v[criterion][name] for name in names])
    effects = fitted.random_effects("Batch")["Intercept"]
    dyestuff.check("closed_form", effects.to_numpy(), lambda v: [v[criterion]["blup"][x] for x in effects.index])


@pytest.mark.parametrize("criterion", ["ML", "REML"])
def test_dyestuff_slope_at_zero(case, criterion):
    """In the variance of batches, the noise at its best there."""
    dyestuff = case("lmm_dyestuff")
    fitted = marglik.fit(
        "Yield ~ 1 + (1 | Batch)", dyestuff.data, reml=criterion == "REML", fixed={"sd(Intercept | Batch)": 0.0}
    )
    slope = fitted.objective.slope_in_variance(fitted.optimum.theta, 0)
    expected = dyestuff.value("closed_form")[criterion]["d_crit_d_sb2_at_0"]
    np.testing.assert_allclose(-2 * slope, expected, rtol=1e-6)


NIST = ["SiRstv", "SmLs01", "SmLs04", "SmLs07", "AtmWtAg"]


@pytest.mark.parametrize("criterion", ["REML", "ML"])
@pytest.mark.parametrize("name", NIST)
def test_nist_one_way(case, name, criterion):
    nist = case("lmm_nist_anova")
    data = nist.data[nist.data["dataset"] == name]
    fitted = marglik.fit("y ~ 1 + (1 | group)", data, reml=criterion == "REML")
    assert fitted.converged
    sd, sigma = fitted.hyperparameters["estimate"]
    found = {"sigma2": sigma**2, "sigma_b2": sd**2, "crit": -2 * fitted.log_evidence}
    if criterion == "REML":
        found["se_mean"] = fitted.fixed_effects.loc["Intercept", "se"]
    for part, value in found.items():
        nist.check(f"{name}_{criterion}", value, lambda v, part=part: v[part])
    at_boundary = nist.value(f"{name}_{criterion}")["sigma_b2"] == 0
    assert fitted.hyperparameters["at_boundary"].tolist() == [at_boundary, False]
    assert (sd == 0) == at_boundary
    if name == "SmLs07":
        nist.check("SmLs07_if_data_read_as_float64", sd**2, lambda v: v[f"{criterion}_sigma_b2"])
        if criterion == "REML":
            nist.check("SmLs07_if_data_read_as_float64", sigma**2, lambda v: v["MSW"])
            nist.check("SmLs07_if_data_read_as_float64", sigma**2 + 21 * sd**2, lambda v: v["MSB"])


@pytest.mark.parametrize("criterion", ["REML", "ML"])
def test_bcg_meta_analysis(case, criterion):
    """Normal means with known variances: weights are their inverses, the noise is held at one."""
    bcg = case("bcg_meta")
    fitted = marglik.fit(
        "yi ~ 1 + (1 | Study)",
        bcg.data,
        weights=1 / bcg.data["vi"].to_numpy(),
        fixed={"sd(noise)": 1.0},
        reml=criterion == "REML",
    )
    mean = fitted.fixed_effects.loc["Intercept"]
    bcg.check(f"tau2_{criterion}", fitted.hyperparameters["estimate"]["sd(Intercept | Study)"] ** 2)
    bcg.check("restricted_loglik" if criterion == "REML" else "loglik_ML", fitted.log_evidence)
    bcg.check(f"mu_{criterion}", mean["estimate"])
    bcg.check(f"se_mu_{criterion}", mean["se"])


# Eight schools.


def schools(case, reml=True, mean_sd=None):
    """Known variances; the mean has a flat prior, or a normal one."""
    data = case("eight_schools").data
    y, v = data["y"].to_numpy(), data["sigma"].to_numpy() ** 2
    effects = RandomEffects(np.arange(8), [f"school {i}" for i in range(1, 9)], group="school")
    if mean_sd is None:
        frame = data.assign(school=[f"s{i}" for i in range(8)])
        return marglik.fit("y ~ 1 + (1 | school)", frame, weights=1 / v, fixed={"sd(noise)": 1.0}, reml=reml)
    prior = Prior((Ridge(np.ones(8), ["mu"], "sd(mu)", "mean"), effects))
    model = LinearModel(Gaussian(), prior, InMemory(y, None, 1 / v))
    return marglik.fit(model, fixed={"sd(noise)": 1.0, "sd(mu)": mean_sd})


SCHOOLS = {
    "restricted_loglik_flat_mu": {},
    "profile_loglik": {"reml": False},
    "log_p_y_given_tau_mu~N(0,5^2)": {"mean_sd": 5.0},
}


@pytest.mark.parametrize("quantity", SCHOOLS)
def test_eight_schools(case, quantity):
    """The evidence at several τ, and its maximum at zero."""
    eight = case("eight_schools")
    fitted = schools(case, **SCHOOLS[quantity])
    for tau in eight.value(quantity):
        found = fitted.log_evidence_at({"sd(Intercept | school)": float(tau)})
        eight.check(quantity, found, lambda v, tau=tau: v[tau])
    row = fitted.hyperparameters.loc["sd(Intercept | school)"]
    eight.check("tau_hat_ML_REML_and_muN05", row["estimate"], lambda v: v[0])
    assert row["estimate"] == 0
    assert row["at_boundary"]
    assert fitted.converged


def test_eight_schools_at_the_boundary(case):
    eight = case("eight_schools")
    fitted = schools(case)
    mean = fitted.fixed_effects.loc["Intercept"]
    eight.check("mu_hat_se_at_tau0", [mean["estimate"], mean["se"]])
    slope = fitted.objective.slope_in_variance(fitted.optimum.theta, 0)
    eight.check("d_restricted_d_tau^2_at_0", slope[0])


def test_eight_schools_averaged_over_tau(case):
    """The full evidence: that of τ, times its half-Cauchy prior, by quadrature over τ."""
    eight = case("eight_schools")
    fitted = schools(case, mean_sd=5.0)

    def integrand(tau):
        log_evidence = fitted.log_evidence_at({"sd(Intercept | school)": float(tau)})
        return np.exp(log_evidence + 31) * stats.halfcauchy(scale=5).pdf(tau)

    parts = [integrate.quad(integrand, *ends, epsabs=0, epsrel=1e-11)[0] for ends in ((0, 20), (20, np.inf))]
    log_evidence = np.log(sum(parts)) - 31
    eight.check("log_evidence_mu~N(0,5)_tau~HalfCauchy(5)", log_evidence)
    eight.check("log_normaliser_of_the_stan_program", log_evidence - np.log(2))
