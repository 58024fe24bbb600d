# SPDX-License-Identifier: BSD-3-Clause
"""A fit as one picture. What there is to show decides which panels it has."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik.hyperparameters import Positive
from marglik.model import LinearModel
from marglik.report.field_plots import draw as draw_field
from marglik.report.smooth_plots import draw as draw_smooths
from marglik.report.smooth_plots import drawable
from marglik.report.text import decimals, fixed, number, shortened
from marglik.report.text import held as held_of
from marglik.report.text import title as title_of
from marglik.tables import NORMAL_975

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame

    from marglik.fitted import Fit

# Okabe & Ito's blue and vermilion, which colour-blind readers tell apart, and greys.
BLUE, RED, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#D9D9D9"
FORMATS = (".svg", ".png", ".pdf")
MOST_PANELS = 30
"""More levels than this are not drawn one by one."""
MOST_NAMED = 40
"""More rows than this are drawn without their names."""
SIZE = (12.0, 6.75)
PAD = 0.1
"""Inches between the edge of the picture or of a column and what stands there."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.hashsalt": "marglik",
    "svg.fonttype": "path",
}


def overview(fit: Fit, path: str | Path | None = None) -> Any:
    """Draw a fit.

    Hyperparameters and fixed effects with 95 % intervals; the levels of a grouping factor, or the weights of
    a ridge term, with theirs; smooths and receptive fields as curves or maps; and the fitted lines over the data,
    level by level, for one numeric covariate and a factor of at most 30 levels. For several targets, how the estimates
    spread over them.

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
    check_drawable(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(STYLE):
        layout = ConstrainedLayoutEngine(w_pad=PAD, h_pad=0.06, wspace=0.01, hspace=0.02)
        figure = Figure(figsize=SIZE, layout=layout)
        figure.suptitle(shortened(title_of(fit), 80), x=PAD / SIZE[0], ha="left", fontsize=14, weight="bold", color=INK)
        body: Any = figure.subfigures()
        body.suptitle(_subtitle(fit), x=PAD / SIZE[0], ha="left", fontsize=10, color=GREY)
        _compose(fit, body)
        if path is not None:
            _write(figure, Path(path))
    # Notebooks show it by this, with or without pyplot.
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]
    return figure


def check_drawable(path: str | Path | None = None) -> None:
    """Raise where a picture could not be drawn, or not be written under that name."""
    if find_spec("matplotlib") is None:
        raise ImportError("Pictures need matplotlib, which is not installed: pip install 'marglik[plot]'.")
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"Pictures end in {', '.join(FORMATS)}, but the path is {str(path)!r}. Give it one of these.")


def _write(figure: Any, path: Path) -> None:
    kind = path.suffix.lower()
    undated = {
        ".svg": {"Date": None, "Creator": None},
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
    }
    figure.savefig(path, metadata=undated[kind])


def _png(figure: Any) -> bytes:
    sheet = io.BytesIO()
    figure.savefig(sheet, format="png", dpi=110)
    return sheet.getvalue()


def _subtitle(fit: Fit) -> str:
    if fit._many:
        total = _minus(f"{fit.log_evidence.sum():,.2f}")
        return f"{fit.model.n_targets:,} targets, total log evidence {total} nats"
    model = fit.model
    flat = isinstance(model, LinearModel) and model.n_flat
    criterion = (", fixed effects integrated (REML)" if fit.reml else ", fixed effects maximised (ML)") if flat else ""
    doubt = "" if fit.converged else " — not converged"
    return f"log evidence {_minus(f'{fit.log_evidence:.2f}')} nats, {fit.method}{criterion}{doubt}"


def _minus(text: str) -> str:
    """A number as print has it."""
    return text.replace("-", "−")


class Panel(NamedTuple):
    """Something to draw on axes: how many rows it needs, and how."""

    rows: int
    draw: Callable[[Any], None]


def _compose(fit: Fit, figure: Any) -> None:
    """The telling picture on the left, estimates in a column on the right."""
    if fit._many:
        return _draw_targets(fit, figure)
    estimates = [_panel(rows) for rows in _estimates(fit)]
    lines, telling = _telling(fit)
    smooths = drawable(fit)
    if lines is None and not telling:
        return _stack(figure, estimates)
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    if smooths:
        draw_smooths(fit, smooths, left)
    elif lines is not None:
        lines.draw(left)
    else:
        telling.pop(0).draw(left.subplots())
    needed = sum(p.rows + 2.6 for p in estimates)
    heights = [needed, min(telling[0].rows, 14) + 2.6] if telling else [needed, max(20.0 - needed, 0.1)]
    parts = np.atleast_1d(right.subfigures(len(heights), 1, height_ratios=heights))
    _stack(parts[0], estimates)
    if telling:
        telling[0].draw(parts[1].subplots())
    return None


def _stack(figure: Any, panels: Sequence[Panel]) -> None:
    """Panels above each other, their sides aligned."""
    axes = figure.subplots(len(panels), 1, height_ratios=[p.rows + 1.0 for p in panels], squeeze=False)
    for panel, ax in zip(panels, axes[:, 0], strict=True):
        panel.draw(ax)


def _panel(rows: Rows) -> Panel:
    return Panel(len(rows), lambda ax: _draw_rows(ax, rows))


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


@dataclass(frozen=True)
class Row:
    """An estimate with its interval, drawn on one line."""

    name: str
    estimate: float
    lower: float
    upper: float
    text: str = ""
    mark: str = "interval"
    unpooled: float = np.nan


@dataclass(frozen=True)
class Rows:
    """Estimates that share an axis."""

    title: str
    rows: Sequence[Row]
    label: str = ""
    log: bool = False
    centre: float | None = None
    framing: Sequence[Row] | None = None
    """Those that set the ends of the axis, if not all do."""

    def __len__(self) -> int:
        return len(self.rows)


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
            out.append(Rows(f"{what}, 95 % intervals", rows, log=log, centre=None if log else 0.0))
    if isinstance(fit.model, LinearModel) and len(fit.fixed_effects):
        out.append(_fixed_effects(fit))
    return out


def _hyperparameter(name: str, row: Any, held: bool) -> Row:
    estimate, lower, upper = (float(row[c]) for c in ("estimate", "lower", "upper"))
    if held:
        return Row(name, estimate, estimate, estimate, f"{number(estimate)}, held", "held")
    if np.isnan(estimate):
        return Row(name, estimate, lower, upper, "not defined")
    if row["at_boundary"]:
        end = f"above {number(lower, 3)}" if estimate == upper else f"below {number(upper, 3)}"
        return Row(name, estimate, lower, upper, f"{_minus(number(estimate))}, {_minus(end)}", "boundary")
    return Row(name, estimate, lower, upper, _words(estimate, lower, upper, float(row["se"])))


def _words(estimate: float, lower: float, upper: float, se: float) -> str:
    places = max(decimals(se) - 1, 0)
    a, b, c = (_minus(fixed(x, places)) for x in (estimate, lower, upper))
    return f"{a}  ({b}, {c})"


def _fixed_effects(fit: Fit) -> Rows:
    """Effects on one axis, which an intercept that dwarfs the others does not stretch."""
    frame = fit.fixed_effects
    rows = [
        Row(str(name), estimate, lower, upper, _words(estimate, lower, upper, se))
        for name, (estimate, se, lower, upper) in zip(frame.index, frame.to_numpy(float), strict=True)
    ][:MOST_NAMED]
    others = [row for row in rows if row.name != "Intercept"]
    reach = max((max(abs(row.lower), abs(row.upper)) for row in others), default=np.inf)
    far = [row for row in rows if row.name == "Intercept" and max(abs(row.lower), abs(row.upper)) > 6 * reach]
    return Rows("Fixed effects, 95 % intervals", rows, centre=0.0, framing=others if far else None)


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
    others = [t.label for t in model.prior if t is not term]
    residual = model.rows.y - (fit.predict(include=others) if others else 0.0)
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


def _draw_rows(ax: Any, rows: Rows) -> None:
    """Dots and intervals, one a row, names on the left and numbers on the right."""
    n = len(rows)
    named = n <= MOST_NAMED
    place = np.arange(n)[::-1].astype(float)
    lower, upper = _limits(rows)
    width = 2.2 if n <= 12 else 1.6 if named else max(0.35, 90 / n)
    if rows.centre is not None and lower <= rows.centre <= upper:
        ax.axvline(rows.centre, color=GREY, lw=0.7, zorder=0)
    for y, row in zip(place, rows.rows, strict=True):
        _draw_row(ax, y, row, (lower, upper), width, 5.5 if n <= 12 else 3.8 if named else min(3.0, 220 / n))
    if any(np.isfinite(row.unpooled) for row in rows.rows):
        _explain_pooling(ax, rows, place)
    ax.set(xlim=(lower, upper), ylim=(-0.75, n - 0.25), xlabel=rows.label)
    if rows.log:
        _log_axis(ax, lower, upper)
    elif any(row.text for row in rows.rows):
        ax.locator_params(axis="x", nbins=3)
    _entitle(ax, rows.title)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_yticks(place if named else [], [shortened(row.name, 30) for row in rows.rows] if named else [])
    if named and n > 12:
        ax.tick_params(axis="y", labelsize=max(5.5, 8 - n / 14))
    for y, row in zip(place, rows.rows, strict=True):
        if row.text:
            ax.annotate(
                row.text,
                (1, y),
                (16, 0),
                ax.get_yaxis_transform(),
                "offset points",
                va="center",
                color=INK,
                fontsize=8.5,
                annotation_clip=False,
            )


def _entitle(ax: Any, title: str) -> None:
    """A title flush with the left side of the column, in the room that an empty one makes."""
    from matplotlib.transforms import blended_transform_factory

    ax.set_title(" ")
    across = blended_transform_factory(ax.get_figure(root=False).transSubfigure, ax.transAxes)
    text = ax.annotate(
        title, (0, 1), (72 * PAD, 8), across, "offset points", color=GREY, fontsize=9.5, annotation_clip=False
    )
    text.set_in_layout(False)


def _draw_row(ax: Any, y: float, row: Row, limits: tuple[float, float], width: float, size: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    if row.mark == "held":
        ax.plot(row.estimate, y, "D", mfc="white", mec=GREY, ms=size)
        return
    if row.mark == "boundary":
        low, high = max(row.lower, limits[0]), min(row.upper, limits[1])
        ax.plot([low, high], [y, y], color=RED, lw=width, solid_capstyle="butt")
        ax.plot(max(row.estimate, limits[0]), y, "o", mfc="white", mec=RED, ms=size, clip_on=False, zorder=3)
        return
    for end, beyond, arrow in zip(limits, (row.lower < limits[0], row.upper > limits[1]), "<>", strict=True):
        if beyond:
            inwards = ScaledTranslation((1 if arrow == "<" else -1) * size / 144, 0, ax.figure.dpi_scale_trans)
            ax.plot(end, y, arrow, color=BLUE, ms=size, clip_on=False, transform=ax.transData + inwards)
    if np.isfinite(row.unpooled):
        ax.plot(row.unpooled, y, "o", mfc="white", mec=RED, mew=0.9, ms=size, zorder=2)
    ax.plot([row.lower, row.upper], [y, y], color=BLUE, lw=width, solid_capstyle="butt", alpha=0.55)
    ax.plot(row.estimate, y, "o", color=BLUE, ms=size, zorder=3)


def _limits(rows: Rows) -> tuple[float, float]:
    """The ends of the axis."""
    framing = rows.framing or rows.rows
    values = np.array([[r.lower, r.upper, r.estimate, r.unpooled] for r in framing]).ravel()
    values = values[np.isfinite(values)]
    if rows.log:
        values = values[values > 0]
        low, high = (values.min(), values.max()) if len(values) else (0.1, 10.0)
        return float(low / 1.35), float(high * 1.35)
    if rows.centre is not None:
        values = np.append(values, rows.centre)
    margin = 0.05 * (np.ptp(values) or 1.0)
    return float(values.min() - margin), float(values.max() + margin)


def _log_axis(ax: Any, lower: float, upper: float) -> None:
    """Few ticks, in plain numbers."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    decades = np.arange(np.floor(np.log10(lower)), np.ceil(np.log10(upper)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [m * 10.0**d for d in decades for m in steps if lower <= m * 10.0**d <= upper]
        if len(ticks) >= 3:
            break
    apart: list[float] = []
    for tick in ticks:
        if not apart or np.log(tick / apart[-1]) > 0.25 * np.log(upper / lower):
            apart.append(tick)
    ax.set_xticks(apart, [number(t) for t in apart])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(lower, upper)


def _explain_pooling(ax: Any, rows: Rows, place: Array) -> None:
    """Names what is filled and what is hollow, above the rows, right of the title."""
    handles = [
        ax.plot([], [], "o", color=BLUE, ms=4)[0],
        ax.plot([], [], "o", mfc="white", mec=RED, mew=0.9, ms=4)[0],
    ]
    ax.legend(
        handles,
        ["shrunk towards the population", "own rows alone"],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        facecolor="white",
        edgecolor="none",
        framealpha=0.85,
        fontsize=8,
        handletextpad=0.2,
        labelcolor=INK,
        borderpad=0.1,
    )


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
        figure.supylabel(self.fit.source.formula.response, fontsize=9.5, color=INK)
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
        y = self.fit.model.rows.y
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
    fitted, y = fit.predict(), fit._linear.rows.y
    ax.axline((float(np.mean(y)),) * 2, slope=1, color=GREY, lw=0.8, ls=(0, (3, 2)))
    ax.plot(fitted, y, "o", color=BLUE, ms=min(4.0, max(1.0, 120 / len(y) ** 0.5)), mew=0, alpha=0.55)
    ax.set(xlabel="fitted", ylabel="observed")
    _entitle(ax, f"Observed against fitted, {len(y):,} rows")


def _draw_targets(fit: Fit, figure: Any) -> None:
    """How the estimates spread over targets."""
    model, theta = fit._linear, fit.optimum.theta
    values = {"log evidence (nats)": fit.log_evidence}
    values |= {h.name: theta[:, i] for i, h in enumerate(model.hyperparameters)}
    values |= {f"edf of {t}": x.to_numpy() for t, x in fit.edf.items() if np.ptp(x)}
    grid = figure.subplots(-(-len(values) // 2), 2, squeeze=False)
    for ax in grid.ravel()[len(values) :]:
        ax.set_visible(False)
    for ax, (name, x) in zip(grid.ravel(), values.items(), strict=False):
        ax.hist(x, bins=min(60, max(10, round(len(x) ** 0.5))), color=BLUE, alpha=0.75)
        middle = float(np.median(x))
        ax.axvline(middle, color=INK, lw=1)
        zeros = int((x == 0).sum())
        at_zero = f", {zeros:,} at zero" if zeros else ""
        ax.set_title(f"{name}: median {_minus(fixed(middle, decimals(np.ptp(x))))}{at_zero}", color=GREY)
        ax.set_ylabel("targets")
