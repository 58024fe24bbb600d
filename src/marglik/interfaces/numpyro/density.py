# SPDX-License-Identifier: BSD-3-Clause
"""A program's densities as functions of flat vectors: weights w on the unconstrained scale, and θ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from marglik.interfaces.numpyro import derivatives
from marglik.interfaces.numpyro.compiling import Staged, x64
from marglik.interfaces.numpyro.sites import BadProgram, Call

if TYPE_CHECKING:
    from marglik.interfaces.numpyro.layout import Layout
    from marglik.interfaces.numpyro.theta import Theta


@dataclass(frozen=True, eq=False)
class Densities:
    """The densities of one program in one layout, each traced when it is first asked for.

    log p(y, w|θ) is the sum over all sites but those that are maximised, each at its value on its own scale, and of the
    log determinants of the transforms of the latent ones.

    Parameters
    ----------
    call, layout, theta
        The program, where its latent sites lie among the weights, and those that are maximised in θ.
    compared
        Whether it is known that two runs are the same.
    """

    call: Call
    layout: Layout
    theta: Theta
    compared: bool = False

    def run(self, w: Any, theta: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The trace at a point, and the log determinants of each latent site's transform."""
        raw, fixed, log_dets = self.layout.unravel(w), self.theta.unravel(theta), {}

        def substitute(site: Any) -> Any:
            name = site["name"]
            if name in raw and site["type"] == "sample":
                transform = biject_to(site["fn"].support)  # which may depend on other sites
                step = site["infer"].get("_scan_current_index")
                own = raw[name] if step is None else raw[name][step]
                value = transform(own)
                log_det = transform.log_abs_det_jacobian(own, value)
                if step is None:
                    log_dets[name] = log_det
                else:  # a step of a loop leaves nothing behind but sites
                    numpyro.factor(f"log determinant of {name}", log_det)
                return value
            return fixed.get(name)

        return self.call.trace(substitute), log_dets

    def by_site(self, w: Any, theta: Any) -> dict[str, Any]:
        """Site → its share of log p(y, w|θ)."""
        trace, log_dets = self.run(w, theta)
        out = {name: jnp.sum(each) for name, each in log_dets.items()}
        for name, site in trace.items():
            if site["type"] == "sample" and name not in self.theta.names:
                out[name] = out.get(name, 0.0) + _log_prob(site)
        return out

    def elements(self, w: Any, theta: Any) -> Any:
        """What log p(y, w|θ) is the sum of: an element for each value that its distribution takes by itself."""
        trace, log_dets = self.run(w, theta)
        sites = (s for name, s in trace.items() if s["type"] == "sample" and name not in self.theta.names)
        return jnp.concatenate([jnp.zeros(0), *map(jnp.ravel, (*log_dets.values(), *map(_log_probs, sites)))])

    def raw(self, values: Mapping[str, Any], theta: Any) -> tuple[Any, Any]:
        """Weights from latent sites on their own scale, and the log determinant of that transform's inverse."""
        trace = self.call.trace(lambda site: {**values, **self.theta.unravel(theta)}.get(site["name"]))
        out, log_det = {}, jnp.zeros(())
        for name in (site.name for site in self.layout.sites):
            transform, value = biject_to(trace[name]["fn"].support), values[name]
            out[name] = transform.inv(value)
            log_det = log_det + jnp.sum(transform.log_abs_det_jacobian(out[name], value))
        return self.layout.ravel(out), log_det

    def log_joint(self, w: Any, theta: Any) -> Any:
        """log p(y, w|θ)."""
        return sum(self.by_site(w, theta).values(), start=jnp.zeros(()))

    def log_likelihood(self, w: Any, theta: Any) -> Any:
        """log p(y|w, θ): observed sites and factors."""
        trace, _ = self.run(w, theta)
        observed = (s for s in trace.values() if s["type"] == "sample" and s["is_observed"])
        return sum(map(_log_prob, observed), start=jnp.zeros(()))

    def log_hyperpriors(self, theta: Any) -> dict[str, Any]:
        """Site → log p(θ) of each sample site that is maximised, on its own scale."""
        trace, _ = self.run(jnp.zeros(self.layout.size), theta)
        own = {name: s for name, s in trace.items() if name in self.theta.names and s["type"] == "sample"}
        return {name: _log_prob(site) for name, site in own.items()}

    def log_hyperprior(self, theta: Any) -> Any:
        """log p(θ)."""
        return sum(self.log_hyperpriors(theta).values(), start=jnp.zeros(()))

    def values(self, w: Any, theta: Any) -> dict[str, Any]:
        """Latent sites on their own scale, and real-valued ``deterministic`` sites."""
        trace, _ = self.run(w, theta)
        latent = (site.name for site in self.layout.sites)
        derived = [name for name, site in trace.items() if site["type"] == "deterministic" and _real(site["value"])]
        return {name: trace[name]["value"] for name in (*latent, *derived)}

    def draw(self, key: Any, theta: Any) -> Any:
        """Weights drawn from p(w|θ)."""
        fixed, names = self.theta.unravel(theta), {s.name for s in self.layout.sites}
        started = handlers.substitute(handlers.seed(self.call.function, key), data=fixed)
        trace = handlers.trace(started).get_trace(*self.call.args, **self.call.kwargs)
        raw = {name: biject_to(trace[name]["fn"].support).inv(trace[name]["value"]) for name in names}
        return self.layout.ravel(raw)

    def staged(self, function: Callable[..., Any]) -> Staged:
        """One of these functions of (w, θ), traced."""
        return Staged.of(function, (self.layout.size,), (self.theta.size,))

    @cached_property
    def staged_joint(self) -> Staged:
        """Traced twice unless it was before: two runs must be the same."""
        once = self.staged(self.log_joint)
        if not self.compared and not once.agrees(lambda: self.staged(self.log_joint)):
            raise BadProgram(
                "Two runs of the program differ, so it has no density: it draws random numbers outside NumPyro, or "
                "keeps something between runs. Draw with numpyro.sample, or draw once and pass the numbers as args=."
            )
        return once

    @cached_property
    def value_and_score(self) -> Callable[..., Any]:
        """(w, θ) → log joint, ∇_w."""
        return self.staged_joint.compiled(derivatives.value_and_score)

    @cached_property
    def second_order(self) -> Callable[..., Any]:
        """(w, θ, V) → log joint, ∇_w, −∇²_w v for each row of V."""
        return self.staged_joint.compiled(derivatives.second_order)

    @cached_property
    def slopes(self) -> Callable[..., Any]:
        """(w, θ, U) → ∂_θ, ∂_θ∇_w, and how Σ uᵀHu moves with w and θ."""
        return self.staged_joint.compiled(derivatives.slopes)

    @cached_property
    def log_joints(self) -> Callable[..., Any]:
        """(W, θ) → log joint for each row of W."""
        return self.staged_joint.compiled(derivatives.batched)

    @cached_property
    def theta_slope(self) -> Callable[..., Any]:
        """(W, c, θ) → ∂_θ of the sum of log joints, each times its c."""
        return self.staged_joint.compiled(derivatives.theta_slope)

    @cached_property
    def log_likelihoods(self) -> Callable[..., Any]:
        """(W, θ) → log likelihood for each row of W."""
        return self.staged(self.log_likelihood).compiled(derivatives.batched)

    @cached_property
    def trajectories(self) -> Callable[..., Any]:
        """Leapfrog steps along a path to the joint density; see `derivatives.trajectories`."""
        both = self.staged(lambda w, theta: (self.log_joint(w, theta), self.log_likelihood(w, theta)))
        return both.compiled(derivatives.trajectories)

    @cached_property
    def draws(self) -> Callable[..., Any]:
        """(keys, θ) → weights drawn from their prior, one a row."""
        with x64():
            key = jax.random.PRNGKey(0)
        return Staged.of(self.draw, key, (self.theta.size,)).compiled(derivatives.batched)

    @cached_property
    def hyperprior(self) -> Callable[..., Any]:
        """θ → log p(θ), its gradient and Hessian."""
        return Staged.of(self.log_hyperprior, (self.theta.size,)).compiled(derivatives.in_theta)

    @cached_property
    def hyperpriors(self) -> Callable[..., Any]:
        """θ → log p(θ) of each site."""
        return Staged.of(self.log_hyperpriors, (self.theta.size,)).compiled(derivatives.plain)

    @cached_property
    def gradients_by_site(self) -> Callable[..., Any]:
        """(w, θ) → density of each site, and its derivatives."""
        return self.staged(self.by_site).compiled(derivatives.gradients)


def _real(value: Any) -> bool:
    return value is not None and jnp.issubdtype(jnp.result_type(value), jnp.floating)


def _log_probs(site: Any) -> Any:
    density = site["fn"].log_prob(site["value"])
    return density if site["scale"] is None else site["scale"] * density


def _log_prob(site: Any) -> Any:
    return jnp.sum(_log_probs(site))
