# SPDX-License-Identifier: BSD-3-Clause
"""Densities of the members of a plate, each by itself, given all else.

The log density of a program is a sum of elements: one for each value of a site that its distribution takes by itself,
and for each log determinant. Whose an element is shows where the coordinates of some members are exchanged for others:
with those exchanged whose number has a one at some binary place, it is what it was, or what it becomes when all are
exchanged. So the number is read off in log₂ q evaluations, and an element of several members is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from marglik.evidence.densities import GroupDensities
from marglik.interfaces.numpyro.compiling import Staged

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.density import Densities

ENTRIES = 1 << 20
"""So many elements are computed at a time."""
SAME, ROUNDING = 1e-9, 1e-14
"""An element is where it was if it is so close, as a share of how far it moves in all, and of its size."""
OF_NONE, OF_SEVERAL = -1, -2


def members(densities: Densities) -> Members | None:
    """The densities by members of the layout's plate; None without one, or where an element is of several members."""
    if densities.layout.plate is None:
        return None
    staged = densities.staged(densities.elements)
    owners = _owners(staged.compiled(_plain), densities)
    return None if owners is None or (owners == OF_SEVERAL).any() else Members(densities, staged, owners)


def _owners(elements: Callable[..., Array], densities: Densities) -> Int[Array, "e"] | None:
    """The member of each element; None where the density is not finite."""
    layout, rng = densities.layout, np.random.default_rng(0)
    q, m, names = layout.n_members, layout.n_local, densities.theta.hyperparameters
    start = names.unconstrain(densities.theta.start)  # where a density may happen to be flat, so it is left
    for size in (0.5, 0.1, 0.01):
        here, there = size * rng.standard_normal((2, layout.size))
        there[q * m :] = here[q * m :]
        theta = names.constrain(start + size * rng.standard_normal(len(start)))

        def exchanged(which: Array, at: tuple[Array, ...] = (here, there, theta)) -> Array:
            chosen = np.append(np.repeat(which, m), np.zeros(layout.n_border, bool))
            return elements(np.where(chosen, at[1], at[0]), at[2])

        low, high = exchanged(np.zeros(q, bool)), exchanged(np.ones(q, bool))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            continue
        apart = np.abs(high - low)
        owners, several, near = np.zeros(len(low), int), np.zeros(len(low), bool), SAME * apart + ROUNDING * np.abs(low)
        for place in range(int(q - 1).bit_length()):
            bits = (np.arange(q) >> place & 1).astype(bool)
            on, off = exchanged(bits), exchanged(~bits)
            moved = np.abs(on - high) < np.abs(on - low)
            owners |= moved.astype(int) << place
            several |= np.abs(on - np.where(moved, high, low)) > near
            several |= np.abs(off - np.where(moved, low, high)) > near
        owners[several | (owners >= q)] = OF_SEVERAL
        owners[apart <= ROUNDING * np.abs(low)] = OF_NONE
        return owners
    return None


@dataclass(frozen=True, eq=False)
class Members(GroupDensities):
    """Of a program, by members of the plate of its layout.

    Parameters
    ----------
    densities
        Of the program.
    staged
        Its elements, traced.
    owners
        The member of each element, −1 for what belongs to none.
    """

    densities: Densities
    staged: Staged
    owners: Int[Array, "e"]

    @property
    def present(self):
        q = self.densities.layout.n_members
        return q, np.arange(q)

    @property
    def n_border(self):
        return self.densities.layout.n_border

    @cached_property
    def _sums(self) -> Callable[..., Array]:
        return self.staged.compiled(_sums)

    @cached_property
    def _slope(self) -> Callable[..., Array]:
        return self.staged.compiled(_slope)

    @cached_property
    def _places(self) -> Int[Array, "e"]:
        q = self.densities.layout.n_members
        return np.where(self.owners == OF_NONE, q, self.owners)

    @cached_property
    def _counted(self) -> Float[Array, "q1"]:
        """Zeros, one for each member and one for the rest, which say how many there are."""
        return np.zeros(self.densities.layout.n_members + 1)

    def _parts(self, n: int) -> Iterator[slice]:
        """Draws, a power of two of them at a time, of which n is a multiple or a part."""
        size = 1 << max(int(ENTRIES / max(len(self.owners), 1)).bit_length() - 1, 0)
        return (slice(i, i + size) for i in range(0, n, size))

    def _by_member(self, theta: Float[Array, "k"], W: Float[Array, "N p"]) -> Float[Array, "N q1"]:
        each = (self._sums(W[part], theta, self._places, self._counted) for part in self._parts(len(W)))
        return np.concatenate(list(each))

    def _slopes(self, theta: Float[Array, "k"], W: Float[Array, "N p"], c: Float[Array, "N q1"]) -> Float[Array, "k"]:
        each = (self._slope(W[part], theta, self._places, c[part]) for part in self._parts(len(W)))
        return np.sum(list(each), axis=0)

    def _weights(self, U: Float[Array, "q K m"], v: Float[Array, "f"]) -> Float[Array, "K p"]:
        K = U.shape[1]
        return np.column_stack([U.transpose(1, 0, 2).reshape(K, -1), np.tile(v, (K, 1))])

    def _of_border(self, V: Float[Array, "J f"]) -> Float[Array, "J p"]:
        return np.column_stack([np.zeros((len(V), self.densities.layout.size - V.shape[1])), V])

    def log_joints(self, theta, U, v):
        return self._by_member(theta, self._weights(U, v))[:, :-1].T

    def slope(self, theta, U, v, weights):
        best = np.take_along_axis(U, weights.argmax(axis=1)[:, None, None], axis=1)
        U = np.where(weights[:, :, None] > 0, U, best)  # what has no weight may have no slope either
        return self._slopes(theta, self._weights(U, v), np.column_stack([weights.T, np.zeros(U.shape[1])]))

    def log_rest(self, theta, V):
        return self._by_member(theta, self._of_border(V))[:, -1]

    def rest_slope(self, theta, V, weights):
        c = np.column_stack([np.zeros((len(V), len(self._counted) - 1)), weights])
        return self._slopes(theta, self._of_border(V), c)


def _plain(elements: Callable[..., Any]) -> Callable[..., Any]:
    return lambda constants, w, theta: elements(constants, w, theta)


def _sums(elements: Callable[..., Any]) -> Callable[..., Any]:
    """Sums of elements by place, for each row of W."""

    def run(constants: Any, W: Any, theta: Any, places: Any, zeros: Any) -> Any:
        return jax.vmap(lambda w: zeros.at[places].add(elements(constants, w, theta)))(W)

    return run


def _slope(elements: Callable[..., Any]) -> Callable[..., Any]:
    """∂_θ of the sum of elements, each times what c has at its place, over the rows of W."""

    def run(constants: Any, W: Any, theta: Any, places: Any, c: Any) -> Any:
        def total(theta: Any) -> Any:
            each = jax.vmap(lambda w, own: own[places] @ elements(constants, w, theta))(W, c)
            return jnp.sum(each)

        return jax.grad(total)(theta)

    return run
