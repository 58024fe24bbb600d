# SPDX-License-Identifier: BSD-3-Clause
"""How far an evidence is from the integral, and how far θ̂ would move if it were not.

    gap = log p(y|θ̂) as the method has it − log p(y|θ̂) by importance sampling

The slope of the second in φ is E[∂ log p(y, w|θ)/∂φ | y] (Fisher's identity), here by central differences with all
draws held. One Newton step along the slope of the gap,

    shift = H⁻¹ ∂gap/∂φ,    H = ∂² log p(y|θ)/∂φ² as the method has it,

over the standard errors of φ, says what the error of the approximation does to the estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from marglik.check.consistency import in_own_names
from marglik.check.joint import Joint
from marglik.check.levels import FEW, ByLevel
from marglik.evidence.base import first_weights
from marglik.evidence.laplace import Newton
from marglik.linalg import NotPositiveDefinite
from marglik.model import LinearModel

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence import Evidence
    from marglik.hyperparameters import Hyperparameters
    from marglik.learn import Found
    from marglik.model import Model

GOOD, USABLE = 0.05, 0.5
"""Gaps in nats below which an approximation is good, and usable."""
FEWEST, MOST = 256, 4096
"""Draws of each integral."""
WORK = 3e7
"""Densities of rows that a full check computes, about; a quick one a twentieth of them."""
OVERHEAD = 3000
"""What a draw of the border costs beside rows, in densities of rows."""
LISTED = 5
"""Levels that are named."""
STEP = 1e-3
"""Of φ, for differences; their error is of its square."""


@dataclass(frozen=True)
class Approximation:
    """What importance sampling says of the evidence.

    Attributes
    ----------
    log_value, std_error
        log p(y|θ̂) by importance sampling, in nats, and its standard error.
    gap
        By how much the method's value is higher, in nats.
    k_hat
        Tail of the weights (Vehtari et al. 2024), the worst of all levels; above 0.7 the gap is not known.
    draws
        Draws of each integral.
    by_level
        Whether every level of a grouping factor was integrated by itself.
    known
        Whether the draws tell the gap.
    levels
        The levels where Laplace's method is furthest off: level → nats that it is too high there.
    shift
        Name → how far the estimate would move, to first order, in its standard errors; empty where it was not asked
        for, or not known.
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

    @property
    def word(self) -> str:
        """``good``, ``usable``, ``bad`` or ``unknown``."""
        if not self.known:
            return "unknown"
        size = abs(self.gap)
        return "good" if size < GOOD else "usable" if size < USABLE else "bad"


def approximation(
    model: Model, optimum: Found, evidence: Evidence, draws: int | None, seed: int, quick: bool = False
) -> Approximation | None:
    """The estimate for one target; None where a quick one would take too long, or nothing is integrated out.

    ``evidence`` is the method's, at θ̂.
    """
    theta = np.asarray(optimum.theta[0], float)
    near = model.compact(theta)
    linear = isinstance(near, LinearModel)
    if not near.n_weights or (quick and not linear):
        return None
    free = np.flatnonzero(optimum.free[0])
    mode, w, trouble = Newton()(near, theta, first_weights(near, theta, optimum.warm))
    if trouble is not None:
        return None
    grouped = isinstance(near, LinearModel) and bool(near.groupings)
    rows = _cost(near, grouped) if isinstance(near, LinearModel) else 1
    found: ByLevel | Joint
    for enough in (1, 4):
        n = draws or _number(rows, len(free), quick, enough)
        if not n:
            return None
        try:
            if grouped:
                outside = draws or _number(rows * FEW + OVERHEAD, len(free), quick, enough, 16, 1024)
                found = ByLevel.about(mode, w, max(n, FEWEST), outside, seed)  # type: ignore[arg-type]
            else:
                found = Joint.about(near, theta, w, mode.neg_hessian, n, seed)
            estimated = found.estimate()
        except NotPositiveDefinite:
            return None
        if estimated.known or quick or draws is not None:
            break
    shift: dict[str, float] = {}
    if not quick and estimated.known and len(free):
        point = (lambda t: near.at(w, t)) if grouped else (lambda t: t)
        slope = evidence.gradient[0] * model.hyperparameters.derivatives(theta)[0]
        shift = _shift(model, optimum, free, slope[free], lambda t: found.at(point(t)))  # type: ignore[arg-type]
    return Approximation(
        estimated.log_value,
        estimated.std_error,
        float(np.asarray(evidence.log_value).reshape(-1)[0]) - estimated.log_value,
        estimated.k_hat,
        n,
        grouped,
        estimated.known,
        _worst(found) if isinstance(found, ByLevel) and not quick else {},
        shift,
    )


def _cost(model: LinearModel, grouped: bool) -> int:
    """What one draw costs, in densities of rows."""
    return model.rows.n if grouped else model.rows.n * (1 + model.n_weights // 10) + 500


def _number(cost: int, free: int, quick: bool, enough: int, least: int = FEWEST, most: int = MOST) -> int:
    """Draws for the work that is allowed; 0 for quick ones where even few would take too long."""
    n = enough * WORK / (20 if quick else 1 + 2 * free) / cost
    return 0 if quick and n < least / 4 else int(np.clip(n, least, enough * most))


def _shift(model: Model, optimum: Found, free: Array, own: Array, value: Callable[[Array], float]) -> dict[str, float]:
    """Name → Newton's step in standard errors for the free hyperparameters; ``own`` is the method's slope."""
    names, phi = model.hyperparameters, model.hyperparameters.unconstrain(optimum.theta)[0]
    H = -optimum.hessian[0][np.ix_(free, free)]
    try:
        cov = np.linalg.inv(np.linalg.cholesky(H))
    except np.linalg.LinAlgError:
        return {}
    cov = cov.T @ cov
    slope = np.empty(len(free))
    for place, i in enumerate(free):
        step = np.zeros(len(phi))
        step[i] = STEP
        up, down = value(_moved(names, optimum, phi + step, i)), value(_moved(names, optimum, phi - step, i))
        slope[place] = (up - down) / (2 * STEP)
    if not np.isfinite(slope).all():
        return {}
    labels, J = in_own_names(model, free)
    moved = J @ cov @ (slope - own) / np.sqrt(np.einsum("ij,jk,ik->i", J, cov, J))
    return dict(zip(labels, map(float, moved), strict=True))


def _moved(names: Hyperparameters, optimum: Found, phi: Float[Array, "k"], i: int) -> Float[Array, "k"]:
    """θ̂ with one coordinate moved."""
    theta = np.array(optimum.theta[0], float)
    theta[i] = names.constrain(phi)[i]
    return theta


def _worst(found: ByLevel) -> dict[str, float]:
    """The levels of the largest gaps."""
    at, gaps = found.levels, found.gaps
    terms = at.model.groupings[0].terms
    names = max((term.levels for term in terms), key=len)
    order = np.argsort(-np.abs(gaps), kind="stable")[:LISTED]
    return {str(names[at.present[g]]): float(gaps[g]) for g in order}
