# SPDX-License-Identifier: BSD-3-Clause
"""Tempered sequential Monte Carlo: a cloud of weights follows a path of densities to the joint one.

    log Ẑ = Σ_s log (1/N) Σ_i exp[(t_s − t_{s−1}) (log p(y, w_i|θ) − log q(w_i))]

At each temperature t_s the cloud is weighted, resampled, and moved by Hamiltonian Monte Carlo, which leaves π_t
invariant. A first cloud adapts: temperatures to the effective sample size, momenta to the cloud's covariance, steps to
the share that is accepted, moves to how soon potentials are forgotten. The clouds that estimate follow this plan as it
is, so each Ẑ has the expectation Z exactly (Del Moral, Doucet & Jasra 2006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp

from marglik.linalg import Arrow
from marglik.paths import Along, Leap, Path
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

KEPT = 0.6
"""Effective sample size after a step in temperature, as a share of the cloud; with `ACCEPTED` the best of those tried,
by time × variance."""
KEPT_FIRST = 0.4
"""The same after the first step, before which draws are independent: one of two halves may have nothing to say."""
KEPT_LAST = 0.2
"""And after the last, behind which nothing moves: less variance would cost the dearest moves."""
HALVINGS = 16
"""Of the range in which the logarithm of a step in temperature is sought: it is told to a thousandth."""
ACCEPTED = 0.8
LENGTH = 1.5
"""How long a trajectory is, in standard deviations of the cloud."""
STEPS = 0.05, 1.5
"""Each trajectory has its own step, in this range of the common one: short ones enter what is narrow, as in funnels."""
MOST_LEAPS, MOST_MOVES, MOST_STAGES = 32, 8, 500
CORRELATED = 0.5
"""Moves are made until potentials before and after, of which Ẑ is made, are correlated no more than this."""


class Stage(NamedTuple):
    """A temperature, and how to move there: half of the inverse mass matrix, step, leaps a move, moves."""

    t: float
    half: Float[Array, "p p"]
    step: float
    leaps: int
    moves: int


class Stuck(ValueError):
    """The cloud did not reach the joint density."""


def plan(path: Path, n: int, rng: np.random.Generator) -> tuple[list[Stage], Float[Array, "n p"]]:
    """Send a first cloud along the path; what it adapted to, and where it arrived.

    Raises
    ------
    Stuck
        It did not reach t = 1; the sentence says how far it came.
    """
    W, t = path.draws(n, rng), 0.0
    stages: list[Stage] = []
    here = path.at(W, t)
    if not np.isfinite(here.potential).any():
        raise Stuck("The density is zero at every draw from the reference, so there is nothing to anneal from.")
    step = W.shape[1] ** -0.25
    while t < 1:
        if len(stages) == MOST_STAGES:
            raise Stuck(f"{MOST_STAGES} temperatures did not suffice: the cloud came to {t:.2g} of the way.")
        t, log_weights = _next(t, here.potential, KEPT if stages else KEPT_FIRST)
        half = _half(W, log_weights)
        W = W[_resampled(log_weights, rng)]
        here, moves = path.at(W, t), 0
        before = here.potential
        while moves < MOST_MOVES and t < 1:
            W, here, accepted = _move(path, W, here, Stage(t, half, step, leaps(step), 1), rng)
            moves, step = moves + 1, min(step * np.exp(accepted - ACCEPTED), 2.0)
            if _correlation(before, here.potential) < CORRELATED:
                break
        stages.append(Stage(t, half, step, leaps(step), moves))
    return stages, W


def leaps(step: float) -> int:
    """Leapfrog steps of one trajectory."""
    return int(np.clip(round(LENGTH / step), 1, MOST_LEAPS))


def follow(path: Path, stages: list[Stage], n: int, runs: int, rng: np.random.Generator) -> Float[Array, "runs"]:
    """log Ẑ of independent clouds of n, by a plan."""
    W, t, log_z = path.draws(n * runs, rng), 0.0, np.zeros(runs)
    here = path.at(W, t)
    for stage in stages:
        log_weights = _finite((stage.t - t) * here.potential).reshape(runs, n)
        log_z += logsumexp(log_weights, axis=1) - np.log(n)
        kept = [n * r + _resampled(own, rng) for r, own in enumerate(log_weights)]
        W, t = W[np.concatenate(kept)], stage.t
        here = path.at(W, t)
        for _ in range(stage.moves if t < 1 else 0):
            W, here, _ = _move(path, W, here, stage, rng)
    return log_z


def _finite(log_weights: Array) -> Array:
    return np.where(np.isnan(log_weights), -np.inf, log_weights)


def _next(t: float, potential: Float[Array, "N"], kept: float) -> tuple[float, Float[Array, "N"]]:
    """The temperature at which the effective sample size has dropped to this share, by bisection; the log weights.

    Where two steps lead to the end, the first of two like ones.
    """

    def weights(s: float) -> Array:
        return _finite((s - t) * potential)

    def share(s: float) -> float:
        w = weights(s)
        top = w.max()
        u = np.exp(w - top) if np.isfinite(top) else np.zeros(1)
        return u.sum() ** 2 / max(np.sum(u**2), 1e-300) / len(w)

    possible = np.mean(np.isfinite(potential))
    last = share(1.0) / possible
    if last >= KEPT_LAST:
        return 1.0, weights(1.0)
    kept = max(kept, np.sqrt(last) if last >= kept * KEPT_LAST else 0.0)
    low, high = (1.0 - t) * 1e-15, 1.0 - t  # the first step may be tiny
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if share(t + middle) >= kept * possible else (low, middle)
    return t + low, weights(t + low)


def _resampled(log_weights: Float[Array, "N"], rng: np.random.Generator) -> Int[Array, "N"]:
    """Systematic resampling."""
    n, top = len(log_weights), log_weights.max()
    if not np.isfinite(top):
        return np.arange(n)
    total = np.cumsum(np.exp(log_weights - top))
    return np.searchsorted(total, (rng.random() + np.arange(n)) / n * total[-1], side="right").clip(max=n - 1)


def around(W: Float[Array, "N p"]) -> Gaussian:
    """The Gaussian with the moments of a cloud."""
    root = np.linalg.inv(_half(W, np.zeros(len(W))))
    return Gaussian(W.mean(axis=0), Arrow.dense(root.T @ root))


def _half(W: Float[Array, "N p"], log_weights: Float[Array, "N"]) -> Float[Array, "p p"]:
    """C with CCᵀ the covariance of the weighted cloud; diagonal where the cloud is small."""
    u = np.exp(log_weights - log_weights.max())
    u /= u.sum()
    away = W - u @ W
    S = (away * u[:, None]).T @ away
    spread = S.diagonal() + 1e-12 * S.diagonal().max() + 1e-300
    if len(W) < 5 * len(S):
        return np.diag(np.sqrt(spread))
    return np.linalg.cholesky(S + np.diag(1e-6 * spread))


def _move(
    path: Path, W: Array, here: Along, stage: Stage, rng: np.random.Generator
) -> tuple[Float[Array, "N p"], Along, float]:
    """One move of Hamiltonian Monte Carlo, with steps of random length; and the share accepted."""
    z = rng.standard_normal(W.shape)
    step = stage.step * rng.uniform(*STEPS, (len(W), 1))
    with np.errstate(all="ignore"):  # what runs off is not accepted
        energy = here.reference + stage.t * here.potential - np.sum(z**2, axis=1) / 2
        X, z, there = path.leapfrog(W, z, here.slope, Leap(stage.t, step, stage.half, stage.leaps))
        gain = there.reference + stage.t * there.potential - np.sum(z**2, axis=1) / 2 - energy
        chance = np.where(np.isnan(gain), 0.0, np.exp(np.minimum(gain, 0.0)))
    yes = rng.random(len(W)) < chance
    parts = (np.where(yes if a.ndim == 1 else yes[:, None], b, a) for a, b in zip(here, there, strict=True))
    return np.where(yes[:, None], X, W), Along(*parts), float(chance.mean())


def _correlation(before: Float[Array, "N"], after: Float[Array, "N"]) -> float:
    """Of what is finite in both; 1 where too little is, or nothing varies."""
    both = np.isfinite(before) & np.isfinite(after)
    a, b = (x[both] - x[both].mean() if both.any() else x[both] for x in (before, after))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 1.0
