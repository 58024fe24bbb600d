# SPDX-License-Identifier: BSD-3-Clause
"""Adaptive Gauss–Hermite quadrature: one small integral for each level of a grouping factor.

In factor coordinates the integrand splits into levels once the border's weights v are given,

    p(y|θ) = ∫ N(v) Π_g I_g(v) dv,    log I_g(v) = log ∫ exp(Σ_{i∈g} ℓ_i(η_i) − |u|²/2 − (m/2) log 2π) du
    η_i = a_iᵀu + x_iᵀv + o_i,    a_i = Lᵀz_i

About the mode (û, v̂₀) of the joint density and its negative Hessian, with blocks D_g = C_gC_gᵀ and cross terms B_g, the
nodes and the integral of a level are

    u_gk = û_g + E_g(v − v̂₀) + C_g⁻ᵀx_k,    E_g = −D_g⁻¹B_g
    log I_g = log Σ_k λ_k exp(t_gk),    t_gk = Σ_{i∈g} ℓ_i(η_ik) − |u_gk|²/2 − (m/2) log 2π − log|C_g|

with the nodes x_k and the weights λ_k of Σ_k λ_k f(x_k) ≈ ∫ f(x) dx. What is left is Laplace's method for v: with
F(v) = Σ_g log I_g + log N(v), its mode v̂ and S = −∇²F(v̂),

    log p(y|θ) ≈ F(v̂) + (f log 2π − log|S|)/2

and with π_gk the share of node k in its level's sum, g_gk = ∂t_gk/∂v and K_gk = ∂²t_gk/∂v∂vᵀ,

    ∇F = Σ_gk π_gk g_gk − v,    S = I − Σ_g [Σ_k π_gk (K_gk + g_gkg_gkᵀ) − ḡ_gḡ_gᵀ],    ḡ_g = Σ_k π_gk g_gk

One point a dimension is Laplace's method for all weights, for any border. The gradient is that of these very sums: with
M = S⁻¹ and c = ∂(−½ log|S|)/∂v, it is the derivative in θ, v held, of F − ½ tr(MS) + (Mc)ᵀ∇F, and the nodes move with
the mode and its Hessian.

References
----------
Liu & Pierce (1994), Biometrika 81, 624. Pinheiro & Bates (1995), J. Comput. Graph. Stat. 4, 12. Pinheiro & Chao (2006),
J. Comput. Graph. Stat. 15, 58. Giles (2008), in Advances in Automatic Differentiation, 35 (derivative of a Cholesky
factor).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod, first_weights
from marglik.evidence.laplace import SADDLE, Newton, Slopes
from marglik.evidence.nodes import Bars, Levels, Totals
from marglik.evidence.scoring import interior_maximum
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow, NotPositiveDefinite, Scaling, cholesky, cholesky_inverse, solve_lower
from marglik.model import LinearModel
from marglik.posterior.base import Gaussian
from marglik.validate import listed

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

MOST_DIMENSIONS = 3


@dataclass(frozen=True)
class Quadrature(EvidenceMethod):
    """Adaptive Gauss–Hermite quadrature over the levels of one grouping factor, of up to three coefficients each.

        log p(y|θ) = Σ_g log ∫ p(y_g|u_g, θ) N(u_g) du_g ≈ Σ_g log Σ_k λ_k p(y_g|u_gk, θ) N(u_gk) / |C_g|
        u_gk = û_g + C_g⁻ᵀx_k,    −∇² log p(y_g, u|θ) at its mode û_g = C_gC_gᵀ

    with ``points`` nodes a dimension; one is Laplace's method, and more converge to the integral. Without a grouping
    factor, all columns together are one such integral, if they are no more than three. Fixed effects that are
    integrated out (``reml=True``), and dense columns beside the grouping factor, are left to Laplace's method, for the
    density from which the levels are integrated already.

    The posterior is that Gaussian: fixed effects and dense columns about the mode of what quadrature leaves, each
    level about its mode for given fixed effects, as Laplace's method has it.

    Parameters
    ----------
    points
        Nodes a dimension. With d coefficients a level, each has pᵈ nodes, p of them a dimension.

    References
    ----------
    Liu & Pierce (1994), Biometrika 81, 624. Pinheiro & Bates (1995), J. Comput. Graph. Stat. 4, 12.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Quadrature
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import RandomEffects
    >>> pupils = RandomEffects([0, 0, 0, 1, 1, 1], ["a", "b"], group="pupil")
    >>> model = LinearModel(Bernoulli(), pupils, np.array([1, 1, 1, 0, 1, 0]))
    >>> [round(Quadrature(points)(model, np.array([2.0])).log_value, 5) for points in (1, 5, 15, 25)]
    [-3.94491, -3.88231, -3.8796, -3.8796]
    """

    points: int = 15
    find_mode: Newton = field(default_factory=Newton)
    modal: ClassVar[bool] = False

    def __post_init__(self):
        whole = isinstance(self.points, int | np.integer) and not isinstance(self.points, bool)
        if not whole or self.points < 1:
            raise ValueError(
                f"points must be a whole number, 1 or more, but is {self.points!r}. It is the number of quadrature "
                "points in each dimension; 15 is usual."
            )

    def __call__(self, model, theta, start=None):
        model = model.compact(theta)
        w0 = first_weights(model, theta, start)
        mode, w, trouble = self.find_mode(model, theta, w0)
        try:
            trouble = trouble or model.improper(mode.neg_hessian)
            at = Marginal.about(Levels.of(mode, w, self.points))  # type: ignore[arg-type]
            log_value = at.log_value
        except NotPositiveDefinite:
            return Evidence(-np.inf, np.full(len(theta), np.nan), checks={"mode": SADDLE})
        trouble = trouble or at.trouble
        checks = {} if trouble is None else {"mode": trouble}
        return Evidence(log_value, lambda: at.gradient, posterior=at.posterior, checks=checks)

    def unsuited(self, model):
        if not isinstance(model, LinearModel):
            return "is for linear models, formulas and LinearModel, and cannot split up a program"
        most = MOST_DIMENSIONS
        if len(model.groupings) > 1:
            groups = listed(grouping.terms[0].group for grouping in model.groupings)
            return f"integrates over the levels of one grouping factor, but this model has {groups}"
        if model.groupings:
            size, group = model.groupings[0].Z.shape[1], model.groupings[0].terms[0].group
            few = f"integrates over {most} coefficients a level at most, but each level of {group} has {size}"
            return few if size > most else None
        size = sum(term.n_weights for term in model.prior if model.reml or not term.flat)
        if not size:
            return "integrates over the levels of a grouping factor, but this model has nothing to integrate over"
        few = f"integrates over {most} weights at most where there is no grouping factor, but this model has {size}"
        return few if size > most else None

    def maximum(self, model, theta, free):
        return interior_maximum(self, model, theta, free)

    def assessed(self, model, theta, start=None):
        finer = replace(self, points=max(2 * self.points - 1, 3))
        gap = abs(finer(model, theta, start).log_value - self(model, theta, start).log_value)
        where = "over levels " if model.groupings else ""
        points = "1 point" if self.points == 1 else f"{self.points} points"
        sentence = f"the integral {where}is by quadrature with {points} a dimension"
        sentence += f" ({finer.points} move it by {f'{gap:.1g}' if gap > 1e-10 else 'less than 1e-10'} nats)"
        beside = model.groupings and (model.dense or (model.n_flat and not model.flat_in_theta))
        return sentence + (", but that over all else by Laplace's method" if beside else "")


@dataclass(frozen=True, eq=False)
class Marginal:
    """The density of v that is left when levels are integrated, about its mode.

    Parameters
    ----------
    levels
        The nodes.
    delta : (f,)
        v̂ − v̂₀.
    totals
        F, ∇F and S at v̂.
    trouble
        What went wrong on the way there, if anything did.
    """

    levels: Levels
    delta: Float[Array, "f"]
    totals: Totals
    trouble: str | None = None

    @classmethod
    def about(cls, levels: Levels, tolerance: float = 1e-12, max_steps: int = 100) -> Marginal:
        """By Newton's method with backtracking; where S is not positive definite, by Laplace's in its place."""
        delta = np.zeros(len(levels.v))
        at = levels.totals(delta)
        if not len(delta):
            return cls(levels, delta, at)
        laplace = levels.H.border + np.einsum("qmf,qmh->fh", levels.B, levels.E)
        for _ in range(max_steps):
            step = _solve(at.precision, at.score)
            step = _solve(laplace, at.score) if step is None else step
            gain = np.nan if step is None else float(at.score @ step)
            if step is None or not np.isfinite(gain):
                return cls(levels, delta, at, "The integrated density or its derivatives are not finite.")
            if gain < tolerance * (1 + 1e-3 * abs(at.value)):
                return cls(levels, delta + step, levels.totals(delta + step))
            fraction = 1.0
            while not (there := levels.totals(delta + fraction * step)).value >= at.value + 1e-4 * fraction * gain:
                fraction /= 2
                if fraction < 1e-10:
                    why = "Newton's method could not climb the integrated density any further, short of a mode."
                    return cls(levels, delta, at, why)
            delta, at = delta + fraction * step, there
        return cls(levels, delta, at, f"Newton's method did not reach the mode of fixed effects in {max_steps} steps.")

    @cached_property
    def half(self) -> Float[Array, "f f"]:
        """Cholesky factor of S."""
        return cholesky(self.totals.precision)

    @property
    def log_value(self) -> float:
        """log p(y|θ)."""
        model, f = self.levels.model, len(self.delta)
        rest = self.levels.mode.rows.constant - model.log_volume
        return float(self.totals.value + f * LOG_2PI / 2 - np.log(self.half.diagonal()).sum() + rest)

    @property
    def posterior(self) -> Gaussian:
        """v about v̂ with precision S, levels given v as Laplace's method has them."""
        at, H = self.levels, self.levels.H
        if len(self.delta):
            between = np.einsum("qmf,qmh->fh", at.B, at.E)
            H = Arrow(H.blocks, H.cross, self.totals.precision - between)
        return Gaussian(self._joined(at.u + at.E @ self.delta, at.v + self.delta), H, at.mode.theta, self.slopes)

    @cached_property
    def slopes(self) -> Slopes:
        """How the mode moves with θ."""
        return Slopes(self.levels.mode, self.levels.H)

    def _joined(self, u: Float[Array, "q m"], v: Float[Array, "f"]) -> Float[Array, "p"]:
        """In the model's order."""
        at = self.levels
        if not at.model.groupings:
            return u[0]
        out = np.zeros(at.H.size)
        top, bottom = at.H.split(out)
        top[at.present], bottom[:] = u, v
        return out

    @property
    def gradient(self) -> Float[Array, "k"]:
        """In θ."""
        at, model, f = self.levels, self.levels.model, len(self.delta)
        M = cholesky_inverse(self.half)
        toward = M @ self._pulled(M, np.zeros(f), 0.0).v if f else np.zeros(f)
        bars = self._pulled(M, toward, 1.0)

        runs = model.factors(at.mode.theta, lambda term, theta: term.factor(theta), flat=1.0)[1].runs
        whole = Scaling(bars.L.diagonal(), tuple((place, bars.L[place, place]) for place, _ in runs))
        border = bars.T if model.groupings else whole
        parts = model.parts_of(bars.L if model.groupings else np.zeros((1, 1)), border)
        explicit = [term.factor_vjp(x, parts[id(term)]) for term, x in model.term_theta(at.mode.theta) if not term.flat]
        explicit.append(bars.own + at.mode.rows.constant_slopes)
        if model.flat_in_theta:
            explicit.append(model.flat_basis.Q[at.order].T @ bars.eta)

        # The nodes lie about the mode, which moves by ∂ŵ/∂θ, and H with it.
        w_bar = self._joined(bars.u, -np.einsum("qmf,qm->f", at.E, bars.u))
        slope_w, slope_theta = at.mode.neg_hessian_vjp(self._hessian_bar(bars))
        return np.concatenate(explicit) + slope_theta + self.slopes.drift.T @ (w_bar + slope_w)

    def _pulled(self, M: Float[Array, "f f"], toward: Float[Array, "f"], seed: float) -> Bars:
        bars = Bars.zero(self.levels)
        with np.errstate(over="ignore", invalid="ignore"):
            for nodes in self.levels.nodes(self.delta):
                nodes.pull_back(bars, M, toward, seed)
        return bars

    def _hessian_bar(self, bars: Bars) -> Arrow:
        """Derivatives in H: D̄ from C̄ (C⁻ᵀ Φ(CᵀC̄) C⁻¹, Φ the lower triangle with half its diagonal) and from Ē."""
        at = self.levels
        inverse = at.C_inverse
        lower = np.tril(at.C.transpose(0, 2, 1) @ np.tril(bars.C))
        lower -= np.eye(lower.shape[1]) * lower / 2
        B_bar = -inverse.transpose(0, 2, 1) @ (inverse @ bars.E)
        D_bar = inverse.transpose(0, 2, 1) @ lower @ inverse + B_bar @ at.E.transpose(0, 2, 1)
        D_bar = (D_bar + D_bar.transpose(0, 2, 1)) / 2
        if not at.model.groupings:
            return Arrow.dense(D_bar[0])
        blocks, cross = np.zeros_like(at.H.blocks), np.zeros_like(at.H.cross)
        blocks[at.present], cross[at.present] = D_bar, B_bar / 2
        return Arrow(blocks, cross, np.zeros_like(at.H.border))


def _solve(S: Float[Array, "f f"], v: Float[Array, "f"]) -> Float[Array, "f"] | None:
    """S⁻¹v; None if S is not positive definite."""
    try:
        half = cholesky(S)
    except NotPositiveDefinite:
        return None
    return solve_lower(half, solve_lower(half, v), transposed=True)
