# SPDX-License-Identifier: BSD-3-Clause
"""The search for the maximum of Laplace's evidence, against learning's own and against published fits."""

import numpy as np
import pytest

from marglik import learn
from marglik.evidence import Laplace
from marglik.evidence.scoring import interior_maximum
from marglik.fitting import fit_model
from marglik.likelihoods import Bernoulli, Likelihood, Poisson
from marglik.model import LinearModel
from marglik.priors import Flat, RandomEffects, Ridge
from marglik.rows import InMemory

rng = np.random.default_rng(6)
N = 600
X = rng.standard_normal((N, 12))
CODES, OTHERS = np.arange(N) % 30, rng.integers(0, 12, N)
FLAT = Flat(np.column_stack([np.ones(N), X[:, 0]]), ["Intercept", "x"])
ONE = RandomEffects(CODES, range(30), group="g")
SLOPES = RandomEffects(CODES, range(30), np.column_stack([np.ones(N), X[:, 1]]), ("Intercept", "z"), group="g")
CROSSED = RandomEffects(OTHERS, range(12), group="h")
PRIORS = {
    "one factor": FLAT + ONE,
    "crossed": FLAT + ONE + CROSSED,
    "slopes": FLAT + SLOPES,
    "ridge": FLAT + Ridge(X[:, 2:]),
    "all": FLAT + SLOPES + CROSSED + Ridge(X[:, 2:], groups=[0] * 5 + [1] * 5),
}


def model(structure, likelihood, reml=True):
    draw = np.random.default_rng(11)
    eta = 0.3 + 0.4 * X[:, 0] + X[:, 2:] @ (0.25 * draw.standard_normal(10))
    eta += (0.7 * draw.standard_normal(30))[CODES] + (0.6 * draw.standard_normal(12))[OTHERS]
    eta += (0.5 * draw.standard_normal(30))[CODES] * X[:, 1]
    own = [2.0 for _ in likelihood.hyperparameters()]
    rows = InMemory(likelihood.sample(eta, own, draw))
    return LinearModel(likelihood, PRIORS[structure], rows, reml=reml)


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("structure", PRIORS)
@pytest.mark.parametrize("name", ["bernoulli", "gamma", "negative_binomial", "poisson"])
def test_the_maximum_is_that_of_learning(structure, name, reml):
    m = model(structure, Likelihood.registry[name](), reml)
    m = m if reml else m.with_flat_in_theta()
    theta = np.ones(len(m.hyperparameters))
    free = np.ones(len(theta), bool)
    found = interior_maximum(Laplace(), m, theta, free)
    assert found is not None
    objective = learn.Objective(Laplace(), m)
    located = learn.Located(objective, found.theta, free, warm=found.start)
    assert located.converged.all()
    learned = learn.maximise(objective, found.theta * 1.3 + 0.1, free[None])
    np.testing.assert_allclose(found.theta, learned.theta, rtol=2e-5, atol=2e-6)
    assert located.value[0] > learned.value[0] - 1e-9 * abs(learned.value[0])


def test_what_is_held_stays():
    m = model("crossed", Poisson())
    found = interior_maximum(Laplace(), m, np.array([0.5, 1.0]), np.array([False, True]))
    assert found.theta[0, 0] == 0.5
    fit = fit_model(m, fixed={"sd(Intercept | g)": 0.5})
    np.testing.assert_allclose(fit.hyperparameters["estimate"].to_numpy(), found.theta[0], rtol=1e-9)


def test_few_points_are_enough():
    """Each is one search for the mode."""
    calls = []

    class Counted:
        def __call__(self, *arguments):
            calls.append(arguments)
            return Laplace()(*arguments)

    for structure in ("one factor", "crossed", "ridge"):
        calls.clear()
        m = model(structure, Bernoulli())
        assert (
            interior_maximum(Counted(), m, np.ones(len(m.hyperparameters)), np.array([True] * len(m.hyperparameters)))
            is not None
        )
        assert len(calls) <= 8


def test_a_scale_at_zero_is_left_to_learning():
    m = model("one factor", Poisson())
    noise = np.random.default_rng(0).binomial(4, 0.5, N).astype(float)
    none = LinearModel(Poisson(), m.prior, InMemory(noise))
    assert interior_maximum(Laplace(), none, np.ones(1), np.ones(1, bool)) is None
    fit = fit_model(none)
    assert fit.hyperparameters["estimate"].iloc[0] == 0
    assert fit.hyperparameters["at_boundary"].iloc[0]
