# SPDX-License-Identifier: BSD-3-Clause
"""Where a hyperparameter may lie, and how it maps to the real line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray as Array


class Support(ABC):
    """Where a hyperparameter may lie, and how it maps to the real line."""

    lower: float
    upper: float

    @abstractmethod
    def to_unconstrained(self, theta: Array) -> Array:
        """φ(θ)."""

    @abstractmethod
    def from_unconstrained(self, phi: Array) -> Array:
        """θ(φ)."""

    @abstractmethod
    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        """First and second derivative of θ in φ, at θ."""


@dataclass(frozen=True)
class Real(Support):
    """The real line, in units of a natural size: φ = θ/unit."""

    unit: float = 1.0
    lower = -np.inf
    upper = np.inf

    def to_unconstrained(self, theta: Array) -> Array:
        return np.asarray(theta, float) / self.unit

    def from_unconstrained(self, phi: Array) -> Array:
        return np.asarray(phi, float) * self.unit

    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        return np.full_like(theta, self.unit), np.zeros_like(theta)


@dataclass(frozen=True)
class Positive(Support):
    """Greater than zero, or zero itself as a limit, in units of a natural size: φ = log θ/unit."""

    unit: float = 1.0
    lower = 0.0
    upper = np.inf

    def to_unconstrained(self, theta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(theta, float) / self.unit)

    def from_unconstrained(self, phi: Array) -> Array:
        return self.unit * np.exp(phi)

    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        return theta, theta


@dataclass(frozen=True)
class Interval(Support):
    """Between two finite ends: φ = log (θ − lower)/(upper − θ)."""

    lower: float
    upper: float

    def to_unconstrained(self, theta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(theta - self.lower) - np.log(self.upper - theta)

    def from_unconstrained(self, phi: Array) -> Array:
        return self.lower + (self.upper - self.lower) / (1 + np.exp(-phi))

    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        p = (theta - self.lower) / (self.upper - self.lower)
        slope = (self.upper - self.lower) * p * (1 - p)
        return slope, slope * (1 - 2 * p)


@dataclass(frozen=True)
class HalfLine(Support):
    """Beyond a finite end, upwards or downwards: φ = log |θ − end|."""

    end: float
    up: bool = True

    @property
    def lower(self) -> float:  # type: ignore[override]
        return self.end if self.up else -np.inf

    @property
    def upper(self) -> float:  # type: ignore[override]
        return np.inf if self.up else self.end

    def to_unconstrained(self, theta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(np.abs(np.asarray(theta, float) - self.end))

    def from_unconstrained(self, phi: Array) -> Array:
        return self.end + np.exp(phi) if self.up else self.end - np.exp(phi)

    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        return theta - self.end, theta - self.end
