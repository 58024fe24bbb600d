# SPDX-License-Identifier: BSD-3-Clause
"""``"y ~ x + (1 | g)"``: a formula and a table become a model.

Only top-level terms are split here. Parametric terms go to formulae, whose ``+`` is the same as that of
priors.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.interfaces.data import (
    as_fitted,
    is_numeric,
    numbers,
    packed,
    read_frame,
    refuse_dates,
    settled,
    unpacked,
)
from marglik.model import LinearModel
from marglik.posterior import NewRows
from marglik.priors import Flat, Prior, RandomEffects, Ridge, Term
from marglik.rows import InMemory
from marglik.validate import check_finite, did_you_mean, listed

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.likelihoods import Likelihood

FUNCTIONS: Mapping[str, Any] = {
    name: getattr(np, name)
    for name in ("log", "log2", "log10", "log1p", "exp", "expm1", "sqrt", "abs", "sin", "cos", "tan", "tanh")
}
CODINGS = ("C", "I", "scale", "center", "poly", "bs", "offset")
"""What formulae brings, of which messages speak."""
LATER = {
    "s": "smooths",
    "te": "smooths",
    "ti": "smooths",
    "ard": "one scale a column",
    "gp": "Gaussian processes",
}


class BadFormula(ValueError):
    """A formula that cannot be understood or does not fit the data, in one sentence."""


@dataclass(frozen=True)
class Grouping:
    """``(1 | g)``."""

    text: str
    group: str


@dataclass(frozen=True)
class Shared:
    """``ridge(a, b, c)``: columns with one scale."""

    text: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Formula:
    """A formula taken apart.

    Parameters
    ----------
    text
        As it was written.
    response
        Left of the tilde.
    parametric
        Right of the tilde without grouping and penalised terms, for formulae; fixed effects and offsets.
    grouping, shared
        The other terms.
    """

    text: str
    response: str
    parametric: str
    grouping: tuple[Grouping, ...]
    shared: tuple[Shared, ...]


def parse(text: str) -> Formula:
    """Take a formula apart at its top level.

    Raises
    ------
    BadFormula
        It has no tilde, no response, unbalanced parentheses, or a term of a kind that is not available.

    Examples
    --------
    >>> parse("Reaction ~ Days + (1 | Subject)").parametric
    '1 + Days'
    >>> parse("y ~ 0 + x + (1 | g) + offset(log(t))").grouping
    (Grouping(text='(1 | g)', group='g'),)
    """
    if text.count("~") != 1:
        raise BadFormula(
            f"A formula has one ~ between response and terms, as in 'y ~ x + (1 | g)', but this is {text!r}."
        )
    left, right = (side.strip() for side in text.split("~"))
    if not left or not right:
        side = "left" if not left else "right"
        raise BadFormula(
            f"The formula {text!r} has nothing on the {side} of its ~. Write 'y ~ 1' for an intercept alone."
        )
    parametric, grouping, shared = [], [], []
    for sign, term in split_terms(re.sub(r"\+\s*-", "-", right), text):
        name = re.match(r"(\w+)\s*\(", term)
        if term.startswith("(") and term.endswith(")") and _top_level(term[1:-1], "|"):
            _no_minus(sign, term)
            grouping.append(_grouping(term, text))
        elif name and name[1] == "ridge":
            _no_minus(sign, term)
            shared.append(_shared(term, text))
        elif name and name[1] in LATER:
            raise BadFormula(f"{term!r} asks for {LATER[name[1]]}, which formulas do not have yet.")
        else:
            _plausible(term)
            parametric.append(f"{sign} {term}")
    twice = [t.text for t in grouping] + [t.text for t in shared]
    if len(set(twice)) < len(twice):
        repeated = next(t for t in twice if twice.count(t) > 1)
        raise BadFormula(f"{repeated!r} is in the formula twice. Keep one.")
    fixed = " ".join(parametric).replace("^", "**")
    has_intercept_term = any(t in {"+ 0", "+ 1", "- 1"} for t in parametric)
    fixed = fixed.removeprefix("+ ") if has_intercept_term else f"1 {fixed}".strip()
    return Formula(text, left, fixed, tuple(grouping), tuple(shared))


def _plausible(term: str) -> None:
    """Refuse what formulae would pass over in silence, or with words about its insides."""
    bare = re.sub(r"`[^`]*`|'[^']*'|\"[^\"]*\"", "q", term)
    if "%" in bare:
        raise BadFormula(f"{term!r} has a %, which formulas do not know. Use * and : for interactions.")
    if _top_level(bare, "|"):
        raise BadFormula(f"{term!r} has a | outside parentheses. A grouping factor is written '(1 | g)'.")
    if re.search(r"[\w.)\]}]\s+[\w.({]", bare):
        raise BadFormula(f"{term!r} has two names without a sign between them. Join terms by +, * or :.")
    if bare == ".":
        raise BadFormula("A lone '.' for all other columns is not available. Name the columns.")
    if re.match(r"[\d.]", bare) and bare not in {"0", "1"}:
        raise BadFormula(
            f"{term!r} begins with a number, but terms are columns; 0 and 1 stand for the intercept. For "
            "arithmetic write I(2 * x)."
        )


def _no_minus(sign: str, term: str) -> None:
    if sign == "-":
        raise BadFormula(f"{term!r} cannot be taken away with a minus; leave it out of the formula.")


def _shared(term: str, text: str) -> Shared:
    inner = term[term.index("(") + 1 : -1]
    if _top_level(term, ")") != [len(term) - 1] or not inner.strip():
        raise BadFormula(f"{term!r} could not be understood. Write a term of its own, such as 'ridge(a, b, c)'.")
    columns = tuple(part.strip() for _, part in split_terms(inner, text, ","))
    return Shared(f"ridge({', '.join(columns)})", columns)


def _grouping(term: str, text: str) -> Grouping:
    inner = term[1:-1]
    bar = _top_level(inner, "|")[0]
    effects, group = inner[:bar].strip(), inner[bar + 1 :].lstrip("|").strip()
    if effects != "1":
        raise BadFormula(f"{term!r} asks for random slopes; so far formulas have random intercepts, '(1 | {group})'.")
    if not re.fullmatch(r"[^\W\d][\w.]*|`[^`]+`", group):
        raise BadFormula(f"{term!r}: the grouping factor must be one column so far, as in '(1 | g)'.")
    return Grouping(f"(1 | {group.strip('`')})", group.strip("`"))


def _top_level(text: str, character: str) -> list[int]:
    """Positions of a character outside parentheses and back-quotes."""
    depth, quoted, out = 0, False, []
    for i, c in enumerate(text):
        if c == "`":
            quoted = not quoted
        elif not quoted:
            depth += (c in "([{") - (c in ")]}")
            if c == character and depth == 0:
                out.append(i)
    return out


def split_terms(text: str, formula: str, separator: str = "+-") -> list[tuple[str, str]]:
    """Signs and terms at the top level."""
    opened = sum(text.count(c) for c in "([{") - sum(text.count(c) for c in ")]}")
    if opened:
        raise BadFormula(f"The parentheses in {formula!r} do not match.")
    cuts = sorted(i for c in separator for i in _top_level(text, c))
    edges = [-1, *cuts, len(text)]
    words = "comma" if separator == "," else "'+' or '-'"
    terms = []
    for start, stop in pairwise(edges):
        term = text[start + 1 : stop].strip()
        sign = "-" if start >= 0 and text[start] == "-" else "+"
        if not term and not (start == -1 and cuts):
            raise BadFormula(f"In {formula!r} a {words} has no term after it.")
        if term:
            terms.append((sign, term))
    return terms


@dataclass(frozen=True, eq=False)
class FormulaSource:
    """What turns new data into the model's columns, and keeps what is needed to build the model again."""

    formula: Formula
    fixed: Any
    shared: Mapping[str, Any]
    levels: Mapping[str, Sequence[Any]]
    data: DataFrame
    settings: Mapping[str, Any]

    def new_rows(self, data: Any, terms: set[str], new_levels: str) -> NewRows:
        """Columns of the named terms for new data."""
        frame = read_frame(data)
        columns: dict[str, Array] = {}
        codes: dict[str, Array] = {}
        offset: Array | float = 0.0
        if self.fixed is not None and ("fixed effects" in terms or _offset_columns(self.fixed)):
            matrix, offset = _split_offset(self.fixed, self._evaluated(self.fixed, frame))
            if "fixed effects" in terms and matrix.shape[1]:
                columns["fixed effects"] = matrix
        for label, designs in self.shared.items():
            if label in terms:
                columns[label] = np.column_stack([self._evaluated(design, frame) for design in designs])
        for grouping in self.formula.grouping:
            if grouping.text not in terms:
                continue
            _require(frame, [grouping.group], "the new data")
            column = settled(frame[grouping.group])
            columns[grouping.text] = np.ones((len(frame), 1))
            codes[grouping.text] = _codes(column, self.levels[grouping.group])
            unseen = column[codes[grouping.text] < 0]
            if new_levels == "raise" and len(unseen):
                raise ValueError(
                    f"{grouping.group!r} has levels that were not in the fit: {listed(dict.fromkeys(unseen))}. Use "
                    "new_levels='population' to predict them with an effect of zero."
                )
        if not columns:
            columns[""] = np.zeros((len(frame), 0))
        return NewRows(columns, codes, offset)

    def _evaluated(self, design: Any, frame: DataFrame) -> Array:
        """A design's columns for new data, whose columns are of the kinds that the fit saw."""
        import pandas as pd

        names = sorted(set().union(*(term.var_names for term in design.terms.values())) & set(self.data.columns))
        _require(frame, names, "the new data")
        columns = {name: as_fitted(frame[name], self.data[name]) for name in names}
        return _evaluate_new(design, pd.DataFrame(columns, frame.index))

    def recipe(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Settings, and the columns of the data that the formula uses."""
        settings = {
            "formula": self.formula.text,
            **self.settings,
            "columns": list(map(str, self.data.columns)),
        }
        kinds: list[str] = []
        arrays: dict[str, Array] = {}
        for i, name in enumerate(self.data.columns):
            kind, parts = packed(self.data[name])
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


def build(
    text: str,
    data: Any,
    likelihood: Likelihood,
    *,
    reml: bool = True,
    weights: Any = None,
    missing: str = "raise",
) -> tuple[LinearModel, FormulaSource, tuple[str, ...]]:
    """The model of a formula, what it came from, and notes about the data.

    Raises
    ------
    BadFormula, BadData, ValueError
        See the sentence.
    """
    formula = parse(text)
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing must be 'raise' or 'drop', not {missing!r}.")
    frame = read_frame(data)
    used = _used_columns(formula, frame)
    _require(frame, used, "the data")
    if isinstance(weights, str):
        _require(frame, [weights], "the data", "weights= names")
        used.append(weights)
    frame = frame[list(dict.fromkeys(used))]
    given = None if weights is None or isinstance(weights, str) else _given_weights(weights, len(frame))
    frame, kept, notes = _without_missing(frame, missing)
    refuse_dates(frame, set(used) - {g.group for g in formula.grouping})
    frame = frame.apply(settled)
    for name in frame:
        if is_numeric(frame[name]):
            check_finite(frame[name].to_numpy(float), [str(name)])
    if isinstance(weights, str):
        w: Array | None = numbers(frame[weights], weights, "weights")
    else:
        w = None if given is None else given[kept]

    y = _response(formula, frame)
    fixed, matrix, names, offset = _fixed(formula, frame)
    terms: list[Term] = [Flat(matrix, names)] if len(names) else []
    shared, levels = {}, {}
    for term in formula.shared:
        shared[term.text] = [_design(f"0 + {column}", frame, term.text) for column in term.columns]
        columns = np.column_stack([np.asarray(design.design_matrix, float) for design in shared[term.text]])
        own = [str(c) for design in shared[term.text] for c in design.as_dataframe().columns]
        terms.append(Ridge(columns, own, f"sd({term.text})", term.text))
    for grouping in formula.grouping:
        levels[grouping.group] = _levels(frame[grouping.group])
        codes = _codes(frame[grouping.group], levels[grouping.group])
        terms.append(RandomEffects(codes, levels[grouping.group], group=grouping.group, label=grouping.text))
    if not terms:
        raise BadFormula(
            f"{formula.text!r} has no terms, so there is nothing to learn. Write '{formula.response} ~ 1'."
        )
    rows = InMemory(y, offset, w)
    model = LinearModel(likelihood, Prior(terms), rows, reml=reml)
    settings = {"weights": weights if isinstance(weights, str) else None}
    if given is not None and w is not None:
        frame = frame.assign(**{GIVEN_WEIGHTS: w})
        settings["weights"] = GIVEN_WEIGHTS
    return model, FormulaSource(formula, fixed, shared, levels, frame, settings), notes


GIVEN_WEIGHTS = "(weights)"


def _given_weights(weights: Any, n: int) -> Array:
    try:
        given = np.asarray(weights, float)
    except (TypeError, ValueError):
        raise ValueError("weights must be a column's name or one number a row.") from None
    if given.shape != (n,):
        raise ValueError(f"weights must have one value a row, {n} in all, but their shape is {given.shape}.")
    return given


def _used_columns(formula: Formula, frame: DataFrame) -> list[str]:
    used = _variables(formula.response) + _variables(formula.parametric)
    for term in formula.shared:
        for column in term.columns:
            used += _variables(column)
    contrasts = {"Sum", "Treatment"} - set(frame.columns)
    return [name for name in used if name not in contrasts] + [g.group for g in formula.grouping]


def _variables(text: str) -> list[str]:
    """Names of the columns that parametric terms use."""
    from formulae import model_description

    try:
        return sorted(name for name in model_description(f"0 + {text}").var_names if name)
    except TypeError as error:
        raise BadFormula(
            f"{text!r} could not be understood. Write arithmetic inside I(…), such as I(a + 2 * b)."
        ) from error
    except Exception as error:  # formulae raises many kinds, always about the text
        raise BadFormula(f"{text!r} could not be understood: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return f"{str(error).strip().rstrip('.')}."


def _require(frame: DataFrame, names: Iterable[str], where: str, who: str = "The formula uses") -> None:
    have = [str(c) for c in frame.columns]
    for name in names:
        if name not in have:
            hint = did_you_mean(name, have)
            raise BadFormula(
                f"{who} {name!r}, but {where} have no such column.{hint} The columns are {listed(have, 12)}."
            )


def _without_missing(frame: DataFrame, missing: str) -> tuple[DataFrame, Array, tuple[str, ...]]:
    bad = frame.isna()
    kept = np.flatnonzero(~bad.any(axis=1).to_numpy())
    if len(kept) == len(frame):
        return frame, kept, ()
    if missing == "raise":
        column = next(c for c in frame.columns if bad[c].any())
        rows = np.flatnonzero(bad[column])
        raise ValueError(
            f"Column {column!r} has no value (NaN) in row {listed(rows)} (rows count from 0). Use missing='drop' to "
            "leave such rows out, or fill the values in."
        )
    if not len(kept):
        raise ValueError("Every row has a missing value in a column that the formula uses, so no row is left.")
    dropped = len(frame) - len(kept)
    return (
        frame.iloc[kept].reset_index(drop=True),
        kept,
        (f"{dropped} of {len(frame)} rows dropped: missing values",),
    )


def _response(formula: Formula, frame: DataFrame) -> Array:
    name = formula.response.strip("`")
    if name in frame.columns:
        return numbers(frame[name], name, "response")
    for column in _variables(formula.response):
        numbers(frame[column], column, "response")
    design = _design(f"0 + {formula.response}", frame, formula.response)
    if design is None or design.design_matrix.shape[1] != 1:
        raise BadFormula(f"The response {formula.response!r} must be one column. For arithmetic write I(a + b).")
    return np.asarray(design.design_matrix, float)[:, 0]


def _fixed(formula: Formula, frame: DataFrame) -> tuple[Any, Array, list[str], Array | None]:
    design = _design(formula.parametric, frame, formula.text)
    if design is None:
        return None, np.zeros((len(frame), 0)), [], None
    full = np.asarray(design.design_matrix, float)
    matrix, offset = _split_offset(design, full)
    offsets = set(_offset_columns(design))
    names = [str(c) for i, c in enumerate(design.as_dataframe().columns) if i not in offsets]
    return design, matrix, names, offset if isinstance(offset, np.ndarray) else None


def _offset_columns(design: Any) -> list[int]:
    return [
        i
        for name, term in design.terms.items()
        if term.kind == "offset"
        for i in range(design.slices[name].start, design.slices[name].stop)
    ]


def _split_offset(design: Any, matrix: Array) -> tuple[Array, Array | float]:
    columns = _offset_columns(design)
    offset = matrix[:, columns].sum(axis=1) if columns else 0.0
    return np.delete(matrix, columns, axis=1), offset


def _design(text: str, frame: DataFrame, shown: str) -> Any:
    """The design that formulae makes of parametric terms; None if there are no terms."""
    from formulae import design_matrices
    from formulae.environment import Environment

    known = Environment([{**FUNCTIONS, "np": np}])
    try:
        with np.errstate(all="ignore"), redirect_stdout(io.StringIO()):  # formulae prints what it raises
            return design_matrices(text, frame, na_action="error", env=known).common
    except KeyError as error:
        raise BadFormula(
            f"{shown!r} uses {error.args[0]!r}, which is neither a column nor a known function. Functions "
            f"are {', '.join((*FUNCTIONS, *CODINGS))}."
        ) from None
    except Exception as error:
        words = [name for name in _variables(text) if name in frame and not is_numeric(frame[name])]
        why = f"{words[0]!r} holds text, not numbers." if words and isinstance(error, TypeError) else _reason(error)
        raise BadFormula(f"{shown!r} could not be evaluated: {why}") from error


def _evaluate_new(design: Any, frame: DataFrame) -> Array:
    try:
        with np.errstate(all="ignore"):
            matrix = np.asarray(design.evaluate_new_data(frame).design_matrix, float)
    except ValueError as error:
        found = re.search(r"levels \((.*)\) in '(.*)' are not present", str(error))
        if not found:
            raise
        raise ValueError(
            f"{found[2]!r} is a fixed effect, and its level {found[1]!r} was not in the fit, so its effect is unknown. "
            "Leave such rows out, or make it a grouping factor: (1 | …)."
        ) from None
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise ValueError(f"The new data have a missing or infinite value in row {listed(bad)} (rows count from 0).")
    return matrix


def _levels(column: Any) -> list[Any]:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        present = set(column.cat.codes)
        return [c for i, c in enumerate(column.cat.categories) if i in present]
    values = column.unique()
    return [v.item() if hasattr(v, "item") else v for v in sorted(values)]


def _codes(column: Any, levels: Sequence[Any]) -> Array:
    """Position of each value among the levels; −1 where it is none of them."""
    import pandas as pd

    codes = pd.Index(levels).get_indexer(pd.Index(column))
    if (codes < 0).all():  # a file may hold as text what the fit saw as numbers, or the other way round
        codes = pd.Index([str(v) for v in levels]).get_indexer(pd.Index([str(v) for v in column]))
    return codes


def reset(source: FormulaSource, **changes: Any) -> FormulaSource:
    """The source with other settings."""
    return replace(source, settings={**source.settings, **changes})
