# SPDX-License-Identifier: BSD-3-Clause
"""``groups=`` of the ridge estimators: which scale each column has, and what the scales are called."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.validate import listed

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


class Groups(NamedTuple):
    """The scale of each column, from 0, and the scales' names."""

    place: Int[Array, "p"]
    scales: tuple[str, ...]


def side_by_side(X: Any) -> tuple[Float[Array, "n p"], Groups]:
    """A list of arrays, one a group, as one array.

    Raises
    ------
    ValueError
        It is not a list of 2-D arrays with the same number of rows.
    """
    if not isinstance(X, list | tuple) or not X:
        raise ValueError(
            f"groups='input' needs X as a list of arrays, one a group, but X is {_article(type(X).__name__)}. Put the "
            "groups in a list, or give groups as one label a column."
        )
    parts = [np.asarray(part) for part in X]
    for i, part in enumerate(parts):
        if part.ndim != 2 or len(part) != len(parts[0]):
            raise ValueError(
                f"groups='input' needs arrays (n, p) with the same n in X, but X[{i}] has shape {part.shape} and X[0] "
                f"has shape {parts[0].shape}. Take both from the same rows."
            )
    sizes = [part.shape[1] for part in parts]
    place = np.repeat(np.arange(len(parts)), sizes)
    if not all(sizes):
        raise ValueError(f"X[{sizes.index(0)}] has no columns. Leave it out of the list.")
    return np.concatenate(parts, axis=1), Groups(place, tuple(f"sd(group{i})" for i in range(len(parts))))


def one_array(X: Any) -> Any:
    """X itself, unless it is a list of arrays of columns.

    Raises
    ------
    ValueError
        It is one.
    """
    if isinstance(X, list | tuple) and X and all(isinstance(part, np.ndarray) and part.ndim == 2 for part in X):
        raise ValueError(
            f"X is a list of {len(X)} arrays. With groups='input' each of them is a group with a scale of its own; "
            "without, put them side by side in one array."
        )
    return X


def parse(groups: Any, names: Sequence[str]) -> Groups:
    """``"columns"``, one label a column, or a list of arrays of column numbers.

    Parameters
    ----------
    groups
        As given.
    names
        Of the columns.

    Raises
    ------
    ValueError
        Labels or columns are missing or wrong, or a scale would be called like the noise's.

    Examples
    --------
    >>> from marglik.interfaces.groups import parse
    >>> parse(["eye", "ear", "eye"], ["x0", "x1", "x2"])
    Groups(place=array([0, 1, 0]), scales=('sd(eye)', 'sd(ear)'))
    >>> parse([[0, 2], [1]], ["x0", "x1", "x2"])
    Groups(place=array([0, 1, 0]), scales=('sd(group0)', 'sd(group1)'))
    """
    if isinstance(groups, str):
        if groups != "columns":
            raise ValueError(
                f"groups={groups!r} is not known. Use None, 'columns', 'input', one label a column, or a list of "
                "arrays of column numbers."
            )
        found = Groups(np.arange(len(names)), tuple(f"sd({name})" for name in names))
    elif isinstance(groups, list | tuple) and groups and all(isinstance(g, list | range | np.ndarray) for g in groups):
        found = _of_numbers([np.asarray(g) for g in groups], len(names))
    else:
        found = _of_labels(groups, len(names))
    _check_names(found.scales)
    return found


def _of_labels(groups: Any, p: int) -> Groups:
    """One label a column; scales in the order in which labels appear."""
    try:
        labels = list(groups)
    except TypeError:
        raise ValueError(
            f"groups={groups!r} is {_article(type(groups).__name__)}. Use None, 'columns', 'input', one label a "
            "column, or a list of arrays of column numbers."
        ) from None
    if len(labels) != p:
        raise ValueError(f"groups has {len(labels)} labels, but X has {p} columns. Give one label a column.")
    bad = [j for j, label in enumerate(labels) if not isinstance(label, Hashable)]
    if bad:
        raise ValueError(
            f"groups has {_article(type(labels[bad[0]]).__name__)} for column {bad[0]}, which cannot be a label. Use "
            "words or numbers; or a list of arrays of column numbers alone."
        )
    missing = [j for j, label in enumerate(labels) if label is None or label != label]
    if missing:
        raise ValueError(f"groups has no label for column {listed(missing)} (NaN or None). Give one label a column.")
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    place = np.array([numbers[label] for label in labels], int)
    return Groups(place, tuple(f"sd({label})" for label in numbers))


def _of_numbers(groups: list[Array], p: int) -> Groups:
    """Arrays of column numbers, every column in one of them."""
    place = np.full(p, -1)
    for i, columns in enumerate(groups):
        if columns.ndim > 1:
            raise ValueError(
                f"groups[{i}] must be an array of column numbers, but has shape {columns.shape}. For arrays of columns "
                "themselves give groups='input', and X as their list."
            )
        if columns.ndim != 1 or not len(columns) or not np.issubdtype(columns.dtype, np.integer):
            raise ValueError(
                f"groups[{i}] must be an array of column numbers, but is {np.array2string(columns, threshold=6)}. "
                "Give integers from 0."
            )
        outside = columns[(columns < 0) | (columns >= p)]
        if len(outside):
            raise ValueError(f"groups[{i}] names column {listed(outside)}, but X has columns 0 to {p - 1}.")
        double = columns[place[columns] >= 0]
        if len(double) or len(np.unique(columns)) < len(columns):
            first = int(double[0]) if len(double) else int(np.flatnonzero(np.bincount(columns) > 1)[0])
            other = int(place[first]) if len(double) else i
            where = f"both groups[{other}] and groups[{i}]" if other != i else f"groups[{i}] twice"
            raise ValueError(f"Column {first} is in {where}. Each column has one scale: leave it in one group.")
        place[columns] = i
    if (place < 0).any():
        raise ValueError(
            f"Column {listed(np.flatnonzero(place < 0))} is in no group. Add it to one, or leave the column out of X."
        )
    return Groups(place, tuple(f"sd(group{i})" for i in range(len(groups))))


def _check_names(scales: Sequence[str]) -> None:
    if "sd(noise)" in scales:
        raise ValueError(
            "A group is called 'noise', but sd(noise) is the scale of the noise itself. Call the group otherwise."
        )
    if len(set(scales)) < len(scales):
        double = next(name for name in scales if scales.count(name) > 1)
        raise ValueError(f"Two groups would both be called {double}. Give them names that differ as text.")


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
