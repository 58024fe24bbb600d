# SPDX-License-Identifier: BSD-3-Clause
"""Many targets where the evidence method takes one at a time: what was learned of each, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.learn import Found, Located, Objective, Optimum
from marglik.posterior.base import Gaussian, TermPosterior

if TYPE_CHECKING:
    from jaxtyping import Bool
    from numpy import ndarray as Array


@dataclass(frozen=True, eq=False)
class Start:
    """Where the search for one target's mode sets out."""

    mean: Array

    def near(self, theta: Array) -> Array:
        """The same, whatever θ is."""
        return self.mean


def stacked(optima: Sequence[Found | None]) -> Optimum:
    """The optima of all targets as one; a target that could not be learned (None) has θ = NaN and is not converged."""
    like = next(o for o in optima if o is not None)
    lost = Optimum(
        theta=np.full_like(like.theta, np.nan),
        value=np.full_like(like.value, np.nan),
        gradient=np.zeros_like(like.gradient),
        curvature=np.zeros_like(like.hessian),
        free=np.zeros_like(like.free),
        limit=np.zeros_like(like.limit),
        converged=np.zeros_like(like.converged),
        n_iterations=0,
        trace=[np.array([np.nan])],
    )
    each = [lost if o is None else o for o in optima]
    parts = ("theta", "value", "gradient", "free", "limit", "converged")
    steps = max(len(o.trace) for o in each)
    trace = [np.concatenate([o.trace[min(i, len(o.trace) - 1)] for o in each]) for i in range(steps)]
    return Optimum(
        **{name: np.concatenate([getattr(o, name) for o in each]) for name in parts},  # type: ignore[arg-type]
        curvature=np.concatenate([o.hessian for o in each]),
        n_iterations=max(o.n_iterations for o in each),
        trace=trace,
        warm=tuple(Start(o.warm.mean) if o and isinstance(o.warm, Gaussian) else None for o in optima),
    )


def one(optimum: Found, v: int, objective: Objective) -> Found:
    """The optimum of target v alone."""
    if isinstance(optimum, Located):
        return Located(objective, optimum.theta[[v]], optimum.asked, optimum.n_iterations)
    parts = ("theta", "value", "gradient", "free", "limit", "converged")
    return replace(
        optimum,
        **{name: getattr(optimum, name)[[v]] for name in parts},
        curvature=optimum.hessian[[v]],
        trace=[x[[v]] for x in optimum.trace],
        warm=optimum.warm[v] if optimum.warm else None,
    )


@dataclass(frozen=True, eq=False)
class TargetsPosterior(TermPosterior):
    """Of each target by itself, made when it is looked at; NaN for a target that could not be learned.

    Parameters
    ----------
    fit
        Of all targets.
    learned : (V,)
        Which targets could be learned.
    """

    fit: Any
    learned: Bool[Array, "V"]

    def _of(self, v: int) -> Any:
        return self.fit.target(v).posterior if self.learned[v] else None

    def _each(self) -> Iterator[Any]:
        return (self._of(v) for v in range(len(self.learned)))

    def _stacked(self, read: Callable[[Any, int], Mapping[str, Any]], axis: int = 0) -> dict[str, Array]:
        found = [None if p is None else read(p, v) for v, p in enumerate(self._each())]
        like = next(f for f in found if f is not None)
        out = {}
        for label, x in like.items():
            lost = np.full(np.shape(x), np.nan)
            out[label] = np.stack([lost if f is None else f[label] for f in found], axis)
        return out

    @cached_property
    def mean(self):
        return self._stacked(lambda p, _: p.mean)

    @cached_property
    def sd(self):
        return self._stacked(lambda p, _: p.sd)

    @cached_property
    def flat_covariance(self):
        return self._stacked(lambda p, _: {"flat": p.flat_covariance})["flat"]

    def covariance(self, v: int = 0) -> Array:
        """Posterior covariance of the weights of one target."""
        found = self._of(v)
        C = (found or next(filter(None, self._each()))).covariance()
        return C if found else np.full_like(C, np.nan)

    def sample(self, n, seed=0):
        seeds = np.random.SeedSequence(seed).generate_state(len(self.learned))
        return self._stacked(lambda p, v: p.sample(n, int(seeds[v])), axis=1)

    @cached_property
    def edf(self):
        return self._stacked(lambda p, _: p.edf)

    def occam(self):
        return self._stacked(lambda p, _: p.occam())

    def linear_predictor(self, rows):
        parts = self._stacked(lambda p, _: dict(zip(("eta", "variance"), p.linear_predictor(rows), strict=True)), -1)
        return parts["eta"], parts["variance"]
