# SPDX-License-Identifier: BSD-3-Clause
"""The maximum of Laplace's evidence inside its support, by Fisher's scoring with secant corrections.

On the unconstrained φ, with g the gradient and F what a Gaussian model with these weights W would be expected to say
of φ, the evidence bends by about B = F + A. F is computed anew at each point; A makes up for what F leaves out, such as
log|H| moving with W, and learns it from the steps s and the changes y of −g (symmetric rank one):

    φ ← φ + B⁻¹g,    A ← A + rrᵀ/rᵀs,    r = y − (F + A)s    (or else `corrected` by less)

Each point costs one search for the mode, which sets out from where ∂ŵ/∂θ says that it has moved.

References
----------
Dennis, Gay & Welsch (1981), ACM Transactions on Mathematical Software 7, 348 (the split of B).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.evidence.base import Peak, apart
from marglik.evidence.held import Approach, Held, Rows, Scales, approach, bend
from marglik.evidence.slopes import Slopes
from marglik.hyperparameters import Positive
from marglik.linalg import Arrow
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian
from marglik.progress import tell
from marglik.secants import corrected

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence.base import Evidence, EvidenceMethod
    from marglik.model import Model

MOST = 30
"""Points after which the search is left to others."""
RADIUS = 1.0
"""First trust radius in φ."""
CLOSE = 1e-5
"""The last step, in φ: it is taken, and nothing computed there. What it leaves is a small share of it."""
CLOSE_HELD = 1e-4
"""The same where the curvature with W held is known from the start: what it leaves is a few percent of it."""
CLOSE_BENT, FEW = 2e-3, 3
"""And where some of the rows tell how W bends it, for up to so many scales: what it leaves is a few thousandths."""
INSIDE = 0.02
"""A scale at a smaller share of its natural size, or a larger multiple than the inverse, is not inside."""
KNOWN = 30.0
"""A scale whose logarithm the data tell with less information is compared with none at all."""
CLEAR = 3.0
"""No closer look where zero costs more nats with W held."""
DISTINCT = 1e-3
"""Maxima closer in every positive coordinate, in logarithms, are one."""
BEYOND = 1.0
"""Nats that are allowed for what a climb that leaves the inside may gain after that."""
LOCAL = 0.5
"""A longer step in φ says little of the curvature at its end."""
ASKEW = 0.1
"""A change of the gradient that lies along the step by no larger cosine makes a small correction."""
PROBE = 1e-3
"""Difference in φ that shows the curvature in the likelihood's own hyperparameters."""


class Point(NamedTuple):
    """The evidence at one φ."""

    theta: Float[Array, "k"]
    value: float
    gradient: Float[Array, "k"]
    information: Float[Array, "k k"]
    posterior: Any


def interior_maximum(method: EvidenceMethod, model: Model, theta: Float[Array, "k"], free: Array) -> Peak | None:
    """θ̂ over the free coordinates; None where the maximum lies at an end of the support or is not reached."""
    if not isinstance(model, LinearModel) or not free.any():
        return None
    search = _Search(method, model, theta, free)
    if not search.start[search.positive].all():
        return None
    best, *others = search.maxima() or (None,)
    if best is None or search.rises_from_zero(best) or search.better_without_a_scale(best):
        return None
    lower = np.array([point.theta for point in others]) if others else None
    return Peak(best.theta[None], Gaussian(best.posterior.near(best.theta), best.posterior.precision), lower)


class Near(NamedTuple):
    """Weights from which a mode search may set out, with slopes whose H is near."""

    mean: Float[Array, "p"]
    slopes: Slopes
    theta: None = None

    def near(self, theta: Float[Array, "k"]) -> Float[Array, "p"]:
        """The weights, whatever θ."""
        return self.mean


class _Search:
    def __init__(self, method: EvidenceMethod, model: LinearModel, theta: Array, free: Array):
        self.method, self.model, self.free = method, model, free
        self.names = model.hyperparameters
        middle = np.median(model.start_theta(), axis=0)
        self.start = np.where(free, middle, theta)
        self.positive = np.array([isinstance(h.support, Positive) for h in self.names])
        self.units = np.where(self.positive, np.abs(middle), 1.0)
        self.scales, self.zero = Scales.of(model), np.zeros(len(free), bool)
        first = model.n_prior_theta
        self.own = [i for i in range(first, first + len(model.likelihood.hyperparameters())) if free[i]]
        self.knows_held = self.scales is not None and not self.own

    def at(self, theta: Float[Array, "k"], warm: Any) -> Point | None:
        """Value, gradient and information in φ; None where there is no mode."""
        return self.point(theta, self.evaluated(theta, warm))

    def evaluated(self, theta: Float[Array, "k"], warm: Any) -> Evidence:
        """Its value; the rest is computed when it is asked for."""
        e = self.method(self.model, theta, warm)
        tell(e.log_value)
        return e

    def point(self, theta: Float[Array, "k"], e: Evidence) -> Point | None:
        """The same of an evidence that is known."""
        if e.checks or not np.isfinite(e.log_value):
            return None
        first = np.where(self.free, self.names.derivatives(theta[None])[0][0], 0.0)
        information = first[:, None] * e.posterior.slopes.information * first
        return Point(theta, float(e.log_value), e.gradient * first, information, e.posterior)

    def moved(self, theta: Float[Array, "k"], step: Float[Array, "k"]) -> Float[Array, "k"]:
        """θ after a step in φ."""
        phi = self.names.unconstrain(theta[None])[0] + step
        return np.where(self.free, self.names.constrain(phi[None])[0], theta)

    def inside(self, theta: Float[Array, "k"]) -> bool:
        """Whether no positive coordinate is close to an end."""
        ratio = theta[self.positive & self.free] / self.units[self.positive & self.free]
        return bool(np.all((ratio > INSIDE) & (ratio < 1 / INSIDE)))

    def set_out(self) -> list[Point]:
        """The first points: where steps with W held lead, or the starts.

        For flat weights in θ one step from the starts with these weights integrated.
        """
        if not self.model.flat_in_theta or not self.model.n_flat:
            found = approach(self.model, self.start, self.free)
            return self.starts() if found is None else [p for p in [self.approached(found)] if p is not None]
        joint, k = self.model.with_flat_in_theta(False), len(self.names) - self.model.n_flat
        search = _Search(self.method, joint, self.start[:k], self.free[:k])
        points = (self.with_flat(search, here) for here in search.starts())
        return [point for point in points if point is not None]

    def with_flat(self, search: _Search, here: Point) -> Point | None:
        """One step on from where flat weights were integrated."""
        step = search.step(here, here.information + search.own_curvature(here), RADIUS)[0]
        theta = search.moved(here.theta, step)
        top, bottom = search.model.compact(here.theta).columns.split(here.posterior.near(theta))
        flat, rest = np.split(bottom, [self.model.n_flat])
        warm = Gaussian(np.concatenate([top.reshape(-1), rest]), here.posterior.precision)
        return self.at(np.where(self.free, np.concatenate([theta, flat]), self.start), warm)

    def starts(self) -> list[Point]:
        """The middle; for correlated weights, whose evidence has several maxima as a rule, the best that lie apart."""
        thetas = np.array(self.model.start_theta() if self.model.several_maxima else [self.start])
        thetas = np.where(self.free, thetas, self.start)
        tried = [(theta, self.evaluated(theta, None)) for theta in thetas]
        known = [(theta, e) for theta, e in tried if not e.checks and np.isfinite(e.log_value)]
        phi = self.names.unconstrain(np.array([theta for theta, _ in known]).reshape(len(known), len(self.names)))
        points = (self.point(*known[i]) for i in apart(phi, [float(e.log_value) for _, e in known]))
        return [point for point in points if point is not None]

    def approached(self, found: Approach) -> Point | None:
        """The point that steps with W held lead to; scales that they set to zero are held there."""
        assert self.scales is not None
        self.zero = self.free & (found.s == 0)
        self.free, self.units = self.free & ~self.zero, np.where(found.s > 0, found.s, self.units)
        T = self.scales.diagonal(found.s)
        u = np.divide(found.w, T, out=np.zeros(len(T)), where=T != 0)
        point = self.model.at(u, found.s)
        point.rows.__dict__["gram"] = Arrow.dense(found.G)
        return self.at(found.s, Near(u, Slopes(point, point.neg_hessian, self.model)))

    def rises_from_zero(self, found: Point) -> bool:
        """Whether the evidence rises with the variance of a scale that is held at zero."""
        if not self.zero.any():
            return False
        assert self.scales is not None
        slopes = found.posterior.slopes
        members = self.scales.member[self.zero[: len(self.scales.member)]]
        return any(slopes.mode.slope_in_variance(slopes.inverse, member) > 0 for member in members)

    def step(self, here: Point, B: Float[Array, "k k"], radius: float) -> tuple[Float[Array, "k"], float, bool]:
        """To the maximum of the quadratic model within the radius, its gain, and whether the model is concave."""
        d, U = np.linalg.eigh(B[np.ix_(self.free, self.free)])
        size = np.maximum(np.abs(d), 1e-10 * max(np.abs(d).max(initial=0), 1e-100))
        g = here.gradient[self.free]
        part = U @ ((U.T @ g) / size)
        shrink = min(1.0, radius / max(np.abs(part).max(initial=0), 1e-300))
        step = np.zeros(len(self.free))
        step[self.free] = shrink * part
        return step, float(g @ part) * shrink * (1 - shrink / 2), bool((d > 0).all())

    def maxima(self) -> list[Point]:
        """The distinct maxima that are met, the best first; none where a better one may lie at an end."""
        out: list[Point] = []
        left = -np.inf
        for start in self.set_out():
            found, inside = self.climbed(start)
            if not inside:
                left = max(left, found.value)
            elif not any(self.same(found, other) for other in out):
                out.append(found)
        out.sort(key=lambda p: -p.value)
        return out if out and left + BEYOND < out[0].value else []

    def same(self, one: Point, other: Point) -> bool:
        """Whether two maxima are one."""
        asked = self.free & self.positive
        return bool(np.all(np.abs(np.log(one.theta[asked] / other.theta[asked])) < DISTINCT))

    def climbed(self, here: Point) -> tuple[Point, bool]:
        """The point where the next step is no longer than `CLOSE`, with that step taken; or the last, not inside."""
        A, close = self.first_correction(here)
        radius = RADIUS
        for _ in range(MOST):
            step, gain, concave = self.step(here, here.information + A, radius)
            there = self.moved(here.theta, step)
            if not self.inside(there):
                return here, False
            length = np.abs(step).max()
            if length < close:
                return (here._replace(theta=there), True) if concave else (here, False)
            new = self.at(there, here.posterior)
            if new is None or new.value < here.value + 1e-4 * gain - 1e-11 * abs(here.value):
                radius = length / 4
                if new is None:
                    continue
            if length < LOCAL:
                bend = new.information + A
                A = corrected(bend[None], step, here.gradient - new.gradient, ASKEW)[0] - new.information
            if new.value > here.value + 0.75 * gain and length > 0.9 * radius:
                radius *= 2
            if new.value >= here.value + 1e-4 * gain - 1e-11 * abs(here.value):
                here = new
        return here, False

    def held(self, here: Point) -> Held:
        """The evidence with W held at this point's mode."""
        rows = here.posterior.slopes.mode.rows
        G = rows.gram.border
        assert self.scales is not None
        return Held(self.scales, G, G @ rows.w + rows.score)

    def first_correction(self, here: Point) -> tuple[Float[Array, "k k"], float]:
        """A, and which step is close: where the curvature with W held is known A makes up for that, and for how W moves
        as far as some of the rows tell it; else see `own_curvature`.
        """
        if not self.knows_held:
            return self.own_curvature(here), CLOSE
        held = self.held(here)
        A = -held.at(here.theta).hessian - here.information
        rows = Rows.of(self.model)
        if rows.some is None or self.free.sum() > FEW:
            return A, CLOSE_HELD
        w = here.posterior.slopes.mode.rows.w
        more = bend(held.scales, held.G, here.theta, w, rows.some, len(rows.y) / len(rows.some.y))
        return A - np.where(np.outer(self.free, self.free), more, 0.0), CLOSE_BENT

    def own_curvature(self, here: Point) -> Float[Array, "k k"]:
        """The rows of A that belong to the likelihood's own hyperparameters, by one difference each."""
        A = np.zeros((len(here.theta),) * 2)
        for i in self.own:
            there = self.at(self.moved(here.theta, PROBE * (np.arange(len(A)) == i)), here.posterior)
            if there is not None:
                A[i] = A[:, i] = (here.gradient - there.gradient) / PROBE
        return A

    def better_without_a_scale(self, found: Point) -> bool:
        """Whether one of the scales that the data hardly tell had better be zero."""
        weak = [
            i
            for i, h in enumerate(self.names)
            if h.even and self.free[i] and i not in self.own and found.information[i, i] < KNOWN
        ]
        if weak and self.knows_held:
            held = self.held(found)
            here = held.at(found.theta).value
            weak = [i for i in weak if held.at(without(found.theta, i)).value > here - CLEAR]
        for i in weak:
            e = self.method(self.model, without(found.theta, i))
            if e.checks or e.log_value > found.value:
                return True
        return False


def without(theta: Float[Array, "k"], i: int) -> Float[Array, "k"]:
    """θ with one scale at zero."""
    return np.where(np.arange(len(theta)) == i, 0.0, theta)
