# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling of all weights at once, for models without a grouping factor and for programs.

    p(y|θ) ≈ (1/N) Σ_i p(y, w_i|θ) / q(w_i)

q is a mixture of Student's t about each mode that is found, of one three times as wide where there are few weights, and
of the prior p(w|θ) where it is proper: then no weight exceeds a few times the largest likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, ndtri

from marglik.check.draws import COPIES, Estimate, estimate, even, log_student, student
from marglik.evidence.laplace import Newton
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, NotPositiveDefinite
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import Model

STARTS = 12
"""Points from which further modes are searched for."""
FEW = 6
"""Up to so many weights a wide proposal is of use."""
LOWER = 20.0
"""A mode whose integral is lower by more nats adds nothing."""


class Mode(NamedTuple):
    """A mode, its negative Hessian, and Laplace's log integral about it."""

    w: Float[Array, "p"]
    H: Arrow
    log_value: float


def modes(model: Model, theta: Float[Array, "k"], first: Mode, draws: Sequence[Array]) -> list[Mode]:
    """The given mode, and others that are reached from draws of the prior and of the posterior, and from −ŵ."""
    found = [first]
    for start in draws:
        with np.errstate(all="ignore"):
            point, w, trouble = Newton(max_steps=60)(model, theta, start)
        if trouble is not None:
            continue
        try:
            log_value = point.log_joint + (len(w) * LOG_2PI - point.neg_hessian.log_det) / 2
        except NotPositiveDefinite:
            continue
        same = any((w - m.w) @ m.H.matvec(w - m.w) < 1e-4 for m in found)
        if not same and log_value > first.log_value - LOWER:
            found.append(Mode(w, point.neg_hessian, log_value))
    return found


@dataclass(frozen=True, eq=False)
class Prior:
    """p(w|θ̂) as a proposal: its draws by copy, and its log density."""

    draws: Float[Array, "c n p"]
    log_density: Callable[[Array], Array]


@dataclass(frozen=True, eq=False)
class Joint:
    """The estimate at θ̂ and near it, from draws that stay.

    Parameters
    ----------
    log_joints
        (W, θ) → log p(y, w|θ) for each row of W.
    draws : (c, n, p)
    log_q : (c, n)
    """

    log_joints: Callable[[Array, Array], Array]
    theta: Float[Array, "k"]
    draws: Float[Array, "c n p"]
    log_q: Float[Array, "c n"]
    modes: Sequence[Mode]

    @classmethod
    def about(cls, model: Model, theta: Float[Array, "k"], w: Float[Array, "p"], H: Arrow, n: int, seed: int) -> Joint:
        """With about n draws."""
        rng, each = np.random.default_rng(seed), max(n // (8 * COPIES), 1)
        p = len(w)
        log_joints, prior = _densities(model, theta, 2 * each * COPIES, rng)
        first = Mode(w, H, float(log_joints(w[None], theta)[0]) + (p * LOG_2PI - H.log_det) / 2)
        starts = [-w] if prior is None else [-w, *prior.draws.reshape(-1, p)[:: max(len(w), 7)][: STARTS // 2]]
        starts += list(w + 2 * H.solve_half(rng.standard_normal((p, STARTS // 2))).T)
        found = modes(model, theta, first, starts)
        weights = np.exp([m.log_value - max(m.log_value for m in found) for m in found])
        shares = np.maximum(weights / weights.sum(), 0.5 / len(found))
        width = [(m, s, 1.0) for m, s in zip(found, shares / shares.sum(), strict=True)]
        if p <= FEW:
            width = [(m, 0.75 * s, 1.0) for m, s, _ in width] + [(m, 0.25 * s, 3.0) for m, s, _ in width]
        df = 4.0 + p
        parts, counts = [], [max(round(6 * each * s), 1) for _, s, _ in width]
        for (m, _, wide), count in zip(width, counts, strict=True):
            x = student(count, p, df, rng).reshape(-1, p)
            parts.append((m.w + wide * m.H.solve_half(np.ascontiguousarray(x.T)).T).reshape(COPIES, count, p))
        if prior is not None:
            parts.append(prior.draws)
            counts.append(prior.draws.shape[1])
        draws = np.concatenate(parts, axis=1)
        flat = draws.reshape(-1, p)
        log_q = []
        for (m, _, wide), count in zip(width, counts, strict=False):
            away = (flat - m.w) / wide
            square = np.einsum("np,np->n", away, np.array([m.H.matvec(a) for a in away]))
            log_q.append(np.log(count) + log_student(square, p, df) + m.H.log_det / 2 - p * np.log(wide))
        if prior is not None:
            log_q.append(np.log(counts[-1]) + prior.log_density(flat))
        q = logsumexp(np.array(log_q), axis=0) - np.log(sum(counts))
        return cls(log_joints, theta, draws, q.reshape(COPIES, -1), found)

    def _log_weights(self, theta: Float[Array, "k"]) -> Float[Array, "c n"]:
        c, n, p = self.draws.shape
        with np.errstate(all="ignore"):
            found = self.log_joints(self.draws.reshape(-1, p), theta).reshape(c, n)
        return np.where(np.isnan(found), -np.inf, found) - self.log_q

    @cached_property
    def log_weights(self) -> Float[Array, "c n"]:
        """log p(y, w|θ̂) − log q(w)."""
        return self._log_weights(self.theta)

    def estimate(self) -> Estimate:
        """log p(y|θ̂)."""
        return estimate(self.log_weights)

    def at(self, theta: Float[Array, "k"]) -> float:
        """The estimate at another θ, all draws held."""
        weights = self._log_weights(theta)
        return float(logsumexp(weights) - np.log(weights.size))


def _densities(
    model: Any, theta: Float[Array, "k"], n: int, rng: np.random.Generator
) -> tuple[Callable[[Array, Array], Array], Prior | None]:
    """The log joint density of many weights, and the prior where it can be drawn from."""
    if isinstance(model, LinearModel):
        volume = model.log_volume

        def log_joints(W: Array, theta: Array) -> Array:
            return np.array([model.at(w, theta).log_joint for w in W]) - volume

        p = model.n_weights
        if model.columns.n_flat or not p:
            return log_joints, None
        return log_joints, Prior(
            ndtri(even(n // COPIES, p, rng)), lambda W: -np.sum(W**2, axis=1) / 2 - p * LOG_2PI / 2
        )
    try:
        draws = model.prior_draws(theta, n, int(rng.integers(2**31)))
    except ValueError:
        return model.log_joints, None
    density = lambda W: model.log_joints(W, theta) - model.log_likelihoods(W, theta)  # noqa: E731
    if not np.isfinite(density(draws[:4])).all():
        return model.log_joints, None
    return model.log_joints, Prior(draws.reshape(COPIES, n // COPIES, -1), density)
