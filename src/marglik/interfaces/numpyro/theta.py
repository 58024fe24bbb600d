# SPDX-License-Identifier: BSD-3-Clause
"""θ of a program: `param` sites and named sample sites as one vector, its names, supports and start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from marglik.hyperparameters import Hyperparameter, Hyperparameters, Interval, Positive, Real, Support
from marglik.interfaces.numpyro.sites import BadProgram, Maximised

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Theta:
    """The sites that are maximised, in order."""

    sites: tuple[Maximised, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """Of the sites."""
        return frozenset(site.name for site in self.sites)

    @property
    def size(self) -> int:
        """k."""
        return sum(math.prod(site.shape) for site in self.sites)

    def unravel(self, theta: Any) -> Mapping[str, Any]:
        """Site → its value."""
        out, i = {}, 0
        for site in self.sites:
            j = i + math.prod(site.shape)
            out[site.name] = jnp.reshape(theta[i:j], site.shape)
            i = j
        return out

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """Each element by its site's name, with indices where there are several."""
        return Hyperparameters(
            Hyperparameter(_label(site.name, i), _support(float(site.lower[i]), float(site.upper[i]), site))
            for site in self.sites
            for i in np.ndindex(*site.shape)
        )

    @property
    def start(self) -> Float[Array, "k"]:
        """Where learning sets out: at a param's initial value, at the median of a sample site's prior."""
        return np.concatenate([*(np.ravel(site.start) for site in self.sites), np.zeros(0)])


def _label(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _support(lower: float, upper: float, site: Maximised) -> Support:
    if lower == -np.inf and upper == np.inf:
        return Real()
    if lower == 0 and upper == np.inf:
        return Positive()
    if math.isfinite(lower) and math.isfinite(upper):
        return Interval(lower, upper)
    raise BadProgram(
        f"Site {site.name!r} has the support {site.constraint}, and hyperparameters are real, positive or in an "
        "interval so far. Write the program in terms of such a site."
    )
