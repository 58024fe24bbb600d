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
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.interfaces.data import is_numeric
from marglik.interfaces.grammar import NAME, BadFormula, products
from marglik.validate import listed

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
        finite = np.isfinite(matrix).all(axis=1) & np.isfinite(0.0 if offset is None else offset)
        if not finite.all():
            rows = listed(np.flatnonzero(~finite))
            raise ValueError(f"The new data have a missing or infinite value in row {rows} (rows count from 0).")
        return matrix, offset


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
        why = f"{words[0]!r} holds text, not numbers." if words and isinstance(error, TypeError) else _reason(error)
        raise BadFormula(f"{shown!r} could not be evaluated: {why}") from error


def _check_levels(text: str, table: Table, shown: str) -> None:
    """Categorical columns have two levels or more: text, and what stands inside ``C(…)``."""
    coded = {name.strip("`") for name in re.findall(rf"\bC\(\s*({NAME})\s*[,)]", text)}
    for name in variables(text):
        column = table.get(name)
        if column is not None and (name in coded or not is_numeric(column)) and (column == column.iloc[0]).all():
            raise BadFormula(
                f"{shown!r} has an effect of {name!r}, which has one level only, {str(column.iloc[0])!r}, so there is "
                "nothing to compare. Leave it out."
            )


def _reason(error: Exception) -> str:
    return f"{str(error).strip().rstrip('.')}."
