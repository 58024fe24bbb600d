# SPDX-License-Identifier: BSD-3-Clause
"""How the contracts compare numbers, and derivatives that owe nothing to what they check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from marglik.hyperparameters import Hyperparameter, Hyperparameters

if TYPE_CHECKING:
    from numpy import ndarray as Array

SURE = 6e-5
"""Probability of four standard errors or more: what chance may do before a check calls it a fault."""


def derivative(f: Callable[[float], ArrayLike], step: float = 0.05, one_sided: bool = False, levels: int = 5) -> Array:
    """f′(0) of a smooth function, by differences at step, step/2, … extrapolated to zero.

    Of all extrapolations the one nearest to the two that it was made from is taken (Ridders 1982): those with wider
    steps lose digits where f has more character, those with narrower ones by rounding.

    Parameters
    ----------
    f
        A function of one number, with values of any fixed shape.
    step
        The widest step; a twentieth of the distance over which f changes its character is right.
    one_sided
        Use values at zero and above only, as at the end of a support.
    levels
        Number of steps.

    Examples
    --------
    >>> import numpy as np
    >>> bool(abs(derivative(lambda t: np.exp(3 * t)) - 3) < 1e-11)
    True
    >>> bool(abs(derivative(lambda t: np.sqrt(1 + t), one_sided=True) - 0.5) < 1e-9)
    True
    """
    steps = step / 2.0 ** np.arange(levels)
    sides = [(0.0, h) if one_sided else (-h, h) for h in steps]
    table = [np.subtract(f(b), f(a), dtype=float) / (b - a) for a, b in sides]
    best, uncertainty = table[-1], np.full(np.shape(table[-1]), np.inf)
    for order in range(1, levels):
        ratio = 2.0**order if one_sided else 4.0**order
        finer = [(ratio * fine - coarse) / (ratio - 1) for coarse, fine in pairwise(table)]
        for new, (coarse, fine) in zip(finer, pairwise(table), strict=True):
            spread = np.maximum(np.abs(new - coarse), np.abs(new - fine))
            best, uncertainty = np.where(spread < uncertainty, new, best), np.minimum(spread, uncertainty)
        table = finer
    return best


def require(condition: object, sentence: str) -> None:
    """Raise an AssertionError with this sentence unless the condition holds."""
    if not condition:
        raise AssertionError(sentence)


def agree(found: ArrayLike, expected: ArrayLike, tolerance: float, what: str, size: ArrayLike = 1.0) -> None:
    """Raise unless |found − expected| ≤ tolerance · size everywhere, naming the worst place."""
    found, expected = np.broadcast_arrays(np.asarray(found, float), np.asarray(expected, float))
    error = np.nan_to_num(np.abs(found - expected) / size, nan=np.inf)
    if np.all(error <= tolerance):
        return
    worst = int(np.argmax(error))
    place = f" at {tuple(map(int, np.unravel_index(worst, error.shape)))}" if error.size > 1 else ""
    raise AssertionError(
        f"{what}: found {found.flat[worst]:.12g}{place}, expected {expected.flat[worst]:.12g} "
        f"(they differ by {error.flat[worst]:.2g} of their size, more than {tolerance:.0e})."
    )


def check_names(names: Sequence[Hyperparameter], owner: str) -> None:
    """No two have the same name."""
    given = [h.name for h in names]
    require(len(set(given)) == len(given), f"{owner}: two hyperparameters have the same name: {given}.")


def theta_grid(names: Sequence[Hyperparameter]) -> list[Array]:
    """Values inside the supports."""
    h = Hyperparameters(names)
    return [h.constrain(np.full(len(h), phi)) for phi in ((-0.7, 0.1, 0.9) if len(h) else (0.0,))]
