# SPDX-License-Identifier: BSD-3-Clause
"""A walk through the scalar model: five stations, in the terminal and as pictures.

Every number shown is computed by `marglik.textbook` from the five points below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
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
    sd = np.geomspace(0.1, 1000, 72)
    _print(
        console,
        "The evidence averages the likelihood over the prior, so it scores σ without choosing w. A prior too "
        "narrow cannot reach the slope that the data want; one too wide spends itself on slopes that they rule "
        "out.\n",
    )
    _columns(console, _evidence(sd**2, d2), floor=-14, marked=int(abs(sd - best**0.5).argmin()))
    _print(console, f"  0.1{'σ, on a logarithmic scale':^64}1000\n", wrap=False)
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
        [f"{s:.3g}", f"{fit:.2f}", f"{a:.2f}", f"{b:.2f}", f"{fit + a + b:.2f}"]
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
    head = ["d", "exact", "estimate", "reported se", "error", "effective draws"]
    _table(console, [*head, f"error, δ = {NOISE_SD:g}"], rows)
    last = noisy[DIMENSIONS[-1] - 1]
    _print(
        console,
        f"At d = {DIMENSIONS[-1]} the estimate is {-last.error:.0f} nats too low and reports ± "
        f"{last.std_error:.2f}. It never reports more than 1. Other methods look where the posterior is.",
    )


def _tell_joint(console: Console) -> None:
    d2 = NOISY_SD**2
    mode = textbook.scalar_joint_mode(X, Y, d2)
    assert mode is not None
    w = np.geomspace(1e-4, 10, 72)
    ridge = np.asarray(textbook.scalar_log_joint_ridge(X, Y, w, d2))
    _print(
        console,
        "Why not maximise over w and σ together? Because p(y, w|σ) has no maximum. Let σ follow w, σ = |w|, and "
        "let w shrink: the likelihood settles at a constant while the prior density at w grows like 1/|w|. This "
        f"is its logarithm along that ridge, with δ = {NOISY_SD:g}:\n",
    )
    _columns(console, ridge, floor=-21, marked=int(abs(w - mode.w).argmin()))
    _print(console, f"  0.0001{'w = σ, on a logarithmic scale':^62}10\n", wrap=False)
    at = [mode.w, textbook.scalar_ml(X, Y) - mode.w, 1e-2, 1e-4, 1e-8]
    values = np.asarray(textbook.scalar_log_joint_ridge(X, Y, at, d2))
    _table(
        console,
        ["w = σ", *(f"{z:.3g}" for z in at)],
        [["log p(y, w|σ)", *(f"{z:.2f}" for z in values)]],
    )
    _print(
        console,
        f"The marked bump at w = {mode.w:.3f} is a local maximum. It exists only where m² > 4cδ², here "
        f"{textbook.scalar_signal(X, Y, d2):.2f} > 4 in units of cδ², and an optimiser may find it or fall off "
        "the edge. The evidence integrates w out, and has one maximum.",
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
        rows.append(
            [f"{sd:.4g}", f"{signal:.2f}", f"{shrunk:.4f}", f"{ml * shrunk:.4f}", f"{variance:.4f}"]
            + [f"{_zero(slope):.4g}"]
        )
    head = ["δ", "m²/cδ²", "ŵ_MAP", "ŵ_ML ŵ_MAP", "σ̂²", "slope of log p in σ² at 0"]
    _table(console, head, rows)
    _print(
        console,
        f"The boundary is at δ = {limit:.2f}. Beyond it the evidence falls from σ = 0 on: the data are explained "
        "best without a slope, and a zero is an answer, not a failure.",
    )


def _draw_evidence(figure: Any) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.9))
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    slope = float(textbook.scalar_map(X, Y, best, d2))
    left.plot([0, 5.6], [0, 5.6 * slope], color=BLUE, lw=1.6)
    left.errorbar(X, Y, yerr=NOISE_SD, fmt="o", color=INK, ms=4.5, lw=1)
    left.text(3.2, 4.6, rf"$\hat{{w}}_{{\mathrm{{MAP}}}}$ = {slope:.3f}", color=BLUE)
    left.set(xlim=(0, 5.8), ylim=(0, 12), xlabel="squared time x", ylabel="distance y")

    sd = np.geomspace(0.1, 1000, 400)
    right.semilogx(sd, _evidence(sd**2, d2), color=BLUE, lw=2)
    right.set(ylim=(-14, -4), xlim=(0.1, 1000), xlabel="prior scale σ", ylabel="log p(y|σ)  (nats)")
    top = float(textbook.scalar_log_evidence(X, Y, best, d2))
    right.plot([best**0.5] * 2, [-14, top], color=GREY, lw=0.8, ls=(0, (4, 3)))
    right.plot(best**0.5, top, "o", color=RED, ms=7)
    formula = r"$\hat{\sigma} = \sqrt{m^2 - c\,\delta^2}\,/\,c$"
    right.text(best**0.5 * 1.25, top + 0.35, f"{formula} = {best**0.5:.3f}", color=RED)
    right.text(0.115, -7.4, "too narrow:\ncannot reach\nthe slope", color=GREY, va="top")
    right.text(900, -6.6, "too wide:\nspent on slopes\nthat do not fit", color=GREY, va="top", ha="right")


def _draw_occam(figure: Any) -> None:
    axes = figure.subplots()
    d2 = NOISE_SD**2
    best = textbook.scalar_prior_variance(X, Y, d2)
    sd = np.geomspace(0.1, 1000, 400)
    fit, misfit, occam = textbook.scalar_decomposition(X, Y, sd**2, d2)
    axes.axhline(fit, color=GREY, lw=0.8, ls=(0, (4, 3)))
    axes.semilogx(sd, fit + np.asarray(misfit), color=BLUE, lw=1.8)
    axes.semilogx(sd, np.asarray(occam), color=RED, lw=1.8)
    axes.semilogx(sd, fit + np.asarray(misfit) + np.asarray(occam), color=INK, lw=2.6)
    top = float(textbook.scalar_log_evidence(X, Y, best, d2))
    axes.annotate("", (best**0.5, top), (best**0.5, fit), arrowprops={"arrowstyle": "<->", "color": INK, "lw": 0.9})
    axes.text(best**0.5 * 1.12, (top + fit) / 2 - 0.35, f"complexity\n{fit - top:.2f} nats", color=INK, va="center")
    axes.plot(best**0.5, top, "o", color=INK, ms=7)
    axes.text(1050, fit, rf"best fit, {fit:.2f}", color=GREY, va="center")
    axes.text(0.42, -8.4, "fit\nwith this prior", color=BLUE, ha="right")
    axes.text(1050, np.asarray(occam)[-1], "Occam factor\n−½ log(1 + cσ²/δ²)", color=RED, va="center")
    axes.text(1050, fit + np.asarray(occam)[-1], "their sum:\nlog evidence", color=INK, va="center", weight="bold")
    axes.set(ylim=(-14, 0.5), xlim=(0.1, 1000), xlabel="prior scale σ", ylabel="nats")


def _draw_monte_carlo(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    d = np.arange(1, DIMENSIONS[-1] + 1)
    for sd, colour in ((NOISE_SD, RED), (NOISY_SD, BLUE)):
        runs = [_study(sd, seed) for seed in range(1, 9)]
        errors = np.array([[point.error for point in run] for run in runs])
        reported = np.array([[point.std_error for point in run] for run in runs])
        left.plot(d, errors.T, color=colour, lw=0.8, alpha=0.55)
        right.semilogy(d, np.sqrt((errors**2).mean(0)), color=colour, lw=2)
        right.semilogy(d, np.sqrt((reported**2).mean(0)), color=colour, lw=1.4, ls=(0, (2, 1.5)))
        right.text(d[-1] + 1, np.sqrt((errors[:, -1] ** 2).mean()), f"error,\nδ = {sd:g}", color=colour, va="center")
    left.axhline(0, color=INK, lw=0.8)
    left.set_yscale("symlog", linthresh=1)
    left.set(xlabel="number of weights d", ylabel="estimate − exact log evidence  (nats)", xlim=(1, 50))
    right.text(d[-1] + 1, 1, "reported\nstandard error", color=GREY, va="center")
    right.set(xlabel="number of weights d", ylabel="nats", xlim=(1, 50))


def _draw_joint(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    d2 = NOISY_SD**2
    mode = textbook.scalar_joint_mode(X, Y, d2)
    assert mode is not None
    saddle = textbook.scalar_ml(X, Y) - mode.w
    grid = np.geomspace(1e-3, 10, 240)
    density = np.asarray(textbook.scalar_log_joint(X, Y, grid[None, :], grid[:, None], d2))
    levels = np.arange(-22, -9.9, 1)
    left.contourf(grid, grid, density, levels, cmap="Blues", extend="both")
    left.loglog(grid, grid, color=INK, lw=0.9, ls=(0, (4, 3)))
    left.plot(mode.w, mode.prior_sd, "o", color=RED, ms=6)
    left.plot(saddle, saddle, "x", color=RED, ms=6, mew=1.6)
    left.set(xlabel="weight w", ylabel="prior scale σ")

    w = np.geomspace(1e-3, 10, 400)
    right.semilogx(w, np.asarray(textbook.scalar_log_joint_ridge(X, Y, w, d2)), color=BLUE, lw=2)
    right.set(xlabel="w = σ", ylabel="log p(y, w|σ)  (nats)", xlim=(1e-3, 10), ylim=(-22, -8))


def _draw_boundary(figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    limit, ml = _noise_limit(), textbook.scalar_ml(X, Y)
    noise = np.linspace(0.01, 20, 400)
    variance = np.array([textbook.scalar_prior_variance(X, Y, sd**2) for sd in noise])
    shrunk = [float(textbook.scalar_map(X, Y, z, sd**2)) for z, sd in zip(variance, noise, strict=True)]
    left.plot(noise, np.full_like(noise, ml), color=GREY, lw=1.8)
    left.plot(noise, np.sqrt(variance), color=RED, lw=2.4)
    left.plot(noise, shrunk, color=BLUE, lw=1.8)
    left.axvspan(limit, 20, color=PALE, lw=0)
    left.set(xlabel="noise δ", ylabel="slope, or its scale", xlim=(0, 20), ylim=(0, 2.4))

    sd = np.linspace(0, 4, 300)
    for delta in (5.0, 10.0, limit, 20.0):
        curve = _evidence(sd**2, delta**2)
        right.plot(sd, curve - curve[0], color=INK, lw=1.8)
    right.set(xlabel="prior scale σ", ylabel="log p(y|σ) − log p(y|0)  (nats)", xlim=(0, 4))


@dataclass(frozen=True)
class Station:
    """One finding: told in words, and drawn."""

    slug: str
    title: str
    tell: Callable[[Console], None]
    draw: Callable[[Any], None]
    size: tuple[float, float]


STATIONS = (
    Station("evidence", "The evidence has one maximum, and it has a formula", _tell_evidence, _draw_evidence, (9, 3.9)),
    Station("occam", "Fit rises, complexity is paid for", _tell_occam, _draw_occam, (7.6, 4.3)),
    Station("monte-carlo", "Averaging over prior draws fails beyond a handful of weights", _tell_monte_carlo, _draw_monte_carlo, (9, 4.1)),
    Station("joint", "Maximising over everything has no answer", _tell_joint, _draw_joint, (9, 4.3)),
    Station("boundary", "σ̂² = ŵ_ML ŵ_MAP, until noise swallows the signal", _tell_boundary, _draw_boundary, (9, 4.1)),
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


def _noise_limit() -> float:
    """The δ at which m² = cδ²."""
    return textbook.scalar_signal(X, Y, 1.0) ** 0.5


def _zero(z: float) -> float:
    return 0.0 if abs(z) < 1e-12 else z


def _print(console: Console, text: str, wrap: bool = True) -> None:
    console.print(text, highlight=False, width=min(console.width, WIDTH) if wrap else None, no_wrap=not wrap)


def _table(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]], bold: int | None = None) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in head:
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        table.add_row(*row, style="bold" if i == bold else None)
    console.print(table, highlight=False)


def _columns(console: Console, values: np.ndarray, floor: float, marked: int, height: int = 6) -> None:
    """A column chart in eighths of a character, with a mark under one column."""
    eighths = np.clip((values - floor) / (values.max() - floor), 0, 1) * 8 * height
    for row in reversed(range(height)):
        fill = np.clip(np.round(eighths) - 8 * row, 0, 8).astype(int)
        console.print("  " + "".join(BLOCKS[k] for k in fill).rstrip(), highlight=False, no_wrap=True)
    console.print("  " + " " * marked + "▲", highlight=False, no_wrap=True)


def _picture_folder(out: str | Path, formats: Sequence[str]) -> Path:
    wrong = [kind for kind in formats if kind not in ("svg", "png")]
    if wrong:
        raise ValueError(f"Pictures are written as svg or png, but formats has {wrong[0]!r}. Leave it out.")
    if find_spec("matplotlib") is None:
        raise ImportError(
            "The pictures of the tour need matplotlib, which is not installed. Install it with "
            "`pip install 'marglik[plot]'`, or leave out the folder to read the tour in the terminal."
        )
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The pictures need a folder, but {folder} is a file. Name another.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _draw(station: Station, paths: Sequence[Path]) -> list[Path]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=station.size, layout="constrained")
        station.draw(figure)
        for path in paths:
            # No date and no version, so that the same tour writes the same bytes.
            figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None})
    return list(paths)


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
