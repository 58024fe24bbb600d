# SPDX-License-Identifier: BSD-3-Clause
"""``gp(x)``, ``gp(x, z, kernel=Matern(nu=1.5))`` in a formula: a Gaussian process over columns of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.interfaces.calls import BadFormula, Call
from marglik.interfaces.smooth_terms import Covariates
from marglik.interfaces.special import Columns, Special, Table, product_grid
from marglik.priors import GaussianProcess, Term

if TYPE_CHECKING:
    from numpy import ndarray as Array

GRID = {1: 100}
"""Points along each column where an effect is shown; 40 where there are several."""


@dataclass(frozen=True, eq=False)
class ProcessTerm(Special):
    """A Gaussian process of a formula."""

    covariates: Covariates
    term: Term
    flat: Array
    table: Mapping[str, tuple[float, float]]
    constant = True

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.term.label

    @property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.covariates.variables

    def new(self, table, n, new_levels):
        return Columns(np.zeros((n, 0)), _inputs(self.covariates, table, n))

    def outside(self, table, n):
        return ()

    def grid(self, n):
        count = n or GRID.get(len(self.table), 40)
        return product_grid({name: np.linspace(low, high, count) for name, (low, high) in self.table.items()})


def terms(call: Call, table: Table, n: int, settings: Mapping[str, Any]) -> tuple[ProcessTerm, ...]:
    """The process of a call."""
    call.known(("kernel",))
    covariates = Covariates(call.arguments, None, call.written)
    names = tuple(text.strip("`") for text in call.arguments)
    label = f"gp({', '.join(names)})"
    try:
        term = GaussianProcess(_inputs(covariates, table, n), call.options.get("kernel", "RBF()"), label, names)
    except ValueError as error:
        raise BadFormula(f"{call.written!r}: {error}") from None
    raw = {name: table[name].to_numpy(float) for name in covariates.variables}
    spans = {name: (float(x.min()), float(x.max())) for name, x in raw.items()}
    return (ProcessTerm(covariates, term, np.zeros((n, 0)), spans),)


def _inputs(covariates: Covariates, table: Table, n: int) -> Array:
    values = covariates.values(table, n)
    for name, column in values.items():
        if np.asarray(column).dtype.kind != "f":
            raise BadFormula(
                f"{covariates.shown!r} is a function of numbers, but {name!r} is categorical. Give numbers."
            )
    return np.column_stack(list(values.values()))
