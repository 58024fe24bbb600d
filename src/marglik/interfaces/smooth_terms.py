# SPDX-License-Identifier: BSD-3-Clause
"""``s(x)``, ``te(x, z)``, ``ti(x, z)`` in a formula: flat columns, and weights with a scale for each penalty."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.interfaces.calls import BadFormula, Call
from marglik.interfaces.data import is_numeric
from marglik.interfaces.designs import design, variables
from marglik.interfaces.factors import Factor, factorise
from marglik.interfaces.grammar import is_name
from marglik.interfaces.special import Columns, Special, Table, product_grid
from marglik.priors import RandomEffects, Ridge, Term
from marglik.priors import Smooth as Overlapping
from marglik.smooths import Smooth, s, te, ti
from marglik.smooths.base import NamedBasis
from marglik.validate import listed

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray as Array

    from marglik.pieces import Pieces

MAKERS: Mapping[str, Callable[..., Sequence[Smooth]]] = {"s": s, "te": te, "ti": ti}
OPTIONS = {
    "s": ("bs", "k", "m", "by", "knots", "select", "max_knots", "xt"),
    "te": ("bs", "k", "m", "d", "by", "knots", "select"),
    "ti": ("bs", "k", "m", "d", "by", "knots", "select"),
}

KINDS: Mapping[str, tuple[Any, str]] = {
    "bs": (str, "the name of a basis in quotes"),
    "k": ((int, float), "a number of functions"),
    "m": (int, "a whole number"),
    "d": (int, "a whole number"),
    "select": (bool, "True or False"),
    "max_knots": (int, "a whole number"),
    "xt": (str, "the name of a basis in quotes"),
}


@dataclass(frozen=True, eq=False)
class Covariates:
    """The expressions that a smooth is a function of, as columns by their text.

    Parameters
    ----------
    expressions
        Names of columns, or expressions in them such as ``log(x)``.
    by
        The column that multiplies it, if any.
    shown
        What messages quote.
    group
        The column whose whole numbers are levels, if any.
    """

    expressions: tuple[str, ...]
    by: str | None
    shown: str
    group: str | None = None

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Columns of the data."""
        found = [name for text in self.expressions for name in variables(text)]
        return tuple(dict.fromkeys([*found, *(() if self.by is None else (self.by,))]))

    def values(self, table: Table, n: int) -> dict[str, Array]:
        """Each expression's values."""
        out = {text.strip("`"): self._value(text, table, n) for text in self.expressions}
        if self.by is not None:
            out[self.by] = _plain(table[self.by])
        return out

    def _value(self, text: str, table: Table, n: int) -> Array:
        if is_name(text):
            name = text.strip("`")
            return _levels(table[name]) if name == self.group else _plain(table[name])
        words = next((name for name in variables(text) if not is_numeric(table[name])), None)
        found = None if words else design(f"0 + {text}", table, n, self.shown)
        if found is None or found.matrix.shape[1] != 1:
            why = f"{words!r} is categorical" if words else "it is not one column"
            raise BadFormula(
                f"{self.shown!r} is a function of {text!r}, but {why}. Give a column, or a function of one."
            )
        return found.matrix[:, 0]


def _plain(column: Any) -> Array:
    return column.to_numpy(float) if is_numeric(column) else np.asarray(column, object)


def _levels(column: Any) -> Array:
    """Whole numbers as levels of a factor."""
    values = column.to_numpy()
    return (values.astype(np.int64) if _whole(column) else values).astype(object)


def _whole(column: Any) -> bool:
    return is_numeric(column) and bool(np.all(column.to_numpy(float) % 1 == 0))


def _group(call: Call, table: Table) -> str | None:
    """Where a basis needs a factor and all its covariates are numbers: the last column of whole numbers."""
    bs = call.value("bs")
    if not (isinstance(bs, str) and bs in NamedBasis.registry and NamedBasis.registry[bs].needs_factor):
        return None
    names = [text.strip("`") for text in call.arguments if is_name(text)]
    if len(names) < 2 or any(not is_numeric(table[name]) for name in names):
        return None
    return next((name for name in reversed(names) if _whole(table[name])), None)


@dataclass(frozen=True, eq=False)
class SmoothTerm(Special):
    """A smooth of a formula.

    Parameters
    ----------
    smooth
    covariates
    flat, term
        See `Special`.
    seen
        Expression or column → its lowest and highest value in the fit, or its levels.
    table
        Columns of the data → the same.
    factor
        The grouping factor, where every level has weights of its own.
    """

    smooth: Smooth
    covariates: Covariates
    flat: Array
    term: Term
    seen: Mapping[str, Any]
    table: Mapping[str, Any]
    factor: Factor | None = None
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:  # type: ignore[override]
        return self.smooth.label

    @property
    def variables(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.covariates.variables

    @property
    def by(self) -> str | None:  # type: ignore[override]
        return self.smooth.by

    @property
    def level(self) -> Any:
        return self.smooth.level

    @property
    def scales(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.smooth.scales

    def new(self, table, n, new_levels):
        values = self.covariates.values(table, n)
        for name, column in values.items():
            _check_finite(column, name, self.label)
            known = self.seen[name]
            if isinstance(known, tuple):
                continue
            strange = [level for level in dict.fromkeys(column.tolist()) if level not in set(known.tolist())]
            if strange and name == self.smooth.by:
                raise ValueError(
                    f"{self.label} is one smooth for each level of {name!r}, and {listed(strange)} was not in the fit, "
                    "so its smooth is unknown. Leave such rows out, or leave the smooths out: include=."
                )
            if strange and new_levels == "raise":
                raise ValueError(
                    f"{name!r} has levels that were not in the fit: {listed(strange)}. Use new_levels='population' to "
                    "predict them with an effect of zero."
                )
        unseen = self.smooth.basis.unseen([values[name] for name in self.smooth.names])
        codes = None if self.factor is None else self.factor.codes(table)
        return Columns(*self.smooth.parts(values), codes, unseen if unseen.any() else None)

    def outside(self, table, n):
        out = []
        values = self.covariates.values(table, n)
        active = np.ones(n, bool)
        if self.by is not None and self.level is not None:
            active = values[self.by] == self.level
        for i, name in enumerate(self.smooth.names):
            if isinstance(self.seen[name], tuple) and self.smooth.basis.extrapolates(i):
                low, high = self.seen[name]
                beyond = np.flatnonzero(active & ((values[name] < low) | (values[name] > high)))
                if len(beyond):
                    out.append(f"{name!r} in row {listed(beyond)}, outside {low:g} to {high:g}")
        return out

    def grid(self, n):
        by = self.smooth.by
        shown = [name for name in self.variables if name != by]
        several = sum(isinstance(self.table[name], tuple) for name in shown) > 1
        steps = n or (40 if several else 100)
        axes = {}
        for name in shown:
            known = self.table[name]
            axes[name] = np.linspace(known[0], known[1], steps) if isinstance(known, tuple) else known
        out = product_grid(axes)
        if by is not None:
            size = len(next(iter(out.values())))
            out[by] = np.full(size, 1.0 if self.smooth.level is None else self.smooth.level, None)
            if self.smooth.level is None:
                out[by] = out[by].astype(float)
        return out


def terms(call: Call, table: Table, n: int, settings: Mapping[str, Any]) -> tuple[SmoothTerm, ...]:
    """The smooths of a call: one, or one for each level of its ``by``."""
    call.known(OPTIONS[call.kind])
    by = call.options.get("by")
    by = None if by in (None, "None") else by.strip("`'\"")
    covariates = Covariates(call.arguments, by, call.written, _group(call, table))
    if call.kind == "te" and len(call.arguments) < 2:
        raise BadFormula(f"{call.written!r} is a product of one covariate. Write s({call.arguments[0]}), or name two.")
    options = {name: _option(call, name) for name in call.options if name not in ("by", "knots")}
    options.setdefault("select", bool(settings.get("select")))
    knots = _knots(call)
    values = covariates.values(table, n)
    names = tuple(text.strip("`") for text in call.arguments)
    found = MAKERS[call.kind](values, *names, by=by, knots=knots, **options)
    seen = {name: _range(column) for name, column in values.items()}
    raw = {
        name: _range(_levels(table[name]) if name == covariates.group else _plain(table[name]))
        for name in covariates.variables
    }
    note = (*_period(call, names, knots, seen), *_straight(call, names, knots, seen))
    return tuple(
        replace(_term(smooth, covariates, values, seen, raw, table), notes=note if i == 0 else ())
        for i, smooth in enumerate(found)
    )


def _term(
    smooth: Smooth,
    covariates: Covariates,
    values: Mapping[str, Array],
    seen: Mapping[str, Any],
    raw: Mapping[str, Any],
    table: Table,
) -> SmoothTerm:
    flat, own = smooth.split(values)
    names = [f"{smooth.label}.{smooth.null.shape[1] + i + 1}" for i in range(own.shape[1])]
    if smooth.codes(values) is None:
        return SmoothTerm(smooth, covariates, flat, _prior(smooth, own, names), seen, raw)
    group = next(name for name in smooth.names if not isinstance(seen[name], tuple))
    factor, codes = factorise([group], table)
    groups = _groups(smooth).tolist()
    term = RandomEffects(
        codes,
        factor.levels,
        np.asarray(own),
        names,
        group,
        smooth.label,
        correlated=False,
        groups=groups,
        scales=smooth.scales,
    )
    return SmoothTerm(smooth, covariates, flat, term, seen, raw, factor)


def _prior(smooth: Smooth, own: Array | Pieces, names: Sequence[str]) -> Term:
    """Independent weights with one scale, with one scale a penalty, or under several penalties at once."""
    if len(smooth.scales) == 1:
        return Ridge(own, names, smooth.scales[0], smooth.label)
    if smooth.overlap:
        return Overlapping(np.asarray(own), smooth.shares, smooth.scales, smooth.label, names)
    return Ridge(own, names, label=smooth.label, groups=_groups(smooth), scales=smooth.scales)


def _groups(smooth: Smooth) -> Int[Array, "r"]:
    """The place of each weight's scale, where penalties do not overlap."""
    return np.repeat(np.arange(len(smooth.roots)), [root.shape[1] for root in smooth.roots])


def _option(call: Call, name: str) -> Any:
    """An option of the right kind: one value, or for products also a list of one a margin."""
    value = call.value(name)
    kind, words = KINDS[name]
    several = name in ("m", "d") or (call.kind != "s" and name in ("bs", "k"))
    parts = _flattened(value) if several else [value]
    wrong = [v for v in parts if v is not None and not (isinstance(v, kind) and isinstance(v, bool) == (kind is bool))]
    if wrong:
        lists = " or a list of them" if several else ""
        raise BadFormula(f"{call.written!r} has {name}={call.options[name]}, but {name} must be {words}{lists}.")
    return value


def _flattened(value: Any) -> list[Any]:
    return [v for part in value for v in _flattened(part)] if isinstance(value, list | tuple) else [value]


def _knots(call: Call) -> dict[str, Any] | None:
    """By covariate; a list stands for those of the only one."""
    knots = call.value("knots")
    if knots is None or isinstance(knots, dict):
        return knots
    if not isinstance(knots, list | tuple) or len(call.arguments) > 1:
        raise BadFormula(
            f"{call.written!r} has knots={call.options['knots']}, but they are a list for one covariate, or a dict of "
            "lists by covariate: knots={'x': [0, 0.5, 1]}."
        )
    return {call.arguments[0].strip("`"): knots}


def _period(call: Call, names: Sequence[str], knots: Any, seen: Mapping[str, Any]) -> tuple[str, ...]:
    """Say where a period is the range of the data, because none was given."""
    bases = call.value("bs")
    bases = [bases] * len(names) if isinstance(bases, str) else list(bases or ())
    out = []
    for name, bs in zip(names, bases, strict=False):
        if bs == "cc" and name not in (knots or {}):
            low, high = seen[name]
            out.append(
                f"{call.kind}({', '.join(names)}) takes the range of {name!r}, {low:g} to {high:g}, for its period, so "
                f"both ends are the same point; to give the period, knots={{{name!r}: [start, end]}}."
            )
    return tuple(out)


def _straight(call: Call, names: Sequence[str], knots: Any, seen: Mapping[str, Any]) -> list[str]:
    """Say where given knots end before the data do, so that a spline is a straight line there."""
    bases = call.value("bs") or ("tp" if call.kind == "s" else "cr")
    bases = [bases] * len(names) if isinstance(bases, str) else list(bases)
    out = []
    for name, bs in zip(names, bases, strict=False):
        if name not in (knots or {}) or not NamedBasis.registry[bs].straight_beyond:
            continue
        (low, high), first, last = seen[name], min(knots[name]), max(knots[name])
        sides = [f"below {first:g}"] * (low < first) + [f"above {last:g}"] * (high > last)
        if sides:
            out.append(
                f"{call.kind}({', '.join(names)}) is a straight line {' and '.join(sides)}, where it has no knots; "
                f"{name!r} reaches from {low:g} to {high:g}"
            )
    return out


def _range(column: Array) -> Any:
    return (float(column.min()), float(column.max())) if column.dtype.kind == "f" else np.unique(column)


def _check_finite(column: Array, name: str, label: str) -> None:
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        rows = listed(np.flatnonzero(~np.isfinite(column)))
        raise ValueError(
            f"{name!r} of {label} is missing or infinite in row {rows} of the new data (rows count from 0). Leave such "
            "rows out."
        )
