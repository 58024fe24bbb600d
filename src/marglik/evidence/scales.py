# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of several scales over dense columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.evidence.base import Evidence
from marglik.likelihoods import LOG_2PI

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.gram import Solver
    from marglik.model import LinearModel


class Local(NamedTuple):
    """Value, slope and curvature in the variances."""

    value: Float[Array, "V"]
    slope: Float[Array, "V k"]
    curvature: Float[Array, "V k k"]


def expand(at: Solver, targets: slice | Array, c: Float[Array, "V"] | float = 1.0) -> Local:
    """At c times the solver's variances, one c a target."""
    m = at.moments(targets)
    t, T = at.traces
    c = np.broadcast_to(c, m.quadratic.shape)
    n = at.data.n_free
    value = -(n * (LOG_2PI + np.log(c)) + at.log_det + m.quadratic / c) / 2
    slope = (m.first / c[:, None] - t) / (2 * c[:, None])
    curvature = (T / 2 - m.second / c[:, None, None]) / c[:, None, None] ** 2
    return Local(value, slope, curvature)


def evidence(model: LinearModel, theta: Float[Array, "V k"]) -> Evidence:
    data = model.reduced
    rows, which = np.unique(theta, axis=0, return_inverse=True)
    V, k = theta.shape
    value, gradient, hessian = np.empty(V), np.empty((V, k)), np.empty((V, k, k))
    for i, row in enumerate(rows):
        targets = np.flatnonzero(which == i)
        local = expand(data.at(row**2), targets)
        value[targets] = local.value
        gradient[targets] = 2 * row * local.slope
        hessian[targets] = 4 * row * row[:, None] * local.curvature
        hessian[targets[:, None], range(k), range(k)] += 2 * local.slope
    return Evidence(value, gradient, hessian)
