# SPDX-License-Identifier: BSD-3-Clause
"""Chooses an evidence method from declared facts, and can be asked why."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from marglik.evidence.base import EvidenceMethod
from marglik.evidence.exact import Exact
from marglik.evidence.laplace import Laplace
from marglik.model import Model
from marglik.validate import did_you_mean


class Choice(NamedTuple):
    """A method and the reason for it."""

    method: EvidenceMethod
    reason: str


def choose(
    model: Model,
    asked: str = "auto",
    points: int | None = None,
    draws: int | None = None,
    guide: Any = None,
    samples: int | None = None,
) -> Choice:
    """The method to use: the one asked for, or the best that the model allows.

    ``points``, ``draws``, ``guide`` and ``samples`` are for the methods that have such a field.

    Raises
    ------
    ValueError
        There is no such method, or it cannot be used for this model.
    """
    if asked != "auto" and asked not in EvidenceMethod.registry:
        known = ["auto", *sorted(EvidenceMethod.registry)]
        hint = did_you_mean(asked, known)
        raise ValueError(f"There is no method {asked!r}.{hint} The methods are {', '.join(known)}.")
    settings = {"points": points, "draws": draws, "guide": guide, "samples": samples}
    given = {name: value for name, value in settings.items() if value is not None}
    for name, value in given.items():
        _check_setting(name, value, asked)
    if model.part is not None and (asked == "auto" or not EvidenceMethod.registry[asked].takes_parts):
        raise ValueError(
            f"method={asked!r} needs all the data at once, and {model.part}. Leave subsample_size= out, or use "
            "method='variational'."
        )
    if asked == "auto":
        if Exact().unsuited(model) is None:
            return Choice(Exact(), "the likelihood is Gaussian, so the integral has a closed form")
        return Choice(Laplace(), f"the integral has no closed form: the exact method {Exact().unsuited(model)}")
    if not model.n_weights and not EvidenceMethod.registry[asked].modal:
        raise ValueError(
            f"method={asked!r} has nothing to integrate out: the model has no weights or latent sites, so its evidence "
            "is its density. Leave method= out."
        )
    method = EvidenceMethod.registry[asked](**given)
    unsuited = method.unsuited(model)
    if unsuited is not None and model.part is not None:
        raise ValueError(f"method={asked!r} {unsuited}. Leave subsample_size= out.")
    if unsuited is not None:
        other, reason = choose(model)
        raise ValueError(
            f"method={asked!r} {unsuited}. Use method='{_name(other)}', or method='auto', which chooses it because "
            f"{reason}."
        )
    return Choice(method, "it was asked for")


def _check_setting(name: str, value: Any, asked: str) -> None:
    takers = [m for m, cls in EvidenceMethod.registry.items() if name in {f.name for f in fields(cls)}]  # type: ignore[arg-type]
    if asked not in takers:
        of = " or ".join(f"method={taker!r}" for taker in takers)
        raise ValueError(
            f"{name}={value!r} is for {of}, but the method asked for is {asked!r}. Ask for {takers[0]}, or leave "
            f"{name}= out."
        )


def _name(method: EvidenceMethod) -> str:
    return next(name for name, cls in EvidenceMethod.registry.items() if type(method) is cls)
