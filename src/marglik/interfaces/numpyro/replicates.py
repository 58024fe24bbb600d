# SPDX-License-Identifier: BSD-3-Clause
"""A program with other data: its observed sites, drawn from p(y, w|θ)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.primitives import Messenger

from marglik.interfaces.numpyro import derivatives
from marglik.interfaces.numpyro.compiling import Staged, x64
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.density import Densities

ASKED = "simulations= draws data from the program"


def replicates(densities: Densities, theta: Float[Array, "k"], n: int, seed: int = 0) -> Iterator[Densities]:
    """The densities of the program with its observed sites drawn anew, latent ones drawn from their prior.

    Raises
    ------
    Unsupported
        The program is no distribution of its data: a latent site has an improper prior, a density is multiplied by a
        weight, a factor is added, a site is observed within a loop.
    """
    draw = _drawing(densities)
    with x64():
        keys = np.asarray(jax.random.split(jax.random.PRNGKey(seed), n))
    for key in keys:
        data = {name: y.copy() for name, y in draw(key, np.asarray(theta, float)).items()}
        conditioned = handlers.condition(densities.call.function, data=data)
        yield replace(densities, call=replace(densities.call, function=conditioned), compared=True)


def _drawing(densities: Densities) -> Callable[[Array, Array], Mapping[str, Array]]:
    """(key, θ) → observed sites."""
    call = densities.call

    def run(key: Any, theta: Any) -> dict[str, Any]:
        fixed, drawn = densities.theta.unravel(theta), _Drawn(handlers.seed(call.full, key))
        trace = handlers.trace(handlers.substitute(drawn, data=fixed)).get_trace(*call.args, **call.kwargs)
        for name, site in trace.items():
            if site["type"] == "sample" and site["is_observed"]:
                _check(name, site, drawn.values)
        if not drawn.values:
            raise Unsupported(f"{ASKED}, but it has no observed sites.")
        return drawn.values

    try:
        with x64():
            key = jax.random.PRNGKey(0)
        return Staged.of(run, key, (densities.theta.size,)).compiled(derivatives.plain)
    except NotImplementedError as error:
        raise Unsupported(
            f"{ASKED}, but a latent site has an improper prior, from which nothing can be drawn. Give it a proper "
            "prior, or make it a numpyro.param."
        ) from error


class _Drawn(Messenger):
    """Observed sites with values drawn from their distribution, of the shape and type of those observed."""

    def __enter__(self) -> Any:
        self.values: dict[str, Any] = {}
        return super().__enter__()

    def process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or isinstance(msg["fn"], dist.Unit):
            return
        own, seen = msg["fn"], jnp.asarray(msg["value"])
        batch = seen.shape[: seen.ndim - own.event_dim]  # may be larger than the distribution's
        full = own.expand(jnp.broadcast_shapes(batch, own.batch_shape))
        msg["value"] = self.values[msg["name"]] = full.sample(numpyro.prng_key()).astype(seen.dtype)


def _check(name: str, site: Any, drawn: Mapping[str, Any]) -> None:
    if isinstance(site["fn"], dist.Unit):
        raise Unsupported(
            f"{ASKED}, but factor {name!r} is no distribution of any. Write it as a site with obs=, or leave it out."
        )
    if name not in drawn:
        raise Unsupported(
            f"{ASKED}, but site {name!r} is observed within a loop of numpyro.contrib, where it cannot be drawn anew. "
            "Write it as one site outside the loop."
        )
    if site["scale"] is not None:
        raise Unsupported(
            f"{ASKED}, but the density of site {name!r} is multiplied by a weight, so that it is no distribution of "
            "data. Leave the weight out."
        )
