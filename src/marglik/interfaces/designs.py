# SPDX-License-Identifier: BSD-3-Clause
"""Parametric terms such as ``1 + x*z + log(t)`` become columns, for the rows of the fit and for new ones.

Numbers and their products are multiplied here. All else (categorical columns, functions, powers) goes to formulae,
whose names and order of columns are followed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from marglik.interfaces.data import is_numeric
from marglik.interfaces.grammar import NAME, BadFormula, products
from marglik.validate import is_number, listed, numbered

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import Series


@dataclass(frozen=True)
class Function:
    """NumPy's function of this name, of one column."""

    name: str

    def __call__(self, x: Any, *more: Any, **named: Any) -> Any:
        if more or named:
            hint = " For logarithms to another base write log2 or log10, or divide: I(log(x) / log(b))."
            raise BadFormula(f"{self.name} takes one column and nothing else.{hint if self.name == 'log' else ''}")
        return getattr(np, self.name)(x, dtype=np.float64)  # of truth values, NumPy takes them in half precision


FUNCTIONS: Mapping[str, Any] = {
    name: Function(name)
    for name in ("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin", "cos", "tan", "tanh")
}
CODINGS = ("C", "I", "scale", "center", "poly", "bs", "offset")
"""What formulae brings, of which messages speak."""
CONSTANTS: Mapping[str, Any] = {"pi": np.pi, "np.pi": np.pi}
NO_COLUMNS = {"Sum", "Treatment", *CONSTANTS}
"""What is no column where the data have none of that name: contrasts inside ``C(…)``, numbers."""

Table = Mapping[str, "Series"]


@dataclass(frozen=True, eq=False)
class Products:
    """Columns of numbers multiplied cell by cell; the empty cell is the intercept."""

    cells: Sequence[tuple[str, ...]]
    offset_variables: ClassVar[frozenset[str]] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(":".join(cell) or "Intercept" for cell in self.cells)

    def __call__(self, table: Table, n: int) -> tuple[Array, None]:
        X = np.ones((n, len(self.cells)), order="F")
        for j, cell in enumerate(self.cells):
            for i, name in enumerate(cell):
                values = table[name].to_numpy(float)
                X[:, j] = X[:, j] * values if i else values
        return X, None


@dataclass(frozen=True, eq=False)
class Coded:
    """What formulae makes of a text; it keeps levels, knots and means of the fit."""

    design: Any

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(str(c) for c in np.delete(self.design.as_dataframe().columns, self._offsets))

    @property
    def _offsets(self) -> list[int]:
        """Which columns are offsets."""
        terms = self.design.terms.items()
        where = [self.design.slices[name] for name, term in terms if term.kind == "offset"]
        return [i for columns in where for i in range(columns.start, columns.stop)]

    @property
    def offset_variables(self) -> set[str]:
        """Columns of the data in the offsets."""
        terms = self.design.terms.values()
        return set().union(*(term.var_names for term in terms if term.kind == "offset"))

    @property
    def several(self) -> Mapping[str, tuple[str, ...]]:
        """The terms that are categorical or have several columns, with the names of these."""
        names = list(self.design.as_dataframe().columns)
        found = {}
        for name, term in self.design.terms.items():
            columns = tuple(map(str, names[self.design.slices[name]]))
            categorical = term.kind != "intercept" and any(part.kind == "categoric" for part in term.components)
            if len(columns) > 1 or categorical:
                found[name] = columns
        return found

    def parted(self, matrix: Any) -> tuple[Array, Array | None]:
        """The columns, and the sum of the offsets."""
        matrix = np.asarray(matrix, float)
        if not self._offsets:
            return matrix, None
        return np.delete(matrix, self._offsets, axis=1), matrix[:, self._offsets].sum(axis=1)

    def __call__(self, table: Table, n: int) -> tuple[Array, Array | None]:
        import pandas as pd

        try:
            with np.errstate(all="ignore"):
                return self.parted(self.design.evaluate_new_data(pd.DataFrame(dict(table))).design_matrix)
        except ValueError as error:
            found = re.search(r"levels \((.*)\) in '(.*)' are not present", str(error))
            if not found:
                raise
            raise ValueError(
                f"Each level of {found[2]!r} has an effect of its own, and {found[1]!r} was not in the fit, so its "
                "effect is unknown. Leave such rows out, or make it a grouping factor: (1 | …)."
            ) from None


@dataclass(frozen=True, eq=False)
class Design:
    """The columns of parametric terms.

    Parameters
    ----------
    matrix : (n, c)
        In the rows of the fit.
    offset : (n,), optional
        Sum of the terms ``offset(…)``.
    variables
        Columns of the data that it is made of.
    rule
        Makes the same columns for other rows.
    """

    matrix: Array
    offset: Array | None
    variables: tuple[str, ...]
    rule: Products | Coded

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.rule.names

    def new(self, table: Table, n: int) -> tuple[Array, Array | None]:
        """Columns and offset for n new rows; raises naming rows where a value is not finite."""
        matrix, offset = self.rule(table, n)
        bad = self._not_finite(matrix, table, " of the new data")
        if bad is None and offset is not None:
            made_of = [v for v in self.variables if v in self.rule.offset_variables]
            bad = _where(offset, "The offset", made_of, table, None, " of the new data")
        if bad is not None:
            raise ValueError(f"{bad}. Leave such rows out.")
        return matrix, offset

    def check_finite(self, table: Table, rows: Array | None = None) -> None:
        """Raise where a function of columns has no value in rows of the fit, whose ``rows`` in the data are given."""
        bad = None if isinstance(self.rule, Products) else self._not_finite(self.matrix, table, rows=rows)
        if bad is not None:
            raise ValueError(
                f"{bad}. The data have a value there, which missing='drop' does not leave out: leave such rows out, or "
                "take a function that is finite everywhere."
            )

    def _not_finite(self, matrix: Array, table: Table, of: str = "", rows: Array | None = None) -> str | None:
        """What is wrong with the first column that is not finite; None if all are."""
        finite = np.isfinite(matrix).all(axis=0)
        if finite.all():
            return None
        column = int(np.argmin(finite))
        name = self.names[column]
        used = [v for v in self.variables if re.search(rf"(?<![\w.]){re.escape(v)}(?![\w.])", name)]
        return _where(matrix[:, column], repr(name), [v for v in used if v != name], table, rows, of)


def _where(
    values: Array, name: str, made_of: Sequence[str], table: Table, rows: Array | None, of: str = ""
) -> str | None:
    """Which of the values are not finite, and what the first of them is made of; None if all are."""
    bad = np.flatnonzero(~np.isfinite(values))
    if not len(bad):
        return None
    shown = listed(numbered(bad, rows))
    there = [f"{v} = {table[v].iloc[bad[0]]:g}" for v in made_of if is_numeric(table[v])]
    first = f", where {', '.join(there)}{' in the first of them' if len(bad) > 1 else ''}" if there else ""
    value = "NaN" if np.isnan(values[bad[0]]) else f"{values[bad[0]]:g}"
    return f"{name} is {value} in row {shown}{of} (rows count from 0){first}"


def coded(text: str) -> set[str]:
    """Columns that stand inside ``C(…)``: their values are levels."""
    return {name.strip("`") for name in re.findall(rf"\bC\(\s*({NAME})\s*[,)]", text)}


def design(text: str, table: Table, n: int, shown: str) -> Design | None:
    """The design of parametric terms; None if they have neither columns nor offsets.

    Parameters
    ----------
    text
        Terms, with or without a leading 1 or 0 for the intercept.
    table, n
        Settled columns of n rows.
    shown
        What messages quote.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"x": [1.0, 2.0], "z": [3, 4], "g": ["u", "v"]})
    >>> design("1 + x*z", table, 2, "").names
    ('Intercept', 'x', 'z', 'x:z')
    >>> design("0 + x:g", table, 2, "").names
    ('x:g[u]', 'x:g[v]')
    """
    cells = products(text)
    if cells is not None and _numeric(cells, table):
        return _multiplied(cells, table, n) if cells else None
    found = _formulae(text, table, shown)
    if found is None:
        return None
    rule = Coded(found)
    matrix, offset = rule.parted(found.design_matrix)
    names = set().union(*(term.var_names for term in found.terms.values()))
    return Design(matrix, offset, tuple(name for name in table if name in names), rule)


def side_by_side(columns: Sequence[str], table: Table, n: int, shown: str) -> tuple[Design, ...]:
    """Designs of columns that do not know of each other: a categorical one has all its levels, wherever it stands."""
    cells = [products(f"0 + {column}") for column in columns]
    flat = [cell for found in cells if found is not None for cell in found]
    if None not in cells and len(set(flat)) == len(flat) and _numeric(flat, table):
        return (_multiplied(flat, table, n),)
    found = [design(f"0 + {column}", table, n, shown) for column in columns]
    return tuple(d for d in found if d is not None)


def variables(text: str) -> list[str]:
    """Names of the columns that parametric terms use."""
    cells = products(text)
    if cells is not None:
        return sorted({name for cell in cells for name in cell})
    from formulae import model_description

    try:
        return sorted(name for name in model_description(f"0 + {text}").var_names if name)
    except TypeError as error:
        raise BadFormula(
            f"{text!r} could not be understood. Write arithmetic inside I(…), such as I(a + 2 * b)."
        ) from error
    except Exception as error:  # formulae raises many kinds, always about the text
        raise BadFormula(f"{text!r} could not be understood: {_reason(error)}") from error


def _numeric(cells: Iterable[tuple[str, ...]], table: Table) -> bool:
    return all(is_numeric(table[name]) for cell in cells for name in cell)


def _multiplied(cells: Sequence[tuple[str, ...]], table: Table, n: int) -> Design:
    rule = Products(tuple(cells))
    return Design(rule(table, n)[0], None, tuple(dict.fromkeys(name for cell in cells for name in cell)), rule)


def _formulae(text: str, table: Table, shown: str) -> Any:
    import pandas as pd
    from formulae import design_matrices
    from formulae.environment import Environment

    _check_levels(text, table, shown)
    _check_degrees(text, shown)
    known = Environment([{**FUNCTIONS, **CONSTANTS, "np": np}])
    try:
        with np.errstate(all="ignore"), redirect_stdout(io.StringIO()):  # formulae prints what it raises
            return design_matrices(text, pd.DataFrame(dict(table)), na_action="error", env=known).common
    except KeyError as error:
        raise BadFormula(
            f"{shown!r} uses {error.args[0]!r}, which is neither a column nor a known function. Functions "
            f"are {', '.join((*FUNCTIONS, *CODINGS))}."
        ) from None
    except Exception as error:
        words = [name for name in variables(text) if name in table and not is_numeric(table[name])]
        why = _text(words[0], table) if words and isinstance(error, TypeError) else _reason(error)
        raise BadFormula(f"{shown!r} could not be evaluated: {why}") from error


def _check_levels(text: str, table: Table, shown: str) -> None:
    """Categorical columns have two levels or more: text, and what stands inside ``C(…)``."""
    levels = coded(text)
    for name in variables(text):
        column = table.get(name)
        if column is not None and (name in levels or not is_numeric(column)) and (column == column.iloc[0]).all():
            raise BadFormula(
                f"{shown!r} has an effect of {name!r}, which has one level only, {str(column.iloc[0])!r}, so there is "
                "nothing to compare. Leave it out."
            )


def _check_degrees(text: str, shown: str) -> None:
    """Polynomials have a whole degree from 1."""
    for written, degree in re.findall(r"(\bpoly\([^(),]+,\s*(?:degree\s*=\s*)?([^(),]+)[,)])", text):
        if not re.fullmatch(r"0*[1-9]\d*", degree.strip()):
            raise BadFormula(
                f"{shown!r} has {written.rstrip(',)')}), but the degree of a polynomial is a whole number from 1, such "
                "as poly(x, 2)."
            )


def _text(name: str, table: Table) -> str:
    """Which value of a column of text is no number, or that all are."""
    row = next((i for i, value in enumerate(table[name]) if not is_number(value)), None)
    if row is None:
        return f"{name!r} holds numbers as text, such as {table[name].iloc[0]!r}. Convert it: pandas.to_numeric(…)."
    return f"{name!r} holds text, {str(table[name].iloc[row])!r} in row {row} (rows count from 0), not numbers."


def _reason(error: Exception) -> str:
    return f"{str(error).strip().rstrip('.')}."
