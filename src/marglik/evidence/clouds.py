# SPDX-License-Identifier: BSD-3-Clause
"""Draws that are held while θ moves: the estimate of the evidence that they give, and how it moves.

    log p̂(θ) = log (1/N) Σ_i exp r_i,    r_i = log p(y, w_i|θ) − log q(w_i)
    ∂ log p̂/∂θ = Σ_i ω_i ∂ log p(y, w_i|θ)/∂θ,    ω_i = exp r_i / Σ_j exp r_j

With w_i and q held the second line is the derivative of the first to all digits (Fisher's identity). N draws come in R
independent runs, each with an estimate Ẑ_r of its own:

    se(log p̂) = sd(Ẑ_r) / (√R p̂)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp

from marglik import pareto
from marglik.evidence.base import Evidence

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence.densities import Densities
    from marglik.posterior.base import Gaussian

SPENT = 0.3
"""Draws whose effective number falls below this share of what it was where they were drawn are not held any longer."""
LOST = "Too few of the draws have any weight left here."
ROUNDING = 1e-14
"""Of a log density: no estimate is known better."""


class Groups(NamedTuple):
    """Estimates of the levels' integrals at the mode of all else; a level without rows has an integral of 1."""

    log_value: Float[Array, "q"]
    std_error: Float[Array, "q"]
    k_hat: Float[Array, "q"]


class Estimate(NamedTuple):
    """log p(y|θ) by importance sampling.

    ``k_hat`` is the Pareto shape of the weights' tail, the worst of all; above 0.7 neither number can be trusted.
    ``groups`` are the levels of the grouping factor, where it was worked through level by level.
    """

    log_value: float
    std_error: float
    k_hat: float
    groups: Groups | None = None


class Weighed(ABC):
    """A cloud at one θ."""

    cloud: Cloud

    @property
    @abstractmethod
    def log_value(self) -> float:
        """log p̂."""

    @property
    @abstractmethod
    def gradient(self) -> Float[Array, "k"]:
        """∂ log p̂/∂θ, draws held."""

    @property
    @abstractmethod
    def share(self) -> float:
        """Effective sample size, as a share of the draws."""

    @property
    @abstractmethod
    def estimate(self) -> Estimate:
        """Smoothed, with its standard error."""


class Cloud(ABC):
    """Draws, and the densities that they were drawn from."""

    @abstractmethod
    def at(self, theta: Float[Array, "k"]) -> Weighed:
        """Weighed for this θ."""


@dataclass(frozen=True, eq=False)
class Held:
    """A Gaussian, and what was drawn about it: a method that is given it as the start weights these same draws anew.

    ``share`` is that of the draws where they were drawn.
    """

    gaussian: Gaussian
    cloud: Cloud
    share: float

    @property
    def mean(self) -> Float[Array, "p"]:
        """The mode."""
        return self.gaussian.mean

    def near(self, theta: Float[Array, "k"]) -> Float[Array, "p"]:
        """The mode at a θ nearby."""
        return self.gaussian.near(theta)

    def evidence(self, theta: Float[Array, "k"]) -> Evidence:
        """By these draws; none where too few of them still count."""
        here = self.cloud.at(theta)
        if not here.share > SPENT * self.share:
            return Evidence(-np.inf, np.full(len(theta), np.nan), posterior=self, checks={"mode": LOST})
        return Evidence(here.log_value, lambda: here.gradient, posterior=self)


def effective(log_weights: Float[Array, "*q n"]) -> Float[Array, "*q"]:
    """(Σω)² / (n Σω²)."""
    return np.exp(2 * logsumexp(log_weights, axis=-1) - logsumexp(2 * log_weights, axis=-1)) / log_weights.shape[-1]


def scatter(log_weights: Float[Array, "*q R n"]) -> Float[Array, "*q"]:
    """sd(Ẑ_r) / (√R p̂) over the runs."""
    each = logsumexp(log_weights, axis=-1)
    Z = np.exp(each - logsumexp(each, axis=-1, keepdims=True))
    return Z.std(axis=-1, ddof=1) * np.sqrt(Z.shape[-1])


@dataclass(frozen=True, eq=False)
class Joint(Cloud):
    """Draws of all weights at once.

    Parameters
    ----------
    densities
        The model at the draws.
    log_q : (R, n)
        log q(w_i), run by run.
    log_volume
        Of the model's coordinates.
    """

    densities: Densities
    log_q: Float[Array, "R n"]
    log_volume: float

    def at(self, theta):
        return JointWeighed(self, np.asarray(theta, float))


@dataclass(frozen=True, eq=False)
class JointWeighed(Weighed):
    """Draws of all weights at one θ."""

    cloud: Joint
    theta: Float[Array, "k"]

    @cached_property
    def log_weights(self) -> Float[Array, "R n"]:
        """r_i; −∞ where a density is zero or NaN."""
        joint = self.cloud.densities.log_joints(self.theta).reshape(self.cloud.log_q.shape)
        r = joint - self.cloud.log_q
        return np.where(np.isnan(r), -np.inf, r)

    @property
    def log_value(self):
        r = self.log_weights
        return float(logsumexp(r) - np.log(r.size)) - self.cloud.log_volume

    @cached_property
    def weights(self) -> Float[Array, "R n"]:
        """ω_i."""
        return np.exp(self.log_weights - logsumexp(self.log_weights))

    @cached_property
    def gradient(self):
        return self.cloud.densities.slope(self.theta, self.weights.reshape(-1))

    @property
    def share(self):
        return float(effective(self.log_weights.reshape(-1)))

    @cached_property
    def estimate(self):
        r = self.log_weights.reshape(-1)
        log_value = float(logsumexp(pareto.smoothed(r)) - np.log(len(r))) - self.cloud.log_volume
        error = float(np.hypot(scatter(self.log_weights), ROUNDING * abs(log_value)))
        return Estimate(log_value, error, float(pareto.shape(r)))
