# SPDX-License-Identifier: BSD-3-Clause
"""Terms of formulas that are calls, ``s(x)`` for one: how a call becomes a term of the model, and new rows its columns.

`HOMES` names the module that builds the terms of each function; it is loaded when a formula calls one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from marglik.interfaces.calls import Call
from marglik.priors import Term

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array
    from pandas import Series

Table = Mapping[str, "Series"]


class Columns(NamedTuple):
    """What a special term has at some rows.

    Parameters
    ----------
    flat : (n, f)
        The columns of its flat weights.
    own : (n, c)
        Those of its term.
    codes : (n,), optional
        For a grouped term, the level of each row, −1 where it is none of the fit.
    unseen : (n,), optional
        See `NewRows`.
    """

    flat: Float[Array, "n f"]
    own: Float[Array, "n c"]
    codes: Int[Array, "n"] | None = None
    unseen: Float[Array, "n"] | None = None


class Special(ABC):
    """A term of the model that a call stands for.

    Attributes
    ----------
    label
        In words; `term` has the same.
    variables
        The columns of the data that it is made of.
    term
        Its weights with hyperparameters.
    flat : (n, f)
        Columns of weights that are flat, which the model's one flat term takes in.
    by, level
        The column that multiplies it, and at which of its levels, if these are told apart.
    scales
        Names of the hyperparameters that are scales of penalties.
    notes
        What a user should know of choices made for them.
    constant
        Whether constants are among its functions, so that its level is not told apart from that of an intercept.
    """

    label: str
    variables: tuple[str, ...]
    term: Term
    flat: Float[Array, "n f"]
    by: str | None = None
    level: Any = None
    scales: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    constant: ClassVar[bool] = False

    @property
    def flat_names(self) -> tuple[str, ...]:
        """Names of the flat columns."""
        return tuple(f"{self.label}.{i + 1}" for i in range(self.flat.shape[1]))

    @abstractmethod
    def new(self, table: Table, n: int, new_levels: str) -> Columns:
        """The columns at new rows; ``new_levels`` as for `Fit.predict`."""

    @abstractmethod
    def outside(self, table: Table, n: int) -> Sequence[str]:
        """A phrase for each column that leaves its range in the fit, and is extrapolated."""

    @abstractmethod
    def grid(self, n: int | None) -> dict[str, Array]:
        """Values of the columns at which to show its effect, n of each that is a number."""


HOMES: Mapping[str, str] = dict.fromkeys(("s", "te", "ti"), "smooth_terms") | {"gp": "process_terms"}
"""Name of a function → the module whose ``terms`` builds what it stands for."""


def terms(call: Call, table: Table, n: int, settings: Mapping[str, Any]) -> Sequence[Special]:
    """The terms of a call, from settled columns of n rows and the settings of the fit."""
    return import_module(f"marglik.interfaces.{HOMES[call.kind]}").terms(call, table, n, settings)


def product_grid(axes: Mapping[str, Array]) -> dict[str, Array]:
    """Every combination of values, those of the first column running fastest.

    Examples
    --------
    >>> import numpy as np
    >>> {name: x.tolist() for name, x in product_grid({"a": np.array([0, 1]), "b": np.array([5, 6])}).items()}
    {'a': [0, 1, 0, 1], 'b': [5, 5, 6, 6]}
    """
    places = np.indices([len(x) for x in reversed(list(axes.values()))]).reshape(len(axes), -1)[::-1]
    return {name: np.asarray(x)[place] for (name, x), place in zip(axes.items(), places, strict=True)}
