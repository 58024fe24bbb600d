# SPDX-License-Identifier: BSD-3-Clause
"""Left of a formula's tilde: one column, yes or no in words, or ``cbind(successes, failures)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from marglik.interfaces.data import is_numeric, numbers
from marglik.interfaces.designs import design, variables
from marglik.interfaces.grammar import BadFormula, Formula, is_name
from marglik.validate import check_finite, check_response, listed, numbered

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import Series

    from marglik.likelihoods import Likelihood

    Table = Mapping[str, Series]


def respond(
    formula: Formula, table: Table, n: int, likelihood: Likelihood, rows: Array | None = None
) -> tuple[Array, Likelihood, tuple[str, ...]]:
    """The response, the likelihood with its numbers of trials, and notes.

    As in R, of two levels the first is no (0) and the second yes (1). Sentences number rows as in `numbered`.

    Raises
    ------
    BadFormula, ValueError
        The response is not of a kind that the likelihood takes.

    Examples
    --------
    >>> import pandas as pd
    >>> from marglik.interfaces.grammar import parse
    >>> from marglik.likelihoods import Binomial
    >>> table = {"dead": pd.Series([1, 2]), "n": pd.Series([4, 2])}
    >>> y, likelihood, _ = respond(parse("cbind(dead, n - dead) ~ 1"), table, 2, Binomial())
    >>> y, likelihood.trials
    (array([1., 2.]), array([4., 2.]))
    """
    if formula.counts is not None:
        successes, failures = (_counts(part, formula, table, n, rows) for part in formula.counts)
        trials = successes + failures
        empty = np.flatnonzero(trials == 0)
        if len(empty):
            raise ValueError(
                f"{formula.response} has no trials in row {listed(numbered(empty, rows))} (rows count from 0): both "
                "counts are 0. Leave such rows out."
            )
        return successes, likelihood.with_trials(trials), ()
    if likelihood.needs_trials:
        raise ValueError(
            f"{type(likelihood).__name__} needs successes and failures: 'cbind(successes, failures) ~ …'. For a "
            "response of no and yes use family='bernoulli'."
        )
    name = formula.response.strip("`")
    if name in table and likelihood.outcomes.binary and not is_numeric(table[name]):
        y, note = _yes_or_no(table[name], name)
        return y, likelihood, (note,)
    y = _column(formula.response, table, n, "response", rows)
    check_response(y, likelihood.outcomes, rows, formula.response)
    return y, likelihood, ()


def _column(text: str, table: Table, n: int, what: str, rows: Array | None) -> Array:
    """One column, or an expression in some."""
    name = text.strip("`")
    if name in table:
        return numbers(table[name], name, what, rows)
    for column in variables(text):
        if column in table:
            numbers(table[column], column, what, rows)
    found = design(f"0 + {text}", table, n, text)
    if found is None or found.matrix.shape[1] != 1:
        raise BadFormula(f"The {what} {text!r} must be one column. For arithmetic write I(a + b).")
    advice = "The function has no value there: leave these rows out."
    check_finite(found.matrix[:, 0], [text], what, rows, advice)
    return found.matrix[:, 0]


def _counts(text: str, formula: Formula, table: Table, n: int, rows: Array | None) -> Array:
    k = _column(text if is_name(text) else f"I({text})", table, n, "response", rows)
    bad = np.flatnonzero((k < 0) | (k != np.floor(k)))
    if len(bad):
        raise ValueError(
            f"{text!r} in {formula.response} must be counts, whole numbers from 0, but is {k[bad[0]]:g} in row "
            f"{listed(numbered(bad, rows))} (rows count from 0). Correct these rows; proportions need their numbers of "
            "trials."
        )
    return k


def _yes_or_no(column: Series, name: str) -> tuple[Array, str]:
    """1 at the second of two levels, which are in the categorical's order, else sorted."""
    levels = list(column.cat.categories) if hasattr(column, "cat") else sorted(column.unique())
    if len(levels) != 2:
        raise ValueError(
            f"The response {name!r} must have two levels, no and yes, but has {len(levels)}: {listed(levels)}. Join "
            "or leave out levels, or give it as 0 and 1."
        )
    no, yes = levels
    return (column == yes).to_numpy(float), f"{name} is 1 where it is {yes!r}, 0 where it is {no!r}"
