# SPDX-License-Identifier: BSD-3-Clause
"""A fit as tables: for a terminal, for a notebook. What is said is gathered once, in `page`."""

from __future__ import annotations

import html as markup
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marglik.check import checked
from marglik.model import LinearModel
from marglik.validate import counted

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame
    from rich.console import Group

    from marglik.fitted import Fit
    from marglik.posterior.base import Site

WIDTH = 80
MOST_ROWS = 40
"""Longer tables show their first rows and say how many more there are."""
FEW = 5
"""Elements of a vector that are listed."""
QUANTILES = {"lowest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "highest": 1.0}


@dataclass(frozen=True)
class Table:
    """Rows of text under a head; the first column holds names, the others numbers.

    Parameters
    ----------
    head
        The first is what the rows are.
    rows
        As many cells as the head.
    more
        What is not shown, in words; empty if all is.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: str = ""


@dataclass(frozen=True)
class Page:
    """All that a summary says.

    Parameters
    ----------
    title
        The formula, or what the model is made of.
    facts
        Name → sentence: the data, the log evidence, which criterion it is, notes.
    tables
        See `tables`.
    sums
        Name → one line of numbers.
    verdict
        Of the check.
    sound
        Whether the verdict is good.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    sums: tuple[tuple[str, str], ...]
    verdict: str
    sound: bool


def page(fit: Fit) -> Page:
    """What a summary says about a fit."""
    check = checked(fit, quick=True)
    return Page(title(fit), tuple(_facts(fit)), tuple(tables(fit)), tuple(_sums(fit)), check.verdict, check.trusted)


def tables(fit: Fit) -> list[Table]:
    """The fit's tables: hyperparameters and fixed effects; quantiles where there are many targets."""
    if fit._many:
        return [_over_targets(fit)] if np.isfinite(fit.log_evidence).any() else []
    out = [*_smooths(fit), _estimates("Hyperparameters", fit.hyperparameters, held(fit))]
    if isinstance(fit.model, LinearModel) and fit.model.n_flat:
        out.append(_estimates("Fixed effects", fit.fixed_effects, ()))
    if not isinstance(fit.model, LinearModel) and np.isfinite(fit.log_evidence):
        out.append(_sites(fit.posterior.sites))
    return [table for table in out if table.rows]


def _smooths(fit: Fit) -> list[Table]:
    """Smooths with their edf, and a smoothing parameter for each penalty."""
    from marglik.interfaces.formula import FormulaSource

    if not isinstance(fit.source, FormulaSource):
        return []
    estimates = fit.hyperparameters["estimate"]
    gaussian = fit._linear.likelihood.gaussian
    noise = float(estimates["sd(noise)"]) if gaussian else 1.0
    rows = []
    for label, term in fit.source.special.items():
        edf = fixed(float(fit.edf[label]), 2)
        for i, name in enumerate(term.scales):
            sd = float(estimates[name])
            sp = number(noise**2 / sd**2) if sd else fixed(np.inf, 0)
            part = label if len(term.scales) == 1 else name[3:-1]
            rows.append((shortened(part), "" if i else edf, number(sd), sp))
    columns = [aligned(list(cells)) for cells in zip(*(row[1:] for row in rows), strict=True)]
    what = "sd(noise)²/sd²" if gaussian else "1/sd²"
    return [
        Table(
            ("Smooths", "edf", "sd", "smoothing parameter"),
            tuple(zip((row[0] for row in rows), *columns, strict=True)) if rows else (),
            f"smoothing parameters are {what}, for penalties scaled as mgcv scales them",
        )
    ]


def _sites(sites: Sequence[Site]) -> Table:
    """Integrated sites: each element of a small one, the first few of a vector, the range of those within a plate."""
    rows: list[tuple[str, ...]] = []
    for site in sites:
        if site.plated:
            low, high = (tuple(f(x) for x in (site.mean, site.sd)) for f in (np.min, np.max))
            size = " × ".join(map(str, np.shape(site.mean)))
            cells = (f"{number(a, 3)} to {number(b, 3)}" for a, b in zip(low, high, strict=True))
            rows.append((f"{site.name} ({size})", *cells))
            continue
        for i in list(np.ndindex(np.shape(site.mean)))[:FEW]:
            places = decimals(float(site.sd[i]))
            name = f"{site.name}[{', '.join(map(str, i))}]" if i else site.name
            rows.append((name, fixed(float(site.mean[i]), places), fixed(float(site.sd[i]), places)))
        if np.size(site.mean) > FEW:
            rows.append((f"{site.name}: {np.size(site.mean) - FEW:,} more", "", ""))
    columns = [aligned(list(cells)) for cells in zip(*(row[1:] for row in rows[:MOST_ROWS]), strict=True)]
    names, rest = [shortened(row[0]) for row in rows[:MOST_ROWS]], len(rows) - MOST_ROWS
    return Table(
        ("Integrated", "mean", "sd"),
        tuple(zip(names, *columns, strict=True)) if rows else (),
        f"and {rest:,} more: fit.posterior.mean" if rest > 0 else "",
    )


def title(fit: Fit) -> str:
    """The formula, or what the model is made of."""
    from marglik.interfaces.formula import FormulaSource

    if isinstance(fit.source, FormulaSource):
        return fit.source.formula.text
    if isinstance(fit.model, LinearModel):
        return "LinearModel: " + " + ".join(term.label for term in fit.model.prior)
    return getattr(getattr(fit.model, "function", None), "__name__", type(fit.model).__name__)


def _facts(fit: Fit) -> Iterable[tuple[str, str]]:
    model = fit.model
    if isinstance(model, LinearModel):
        likelihood = type(model.likelihood)
        family = next(name for name, kind in likelihood.registry.items() if kind is likelihood)
        grouped: list[Any] = [term for term in model.prior if term.grouped]
        levels = [f"{len(term.levels):,} levels of {term.group}" for term in grouped]
        targets = [f"{model.n_targets:,} targets"] if fit._many else []
        yield (
            "data",
            ", ".join([f"{family}, {model.likelihood.link} link; {model.rows.n:,} rows", *targets, *levels]),
        )
    if not fit._many:
        value = fit.log_evidence
        yield "log evidence", f"{value:.4f} nats (-2 x it: {-2 * value:.4f}), {fit.method}; {_steps(fit)}"
    else:
        learned = np.isfinite(fit.log_evidence)
        lost, failed = int((~learned).sum()), int((~fit.optimum.converged & learned).sum())
        parts = [f"{counted(lost, 'target')} could not be learned"] if lost else []
        parts += [f"{counted(failed, 'target')} did not converge"] if failed else []
        yield "learning", f"{fit.method}; {', '.join(parts) or 'all converged'}"
    yield "criterion", fit.criterion
    for note in fit.notes:
        yield "note", note


def _steps(fit: Fit) -> str:
    steps = counted(fit.n_iterations, "step")
    if not fit.converged:
        return f"not converged in {steps}"
    if not fit.optimum.free.any() and not fit.optimum.limit.any():
        return "nothing to learn"
    if fit.n_iterations:
        return f"converged in {steps}"
    return "the global maximum" if fit.model.one_scale else "the best maximum found"


def held(fit: Fit) -> tuple[str, ...]:
    """Names of the hyperparameters that were not learned, as reported."""
    names = fit.model.hyperparameters
    given = names.given(~fit.optimum.free[0] & ~fit.optimum.limit[0])
    return tuple(name for name, is_given in zip(names.reported, given, strict=True) if is_given)


def _estimates(what: str, frame: DataFrame, held: Sequence[str]) -> Table:
    shown = [name for name in frame.index if name not in held] + [name for name in frame.index if name in held]
    rows: list[tuple[str, ...]] = []
    for name in shown[:MOST_ROWS]:
        estimate, se, lower, upper = (float(frame.loc[name, c]) for c in ("estimate", "se", "lower", "upper"))
        at_boundary = "at_boundary" in frame and bool(frame.loc[name, "at_boundary"])
        if name in held:
            rows.append((str(name), number(estimate), "held", "", ""))
        elif at_boundary:
            rows.append((str(name), number(estimate), "boundary", number(lower, 3), number(upper, 3)))
        else:
            places = decimals(se)
            cells = (fixed(x, places) for x in (estimate, se, lower, upper))
            rows.append((str(name), *cells))
    columns = [aligned(list(cells)) for cells in zip(*(row[1:] for row in rows), strict=True)]
    rest = len(shown) - len(rows)
    attribute = "fit." + what.lower().replace(" ", "_")
    names = [shortened(row[0]) for row in rows]
    return Table(
        (what, "estimate", "se", "95 % from", "to"),
        tuple(zip(names, *columns, strict=True)) if rows else (),
        f"and {rest:,} more: {attribute}" if rest > 0 else "",
    )


def shortened(name: str, most: int = 40) -> str:
    """A name with its middle left out where it is long.

    Examples
    --------
    >>> shortened("sd(ridge(gene1, gene2, gene3, gene4))", 25)
    'sd(ridge(gen…ne3, gene4))'
    """
    half = (most - 1) / 2
    return name if len(name) <= most else f"{name[: math.ceil(half)]}…{name[-math.floor(half) :]}"


def _over_targets(fit: Fit) -> Table:
    """Of those that could be learned."""
    optimum, learned = fit.optimum, np.isfinite(fit.log_evidence)
    values: dict[str, Array] = {"log evidence": fit.log_evidence}
    for i, h in enumerate(fit.model.hyperparameters):
        if not h.fixed_effect:
            values[h.name] = optimum.theta[:, i]
    for term in fit.edf:
        values[f"edf {term}"] = fit.edf[term].to_numpy()
    rows = []
    for name, every in values.items():
        x = every[learned]
        q = np.quantile(x, list(QUANTILES.values()))
        zeros = f"{int((x == 0).sum()):,}" if name in fit.model.hyperparameters.names else ""
        rows.append((name, *(fixed(v, decimals(float(np.ptp(q)))) for v in q), zeros))
    columns = [aligned(list(cells)) for cells in zip(*(row[1:] for row in rows), strict=True)]
    names = [shortened(row[0], 24) for row in rows]
    some = "" if learned.all() else f"{int(learned.sum()):,} of "
    head = (f"{some}{fit.model.n_targets:,} targets", *QUANTILES, "at zero")
    return Table(head, tuple(zip(names, *columns, strict=True)))


def _sums(fit: Fit) -> Iterable[tuple[str, str]]:
    if fit._many or not isinstance(fit.model, LinearModel):
        return
    yield "edf", ", ".join(f"{shortened(name)} {fixed(value, 2)}" for name, value in fit.edf.items())
    nats = fit.occam["nats"]
    signed = [fixed(value, 2) if i == 0 or value < -0.005 else f"+{fixed(value, 2)}" for i, value in enumerate(nats)]
    parts = [f"{shortened(name)} {value}" for name, value in zip(nats.index, signed, strict=True)]
    yield "occam", f"{', '.join(parts)} = {nats.sum():.2f} nats"


def decimals(se: float) -> int:
    """Decimals with which a number of this uncertainty is shown: three digits of the uncertainty."""
    if not np.isfinite(se) or se <= 0:
        return 3
    return int(np.clip(2 - np.floor(np.log10(se)), 0, 12))


def fixed(x: float, places: int) -> str:
    """A number with so many decimals; powers of ten where that would be long.

    Examples
    --------
    >>> fixed(37.12383, 2), fixed(float("nan"), 2), fixed(1.5e-9, 12), fixed(3e12, 0)
    ('37.12', '–', '1.500e-09', '3.000e+12')
    """
    if np.isnan(x):
        return "–"
    if np.isinf(x):
        return "∞" if x > 0 else "-∞"
    if places > 6 or abs(x) >= 1e8:
        return f"{x:.3e}" if x else "0"
    text = f"{x:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def number(x: float, digits: int = 4) -> str:
    """A number by itself, to so many significant digits.

    Examples
    --------
    >>> number(0.0), number(1.0), number(0.0123456), number(51234.5)
    ('0', '1', '0.01235', '51234')
    """
    if not np.isfinite(x) or x == 0:
        return fixed(x, 0)
    text = fixed(x, int(np.clip(digits - 1 - np.floor(np.log10(abs(x))), 0, 12)))
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def aligned(cells: list[str]) -> list[str]:
    """Cells padded so that decimal points stand above each other when they are set flush right.

    Examples
    --------
    >>> aligned(["1.25", "10.5", "held"])
    ['1.25', '10.5 ', 'held']
    """
    after = [len(c) - c.index(".") if "." in c and "e" not in c else 0 for c in cells]
    widest = max(after, default=0)
    is_number = [c.strip("-").replace(".", "", 1).isdigit() for c in cells]
    return [c + " " * (widest - a) if plain else c for c, a, plain in zip(cells, after, is_number, strict=True)]


def renderable(fit: Fit) -> Group:
    """The summary for a rich console."""
    from rich.console import Group
    from rich.text import Text

    content = page(fit)
    parts: list[Any] = [Text(content.title, style="bold"), _pairs(content.facts)]
    for table in content.tables:
        parts += [Text(""), _rich(table)]
        if table.more:
            parts.append(Text(f"  {table.more}", style="dim"))
    if content.sums:
        parts += [Text(""), _pairs(content.sums)]
    parts += [Text(""), Text(content.verdict, style="" if content.sound else "bold red")]
    return Group(*parts)


def _pairs(pairs: Iterable[tuple[str, str]]) -> Any:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(Text(name), Text(text))
    return grid


def _rich(table: Table) -> Any:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for i, name in enumerate(table.head):
        grid.add_column(Text(name), justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def summary(fit: Fit) -> str:
    """The fit in words and tables, as plain text at most 80 columns wide."""
    from rich.console import Console

    sheet = io.StringIO()
    Console(file=sheet, width=WIDTH, color_system=None, highlight=False, force_jupyter=False).print(renderable(fit))
    return "\n".join(line.rstrip() for line in sheet.getvalue().rstrip().split("\n"))


def html(fit: Fit) -> str:
    """The fit for a notebook: one piece of HTML without scripts, in the colours of the page it stands on."""
    content = page(fit)
    verdict = "" if content.sound else ' class="bad"'
    parts = [
        f'<div class="marglik"><style>{STYLE}</style>',
        f"<p><b>{_escaped(content.title)}</b></p>",
        _definitions(content.facts),
        '<div class="side">',
        *(_html_table(table) for table in content.tables),
        "</div>",
        _definitions(content.sums),
        f"<p{verdict}>{_escaped(content.verdict)}</p></div>",
    ]
    return "\n".join(part for part in parts if part)


def _escaped(text: str) -> str:
    return markup.escape(text).replace("  ", "&nbsp; ")


def _definitions(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_escaped(name)}</dt><dd>{_escaped(text)}</dd>" for name, text in pairs)
    return f"<dl>{rows}</dl>" if rows else ""


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{_padded(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    more = f"<caption>{_escaped(table.more)}</caption>" if table.more else ""
    return f"<table>{more}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _padded(cell: str) -> str:
    """Trailing blanks as wide as digits, so that decimal points keep their place."""
    bare = cell.rstrip()
    blanks = len(cell) - len(bare)
    hidden = "." + "0" * (blanks - 1) if blanks and "." not in bare else "0" * blanks
    return _escaped(bare) + (f'<i aria-hidden="true">{hidden}</i>' if blanks else "")


STYLE = """
.marglik{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:52rem}
.marglik p{margin:.35em 0}
.marglik dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em;margin:.35em 0}
.marglik dt{opacity:.6;font-weight:400}
.marglik dd{margin:0;font-variant-numeric:tabular-nums}
.marglik .side{display:flex;flex-wrap:wrap;gap:.2em 2.5em}
.marglik table{border-collapse:collapse;margin:.5em 0;background:none;color:inherit}
.marglik table{font-variant-numeric:tabular-nums}
.marglik th{font-weight:600;border-bottom:1px solid;text-align:right;padding:.15em .6em;background:none}
.marglik td{text-align:right;padding:.1em .6em;background:none;border:0;white-space:nowrap}
.marglik th:first-child,.marglik td:first-child{text-align:left;padding-left:0}
.marglik tbody tr{background:none!important}
.marglik caption{caption-side:bottom;text-align:left;opacity:.6}
.marglik td i{visibility:hidden;font-style:normal}
.marglik .bad{color:#d55e00;font-weight:600}
"""
