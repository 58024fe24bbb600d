# SPDX-License-Identifier: BSD-3-Clause
"""A NumPyro program becomes a `Model`; its Hessian has the structure that its plates give it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from marglik.expansion import Expansion, ThetaDerivatives
from marglik.hyperparameters import Hyperparameters, Positive
from marglik.hyperpriors import JointHyperprior
from marglik.interfaces.numpyro.compiling import x64
from marglik.interfaces.numpyro.density import Densities
from marglik.interfaces.numpyro.derivatives import TOGETHER
from marglik.interfaces.numpyro.layout import Layout, layouts
from marglik.interfaces.numpyro.members import members
from marglik.interfaces.numpyro.nuts import Samples, sample
from marglik.interfaces.numpyro.posterior import ProgramPosterior
from marglik.interfaces.numpyro.replicates import replicates
from marglik.interfaces.numpyro.sites import BadProgram, Call, Partial, sorted_sites
from marglik.interfaces.numpyro.theta import Theta
from marglik.likelihoods import LOG_2PI
from marglik.linalg import Arrow
from marglik.model import Model
from marglik.paths import Along, Leap, Path, alternate
from marglik.posterior.base import Gaussian

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

CHUNK, AT_ONCE = 1024, 4
"""Draws whose densities are computed at a time; in one call, up to so many times `TOGETHER` trajectories."""
MANY = 8
"""From so many directions on, H costs much more than a score."""
MOST_DENSE, LEAST_CURVED = 500, 1e-6
"""Up to so many coordinates, steps near a saddle go along H's eigenvectors, each taken to be at least so curved."""
NEXT_TO_ZERO = 1e-8
"""Where a mode search sets out. At zero itself |x| and max(x, 0) have no slope, and NumPyro's Bernoulli and binomial
densities, which are made of them, the wrong one."""
DRAWS = 8
"""Draws from the prior from which a mode search may set out, where it cannot from zero."""
PROBE_TOLERANCE = 1e-8
"""Share of its size to which a product with H must be what the structure says."""


def program(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], hyper: Sequence[str]
) -> Program:
    """Run a program once, sort its sites, and return it as a model.

    Raises
    ------
    BadProgram
        A site name does not exist, a latent site is discrete, data are missing, two runs differ, the density is
        nowhere finite.
    """
    call = Call(function, *jax.tree.map(_own, (tuple(args), dict(kwargs))))
    maximised, latent, part = sorted_sites(call, (hyper,) if isinstance(hyper, str) else tuple(hyper))
    theta = Theta(maximised)
    refused: list[str] = []
    for layout in layouts(latent):
        model = Program(Densities(call, layout, theta), _notes(refused, layout), part)
        if layout.plate is None or model.holds():
            return model
        refused.append(layout.plate)
    raise AssertionError("The last layout has no plate.")


def _own(value: Any) -> Any:
    """A copy of an array: JAX remembers the precision of the very array that it met, beyond the ``with`` block.

    A column of a frame as an array.
    """
    if isinstance(value, jax.core.Tracer):
        raise BadProgram("marglik.fit cannot run inside a JAX transformation such as jax.jit. Call it outside.")
    if type(value).__module__.startswith("pandas") and np.ndim(value) == 1:
        return np.array(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _notes(refused: Sequence[str], layout: Layout) -> tuple[str, ...]:
    instead = "H is a dense matrix" if layout.plate is None else f"members of {layout.plate!r} are taken instead"
    return tuple(
        f"Latent sites of different members of plate {plate!r} depend on each other beside the sites outside it; "
        f"{instead}."
        for plate in refused
    )


@dataclass(frozen=True, eq=False)
class Program(Model):
    """A NumPyro program, its latent sites on NumPyro's unconstrained scale.

    Parameters
    ----------
    densities
        Its log joint density and derivatives, for latent sites in some layout.
    notes
        What is to be said of it.
    partial
        A plate that looks at a part of its members at a time.
    """

    densities: Densities
    notes: tuple[str, ...] = ()
    partial: Partial | None = None

    @property
    def function(self) -> Callable[..., Any]:
        """The program itself."""
        return self.densities.call.function

    @property
    def layout(self) -> Layout:
        """Where each latent site lies among the weights."""
        return self.densities.layout

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.densities.theta.hyperparameters

    @property
    def n_weights(self) -> int:
        return self.layout.size

    @cached_property
    def directions(self) -> Float[Array, "r p"]:
        """Those in which H is asked for."""
        return self.layout.directions()

    def at(self, weights, theta):
        return ProgramExpansion(self, np.asarray(weights, float), np.asarray(theta, float))

    def holds(self) -> bool:
        """Whether H has the structure of the layout, by products with random signs in place of ones."""
        rng = np.random.default_rng(0)
        start = self.hyperparameters.unconstrain(self.densities.theta.start)
        for size in (0.5, 0.1, 0.01):
            theta = self.hyperparameters.constrain(start + size * rng.standard_normal(len(start)))
            w = size * rng.standard_normal(self.n_weights)
            H = self.at(w, theta).neg_hessian
            V = self.layout.directions(rng.choice([-1.0, 1.0], self.n_weights))
            found = self.densities.second_order(w, theta, V)[2]
            if np.isfinite(found).all():
                expected = np.array([H.matvec(v) for v in V])
                return bool(np.abs(found - expected).max() <= PROBE_TOLERANCE * np.abs(found).max())
        return False

    def log_joints(self, W: Float[Array, "N p"], theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y, w|θ) for every row w of W."""
        return _by_chunks(self.densities.log_joints, W, theta)

    def theta_slope(self, W: Float[Array, "N p"], theta: Float[Array, "k"], c: Float[Array, "N"]) -> Float[Array, "k"]:
        """Σ_i c_i ∂_θ log p(y, w_i|θ) over the rows of W."""
        out = np.zeros(len(theta))
        for i in range(0, len(W), CHUNK):
            part, own = W[i : i + CHUNK], c[i : i + CHUNK]
            fill = -len(part) % CHUNK if len(W) > CHUNK else 0
            part, own = np.concatenate([part, np.repeat(part[-1:], fill, axis=0)]), np.append(own, np.zeros(fill))
            out += self.densities.theta_slope(part, own, np.asarray(theta, float))
        return out

    def log_likelihoods(self, W: Float[Array, "N p"], theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y|w, θ), the observed sites and factors, for every row w of W."""
        return _by_chunks(self.densities.log_likelihoods, W, theta)

    def prior_draws(self, theta: Float[Array, "k"], n: int, seed: int = 0) -> Float[Array, "n p"]:
        """Weights drawn from p(w|θ), one a row.

        Raises
        ------
        BadProgram
            A latent site has an improper prior.
        """
        try:
            with x64():
                keys = np.asarray(jax.random.split(jax.random.PRNGKey(seed), n))
            return _by_chunks(self.densities.draws, keys, theta, TOGETHER)
        except NotImplementedError as error:
            raise BadProgram(
                "Nothing can be drawn from the prior of a latent site, because it is improper. Give it a proper prior, "
                "or use method='laplace'."
            ) from error

    def path(self, theta, around=None, prior=True):
        if prior:
            try:
                self.prior_draws(theta, 1)
            except BadProgram:
                prior = False
        return ProgramPath(self, theta, around, prior) if prior or around is not None else None

    @property
    def log_hyperprior(self):
        return self.densities.hyperprior if any(site.has_prior for site in self.densities.theta.sites) else None

    def hyperpriors(self):
        sites = self.densities.theta
        return tuple(
            JointHyperprior(sites.elements(s), self._own_prior(s.name), "its own in the program", s.proper)
            for s in sites.sites
            if s.has_prior
        )

    def _own_prior(self, name: str) -> Callable[[Array], float]:
        return lambda theta: float(self.densities.hyperpriors(theta)[name])

    def start_weights(self):
        return self._start

    @cached_property
    def _start(self) -> Float[Array, "p"]:
        """Next to zero, or the first of a few draws from the prior where the density and its slopes are finite."""
        zero = NEXT_TO_ZERO * np.random.default_rng(0).standard_normal(self.n_weights)
        theta = self.densities.theta.start
        if _finite(self.at(zero, theta)):
            return zero
        tried = [zero]
        with suppress(BadProgram):
            tried.extend(self.prior_draws(theta, DRAWS))
        start = next((w for w in tried[1:] if _finite(self.at(w, theta))), None)
        if start is None:
            raise BadProgram(self._nowhere_finite(tried, theta))
        return start

    def _nowhere_finite(self, tried: Sequence[Array], theta: Array) -> str:
        """What is wrong at every start, and with which site."""
        where = "at zero on the unconstrained scale" + f" and at {len(tried) - 1} draws from the prior" * (
            len(tried) > 1
        )
        for w in tried:
            values, by_w, by_theta = self.densities.gradients_by_site(w, theta)
            if any(not np.isfinite(v) for v in values.values()):
                continue
            bad = [n for n in values if np.isnan(by_w[n]).any() or np.isnan(by_theta[n]).any()]
            if bad:
                return (
                    f"The gradient of site {bad[0]!r} is NaN {where}, although its density is finite. A jnp.where "
                    "whose unused branch is not finite, or a root at zero, does that: make both branches finite."
                )
        values, _, _ = self.densities.gradients_by_site(tried[0], theta)
        bad = [n for n, v in values.items() if not np.isfinite(v)]
        what = "NaN" if np.isnan(values[bad[0]]) else f"{values[bad[0]]:g}"
        return (
            f"The program's density is not finite at any start: {where} the log density of site {bad[0]!r} is {what}. "
            "Check its data and support, or start the param sites elsewhere."
        )

    def start_theta(self):
        """Around each site's prior median where it has a prior; around its initial value where it is a ``param``."""
        start = self.densities.theta.start
        positive = np.array([isinstance(h.support, Positive) for h in self.hyperparameters], bool)
        if not positive.any():
            return start[None]
        return np.where(positive, np.multiply.outer([0.2, 1.0, 5.0], start), start)

    @cached_property
    def members(self):
        return members(self.densities)

    def replicates(self, theta, n, seed=0):
        for densities in replicates(self.densities, theta, n, seed):
            model = replace(self, densities=densities)
            with suppress(BadProgram):  # then these data have no density anywhere
                model.start_weights()
                yield model

    def nuts(self, theta: Float[Array, "k"], held: Sequence[str], **settings: int) -> Samples:
        """Draws from the joint posterior of hyperparameters and latent sites; see `Fit.nuts`."""
        return sample(self.densities.call, self.densities.theta, theta, frozenset(held), **settings)

    @property
    def part(self):
        if self.partial is None:
            return None
        return (
            f"plate {self.partial.plate!r} looks at {self.partial.shown} of its {self.partial.size} members at a time"
        )

    @cached_property
    def _bounds(self) -> dict[Any, Any]:
        return {}

    def bound(self, guide=None, samples=1, seed=0):
        from marglik.interfaces.numpyro.bound import Bound

        key = guide, samples, seed
        return self._bounds.setdefault(key, Bound(self, *key))

    def posterior(self, theta: Float[Array, "k"], joint: Gaussian) -> ProgramPosterior:
        """What is known of the latent sites, by name."""
        return ProgramPosterior(self.densities, theta, joint)


def _finite(point: Expansion) -> bool:
    return bool(np.isfinite(point.log_joint) and np.isfinite(point.score).all())


def _by_chunks(function: Callable[..., Array], rows: Array, theta: Array, size: int = 0) -> Array:
    """Rows by chunks of one size, the last filled up, so that one function serves all; by default a few are one."""
    theta, size = np.asarray(theta, float), size or min(CHUNK, len(rows))

    def parts() -> Iterator[Array]:
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            fill = -len(part) % size
            yield function(np.concatenate([part, np.repeat(part[-1:], fill, axis=0)]), theta)[: len(part)]

    return np.concatenate(list(parts()))


@dataclass(frozen=True, eq=False)
class ProgramPath(Path):
    """From the program's prior, a Gaussian, or half of each, to its joint density."""

    model: Program
    theta: Float[Array, "k"]
    around: Gaussian | None
    prior: bool

    def draws(self, n, rng):
        seed = int(rng.integers(2**31))
        if self.around is None:
            return self.model.prior_draws(self.theta, n, seed)
        near = self.around.draws(n, rng)
        return alternate(self.model.prior_draws(self.theta, n, seed), near, rng) if self.prior else near

    @cached_property
    def _reference(self) -> tuple[float, float, Array, Array]:
        """a, b, m and R of q = eᵃ p(w) + eᵇ exp(−|R(w − m)|²/2)."""
        p = self.model.n_weights
        if self.around is None:
            return 0.0, -np.inf, np.zeros(p), np.zeros((p, p))
        H, share = self.around.precision, np.log(2) if self.prior else 0.0
        return -share if self.prior else -np.inf, (H.log_det - p * LOG_2PI) / 2 - share, self.around.mean, _root(H)

    def at(self, W, t):
        rows = np.column_stack([W, np.zeros((len(W), 2 * W.shape[1] + 1))])
        return self._along(rows, Leap(t, np.zeros((len(W), 1)), np.zeros((W.shape[1], W.shape[1])), 1))[2]

    def leapfrog(self, W, z, slope, leap):
        return self._along(np.column_stack([W, z, slope, leap.step]), leap)

    def _along(self, rows: Array, leap: Leap) -> tuple[Array, Array, Along]:
        run, p = self.model.densities.trajectories, self.model.n_weights
        own, size = (float(leap.t), leap.half, leap.leaps, self.theta, self._reference), TOGETHER * AT_ONCE
        out = np.empty((len(rows), rows.shape[1] + 1))
        for i in range(0, len(rows), size):
            part = rows[i : i + size]
            filled = np.zeros((size, rows.shape[1]))
            filled[: len(part)] = part
            out[i : i + size] = run(filled, -(-len(part) // TOGETHER), *own)[: len(part)]
        return out[:, :p], out[:, p : 2 * p], Along(out[:, 2 * p], out[:, 2 * p + 1], out[:, 2 * p + 2 :])


def _root(H: Arrow) -> Float[Array, "p p"]:
    """R with RᵀR = H."""
    return np.linalg.cholesky(H.to_dense()).T


@dataclass(frozen=True, eq=False)
class ProgramExpansion(Expansion):
    """A program's log joint density near one point."""

    model: Program
    w: Float[Array, "p"]
    theta: Float[Array, "k"]

    @property
    def costly(self):
        return len(self.model.directions) >= MANY

    def neg_hessian_of_rows_at(self, other):
        return other.neg_hessian

    @cached_property
    def _first_order(self) -> tuple[Array, Array]:
        if self.costly and "_second_order" not in self.__dict__:
            return self.model.densities.value_and_score(self.w, self.theta)
        return self._second_order[:2]

    @cached_property
    def _second_order(self) -> tuple[Array, Array, Array]:
        return self.model.densities.second_order(self.w, self.theta, self.model.directions)

    @property
    def log_joint(self):
        return float(self._first_order[0])

    @property
    def score(self):
        return self._first_order[1]

    @cached_property
    def neg_hessian(self):
        return self.model.layout.arrow(self._second_order[2])

    def _slopes(self, U: Float[Array, "r p"]) -> tuple[Array, Array, Array, Array]:
        return self.model.densities.slopes(self.w, self.theta, U)

    @cached_property
    def _explicit(self) -> ThetaDerivatives:
        log_joint, score, _, _ = self._slopes(self.model.directions)
        return ThetaDerivatives(log_joint, score.T)

    def theta_derivatives(self):
        return self._explicit

    def ascent(self):
        """Newton's step with the size of each curvature in place of its sign, in units of H's diagonal.

        References
        ----------
        Dauphin et al. (2014), Identifying and attacking the saddle point problem.
        """
        if self._curvatures is None:
            return super().ascent()
        unit, d, U = self._curvatures
        return unit * (U @ ((U.T @ (unit * self.score)) / np.maximum(np.abs(d), LEAST_CURVED)))

    def upward(self):
        if self._curvatures is None:
            return None
        unit, d, U = self._curvatures
        along = U[:, 0] * np.sign(U[np.abs(U[:, 0]).argmax(), 0])
        return unit * along / np.sqrt(-d[0]) if d[0] < -LEAST_CURVED else None

    @cached_property
    def _curvatures(self) -> tuple[Float[Array, "p"], Float[Array, "p"], Float[Array, "p p"]] | None:
        """Units of H's diagonal, and H's eigenvalues and eigenvectors in these; None where it is too large."""
        H = self.neg_hessian.to_dense() if len(self.w) <= MOST_DENSE else np.full((1, 1), np.nan)
        if not np.isfinite(H).all():
            return None
        unit = np.maximum(np.abs(H.diagonal()), 1e-12 * np.abs(H).max(initial=1e-300)) ** -0.5
        return unit, *np.linalg.eigh(H * np.outer(unit, unit))

    def log_det_slopes(self, H):
        """With H = FFᵀ, ⟨H⁻¹, G⟩ = Σ uᵀGu over u = F⁻ᵀv, one for each direction v."""
        log_joint, score, *slopes = self._slopes(H.solve_half(self.model.directions.T).T)
        self.__dict__.setdefault("_explicit", ThetaDerivatives(log_joint, score.T))  # computed on the way
        return tuple(slopes)
