# SPDX-License-Identifier: BSD-3-Clause
"""θ: names, supports, and the transform to an unconstrained vector φ."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
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
    """The real line: φ = θ."""

    lower = -np.inf
    upper = np.inf

    def to_unconstrained(self, theta: Array) -> Array:
        return np.asarray(theta, float)

    def from_unconstrained(self, phi: Array) -> Array:
        return np.asarray(phi, float)

    def derivatives(self, theta: Array) -> tuple[Array, Array]:
        return np.ones_like(theta), np.zeros_like(theta)


@dataclass(frozen=True)
class Positive(Support):
    """Greater than zero, or zero itself as a limit: φ = log θ."""

    lower = 0.0
    upper = np.inf

    def to_unconstrained(self, theta: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(theta)

    def from_unconstrained(self, phi: Array) -> Array:
        return np.exp(phi)

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
class Hyperparameter:
    """One coordinate of θ.

    Parameters
    ----------
    name
        As users see it, such as ``sd(Intercept | Subject)``.
    support
        Where it may lie.
    even
        True for a standard deviation that enters the evidence only through its square, in a model that can be
        evaluated at zero: then zero is an ordinary point, stationary always, and the slope in the *variance*
        decides whether it is a maximum.
    fixed_effect
        True for a fixed effect that is maximised along with θ (``reml=False`` outside the Gaussian).
    """

    name: str
    support: Support = Positive()
    even: bool = False
    fixed_effect: bool = False


class UnknownName(KeyError):
    """A hyperparameter was asked for by a name that the model does not have."""

    def __init__(self, name: str, names: Iterable[str]):
        names = list(names)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        self.sentence = f"No hyperparameter is called {name!r}. {hint}The names are {', '.join(map(repr, names))}."
        super().__init__(self.sentence)

    def __str__(self) -> str:
        return self.sentence


class Hyperparameters(tuple[Hyperparameter, ...]):
    """The coordinates of θ in order; vectors of them have the last axis of length ``len(self)``."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(h.name for h in self)

    def index(self, name: str, *_: object) -> int:
        """Position of a name; raises `UnknownName` with the nearest names."""
        if name not in self.names:
            raise UnknownName(name, (h.name for h in self if not h.fixed_effect))
        return self.names.index(name)

    def _each(self) -> Iterator[tuple[int, Support]]:
        return ((i, h.support) for i, h in enumerate(self))

    def unconstrain(self, theta: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """φ(θ), coordinate by coordinate; −∞ where a scale is zero."""
        phi = np.empty_like(theta, dtype=float)
        for i, support in self._each():
            phi[..., i] = support.to_unconstrained(theta[..., i])
        return phi

    def constrain(self, phi: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """θ(φ), coordinate by coordinate."""
        theta = np.empty_like(phi, dtype=float)
        for i, support in self._each():
            theta[..., i] = support.from_unconstrained(phi[..., i])
        return theta

    def derivatives(self, theta: Float[Array, "*V k"]) -> tuple[Array, Array]:
        """dθ/dφ and d²θ/dφ², coordinate by coordinate."""
        first, second = np.empty_like(theta), np.empty_like(theta)
        for i, support in self._each():
            first[..., i], second[..., i] = support.derivatives(theta[..., i])
        return first, second

    def vector(self, values: Mapping[str, float], base: Float[Array, "*V k"]) -> Float[Array, "*V k"]:
        """``base`` with the named coordinates replaced.

        Raises
        ------
        UnknownName
            A name is not one of these hyperparameters.
        ValueError
            A value lies outside its support or is not a number.
        """
        theta = np.array(base, float)
        for name, value in values.items():
            i = self.index(name)
            x = np.asarray(value, float)
            support = self[i].support
            if not np.all((x >= support.lower) & (x <= support.upper) & np.isfinite(x)):
                raise ValueError(
                    f"{name!r} was given as {value!r}, but it must be a finite number from {support.lower:g} to "
                    f"{support.upper:g}. Scales are standard deviations, not variances or precisions."
                )
            theta[..., i] = x
        return theta
