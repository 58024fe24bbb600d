# SPDX-License-Identifier: BSD-3-Clause
"""Many targets where the evidence method takes one at a time: the same as each alone."""

import pickle

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik import Flat, Gaussian, InMemory, LinearModel, RandomEffects, Ridge
from marglik.likelihoods import Binomial, Likelihood, NegativeBinomial, Poisson

RNG = np.random.default_rng(4)
N, V = 70, 3
X = RNG.standard_normal((N, 4))
G = RNG.integers(0, 6, N)
ETA = 0.3 + X @ RNG.normal(0, 0.4, (4, V)) + RNG.normal(0, 0.4, (6, V))[G]
TRIALS = RNG.integers(1, 9, N).astype(float)
FLAT = Flat(np.ones(N), ["Intercept"])
RIDGE, GROUPS = Ridge(X), RandomEffects(G, list("abcdef"), group="g")
SLOPES = RandomEffects(G, list("abcdef"), np.column_stack([np.ones(N), X[:, 0]]), ("Intercept", "x"), group="g")


def model(likelihood, prior, reml=True, **more):
    own = (2.0, 6.0)[: len(likelihood.hyperparameters())]
    y = likelihood.sample(ETA, own, np.random.default_rng(1))
    return LinearModel(likelihood, prior, InMemory(y, **more), reml=reml)


CASES = {
    **{name: (kind(), FLAT + RIDGE, True) for name, kind in Likelihood.registry.items() if not kind.gaussian},
    "groups": (NegativeBinomial(), FLAT + RIDGE + GROUPS, True),
    "maximum likelihood": (Poisson(), FLAT + RIDGE, False),
    "correlated effects": (Poisson(), FLAT + SLOPES, True),
    "Gaussian with groups": (Gaussian(), FLAT + RIDGE + GROUPS, True),
    "Gaussian with correlated effects": (Gaussian(), SLOPES + FLAT, True),
}


@pytest.mark.parametrize("name", CASES)
def test_together_as_alone(name):
    likelihood, prior, reml = CASES[name]
    many = model(likelihood, prior, reml)
    fit = marglik.fit(many)
    assert fit.converged.shape == (V,)
    for v in range(V):
        alone = marglik.fit(LinearModel(likelihood, prior, many.rows.y[:, v], reml=reml))
        np.testing.assert_allclose(fit.log_evidence[v], alone.log_evidence, rtol=1e-9)
        pd.testing.assert_frame_equal(fit.hyperparameters.loc[v], alone.hyperparameters, rtol=1e-5, atol=1e-7)
        pd.testing.assert_frame_equal(fit.fixed_effects.loc[v], alone.fixed_effects, rtol=1e-6)
        pd.testing.assert_frame_equal(fit.vcov().loc[v], alone.vcov(), rtol=1e-5, check_names=False)
        np.testing.assert_allclose(fit.edf.loc[v], alone.edf, rtol=1e-6)
        np.testing.assert_allclose(fit.predict()[:, v], alone.predict(), rtol=1e-6, atol=1e-9)
        for label, mean in alone.posterior.mean.items():
            np.testing.assert_allclose(fit.posterior.mean[label][v], mean, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(fit.posterior.sd[label][v], alone.posterior.sd[label], rtol=1e-5, atol=1e-7)
        one = fit.target(v)
        np.testing.assert_allclose(one.log_evidence, alone.log_evidence, rtol=1e-9)
        np.testing.assert_allclose(one.occam["nats"], fit.occam.loc[v, "nats"], rtol=1e-9, atol=1e-9)
        at = {alone.model.hyperparameters.reported[0]: 0.3}
        np.testing.assert_allclose(fit.log_evidence_at(at)[v], alone.log_evidence_at(at), rtol=1e-7)
    assert fit.posterior.sample(5, seed=1)[prior[0].label].shape[:2] == (5, V)
    assert fit.check().converged == bool(fit.converged.all())


def test_numbers_of_trials_go_with_the_rows():
    y = np.random.default_rng(0).binomial(TRIALS.astype(int)[:, None], 1 / (1 + np.exp(-ETA))).astype(float)
    fit = marglik.fit(LinearModel(Binomial(trials=TRIALS), FLAT + RIDGE, y))
    alone = marglik.fit(LinearModel(Binomial(trials=TRIALS), FLAT + RIDGE, y[:, 2]))
    np.testing.assert_allclose(fit.log_evidence[2], alone.log_evidence, rtol=1e-10)
    bad = y.copy()
    bad[3, 1] = TRIALS[3] + 1
    with pytest.raises(ValueError, match=r"whole numbers from 0 to the row's number of trials.*in row 3"):
        LinearModel(Binomial(trials=TRIALS), FLAT + RIDGE, bad)
    with pytest.raises(ValueError, match="numbers of trials for 70 rows"):
        LinearModel(Binomial(trials=TRIALS), Flat(np.ones(5)), y[:5])


def test_a_target_that_cannot_be_learned_costs_no_other():
    many = model(Poisson(), FLAT + RIDGE)
    y = many.rows.y.copy()
    y[:, 1] = 0
    with pytest.warns(UserWarning, match=r"Target 1 could not be learned.*all counts are zero"):
        fit = marglik.fit(LinearModel(Poisson(), FLAT + RIDGE, y))
    before = marglik.fit(many)
    np.testing.assert_allclose(fit.log_evidence, np.where([1, 0, 1], before.log_evidence, np.nan), rtol=1e-10)
    assert fit.converged.tolist() == [True, False, True]
    assert fit.hyperparameters.loc[1, "estimate"].isna().all()
    assert fit.hyperparameters["at_boundary"].dtype == bool
    np.testing.assert_array_equal(np.isnan(fit.predict()).all(axis=0), [False, True, False])
    assert any("Target 1" in note for note in fit.notes)
    assert "learning   laplace; one target could not be learned" in fit.summary()
    assert fit.check().verdict.endswith("Target 1 could not be learned; this is about the others.")
    assert "very different size" not in " ".join(fit.notes)
    assert "stopped short" not in fit.check().verdict
    with pytest.raises(ValueError, match="Target 1 could not be learned"):
        fit.target(1)
    with pytest.raises(ValueError, match="numbered from 0 to 2"):
        fit.target(3)
    with pytest.raises(ValueError, match="one target only"):
        before.target(0).target(0)
    with pytest.raises(ValueError, match="all counts are zero"):
        marglik.fit(LinearModel(Poisson(), FLAT + RIDGE, 0 * y))


def test_kept_and_copied(tmp_path):
    fit = marglik.fit(model(NegativeBinomial(), FLAT + RIDGE))
    fit.posterior.mean  # noqa: B018
    fit.save(tmp_path / "fit")
    for again in (marglik.load(tmp_path / "fit"), pickle.loads(pickle.dumps(fit))):
        np.testing.assert_allclose(again.log_evidence, fit.log_evidence, rtol=1e-12)
        np.testing.assert_allclose(again.predict(), fit.predict(), rtol=1e-9)
        pd.testing.assert_frame_equal(again.hyperparameters, fit.hyperparameters, rtol=1e-9)


def test_fixed_and_hyperpriors_hold_for_every_target():
    many = model(Poisson(), FLAT + Ridge(X, None, "sd(w)"))
    fit = marglik.fit(many, fixed={"sd(w)": 0.5})
    expected = [marglik.fit(many.target(v), fixed={"sd(w)": 0.5}).log_evidence for v in range(V)]
    np.testing.assert_allclose(fit.log_evidence, expected, rtol=1e-12)
    prior = {"sd(w)": lambda s: -50 * (s - 0.2) ** 2}
    fit = marglik.fit(many, hyperprior=prior)
    alone = marglik.fit(many.target(1), hyperprior=prior)
    np.testing.assert_allclose(fit.hyperparameters.loc[1, "estimate"], alone.hyperparameters["estimate"], rtol=1e-6)
