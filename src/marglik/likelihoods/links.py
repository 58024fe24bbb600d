# SPDX-License-Identifier: BSD-3-Clause
"""Links of a probability: k successes in n trials, each with probability p(η), to all digits in both tails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy import exp, expm1, log, log1p
from scipy.special import erfcx, expit, log_ndtr, logit, ndtr, ndtri

from marglik.likelihoods.special import horner

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    Numbers = Array | float
    Derivatives = tuple[Array, Array, Array]


class ProbabilityLink(ABC):
    """η ↦ p, and ℓ(η) = k log p + (n − k) log(1 − p)."""

    @abstractmethod
    def probability(self, eta: Array) -> Array:
        """p(η)."""

    @abstractmethod
    def predictor(self, p: Array) -> Array:
        """η(p)."""

    @abstractmethod
    def log_density(self, k: Array, n: Numbers, eta: Array) -> Array:
        """ℓ(η)."""

    @abstractmethod
    def derivatives(self, k: Array, n: Numbers, eta: Array) -> Derivatives:
        """ℓ′, ℓ″, ℓ‴."""

    def slope(self, k: Array, n: Numbers, eta: Array) -> Array:
        """ℓ′, to the rounding of n."""
        return self.derivatives(k, n, eta)[0]

    @abstractmethod
    def information(self, eta: Array) -> Array:
        """p′² / p(1 − p), what one trial is expected to say about η."""


class Logit(ProbabilityLink):
    """p = 1 / (1 + e^−η)."""

    def probability(self, eta):
        return expit(eta)

    def predictor(self, p):
        return logit(p)

    def log_density(self, k, n, eta):
        return k * np.minimum(eta, 0) - (n - k) * np.maximum(eta, 0) - n * log1p(exp(-np.abs(eta)))

    def derivatives(self, k, n, eta):
        p, q = self.both(eta)
        second = -n * p * q
        return k * q - (n - k) * p, second, second * (q - p)

    def slope(self, k, n, eta):
        with np.errstate(over="ignore"):
            return k - n / (1 + exp(-eta))

    def information(self, eta):
        p, q = self.both(eta)
        return p * q

    def both(self, eta: Float[Array, "..."]) -> tuple[Array, Array]:
        """p and 1 − p."""
        e = exp(-np.abs(eta))
        large = 1 / (1 + e)
        small = e * large
        positive = eta > 0
        return np.where(positive, large, small), np.where(positive, small, large)

    def log_both(self, eta: Float[Array, "..."]) -> tuple[Array, Array]:
        """Their logarithms."""
        log_larger = -log1p(exp(-np.abs(eta)))
        return log_larger + np.minimum(eta, 0), log_larger - np.maximum(eta, 0)


class Probit(ProbabilityLink):
    """p = Φ(η). With λ = φ/Φ, the inverse Mills ratio, and κ = λ + t,

    (log Φ)′ = λ(t),    (log Φ)″ = −λκ,    (log Φ)‴ = λ (κ (λ + κ) − 1)
    """

    def probability(self, eta):
        return ndtr(eta)

    def predictor(self, p):
        return ndtri(p)

    def log_density(self, k, n, eta):
        return sum(count * log_ndtr(sign * eta) for count, sign in self._sides(k, n))

    def derivatives(self, k, n, eta):
        total = np.zeros((3, *np.broadcast_shapes(np.shape(k), np.shape(n), np.shape(eta))))
        for count, sign in self._sides(k, n):
            first, second, third = log_ndtr_derivatives(sign * eta)
            total += count * sign * first, count * second, count * sign * third
        return total[0], total[1], total[2]

    def information(self, eta):
        return mills(eta) * mills(-eta)

    @staticmethod
    def _sides(k: Array, n: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
        """1 − Φ(η) = Φ(−η). A single trial has only one of the two sides."""
        if np.ndim(n) == 0 and n == 1:
            yield 1.0, 2 * k - 1
        else:
            yield k, 1.0
            yield n - k, -1.0


TAIL, TERMS = -6.0, 16
"""From here on to −∞ so many terms of the continued fraction of Mills' ratio have all digits."""


def mills(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """λ(t) = φ(t) / Φ(t)."""
    return np.sqrt(2 / np.pi) / erfcx(-t / np.sqrt(2))


def log_ndtr_derivatives(t: Float[Array, "..."]) -> Derivatives:
    """The first three derivatives of log Φ. As t → −∞ all but the first would cancel, so there, with x = −t,

    λ = x + K₁,    κ = K₁,    κ (λ + κ) − 1 = K₁² K₂ (K₃ − K₂),    K_j = j / (x + K_{j+1})
    """
    first = mills(t)
    excess = first + t
    factor = excess * (first + excess) - 1
    if np.any(t < TAIL):
        x = np.maximum(-t, -TAIL)
        K = [(np.sqrt(x**2 + 4 * (TERMS + 1)) - x) / 2]  # where K_j = K_{j+1}, nearly, for what is left out
        for j in range(TERMS, 0, -1):
            K.append(j / (x + K[-1]))
        K3, K2, K1 = K[-3:]
        excess = np.where(t < TAIL, K1, excess)
        factor = np.where(t < TAIL, K1**2 * K2 * (K3 - K2), factor)
    return first, -first * excess, first * factor


class Cloglog(ProbabilityLink):
    """p = 1 − exp(−m) with m = e^η. With r = m / (e^m − 1) and u = 1 − m − r,

    (log p)′ = r,    (log p)″ = r u,    (log p)‴ = r (u (u − r) − m)
    """

    def probability(self, eta):
        return -expm1(-exp(eta))

    def predictor(self, p):
        return log(-log1p(-p))

    def log_density(self, k, n, eta):
        m = exp(eta)
        with np.errstate(divide="ignore"):
            log_p = np.where(m < log(2), log(-expm1(-m)), log1p(-exp(-m)))
        return k * log_p - (n - k) * m

    def derivatives(self, k, n, eta):
        m = exp(eta)
        r = self._ratio(m)
        small = np.minimum(m, 0.125)
        series = -small / 2 - small**2 * horner(small**2, [1 / 12, -1 / 720, 1 / 30240, -1 / 1209600])
        u = np.where(m < 0.125, series, 1 - m - r)
        failures = (n - k) * m
        return k * r - failures, k * r * u - failures, k * r * (u * (u - r) - m) - failures

    def information(self, eta):
        m = exp(eta)
        return m * self._ratio(m)

    @staticmethod
    def _ratio(m: Float[Array, "..."]) -> Float[Array, "..."]:
        """m / (e^m − 1)."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(m > 0, m / expm1(m), 1.0)


LINKS: Mapping[str, ProbabilityLink] = MappingProxyType({"logit": Logit(), "probit": Probit(), "cloglog": Cloglog()})
