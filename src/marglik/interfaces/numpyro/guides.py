# SPDX-License-Identifier: BSD-3-Clause
"""Families of posteriors for a program: NumPyro's Gaussian guides, and a user's own.

Each places noise e among the weights, w = g(e; λ), and knows log q(w). With e held the bound is a plain function of λ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import autoguide, init_to_value

from marglik.interfaces.numpyro.compiling import x64
from marglik.interfaces.numpyro.density import Densities
from marglik.interfaces.numpyro.sites import BadProgram, Call
from marglik.likelihoods import LOG_2PI
from marglik.validate import did_you_mean

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.posterior.base import Gaussian

DRAWS = 4000
"""Of a user's guide, for its mean and covariance."""
MOST_FULL = 100
"""Up to so many weights the covariance is full, unless another guide is asked for."""


@dataclass(frozen=True, eq=False)
class Guide(ABC):
    """Posteriors q(w; λ) of a program's weights, λ by NumPyro's names.

    Parameters
    ----------
    densities
        The program.
    values
        Latent sites from which NumPyro sets out.
    theta
        Hyperparameters there.
    """

    densities: Densities
    values: Mapping[str, Any]
    theta: Float[Array, "k"]
    independent: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    @property
    @abstractmethod
    def basis(self) -> Array:
        """Noise that shows mean and covariance: none, then along each coordinate; many draws if not linear."""

    @property
    @abstractmethod
    def function(self) -> Callable[..., Any]:
        """NumPyro's guide."""

    @abstractmethod
    def start(self, near: Gaussian | None) -> dict[str, Any]:
        """λ of the guide closest to a Gaussian; empty where there is none, or no way to say."""

    @abstractmethod
    def noise(self, n: int, rng: np.random.Generator, even: bool = False) -> Array:
        """n draws of e; if ``even``, with the moments that they have on average, where that can be."""

    @abstractmethod
    def place(self, params: Mapping[str, Any], e: Any) -> tuple[Any, Any]:
        """w and log q(w)."""


@dataclass(frozen=True, eq=False)
class _Gaussian(Guide):
    """w = a + L e for standard normal e."""

    auto: ClassVar[Callable[..., Any]]
    linear = True

    @property
    def basis(self):
        d = self._dimension
        along = np.ones((1, d)) if self.independent else np.eye(d)
        return np.concatenate([np.zeros((1, d)), along])

    @cached_property
    def function(self):
        sites, names = self.densities.theta.unravel(self.theta), self.densities.theta.names
        held = handlers.block(handlers.substitute(self.densities.call.full, data=sites), hide=[*names])
        guide = type(self).auto(held, init_loc_fn=init_to_value(values=dict(self.values)))
        with x64(), handlers.block(), handlers.seed(rng_seed=0):
            guide(*self.densities.call.args, **self.densities.call.kwargs)  # it looks at the program
        return guide

    @property
    def _size(self) -> int:
        return self.densities.layout.size

    @property
    def _dimension(self) -> int:
        return self._size

    def noise(self, n, rng, even=False):
        return _even(n, self._dimension, rng) if even else rng.standard_normal((n, self._dimension))

    @cached_property
    def order(self) -> Array:
        """Where among the guide's coordinates each weight is."""
        with x64(), jax.ensure_compile_time_eval():
            sites = self.function._unpack_latent(jnp.arange(float(self._size)))
            return np.asarray(self.densities.layout.ravel(sites)).astype(int)


class MeanField(_Gaussian):
    """Independent weights, `AutoNormal`."""

    auto = staticmethod(autoguide.AutoNormal)
    independent = True

    def start(self, near):
        if near is None:
            return {}
        sizes = 1 / np.sqrt(_diagonal(near))
        out = {}
        for part, numbers in (("loc", near.mean), ("scale", sizes)):
            for name, value in self.densities.layout.unravel(numbers).items():
                out[f"{name}_auto_{part}"] = value
        return out

    def place(self, params, e):
        loc, scale = (
            self.densities.layout.ravel({s.name: params[f"{s.name}_auto_{part}"] for s in self.densities.layout.sites})
            for part in ("loc", "scale")
        )
        return loc + scale * e, -(e @ e + len(e) * LOG_2PI) / 2 - jnp.log(scale).sum()


class Full(_Gaussian):
    """Any covariance, `AutoMultivariateNormal`."""

    auto = staticmethod(autoguide.AutoMultivariateNormal)

    def start(self, near):
        if near is None:
            return {}
        back = np.argsort(self.order)
        S = near.precision.solve(np.eye(len(near.mean)))[np.ix_(back, back)]
        return {"auto_loc": near.mean[back], "auto_scale_tril": np.linalg.cholesky((S + S.T) / 2)}

    def place(self, params, e):
        L = params["auto_scale_tril"]
        log_q = -(e @ e + len(e) * LOG_2PI) / 2 - jnp.log(jnp.diagonal(L)).sum()
        return (params["auto_loc"] + L @ e)[self.order], log_q


class LowRank(_Gaussian):
    """Covariance diag(s)(I + F Fᵀ)diag(s) with √p columns in F, `AutoLowRankMultivariateNormal`."""

    auto = staticmethod(autoguide.AutoLowRankMultivariateNormal)

    @property
    def rank(self) -> int:
        """Columns of F."""
        return round(self.densities.layout.size**0.5)

    @property
    def _dimension(self):
        return self.densities.layout.size + self.rank

    def start(self, near):
        if near is None:
            return {}
        back = np.argsort(self.order)
        s = 1 / np.sqrt(_diagonal(near)[back])
        S = near.precision.solve(np.eye(len(s)))[np.ix_(back, back)] / np.outer(s, s)
        values, vectors = np.linalg.eigh((S + S.T) / 2 - np.eye(len(s)))
        F = vectors[:, -self.rank :] * np.sqrt(np.maximum(values[-self.rank :], 1e-4))
        return {"auto_loc": near.mean[back], "auto_scale": s, "auto_cov_factor": F}

    def place(self, params, e):
        p = self.densities.layout.size
        loc, s, F = (params[f"auto_{part}"] for part in ("loc", "scale", "cov_factor"))
        z = loc + s * (e[:p] + F @ e[p:])
        return z[self.order], dist.LowRankMultivariateNormal(loc, s[:, None] * F, s**2).log_prob(z)


@dataclass(frozen=True, eq=False)
class Own(Guide):
    """A user's guide; its noise are random keys."""

    call: Call

    @property
    def basis(self):
        return self.noise(DRAWS, np.random.default_rng(0))

    @property
    def function(self):
        return self.call.function

    def start(self, near):
        return {}

    def noise(self, n, rng, even=False):
        return rng.integers(0, 2**32, (n, 2), dtype=np.uint32)

    def place(self, params, e):
        trace = self.call.trace(lambda site: params.get(site["name"]) if site["type"] == "param" else None, e)
        drawn = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        values = {name: site["value"] for name, site in drawn.items()}
        log_q = sum(
            jnp.sum(s["fn"].log_prob(s["value"]) * (1.0 if s["scale"] is None else s["scale"])) for s in drawn.values()
        )
        w, log_det = self.densities.raw(values, self.theta)
        return w, log_q + log_det


GUIDES: dict[str, type[_Gaussian]] = {"full": Full, "low_rank": LowRank, "mean_field": MeanField}


def guide_of(asked: Any, densities: Densities, values: Mapping[str, Any], theta: Array) -> Guide:
    """The guide by its name, or a user's own.

    Raises
    ------
    BadProgram
        There is no such guide, or it cannot be used for this program.
    """
    if asked is None:
        asked = "full" if densities.layout.size <= MOST_FULL else "mean_field"
    if isinstance(asked, str):
        if asked not in GUIDES:
            raise BadProgram(
                f"There is no guide {asked!r}.{did_you_mean(asked, [*GUIDES])} The guides are {', '.join(GUIDES)}, or "
                "a NumPyro guide of your own: a function of the program's arguments."
            )
        return GUIDES[asked](densities, values, theta)
    if not callable(asked):
        raise BadProgram(f"guide must be one of {', '.join(GUIDES)} or a function, but is a {type(asked).__name__}.")
    call = Call(asked, densities.call.args, densities.call.kwargs)
    _check(call, densities, values)
    return Own(densities, values, theta, call)


def _check(call: Call, densities: Densities, values: Mapping[str, Any]) -> None:
    """Refuse a guide whose sites are not the latent sites of the program."""
    trace, _ = call.surveyed(lambda trace: {}, draws=True)
    drawn = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    for name, site in drawn.items():
        if site["fn"].support.is_discrete:
            raise BadProgram(
                f"Site {name!r} of the guide is discrete, so the bound has no slope in its parameters. Draw it from a "
                "continuous distribution."
            )
    for name in drawn:
        if name not in values:
            why = "is a hyperparameter" if name in densities.theta.names else "is no latent site of the program"
            raise BadProgram(
                f"The guide draws {name!r}, which {why}.{did_you_mean(name, [*values])} It must draw "
                f"{', '.join(map(repr, values))}."
            )
    missing = [name for name in values if name not in drawn]
    if missing:
        raise BadProgram(
            f"The guide does not draw {', '.join(map(repr, missing))}, latent in the program. Add a numpyro.sample for "
            "each, by the same name."
        )
    for name, site in drawn.items():
        if np.shape(site["value"]) != np.shape(values[name]):
            raise BadProgram(
                f"Site {name!r} has the shape {np.shape(site['value'])} in the guide and {np.shape(values[name])} in "
                "the program. Give both the same plates and events."
            )


def _diagonal(near: Gaussian) -> Float[Array, "p"]:
    """Of H."""
    H = near.precision
    return np.concatenate([np.einsum("qmm->qm", H.blocks).ravel(), H.border.diagonal()])


def _even(n: int, d: int, rng: np.random.Generator) -> Float[Array, "n d"]:
    """Normal draws with mean exactly zero, and covariance exactly I where there are enough; else variances of one.

    The bound of a Gaussian target is then exact, for it depends on these moments alone.
    """
    Z = rng.standard_normal((n // 2, d))
    Z = np.linalg.qr(Z)[0] * np.sqrt(n // 2) if n // 2 >= d else Z / np.sqrt(np.mean(Z**2, axis=0))
    return rng.permutation(np.concatenate([Z, -Z]))
