# SPDX-License-Identifier: BSD-3-Clause
"""Latent sites of a program given y and θ̂, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from marglik.interfaces.numpyro.density import Densities
from marglik.posterior import Gaussian, Posterior

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class ProgramPosterior(Posterior):
    """Latent sites by name, from a Gaussian on the unconstrained scale."""

    densities: Densities
    theta: Float[Array, "k"]
    joint: Gaussian

    def _compiled(self, make: Callable[[Any], Callable[..., Any]]) -> Callable[..., Any]:
        return self.densities.staged(self.densities.values).compiled(make)

    @cached_property
    def mean(self) -> Mapping[str, Array]:
        """Sites at the mode of the unconstrained weights."""
        return self._compiled(_at)(self.joint.mean, self.theta)

    @cached_property
    def sd(self) -> Mapping[str, Array]:
        """By the delta method.

        A site moves with its own member of the plate and with the border, J = [J_l J_b], so that its variance is
        J_l D J_lᵀ + 2 J_l B J_bᵀ + J_b C J_bᵀ with D, B, C from H⁻¹ where H has entries.
        """
        layout, cov = self.densities.layout, self.joint.covariance
        J = self._compiled(_along)(self.joint.mean, self.theta, layout.directions())
        m, members = layout.n_local, {site.name: axis for site, axis in layout.inside}
        out = {}
        for name, along in J.items():
            local, border = along[:m], along[m:]
            variance = np.einsum("i...,ij,j...->...", border, cov.border, border)
            if name in members:
                local, border = (np.moveaxis(x, members[name] + 1, 1) for x in (local, border))
                variance = np.moveaxis(variance, members[name], 0)
                variance = variance + np.einsum("iq...,qij,jq...->q...", local, cov.blocks, local)
                variance = variance + 2 * np.einsum("iq...,qij,jq...->q...", local, cov.cross, border)
                variance = np.moveaxis(variance, 0, members[name])
            out[name] = np.sqrt(np.maximum(variance, 0))
        return out

    def sample(self, n: int, seed: int = 0) -> Mapping[str, Array]:
        """Draws from the Gaussian, put through the sites' transforms."""
        draws = self.joint.draws(n, np.random.default_rng(seed))
        return self._compiled(_at_each)(draws, self.theta)


def _at(values: Callable[..., Any]) -> Callable[..., Any]:
    return lambda constants, w, theta: values(constants, w, theta)


def _at_each(values: Callable[..., Any]) -> Callable[..., Any]:
    return lambda constants, W, theta: jax.vmap(lambda w: values(constants, w, theta))(W)


def _along(values: Callable[..., Any]) -> Callable[..., Any]:
    """Derivatives along each row of V."""

    def run(constants: Any, w: Any, theta: Any, V: Any) -> Any:
        along = jax.linearize(lambda w: values(constants, w, theta), w)[1]
        return jax.vmap(along)(V)

    return run
