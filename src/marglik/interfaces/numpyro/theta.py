# SPDX-License-Identifier: BSD-3-Clause
"""θ of a program: `param` sites and named sample sites as one vector, its names, supports and start.

Where each element of a site has a support of its own, the elements are coordinates of θ. Where elements are tied to
each other, as those of a simplex, the coordinates are the site's unconstrained ones, and the elements their `Image`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from marglik.hyperparameters import HalfLine, Hyperparameter, Hyperparameters, Image, Interval, Positive, Real, Support
from marglik.interfaces.numpyro.compiling import x64
from marglik.interfaces.numpyro.sites import BadProgram, Maximised, elementwise

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

UNIT, BALL = Interval(0.0, 1.0), Interval(-1.0, 1.0)
TIED: tuple[tuple[Any, Support, Support], ...] = (
    (constraints.simplex, UNIT, UNIT),
    (constraints.l1_ball, BALL, BALL),
    (constraints.ordered_vector, Real(), Real()),
    (constraints.positive_ordered_vector, Positive(), Positive()),
    (constraints.corr_cholesky, BALL, UNIT),
    (constraints.corr_matrix, BALL, UNIT),
    (constraints.lower_cholesky, Real(), Positive()),
    (constraints.softplus_lower_cholesky, Real(), Positive()),
    (constraints.scaled_unit_lower_cholesky, Real(), Positive()),
    (constraints.positive_definite, Real(), Positive()),
)
"""Constraints with elements that are tied to each other: where one may lie, and where one on the diagonal."""


@dataclass(frozen=True, eq=False)
class Elements(Image):
    """The elements of a site whose unconstrained values are coordinates of θ.

    Elements that are constant, or equal to an earlier one, are left out: of a correlation matrix one triangle is left.
    """

    site: Maximised

    @cached_property
    def _transform(self) -> Any:
        return biject_to(self.site.constraint)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the unconstrained value."""
        return tuple(self._transform.inverse_shape(self.site.shape))

    @cached_property
    def _compiled(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """All elements, and their derivatives."""
        values = lambda theta: jnp.ravel(self.value(theta))  # noqa: E731
        return jax.jit(values), jax.jit(jax.jacfwd(values))

    def value(self, theta: Any) -> Any:
        """The site's value."""
        return self._transform(jnp.reshape(theta, self.shape))

    @cached_property
    def shown(self) -> Array:
        """Which elements are reported."""
        theta = np.random.default_rng(0).standard_normal(math.prod(self.shape))
        with x64():
            value, slope = (np.asarray(f(theta)) for f in self._compiled)
        first = np.unique(np.round(np.c_[value, slope], 12), axis=0, return_index=True)[1]
        return np.sort([i for i in first if np.any(slope[i] != 0)]).astype(int)

    @cached_property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(label(self.site.name, np.unravel_index(i, self.site.shape)) for i in self.shown)

    @cached_property
    def supports(self) -> tuple[Support, ...]:
        other, diagonal = _tied(self.site) or (Real(), Real())
        places = (np.unravel_index(i, self.site.shape) for i in self.shown)
        matrix = elementwise(self.site.constraint).event_dim == 2
        return tuple(diagonal if matrix and at[-1] == at[-2] else other for at in places)

    def report(self, theta: Float[Array, "k"]) -> Float[Array, "r"]:
        with x64():
            return np.asarray(self._compiled[0](theta))[self.shown]

    def jacobian(self, theta: Float[Array, "k"]) -> Float[Array, "r k"]:
        with x64():
            return np.asarray(self._compiled[1](theta))[self.shown]

    def coordinates(self, values: Float[Array, "r"]) -> Float[Array, "k"] | None:
        """By Gauss and Newton's steps from the start, which are exact where the transform can be inverted."""
        theta = self.start
        for _ in range(200):
            short = values - self.report(theta)
            step = np.linalg.lstsq(self.jacobian(theta), short, rcond=None)[0]
            theta = theta + step / max(1.0, np.abs(step).max())
            if np.abs(step).max() < 1e-10 * (1 + np.abs(theta).max()):
                break
        return theta if np.abs(values - self.report(theta)).max() <= 1e-8 * (1 + np.abs(values).max()) else None

    @cached_property
    def start(self) -> Float[Array, "k"]:
        """Where learning sets out; zero where the site's start is not inside its support."""
        with x64():
            start = np.ravel(np.asarray(self._transform.inv(jnp.asarray(self.site.start, float)), float))
        return start if np.isfinite(start).all() else np.zeros(math.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Theta:
    """The sites that are maximised, in order."""

    sites: tuple[Maximised, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """Of the sites."""
        return frozenset(site.name for site in self.sites)

    @cached_property
    def images(self) -> Mapping[str, Elements]:
        """Of the sites whose elements are tied to each other."""
        tied = (site for site in self.sites if _tied(site) is not None)
        return {site.name: Elements(site) for site in tied}

    @cached_property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of each site's coordinates."""
        return tuple(self.images[s.name].shape if s.name in self.images else s.shape for s in self.sites)

    @property
    def size(self) -> int:
        """k."""
        return sum(map(math.prod, self._shapes))

    def unravel(self, theta: Any) -> Mapping[str, Any]:
        """Site → its value."""
        out, i = {}, 0
        for site, shape in zip(self.sites, self._shapes, strict=True):
            own = theta[i : i + math.prod(shape)]
            image = self.images.get(site.name)
            out[site.name] = jnp.reshape(own, shape) if image is None else image.value(own)
            i += len(own)
        return out

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """Each element by its site's name, with indices where there are several."""
        found: list[Hyperparameter] = []
        for site, shape in zip(self.sites, self._shapes, strict=True):
            image = self.images.get(site.name)
            for i in np.ndindex(*shape):
                if image is None:
                    support = _support(float(site.lower[i]), float(site.upper[i]), site)
                    found.append(Hyperparameter(label(site.name, i), support))
                else:
                    found.append(Hyperparameter(f"unconstrained {label(site.name, i)}", Real(), image=image))
        return Hyperparameters(found)

    def elements(self, site: Maximised) -> tuple[str, ...]:
        """Names of what is reported of a site."""
        image = self.images.get(site.name)
        return tuple(label(site.name, i) for i in np.ndindex(*site.shape)) if image is None else image.names

    @property
    def start(self) -> Float[Array, "k"]:
        """Where learning sets out: at a param's initial value, at the median of a sample site's prior."""
        each = (self.images[s.name].start if s.name in self.images else np.ravel(s.start) for s in self.sites)
        return np.concatenate([*each, np.zeros(0)])


def _tied(site: Maximised) -> tuple[Support, Support] | None:
    constraint = elementwise(site.constraint)
    return next(((other, diagonal) for known, other, diagonal in TIED if known == constraint), None)


def label(name: str, index: tuple[Any, ...]) -> str:
    """An element's name."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _support(lower: float, upper: float, site: Maximised) -> Support:
    if np.isnan(lower) or np.isnan(upper):
        raise BadProgram(
            f"Site {site.name!r} has the support {site.constraint}, which can be integrated but not maximised over. "
            "Write the program in terms of a site that is real, positive, in an interval, a simplex, ordered, or a "
            "Cholesky factor."
        )
    if lower == -np.inf and upper == np.inf:
        return Real()
    if math.isfinite(lower) and math.isfinite(upper):
        return Interval(lower, upper)
    if math.isfinite(lower):
        return Positive() if lower == 0 else HalfLine(lower)
    return HalfLine(upper, up=False)
