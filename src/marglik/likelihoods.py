# SPDX-License-Identifier: BSD-3-Clause
"""p(y|η): how the response scatters around its linear predictor. A likelihood knows nothing of inference.

>>> from marglik import likelihoods
>>> sorted(likelihoods.Likelihood.registry)
['gaussian', 'poisson']
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy import exp, log
from scipy.special import gammaln

from marglik.hyperparameters import Hyperparameter, Positive

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Outcomes:
    """The values that a response may take: what they are called, and which of given values are none."""

    words: str
    integer: bool = False
    lower: float = -np.inf

    def violations(self, y: Float[Array, "n"]) -> Array:
        """True where a value is impossible."""
        outside = ~np.isfinite(y) | (y < self.lower)
        return outside | (y != np.floor(y)) if self.integer else outside


REAL_NUMBERS = Outcomes("finite numbers")
COUNTS = Outcomes("counts: whole numbers from 0", integer=True, lower=0)


class Likelihood(ABC):
    """The density of one observation given its linear predictor η.

    Concrete likelihoods are frozen dataclasses; defining one registers it under its name in snake case, from where
    tests, documentation and the command line take it.

    Attributes
    ----------
    outcomes
        The values that y may take.
    concave
        Whether log p(y|η) is concave in η for every θ, so that a posterior mode is unique.
    gaussian
        Whether log p(y|η) is quadratic in η, so that the evidence has a closed form. Weights are then precisions.
    link
        Name of the function from the mean to η.
    """

    registry: ClassVar[dict[str, type[Likelihood]]] = {}
    outcomes: ClassVar[Outcomes]
    concave: ClassVar[bool]
    gaussian: ClassVar[bool] = False
    link: ClassVar[str]

    def __init_subclass__(cls) -> None:
        Likelihood.registry[re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()] = cls

    @abstractmethod
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """Its own coordinates of θ, such as a noise scale."""

    @abstractmethod
    def log_density(self, y: Array, eta: Array, theta: Array) -> Array:
        """log p(y|η, θ), every constant kept."""

    @abstractmethod
    def derivatives(self, y: Array, eta: Array, theta: Array) -> tuple[Array, Array, Array]:
        """First three derivatives of `log_density` in η."""

    @abstractmethod
    def theta_derivatives(self, y: Array, eta: Array, theta: Array) -> list[tuple[Array, Array, Array]]:
        """For each of its hyperparameters, the derivative of `log_density` and of its first two η-derivatives."""

    @abstractmethod
    def mean(self, eta: Array, theta: Array) -> Array:
        """E[y|η, θ], the inverse link."""

    @abstractmethod
    def variance(self, eta: Array, theta: Array) -> Array:
        """var[y|η, θ]."""

    @abstractmethod
    def sample(self, eta: Array, theta: Array, rng: np.random.Generator) -> Array:
        """Draws of y."""

    @abstractmethod
    def start(self, y: Array) -> float:
        """A constant η from which Newton's method may set out."""

    @abstractmethod
    def start_theta(self, y: Array) -> tuple[float, ...]:
        """Values of its hyperparameters from which learning may set out."""


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Real numbers with additive noise.

        y_i ~ N(η_i, σ²),    σ = sd(noise)

    Quadratic in η, so the evidence has a closed form.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Gaussian
    >>> Gaussian().hyperparameters()[0].name
    'sd(noise)'
    >>> Gaussian().log_density(np.array([1.0]), np.array([0.0]), [2.0]).round(4)
    array([-1.7371])
    """

    outcomes = REAL_NUMBERS
    concave = True
    gaussian = True
    link = "identity"

    def hyperparameters(self):
        return (Hyperparameter("sd(noise)", Positive(), even=True),)

    def log_density(self, y, eta, theta):
        (sigma,) = theta
        return -LOG_2PI / 2 - log(sigma) - ((y - eta) / sigma) ** 2 / 2

    def derivatives(self, y, eta, theta):
        (sigma,) = theta
        return (y - eta) / sigma**2, np.full_like(eta, -1 / sigma**2), np.zeros_like(eta)

    def theta_derivatives(self, y, eta, theta):
        (sigma,) = theta
        r = (y - eta) / sigma
        return [((r**2 - 1) / sigma, -2 * r / sigma**2, np.full_like(eta, 2 / sigma**3))]

    def mean(self, eta, theta):
        return eta

    def variance(self, eta, theta):
        return np.full_like(eta, theta[0] ** 2)

    def sample(self, eta, theta, rng):
        return eta + theta[0] * rng.standard_normal(np.shape(eta))

    def start(self, y):
        return float(np.mean(y))

    def start_theta(self, y):
        return (float(np.std(y)),)


@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counts, with rate exp(η).

        y_i ~ Poisson(exp(η_i))

    Concave in η, so the posterior mode is unique. An exposure enters as ``offset(log(exposure))``.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.likelihoods import Poisson
    >>> Poisson().log_density(np.array([3.0]), np.log([2.0]), []).round(4)
    array([-1.7123])
    """

    outcomes = COUNTS
    concave = True
    link = "log"

    def hyperparameters(self):
        return ()

    def log_density(self, y, eta, theta):
        return y * eta - exp(eta) - gammaln(y + 1)

    def derivatives(self, y, eta, theta):
        rate = exp(eta)
        return y - rate, -rate, -rate

    def theta_derivatives(self, y, eta, theta):
        return []

    def mean(self, eta, theta):
        return exp(eta)

    def variance(self, eta, theta):
        return exp(eta)

    def sample(self, eta, theta, rng):
        return rng.poisson(exp(eta)).astype(float)

    def start(self, y):
        return float(log(np.mean(y) + 0.5 / len(y)))

    def start_theta(self, y):
        return ()
