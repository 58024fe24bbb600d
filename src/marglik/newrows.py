# SPDX-License-Identifier: BSD-3-Clause
"""Rows to predict: those of the fit, new data, or columns given by term label."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from marglik.posterior.base import NewRows
from marglik.validate import check_codes, check_effects, listed

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.model import LinearModel
    from marglik.priors import Flat


OFFSET = "fixed effects"
"""The term that has the offset with it; a label of its own where the model has no fixed effects."""


class Source(Protocol):
    """Where a model came from: how new data become its columns, and what must be kept to build it again."""

    def new_rows(self, data: Any, terms: set[str], new_levels: str) -> NewRows:
        """Columns of the named terms for new data."""

    def effect_rows(self, label: str, at: Any, n: int | None) -> tuple[DataFrame, NewRows]:
        """Where to show a term's effect, and its columns there."""

    def recipe(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Settings and arrays from which `marglik.load` builds the model again."""


def rows_to_predict(model: LinearModel, source: Any, new: Any, include: Any, new_levels: str) -> NewRows:
    """See `Fit.predict`; ``source`` turns data into columns, None for a model of arrays."""
    labels = term_labels(model)
    wanted = set(labels if include is None else [include] if isinstance(include, str) else include)
    if model.rows.offset is not None:
        labels += [OFFSET] if OFFSET not in labels else []
        wanted |= {OFFSET} if include is None else set()
    if not wanted <= set(labels):
        raise ValueError(
            f"include names {sorted(wanted - set(labels))[0]!r}, which is not a term. The terms are "
            f"{', '.join(map(repr, labels))}."
        )
    if new is None:
        return own_rows(model, wanted)
    return array_rows(model, new, wanted) if source is None else source.new_rows(new, wanted, new_levels)


def term_labels(model: LinearModel) -> list[str]:
    """The terms, and whatever else owns flat columns."""
    owners = [o for t in model.prior if t.flat for o in t.owners or ()]  # type: ignore[attr-defined]
    return list(dict.fromkeys([*(t.label for t in model.prior), *owners]))


def owned_columns(term: Flat, X: Array, wanted: Collection[str]) -> Array | None:
    """Flat columns, those that belong to none of the terms put to zero; None where that is all."""
    mine = term.owned(wanted)
    return X if mine.all() else X * mine if mine.any() else None


def own_rows(model: LinearModel, wanted: set[str]) -> NewRows:
    """The rows of the fit itself."""
    terms = [t for t in model.prior if t.label in wanted and not t.flat]
    columns = {t.label: t.inputs for t in terms}
    for term in model.prior:
        if term.flat and (X := owned_columns(term, term.design, wanted)) is not None:  # type: ignore[arg-type]
            columns[term.label] = X
    columns = columns or {"": np.zeros((model.rows.n, 0))}
    codes = {t.label: t.codes for t in terms if t.grouped}  # type: ignore[attr-defined]
    offset = model.rows.offset if wanted & {OFFSET, *(t.label for t in model.prior if t.flat)} else None
    return NewRows(columns, codes, 0.0 if offset is None else offset)


def array_rows(model: LinearModel, new: Any, wanted: set[str]) -> NewRows:
    """Columns given by term label."""
    if not isinstance(new, Mapping):
        raise ValueError(
            "This model was built from arrays, so predict needs a mapping from term label to columns, such as "
            f"{{{', '.join(f'{t.label!r}: X' for t in model.prior)}}}."
        )
    columns, codes = {}, {}
    for term in model.prior:
        if term.label not in wanted and not (term.flat and term.owned(wanted).any()):  # type: ignore[attr-defined]
            continue
        if term.label not in new:
            raise ValueError(f"predict needs the columns of term {term.label!r}; leave it out with include= otherwise.")
        if term.grouped:
            X, Z = new[term.label], np.ones((len(new[term.label]), 1))
            if term.names != ("Intercept",):
                if not isinstance(X, tuple) or len(X) != 2:
                    raise ValueError(
                        f"Term {term.label!r} has the coefficients {', '.join(term.names)}, so predict needs a pair "
                        "for it: the level of each row, and the columns."
                    )
                X, Z = X[0], np.asarray(X[1], float).reshape(len(X[1]), -1)
            check_codes(X, len(term.levels), term.label, unseen=True)  # type: ignore[attr-defined]
            check_effects(np.maximum(X, 0), len(term.levels), Z, term.names, term.label)  # type: ignore[attr-defined]
            codes[term.label], columns[term.label] = np.asarray(X), Z
            continue
        X = np.asarray(new[term.label], float).reshape(len(new[term.label]), -1)
        if X.shape[1] != len(term.input_names):
            raise ValueError(f"Term {term.label!r} has {len(term.input_names)} columns, but {X.shape[1]} were given.")
        columns[term.label] = X * term.owned(wanted) if term.flat else X  # type: ignore[attr-defined]
    rows = {label: len(X) for label, X in columns.items()}
    if len(set(rows.values())) > 1:
        counts = listed(f"{n} of {label!r}" for label, n in rows.items())
        raise ValueError(f"predict needs as many rows of every term, but was given {counts}.")
    return NewRows(columns, codes)
