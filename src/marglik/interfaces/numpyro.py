# SPDX-License-Identifier: BSD-3-Clause
"""Any NumPyro program as a model: named sites are hyperparameters, every other latent site is integrated out.

This is the only module that imports JAX. It computes in double precision inside `jax.enable_x64`, so that the caller's
own configuration stays as it is.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.expansion import Expansion, ThetaDerivatives
from marglik.hyperparameters import Hyperparameter, Hyperparameters, Interval, Positive, Real, Support
from marglik.linalg import Arrow
from marglik.model import Model
from marglik.posterior import Gaussian, Posterior

try:
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree
    from numpyro import handlers
    from numpyro.distributions import constraints
    from numpyro.distributions.transforms import biject_to
    from numpyro.infer import init_to_uniform
except ImportError as error:
    raise ImportError(
        f"NumPyro programs need NumPyro and JAX ({error.name} is not installed): pip install 'marglik[numpyro]'."
    ) from error

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

Sites = Mapping[str, Any]
CHUNK = 1024
"""Draws whose densities are computed at a time."""


class BadProgram(ValueError):
    """A program that cannot be used, in one sentence."""


def x64() -> Any:
    """Double precision within a ``with`` block, for this thread alone."""
    return jax.enable_x64(True)


class Compiled(NamedTuple):
    """The log joint density of a program and its derivatives, as compiled functions of flat arrays."""

    value_and_score: Callable[[Array, Array], tuple[Array, Array]]
    neg_hessian: Callable[[Array, Array], Array]
    theta_derivatives: Callable[[Array, Array], tuple[Array, Array]]
    neg_hessian_vjp: Callable[[Array, Array, Array], tuple[Array, Array]]


def program(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], hyper: Sequence[str]
) -> Program:
    """Run a program once, sort its sites, and return it as a model.

    Raises
    ------
    BadProgram
        A site name does not exist, a latent site is discrete, or the program cannot be run.
    """
    hyper = (hyper,) if isinstance(hyper, str) else tuple(hyper)
    with x64():
        # Zero on the unconstrained scale: also improper priors, which have no draws, then have a value.
        started = handlers.substitute(handlers.seed(function, 0), substitute_fn=init_to_uniform(radius=0))
        trace = handlers.trace(started).get_trace(*args, **kwargs)
    latent = [name for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"] and name not in hyper]
    params = [name for name, s in trace.items() if s["type"] == "param"]
    named = [name for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"]] + params
    for name in hyper:
        if name not in named:
            near = difflib.get_close_matches(name, named, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise BadProgram(f"The program has no latent site {name!r} to maximise.{hint} Its sites are {named}.")
    for name in latent:
        if trace[name]["fn"].support.is_discrete:
            raise BadProgram(
                f"Site {name!r} is latent and discrete, so it has no density to expand. Sum it out in the program, or "
                "observe it."
            )
    maximised = [*params, *(name for name in hyper if name not in params)]
    return Program(function, tuple(args), dict(kwargs), tuple(maximised), tuple(latent), trace)


@dataclass(frozen=True, eq=False)
class Program(Model):
    """A NumPyro program, its latent sites on NumPyro's unconstrained scale.

    Parameters
    ----------
    function, args, kwargs
        The program and what it is called with.
    maximised
        Names of ``param`` sites and of sample sites that are hyperparameters; these sites' own priors do not count.
    latent
        Names of the sites that are integrated out.
    trace
        One run of the program.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    maximised: tuple[str, ...]
    latent: tuple[str, ...]
    trace: Mapping[str, Any]

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(
            Hyperparameter(label, _support(self._constraint(name), name))
            for name in self.maximised
            for label in _labels(name, np.shape(self.trace[name]["value"]))
        )

    def _constraint(self, name: str) -> Any:
        site = self.trace[name]
        if site["type"] == "param":
            return site["kwargs"].get("constraint", constraints.real)
        return site["fn"].support

    @cached_property
    def _unravel_weights(self) -> Callable[[Array], Sites]:
        with x64():
            zeros = {}
            for name in self.latent:
                value = jnp.asarray(self.trace[name]["value"], float)
                zeros[name] = jnp.zeros_like(biject_to(self.trace[name]["fn"].support).inv(value))
            return ravel_pytree(zeros)[1]

    @cached_property
    def _unravel_theta(self) -> Callable[[Array], Sites]:
        with x64():
            values = {name: jnp.asarray(self.trace[name]["value"], float) for name in self.maximised}
            # ravel_pytree orders by key: keep the order in which sites were named
            sizes = [int(np.size(v)) for v in values.values()]
            shapes = [np.shape(v) for v in values.values()]
        cuts = np.cumsum([0, *sizes])

        def unravel(theta: Array) -> Sites:
            parts = zip(self.maximised, cuts[:-1], cuts[1:], shapes, strict=True)
            return {name: jnp.reshape(theta[i:j], shape) for name, i, j, shape in parts}

        return unravel

    @cached_property
    def n_weights(self) -> int:
        with x64():
            return int(
                sum(
                    np.size(biject_to(self.trace[n]["fn"].support).inv(jnp.asarray(self.trace[n]["value"], float)))
                    for n in self.latent
                )
            )

    def sites(self, weights: Array) -> tuple[Sites, Any]:
        """Latent sites on their own scale, and the log determinant of that change."""
        out, log_det = {}, 0.0
        for name, raw in self._unravel_weights(weights).items():
            transform = biject_to(self.trace[name]["fn"].support)
            value = transform(raw)
            log_det = log_det + jnp.sum(transform.log_abs_det_jacobian(raw, value))
            out[name] = value
        return out, log_det

    def _log_joint(self, weights: Array, theta: Array) -> Any:
        values, log_det = self.sites(weights)
        maximised = self._unravel_theta(theta)
        fixed = handlers.substitute(handlers.seed(self.function, 0), data={**values, **maximised})
        total = log_det
        for name, site in handlers.trace(fixed).get_trace(*self.args, **self.kwargs).items():
            if site["type"] != "sample" or name in maximised:
                continue
            density = site["fn"].log_prob(site["value"])
            total = total + jnp.sum(density if site["scale"] is None else site["scale"] * density)
        return total

    @cached_property
    def compiled(self) -> Compiled:
        """Compiled on first use."""
        score = jax.grad(self._log_joint)

        def neg_hessian(w: Array, theta: Array) -> Array:
            return -jax.hessian(self._log_joint)(w, theta)

        def inner(w: Array, theta: Array, C: Array) -> Array:
            return jnp.vdot(C, neg_hessian(w, theta))

        return Compiled(
            jax.jit(jax.value_and_grad(self._log_joint)),
            jax.jit(neg_hessian),
            jax.jit(lambda w, t: (jax.grad(self._log_joint, 1)(w, t), jax.jacfwd(score, 1)(w, t))),
            jax.jit(jax.grad(inner, (0, 1))),
        )

    def at(self, weights, theta):
        return ProgramExpansion(self, np.asarray(weights, float), np.asarray(theta, float))

    def log_joints(self, W: Float[Array, "N p"], theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y, w|θ) for every row w of W."""
        with x64():
            batched = jax.jit(jax.vmap(self._log_joint, (0, None)))
            parts = [batched(W[i : i + CHUNK], theta) for i in range(0, len(W), CHUNK)]
            return np.concatenate([np.asarray(p) for p in parts])

    def prior_draws(self, theta: Float[Array, "k"], n: int, seed: int = 0) -> Float[Array, "n p"]:
        """Weights drawn from p(w|θ), one a row."""
        raise NotImplementedError

    def log_likelihoods(self, W: Float[Array, "N p"], theta: Float[Array, "k"]) -> Float[Array, "N"]:
        """log p(y|w, θ) for every row w of W: observed sites and factors."""
        raise NotImplementedError

    def start_weights(self):
        return np.zeros(self.n_weights)

    def start_theta(self):
        """Around each site's prior median where it has a prior; around its initial value where it is a ``param``."""
        centre = np.concatenate([np.ravel(self._centre(name)) for name in self.maximised] or [np.zeros(0)])
        positive = np.array([isinstance(h.support, Positive) for h in self.hyperparameters], bool)
        return np.where(positive, np.multiply.outer([0.1, 0.3, 1.0, 3.0, 10.0], centre), centre)

    def _centre(self, name: str) -> Array:
        site = self.trace[name]
        if site["type"] == "sample":
            try:
                with x64():
                    draws = np.asarray(site["fn"].sample(jax.random.PRNGKey(0), (199,)), float)
            except NotImplementedError:  # improper priors have no draws
                draws = np.ones((1, *np.shape(site["value"])))
            return np.median(draws, axis=0)
        return np.asarray(site["value"], float)

    def posterior(self, theta: Float[Array, "k"], joint: Gaussian) -> ProgramPosterior:
        """What is known of the latent sites, by name."""
        return ProgramPosterior(self, joint)


@dataclass(frozen=True, eq=False)
class ProgramExpansion(Expansion):
    """A program's log joint density near one point; the Hessian is dense."""

    model: Program
    w: Float[Array, "p"]
    theta: Float[Array, "k"]

    def _run(self, name: str, *more: Array) -> Any:
        with x64():
            return jax.tree.map(np.asarray, getattr(self.model.compiled, name)(self.w, self.theta, *more))

    @cached_property
    def _value_and_score(self) -> tuple[Array, Array]:
        return self._run("value_and_score")

    @property
    def log_joint(self):
        return float(self._value_and_score[0])

    @property
    def score(self):
        return self._value_and_score[1]

    @cached_property
    def neg_hessian(self):
        return Arrow.dense(self._run("neg_hessian"))

    def theta_derivatives(self):
        return ThetaDerivatives(*self._run("theta_derivatives"))

    def neg_hessian_vjp(self, C):
        return self._run("neg_hessian_vjp", C.border)


@dataclass(frozen=True, eq=False)
class ProgramPosterior(Posterior):
    """Latent sites by name, from a Gaussian on the unconstrained scale."""

    model: Program
    joint: Gaussian

    @cached_property
    def mean(self) -> Mapping[str, Array]:
        """Sites at the mode of the unconstrained weights."""
        with x64():
            return {name: np.asarray(v) for name, v in self.model.sites(jnp.asarray(self.joint.mean))[0].items()}

    @cached_property
    def sd(self) -> Mapping[str, Array]:
        """By the delta method."""
        with x64():
            jacobian = jax.jacfwd(lambda w: self.model.sites(w)[0])(jnp.asarray(self.joint.mean))
        C = self.joint.precision.solve(np.eye(len(self.joint.mean)))
        return {name: np.sqrt(np.einsum("...i,ij,...j->...", J, C, J)) for name, J in jacobian.items()}

    def sample(self, n: int, seed: int = 0) -> Mapping[str, Array]:
        """Draws from the Gaussian, put through the sites' transforms."""
        draws = self.joint.draws(n, np.random.default_rng(seed))
        with x64():
            sites = jax.vmap(lambda w: self.model.sites(w)[0])(jnp.asarray(draws))
            return {name: np.asarray(v) for name, v in sites.items()}


def _labels(name: str, shape: tuple[int, ...]) -> list[str]:
    return [name] if not shape else [f"{name}[{', '.join(map(str, i))}]" for i in np.ndindex(*shape)]


def _support(constraint: Any, name: str) -> Support:
    """The support of each element of a site."""
    while isinstance(constraint, type(constraints.independent(constraints.real, 1))):
        constraint = constraint.base_constraint
    if constraint is constraints.real or constraint is constraints.real_vector:
        return Real()
    lower, upper = (getattr(constraint, f"{end}_bound", None) for end in ("lower", "upper"))
    if lower is not None and upper is not None and math.isfinite(lower) and math.isfinite(upper):
        return Interval(float(lower), float(upper))
    if lower is not None and upper is None and float(lower) == 0:
        return Positive()
    if constraint in (constraints.softplus_positive, constraints.nonnegative):
        return Positive()
    raise BadProgram(
        f"Site {name!r} has the support {constraint}, and hyperparameters are real, positive or in an interval so far. "
        "Write the program in terms of such a site."
    )
