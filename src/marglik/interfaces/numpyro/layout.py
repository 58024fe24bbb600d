# SPDX-License-Identifier: BSD-3-Clause
"""Where each latent site lies in the vector of weights: by member of a plate first, then all others.

Given the sites outside a plate, its members are independent. So H is an arrow matrix: a block for each member, and a
border. Its columns are found by few products: one for each coordinate of a member, all members at once, and one for
each coordinate of the border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from marglik.linalg import Arrow

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.sites import Latent


@dataclass(frozen=True, eq=False)
class Layout:
    """The latent sites as one vector: members of a plate × their coordinates, then the border.

    Parameters
    ----------
    inside
        Sites within the plate, and the axis of their members.
    outside
        All other sites.
    plate
        Its name; None without one.
    """

    inside: tuple[tuple[Latent, int], ...]
    outside: tuple[Latent, ...]
    plate: str | None = None

    @property
    def sites(self) -> tuple[Latent, ...]:
        """All of them."""
        return (*(site for site, _ in self.inside), *self.outside)

    @cached_property
    def n_members(self) -> int:
        """q."""
        return self.inside[0][0].shape[self.inside[0][1]] if self.inside else 0

    @cached_property
    def n_local(self) -> int:
        """m."""
        return sum(site.size for site, _ in self.inside) // max(self.n_members, 1)

    @cached_property
    def n_border(self) -> int:
        """f."""
        return sum(site.size for site in self.outside)

    @property
    def size(self) -> int:
        """q m + f."""
        return self.n_members * self.n_local + self.n_border

    def unravel(self, w: Any) -> Mapping[str, Any]:
        """Site → its unconstrained value."""
        out, i = {}, 0
        top = jnp.reshape(w[: self.n_members * self.n_local], (self.n_members, self.n_local))
        for site, axis in self.inside:
            rest = site.shape[:axis] + site.shape[axis + 1 :]
            j = i + site.size // self.n_members
            out[site.name] = jnp.moveaxis(jnp.reshape(top[:, i:j], (self.n_members, *rest)), 0, axis)
            i = j
        i = self.n_members * self.n_local
        for site in self.outside:
            out[site.name] = jnp.reshape(w[i : i + site.size], site.shape)
            i += site.size
        return out

    def ravel(self, values: Mapping[str, Any]) -> Any:
        """The inverse of `unravel`."""
        q = self.n_members
        top = [jnp.reshape(jnp.moveaxis(values[site.name], axis, 0), (q, -1)) for site, axis in self.inside]
        parts = [jnp.ravel(jnp.concatenate(top, 1))] if top else []
        return jnp.concatenate([*parts, *(jnp.ravel(values[site.name]) for site in self.outside), jnp.zeros(0)])

    def directions(self, signs: Float[Array, "p"] | float = 1.0) -> Float[Array, "r p"]:
        """One row for each coordinate of a member, which is one in every block, and for each of the border."""
        q, m, f = self.n_members, self.n_local, self.n_border
        V = np.zeros((m + f, self.size))
        V[:m, : q * m] = np.tile(np.eye(m), q)
        V[m:, q * m :] = np.eye(f)
        return V * signs

    def arrow(self, HV: Float[Array, "r p"]) -> Arrow:
        """H from its products with the `directions`."""
        q, m, f = self.n_members, self.n_local, self.n_border
        if not q:
            return Arrow.dense((HV + HV.T) / 2)
        blocks = HV[:m, : q * m].reshape(m, q, m).transpose(1, 2, 0)
        cross, border = HV[m:, : q * m].T.reshape(q, m, f), HV[m:, q * m :]
        return Arrow((blocks + blocks.transpose(0, 2, 1)) / 2, cross, (border + border.T) / 2)


def layouts(sites: Sequence[Latent]) -> Iterator[Layout]:
    """By each plate, that of the most coordinates first and outer ones before inner ones; without any, last."""
    names: dict[tuple[str, int], int] = {}
    for site in sites:
        for plate, axis in site.plates.items():
            key = plate, site.shape[axis]
            names[key] = names.get(key, 0) + site.size
    for plate, _ in sorted(names, key=lambda key: -names[key]):  # stable, so that outer plates come first
        inside = tuple((site, site.plates[plate]) for site in sites if plate in site.plates)
        yield Layout(inside, tuple(site for site in sites if plate not in site.plates), plate)
    yield Layout((), tuple(sites))
