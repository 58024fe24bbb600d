# SPDX-License-Identifier: BSD-3-Clause
"""The log joint density near one point: its value, score, Hessian, and how these move with θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, Scaling

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import LinearModel


class ThetaDerivatives(NamedTuple):
    """Explicit derivatives in θ, weights held."""

    log_joint: Float[Array, "k"]
    score: Float[Array, "p k"]


class Expansion(ABC):
    """log p(y, w|θ) near one (w, θ). What is asked for twice is computed once and kept with the point."""

    @property
    @abstractmethod
    def log_joint(self) -> float:
        """log p(y, w|θ), every constant kept."""

    @property
    @abstractmethod
    def score(self) -> Float[Array, "p"]:
        """∇_w log p(y, w|θ)."""

    @property
    @abstractmethod
    def neg_hessian(self) -> Arrow:
        """H = −∇²_w log p(y, w|θ)."""

    @abstractmethod
    def theta_derivatives(self) -> ThetaDerivatives:
        """∂/∂θ of `log_joint` and of `score` at fixed w."""

    @abstractmethod
    def neg_hessian_vjp(self, C: Arrow) -> tuple[Float[Array, "p"], Float[Array, "k"]]:
        """Derivatives in w and in θ of ⟨C, H(w, θ)⟩, for a C on the pattern of H."""


@dataclass(frozen=True, eq=False)
class RowSums:
    """The likelihood's share of the expansion: sums over rows, in the coordinates of w (before the factor)."""

    model: LinearModel
    w: Float[Array, "p"]
    theta: Float[Array, "l"]

    @cached_property
    def _own(self) -> Array:
        return self.theta[: len(self.model.likelihood.hyperparameters())]

    @cached_property
    def _gamma(self) -> Array:
        return self.theta[len(self._own) :]

    @cached_property
    def eta(self) -> Float[Array, "n"]:
        """The linear predictor (times `row_scale`)."""
        return self.model.rows.map(self._eta)

    def _eta(self, rows: slice) -> Array:
        m, c = self.model, self.model.columns
        top, bottom = c.split(self.w)
        eta = c.border[rows] @ bottom
        if c.n_levels:
            eta = eta + np.einsum("nm,nm->n", c.Z[rows], top[c.codes[rows]])
        if m.flat_in_theta:
            eta = eta + m.flat_basis.Q[rows] @ self._gamma
        return eta if m.offset is None else eta + m.scaled(m.offset)[rows]

    @cached_property
    def _y(self) -> Array:
        return self.model.scaled(np.asarray(self.model.rows.y, float))

    @cached_property
    def _derivatives(self) -> tuple[Array, Array, Array]:
        d1, d2, d3 = self.model.likelihood.derivatives(self._y, self.eta, self._own)
        return d1 * self.model.multiplier, d2 * self.model.multiplier, d3 * self.model.multiplier

    @cached_property
    def _own_derivatives(self) -> list[tuple[Array, Array, Array]]:
        each = self.model.likelihood.theta_derivatives(self._y, self.eta, self._own)
        return [tuple(d * self.model.multiplier for d in one) for one in each]  # type: ignore[misc]

    @cached_property
    def log_density(self) -> float:
        """Σ log p(y_i|η_i)."""
        kernel = self.model.likelihood.log_kernel(self._y, self.eta, self._own)
        rest = self.model.log_base + self.model.log_row_scale + self._repeated * self._peak[0]
        return float(np.sum(kernel * self.model.multiplier)) + rest

    @cached_property
    def _repeated(self) -> float:
        """How many observations rows stand for beyond one each, where their counts are in `row_scale`."""
        return self.model.rows.n_observations - self.model.rows.n if self.model.likelihood.gaussian else 0.0

    @cached_property
    def _peak(self) -> tuple[float, list[float]]:
        """log p(y|η = y) of a Gaussian, and its derivatives in θ: what a repeated observation adds to a scaled row."""
        if not self._repeated:
            return 0.0, [0.0] * len(self._own)
        zero = np.zeros(1)
        slopes = self.model.likelihood.theta_derivatives(zero, zero, self._own)
        return float(self.model.likelihood.log_density(zero, zero, self._own)[0]), [float(d[0]) for d, _, _ in slopes]

    @cached_property
    def score(self) -> Float[Array, "p"]:
        """Xᵀ ∂log p/∂η."""
        return self.model.columns.transpose_times(self._derivatives[0], self.model.rows)

    @cached_property
    def gram(self) -> Arrow:
        """XᵀWX with W = −∂²log p/∂η²."""
        return self.model.columns.gram(-self._derivatives[1], self.model.rows)

    def theta_derivatives(self) -> tuple[Float[Array, "l"], Float[Array, "p l"]]:
        """∂/∂θ of `log_density` and `score`, for the likelihood's own θ and then for flat weights in θ."""
        c, rows = self.model.columns, self.model.rows
        d1, d2, _ = self._derivatives
        values = [
            float(d.sum()) + self._repeated * p
            for (d, _, _), p in zip(self._own_derivatives, self._peak[1], strict=True)
        ]
        scores = [c.transpose_times(d, rows) for _, d, _ in self._own_derivatives]
        if self.model.flat_in_theta:
            Q = self.model.flat_basis.Q
            values += list(Q.T @ d1)
            scores += [c.transpose_times(d2 * q, rows) for q in Q.T]
        return np.array(values), np.array(scores).reshape(len(values), len(self.w)).T

    def curvature_vjp(self, C: Arrow) -> tuple[Float[Array, "p"], Float[Array, "l"]]:
        """Derivatives of ⟨C, XᵀWX⟩ through W: in w and in those same coordinates of θ."""
        c, m = self.model.columns, self.model
        leverage = C.quadratic(c.Z, c.codes, c.border)
        slope = -self._derivatives[2] * leverage
        own = [-float(d @ leverage) for _, _, d in self._own_derivatives]
        own += list(m.flat_basis.Q.T @ slope) if m.flat_in_theta else []
        return c.transpose_times(slope, m.rows), np.array(own)


@dataclass(frozen=True, eq=False)
class LinearExpansion(Expansion):
    """A linear model's log joint density in factor coordinates, w = L(θ) u:

    log p(y, u|θ) = Σ log p(y_i|η_i) − |u|²/2 − (q/2) log 2π,        η = X L u
    H = Lᵀ XᵀWX L + I   (no I on flat columns)
    """

    model: LinearModel
    u: Float[Array, "p"]
    theta: Float[Array, "k"]

    @cached_property
    def _factors(self) -> tuple[Array, Scaling]:
        """L of a level's block, and that of the border."""
        return self.model.factors(self.theta, lambda term, theta: term.factor(theta), flat=1.0)

    def _times_factor(self, u: Array, transposed: bool = False) -> Array:
        L, T = self._factors
        top, bottom = self.model.columns.split(u)
        return np.concatenate([(top @ (L if transposed else L.T)).reshape(-1), T.right(bottom, not transposed)])

    @cached_property
    def rows(self) -> RowSums:
        """The likelihood's share."""
        w, n_own = self._times_factor(self.u), self.model.n_prior_theta
        return RowSums(self.model, w, self.theta[n_own:])

    @cached_property
    def _penalised(self) -> Float[Array, "p"]:
        """1 where a weight has the prior N(0, 1), 0 where it is flat."""
        mask = np.ones(len(self.u))
        c = self.model.columns
        start = c.n_levels * c.Z.shape[1]
        mask[start : start + c.n_flat] = 0
        return mask

    @property
    def log_joint(self):
        u = self.u[self._penalised > 0]
        return float(self.rows.log_density - u @ u / 2 - len(u) * LOG_2PI / 2)

    @cached_property
    def score(self):
        return self._times_factor(self.rows.score, transposed=True) - self._penalised * self.u

    @cached_property
    def data_hessian(self) -> Arrow:
        """LᵀXᵀWXL: the likelihood's part of H."""
        return self.rows.gram.congruence(*self._factors)

    @cached_property
    def neg_hessian(self):
        return self.data_hessian.plus_identity(self.model.columns.split(self._penalised)[1])

    def _factor_bar(self, a: Array, u: Array) -> tuple[Array, Scaling]:
        """∂/∂L of aᵀLu, on L's pattern."""
        split = self.model.columns.split
        (a_top, a_bottom), (u_top, u_bottom) = split(a), split(u)
        runs = []
        for place, L in self._factors[1].runs:
            runs.append((place, a_bottom[place].reshape(-1, len(L)).T @ u_bottom[place].reshape(-1, len(L))))
        return a_top.T @ u_top, Scaling(a_bottom * u_bottom, tuple(runs))

    def _prior_vjp(self, bar: tuple[Array, Scaling]) -> list[Array]:
        """Pull a derivative in (L of a block, border's factor) back to the θ of each term."""
        parts = self.model.parts_of(*bar)
        terms = ((term, theta) for term, theta in self.model.term_theta(self.theta) if not term.flat)
        return [term.factor_vjp(theta, parts[id(term)]) for term, theta in terms]

    def theta_derivatives(self):
        log_rows, score_rows = self.rows.theta_derivatives()
        log_prior = self._prior_vjp(self._factor_bar(self.rows.score, self.u))
        columns = [self._score_jvp(i) for i in range(self.model.n_prior_theta)]
        columns += [self._times_factor(s, transposed=True) for s in score_rows.T]
        score = np.array(columns).reshape(len(columns), len(self.u)).T
        return ThetaDerivatives(np.concatenate([*log_prior, log_rows]), score)

    def _score_jvp(self, i: int) -> Array:
        """∂/∂θ_i of Lᵀ a(Lu) with a = Xᵀ∂log p/∂η: L̇ᵀa − LᵀXᵀWX L̇u."""
        direction = np.zeros(self.model.n_prior_theta)
        direction[i] = 1.0
        by_term = {id(t): d for t, d in self.model.term_theta(direction)}
        L_dot, T_dot = self.model.factors(self.theta, lambda t, theta: t.factor_jvp(theta, by_term[id(t)]), flat=0.0)
        split = self.model.columns.split
        (a_top, a_bottom), (u_top, u_bottom) = split(self.rows.score), split(self.u)
        direct = np.concatenate([(a_top @ L_dot).reshape(-1), T_dot.right(a_bottom)])
        moved = np.concatenate([(u_top @ L_dot.T).reshape(-1), T_dot.right(u_bottom, transposed=True)])
        return direct - self._times_factor(self.rows.gram.matvec(moved), transposed=True)

    def neg_hessian_vjp(self, C):
        L, T = self._factors
        slope_w, slope_rows = self.rows.curvature_vjp(C.congruence(L, T, transposed=True))
        through_eta = self._factor_bar(slope_w, self.u)
        # ∂⟨C, LᵀGL⟩/∂L = 2 GLC on L's pattern
        G = self.rows.gram
        LC, LCx = L @ C.blocks, L @ C.cross
        TC, TCx = T.right(C.border, transposed=True).T, T.right(C.cross, transposed=True)
        block = np.einsum("qmk,qkn->mn", G.blocks, LC) + np.einsum("qmf,qnf->mn", G.cross, TCx)
        if T.runs:
            border = T.on_pattern(np.einsum("qmf,qmg->fg", G.cross, LCx, optimize=True) + G.border @ TC)
        else:
            border = Scaling(np.einsum("qmf,qmf->f", G.cross, LCx) + np.einsum("fg,gf->f", G.border, TC))
        both = [Scaling(x.diagonal, x.runs) for x in (through_eta[1], border)]
        runs = tuple((p, a + 2 * b) for (p, a), (_, b) in zip(both[0].runs, both[1].runs, strict=True))
        bars = through_eta[0] + 2 * block, Scaling(both[0].diagonal + 2 * both[1].diagonal, runs)
        slope_u = self._times_factor(slope_w, transposed=True)
        return slope_u, np.concatenate([*self._prior_vjp(bars), slope_rows])
