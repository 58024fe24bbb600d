# SPDX-License-Identifier: BSD-3-Clause
"""Is there noise to learn? A response that the terms fit exactly has none, and the evidence then no maximum."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from marglik.validate import listed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array

    from marglik.hyperparameters import Hyperparameter


class FittedExactly(ValueError):
    """The terms leave nothing of the response, so that the noise has no size to learn."""


EXACT_FIT = 1e-24
"""A response counts as fitted exactly when no more than this fraction of its sum of squares is left over."""


def check_noise(
    left_over: Float[Array, "V"], total: Float[Array, "V"], n_rows: float, n_flat: int, name: str = "sd(noise)"
) -> None:
    """The scale of additive noise can be learned: rows are left over, and so is some of the response.

    Without either, the evidence rises without bound as the noise goes to zero.

    Parameters
    ----------
    left_over
        Sum of squares of each response less its fit on the flat columns.
    total
        Sum of squares of each response less its own first value.
    n_rows, n_flat
        How many observations and flat columns there are.
    name
        Of the scale.
    """
    hold = f"hold {'it' if n_rows <= n_flat else 'the noise'}: fixed={{{name!r}: 1.0}}."
    if n_rows <= n_flat:
        raise ValueError(
            f"There {_are(n_rows, 'row')} and {_are(n_flat, 'fixed effect', verb='')}, so nothing is left to learn "
            f"{name} from. Give more rows, or {hold}"
        )
    bad = np.flatnonzero(np.asarray(left_over) <= EXACT_FIT * np.asarray(total))
    if len(bad):
        which = "The response" if len(left_over) == 1 else f"Target {listed(bad)}"
        what = "is constant" if total[bad[0]] == 0 else "is fitted exactly by the fixed effects"
        raise (ValueError if total[bad[0]] == 0 else FittedExactly)(
            f"{which} {what}, so there is no noise to learn. Check the column, or {hold}"
        )


def check_fitted_exactly(noise: float, spread: float) -> None:
    """Learning did not drive the noise to zero, as it does where random effects leave nothing of the response."""
    if noise < 1e-8 * spread:
        raise FittedExactly(
            "The response is fitted exactly by the terms of the model, so sd(noise) has no size to learn: it goes to "
            "zero. Leave a term out, or hold the noise: fixed={'sd(noise)': 1.0}."
        )


NO_SCATTER = 1e12
"""A precision relative to the mean above this is scatter of less than one part in a million."""
NO_NOISE = 1e-7
"""A scale of noise with heavy tails below this share of its natural size is none."""


def check_scatter(
    hyperparameters: Iterable[Hyperparameter],
    theta: Float[Array, "k"],
    units: Float[Array, "k"],
    free: Bool[Array, "k"],
) -> None:
    """Learning did not drive a precision to infinity, or heavy-tailed noise to zero, as where terms leave no scatter.

    Parameters
    ----------
    hyperparameters, theta, units
        With their values and natural sizes.
    free
        Which are learned.
    """
    for h, value, unit in itertools.compress(zip(hyperparameters, theta, units, strict=True), free):
        if h.unbounded and value > NO_SCATTER:
            raise ValueError(
                f"The response is fitted exactly by the terms of the model, so {h.name} has no size to learn: it goes "
                f"to infinity. Leave a term out, or hold it: fixed={{{h.name!r}: 100.0}}."
            )
        if h.bottomless and value < NO_NOISE * unit:
            raise FittedExactly(
                f"So many rows are fitted exactly by the terms of the model that {h.name} has no size to learn: it "
                f"goes to zero. Leave a term out, take another family, or hold it: fixed={{{h.name!r}: 1.0}}."
            )


def _are(n: float, what: str, verb: str = "are ") -> str:
    return f"{'is ' if n == 1 and verb else verb}{n:g} {what}{'' if n == 1 else 's'}"
