# SPDX-License-Identifier: BSD-3-Clause
"""Smooth functions of covariates: bases, penalties, and what is flat in them, as mgcv has them.

Examples
--------
A smooth as prior terms: flat columns, and weights with one scale.

>>> import numpy as np
>>> import marglik
>>> from marglik.likelihoods import Gaussian
>>> from marglik.model import LinearModel
>>> from marglik.priors import Flat, Ridge
>>> from marglik.smooths import s
>>> rng = np.random.default_rng(0)
>>> data = {"x": np.sort(rng.uniform(size=100))}
>>> y = np.sin(6 * data["x"]) + rng.normal(0, 0.3, 100)
>>> (smooth,) = s(data, "x")
>>> X = smooth.design(data)
>>> flat = np.column_stack([np.ones(100), X @ smooth.null])
>>> prior = Flat(flat) + Ridge(X @ smooth.roots[0], hyperparameter=smooth.scales[0], label=smooth.label)
>>> marglik.fit(LinearModel(Gaussian(), prior, y)).hyperparameters["estimate"].round(2)
name
sd(s(x))     3.30
sd(noise)    0.29
Name: estimate, dtype: float64
"""

from marglik.smooths.base import SmoothBasis
from marglik.smooths.cubic import Cubic, Cyclic
from marglik.smooths.factor_smooth import FactorSmooth
from marglik.smooths.p_spline import PSpline
from marglik.smooths.random_effect import RandomEffect
from marglik.smooths.smooth import Smooth
from marglik.smooths.tensor import Tensor
from marglik.smooths.terms import s, te, ti
from marglik.smooths.thin_plate import ThinPlate

__all__ = [
    "Cubic",
    "Cyclic",
    "FactorSmooth",
    "PSpline",
    "RandomEffect",
    "Smooth",
    "SmoothBasis",
    "Tensor",
    "ThinPlate",
    "s",
    "te",
    "ti",
]
