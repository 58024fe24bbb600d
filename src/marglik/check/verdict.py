# SPDX-License-Identifier: BSD-3-Clause
"""The findings about one fit, and what they come to in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from marglik.check.approximation import Approximation
from marglik.check.consistency import DOUBTFUL, Consistency
from marglik.evidence import EvidenceMethod
from marglik.uncertainty import undetermined, wald
from marglik.validate import counted, listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameters
    from marglik.learn import Found
    from marglik.model import Model


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
    searches, reached
        From how many places θ̂ was searched for, and how many of these searches ended at the maximum that is reported.
    lower
        Other maxima that were met: how many nats each is lower.
    exact
        Whether the evidence is the integral itself rather than an approximation.
    approximation
        How far the evidence is from the integral; None where that is exact, or was not assessed.
    consistency
        Scores of simulated data sets; None without ``simulations=``.
    verdict
        What it comes to: exact, good, usable, or do not trust and what to try.
    """

    gradient_norm: float
    curvature: float
    boundary: Mapping[str, float]
    converged: bool
    exact: bool
    verdict: str
    approximation: Approximation | None = None
    consistency: Consistency | None = None
    searches: int = 1
    reached: int = 1
    lower: Sequence[float] = ()

    @classmethod
    def of(
        cls,
        optimum: Found,
        names: Hyperparameters,
        exact: bool,
        findings: Mapping[str, str],
        assessed: str | None = None,
        approximation: Approximation | None = None,
        consistency: Consistency | None = None,
        remedy: str = "",
        lower: Sequence[float] = (),
    ) -> Check:
        """Check an optimum.

        ``assessed`` is what the method itself knows of its error, as the end of a sentence; ``remedy`` what to try
        where that is too large.
        """
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
        meanings |= {h.name: h.without_size for h in names if boundary.get(h.name) == 0}
        lost = np.isnan(optimum.theta).any(axis=1)
        converged = bool(np.all(optimum.converged[~lost])) and not lost.all() and not findings
        return cls(
            gradient,
            curvature,
            boundary,
            converged,
            exact,
            _verdict(
                converged,
                curvature,
                _judged(exact, assessed, approximation, remedy),
                boundary,
                many,
                rank,
                findings,
                meanings,
                undetermined(names, optimum),
            )
            + _beside(lower)
            + _doubt(consistency)
            + _without(lost),
            approximation,
            consistency,
            optimum.searches,
            optimum.reached,
            lower,
        )

    @property
    def trusted(self) -> bool:
        """Whether the fit has converged and no part of the check speaks against it."""
        off = self.approximation is not None and self.approximation.word == "bad"
        biased = self.consistency is not None and self.consistency.p_value < DOUBTFUL
        return self.converged and not off and not biased

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers behind the verdict, a sentence each."""
        out = [f"Largest slope {self.gradient_norm:.1e} nats; smallest curvature {self.curvature:.3g}."]
        if self.searches > 1:
            out.append(f"{self.reached} of {self.searches} searches ended at this maximum.")
        found = self.approximation
        if found is not None:
            each = " a level" if found.by_level else ""
            how = "annealing" if found.annealed else "importance sampling"
            out.append(
                f"Log evidence by {how} {found.log_value:.4f} ± {found.std_error:.2g}, "
                f"gap {found.gap:.3g} nats; importance draws: k̂ {found.k_hat:.2f}, {found.draws:,}{each}."
            )
        if found is not None and found.levels:
            each = ", ".join(f"{name} {gap:+.2g}" for name, gap in found.levels.items())
            out.append(f"Levels where Laplace's method is furthest off, in nats: {each}.")
        if found is not None and found.shift:
            each = ", ".join(f"{name} {moved:+.2g}" for name, moved in _largest(found.shift))
            out.append(f"Without the gap estimates would move, in standard errors, to first order: {each}.")
        if self.consistency is not None:
            each = ", ".join(f"{name} {bias:+.2g}" for name, bias in _largest(self.consistency.bias))
            out.append(
                f"Scores of {self.consistency.simulations} simulated data sets: p {self.consistency.p_value:.2g} that "
                f"they are centred; bias of the estimates in standard errors: {each}."
            )
        return tuple(out)

    def __str__(self) -> str:
        own = self.approximation is not None or self.consistency is not None or self.searches > 1
        return "\n".join([self.verdict, *(self.numbers if own else ())])


def remedy(model: Model, method: EvidenceMethod) -> str:
    """What to try where an approximation is too far from the integral."""
    known = [
        (name, other)
        for name, other in EvidenceMethod.registry.items()
        if not (other.modal or other.bound or isinstance(method, other)) and other().unsuited(model) is None
    ]
    settings = {name: {f.name for f in fields(other)} for name, other in known}  # type: ignore[arg-type]
    known.sort(key=lambda item: "points" not in settings[item[0]])  # those that draw nothing first
    others = [f"method={name!r}" for name, _ in known]
    if not method.modal and not method.bound:
        others.insert(0, "more points or draws")
    return (
        f"Try {' or '.join(others[:2])}."
        if others
        else ("Try other coordinates of the weights, merge levels that have few rows, or sample the posterior.")
    )


def _largest(values: Mapping[str, float], most: int = 5) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -abs(item[1]))[:most]


def _judged(exact: bool, assessed: str | None, found: Approximation | None, remedy: str) -> str:
    """What is known of the approximation: a sentence's predicate, or a whole sentence that says no."""
    own = f"; {assessed}" if assessed else ""
    if exact:
        return " and is exact."
    if found is None:
        return f"{own or '; how far the approximation is from the integral was not assessed'}."
    if found.word == "unknown":
        why = f"k̂ {found.k_hat:.2f}" if found.k_hat > 0.7 else f"standard error {found.std_error:.2g} nats"
        known = "how far the approximation is from the integral is not known, for importance draws do not tell"
        return f"{own}; {known} ({why}). {remedy}"
    size = abs(found.gap)
    way = "high" if found.gap > 0 else "low"
    off = f"{size:.2g} nats too {way} (±{found.std_error:.1g})" if size > 5e-4 else "less than 0.001 nats off"
    moved = ""
    if found.shift and size >= 5e-4:
        name, shift = _largest(found.shift, 1)[0]
        moved = f", which moves {name} most, by {abs(shift):.2g} standard errors"
    if found.word == "bad":
        return f"Do not trust the evidence: it is {off}{moved}. {remedy}"
    return f"{own}; the approximation is {found.word}, {off}{moved}."


def _without(lost: Bool[Array, "V"]) -> str:
    """Which targets this does not speak of."""
    if not lost.any() or lost.all():
        return ""
    return f" Target {listed(np.flatnonzero(lost))} could not be learned; this is about the others."


def _beside(lower: Sequence[float]) -> str:
    """That there are other maxima."""
    if not lower:
        return ""
    others = "another, lower maximum, which is" if len(lower) == 1 else f"{len(lower)} lower maxima, the next"
    return f" The search met {others} {min(lower):.2g} nats below; fit.optima lists them."


def _doubt(found: Consistency | None) -> str:
    if found is None or found.p_value >= DOUBTFUL:
        return ""
    name, bias = _largest(found.bias, 1)[0]
    return (
        f" Do not trust the estimates: scores of data simulated from the fit are not centred (p {found.p_value:.1g}), "
        f"as if {name} were off by {abs(bias):.2g} standard errors."
    )


def _least_curvature(hessian: Float[Array, "k k"], free: Bool[Array, "k"]) -> float:
    """Smallest eigenvalue of the negative Hessian over the free coordinates that the evidence has; NaN if not known."""
    free = free & np.any(hessian != 0, axis=1)
    if not np.isfinite(hessian[np.ix_(free, free)]).all():
        return np.nan
    return float(np.linalg.eigvalsh(-hessian[np.ix_(free, free)]).min(initial=np.inf))


def _ends(boundary: Mapping[str, float], many: Mapping[str, int], meanings: Mapping[str, str]) -> list[str]:
    """What lies at an end of its support, a sentence each."""
    out = []
    for name, value in boundary.items():
        end = "zero, where the data are explained best" if value == 0 else f"its limit, {value:g}"
        where = f" for {counted(many[name], 'target')}" if name in many else ""
        meaning = f": {meanings[name]}" if meanings.get(name) else ""
        out.append(f"{name} is at {end}{where}{meaning}.")
    return out


def _verdict(
    converged: bool,
    curvature: float,
    judged: str,
    boundary: Mapping[str, float],
    many: Mapping[str, int],
    rank: Sequence[str],
    findings: Mapping[str, str],
    meanings: Mapping[str, str],
    undetermined: str,
) -> str:
    if undetermined and not findings:
        what = "standard errors" if converged else "numbers"
        return " ".join([f"Do not trust the {what}.", undetermined, *_ends(boundary, many, meanings)])
    if not converged:
        why = " ".join(findings.values()) or "Learning stopped short of a maximum."
        return f"Do not trust these numbers: {why} Rescale columns of very different size, or try restarts=10."
    maximum = "" if judged.startswith("Do") else "The evidence is at a maximum"
    sentences = [maximum + judged]
    if curvature <= 0:
        return "Do not trust the standard errors: the evidence is flat or rising along some hyperparameter. Fix one."
    sentences += _ends(boundary, many, meanings)
    for name in rank:
        group = name.rsplit("| ", 1)[-1].rstrip(")")
        sentences.append(f"The covariance of the coefficients of {group} is singular: some combination does not vary.")
    return " ".join(sentences)
