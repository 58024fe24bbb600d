# SPDX-License-Identifier: BSD-3-Clause
"""The log joint density near one point: its value, score, Hessian, and how these move with θ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marglik.columns import weighted_gram
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, NotPositiveDefinite, Scaling, level_blocks, stacked
from marglik.validate import Unsupported

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Likelihood
    from marglik.likelihoods.averages import Averaged
    from marglik.model import LinearModel
    from marglik.priors import Term

MANY = 50
"""From so many dense columns on, XᵀWX costs much more than Xw and Xᵀr."""


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
    def log_det_slopes(self, H: Arrow) -> tuple[Float[Array, "p"], Float[Array, "k"]]:
        """Derivatives of log|H(w, θ)| in w and in θ: those of ⟨H⁻¹, H(w, θ)⟩, the given H held."""

    @property
    def costly(self) -> bool:
        """Whether H costs much more than a score."""
        return False

    def neg_hessian_of_rows_at(self, other: Expansion) -> Arrow:
        """H with what the rows add to it taken from another point, for steps only."""
        return self.neg_hessian

    def upward(self) -> Float[Array, "p"] | None:
        """The direction in which the log joint bends up most, of a length at which that counts; None if not known."""
        return None

    def ascent(self) -> Float[Array, "p"]:
        """A step along which the log joint rises, where H is not positive definite."""
        return shifted_step(self.neg_hessian, self.score)


def shifted_step(H: Arrow, score: Float[Array, "p"]) -> Float[Array, "p"]:
    """(H + cI)⁻¹ times the score, with the least c of a few that makes it positive definite; NaN without one."""
    shift = 1e-3 * float(max(np.abs(H.border).max(initial=0), np.abs(H.blocks).max(initial=0), 1e-8))
    while np.isfinite(shift):
        try:
            return H.plus_shift(shift).solve(score)
        except NotPositiveDefinite:
            shift *= 10
    return np.full_like(score, np.nan)


@dataclass(frozen=True, eq=False)
class RowSums:
    """The likelihood's share of the expansion: sums over rows, in the coordinates of w (before the factor)."""

    model: LinearModel
    likelihood: Likelihood | Averaged
    w: Float[Array, "p"]
    theta: Float[Array, "l"]

    @cached_property
    def own(self) -> Array:
        """The likelihood's θ."""
        return self.theta[: len(self.model.likelihood.hyperparameters())]

    @cached_property
    def _gamma(self) -> Array:
        return self.theta[len(self.own) :]

    @cached_property
    def eta(self) -> Float[Array, "n"]:
        """The linear predictor (times `row_scale`)."""
        return self.model.rows.map(self._eta)

    def _eta(self, rows: slice) -> Array:
        m = self.model
        eta = m.columns.times(self.w, rows)
        if m.flat_in_theta:
            eta += m.flat_basis.Q[rows] @ self._gamma
        return eta if m.offset is None else eta + m.scaled(m.offset)[rows]

    @cached_property
    def y(self) -> Array:
        """The response (times `row_scale`)."""
        return self.model.scaled(np.asarray(self.model.rows.y, float))

    @cached_property
    def _derivatives(self) -> tuple[Array, Array, Array]:
        d1, d2, d3 = self.likelihood.derivatives(self.y, self.eta, self.own)
        return d1 * self.model.multiplier, d2 * self.model.multiplier, d3 * self.model.multiplier

    @cached_property
    def _own_derivatives(self) -> list[tuple[Array, Array, Array]]:
        each = self.likelihood.theta_derivatives(self.y, self.eta, self.own)
        return [tuple(d * self.model.multiplier for d in one) for one in each]  # type: ignore[misc]

    @cached_property
    def log_density(self) -> float:
        """Σ log p(y_i|η_i)."""
        kernel = self.likelihood.log_kernel(self.y, self.eta, self.own)
        return float(np.sum(kernel * self.model.multiplier)) + self.constant

    @property
    def constant(self) -> float:
        """What it has beside log kernels: it depends on θ alone."""
        return self.model.log_base + self.model.log_row_scale + self._repeated * self._peak[0]

    @property
    def constant_slopes(self) -> Float[Array, "l"]:
        """The derivatives of `constant` in the likelihood's own θ."""
        return self._repeated * np.array(self._peak[1])

    @cached_property
    def _repeated(self) -> float:
        """How many observations rows stand for beyond one each, where their counts are in `row_scale`."""
        return self.model.rows.n_observations - self.model.rows.n if self.model.likelihood.gaussian else 0.0

    @cached_property
    def _peak(self) -> tuple[float, list[float]]:
        """log p(y|η = y) of a Gaussian, and its derivatives in θ: what a repeated observation adds to a scaled row."""
        if not self._repeated:
            return 0.0, [0.0] * len(self.own)
        zero = np.zeros(1)
        slopes = self.model.likelihood.theta_derivatives(zero, zero, self.own)
        return float(self.model.likelihood.log_density(zero, zero, self.own)[0]), [float(d[0]) for d, _, _ in slopes]

    @cached_property
    def score(self) -> Float[Array, "p"]:
        """Xᵀ ∂log p/∂η."""
        return self.model.columns.transpose_times(self._derivatives[0], self.model.rows)

    @cached_property
    def weights(self) -> Float[Array, "n"]:
        """W = −∂²log p/∂η²."""
        return -self._derivatives[1]

    @property
    def _even(self) -> bool:
        """Whether W is a multiple of I: the Gram matrix of the columns is then made once for all θ."""
        return self.model.likelihood.gaussian and self.likelihood is self.model.likelihood

    @cached_property
    def gram(self) -> Arrow:
        """XᵀWX."""
        if self._even:
            return self.model.unit_gram.times(float(self.weights[0]))
        return self.model.columns.gram(self.weights, self.model.rows)

    @cached_property
    def expected_gram(self) -> Arrow:
        """XᵀWX with the expectation of W over y."""
        expected = self.likelihood.expected_information(self.eta, self.own)
        return self.model.columns.gram(expected * self.model.multiplier, self.model.rows)

    @cached_property
    def flat_gram(self) -> Float[Array, "f f"]:
        """QᵀWQ, for flat weights in θ."""
        return weighted_gram(self.model.flat_basis.Q, self.weights)

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
        if self._even:  # W moves with σ alone
            slopes = [float(d[0]) for _, _, d in self._own_derivatives]
            total = C.inner(m.unit_gram)
            return np.zeros_like(self.w), np.array([-d * total for d in slopes] + [0.0] * len(self._gamma))
        leverage = c.quadratic(C, m.rows)
        slope = -self._derivatives[2] * leverage
        own = [-float(d @ leverage) for _, _, d in self._own_derivatives]
        own += list(m.flat_basis.Q.T @ slope) if m.flat_in_theta else []
        return c.transpose_times(slope, m.rows), np.array(own)


def _along(directions: Mapping[int, Array], term: Term, theta: Float[Array, "k"]) -> Array:
    return term.acting(theta, directions[id(term)])


def _relative(L: Float[Array, "m m"], slope: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """N = L⁻¹∂L + (L⁻¹∂L)ᵀ."""
    inside = np.linalg.solve(L, slope)
    return inside + inside.T


def _paired(R: Float[Array, "q m m"], N: list[Float[Array, "m m"]]) -> Float[Array, "k k"]:
    """½ Σ_g tr R_gN_kR_gN_l."""
    products = [R @ one for one in N]
    return np.array([[np.einsum("qij,qji->", a, b) / 2 for b in products] for a in products]).reshape(len(N), len(N))


@dataclass(frozen=True, eq=False)
class LinearExpansion(Expansion):
    """A linear model's log joint density in factor coordinates, w = L(θ) u:

    log p(y, u|θ) = Σ log p(y_i|η_i) − |u|²/2 − (q/2) log 2π,        η = X L u
    H = Lᵀ XᵀWX L + I   (no I on flat columns)

    ``likelihood`` takes the place of the model's, if it is given.
    """

    model: LinearModel
    u: Float[Array, "p"]
    theta: Float[Array, "k"]
    likelihood: Averaged | None = None

    @cached_property
    def _factors(self) -> tuple[Array, Scaling]:
        """L of a level's block, and that of the border."""
        return self.model.factors(self.theta, lambda term, theta: term.acting(theta), flat=1.0)

    def _times_factor(self, u: Array, transposed: bool = False) -> Array:
        L, T = self._factors
        top, bottom = self.model.columns.split(u)
        top = top * L[0, 0] if len(L) == 1 else top @ (L if transposed else L.T)
        return np.concatenate([top.reshape(-1), T.right(bottom, not transposed)])

    @cached_property
    def rows(self) -> RowSums:
        """The likelihood's share."""
        w, n_own = self._times_factor(self.u), self.model.n_prior_theta
        return RowSums(self.model, self.likelihood or self.model.likelihood, w, self.theta[n_own:])

    @cached_property
    def penalised(self) -> Float[Array, "p"]:
        """1 where a weight has the prior N(0, 1), 0 where it is flat."""
        mask = np.ones(len(self.u))
        self.model.columns.split(mask)[1][: self.model.columns.n_flat] = 0
        return mask

    @property
    def log_joint(self):
        u, n_flat = self.u, self.model.columns.n_flat
        flat = self.model.columns.split(u)[1][:n_flat]
        return float(self.rows.log_density - (u @ u - flat @ flat) / 2 - (len(u) - n_flat) * LOG_2PI / 2)

    @cached_property
    def score(self):
        return self._times_factor(self.rows.score, transposed=True) - self.penalised * self.u

    @cached_property
    def data_hessian(self) -> Arrow:
        """LᵀXᵀWXL: the likelihood's part of H."""
        return self.rows.gram.congruence(*self._factors)

    @property
    def costly(self):
        return self.model.columns.dense.shape[1] >= MANY

    def neg_hessian_of_rows_at(self, other):
        H = other.rows.gram.congruence(*self._factors)
        return H.plus_identity(self.model.columns.split(self.penalised)[1])

    @cached_property
    def neg_hessian(self):
        return self._with_prior(self.data_hessian, self.rows.weights)

    def _with_prior(self, data_hessian: Arrow, weights: Float[Array, "n"]) -> Arrow:
        mask = self.model.columns.split(self.penalised)[1]
        rooted = partial(self.model.columns.rooted, weights, *self._factors, mask)
        return replace(data_hessian.plus_identity(mask), rooted=rooted)

    def precision(self, weights: Float[Array, "n"]) -> Arrow:
        """LᵀXᵀ diag(weights) XL + I."""
        gram = self.model.columns.gram(weights, self.model.rows)
        return self._with_prior(gram.congruence(*self._factors), weights)

    def variances(self, C: Arrow) -> Float[Array, "n"]:
        """x_iᵀL C Lᵀx_i: those of η_i, where C is the covariance of u."""
        C = C.congruence(*self._factors, transposed=True)
        return np.maximum(self.model.columns.quadratic(C, self.model.rows), 0.0)

    def predictor_of(self, step: Float[Array, "p"]) -> Float[Array, "n"]:
        """XLu."""
        w = self._times_factor(step)
        return self.model.rows.map(lambda rows: self.model.columns.times(w, rows))

    def ascent(self):
        """Fisher's step: H with the expected information of the rows."""
        try:
            H = self.rows.expected_gram.congruence(*self._factors)
            return H.plus_identity(self.model.columns.split(self.penalised)[1]).solve(self.score)
        except (NotPositiveDefinite, Unsupported):
            return shifted_step(self.neg_hessian, self.score)

    def _factor_bar(self, a: Array, u: Array) -> tuple[Array, Scaling]:
        """∂/∂L of aᵀLu, on L's pattern."""
        split = self.model.columns.split
        (a_top, a_bottom), (u_top, u_bottom) = split(a), split(u)
        return a_top.T @ u_top, self._factors[1].on_pattern((a_bottom[None], u_bottom[None]))

    def _prior_vjp(self, bar: tuple[Array, Scaling]) -> list[Array]:
        """Pull a derivative in (L of a block, border's factor) back to the θ of each term."""
        parts = self.model.parts_of(*bar)
        terms = ((term, theta) for term, theta in self.model.term_theta(self.theta) if not term.flat)
        return [term.factor_vjp(theta, parts[id(term)]) for term, theta in terms]

    def theta_derivatives(self):
        log_rows, score_rows = self.rows.theta_derivatives()
        log_prior = self._prior_vjp(self._factor_bar(self.rows.score, self.u))
        columns = [self._score_jvp(*slopes) for slopes in self._factor_slopes]
        columns += [self._times_factor(s, transposed=True) for s in score_rows.T]
        score = np.array(columns).reshape(len(columns), len(self.u)).T
        return ThetaDerivatives(np.concatenate([*log_prior, log_rows]), score)

    @cached_property
    def _factor_slopes(self) -> list[tuple[Array, Scaling]]:
        """∂L/∂θ_i of a level's block, and of the border's factor, for each coordinate of the prior."""
        out = []
        for direction in np.eye(self.model.n_prior_theta):
            along = {id(t): d for t, d in self.model.term_theta(direction)}
            out.append(self.model.factors(self.theta, partial(_along, along), flat=0.0))
        return out

    def _score_jvp(self, L_dot: Float[Array, "m m"], T_dot: Scaling) -> Array:
        """∂/∂θ_i of Lᵀ a(Lu) with a = Xᵀ∂log p/∂η: L̇ᵀa − LᵀXᵀWX L̇u."""
        split = self.model.columns.split
        (a_top, a_bottom), (u_top, u_bottom) = split(self.rows.score), split(self.u)
        direct = np.concatenate([(a_top @ L_dot).reshape(-1), T_dot.right(a_bottom)])
        moved = np.concatenate([(u_top @ L_dot.T).reshape(-1), T_dot.right(u_bottom, transposed=True)])
        return direct - self._times_factor(self.rows.gram.matvec(moved), transposed=True)

    def information(self, C: Arrow, score: Float[Array, "p k"], drift: Float[Array, "p k"]) -> Float[Array, "k k"]:
        """What the data are expected to say of θ, W held and the covariances of different levels left out.

        With R = I − C, C = H⁻¹, and N_k = L⁻¹∂_kL + (L⁻¹∂_kL)ᵀ it is ½ Σ_g tr R_gN_kR_gN_l for the prior's θ, and
        QᵀWQ − SᵀH⁻¹S for flat weights in θ, S the derivatives of the score and H⁻¹S the drift of the mode. Zero for the
        likelihood's own. For dense columns with correlated weights see `_kernel_information`.
        """
        L, T = self._factors
        d, k = self.model.columns.dense.shape[1], self.model.n_prior_theta
        n_outer = len(self.model.columns.outer)
        out = np.zeros((len(self.theta),) * 2)
        if self.model.groupings:
            out[:k, :k] = _paired(np.eye(len(L)) - C.blocks, [_relative(L, dot) for dot, _ in self._factor_slopes])
        for i, (place, own) in enumerate(T.runs[:n_outer]):
            blocks = level_blocks(C.border, place, (place.stop - place.start) // len(own))
            relative = [_relative(own, dot.runs[i][1]) for _, dot in self._factor_slopes]
            out[:k, :k] += _paired(np.eye(len(own)) - blocks, relative)
        if len(T.runs) > n_outer:
            out[:k, :k] += self._kernel_information(C, d, n_outer)
        else:
            penalised = slice(self.model.columns.n_flat, d)
            own = T.diagonal[penalised]  # zero where a scale is held at zero
            along = (2 * dot.diagonal[penalised] for _, dot in self._factor_slopes)
            slopes = np.array([np.divide(dot, own, out=np.zeros(len(own)), where=own != 0) for dot in along])
            R = np.eye(d)[penalised, penalised] - C.border[penalised, penalised]
            slopes = slopes.reshape(k, len(R))
            out[:k, :k] += slopes @ R**2 @ slopes.T / 2
        if self.model.flat_in_theta:
            flat = slice(len(self.theta) - self.model.n_flat, len(self.theta))
            out[flat, flat] = self.rows.flat_gram - score[:, flat].T @ drift[:, flat]
        return out

    def _kernel_information(self, C: Arrow, d: int, n_outer: int) -> Float[Array, "k k"]:
        """½ tr QΣ̇_kQΣ̇_l over the d dense columns, where L⁻¹ may not exist.

            Q = G̃ − G̃TS⁻¹TᵀG̃,    Σ̇_k = Ṫ_kTᵀ + TṪ_kᵀ

        G̃ is XᵀWX on the border once the inner levels are eliminated, S⁻¹ the border's part of C = H⁻¹.
        """
        (L, T), G = self._factors, self.rows.gram
        rest = G.border[:d]
        if self.model.groupings:
            V = L.T @ G.cross
            inner = np.eye(len(L)) + L.T @ G.blocks @ L
            rest = rest - stacked(V[:, :, :d]).T @ stacked(np.linalg.solve(inner, V))
        GT = T.right(rest)
        Q = rest[:, :d] - GT @ C.border @ GT.T
        own, moved = T.head(d, n_outer), []
        for _, slope in self._factor_slopes:
            dot = slope.head(d, n_outer)
            moved.append(own.right(dot.right(Q), transposed=True) + dot.right(own.right(Q), transposed=True))
        return np.array([[np.einsum("ij,ji->", a, b) / 2 for b in moved] for a in moved])

    def row_slopes(self, C: Arrow) -> tuple[Float[Array, "p"], Float[Array, "l"]]:
        """The part of `neg_hessian_vjp` that goes through W, in w and in the rows' θ; that of the last C is kept."""
        known = self.__dict__.get("_row_slopes")
        if known is None or known[0] is not C:
            known = C, self.rows.curvature_vjp(C.congruence(*self._factors, transposed=True))
            self.__dict__["_row_slopes"] = known
        return known[1]

    def slope_in_variance(self, C: Arrow, member: Float[Array, "f"]) -> float:
        """∂/∂s² of Laplace's log evidence at this mode for a scale s = 0 of dense columns, with C = H⁻¹.

            (|b|² − tr EᵀBE − z·∂w) / 2,    B = G − GTCTG,    ∂w = Eb − TCTGEb,    b = EᵀXᵀ∂log p/∂η

        E are the columns, times what s multiplies; z is the derivative of ⟨C, H⟩ in w, which moves by ∂w.
        """
        T, G, z = self._factors[1].diagonal, self.rows.gram.border, self.row_slopes(C)[0]
        j = np.flatnonzero(member)
        E = member[j]
        b, GE = self.rows.score[j] * E, G[:, j] * E
        CTGE = C.border @ (T[:, None] * GE)
        trace = np.sum(G[j, j] * E**2) - np.sum(T[:, None] * GE * CTGE)
        return float(b @ b - trace - z[j] @ (E * b) + z @ (T * (CTGE @ b))) / 2

    def log_det_slopes(self, H):
        return self.neg_hessian_vjp(H.inverse_on_pattern())

    def neg_hessian_vjp(self, C: Arrow) -> tuple[Float[Array, "p"], Float[Array, "k"]]:
        """Derivatives in w and in θ of ⟨C, H(w, θ)⟩, for a C on the pattern of H."""
        slope_w, slope_rows = self.row_slopes(C)
        slope_u = self._times_factor(slope_w, transposed=True)
        through_eta = np.concatenate([*self._prior_vjp(self._factor_bar(slope_w, self.u)), np.zeros(0)])
        return slope_u, np.concatenate([through_eta + self.factor_slope(C), slope_rows])

    def factor_slope(self, C: Arrow) -> Float[Array, "l"]:
        """The derivative of ⟨C, LᵀGL⟩ in the prior's θ, G = XᵀWX held: 2 GLC on L's pattern."""
        (L, T), G = self._factors, self.rows.gram
        LC, LCx = L @ C.blocks, L @ C.cross
        TC, TCx = T.right(C.border, transposed=True).T, T.right(C.cross, transposed=True)
        block = np.tensordot(G.blocks, LC, ((0, 2), (0, 1))) + np.tensordot(G.cross, TCx, ((0, 2), (0, 2)))
        border = T.on_pattern((stacked(G.cross), stacked(LCx)), (G.border, TC))
        return 2 * np.concatenate([*self._prior_vjp((block, border)), np.zeros(0)])
