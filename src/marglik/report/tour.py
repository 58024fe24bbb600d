# SPDX-License-Identifier: BSD-3-Clause
"""A walk through the scalar model: five stations, in the terminal and as pictures.

Every number shown is computed by `marglik.textbook` from the five points below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from marglik import textbook

if TYPE_CHECKING:
    from rich.console import Console

# Made up, in the manner of Galileo's inclined plane: squared times and the distances rolled.
X = (1.0, 2.0, 3.0, 4.0, 5.0)
Y = (1.9, 4.2, 5.8, 8.1, 10.3)
NOISE_SD = 0.5
NOISY_SD = 5.0
N_DRAWS = 20_000
DIMENSIONS = (1, 2, 3, 4, 5, 8, 12, 20, 30, 50)

BLUE, RED, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#E4E4E4"
DASHES = (0, (4, 3))
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 78


def tour(
    out: str | Path | None = None,
    *,
    formats: Sequence[str] = ("svg", "png"),
    console: Console | None = None,
) -> list[Path]:
    """Walk through empirical Bayes with one weight.

    Parameters
    ----------
    out : path, optional
        A directory, made if need be, for one picture a station. Without it nothing is drawn.
    formats : sequence of {"svg", "png"}
        What to write each picture as.
    console : rich.console.Console, optional
        Where to print; standard output by default.

    Returns
    -------
    list of Path
        The pictures written.

    Examples
    --------
    >>> import io, rich.console
    >>> page = rich.console.Console(file=io.StringIO(), width=80)
    >>> tour(console=page)
    []
    >>> "geometric mean" in page.file.getvalue()
    True
    """
    if console is None:
        from rich.console import Console

        console = Console()
    folder = None if out is None else _picture_folder(out, formats)

    _introduce(console)
    written: list[Path] = []
    for number, station in enumerate(STATIONS, start=1):
        _print(console, f"\n[bold]{number}. {station.title}[/bold]\n")
        station.tell(console)
        if folder is not None:
            stem = folder / f"{number}-{station.slug}"
            written += _draw(station, [stem.with_suffix(f".{kind}") for kind in formats])
    for path in written:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
    return written


def _introduce(console: Console) -> None:
    n, v, m, c = textbook.scalar_statistics(X, Y)
    _print(console, "[bold]Empirical Bayes with one weight[/bold]\n")
    _print(
        console,
        f"A ball rolls down a groove. We know the squared time x and the distance y of {n} runs, and the size "
        f"δ = {NOISE_SD:g} of the error; we want the slope w, and do not know how large a slope to expect. That "
        "scale, σ, is a hyperparameter.\n\n"
        "    y = w x + ε      w ~ N(0, σ²)      ε ~ N(0, δ²)\n",
    )
    _table(console, ["x", *(f"{x:g}" for x in X)], [["y", *(f"{y:g}" for y in Y)]])
    _print(console, f"All that matters of them: v = Σ y² = {v:.2f}, m = Σ xy = {m:.1f}, c = Σ x² = {c:g}.")


def _tell_evidence(console: Console) -> None:
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    _print(
        console,
        "The evidence averages the likelihood over the prior, so it scores σ without choosing w. A prior too "
        "narrow cannot reach the slope that the data want; one too wide spends itself on slopes that they rule "
        "out.\n",
    )
    _chart(console, lambda sd: _evidence(sd**2, d2), (0.1, 1000), floor=-14, marked=best**0.5, axis="σ")
    at = [0.0, 0.5, 1.0, best**0.5, 5.0, 50.0]
    _table(
        console,
        ["σ", *("0" if s == 0 else f"{s:.3g}" for s in at)],
        [["log p(y|σ)", *(f"{value:.2f}" for value in _evidence(np.square(at), d2))]],
    )
    _print(console, f"The maximum has a formula: σ̂² = (m² − cδ²)/c² = {best:.4f}, so σ̂ = {best**0.5:.4f}.")


def _tell_occam(console: Console) -> None:
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    sd = np.array([0.1, 0.5, 1.0, best**0.5, 5.0, 50.0, 500.0])
    fit, misfit, occam = textbook.scalar_decomposition(X, Y, sd**2, d2)
    _print(
        console,
        f"No slope fits better than ŵ_ML = {textbook.scalar_ml(X, Y):.4f}, with log p(y|ŵ_ML) = {fit:.2f}. The "
        "evidence is that best fit less two costs: the prior may be too narrow for ŵ_ML, or wider than it had "
        "to be. One falls as σ grows, the other rises.\n",
    )
    rows = [
        [f"{s:.3g}", *(_fixed(z, 2) for z in (fit, a, b, fit + a + b))]
        for s, a, b in zip(sd, np.asarray(misfit), np.asarray(occam), strict=True)
    ]
    _table(console, ["σ", "best fit", "too narrow", "too wide", "log evidence"], rows, bold=3)
    at_best = textbook.scalar_decomposition(X, Y, best, d2)
    paid = -(float(at_best.misfit) + float(at_best.occam))
    _print(console, f"At the balance, σ̂ = {best**0.5:.4f}, having had to learn the slope costs {paid:.2f} nats.")


def _tell_monte_carlo(console: Console) -> None:
    noisy, precise = (_study(sd, seed=1) for sd in (NOISY_SD, NOISE_SD))
    _print(
        console,
        f"The definition is also a method: draw {N_DRAWS:,} slopes from the prior and average their likelihoods, "
        "in log space. Let d balls each have a slope of its own, and it breaks: soon no draw comes near all "
        "slopes at once, one draw outweighs the rest, and the reported standard error does not know what was "
        f"missed. Below, the five points are read with noise δ = {NOISY_SD:g}; the last column has δ = "
        f"{NOISE_SD:g}.\n",
    )
    rows = []
    for d in DIMENSIONS:
        a, b = noisy[d - 1], precise[d - 1]
        rows.append(
            [f"{d}", f"{a.exact:.2f}", f"{a.estimate:.2f}", f"{a.std_error:.2f}", f"{a.error:+.2f}"]
            + [f"{a.effective:,.0f}", f"{b.error:+,.2f}"]
        )
    head = ["d", "exact", "estimate", "reported\nse", "error", "effective\ndraws"]
    _table(console, [*head, f"error,\nδ = {NOISE_SD:g}"], rows)
    last = noisy[DIMENSIONS[-1] - 1]
    _print(
        console,
        f"At d = {DIMENSIONS[-1]} the estimate is {-last.error:.0f} nats too low and reports ± "
        f"{last.std_error:.2f}. It never reports more than 1. Other methods look where the posterior is.",
    )


def _tell_joint(console: Console) -> None:
    mode, saddle = _joint_points()
    _print(
        console,
        "Why not maximise over w and σ together? Because p(y, w|σ) has no maximum. Let σ follow w, σ = |w|, and "
        "let w shrink: the likelihood settles at a constant while the prior density at w grows like 1/|w|. This "
        f"is its logarithm along that ridge, with δ = {NOISY_SD:g}:\n",
    )
    _chart(console, lambda w: _ridge(w, NOISY_SD), (1e-4, 10), floor=-18, marked=mode, axis="w = σ")
    at = np.array([mode, saddle, 1e-2, 1e-4, 1e-8])
    values = (f"{z:.2f}" for z in _ridge(at, NOISY_SD))
    _table(console, ["w = σ", *(f"{z:.3g}" for z in at)], [["log p(y, w|σ)", *values]])
    _print(
        console,
        f"The marked bump at w = {mode:.3f} is a local maximum, which exists only where m²/cδ² > 4 (here "
        f"{textbook.scalar_signal(X, Y, NOISY_SD**2):.2f}). An optimiser may find it or fall off the edge. The "
        "evidence integrates w out, and has one maximum.",
    )


def _tell_boundary(console: Console) -> None:
    ml = textbook.scalar_ml(X, Y)
    _print(
        console,
        f"The scale σ̂ that the evidence finds is the geometric mean of two estimates of the slope: ŵ_ML = "
        f"{ml:.4f}, which knows no prior, and ŵ_MAP, which is shrunk by it. Read the same points with ever more "
        "noise, and when m² ≤ cδ² the maximum sits at exactly zero.\n",
    )
    limit = _noise_limit()
    rows = []
    for sd in (NOISE_SD, NOISY_SD, 10.0, limit, 20.0):
        variance = textbook.scalar_prior_variance(X, Y, sd**2)
        shrunk = float(textbook.scalar_map(X, Y, variance, sd**2))
        slope = float(textbook.scalar_log_evidence_slope(X, Y, 0.0, sd**2))
        signal = textbook.scalar_signal(X, Y, sd**2)
        rows.append([f"{sd:.4g}", f"{signal:.2f}", *(_fixed(z, 4) for z in (shrunk, ml * shrunk, variance, slope))])
    head = ["δ", "m²/cδ²", "ŵ_MAP", "ŵ_ML ŵ_MAP", "σ̂²", "slope of log p\nin σ² at 0"]
    _table(console, head, rows)
    _print(
        console,
        f"The boundary is at δ = {limit:.2f}. From there on the evidence falls all the way from σ = 0. A zero is an "
        "answer, not a failure: such data do not call for a slope.",
    )


def _draw_evidence(figure: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.8))
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    slope = float(textbook.scalar_map(X, Y, best, d2))
    left.plot([0, 5.6], [0, 5.6 * slope], color=BLUE, lw=1.6)
    left.errorbar(X, Y, yerr=NOISE_SD, fmt="o", color=INK, ms=4, lw=1)
    left.text(3.3, 4.9, rf"$\hat{{w}}_{{\mathrm{{MAP}}}}$ = {slope:.3f}", color=BLUE)
    _panel(left, "Five points ± δ, one slope", "squared time x", "distance y", xlim=(0, 5.8), ylim=(0, 12))

    sd = np.geomspace(0.1, 1000, 400)
    top = float(textbook.scalar_log_evidence(X, Y, best, d2))
    right.semilogx([best**0.5] * 2, [-14, top], color=GREY, lw=0.8, ls=DASHES)
    right.plot(sd, _evidence(sd**2, d2), color=BLUE, lw=2.2)
    right.plot(best**0.5, top, "o", color=RED, ms=7)
    formula = r"$\hat{\sigma} = \sqrt{m^2 - c\,\delta^2}\,/\,c$"
    right.text(best**0.5 * 1.3, top + 0.3, f"{formula} = {best**0.5:.3f}", color=RED)
    right.text(0.115, -6.6, "too narrow:\nthe slope is\nout of reach", color=GREY, va="top")
    right.text(900, -6.6, "too wide:\nspent on slopes\nthat do not fit", color=GREY, va="top", ha="right")
    limits = {"xlim": (0.1, 1000), "ylim": (-14, -4)}
    _panel(right, "The log evidence of each prior scale", "prior scale σ", "log p(y|σ)  (nats)", **limits)
    _powers(right.xaxis)


def _draw_occam(figure: Any) -> None:
    axes = figure.subplots()
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    top = float(textbook.scalar_log_evidence(X, Y, best, d2))
    sd = np.geomspace(0.1, 1000, 400)
    fit, misfit, occam = (np.asarray(part) for part in textbook.scalar_decomposition(X, Y, sd**2, d2))
    axes.axhline(fit, color=GREY, lw=0.8, ls=DASHES)
    axes.semilogx(sd, fit + misfit, color=BLUE, lw=1.8)
    axes.plot(sd, occam, color=RED, lw=1.8)
    axes.plot(sd, fit + misfit + occam, color=INK, lw=2.6)
    arrow = {"arrowstyle": "<->", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 5}
    axes.annotate("", (best**0.5, top), (best**0.5, fit), arrowprops=arrow)
    axes.plot(best**0.5, top, "o", color=INK, ms=7)
    axes.text(best**0.5 * 1.2, -2.35, f"complexity, {fit - top:.2f} nats", color=INK, va="center")
    axes.text(best**0.5, top - 0.6, rf"$\hat{{\sigma}}$ = {best**0.5:.3f}", color=INK, va="top", ha="center")
    axes.text(0.39, -11.4, "fit under\nthis prior", color=BLUE, ha="right")
    axes.text(1150, fit, f"best fit, {_minus(fit)}", color=GREY, va="center")
    axes.text(1150, occam[-1] + 0.2, "Occam factor,\n−½ log(1 + cσ²/δ²)", color=RED, va="center")
    axes.text(1150, fit + occam[-1] - 0.2, "their sum,\nthe log evidence", color=INK, va="center", weight="bold")
    limits = {"xlim": (0.1, 1000), "ylim": (-14, 0.4)}
    _panel(axes, "Where the two slopes balance, the evidence peaks", "prior scale σ", "nats", **limits)
    _powers(axes.xaxis)


def _draw_monte_carlo(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    d = np.arange(1, DIMENSIONS[-1] + 1)
    for sd, colour in ((NOISE_SD, RED), (NOISY_SD, BLUE)):
        runs = [_study(sd, seed) for seed in range(1, 9)]
        errors = np.array([[point.error for point in run] for run in runs])
        rms = np.sqrt((errors**2).mean(0))
        reported = np.sqrt(np.mean([[point.std_error**2 for point in run] for run in runs], axis=0))
        right.semilogy(d, rms, color=colour, lw=2.2)
        right.plot(d, reported, color=colour, lw=1.3, ls=(0, (2, 1.5)))
        right.text(51, rms[-1], f"true error,\nδ = {sd:g}", color=colour, va="center")
        if sd == NOISY_SD:
            left.fill_between(d, -2 * reported, 2 * reported, color=GREY, alpha=0.55, lw=0)
            left.plot(d, errors.T, color=colour, lw=0.9, alpha=0.7)
    left.text(50, 5, "± 2 reported standard errors", color=GREY, ha="right")
    left.text(27, -75, f"eight runs of\n{N_DRAWS:,} draws", color=BLUE, ha="right")
    right.text(51, 1, "reported\nstandard error", color=GREY, va="center")
    limits: dict[str, Any] = {"xlim": (1, 50), "xticks": (1, 10, 20, 30, 40, 50)}
    finding = f"The estimate falls away from the truth (δ = {NOISY_SD:g})"
    _panel(left, finding, "number of weights d", "estimate − exact log evidence  (nats)", **limits)
    _panel(right, "Its standard error never says so", "number of weights d", "nats", **limits)
    _powers(right.yaxis)


def _draw_joint(figure: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    mode, saddle = _joint_points()
    grid = np.geomspace(1e-3, 10, 150)
    density = np.asarray(textbook.scalar_log_joint(X, Y, grid[None, :], grid[:, None], NOISY_SD**2))
    left.contourf(grid, grid, density, np.arange(-22, -10.9, 1), cmap="Blues", extend="both")
    left.loglog(grid, grid, color=INK, lw=0.9, ls=DASHES)
    left.plot(mode, mode, "o", color=RED, ms=6)
    left.plot(saddle, saddle, "x", color=RED, ms=6, mew=1.6)
    line = {"arrowstyle": "-", "color": RED, "lw": 0.8, "shrinkB": 4}
    left.annotate("local\nmaximum", (mode, mode), (9.3, 0.2), color=RED, ha="right", arrowprops=line)
    left.text(saddle * 1.35, saddle * 0.72, "saddle", color=RED, va="center")
    left.text(0.02, 0.026, "ridge σ = |w|", color=INK, rotation=46, rotation_mode="anchor")
    arrow = {"arrowstyle": "->", "color": "white", "lw": 1.2}
    left.annotate("unbounded", (1.15e-3, 1.5e-3), (1.3e-3, 1.1e-2), color="white", arrowprops=arrow)
    _panel(left, f"log p(y, w|σ), the darker the higher (δ = {NOISY_SD:g})", "weight w", "prior scale σ")
    _powers(left.xaxis, left.yaxis)

    w = np.geomspace(1e-3, 10, 400)
    for sd, colour in ((2 * NOISY_SD, GREY), (NOISY_SD, BLUE)):
        right.semilogx(w, _ridge(w, sd), color=colour, lw=2.2)
    for z, marker in ((mode, "o"), (saddle, "x")):
        right.plot(z, _ridge(np.array(z), NOISY_SD), marker, color=RED, ms=6, mew=1.6)
    right.text(mode, -14.3, "local maximum", color=RED, ha="center")
    right.text(saddle, -15.75, "saddle", color=RED, ha="center")
    right.text(0.011, -13.6, f"δ = {NOISY_SD:g}", color=BLUE)
    right.text(0.03, -17.7, f"δ = {2 * NOISY_SD:g}:\nm² < 4cδ², and\nno local maximum", color=GREY, va="top")
    right.text(1.25e-3, -11.3, "on to ∞ as w → 0", color=BLUE)
    limits = {"xlim": (1e-3, 10), "ylim": (-22, -10)}
    _panel(right, "Along the ridge it rises like −log|w|", "w = σ", "log p(y, w|σ)  (nats)", **limits)
    _powers(right.xaxis)


def _draw_boundary(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    limit, ml = _noise_limit(), textbook.scalar_ml(X, Y)
    noise = np.linspace(0.05, 22, 400)
    variance = np.array([textbook.scalar_prior_variance(X, Y, sd**2) for sd in noise])
    shrunk = [float(textbook.scalar_map(X, Y, z, sd**2)) for z, sd in zip(variance, noise, strict=True)]
    left.axvspan(limit, 22, color=PALE, lw=0)
    left.plot(noise, np.full_like(noise, ml), color=GREY, lw=1.8)
    left.plot(noise, np.sqrt(variance), color=RED, lw=2.4)
    left.plot(noise, shrunk, color=BLUE, lw=1.8)
    left.text(0.5, ml + 0.06, r"$\hat{w}_{\mathrm{ML}}$", color=GREY)
    left.text(8.8, 1.72, r"$\hat{\sigma} = \sqrt{\hat{w}_{\mathrm{ML}}\,\hat{w}_{\mathrm{MAP}}}$", color=RED)
    left.text(8.5, 1.1, r"$\hat{w}_{\mathrm{MAP}}$", color=BLUE, ha="right")
    zero = "m² ≤ cδ²:\n" + r"$\hat{\sigma} = \hat{w}_{\mathrm{MAP}} = 0$"
    left.text((limit + 22) / 2, 0.5, zero, color=INK, ha="center")
    limits: dict[str, Any] = {"xlim": (0, 22), "ylim": (0, 2.4), "xticks": (0, 5, 10, 15, 20)}
    _panel(left, "The scale lies between the two slopes", "noise δ", "slope, or its prior scale", **limits)

    sd = np.linspace(0, 4, 300)
    for delta in (6.0, 8.0, 10.0, limit, 30.0):
        best = textbook.scalar_prior_variance(X, Y, delta**2)
        curve = _evidence(np.append(sd**2, best), delta**2)
        right.plot(sd, curve[:-1] - curve[0], color=INK if delta < limit else GREY, lw=1.6)
        right.plot(best**0.5, curve[-1] - curve[0], "o", color=RED, ms=6, clip_on=False, zorder=5)
        right.text(4.06, curve[-2] - curve[0], f"δ = {delta:.4g}", color=INK, va="center")
    limits = {"xlim": (0, 4), "ylim": (-0.6, 2), "xticks": (0, 1, 2, 3, 4)}
    ylabel = "log p(y|σ) − log p(y|0)  (nats)"
    _panel(right, "The maximum slides to zero, and stays", "prior scale σ", ylabel, **limits)


@dataclass(frozen=True)
class Station:
    """One finding: told in words, and drawn."""

    slug: str
    title: str
    tell: Callable[[Console], None]
    draw: Callable[[Any], None]
    size: tuple[float, float]


STATIONS = (
    Station(
        "evidence",
        "The evidence has one maximum, and it has a formula",
        _tell_evidence,
        _draw_evidence,
        (9, 4.2),
    ),
    Station("occam", "A wider prior fits better, and costs more", _tell_occam, _draw_occam, (7.8, 4.6)),
    Station(
        "monte-carlo",
        "Averaging over prior draws fails beyond a handful of weights",
        _tell_monte_carlo,
        _draw_monte_carlo,
        (9, 4.4),
    ),
    Station("joint", "Maximising over everything has no answer", _tell_joint, _draw_joint, (9, 4.6)),
    Station(
        "boundary",
        "The prior scale is the geometric mean of two estimates, until noise wins",
        _tell_boundary,
        _draw_boundary,
        (9, 4.4),
    ),
)


class _Point(NamedTuple):
    """A simple Monte Carlo estimate for d weights, and the truth."""

    exact: float
    estimate: float
    std_error: float
    effective: float

    @property
    def error(self) -> float:
        return self.estimate - self.exact


@cache
def _study(noise_sd: float, seed: int) -> tuple[_Point, ...]:
    """Estimates for d = 1, 2, …: d independent copies of the scalar model, their log evidence d times its own."""
    d2 = noise_sd**2
    variance = textbook.scalar_prior_variance(X, Y, d2)
    exact = float(textbook.scalar_log_evidence(X, Y, variance, d2))
    draws = np.random.default_rng(seed).normal(0, variance**0.5, (DIMENSIONS[-1], N_DRAWS))
    log_likelihood = np.zeros(N_DRAWS)
    points = []
    for d, w in enumerate(draws, start=1):
        log_likelihood = log_likelihood + textbook.scalar_log_likelihood(X, Y, w, d2)
        estimate = textbook.simple_monte_carlo(log_likelihood, draws[:d].T)
        points.append(_Point(d * exact, *estimate, textbook.effective_sample_size(log_likelihood)))
    return tuple(points)


def _evidence(prior_variance: np.ndarray, noise_variance: float) -> np.ndarray:
    return np.asarray(textbook.scalar_log_evidence(X, Y, prior_variance, noise_variance))


def _ridge(w: np.ndarray, noise_sd: float) -> np.ndarray:
    return np.asarray(textbook.scalar_log_joint_ridge(X, Y, w, noise_sd**2))


def _noise_limit() -> float:
    """The δ at which m² = cδ²."""
    return textbook.scalar_signal(X, Y, 1.0) ** 0.5


def _joint_points() -> tuple[float, float]:
    """Local maximum and saddle of the joint density, which these points have: t > 4."""
    mode = textbook.scalar_joint_mode(X, Y, NOISY_SD**2)
    assert mode is not None
    return mode.w, textbook.scalar_ml(X, Y) - mode.w


def _minus(z: Any) -> str:
    return f"{float(z):.2f}".replace("-", "−")


def _fixed(z: float, digits: int) -> str:
    """Fixed-point, without the sign of a zero."""
    return f"{round(float(z), digits) + 0.0:.{digits}f}"


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, width=min(console.width, WIDTH))


def _table(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]], bold: int | None = None) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        table.add_row(*row, style="bold" if i == bold else None)
    console.print(table, highlight=False)


def _chart(
    console: Console,
    curve: Callable[[np.ndarray], np.ndarray],
    ends: tuple[float, float],
    *,
    floor: float,
    marked: float,
    axis: str,
    height: int = 6,
) -> None:
    """A column chart in eighths of a character, over a logarithmic axis, with a mark under one column."""
    x = np.geomspace(*ends, max(20, min(console.width, WIDTH) - 12))
    y = curve(x)
    eighths = np.clip(np.round((y - floor) / (y.max() - floor) * 8 * height), 0, 8 * height)
    for row in reversed(range(height)):
        label = {height - 1: _fixed(y.max(), 1), 0: _fixed(floor, 1)}.get(row, "")
        columns = "".join(BLOCKS[int(k)] for k in np.clip(eighths - 8 * row, 0, 8))
        _print(console, f"{label:>7} {columns}".rstrip())
    _print(console, " " * (8 + int(abs(x - marked).argmin())) + f"▲ {marked:.3g}")
    left, right = (f"{end:g}" for end in ends)
    middle = f"{axis}, logarithmic".center(len(x) - len(left) - len(right))
    _print(console, " " * 8 + left + middle + right + "\n")


def _picture_folder(out: str | Path, formats: Sequence[str]) -> Path:
    wrong = [kind for kind in formats if kind not in ("svg", "png")]
    if wrong:
        raise ValueError(f"Pictures are written as svg or png, but formats has {wrong[0]!r}. Leave it out.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            "The pictures of the tour need matplotlib, which is not installed. Install it with "
            "`pip install 'marglik[plot]'`, or leave out the folder to read the tour in the terminal."
        ) from missing
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The pictures need a folder, but {folder} is a file. Name another.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _draw(station: Station, paths: Sequence[Path]) -> list[Path]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # No date and no version, so that the same tour writes the same bytes.
    metadata = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
    with rc_context(STYLE):
        figure = Figure(figsize=station.size, layout="constrained")
        figure.suptitle(station.title, x=0.012, ha="left", size=12.5, weight="bold", color=INK)
        station.draw(figure)
        for path in paths:
            figure.savefig(path, metadata=metadata[path.suffix])
    return list(paths)


def _panel(axes: Any, finding: str, xlabel: str, ylabel: str, **limits: Any) -> None:
    axes.set_title(finding, loc="left", size=9.5, color=INK, pad=9)
    axes.set(xlabel=xlabel, ylabel=ylabel, **limits)


def _powers(*axes: Any) -> None:
    """Label a logarithmic axis 0.1, 1, 10, without minor ticks."""
    from matplotlib.ticker import NullLocator

    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.set_minor_locator(NullLocator())


STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "mathtext.fontset": "dejavusans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "svg.hashsalt": "marglik",
    "svg.fonttype": "path",
}
