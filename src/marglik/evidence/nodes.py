# SPDX-License-Identifier: BSD-3-Clause
"""The nodes of adaptive quadrature, level by level, and how sums over them move; see `marglik.evidence.quadrature`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, roots_hermitenorm

from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, NotPositiveDefinite, Scaling

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from marglik.expansion import LinearExpansion
    from marglik.likelihoods import Likelihood
    from marglik.model import LinearModel

TILE = 1 << 18
"""Rows times nodes that are in memory at a time."""


def rule(points: int, m: int) -> tuple[Float[Array, "K m"], Float[Array, "K"]]:
    """Nodes x_k and log λ_k for ∫ f(x) dx over m dimensions, exact if f is N(0, I) times a polynomial of low degree.

    In one dimension λ_k = 1 / Σ_{j<n} ψ_j(x_k)² with the Hermite functions ψ_j (Christoffel–Darboux).
    """
    x = roots_hermitenorm(points)[0]
    below, psi = np.zeros_like(x), np.exp(-(x**2) / 4 - LOG_2PI / 4)
    total = psi**2
    for j in range(1, points):
        below, psi = psi, (x * psi - np.sqrt(j - 1) * below) / np.sqrt(j)
        total += psi**2
    grid = np.indices((points,) * m).reshape(m, -1).T
    return x[grid], -np.log(total)[grid].sum(axis=1)


class Part(NamedTuple):
    """Some levels, and their rows: in tiles, if one level has more than are looked at at once."""

    levels: slice
    tiles: list[slice]


class Totals(NamedTuple):
    """F, ∇F and S at one v, but for the prior of v."""

    value: float
    score: Float[Array, "f"]
    precision: Float[Array, "f f"]


@dataclass(frozen=True, eq=False)
class Levels:
    """All levels' nodes at one θ; rows lie level by level. Without a grouping factor, the border is the one level.

    Parameters
    ----------
    mode
        The joint density at its mode.
    H
        Its negative Hessian there.
    order : (n,)
        The model's row in each place.
    starts, present : (q,)
        First row of each level that has rows, and its number.
    Z, border : (n, m), (n, f)
        The columns before their factors.
    A, X : (n, m), (n, f)
        The same in factor coordinates.
    u, v : (q, m), (f,)
        The mode.
    D, B : (q, m, m), (q, m, f)
        Blocks and cross terms of H.
    penalty, border_penalty : (m,), (f,)
        1 where a weight has the prior N(0, 1), 0 where it is flat.
    x, log_weights : (K, m), (K,)
        The rule.
    """

    mode: LinearExpansion
    H: Arrow
    order: Int[Array, "n"]
    starts: Int[Array, "q"]
    present: Int[Array, "q"]
    Z: Float[Array, "n m"]
    border: Float[Array, "n f"]
    A: Float[Array, "n m"]
    X: Float[Array, "n f"]
    u: Float[Array, "q m"]
    v: Float[Array, "f"]
    D: Float[Array, "q m m"]
    B: Float[Array, "q m f"]
    penalty: Float[Array, "m"]
    border_penalty: Float[Array, "f"]
    x: Float[Array, "K m"]
    log_weights: Float[Array, "K"]

    @classmethod
    def of(cls, mode: LinearExpansion, w: Float[Array, "p"], points: int) -> Levels:
        """The nodes about a mode."""
        model, H, c = mode.model, mode.neg_hessian, mode.model.columns
        L, T = model.factors(mode.theta, lambda term, theta: term.factor(theta), flat=1.0)
        u, v = c.split(w)
        border, penalty = c.border, np.where(np.arange(len(v)) < c.n_flat, 0.0, 1.0)
        if not model.groupings:
            none, one = np.zeros((len(border), 0)), np.zeros(1, int)
            places = np.arange(len(border)), one, one, border, none, T.right(border), none
            there = v[None], v[:0], H.border[None], H.border[None, :, :0], penalty, penalty[:0]
        else:
            codes = np.asarray(c.codes)
            order = np.argsort(codes, kind="stable")
            codes = codes[order]
            starts = np.append(0, np.flatnonzero(np.diff(codes)) + 1)
            present, Z, border = codes[starts], c.Z[order], border[order]
            places = order, starts, present, Z, border, Z @ L, T.right(border)
            there = u[present], v, H.blocks[present], H.cross[present], np.ones(u.shape[1]), penalty
        return cls(mode, H, *places, *there, *rule(points, there[0].shape[1]))

    @property
    def model(self) -> LinearModel:
        """The integrand."""
        return self.mode.model

    @cached_property
    def C(self) -> Float[Array, "q m m"]:
        """Cholesky factors of D."""
        try:
            return np.linalg.cholesky(self.D)
        except np.linalg.LinAlgError:
            raise NotPositiveDefinite("A block of the matrix is not positive definite.") from None

    @cached_property
    def C_inverse(self) -> Float[Array, "q m m"]:
        """C⁻¹."""
        return np.linalg.inv(self.C)

    @cached_property
    def E(self) -> Float[Array, "q m f"]:
        """How a level's mode moves with v: −D⁻¹B."""
        return -self.C_inverse.transpose(0, 2, 1) @ (self.C_inverse @ self.B)

    @cached_property
    def codes(self) -> Int[Array, "n"]:
        """The level in each place, counting those that have rows."""
        return np.repeat(np.arange(len(self.starts)), np.diff(np.append(self.starts, len(self.order))))

    @cached_property
    def moved(self) -> Float[Array, "n f"]:
        """∂η/∂v along the nodes: x̃_i = x_i + E_gᵀa_i."""
        return self.X + np.einsum("nm,nmf->nf", self.A, self.E[self.codes]) if self.X.shape[1] else self.X

    @cached_property
    def eta(self) -> Float[Array, "n"]:
        """η at the mode."""
        return self.mode.rows.eta[self.order]

    @cached_property
    def y(self) -> Float[Array, "n"]:
        """The response."""
        return self.model.scaled(np.asarray(self.model.rows.y, float))[self.order]

    @cached_property
    def multiplier(self) -> Float[Array, "n"]:
        """What log densities are multiplied by."""
        return np.broadcast_to(self.model.multiplier, self.y.shape)[self.order]

    @cached_property
    def own(self) -> Float[Array, "l"]:
        """The likelihood's θ."""
        start = self.model.n_prior_theta
        return self.mode.theta[start : start + len(self.model.likelihood.hyperparameters())]

    @cached_property
    def parts(self) -> list[Part]:
        """The levels, a few at a time."""
        step, ends, found, first = max(TILE // len(self.x), 1), np.append(self.starts[1:], len(self.order)), [], 0
        while first < len(ends):
            start = int(self.starts[first])
            last = max(int(np.searchsorted(ends, start + step, side="right")), first + 1)
            stop = int(ends[last - 1])
            tiles = [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
            found.append(Part(slice(first, last), tiles))
            first = last
        return found

    @cached_property
    def _last(self) -> dict[bytes, Nodes]:
        return {}

    def nodes(self, delta: Float[Array, "f"]) -> Iterator[Nodes]:
        """The nodes for one v = v̂₀ + δ, part by part; kept, if there is one part only."""
        if len(self.parts) > 1:
            yield from (Nodes(self, part, delta) for part in self.parts)
            return
        key = delta.tobytes()
        if key not in self._last:
            self._last.clear()
            self._last[key] = Nodes(self, self.parts[0], delta)
        yield self._last[key]

    def totals(self, delta: Float[Array, "f"]) -> Totals:
        """F, ∇F and S, with the prior of v."""
        with np.errstate(over="ignore", invalid="ignore"):  # nodes may lie too far out for numbers: they have no share
            each = [nodes.totals() for nodes in self.nodes(delta)]
        value, score, precision = (np.sum(part, axis=0) for part in zip(*each, strict=True))
        v, penalty = self.v + delta, self.border_penalty
        value = value - penalty @ v**2 / 2 - penalty.sum() * LOG_2PI / 2
        return Totals(value, score - penalty * v, precision + np.diag(penalty))


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of some levels for one v. Arrays over nodes have them first: (K, q), or (K, n) by row."""

    all: Levels
    part: Part
    delta: Float[Array, "f"]

    @cached_property
    def E(self) -> Float[Array, "m f q"]:
        """E_g."""
        return np.ascontiguousarray(self.all.E[self.part.levels].transpose(1, 2, 0))

    @cached_property
    def away(self) -> Float[Array, "m K q"]:
        """C_g⁻ᵀx_k."""
        return np.einsum("kj,qji->ikq", self.all.x, self.all.C_inverse[self.part.levels])

    @cached_property
    def u(self) -> Float[Array, "m K q"]:
        """u_gk."""
        at = self.all.u[self.part.levels].T + np.einsum("mfq,f->mq", self.E, self.delta)
        return at[:, None] + self.away

    def codes(self, tile: slice) -> Int[Array, "n"]:
        """The level of each row, counting those of the part."""
        return self.all.codes[tile] - self.part.levels.start

    def by_level(self, tile: slice, values: Float[Array, "K n"]) -> Float[Array, "K q"]:
        """Sums over rows."""
        many = len(self.part.tiles) == 1
        starts = self.all.starts[self.part.levels] - tile.start if many else np.zeros(1, int)
        return np.add.reduceat(values, starts, axis=1)

    @cached_property
    def _kept(self) -> dict[tuple[str, int], Any]:
        return {}

    def _once(self, what: str, tile: slice, compute: Callable[[], Any]) -> Any:
        """Computed and kept, unless there are several tiles."""
        if len(self.part.tiles) > 1:
            return compute()
        if (what, tile.start) not in self._kept:
            self._kept[what, tile.start] = compute()
        return self._kept[what, tile.start]

    def _likelihood(self, tile: slice) -> tuple[Likelihood, Array, Array]:
        at, codes = self.all, self.codes(tile)
        eta = at.eta[tile] + at.moved[tile] @ self.delta
        eta = eta + sum(a * there.take(codes, axis=1) for a, there in zip(at.A[tile].T, self.away, strict=True))
        return at.model.likelihood.at_rows(at.order[tile]), at.y[tile], eta

    def likelihood(self, tile: slice) -> tuple[Likelihood, Array, Array]:
        """What the rows' density is made of: the likelihood, y and η_ik."""
        return self._once("likelihood", tile, lambda: self._likelihood(tile))

    def log_density(self, tile: slice) -> Float[Array, "K n"]:
        """ℓ_i(η_ik); −∞ where a node lies so far out that it overflows."""
        likelihood, y, eta = self.likelihood(tile)
        found = likelihood.log_kernel(y, eta, self.all.own) * self.all.multiplier[tile]
        return _finite(found, otherwise=-np.inf)

    def _derivatives(self, tile: slice) -> tuple[Array, ...]:
        likelihood, y, eta = self.likelihood(tile)
        found = likelihood.derivatives(y, eta, self.all.own)
        return tuple(_finite(np.broadcast_to(d * self.all.multiplier[tile], eta.shape)) for d in found)

    def derivatives(self, tile: slice) -> tuple[Array, ...]:
        """Its first three derivatives; zero where it is −∞, and the node has no share."""
        return self._once("derivatives", tile, lambda: self._derivatives(tile))

    @cached_property
    def _first(self) -> tuple[Float[Array, "K q"], Float[Array, "f K q"]]:
        """t_gk and g_gk."""
        at, u = self.all, self.u
        log_C = np.log(np.einsum("qmm->qm", at.C[self.part.levels])).sum(axis=1)
        prior = np.einsum("m,mkq->kq", at.penalty, u**2) / 2 + at.penalty.sum() * LOG_2PI / 2
        t = at.log_weights[:, None] - log_C - prior
        g = -np.einsum("mfq,mkq->fkq", self.E, u)
        for tile in self.part.tiles:
            t += self.by_level(tile, self.log_density(tile))
            for own, x in zip(g, at.moved[tile].T, strict=True):
                own += self.by_level(tile, x * self.derivatives(tile)[0])
        return t, g

    @cached_property
    def log_integral(self) -> Float[Array, "q"]:
        """log I_g."""
        return logsumexp(self._first[0], axis=0)

    @cached_property
    def share(self) -> Float[Array, "K q"]:
        """π_gk."""
        return np.exp(self._first[0] - self.log_integral)

    def shared(self, values: Float[Array, "*r K q"]) -> Float[Array, "*r K q"]:
        """Zero where a node has no share."""
        return values if self.share.all() else np.where(self.share > 0, values, 0.0)

    @cached_property
    def slope(self) -> Float[Array, "f K q"]:
        """g_gk."""
        return self.shared(self._first[1])

    @cached_property
    def mean_slope(self) -> Float[Array, "f q"]:
        """ḡ_g."""
        return np.einsum("kq,fkq->fq", self.share, self.slope)

    def totals(self) -> Totals:
        """Their part of F, ∇F and S."""
        at, g, f = self.all, self.slope, len(self.delta)
        mean, S = self.mean_slope, np.zeros((f, f))
        if f:
            S = np.einsum("mfq,mhq->fh", self.E, self.E) + mean @ mean.T
            S -= (g * self.share).reshape(f, -1) @ g.reshape(f, -1).T
            for tile in self.part.tiles:
                bend = np.einsum("kn,kn->n", self.share.take(self.codes(tile), axis=1), self.derivatives(tile)[1])
                S -= at.moved[tile].T @ (at.moved[tile] * bend[:, None])
        return Totals(float(self.log_integral.sum()), mean.sum(axis=1), S)

    def pull_back(self, bars: Bars, M: Float[Array, "f f"], toward: Float[Array, "f"], seed: float) -> None:
        """Add derivatives of seed · Σ log I_g − ½ tr(MS) + towardᵀ∇F, with M and ``toward`` held."""
        at, g, pi, u, mean = self.all, self.slope, self.share, self.u, self.mean_slope
        E, levels, tiles = self.E, self.part.levels, self.part.tiles
        Mg, push = np.tensordot(M, g, 1), (toward[:, None] - M @ mean)[:, None]
        r = pi * (Mg + push)
        each = np.einsum("fkq,fkq->kq", g, Mg / 2 + push)
        leverages = [np.einsum("nf,nf->n", at.moved[tile] @ M, at.moved[tile]) for tile in tiles]
        for tile, leverage in zip(tiles, leverages, strict=True):
            each += self.by_level(tile, leverage * self.derivatives(tile)[1]) / 2
        each = self.shared(each)
        t = pi * (seed + each - np.einsum("kq,kq->q", pi, each))

        u_bar = -at.penalty[:, None, None] * t * u - np.einsum("mfq,fkq->mkq", E, r)
        E_bar = -np.einsum("mkq,fkq->mfq", u, r) - np.einsum("mfq,fh->mhq", E, M)
        for tile, leverage in zip(tiles, leverages, strict=True):
            codes, X, (d1, d2, d3) = self.codes(tile), at.moved[tile], self.derivatives(tile)
            t_row, pi_row, r_row = (x.take(codes, axis=-1) for x in (t, pi, r))
            along, wide = np.einsum("nf,fkn->kn", X, r_row), pi_row * leverage / 2
            eta_bar = t_row * d1 + along * d2 + wide * d3
            X_bar = np.einsum("fkn,kn->nf", r_row, d1) + np.einsum("kn,kn->n", pi_row, d2)[:, None] * (X @ M)
            A_bar = np.einsum("kn,mkn->nm", eta_bar, u.take(codes, axis=2))
            A_bar += np.einsum("mfn,nf->nm", E.take(codes, axis=2), X_bar)
            for i, a in enumerate(at.A[tile].T):
                u_bar[i] += self.by_level(tile, eta_bar * a)
                E_bar[i] += self.by_level(tile, X_bar.T * a)
            bars.add_rows(at, tile, eta_bar.sum(axis=0), A_bar, X_bar, self.delta)
            if len(at.own):
                likelihood, y, eta = self.likelihood(tile)
                slopes = likelihood.theta_derivatives(y, eta, at.own)
                for i, orders in enumerate(slopes):
                    moved = sum(bar * _finite(d) for bar, d in zip((t_row, along, wide), orders, strict=True))
                    bars.own[i] += np.sum(moved * at.multiplier[tile])

        whole = u_bar.sum(axis=1)
        bars.v[:] += np.einsum("mfq,mq->f", E, whole)
        bars.u[levels] = whole.T
        bars.E[levels] = (E_bar + whole[:, None] * self.delta[:, None]).transpose(2, 0, 1)
        pulled = np.einsum("qij,jkq->ikq", at.C_inverse[levels], u_bar)
        bars.C[levels] = -np.einsum("ikq,jkq->qij", self.away, pulled) - seed * np.eye(len(u)) * at.C_inverse[levels]


def _finite(x: Float[Array, "K n"], otherwise: float = 0.0) -> Float[Array, "K n"]:
    return x if np.isfinite(x).all() else np.where(np.isfinite(x), x, otherwise)


@dataclass(frozen=True, eq=False)
class Bars:
    """Derivatives of a number in what the nodes are made of; to be added to."""

    L: Float[Array, "m m"]
    T: Scaling
    v: Float[Array, "f"]
    eta: Float[Array, "n"]
    own: Float[Array, "l"]
    u: Float[Array, "q m"]
    E: Float[Array, "q m f"]
    C: Float[Array, "q m m"]

    @classmethod
    def zero(cls, at: Levels) -> Bars:
        """Nothing yet."""
        m, f = at.A.shape[1], at.X.shape[1]
        runs = at.model.factors(at.mode.theta, lambda term, theta: term.factor(theta), flat=1.0)[1].runs if f else ()
        T = Scaling(np.zeros(f), tuple((place, np.zeros_like(L)) for place, L in runs))
        shapes = f, len(at.order), len(at.own), at.u.shape, at.E.shape, at.C.shape
        return cls(np.zeros((m, m)), T, *(np.zeros(shape) for shape in shapes))

    def add_rows(self, at: Levels, tile: slice, total: Array, A_bar: Array, X_bar: Array, delta: Array) -> None:
        """Add derivatives in η, a_i and x̃_i of some rows, as derivatives in the factors, in v and in η itself."""
        self.eta[tile] += total
        self.v[:] += at.X[tile].T @ total
        self.L[:] += at.Z[tile].T @ A_bar
        border, moved = at.border[tile], X_bar + total[:, None] * (at.v + delta)
        self.T.diagonal[:] += np.einsum("nf,nf->f", border, moved)
        for place, L in self.T.runs:
            L += border[:, place].T @ moved[:, place]
