# SPDX-License-Identifier: BSD-3-Clause
"""What a fit says of its numbers, as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik import learn
from marglik.uncertainty import far_limits, scale_limits, singular_limits, wald

if TYPE_CHECKING:
    from jaxtyping import Bool
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.model import LinearModel
    from marglik.posterior.base import TermPosterior

NORMAL_975 = 1.959963984540054


def criterion(flat: bool, gaussian: bool, reml: bool) -> str:
    """Which number the log evidence is, in the words of other programs."""
    if not flat:
        return "all weights integrated"
    if not gaussian:
        return (
            "fixed effects integrated (REML); lme4's glmer and glmmTMB print the one with reml=False"
            if reml
            else "fixed effects maximised (ML), as lme4's glmer and glmmTMB print it"
        )
    return (
        "fixed effects integrated: -2 x it is lme4's REML criterion"
        if reml
        else "fixed effects maximised: -2 x it is lme4's deviance under REML=FALSE"
    )


def optima(objective: learn.Objective, optimum: learn.Found) -> DataFrame:
    """Distinct maxima and their evidence; see `Fit.optima`."""
    import pandas as pd

    theta = optimum.theta if optimum.others is None else np.concatenate([optimum.theta, optimum.others])
    values = [np.ravel(objective.evidence(t[None]).log_value)[0] for t in theta]
    return pd.DataFrame(theta, columns=list(objective.hyperparameters.names)).assign(log_evidence=values)


def joined(each: Sequence[DataFrame | None]) -> DataFrame:
    """The tables of several targets, one below the other; NaN where there is none."""
    import pandas as pd

    like = next(table for table in each if table is not None)
    return pd.concat(
        [like.astype(float) * np.nan if table is None else table for table in each],
        keys=range(len(each)),
        names=["target", "name"],
    )


def hyperparameters(objective: learn.Objective, optimum: learn.Found, many: bool) -> DataFrame:
    """``estimate, se, lower, upper, at_boundary``; see `Fit.hyperparameters`."""
    import pandas as pd

    known = objective.model.hyperparameters
    shown = [i for i, h in enumerate(known) if not h.fixed_effect]
    table = wald(known, optimum)
    if len(shown) < len(known) and not known.images:
        table = {column: values[:, shown] for column, values in table.items()}
    at_limit = table["at_boundary"].astype(bool)
    if at_limit.any():
        limits = known.plain_to_reported(scale_limits(objective, optimum))
        table["upper"] = np.where(at_limit & np.isnan(table["upper"]), limits, table["upper"])
        if not many:
            far_limits(objective, optimum, table)  # type: ignore[arg-type]
        if known.triangles:
            singular_limits(objective, optimum, table)  # type: ignore[arg-type]
    if many:
        targets = range(len(optimum.theta))
        index: Any = pd.MultiIndex.from_product([targets, known.reported], names=["target", "name"])
    else:
        index = pd.Index(known.reported, name="name")
    frame = pd.DataFrame({column: values.reshape(-1) for column, values in table.items()}, index=index)
    frame["at_boundary"] = frame["at_boundary"].astype(bool)
    return frame


def vcov(model: LinearModel, optimum: learn.Found, posterior: TermPosterior) -> DataFrame:
    """Covariance of the fixed effects; targets × names, by names."""
    import pandas as pd

    own = parametric(model)
    names = [name for name, mine in zip(model.flat_names, own, strict=True) if mine]
    if model.flat_in_theta:
        R = model.flat_basis.R
        beta = [i for i, h in enumerate(model.hyperparameters) if h.fixed_effect]
        C = learn.covariance(optimum)[0][np.ix_(beta, beta)]
        C = np.linalg.solve(R, np.linalg.solve(R, C).T)
    else:
        C = posterior.flat_covariance
    C = C if own.all() else C[..., own, :][..., own]
    if C.ndim > 2:
        index = pd.MultiIndex.from_product([range(len(C)), names], names=["target", "name"])
        return pd.DataFrame(C.reshape(-1, len(names)), index=index, columns=names)
    return pd.DataFrame(C, index=pd.Index(names, name="name"), columns=names)


def fixed_effects(model: LinearModel, posterior: TermPosterior, covariance: DataFrame) -> DataFrame:
    """``estimate, se, lower, upper`` of the fixed effects, from `vcov`."""
    import pandas as pd

    flat, own = next((term.label for term in model.prior if term.flat), None), parametric(model)
    estimate = np.reshape(posterior.mean[flat][..., own], -1) if flat else np.zeros(0)
    f = int(own.sum())
    blocks = covariance.to_numpy().reshape(len(estimate) // max(f, 1), f, f)
    se = np.sqrt(np.einsum("vff->vf", blocks)).reshape(-1)
    half = NORMAL_975 * se
    return pd.DataFrame(
        {"estimate": estimate, "se": se, "lower": estimate - half, "upper": estimate + half},
        index=covariance.index,
    )


def parametric(model: LinearModel) -> Bool[Array, "f"]:
    """Which flat columns are no other term's."""
    return np.concatenate([np.zeros(0, bool), *(t.owned({t.label}) for t in model.prior if t.flat)])  # type: ignore[attr-defined]


def edf(model: LinearModel, by_term: Mapping[str, Any]) -> dict[str, Any]:
    """Effective degrees of freedom, each flat column's counted where it belongs: it has exactly one."""
    out = dict(by_term)
    for term in (t for t in model.prior if t.flat):
        owners = list(term.owners or ())  # type: ignore[attr-defined]
        for owner in dict.fromkeys(o for o in owners if o != term.label):
            out[owner] = out.get(owner, 0.0) + float(owners.count(owner))
            out[term.label] = out[term.label] - float(owners.count(owner))
        if owners and term.label not in owners:
            del out[term.label]
    return out


def random_effects(
    model: LinearModel, mean: Mapping[str, Array], others: Mapping[str, Mapping[str, Array]], group: str | None
) -> DataFrame:
    """Levels × coefficients, terms of the same factor side by side, from values by term; `others` go into attrs."""
    import pandas as pd

    terms: dict[str, list[Any]] = {}
    for term in model.prior:
        if term.grouped:
            terms.setdefault(term.group, []).append(term)  # type: ignore[attr-defined]
    if group is None and len(terms) == 1:
        group = next(iter(terms))
    if group not in terms:
        have = f"The grouping factors are {', '.join(terms)}." if terms else "The model has no grouping factors."
        raise ValueError(f"There is no grouping factor {group!r}. {have}")

    def table(values: Mapping[str, Array]) -> DataFrame:
        own = terms[group]
        parts = [pd.DataFrame(values[t.label], index=list(t.levels), columns=list(t.names)) for t in own]
        return pd.concat(parts, axis=1).rename_axis(group)

    frame = table(mean)
    frame.attrs.update({name: table(values) for name, values in others.items()})
    return frame


def occam(parts: Mapping[str, Any], many: bool) -> DataFrame:
    """Parts of the log evidence in one column ``nats``."""
    import pandas as pd

    if many:
        return (
            pd.DataFrame(parts)
            .rename_axis("target")
            .melt(ignore_index=False, var_name="part", value_name="nats")
            .set_index("part", append=True)
            .sort_index(level="target", sort_remaining=False)
        )
    return pd.DataFrame({"nats": pd.Series(parts)}).rename_axis("part")
