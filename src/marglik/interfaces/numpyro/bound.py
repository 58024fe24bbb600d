# SPDX-License-Identifier: BSD-3-Clause
"""The variational lower bound of a program.

With K draws w_k of the guide q(w; λ)

    log p(y|θ) ≥ B(λ, θ) = E log (1/K) Σ_k p(y, w_k|θ) / q(w_k; λ),    w_k = g(e_k; λ)

Stochastic gradients (NumPyro's SVI) bring λ and θ near the maximum together. Then the noise e is held: B is a plain
function, Newton's method finds λ̂(θ), and B(λ̂(θ), θ) is learned like any evidence, with

    d/dθ = B_θ,    d²/dθ² = B_θθ − B_θλ B_λλ⁻¹ B_λθ

The value that is reported is of fresh draws, for that of the held ones is too high: λ̂ is their best.

References
----------
Burda, Grosse & Salakhutdinov (2016), ICLR (K draws). Kucukelbir et al. (2017), JMLR 18(14). Giordano, Ingram &
Broderick (2024), JMLR 25(18) (held draws).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from marglik.evidence.base import Evidence, evaluate
from marglik.evidence.laplace import Laplace
from marglik.interfaces.numpyro import derivatives
from marglik.interfaces.numpyro.ascent import Ascent, solve
from marglik.interfaces.numpyro.compiling import Staged, x64
from marglik.interfaces.numpyro.guides import Guide, guide_of
from marglik.interfaces.numpyro.stochastic import climbed
from marglik.linalg import Arrow, NotPositiveDefinite
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.interfaces.numpyro.program import Program

HELD, EACH = 128, 4
"""Held draws: so many at least, and so many for each coordinate of the noise."""
FITTED = 8
"""So many times as many groups of several draws: few of them, and the guide is fitted to these very draws."""
FRESH, GROUPS = 2000, 200
"""Fresh draws at a time, in so many groups at least, until the standard error of the bound is small."""
ERROR, ROUNDS = 0.01, 10
"""That standard error, in nats, and how often at most."""
AT_A_TIME = 64
"""Draws whose densities are computed side by side."""


@dataclass(frozen=True, eq=False)
class Bound:
    """The best lower bound of a program's evidence, by one guide and K draws.

    Parameters
    ----------
    program
        Whose evidence it bounds.
    asked
        Name of a guide, a user's own, or None.
    samples
        K.
    seed
        Of all draws.
    """

    program: Program
    asked: Any = None
    samples: int = 1
    seed: int = 0

    @cached_property
    def guide(self) -> Guide:
        """Where the posterior is sought."""
        densities, theta = self.program.densities, self.program.densities.theta.start
        with x64():
            values = densities.values(jnp.asarray(self.program.start_weights()), jnp.asarray(theta))
            latent = {site.name: values[site.name] for site in densities.layout.sites}
            return guide_of(self.asked, densities, latent, theta)

    @cached_property
    def _sites(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """λ from which NumPyro sets out, and its transforms from unconstrained numbers."""
        call, own = self.program.densities.call, self.guide.function
        with x64():
            trace = handlers.trace(handlers.seed(own, self.seed)).get_trace(*call.args, **call.kwargs)
        params = {n: s for n, s in trace.items() if s["type"] == "param"}
        start = {n: jnp.asarray(s["value"], float) for n, s in params.items()}
        return start, {n: biject_to(s["kwargs"].get("constraint", constraints.real)) for n, s in params.items()}

    def flat(self, params: dict[str, Any]) -> Array:
        """λ as one unconstrained vector; what is not given is where NumPyro sets out."""
        start, transforms = self._sites
        with x64():
            full = {n: jnp.asarray(params.get(n, value)) for n, value in start.items()}
            return np.asarray(ravel_pytree({n: transforms[n].inv(v) for n, v in full.items()})[0], float)

    @cached_property
    def _unflat(self) -> Callable[[Any], dict[str, Any]]:
        start, transforms = self._sites
        with x64():
            back = ravel_pytree({n: transforms[n].inv(v) for n, v in start.items()})[1]
        return lambda lam: {n: transforms[n](v) for n, v in back(lam).items()}

    def terms(self, lam: Any, theta: Any, noise: Any) -> Any:
        """log (1/K) Σ_k p(y, w_k|θ)/q(w_k; λ) for each group of K draws."""
        params = self._unflat(lam)

        def weight(e: Any) -> Any:
            w, log_q = self.guide.place(params, e)
            return self.program.densities.log_joint(w, theta) - log_q

        def group(E: Any) -> Any:
            return logsumexp(jax.vmap(weight)(E)) - jnp.log(len(E))

        return jax.lax.map(group, noise, batch_size=max(AT_A_TIME // self.samples, 1))

    def _noise(self, groups: int, rng: np.random.Generator, even: bool) -> Array:
        flat = self.guide.noise(groups * self.samples, rng, even)
        return flat.reshape(groups, self.samples, -1)

    @property
    def _groups(self) -> int:
        return max(FRESH // self.samples, GROUPS)

    @cached_property
    def held(self) -> Array:
        """The held noise."""
        size = self.guide.noise(2, np.random.default_rng(0)).shape[1]
        wanted = max(HELD, EACH * size) if size * EACH <= 16 * HELD else HELD
        groups = max(wanted * (FITTED if self.samples > 1 else 1), AT_A_TIME)
        return self._noise(groups + groups % 2, np.random.default_rng([self.seed, 0]), even=True)

    @cached_property
    def staged(self) -> Staged:
        """The bound with noise held, traced."""
        n = self.flat({}).size
        like = (n,), (self.program.densities.theta.size,), self.held
        return Staged.of(lambda *at: jnp.mean(self.terms(*at)), *like)

    @cached_property
    def slopes(self) -> Callable[..., Any]:
        """(λ, θ, e) → B, B_λ, B_θ."""
        return self.staged.compiled(_slopes)

    @cached_property
    def curvature(self) -> Callable[..., Any]:
        """(λ, θ, e, u, v) → the Hessian's product with (u, v)."""
        return self.staged.compiled(_curvature)

    @cached_property
    def fresh(self) -> Callable[..., Any]:
        """(λ, θ, e) → the terms of fresh draws."""
        rng = np.random.default_rng(0)
        like = (self.flat({}).size,), (self.program.densities.theta.size,), self._noise(self._groups, rng, False)
        return Staged.of(self.terms, *like).compiled(derivatives.plain)

    def places(self, lam: Array, noise: Array) -> Float[Array, "n p"]:
        """Weights for each row of noise."""
        like = (self.flat({}).size,), noise
        place = lambda lam, noise: jax.vmap(lambda e: self.guide.place(self._unflat(lam), e)[0])(noise)  # noqa: E731
        return Staged.of(place, *like).compiled(derivatives.plain)(lam, noise)

    def evidence(self, theta: Float[Array, "k"], start: Any = None, held: bool = False) -> Evidence:
        """The bound at θ: by the held draws for learning, by fresh ones to report."""
        theta = np.asarray(theta, float)
        near = getattr(start, "slopes", None)
        near = near if isinstance(near, At) and near.bound is self else None
        if near is not None and np.array_equal(near.theta, theta):
            at = near
        else:
            at = At(self, theta, *self._best(theta, near))
        checks = {} if at.trouble is None else {"mode": at.trouble}
        if not held:
            value, error = at.estimate
            return Evidence(value, lambda: at.gradient, lambda: at.hessian, error, at.posterior, checks)
        return Evidence(at.value, lambda: at.gradient, lambda: at.hessian, 0.0, at.posterior, checks)

    def _best(self, theta: Array, near: At | None) -> tuple[Array, str | None]:
        """λ̂ at θ, and what went wrong, if anything did."""
        if near is None:
            given = self.guide.start(self._gaussian(theta))
            held = np.zeros(len(theta), bool)
            starts = [self.flat(given) if given else climbed(self, theta, self.flat({}), held)[0]]
        else:
            moved = near.lam + near.drift @ (theta - near.theta) if "drift" in near.__dict__ else near.lam
            starts = [near.lam, moved]
        values = [float(self.slopes(lam, theta, self.held)[0]) for lam in starts]
        lam = starts[int(np.nanargmax([v if np.isfinite(v) else -np.inf for v in values]))]
        ascent = Ascent(
            lambda x: self.slopes(x, theta, self.held)[:2],
            lambda x, u: self.curvature(x, theta, self.held, u, np.zeros_like(theta))[0],
        )
        return ascent(lam)

    def _gaussian(self, theta: Array) -> Gaussian | None:
        """Laplace's, where there is one."""
        if self.program.part is not None:
            return None
        try:
            found = Laplace()(self.program, theta)
            found.posterior.precision.log_det  # noqa: B018  raises where H is not positive definite
        except (NotPositiveDefinite, AttributeError):
            return None
        return found.posterior if not found.checks else None

    def starts(self, theta: Float[Array, "k"], free: Array) -> Float[Array, "1 k"]:
        """θ from which learning sets out: found by stochastic gradients, together with the guide."""
        first = self._first(theta, free)
        if not free.any():
            return first[None]
        return climbed(self, first, self.flat(self.guide.start(self._gaussian(first))), free)[1][None]

    def _first(self, theta: Array, free: Array) -> Array:
        """The best of the program's own starts, by Laplace's method."""
        tries = np.where(free, self.program.start_theta(), theta)
        if len(tries) == 1 or self.program.part is not None:
            return tries[len(tries) // 2]
        found = [evaluate(Laplace(), self.program, t[None]) for t in tries]
        each = [-np.inf if e.checks else float(np.ravel(e.log_value)[0]) for e in found]
        values = np.nan_to_num(each, nan=-np.inf, posinf=-np.inf)
        return tries[int(values.argmax()) if np.isfinite(values.max()) else len(tries) // 2]


@dataclass(frozen=True, eq=False)
class At:
    """The bound at one θ, at its maximum over λ."""

    bound: Bound
    theta: Float[Array, "k"]
    lam: Float[Array, "l"]
    trouble: str | None = None

    @cached_property
    def _first_order(self) -> tuple[Array, Array, Array]:
        return self.bound.slopes(self.lam, self.theta, self.bound.held)

    @property
    def value(self) -> float:
        """By the held draws."""
        return float(self._first_order[0])

    @property
    def gradient(self) -> Float[Array, "k"]:
        """B_θ."""
        return self._first_order[2]

    @cached_property
    def _mixed(self) -> tuple[Array, Array]:
        """B_λθ (l, k) and B_θθ."""
        rows = [self._product(np.zeros_like(self.lam), v) for v in np.eye(len(self.theta))]
        return np.array([r[0] for r in rows]).T.reshape(len(self.lam), -1), np.array([r[1] for r in rows])

    def _product(self, u: Array, v: Array) -> tuple[Array, Array]:
        return self.bound.curvature(self.lam, self.theta, self.bound.held, u, v)

    @cached_property
    def drift(self) -> Float[Array, "l k"]:
        """∂λ̂/∂θ = −B_λλ⁻¹ B_λθ."""
        none = np.zeros_like(self.theta)
        minus = lambda u: -self._product(u, none)[0]  # noqa: E731
        return np.array([solve(minus, column) for column in self._mixed[0].T]).T.reshape(len(self.lam), -1)

    @cached_property
    def hessian(self) -> Float[Array, "k k"]:
        """B_θθ − B_θλ B_λλ⁻¹ B_λθ."""
        cross, own = self._mixed
        H = own + cross.T @ self.drift
        return (H + H.T) / 2

    @cached_property
    def estimate(self) -> tuple[float, float]:
        """The bound by fresh draws, and its standard error."""
        rng, terms = np.random.default_rng([self.bound.seed, 1]), np.zeros(0)
        for _ in range(ROUNDS):
            noise = self.bound._noise(self.bound._groups, rng, even=False)
            terms = np.concatenate([terms, self.bound.fresh(self.lam, self.theta, noise)])
            error = float(terms.std(ddof=1) / np.sqrt(len(terms)))
            if not error > ERROR:
                break
        return float(terms.mean()), error

    @cached_property
    def posterior(self) -> Guided:
        """The guide's."""
        return Guided(self)

    def draws(self, noise: Array) -> Float[Array, "n p"]:
        """Weights for each row of noise."""
        return self.bound.places(self.lam, noise)


@dataclass(frozen=True, eq=False)
class Guided:
    """The guide's posterior of the weights, read like a `Gaussian`: mean, covariance, draws."""

    slopes: At

    @property
    def theta(self) -> Float[Array, "k"]:
        """Where it was found."""
        return self.slopes.theta

    @property
    def _bound(self) -> Bound:
        return self.slopes.bound

    @cached_property
    def mean(self) -> Float[Array, "p"]:
        """Of the weights."""
        return self._moments[0]

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        """Mean and covariance; the latter's diagonal where weights are independent."""
        guide = self._bound.guide
        W = self.slopes.draws(guide.basis)
        if not guide.linear:
            return W.mean(axis=0), np.atleast_2d(np.cov(W, rowvar=False))
        L = W[1:] - W[0]
        return W[0], L[0] ** 2 if guide.independent else L.T @ L

    @cached_property
    def covariance(self) -> Arrow:
        """Where the layout of the program has entries."""
        layout, S = self._bound.program.layout, self._moments[1]
        q, m, f = layout.n_members, layout.n_local, layout.n_border
        t = q * m
        if S.ndim == 1:
            return Arrow(S[:t].reshape(q, m or 1, 1) * np.eye(m or 1), np.zeros((q, m or 1, f)), np.diag(S[t:]))
        if not q:
            return Arrow.dense(S)
        own = S[:t, :t].reshape(q, m, q, m)[np.arange(q), :, np.arange(q), :]
        return Arrow(own, S[:t, t:].reshape(q, m, f), S[t:, t:])

    @property
    def precision(self) -> Guided:
        """Solves with it."""
        return self

    def solve(self, R: Float[Array, "p *r"]) -> Float[Array, "p *r"]:
        """Σ R."""
        S = self._moments[1]
        return (S * R.T).T if S.ndim == 1 else S @ R

    def near(self, theta: Float[Array, "k"]) -> Float[Array, "p"]:
        """The mean."""
        return self.mean

    def draws(self, n: int, rng: np.random.Generator) -> Float[Array, "n p"]:
        """Samples, one a row."""
        return self.slopes.draws(self._bound.guide.noise(n, rng))


def _slopes(f: Callable[..., Any]) -> Callable[..., Any]:
    def run(constants: Any, lam: Any, theta: Any, noise: Any) -> Any:
        value, (by_lam, by_theta) = jax.value_and_grad(f, (1, 2))(constants, lam, theta, noise)
        return value, by_lam, by_theta

    return run


def _curvature(f: Callable[..., Any]) -> Callable[..., Any]:
    def run(constants: Any, lam: Any, theta: Any, noise: Any, u: Any, v: Any) -> Any:
        slope = lambda lam, theta: jax.grad(f, (1, 2))(constants, lam, theta, noise)  # noqa: E731
        return jax.jvp(slope, (lam, theta), (u, v))[1]

    return run
