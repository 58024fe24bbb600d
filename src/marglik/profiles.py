# SPDX-License-Identifier: BSD-3-Clause
"""The evidence along one hyperparameter, all others at their best: intervals where it has dropped by so much.

References
----------
Venzon & Moolgavkar (1988), Applied Statistics 37, 87. Self & Liang (1987), JASA 82, 605 (at a boundary).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq

from marglik import learn
from marglik.model import LinearModel
from marglik.priors import Flat, Prior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Triangle
    from marglik.priors import RandomEffects

FAR = 40.0
"""Distance on the unconstrained scale, or in standard errors, beyond which an end is the end of the support."""


def hold(
    objective: learn.Objective, theta: Float[Array, "k"], free: Bool[Array, "k"], name: str, value: float
) -> tuple[learn.Objective, Float[Array, "k"], Bool[Array, "k"]]:
    """The objective with one reported hyperparameter held, where to set out from, and what is left free."""
    names = objective.hyperparameters
    theta, free = theta.copy(), free.copy()
    if name in names.names:
        i = names.index(name)
        theta[i], free[i] = value, False
        return objective, theta, free
    found = next(((p, t) for p, t in names.triangles if name in t.names), None)
    if found is None:
        raise ValueError(f"{name!r} is tied to others, so it has no profile. Use confint('wald').")
    place, triangle = found
    model = objective.model
    assert isinstance(model, LinearModel)
    old = next(term for term in model.prior if term.grouped and term.triangle is triangle)  # type: ignore[attr-defined]
    there = old.holding([name], [value])  # type: ignore[attr-defined]
    assert there is not None
    new, held = there
    inside = _coordinates(new, triangle, theta[place], name, value)
    left = np.full(len(inside), free[place].any())
    left[list(held)] = False
    theta = np.concatenate([theta[: place.start], inside, theta[place.stop :]])
    free = np.concatenate([free[: place.start], left, free[place.stop :]])
    return replace(objective, model=model.with_term(old, new)), theta, free


def _best(objective: learn.Objective, theta: Float[Array, "k"], free: Bool[Array, "k"]) -> float:
    """The maximum next to θ. A zero is stationary always: it is held, and tried at a tenth of its natural size."""
    zero = free & (theta == 0)
    at_zero = float(learn.maximise(objective, theta[None], (free & ~zero)[None]).value[0])
    if not zero.any():
        return at_zero
    names = objective.hyperparameters
    units = [u if h.triangle is None else h.support.unit for h, u in zip(names, objective.units, strict=True)]  # type: ignore[attr-defined]
    woken = learn.maximise(objective, np.where(zero, 0.1 * np.array(units), theta)[None], free[None])
    return max(at_zero, float(woken.value[0]))


def _coordinates(
    new: RandomEffects, triangle: Triangle, theta: Float[Array, "k"], name: str, value: float
) -> Float[Array, "j"]:
    """θ of the new term where it reports what the old one does, but for what is held; other correlations give way."""
    reported, m = triangle.report(theta), triangle.size
    natural = np.array([h.support.unit for h in new.hyperparameters()])
    least = 0.1 * new.triangle.diagonal.T @ natural  # type: ignore[union-attr]
    reported[:m] = np.maximum(reported[:m], least)
    reported[m:] = np.clip(np.nan_to_num(reported[m:]), -0.99, 0.99)
    for share in (1.0, 0.9, 0.7, 0.4, 0.1, 0.0):
        there = np.append(reported[:m], share * reported[m:])
        there[triangle.names.index(name)] = value
        found = new.triangle.coordinates(there)  # type: ignore[union-attr]
        if found is not None:
            return found
    raise AssertionError(f"no covariance has {name} = {value}")


@dataclass(frozen=True, eq=False)
class Profile:
    """The drop of the objective along one reported hyperparameter.

    Parameters
    ----------
    objective, optimum
        Of the fit, one target.
    name
        As reported.
    """

    objective: learn.Objective
    optimum: learn.Optimum
    name: str

    def drop(self, value: float) -> float:
        """How far the objective falls short of its maximum at the best of the others."""
        asked = self.optimum.free[0] | self.optimum.limit[0]
        objective, theta, free = hold(self.objective, self.optimum.theta[0], asked, self.name, value)
        return float(self.optimum.value[0] - _best(objective, theta, free))

    def ends(self, estimate: float, se: float, target: float, unit: float) -> tuple[float, float]:
        """Where the drop reaches ``target`` below and above; the end of the support where it never does."""
        support = self.objective.hyperparameters.support_of(self.name)
        ends = support.lower, support.upper

        def back(t: float) -> float:
            return float(support.from_unconstrained(np.array(t)))

        if ends[0] < estimate < ends[1]:
            middle, step = estimate, 2 * se / float(support.derivatives(np.array(estimate))[0])
        else:
            middle, step = self._inside(estimate, unit), 1.0
        step = step if np.isfinite(step) and 0 < step < 5 else 1.0
        found = []
        for sign, end in zip((-1, 1), ends, strict=True):
            if estimate == end:
                found.append(end)
                continue
            start = float(support.to_unconstrained(np.array(middle)))
            t = crossing(lambda t: self.drop(back(t)) - target, start, sign * step)
            found.append(end if t is None else back(t))
        return found[0], found[1]

    def _inside(self, estimate: float, unit: float) -> float:
        """A value away from the end of the support where the estimate lies."""
        support = self.objective.hyperparameters.support_of(self.name)
        if np.isfinite([support.lower, support.upper]).all():
            return 0.9 * estimate + 0.05 * (support.lower + support.upper)
        return support.lower + unit if np.isfinite(support.lower) else support.upper - unit


def crossing(short: Callable[[float], float], start: float, step: float) -> float | None:
    """Where a function that rises in the direction of ``step`` passes zero; None where it levels off below."""
    low, at_low = start, short(start)
    if at_low >= 0:  # the start is already beyond: walk the other way first
        step = -step
    t, value = low, at_low
    while (value >= 0) == (at_low >= 0):
        low, at_low = t, value
        t += step
        step *= 1.5
        value = short(t)
        if abs(t - start) > FAR or (abs(value - at_low) < 1e-9 and abs(t - start) > 8):
            return None
    return float(brentq(short, low, t, xtol=1e-9, rtol=1e-12))


@dataclass(frozen=True, eq=False)
class FixedEffectProfile:
    """The drop of the maximised likelihood (ML) along one fixed effect of a Gaussian model.

    Its column times the value held moves into the offset. There is no such profile under REML, which integrates fixed
    effects; as in lme4, the intervals of a REML fit are those of the ML fit of the same model.

    Parameters
    ----------
    objective
        Of the ML fit.
    optimum
        Its maximum.
    column
        Position of the fixed effect.
    """

    objective: learn.Objective
    optimum: learn.Optimum
    column: int

    @property
    def model(self) -> LinearModel:
        """The whole model."""
        assert isinstance(self.objective.model, LinearModel)
        return self.objective.model

    def drop(self, value: float) -> float:
        """How far the likelihood falls short of its maximum at the best of the others."""
        flat = next(term for term in self.model.prior if term.flat)
        keep = np.arange(flat.n_weights) != self.column
        names = [name for name, kept in zip(flat.names, keep, strict=True) if kept]
        rest = (Flat(flat.columns[:, keep], names, flat.label),) if keep.any() else ()
        moved = value * flat.columns[:, self.column]
        rows = self.model.rows
        rows = replace(rows, offset=moved if rows.offset is None else rows.offset + moved)
        prior = Prior(t for term in self.model.prior for t in (rest if term.flat else (term,)))
        there = replace(self.objective, model=replace(self.model, prior=prior, rows=rows))
        asked = self.optimum.free[0] | self.optimum.limit[0]
        return float(self.optimum.value[0] - _best(there, self.optimum.theta[0], asked))

    def ends(self, estimate: float, se: float, target: float) -> tuple[float, float]:
        """Where the drop reaches ``target`` below and above the estimate."""
        ends = [crossing(lambda z: self.drop(estimate + z * se) - target, 0.0, sign * 2.0) for sign in (-1, 1)]
        low, high = (np.nan if end is None else estimate + end * se for end in ends)
        return low, high
