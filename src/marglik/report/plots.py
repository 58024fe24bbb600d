# SPDX-License-Identifier: BSD-3-Clause
"""A fit as one picture. What there is to show decides which panels it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.hyperparameters import Positive
from marglik.model import LinearModel
from marglik.report.field_plots import draw as draw_field
from marglik.report.row_plots import PITCH, Row, Rows, draw_rows, entitle
from marglik.report.sheet import BLUE, GREY, HEADER, INK, SIZE, printed, sheet
from marglik.report.smooth_plots import draw as draw_smooths
from marglik.report.smooth_plots import drawable
from marglik.report.text import decimals, fixed, number, shortened
from marglik.report.text import held as held_of
from marglik.report.text import title as title_of
from marglik.tables import NORMAL_975
from marglik.validate import counted

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit

MOST_PANELS = 30
"""More levels than this are not drawn one by one."""
MOST_LISTED = 30
"""Of more hyperparameters or fixed effects than this those best determined are drawn."""
MOST_SPREADS = 12
"""Of more numbers a target than this the first are drawn."""
AROUND = 0.55
"""Inches that a panel's title and labels take."""


def overview(fit: Fit, path: str | Path | None = None) -> Any:
    """Draw a fit.

    Hyperparameters and fixed effects with 95 % intervals; the levels of a grouping factor, or the weights of
    a ridge term, with theirs; smooths and receptive fields as curves or maps; and the fitted lines over the data,
    level by level, for one numeric covariate and a factor of at most 30 levels. For several targets, how the estimates
    spread over those that could be learned. Of more than 30 hyperparameters or fixed effects the best determined are
    drawn, by |estimate|/se.

    Parameters
    ----------
    path
        Where to write the picture (.svg, .png or .pdf), if anywhere. The same fit gives the same bytes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        The path's ending is none of those.
    """
    return sheet(title_of(fit), _subtitle(fit), lambda body: _compose(fit, body), path)


def _subtitle(fit: Fit) -> str:
    if fit._many:
        learned = np.isfinite(fit.log_evidence)
        total = printed(f"{fit.log_evidence[learned].sum():,.2f}")
        if not learned.any():
            return f"{len(learned):,} targets, none of which could be learned"
        lost = len(learned) - int(learned.sum())
        without = f" without {counted(lost, 'target')} that could not be learned" if lost else ""
        return f"{len(learned):,} targets, total log evidence {total} nats{without}"
    model = fit.model
    flat = isinstance(model, LinearModel) and model.n_flat
    criterion = (", fixed effects integrated (REML)" if fit.reml else ", fixed effects maximised (ML)") if flat else ""
    doubt = "" if fit.converged else " — not converged"
    return f"log evidence {printed(f'{fit.log_evidence:.2f}')} nats, {fit.method}{criterion}{doubt}"


class Panel(NamedTuple):
    """Something to draw on axes: how many rows it needs, and how."""

    rows: float
    draw: Callable[[Any], None]

    @property
    def height(self) -> float:
        """In inches."""
        return PITCH * (self.rows + 1) + AROUND


def _compose(fit: Fit, figure: Any) -> float:
    """The telling picture on the left, estimates in a column on the right; returns inches that this takes."""
    if fit._many:
        return _draw_targets(fit, figure)
    estimates = [_panel(rows) for rows in _estimates(fit)]
    needed = sum(panel.height for panel in estimates)
    lines, telling = _telling(fit)
    smooths = drawable(fit)
    if lines is None and not telling:
        _stack(figure, estimates)
        return needed
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    height = 0.0
    if smooths:
        draw_smooths(fit, smooths, left)
    elif lines is not None:
        lines.draw(left)
    else:
        height = telling[0].height
        telling.pop(0).draw(left.subplots())
    height = max(height, needed + (telling[0].height if telling else 0.0), SIZE[1] - HEADER)
    parts = right.subfigures(2, 1, height_ratios=(needed, max(height - needed, 0.01)))
    _stack(parts[0], estimates)
    if telling:
        telling[0].draw(parts[1].subplots())
    return height


def _stack(figure: Any, panels: Sequence[Panel]) -> None:
    """Panels above each other, their sides aligned."""
    axes = figure.subplots(len(panels), 1, height_ratios=[p.rows + 1.0 for p in panels], squeeze=False)
    for panel, ax in zip(panels, axes[:, 0], strict=True):
        panel.draw(ax)


def _panel(rows: Rows) -> Panel:
    return Panel(rows.room, lambda ax: draw_rows(ax, rows))


def _field(fit: Fit, term: Any) -> Panel:
    mean, sd = fit.posterior.mean[term.label], fit.posterior.sd[term.label]
    title = f"{term.label}, edf {fixed(float(fit.edf[term.label]), 2)}"
    return Panel(10, lambda ax: draw_field(ax, title, term.grid, mean, sd))


def _telling(fit: Fit) -> tuple[Lines | None, list[Panel]]:
    """Lines over the data where there can be any, and what else shows most, in order."""
    model = fit.model
    if not isinstance(model, LinearModel):
        sites = _sites(fit)
        return None, [_panel(sites)] if sites.rows else []
    smooths = drawable(fit)
    terms = [t for t in model.prior if not t.flat and t.label not in smooths]
    terms.sort(key=lambda t: not t.grouped)
    terms.sort(key=lambda t: t.grid is None)
    panels = [_field(fit, t) if t.grid else _panel(_levels(fit, t) if t.grouped else _weights(fit, t)) for t in terms]
    return Lines.of(fit), [*panels, Panel(10, lambda ax: _draw_fitted(fit, ax))]


def _estimates(fit: Fit) -> list[Rows]:
    names = fit.model.hyperparameters
    positive = {h.name for h in names if isinstance(h.support, Positive)}
    positive |= {name for _, triangle in names.triangles for name in triangle.names[: triangle.size]}
    correlations = {name for _, triangle in names.triangles for name in triangle.names[triangle.size :]}
    held, frame = held_of(fit), fit.hyperparameters
    out = []
    for log in (True, False):
        shown = [str(name) for name in frame.index if (name in positive) is log]
        rows = [_hyperparameter(name, frame.loc[name], name in held) for name in shown]
        if rows:
            what = "Correlations" if set(shown) <= correlations else "Hyperparameters"
            rows, more = _best(rows, frame.loc[shown], "fit.hyperparameters")
            out.append(Rows(f"{what}, 95 % intervals", rows, more, log=log, centre=None if log else 0.0))
    if isinstance(fit.model, LinearModel) and len(fit.fixed_effects):
        out.append(_fixed_effects(fit))
    return out


def _best(rows: list[Row], frame: DataFrame, where: str) -> tuple[list[Row], str]:
    """Those best determined by |estimate|/se where there are many, in their order, and words for the others."""
    if len(rows) <= MOST_LISTED:
        return rows, ""
    certainty = np.nan_to_num(np.abs(frame["estimate"].to_numpy(float)) / frame["se"].to_numpy(float))
    best = np.sort(np.argsort(-certainty, kind="stable")[:MOST_LISTED])
    more = f"the {MOST_LISTED} best determined; {len(rows) - MOST_LISTED:,} more in {where}"
    return [rows[i] for i in best], more


def _hyperparameter(name: str, row: Any, held: bool) -> Row:
    estimate, lower, upper = (float(row[c]) for c in ("estimate", "lower", "upper"))
    if held:
        return Row(name, estimate, estimate, estimate, f"{number(estimate)}, held", "held")
    if np.isnan(estimate):
        return Row(name, estimate, lower, upper, "not defined")
    if row["at_boundary"]:
        end = f"above {number(lower, 3)}" if estimate == upper else f"below {number(upper, 3)}"
        return Row(name, estimate, lower, upper, f"{printed(number(estimate))}, {printed(end)}", "boundary")
    return Row(name, estimate, lower, upper, _words(estimate, lower, upper, float(row["se"])))


def _words(estimate: float, lower: float, upper: float, se: float) -> str:
    places = max(decimals(se) - 1, 0)
    a, b, c = (printed(fixed(x, places)) for x in (estimate, lower, upper))
    return f"{a}  ({b}, {c})"


def _fixed_effects(fit: Fit) -> Rows:
    """Effects on one axis, which an intercept that dwarfs the others does not stretch."""
    frame = fit.fixed_effects
    rows = [
        Row(str(name), estimate, lower, upper, _words(estimate, lower, upper, se))
        for name, (estimate, se, lower, upper) in zip(frame.index, frame.to_numpy(float), strict=True)
    ]
    rows, more = _best(rows, frame, "fit.fixed_effects")
    others = [row for row in rows if row.name != "Intercept"]
    reach = max((max(abs(row.lower), abs(row.upper)) for row in others), default=np.inf)
    far = [row for row in rows if row.name == "Intercept" and max(abs(row.lower), abs(row.upper)) > 6 * reach]
    return Rows("Fixed effects, 95 % intervals", rows, more, centre=0.0, framing=others if far else None)


def _levels(fit: Fit, term: Any) -> Rows:
    """Posterior means of the first coefficient by level, sorted."""
    mean, sd = fit.posterior.mean[term.label][:, 0], fit.posterior.sd[term.label][:, 0]
    unpooled = _without_pooling(fit, term)
    rows = [
        Row(str(level), m, m - NORMAL_975 * s, m + NORMAL_975 * s, unpooled=u)
        for level, m, s, u in zip(term.levels, mean, sd, unpooled, strict=True)
    ]
    rows.sort(key=lambda row: -row.estimate)
    label = f"deviation of a {term.group} from the population" + ("" if _identity(fit) else ", linear predictor")
    which = "" if len(term.names) == 1 else f"{term.names[0]}, "
    return Rows(f"{which}{len(rows)} levels of {term.group}, 95 % intervals", rows, label, centre=0.0)


def _identity(fit: Fit) -> bool:
    return isinstance(fit.model, LinearModel) and fit.model.likelihood.link == "identity"


def _without_pooling(fit: Fit, term: Any) -> Array:
    """Mean residual of every level: what it would be estimated at by its own rows alone."""
    model = fit._linear
    if not model.likelihood.gaussian or term.columns.shape[1] > 1:
        return np.full(len(term.levels), np.nan)
    residual = model.rows.y - fit.predict() + fit.predict(include=[term.label])
    given = [w for w in (model.rows.weights, model.rows.counts) if w is not None]
    w = np.prod(given, axis=0) if given else np.ones(len(residual))
    z = term.columns[:, 0]
    size = len(term.levels)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(term.codes, w * z * residual, size) / np.bincount(term.codes, w * z * z, size)


def _weights(fit: Fit, term: Any) -> Rows:
    mean, sd = fit.posterior.mean[term.label], fit.posterior.sd[term.label]
    names = term.names
    rows = [Row(str(n), m, m - NORMAL_975 * s, m + NORMAL_975 * s) for n, m, s in zip(names, mean, sd, strict=True)]
    rows.sort(key=lambda row: -row.estimate)
    return Rows(f"{len(rows)} weights of {shortened(term.label, 40)}, 95 % intervals", rows, "weight", centre=0.0)


def _sites(fit: Fit) -> Rows:
    """What a program integrates out, value by value."""
    rows = []
    for site, mean in fit.posterior.mean.items():
        sd = np.asarray(fit.posterior.sd[site])
        for index, m in np.ndenumerate(mean):
            name = f"{site}[{', '.join(map(str, index))}]" if index else site
            rows.append(Row(name, float(m), float(m - NORMAL_975 * sd[index]), float(m + NORMAL_975 * sd[index])))
    return Rows(f"{len(rows)} latent values, 95 % intervals", rows)


@dataclass(frozen=True)
class Lines:
    """Fitted lines over the data, one small panel a level."""

    fit: Any
    covariate: str
    group: str
    levels: Sequence[Any]
    frame: Any

    @classmethod
    def of(cls, fit: Fit) -> Lines | None:
        """For a formula with one numeric covariate and one factor of few levels; else None."""
        from marglik.interfaces.formula import FormulaSource

        source = fit.source
        if not isinstance(source, FormulaSource) or len(source.formula.grouping) != 1:
            return None
        if source.formula.penalised or source.formula.calls:
            return None
        (factor,) = source.factors.values()
        group, levels = source.formula.grouping[0].group, factor.levels
        designs = [d for parts in source.designs.values() for d in parts]
        names = {name for d in designs for name in d.variables}
        if len(factor.columns) > 1 or len(names) != 1 or group in names or not 2 <= len(levels) <= MOST_PANELS:
            return None
        (covariate,) = names
        column = source.data[covariate]
        offset = any(d.offset is not None for d in designs)
        if not np.issubdtype(np.asarray(column).dtype, np.number) or column.nunique() < 3 or offset:
            return None
        return cls(fit, covariate, group, levels, source.data)

    def draw(self, figure: Any) -> None:
        """One panel a level, in the order of the levels' effects."""
        effects = self.fit.random_effects(self.group).iloc[:, 0].to_numpy()
        order = np.argsort(-effects, kind="stable")
        across = self._across(len(order))
        down = -(-len(order) // across)
        grid = figure.subplots(
            down,
            across,
            sharex=True,
            sharey=True,
            squeeze=False,
            gridspec_kw={"wspace": 0.04, "hspace": 0.04},
        )
        x = np.linspace(self.frame[self.covariate].min(), self.frame[self.covariate].max(), 41)
        population = self.fit.predict(self._at(x, self.levels[0]), include=["fixed effects"])
        for ax in grid.ravel()[len(order) :]:
            ax.set_visible(False)
        for ax, i in zip(grid.ravel(), order, strict=False):
            self._draw_level(ax, self.levels[i], x, population)
        for j in range(across):
            lowest = max(i for i in range(down) if i * across + j < len(order))
            grid[lowest, j].tick_params(labelbottom=True)
        figure.supxlabel(self.covariate, fontsize=9.5, color=INK)
        formula = self.fit.source.formula
        share = formula.counts and f"{formula.counts[0]} / ({' + '.join(formula.counts)})"
        figure.supylabel(share or formula.response, fontsize=9.5, color=INK)
        dot, line, grey = grid[0, 0].lines[0], grid[0, 0].lines[1], grid[0, 0].lines[2]
        figure.legend(
            [dot, line, grey],
            ["observed", f"this {self.group}, with 95 % band", "population"],
            loc="outside upper left",
            ncols=3,
            frameon=False,
            fontsize=9,
            handlelength=1.6,
            columnspacing=1.6,
            labelcolor=INK,
        )

    def _draw_level(self, ax: Any, level: Any, x: Array, population: Array) -> None:
        mine = (self.frame[self.group] == level).to_numpy()
        y = self.fit.model.likelihood.observed(self.fit.model.rows.y)
        ax.plot(self.frame[self.covariate].to_numpy()[mine], y[mine], "o", color=INK, ms=3, mew=0, zorder=3)
        band: DataFrame = self.fit.predict(self._at(x, level), interval=0.95)
        ax.plot(x, band["mean"], color=BLUE, lw=1.8, zorder=2)
        ax.plot(x, population, color=GREY, lw=1, ls=(0, (3, 2)), zorder=1)
        ax.fill_between(x, band["lower"], band["upper"], color=BLUE, alpha=0.18, lw=0, zorder=0)
        ax.text(0.06, 0.95, str(level), transform=ax.transAxes, va="top", color=INK, fontsize=8.5, weight="bold")
        ax.tick_params(labelsize=7.5, length=2.5)

    def _at(self, x: Array, level: Any) -> dict[str, Any]:
        return {self.covariate: x, self.group: [level] * len(x)}

    @staticmethod
    def _across(n: int) -> int:
        """Panels in a row: wide, and few left empty."""
        return min(range(max(2, round(n**0.5)), 8), key=lambda k: ((-n % k) + 2 * abs(k - 1.42 * n**0.5), k))


def _draw_fitted(fit: Fit, ax: Any) -> None:
    """Observed against fitted."""
    model = fit._linear
    fitted, y = fit.predict(), model.likelihood.observed(model.rows.y)
    ax.axline((float(np.nanmean(y)),) * 2, slope=1, color=GREY, lw=0.8, ls=(0, (3, 2)))
    ax.plot(fitted, y, "o", color=BLUE, ms=min(4.0, max(1.0, 120 / len(y) ** 0.5)), mew=0, alpha=0.55)
    ax.set(xlabel="fitted", ylabel="observed")
    what = "Observed" if y is model.rows.y else "Observed proportions"
    entitle(ax, f"{what} against fitted, {len(y):,} rows")


def _draw_targets(fit: Fit, figure: Any) -> float:
    """How the estimates spread over the targets that could be learned; returns inches that this takes."""
    model, learned = fit._linear, np.isfinite(fit.log_evidence)
    values = {"log evidence (nats)": fit.log_evidence}
    values |= {h.name: fit.optimum.theta[:, i] for i, h in enumerate(model.hyperparameters)}
    values |= {f"edf of {t}": x.to_numpy() for t, x in fit.edf.items()}
    spread = {name: x[learned] for name, x in values.items()}
    spread = {name: x for name, x in spread.items() if x.size and (not name.startswith("edf") or np.ptp(x))}
    shown = list(spread.items())[:MOST_SPREADS]
    if not shown:
        return 0.0
    grid = figure.subplots(-(-len(shown) // 2), 2, squeeze=False)
    for ax in grid.ravel()[len(shown) :]:
        ax.set_visible(False)
    for ax, (name, x) in zip(grid.ravel(), shown, strict=False):
        ax.hist(x, bins=min(60, max(10, round(len(x) ** 0.5))), color=BLUE, alpha=0.75)
        middle = float(np.median(x))
        ax.axvline(middle, color=INK, lw=1)
        zeros = int((x == 0).sum())
        at_zero = f", {zeros:,} at zero" if zeros else ""
        ax.set_title(f"{name}: median {printed(fixed(middle, decimals(np.ptp(x))))}{at_zero}", color=GREY)
        ax.set_ylabel("targets")
        ax.locator_params(axis="y", integer=True)
    if len(spread) > len(shown):
        more = f"and {len(spread) - len(shown):,} more in fit.hyperparameters and fit.edf"
        figure.supxlabel(more, x=0.01, ha="left", fontsize=9.5, color=GREY)
    return 1.8 * len(grid)
