# SPDX-License-Identifier: BSD-3-Clause
"""From a density that can be drawn from to the joint density: a path of densities, evaluated for many weights at once.

log π_t(w) = log q(w) + t [log p(y, w|θ) − log q(w)],        0 ≤ t ≤ 1
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
    from marglik.posterior import Gaussian

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


class Joint(ABC):
    """log p(y, w|θ) for many w at once."""

    @abstractmethod
    def __call__(self, W: Float[Array, "N p"]) -> tuple[Float[Array, "N"], Float[Array, "N p"]]:
        """Its value and its gradient in w, for each row w of W."""

    def score(self, W: Float[Array, "N p"]) -> Float[Array, "N p"]:
        """The gradient alone."""
        return self(W)[1]


@dataclass(frozen=True, eq=False)
class GaussianPath(Path):
    """From q = N(mean, precision⁻¹)."""

    joint: Joint
    mean: Float[Array, "p"]
    precision: Arrow

    @cached_property
    def _dense(self) -> Float[Array, "p p"]:
        return self.precision.to_dense()

    def draws(self, n, rng):
        return self.mean + self.precision.solve_half(rng.standard_normal((len(self.mean), n))).T

    def at(self, W, t):
        away = W - self.mean
        back = away @ self._dense
        reference = (self.precision.log_det - len(self.mean) * LOG_2PI - np.sum(away * back, axis=1)) / 2
        value, score = self.joint(W)
        return Along(reference, value - reference, t * score - (1 - t) * back)

    def slope(self, W, t):
        return t * self.joint.score(W) - (1 - t) * (W - self.mean) @ self._dense


@dataclass(frozen=True, eq=False)
class LinearJoint(Joint):
    """log p(y, u|θ) of a linear model; flat columns in their own units."""

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

    def __call__(self, U):
        rows, mask = self._zero.rows, self._zero.penalised
        value, score = np.empty(len(U)), -mask * U
        constant = rows.constant - mask.sum() * LOG_2PI / 2 - self.model.log_volume
        for part, eta in self._parts(U):
            kernel = rows.likelihood.log_kernel(rows.y, eta, rows.own) @ self._multiplier
            value[part] = constant + kernel - (U[part] ** 2 @ mask) / 2
            score[part] += self._slope(eta)
        return value, score

    def score(self, W):
        score = -self._zero.penalised * W
        for part, eta in self._parts(W):
            score[part] += self._slope(eta)
        return score


def linear_path(model: LinearModel, theta: Float[Array, "k"], around: Gaussian | None) -> Path | None:
    """From a Gaussian, or from the prior where that is proper."""
    joint = LinearJoint(model, theta)
    if around is not None:
        return GaussianPath(joint, around.mean, around.precision)
    p = model.n_weights
    return None if model.columns.n_flat else GaussianPath(joint, np.zeros(p), Arrow.dense(np.eye(p)))
