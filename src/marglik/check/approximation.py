# SPDX-License-Identifier: BSD-3-Clause
"""How far an evidence is from the integral, and how far θ̂ would move if it were not.

    gap = log p(y|θ̂) as the method has it − log p(y|θ̂) by importance sampling

The slope of the second in φ is E[∂ log p(y, w|θ)/∂φ | y] (Fisher's identity), over the same draws. One Newton step
along the slope of the gap,

    shift = H⁻¹ ∂gap/∂φ,    H = ∂² log p(y|θ)/∂φ² as the method has it,

over the standard errors of φ, says what the error of the approximation does to the estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from marglik.check.consistency import in_own_names
from marglik.evidence import annealed
from marglik.evidence.clouds import Estimate
from marglik.evidence.groups import GroupsWeighed
from marglik.evidence.importance import LEAST, TRUSTED, Border, Importance, weighed
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence import Evidence
    from marglik.learn import Found
    from marglik.model import Model
    from marglik.posterior.base import Gaussian

GOOD, USABLE = 0.05, 0.5
"""Gaps in nats below which an approximation is good, and usable."""
MOST, LEAST_BORDER, MOST_BORDER, EACH = 4096, 32, 1024, 64
"""Draws of each integral, draws of the border, and of each level for every one of these."""
WORK = 6e6
"""Densities of rows that a full check computes, about; a quick one a fourth of them."""
OVERHEAD = 3000
"""What a draw of the border costs beside rows, in densities of rows."""
UNKNOWN = 0.25
"""Standard error, in nats, from which on the draws do not tell the gap."""
MOST_WEIGHTS, MOST_ENTRIES = 30, 20_000
"""Where draws do not tell, annealing is a second opinion unasked for so many weights, and rows times weights."""
PARTICLES = 512
"""Weights in each of its clouds."""
LISTED = 5
"""Levels that are named."""


@dataclass(frozen=True)
class Approximation:
    """What importance sampling says of the evidence, or annealing, where that does not tell.

    Attributes
    ----------
    log_value, std_error
        log p(y|θ̂) by importance sampling or by annealing, in nats, and its standard error.
    gap
        By how much the method's value is higher, in nats.
    k_hat
        Tail of the weights (Vehtari et al. 2024), the worst of all levels; above 0.7 they do not tell the gap.
    draws
        Draws of each integral.
    by_level
        Whether every level of a grouping factor was integrated by itself.
    known
        Whether the draws, or annealing, tell the gap.
    levels
        The levels where Laplace's method is furthest off: level → nats that it is too high there.
    shift
        Name → how far the estimate would move, to first order, in its standard errors; empty where it was not asked
        for, or the draws do not tell.
    annealed
        Whether the value is by annealing.
    """

    log_value: float
    std_error: float
    gap: float
    k_hat: float
    draws: int
    by_level: bool
    known: bool
    levels: Mapping[str, float] = field(default_factory=dict)
    shift: Mapping[str, float] = field(default_factory=dict)
    annealed: bool = False

    @property
    def word(self) -> str:
        """``good``, ``usable``, ``bad`` or ``unknown``."""
        if not self.known:
            return "unknown"
        size = abs(self.gap)
        return "good" if size < GOOD else "usable" if size < USABLE else "bad"


def approximation(
    model: Model,
    optimum: Found,
    evidence: Evidence,
    draws: int | None,
    seed: int,
    quick: bool = False,
    anneal: bool | None = None,
) -> Approximation | None:
    """The estimate for one target; None where a quick one would take too long, or nothing is integrated out.

    ``evidence`` is the method's, at θ̂. ``anneal`` asks for a second opinion, or forbids it; else it is had where draws
    do not tell and the model is small.
    """
    theta = np.asarray(optimum.theta[0], float)
    near = model.compact(theta)
    linear = near if isinstance(near, LinearModel) else None
    if not near.n_weights or (quick and linear is None) or Importance().unsuited(near) is not None:
        return None
    enough = 1
    while True:
        most = enough * MOST
        n, border = (most, None) if linear is None else _sizes(linear, enough * WORK / (4 if quick else 1), most)
        if n < LEAST / 4 and quick:
            return None
        n = max(n, LEAST) if draws is None else 1 << (draws - 1).bit_length()
        here, posterior, trouble = weighed(Importance(n, seed), near, theta, optimum.warm, border)
        if here is None or posterior is None or trouble is not None:
            return None
        found = here.estimate
        if known(found) or quick or draws is not None or enough > 1:
            break
        enough = 4
    told, second = known(found), None
    free, shift = np.flatnonzero(optimum.free[0]), {}
    if not quick and told and len(free):
        gap = here.gradient - evidence.gradient[0]
        shift = _shift(model, optimum, free, (gap * model.hyperparameters.derivatives(theta)[0])[free])
    if anneal or (anneal is None and not (told or quick) and _small(near)):
        second = _annealed(near, theta, posterior, seed)
    log_value, error = (found if second is None else second)[:2]
    return Approximation(
        log_value,
        error,
        float(np.asarray(evidence.log_value).reshape(-1)[0]) - log_value,
        found.k_hat,
        n,
        found.groups is not None,
        told or second is not None,
        _worst(linear, posterior.mean, here) if linear and isinstance(here, GroupsWeighed) and not quick else {},
        shift,
        second is not None,
    )


def _small(model: Model) -> bool:
    """Whether annealing takes a few seconds."""
    rows = model.rows.n if isinstance(model, LinearModel) else 1
    return model.n_weights <= MOST_WEIGHTS and rows * model.n_weights <= MOST_ENTRIES


def _annealed(model: Model, theta: Float[Array, "k"], posterior: Gaussian, seed: int) -> annealed.Estimate | None:
    """By annealing; None where that cannot be had, or says little."""
    if annealed.Annealed().unsuited(model) is not None:
        return None
    try:
        found = annealed.estimate(model, theta, posterior, seed, particles=PARTICLES)
    except ValueError:
        return None
    return found if found.std_error < UNKNOWN else None


def known(found: Estimate) -> bool:
    """Whether the draws tell the value."""
    return found.k_hat <= TRUSTED and found.std_error < UNKNOWN and bool(np.isfinite(found.log_value))


def _sizes(model: LinearModel, work: float, most: int) -> tuple[int, Border | None]:
    """Draws of each integral, and of the border, for the work that is allowed."""
    rows = model.rows.n
    if not model.groupings:
        return _power(work / (rows * (1 + model.n_weights // 10)), most), None
    return _power(work / rows, most), Border(
        EACH, max(_power(work / (rows * EACH + OVERHEAD), MOST_BORDER), LEAST_BORDER)
    )


def _power(n: float, most: int) -> int:
    """The largest power of two that is no more than either."""
    return 1 << int(np.log2(max(min(n, most), 1)))


def _shift(model: Model, optimum: Found, free: Array, slope: Array) -> dict[str, float]:
    """Name → Newton's step along a slope in φ, in standard errors, for the free hyperparameters."""
    H = -optimum.hessian[0][np.ix_(free, free)]
    try:
        cov = np.linalg.inv(np.linalg.cholesky(H))
    except np.linalg.LinAlgError:
        return {}
    cov = cov.T @ cov
    if not np.isfinite(slope).all():
        return {}
    labels, J = in_own_names(model, free)
    moved = J @ cov @ slope / np.sqrt(np.einsum("ij,jk,ik->i", J, cov, J))
    return dict(zip(labels, map(float, moved), strict=True))


def _worst(model: LinearModel, w: Float[Array, "p"], here: GroupsWeighed) -> dict[str, float]:
    """The levels of the largest gaps."""
    names = max((term.levels for term in model.groupings[0].terms), key=len)
    gaps, (_, present) = here.cloud.gaps(here.theta, model.columns.split(w)[1]), here.cloud.densities.present
    order = np.argsort(-np.abs(gaps), kind="stable")[:LISTED]
    return {str(names[present[g]]): float(gaps[g]) for g in order}
