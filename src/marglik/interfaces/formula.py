# SPDX-License-Identifier: BSD-3-Clause
"""``"y ~ x + (1 + x | g)"``: a formula and a table become a model, and new rows become its columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik import callers
from marglik.interfaces.data import (
    as_fitted,
    complete,
    is_numeric,
    numbers,
    packed,
    read_frame,
    refuse_dates,
    refuse_missing,
    settled,
    unpacked,
)
from marglik.interfaces.designs import NO_COLUMNS, Coded, Design, coded, design, side_by_side, variables
from marglik.interfaces.factors import Factor, described, factorise
from marglik.interfaces.grammar import BadFormula, Formula, Grouping, Penalised, is_name, parse, products, split_terms
from marglik.interfaces.response import respond
from marglik.interfaces.special import Special
from marglik.interfaces.special import terms as special_terms
from marglik.interfaces.texts import check_levels_of
from marglik.model import LinearModel
from marglik.posterior.base import NewRows
from marglik.priors import Flat, Prior, RandomEffects, Ridge, Term
from marglik.rows import InMemory
from marglik.validate import Collinear, check_nonzero, check_weights, did_you_mean, listed

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame, Series

    from marglik.likelihoods import Likelihood

FIXED = "fixed effects"
GIVEN_WEIGHTS = "(weights)"


@dataclass(frozen=True, eq=False)
class FormulaSource:
    """What turns new data into the model's columns, and keeps what is needed to build the model again.

    Parameters
    ----------
    formula
        The formula taken apart.
    designs
        A term's label → the designs whose columns stand side by side in it.
    factors
        A grouping term's label → its grouping factor.
    table
        The columns of the data that the formula uses, settled.
    settings
        What else the model was built with.
    special
        Terms that are calls, by label.
    """

    formula: Formula
    designs: Mapping[str, Sequence[Design]]
    factors: Mapping[str, Factor]
    table: Mapping[str, Series]
    settings: Mapping[str, Any]
    special: Mapping[str, Special] = field(default_factory=dict)

    @cached_property
    def data(self) -> DataFrame:
        """The columns that the formula uses."""
        import pandas as pd

        return pd.DataFrame(dict(self.table))

    def new_rows(self, data: Any, terms: set[str], new_levels: str) -> NewRows:
        """Columns of the named terms for new data."""
        frame = read_frame(data, empty=True)
        if not len(frame):
            return self._no_rows(frame, terms)
        columns: dict[str, Array] = {}
        codes: dict[str, Array] = {}
        offset: Array | float = 0.0
        for label, designs in self.designs.items():
            wanted = [d for d in designs if label in terms]
            parts = [d.new(self._like_fitted(d.variables, frame), len(frame)) for d in wanted]
            offset = sum((more for _, more in parts if more is not None), offset)
            matrices = [matrix for matrix, _ in parts if matrix.shape[1]]
            if matrices:
                columns[label] = matrices[0] if len(matrices) == 1 else np.column_stack(matrices)
        unseen = self._special_rows(terms, frame, new_levels, columns, codes)
        for label, factor in self.factors.items():
            if label in terms:
                codes[label] = self._codes(factor, frame, new_levels)
        if not columns:
            columns[""] = np.zeros((len(frame), 0))
        return NewRows(columns, codes, offset, unseen)

    def _special_rows(
        self,
        labels: Collection[str],
        frame: DataFrame,
        new_levels: str,
        columns: dict[str, Array],
        codes: dict[str, Array],
        warn: bool = True,
    ) -> dict[str, Array]:
        """Add the columns of terms that are calls, the flat ones beside the fixed effects; `NewRows.unseen` of them."""
        n, outside, unseen = len(frame), [], {}
        wanted = [term for label, term in self.special.items() if label in labels]
        flat = {label: np.zeros((n, term.flat.shape[1])) for label, term in self.special.items()}
        for term in wanted:
            table = self._like_fitted(term.variables, frame)
            found = term.new(table, n, new_levels)
            flat[term.label], columns[term.label] = found.flat, found.own
            if found.codes is not None:
                codes[term.label] = found.codes
            if found.unseen is not None:
                unseen[term.label] = found.unseen
            outside += [f"{term.label}: {phrase}" for phrase in term.outside(table, n)] if warn else []
        if any(term.flat.shape[1] for term in wanted) or (FIXED in columns and self.special):
            own = len(self.designs[FIXED][0].names) if FIXED in self.designs else 0
            columns[FIXED] = np.column_stack([columns.get(FIXED, np.zeros((n, own))), *flat.values()])
        if outside:
            callers.warn(
                f"Smooths are extrapolated beyond the data of the fit ({'; '.join(outside)}; rows count from 0), where "
                "nothing but their penalty is known of them."
            )
        return unseen

    def effect_rows(self, label: str, at: Any, n: int | None) -> tuple[DataFrame, NewRows]:
        """Where to show the effect of a call's term, and its columns there; see `Fit.effect`."""
        import pandas as pd

        if label not in self.special:
            have = f"The smooths are {listed(self.special)}." if self.special else "This fit has no smooths."
            raise ValueError(
                f"effect is for smooths, and {label!r} is none.{did_you_mean(label, self.special)} {have} Coefficients "
                "are in fit.fixed_effects and fit.random_effects()."
            )
        term = self.special[label]
        frame = pd.DataFrame(term.grid(n)) if at is None else read_frame(at)
        columns: dict[str, Array] = {}
        codes: dict[str, Array] = {}
        unseen = self._special_rows({label}, frame, "population", columns, codes, warn=at is not None)
        return frame[list(term.variables)], NewRows(columns, codes, unseen=unseen)

    def _no_rows(self, frame: DataFrame, terms: set[str]) -> NewRows:
        """Columns of the named terms for new data without a row."""
        used = [d for label, ds in self.designs.items() for d in ds if label in terms]
        factors = [factor for label, factor in self.factors.items() if label in terms]
        calls = [call for label, call in self.special.items() if label in terms]
        names = [v for d in used for v in d.variables] + [v for call in calls for v in call.variables]
        names += [c for f in factors for c in f.columns]
        require(frame, names, "the new data")
        like = self.new_rows(self.data[:1], terms, "population")
        return NewRows({k: X[:0] for k, X in like.columns.items()}, {k: c[:0] for k, c in like.codes.items()})

    def _like_fitted(self, names: Iterable[str], frame: DataFrame) -> dict[str, Series]:
        """Columns of new data, of the kinds that the fit saw."""
        require(frame, names, "the new data")
        return {name: as_fitted(frame[name], self.table[name]) for name in names}

    def _codes(self, factor: Factor, frame: DataFrame, new_levels: str) -> Array:
        require(frame, factor.columns, "the new data")
        for name in factor.columns:
            refuse_missing(frame[name])
        table = {name: settled(frame[name]) for name in factor.columns}
        codes = factor.codes(table)
        unseen = np.flatnonzero(codes < 0)
        if new_levels == "raise" and len(unseen):
            raise ValueError(
                f"{':'.join(factor.columns)!r} has levels that were not in the fit: "
                f"{listed(dict.fromkeys(described(factor, table, unseen)))}. Use new_levels='population' to predict "
                "them with an effect of zero."
            )
        return codes

    def recipe(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Settings, and the columns of the data that the formula uses."""
        settings = {"formula": self.formula.text, **self.settings, "columns": list(self.table)}
        kinds: list[str] = []
        arrays: dict[str, Array] = {}
        for i, column in enumerate(self.table.values()):
            kind, parts = packed(column)
            kinds.append(kind)
            arrays |= {f"column{i}.{part}": values for part, values in parts.items()}
        return {**settings, "kinds": kinds}, arrays


def restored(settings: Mapping[str, Any], arrays: Callable[[str], Array]) -> DataFrame:
    """The frame that `FormulaSource.recipe` took apart; ``arrays`` gives an array by its name."""
    import pandas as pd

    frame = {
        name: unpacked(kind, lambda part, i=i: arrays(f"column{i}.{part}"))  # type: ignore[misc]
        for i, (name, kind) in enumerate(zip(settings["columns"], settings["kinds"], strict=True))
    }
    return pd.DataFrame(frame)


def reset(source: FormulaSource, **changes: Any) -> FormulaSource:
    """The source with other settings."""
    return replace(source, settings={**source.settings, **changes})


def build(
    text: str,
    data: Any,
    likelihood: Likelihood,
    *,
    reml: bool = True,
    weights: Any = None,
    missing: str = "raise",
    select: bool = False,
) -> tuple[LinearModel, FormulaSource, tuple[str, ...]]:
    """The model of a formula, what it came from, and notes about the data.

    Raises
    ------
    BadFormula, BadData, ValueError
        See the sentence.

    Examples
    --------
    >>> from marglik.likelihoods import Gaussian
    >>> data = {"y": [1.0, 2.0, 0.5, 4.0], "x": [0.0, 1.0, 0.5, 1.0], "g": ["a", "a", "b", "b"]}
    >>> model, _, _ = build("y ~ x + (1 | g)", data, Gaussian())
    >>> [(term.label, term.names) for term in model.prior]
    [('fixed effects', ('Intercept', 'x')), ('(1 | g)', ('Intercept',))]
    """
    formula = parse(text)
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing must be 'raise' or 'drop', not {missing!r}.")
    table, n, w, kept, notes = _read(formula, data, weights, missing)
    y, likelihood, more = respond(formula, table, n, likelihood, kept)
    settings: dict[str, Any] = {"select": True} if select else {}
    terms, designs, factors, special = _terms(formula, table, n, settings, kept)
    if not terms:
        raise BadFormula(
            f"{formula.text!r} has no terms, so there is nothing to learn. Write '{formula.response} ~ 1'."
        )
    offset = designs[FIXED][0].offset if FIXED in designs else None
    model = LinearModel(likelihood, Prior(terms), InMemory(y, offset, w), reml=reml)
    if any(term.flat.shape[1] for term in special.values()):
        _check_apart(model)
    settings["weights"] = weights if isinstance(weights, str) or weights is None else GIVEN_WEIGHTS
    notes = (*notes, *more, *(note for term in special.values() for note in term.notes))
    return model, FormulaSource(formula, designs, factors, table, settings, special), notes


def _read(
    formula: Formula, data: Any, weights: Any, missing: str
) -> tuple[dict[str, Series], int, Array | None, Array | None, tuple[str, ...]]:
    """The columns in use, how many rows they have, weights, which rows of the data these are if not all, and notes."""
    import pandas as pd

    frame = read_frame(data)
    used = _used_columns(formula, frame)
    require(frame, used, "the data")
    if isinstance(weights, str):
        require(frame, [weights], "the data", "weights= names")
        used.append(weights)
    refuse_dates(frame, set(used) - {name for term in formula.grouping for name in term.columns})
    columns = {name: frame[name] for name in used}
    named = weights
    if not isinstance(weights, str | None):
        named = GIVEN_WEIGHTS
        columns[named] = pd.Series(_given_weights(weights, len(frame)), name=named)
    table, kept, notes = complete(columns, missing)
    given = None if named is None else numbers(table[named], named, "weights", kept)
    if given is not None:
        check_weights(given, kept)
    n = len(frame) if kept is None else len(kept)
    return table, n, given, kept, (*notes, *_levels_meant(formula, table, kept))


def _levels_meant(formula: Formula, table: Mapping[str, Series], kept: Array | None) -> list[str]:
    """Notes on text in terms that may have been meant as numbers; raises where it must have been."""
    flat = [formula.parametric, *(term.effects for term in formula.grouping)]
    texts = dict.fromkeys([*flat, *(column for term in formula.penalised for column in term.columns)])
    seen: dict[str, bool] = {}
    for text in texts:
        names = set(variables(text)) - coded(text)
        seen |= {name: seen.get(name, False) or text in flat for name in names if name in table}
    words = {name: own for name, own in seen.items() if not is_numeric(table[name])}
    return [note for name, own in words.items() if (note := check_levels_of(table[name], kept, own))]


def _terms(
    formula: Formula, table: Mapping[str, Series], n: int, settings: Mapping[str, Any], kept: Array | None
) -> tuple[list[Term], dict[str, tuple[Design, ...]], dict[str, Factor], dict[str, Special]]:
    """The prior's terms; their designs, grouping factors and calls by label."""
    terms: list[Term] = []
    designs: dict[str, tuple[Design, ...]] = {}
    factors: dict[str, Factor] = {}
    fixed = design(formula.parametric, table, n, formula.text)
    if fixed is not None:
        designs[FIXED] = (fixed,)
        _check_names(formula, fixed)
        _check_offset(formula, fixed, table, kept)
        fixed.check_finite(table, kept)
    special = _special(formula, table, n, settings)
    flat = _flat(fixed, special, n)
    terms += [] if flat is None else [flat]
    for penalised in formula.penalised:
        ridge, designs[penalised.text] = _penalised(penalised, table, n)
        for part in designs[penalised.text]:
            part.check_finite(table, kept)
        terms.append(ridge)
    found: dict[tuple[str, ...], tuple[Factor, Array]] = {}
    made = {formula.parametric: fixed}
    for grouping in formula.grouping:
        if grouping.effects not in made:
            made[grouping.effects] = varying = design(grouping.effects, table, n, grouping.text)
            if varying is not None:
                varying.check_finite(table, kept)
        if grouping.columns not in found:
            found[grouping.columns] = factorise(grouping.columns, table)
        factors[grouping.text], codes = found[grouping.columns]
        effects, designs[grouping.text] = _random_effects(
            grouping, made[grouping.effects], factors[grouping.text], codes
        )
        terms.append(effects)
    return [*terms, *(term.term for term in special.values())], designs, factors, special


def _special(formula: Formula, table: Mapping[str, Series], n: int, settings: Mapping[str, Any]) -> dict[str, Special]:
    """The terms of calls, by label."""
    out: dict[str, Special] = {}
    for call in formula.calls:
        for term in special_terms(call, table, n, settings):
            if term.label in out:
                raise BadFormula(
                    f"{term.label!r} is in the formula twice, the second time as {call.written!r}. Keep one."
                )
            out[term.label] = term
    return out


def _flat(fixed: Design | None, special: Mapping[str, Special], n: int) -> Flat | None:
    """Fixed effects, and beside them the flat columns of calls, each with the label of its owner."""
    names = () if fixed is None else fixed.names
    own = [(term.flat, name, term.label) for term in special.values() for name in term.flat_names]
    if not own:
        return Flat(fixed.matrix, names) if fixed is not None and names else None
    parts = [term.flat for term in special.values()]
    X = np.column_stack([np.zeros((n, 0)) if fixed is None else fixed.matrix, *parts])
    owners = [*(FIXED for _ in names), *(label for _, _, label in own)]
    return Flat(X, [*names, *(name for _, name, _ in own)], owners=owners)


def _check_apart(model: LinearModel) -> None:
    """Refuse a smooth whose flat part is in other terms already."""
    try:
        _ = model.flat_basis
    except Collinear as error:
        flat = next(term for term in model.prior if term.flat)
        owners = flat.owners or ()  # type: ignore[attr-defined]
        shown = [repr(name) if owner == FIXED else owner for name, owner in zip(flat.names, owners, strict=True)]
        all_ = [shown[i] for i in (*error.others, error.column)]
        smooths = [owner for i in (error.column, *error.others) if (owner := owners[i]) != FIXED]
        if not smooths:
            raise
        others = [name for name in dict.fromkeys(all_) if name != smooths[0] and name != "'Intercept'"]
        raise ValueError(
            f"{smooths[0]} has a part that no penalty sees, and it is a combination of {listed(others)}, so they "
            "cannot be told apart. A smooth holds the straight line, and one of several columns the smooths of each: "
            f"leave {'one of them' if others else 'it'} out, or write what a surface adds to curves as ti()."
        ) from None


def _check_names(formula: Formula, fixed: Design) -> None:
    """Refuse a column with the name of another coefficient, such as that of the constant."""
    twice = next((name for name in fixed.variables if fixed.names.count(name) > 1), None)
    if twice is not None:
        other = "the constant" if twice == "Intercept" else "another"
        raise BadFormula(
            f"{formula.text!r} has two fixed effects called {twice!r}: that of the column of this name, and {other}. "
            "Rename the column."
        )


def _check_offset(formula: Formula, fixed: Design, table: Mapping[str, Series], kept: Array | None) -> None:
    """Offsets are finite; where not, say which row, and what stands there."""
    if fixed.offset is None or np.isfinite(fixed.offset).all():
        return
    row = int(np.argmin(np.isfinite(fixed.offset)))
    number = row if kept is None else kept[row]
    texts = [term for _, term in split_terms(formula.parametric, formula.text) if term.startswith("offset(")]
    there = [f"{name} = {table[name].iloc[row]:g}" for name in variables(" + ".join(texts))]
    others = int((~np.isfinite(fixed.offset)).sum()) - 1
    more, where = f" and {others} more" if others else "", f", where {listed(there)}" if there else ""
    raise ValueError(
        f"{' + '.join(texts)} is {fixed.offset[row]:g} in row {number}{more} (rows count from 0){where}. An exposure "
        "must be above zero: leave such rows out."
    )


def require(frame: DataFrame, names: Iterable[str], where: str, who: str = "The formula uses") -> None:
    """Raise where the frame lacks one of these columns."""
    for name in names:
        if name not in frame.columns:
            hint = did_you_mean(name, frame.columns)
            have = f"The columns are {listed(frame.columns, 12)}." if len(frame.columns) else "They have no columns."
            raise BadFormula(f"{who} {name!r}, but {where} have no such column.{hint} {have}")


def _given_weights(weights: Any, n: int) -> Array:
    try:
        given = np.array(weights, float)
    except (TypeError, ValueError):
        raise ValueError("weights must be a column's name or one number a row.") from None
    if given.shape != (n,):
        raise ValueError(f"weights must have one value a row, {n} in all, but their shape is {given.shape}.")
    return given


def _used_columns(formula: Formula, frame: DataFrame) -> list[str]:
    texts = [formula.parametric, *(column for term in formula.penalised for column in term.columns)]
    texts += [term.effects for term in formula.grouping]
    texts += [text for call in formula.calls for text in call.columns]
    responses = [text if is_name(text) else f"I({text})" for text in formula.counts or ()] or [formula.response]
    used = [name for text in responses for name in _columns(text, frame)]
    for text in dict.fromkeys(texts):
        names = _columns(text, frame)
        if formula.response.strip("`") in names:
            raise BadFormula(f"{formula.response!r} is the response, so it cannot be in a term too: {text!r}.")
        used += names
    return used + [name for g in formula.grouping for name in g.columns]


def _columns(text: str, frame: DataFrame) -> list[str]:
    """What must be a column: every name, but inside functions not those of contrasts and numbers."""
    others = set() if products(text) is not None else NO_COLUMNS - set(frame.columns)
    return [name for name in variables(text) if name not in others]


def _penalised(term: Penalised, table: Mapping[str, Series], n: int) -> tuple[Ridge, tuple[Design, ...]]:
    designs = side_by_side(term.columns, table, n, term.text)
    names = [name for d in designs for name in d.names]
    if any(d.offset is not None for d in designs) or not names:
        raise BadFormula(f"{term.text!r} needs columns alone. An offset is a term of its own.")
    X = designs[0].matrix if len(designs) == 1 else np.column_stack([d.matrix for d in designs])
    check_nonzero(X, names, term.text, together=term.kind == "ridge")
    if term.kind == "ridge":
        return Ridge(X, names, f"sd({term.text})", term.text), designs
    scales = [f"sd({name})" for name in names]
    return Ridge(X, names, label=term.text, groups=np.arange(len(names)), scales=scales), designs


def _random_effects(
    term: Grouping, found: Design | None, factor: Factor, codes: Array
) -> tuple[RandomEffects, tuple[Design, ...]]:
    if found is None or not found.names or found.offset is not None:
        raise BadFormula(f"{term.text!r} needs columns left of its bar, as in '(1 + x | g)', and no offset.")
    if not term.correlated and isinstance(found.rule, Coded):
        _independent(term, found.rule)
    Z = None if found.names == ("Intercept",) else found.matrix
    effects = RandomEffects(codes, factor.levels, Z, found.names, term.group, term.text, term.correlated)
    return effects, (found,)


def _independent(term: Grouping, rule: Coded) -> None:
    """Refuse ``||`` where what is independent would depend on the coding."""
    for name, columns in rule.several.items():
        apart = f"(0 + {name} | {term.group})"
        alike = f", or '(1 | {term.group}) + (1 | {term.group}:{name})' for ones alike" if is_name(name) else ""
        raise BadFormula(
            f"{term.text!r} asks for independent effects, but {name!r} is categorical or has several columns "
            f"({listed(columns)}), which hang together. Write {apart!r} for correlated effects{alike}."
        )
