# SPDX-License-Identifier: BSD-3-Clause
"""Chooses an evidence method from declared facts, and can be asked why."""

from __future__ import annotations

from typing import NamedTuple

from marglik.evidence.base import EvidenceMethod
from marglik.evidence.exact import Exact
from marglik.evidence.laplace import Laplace
from marglik.model import Model
from marglik.validate import did_you_mean


class Choice(NamedTuple):
    """A method and the reason for it."""

    method: EvidenceMethod
    reason: str


def choose(model: Model, asked: str = "auto") -> Choice:
    """The method to use: the one asked for, or the best that the model allows.

    Raises
    ------
    ValueError
        There is no such method, or it cannot be used for this model.
    """
    if asked == "auto":
        if Exact().unsuited(model) is None:
            return Choice(Exact(), "the likelihood is Gaussian, so the integral has a closed form")
        return Choice(Laplace(), f"the integral has no closed form: the exact method {Exact().unsuited(model)}")
    if asked not in EvidenceMethod.registry:
        known = ["auto", *EvidenceMethod.registry]
        hint = did_you_mean(asked, known)
        raise ValueError(f"There is no method {asked!r}.{hint} The methods are {', '.join(known)}.")
    method = EvidenceMethod.registry[asked]()
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
