# SPDX-License-Identifier: BSD-3-Clause
"""From a density that can be drawn from to the joint density: a path of densities, evaluated for many weights at once.

log π_t(w) = log q(w) + t [log p(y, w|θ) − log q(w)],        0 ≤ t ≤ 1

q is the prior, a Gaussian, or half of each: the prior's half finds modes that the Gaussian does not know, the other
what is too narrow, or too deep in a funnel, to be found from the prior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.expansion import LinearExpansion
    from marglik.model import LinearModel
    from marglik.posterior.base import Gaussian

ENTRIES = 1 << 14
"""So many linear predictors are computed at a time: what lies in a processor's cache is done three times as fast."""


class Along(NamedTuple):
    """A path at weights, one a row: log q, log p(y, w|θ) − log q, and the gradient of log π_t."""

    reference: Float[Array, "N"]
    potential: Float[Array, "N"]
    slope: Float[Array, "N p"]


class Path(ABC):
    """From q, which is normalised, to the joint density."""

    @abstractmethod
    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Weights drawn from q."""

    @abstractmethod
    def at(self, W: Float[Array, "N p"], t: float) -> Along:
        """Densities at weights, one a row."""

    def slope(self, W: Float[Array, "N p"], t: float) -> Float[Array, "N p"]:
        """The gradient of log π_t alone."""
        return self.at(W, t).slope

    def leapfrog(
        self, W: Float[Array, "N p"], z: Float[Array, "N p"], slope: Float[Array, "N p"], leap: Leap
    ) -> tuple[Float[Array, "N p"], Float[Array, "N p"], Along]:
        """W and momenta z at the end of trajectories, and the path there; ``slope`` is its gradient at their start.

        z ← z + (ε/2) Cᵀ∇,    (W ← W + ε C z,    z ← z + ε Cᵀ∇) …,    the last of these with ε/2
        """
        t, step, half = leap.t, leap.step, leap.half
        z = z + step / 2 * (slope @ half)
        for left in reversed(range(leap.leaps)):
            W = W + step * (z @ half.T)
            if left:
                z = z + step * (self.slope(W, t) @ half)
        there = self.at(W, t)
        return W, z + step / 2 * (there.slope @ half), there


class Leap(NamedTuple):
    """How to move at t: a step ε for each row, C with the inverse mass matrix CCᵀ, and the number of steps."""

    t: float
    step: Float[Array, "N 1"]
    half: Float[Array, "p p"]
    leaps: int


class Reference(ABC):
    """A normalised density."""

    @abstractmethod
    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Weights, one a row."""

    @abstractmethod
    def __call__(self, W: Float[Array, "N p"]) -> tuple[Float[Array, "N"], Float[Array, "N p"]]:
        """Its logarithm and the gradient of that, for each row of W."""


@dataclass(frozen=True, eq=False)
class Normal(Reference):
    """N(mean, precision⁻¹)."""

    mean: Float[Array, "p"]
    precision: Arrow

    @cached_property
    def _dense(self) -> Float[Array, "p p"]:
        return self.precision.to_dense()

    def draws(self, n, rng):
        return self.mean + self.precision.solve_half(rng.standard_normal((len(self.mean), n))).T

    def __call__(self, W):
        away = W - self.mean
        back = away @ self._dense
        return (self.precision.log_det - len(self.mean) * LOG_2PI - np.sum(away * back, axis=1)) / 2, -back


@dataclass(frozen=True, eq=False)
class Halves(Reference):
    """½ q₁ + ½ q₂."""

    one: Reference
    other: Reference

    def draws(self, n, rng):
        return alternate(self.one.draws(n, rng), self.other.draws(n, rng), rng)

    def __call__(self, W):
        (a, a_slope), (b, b_slope) = self.one(W), self.other(W)
        log_q = np.logaddexp(a, b)
        share = np.exp(a - log_q)[:, None]
        return log_q - np.log(2), share * a_slope + (1 - share) * b_slope


def alternate(A: Float[Array, "n p"], B: Float[Array, "n p"], rng: np.random.Generator) -> Float[Array, "n p"]:
    """Rows of A and of B in turn, a coin deciding which comes first."""
    return np.where((np.arange(len(A)) + rng.integers(2))[:, None] % 2, A, B)


@dataclass(frozen=True, eq=False)
class LinearPath(Path):
    """To the joint density of a linear model."""

    start: Reference
    joint: LinearJoint

    def draws(self, n, rng):
        return self.start.draws(n, rng)

    def at(self, W, t):
        (reference, pull), (value, score) = self.start(W), self.joint(W)
        return Along(reference, value - reference, t * score + (1 - t) * pull)

    def slope(self, W, t):
        return t * self.joint.score(W) + (1 - t) * self.start(W)[1]


@dataclass(frozen=True, eq=False)
class LinearJoint:
    """log p(y, u|θ) of a linear model for many u at once; flat columns in their own units."""

    model: LinearModel
    theta: Float[Array, "k"]

    @cached_property
    def _design(self) -> Float[Array, "n p"]:
        """XL."""
        along = map(self._zero.predictor_of, np.eye(len(self._zero.u)))
        return np.column_stack([np.zeros((self.model.rows.n, 0)), *along])

    @cached_property
    def _zero(self) -> LinearExpansion:
        return self.model.at(np.zeros(self.model.n_weights), self.theta)

    @cached_property
    def _multiplier(self) -> Float[Array, "n"]:
        return np.broadcast_to(self.model.multiplier, self._zero.rows.y.shape)

    def _parts(self, U: Array) -> Iterator[tuple[slice, Float[Array, "N n"]]]:
        """η of some rows of U at a time."""
        size = max(1, ENTRIES // max(len(self._design), 1))
        for part in (slice(i, i + size) for i in range(0, len(U), size)):
            yield part, U[part] @ self._design.T + self._zero.rows.eta

    def _slope(self, eta: Float[Array, "N n"]) -> Float[Array, "N p"]:
        rows = self._zero.rows
        return (rows.likelihood.slope(rows.y, eta, rows.own) * self._multiplier) @ self._design

    def __call__(self, U: Float[Array, "N p"]) -> tuple[Float[Array, "N"], Float[Array, "N p"]]:
        """Its value and its gradient in u, for each row u of U."""
        rows, mask = self._zero.rows, self._zero.penalised
        value, score = np.empty(len(U)), -mask * U
        constant = rows.constant - mask.sum() * LOG_2PI / 2 - self.model.log_volume
        for part, eta in self._parts(U):
            kernel = rows.likelihood.log_kernel(rows.y, eta, rows.own) @ self._multiplier
            value[part] = constant + kernel - (U[part] ** 2 @ mask) / 2
            score[part] += self._slope(eta)
        return value, score

    def score(self, U: Float[Array, "N p"]) -> Float[Array, "N p"]:
        """The gradient alone."""
        score = -self._zero.penalised * U
        for part, eta in self._parts(U):
            score[part] += self._slope(eta)
        return score


def linear_path(model: LinearModel, theta: Float[Array, "k"], around: Gaussian | None, prior: bool) -> Path | None:
    """From a Gaussian, from the prior where that is proper, or from half of each."""
    p, starts = model.n_weights, []
    if prior and not model.columns.n_flat:
        starts.append(Normal(np.zeros(p), Arrow.dense(np.eye(p))))
    if around is not None:
        starts.append(Normal(around.mean, around.precision))
    if not starts:
        return None
    return LinearPath(Halves(*starts) if len(starts) == 2 else starts[0], LinearJoint(model, theta))
