# SPDX-License-Identifier: BSD-3-Clause
"""θ̂ = argmax log p(y|θ): trust-region Newton on the unconstrained θ, boundaries, stopping. All targets at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod, evaluate
from marglik.hyperparameters import Hyperparameters, Positive
from marglik.model import Model
from marglik.progress import tell
from marglik.scatter import NO_NOISE, NO_SCATTER
from marglik.secants import corrected, diagonal, shrunk, slope_at_zero

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

MAX_STEPS = 200
RADIUS = 2.0
"""First trust radius, in units of φ: a factor of e² for a scale."""
STEP = 1e-7
"""Converged when Newton's step in φ is shorter; convergence is quadratic, and the step is still taken."""
NEGLIGIBLE = 1e-10
"""A coordinate that still runs while the evidence gains less than this, in nats, has reached its limit."""
TINY = 1e-5
"""Fraction of a scale's natural size at which the slope in the variance is taken in place of zero."""
FLAT = 1e-3
"""Curvature in φ, in nats, below which a far-off coordinate counts as having reached its limit."""
SMALL = 1e-2
"""Below this fraction of its natural size, a falling scale is tried at zero."""


@dataclass(frozen=True, eq=False)
class Objective:
    """What is maximised: the evidence, plus log p(θ) where there is one; in θ, or seen in the unconstrained φ.

    Parameters
    ----------
    method
        How weights are integrated out.
    model
        The integrand.
    hyperprior
        Name → log density of that hyperparameter: an object with ``logpdf``, or a function of the value.
    log_prior
        log p(θ) of all at once, with its gradient and Hessian.
    """

    method: EvidenceMethod
    model: Model
    hyperprior: Mapping[str, Any] = field(default_factory=dict)
    log_prior: Callable[[Float[Array, "k"]], tuple[float, Array, Array]] | None = None

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The coordinates of θ."""
        return self.model.hyperparameters

    @cached_property
    def units(self) -> Float[Array, "k"]:
        """Natural size of each positive coordinate, 1 for others."""
        middle = np.median(self.model.start_theta(), axis=0)
        return np.where([isinstance(h.support, Positive) for h in self.hyperparameters], np.abs(middle), 1.0)

    @cached_property
    def slack(self) -> float:
        """Curvature taken as none: where a factor is singular, its other columns may turn freely; else by rounding."""
        return 1e-7 if self.hyperparameters.triangles else 1e-14

    def evidence(self, theta: Float[Array, "V k"], warm: Any = None, nearby: bool = False) -> Evidence:
        """The evidence alone."""
        e = evaluate(self.method, self.model, theta, warm, nearby)
        tell(e.log_value)
        return e

    def evaluate(
        self, theta: Float[Array, "V k"], warm: Any = None, bend: bool = True, nearby: bool = False
    ) -> tuple[Array, Array, Array | None, Any]:
        """Value (V,), gradient (V, k) and Hessian (V, k, k) or None in θ, and the next warm start."""
        e = self.evidence(theta, warm, nearby)
        value, gradient, hessian = np.asarray(e.log_value), e.gradient, e.hessian if bend else None
        if "mode" in e.checks:
            value = np.full_like(value, -np.inf)
        if self.log_prior is not None:
            log_p, slope, curved = self.log_prior(theta[0])
            value, gradient, hessian = value + log_p, gradient + slope, None if hessian is None else hessian + curved
        for name, prior in self.hyperprior.items():
            i = self.hyperparameters.index(name)
            here, first, second = _log_prior(getattr(prior, "logpdf", prior), theta[:, i])
            value, gradient = value + here, gradient.copy()
            gradient[:, i] += first
            if hessian is not None:
                hessian = hessian.copy()
                hessian[:, i, i] += second
        return value, gradient, hessian, e.posterior

    def at(
        self, theta: Array, free: Array, warm: Any, bend: bool = True, differences: bool = True
    ) -> tuple[Array, Array, Any, Any]:
        """Value, gradient and Hessian in φ; zero along coordinates that are not free.

        The Hessian is None without ``bend``, and without ``differences`` where the method has none of its own.
        """
        value, gradient, hessian, warm = self.evaluate(theta, warm, bend)
        first, second = self.hyperparameters.derivatives(theta)
        if not bend or (hessian is None and not differences):
            return value, np.where(free, gradient * first, 0), None, warm
        if hessian is None:
            hessian = self.differences(theta, free, warm)
            return value, np.where(free, gradient * first, 0), hessian, warm
        H = hessian * first[:, :, None] * first[:, None, :]
        k = np.arange(theta.shape[1])
        H[:, k, k] += gradient * second
        return value, np.where(free, gradient * first, 0), _masked(H, free), warm

    def differences(self, theta: Array, free: Array, warm: Any, here: Array | None = None, h: float = 1e-4) -> Array:
        """Hessian in φ by differences of the gradient: central ones, or forward ones from the gradient here."""
        V, k = theta.shape
        H = np.zeros((V, k, k))
        with np.errstate(divide="ignore"):
            phi = self.hyperparameters.unconstrain(theta)

        def slope(i: int, step: float) -> Array:
            there = self.hyperparameters.constrain(phi + step * (np.arange(k) == i))
            return self.evaluate(there, warm, nearby=True)[1] * self.hyperparameters.derivatives(there)[0]

        for i in map(int, np.flatnonzero(free.any(axis=0))):
            H[:, i] = (slope(i, h) - slope(i, -h)) / (2 * h) if here is None else (slope(i, h) - here) / h
        return _masked((H + H.transpose(0, 2, 1)) / 2, free)

    def slope_in_variance(self, theta: Array, i: int, warm: Any = None) -> Float[Array, "V"]:
        """∂ log p(y|θ)/∂(s_i²) at s_i = 0."""
        s = TINY * self.units[i]
        there = theta.copy()
        there[:, i] = s
        return self.evaluate(there, warm, bend=False)[1][:, i] / (2 * s)


def _masked(H: Array, free: Array) -> Array:
    return np.where(free[:, :, None] & free[:, None, :], H, 0)


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where learning ended, for each target.

    ``gradient`` and ``hessian`` are in φ, zero along coordinates that are not free; ``curvature`` is the Hessian or a
    function that computes it. ``limit`` marks coordinates that
    lie at the end of their support (a scale of exactly zero, or a limit that φ approaches at infinity). ``others`` are
    lower maxima that were met; of ``searches`` so many, ``reached``, ended here.
    """

    theta: Float[Array, "V k"]
    value: Float[Array, "V"]
    gradient: Float[Array, "V k"]
    curvature: Float[Array, "V k k"] | Callable[[], Float[Array, "V k k"]]
    free: Bool[Array, "V k"]
    limit: Bool[Array, "V k"]
    converged: Bool[Array, "V"]
    n_iterations: int
    trace: Sequence[Array] = field(default_factory=list)
    warm: Any = None
    others: Float[Array, "m k"] | None = None
    searches: int = 1
    reached: int = 1

    @cached_property
    def hessian(self) -> Float[Array, "V k k"]:
        """In φ."""
        return self.curvature() if callable(self.curvature) else self.curvature


@dataclass(frozen=True, eq=False)
class Located:
    """The maximum of every target, found by the evidence method itself; read like an `Optimum`.

    Value, gradient and Hessian are computed when asked for; ``converged`` verifies that the slope vanishes.
    """

    objective: Objective
    theta: Float[Array, "V k"]
    asked: Bool[Array, "k"]
    n_iterations: int = 0
    warm: Any = None
    others: Float[Array, "m k"] | None = None
    searches: int = 1
    reached: int = 1

    @cached_property
    def limit(self) -> Bool[Array, "V k"]:
        """Coordinates at zero."""
        return self.asked & (self.theta == 0)

    @cached_property
    def free(self) -> Bool[Array, "V k"]:
        """Coordinates that were maximised over and are not at zero."""
        return self.asked & (self.theta != 0)

    @cached_property
    def _slope(self) -> tuple[Array, Array, None, Any]:
        return self.objective.at(self.theta, self.free, self.warm, bend=False)

    @property
    def value(self) -> Float[Array, "V"]:
        """The objective."""
        return self._slope[0]

    @property
    def gradient(self) -> Float[Array, "V k"]:
        """In φ."""
        return self._slope[1]

    @cached_property
    def hessian(self) -> Float[Array, "V k k"]:
        """In φ."""
        return self.objective.at(self.theta, self.free, self._slope[3])[2]

    @property
    def trace(self) -> Sequence[Array]:
        """The objective, at the one point there is."""
        return [self.value]

    @cached_property
    def converged(self) -> Bool[Array, "V"]:
        """Whether Newton's method would move no further than rounding lets it."""
        step, gain, newton = _newton_step(self.gradient, self.hessian, self.free, np.full(len(self.theta), RADIUS))
        still = (np.abs(step) < 1e-6).all(axis=1) | (gain < 1e-11 * (1 + np.abs(self.value)))
        return still & np.isfinite(self.value) & newton


Found = Optimum | Located
FoundT = TypeVar("FoundT", Optimum, Optimum | Located)


def maximise(
    objective: Objective,
    start: Float[Array, "V k"],
    free: Bool[Array, "V k"],
    warm: Any = None,
    beside: tuple[Array, Any] | None = None,
) -> Optimum:
    """The maximum next to ``start`` over the free coordinates; ``warm`` is a posterior there.

    ``beside`` is another start, and a posterior there.

    Along φ the evidence is flat where a scale is tiny. A single target that comes to rest there although the evidence
    rises with the variance is woken at the scale's natural size.
    """
    optimum = _climb(objective, start, free, warm=warm, beside=beside)
    if len(start) > 1:
        return optimum
    if objective.hyperparameters.triangles:
        return settled(objective, optimum if optimum.converged[0] else _turned(objective, optimum, free), free)
    for _ in range(2):
        asleep = np.zeros_like(optimum.free)
        for i, h in enumerate(objective.hyperparameters):
            if h.even and np.all(free[..., i]) and optimum.theta[0, i] < SMALL * objective.units[i]:
                asleep[0, i] = objective.slope_in_variance(optimum.theta, i, optimum.warm)[0] > 0
        if not asleep.any():
            break
        woken = _climb(objective, np.where(asleep, objective.units, optimum.theta), free)
        if woken.value[0] <= optimum.value[0]:
            break
        optimum = after(optimum, woken)
    return optimum


SADDLE = 1e-6
"""Curvature in φ, in nats, above which a point where the evidence does not rise is no maximum."""
SINKING, SINK = 0.3, 0.25
"""Below this fraction of its natural size, a positive coordinate whose Newton step falls by more goes to zero: if the
evidence is linear in its square it has no maximum inside, and Newton's steps in φ would be −½ each for ever."""
DEEP = 4.0
"""How far φ falls at once where the slope in the variance, on its way to zero, stays negative: the square to 3e-4."""
SUNK = 1e-7
"""It has arrived when the evidence falls by less, in nats, as φ rises: half of that is then left to gain."""
FEW = 2
"""Up to so many coordinates, a search sets out with all of their Hessian."""
SAME_HESSIAN = 1e-6
"""A Hessian by differences serves as far as this from where it was computed: it moves by no more than they err."""
CRAWL, CRAWLS = 1e-7, 4
"""So many steps in a row that promise less than this, in nats, are a crawl along a curved ridge."""


def _turned(objective: Objective, optimum: Optimum, free: Bool[Array, "V k"]) -> Optimum:
    """Climbed on from the better end of the ridge that a small row of a factor makes.

    Where the diagonal of a column is small, its other entries may turn with those of a column to its right at next to
    no cost: L_rc = h cos t, L_rr = h sin t. The evidence is all but linear in cos t, so that it is best at an end.
    """
    best, value = optimum.theta, optimum.value
    for place, triangle in objective.hyperparameters.triangles:
        if not np.broadcast_to(free, best.shape)[0, place].all():
            continue
        for turned in triangle.turned(best[0, place]):
            theta = best.copy()
            theta[0, place] = turned
            there = np.asarray(objective.evidence(theta, optimum.warm).log_value)
            if there[0] > value[0]:
                best, value = theta, there
    return after(optimum, _climb(objective, best, free, patient=True))


def after(before: Found, now: Optimum) -> Optimum:
    """With the steps of both."""
    trace = [*before.trace, *now.trace]
    return replace(now, n_iterations=before.n_iterations + now.n_iterations, trace=trace)


SAME = 1e-3
"""Nats by which the values of two searches differ that ended at one maximum, at most."""
TIED = 1e-5
"""Of searches that ended within so many nats, one that has converged is the best."""


def preferred(found: Sequence[FoundT]) -> FoundT:
    """The highest of what several searches found."""
    top = max(o.value[0] for o in found)
    tied = [o for o in found if o.value[0] > top - TIED]
    return max(tied or found, key=lambda o: (bool(o.converged[0]), o.value[0]))


def best(found: Sequence[Found]) -> Found:
    """The highest of what several searches found, with the lower maxima, the highest first."""
    highest = preferred(found)
    finite = sorted((o for o in found if np.isfinite(o.value[0])), key=lambda o: -o.value[0])
    lower = [theta for o in found if o.others is not None for theta in o.others]
    values = [highest.value[0]] if finite else []
    for o in finite:
        known = any(np.allclose(o.theta[0], theta, rtol=1e-2) for theta in lower)
        if o.converged.all() and not known and min(abs(o.value[0] - v) for v in values) > SAME:
            values.append(o.value[0])
            lower.append(o.theta[0])
    reached = max(sum(o.reached for o in finite if abs(o.value[0] - values[0]) < SAME), 1)
    others, searches = np.array(lower) if lower else None, sum(o.searches for o in found)
    return replace(highest, others=others, searches=searches, reached=reached)


def settled(objective: Objective, optimum: FoundT, free: Bool[Array, "V k"]) -> FoundT | Optimum:
    """Where the covariance of correlated weights is singular, put to exactly so and climbed along what is left.

    A column of the factor that is zero is stationary always. That it is a maximum, which the largest eigenvalue of
    ∂ℓ/∂Σ on the null space of Σ says, shows in the curvature along the column: it must not be positive.
    """
    names = objective.hyperparameters
    if not names.triangles:
        return optimum
    theta, held = optimum.theta.copy(), np.zeros_like(optimum.free)
    for place, triangle in names.triangles:
        units = np.array([h.support.unit for h in names[place]])  # type: ignore[attr-defined]
        found = triangle.settled(theta[0, place], triangle.diagonal.T @ units)
        if found is not None:
            theta[0, place], held[0, place] = found[0], found[1] & np.broadcast_to(free, held.shape)[0, place]
    if not held.any():
        return optimum
    left = after(optimum, _climb(objective, theta, np.broadcast_to(free, held.shape) & ~held))
    if not left.converged[0] or left.value[0] < optimum.value[0] - 1e-9 * (1 + abs(optimum.value[0])):
        return optimum
    hessian = objective.at(left.theta, left.free | held, left.warm)[2]
    highest = np.linalg.eigvalsh(_with_unit_diagonal(hessian, left.free | held)).max()
    concave = highest < SADDLE
    left = replace(left, limit=left.limit | held, converged=left.converged & concave)
    return replace(left, others=optimum.others, searches=optimum.searches, reached=optimum.reached)


def _climb(
    objective: Objective,
    start: Float[Array, "V k"],
    free: Bool[Array, "V k"],
    patient: bool = False,
    warm: Any = None,
    beside: tuple[Array, Any] | None = None,
) -> Optimum:
    """Newton's method in φ within a trust region; unless patient, it gives a single crawling target up.

    A Hessian that takes differences is computed, by forward ones if these will do, where the search sets out and where
    it ends, and learned from the steps between. That of the optimum is left to whoever asks for it.

    A scale that shrinks below a fraction of its natural size is tried at exactly zero: it stays there while the slope
    of the evidence in its variance is negative (it is stationary in the standard deviation at zero always). A precision
    of the response about its mean that has grown beyond reason is left where it is, and so is a scale of noise that has
    shrunk to nothing.
    """
    names = objective.hyperparameters
    even = np.array([h.even for h in names], bool)
    endless = np.array([h.triangle is None or isinstance(h.support, Positive) for h in names], bool)
    precise = np.array([h.unbounded for h in names], bool)
    bottomless = np.array([h.bottomless for h in names], bool)
    vanishing = np.array([isinstance(h.support, Positive) and not h.even for h in names], bool)
    asked = np.broadcast_to(free, start.shape).copy()
    theta = start.copy()
    free = asked & ~(even & (theta == 0))
    limit = asked & even & (theta == 0)
    V = len(theta)
    radius = np.full(V, RADIUS)
    value, gradient, hessian, warm = objective.at(theta, free, warm, differences=V > 1)
    differenced = rough = hessian is None  # then one for steps only
    before, failed = None, np.zeros(start.shape, int)
    if rough:
        hessian = _first_hessian(objective, theta, free, warm, gradient, beside)
    converged = np.zeros(V, bool)
    trace = [value]

    iteration = crawled = 0
    while iteration < MAX_STEPS:
        iteration += 1
        step, gain, newton = _newton_step(gradient, hessian, free, radius, objective.slack)
        if rough and (gain[0] < 4 * NEGLIGIBLE or np.abs(step).max() < STEP):
            hessian, rough = objective.differences(theta, free, warm, gradient), False
            step, gain, newton = _newton_step(gradient, hessian, free, radius, objective.slack)
            if not newton[0] or np.abs(step).max(initial=0) > SAME_HESSIAN:  # forward differences may not tell
                hessian = objective.differences(theta, free, warm)
                step, gain, newton = _newton_step(gradient, hessian, free, radius, objective.slack)
        low = free & vanishing & (theta < SINKING * objective.units) & (gradient < 0) & (V == 1)
        deep = low & (failed < 2) & rough & (before is not None and slope_at_zero(theta, gradient, *before) < 0)
        sinking = low & (step < -SINK) | deep
        gain = gain - np.where(sinking, gradient / 4, 0).sum(axis=1)
        left = np.log(np.maximum(-gradient, 1e-300) / SUNK) / 2
        step = np.where(sinking, -np.clip(left, SINK, np.where(deep, DEEP, radius[:, None])), step)
        length = np.abs(np.where(deep, 0, step)).max(axis=1, initial=0)
        done = (length < STEP) & newton & ~deep.any(axis=1) | ~free.any(axis=1)
        running = free & endless & (np.abs(step) > 1e-3) & (gain < NEGLIGIBLE * 4)[:, None]
        running |= sinking & (gradient > -SUNK)
        running |= free & precise & (theta > NO_SCATTER)
        running |= free & bottomless & (theta < NO_NOISE / 4 * objective.units)
        stuck = (gain < 1e-13 * (1 + np.abs(value))) & ~done & ~running.any(axis=1) & newton
        limit |= running
        free &= ~running
        converged = done | stuck | (limit.any(axis=1) & (gain < NEGLIGIBLE * 4))
        active = ~converged & np.isfinite(value)
        if not active.any():
            asleep = _at_a_limit(objective, theta, hessian, free & ~even)
            limit, free = limit | asleep, free & ~asleep
            step = np.where(free & converged[:, None], step, 0)
            if np.abs(step).max(initial=0) < (SAME_HESSIAN if differenced else STEP):  # the rest is below rounding
                v = np.flatnonzero(step.any(axis=1) & np.isfinite(hessian).all(axis=(1, 2)))
                theta, bend = _moved(objective, theta, step), np.einsum("vij,vj->vi", hessian[v], step[v])
                value[v] += np.einsum("vi,vi->v", step[v], gradient[v] + bend / 2)
                gradient[v] += bend
            else:
                last = _guarded(objective, theta, step, free, warm, value, hessian, rough)
                theta, value, gradient, hessian, warm = last or (theta, value, gradient, hessian, warm)
            trace.append(value)
            break
        crawled = crawled + 1 if gain.max() < CRAWL else 0
        if crawled > CRAWLS and V == 1 and names.triangles and not patient:
            break
        trial = _moved(objective, theta, np.where(active[:, None] & free, step, 0))
        new_value, new_gradient, new_hessian, new_warm = objective.at(trial, free, warm, differences=V > 1)
        if new_hessian is None:
            share = np.divide(trial, theta, out=np.ones_like(theta), where=sinking)[0] ** 2
            moved = np.where(sinking, (share - 1) / 2, np.where(free, step, 0))  # as what is quadratic in θ
            hessian, rough = corrected(hessian, moved[0], (new_gradient - gradient)[0]), True
            new_hessian = shrunk(hessian, share)
        with np.errstate(invalid="ignore"):
            ratio = np.where(gain > 0, (new_value - value) / gain, 1.0)
        noise = np.abs(new_value - value) < 1e-11 * (1 + np.abs(value))
        past = (trial < theta) & (new_gradient > 0)
        accept = active & ((ratio > 1e-4) | noise) & np.isfinite(new_value) & ~(deep & past).any(axis=1)
        failed += (deep & ~accept[:, None]) + 2 * past
        before = (theta, gradient) if accept.any() else before
        radius = np.where(accept & (ratio > 0.75) & (length > 0.9 * radius), 2 * radius, radius)
        radius = np.where(active & ~accept & (length > 0), length / 4, radius)
        pick = accept[:, None]
        theta = np.where(pick, trial, theta)
        gradient, value = np.where(pick, new_gradient, gradient), np.where(accept, new_value, value)
        hessian = np.where(pick[:, :, None], new_hessian, hessian)
        warm = new_warm if accept.any() else warm
        trace.append(value)

        tried = _try_zero(objective, theta, value, gradient, free & even, warm)
        if tried.any():
            theta = np.where(tried, 0.0, theta)
            limit |= tried
            free = free & ~tried
            value, gradient, hessian, warm = objective.at(theta, free, warm)
        if not (active & accept).any() and (radius[active] < 1e-12).all():
            asleep = _at_a_limit(objective, theta, hessian, free & ~even & active[:, None])
            if not asleep.any():
                break
            limit, free = limit | asleep, free & ~asleep  # rounding hides which way such a coordinate runs
            radius = np.full(V, RADIUS)
            value, gradient, hessian, warm = objective.at(theta, free, warm)

    for i in map(int, np.flatnonzero((limit & even).any(axis=0))):
        back = limit[:, i] & (theta[:, i] == 0) & (objective.slope_in_variance(theta, i, warm) > 0)
        converged = converged & ~back
    bend = partial(objective.differences, theta, free, warm) if differenced else hessian
    return Optimum(theta, value, gradient, bend, free, limit, converged, iteration, trace, warm)


def _first_hessian(
    objective: Objective, theta: Array, free: Array, warm: Any, gradient: Array, beside: tuple[Array, Any] | None
) -> Float[Array, "1 k k"]:
    """Of many coordinates a diagonal, by the gradient at another start, where that bends down; else by differences."""
    if beside is None or free.sum() <= FEW:
        return objective.differences(theta, free, warm, gradient)
    with np.errstate(divide="ignore", invalid="ignore"):
        away = objective.hyperparameters.unconstrain(beside[0]) - objective.hyperparameters.unconstrain(theta)
    bend = diagonal(away, objective.at(beside[0], free, beside[1], bend=False)[1] - gradient)
    return objective.differences(theta, free & (bend == 0), warm, gradient) + np.diag(bend)


def _at_a_limit(objective: Objective, theta: Array, hessian: Array, free: Array) -> Bool[Array, "V k"]:
    """Positive coordinates far below their natural size, or far above, along which the evidence no longer bends.

    Where it does not bend at all, as for a length scale shorter than a step of the grid, half or twice the size is far.
    """
    positive = np.array([isinstance(h.support, Positive) for h in objective.hyperparameters], bool)
    ratio = theta / objective.units
    bend = np.abs(np.einsum("vkk->vk", hessian))
    far = (ratio < SMALL) | (ratio > 1 / SMALL) | ((bend < NEGLIGIBLE) & ((ratio < 1 / 2) | (ratio > 2)))
    return free & positive & far & (bend < FLAT)


def _newton_step(g: Array, H: Array, free: Array, radius: Array, slack: float = 0.0) -> tuple[Array, Array, Array]:
    """Step to the maximum of the quadratic model within the radius, curvatures taken as concave; its gain; are they?

    Where that gains nothing, but the evidence bends up (a saddle), a step along the direction that rises most.
    """
    d, U = np.linalg.eigh(-_with_unit_diagonal(H, free))
    largest = np.abs(d).max(axis=1, keepdims=True, initial=0)
    size = np.maximum(np.abs(d), 1e-10 * np.maximum(largest, 1e-90))
    z = np.einsum("vji,vj->vi", U, g)
    step = np.einsum("vij,vj->vi", U, z / size)
    length = np.abs(step).max(axis=1, initial=0)
    shrink = np.minimum(1.0, radius / np.maximum(length, 1e-300))
    step = np.where(free, step * shrink[:, None], 0)
    gain = np.einsum("vi,vi->v", g, step) * (1 - shrink / 2)
    least = np.maximum(SADDLE, slack * largest[:, 0])
    for v in np.flatnonzero((gain < NEGLIGIBLE) & (d.min(axis=1, initial=0) < -least)):
        up = np.where(free[v], U[v, :, 0] * (1 if z[v, 0] >= 0 else -1), 0)
        step[v] = up * radius[v] / np.abs(up).max()
        gain[v] = g[v] @ step[v] + step[v] @ H[v] @ step[v] / 2
    return step, gain, np.all(d > -slack * largest, axis=1) & np.isfinite(H).all(axis=(1, 2))


def _with_unit_diagonal(H: Array, free: Array) -> Array:
    """H with −1 on the diagonal where a coordinate is held, so that it stays out of the way."""
    H = H.copy()
    k = np.arange(H.shape[1])
    H[:, k, k] = np.where(free, H[:, k, k], -1.0)
    return np.nan_to_num(H)


def _moved(objective: Objective, theta: Array, step: Array) -> Array:
    """θ after a step in φ; exactly unchanged where the step is zero."""
    with np.errstate(divide="ignore"):
        phi = objective.hyperparameters.unconstrain(theta)
    return np.where(step == 0, theta, objective.hyperparameters.constrain(phi + step))


def _guarded(
    objective: Objective, theta: Array, step: Array, free: Array, warm: Any, value: Array, hessian: Array, rough: bool
) -> tuple[Array, Array, Array, Any, Any] | None:
    """One last Newton step, if it loses nothing; a Hessian that takes differences is not computed anew so near."""
    trial, near = _moved(objective, theta, step), not rough and np.abs(step).max() < SAME_HESSIAN
    new_value, gradient, bend, warm = objective.at(trial, free, warm, differences=not near)
    if bend is None:
        bend = _masked(hessian, free)
    better = new_value >= value - 1e-12 * (1 + np.abs(value))
    return (trial, new_value, gradient, bend, warm) if better.all() else None


def _try_zero(
    objective: Objective, theta: Array, value: Array, gradient: Array, scales: Array, warm: Any
) -> Bool[Array, "V k"]:
    """Which of the falling small scales belong at zero: there the evidence is no lower and falls with the variance."""
    small = scales & (theta < SMALL * objective.units) & (gradient < 0) & (theta > 0)
    out = np.zeros_like(small)
    for i in map(int, np.flatnonzero(small.any(axis=0))):
        slope = objective.slope_in_variance(theta, i, warm)
        out[:, i] = small[:, i] & (slope < 0)
    return out


def covariance(optimum: Found) -> Float[Array, "V k k"]:
    """Inverse of the negative Hessian in φ over the free coordinates, zero elsewhere; NaN where it is not a maximum.

    A coordinate that the evidence does not have at all is NaN by itself.
    """
    idle = optimum.free & ~np.any(optimum.hessian != 0, axis=2)
    H = -_with_unit_diagonal(optimum.hessian, optimum.free & ~idle)
    out = np.full_like(H, np.nan)
    for v in np.flatnonzero(np.all(np.linalg.eigvalsh(H) > 0, axis=1)):
        out[v] = np.where(np.diag(idle[v]), np.nan, np.linalg.inv(H[v]))
    return np.where(optimum.free[:, :, None] & optimum.free[:, None, :], out, 0)


def _log_prior(log_p: Callable[[Array], Array], x: Float[Array, "V"]) -> tuple[Array, Array, Array]:
    """log p(x) and its first two derivatives, by central differences."""
    h = 1e-4 * np.maximum(np.abs(x), 1e-8)
    below, here, above = (np.asarray(log_p(x + d), float) for d in (-h, 0 * h, h))
    return here, (above - below) / (2 * h), (above - 2 * here + below) / h**2
