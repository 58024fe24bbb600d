# SPDX-License-Identifier: BSD-3-Clause
"""The Gaussian variational lower bound.

Any Gaussian q(u) = N(m, S) bounds the evidence from below. The best has a precision of the form that Laplace's H has,
with row weights w, and on that family the bound is Laplace's value for a likelihood that is averaged over what q leaves
open of η, and a correction:

    log p(y|θ) ≥ F(m, w) = Σ f_i + log p(m) + (p log 2π − log|H|) / 2 + ½ Σ w_i v_i
    f_i = E log p(y_i|η),  η ~ N(x_iᵀLm, v_i),    S = H⁻¹,  H = LᵀXᵀ diag(w) XL + I,    v_i = x_iᵀLSLᵀx_i

It is stationary where ∇_m = LᵀXᵀf′ − m = 0 and w = W̄ = −E ∂²log p/∂η². There θ moves it by its explicit derivatives
alone, with S held. (S∇_m, W̄ − w) is the natural gradient, along which F rises from anywhere; steps of full length are a
fixed-point iteration, which those before it speed up (Anderson's mixing).

References
----------
Opper & Archambeau (2009), Neural Computation 21, 786. Khan & Lin (2017), AISTATS. Anderson (1965), J. ACM 12, 547.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from marglik.evidence.base import Evidence, EvidenceMethod, first_weights
from marglik.evidence.laplace import Laplace, Newton
from marglik.evidence.scoring import interior_maximum
from marglik.expansion import LinearExpansion
from marglik.likelihoods import LOG_2PI
from marglik.likelihoods.averages import Averaged
from marglik.linalg import NotPositiveDefinite
from marglik.model import LinearModel, Model
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.linalg import Arrow

MEMORY = 6
"""How many steps the mixing looks back."""
SMALL, TINY = 1e-10, 1e-20
"""What is left to gain where rounding may keep it from being had, and where nothing is, as shares of 1 + |F|."""
NEAR = 1e-6
"""Nats from the maximum steps need not climb, for rounding may hide whether they do."""
LOSS = 1e-6
"""The share of v that rounding may cost."""
PATIENCE = 6
"""So many steps without progress, at a gain that is small, are the end of what rounding allows."""
STUCK = (
    "The lower bound could not be raised any further, short of its maximum, as happens where scales are so large that "
    "averages over the linear predictor need too many nodes."
)
LOST = "No Gaussian was found for which the lower bound is finite."


@dataclass(frozen=True)
class Variational(EvidenceMethod):
    """Lower bound of the evidence by the best Gaussian q(u) = N(m, S), whose covariance is the model's in full.

        log p(y|θ) ≥ max_{m,S} E_q log p(y|η) + E_q log p(u) − E_q log q(u)

    It is below log p(y|θ) by the divergence KL(q‖p(u|y,θ)), which is zero when the likelihood is Gaussian. One integral
    over η for each row is by quadrature where it has no closed form.

    References
    ----------
    Opper & Archambeau (2009), Neural Computation 21, 786.

    Parameters
    ----------
    max_steps
        For linear models.
    guide, samples, seed
        For programs: the family of posteriors, the number of draws in a bound, and where random numbers come from.
    held
        For programs: whether the value is that of the draws that are held while θ is learned.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.evidence import Laplace, Quadrature, Variational
    >>> from marglik.likelihoods import Bernoulli
    >>> from marglik.model import LinearModel
    >>> from marglik.priors import RandomEffects
    >>> pupils = RandomEffects([0, 0, 0, 1, 1, 1], ["a", "b"], group="pupil")
    >>> model = LinearModel(Bernoulli(), pupils, np.array([1, 1, 1, 0, 1, 0]))
    >>> methods = Laplace(), Quadrature(25), Variational()
    >>> [round(method(model, np.array([2.0])).log_value, 3) for method in methods]
    [-3.945, -3.88, -3.894]
    """

    max_steps: int = 300
    guide: Any = None
    samples: int = 1
    seed: int = 0
    held: bool = False
    modal: ClassVar[bool] = False
    bound: ClassVar[bool] = True
    takes_parts: ClassVar[bool] = True

    @property
    def learner(self):
        return replace(self, held=True)

    def seeded(self, seed):
        return replace(self, seed=seed)

    def _own(self, model: Model) -> Any:
        """The bound that a model offers itself."""
        return model.bound(self.guide, self.samples, self.seed)

    def __call__(self, model, theta, start=None):
        own = self._own(model)
        if own is not None:
            return own.evidence(theta, start, self.held)
        model, theta = model.compact(theta), np.asarray(theta, float)
        try:
            at, trouble = _climbed(_set_out(model, theta, start), self.max_steps)
            trouble = model.improper(at.H) or (trouble and (_improper(model, theta) or trouble))
            value = at.value
        except NotPositiveDefinite:
            at, value, trouble = None, -np.inf, LOST
        if trouble is not None and start is not None:
            return self(model, theta)
        checks = {} if trouble is None else {"mode": trouble}
        if at is None:
            return Evidence(value, np.full(len(theta), np.nan), checks=checks)
        return Evidence(value, lambda: at.gradient, posterior=Gaussian(at.m, at.H, theta, at), checks=checks)

    def unsuited(self, model):
        if not isinstance(self.samples, int) or self.samples < 1:
            return f"takes a number of draws of at least 1 as samples=, and was given {self.samples!r}"
        if self._own(model) is None:
            asked = self.guide is not None or self.samples > 1
            return "has a closed form for linear models, so guide= and samples= are for programs" if asked else None
        if self.samples > 1 and model.part is not None:
            return f"is no lower bound with samples={self.samples} where {model.part}"
        return None

    def starts(self, model, theta, free):
        own = self._own(model)
        return super().starts(model, theta, free) if own is None else own.starts(theta, free)

    def maximum(self, model, theta, free):
        scored = isinstance(model, LinearModel) and (model.groupings or model.several_maxima)
        return interior_maximum(self, model, theta, free) if scored else None

    def assessed(self, model, theta, start=None):
        if self._own(model) is not None:
            e = self(model, theta, start)
            return (
                f"it is a lower bound, {e.log_value:.2f} ± {e.std_error:.2g}, below the log of the integral by an "
                "unknown amount; more samples= or a fuller guide= narrow it"
            )
        gap = Laplace()(model, theta).log_value - self(model, theta, start).log_value
        way = "higher" if gap > 0 else "lower"
        sentence = "it is a lower bound by a Gaussian posterior, below the log of the integral by an unknown amount"
        return sentence + (f" (Laplace's approximation is {abs(gap):.2g} nats {way})" if np.isfinite(gap) else "")


@dataclass(frozen=True, eq=False)
class Point:
    """F(m, w) at one θ, and which way it rises.

    Parameters
    ----------
    model, theta
    m : (p,)
        Mean.
    w : (n,)
        Row weights of the precision.
    """

    model: LinearModel
    theta: Float[Array, "k"]
    m: Float[Array, "p"]
    w: Float[Array, "n"]

    @cached_property
    def _plain(self) -> LinearExpansion:
        return LinearExpansion(self.model, self.m, self.theta)

    @cached_property
    def H(self) -> Arrow:
        """S⁻¹."""
        return self._plain.precision(self.w)

    @cached_property
    def covariance(self) -> Arrow:
        """S where H has entries."""
        return self.H.inverse_on_pattern()

    @cached_property
    def v(self) -> Float[Array, "n"]:
        """Variances of η."""
        return self._plain.variances(self.covariance)

    @cached_property
    def averaged(self) -> LinearExpansion:
        """The log joint density at m, averaged over η ~ N(XLm, v)."""
        return LinearExpansion(self.model, self.m, self.theta, Averaged(self.model.likelihood, self.v))

    @cached_property
    def value(self) -> float:
        """F; −∞ where a row's average is not finite or not known, or where rounding has lost v."""
        p, told = len(self.m), float(self.w @ self.v)
        if not abs(told + self.open - p) < LOSS * p:
            return -np.inf
        value = self.averaged.log_joint + (p * LOG_2PI - self.H.log_det + told) / 2 - self.model.log_volume
        return value if np.isfinite(value) else -np.inf

    @property
    def open(self) -> float:
        """The trace of S over the weights that have a prior: with Σ w_i v_i it makes up the number of weights."""
        C, f = self.covariance, self.model.columns.n_flat
        return float(np.einsum("qmm->", C.blocks) + C.border.diagonal()[f:].sum())

    @cached_property
    def ascent(self) -> tuple[Float[Array, "p"], Float[Array, "n"]]:
        """(S∇_m, W̄ − w)."""
        return self.H.solve(self.averaged.score), self.averaged.rows.weights - self.w

    @cached_property
    def residual(self) -> Float[Array, "r"]:
        """The ascent in units in which its square is about what F has to gain."""
        along, lacking = self.ascent
        moved = np.sqrt(np.abs(self.w)) * self._plain.predictor_of(along)
        penalised = along * self._plain.penalised
        return np.concatenate([moved, penalised, self.v * lacking / np.sqrt(2)])

    @cached_property
    def gain(self) -> float:
        """Its square."""
        return float(self.residual @ self.residual)

    def moved(self, along: Float[Array, "p"], lacking: Float[Array, "n"]) -> Point | None:
        """The point after this step; None where F is not defined there."""
        there = Point(self.model, self.theta, self.m + along, self.w + lacking)
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                return there if np.isfinite(there.value) and np.isfinite(there.gain) else None
        except NotPositiveDefinite:
            return None

    @cached_property
    def gradient(self) -> Float[Array, "k"]:
        """In θ, m and S held: H − I = LᵀXᵀW̄XL moves v with L."""
        out = self.averaged.theta_derivatives().log_joint
        out[: self.model.n_prior_theta] -= self.averaged.factor_slope(self.covariance) / 2
        return out

    @cached_property
    def drift(self) -> Float[Array, "p k"]:
        """About ∂m/∂θ: v held."""
        return self.H.solve(self.averaged.theta_derivatives().score)

    @cached_property
    def information(self) -> Float[Array, "k k"]:
        """A rough −∂²/∂θ², positive semidefinite, as Laplace's method has it with weights W̄."""
        score = self.averaged.theta_derivatives().score
        return self.averaged.information(self.covariance, score, self.drift)


def _improper(model: LinearModel, theta: Float[Array, "k"]) -> str | None:
    """Why there is nothing to bound, if Laplace's mode says so: a wide Gaussian never gets there."""
    try:
        return model.improper(Newton()(model, theta, model.start_weights())[0].neg_hessian)
    except NotPositiveDefinite:
        return None


def _set_out(model: LinearModel, theta: Float[Array, "k"], start: Any) -> Point:
    """From q at a nearby θ, or from Laplace's mode with weights that leave F finite."""
    if isinstance(start, Gaussian) and start.precision.size == len(start.mean) == model.n_weights:
        m = start.near(theta)
        here = LinearExpansion(model, m, theta)
        averaged = Averaged(model.likelihood, here.variances(start.covariance))
        with np.errstate(over="ignore", invalid="ignore"):
            w = LinearExpansion(model, m, theta, averaged).rows.weights
        warm = Point(model, theta, m, np.zeros_like(w)).moved(np.zeros_like(m), w) if np.isfinite(w).all() else None
        if warm is not None and warm.gain < FAR:
            return warm
    m = first_weights(model, theta, start)
    mode, m, _ = Newton()(model, theta, m)
    assert isinstance(mode, LinearExpansion)
    w = np.nan_to_num(np.maximum(mode.rows.weights, 0.0))
    origin, still = Point(model, theta, m, np.zeros_like(w)), np.zeros_like(m)
    cold = origin.moved(still, w)
    if cold is not None and cold.gain < FAR:
        return cold
    tried = [cold, *(origin.moved(still, w + 10.0**k) for k in range(-6, 7, 2))]
    found = [point for point in tried if point is not None]
    if not found:
        raise NotPositiveDefinite(LOST)
    return max(found, key=lambda point: point.value)


FAR = 100.0
"""A start with more to gain is compared with others."""


def _climbed(here: Point, max_steps: int) -> tuple[Point, str | None]:
    """Where F is stationary, and what went wrong, if anything did."""
    past: list[Point] = []
    best, without_progress = here, 0
    for _ in range(max_steps):
        unit = 1 + abs(here.value)
        if here.gain < best.gain or best is here:
            best, without_progress = here, 0
        else:
            without_progress += 1
        if here.gain < TINY * unit:
            return here, None
        if without_progress >= PATIENCE and best.gain < SMALL * unit:
            return best, None
        past = [*past[-MEMORY:], here]
        noise = 1e-12 * unit + 10 * here.gain * (here.gain < NEAR)
        for there in _tries(past):
            if there is not None and there.value >= here.value - noise:
                here = there
                break
        else:
            return here, None if here.gain < SMALL * unit else STUCK
    return here, f"The lower bound was not at its maximum after {max_steps} steps."


def _tries(past: list[Point]) -> Iterator[Point | None]:
    """Points to go on to: by mixing what earlier steps show, then ever shorter steps along the ascent."""
    here = past[-1]
    along, lacking = here.ascent
    if len(past) > 1:
        yield _mixed(past)
    fraction = 1.0
    while fraction > 1e-10:
        yield here.moved(fraction * along, fraction * lacking)
        fraction /= 2


def _mixed(past: list[Point]) -> Point | None:
    """x + f − (ΔX + ΔF) γ with γ = argmin |r − ΔR γ|, for x = (m, w), f the ascent there and r the residual."""
    here = past[-1]
    R = np.array([here.residual - p.residual for p in past[:-1]]).T
    gamma = np.linalg.lstsq(R, here.residual, rcond=1e-10)[0]
    along, lacking = (np.array(f) for f in here.ascent)
    for c, p in zip(gamma, past[:-1], strict=True):
        along -= c * (here.m - p.m + here.ascent[0] - p.ascent[0])
        lacking -= c * (here.w - p.w + here.ascent[1] - p.ascent[1])
    # where weights are positive now and after a plain step, they stay so
    least = np.minimum(here.w, here.w + here.ascent[1]) / 4
    lacking = np.where(least > 0, np.maximum(here.w + lacking, least) - here.w, lacking)
    return here.moved(along, lacking)
