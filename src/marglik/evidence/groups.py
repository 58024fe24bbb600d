# SPDX-License-Identifier: BSD-3-Clause
"""Importance sampling group by group: many small integrals with draws of their own, and the border outside.

Given the border's weights v the groups are independent, and

    p(y|θ) = ∫ p(v|θ) Π_g I_g(v) dv ≈ (1/J) Σ_j p(v_j|θ) Π_g Î_g(v_j) / q(v_j)
    Î_g(v) = (1/K) Σ_k exp t_gk(v),    t_gk = log p(y_g, u_gk|v, θ) − log q_g(u_gk)
    u_gk = û_g + E_g(v − v̂) + C_g⁻ᵀx_gk

about a Gaussian, `Place`. The x_gk are the same for every v_j, so that what errs in Î_g errs alike for all of them:
the product over groups does not scatter with v. So a part of the draws, Î°, tells how the product changes with v, and
all of them what it is at v̂:

    log p̂ = Σ_g log Î_g(v̂) + log (1/J) Σ_j exp o_j,    o_j = Σ_g [log Î°_g(v_j) − log Î°_g(v̂)] + log p(v_j|θ)/q(v_j)

Errors of different groups are independent, and so is that of the v_j; their squares add up. Without a border the first
sum is all there is.

The coordinates of x_gk have Student's t with 2 degrees of freedom. v is drawn from a multivariate t.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import logsumexp

from marglik import pareto
from marglik.evidence import draws
from marglik.evidence.clouds import ROUNDING, Cloud, Estimate, Groups, Weighed, effective, scatter
from marglik.evidence.draws import log_t2, t2
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, cholesky, solve_lower

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.evidence.densities import GroupDensities

RUNS = 8
TAILS = 256
"""Groups whose tails are looked at at a time."""
SCALES = (0.8, 1.0, 1.25, 1.6, 2.0)
PILOT_DRAWS, PILOT_SCALE = 64, 1.25
PILOT_BORDER, FEW = 32, 64
"""Draws of the border that choose what it is drawn from, and those of each group there."""


class Place(NamedTuple):
    """About where to draw: v about v̂ with precision SSᵀ, and u_g given v about û_g + E_g(v − v̂) with C_gC_gᵀ."""

    u: Float[Array, "q m"]
    C: Float[Array, "q m m"]
    E: Float[Array, "q m f"]
    v: Float[Array, "f"]
    half: Float[Array, "f f"]

    @classmethod
    def of(cls, w: Float[Array, "p"], H: Arrow) -> Place:
        """About a mode with its negative Hessian."""
        u, v = H.split(w)
        C = np.linalg.cholesky(H.blocks)
        E = -np.linalg.solve(H.blocks, H.cross)
        S = H.border + np.einsum("qmf,qmh->fh", H.cross, E)
        return cls(u, C, E, v, cholesky(S) if len(v) else S)


@dataclass(frozen=True, eq=False)
class GroupCloud(Cloud):
    """Draws of every group, and of the border.

    Parameters
    ----------
    densities
        What weighs them.
    place
        About where they lie.
    u : (q, K, m)
        u_gk at v̂, run by run.
    log_q : (q, K)
        log q_g(u_gk).
    v, log_q_v : (R, J, f), (R, J)
        Draws of the border and their density, run by run.
    every
        Each so many of the draws tell how the product changes with v.
    """

    densities: GroupDensities
    place: Place
    u: Float[Array, "q K m"]
    log_q: Float[Array, "q K"]
    v: Float[Array, "R J f"]
    log_q_v: Float[Array, "R J"]
    every: int

    @classmethod
    def about(
        cls,
        densities: GroupDensities,
        place: Place,
        theta: Float[Array, "k"],
        size: tuple[int, int, int],
        seed: int,
        wide: bool = False,
    ) -> GroupCloud:
        """Draws about a place.

        Parameters
        ----------
        densities
            Of the model.
        place
            About where; `Place.of` makes one from a mode.
        theta
            θ there.
        size
            How many: of each group, at v̂; of each group for every draw of the border; and of the border. Powers of
            two, each at least 32, 32 and 8.
        seed
            Of the random numbers.
        wide
            Whether to draw half of each group as wide as N(0, I), its prior in factor coordinates: where a group
            may have several modes.
        """
        n, few, outer = size
        rng, (q, m), f = np.random.default_rng(seed), place.u.shape, len(place.v)
        inverse = np.linalg.inv(place.C)
        log_det = np.log(np.einsum("qmm->qm", place.C)).sum(axis=1)[:, None]
        every, theta = n // few if f else 1, np.asarray(theta, float)

        def cloud(u: Array, log_q: Array, every: int = 1) -> GroupCloud:
            return cls(densities, place, u, log_q, place.v[None, None], np.zeros((1, 1)), every)

        def near(x: Array) -> Array:
            return place.u[:, None] + np.einsum("qji,qkj->qki", inverse, x)

        x = PILOT_SCALE * t2(draws.lattice(PILOT_DRAWS, m, q, rng))
        t = cloud(near(x), log_t2(x, PILOT_SCALE) + log_det).terms(theta, place.v)
        second = [logsumexp(2 * t + log_t2(x, PILOT_SCALE) - log_t2(x, s), axis=1) for s in SCALES]
        scale = np.array(SCALES)[np.argmin(second, axis=0)][:, None, None]
        each = n // RUNS // (2 if wide else 1)
        x = scale * t2(draws.lattice(each, m, q * RUNS, rng)).reshape(q, -1, m)
        u, log_q = near(x), log_t2(x, scale) + log_det
        if wide:
            z = np.broadcast_to(t2(draws.lattice(each, m, RUNS, rng)), (q, RUNS, each, m))
            u = np.concatenate([u.reshape(z.shape), z], axis=2).reshape(q, -1, m)
            x = np.einsum("qki,qij->qkj", u - place.u[:, None], place.C)
            log_q = np.logaddexp(log_t2(x, scale) + log_det, log_t2(u, 1.0)) - np.log(2)
        found = cloud(u, log_q, every)
        if not f:
            return found

        def border(student: draws.Student, n: int, runs: int) -> tuple[GroupCloud, Array]:
            z = student.of(draws.shifted(draws.net(n, f + 1, rng), runs, rng))
            square = np.sum(z**2, axis=-1)
            v = place.v + solve_lower(place.half, z.reshape(-1, f).T, transposed=True).T.reshape(z.shape)
            log_q_v = student.log_density(square, f) + np.log(place.half.diagonal()).sum()
            return replace(found, v=v, log_q_v=log_q_v), square

        pilot, square = border(draws.PILOT, PILOT_BORDER, 1)
        at = replace(pilot, every=max(n // FEW, 1)).at(theta)
        return border(draws.best(at.outer.reshape(-1), square.reshape(-1), f), outer // RUNS, RUNS)[0]

    def at(self, theta):
        return GroupsWeighed(self, np.asarray(theta, float))

    def moved(self, v: Float[Array, "f"], every: int = 1) -> Float[Array, "q K m"]:
        """u_gk at v."""
        return self.u[:, ::every] + (self.place.E @ (v - self.place.v))[:, None]

    def terms(self, theta: Float[Array, "k"], v: Float[Array, "f"], every: int = 1) -> Float[Array, "q K"]:
        """t_gk."""
        t = self.densities.log_joints(theta, self.moved(v, every), v) - self.log_q[:, ::every]
        return np.where(np.isnan(t), -np.inf, t)

    def gaps(self, theta: Float[Array, "k"], v: Float[Array, "f"]) -> Float[Array, "q"]:
        """By how much Laplace's log I_g is too high at v, if û_g + E_g(v − v̂) is the mode there."""
        m = self.u.shape[2]
        u = self.place.u + self.place.E @ (v - self.place.v)
        second_order = self.densities.log_joints(theta, u[:, None], v)[:, 0] + m * LOG_2PI / 2
        second_order -= np.log(np.einsum("qmm->qm", self.place.C)).sum(axis=1)
        return second_order - _averaged(self.terms(theta, v))[0]


def _averaged(t: Float[Array, "q K"]) -> tuple[Float[Array, "q"], Float[Array, "q R"]]:
    """log (1/K) Σ_k exp t_gk, and the shares of the runs in it, which sum to one."""
    top = t.max(axis=1, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    by_run = np.exp(t - top[:, None]).reshape(len(t), RUNS, -1).sum(axis=2)
    total = by_run.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return top + np.log(total / t.shape[1]), by_run / total[:, None]


@dataclass(frozen=True, eq=False)
class GroupsWeighed(Weighed):
    """Draws of every group at one θ."""

    cloud: GroupCloud
    theta: Float[Array, "k"]

    @property
    def _v(self) -> Float[Array, "RJ f"]:
        return self.cloud.v.reshape(self.cloud.log_q_v.size, self.cloud.v.shape[-1])

    @cached_property
    def _middle(self) -> Float[Array, "q K"]:
        """t_gk(v̂)."""
        return self.cloud.terms(self.theta, self.cloud.place.v)

    @cached_property
    def _moves(self) -> tuple[Float[Array, "RJ q"], Float[Array, "RJ q R"]]:
        """log Î°_g(v_j) − log Î°_g(v̂), and the same of the shares of runs."""
        q, f = len(self.cloud.u), self.cloud.v.shape[-1]
        if not f:
            return np.zeros((1, q)), np.zeros((1, q, RUNS))
        middle = self._middle[:, :: self.cloud.every]
        terms = (self.cloud.terms(self.theta, v, self.cloud.every) for v in self._v)
        logs, shares = zip(*map(_averaged, (middle, *terms)), strict=True)
        return np.array(logs[1:]) - logs[0], np.array(shares[1:]) - shares[0]

    @cached_property
    def outer(self) -> Float[Array, "R J"]:
        """o_j."""
        rest = self.cloud.densities.log_rest(self.theta, self._v)
        return (self._moves[0].sum(axis=1) + rest).reshape(self.cloud.log_q_v.shape) - self.cloud.log_q_v

    @property
    def log_value(self):
        return float(_averaged(self._middle)[0].sum() + logsumexp(self.outer) - np.log(self.outer.size))

    @cached_property
    def weights(self) -> Float[Array, "RJ"]:
        """Those of the border's draws; they sum to one."""
        return np.exp(self.outer - logsumexp(self.outer)).reshape(-1)

    @cached_property
    def gradient(self):
        cloud, v = self.cloud, self.cloud.place.v

        def slope(t: Array, v: Array, every: int) -> Array:
            shares = np.exp(t - logsumexp(t, axis=1, keepdims=True))
            return cloud.densities.slope(self.theta, cloud.moved(v, every), v, shares)

        out = slope(self._middle, v, 1) + cloud.densities.rest_slope(self.theta, self._v, self.weights)
        if cloud.v.shape[-1]:
            out = out - slope(self._middle[:, :: cloud.every], v, cloud.every)
            for weight, each in zip(self.weights, self._v, strict=True):
                out = out + weight * slope(cloud.terms(self.theta, each, cloud.every), each, cloud.every)
        return out

    @cached_property
    def share(self):
        """The least of the border's and of a group's."""
        return min(float(effective(self._middle).min(initial=1.0)), float(effective(self.outer.reshape(-1))))

    @cached_property
    def estimate(self):
        q, present = self.cloud.densities.present
        moves, ratios = self._moves
        log_value, error, k_hat = np.zeros(q), np.zeros(q), np.full(q, -np.inf)
        middle, runs = _averaged(self._middle)
        log_value[present] = middle + self.weights @ moves
        runs = runs + np.einsum("j,jqr->qr", self.weights, ratios)
        error[present] = runs.std(axis=1, ddof=1) * np.sqrt(RUNS)
        few = range(0, len(present), TAILS)
        k_hat[present] = np.concatenate([pareto.shape(self._middle[i : i + TAILS]) for i in few] or [np.zeros(0)])
        total, worst = self.log_value, float(k_hat.max(initial=-np.inf))
        squares = [*(error**2), (ROUNDING * total) ** 2]
        if self.outer.size > 1:
            squares.append(float(scatter(self.outer)) ** 2)
            worst = max(worst, float(pareto.shape(self.outer.reshape(-1))))
        return Estimate(total, float(np.sqrt(np.sum(squares))), worst, Groups(log_value, error, k_hat))
