# SPDX-License-Identifier: BSD-3-Clause
"""From a density that can be drawn from to the joint density: a path of densities, evaluated for many weights at once.

log π_t(w) = log q(w) + t [log p(y, w|θ) − log q(w)],        0 ≤ t ≤ 1
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel
    from marglik.posterior import Gaussian

ENTRIES = 1 << 17
"""So many linear predictors are computed at a time."""


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


@dataclass(frozen=True, eq=False)
class GaussianPath(Path):
    """From q = N(mean, precision⁻¹); ``joint`` gives log p(y, w|θ) and its gradient for each row."""

    joint: Callable[[Float[Array, "N p"]], tuple[Float[Array, "N"], Float[Array, "N p"]]]
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


@dataclass(frozen=True, eq=False)
class LinearJoint:
    """log p(y, u|θ) of a linear model, and its gradient, for many u at once; flat columns in their own units."""

    model: LinearModel
    theta: Float[Array, "k"]

    @cached_property
    def _design(self) -> Float[Array, "n p"]:
        """XL."""
        zero = self.model.at(np.zeros(self.model.n_weights), self.theta)
        return np.column_stack([np.zeros((self.model.rows.n, 0)), *map(zero.predictor_of, np.eye(len(zero.u)))])

    def __call__(self, U: Float[Array, "N p"]) -> tuple[Float[Array, "N"], Float[Array, "N p"]]:
        zero = self.model.at(np.zeros(self.model.n_weights), self.theta)
        rows, mask, D = zero.rows, zero.penalised, self._design
        value, score = np.empty(len(U)), -mask * U
        constant = rows.constant - mask.sum() * LOG_2PI / 2 - self.model.log_volume
        size = max(1, ENTRIES // max(len(D), 1))
        for part in (slice(i, i + size) for i in range(0, len(U), size)):
            eta = U[part] @ D.T + rows.eta
            kernel = rows.likelihood.log_kernel(rows.y, eta, rows.own) * self.model.multiplier
            slope = rows.likelihood.derivatives(rows.y, eta, rows.own)[0] * self.model.multiplier
            value[part] = constant + kernel.sum(axis=1) - (U[part] ** 2 @ mask) / 2
            score[part] += slope @ D
        return value, score


def linear_path(model: LinearModel, theta: Float[Array, "k"], around: Gaussian | None) -> Path | None:
    """From a Gaussian, or from the prior where that is proper."""
    joint = LinearJoint(model, theta)
    if around is not None:
        return GaussianPath(joint, around.mean, around.precision)
    p = model.n_weights
    return None if model.columns.n_flat else GaussianPath(joint, np.zeros(p), Arrow.dense(np.eye(p)))
