# SPDX-License-Identifier: BSD-3-Clause
"""Can the answer be trusted? So far: is it a maximum, how curved, and what lies at a boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from marglik.uncertainty import wald
from marglik.validate import counted

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameters
    from marglik.learn import Found


@dataclass(frozen=True)
class Check:
    """Findings about one fit (the worst target, where there are several).

    Attributes
    ----------
    gradient_norm
        Largest slope of the log evidence in a free hyperparameter on the unconstrained scale, in nats.
    curvature
        Smallest curvature (eigenvalue of the negative Hessian) over the free hyperparameters; must be positive.
    boundary
        Names of hyperparameters at the end of their support, with the value there.
    converged
        Whether learning reached a maximum.
    exact
        Whether the evidence is the integral itself rather than an approximation.
    verdict
        All of it in one sentence.
    """

    gradient_norm: float
    curvature: float
    boundary: Mapping[str, float]
    converged: bool
    exact: bool
    verdict: str

    @classmethod
    def of(
        cls,
        optimum: Found,
        names: Hyperparameters,
        exact: bool,
        findings: Mapping[str, str],
        assessed: str | None = None,
    ) -> Check:
        """Check an optimum; ``assessed`` is what is known of the approximation, as the end of a sentence."""
        free = optimum.free
        curvature = min((_least_curvature(H, f) for H, f in zip(optimum.hessian, free, strict=True)), default=np.inf)
        gradient = float(np.abs(optimum.gradient[free]).max(initial=0))
        table = wald(names, optimum)
        ends = table["at_boundary"].astype(bool) & ~np.isnan(table["estimate"])
        boundary = {names.reported[i]: float(table["estimate"][v, i]) for v, i in np.argwhere(ends)}
        many = dict(zip(names.reported, map(int, ends.sum(axis=0)), strict=False)) if len(free) > 1 else {}
        inside = optimum.limit & ~ends.any(axis=1, keepdims=True)
        rank = [
            triangle.names[0]
            for place, triangle in names.triangles
            if any(triangle.deficient(t) for t in optimum.theta[inside[:, place].any(axis=1), place])
        ]
        meanings = {h.name: h.without_end for h in names if boundary.get(h.name) == np.inf}
        converged = bool(np.all(optimum.converged)) and not findings
        return cls(
            gradient,
            curvature,
            boundary,
            converged,
            exact,
            _verdict(converged, curvature, exact, assessed, boundary, many, rank, findings, meanings),
        )

    def __str__(self) -> str:
        return self.verdict


def _least_curvature(hessian: Float[Array, "k k"], free: Bool[Array, "k"]) -> float:
    """Smallest eigenvalue of the negative Hessian over the free coordinates."""
    return float(np.linalg.eigvalsh(-hessian[np.ix_(free, free)]).min(initial=np.inf))


def _verdict(
    converged: bool,
    curvature: float,
    exact: bool,
    assessed: str | None,
    boundary: Mapping[str, float],
    many: Mapping[str, int],
    rank: Sequence[str],
    findings: Mapping[str, str],
    meanings: Mapping[str, str],
) -> str:
    if not converged:
        why = " ".join(findings.values()) or "Learning stopped short of a maximum."
        return f"Do not trust these numbers: {why} Rescale columns of very different size, or try restarts=10."
    sentences = ["The evidence is at a maximum"]
    if curvature <= 0:
        return "Do not trust the standard errors: the evidence is flat or rising along some hyperparameter. Fix one."
    unknown = "how far the approximation is from the integral was not assessed"
    sentences[0] += " and is exact." if exact else f"; {assessed or unknown}."
    for name, value in boundary.items():
        end = "zero, where the data are explained best" if value == 0 else f"its limit, {value:g}"
        where = f" for {counted(many[name], 'target')}" if name in many else ""
        meaning = f": {meanings[name]}" if meanings.get(name) else ""
        sentences.append(f"{name} is at {end}{where}{meaning}.")
    for name in rank:
        group = name.rsplit("| ", 1)[-1].rstrip(")")
        sentences.append(f"The covariance of the coefficients of {group} is singular: some combination does not vary.")
    return " ".join(sentences)
