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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from marglik import pareto
from marglik.evidence.base import Evidence
from marglik.likelihoods import LOG_2PI
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import Model
    from marglik.posterior import Gaussian

ENTRIES = 1 << 17
"""So many linear predictors are computed at a time."""
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


class Densities(ABC):
    """A model at draws of its weights that are held, one a row."""

    @abstractmethod
    def log_joints(self, theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y, w_i|θ)."""

    @abstractmethod
    def slope(self, theta: Float[Array, "k"], weights: Float[Array, "N"]) -> Float[Array, "k"]:
        """Σ_i ω_i ∂ log p(y, w_i|θ)/∂θ."""


@dataclass(frozen=True, eq=False)
class ModelDensities(Densities):
    """Of a model that answers for many weights itself."""

    model: Any
    W: Float[Array, "N p"]

    def log_joints(self, theta):
        return self.model.log_joints(self.W, theta)

    def slope(self, theta, weights):
        held = weights > 0  # what has no weight may have no slope either
        return self.model.theta_slope(self.W[held], theta, weights[held])


@dataclass(frozen=True, eq=False)
class LinearDensities(Densities):
    """Of a linear model, with all its columns side by side."""

    model: LinearModel
    W: Float[Array, "N p"]

    @cached_property
    def _columns(self) -> Float[Array, "n p"]:
        c, n = self.model.columns, self.model.rows.n
        return np.column_stack([np.zeros((n, 0)), *(c.times(e, slice(0, n)) for e in np.eye(self.W.shape[1]))])

    @cached_property
    def _prior(self) -> Float[Array, "N"]:
        """log N(u_i) of the weights that are not flat."""
        mask = self.model.at(np.zeros(self.W.shape[1]), self._anywhere).penalised
        return -(self.W**2 @ mask + mask.sum() * LOG_2PI) / 2

    @property
    def _anywhere(self) -> Float[Array, "k"]:
        return np.ones(len(self.model.hyperparameters))

    def _parts(self, eta: Float[Array, "n"], L: Array, T: Any) -> Iterator[tuple[slice, Float[Array, "N n"]]]:
        """η of some draws at a time."""
        size = max(1, ENTRIES // max(len(eta), 1))
        for part in (slice(i, i + size) for i in range(0, len(self.W), size)):
            top, bottom = self.model.columns.split(self.W[part])
            w = np.concatenate([(top @ L.T).reshape(len(top), -1), T.right(bottom, True)], axis=1)
            yield part, eta + w @ self._columns.T

    def log_joints(self, theta):
        at = self.model.at(np.zeros(self.W.shape[1]), theta)
        rows, out = at.rows, np.empty(len(self.W))
        multiplier = np.broadcast_to(self.model.multiplier, rows.y.shape)
        with np.errstate(all="ignore"):
            for part, eta in self._parts(rows.eta, *factors(self.model, theta)):
                out[part] = rows.likelihood.log_kernel(rows.y, eta, rows.own) @ multiplier
        return out + rows.constant + self._prior

    def slope(self, theta, weights):
        model, at = self.model, self.model.at(np.zeros(self.W.shape[1]), theta)
        rows, (L, T) = at.rows, factors(model, theta)
        multiplier = np.broadcast_to(model.multiplier, rows.y.shape)
        L_bar, diagonal = np.zeros_like(L), None
        by_row, own = np.zeros(len(rows.y)), weights.sum() * rows.constant_slopes
        for part, eta in self._parts(rows.eta, L, T):
            c = weights[part, None] * multiplier
            d1 = c * rows.likelihood.derivatives(rows.y, eta, rows.own)[0]
            c, d1 = (np.where(weights[part, None] > 0, x, 0.0) for x in (c, d1))
            (a_top, a_bottom), (u_top, u_bottom) = (model.columns.split(x) for x in (d1 @ self._columns, self.W[part]))
            L_bar += np.einsum("Nqi,Nqj->ij", a_top, u_top)
            bar = T.on_pattern((a_bottom, u_bottom))
            diagonal = bar if diagonal is None else added(diagonal, bar)
            by_row += d1.sum(axis=0)
            each = rows.likelihood.theta_derivatives(rows.y, eta, rows.own)
            own = own + np.array([np.sum(np.where(c > 0, c * d, 0.0)) for d, _, _ in each])
        return assembled(model, theta, L_bar, diagonal, own, by_row)


def factors(model: LinearModel, theta: Float[Array, "k"]) -> tuple[Float[Array, "m m"], Any]:
    """L of a level's block, and that of the border."""
    return model.factors(theta, lambda term, own: term.factor(own), flat=1.0)


def added(a: Any, b: Any) -> Any:
    """The sum of two derivatives in a border's factor."""
    runs = tuple((place, x + y) for (place, x), (_, y) in zip(a.runs, b.runs, strict=True))
    return type(a)(a.diagonal + b.diagonal, runs)


def assembled(
    model: LinearModel, theta: Array, L_bar: Array, T_bar: Any, own: Array, by_row: Float[Array, "n"]
) -> Float[Array, "k"]:
    """A derivative in θ from those in the factors, in the likelihood's own θ, and in η of each row."""
    parts = model.parts_of(L_bar if model.groupings else np.zeros((1, 1)), T_bar)
    out = [term.factor_vjp(x, parts[id(term)]) for term, x in model.term_theta(theta) if not term.flat]
    return np.concatenate([*out, own, *([model.flat_basis.Q.T @ by_row] if model.flat_in_theta else [])])


def densities(model: Model, W: Float[Array, "N p"]) -> Densities:
    """The model at these weights."""
    kind: Callable[..., Densities] = LinearDensities if isinstance(model, LinearModel) else ModelDensities
    return kind(model, W)
