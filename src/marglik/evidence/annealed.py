# SPDX-License-Identifier: BSD-3-Clause
"""Annealed evidence: tempered sequential Monte Carlo from the prior and a Gaussian to the joint density."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from marglik.evidence import tempering
from marglik.evidence.base import Evidence, EvidenceMethod
from marglik.evidence.laplace import Laplace
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import Model

PARTICLES, RUNS = 1024, 8
FEWEST_PARTICLES, FEWEST_RUNS = 64, 8
WIDER = 1.5
"""Standard deviations of a Gaussian reference, in those of the posterior that it is taken from."""
MOST_WEIGHTS = 500
VAGUE = 0.5
"""A standard error, in nats, from which on it says little itself: by the delta method it cannot exceed 1."""


class Estimate(NamedTuple):
    """log Ẑ, its standard error, and the logarithms of the independent estimates whose mean Ẑ is."""

    log_value: float
    std_error: float
    log_values: Float[Array, "runs"]


def estimate(
    model: Model,
    theta: Float[Array, "k"],
    posterior: Gaussian | None = None,
    seed: int = 0,
    *,
    particles: int = PARTICLES,
    runs: int = RUNS,
    from_prior: bool = True,
) -> Estimate:
    """log p(y|θ) by annealing, at one θ.

        log p̂ = log (1/R) Σ_r Ẑ_r        se(log p̂) ≈ sd(Ẑ_r) / (√R p̂)

    Parameters
    ----------
    model, theta
        The integrand.
    posterior
        Laplace's, in the model's coordinates: widened, it is where annealing starts if not from the prior.
    seed, particles, runs
        Of the random numbers; weights in a cloud, of which the two clouds that plan have half; independent clouds.
    from_prior
        Whether to start from the prior where it is proper, which finds modes that ``posterior`` does not know. A first
        cloud goes all the way, and the clouds that estimate set out from a Gaussian with its moments, widened, by
        halves with the prior. Else, and where weights are flat, they set out from ``posterior``, widened.

    Raises
    ------
    ValueError
        Too few runs or particles, several targets, flat weights without ``posterior``, a cloud that did not reach the
        joint density.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Exact, annealed
    >>> from marglik.likelihoods import Gaussian
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import Ridge
    >>> x = np.linspace(-1, 1, 9)
    >>> model, theta = LinearModel(Gaussian(), Ridge(x), 2 * x + x**2), np.array([1.5, 0.4])
    >>> found = annealed.estimate(model, theta)
    >>> bool(abs(found.log_value - Exact()(model, theta[None]).log_value[0]) < 4 * found.std_error < 0.1)
    True
    """
    if not runs >= FEWEST_RUNS:
        raise ValueError(
            f"runs={runs!r} independent runs are too few for a standard error. Ask for {FEWEST_RUNS} or more."
        )
    if not particles >= FEWEST_PARTICLES:
        raise ValueError(f"particles={particles!r} are too few to adapt to. Ask for {FEWEST_PARTICLES} or more.")
    if model.n_targets > 1:
        raise ValueError(f"Annealing {Annealed().unsuited(model)}.")
    theta = np.asarray(theta, float)
    first = model.path(theta) if from_prior else None
    if first is None and posterior is None:
        raise ValueError(
            "Annealing cannot start from the prior, since some weights have a flat one or it was not asked for, so "
            "it needs a Gaussian. Give posterior=Laplace()(model, theta).posterior."
        )
    scouting, adapting, estimating = np.random.default_rng(seed).spawn(3)
    few = max(particles // 2, FEWEST_PARTICLES)  # enough to plan with
    try:
        near = tempering.around(tempering.plan(first, few, scouting)[1]) if first is not None else posterior
        assert near is not None
        path = model.path(theta, replace(near, precision=near.precision.times(WIDER**-2)), first is not None)
        if path is None:
            raise ValueError("This model has no joint density of many weights at once. Use method='laplace'.")
        stages, _ = tempering.plan(path, few, adapting)
    except tempering.Stuck as error:
        raise ValueError(
            f"The annealed runs did not reach the joint density. {error} Try method='laplace', or a prior nearer to "
            "the posterior."
        ) from None
    log_values = tempering.follow(path, stages, particles, runs, estimating)
    top = log_values.max()
    if not np.isfinite(top):
        raise ValueError(
            "The annealed runs did not reach the joint density: all clouds lost it. Ask for more particles."
        )
    r = np.exp(log_values - top)
    return Estimate(float(top + np.log(r.mean())), float(r.std(ddof=1) / (np.sqrt(runs) * r.mean())), log_values)


@dataclass(frozen=True)
class Annealed(EvidenceMethod):
    """Tempered sequential Monte Carlo to the posterior, with a standard error.

        log p(y|θ) ≈ log (1/R) Σ_r Ẑ_r,    Ẑ = Π_s (1/N) Σ_i [p(y, w_i|θ)/q(w_i)]^(t_s − t_{s−1})

    A first cloud sets out from the prior. Half of q is the prior, the other half a Gaussian with the moments of where
    that cloud arrived, widened; or, where some weights are flat, q is Laplace's posterior, widened. The Ẑ_r of R clouds
    that know nothing of each other have the expectation p(y|θ). θ is learned by Laplace's method; its error bars and
    the posterior of the weights are Laplace's too, as is ``gradient``.

    References
    ----------
    Neal (2001), Statistics and Computing 11, 125. Del Moral, Doucet & Jasra (2006), JRSS B 68, 411.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Annealed, Quadrature
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import RandomEffects
    >>> pupils = RandomEffects([0, 0, 0, 1, 1, 1], ["a", "b"], group="pupil")
    >>> model = LinearModel(Bernoulli(), pupils, np.array([1, 1, 1, 0, 1, 0]))
    >>> e = Annealed()(model, np.array([2.0]))
    >>> bool(abs(e.log_value - Quadrature(25)(model, np.array([2.0])).log_value) < 4 * e.std_error < 0.1)
    True
    """

    particles: int = PARTICLES
    runs: int = RUNS
    seed: int = 0
    from_prior: bool = True
    modal: ClassVar[bool] = False

    @property
    def learner(self):
        return Laplace()

    def seeded(self, seed):
        return replace(self, seed=seed)

    def __call__(self, model, theta, start=None):
        by_laplace = Laplace()(model, theta, start)
        settings: Any = {"particles": self.particles, "runs": self.runs, "from_prior": self.from_prior}
        found = estimate(model, theta, by_laplace.posterior, self.seed, **settings)
        checks = dict(by_laplace.checks)
        if found.std_error > VAGUE:
            checks["annealed"] = (
                f"The annealed runs differ so much that their standard error, {found.std_error:.2g} nats, says little. "
                "Ask estimate() for more particles."
            )
        return Evidence(
            found.log_value, lambda: by_laplace.gradient, None, found.std_error, by_laplace.posterior, checks
        )

    def posterior(self, model, theta, start=None):
        return self.learner.posterior(model, theta, start)

    def unsuited(self, model):
        if model.n_targets > 1:
            return f"takes one target at a time, and this model has {model.n_targets}; fit each by itself"
        if model.working.n_weights > MOST_WEIGHTS:
            return f"moves clouds of all weights, and {model.working.n_weights} are more than the {MOST_WEIGHTS} it can"
        return None

    def assessed(self, model, theta, start=None):
        found = self(model, theta, start)
        gap = Laplace()(model, theta, start).log_value - found.log_value
        way = "higher" if gap > 0 else "lower"
        return (
            f"its evidence has a standard error of {found.std_error:.2g} nats; Laplace's approximation, by which the "
            f"hyperparameters were learned, is {abs(gap):.2g} nats {way}"
        )
