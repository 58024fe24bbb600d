# SPDX-License-Identifier: BSD-3-Clause
"""Chooses an evidence method from declared facts, and can be asked why."""

from __future__ import annotations

from typing import NamedTuple

from marglik.evidence.base import EvidenceMethod
from marglik.evidence.exact import Exact
from marglik.evidence.laplace import Laplace
from marglik.evidence.quadrature import Quadrature
from marglik.model import Model
from marglik.validate import did_you_mean


class Choice(NamedTuple):
    """A method and the reason for it."""

    method: EvidenceMethod
    reason: str


def choose(model: Model, asked: str = "auto", points: int | None = None) -> Choice:
    """The method to use: the one asked for, or the best that the model allows.

    ``points`` is for quadrature alone.

    Raises
    ------
    ValueError
        There is no such method, or it cannot be used for this model.
    """
    if asked != "auto" and asked not in EvidenceMethod.registry:
        known = ["auto", *EvidenceMethod.registry]
        hint = did_you_mean(asked, known)
        raise ValueError(f"There is no method {asked!r}.{hint} The methods are {', '.join(known)}.")
    if points is not None and EvidenceMethod.registry.get(asked) is not Quadrature:
        raise ValueError(
            f"points={points!r} is for method='quadrature', but the method asked for is {asked!r}. Ask for quadrature, "
            "or leave points= out."
        )
    if asked == "auto":
        if Exact().unsuited(model) is None:
            return Choice(Exact(), "the likelihood is Gaussian, so the integral has a closed form")
        return Choice(Laplace(), f"the integral has no closed form: the exact method {Exact().unsuited(model)}")
    method = EvidenceMethod.registry[asked]() if points is None else Quadrature(points)
    unsuited = method.unsuited(model)
    if unsuited is not None:
        other, reason = choose(model)
        raise ValueError(
            f"method={asked!r} {unsuited}. Use method='{_name(other)}', or method='auto', which chooses it because "
            f"{reason}."
        )
    return Choice(method, "it was asked for")


def _name(method: EvidenceMethod) -> str:
    return next(name for name, cls in EvidenceMethod.registry.items() if type(method) is cls)
