# SPDX-License-Identifier: BSD-3-Clause
"""`s`, `te` and `ti`: smooths as formulas ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.smooths.base import Asked, NamedBasis
from marglik.smooths.smooth import Smooth, assembled
from marglik.smooths.tensor import Margin, Tensor
from marglik.validate import did_you_mean, is_number

if TYPE_CHECKING:
    from numpy import ndarray as Array

SHRUNK = {"cs": "cr", "ts": "tp"}
"""mgcv's bases whose penalty sees the straight line too, and those that they are made from."""


def s(
    data: Mapping[str, Any],
    *names: str,
    bs: str = "tp",
    k: int | None = None,
    m: int | Sequence[int] | None = None,
    by: str | None = None,
    knots: Mapping[str, Any] | None = None,
    select: bool = False,
    max_knots: int = 2000,
    xt: str | None = None,
) -> tuple[Smooth, ...]:
    """A smooth function of one covariate, or of several on a common scale.

    Parameters
    ----------
    data
        Columns by name.
    *names
        Of the covariates.
    bs
        The basis: ``"tp"`` thin plate, ``"cr"`` cubic, ``"cc"`` cyclic, ``"ps"`` P-spline, ``"re"`` random effects,
        ``"fs"`` a curve for each level of a categorical covariate, which are alike in scale.
    k
        Number of functions, the constant among them.
    m
        Orders: of the thin plate's derivatives; of a P-spline and its differences.
    by
        Column that multiplies it: numbers, or a categorical, which gives one smooth for each level.
    knots
        By covariate.
    select
        Whether what the penalty does not see has a penalty of its own, so that the term can vanish.
    max_knots
        For a thin plate of more distinct points, a sample of so many are its knots.
    xt
        For ``bs="fs"``, the basis of each curve; a thin plate if not given.

    Returns
    -------
    tuple of Smooth
        One, or one for each level.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import s
    >>> data = {"x": np.linspace(0, 1, 20), "f": np.repeat(["a", "b"], 10)}
    >>> [smooth.label for smooth in s(data, "x", k=5, by="f")]
    ['s(x):f[a]', 's(x):f[b]']
    """
    label = f"s({', '.join(names)})"
    kind = _kind(bs, label)
    _check_curves(kind, xt, by, label)
    columns = _columns(data, names, by, label, categorical=bs in ("re", "fs"))
    asked = Asked(label, names, _whole(k, label), m, _known_knots(knots, names, label), max_knots, xt)
    basis = kind.of([columns[name] for name in names], asked)
    free = len(basis.penalties) - 1
    scales = [f"sd({label})", *(f"sd({label}: null{f' {i + 1}' if free > 1 else ''})" for i in range(free))]
    return assembled(basis, columns, names, label, tuple(scales), by, select)


def te(
    data: Mapping[str, Any],
    *names: str,
    bs: str | Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    m: Sequence[Any] | int | None = None,
    d: Sequence[int] | None = None,
    by: str | None = None,
    knots: Mapping[str, Any] | None = None,
    select: bool = False,
) -> tuple[Smooth, ...]:
    """A smooth function of covariates on scales of their own: products of functions of each, one penalty a margin.

    Parameters
    ----------
    data
        Columns by name.
    *names
        Of the covariates.
    bs
        The margins' bases, or one for all; cubic, or thin plate for a margin of several covariates, if not given.
    k
        The margins' numbers of functions; 5 a covariate if not given.
    m
        The margins' orders.
    d
        How many covariates each margin has; one each if not given.
    by, knots, select
        As for `s`.

    Returns
    -------
    tuple of Smooth
        One, or one for each level.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import te
    >>> data = {"x": np.linspace(0, 1, 30), "z": np.linspace(-1, 1, 30) ** 3}
    >>> (smooth,) = te(data, "x", "z")
    >>> smooth.n_weights, smooth.scales
    (24, ('sd(te(x, z): x)', 'sd(te(x, z): z)'))
    """
    return _product("te", data, names, bs, k, m, d, by, knots, select)


def ti(
    data: Mapping[str, Any],
    *names: str,
    bs: str | Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    m: Sequence[Any] | int | None = None,
    d: Sequence[int] | None = None,
    by: str | None = None,
    knots: Mapping[str, Any] | None = None,
    select: bool = False,
) -> tuple[Smooth, ...]:
    """The interaction in `te`: every margin is centred, so main effects stand in terms of their own.

    Parameters are those of `te`.

    Examples
    --------
    >>> import numpy as np
    >>> from marglik.smooths import ti
    >>> data = {"x": np.linspace(0, 1, 30), "z": np.linspace(-1, 1, 30) ** 3}
    >>> ti(data, "x", "z")[0].n_weights
    16
    """
    return _product("ti", data, names, bs, k, m, d, by, knots, select)


def _product(
    kind: str,
    data: Mapping[str, Any],
    names: tuple[str, ...],
    bs: str | Sequence[str] | None,
    k: int | Sequence[int] | None,
    m: Any,
    d: Sequence[int] | None,
    by: str | None,
    knots: Mapping[str, Any] | None,
    select: bool,
) -> tuple[Smooth, ...]:
    label = f"{kind}({', '.join(names)})"
    widths = [1] * len(names) if d is None else [int(width) for width in d]
    if sum(widths) != len(names) or min(widths, default=0) < 1:
        raise ValueError(f"{label} gives d={d!r}, but the widths of its margins must add to {len(names)} covariates.")
    kinds = _each(bs, len(widths), "bs", label)
    sizes, orders = _each(k, len(widths), "k", label), _each(m, len(widths), "m", label)
    columns = _columns(data, names, by, label, categorical="re" in kinds or "fs" in kinds)
    known = _known_knots(knots, names, label)
    margins, scales, start = [], [], 0
    for width, margin_bs, size, order in zip(widths, kinds, sizes, orders, strict=True):
        own = names[start : start + width]
        margin_bs = margin_bs or ("cr" if width == 1 else "tp")
        size = None if margin_bs == "re" else _whole(size, label) or 5**width
        margin_knots = {name: known[name] for name in own if name in known}
        if not _kind(margin_bs, label).marginal:
            raise ValueError(f"{label} has a margin with bs={margin_bs!r}, which has several penalties. Use bs='re'.")
        asked = Asked(f"The margin of {', '.join(own)} in {label}", own, size, order, margin_knots)
        x = [columns[name] for name in own]
        margins.append(Margin.of(_kind(margin_bs, label).of(x, asked), x, centre=kind == "ti"))
        scales.append(f"sd({label}: {', '.join(own)})")
        start += width
    tensor = Tensor(tuple(margins), main_effects=kind == "te")
    return assembled(tensor, columns, names, label, tuple(scales), by, select)


def _each(value: Any, n: int, what: str, label: str) -> list[Any]:
    """One for each margin."""
    if value is None or isinstance(value, str) or np.ndim(value) == 0:
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{label} gives {len(value)} values of {what}, but has {n} margins.")
    return list(value)


def _kind(bs: str, label: str, option: str = "bs") -> type[NamedBasis]:
    known = NamedBasis.registry
    if bs in SHRUNK:
        raise ValueError(
            f"{label} has {option}={bs!r}, shrinkage, which is {option}={SHRUNK[bs]!r} and select=True here."
        )
    if bs not in known:
        raise ValueError(
            f"{label} has {option}={bs!r}, but the bases are {', '.join(sorted(known))}.{did_you_mean(bs, known)}"
        )
    return known[bs]


def _check_curves(kind: type[NamedBasis], xt: str | None, by: str | None, label: str) -> None:
    """Refuse xt= without curves for levels, curves of what is no margin, and what multiplies them."""
    if kind.marginal:
        if xt is not None:
            raise ValueError(f"{label} gives xt={xt!r}, the basis of curves for levels. Add bs='fs', or leave xt out.")
        return
    if by is not None:
        raise ValueError(f"{label} has bs={kind.bs!r}, whose curves nothing multiplies, and by={by!r}. Leave by out.")
    base = _kind(xt or "tp", label, "xt")
    if not (base.marginal and base.centred):
        raise ValueError(f"{label} has xt={xt!r}, which has no curves. Use 'tp', 'cr', 'cc' or 'ps'.")


def _whole(k: Any, label: str) -> int | None:
    if k is not None and (isinstance(k, bool) or k != int(k) or k < 1):
        raise ValueError(f"{label} has k={k!r}, but k is a number of functions, a whole number above zero.")
    return None if k is None else int(k)


def _known_knots(knots: Mapping[str, Any] | None, names: tuple[str, ...], label: str) -> dict[str, Any]:
    unknown = [name for name in knots or () if name not in names]
    if unknown:
        raise ValueError(f"{label} has knots of {unknown[0]!r}, which is none of its covariates.")
    return dict(knots or {})


def _columns(
    data: Mapping[str, Any], names: tuple[str, ...], by: str | None, label: str, categorical: bool
) -> dict[str, Array]:
    """Covariates and `by`, as many rows each, numbers finite."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{label} needs covariates, each once.")
    out = {}
    for name in (*names, *(() if by is None else (by,))):
        if name not in data:
            raise ValueError(
                f"{label} needs the column {name!r}, which the data do not have.{did_you_mean(name, data)}"
            )
        column = np.asarray(data[name])
        if column.dtype.kind == "b" and name in names:
            column = column.astype(float)
        numeric = column.dtype.kind in "iuf"
        if not numeric and name in names and not categorical:
            odd = [row for row, value in enumerate(column) if not is_number(value)]
            if len(odd) < len(column):
                what = f"{column[odd[0]]!r} in row {odd[0]}" if odd else f"them as text, such as {column[0]!r}"
                raise ValueError(
                    f"{label} needs numbers, but {name!r} holds {what} (rows count from 0). Convert the column, or "
                    f"correct that value; for names of levels use bs='re', or by={name!r}."
                )
            raise ValueError(f"{label} needs numbers, but {name!r} is categorical. Use bs='re', or by={name!r}.")
        column = column.astype(float) if numeric else column
        wrong = ~np.isfinite(column) if numeric else np.array([v is None or v != v for v in column], bool)
        if wrong.any():
            row = np.flatnonzero(wrong)[0]
            raise ValueError(f"Row {row} of {name!r} in {label} is {column[row]}. Drop such rows.")
        if numeric and name in names and not categorical and np.ptp(column) == 0:
            raise ValueError(f"{name!r} is the same in every row, so {label} has nothing to vary with. Leave it out.")
        out[name] = column
    n = len(out[names[0]])
    for name, column in out.items():
        if column.shape != (n,):
            raise ValueError(
                f"{label} needs columns of the same length, but {name!r} has shape {column.shape}, not ({n},)."
            )
    return out
