# SPDX-License-Identifier: BSD-3-Clause
"""θ̂ where the evidence is estimated from draws: stages in which the draws are held, each about the mode at its start.

Within a stage the estimate is a smooth function of θ with an exact gradient, so `learn.maximise` applies as it is. A
trial θ at which too few draws count is as good as −∞, which keeps steps short. The next stage draws anew where the last
one ended, from the same random numbers. The stages end when that gains next to nothing; or when it gains no less than
half of what it gained before, and less than the standard error of a sound estimate: proposals that are fitted to draws
do not move smoothly with θ, so that stages may go round in circles, as wide as the draws leave θ̂ unknown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from marglik import learn

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.learn import Found, Objective, Optimum

MOST_STAGES = 12
GAIN = 1e-5
"""Nats that drawing anew may still gain: θ̂ then moves by less than half a percent of its standard error."""
FAINT = 0.05
"""Nats that may be left to the draws, where these are all that moves θ̂: a third of its standard error."""


def climbed(objective: Objective, start: Found) -> Optimum:
    """θ̂ by a method that draws, from the θ̂ of one that does not; what that has at a limit stays there."""
    theta, steps, before = start.theta, 0, np.inf
    trace: list[Array] = []
    for _ in range(MOST_STAGES):
        found, drawn_at = learn.maximise(objective, theta, start.free), theta
        theta, steps = found.theta, steps + found.n_iterations
        trace.extend(found.trace)
        gain = found.value[0] - found.trace[0][0]
        if found.converged.all() and (gain < GAIN or _circling(objective, drawn_at, gain, before)):
            break
        before = gain
    else:
        found = replace(found, converged=np.zeros_like(found.converged))
    return replace(found, limit=found.limit | start.limit, n_iterations=steps, trace=trace, warm=None)


def _circling(objective: Objective, theta: Array, gain: float, before: float) -> bool:
    """Whether gains no longer shrink, and are too small for the draws that are made here to tell, all else well."""
    if not before / 2 < gain < FAINT:
        return False
    here = objective.evidence(theta)
    return not here.checks and gain < here.std_error
