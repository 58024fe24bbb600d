# SPDX-License-Identifier: BSD-3-Clause
"""Bad input, in one clear sentence each: what was asked, what is wrong and where, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import solve_triangular

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

    from marglik.likelihoods import Outcomes
    from marglik.priors import Term
    from marglik.rows import InMemory

COLLINEAR = 1e-10
"""A flat column counts as a combination of the others when no more than this fraction of its length is new."""


def listed(items: Iterable[object], most: int = 5) -> str:
    """'a, b, c' or 'a, b, c, d, e and 7 more'."""
    words = [str(i) for i in items]
    rest = len(words) - most
    return ", ".join(words) if rest <= 0 else f"{', '.join(words[:most])} and {rest} more"


def did_you_mean(name: str, names: Iterable[str], most: int = 2) -> str:
    """The nearest names as a question to add to a sentence; empty if none is near."""
    near = difflib.get_close_matches(name, list(names), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_finite(X: Float[Array, "n *c"], names: Sequence[str], what: str = "column") -> None:
    """Raise naming the first column, and its rows, with a value that is NaN or infinite."""
    total = np.sum(X)
    if np.isfinite(total):
        return
    bad = ~np.isfinite(np.atleast_2d(X.T).T)
    if not bad.any():
        return
    column = int(np.argmax(bad.any(axis=0)))
    rows = np.flatnonzero(bad[:, column])
    values = np.atleast_2d(X.T).T[rows, column]
    kind = "NaN" if np.isnan(values).all() else "infinity" if np.isinf(values).all() else "NaN or infinity"
    others = int(bad.any(axis=0).sum()) - 1
    also = f" ({others} other columns have some too)" if others else ""
    raise ValueError(
        f"{what} {names[column]!r} contains {kind} in row {listed(rows)}{also} (rows count from 0). "
        "Remove or impute these rows, or fit a formula with missing='drop' where they are NaN."
    )


def check_design(prior: Iterable[Term], rows: InMemory) -> None:
    """Every term has as many rows as the response, flat columns are finite, weights are usable.

    Dense columns can be large: that they are finite is checked with their first use, where it costs nothing more.
    """
    n = len(rows.y)
    if n == 0:
        raise ValueError("The data have no rows, so there is nothing to learn from. Check the file or the filter.")
    for term in prior:
        length = len(term.codes) if term.grouped else len(term.columns)  # type: ignore[attr-defined]
        if length != n:
            raise ValueError(
                f"Term {term.label!r} has {length} rows but y has {n}. Build both from the same rows of the data."
            )
        if term.flat or term.grouped:
            check_finite(term.columns, term.names)
    if rows.offset is not None:
        _check_vector(rows.offset, n, "offset")
    if rows.weights is not None:
        _check_vector(rows.weights, n, "weights")
        bad = np.flatnonzero(np.asarray(rows.weights) <= 0)
        if len(bad):
            raise ValueError(
                f"weights must be positive, but row {listed(bad)} has {np.asarray(rows.weights)[bad[0]]:g}. They are "
                "precision weights, var(ε_i) = σ²/w_i; drop the rows that should not count."
            )


def _check_vector(values: Array, n: int, name: str) -> None:
    if np.shape(values) != (n,):
        raise ValueError(f"{name} must have one value a row, shape ({n},), but its shape is {np.shape(values)}.")
    check_finite(np.asarray(values, float), [name], "vector")


def check_response(y: Float[Array, "n *V"], outcomes: Outcomes) -> None:
    """Every response is a possible outcome under the likelihood."""
    if y.ndim > 2 or y.ndim == 0:
        raise ValueError(f"y must have shape (n,) or (n, targets), but its shape is {y.shape}.")
    names = ["y"] if y.ndim == 1 else [f"y[:, {v}]" for v in range(y.shape[1])]
    check_finite(y, names, "response")
    if not outcomes.integer and outcomes.lower == -np.inf:
        return
    bad = outcomes.violations(y)
    if bad.any():
        where = np.flatnonzero(bad if y.ndim == 1 else bad.any(axis=1))
        first = y[bad][0]
        raise ValueError(
            f"This likelihood needs {outcomes.words}, but the response is {first:g} in row {where[0]} "
            f"({len(where)} such rows: {listed(where)}). Choose another family or correct these rows."
        )


def independent_columns(X: Float[Array, "n f"], names: Sequence[str]) -> tuple[Array, Array]:
    """X = QR with orthonormal Q; raises naming the columns where X has not full rank."""
    n, f = X.shape
    if f == 0:
        return X, np.zeros((0, 0))
    length = np.sqrt(np.einsum("ij,ij->j", X, X))
    if f == 1 and length[0] > 0 and n:
        return X / length, length[None]
    zero = np.flatnonzero(length == 0)
    if len(zero):
        raise ValueError(
            f"Fixed effect {names[zero[0]]!r} is zero in every row, so its coefficient cannot be learned. Drop it."
        )
    if f > n:
        raise ValueError(
            f"There are {f} fixed effects but only {n} rows, so they cannot all be learned. "
            "Drop some, or give them a prior: ridge(…)."
        )
    Q, R = np.linalg.qr(X / length)
    new = np.abs(R.diagonal())
    if new.min() <= COLLINEAR:
        j = int(np.argmax(new <= COLLINEAR))
        share = np.abs(solve_triangular(R[:j, :j], R[:j, j], check_finite=False)) if j else np.zeros(0)
        others = [repr(names[int(i)]) for i in np.flatnonzero(share > 1e-6 * max(share.max(initial=0), 1e-300))]
        constant = np.ptp(X[:, j]) == 0
        what = "is constant, like" if constant and len(others) == 1 else "is a linear combination of"
        raise ValueError(
            f"Fixed effect {names[j]!r} {what} {' and '.join(others)}, so their coefficients cannot be told apart. "
            "Drop one of them, or give them a prior: ridge(…)."
        )
    return Q, R * length


EXACT_FIT = 1e-24
"""A response counts as fitted exactly when no more than this fraction of its sum of squares is left over."""


def check_noise(left_over: Float[Array, "V"], total: Float[Array, "V"], n_rows: float, n_flat: int) -> None:
    """The noise of a Gaussian can be learned: rows are left over, and so is some of the response.

    Without either, the evidence rises without bound as the noise goes to zero.

    Parameters
    ----------
    left_over
        Sum of squares of each response less its fit on the flat columns.
    total
        Sum of squares of each response less its own first value.
    n_rows, n_flat
        How many observations and flat columns there are.
    """
    if n_rows <= n_flat:
        raise ValueError(
            f"There {_are(n_rows, 'row')} and {_are(n_flat, 'fixed effect', verb='')}, so nothing is left to learn "
            "sd(noise) from. Give more rows, or hold it: fixed={'sd(noise)': 1.0}."
        )
    bad = np.flatnonzero(np.asarray(left_over) <= EXACT_FIT * np.asarray(total))
    if len(bad):
        which = "The response" if len(left_over) == 1 else f"Target {listed(bad)}"
        what = "is constant" if total[bad[0]] == 0 else "is fitted exactly by the fixed effects"
        raise ValueError(
            f"{which} {what}, so there is no noise to learn. Check the column, or hold the noise: "
            "fixed={'sd(noise)': 1.0}."
        )


def _are(n: float, what: str, verb: str = "are ") -> str:
    return f"{'is ' if n == 1 and verb else verb}{n:g} {what}{'' if n == 1 else 's'}"


def check_grouping(prior: Iterable[Term], rows: InMemory, learned: Collection[str], noise: str | None) -> None:
    """The scales of grouping factors can be learned: there are several levels, and fewer than rows.

    Parameters
    ----------
    prior, rows
        Of the model.
    learned
        Names of the hyperparameters that are not held.
    noise
        Name of the scale of a Gaussian's noise; None for other likelihoods.
    """
    for term in prior:
        if not term.grouped:
            continue
        scales = [h.name for h in term.hyperparameters() if h.name in learned]
        if not scales:
            continue
        group, n = term.group, len(np.unique(term.codes))  # type: ignore[attr-defined]
        if n == 1:
            raise ValueError(
                f"Grouping factor {group!r} has one level only, {term.levels[0]!r}, so how its levels differ cannot "  # type: ignore[attr-defined]
                f"be learned. Leave out {term.label}, or hold its scale: fixed={{{scales[0]!r}: 1.0}}."
            )
        even = all(v is None or np.ptp(v) == 0 for v in (rows.weights, np.abs(term.columns[:, 0])))
        if noise in learned and n >= rows.n_observations and even:
            raise ValueError(
                f"Grouping factor {group!r} has as many levels as there are rows, {n}, so {scales[0]} and {noise} "
                f"cannot be told apart. Leave out {term.label}, or hold one of them: fixed={{{noise!r}: 1.0}}."
            )
