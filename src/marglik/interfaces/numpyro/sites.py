# SPDX-License-Identifier: BSD-3-Clause
"""What a program consists of: its sites, sorted; what is wrong with them, in one sentence each."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_uniform

from marglik.interfaces.numpyro import derivatives
from marglik.interfaces.numpyro.compiling import Staged

if TYPE_CHECKING:
    from numpy import ndarray as Array


class BadProgram(ValueError):
    """A program that cannot be used, in one sentence."""


@dataclass(frozen=True)
class Latent:
    """A site that is integrated out.

    Parameters
    ----------
    name
        Of the site.
    shape
        Of its value on the unconstrained scale.
    value_shape
        On its own scale.
    plates
        Name → axis of that shape, outermost first.
    """

    name: str
    shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    plates: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Maximised:
    """A site that is maximised over: its constraint, its prior, where learning sets out, the ends of its support.

    The ends are NaN where the support is no product of intervals.
    """

    name: str
    shape: tuple[int, ...]
    constraint: Any
    has_prior: bool
    proper: bool
    start: Array
    lower: Array
    upper: Array


class Partial(NamedTuple):
    """A plate that looks at so many of its members at a time."""

    plate: str
    shown: int
    size: int


@dataclass(frozen=True, eq=False)
class Call:
    """A program and what it is called with."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def full(self) -> Callable[..., Any]:
        """The function, in which plates that look at a part of their members at a time look at all."""
        return _whole(self.function)

    def trace(self, substitute: Callable[[Any], Any], key: Any = 0) -> Mapping[str, Any]:
        """One run over all members of plates, sites replaced by what ``substitute`` returns where that is not None."""
        started = handlers.substitute(handlers.seed(self.full, key), substitute_fn=substitute)
        return handlers.trace(started).get_trace(*self.args, **self.kwargs)

    def surveyed(self, read: Callable[[Mapping[str, Any]], Any], draws: bool = False) -> tuple[Mapping[str, Any], Any]:
        """One run in which sites have shapes and supports alone, and numbers read off it."""
        found: dict[str, Any] = {}

        def run() -> Any:
            # Zero on the unconstrained scale: also improper priors, which have no draws, then have a value.
            found.update(self.trace((lambda site: None) if draws else init_to_uniform(radius=0)))
            return read(found)

        try:
            staged = Staged.of(run)
        except TypeError as error:
            if "positional argument" in str(error) or "keyword argument" in str(error):
                raise BadProgram(
                    f"The program cannot be called with what was given ({error}). Give its arguments as args=(…) "
                    "and kwargs={…}."
                ) from error
            if isinstance(error, jax.errors.TracerArrayConversionError):
                raise BadProgram(
                    "The program hands a value that NumPyro draws to NumPy, which cannot be differentiated. Use "
                    "jax.numpy inside the program, and jnp.asarray for arrays that such a value indexes."
                ) from error
            raise
        except AssertionError as error:
            raise BadProgram(f"NumPyro cannot run the program: {error}.") from error
        return found, staged.compiled(derivatives.plain)()


def _whole(function: Callable[..., Any]) -> Callable[..., Any]:
    def members(site: Any) -> Any:
        partial = site["type"] == "plate" and site["args"][1] not in (None, site["args"][0])
        return jnp.arange(site["args"][0]) if partial else None

    def run(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "subsample_size does not match")
            return handlers.substitute(function, substitute_fn=members)(*args, **kwargs)

    return run


def subsampled(trace: Mapping[str, Any]) -> Partial | None:
    """The first plate that looks at a part of its members at a time."""
    plates = ((name, site["args"]) for name, site in trace.items() if site["type"] == "plate")
    return next((Partial(name, shown, size) for name, (size, shown) in plates if shown not in (None, size)), None)


def sorted_sites(call: Call, hyper: Sequence[str]) -> tuple[tuple[Maximised, ...], tuple[Latent, ...], Partial | None]:
    """Sites to maximise and to integrate, in the order of the program, and a plate that looks at a part of its members.

    Refuses what has no density to expand.
    """

    def numbers(trace: Mapping[str, Any]) -> dict[str, Any]:
        named = {name: s for name, s in trace.items() if name in hyper or s["type"] == "param"}
        return {"missing": missing_values(trace), "starts": {n: start_and_ends(s) for n, s in named.items()}}

    trace, found = call.surveyed(numbers)
    for name, missing in found["missing"].items():
        if missing:
            raise BadProgram(
                f"{missing} of the observed values of site {name!r} are NaN. Leave them out, or hide them with "
                "numpyro.handlers.mask."
            )
    for name, numbers_of in found["starts"].items():
        if not numbers_of["inside"]:
            raise BadProgram(
                f"The start of numpyro.param {name!r} lies outside its own constraint, {_constraint(trace[name])}. "
                "Give one inside as its second argument."
            )
    free = {name: s for name, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    params = [name for name, s in trace.items() if s["type"] == "param"]
    for name in hyper:
        if name not in free and name not in params:
            _refuse_name(name, [*free, *params])
    for name, site in free.items():
        if site["fn"].support.is_discrete:
            raise BadProgram(
                f"Site {name!r} is latent and discrete, so it has no density to expand. Sum it out in the program, or "
                "observe it."
            )
    named = [*params, *(name for name in hyper if name not in params)]
    maximised = tuple(_maximised(name, trace[name], found["starts"][name]) for name in named)
    latent = {name: site for name, site in free.items() if name not in named}
    part = subsampled(trace)
    for name, site in latent.items():
        if part is not None and part.plate in (frame.name for frame in site["cond_indep_stack"]):
            raise BadProgram(
                f"Site {name!r} is latent within plate {part.plate!r}, which looks at {part.shown} of its {part.size} "
                "members at a time. Only observed sites can be looked at by parts: leave subsample_size= out."
            )
    return maximised, tuple(_latent(name, site) for name, site in latent.items()), part


def _refuse_name(name: str, known: list[str]) -> None:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise BadProgram(f"The program has no latent site {name!r} to maximise.{hint} Its sites are {known}.")


def _maximised(name: str, site: Any, numbers: Mapping[str, Array]) -> Maximised:
    shape = np.shape(site["value"])
    start, lower, upper = (np.broadcast_to(numbers[what], shape) for what in ("start", "lower", "upper"))
    has_prior, proper = site["type"] == "sample", bool(numbers["proper"])
    return Maximised(name, shape, _constraint(site), has_prior, proper, start, lower, upper)


def _proper(site: Any) -> bool:
    """Whether it has a prior that can be drawn from."""
    if site["type"] == "param":
        return False
    try:
        jax.eval_shape(site["fn"].sample, jax.random.PRNGKey(0))
    except NotImplementedError:
        return False
    return True


def _latent(name: str, site: Any) -> Latent:
    shape = biject_to(site["fn"].support).inverse_shape(np.shape(site["value"]))
    batch = site["fn"].batch_shape
    frames = sorted(site["cond_indep_stack"], key=lambda f: f.dim)
    plates = {f.name: len(batch) + f.dim for f in frames if batch[f.dim] == f.size > 1}
    return Latent(name, shape, np.shape(site["value"]), plates)


def _start(site: Any) -> Any:
    """The median, or else the mean, of a prior that has one; the initial value of a param."""
    value = jnp.asarray(site["value"], float)
    if site["type"] == "param":
        return value
    for middle in (lambda: site["fn"].icdf(0.5), lambda: site["fn"].mean):
        try:
            found = jnp.broadcast_to(jnp.asarray(middle(), float), value.shape)
        except (NotImplementedError, ValueError, TypeError, ImportError):  # NumPyro has some of TensorFlow alone
            continue
        return jnp.where(jnp.isfinite(found), found, value)
    return value


def elementwise(constraint: Any) -> Any:
    """Without the axes that count as one event."""
    while isinstance(constraint, type(constraints.independent(constraints.real, 1))):
        constraint = constraint.base_constraint
    return constraint


def _ends(constraint: Any) -> dict[str, Any]:
    """The ends of the support, −∞ to ∞ for the real line; NaN for what is no product of intervals."""
    constraint = elementwise(constraint)
    if constraint is constraints.real or constraint is constraints.real_vector:
        return {"lower": jnp.asarray(-jnp.inf), "upper": jnp.asarray(jnp.inf)}
    if constraint in (constraints.softplus_positive, constraints.nonnegative):
        return {"lower": jnp.asarray(0.0), "upper": jnp.asarray(jnp.inf)}
    lower, upper = (getattr(constraint, f"{end}_bound", None) for end in ("lower", "upper"))
    if constraint.event_dim or (lower is None and upper is None):
        return {"lower": jnp.asarray(jnp.nan), "upper": jnp.asarray(jnp.nan)}
    return {
        "lower": jnp.asarray(-jnp.inf if lower is None else lower, float),
        "upper": jnp.asarray(jnp.inf if upper is None else upper, float),
    }


def _constraint(site: Any) -> Any:
    return site["kwargs"].get("constraint", constraints.real) if site["type"] == "param" else site["fn"].support


def start_and_ends(site: Any) -> dict[str, Any]:
    """Where learning sets out and whether that is allowed, the ends of the support, whether there is a proper prior."""
    start, proper = _start(site), jnp.asarray(_proper(site))
    inside = jnp.all(_constraint(site)(start)) if site["type"] == "param" else jnp.asarray(True)
    return {"start": start, "inside": inside, "proper": proper, **_ends(_constraint(site))}


def missing_values(trace: Mapping[str, Any]) -> dict[str, Any]:
    """Observed site → number of NaN, where nothing masks them."""
    return {
        name: jnp.sum(jnp.isnan(site["value"]))
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"] and _plain(site)
    }


def _plain(site: Any) -> bool:
    masked = getattr(site["fn"], "_mask", None)  # a mask may hide them
    return masked is None and site["value"] is not None and np.issubdtype(jnp.result_type(site["value"]), np.floating)
