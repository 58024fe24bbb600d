# SPDX-License-Identifier: BSD-3-Clause
"""Columns of text in terms: levels of a factor, or numbers of which one could not be read?"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from marglik.interfaces.data import BadData
from marglik.validate import is_number

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import Series

NUMBER = re.compile(r"\s*[+-]?(\d[\d,.' ]*|[.,]\d+)([eE][+-]?\d+)?\s*%?\s*")
"""What people write for a number, be it one to Python or not."""
FEW = 5
"""So many different values are levels in however few rows."""
ODD = 0.1
"""The share of rows without a number in a column of numbers."""
ALL_DIFFERENT = 0.9
"""From this share of rows with a value of their own, text names rows and not groups of them."""


def check_levels_of(column: Series, rows: Array | None = None, own: bool = True) -> str | None:
    """Refuse text that cannot be levels of a factor; a note where it only might have been meant as numbers.

    Refused are numbers written as text, in nine rows of ten at least, where more than half of the rows have a value of
    their own, and other text that differs in nearly every row. Numbers with few levels are codes, as in R; a note says
    so where one of them is no number, such as the ``unknown`` among ages.

    Parameters
    ----------
    column
        Settled.
    rows
        The numbers of its rows in the data, if they are some of them.
    own
        Whether each level has a weight without a prior, so that as many levels as rows would leave nothing to learn.

    Examples
    --------
    >>> import pandas as pd
    >>> check_levels_of(pd.Series(["1", "2", "3"] * 4, name="dose"))
    >>> check_levels_of(pd.Series(["34", "35", "?", "35", "34", "34", "35"] * 2, name="age")) is None
    True
    >>> check_levels_of(pd.Series([*["34", "35", "36"] * 4, "?"], name="age"))
    "'age' is text, so a factor with 4 levels: '?' in row 12 is no number; C(age) says that levels are meant"
    """
    if hasattr(column, "cat"):
        return None
    n, name, counts = len(column), column.name, column.value_counts(sort=False)
    written = np.array([NUMBER.fullmatch(str(value)) is not None for value in counts.index])
    levels = len(counts)
    if counts.to_numpy()[written].sum() >= n - max(1, int(ODD * n)) and written.sum() > 1:
        return _numbers(column, levels, rows)
    if own and levels >= max(ALL_DIFFERENT * n, 2 * FEW):
        raise BadData(
            f"Column {name!r} is text with {levels} different values in {n} rows, the first {str(column.iloc[0])!r}, "
            f"so as a factor it has an effect for about every row. Leave it out, let its effects vary, (1 | {name}), "
            f"or write C({name}) if that is meant."
        )
    return None


def _numbers(column: Series, levels: int, rows: Array | None) -> str | None:
    """What to say of a column of text that holds numbers nearly everywhere."""
    n, name = len(column), column.name
    odd = next((i for i, value in enumerate(column) if not is_number(value)), None)
    many = levels > max(n / 2, FEW)
    if odd is None:
        if many:
            raise BadData(
                f"Column {name!r} holds numbers as text, {levels} different ones in {n} rows, such as "
                f"{column.iloc[0]!r}. Convert it, pandas.to_numeric(…), or write C({name}) if they are names of levels."
            )
        return None
    value, row = str(column.iloc[odd]), odd if rows is None else rows[odd]
    if many:
        comma = " (pandas.read_csv has decimal=',' and thousands=',' for commas)" if "," in value else ""
        raise BadData(
            f"Column {name!r} is text with {levels} different values in {n} rows, nearly all of them numbers, but "
            f"{value!r} in row {row} is none (rows count from 0). Correct it{comma}, or write C({name}) if they are "
            "names of levels."
        )
    taken = f"{name!r} is text, so a factor with {levels} levels"
    return f"{taken}: {value!r} in row {row} is no number; C({name}) says that levels are meant"
