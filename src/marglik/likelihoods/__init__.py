# SPDX-License-Identifier: BSD-3-Clause
"""p(y|η): how the response scatters around its linear predictor. A likelihood knows nothing of inference.

>>> from marglik import likelihoods
>>> sorted(likelihoods.Likelihood.registry)
['bernoulli', 'beta', 'binomial', 'gamma', 'gaussian', 'negative_binomial', 'poisson', 'student_t']
"""

from marglik.likelihoods.base import (
    BINARY,
    COUNTS,
    POSITIVE_NUMBERS,
    PROPORTIONS,
    REAL_NUMBERS,
    Likelihood,
    Outcomes,
)
from marglik.likelihoods.binary import Bernoulli, Binomial
from marglik.likelihoods.counts import NegativeBinomial, Poisson
from marglik.likelihoods.positive import Gamma
from marglik.likelihoods.proportions import Beta
from marglik.likelihoods.real import Gaussian, StudentT
from marglik.likelihoods.special import LOG_2PI

__all__ = [
    "BINARY",
    "COUNTS",
    "LOG_2PI",
    "POSITIVE_NUMBERS",
    "PROPORTIONS",
    "REAL_NUMBERS",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Gamma",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Outcomes",
    "Poisson",
    "StudentT",
]
