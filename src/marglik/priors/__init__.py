# SPDX-License-Identifier: BSD-3-Clause
"""p(w|θ): the prior of a linear model's weights, term by term."""

from __future__ import annotations

from marglik.priors.base import Prior, Term
from marglik.priors.dense import Flat, Gaussian, Ridge
from marglik.priors.effects import RandomEffects
from marglik.priors.field import ReceptiveField
from marglik.priors.process import GaussianProcess
from marglik.priors.smooth import Smooth

__all__ = ["Flat", "Gaussian", "GaussianProcess", "Prior", "RandomEffects", "ReceptiveField", "Ridge", "Smooth", "Term"]
