# SPDX-License-Identifier: BSD-3-Clause
"""`lagged`: what went before each row, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from numpy import ndarray as Array


def lagged(
    x: Float[Array, "n *cells"], lags: int, first: int = 0, trial: Shaped[Array, "n"] | None = None
) -> Float[Array, "n c"]:
    """What went before each row, as columns: the design of a receptive field, or of spike history.

        column (l, cell) of row i is x[i − first − l, cell],    l = 0, …, lags − 1

    Rows stay as they are, so that they match the responses. What lies before the first row, or before the first of its
    trial, counts as zero: a stimulus that was not there yet. Centre x first if zero is not its neutral value, or drop
    the first ``first + lags − 1`` rows (of each trial).

    Parameters
    ----------
    x : (n,) or (n, …)
        A value a row, or a frame of any shape.
    lags
        How many, the most recent first.
    first
        The most recent of them: 0 has the row itself among its columns, 1 (for spike history) does not.
    trial : (n,), optional
        The trial of each row, whose rows are next to each other. Nothing is carried from one to the next.

    Returns
    -------
    (n, lags · cells)
        With lags as the slowest dimension, as ``ReceptiveField(…, shape=(lags, *frame))`` has them.

    Raises
    ------
    ValueError
        ``x`` is a single number, a number of lags is not whole or negative, or ``trial`` does not name one a row.

    Examples
    --------
    >>> import marglik
    >>> marglik.lagged([1, 2, 3, 4], lags=3)
    array([[1., 0., 0.],
           [2., 1., 0.],
           [3., 2., 1.],
           [4., 3., 2.]])
    >>> marglik.lagged([1, 2, 3, 4], lags=2, first=1, trial=["a", "a", "b", "b"])
    array([[0., 0.],
           [1., 0.],
           [0., 0.],
           [3., 0.]])
    """
    rows = np.asarray(x, float)
    if rows.ndim == 0:
        raise ValueError("lagged needs one value or frame a row, but x is a single number.")
    n, size = len(rows), int(np.prod(rows.shape[1:]))
    for name, value, least in (("lags", lags, 1), ("first", first, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}.")
    rows, position = rows.reshape(n, size), _since_start(n, trial)
    out = np.zeros((n, lags, size))
    for lag in range(lags):
        back = first + lag
        known = np.flatnonzero(position >= back)
        out[known, lag] = rows[known - back]
    return out.reshape(n, lags * size)


def _since_start(n: int, trial: Any) -> Array:
    """How many rows of its own trial come before each row."""
    at = np.arange(n)
    if trial is None:
        return at
    label = np.asarray(trial)
    if label.shape != (n,):
        raise ValueError(f"trial must name the trial of each of the {n} rows, but has shape {label.shape}.")
    new = np.ones(n, bool)
    new[1:] = label[1:] != label[:-1]
    if new.sum() > len(np.unique(label)):
        again = next(t for t in np.unique(label) if (new & (label == t)).sum() > 1)
        raise ValueError(
            f"The rows of trial {again!s} are not next to each other. Sort the rows by trial, then by time."
        )
    return at - np.maximum.accumulate(np.where(new, at, 0))
