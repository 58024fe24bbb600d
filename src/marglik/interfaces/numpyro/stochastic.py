# SPDX-License-Identifier: BSD-3-Clause
"""Stochastic gradients of a program's lower bound, in its guide and its hyperparameters together: NumPyro's SVI, optax.

Steps come in blocks, each one compiled loop. At one step size the bound rises until two blocks in a row do no better,
by their means and Monte Carlo errors, than those before; then steps are made shorter. At the last size the iterates of
the block are averaged (Polyak & Juditsky 1992).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

from marglik.interfaces.numpyro import derivatives
from marglik.interfaces.numpyro.compiling import Staged, x64

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.bound import Bound

BLOCK = 200
"""Steps in a loop."""
MOST = 50
"""Blocks, at most."""
RATES = (0.03, 0.01, 0.003)
"""Adam's step sizes, one after the other."""
ERRORS = 2.0
"""A block is better if it is so by as many standard errors."""
PARTICLES = 8
"""Draws a step, where the bound takes one."""
OWN = "hyperparameters"
"""Name of θ among NumPyro's parameters."""


def climbed(bound: Bound, theta: Array, lam: Array, free: Array) -> tuple[Array, Array]:
    """λ and θ near the maximum."""
    run, leaves, read = _compiled(bound, theta, lam, free)
    best, idle, rate = -np.inf, 0, 0
    noise = 0.0
    for _ in range(MOST):
        leaves, values, mean = run(RATES[rate], *leaves)
        value, error = float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))
        if not np.isfinite(value):
            return lam, theta
        if value > best + ERRORS * np.hypot(error, noise):
            idle = 0
        else:
            idle += 1
        if value > best:
            best, noise = value, error
        if idle >= 2:
            idle, rate, best = 0, rate + 1, value
            if rate == len(RATES):
                break
    return read(mean)


def _compiled(
    bound: Bound, theta: Array, lam: Array, free: Array
) -> tuple[Callable[..., Any], Any, Callable[..., Any]]:
    """A block of steps as a function of the state's leaves, the first of these, and how to read λ and θ."""
    program = bound.program
    call, names = program.densities.call, program.densities.theta
    lower, upper = np.array([(h.support.lower, h.support.upper) for h in program.hyperparameters]).reshape(-1, 2).T
    half, whole = np.isfinite(lower), np.isfinite(lower) & np.isfinite(upper)
    width, floor = np.where(whole, upper - lower, 1.0), np.where(half, lower, 0.0)

    def placed(phi: Any) -> Any:
        inside = jnp.where(whole, floor + width * jax.nn.sigmoid(phi), floor + jnp.exp(jnp.where(whole, 0, phi)))
        return jnp.where(free, jnp.where(half, inside, phi), theta)

    def model(*args: Any, **kwargs: Any) -> None:
        sites = names.unravel(placed(numpyro.param(OWN, jnp.zeros(len(theta)))))
        held = handlers.block(handlers.substitute(call.function, data=sites), hide=[*sites])
        held(*args, **kwargs)

    def svi(rate: Any) -> SVI:
        loss = Trace_ELBO(PARTICLES) if bound.samples == 1 else RenyiELBO(0.0, bound.samples)
        return SVI(model, bound.guide.function, optax.adam(rate), loss)

    share = np.where(whole, (theta - floor) / width, 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        open_ended = np.where(half, np.log(np.maximum(theta - floor, 1e-8)), theta)
        phi = np.where(whole, np.log(share / (1 - share)), open_ended)
    with x64(), handlers.seed(rng_seed=bound.seed):
        start = {n: jnp.asarray(v) for n, v in bound._unflat(jnp.asarray(lam)).items()}
        state = svi(RATES[0]).init(
            jax.random.PRNGKey(bound.seed), *call.args, init_params={**start, OWN: jnp.asarray(phi)}, **call.kwargs
        )
    leaves, form = jax.tree.flatten(state)

    def block(rate: Any, *leaves: Any) -> Any:
        here = svi(rate)
        with x64():
            here.init(jax.random.PRNGKey(0), *call.args, init_params={**start, OWN: jnp.asarray(phi)}, **call.kwargs)

        def step(carry: Any, _: Any) -> Any:
            state, total = carry
            state, loss = here.update(state, *call.args, **call.kwargs)
            total = jax.tree.map(jnp.add, total, here.optim.get_params(state.optim_state))
            return (state, total), -loss

        state = jax.tree.unflatten(form, leaves)
        none = jax.tree.map(jnp.zeros_like, here.optim.get_params(state.optim_state))
        (state, total), values = jax.lax.scan(step, (state, none), None, length=BLOCK)
        return jax.tree.leaves(state), values, jax.tree.map(lambda x: x / BLOCK, total)

    run = Staged.of(block, (), *leaves).compiled(derivatives.plain)

    def read(mean: dict[str, Any]) -> tuple[Array, Array]:
        with x64():
            rest = {n: jnp.asarray(v, float) for n, v in mean.items() if n != OWN}
            return np.asarray(ravel_pytree(rest)[0], float), np.asarray(placed(jnp.asarray(mean[OWN])), float)

    return run, leaves, read
