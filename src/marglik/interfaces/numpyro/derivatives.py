# SPDX-License-Identifier: BSD-3-Clause
"""Derivatives of a log joint density f(constants, w, θ), as functions to compile.

The Hessian is asked for in directions V, one a row: Hv is the derivative of the score along v. A row of V that has a
one in every block of an arrow matrix gives a column of all its blocks at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Density = Callable[..., Any]


def value_and_score(f: Density) -> Density:
    """f and ∇_w f."""
    return lambda constants, w, theta: jax.value_and_grad(f, 1)(constants, w, theta)


def second_order(f: Density) -> Density:
    """f, ∇_w f, and −∇²_w f v for each row v of V."""

    def run(constants: Any, w: Any, theta: Any, V: Any) -> tuple[Any, Any, Any]:
        value, score = jax.value_and_grad(f, 1)(constants, w, theta)  # which jvp has too: XLA computes them once
        along = lambda v: jax.jvp(lambda w: jax.grad(f, 1)(constants, w, theta), (w,), (v,))[1]  # noqa: E731
        return value, score, -jax.vmap(along)(V)

    return run


def slopes(f: Density) -> Density:
    """∂_θ f, ∂_θ ∇_w f (k, p), and the derivatives in w and θ of −Σ_u uᵀ∇²_w f u over the rows of U.

    The last are −∂²∇f(w + t u)/∂t²: two forward passes over a gradient, the inner one shared.
    """

    def run(constants: Any, w: Any, theta: Any, U: Any) -> tuple[Any, ...]:
        def third(u: Any) -> Any:
            slope = lambda w: jax.grad(f, (1, 2))(constants, w, theta)  # noqa: E731
            along = lambda w: jax.jvp(slope, (w,), (u,))[1]  # noqa: E731
            return jax.jvp(along, (w,), (u,))[1]

        by_w, by_theta = jax.vmap(third)(U)
        explicit, along = jax.linearize(lambda theta: jax.grad(f, (2, 1))(constants, w, theta), theta)
        score = jax.vmap(lambda t: along(t)[1])(jnp.eye(len(theta)))
        return explicit[0], score, -by_w.sum(0), -by_theta.sum(0)

    return run


def batched(f: Density) -> Density:
    """f for every row of W."""
    return lambda constants, W, theta: jax.vmap(f, (None, 0, None))(constants, W, theta)


TOGETHER = 512
"""Trajectories that are computed at a time, so that they stay in the cache."""


def trajectories(f: Density) -> Density:
    """Leapfrog steps along a path, for each row of W with its momenta, gradient and step side by side.

    Rows are a multiple of `TOGETHER`; those beyond the first ``used`` so many are left at zero.

    log π_t = (1 − t) log q + t log p(y, w),    log q = logaddexp(a + log p(w), b − |R(w − m)|²/2)

    f gives log p(y, w) and log p(y|w). What is returned are places, momenta, log q, log p(y, w) − log q and gradients.
    """

    def run(constants: Any, rows: Any, used: Any, t: Any, half: Any, count: Any, theta: Any, reference: Any) -> Any:
        def some(i: Any, out: Any) -> Any:
            part = jax.lax.dynamic_slice_in_dim(rows, i * TOGETHER, TOGETHER)
            found = run_some(constants, part, t, half, count, theta, reference)
            return jax.lax.dynamic_update_slice_in_dim(out, found, i * TOGETHER, 0)

        width = rows.shape[1] + 1  # two numbers more, and no step
        return jax.lax.fori_loop(0, used, some, jnp.zeros((len(rows), width)))

    def run_some(constants: Any, rows: Any, t: Any, half: Any, count: Any, theta: Any, reference: Any) -> Any:
        a, b, m, R = reference
        p = len(m)

        def density(w: Any) -> tuple[Any, tuple[Any, Any]]:
            joint, seen = f(constants, w, theta)
            away = R @ (w - m)
            log_q = jnp.logaddexp(a + joint - seen, b - away @ away / 2)
            return (1 - t) * log_q + t * joint, (log_q, joint - log_q)

        along = jax.vmap(jax.value_and_grad(density, has_aux=True))
        W, z, slope, step = (rows[:, s] for s in (slice(p), slice(p, 2 * p), slice(2 * p, 3 * p), slice(3 * p, None)))

        def leap(_: Any, carried: Any) -> Any:
            W, z, *_ = carried
            W = W + step * (z @ half.T)
            (_, parts), slope = along(W)
            return W, z + step * (slope @ half), *parts, slope

        none = jnp.zeros(len(rows))
        start = W, z + step / 2 * (slope @ half), none, none, slope
        W, z, *parts, slope = jax.lax.fori_loop(0, count, leap, start)
        return jnp.column_stack([W, z - step / 2 * (slope @ half), *parts, slope])

    return run


def theta_slope(f: Density) -> Density:
    """∂_θ Σ_i c_i f(w_i, θ) over the rows of W."""

    def run(constants: Any, W: Any, c: Any, theta: Any) -> Any:
        return jax.grad(lambda t: c @ jax.vmap(f, (None, 0, None))(constants, W, t))(theta)

    return run


def plain(f: Density) -> Density:
    """f itself."""
    return lambda constants, *args: f(constants, *args)


def in_theta(f: Density) -> Density:
    """f(θ), its gradient and its Hessian."""
    return lambda constants, t: (f(constants, t), jax.grad(f, 1)(constants, t), jax.hessian(f, 1)(constants, t))


def gradients(f: Density) -> Density:
    """f, which is a dictionary of numbers, and their derivatives in w and θ."""

    def run(constants: Any, w: Any, theta: Any) -> tuple[Any, Any, Any]:
        values = f(constants, w, theta)
        # One at a time: zero times infinity in one would spoil the others.
        slopes = {n: jax.grad(lambda *at, n=n: f(*at)[n], (1, 2))(constants, w, theta) for n in values}
        return values, {n: d[0] for n, d in slopes.items()}, {n: d[1] for n, d in slopes.items()}

    return run
