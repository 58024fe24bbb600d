# SPDX-License-Identifier: BSD-3-Clause
"""The one signature of all evidence methods: θ goes in, evidence comes out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.model import Model


@dataclass(frozen=True, eq=False)
class Evidence:
    """log p(y|θ) at one θ, and how it was obtained.

    With V targets, ``log_value`` is (V,), ``gradient`` (V, k) and ``hessian`` (V, k, k).

    Parameters
    ----------
    log_value
        log p(y|θ), every constant kept.
    slope
        Its derivative in θ, or a function that computes it; read as ``gradient``.
    curvature
        Its second derivative where the method has it, or a function that computes it; read as ``hessian``.
    std_error
        Monte Carlo standard error of ``log_value``; zero for methods that draw nothing.
    posterior
        p(w|y,θ) in the model's coordinates.
    checks
        Findings about the computation: name → sentence. Empty when all is well.
    """

    log_value: Float[Array, "*V"] | float
    slope: Float[Array, "*V k"] | Callable[[], Float[Array, "*V k"]]
    curvature: Float[Array, "*V k k"] | Callable[[], Float[Array, "*V k k"]] | None = None
    std_error: float = 0.0
    posterior: Any = None
    checks: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def gradient(self) -> Float[Array, "*V k"]:
        """Derivative in θ."""
        return self.slope() if callable(self.slope) else self.slope

    @cached_property
    def hessian(self) -> Float[Array, "*V k k"] | None:
        """Second derivative in θ; None where the method has none."""
        return self.curvature() if callable(self.curvature) else self.curvature


class Peak(NamedTuple):
    """θ̂ of every target, the posterior from which a mode search there may set out, and what lower maxima were met."""

    theta: Float[Array, "V k"]
    start: Any = None
    others: Float[Array, "m k"] | None = None


class EvidenceMethod(ABC):
    """A way to integrate weights out. Concrete methods are frozen dataclasses; defining one registers it.

    Attributes
    ----------
    exact
        Whether the value is the integral itself.
    bound
        Whether the value is no greater than the integral.
    profiles_flat
        Whether the method maximises over flat weights itself when they are not to be integrated.
    modal
        Whether the posterior is a Gaussian about the mode of the log joint density, whose integral the evidence is.
    takes_parts
        Whether the model may look at a part of the data at a time.
    """

    registry: ClassVar[dict[str, type[EvidenceMethod]]] = {}
    exact: ClassVar[bool] = False
    bound: ClassVar[bool] = False
    profiles_flat: ClassVar[bool] = False
    modal: ClassVar[bool] = True
    takes_parts: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        EvidenceMethod.registry[re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()] = cls

    @abstractmethod
    def __call__(self, model: Model, theta: Float[Array, "*V k"], start: Any = None) -> Evidence:
        """Evidence at θ; ``start`` is the posterior at a nearby θ, from which a mode search may set out."""

    @abstractmethod
    def unsuited(self, model: Model) -> str | None:
        """Why this method cannot be used for this model, as the end of a sentence; None if it can."""

    @property
    def learner(self) -> EvidenceMethod:
        """The method with whose evidence θ is learned."""
        return self

    @property
    def first(self) -> EvidenceMethod | None:
        """The method from whose θ̂ learning by this one sets out; None where it needs none."""
        return None

    def seeded(self, seed: int) -> EvidenceMethod:
        """With random numbers from this seed, where it draws any."""
        return self

    def batched(self, model: Model) -> bool:
        """Whether θ may be (V, k) for this model, all targets at once."""
        return False

    def maximum(self, model: Model, theta: Float[Array, "k"], free: Array) -> Peak | None:
        """θ̂ of every target over the free coordinates, where the method finds the global maximum by itself."""
        return None

    def limits(self, model: Model, theta: Float[Array, "V k"], drop: float) -> Float[Array, "V k"] | None:
        """Where, the others as they are, a scale of zero costs `drop` nats, if these are the limits to report."""
        return None

    def nearby(self, model: Model, theta: Float[Array, "*V k"], start: Any) -> Evidence:
        """Evidence whose gradient is to be differenced: a change in θ² from where ``start`` was found may be missed."""
        return self(model, theta, start)

    def posterior(self, model: Model, theta: Float[Array, "V k"], start: Any = None) -> Any:
        """p(w|y,θ) at θ, in the model's coordinates."""
        return evaluate(self, model, theta, start).posterior

    def assessed(self, model: Model, theta: Float[Array, "k"], start: Any = None) -> str | None:
        """What is known of the approximation's error, as the end of a sentence; None if nothing is."""
        return None

    def starts(self, model: Model, theta: Float[Array, "k"], free: Array) -> Float[Array, "s *V k"]:
        """Values of θ from which learning may set out; coordinates that are not free stay as given."""
        return np.where(free, model.start_theta(), theta)


MOST_CLIMBS, BESIDE = 3, 1.8
"""From so many starts the evidence is climbed, none of them closer than this to a better one in every φ_k."""
FAR_BELOW = 20.0
"""A start that is lower than the best by so many nats is not climbed from."""


def apart(phi: Float[Array, "s k"], values: Sequence[float], far: float = FAR_BELOW) -> list[int]:
    """Which starts to climb from, the best first."""
    kept: list[int] = []
    for i in map(int, np.argsort(-np.asarray(values), kind="stable")):
        if values[i] > max(values) - far and not any(np.abs(phi[i] - phi[j]).max() < BESIDE for j in kept):
            kept.append(i)
    return kept[:MOST_CLIMBS]


def first_weights(model: Model, theta: Float[Array, "k"], start: Any) -> Float[Array, "p"]:
    """Where a mode search sets out: from the posterior at a nearby θ, unless that was in other coordinates."""
    near = None if start is None else start.near(theta)
    return model.start_weights() if near is None or len(near) != model.n_weights else near


def evaluate(
    method: EvidenceMethod, model: Model, theta: Float[Array, "V k"], start: Any = None, nearby: bool = False
) -> Evidence:
    """Evidence of every target, whether or not the method takes them at once."""
    if method.batched(model):
        return method(model, theta)
    e = method.nearby(model, theta[0], start) if nearby else method(model, theta[0], start)
    curvature = None if e.curvature is None else lambda: np.asarray(e.hessian)[None]
    return replace(e, log_value=np.atleast_1d(e.log_value), slope=lambda: e.gradient[None], curvature=curvature)
