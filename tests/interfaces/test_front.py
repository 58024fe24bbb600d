# SPDX-License-Identifier: BSD-3-Clause
"""The one verb: what it tells while it learns."""

import numpy as np
import pytest

import marglik
from marglik.likelihoods import Gaussian
from marglik.model import LinearModel
from marglik.priors import Ridge

RNG = np.random.default_rng(4)
G = np.repeat(list("abcdefgh"), 5)
COUNTS = {"y": RNG.poisson(np.exp(0.3 + RNG.standard_normal(8)[np.arange(40) // 5])), "g": G}


@pytest.mark.parametrize("method", ["laplace", "quadrature", "variational"])
def test_whoever_listens_hears_every_evaluation_and_the_last_is_the_answer(method):
    heard = []
    told = lambda *step: heard.append(step)  # noqa: E731
    fit = marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", method=method, progress=told)
    assert [evaluations for evaluations, _ in heard] == list(range(1, len(heard) + 1))
    assert len(heard) > 1
    np.testing.assert_allclose(max(value for _, value in heard), fit.log_evidence, rtol=0, atol=1e-6)
    assert fit.log_evidence == marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", method=method).log_evidence


def test_targets_one_by_one_are_all_heard():
    heard = []
    X = RNG.standard_normal((30, 3))
    Y = X @ RNG.standard_normal((3, 2)) + RNG.standard_normal((30, 2))
    model = LinearModel(Gaussian(), Ridge(X, groups=[0, 0, 1], scales=["sd(a)", "sd(b)"]), Y)
    fit = marglik.fit(model, method="laplace", progress=lambda *step: heard.append(step))
    last = [value for _, value in heard]
    for value in fit.log_evidence:
        assert np.abs(np.array(last) - value).min() < 1e-6


def test_after_the_fit_nobody_listens():
    heard = []
    marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", progress=lambda *step: heard.append(step))
    before = len(heard)
    marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson")
    assert len(heard) == before


def test_a_listener_that_raises_ends_the_fit():
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", progress=stop)


def test_a_line_in_the_terminal_leaves_nothing_elsewhere(capsys):
    marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", progress=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("progress", ["bar", 1, 0.5])
def test_what_is_no_listener(progress):
    with pytest.raises(ValueError, match="progress must be True, for a line in the terminal, or a function"):
        marglik.fit("y ~ 1 + (1 | g)", COUNTS, family="poisson", progress=progress)
