# SPDX-License-Identifier: BSD-3-Clause
"""Grouping factors: the levels of a column, or of the combined values of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import Series

SPAN = 32
"""Integers are looked up, not sorted, where their range is at most this many times their number."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The values that a column has, in order: those of a categorical as it has them, others ascending.

    Whole numbers have no decimal point, whatever their type.
    """

    name: str
    levels: Sequence[Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """What it is made of."""
        return (self.name,)

    def codes(self, table: Mapping[str, Series]) -> Array:
        """Position of each value among the levels; −1 where it is none of them."""
        import pandas as pd

        column = table[self.name]
        codes = pd.Index(self.levels).get_indexer(pd.Index(column))
        if (codes < 0).all():  # a file may hold as text what the fit saw as numbers, or the other way round
            codes = pd.Index([str(v) for v in self.levels]).get_indexer(pd.Index([str(v) for v in column]))
        return codes


@dataclass(frozen=True, eq=False)
class Crossed:
    """The combinations that occur of two factors; those of the outer one vary slowest.

    Parameters
    ----------
    outer, inner
        The factors. For three columns the outer one is crossed itself.
    cells
        outer code · (number of inner levels) + inner code, ascending.
    """

    outer: Levels | Crossed
    inner: Levels
    cells: Array

    @property
    def columns(self) -> tuple[str, ...]:
        """What it is made of."""
        return (*self.outer.columns, self.inner.name)

    @property
    def levels(self) -> Sequence[str]:
        """``a:b`` for each combination, written when it is asked for."""
        return _Pairs(self)

    def codes(self, table: Mapping[str, Series]) -> Array:
        """Position of each row's combination among the levels; −1 where it is none of them."""
        outer, inner = self.outer.codes(table), self.inner.codes(table)
        cell = np.where((outer < 0) | (inner < 0), -1, outer * len(self.inner.levels) + inner)
        place = np.minimum(np.searchsorted(self.cells, cell), len(self.cells) - 1)
        return np.where(self.cells[place] == cell, place, -1)


Factor = Levels | Crossed


@dataclass(frozen=True, eq=False)
class _Pairs(Sequence[str]):
    factor: Crossed

    def __len__(self) -> int:
        return len(self.factor.cells)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        outer, inner = divmod(int(self.factor.cells[i]), len(self.factor.inner.levels))
        return f"{_word(self.factor.outer.levels[outer])}:{_word(self.factor.inner.levels[inner])}"


def factorise(columns: Sequence[str], table: Mapping[str, Series]) -> tuple[Factor, Array]:
    """The levels of settled columns without missing values, and the level of each row.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"a": ["v", "u", "u"], "b": [1, 2, 1]})
    >>> factor, codes = factorise(["a", "b"], table)
    >>> list(factor.levels), codes.tolist()
    (['u:1', 'u:2', 'v:1'], [2, 1, 0])
    """
    *outer, name = columns
    inner, codes = _levels(table[name])
    if not outer:
        return Levels(name, inner), codes
    factor, outside = factorise(outer, table)
    cells, codes = _ranked(outside * len(inner) + codes)
    return Crossed(factor, Levels(name, inner), cells), codes


def described(factor: Factor, table: Mapping[str, Series], rows: Array) -> list[str]:
    """What these rows hold in the factor's columns, as its levels are written."""
    values = [table[name].iloc[rows].tolist() for name in factor.columns]
    return [str(row[0]) if len(row) == 1 else ":".join(map(_word, row)) for row in zip(*values, strict=True)]


def _levels(column: Series) -> tuple[list[Any], Array]:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.tolist(), column.cat.codes.to_numpy(np.intp)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biu":
        present, codes = _ranked(column.to_numpy())
        return present.tolist(), codes
    codes, uniques = pd.factorize(column, sort=True)
    levels = uniques.tolist()
    if all(isinstance(level, float) and level.is_integer() for level in levels):
        return [int(level) for level in levels], codes
    return levels, codes


def _ranked(values: Array) -> tuple[Array, Array]:
    """The integers that occur, ascending, and the place of each among them."""
    wide = values if values.dtype.itemsize == 8 else values.astype(np.int64)
    low = wide.min()
    span = int(wide.max()) - int(low)
    if span > SPAN * len(values):
        return np.unique(values, return_inverse=True)
    number = (wide - low).astype(np.intp)
    occurs = np.zeros(span + 1, bool)
    occurs[number] = True
    present = np.flatnonzero(occurs)
    rank = np.empty(span + 1, np.intp)
    rank[present] = np.arange(len(present))
    return (present.astype(wide.dtype) + low).astype(values.dtype), rank[number]


def _word(value: Any) -> str:
    """A level inside a combination; whole numbers have no decimal point, whatever their type."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
