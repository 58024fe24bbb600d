# SPDX-License-Identifier: BSD-3-Clause
"""θ̂ where the evidence is estimated from draws: stages in which the draws are held, each about the mode at its start.

Within a stage the estimate is a smooth function of θ with an exact gradient, so `learn.maximise` applies as it is. A
trial θ at which too few draws count is as good as −∞, which keeps steps short. The next stage draws anew where the last
one ended, from the same random numbers, and the stages end when that gains next to nothing.
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


def climbed(objective: Objective, start: Found) -> Optimum:
    """θ̂ by a method that draws, from the θ̂ of one that does not; what that has at a limit stays there."""
    theta, steps = start.theta, 0
    trace: list[Array] = []
    for _ in range(MOST_STAGES):
        found = learn.maximise(objective, theta, start.free)
        theta, steps = found.theta, steps + found.n_iterations
        trace.extend(found.trace)
        if found.converged.all() and found.value[0] - found.trace[0][0] < GAIN:
            break
    else:
        found = replace(found, converged=np.zeros_like(found.converged))
    return replace(found, limit=found.limit | start.limit, n_iterations=steps, trace=trace, warm=None)
