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
from marglik.posterior.base import Gaussian, Posterior, Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.layout import Layout

CHUNK = 256
"""Elements of a site that are solved for at a time."""


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
        """Sites at the mode of the unconstrained weights, ``deterministic`` ones among them."""
        return self._compiled(_at)(self.joint.mean, self.theta)

    @cached_property
    def sd(self) -> Mapping[str, Array]:
        """By the delta method, √(J H⁻¹ Jᵀ)."""
        return {name: self._sd(name) for name in self.mean}

    @property
    def sites(self):
        """Latent sites, those within plates last."""
        each = (Site(s.name, self.mean[s.name], self._sd(s.name), bool(s.plates)) for s in self.densities.layout.sites)
        return sorted(each, key=lambda site: site.plated)

    @cached_property
    def _signs(self) -> Float[Array, "p"]:
        return np.random.default_rng(0).choice([-1.0, 1.0], self.densities.layout.size)

    @cached_property
    def _moves(self) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        """J along the layout's directions, and along the same with signs turned."""
        layout, run = self.densities.layout, self._compiled(_along)
        at = self.joint.mean, self.theta
        return run(*at, layout.directions()), run(*at, layout.directions(self._signs))

    def _sd(self, name: str) -> Float[Array, "*shape"]:
        along, turned = (moves[name] for moves in self._moves)
        axis = _members(along, turned, self.densities.layout, self._signs)
        variance = self._by_rows(name) if axis is None else self._by_members(along, axis)
        return np.sqrt(np.maximum(variance, 0))

    def _by_members(self, along: Float[Array, "r *shape"], axis: int) -> Float[Array, "*shape"]:
        """Where a site's members move with their own member of the plate and with the border alone.

        With J = [J_l J_b] it is J_l D J_lᵀ + 2 J_l B J_bᵀ + J_b C J_bᵀ, D, B, C from H⁻¹ where H has entries.
        """
        cov, m = self.joint.covariance, self.densities.layout.n_local
        local, border = along[:m], along[m:]
        variance = np.einsum("i...,ij,j...->...", border, cov.border, border)
        if axis < 0:
            return variance
        local, border = (np.moveaxis(x, axis + 1, 1) for x in (local, border))
        variance = np.moveaxis(variance, axis, 0)
        variance = variance + np.einsum("iq...,qij,jq...->q...", local, cov.blocks, local)
        variance = variance + 2 * np.einsum("iq...,qij,jq...->q...", local, cov.cross, border)
        return np.moveaxis(variance, 0, axis)

    def _by_rows(self, name: str) -> Float[Array, "*shape"]:
        """Where a site moves with several members: by one solve for each of its elements."""
        shape, size = self.mean[name].shape, self.mean[name].size
        pull = self.densities.staged(lambda w, theta: self.densities.values(w, theta)[name]).compiled(_back)
        out = np.empty(size)
        for i in range(0, size, CHUNK):
            ends = np.eye(min(CHUNK, size), size, min(i, max(size - CHUNK, 0))).reshape(-1, *shape)
            rows = pull(self.joint.mean, self.theta, ends)
            at = min(i, max(size - CHUNK, 0))
            out[at : at + len(rows)] = np.einsum("rp,pr->r", rows, self.joint.precision.solve(rows.T))
        return out.reshape(shape)

    def sample(self, n: int, seed: int = 0) -> Mapping[str, Array]:
        """Draws from the Gaussian, put through the sites' transforms."""
        draws = self.joint.draws(n, np.random.default_rng(seed))
        return self._compiled(_at_each)(draws, self.theta)


def _members(along: Array, turned: Array, layout: Layout, signs: Array) -> int | None:
    """The axis of the plate's members; −1 if the site moves with the border alone, None if neither.

    With other signs in the directions, what belongs to one member changes by its own signs.
    """
    m, q = layout.n_local, layout.n_members
    local, moved = along[:m], turned[:m]
    size = 1e-9 * np.abs(along).max(initial=0.0)
    if np.abs(local).max(initial=0.0) <= size and np.abs(moved).max(initial=0.0) <= size:
        return -1
    own = np.reshape(signs[: q * m], (q, m)).T
    for axis in (i for i, n in enumerate(along.shape[1:]) if n == q):
        each = np.expand_dims(own, tuple(range(2, local.ndim)))
        if np.abs(np.moveaxis(local, axis + 1, 1) * each - np.moveaxis(moved, axis + 1, 1)).max() <= size:
            return axis
    return None


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


def _back(value: Callable[..., Any]) -> Callable[..., Any]:
    """Derivatives in w of the elements that each of the cotangents picks."""

    def run(constants: Any, w: Any, theta: Any, ends: Any) -> Any:
        pull = jax.vjp(lambda w: value(constants, w, theta), w)[1]
        return jax.vmap(lambda end: pull(end)[0])(ends)

    return run
