# SPDX-License-Identifier: BSD-3-Clause
"""From a linear predictor, known with an error, to the mean of new responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Likelihood
    from marglik.model import LinearModel


def linear_predictor(
    model: LinearModel, theta: Float[Array, "k"], posterior: Any, rows: Any
) -> tuple[Float[Array, "n *V"], Float[Array, "n *V"]]:
    """Mean and variance of η at new rows, that of what the fit has no weights for included."""
    direct = posterior.at_inputs(rows)
    if direct is not None:
        return direct
    terms = list(model.term_theta(theta))
    own = {t.label: t.conditional(rows.columns[t.label], x) for t, x in terms if t.label in rows.columns}
    columns = {**rows.columns, **{label: known for label, (known, _) in own.items()}}
    eta, variance = posterior.linear_predictor(rows._replace(columns=columns))
    variance = variance + sum(more for _, more in own.values())
    for term, x in terms if rows.unseen else ():
        variance = variance + rows.unseen.get(term.label, 0.0) * (term.factor(x)[0] ** 2 if len(x) else 0.0)
    return eta, variance


def predicted(
    likelihood: Likelihood,
    own: Float[Array, "l V"],
    eta: tuple[Float[Array, "n *V"], Float[Array, "n *V"]],
    interval: float | None,
    scale: str,
    average: bool,
) -> Any:
    """The mean at E[η], or averaged over η ~ N(E[η], var η); with an interval, a frame ``mean, lower, upper``.

    Parameters
    ----------
    likelihood, own
        How responses scatter, and its hyperparameters for each target.
    eta
        Mean and variance of η.
    interval, scale, average
        As for `Fit.predict`.
    """
    one_of("scale", scale, ("response", "link"))
    if interval is not None and not 0 < interval < 1:
        raise ValueError(f"interval must be a probability between 0 and 1, such as 0.95, not {interval!r}.")
    centre, sd = eta[0], np.sqrt(eta[1])
    own = own if centre.ndim > 1 else own[:, 0]
    inverse = (lambda x: x) if scale == "link" else (lambda x: likelihood.response(x, own))
    mean = averaged(inverse, centre, sd) if average else inverse(centre)
    if interval is None:
        return mean
    import pandas as pd

    z = ndtri((1 + interval) / 2)
    columns = {"mean": mean, "lower": inverse(centre - z * sd), "upper": inverse(centre + z * sd)}
    if centre.ndim > 1:
        return pd.concat({name: pd.DataFrame(values) for name, values in columns.items()}, axis=1)
    return pd.DataFrame(columns)


def averaged(inverse: Any, eta: Array, sd: Array, points: int = 21) -> Array:
    """E[inverse(η)] for η ~ N(eta, sd²), by Gauss–Hermite quadrature."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    return sum(wi * inverse(eta + xi * sd) for xi, wi in zip(x, w, strict=True)) / w.sum()


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise where an option is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}.")
