# SPDX-License-Identifier: BSD-3-Clause
"""The exact evidence of several scales over dense columns, and its maximum for every target.

With a_k = s_k² the variances of the scales and then of the noise, V = Σ a_k K_k and P = V⁻¹ where flat columns have
been projected out (`marglik.gaussian.gram`),

    log p(y|θ) = −½ [ (n − f) log 2π + log|V| + yᵀPy ] + const
    ∂/∂a_k = ½ (yᵀPK_kPy − tr PK_k),    ∂²/∂a_k∂a_l = ½ tr PK_kPK_l − yᵀPK_kPK_lPy

All but y is shared among targets whose variances have the same ratios: cV has P/c, and c = yᵀPy/(n − f) is best. So
targets first move together, many at a place, and part when they are close to their maxima.

References
----------
Harville (1977), JASA 72, 320. Dupré la Tour, Eickenberg, Nunez-Elizalde & Gallant (2022), NeuroImage 264.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import lambertw

from marglik.evidence import relevance
from marglik.evidence.base import Evidence
from marglik.gaussian.solvers import solver
from marglik.likelihoods import LOG_2PI
from marglik.linalg import NotPositiveDefinite
from marglik.posterior.scales import ScalesPosterior

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.gaussian.gram import Gram
    from marglik.gaussian.solvers import Solver
    from marglik.model import LinearModel

MAX_ROUNDS = 200
RADIUS, FARTHEST = 2.0, 8.0
"""First trust radius, and the largest, in logarithms of variances."""
DONE = 1e-7
"""Nats that Newton's step promises when it is the last; what is left after it is the square of that."""
WEAK = 0.5
"""A scale that keeps less than this of what its columns could take steps in its variance, others in its logarithm."""
LEAST = 1e-9
"""Nats that a scale must gain to be opened, or closed."""
FAINT = 1e-26
"""Least variance of the noise, next to what scales add along a column: its root is a hundred times rounding."""
FEW_SCALES, FEW_COLUMNS = 4, 200
"""Up to so many, every subset of the scales is a start."""
HOPELESS = 30.0
"""So many nats below another start of its target one is given up."""
ALIKE = 1e-2
"""So is one whose variances have come so near to those of another, relative to these."""
GATHERED, ALONE = True, False
SHARED = 16
"""From so many targets on, they set out together."""
LEVELS = np.logspace(-3, 4, 8)
"""Signal to noise of a column at which all scales start."""


class Local(NamedTuple):
    """The log evidence of some targets at variances of their own: value, slope and curvature in the variances.

    ``traces`` is tr PK_k: a_k tr PK_k is how many directions scale k takes; ``information`` is ½ tr PK_kPK_l.
    """

    variances: Float[Array, "V k"]
    value: Float[Array, "V"]
    slope: Float[Array, "V k"]
    curvature: Float[Array, "V k k"]
    traces: Float[Array, "V k"]
    information: Float[Array, "V k k"]


def expand(at: Solver, targets: slice | Array, rescaled: bool = False) -> Local:
    """At the solver's variances, or at the best multiple of them."""
    m, n = at.moments(targets), at.data.n_free
    t, T = at.traces
    c = m.quadratic / n if rescaled else np.ones_like(m.quadratic)
    value = -(n * (LOG_2PI + np.log(c)) + at.log_det + m.quadratic / c) / 2
    c = c[:, None]
    slope = (m.first / c - t) / (2 * c)
    information = T / (2 * c[:, :, None] ** 2)
    curvature = information - m.second / c[:, :, None] ** 3
    return Local(c * at.variances, value, slope, curvature, t / c, information)


def evidence(model: LinearModel, theta: Float[Array, "V k"]) -> Evidence:
    """Value, gradient and Hessian for all targets; scales may be zero, and so may the noise where columns suffice."""
    data, own = model.reduced, model.reduced.learned
    s = data.complete(theta)
    local = joined(data, s**2, np.arange(len(s)))
    n, f = model.rows.n, data.Q.shape[1]
    constant = model.log_row_scale - f * np.log(n) / 2 - model.log_volume
    gradient = 2 * s * local.slope  # ∂/∂s = 2s ∂/∂a

    def hessian() -> Array:
        """∂²/∂s∂s' = 4ss' ∂²/∂a∂a' + 2δ ∂/∂a."""
        H = 4 * s[:, :, None] * s[:, None, :] * local.curvature
        k = np.arange(s.shape[1])
        H[:, k, k] += 2 * local.slope
        return H[:, own][:, :, own]

    return Evidence(local.value + constant, gradient[:, own], hessian, posterior=ScalesPosterior(model, theta))


def _value(data: Gram, variances: Float[Array, "k"], targets: Array, rescaled: bool) -> Float[Array, "V"]:
    """That of `expand` alone, which costs a third."""
    try:
        at = solver(data, variances)
        quadratic, n = at.quadratic(targets), data.n_free
        c = quadratic / n if rescaled else np.ones_like(quadratic)
        return -(n * (LOG_2PI + np.log(c)) + at.log_det + quadratic / c) / 2
    except NotPositiveDefinite:
        return np.where(data.total[targets] > 0, -np.inf, np.nan)


def _expanded(data: Gram, variances: Float[Array, "k"], targets: Array, rescaled: bool) -> Local:
    """Without noise and with too few columns no y is possible but one that they fit, for which there is no density."""
    try:
        return expand(solver(data, variances), targets, rescaled)
    except NotPositiveDefinite:
        return _unknown(np.tile(variances, (len(targets), 1)), np.where(data.total[targets] > 0, -np.inf, np.nan))


def _unknown(variances: Float[Array, "V k"], value: Float[Array, "V"]) -> Local:
    """Without derivatives."""
    none = np.full(variances.shape, np.nan)
    nones = np.full((*variances.shape, variances.shape[1]), np.nan)
    return Local(variances, value, none, nones, none.copy(), nones.copy())


def joined(data: Gram, variances: Float[Array, "V k"], targets: Array, rescaled: bool = False) -> Local:
    """Every target at variances of its own; those that share them, or their ratios if `rescaled`, together."""
    places: dict[bytes, list[int]] = {}
    for i, row in enumerate(variances):
        places.setdefault(row.tobytes(), []).append(i)
    members = list(places.values())
    parts = [_expanded(data, variances[m[0]], targets[m], rescaled) for m in members]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(members))
    return Local(*(np.concatenate(field)[order] for field in zip(*parts, strict=True)))


def maxima(model: LinearModel, theta: Float[Array, "k"], free: Bool[Array, "k"]) -> Float[Array, "V k"]:
    """θ at the best maximum found of every target over the free coordinates; zeros are exact."""
    data = model.reduced
    if not free.any():
        return np.tile(theta, (len(data.products), 1))
    held = data.complete(theta)
    asked = np.zeros(len(held), bool)
    asked[data.learned] = free
    above_zero = held[:-1][~asked[:-1]] > 0
    if data.single and not (asked[-1] and above_zero.any()):
        return relevance.maxima(data, held, asked)[:, data.learned]
    found = _Ascent(data.compressed, held**2, asked).run()
    return np.sqrt(found[:, data.learned])


def limits(model: LinearModel, theta: Float[Array, "V k"], drop: float) -> Float[Array, "V k"]:
    """Where a column's scale costs that many nats, the others as they are; NaN for the noise.

    Along a = s² of a column x, with S = xᵀPx, R = xᵀPy and 1 − t = e^{−L} = 1/(1 + aS), the evidence gains

        ½ (R²t/S + log(1 − t)) = −drop,    so    L = c + W(−R²/S e^{−c}),    c = 2 drop + R²/S

    where W is Lambert's. Infinite where nothing is known of the column.
    """
    data = model.reduced
    local = joined(data, data.complete(theta) ** 2, np.arange(len(theta)))
    S = local.traces
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.clip((2 * local.slope + S) / S, 0.0, 1.0)
        c = 2 * drop + x
        L = c + lambertw(-x * np.exp(-c)).real
        out = np.where(S > 0, np.sqrt(np.expm1(L) / S), np.inf)
    out[:, -1] = np.nan
    return out[:, data.learned]


@dataclass(frozen=True, eq=False)
class _Ascent:
    """From starting points to maxima.

    Parameters
    ----------
    data
        The reduced data.
    held : (k,)
        Variances; those that are not free stay.
    free : (k,)
        Which are.
    """

    data: Gram
    held: Float[Array, "k"]
    free: Bool[Array, "k"]

    @cached_property
    def rescales(self) -> bool:
        """Whether a common factor of all variances is free."""
        return bool(self.free[-1]) and not np.any(self.held[:-1][~self.free[:-1]])

    def run(self) -> Float[Array, "V k"]:
        """What is reached from equal scales; for few targets the best of that and of what other starts reach."""
        targets = np.arange(len(self.data.products))
        alive = self.data.total > 0
        out = np.tile(np.where(self.free, 0.0, self.held), (len(targets), 1))
        if alive.any():
            own = targets[alive]
            equal = self.equal_scales(own)
            if len(own) < SHARED:
                starts = [equal, *self.patterns(equal)]
                best = self.flipped(self.best_of(starts, own, scored=(ALONE, ALONE)), own)
            else:
                best = self.climbed(self.joined(equal, own), own, scored=(GATHERED, ALONE))
            out[alive] = best.variances
        out[:, :-1][:, self.free[:-1] & (self.sizes == 0)] = 0.0
        return out

    def joined(self, variances: Float[Array, "V k"], targets: Array) -> Local:
        """Every target at variances of its own."""
        return joined(self.data, self._ratios(variances), targets, self.rescales)

    def started(self, variances: Float[Array, "V k"], targets: Array, known: Local) -> Local:
        """The same, where a start without hope has a value of −∞ and nothing else."""
        ratios = self._ratios(variances)
        each = zip(ratios, targets[:, None], strict=True)
        values = np.concatenate([_value(self.data, row, target, self.rescales) for row, target in each])
        going = self._hopeful(values, targets, np.arange(len(targets)), known.value)
        out = _unknown(variances.copy(), np.full(len(targets), -np.inf))
        if len(going):
            _put(out, going, joined(self.data, ratios[going], targets[going], self.rescales))
        return out

    def _ratios(self, variances: Float[Array, "V k"]) -> Float[Array, "V k"]:
        """Over the noise, where a common factor is free."""
        noise = variances[:, -1:]
        return variances / np.where(noise > 0, noise, 1.0) if self.rescales else variances

    @cached_property
    def sizes(self) -> Float[Array, "k"]:
        """Mean squared length of the columns of each scale."""
        data = self.data
        counts = np.bincount(data.place, minlength=data.n_scales)
        return np.bincount(data.place, data.squares, data.n_scales) / np.maximum(counts, 1)

    def equal_scales(self, targets: Array) -> Float[Array, "V k"]:
        """The best of a few levels at which all columns have the same signal to noise."""
        noise = self.data.total.mean() / self.data.n_free if self.free[-1] else self.held[-1]
        sizes = np.where(self.sizes > 0, self.sizes, 1.0)
        levels = [np.where(self.free, np.append(level * noise / sizes, noise), self.held) for level in LEVELS]
        values = np.array([_value(self.data, there, targets, self.rescales) for there in levels])
        best = np.nan_to_num(values, nan=-np.inf).argmax(axis=0)
        return np.array(levels)[best]

    def patterns(self, equal: Float[Array, "V k"]) -> list[Float[Array, "V k"]]:
        """Starts with some of the scales alone: none, or any subset where that is cheap; with noise and without."""
        own = np.flatnonzero(self.free[:-1] & (self.sizes > 0))
        cheap = len(own) <= FEW_SCALES and len(self.data.place) <= FEW_COLUMNS
        chosen = range(2 ** len(own) - 1) if cheap else [0]
        subsets = [own[[bool(i >> j & 1) for j in range(len(own))]] for i in chosen]
        noisy = [self.masked(equal, subset) for subset in subsets]
        if not (self.noiseless and self.free[-1]):
            return noisy
        bare = [self.masked(equal, subset) for subset in [*subsets[1:], own]]
        for start in bare:
            start[:, -1] = 0.0
        return noisy + bare

    def masked(self, variances: Float[Array, "V k"], kept: Array) -> Float[Array, "V k"]:
        """With a scale of zero where it is free and not kept."""
        on = ~self.free
        on[kept], on[-1] = True, True
        return np.where(on, variances, 0.0)

    def best_of(
        self,
        starts: list[Float[Array, "V k"]],
        targets: Array,
        scored: tuple[bool, ...],
        known: Local | None = None,
    ) -> Local:
        """The best of what is reached from each start; one that comes to what is known goes no further."""
        S, V = len(starts), len(targets)
        all_targets = np.tile(targets, S)
        known = _none_known(starts[0]) if known is None else known
        known = _part(known, np.tile(np.arange(V), S))
        found = self.climbed(self.started(np.concatenate(starts), all_targets, known), all_targets, scored, known)
        return _part(found, found.value.reshape(S, V).argmax(axis=0) * V + np.arange(V))

    def flipped(self, best: Local, targets: Array) -> Local:
        """Each scale, and the noise, opened or closed, and all climbed, as long as that gains."""
        going = np.arange(len(targets))
        places = np.flatnonzero(self.free & np.append(self.sizes > 0, self.noiseless))
        while len(going) and len(places):
            now = _part(best, going)
            trials = []
            for k in places:
                trial = now.variances.copy()
                size = np.append(self.sizes, 1.0)[k]
                opened = trial[:, -1] / size if k < len(self.sizes) else (trial[:, :-1] * self.sizes).max(axis=1)
                trial[:, k] = np.where(trial[:, k] > 0, 0.0, opened)
                trials.append(self.kept_noise(trial))
            found = self.best_of(trials, targets[going], scored=(), known=now)
            gained = found.value > now.value + LEAST
            _put(best, going[gained], _part(found, gained))
            going = going[gained]
        return best

    @property
    def counts(self) -> Float[Array, "k"]:
        """Number of columns of each scale, and of directions of the noise."""
        data = self.data
        return np.append(np.bincount(data.place, data.squares > 0, data.n_scales), data.n_free)

    @property
    def noiseless(self) -> bool:
        """Whether columns suffice for a noise of zero."""
        return self.counts[:-1].sum() >= self.data.n_directions == self.data.n_free

    @property
    def most(self) -> Float[Array, "k"]:
        """How many directions each variance could take; none for a noise that cannot be zero."""
        return self.counts * np.append(np.ones(len(self.held) - 1), 0.1 if self.noiseless else 0.0)

    def climbed(self, here: Local, targets: Array, scored: tuple[bool, ...], known: Local | None = None) -> Local:
        """Newton's method within trust regions, until no step and no scale that is zero gains.

        Before that, steps of Fisher's scoring, each target by itself or many at a place. A start that lies far below
        another of its target, or below what is known to be reached, climbs no further.
        """
        V, most = len(targets), self.most
        known = _none_known(here.variances) if known is None else known
        radius = np.full(V, RADIUS)
        going = self._hopeful(here.value, targets, np.arange(V), known.value)
        for gathered in scored:
            now = _part(here, going)
            trial = np.where(self.free, _scored(now, self.free), self.held)
            if gathered and self.rescales:
                trial = _gathered(trial, self.sizes, V // 8)
            _put(here, going, _better(self.joined(trial, targets[going]), now))
            going = self._hopeful(here.value, targets, going, known.value)
        going = going[np.isfinite(here.value[going])]
        for _ in range(MAX_ROUNDS):
            going = _apart(here, targets, going, known)
            if not len(going):
                break
            now = _part(here, going)
            step, gain = _newton(now, self.free, most, radius[going])
            opened = self._opened(now, gain < DONE, np.minimum(radius[going] / RADIUS, 1.0))
            last = (gain < DONE) & (opened < 0).all(axis=1) & np.isfinite(step).all(axis=1)
            moved = self.kept_noise(_moved(now.variances, step))
            if last.any():
                here.variances[going[last]] = moved[last]
                here.value[going[last]] += gain[last]
            trial = np.where((opened >= 0).any(axis=1, keepdims=True), np.maximum(now.variances, opened), moved)
            going, now, trial, step, gain = going[~last], _part(now, ~last), trial[~last], step[~last], gain[~last]
            if not len(going):
                break
            there = self.joined(np.where(self.free, trial, self.held), targets[going])
            ratio = (there.value - now.value) / np.maximum(gain, DONE)
            r = radius[going] * np.where(ratio < 0.25, 0.25, np.where(ratio > 0.75, 2, 1))
            radius[going] = np.minimum(r, FARTHEST)
            better = there.value > now.value
            _put(here, going[better], _part(there, better))
            going = going[better | (r > 1e-8)]
        return here

    def _hopeful(self, values: Float[Array, "V"], targets: Array, going: Array, known: Float[Array, "V"]) -> Array:
        """Those that lie no further than `HOPELESS` below the best of their target."""
        best = np.full(targets.max(initial=-1) + 1, -np.inf)
        np.fmax.at(best, targets, np.fmax(values, known))
        return going[~(values[going] < best[targets[going]] - HOPELESS)]

    def kept_noise(self, variances: Float[Array, "V k"]) -> Float[Array, "V k"]:
        """With a noise, if any, that rounding does not swamp."""
        least = FAINT * (variances[:, :-1] * self.sizes).max(axis=1, initial=0.0)
        out = variances.copy()
        out[:, -1] = np.where(out[:, -1] > 0, np.maximum(out[:, -1], least), 0.0)
        return np.where(self.free, out, self.held)

    def _opened(self, at: Local, still: Bool[Array, "V"], boldness: Float[Array, "V"]) -> Float[Array, "V k"]:
        """For targets at rest, the variance at which to open what gains most from it; −1 elsewhere."""
        out = np.full(at.slope.shape, -1.0)
        rising = (at.variances == 0) & self.free & (at.traces > 0) & (at.slope > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = 2 * at.slope / at.traces  # yᵀPK_kPy/tr PK_k − 1
            variance = np.minimum(excess, 1.0) * np.maximum(self.counts, 1) / at.traces * boldness[:, None]
            gain = np.where(rising, at.slope * variance / 2, 0.0)
        best = gain.argmax(axis=1)
        rows = np.flatnonzero(still & (gain[np.arange(len(gain)), best] > LEAST))
        out[rows, best[rows]] = variance[rows, best[rows]]
        return out


def _scored(at: Local, free: Bool[Array, "k"]) -> Float[Array, "V k"]:
    """Variances after a step of Fisher's scoring, none below zero: from far away a better guess than Newton's."""
    a = at.variances
    on = free & (a > 0)
    k = np.arange(a.shape[1])
    known = np.where(on[:, :, None] & on[:, None, :], at.information * a[:, :, None] * a[:, None, :], 0.0)
    known[:, k, k] += np.where(on, 1e-10 * known[:, k, k].max(axis=1, keepdims=True), 1.0)
    step = np.linalg.solve(known, np.where(on, at.slope * a, 0.0)[:, :, None])[:, :, 0]
    out = a * np.maximum(1 + step, 0.0)
    out[:, -1] = np.maximum(out[:, -1], 1e-2 * a[:, -1])
    return out


def _better(a: Local, b: Local) -> Local:
    """b with the targets for which a is better."""
    better = a.value > b.value
    _put(b, np.flatnonzero(better), _part(a, better))
    return b


def _none_known(variances: Float[Array, "V k"]) -> Local:
    """Of each target."""
    return _unknown(np.full(variances.shape, np.nan), np.full(len(variances), -np.inf))


def _apart(at: Local, targets: Array, going: Array, known: Local) -> Array:
    """Without starts that follow a better one of their target, or that have come to what is known."""
    a, reached = at.variances[going], known.variances[going]
    going = going[~(np.abs(a - reached) <= ALIKE * reached).all(axis=1)]
    if len(going) < 2 or len(set(targets[going])) == len(going):
        return going
    kept: list[int] = []
    for i in going[np.argsort(-at.value[going], kind="stable")]:
        ahead = at.variances[[j for j in kept if targets[j] == targets[i]]]
        if not (np.abs(ahead - at.variances[i]) <= ALIKE * ahead).all(axis=1).any():
            kept.append(i)
    return np.sort(kept)


def _part(a: Local, which: Array) -> Local:
    return Local(*(field[which] for field in a))


def _put(a: Local, which: Array, b: Local) -> None:
    for field, new in zip(a, b, strict=True):
        field[which] = new


def _newton(
    at: Local, free: Bool[Array, "k"], most: Float[Array, "k"], radius: Float[Array, "V"]
) -> tuple[Array, Array]:
    """Steps in log variances within the radius, and what they should gain; −∞ is a variance of zero.

    Weak scales step in their variance, where the evidence has a slope at zero.
    """
    a = at.variances
    on = free & (a > 0)
    g = np.where(on, a * at.slope, 0.0)
    M = np.where(on[:, :, None] & on[:, None, :], -a[:, :, None] * a[:, None, :] * at.curvature, 0.0)
    k = np.arange(a.shape[1])
    weak = a * at.traces < most * WEAK
    M[:, k, k] -= np.where(weak, 0.0, g)
    M[:, k, k] = np.where(on, M[:, k, k], 1.0)
    own = np.sqrt(np.abs(M[:, k, k]))
    own[own < 1e-100] = 1.0
    d, U = np.linalg.eigh(M / own[:, :, None] / own[:, None, :])
    z = np.einsum("vji,vj->vi", U, g / own) / np.maximum(np.abs(d), 1e-8)
    step = np.einsum("vij,vj->vi", U, z) / own
    limit = np.where(weak & (step > 0), np.expm1(radius)[:, None], np.where(weak, np.inf, radius[:, None]))
    shrink = np.minimum(1, (limit / np.maximum(np.abs(step), 1e-300)).min(axis=1))
    step = np.where(weak, np.maximum(step * shrink[:, None], -1.0), step * shrink[:, None])
    gain = np.einsum("vi,vi->v", g, step) - np.einsum("vi,vij,vj->v", step, M, step) / 2
    with np.errstate(divide="ignore"):
        return np.where(weak, np.log1p(np.where(weak, step, 0.0)), step), gain


def _moved(variances: Float[Array, "V k"], step: Float[Array, "V k"]) -> Float[Array, "V k"]:
    return variances * np.exp(step)


def _gathered(trial: Float[Array, "V k"], sizes: Float[Array, "k"], places: int) -> Float[Array, "V k"]:
    """Variances moved to the nearest of a few places in log(1 + signal to noise), found by k-means."""
    seen = np.log1p(trial[:, :-1] / trial[:, -1:] * sizes)
    rng = np.random.default_rng(0)
    centres = seen[rng.choice(len(seen), places, replace=False)]
    for _ in range(5):
        distance = np.square(centres).sum(axis=1) - 2 * seen @ centres.T
        nearest = distance.argmin(axis=1)
        count = np.bincount(nearest, minlength=places)
        sums = np.stack([np.bincount(nearest, column, places) for column in seen.T], axis=1)
        centres = np.where(count[:, None] > 0, sums / np.maximum(count, 1)[:, None], centres)
    ratios = np.expm1(centres) / np.where(sizes > 0, sizes, 1.0)
    noise = trial[:1, -1:]
    return np.hstack([ratios * noise, np.broadcast_to(noise, (places, 1))])[nearest]
