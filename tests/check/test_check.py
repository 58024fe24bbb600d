# SPDX-License-Identifier: BSD-3-Clause
"""The check: importance sampling against brute force, scores of simulated data, and what the verdict comes to."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import marglik
from marglik.check import checked
from marglik.evidence import Quadrature
from marglik.interfaces.cli import main
from marglik.likelihoods import Bernoulli, Gaussian
from verdict_models import MODELS, coins, counts, integrated_intercept, row, simulated

GROUPED = ["coins: 80 × 2, sd held at 3", "rates: 20 × 5 large", "shares: 12 of 40 tosses"]


@pytest.mark.parametrize("name", GROUPED)
def test_the_gap_is_that_of_brute_force(name):
    known = MODELS[name]()
    found = known.fit.check().approximation
    assert found.by_level
    assert found.known
    assert abs(found.log_value - known.truth) < max(4 * found.std_error, 5e-3)
    np.testing.assert_allclose(found.gap, known.fit.log_evidence - found.log_value, rtol=1e-12)


@pytest.mark.slow
def test_with_the_fixed_effect_integrated():
    known = integrated_intercept(12)
    found = known.fit.check().approximation
    assert abs(found.log_value - known.truth) < 4 * found.std_error + 1e-3
    assert found.std_error < 0.02


def test_several_coefficients_a_level_against_quadrature():
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(40), 10), rng.normal(size=400)
    eta = 0.5 + rng.normal(0, 1.0, 40)[g] + rng.normal(0.3, 0.8, 40)[g] * x
    data = {"g": g, "x": x, "y": (rng.random(400) < 1 / (1 + np.exp(-eta))).astype(float)}
    fit = marglik.fit("y ~ x + (x | g)", data, family="bernoulli", reml=False)
    found = fit.check().approximation
    truth = Quadrature(41)(fit.model, fit.optimum.theta[0]).log_value
    assert abs(found.log_value - truth) < max(4 * found.std_error, 0.01)
    assert found.std_error < 0.05


def test_the_shift_leads_to_where_quadrature_ends():
    """One Newton step from Laplace's estimates covers most of the way to the maximum of the integral."""
    data = simulated(counts, 120, 2, 0.0, 0.8, 5)
    fit = lambda **more: marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", reml=False, **more)  # noqa: E731
    laplace, exact = fit(), fit(method="quadrature", points=41)
    table = laplace.hyperparameters.loc["sd(Intercept | g)"]
    away = np.log(exact.hyperparameters.loc["sd(Intercept | g)", "estimate"] / table["estimate"])
    shift = laplace.check().approximation.shift
    np.testing.assert_allclose(shift["sd(Intercept | g)"], away / (table["se"] / table["estimate"]), rtol=0.1)
    moved = exact.fixed_effects.loc["Intercept", "estimate"] - laplace.fixed_effects.loc["Intercept", "estimate"]
    np.testing.assert_allclose(
        shift["Intercept"], moved / laplace.fixed_effects.loc["Intercept", "se"], rtol=0.15, atol=0.01
    )
    at = exact.check().approximation
    assert at.word == "good"
    assert max(map(abs, at.shift.values())) < 0.01


def test_gaps_of_levels_add_up():
    """Identical levels have identical gaps, and with nothing else to integrate these add up."""
    data = {"g": np.repeat(np.arange(4), 3), "y": np.tile([1.0, 1.0, 0.0], 4)}
    fit = marglik.fit("y ~ 1 + (1 | g)", data, family="bernoulli", reml=False, fixed={"sd(Intercept | g)": 2.0})
    found = fit.check().approximation
    gaps = list(found.levels.values())
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)
    np.testing.assert_allclose(sum(gaps), found.gap, rtol=1e-6)
    assert sorted(found.levels) == ["0", "1", "2", "3"]


def test_order_and_units_do_not_matter():
    data = simulated(counts, 30, 4, 1.0, 0.7, 8)
    x = np.random.default_rng(8).normal(size=120)
    turn = np.random.default_rng(9).permutation(120)
    one = marglik.fit("y ~ x + (1 | g)", data | {"x": x}, family="poisson", reml=False).check().approximation
    other = {"g": 30 - data["g"][turn], "y": data["y"][turn], "x": 1e3 * x[turn]}
    two = marglik.fit("y ~ x + (1 | g)", other, family="poisson", reml=False).check().approximation
    np.testing.assert_allclose(one.gap, two.gap, rtol=0, atol=1e-4)
    for name, shift in one.shift.items():
        np.testing.assert_allclose(two.shift[name], shift, rtol=0, atol=5e-3)


def test_a_thousand_levels_at_once_equal_quadrature():
    data = simulated(counts, 1000, 5, 0.5, 0.6, 6)
    fit = marglik.fit("y ~ 1 + (1 | g)", data, family="poisson", reml=False)
    truth = Quadrature(25)(fit.model, fit.optimum.theta[0]).log_value
    for found, error in ((fit.check().approximation, 0.05), (checked(fit, quick=True).approximation, 0.5)):
        assert abs(found.log_value - truth) < 4 * found.std_error
        assert found.std_error < error


def test_wheeze_is_called_out_and_seeds_are_not(case):
    wheeze = marglik.fit("resp ~ age + smoke + (1 | id)", case("glmm_ohio_wheeze").data, family="bernoulli", reml=False)
    verdict = wheeze.check().verdict
    assert verdict.startswith("Do not trust the evidence: it is 3.7 nats too high")
    assert "Try method='quadrature'" in verdict
    assert "Do not trust the evidence: it is 3.7 nats too high" in " ".join(wheeze.summary().split())
    formula = "cbind(germ, n - germ) ~ gen * extract + (1 | plate)"
    seeds = marglik.fit(formula, case("glmm_seeds").data, family="binomial", reml=False).check()
    assert seeds.trusted
    assert seeds.approximation.word == "good"
    assert "the approximation is good, 0.012 nats too low" in seeds.verdict


def test_verdict_in_words():
    usable = MODELS["shares: 30 of 100 tosses"]().fit.check()
    assert usable.approximation.word == "usable"
    assert "the approximation is usable" in usable.verdict
    bad = coins(80, 2, 3.0, 0, held=3.0).fit.check()
    assert not bad.trusted
    assert str(bad).startswith("Do not trust the evidence: it is 3.7 nats too low")
    assert "Log evidence by importance sampling" in str(bad)


def test_many_weights_are_not_known_rather_than_wrong():
    """Draws of a hundred weights of a far from Gaussian posterior do not tell, and the verdict says so."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 100))
    y = (rng.random(60) < 0.5).astype(float)
    model = marglik.LinearModel(Bernoulli(), marglik.Ridge(x), y)
    found = marglik.fit(model, fixed={"sd(weights)": 3.0}).check()
    assert found.approximation.word == "unknown"
    assert "is not known" in found.verdict


@pytest.mark.slow
def test_scores_of_an_exact_method_are_centred():
    """p-values are uniform: 100 fits of a tiny Gaussian model."""
    p = []
    rng = np.random.default_rng(0)
    for i in range(100):
        g = np.repeat(np.arange(8), 3)
        data = {"g": g, "y": rng.normal(0, 1.5, 8)[g] + rng.normal(size=24)}
        fit = marglik.fit("y ~ 1 + (1 | g)", data, fixed={"sd(Intercept | g)": 1.5})
        p.append(fit.check(simulations=60, seed=i).consistency.p_value)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_scores_of_laplace_are_not_where_it_is_biased():
    fit = marglik.fit(
        "y ~ 1 + (1 | g)", simulated(lambda rng, eta: rng.random(len(eta)) < 1 / (1 + np.exp(-eta)), 150, 2, 0.3, 2, 4),
        family="bernoulli", reml=False, fixed={"sd(Intercept | g)": 2.0},
    )  # fmt: skip
    free = marglik.fit("y ~ 1 + (1 | g)", simulated(counts, 40, 6, 3.0, 0.5, 5), family="poisson", reml=False)
    assert free.check(simulations=100).consistency.p_value > 0.01
    found = fit.check(simulations=100)
    assert set(found.consistency.bias) == {"Intercept"}
    assert fit.check(simulations=100).consistency == found.consistency
    learned = coins(200, 3, 3.0, 4).fit.check(simulations=100)
    assert learned.consistency.p_value < 1e-4
    assert not learned.trusted
    assert "Do not trust the estimates: scores of data simulated from the fit are not centred" in learned.verdict


def test_bias_is_that_of_refits():
    """The bias in standard errors is what simulating and fitting anew finds."""
    fit = coins(150, 3, 2.0, 7).fit
    bias = fit.check(simulations=200, seed=1).consistency.bias["sd(Intercept | g)"]
    g = np.repeat(np.arange(150), 3)
    again = [
        marglik.fit("y ~ 1 + (1 | g)", {"g": g, "y": y}, family="bernoulli", reml=False).hyperparameters.loc[
            "sd(Intercept | g)", "estimate"
        ]
        for y in fit.simulate(40, seed=2)
    ]
    table = fit.hyperparameters.loc["sd(Intercept | g)"]
    found = np.log(np.array(again) / table["estimate"]) / (table["se"] / table["estimate"])
    assert abs(found.mean() - bias) < 4 * found.std() / np.sqrt(len(found)) + 0.3 * abs(bias)


BAD = {
    "negative": ({"simulations": -1}, "simulations must be a whole number, 0 or more, not -1."),
    "a fraction": ({"simulations": 2.5}, "simulations must be a whole number, 0 or more, not 2.5."),
    "few draws": ({"draws": 3}, "draws must be a whole number, 256 or more, not 3."),
    "too few": ({"simulations": 2}, "simulations=2 data sets cannot tell whether 2 scores are centred"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_input(name):
    data = {"y": [1.0, 1.3, 2.9, 3.1, 5.2, 4.8], "g": list("aabbcc")}
    fit = marglik.fit("y ~ 1 + (1 | g)", data)
    how, words = BAD[name]
    with pytest.raises(ValueError, match=r"simulations|draws") as refused:
        fit.check(**how)
    assert words in str(refused.value)


@pytest.mark.slow
def test_a_program_without_hyperparameters_has_no_scores():
    pytest.importorskip("numpyro")
    fit = MODELS["normal mean"]().fit
    assert fit.check().approximation.word == "good"
    with pytest.raises(ValueError, match=r"checks hyperparameters that were learned, but all of this fit were held"):
        fit.check(simulations=10)


def test_command_line(tmp_path):
    fit = coins(80, 2, 3.0, 0, held=3.0).fit
    fit.save(tmp_path / "fit")
    done = CliRunner().invoke(main, ["check", str(tmp_path / "fit")])
    assert done.output.startswith("Do not trust the evidence: it is 3.7 nats too low")
    assert "Log evidence by importance sampling" in done.output
    found = json.loads(CliRunner().invoke(main, ["check", str(tmp_path / "fit"), "--json"]).output)
    np.testing.assert_allclose(found["approximation"]["gap"], fit.check().approximation.gap, rtol=1e-6)


@pytest.mark.slow
def test_the_verdict_is_right_for_models_of_known_evidence():
    pytest.importorskip("numpyro")
    rows = [row(name) for name in MODELS]
    wrong = [found["model"] for found in rows if not found["right"]]
    assert len(rows) >= 30
    assert sum(abs(found["gap"]) > 0.5 for found in rows) >= 15
    assert len(wrong) <= 2, wrong


def test_distinct_maxima_of_restarts_are_counted():
    """Rasmussen & Williams's figure 5.5, whose two maxima a search of its own finds as well."""
    x = np.array([-5.9, -1.7, 0.2, 1.5, 4.2, 6.2, 6.7])
    y = np.array([-0.42, -1.61, 0.29, 1.45, -0.26, 0.86, 1.54])
    model = marglik.LinearModel(Gaussian(), marglik.GaussianProcess(x), y)
    found, again = marglik.fit(model), marglik.fit(model, restarts=4)
    searched = marglik.fit(model, restarts=5, hyperprior={"sd(noise)": stats.uniform(0, 100)}, seed=2)
    drop = -np.diff(found.optima["log_evidence"])
    for fit in (found, again, searched):
        check = fit.check()
        np.testing.assert_allclose(check.lower, drop, rtol=0, atol=1e-4)
        assert "met another, lower maximum, which is 0.87 nats below; fit.optima lists them" in check.verdict
        assert len(fit.optima) == 2
    assert again.check().searches == 5
    assert f"{again.check().reached} of 5 searches ended at this maximum." in str(again.check())
    assert 1 <= again.check().reached < 5


def test_one_maximum_is_reached_by_all_restarts():
    data = {"y": [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 1], "g": list("aaabbbcccddd")}
    for method in ("laplace", "quadrature"):
        fit = marglik.fit("y ~ 1 + (1 | g)", data, family="bernoulli", reml=False, method=method, restarts=3)
        check = fit.check()
        assert (check.reached, check.searches, list(check.lower)) == (4, 4, [])
        assert "4 of 4 searches ended at this maximum." in str(check)


def separated():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(15, 20)), (rng.random(15) < 0.5).astype(float)
    return x, y, marglik.fit(marglik.LinearModel(Bernoulli(), marglik.Ridge(x), y), fixed={"sd(weights)": 30.0})


def test_annealing_where_importance_draws_do_not_tell():
    """Against the likelihood averaged over a million draws of η, of which a few in a hundred thousand count."""
    x, y, fit = separated()
    eta = 30 * np.random.default_rng(2).standard_normal((1_000_000, 15)) @ np.linalg.cholesky(x @ x.T).T
    p = np.exp(np.minimum((2 * y - 1) * eta, 0).sum(axis=1) - np.log1p(np.exp(-np.abs(eta))).sum(axis=1))
    truth, error = np.log(p.mean()), p.std() / p.mean() / np.sqrt(len(p))
    alone, check = fit.check(anneal=False).approximation, fit.check()
    found = check.approximation
    assert alone.word == "unknown"
    assert not alone.annealed
    assert found.annealed
    assert abs(found.log_value - truth) < 4 * np.hypot(found.std_error, error) < 0.5
    assert check.verdict.startswith("Do not trust the evidence")
    assert "Log evidence by annealing" in str(check)


def test_annealing_when_asked_for():
    fit = MODELS["coins: 6 × 40"]().fit
    one, two = fit.check().approximation, fit.check(anneal=True).approximation
    assert (one.annealed, two.annealed) == (False, True)
    assert abs(one.log_value - two.log_value) < 4 * np.hypot(one.std_error, two.std_error) < 0.5
    with pytest.raises(ValueError, match="anneal must be True, False, or None for where it is needed, not 'yes'"):
        fit.check(anneal="yes")
