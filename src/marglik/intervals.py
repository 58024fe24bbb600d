# SPDX-License-Identifier: BSD-3-Clause
"""Confidence intervals of a fit, from its curvature or by profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtri, ndtri

from marglik import learn
from marglik.evidence import Exact
from marglik.model import LinearModel
from marglik.profiles import FixedEffectProfile, Profile
from marglik.uncertainty import wald
from marglik.validate import did_you_mean

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit


def confint(fit: Fit, method: str, level: float, names: str | Sequence[str] | None) -> DataFrame:
    """See `Fit.confint`."""
    if method not in ("wald", "profile"):
        raise ValueError(f"method must be 'wald' or 'profile', not {method!r}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability between 0 and 1, such as 0.95, not {level!r}.")
    linear = isinstance(fit.model, LinearModel)
    if linear and fit.model.rows.y.ndim == 2:  # type: ignore[attr-defined]
        raise ValueError("confint is for one target at a time; fit.hyperparameters has the intervals of all.")
    table: Any = fit.hyperparameters
    fixed: Any = fit.fixed_effects if linear else table.iloc[:0]
    known = [*table.index, *fixed.index]
    wanted = known if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"The fit has no {name!r}.{did_you_mean(name, known)} It has {', '.join(map(repr, known))}."
            )
    find = _by_curvature if method == "wald" else _by_profile
    rows = find(fit, level, wanted, fixed)
    import pandas as pd

    return pd.DataFrame(rows, index=pd.Index(wanted, name="name"), columns=["estimate", "lower", "upper"])


def _by_curvature(fit: Fit, level: float, wanted: Sequence[str], fixed: Any) -> list[tuple[float, float, float]]:
    names = fit.model.hyperparameters
    table = {column: values[0] for column, values in wald(names, fit.optimum, level).items()}
    there: Any = fit.hyperparameters
    out, z = [], float(ndtri((1 + level) / 2))
    for name in wanted:
        if name in there.index:
            i = names.reported.index(name)
            low, high = table["lower"][i], table["upper"][i]
            if there.loc[name, "at_boundary"]:
                low, high = _boundary(fit, name, level)
            out.append((float(there.loc[name, "estimate"]), float(low), float(high)))
        else:
            middle, half = fixed.loc[name, "estimate"], z * fixed.loc[name, "se"]
            out.append((float(middle), float(middle - half), float(middle + half)))
    return out


def _boundary(fit: Fit, name: str, level: float) -> tuple[float, float]:
    """At the end of a support the likelihood ratio is zero half of the time, so that its quantile is a lower one."""
    table: Any = fit.hyperparameters
    estimate, *ends = (float(table.loc[name, column]) for column in ("estimate", "lower", "upper"))
    if level == 0.95 or np.isnan(estimate):
        return ends[0], ends[1]
    return _profile(fit, name, float(chdtri(1, 2 - 2 * level)) / 2) if level > 0.5 else (estimate, estimate)


def _profile(fit: Fit, name: str, target: float) -> tuple[float, float]:
    table: Any = fit.hyperparameters
    row, names = table.loc[name], fit.model.hyperparameters
    unit = names.natural(name) if name not in names.names else float(fit.objective.units[names.index(name)])
    return _optimum_profile(fit, name).ends(float(row["estimate"]), float(row["se"]), target, unit)


def _optimum_profile(fit: Fit, name: str) -> Profile:
    optimum: Any = fit.optimum
    return Profile(fit.objective, optimum, name)


def _by_profile(fit: Fit, level: float, wanted: Sequence[str], fixed: Any) -> list[tuple[float, float, float]]:
    target = float(chdtri(1, 1 - level)) / 2
    table: Any = fit.hyperparameters
    out, ml = [], None
    for name in wanted:
        if name in table.index:
            row = table.loc[name]
            held = not row["at_boundary"] and row["lower"] == row["upper"]
            if row["at_boundary"]:
                low, high = _boundary(fit, name, level)
            else:
                low, high = (row["lower"], row["upper"]) if held else _profile(fit, name, target)
            out.append((float(row["estimate"]), float(low), float(high)))
            continue
        if ml is None:
            ml = _maximum_likelihood(fit)
        profile = FixedEffectProfile(*ml, column=fixed.index.get_loc(name))
        estimate = _ml_estimates(ml)[profile.column]
        low, high = profile.ends(float(estimate), float(fixed.loc[name, "se"]), target)
        out.append((float(fixed.loc[name, "estimate"]), low, high))
    return out


def _maximum_likelihood(fit: Fit) -> tuple[learn.Objective, learn.Optimum]:
    """The ML fit of the same model."""
    model = fit.model
    assert isinstance(model, LinearModel)
    if not model.likelihood.gaussian:
        raise ValueError(
            "Profiles of fixed effects are for Gaussian models so far. Use confint('wald'), or name hyperparameters "
            "alone: names=[…]."
        )
    if model.one_scale and model.n_flat:
        model = replace(model, reml=False)
    objective = replace(fit.objective, model=replace(model, reml=False), method=Exact())
    optimum: Any = fit.optimum
    asked = optimum.free | optimum.limit
    return objective, learn.maximise(objective, optimum.theta, asked)


def _ml_estimates(ml: tuple[learn.Objective, learn.Optimum]) -> Array:
    objective, optimum = ml
    posterior = objective.method.posterior(objective.model, optimum.theta)
    flat = next(t.label for t in objective.model.prior if t.flat)  # type: ignore[attr-defined]
    return np.asarray(posterior.mean[flat])
